"""How many connections go to the storage servers of an account at a time, limited while it runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs.clouds.mega.cloud import open_mega
from serpentfs.clouds.mega.session import Session
from serpentfs.clouds.mega.transport import Transport
from serpentfs.model import NodeInfo, Span
from tests.fakes.content import BytesContent
from tests.mega_drives import PASSWORD, log_in
from tests.mega_emulator import Emulator, emulator

_SIZE = 6 * 2**20
_FILES = 3


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        running.add_account("connections@example.test", PASSWORD)
        yield running


@pytest.fixture
async def session(server: Emulator) -> Session:
    return await log_in(server.url, "connections@example.test")


class Counter:
    """Of requests to storage servers that are under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        stream = Transport.stream

        @asynccontextmanager
        async def counted(transport: Transport, *words: Any, **more: Any) -> AsyncIterator[Any]:
            counts = int(more.get("storage", False))
            self.now += counts
            self.most = max(self.most, self.now)
            try:
                await trio.sleep(0.01)    # so that others have the time to begin
                async with stream(transport, *words, **more) as reply:
                    yield reply
            finally:
                self.now -= counts

        monkeypatch.setattr(Transport, "stream", counted)

    async def most_during(self, call: Callable[[], Awaitable[object]]) -> int:
        self.most = 0
        await call()
        return self.most


@pytest.mark.trio
async def test_all_files_together_keep_to_the_limit(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    data = os.urandom(_SIZE)
    nodes: list[NodeInfo] = []

    async with open_mega(session, directory=tmp_path) as cloud:
        async def put() -> None:
            content = BytesContent(data)
            nodes.append(await cloud.put(
                cloud.root, f"file{len(nodes)}-{os.urandom(4).hex()}", content, replaces=None, mtime_ns=0,
                token=os.urandom(32),
            ))

        async def read(node: NodeInfo) -> None:
            assert await cloud.read(node.ref, Span(0, _SIZE)) == data

        async def all_up() -> None:
            nodes.clear()
            async with trio.open_nursery() as nursery:
                for _ in range(_FILES):
                    nursery.start_soon(put)

        async def all_down() -> None:
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(read, node)

        for direction, transfer in (("up", all_up), ("down", all_down)):
            for most in (1, 2):
                cloud.limit_connections(direction, most)
                assert await counter.most_during(transfer) == most
                if direction == "down":
                    await all_up()    # others, of which nothing is kept
            cloud.limit_connections(direction, None)
            assert await counter.most_during(transfer) > 2
