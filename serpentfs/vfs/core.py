"""The one interface doors call.

Names are ``str``; a door that has bytes decodes them as UTF-8 with ``surrogateescape``, and a name that is not
UTF-8 is then refused here (InvalidName on creation, NotFound on look-up). Everything is addressed by inode or
handle; ``resolve`` turns a path into an inode. Methods that cannot block are plain ``def``; the others are async
on the trio loop that owns the drive. Threads of server libraries go through ``gateways.sync_vfs``.

What a returned call promises (the full list is SEMANTICS.md): ``write`` is kept in memory; ``mkdir``, ``symlink``,
``unlink``, ``rmdir``, ``rename``, ``setattr``, ``create``, ``flush``, ``release`` and ``publish`` survive
``kill -9``; ``fsync`` survives a power cut.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from serpentfs.cache.sealed import SealedSpan
from serpentfs.clouds.base import Capabilities
from serpentfs.model import Attributes, ContentId, DirEntry, HandleId, Ino, Quota, Span

if TYPE_CHECKING:
    from serpentfs.vfs.writes import SealedRoom


class RenameMode(enum.Enum):
    REPLACE = 0
    NO_REPLACE = 1
    EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """What to change; None leaves a value alone."""

    size: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold at the very moment a draft is published; else PreconditionFailed and nothing changes.

    ``content`` is the (content, generation) pair that the target must have, ``must_exist`` and ``must_not_exist``
    speak of the name.
    """

    content: tuple[ContentId, int] | None = None
    must_exist: bool = False
    must_not_exist: bool = False


@dataclass(frozen=True, slots=True)
class Invalidation:
    """Something changed that a door (the kernel behind it) may hold a copy of.

    ``entry`` names a look-up result (parent, name) that is stale; ``ino`` an inode whose attributes, and if
    ``data`` also whose content, are stale. ``origin`` is the door that made the change (None: the cloud): that
    door's own kernel already knows.
    """

    ino: Ino | None = None
    data: bool = False
    entry: tuple[Ino, str] | None = None
    origin: str | None = None


Listener: TypeAlias = Callable[[Invalidation], None]
Lag: TypeAlias = Callable[[], bool]
"""Whether a listener has yet to pass on something that it heard."""


def never_behind() -> bool:
    """The lag of a listener that passes everything on at once."""
    return False


@dataclass(frozen=True, slots=True)
class PendingChange:
    """One journal entry, for ``status``. ``path`` is the entry's present path in the drive."""

    seq: int
    operation: str
    path: str
    size: int
    sent: int
    """Bytes of the content that went out so far."""
    state: str
    """``waiting`` (settling or open), ``queued``, ``sending``, ``failed`` (will be retried), ``stuck``."""
    error: str | None
    next_try_in: float | None
    """Seconds until the next attempt, None when none is due."""
    tries: int = 0
    """Attempts that failed since the start."""


@dataclass(frozen=True, slots=True)
class Status:
    pending: tuple[PendingChange, ...]
    online: bool
    last_error: str | None
    cache_memory_bytes: int
    cache_disk_bytes: int
    cache_hits: int
    cache_misses: int
    cache_disk_usable: bool
    dirty_bytes: int
    """Written data that the journal does not hold yet."""
    conflicts: int
    """Conflict copies made since the start."""
    login_required: bool = False
    """The cloud takes nothing before the user has logged in again."""


class Vfs(Protocol):
    """See the module's docstring. ``door`` arguments name the calling door (``"mount"``, ``"webdav"``, ``"ftp"``),
    so that its own changes are not sent back to it as invalidations."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def read_only(self) -> bool: ...

    # look-ups: answered from memory and SQLite, never by the network
    def getattr(self, ino: Ino) -> Attributes:
        """NotFound for an inode that is gone (an open, unlinked file still answers, with nlink 0)."""
        ...

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        """NotFound, NotADirectory. ``.name`` of the answer is the name as stored (its case, its normal form)."""
        ...

    def resolve(self, path: str) -> Attributes:
        """The inode of an absolute path (``/a/b``; links are not followed). NotFound, NotADirectory; ``..`` and NUL
        are InvalidArgument."""
        ...

    def path_of(self, ino: Ino) -> str:
        """The absolute path of a linked entry, ``/`` for the root."""
        ...

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        """Children with an inode above ``after``, in order of inode: an order that no change of the folder disturbs,
        so that a listing shows every entry that was there all the time exactly once."""
        ...

    def readlink(self, ino: Ino) -> str: ...

    def statfs(self) -> Quota:
        """As last heard from the store (refreshed in the background)."""
        ...

    # namespace
    async def mkdir(self, parent: Ino, name: str, mode: int | None = None, *, door: str) -> Attributes: ...

    async def symlink(self, parent: Ino, name: str, target: str, *, door: str) -> Attributes: ...

    async def unlink(self, parent: Ino, name: str, *, door: str) -> None:
        """Remove a file or link. An open file lives on, nameless, until its last release. IsADirectory."""
        ...

    async def rmdir(self, parent: Ino, name: str, *, door: str) -> None: ...

    async def rename(
        self,
        parent: Ino,
        name: str,
        new_parent: Ino,
        new_name: str,
        mode: RenameMode = RenameMode.REPLACE,
        *,
        door: str,
    ) -> None: ...

    async def setattr(
        self, ino: Ino, changes: SetAttributes, handle: HandleId | None = None, *, door: str
    ) -> Attributes: ...

    # open files
    async def create(
        self, parent: Ino, name: str, mode: int | None = None, *, exclusive: bool, door: str
    ) -> tuple[Attributes, HandleId]:
        """Make an empty file and open it for reading and writing. An existing file is AlreadyExists if
        ``exclusive``, else opened as it is."""
        ...

    async def open(self, ino: Ino, *, write: bool, truncate: bool = False, door: str) -> HandleId: ...

    def expect(self, handle: HandleId, span: Span, *, sealed: bool) -> None:
        """All of ``span`` will be read, in order. A hint, for doors that are asked for whole files: what follows a read
        is fetched before a run of reads has shown that it is wanted. ``sealed``: what the disk cache has is taken by
        ``sealed``, and need not be loaded."""
        ...

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        """``read`` when all of it is in memory, else None. For doors where a task switch costs more than a read."""
        ...

    def content_of(self, handle: HandleId) -> ContentId | None:
        """What a handle reads, when that never changes and is in the cloud: None of a file that is being written, or
        waits to be uploaded."""
        ...

    def sealed(self, handle: HandleId, offset: int, size: int) -> SealedSpan | None:
        """The beginning of what ``read`` would give, for a thread that reads it from the disk cache by itself: for
        doors that send long files. None when ``read`` is the way; and ``read`` it is, too, from where the thread came
        to when it did not get to the end."""
        ...

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        """Up to ``size`` bytes, fewer only at the end of the file."""
        ...

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        """Write all of ``data``; ``offset`` None appends at the end as it is now (O_APPEND)."""
        ...

    async def flush(self, handle: HandleId) -> None: ...

    async def fsync(self, handle: HandleId) -> None: ...

    async def fsync_directory(self, ino: Ino) -> None:
        """Everything journalled so far survives a power cut."""
        ...

    async def release(self, handle: HandleId) -> None:
        """Close. What is still dirty is journalled first (mmap writes can follow the last flush)."""
        ...

    def attributes_of(self, handle: HandleId) -> Attributes: ...

    # drafts: whole-file replacement that is all or nothing (PUT, STOR)
    async def create_draft(self, *, door: str) -> HandleId:
        """A nameless file to write into. Seen by nobody until published."""
        ...

    def lend_room(self, draft: HandleId) -> SealedRoom | None:
        """For doors that receive long files: room for a thread to write what follows of a draft by itself. Nothing else
        is done with the draft before it is taken back. None when ``write`` is the way."""
        ...

    def take_back(self, draft: HandleId, room: SealedRoom) -> None:
        """The room that was lent, with what was written there."""
        ...

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
        """Give ``name`` to the draft in one step and close it. As with a rename over, an existing file goes away
        with its inode (whoever has it open reads its old content to the end) while its mode, owner and extended
        attributes pass on. The second value tells whether the name is new. IsADirectory when the name is a
        folder's. On an error the draft stays open."""
        ...

    async def discard(self, draft: HandleId) -> None: ...

    async def keep_draft(self, draft: HandleId) -> Ino:
        """Close a draft but keep its bytes (sealed, through restarts) for ``reopen_draft``."""
        ...

    async def reopen_draft(self, ino: Ino, *, door: str) -> HandleId:
        """NotFound when it was dropped meanwhile (kept ones are for at least a week)."""
        ...

    async def copy_file(
        self, ino: Ino, parent: Ino, name: str, *, precondition: Precondition = Precondition(), door: str
    ) -> tuple[Attributes, bool]:
        """Copy a file's (or link's) present content to a name, as ``publish`` would."""
        ...

    # extended attributes (local, except the read-only facts ``user.serpentfs.*``)
    def getxattr(self, ino: Ino, name: str) -> bytes: ...

    def listxattr(self, ino: Ino) -> list[str]: ...

    async def setxattr(
        self, ino: Ino, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None: ...

    async def removexattr(self, ino: Ino, name: str) -> None: ...

    # small durable records of a door (locks, partial uploads), sealed in state.db
    def load_records(self, door: str) -> dict[str, bytes]: ...

    def save_record(self, door: str, key: str, value: bytes | None) -> None:
        """Keep (None: drop) a record; survives ``kill -9`` when it returns."""
        ...

    # the whole
    def state_mark(self) -> int | None:
        """A number that is the same as long as look-ups, listings, attributes, links and extended attributes are;
        sometimes it changes without them. None while they change unmarked, as during writes."""
        ...

    def subscribe(
        self, listener: Listener, *, door: str | None = None, is_behind: Lag = never_behind
    ) -> Callable[[], None]:
        """``listener`` is called on the loop, must not block and must not call back; the answer unsubscribes. While it
        ``is_behind`` with passing on what it heard, changes by others than its ``door`` wait for it, a moment at most,
        before they return."""
        ...

    def status(self) -> Status: ...

    async def wait_until_uploaded(self) -> None:
        """Until the cloud has confirmed all that was journalled when this was called; settle delays are skipped."""
        ...
