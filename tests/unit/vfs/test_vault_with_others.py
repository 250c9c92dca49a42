"""A drive over a vault in a folder, and another client of it whose changes meet ours half-way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from serpentfs.clouds.blobs.base import BlobInfo, Chunks, Condition
from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.errors import Unavailable
from serpentfs.model import BLOCK_SIZE, Revision
from serpentfs.tree.store import Store
from serpentfs.vfs.core import SetAttributes
from serpentfs.vfs.drive import Drive
from tests.drives import DOOR, a_drive, contents, exists, ino_at, mkdir, patch, read, rename, until, write
from tests.fakes.memory_cloud import MemoryCloud
from tests.vaults import contents as vault_contents
from tests.vaults import fresh_vault, put, reopened, tree

pytestmark = pytest.mark.trio

Hook = Callable[[], Awaitable[None]]


class Disk(FileStore):
    """Where things happen before or after one of our changes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.after_link: Hook | None = None
        self.before_change: Hook | None = None
        self.after_rename: Hook | None = None

    async def _before_change(self) -> None:
        if self.before_change is not None:
            hook, self.before_change = self.before_change, None
            await hook()

    async def set_mtime(self, key: str, mtime_ns: int, *, condition: Revision | None = None) -> BlobInfo:
        await self._before_change()
        return await super().set_mtime(key, mtime_ns, condition=condition)

    async def put(
        self,
        key: str,
        chunks: Chunks,
        size: int | None,
        *,
        condition: Condition = None,
        mtime_ns: int | None = None,
        within: str = "",
    ) -> BlobInfo:
        info = await super().put(key, chunks, size, condition=condition, mtime_ns=mtime_ns, within=within)
        if self.after_link is not None and key.endswith("/dir.c9r"):
            hook, self.after_link = self.after_link, None
            await hook()
        return info

    async def rename(self, key: str, new_key: str, *, condition: Condition = None) -> BlobInfo:
        await self._before_change()
        info = await super().rename(key, new_key, condition=condition)
        if self.after_rename is not None:
            hook, self.after_rename = self.after_rename, None
            await hook()
        return info


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "vault").mkdir()
    return Disk(tmp_path / "vault")


@pytest.mark.parametrize("is_lost", [True, False], ids=["its answer is lost", "the disk is slow"])
async def test_a_file_is_put_into_our_folder_before_its_making_is_answered(
    disk: Disk, tmp_path: Path, is_lost: bool
) -> None:
    vault = await fresh_vault(disk)
    theirs = reopened(vault, FileStore(tmp_path / "vault"))
    async with a_drive(vault, tmp_path) as drive:

        async def fill() -> None:
            await put(theirs, (await tree(theirs))["/folder"].id, "file", b"theirs")
            if is_lost:
                raise Unavailable("the answer was lost")
            await trio.sleep(0.4)

        disk.after_link = fill
        await mkdir(drive, "/folder")
        await until(lambda: not drive.status().pending)
        await until(lambda: exists(drive, "/folder/file"))


async def until_shown(drive: Drive, wanted: dict[str, bytes]) -> None:
    with trio.fail_after(10):
        while await contents(drive) != wanted:  # noqa: ASYNC110 - no event tells of it
            await trio.sleep(0.02)


@pytest.mark.parametrize("new", [b"theirs, longer", b"the1r"])
@pytest.mark.parametrize(("change", "path"), [("rename", "/b"), ("touch", "/a")])
async def test_a_file_is_saved_there_in_the_middle_of_our_change(
    disk: Disk, tmp_path: Path, change: str, path: str, new: bytes
) -> None:
    vault = await fresh_vault(disk)
    theirs = reopened(vault, FileStore(tmp_path / "vault"))
    old = await put(theirs, ROOT, "a", b"their")
    async with a_drive(vault, tmp_path) as drive:
        await until(lambda: exists(drive, "/a"))

        async def save() -> None:
            await put(theirs, ROOT, "a", new, replaces=old.ref)

        disk.before_change = save
        assert await read(drive, "/a") == b"their"
        if change == "rename":
            await rename(drive, "/a", path)
        else:
            await drive.setattr(ino_at(drive, "/a"), SetAttributes(mtime_ns=10**18), door=DOOR)
        await until(lambda: not drive.status().pending)
        await until_shown(drive, {path: new})
        assert await vault_contents(theirs) == {path: new}


async def test_a_file_is_saved_there_before_our_rename_is_answered(disk: Disk, tmp_path: Path) -> None:
    """Of the same size: never bytes of both."""
    old, new = b"1" * 40 * BLOCK_SIZE, b"2" * 40 * BLOCK_SIZE
    vault = await fresh_vault(disk)
    theirs = reopened(vault, FileStore(tmp_path / "vault"))
    await put(theirs, ROOT, "a", old)
    async with a_drive(vault, tmp_path) as drive:
        await until(lambda: exists(drive, "/a"))

        async def save() -> None:
            there = (await tree(theirs))["/b"]
            await put(theirs, ROOT, "b", new, replaces=there.ref)
            raise Unavailable("the answer was lost")

        disk.after_rename = save
        handle = await drive.open(ino_at(drive, "/a"), write=False, door=DOOR)
        assert bytes(await drive.read(handle, 0, 10)) == b"1" * 10
        await drive.release(handle)
        await rename(drive, "/a", "/b")
        await until(lambda: not drive.status().pending)
        await until_shown(drive, {"/b": new})


async def test_an_open_file_has_the_node_that_was_confirmed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though an earlier upload waits for the disk longer than a later one."""
    sync, slow = Store.sync, [True]
    waiting, go_on = trio.Event(), trio.Event()

    async def slow_once(store: Store, *, patient: bool = False) -> None:
        if slow:
            slow.clear()
            waiting.set()
            await go_on.wait()
        await sync(store)

    async with a_drive(MemoryCloud(events=True), tmp_path) as drive:
        monkeypatch.setattr(Store, "sync", slow_once)
        await write(drive, "/file", b"1" * (3 * BLOCK_SIZE))
        await waiting.wait()
        await patch(drive, "/file", BLOCK_SIZE, b"2")
        handle = await drive.open(ino_at(drive, "/file"), write=False, door=DOOR)
        await until(lambda: not drive.status().pending)
        go_on.set()
        file = drive._handles.get(handle).file
        await until(lambda: file.stage is None)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert file.node == drive._store.node_of(file.ino)
        await drive.release(handle)
