"""When the kernel may keep a folder's listing, and what it is told then."""

from __future__ import annotations

from pathlib import Path

import pytest

from serpentfs.gateways.fuse import MountOptions
from serpentfs.gateways.fuse.notifier import Notifier
from serpentfs.gateways.fuse.operations import Operations
from serpentfs.gateways.fuse.requests import Node
from serpentfs.model import ROOT_INO, Ino
from tests.fakes.memory_vfs import MemoryVfs

pytestmark = pytest.mark.trio

OTHER = "webdav"


class Told(Notifier):
    """Notes what the kernel would be told of folders."""

    def __init__(self) -> None:
        super().__init__(self)
        self.dropped: list[int] = []

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        raise AssertionError("its thread was never started")

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        raise AssertionError("its thread was never started")

    def inode_changed(self, ino: int, *, data: bool) -> None:
        if data:
            self.dropped.append(ino)


class Kernel:
    """What a program does in a folder, as the kernel asks it."""

    def __init__(self) -> None:
        self.vfs = MemoryVfs()
        self.told = Told()
        self.operations = Operations(self.vfs, MountOptions(Path("/mnt"), name="x"), self.told, owner=(0, 0))
        self.vfs.subscribe(self.operations.on_invalidation)

    async def folder(self, name: str) -> Ino:
        return (await self.vfs.mkdir(ROOT_INO, name, door=OTHER)).ino

    async def list(self, ino: Ino) -> bool:
        """Whether its listing may be kept."""
        opened = await self.operations.opendir(ino)
        await self.read(opened.handle)
        await self.operations.releasedir(opened.handle)
        return opened.may_be_kept

    async def read(self, handle: int) -> None:
        def add(name: bytes, node: Node, cookie: int) -> bool:
            return True

        await self.operations.readdir(handle, 0, add)


async def test_one_at_a_time_makes_or_uses_it() -> None:
    kernel = Kernel()
    folder = await kernel.folder("folder")
    first = await kernel.operations.opendir(folder)
    assert first.may_be_kept
    assert not await kernel.list(folder)
    await kernel.operations.releasedir(first.handle)
    assert await kernel.list(folder)


async def test_after_a_change_by_others_only_when_the_kernel_knows() -> None:
    kernel = Kernel()
    folder = await kernel.folder("folder")
    assert await kernel.list(folder)
    await kernel.vfs.mkdir(folder, "new", door=OTHER)
    assert not await kernel.list(folder)
    await kernel.operations.getattr(folder)
    assert await kernel.list(folder)
    assert kernel.told.dropped == []  # the time of change tells


async def test_a_change_that_its_time_does_not_tell() -> None:
    kernel = Kernel()
    folder, other = await kernel.folder("folder"), await kernel.folder("other")
    assert await kernel.list(folder)
    await kernel.vfs.rename(ROOT_INO, "folder", other, "moved", door=OTHER)  # ".." is another one
    assert kernel.told.dropped == [folder]


async def test_a_folder_that_was_moved_through_the_mount() -> None:
    kernel = Kernel()
    folder, other = await kernel.folder("folder"), await kernel.folder("other")
    assert await kernel.list(folder)
    await kernel.operations.rename(ROOT_INO, b"folder", ROOT_INO, b"renamed", 0)
    assert kernel.told.dropped == []
    await kernel.operations.rename(ROOT_INO, b"renamed", other, b"moved", 0)
    assert kernel.told.dropped == [folder]


async def test_nothing_is_remembered_of_what_the_kernel_forgot() -> None:
    kernel = Kernel()
    folder = await kernel.folder("folder")
    assert await kernel.list(folder)
    await kernel.vfs.mkdir(folder, "new", door=OTHER)
    kernel.operations.forget([folder])
    assert await kernel.list(folder)
