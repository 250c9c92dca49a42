"""The service refuses to tell what happens, for good: a drive goes on with what it knows, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drives import contents, until, write
from tests.mega_drives import PASSWORD, log_in, mega_drive
from tests.mega_emulator import Emulator, emulator

pytestmark = pytest.mark.trio
EMAIL = "anna@example.test"


@pytest.fixture
def server() -> Iterator[Emulator]:
    with emulator() as running:
        running.add_account(EMAIL, PASSWORD)
        yield running


async def test_an_account_that_is_over_its_quota_for_too_long(server: Emulator, tmp_path: Path) -> None:
    server.add_file(EMAIL, "file", b"content")
    session = await log_in(server.url, EMAIL)
    async with mega_drive(session, tmp_path / "one") as (drive, cloud):
        assert await contents(drive) == {"/file": b"content"}
        assert cloud.trouble is None
        server.fault("events", "error", code=-29, times=1)
        server.add_file(EMAIL, "news", b"")  # wakes who waits
        await until(lambda: "changes elsewhere are not seen" in str(cloud.trouble), 20)
        await write(drive, "/own", b"still taken")
        await drive.wait_until_uploaded()
        assert (await contents(drive))["/own"] == b"still taken"
