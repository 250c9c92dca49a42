"""Uploads that break off: what has arrived is not sent again, and nothing half is ever seen."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.mega.cloud import open_mega
from serpentfs.clouds.mega.session import Session
from serpentfs.clouds.mega.uploads import upload_key
from serpentfs.errors import Conflict, NoSpace, Unavailable
from serpentfs.model import NodeInfo, Span
from tests.fakes.content import BytesContent
from tests.mega_emulator import Emulator, emulator

_SIZE = 24 * 2**20
_PIECES = 14
"""Posts that a file of this size takes at least."""


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with emulator() as server:
        yield server


@pytest.fixture
def server(running: Emulator) -> Iterator[Emulator]:
    yield running
    running.clear_faults()


def sent(server: Emulator) -> int:
    return server.counts().get("upload", 0)


async def until_it_answers(call: Callable[[], Awaitable[NodeInfo]]) -> NodeInfo:
    """A host that broke off many times in a row is left alone for some seconds."""
    with trio.fail_after(60):
        while True:
            try:
                return await call()
            except Unavailable:
                await trio.sleep(0.2)


@pytest.mark.trio
async def test_an_upload_goes_on_after_a_restart(server: Emulator, session: Session, tmp_path: Path) -> None:
    data, token = os.urandom(_SIZE), os.urandom(32)
    server.fault("upload", "break", skip=_PIECES - 4, times=None)
    async with open_mega(session, directory=tmp_path) as cloud:
        with pytest.raises(Unavailable):
            await cloud.put(cloud.root, "file", BytesContent(data), replaces=None, mtime_ns=0, token=token)
    server.clear_faults()
    before = sent(server)
    async with open_mega(session, directory=tmp_path) as cloud:
        node = await cloud.put(
            cloud.root, "file", BytesContent(data), replaces=None, mtime_ns=0, token=token, retry=True
        )
        assert sent(server) - before <= 8
        assert await cloud.read(node.ref, Span(0, _SIZE)) == data


@pytest.mark.trio
async def test_an_upload_whose_place_expired_starts_over(server: Emulator, session: Session, tmp_path: Path) -> None:
    data, token = os.urandom(_SIZE), os.urandom(32)
    server.fault("upload", "break", skip=6, times=None)
    async with open_mega(session, directory=tmp_path) as cloud:
        with pytest.raises(Unavailable):
            await cloud.put(cloud.root, "file", BytesContent(data), replaces=None, mtime_ns=0, token=token)
        server.clear_faults()
        server.expire_urls()
        node = await until_it_answers(
            lambda: cloud.put(
                cloud.root, "file", BytesContent(data), replaces=None, mtime_ns=0, token=token, retry=True
            )
        )
        assert await cloud.read(node.ref, Span(0, _SIZE)) == data


@pytest.mark.trio
async def test_an_upload_that_is_cancelled_leaves_nothing(server: Emulator, session: Session, tmp_path: Path) -> None:
    server.fault("upload", "slow", times=None, seconds=30)
    async with open_mega(session, directory=tmp_path) as cloud:
        with trio.move_on_after(0.3) as scope:
            await cloud.put(
                cloud.root, "file", BytesContent(os.urandom(1000)), replaces=None, mtime_ns=0, token=bytes(32)
            )
        assert scope.cancelled_caught
        assert server.tree(session.email) == []


@pytest.mark.trio
async def test_a_small_file_takes_three_requests(server: Emulator, session: Session, tmp_path: Path) -> None:
    async with open_mega(session, directory=tmp_path) as cloud:
        before = server.counts()
        await cloud.put(cloud.root, "file", BytesContent(b"x" * 8192), replaces=None, mtime_ns=0, token=bytes(32))
        after = server.counts()
    for what in ("command u", "upload", "command p"):
        assert after[what] - before.get(what, 0) == 1


@pytest.mark.trio
async def test_a_full_account(server: Emulator, session: Session, tmp_path: Path) -> None:
    server.set_account(session.email, quota=1000)
    async with open_mega(session, directory=tmp_path) as cloud:
        with pytest.raises(NoSpace):
            await cloud.put(
                cloud.root, "file", BytesContent(bytes(2000)), replaces=None, mtime_ns=0, token=bytes(32)
            )
        assert server.tree(session.email) == []


def test_every_content_has_a_key_of_its_own() -> None:
    keys = {upload_key(bytes(32), bytes([number]) * 32) for number in range(50)}
    assert len({key.key for key in keys}) == len({key.nonce for key in keys}) == 50
    assert upload_key(bytes(32), bytes(32)) == upload_key(bytes(32), bytes(32))
    assert upload_key(b"x" * 32, bytes(32)) != upload_key(bytes(32), bytes(32))


@pytest.mark.trio
async def test_who_saves_while_a_content_is_sent_is_not_overwritten(session: Session, tmp_path: Path) -> None:
    async with (
        open_mega(session, directory=tmp_path / "one") as here,
        open_mega(session, directory=tmp_path / "two") as there,
    ):
        old = await here.put(here.root, "file", BytesContent(b"old"), replaces=None, mtime_ns=0, token=b"1" * 32)

        class Overtaken(BytesContent):
            async def read(self, span: Span) -> bytes:
                await there.put(
                    there.root, "file", BytesContent(b"theirs"), replaces=old.ref, mtime_ns=0, token=b"2" * 32
                )
                return await super().read(span)

        with pytest.raises(Conflict):
            await here.put(here.root, "file", Overtaken(b"ours"), replaces=old.ref, mtime_ns=0, token=b"3" * 32)
