"""The contract of clouds, run on MEGA accounts of the emulator: each client of a site is a log-in of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import trio

from serpentfs.clouds.base import Cloud
from serpentfs.clouds.mega.cloud import MegaCloud, open_mega
from serpentfs.clouds.mega.session import Session, login
from serpentfs.clouds.mega.transport import Transport
from tests.contract.test_cloud import *  # noqa: F403 - the suite
from tests.contract.test_cloud import Site
from tests.mega_emulator import Emulator, emulator

pytestmark = pytest.mark.trio
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


@dataclass
class MegaSite:
    session: Session
    nursery: trio.Nursery

    async def client(self) -> Cloud:
        cloud: MegaCloud = await self.nursery.start(self._serve)
        return cloud

    async def _serve(self, *, task_status: trio.TaskStatus[MegaCloud]) -> None:
        async with open_mega(self.session, directory=None) as cloud:
            task_status.started(cloud)
            await trio.sleep_forever()


@pytest.fixture  # type: ignore[no-redef]
async def site(server: Emulator) -> AsyncIterator[Site]:
    email = f"contract{next(_NUMBERS)}@example.test"
    server.add_account(email, "password")
    transport = Transport()
    session = await login(transport, server.url, email, "password")
    await transport.aclose()
    async with trio.open_nursery() as nursery:
        yield MegaSite(session, nursery)
        nursery.cancel_scope.cancel()
