"""Answers and packets in an unlucky order, changes of several machines that cross: what holds in the end is what the
account holds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.mega.api import open_api
from serpentfs.clouds.mega.feed import EventFeed
from serpentfs.clouds.mega.session import Session
from serpentfs.clouds.mega.transport import Transport
from serpentfs.model import NodeId
from serpentfs.vfs.core import SetAttributes
from tests.drives import contents, exists, ino_at, mkdir, rename, rmdir, unlink, until, write
from tests.mega_drives import mega_drive
from tests.mega_emulator import Emulator

pytestmark = pytest.mark.trio
_SEEN_WITHIN = 20.0


@pytest.fixture(autouse=True)
def as_ever(server: Emulator) -> Iterator[None]:
    yield
    server.clear_faults()
    server.set(latency=0.0)


def held(server: Emulator, session: Session) -> set[str]:
    return {entry.path for entry in server.tree(session.email) if not entry.path.startswith("//bin/")}


async def test_two_folders_that_go_below_one_another(server: Emulator, session: Session, tmp_path: Path) -> None:
    """Here one way, elsewhere the other: the tree must not become a circle."""
    async with mega_drive(session, tmp_path / "one", settle=2) as (one, _):
        await mkdir(one, "/x")
        await mkdir(one, "/y")
        await write(one, "/x/file", b"content")
        await one.wait_until_uploaded()
        async with mega_drive(session, tmp_path / "two") as (two, _):
            await rename(one, "/y", "/x/y")
            await rename(two, "/x", "/y/x")
            await two.wait_until_uploaded()
        with trio.fail_after(_SEEN_WITHIN):
            await one.wait_until_uploaded()
        await until(lambda: exists(one, "/y/x/file"), _SEEN_WITHIN)
        assert await contents(one) == {"/y": None, "/y/x": None, "/y/x/file": b"content"}
        assert held(server, session) == {"/y", "/y/x", "/y/x/file"}


@pytest.mark.parametrize("change", ["name", "time"])
async def test_a_change_after_one_whose_answer_was_passed_over(
    server: Emulator, session: Session, tmp_path: Path, change: str
) -> None:
    """The packet of an earlier change of ours came while the second was tried again: its answer does not count, and the
    third may not be made from what was before it."""
    async with mega_drive(session, tmp_path) as (drive, _):
        await write(drive, "/a", b"content")
        await drive.wait_until_uploaded()
        await trio.sleep(0.5)   # all packets are here
        server.fault("wait", "slow", times=None, seconds=1.0)
        server.add_file(session.email, "news", b"")
        await until(lambda: exists(drive, "/news"), _SEEN_WITHIN)
        await rename(drive, "/a", "/b")
        await drive.wait_until_uploaded()
        server.fault("batch", "error", code=-3, times=3)
        await rename(drive, "/b", "/c")
        await drive.wait_until_uploaded()
        if change == "name":
            await rename(drive, "/c", "/b")
        else:
            await drive.setattr(ino_at(drive, "/c"), SetAttributes(mtime_ns=1_700_000_000 * 10**9), door="test")
        await drive.wait_until_uploaded()
        wanted = {"/news", "/b" if change == "name" else "/c"}
        assert held(server, session) == wanted
        await trio.sleep(3.0)   # what own packets say is told after two
        assert set(await contents(drive)) == wanted


async def test_a_late_answer_to_a_restoring(server: Emulator, session: Session, tmp_path: Path) -> None:
    """Somebody moved the file on before it came."""
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await mkdir(drive, "/folder")
        await write(drive, "/file", b"content")
        await drive.wait_until_uploaded()
        await unlink(drive, "/file")
        await drive.wait_until_uploaded()
        await trio.sleep(0.5)
        handles = {entry.path: entry.handle for entry in server.tree(session.email)}
        transport = Transport()
        async with open_api(transport, session.api, sid=session.sid, link=None) as api, trio.open_nursery() as nursery:
            server.fault("batch", "lose", only="m", times=1)

            async def move_on() -> None:
                await until(lambda: "/file" in held(server, session), _SEEN_WITHIN)
                await api.command({"a": "m", "n": handles["//bin/file"], "t": handles["/folder"]})

            nursery.start_soon(move_on)
            await cloud.restore("file", to=None, name=None, recursive=False)
        await transport.aclose()
        await until(lambda: exists(drive, "/folder/file"), _SEEN_WITHIN)
        await trio.sleep(1.0)
        assert await contents(drive) == {"/folder": None, "/folder/file": b"content"}


async def test_what_is_uploaded_while_the_tree_is_loaded_anew_stays(
    server: Emulator, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path) as (drive, _):
        for number in range(200):
            server.add_file(session.email, f"file {number}", b"x")
        await until(lambda: exists(drive, "/file 199"), _SEEN_WITHIN)
        await trio.sleep(0.5)
        server.set(latency=0.05)
        server.fault("batch", "slow", only="f", rate=20000.0, seconds=0)
        ended = trio.Event()

        async def reload() -> None:
            await drive.reload()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            await trio.sleep(0.3)
            await write(drive, "/new", b"content")
            await drive.wait_until_uploaded()
            assert not ended.is_set(), "the tree came too fast for this test"
            ino = ino_at(drive, "/new")
            with trio.fail_after(60):
                while not ended.is_set():
                    assert ino_at(drive, "/new") == ino
                    await trio.sleep(0.005)
        for _ in range(100):
            assert ino_at(drive, "/new") == ino
            await trio.sleep(0.01)


async def test_the_listing_of_a_new_folder_is_owed_also_after_a_kill(
    server: Emulator, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mega_drive(session, tmp_path, settle=3600) as (drive, cloud):
        await trio.sleep(0.3)
        await mkdir(drive, "/folder")   # so that the other's cannot come in yet, and what is in it is passed over
        folder = server.add_folder(session.email, "folder")
        server.add_file(session.email, "child", b"content", parent=folder)
        unseen = partial(cloud._replica._db.execute, "SELECT count(*) FROM unseen")
        await until(lambda: cloud._replica.node(folder) is not None and unseen().fetchone()[0] == 0, _SEEN_WITHIN)
        recheck = EventFeed.recheck

        def but_for_it(feed: EventFeed, directory: NodeId) -> None:
            if directory != folder:
                recheck(feed, directory)

        with monkeypatch.context() as patch:
            patch.setattr(EventFeed, "recheck", but_for_it)
            await rmdir(drive, "/folder")
            await until(lambda: exists(drive, "/folder"), _SEEN_WITHIN)
            await trio.sleep(0.1)
    async with mega_drive(session, tmp_path) as (drive, _):
        await until(lambda: exists(drive, "/folder/child"), _SEEN_WITHIN)
