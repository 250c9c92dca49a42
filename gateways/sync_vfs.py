"""The core as blocking calls, for doors whose server library runs its own threads.

Owns how a thread's call reaches the loop and comes back, and file-like readers that cross seldom
(a crossing costs about 50 µs, as much as reading 128 KiB). Knows nothing of HTTP or FTP. Work on the loop is
cut into short slices, because every other door waits while one of them runs.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Concatenate, Literal, ParamSpec, Self, TypeVar

import trio

from serpentfs.bridge import LoopPortal, Pace
from serpentfs.cache.sealed import SEALED_SIZE, SealedSpan
from serpentfs.clouds.base import Capabilities
from serpentfs.errors import BadHandle, InvalidArgument, Unavailable
from serpentfs.gateways.sending import PagedFile, Pages
from serpentfs.model import Attributes, DirEntry, HandleId, Ino, Quota, Span
from serpentfs.vfs.core import Precondition, RenameMode, SetAttributes, Status, Vfs
from serpentfs.vfs.writes import SealedRoom

T = TypeVar("T")
P = ParamSpec("P")

CROSSING_SIZE = 1024 * 1024
"""Bytes that one crossing moves when a stream is read or written from end to end."""

LISTING_SLICE = 16
"""Entries listed before the loop serves others again: about 0.2 ms of decrypting names."""


class SyncVfs:
    """``Vfs`` for threads: the same methods, blocking, without ``door``. Made on the loop, used elsewhere.

    Beside what the core raises, a call raises Unavailable once ``close`` was called or the loop has ended;
    a call that waits at that moment is cancelled and raises it too, so that no thread outlives its door. Only
    the calls that end a handle's life (``release``, ``discard``, ``keep_draft``) still work after ``close``.
    """

    def __init__(
        self, vfs: Vfs, portal: LoopPortal, door: Literal["webdav", "ftp"], pages: Pages | None = None
    ) -> None:
        self._vfs = vfs
        self._pages = pages
        self._portal = portal
        self._door = door
        # Both belong to the loop: read and changed only there.
        self._closed = False
        self._waiting: set[trio.CancelScope] = set()
        self.capabilities: Capabilities = vfs.capabilities

    def close(self) -> None:
        """Refuse further calls and cancel those under way. On the loop."""
        self._closed = True
        for scope in self._waiting:
            scope.cancel()

    # crossings

    def ask(self, function: Callable[Concatenate[Vfs, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain ``function(core, …)`` on the loop: several quick questions in one crossing, answered at
        one moment. It must be short."""

        def on_loop() -> T:
            if self._closed:
                raise _closing()
            return function(self._vfs, *args, **kwargs)

        try:
            return self._portal.call(on_loop)
        except trio.RunFinishedError as error:
            raise _closing() from error

    def perform(
        self, function: Callable[Concatenate[Vfs, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an async ``function(core, …)`` on the loop: several steps in one crossing. It must checkpoint
        at least every millisecond."""

        async def on_loop() -> T:
            if self._closed:
                raise _closing()
            with trio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    return await function(self._vfs, *args, **kwargs)
                finally:
                    self._waiting.discard(scope)
            raise _closing()

        try:
            return self._portal.run(on_loop)
        except (trio.RunFinishedError, trio.Cancelled) as error:
            raise _closing() from error

    def _end(self, function: Callable[[Vfs], Awaitable[T]]) -> T:
        """``perform`` that ``close`` neither refuses nor cancels: short local work that frees a handle."""
        try:
            return self._portal.run(function, self._vfs)
        except (trio.RunFinishedError, trio.Cancelled) as error:
            raise _closing() from error

    # look-ups

    @property
    def read_only(self) -> bool:
        return self.ask(lambda core: core.read_only)

    def getattr(self, ino: Ino) -> Attributes:
        return self.ask(lambda core: core.getattr(ino))

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        return self.ask(lambda core: core.lookup(parent, name))

    def resolve(self, path: str) -> Attributes:
        return self.ask(lambda core: core.resolve(path))

    def path_of(self, ino: Ino) -> str:
        return self.ask(lambda core: core.path_of(ino))

    def readdir(self, ino: Ino, after: int = 0, limit: int = LISTING_SLICE) -> list[DirEntry]:
        return self.ask(lambda core: core.readdir(ino, after, limit))

    def list_all(self, ino: Ino) -> list[DirEntry]:
        """Every child, in order of inode, in one crossing; the loop serves others between slices."""
        return self.perform(_list_all, ino)

    def readlink(self, ino: Ino) -> str:
        return self.ask(lambda core: core.readlink(ino))

    def statfs(self) -> Quota:
        return self.ask(lambda core: core.statfs())

    # namespace

    def mkdir(self, parent: Ino, name: str, mode: int | None = None) -> Attributes:
        return self.perform(lambda core: core.mkdir(parent, name, mode, door=self._door))

    def symlink(self, parent: Ino, name: str, target: str) -> Attributes:
        return self.perform(lambda core: core.symlink(parent, name, target, door=self._door))

    def unlink(self, parent: Ino, name: str) -> None:
        self.perform(lambda core: core.unlink(parent, name, door=self._door))

    def rmdir(self, parent: Ino, name: str) -> None:
        self.perform(lambda core: core.rmdir(parent, name, door=self._door))

    def rename(
        self, parent: Ino, name: str, new_parent: Ino, new_name: str, mode: RenameMode = RenameMode.REPLACE
    ) -> None:
        self.perform(lambda core: core.rename(parent, name, new_parent, new_name, mode, door=self._door))

    def setattr(self, ino: Ino, changes: SetAttributes, handle: HandleId | None = None) -> Attributes:
        return self.perform(lambda core: core.setattr(ino, changes, handle, door=self._door))

    # open files

    def create(
        self, parent: Ino, name: str, mode: int | None = None, *, exclusive: bool
    ) -> tuple[Attributes, HandleId]:
        return self.perform(
            lambda core: core.create(parent, name, mode, exclusive=exclusive, door=self._door)
        )

    def open(self, ino: Ino, *, write: bool, truncate: bool = False) -> HandleId:
        return self.perform(lambda core: core.open(ino, write=write, truncate=truncate, door=self._door))

    def read(self, handle: HandleId, offset: int, size: int) -> bytes:
        """A copy, made on the loop: what the core hands out may be a view of memory that it uses again."""
        return self.perform(_read, handle, offset, size)

    def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        return self.perform(lambda core: core.write(handle, offset, data))

    def flush(self, handle: HandleId) -> None:
        self.perform(lambda core: core.flush(handle))

    def fsync(self, handle: HandleId) -> None:
        self.perform(lambda core: core.fsync(handle))

    def fsync_directory(self, ino: Ino) -> None:
        self.perform(lambda core: core.fsync_directory(ino))

    def release(self, handle: HandleId) -> None:
        self._end(lambda core: core.release(handle))

    def attributes_of(self, handle: HandleId) -> Attributes:
        return self.ask(lambda core: core.attributes_of(handle))

    def open_reader(self, ino: Ino, start: int = 0, stop: int | None = None) -> Reader:
        """A reader of bytes ``[start, stop)`` (None: to the end), opened and described in one crossing, which is
        expected to be read to its end. IsADirectory, NotFound."""

        async def opened(core: Vfs) -> tuple[HandleId, Attributes]:
            handle = await core.open(ino, write=False, door=self._door)
            attributes = core.attributes_of(handle)
            core.expect(handle, Span(start, max(start, attributes.size if stop is None else stop)), sealed=True)
            return handle, attributes

        handle, attributes = self.perform(opened)
        return Reader(self, handle, attributes, start, stop)

    def open_paged(self, handle: HandleId) -> PagedFile | None:
        """To be closed by ``release_paged``. None where there is no such thing."""
        pages = self._pages
        if pages is None:
            return None
        return self.perform(lambda _: pages.file(handle).__aenter__())

    def send_paged(self, paged: PagedFile, descriptor: int, span: Span) -> int:
        """See ``PagedFile.send``."""
        return self.perform(lambda _: paged.send(descriptor, span))

    def release_paged(self, paged: PagedFile, handle: HandleId) -> None:
        """``release`` of what was opened with it, too."""

        async def released(core: Vfs) -> None:
            try:
                await paged.__aexit__(None, None, None)
            finally:
                await core.release(handle)

        self._end(released)

    # drafts

    def create_draft(self) -> HandleId:
        return self.perform(lambda core: core.create_draft(door=self._door))

    def lend_room(self, draft: HandleId) -> SealedRoom | None:
        return self.ask(lambda core: core.lend_room(draft))

    def take_back(self, draft: HandleId, room: SealedRoom) -> None:
        async def taken_back(core: Vfs) -> None:
            await trio.lowlevel.checkpoint()
            core.take_back(draft, room)

        self._end(taken_back)

    def publish(
        self,
        draft: HandleId,
        parent: Ino,
        name: str,
        *,
        precondition: Precondition = Precondition(),
        mtime_ns: int | None = None,
    ) -> tuple[Attributes, bool]:
        return self.perform(
            lambda core: core.publish(
                draft, parent, name, precondition=precondition, mtime_ns=mtime_ns, door=self._door
            )
        )

    def discard(self, draft: HandleId) -> None:
        self._end(lambda core: core.discard(draft))

    def keep_draft(self, draft: HandleId) -> Ino:
        return self._end(lambda core: core.keep_draft(draft))

    def reopen_draft(self, ino: Ino) -> HandleId:
        return self.perform(lambda core: core.reopen_draft(ino, door=self._door))

    def copy_file(
        self, ino: Ino, parent: Ino, name: str, *, precondition: Precondition = Precondition()
    ) -> tuple[Attributes, bool]:
        return self.perform(
            lambda core: core.copy_file(ino, parent, name, precondition=precondition, door=self._door)
        )

    # extended attributes and records

    def getxattr(self, ino: Ino, name: str) -> bytes:
        return self.ask(lambda core: core.getxattr(ino, name))

    def listxattr(self, ino: Ino) -> list[str]:
        return self.ask(lambda core: core.listxattr(ino))

    def setxattr(
        self, ino: Ino, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        self.perform(lambda core: core.setxattr(ino, name, value, create=create, replace=replace))

    def removexattr(self, ino: Ino, name: str) -> None:
        self.perform(lambda core: core.removexattr(ino, name))

    def load_records(self) -> dict[str, bytes]:
        return self.ask(lambda core: core.load_records(self._door))

    def save_record(self, key: str, value: bytes | None) -> None:
        self.ask(lambda core: core.save_record(self._door, key, value))

    # the whole

    def state_mark(self) -> int | None:
        return self.ask(lambda core: core.state_mark())

    def status(self) -> Status:
        return self.ask(lambda core: core.status())

    def wait_until_uploaded(self) -> None:
        self.perform(lambda core: core.wait_until_uploaded())


def _closing() -> Unavailable:
    return Unavailable("the door is closing")


async def _list_all(core: Vfs, ino: Ino) -> list[DirEntry]:
    entries: list[DirEntry] = []
    after = 0
    pace = Pace()
    while True:
        some = core.readdir(ino, after, LISTING_SLICE)
        entries += some
        if len(some) < LISTING_SLICE:
            return entries
        after = some[-1].attributes.ino
        await pace.breathe()


async def _read(core: Vfs, handle: HandleId, offset: int, size: int) -> bytes:
    data = core.read_nowait(handle, offset, size)
    if data is None:
        data = await core.read(handle, offset, size)
    return bytes(data)


async def _begin_read(
    core: Vfs, handle: HandleId, offset: int, size: int, most_sealed: int, paged: PagedFile | None
) -> SealedSpan | bytes:
    sealed = core.sealed(handle, offset, most_sealed)
    if sealed is not None:
        return sealed
    data = await _read(core, handle, offset, size)
    if paged is not None:
        await paged.keep(offset, data)
    return data


class Reader:
    """A seekable stream of an open file, for one thread at a time; ``close`` releases the file.

    ``attributes`` are those of the moment of opening. What the disk cache holds is read in that thread.
    """

    def __init__(
        self, vfs: SyncVfs, handle: HandleId, attributes: Attributes, start: int = 0, stop: int | None = None
    ) -> None:
        self._vfs = vfs
        self._handle: HandleId | None = handle
        self._stop = stop
        self._buffer = b""
        self._buffer_start = start
        self._position = start
        self._pieces: Generator[list[bytes | memoryview], None, None] | None = None
        self._pieces_position = start
        self._paged: PagedFile | None = None
        self._is_paged = True
        """It may be: nobody has said otherwise."""
        self.attributes = attributes

    @property
    def closed(self) -> bool:
        return self._handle is None

    def send(self, descriptor: int) -> int:
        """Have the kernel send some of what comes next to a socket, as ``PagedFile.send``: how many bytes. 0 when
        ``read`` is the way. BadHandle after ``close``."""
        handle = self._opened()
        if self._paged is None and self._is_paged:
            self._paged = self._vfs.open_paged(handle)
            self._is_paged = self._paged is not None
        stop = self.attributes.size if self._stop is None else self._stop
        rest = Span(self._position, max(self._position, stop))
        if self._paged is None or self._is_read() or not self._paged.is_for_kernel(rest):
            return 0
        sent = self._vfs.send_paged(self._paged, descriptor, rest)
        self._position += sent
        return sent

    def _is_read(self) -> bool:
        """What comes next is here, or being read from the disk."""
        reads_on = self._pieces is not None and self._pieces_position == self._position
        return reads_on or self._is_buffered()

    def _is_buffered(self) -> bool:
        return 0 <= self._position - self._buffer_start < len(self._buffer)

    def _opened(self) -> HandleId:
        if self._handle is None:
            raise BadHandle("the file is closed")
        return self._handle

    def read(self, size: int) -> bytes:
        """At least one and at most ``size`` bytes, none only at the end. BadHandle after ``close``."""
        handle = self._opened()
        if size <= 0:
            return b""
        if not self._is_buffered():
            self._buffer = self._next_piece(handle, self._until_stop(max(size, CROSSING_SIZE)))
            self._buffer_start = self._position
        offset = self._position - self._buffer_start
        part = self._buffer[offset : offset + size]
        self._position += len(part)
        return part

    def _until_stop(self, size: int) -> int:
        return size if self._stop is None else min(size, max(0, self._stop - self._position))

    def _next_piece(self, handle: HandleId, wanted: int) -> bytes:
        piece = self._next_from_disk()
        if piece or not wanted:
            return piece
        most_sealed = self._until_stop(SEALED_SIZE)
        begun = self._vfs.perform(_begin_read, handle, self._position, wanted, most_sealed, self._paged)
        if isinstance(begun, bytes):
            return begun
        self._pieces, self._pieces_position = begun.pieces(), self._position
        piece = self._next_from_disk()
        # None from the disk after all: a read through the cache finds out why.
        return piece or self._vfs.read(handle, self._position, wanted)

    def _next_from_disk(self) -> bytes:
        if self._pieces is not None and self._pieces_position == self._position:
            piece = b"".join(next(self._pieces, ()))
            self._pieces_position += len(piece)
            if piece:
                return piece
        self._drop_pieces()
        return b""

    def _drop_pieces(self) -> None:
        if self._pieces is not None:
            self._pieces.close()
            self._pieces = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the new position is answered. InvalidArgument before the start, BadHandle after ``close``."""
        handle = self._opened()
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += self._vfs.attributes_of(handle).size
        if offset < 0:
            raise InvalidArgument("a position before the start of the file")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle, self._buffer = self._handle, None, b""
            self._drop_pieces()
            if self._paged is None:
                self._vfs.release(handle)
            else:
                self._vfs.release_paged(self._paged, handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
