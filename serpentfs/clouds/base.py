"""The Cloud protocol: what a driver must answer, and what it may rely on.

All methods are async on trio and may be called concurrently. They raise only errors of ``serpentfs.errors``:
``Unavailable`` and ``RateLimited`` where a retry may help, ``Conflict`` where the node is not as the caller saw
it, ``IntegrityError`` for what does not authenticate. A cancelled call leaves either the old state or the new
state in the cloud, never a half.

Changes that create or move something take ``retry``: True tells that an earlier attempt of this very change may
have reached the cloud without its answer reaching us (a broken connection, a crash). A driver then treats "it is
already so" as success. It must find that out by identity (the same folder id, the same ``token``), not by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import trio

from serpentfs.model import NodeId, NodeInfo, NodeRef, Quota, Revision, Span


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a cloud can do, as data."""

    symlinks: bool = True
    stable_file_ids: bool = False
    """A file keeps its id when it is renamed or moved."""
    set_mtime: bool = True
    """Times of files can be set without uploading them again."""
    server_copy: bool = False
    versions: bool = False
    resumes_changes: bool = False
    """``changes`` goes on where it was left before the last start, so that only the first start takes a snapshot."""
    events: bool = False
    """``changes`` looks where something happened, and nowhere again and again."""
    reports_times: bool = False
    """Listings tell the time (in whole seconds) that ``put`` and ``set_mtime`` gave a file: another one there means
    that somebody set it."""
    growing_puts: bool = False
    """``put_growing`` is there."""
    longest_name_bytes: int = 255
    """Longest cleartext name in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder holds exactly these children."""

    directory: NodeId
    children: tuple[NodeInfo, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a cloud observed.

    ``started`` is ``trio.current_time()`` from *before* the observation began: whatever this process changed in
    the cloud after that moment, the batch may or may not show, so the tree does not believe the batch there.
    ``complete`` means that the listings cover the whole cloud: a folder without a listing does not exist.
    A folder that left one listing of the batch and came up in another was moved, not removed.
    """

    started: float
    listings: tuple[Listing, ...]
    complete: bool = False
    tree: WholeTree | None = None
    """With ``complete``: the whole cloud in place of listings."""
    changed: tuple[NodeInfo, ...] = ()
    """Nodes that are new, or not as they were. Of the rest of their folders nothing is said."""
    removed: tuple[NodeId, ...] = ()
    """Nodes that are no more, each with all that was below it."""
    applied: Callable[[], Awaitable[None]] | None = None
    """Called once the batch is in the local tree for good (through a power cut): what is not, comes again."""


class WholeTree(Protocol):
    """A cloud that is too large to be held in memory at once: asked folder by folder while a batch is applied."""

    def children(self, directory: NodeId) -> Iterable[NodeInfo] | None:
        """What the folder holds; None when there is no such folder."""
        ...

    def place(self, node: NodeId) -> tuple[NodeId, str] | None:
        """Folder and name of a node; None when there is no such node."""
        ...


class Content(Protocol):
    """A re-readable source of cleartext for an upload: any span, any number of times, concurrently."""

    @property
    def size(self) -> int: ...

    async def read(self, span: Span) -> bytes:
        """Exactly the bytes of ``span`` (which lies within ``size``)."""
        ...


class GrowingContent(Protocol):
    """The cleartext of an upload that begins before all of it is there. Read once, front to back."""

    async def read(self, span: Span) -> bytes:
        """The bytes of ``span``, once they are final: waits for whoever writes them. Fewer, or none, at the end,
        which is also the leave to make what was sent visible."""
        ...


Known = Callable[[str, Revision], NodeInfo | None]
"""Answers (locator, revision) with the folder or link that was known there, so that it need not be read again."""


class Cloud(Protocol):
    """One account or vault."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def root(self) -> NodeId: ...

    def name_key(self, name: str) -> str:
        """Two names of one folder are the same name when their keys are equal (case, normalisation)."""
        ...

    def check_name(self, name: str) -> None:
        """Raise InvalidName or NameTooLong when the cloud could not carry this cleartext name."""
        ...

    async def snapshot(self, known: Known) -> Batch:
        """The whole tree, ``complete``."""
        ...

    async def changes(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        """Send what others change, as it happens, until cancelled. A store without events is listed again and
        again. Never ends by itself; passing trouble is logged and retried inside."""
        ...

    def recheck(self, directory: NodeId) -> None:
        """Ask that ``changes`` send a fresh listing of this folder soon. Never blocks."""
        ...

    async def reload(self) -> float:
        """Have everything fetched anew: what the driver itself keeps of the cloud, now; and ``changes`` sends a
        complete batch soon. The answer: a complete batch that ``started`` then (``trio.current_time()``) or later is
        such a one."""
        ...

    @property
    def observed(self) -> int:
        """A number that grows while ``reload`` or ``changes`` hear from the cloud: who waits for them tells by it
        whether the cloud answers."""
        ...

    async def read(self, node: NodeRef, span: Span) -> bytes:
        """Cleartext of ``span`` clamped to the file; verified as far as the format allows. Raises RevisionGone
        when the cloud no longer has ``node.revision``."""
        ...

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        """Upload a whole file. Without ``replaces`` the name must be free, else AlreadyExists. With it the node
        must still be at ``replaces.revision``, else Conflict. ``token`` is 32 bytes, the same for every attempt
        of the same content at the same place and never used for another content. With ``retry`` an earlier upload
        is looked for before ``content`` is read: by its success a part of ``content`` may have gone."""
        ...

    async def put_growing(
        self,
        parent: NodeId,
        name: str,
        content: GrowingContent,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        """``put`` of a content that is still being written, where ``capabilities.growing_puts``. Nothing is to be
        seen of it before ``content`` has ended, nor ever when the call is cancelled before; what others do until
        then is met as a ``put`` would meet it that began at the end. ``mtime_ns`` is the time as it is known now.
        When the answer is lost, ``put`` with the same ``token`` and ``retry`` finds what became of it."""
        ...

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo: ...

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo: ...

    async def move(
        self,
        node: NodeRef,
        parent: NodeId,
        name: str,
        *,
        replaces: NodeRef | None,
        retry: bool = False,
    ) -> NodeInfo:
        """Rename or move. The answer may carry a new id, and says (``same_content``) whether a file was still at
        ``node.revision``; it is moved in any case. ``replaces`` is a file or link that goes away; without
        it the name must be free, else AlreadyExists. NotFound when ``node`` is no longer there, Conflict when
        ``replaces`` is no longer at its revision."""
        ...

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        """Remove a file at this revision, a link, or an empty folder. Conflict, DirectoryNotEmpty; a node that is
        already gone is NotFound unless ``retry``."""
        ...

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        """Set a file's time. Unsupported where ``capabilities.set_mtime`` is False. ``tried_ns``: an earlier attempt,
        whose outcome is not known, set this one; what it made of the node is then no Conflict."""
        ...

    async def quota(self) -> Quota: ...

    async def aclose(self) -> None: ...
