"""Changes of a folder tree as they happen: inotify, and listing again and again where there is none.

Both answer the ``watch`` of the BlobStore contract. The kernel watches single folders, so a tree is a watch per
folder; a new folder is watched first and read afterwards, so that what was made in it meanwhile is not missed.
Paths are joined from the root, and links are not followed.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.blobs.posix import is_temporary, store_errors
from serpentfs.errors import NotADirectory, NotFound, RetryableError, Unavailable
from serpentfs.mount_table import kind_of_device

_log = logging.getLogger(__name__)

COALESCE = 0.04
"""Seconds that events are gathered before they are sent."""
FOLDER_PAUSE = 0.25
"""Seconds between two reports of one folder: somebody who writes on and on into a file does not have its folder
listed with every write."""
LISTING_INTERVAL = 5.0
"""Seconds between two listings where there are no events."""
_BUFFER_SIZE = 256 * 1024

# From <sys/inotify.h>.
_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_CLOSE_WRITE = 0x8
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_UNMOUNT = 0x2000
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x1000000
_IN_DONT_FOLLOW = 0x2000000
_IN_EXCL_UNLINK = 0x4000000
_IN_ISDIR = 0x40000000

_MASK = (
    _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
    | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR | _IN_DONT_FOLLOW | _IN_EXCL_UNLINK
)  # fmt: skip
_EVENT = struct.Struct("iIII")

_REMOTE_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "ncpfs", "virtiofs", "vboxsf", "vmhgfs"}
)


class EventsUnavailable(Exception):
    """inotify cannot be used here; the text says why."""


def sees_every_change(path: str) -> bool:
    """Whether inotify reports all changes below ``path``: not where other machines can change it. Unavailable when
    there is no such folder."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        with store_errors(path):
            device = Path(path).stat().st_dev
    except NotFound as error:
        raise Unavailable(f"there is no folder {path}") from error
    kind = kind_of_device(device) or ""
    return kind not in _REMOTE_FILE_SYSTEMS and not kind.startswith("fuse.")


@dataclass(frozen=True, slots=True)
class _Event:
    watch: int
    mask: int
    name: str


class _Tree:
    """The watches of one tree. Used by one thread at a time."""

    def __init__(self, root: str, top: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._add_watch = libc.inotify_add_watch
            self._remove_watch = libc.inotify_rm_watch
            initialise = libc.inotify_init1
        except AttributeError as error:
            raise EventsUnavailable("this system has no inotify") from error
        self.descriptor: int = initialise(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise EventsUnavailable(f"inotify: {os.strerror(ctypes.get_errno())}")
        self._root = root
        self._top = top
        self._keys: dict[int, str] = {}
        self._watches: dict[str, int] = {}

    def close(self) -> None:
        os.close(self.descriptor)

    def _path(self, key: str) -> str:
        return os.path.join(self._root, key) if key else self._root

    def follow(self, key: str) -> set[str]:
        """Watch a folder and all below it; the answer is what is watched now. A folder that is gone is left out.
        Raises EventsUnavailable when there are no watches left."""
        followed: set[str] = set()
        pending = [key]
        while pending:
            folder = pending.pop()
            path = self._path(folder)
            watch = self._add_watch(self.descriptor, os.fsencode(path), _MASK)
            if watch < 0:
                code = ctypes.get_errno()
                if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise EventsUnavailable(
                    "too many folders for fs.inotify.max_user_watches" if code == errno.ENOSPC else os.strerror(code)
                )
            self._keys[watch] = folder
            self._watches[folder] = watch
            followed.add(folder)
            try:
                with store_errors(folder), os.scandir(path) as entries:
                    pending.extend(
                        f"{folder}/{entry.name}" if folder else entry.name
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                    )
            except (NotFound, NotADirectory):
                continue
        return followed

    def forget(self, key: str) -> None:
        """Stop watching a folder, and all below it, that was moved away or removed."""
        below = f"{key}/"
        for folder in [folder for folder in self._watches if folder == key or folder.startswith(below)]:
            watch = self._watches.pop(folder)
            self._keys.pop(watch, None)
            self._remove_watch(self.descriptor, watch)  # fails where the folder is gone, and the watch with it

    def _read_events(self) -> Iterator[_Event]:
        while True:
            try:
                data = os.read(self.descriptor, _BUFFER_SIZE)
            except BlockingIOError:
                return
            position = 0
            while position < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, position)
                position += _EVENT.size
                name = data[position : position + length].rstrip(b"\0")
                position += length
                yield _Event(watch, mask, os.fsdecode(name))

    def drain(self) -> set[str] | None:
        """The folders of all waiting events; None when events were lost or the whole tree is gone, so that
        everything has to be watched and listed anew."""
        changed: set[str] = set()
        lost = False
        for event in self._read_events():
            if event.mask & _IN_Q_OVERFLOW:
                lost = True
                continue
            folder = self._keys.get(event.watch)
            if folder is None:
                continue
            if event.mask & (_IN_IGNORED | _IN_UNMOUNT | _IN_DELETE_SELF | _IN_MOVE_SELF):
                lost = lost or folder == self._top
                if event.mask & _IN_IGNORED:
                    del self._keys[event.watch]
                    if self._watches.get(folder) == event.watch:
                        del self._watches[folder]
                continue
            if is_temporary(event.name):
                continue
            changed.add(folder)
            if event.mask & _IN_ISDIR and event.name:
                inner = f"{folder}/{event.name}" if folder else event.name
                changed.add(inner)
                if event.mask & (_IN_MOVED_FROM | _IN_DELETE):
                    self.forget(inner)
                elif event.mask & (_IN_CREATE | _IN_MOVED_TO):
                    self.forget(inner)
                    changed |= self.follow(inner)
        return None if lost else changed


async def watch_by_events(root: str, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
    """See ``BlobStore.watch``. Raises EventsUnavailable when there are no more watches; never returns. While the
    folder itself is missing, it is looked for again and again."""
    while True:
        tree = await run_in_thread("store", _Tree, root, prefix)
        try:
            if await run_in_thread("store", tree.follow, prefix):
                await send.send(frozenset())
                await _report(tree, send)
            else:
                await trio.sleep(LISTING_INTERVAL)
        finally:
            tree.close()


async def _report(tree: _Tree, send: trio.MemorySendChannel[frozenset[str]]) -> None:
    """Send what changes until events are lost."""
    waiting: set[str] = set()
    sent: dict[str, float] = {}
    while True:
        deadline = min((sent.get(folder, 0.0) + FOLDER_PAUSE for folder in waiting), default=float("inf"))
        with trio.move_on_at(deadline):
            await trio.lowlevel.wait_readable(tree.descriptor)
        await trio.sleep(COALESCE)
        changed = await run_in_thread("store", tree.drain)
        if changed is None:
            return
        waiting |= changed
        now = trio.current_time()
        sent = {folder: when for folder, when in sent.items() if now - when < FOLDER_PAUSE}
        due = frozenset(folder for folder in waiting if folder not in sent)
        if due:
            waiting -= due
            sent.update(dict.fromkeys(due, now))
            await send.send(due)


async def watch_by_listing(store: BlobStore, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
    """``BlobStore.watch`` by comparing listings. Never returns."""
    before: dict[str, dict[str, str]] | None = None
    while True:
        try:
            listing = await store.list(prefix)
        except RetryableError as error:
            _log.info("cannot list %s: %s", prefix or "the store", error)
            await trio.sleep(LISTING_INTERVAL)
            continue
        now: dict[str, dict[str, str]] = {}
        for blob in listing:
            folder, _, name = blob.key.rpartition("/")
            now.setdefault(folder, {})[name] = blob.revision
        if before is None:
            await send.send(frozenset())
        else:
            folders = before.keys() | now.keys()
            changed = frozenset(folder for folder in folders if before.get(folder) != now.get(folder))
            if changed:
                await send.send(changed)
        before = now
        await trio.sleep(LISTING_INTERVAL)
