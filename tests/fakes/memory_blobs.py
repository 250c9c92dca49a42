"""The BlobStore contract over a dictionary.

Two temperaments: an object store (no folders, rename is copy and delete, no times, no events) and, with
``folders=True``, a file system (real folders that get in each other's way, atomic rename, times, events). Every
change takes effect in one stretch without an ``await``; revisions change with every put, rename and utime.
``Account`` is what several clients share.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

import trio

from serpentfs.clouds.blobs.base import ABSENT, BlobCapabilities, BlobInfo, Chunks, Condition
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NoSpace,
    NotADirectory,
    NotFound,
    RevisionGone,
    Unsupported,
)
from serpentfs.model import Quota, Revision, Span

COALESCE = 0.02


@dataclass(frozen=True, slots=True)
class _Blob:
    data: bytes
    mtime_ns: int
    revision: Revision


@dataclass(eq=False)
class _Watcher:
    prefix: str
    changed: set[str] = field(default_factory=set)
    wake: trio.Event = field(default_factory=trio.Event)


class Account:
    """The stored state, for any number of clients."""

    def __init__(self, *, folders: bool, capacity: int | None = None) -> None:
        self.folders = folders
        self.capacity = capacity
        self.blobs: dict[str, _Blob] = {}
        self.directories: set[str] = set()
        self.watchers: list[_Watcher] = []
        self._numbers = itertools.count(1)

    @property
    def used(self) -> int:
        return sum(len(blob.data) for blob in self.blobs.values())

    def touched(self, key: str) -> None:
        """Something changed in the folder that holds ``key``."""
        folder = _parent(key)
        for watcher in self.watchers:
            if folder == watcher.prefix or folder.startswith(f"{watcher.prefix}/"):
                watcher.changed.add(folder)
                watcher.wake.set()

    def new_blob(self, data: bytes, mtime_ns: int | None = None) -> _Blob:
        return _Blob(data, time.time_ns() if mtime_ns is None else mtime_ns, Revision(f"r{next(self._numbers)}"))

    def copy(self) -> Account:
        """The same state, for changes of its own; nobody watches it."""
        twin = Account(folders=self.folders, capacity=self.capacity)
        twin.blobs, twin.directories = dict(self.blobs), set(self.directories)
        twin._numbers = itertools.count(next(self._numbers))
        return twin

    def make_parents(self, key: str) -> None:
        if not self.folders:
            return
        for above in _parents(key):
            if above in self.blobs:
                raise NotADirectory(f"{above} is an object")
            if above not in self.directories:
                self.directories.add(above)
                self.touched(above)


def _parent(key: str) -> str:
    return key.rpartition("/")[0]


def _parents(key: str) -> list[str]:
    parts = key.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _checked(key: str) -> str:
    if not key or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidArgument(f"not a key: {key!r}")
    return key


class MemoryBlobStore:
    """One client of an account."""

    def __init__(self, account: Account | None = None, *, folders: bool = False) -> None:
        self.account = Account(folders=folders) if account is None else account

    @property
    def capabilities(self) -> BlobCapabilities:
        folders = self.account.folders
        return BlobCapabilities(
            rename=folders,
            set_mtime=folders,
            events=folders,
            growing_puts=not folders,
            sorted_keys=not folders,
            folders=folders,
        )

    # what tests look at and tamper with

    def contents(self) -> dict[str, bytes]:
        """Every object, by key."""
        return {key: blob.data for key, blob in sorted(self.account.blobs.items())}

    def tamper(self, key: str, data: bytes | None) -> None:
        """Replace (None: remove) an object behind everybody's back."""
        if data is None:
            del self.account.blobs[key]
        else:
            self.account.make_parents(key)
            self.account.blobs[key] = self.account.new_blob(data)
        self.account.touched(key)

    # the contract

    async def stat(self, key: str) -> BlobInfo:
        await trio.lowlevel.checkpoint()
        return self._info(_checked(key))

    async def is_directory(self, prefix: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self._is_directory(prefix)

    async def read(self, key: str, span: Span | None = None, *, revision: Revision | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        blob = self.account.blobs.get(_checked(key))
        if blob is None and revision is None:
            raise NotFound(f"{key} does not exist")
        if blob is None or (revision is not None and blob.revision != revision):
            raise RevisionGone(f"{key} has changed")
        part = Span(0, len(blob.data)) if span is None else span.clamp(len(blob.data))
        return blob.data[part.start : part.stop]

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
        _checked(key)
        if size is None and not self.capabilities.growing_puts:
            raise Unsupported("this store takes no object of unknown size")
        if self.account.folders and within and not self._is_directory(within):
            raise NotFound(f"there is no folder {within}")
        self._check(key, condition)
        pieces = []
        passed = chunks()
        async for piece in passed:
            pieces.append(bytes(piece))
        await trio.lowlevel.checkpoint()
        data = b"".join(pieces)
        if size is not None and len(data) != size:
            raise InvalidArgument(f"{key}: {len(data)} bytes came instead of {size}")
        if self.account.capacity is not None and self.account.used + len(data) > self.account.capacity:
            raise NoSpace(f"{key}: the store is full")
        self._check(key, condition)
        if self._is_folder(key):
            raise IsADirectory(f"{key} is a folder")
        self.account.make_parents(key)
        self.account.blobs[key] = self.account.new_blob(data, mtime_ns if self.account.folders else None)
        self.account.touched(key)
        return self._info(key)

    async def rename(self, key: str, new_key: str, *, condition: Condition = None) -> BlobInfo:
        await trio.lowlevel.checkpoint()
        source = self._blob(_checked(key))
        self._check(_checked(new_key), condition)
        if self._is_folder(new_key):
            raise IsADirectory(f"{new_key} is a folder")
        self.account.make_parents(new_key)
        mtime_ns = source.mtime_ns if self.account.folders else None
        self.account.blobs[new_key] = self.account.new_blob(source.data, mtime_ns)
        self.account.touched(new_key)
        if not self.account.folders:
            await trio.lowlevel.checkpoint()
        if key != new_key:
            self.account.blobs.pop(key, None)
            self.account.touched(key)
        return self._info(new_key)

    def is_moved(self, before: Revision, after: Revision) -> bool:
        return True

    async def rename_directory(self, prefix: str, new_prefix: str) -> None:
        await trio.lowlevel.checkpoint()
        if not self._is_directory(prefix):
            raise NotFound(f"{prefix} does not exist")
        if self._is_directory(new_prefix):
            raise AlreadyExists(f"{new_prefix} exists")
        self.account.make_parents(new_prefix)
        if self.account.folders:
            self.account.directories.add(new_prefix)
        for key in [key for key in self.account.blobs if key.startswith(f"{prefix}/")]:
            new_key = new_prefix + key[len(prefix) :]
            self.account.make_parents(new_key)
            self.account.blobs[new_key] = self.account.blobs.pop(key)
            self.account.touched(new_key)
        gone = {name for name in self.account.directories if name == prefix or name.startswith(f"{prefix}/")}
        self.account.directories -= gone
        self.account.touched(prefix)
        self.account.touched(new_prefix)

    async def delete(self, key: str, *, condition: Revision | None = None) -> None:
        await trio.lowlevel.checkpoint()
        blob = self._blob(_checked(key))
        if condition is not None and blob.revision != condition:
            raise Conflict(f"{key} has changed")
        del self.account.blobs[key]
        self.account.touched(key)

    async def make_directory(self, prefix: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.account.folders:
            self.account.make_parents(f"{prefix}/x")

    async def remove_directory(self, prefix: str) -> None:
        await trio.lowlevel.checkpoint()
        if prefix in self.account.blobs and self.account.folders:
            raise NotADirectory(f"{prefix} is an object")
        if any(self._below(prefix)):
            raise DirectoryNotEmpty(f"{prefix} is not empty")
        if prefix in self.account.directories:
            self.account.directories.discard(prefix)
            self.account.touched(prefix)

    async def list_directories(self, prefix: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        start = f"{prefix}/" if prefix else ""
        keys = {key for key in self.account.blobs if "/" in key[len(start) :]} | {
            f"{name}/" for name in self.account.directories
        }
        found = {key[len(start) :].partition("/")[0] for key in keys if key.startswith(start) and key != start}
        return sorted(start + name for name in found)

    async def next_key(self, prefix: str, after: str) -> str | None:
        await trio.lowlevel.checkpoint()
        if not self.capabilities.sorted_keys:
            raise Unsupported("this store has no order")
        return min((key for key in self._below(prefix) if key.encode() > after.encode()), default=None)

    def has_only_another_time(self, before: Revision, after: Revision) -> bool:
        return False

    async def set_mtime(self, key: str, mtime_ns: int, *, condition: Revision | None = None) -> BlobInfo:
        await trio.lowlevel.checkpoint()
        if not self.account.folders:
            raise Unsupported("this store cannot set times")
        blob = self._blob(_checked(key))
        self._check(key, condition)
        self.account.blobs[key] = self.account.new_blob(blob.data, mtime_ns)
        self.account.touched(key)
        return self._info(key)

    async def watch(self, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
        if not self.account.folders:
            raise Unsupported("this store has no events")
        watcher = _Watcher(prefix)
        self.account.watchers.append(watcher)
        try:
            await send.send(frozenset())
            while True:
                await watcher.wake.wait()
                await trio.sleep(COALESCE)
                changed, watcher.changed, watcher.wake = frozenset(watcher.changed), set(), trio.Event()
                await send.send(changed)
        finally:
            self.account.watchers.remove(watcher)

    async def quota(self) -> Quota:
        await trio.lowlevel.checkpoint()
        capacity, used = self.account.capacity, self.account.used
        return Quota(capacity, used, None if capacity is None else max(0, capacity - used))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    # parts of the above

    def _blob(self, key: str) -> _Blob:
        blob = self.account.blobs.get(key)
        if blob is None:
            raise NotFound(f"{key} does not exist")
        return blob

    def _info(self, key: str) -> BlobInfo:
        blob = self._blob(key)
        return BlobInfo(key, len(blob.data), blob.mtime_ns, blob.revision)

    def _is_folder(self, key: str) -> bool:
        return self.account.folders and key in self.account.directories

    def _is_directory(self, prefix: str) -> bool:
        return prefix == "" or prefix in self.account.directories or any(self._below(prefix))

    def _below(self, prefix: str) -> list[str]:
        start = f"{prefix}/"
        return [key for key in (*self.account.blobs, *self.account.directories) if key.startswith(start)]

    def _check(self, key: str, condition: Condition) -> None:
        blob = self.account.blobs.get(key)
        if condition is ABSENT:
            if blob is not None or self._is_folder(key):
                raise AlreadyExists(f"{key} exists")
        elif condition is not None and (blob is None or blob.revision != condition):
            raise Conflict(f"{key} has changed")

    # Last, because its name hides the type's in what follows it.
    async def list(self, prefix: str) -> list[BlobInfo]:
        await trio.lowlevel.checkpoint()
        start = f"{_checked(prefix)}/" if prefix else ""
        return [self._info(key) for key in sorted(self.account.blobs) if key.startswith(start)]
