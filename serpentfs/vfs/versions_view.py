"""A drive that also shows old versions: every folder has a hidden, read-only ``.versions`` (see ``old_versions``).

Stands between a drive and its doors, and is for them the same ``Vfs``: what lies below ``.versions`` is answered here,
the rest by the drive. Contents of versions are read through the drive's block cache, like those of files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import trio

from serpentfs.cache.layers import Reader
from serpentfs.cache.sealed import SealedSpan
from serpentfs.clouds.base import Capabilities
from serpentfs.errors import InvalidArgument, IsADirectory, NotADirectory, NotFound, ReadOnly
from serpentfs.model import ROOT_INO, Attributes, ContentId, DirEntry, HandleId, Ino, Kind, Quota, Span
from serpentfs.vfs.core import (
    Invalidation,
    Lag,
    Listener,
    Precondition,
    RenameMode,
    SetAttributes,
    Status,
    never_behind,
)
from serpentfs.vfs.drive import Drive, copy_content
from serpentfs.vfs.old_versions import NAME, OldVersions, VersionKeeper, folder_of_versions, is_synthetic
from serpentfs.vfs.writes import SealedRoom

_FIRST_HANDLE = 1 << 62
"""Handles of the drive are counted from 1."""


@dataclass(frozen=True, slots=True)
class _OpenVersion:
    attributes: Attributes
    reader: Reader


def _refuse(*inos: Ino) -> None:
    """ReadOnly for what is not the drive's."""
    if any(map(is_synthetic, inos)):
        raise ReadOnly("old versions are read-only")


def _refuse_name(parent: Ino, name: str) -> None:
    _refuse(parent)
    if name == NAME:
        raise ReadOnly(f"the name {NAME} stands for old versions")


class VersionsView:
    """See ``vfs.core.Vfs``. An entry of the drive that is really named ``.versions`` is not seen through this."""

    def __init__(self, drive: Drive, keeper: VersionKeeper) -> None:
        self._drive = drive
        self._old = OldVersions(drive, keeper)
        self._open: dict[HandleId, _OpenVersion] = {}
        self._handles = itertools.count(_FIRST_HANDLE)

    @property
    def capabilities(self) -> Capabilities:
        return self._drive.capabilities

    @property
    def read_only(self) -> bool:
        return self._drive.read_only

    # look-ups

    def getattr(self, ino: Ino) -> Attributes:
        return self._old.getattr(ino) if is_synthetic(ino) else self._drive.getattr(ino)

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        if is_synthetic(parent):
            return self._old.lookup(parent, name)
        if name != NAME:
            return self._drive.lookup(parent, name)
        if self._drive.getattr(parent).kind is not Kind.DIRECTORY:
            raise NotADirectory("not a folder")
        return DirEntry(NAME, self._old.getattr(folder_of_versions(parent)))

    def resolve(self, path: str) -> Attributes:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if NAME not in parts:
            return self._drive.resolve(path)
        if "\0" in path or ".." in parts:
            raise InvalidArgument("a path cannot hold NUL, and '..' is not followed")
        ino = ROOT_INO
        for part in parts:
            ino = self.lookup(ino, part).attributes.ino
        return self.getattr(ino)

    def path_of(self, ino: Ino) -> str:
        return self._old.path_of(ino) if is_synthetic(ino) else self._drive.path_of(ino)

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        if is_synthetic(ino):
            return self._old.readdir(ino, after, limit)
        # One more than asked for: a page that lacks the hidden entry must not look like the last one.
        page = self._drive.readdir(ino, after, limit + 1)
        return [entry for entry in page if entry.name != NAME][:limit]

    def readlink(self, ino: Ino) -> str:
        if is_synthetic(ino):
            raise InvalidArgument("not a link")
        return self._drive.readlink(ino)

    def statfs(self) -> Quota:
        return self._drive.statfs()

    # namespace

    async def mkdir(self, parent: Ino, name: str, mode: int | None = None, *, door: str) -> Attributes:
        _refuse_name(parent, name)
        return await self._drive.mkdir(parent, name, mode, door=door)

    async def symlink(self, parent: Ino, name: str, target: str, *, door: str) -> Attributes:
        _refuse_name(parent, name)
        return await self._drive.symlink(parent, name, target, door=door)

    async def unlink(self, parent: Ino, name: str, *, door: str) -> None:
        _refuse_name(parent, name)
        await self._drive.unlink(parent, name, door=door)

    async def rmdir(self, parent: Ino, name: str, *, door: str) -> None:
        _refuse_name(parent, name)
        await self._drive.rmdir(parent, name, door=door)

    async def rename(
        self,
        parent: Ino,
        name: str,
        new_parent: Ino,
        new_name: str,
        mode: RenameMode = RenameMode.REPLACE,
        *,
        door: str,
    ) -> None:
        _refuse_name(parent, name)
        _refuse_name(new_parent, new_name)
        await self._drive.rename(parent, name, new_parent, new_name, mode, door=door)

    async def setattr(
        self, ino: Ino, changes: SetAttributes, handle: HandleId | None = None, *, door: str
    ) -> Attributes:
        _refuse(ino)
        return await self._drive.setattr(ino, changes, handle, door=door)

    # open files

    async def create(
        self, parent: Ino, name: str, mode: int | None = None, *, exclusive: bool, door: str
    ) -> tuple[Attributes, HandleId]:
        _refuse_name(parent, name)
        return await self._drive.create(parent, name, mode, exclusive=exclusive, door=door)

    async def open(self, ino: Ino, *, write: bool, truncate: bool = False, door: str) -> HandleId:
        if not is_synthetic(ino):
            return await self._drive.open(ino, write=write, truncate=truncate, door=door)
        if write:
            _refuse(ino)
        attributes = self._old.getattr(ino)
        if attributes.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder")
        await trio.lowlevel.checkpoint()
        handle = HandleId(next(self._handles))
        self._open[handle] = _OpenVersion(attributes, self._drive.reader_of(*self._old.content_of(ino)))
        return handle

    def expect(self, handle: HandleId, span: Span, *, sealed: bool) -> None:
        version = self._open.get(handle)
        if version is None:
            self._drive.expect(handle, span, sealed=sealed)
        else:
            version.reader.expect(span, sealed=sealed)

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        version = self._open.get(handle)
        if version is None:
            return self._drive.read_nowait(handle, offset, size)
        return version.reader.read_nowait(Span(offset, offset + size))

    def content_of(self, handle: HandleId) -> ContentId | None:
        return None if handle in self._open else self._drive.content_of(handle)

    def sealed(self, handle: HandleId, offset: int, size: int) -> SealedSpan | None:
        version = self._open.get(handle)
        if version is None:
            return self._drive.sealed(handle, offset, size)
        return version.reader.sealed(Span(offset, offset + size))

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        version = self._open.get(handle)
        if version is None:
            return await self._drive.read(handle, offset, size)
        return await version.reader.read(Span(offset, offset + size))

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        if handle in self._open:
            raise ReadOnly("old versions are read-only")
        return await self._drive.write(handle, offset, data)

    async def flush(self, handle: HandleId) -> None:
        if handle in self._open:
            await trio.lowlevel.checkpoint()
            return
        await self._drive.flush(handle)

    async def fsync(self, handle: HandleId) -> None:
        if handle in self._open:
            await trio.lowlevel.checkpoint()
            return
        await self._drive.fsync(handle)

    async def fsync_directory(self, ino: Ino) -> None:
        if is_synthetic(ino):
            await trio.lowlevel.checkpoint()
            return
        await self._drive.fsync_directory(ino)

    async def release(self, handle: HandleId) -> None:
        if handle not in self._open:
            await self._drive.release(handle)
            return
        await trio.lowlevel.checkpoint()
        self._open.pop(handle).reader.close()

    def attributes_of(self, handle: HandleId) -> Attributes:
        version = self._open.get(handle)
        return self._drive.attributes_of(handle) if version is None else version.attributes

    # drafts

    async def create_draft(self, *, door: str) -> HandleId:
        return await self._drive.create_draft(door=door)

    def lend_room(self, draft: HandleId) -> SealedRoom | None:
        return self._drive.lend_room(draft)

    def take_back(self, draft: HandleId, room: SealedRoom) -> None:
        self._drive.take_back(draft, room)

    async def publish(
        self,
        draft: HandleId,
        parent: Ino,
        name: str,
        *,
        precondition: Precondition = Precondition(),
        mtime_ns: int | None = None,
        door: str,
    ) -> tuple[Attributes, bool]:
        _refuse_name(parent, name)
        return await self._drive.publish(
            draft, parent, name, precondition=precondition, mtime_ns=mtime_ns, door=door
        )

    async def discard(self, draft: HandleId) -> None:
        await self._drive.discard(draft)

    async def keep_draft(self, draft: HandleId) -> Ino:
        return await self._drive.keep_draft(draft)

    async def reopen_draft(self, ino: Ino, *, door: str) -> HandleId:
        return await self._drive.reopen_draft(ino, door=door)

    async def copy_file(
        self, ino: Ino, parent: Ino, name: str, *, precondition: Precondition = Precondition(), door: str
    ) -> tuple[Attributes, bool]:
        _refuse_name(parent, name)
        if is_synthetic(ino):
            return await copy_content(self, ino, parent, name, precondition=precondition, door=door)
        return await self._drive.copy_file(ino, parent, name, precondition=precondition, door=door)

    # extended attributes

    def getxattr(self, ino: Ino, name: str) -> bytes:
        if is_synthetic(ino):
            raise NotFound("no such attribute")
        return self._drive.getxattr(ino, name)

    def listxattr(self, ino: Ino) -> list[str]:
        return [] if is_synthetic(ino) else self._drive.listxattr(ino)

    async def setxattr(self, ino: Ino, name: str, value: bytes, *, create: bool = False, replace: bool = False) -> None:
        _refuse(ino)
        await self._drive.setxattr(ino, name, value, create=create, replace=replace)

    async def removexattr(self, ino: Ino, name: str) -> None:
        _refuse(ino)
        await self._drive.removexattr(ino, name)

    # the rest

    def load_records(self, door: str) -> dict[str, bytes]:
        return self._drive.load_records(door)

    def save_record(self, door: str, key: str, value: bytes | None) -> None:
        self._drive.save_record(door, key, value)

    def state_mark(self) -> int | None:
        return None  # nobody counts the changes of old versions

    def subscribe(
        self, listener: Listener, *, door: str | None = None, is_behind: Lag = never_behind
    ) -> Callable[[], None]:
        def listening(invalidation: Invalidation) -> None:
            listener(invalidation)
            if invalidation.entry is not None:
                parent, name = invalidation.entry
                if self._old.is_shown(parent):
                    # Whoever made the change does not know that it shows there, too.
                    listener(Invalidation(entry=(folder_of_versions(parent), name)))

        return self._drive.subscribe(listening, door=door, is_behind=is_behind)

    def status(self) -> Status:
        return self._drive.status()

    async def wait_until_uploaded(self) -> None:
        await self._drive.wait_until_uploaded()
