"""What most tests of an account start from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from serpentfs.clouds.mega.session import Session
from tests.mega_drives import PASSWORD, log_in
from tests.mega_emulator import Emulator, emulator

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


@pytest.fixture
async def session(server: Emulator) -> Session:
    """Of a new account."""
    email = f"account{next(_NUMBERS)}@example.test"
    server.add_account(email, PASSWORD)
    return await log_in(server.url, email)
