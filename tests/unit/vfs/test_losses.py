"""Ways to lose or hang what was acknowledged, each of which was possible once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from serpentfs.cache.layers import BlockCache
from serpentfs.clouds.base import Content
from serpentfs.errors import NoSpace, PermissionDenied, RevisionGone
from serpentfs.model import BLOCK_SIZE, ROOT_INO, ContentId, Ino, Kind, NodeId, NodeInfo, NodeRef, Span
from serpentfs.tree.store import NodeRow, Store
from serpentfs.vfs.core import Invalidation, SetAttributes
from serpentfs.vfs.drive import Drive, DriveOptions
from serpentfs.vfs.reads import Contents
from serpentfs.vfs.writes import Stage
from tests.drives import (
    DOOR,
    a_drive,
    contents,
    exists,
    ino_at,
    mkdir,
    patch,
    read,
    rename,
    rmdir,
    unlink,
    until,
    write,
)
from tests.fakes.faulty_cloud import FOR_EVER, FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

LATER = DriveOptions(settle=3600, host="here")
CONFIRMED = DriveOptions(settle=3600, host="here", durability="cloud", confirm_within=5)


@pytest.fixture(params=["unstable-ids", "stable-ids", "events"])
def memory(request: pytest.FixtureRequest) -> MemoryCloud:
    return MemoryCloud(stable_file_ids=request.param == "stable-ids", events=request.param == "events")


# power cuts


class PowerCut:
    """The state directory as a power cut would leave it: the database as of the last fdatasync of its log (an image
    taken then), and of the staging files those that are there now: names go at once, rows later."""

    def __init__(self, state: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._state = state
        self._image = image
        sync = Store.sync

        async def sync_and_take_image(store: Store, *, patient: bool = False) -> None:
            await sync(store)
            self.take_image()

        monkeypatch.setattr(Store, "sync", sync_and_take_image)

    def take_image(self) -> None:
        shutil.rmtree(self._image, ignore_errors=True)
        self._image.mkdir(parents=True)
        for path in self._state.glob("state.db*"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, self._image / path.name)

    def happen(self, where: Path) -> None:
        """Leave the remains as the state of another drive at ``where``."""
        shutil.copytree(self._image, where / "state")
        shutil.copytree(self._state / "staging", where / "state" / "staging")


async def test_a_content_that_was_fsynced_outlives_its_unsynced_successor(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor made the old content needless; its files stay until the database cannot go back to it."""
    cut = PowerCut(tmp_path / "state", tmp_path / "image", monkeypatch)
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        _, handle = await drive.create(ROOT_INO, "file", exclusive=True, door=DOOR)
        await drive.write(handle, 0, b"fsynced" * BLOCK_SIZE)
        await drive.fsync(handle)
        await drive.release(handle)
        monkeypatch.setattr(Store, "sync", _never)  # the disk is slow to write back from now on
        await write(drive, "/tmp", b"a successor")
        await rename(drive, "/tmp", "/file")
        await trio.sleep(0.05)
        cut.happen(tmp_path / "after")
        monkeypatch.undo()
    async with a_drive(memory, tmp_path / "after", options=LATER) as drive:
        assert await read(drive, "/file") == b"fsynced" * BLOCK_SIZE


async def _never(store: Store, *, patient: bool = False) -> None:
    await trio.sleep_forever()


async def test_an_upload_that_the_database_forgot_is_repeated(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsynced, uploaded, confirmed, and the confirmation is lost: the staged content must still be there."""
    cut = PowerCut(tmp_path / "state", tmp_path / "image", monkeypatch)
    async with a_drive(memory, tmp_path) as drive:
        _, handle = await drive.create(ROOT_INO, "file", exclusive=True, door=DOOR)
        await drive.write(handle, 0, b"fsynced")
        await drive.fsync(handle)
        monkeypatch.setattr(Store, "sync", _never)
        await drive.release(handle)
        await until(lambda: not drive.status().pending)
        await trio.sleep(0.05)
        cut.happen(tmp_path / "after")
        monkeypatch.undo()
    async with a_drive(memory, tmp_path / "after") as drive:
        assert await read(drive, "/file") == b"fsynced"
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert memory.contents() == {"/file": b"fsynced"}


async def test_what_shows_through_an_fsynced_file_is_synced_too(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = FaultyCloud(memory)
    synced: set[str] = set()
    fdatasync = os.fdatasync

    def noting(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fdatasync(descriptor)

    async with a_drive(cloud, tmp_path) as drive:
        cloud.network_gone = True
        await write(drive, "/file", bytes(BLOCK_SIZE + 1))
        await until(lambda: any(change.error for change in drive.status().pending))
        below = {str(path) for path in (tmp_path / "state" / "staging").iterdir()}
        monkeypatch.setattr(os, "fdatasync", noting)
        handle = await drive.open(ino_at(drive, "/file"), write=True, door=DOOR)
        await drive.write(handle, 0, b"patched")  # a stage of its own: the first is being uploaded
        await drive.fsync(handle)
        await drive.release(handle)
        assert below <= synced
        cloud.clear()


async def test_content_ids_do_not_come_up_again_after_a_power_cut(tmp_path: Path) -> None:
    """A database that lost its last transactions must not give the same id to another content: the cache has the
    first one's blocks."""
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    first = Store(tmp_path / "state.db", b"s" * 32, str)
    shutil.copyfile(tmp_path / "state.db-wal", tmp_path / "wal")
    shutil.copyfile(tmp_path / "state.db", tmp_path / "db")
    given = {first.new_content() for _ in range(5000)}
    first.close()
    (tmp_path / "wal").rename(tmp_path / "state.db-wal")
    (tmp_path / "db").rename(tmp_path / "state.db")
    again = Store(tmp_path / "state.db", b"s" * 32, str)
    assert given.isdisjoint(again.new_content() for _ in range(5000))
    again.close()


# full disks


async def test_a_close_that_failed_leaves_no_files_and_tells_the_kernel(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.external_put("/file", b"from the cloud")
    told: list[Invalidation] = []

    def no_room(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with a_drive(memory, tmp_path, options=LATER) as drive:
        drive.subscribe(told.append)
        ino = ino_at(drive, "/file")
        handle = await drive.open(ino, write=True, door=DOOR)
        await drive.write(handle, 0, b"FROM")
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", no_room)
            with pytest.raises(NoSpace):
                await drive.release(handle)
        assert any(invalidation.ino == ino and invalidation.data for invalidation in told)
        assert await read(drive, "/file") == b"from the cloud"
        assert drive.status().dirty_bytes == 0
        await until(lambda: not list((tmp_path / "state" / "staging").iterdir()))


# uploads of files that are open


async def test_a_write_between_the_flush_and_its_upload(memory: MemoryCloud, tmp_path: Path) -> None:
    """With durability "cloud" an open file is uploaded. What was written to it after the flush, but before the upload
    began, goes along; the entry for it must not be stuck for want of a content."""
    cloud = FaultyCloud(memory)
    async with a_drive(cloud, tmp_path, options=CONFIRMED) as drive:
        cloud.stall("mkdir", 0.3)
        async with trio.open_nursery() as nursery:

            async def makes_folder() -> None:
                await mkdir(drive, "/folder")

            nursery.start_soon(makes_folder)
            await until(lambda: exists(drive, "/folder"))
            _, handle = await drive.create(ino_at(drive, "/folder"), "file", exclusive=True, door=DOOR)
            await drive.write(handle, 0, b"first")
            nursery.start_soon(drive.flush, handle)
            await until(lambda: drive.status().dirty_bytes == 0)
            await drive.write(handle, 5, b" second")
        await drive.release(handle)
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert memory.contents()["/folder/file"] == b"first second"


async def test_a_write_that_waits_for_its_base_while_the_upload_begins(memory: MemoryCloud, tmp_path: Path) -> None:
    """The upload waits until the write is through: nothing is written into what is being sent."""
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"x" * (3 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path, options=CONFIRMED) as drive:
        handle = await drive.open(ino_at(drive, "/file"), write=True, door=DOOR)
        cloud.stall("move", 0.2)  # the upload has to wait for it
        cloud.stall("read", 0.5)  # the write has to wait for it
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rename, drive, "/file", "/renamed")
                await until(lambda: "move" in cloud.calls)
                await drive.write(handle, 0, b"a" * BLOCK_SIZE)
                nursery.start_soon(drive.flush, handle)
                await until(lambda: drive.status().dirty_bytes == 0)
                nursery.start_soon(drive.write, handle, BLOCK_SIZE + 7, b"b")
        await drive.release(handle)
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        wanted = b"a" * BLOCK_SIZE + b"x" * 7 + b"b" + b"x" * (2 * BLOCK_SIZE - 8)
        assert memory.contents()["/renamed"] == wanted == await read(drive, "/renamed")


async def test_removing_an_open_file_does_not_wait_for_its_close(memory: MemoryCloud, tmp_path: Path) -> None:
    """With durability "cloud": who removes it may be who has it open."""
    memory.external_put("/file", b"data")
    async with a_drive(memory, tmp_path, options=CONFIRMED) as drive:
        handle = await drive.open(ino_at(drive, "/file"), write=False, door=DOOR)
        with trio.fail_after(3):
            await unlink(drive, "/file")
        await drive.release(handle)
        await drive.wait_until_uploaded()
        assert memory.contents() == {}


async def test_a_rename_of_an_open_file_takes_along_what_is_journalled_of_it(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    """With durability "cloud" the rename is waited for, and it comes after the content, which waits for the close."""
    memory.external_put("/file", b"data")
    async with a_drive(memory, tmp_path, options=CONFIRMED) as drive:
        ino = ino_at(drive, "/file")
        handle = await drive.open(ino, write=True, door=DOOR)
        await drive.setattr(ino, SetAttributes(size=2), door=DOOR)
        with trio.fail_after(3):
            await rename(drive, "/file", "/renamed")
        assert memory.contents() == {"/renamed": b"da"}
        await drive.release(handle)


async def test_a_folder_with_a_new_file_that_is_open_is_moved(memory: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(memory, tmp_path, options=CONFIRMED) as drive:
        folder = await mkdir(drive, "/folder")
        _, handle = await drive.create(folder, "file", exclusive=True, door=DOOR)
        await drive.write(handle, 0, b"data")
        with trio.fail_after(3):
            await rename(drive, "/folder", "/moved")
        assert memory.contents() == {"/moved": None, "/moved/file": b"data"}
        await drive.release(handle)


async def test_what_comes_after_the_removal_of_an_open_file_is_not_waited_for(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    memory.external_mkdir("/folder")
    memory.external_put("/folder/file", b"data")
    async with a_drive(memory, tmp_path, options=CONFIRMED) as drive:
        handle = await drive.open(ino_at(drive, "/folder/file"), write=False, door=DOOR)
        with trio.fail_after(3):
            await unlink(drive, "/folder/file")
            await mkdir(drive, "/folder/file")
            await rename(drive, "/folder", "/moved")
            await rename(drive, "/moved", "/again")
        assert await drive.read(handle, 0, 10) == b"data"
        await drive.release(handle)
        await drive.wait_until_uploaded()
        assert memory.contents() == {"/again": None, "/again/file": None}


# other clients


async def test_a_file_is_read_while_it_is_renamed_in_the_cloud(tmp_path: Path) -> None:
    """Between the cloud's rename and its answer the old id is gone and the new one not known."""
    memory = MemoryCloud()
    cloud = FaultyCloud(memory)
    memory.external_put("/film", b"x" * (40 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path, settle=0) as drive:
        handle = await drive.open(ino_at(drive, "/film"), write=False, door=DOOR)
        cloud.stall("move", 0.2, after=True)
        await rename(drive, "/film", "/moved")
        await until(lambda: "/moved" in memory.contents())
        assert bytes(await drive.read(handle, 39 * BLOCK_SIZE, 10)) == b"x" * 10
        await drive.release(handle)


async def test_a_file_renamed_here_and_removed_there_while_it_is_written(memory: MemoryCloud, tmp_path: Path) -> None:
    memory.external_put("/file", b"theirs")
    async with a_drive(memory, tmp_path, settle=0.05) as drive:
        handle = await drive.open(ino_at(drive, "/file"), write=True, door=DOOR)
        await rename(drive, "/file", "/renamed")
        memory.external_remove("/file")
        await until(lambda: not drive.status().pending)
        await drive.write(handle, 0, b"ours, written late")
        await drive.release(handle)
        await drive.wait_until_uploaded()
        assert memory.contents() == {"/renamed": b"ours, written late"} == await contents(drive)


async def test_a_folder_renamed_here_and_removed_there_goes_with_all_that_is_in_it(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    memory.external_mkdir("/folder")
    memory.external_put("/folder/file", b"theirs")
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        await rename(drive, "/folder", "/renamed")
        memory.external_remove("/folder")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
            await until(lambda: not exists(drive, "/renamed"))
        assert await contents(drive) == memory.contents() == {}


async def test_a_file_moved_into_a_folder_that_was_removed_there(memory: MemoryCloud, tmp_path: Path) -> None:
    memory.external_mkdir("/folder")
    memory.external_put("/file", b"data")
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        await rename(drive, "/file", "/folder/file")
        memory.external_remove("/folder")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert memory.contents() == {"/folder": None, "/folder/file": b"data"} == await contents(drive)


async def test_a_rename_over_whose_source_is_gone_there(memory: MemoryCloud, tmp_path: Path) -> None:
    """What it would have replaced comes back."""
    memory.external_put("/new", b"new")
    memory.external_put("/old", b"old")
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        await rename(drive, "/new", "/old")
        memory.external_remove("/new")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
            await until(lambda: exists(drive, "/old"))
        assert await contents(drive) == memory.contents() == {"/old": b"old"}


@pytest.mark.parametrize("old", ["/old", "/folder/old"])
@pytest.mark.parametrize("last", ["replaced", "removed"])
async def test_what_was_renamed_to_a_name_that_is_theirs_and_is_no_more(
    memory: MemoryCloud, tmp_path: Path, old: str, last: str
) -> None:
    """It goes under its old name, and what took its place takes it under the name that was meant."""
    memory.external_mkdir("/folder")
    for path in (old, "/name", "/last"):
        memory.external_put(path, path.encode())
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        await rename(drive, old, "/name")
        if last == "replaced":
            await rename(drive, "/last", "/name")
        else:
            await unlink(drive, "/name")
            await write(drive, "/name", b"/last")
        memory.external_put("/name", b"theirs")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
            await until(lambda: memory.contents().keys() == contents_now(drive))
        found = await contents(drive)
        assert found == memory.contents()
        assert not drive.status().pending
    [copy] = [path for path in found if path.startswith("/name (conflict here")]
    expected = {"/folder": None, "/name": b"theirs", copy: b"/last"}
    assert found == (expected if last == "replaced" else {**expected, "/last": b"/last"})


def contents_now(drive: Drive, ino: Ino = ROOT_INO, above: str = "") -> set[str]:
    """The paths that are there."""
    found: set[str] = set()
    for entry in drive.readdir(ino):
        found.add(path := f"{above}/{entry.name}")
        if entry.attributes.kind is Kind.DIRECTORY:
            found |= contents_now(drive, entry.attributes.ino, path)
    return found


async def test_something_made_in_a_folder_that_was_removed_here_and_there(memory: MemoryCloud, tmp_path: Path) -> None:
    """An attempt may be in the cloud, so its entry stays; the folder is gone at both ends: nothing is left to do."""
    cloud = FaultyCloud(memory)
    memory.external_mkdir("/folder")
    async with a_drive(cloud, tmp_path) as drive:
        cloud.fail("put", times=1)
        await write(drive, "/folder/file", b"data")
        await until(lambda: any(change.error for change in drive.status().pending))
        await unlink(drive, "/folder/file")
        await rmdir(drive, "/folder")
        memory.external_remove("/folder")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert memory.contents() == {} == await contents(drive)


@pytest.mark.parametrize(
    ("kind", "here", "restarts"),
    [("file", False, False), ("folder", False, True), ("file", True, True), ("folder", True, False)],
)
async def test_what_left_a_folder_that_is_gone_before_it_could_be_made_in_it(
    memory: MemoryCloud, tmp_path: Path, kind: str, here: bool, restarts: bool
) -> None:
    """An attempt to make it in the folder may be in the cloud, so that is how it begins."""
    cloud = FaultyCloud(memory)
    memory.external_mkdir("/above")
    memory.external_mkdir("/above/folder")
    async with AsyncExitStack() as stack:
        drive = await stack.enter_async_context(a_drive(cloud, tmp_path))
        cloud.fail("put" if kind == "file" else "mkdir", times=FOR_EVER)
        if kind == "file":
            await write(drive, "/above/folder/new", b"data")
        else:
            await mkdir(drive, "/above/folder/new")
        await until(lambda: any(change.error for change in drive.status().pending))
        await rename(drive, "/above/folder/new", "/new")
        if kind == "folder":
            await write(drive, "/new/file", b"data")
        if here:
            await rmdir(drive, "/above/folder")
            await rmdir(drive, "/above")
        memory.external_remove("/above")
        await drive.refresh(ROOT_INO)
        await trio.sleep(0.2)
        if restarts:
            await stack.aclose()
            drive = await stack.enter_async_context(a_drive(cloud, tmp_path))
        cloud.clear()
        drive.retry_uploads()
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert not drive.status().pending
        await until(lambda: exists(drive, "/above") == ("/above" in memory.contents()))
        there = memory.contents()
        assert there.pop("/new" if kind == "file" else "/new/file") == b"data"
        assert there.keys() <= {"/new", "/above", "/above/folder"}
        if here:
            assert there.keys() <= {"/new"}
        assert await contents(drive) == memory.contents()


async def test_a_folder_removed_and_made_again_there_before_it_is_listed(memory: MemoryCloud, tmp_path: Path) -> None:
    """What waits in it goes into the new folder, under its own name: no conflict."""
    cloud = FaultyCloud(memory)
    memory.external_mkdir("/folder")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/folder/file", b"ours")
        memory.external_remove("/folder")
        memory.external_mkdir("/folder")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert memory.contents() == {"/folder": None, "/folder/file": b"ours"} == await contents(drive)
        assert drive.status().conflicts == 0


async def test_the_rest_of_a_conflict_copy_is_found_after_a_restart(memory: MemoryCloud, tmp_path: Path) -> None:
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"1" * (2 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await patch(drive, "/file", 0, b"ours")
        memory.external_put("/file", b"2" * (2 * BLOCK_SIZE))
        cloud.fail("put", nth=2, times=1000)
        with trio.move_on_after(1):
            await drive.wait_until_uploaded()
        cloud.network_gone = True
    cloud.clear()
    shutil.rmtree(tmp_path / "cache")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        there = memory.contents()
        assert there.pop("/file") == b"2" * (2 * BLOCK_SIZE)
        ((name, copy),) = there.items()
        assert "conflict" in name
        assert name.count("conflict") == 1
        assert isinstance(copy, bytes)
        assert copy[:4] == b"ours"
        assert len(copy) == 2 * BLOCK_SIZE


async def test_a_conflict_copy_is_made_of_one_base(memory: MemoryCloud, tmp_path: Path) -> None:
    """The file is replaced again while its rest is uploaded from what replaced it first."""
    cloud = FaultyCloud(memory)
    size = 8 * BLOCK_SIZE
    memory.external_put("/file", b"1" * size)
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await patch(drive, "/file", 0, b"0" * BLOCK_SIZE)
        memory.external_put("/file", b"2" * size)

        def replace_again(data: bytes) -> bytes:
            if data.startswith(b"2"):
                memory.external_put("/file", b"3" * size)
            return data

        cloud.alter("read", replace_again, times=FOR_EVER)
        with trio.fail_after(30):
            await drive.wait_until_uploaded()
        there = memory.contents()
        assert there.pop("/file") == b"3" * size
        (copy,) = there.values()
        assert copy == b"0" * BLOCK_SIZE + b"3" * (size - BLOCK_SIZE)


async def test_what_another_machine_took_away_before_it_was_seen_here(memory: MemoryCloud, tmp_path: Path) -> None:
    """Our renaming meets a file that was saved over, and before its new content is listed here it is removed."""
    memory.external_put("/file", b"old")
    async with a_drive(RemovedOnArrival(memory, "/other"), tmp_path, options=LATER) as drive:
        await rename(drive, "/file", "/other")
        memory.external_put("/file", b"new")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
            await until(lambda: not exists(drive, "/other"))
        assert memory.contents() == {} == await contents(drive)


class RemovedOnArrival(FaultyCloud):
    """What is moved to ``path`` is removed there by somebody else before the answer arrives."""

    def __init__(self, cloud: MemoryCloud, path: str) -> None:
        super().__init__(cloud)
        self._memory = cloud
        self._path = path

    async def move(
        self, node: NodeRef, parent: NodeId, name: str, *, replaces: NodeRef | None, retry: bool = False
    ) -> NodeInfo:
        info = await super().move(node, parent, name, replaces=replaces, retry=retry)
        self._memory.external_remove(self._path)
        return info


# what a change in place was made in


@pytest.mark.parametrize("what", ["removed", "its folder is removed"])
@pytest.mark.parametrize("when", ["before", "while open", "restarted"])
async def test_what_was_not_written_here_outlives_the_file_there(
    memory: MemoryCloud, tmp_path: Path, what: str, when: str
) -> None:
    """The cloud has lost the file, the cache has what it was: the upload is made of that."""
    options = replace(LATER, dirty_seconds=3600)
    memory.external_mkdir("/folder")
    memory.external_put("/folder/file", b"1" * (2 * BLOCK_SIZE))
    async with AsyncExitStack() as stack:
        drive = await stack.enter_async_context(a_drive(memory, tmp_path, options=options))
        await read(drive, "/folder/file")
        await drive._cache.wait_written()    # what the disk cache has not written yet does not outlive a restart
        ino = ino_at(drive, "/folder/file")
        handle = await drive.open(ino, write=True, door=DOOR)
        if when != "while open":
            await drive.write(handle, 0, b"ours")
        if what == "removed":
            await rename(drive, "/folder/file", "/folder/other")
            memory.external_remove("/folder/file")
            await drive.wait_until_uploaded()    # of the new name, which finds nothing to rename
        else:
            memory.external_remove("/folder")
            await until(lambda: drive.getxattr(ino, "user.serpentfs.id") == b"")
        await drive.write(handle, 0, b"ours")
        await drive.release(handle)
        if when == "restarted":
            await stack.aclose()
            drive = await stack.enter_async_context(a_drive(memory, tmp_path, options=options))
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        name = "/folder/other" if what == "removed" else "/folder/file"
        assert memory.contents() == {"/folder": None, name: b"ours" + b"1" * (2 * BLOCK_SIZE - 4)}
        assert memory.contents() == await contents(drive)


class LateAnswers(FaultyCloud):
    """What is uploaded is there, and the answer takes its time."""

    def __init__(self, cloud: MemoryCloud) -> None:
        super().__init__(cloud)
        self.done = trio.Event()
        self.gate = trio.Event()

    async def put(
        self, parent: NodeId, name: str, content: Content, *, replaces: NodeRef | None, mtime_ns: int, token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        info = await super().put(
            parent, name, content, replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
        )
        self.done.set()
        await self.gate.wait()
        return info


@pytest.mark.parametrize("memory", ["stable-ids", "events"], indirect=True)
@pytest.mark.parametrize("when", ["before", "open meanwhile"])
async def test_a_file_that_is_renamed_elsewhere_before_its_upload_is_answered(
    memory: MemoryCloud, tmp_path: Path, when: str
) -> None:
    """Its new name is another entry here until the answer tells that both are one; what is written there is kept."""
    cloud = LateAnswers(memory)
    async with a_drive(cloud, tmp_path) as drive:
        await write(drive, "/here", b"1" * (2 * BLOCK_SIZE))
        await cloud.done.wait()
        drive.pause_uploads(True)
        memory.external_rename("/here", "/there")
        await until(lambda: exists(drive, "/there"))
        await read(drive, "/there")
        handle = await drive.open(ino_at(drive, "/there"), write=True, door=DOOR)
        if when == "before":
            await drive.write(handle, 0, b"ours")
            await drive.release(handle)
        cloud.gate.set()
        await until(lambda: "/here" not in [change.path for change in drive.status().pending])
        if when == "open meanwhile":
            await drive.write(handle, 0, b"ours")
            await drive.release(handle)
        memory.external_remove("/there")
        drive.pause_uploads(False)
        await until(lambda: not drive.status().pending)
        assert list(memory.contents().values()) == [b"ours" + b"1" * (2 * BLOCK_SIZE - 4)]
        await until(lambda: not exists(drive, "/here"))
        assert memory.contents() == await contents(drive)


async def test_what_a_renaming_took_along_can_be_read_and_written_at_once(memory: MemoryCloud, tmp_path: Path) -> None:
    """The file was saved over elsewhere, and no listing has told of that yet."""
    memory.external_put("/file", b"old")
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        await rename(drive, "/file", "/other")
        memory.external_put("/file", b"2" * (2 * BLOCK_SIZE))
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert await read(drive, "/other") == b"2" * (2 * BLOCK_SIZE)
        await patch(drive, "/other", BLOCK_SIZE, b"3" * BLOCK_SIZE)
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert memory.contents() == {"/other": b"2" * BLOCK_SIZE + b"3" * BLOCK_SIZE} == await contents(drive)


async def test_nothing_is_written_into_what_is_no_more(memory: MemoryCloud, tmp_path: Path) -> None:
    """What it would be made of cannot be had from anywhere; what needs nothing of it can be written."""
    memory.external_mkdir("/folder")
    memory.external_put("/folder/file", b"1" * (2 * BLOCK_SIZE))
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        await rename(drive, "/folder/file", "/folder/other")
        ino = ino_at(drive, "/folder/other")
        memory.external_remove("/folder")
        await until(lambda: drive.getxattr(ino, "user.serpentfs.id") == b"")
        with pytest.raises(RevisionGone):
            await patch(drive, "/folder/other", BLOCK_SIZE, b"3" * BLOCK_SIZE)
        assert [change.operation for change in drive.status().pending] == ["rename"]
        await write(drive, "/folder/other", b"all of it")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert memory.contents() == {"/folder": None, "/folder/other": b"all of it"} == await contents(drive)


async def test_a_write_that_fails_for_want_of_what_is_there_changes_nothing(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    """A change of a few bytes needs the rest of their block."""
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"1" * BLOCK_SIZE)
    async with a_drive(cloud, tmp_path) as drive:
        before = drive.resolve("/file")
        handle = await drive.open(before.ino, write=True, door=DOOR)
        cloud.fail("read", PermissionDenied("not now"))
        with pytest.raises(PermissionDenied):
            await drive.write(handle, 0, b"ours")
        await drive.release(handle)
        assert drive.status().pending == ()
        assert drive.resolve("/file") == before
        assert await read(drive, "/file") == b"1" * BLOCK_SIZE


class LateUpload:
    """Attempts at uploads stop where they are about to take the file as it is, until ``gate`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = trio.Event()
        self.gate = trio.Event()
        freeze = Drive.freeze

        async def late(drive: Drive, ino: Ino, stage: Stage) -> None:
            self.begun.set()
            await self.gate.wait()
            await freeze(drive, ino, stage)

        monkeypatch.setattr(Drive, "freeze", late)


async def test_a_file_removed_as_its_upload_begins(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open again, and is closed for good between the start of the attempt and its first byte."""
    upload = LateUpload(monkeypatch)
    async with a_drive(memory, tmp_path) as drive:
        await write(drive, "/file", b"journalled")
        await upload.begun.wait()
        handle = await drive.open(ino_at(drive, "/file"), write=True, door=DOOR)
        await drive.write(handle, 0, b"more")
        await unlink(drive, "/file")
        await drive.release(handle)
        upload.gate.set()
        with trio.fail_after(20):
            await until(lambda: not drive.status().pending)
        assert memory.contents() == {} == await contents(drive)


async def test_a_file_written_as_its_upload_begins_and_anew_while_it_lasts(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes up is needed to its end, though what was written last has nothing of it."""
    upload = LateUpload(monkeypatch)
    cloud = FaultyCloud(memory)
    async with a_drive(cloud, tmp_path) as drive:
        await write(drive, "/file", b"first")
        await upload.begun.wait()
        handle = await drive.open(ino_at(drive, "/file"), write=True, door=DOOR)
        await drive.write(handle, 0, b"FIRST")
        cloud.network_gone = True
        upload.gate.set()
        await until(lambda: [change.operation for change in drive.status().pending] == ["create", "content"])
        await drive.setattr(ino_at(drive, "/file"), SetAttributes(size=0), handle, door=DOOR)
        await drive.write(handle, 0, b"second")
        await drive.release(handle)
        cloud.clear()
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert memory.contents() == {"/file": b"second"} == await contents(drive)


# refused changes


@pytest.mark.parametrize("how", ["removed", "renamed", "written"])
async def test_a_refused_file_can_be_put_right(memory: MemoryCloud, tmp_path: Path, how: str) -> None:
    cloud = FaultyCloud(memory)
    async with a_drive(cloud, tmp_path) as drive:
        cloud.fail("put", PermissionDenied("no such names here"))
        await write(drive, "/file", b"data")
        await until(lambda: [change.state for change in drive.status().pending] == ["stuck"])
        match how:
            case "removed":
                await unlink(drive, "/file")
            case "renamed":
                await rename(drive, "/file", "/better")
            case "written":
                await write(drive, "/file", b"better")
        with trio.fail_after(20):
            await until(lambda: not drive.status().pending)
        assert memory.contents() == await contents(drive)


async def test_a_refused_content_goes_when_its_successor_is_uploaded(memory: MemoryCloud, tmp_path: Path) -> None:
    cloud = FaultyCloud(memory)
    async with a_drive(cloud, tmp_path) as drive:
        cloud.fail("put", PermissionDenied("not this"))
        await write(drive, "/file", b"d" * BLOCK_SIZE)
        await until(lambda: [change.state for change in drive.status().pending] == ["stuck"])
        await patch(drive, "/file", 0, b"better")
        with trio.fail_after(20):
            await until(lambda: not drive.status().pending)
        assert memory.contents() == {"/file": b"better" + b"d" * (BLOCK_SIZE - 6)} == await contents(drive)
        await until(lambda: not list((tmp_path / "state" / "staging").iterdir()))


async def test_flush_tries_again_what_was_refused(memory: MemoryCloud, tmp_path: Path) -> None:
    cloud = FaultyCloud(memory)
    async with a_drive(cloud, tmp_path) as drive:
        cloud.fail("put", PermissionDenied("not now"))
        await write(drive, "/file", b"data")
        await until(lambda: [change.state for change in drive.status().pending] == ["stuck"])
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert memory.contents() == {"/file": b"data"}


async def test_what_is_done_offline_still_cancels_out(memory: MemoryCloud, tmp_path: Path) -> None:
    """Only a few are attempted while the cloud does not answer."""
    cloud = FaultyCloud(memory)
    async with a_drive(cloud, tmp_path, settle=0) as drive:
        cloud.network_gone = True
        for number in range(20):
            await write(drive, f"/first{number}", b"x")
        await until(lambda: not drive.status().online)
        cloud.calls.clear()
        for number in range(50):
            await write(drive, "/tmp", str(number).encode())
            await trio.sleep(0.005)  # it would be attempted now
            await rename(drive, "/tmp", "/saved")
        assert len(drive.status().pending) <= 30
        cloud.clear()
        with trio.fail_after(30):
            await drive.wait_until_uploaded()
        assert memory.contents() == await contents(drive)
        assert memory.contents()["/saved"] == b"49"


# doors


async def test_a_door_hears_of_the_writes_of_another_whoever_flushes(memory: MemoryCloud, tmp_path: Path) -> None:
    told: list[Invalidation] = []
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        attributes, mine = await drive.create(ROOT_INO, "file", exclusive=True, door="mount")
        theirs = await drive.open(attributes.ino, write=True, door="ftp")
        drive.subscribe(told.append)
        await drive.write(theirs, 0, b"by ftp")
        await drive.flush(mine)
        assert [i.origin for i in told if i.ino == attributes.ino and i.data] == ["ftp"]
        told.clear()
        await drive.write(mine, 0, b"by mount")
        await drive.write(theirs, 8, b"by ftp")
        await drive.flush(mine)
        assert [i.origin for i in told if i.ino == attributes.ino and i.data] == [None]
        await drive.release(mine)
        await drive.release(theirs)


async def test_every_write_is_another_generation(memory: MemoryCloud, tmp_path: Path) -> None:
    """An ETag is made of content and generation: two states of a file never share one."""
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        attributes, handle = await drive.create(ROOT_INO, "file", exclusive=True, door=DOOR)
        seen = {(attributes.content, attributes.generation)}
        for number in range(3):
            for text in (b"one", b"two"):
                await drive.write(handle, number, text)
                shown = drive.getattr(attributes.ino)
                assert (shown.content, shown.generation) not in seen
                seen.add((shown.content, shown.generation))
            await drive.flush(handle)
            assert drive.getattr(attributes.ino).generation == shown.generation
        await drive.release(handle)


async def test_a_copied_link_replaces_in_one_step(memory: MemoryCloud, tmp_path: Path) -> None:
    memory.external_put("/file", b"data")
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        link = (await drive.symlink(ROOT_INO, "link", "target", door=DOOR)).ino
        told: list[bool] = []
        drive.subscribe(lambda invalidation: told.append(exists(drive, "/file")))
        _, is_new = await drive.copy_file(link, ROOT_INO, "file", door=DOOR)
        assert not is_new
        assert told
        assert all(told)
        assert drive.readlink(ino_at(drive, "/file")) == "target"
        await drive.wait_until_uploaded()
        assert memory.contents() == {"/file": "target", "/link": "target"}


async def test_a_draft_that_was_published_but_not_confirmed_can_be_discarded(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    """The copy is there; whoever made it hears that the cloud did not confirm, not that its handle is bad."""
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"data")
    options = DriveOptions(settle=0, host="here", durability="cloud", confirm_within=0.2)
    async with a_drive(cloud, tmp_path, options=options) as drive:
        cloud.stall("put")
        with pytest.raises(Exception, match="not confirmed"):
            await drive.copy_file(ino_at(drive, "/file"), ROOT_INO, "copy", door=DOOR)
        assert await read(drive, "/copy") == b"data"
        cloud.clear()


async def test_a_large_folder_that_is_removed_elsewhere_does_not_stop_the_loop(tmp_path: Path) -> None:
    memory = MemoryCloud()
    memory.external_mkdir("/folder")
    for number in range(3000):
        memory.external_put(f"/folder/{number}", b"")
    async with a_drive(memory, tmp_path, options=LATER) as drive:
        ino = ino_at(drive, "/folder")
        left = []
        memory.external_remove("/folder")
        with trio.fail_after(60):
            while exists(drive, "/folder"):
                left.append(len(drive.readdir(ino, 0, 3000)))
                await trio.lowlevel.checkpoint()
        assert any(0 < number < 3000 for number in left), "others had a turn meanwhile"
        assert memory.contents() == {} == await contents(drive)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches keep nothing of what uploads read."""

    async def uncached(
        cache: BlockCache, content: ContentId, size: int, span: Span, fetch: Callable[[Span], Awaitable[bytes]]
    ) -> bytes:
        return await fetch(span)

    monkeypatch.setattr(BlockCache, "read_span", uncached)


@pytest.mark.usefixtures("forgetful")
async def test_a_file_is_changed_while_the_answer_to_its_upload_is_on_its_way(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    """The cloud has the new content and no longer the one that shows through it, and nobody here knows yet."""
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"1" * (3 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path) as drive:
        upload = cloud.stall("put", 0.3, after=True)
        await patch(drive, "/file", 0, b"2" * BLOCK_SIZE)
        await until(lambda: upload.hits and memory.contents()["/file"] == b"2" * BLOCK_SIZE + b"1" * (2 * BLOCK_SIZE))
        await patch(drive, "/file", 2 * BLOCK_SIZE + 1, b"3")
        await patch(drive, "/file", None, b"4")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        expected = b"2" * BLOCK_SIZE + b"1" * BLOCK_SIZE + b"13" + b"1" * (BLOCK_SIZE - 2) + b"4"
        assert memory.contents() == {"/file": expected} == await contents(drive)


@pytest.mark.usefixtures("forgetful")
async def test_a_file_is_changed_while_an_upload_of_it_waits_for_another_attempt(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    """The answer was lost: whether the cloud has it, the next attempt finds out, though the file is open."""
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"1" * (3 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path) as drive:
        cloud.fail("put", after=True)
        await patch(drive, "/file", 0, b"2" * BLOCK_SIZE)
        await until(lambda: any(change.tries for change in drive.status().pending))
        await patch(drive, "/file", 2 * BLOCK_SIZE + 1, b"3")
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        expected = b"2" * BLOCK_SIZE + b"1" * BLOCK_SIZE + b"13" + b"1" * (BLOCK_SIZE - 2)
        assert memory.contents() == {"/file": expected} == await contents(drive)


@pytest.mark.usefixtures("forgetful")
async def test_a_file_is_changed_before_those_who_have_it_open_hear_that_it_is_uploaded(
    memory: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.external_put("/file", b"1" * (3 * BLOCK_SIZE))
    async with a_drive(memory, tmp_path) as drive:
        uploaded, may_tell = Drive.uploaded, trio.Event()
        finish = Contents.adopt

        def tell_later(drive: Drive, ino: Ino, stage: Stage, node: NodeRow) -> None:
            told.append(lambda: uploaded(drive, ino, stage, node))

        async def finish_later(contents: Contents, content: ContentId, *, rows_are_durable: bool) -> None:
            await may_tell.wait()
            told.pop(0)()
            await finish(contents, content, rows_are_durable=rows_are_durable)

        told: list[Callable[[], None]] = []
        monkeypatch.setattr(Drive, "uploaded", tell_later)
        monkeypatch.setattr(Contents, "adopt", finish_later)
        await patch(drive, "/file", 0, b"2" * BLOCK_SIZE)
        await until(lambda: told)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patch, drive, "/file", 2 * BLOCK_SIZE + 1, b"3")
            await trio.testing.wait_all_tasks_blocked()
            may_tell.set()
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        expected = b"2" * BLOCK_SIZE + b"1" * BLOCK_SIZE + b"13" + b"1" * (BLOCK_SIZE - 2)
        assert memory.contents() == {"/file": expected} == await contents(drive)


@pytest.mark.usefixtures("forgetful")
async def test_a_file_is_read_while_an_upload_of_it_waits_for_another_attempt(
    memory: MemoryCloud, tmp_path: Path
) -> None:
    cloud = FaultyCloud(memory)
    memory.external_put("/file", b"1" * (2 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path) as drive:
        cloud.fail("put", after=True)
        await patch(drive, "/file", 0, b"2" * BLOCK_SIZE)
        await until(lambda: any(change.tries for change in drive.status().pending))
        assert await read(drive, "/file") == b"2" * BLOCK_SIZE + b"1" * BLOCK_SIZE


@pytest.mark.parametrize("year", [1, 9999])
async def test_a_time_that_no_64_bits_hold_costs_nothing(tmp_path: Path, year: int) -> None:
    """The nearest one is kept, and the content of an open file is not held up by it."""
    time_ns = (year - 1970) * 365 * 86400 * 10**9
    cloud = MemoryCloud()
    async with a_drive(cloud, tmp_path) as drive:
        attributes, handle = await drive.create(ROOT_INO, "file", exclusive=True, door=DOOR)
        await drive.write(handle, 0, b"important")
        kept = await drive.setattr(
            attributes.ino, SetAttributes(mtime_ns=time_ns, atime_ns=time_ns), handle, door=DOOR
        )
        assert kept.mtime_ns == (2**63 - 1 if time_ns > 0 else -(2**63))
        await drive.flush(handle)
        await drive.release(handle)
        await until(lambda: not drive.status().pending)
    assert cloud.contents() == {"/file": b"important"}


async def test_a_change_of_attributes_that_fails_leaves_an_open_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_drive(MemoryCloud(), tmp_path) as drive:
        attributes, handle = await drive.create(ROOT_INO, "file", exclusive=True, door=DOOR)
        await drive.write(handle, 0, b"important")
        await drive.flush(handle)
        before = drive.getattr(attributes.ino)

        def full(self: Store, *arguments: object) -> None:
            raise NoSpace("full")

        with monkeypatch.context() as patched:
            patched.setattr(Store, "set_times", full)
            with pytest.raises(NoSpace):
                await drive.setattr(attributes.ino, SetAttributes(mtime_ns=10**18), handle, door=DOOR)
        assert drive.getattr(attributes.ino) == before
        await drive.release(handle)


@pytest.mark.parametrize("size", [1000, 3_000_000])
async def test_what_is_staged_leaves_room_for_the_outcome_of_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    cloud = MemoryCloud()
    async with a_drive(cloud, tmp_path, settle=0.3) as drive:
        await write(drive, "/before", b"x" * size)
        real = os.statvfs(tmp_path)

        def nearly_full(descriptor: int) -> os.statvfs_result:
            return os.statvfs_result((*real[:3], 0, (15 << 20) // real.f_frsize, *real[5:]))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fstatvfs", nearly_full)
            with pytest.raises(NoSpace):
                await write(drive, "/file", b"y" * size)
            await until(lambda: not drive.status().pending)
            assert cloud.contents()["/before"] == b"x" * size
        await write(drive, "/file", b"z" * size)
        await until(lambda: not drive.status().pending)
    assert cloud.contents()["/file"] == b"z" * size
