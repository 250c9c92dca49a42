"""The BlobStore contract.

Keys are relative POSIX paths without a leading or trailing slash (``d/AB/CDE/x.c9r``); prefixes that name a
folder of keys are written the same way. An object store has no folders: there ``make_directory`` does nothing
and ``remove_directory`` only checks; ``file://`` makes and removes real ones, because other programs expect them.

Errors are those of ``serpentfs.errors``. A put is all or nothing: a reader never sees a part of an object.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from serpentfs.model import Quota, Revision, Span


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One object. ``size`` is ciphertext bytes; ``revision`` is the store's token for this content (an etag; on
    ``file://`` inode number, ctime, mtime and size)."""

    key: str
    size: int
    mtime_ns: int
    revision: Revision


class Absent(enum.Enum):
    """The condition "there must be no such object yet"."""

    ABSENT = 0


ABSENT = Absent.ABSENT
Condition = Absent | Revision | None
"""None: whatever is there. ABSENT: else AlreadyExists. A revision: else Conflict."""


@dataclass(frozen=True, slots=True)
class BlobCapabilities:
    rename: bool
    """``rename`` is one atomic step, also for folders (``file://``). Otherwise it is copy, then delete."""
    set_mtime: bool
    events: bool
    """``watch`` reports changes by itself; otherwise the store has to be listed again."""

    growing_puts: bool = False
    """``put`` takes an object whose size is not known when it begins."""
    sorted_keys: bool = False
    """``next_key`` is there."""
    folders: bool = False
    """Folders are real: they can be missing, and one keeps an object from its name."""


Chunks = Callable[[], AsyncIterator[bytes]]
"""Starts a pass over an object's bytes; may be called again to repeat it."""


class BlobStore(Protocol):
    @property
    def capabilities(self) -> BlobCapabilities: ...

    async def stat(self, key: str) -> BlobInfo:
        """NotFound when there is no such object."""
        ...

    async def is_directory(self, prefix: str) -> bool:
        """Whether the folder exists (object stores: whether any key starts with it)."""
        ...

    async def read(self, key: str, span: Span | None = None, *, revision: Revision | None = None) -> bytes:
        """The bytes of ``span`` (None: all), clamped to the object. With ``revision``, RevisionGone when the object
        is another by now: checked after the last byte was read."""
        ...

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
        """Write a whole object durably; missing parent folders are made, but none as far as ``within`` where
        ``capabilities.folders``: then NotFound. NoSpace when the store is full. ``size``
        None, where ``capabilities.growing_puts``: as long as ``chunks`` turns out to be, in one pass, which may take
        its time; Unsupported elsewhere."""
        ...

    async def rename(self, key: str, new_key: str, *, condition: Condition = None) -> BlobInfo:
        """Move one object. ``condition`` speaks of what is at ``new_key``."""
        ...

    def is_moved(self, before: Revision, after: Revision) -> bool:
        """Whether ``rename`` alone can have made the one revision of the other; True where that cannot be told."""
        ...

    async def rename_directory(self, prefix: str, new_prefix: str) -> None:
        """Move a small folder of objects (a shortened name's). Target first, then source, where not atomic."""
        ...

    async def delete(self, key: str, *, condition: Revision | None = None) -> None:
        """NotFound when there is no such object; Conflict when it is at another revision."""
        ...

    async def make_directory(self, prefix: str) -> None: ...

    async def remove_directory(self, prefix: str) -> None:
        """Remove an empty folder; DirectoryNotEmpty when anything is in it; quiet when it is gone already."""
        ...

    async def list_directories(self, prefix: str) -> list[str]:
        """Full keys of the folders directly in ``prefix``. On ``file://`` empty ones too."""
        ...

    async def list(self, prefix: str) -> list[BlobInfo]:
        """Every object below ``prefix``, recursively (``""``: all), in one flat list; an empty list when there is
        none. Sizes, times and revisions come from the listing, never from a request per object."""
        ...

    async def next_key(self, prefix: str, after: str) -> str | None:
        """The first key below ``prefix`` that comes after ``after`` in the order of UTF-8, by one request; None when
        there is none. Unsupported where ``capabilities.sorted_keys`` is False."""
        ...

    def has_only_another_time(self, before: Revision, after: Revision) -> bool:
        """Whether these may be of one object with one content, but for its time. False where that cannot be told."""
        return False

    async def set_mtime(self, key: str, mtime_ns: int, *, condition: Revision | None = None) -> BlobInfo:
        """NotFound when there is no such object; Conflict when it is at another revision."""
        ...

    async def watch(self, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
        """Send the folders (full keys) below ``prefix`` in which something changed, coalesced over some tens of
        milliseconds, until cancelled. The empty set means "too much, or events were lost: list everything".
        Only where ``capabilities.events``. The first thing sent is an empty set, once the watch is in place, so that
        a listing that starts then misses nothing."""
        ...

    async def quota(self) -> Quota: ...

    async def aclose(self) -> None: ...
