"""What is open: one ``OpenFile`` per inode, shared by its handles, and the handles themselves.

All handles of an inode see one content, as on a local disk: what one writes the others read at once. A content
that replaces the file as a whole (a publish, a rename over, a change in the cloud) comes as another inode, so an
open file never turns into another one under its reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from serpentfs.cache.layers import Reader
from serpentfs.errors import BadHandle
from serpentfs.model import NO_CONTENT, Attributes, ContentId, HandleId, Ino
from serpentfs.tree.store import EntryRow, NodeRow
from serpentfs.vfs.writes import Stage


class FileLock:
    """A ``trio.Lock`` that costs no turn of the loop while it is free: a small file is locked twice, and a turn takes
    as long as the rest of its write."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = trio.Lock()

    def locked(self) -> bool:
        return self._lock.locked()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *error: object) -> None:
        self._lock.release()


@dataclass(eq=False)
class OpenFile:
    """An inode that somebody has open. ``row`` is the entry as it is with everything written so far, committed or
    not; ``stage`` is set while the content is not (or no longer only) in the cloud; ``node`` is what the cloud held of
    it when that was last seen: its content is the one shown, or shows through the stage."""

    row: EntryRow
    stage: Stage | None = None
    node: NodeRow | None = None
    draft: bool = False
    dirty_since: float | None = None
    """trio time of the first write that no commit covers."""
    written_by: set[str] = field(default_factory=set)
    """Doors that wrote since the last commit."""
    handles: set[HandleId] = field(default_factory=set)
    writers: int = 0
    lock: FileLock = field(default_factory=FileLock)
    """Held by whatever changes the stage: writes, truncation, spill, commit."""

    @property
    def ino(self) -> Ino:
        return self.row.ino

    @property
    def content(self) -> ContentId:
        return self.row.content

    @property
    def size(self) -> int:
        return self.row.size

    def attributes(self) -> Attributes:
        return self.row.attributes()


@dataclass(eq=False)
class Handle:
    """One open file of one door."""

    id: HandleId
    file: OpenFile
    door: str
    writable: bool
    reader: Reader | None = None
    reader_content: ContentId = NO_CONTENT
    """The content ``reader`` reads."""

    def close_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class HandleTable:
    """Numbers for handles, and the open files behind them."""

    def __init__(self) -> None:
        self._handles: dict[HandleId, Handle] = {}
        self._files: dict[Ino, OpenFile] = {}
        self._last = 0

    def get(self, handle: HandleId) -> Handle:
        """BadHandle for a number that is not open."""
        try:
            return self._handles[handle]
        except KeyError:
            raise BadHandle(f"handle {handle} is not open") from None

    def is_open(self, handle: HandleId) -> bool:
        return handle in self._handles

    def file(self, ino: Ino) -> OpenFile | None:
        return self._files.get(ino)

    def files(self) -> list[OpenFile]:
        return list(self._files.values())

    def handles(self) -> list[Handle]:
        return list(self._handles.values())

    def add(self, file: OpenFile, *, door: str, writable: bool) -> Handle:
        self._last += 1
        handle = Handle(HandleId(self._last), file, door, writable)
        self._handles[handle.id] = handle
        self._files[file.ino] = file
        file.handles.add(handle.id)
        file.writers += writable
        return handle

    def remove(self, handle: Handle) -> None:
        """Forget a handle, and its file with the last one."""
        handle.close_reader()
        del self._handles[handle.id]
        handle.file.handles.discard(handle.id)
        handle.file.writers -= handle.writable
        if not handle.file.handles:
            self._files.pop(handle.file.ino, None)
