"""The ``file://`` store: objects are files below one folder, folders are real ones.

Blocking work is in ``posix``; here it is packed into as few thread switches as possible: one for a small put, one
per piece of a large one. Uncommitted objects are temporary files named ``.serpentfs-<random>.tmp`` beside their
target, which no vault format takes for its own; those a crash left are removed by the first whole listing.
"""

from __future__ import annotations

import logging
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.blobs.base import BlobCapabilities, BlobInfo, BlobStore, Chunks, Condition
from serpentfs.clouds.blobs.inotify import EventsUnavailable, sees_every_change, watch_by_events, watch_by_listing
from serpentfs.clouds.blobs.pieces import in_pieces
from serpentfs.clouds.blobs.posix import Root, Upload, is_moved
from serpentfs.errors import Unsupported
from serpentfs.model import Quota, Revision, Span

_log = logging.getLogger(__name__)

PIECE_SIZE = 1024 * 1024
"""Bytes per thread switch of a large put, and the size up to which an object is written in a single one: a switch
costs 67 µs, writing a mebibyte several times that."""


class FileStore(BlobStore):
    """Objects below ``root``, which must exist when the first call is made (else Unavailable)."""

    def __init__(self, root: Path) -> None:
        self._root = Root(root)
        self._orphans_removed = False

    @property
    def capabilities(self) -> BlobCapabilities:
        return BlobCapabilities(rename=True, set_mtime=True, events=True, folders=True)

    # Calls that change nothing may be abandoned: a thread that hangs on a dead network mount ends when it can.

    async def stat(self, key: str) -> BlobInfo:
        return await run_in_thread("store", self._root.stat, key, abandon=True)

    async def is_directory(self, prefix: str) -> bool:
        return await run_in_thread("store", self._root.is_directory, prefix, abandon=True)

    async def read(self, key: str, span: Span | None = None, *, revision: Revision | None = None) -> bytes:
        return await run_in_thread("store", self._root.read, key, span, revision, abandon=True)

    async def list_directories(self, prefix: str) -> list[str]:
        return await run_in_thread("store", self._root.list_directories, prefix, abandon=True)

    async def list(self, prefix: str) -> list[BlobInfo]:
        remove_orphans = not prefix and not self._orphans_removed
        found = await run_in_thread(
            "store", lambda: self._root.list(prefix, remove_orphans=remove_orphans), abandon=True
        )
        self._orphans_removed = self._orphans_removed or remove_orphans
        return found

    async def quota(self) -> Quota:
        return await run_in_thread("store", self._root.quota, abandon=True)

    async def next_key(self, prefix: str, after: str) -> str | None:
        raise Unsupported("folders have no order")

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
        if size is None:
            raise Unsupported("a folder takes no object of unknown size")
        async with in_pieces(chunks, size, PIECE_SIZE) as pieces:
            if size <= PIECE_SIZE:
                data = b"".join([chunk async for piece in pieces for chunk in piece])
                return await run_in_thread("store", self._root.put, key, data, condition, mtime_ns, within)
            upload = await run_in_thread("store", self._root.begin, key, condition, within)
            try:
                async for piece in pieces:
                    await run_in_thread("store", upload.write, b"".join(piece))
                return await run_in_thread("store", upload.publish, mtime_ns)
            except BaseException:
                await _abort(upload)
                raise

    async def rename(self, key: str, new_key: str, *, condition: Condition = None) -> BlobInfo:
        return await run_in_thread("store", self._root.rename, key, new_key, condition)

    def is_moved(self, before: Revision, after: Revision) -> bool:
        return is_moved(before, after)

    async def rename_directory(self, prefix: str, new_prefix: str) -> None:
        await run_in_thread("store", self._root.rename_directory, prefix, new_prefix)

    async def delete(self, key: str, *, condition: Revision | None = None) -> None:
        await run_in_thread("store", self._root.delete, key, condition)

    async def make_directory(self, prefix: str) -> None:
        await run_in_thread("store", self._root.make_directory, prefix)

    async def remove_directory(self, prefix: str) -> None:
        await run_in_thread("store", self._root.remove_directory, prefix)

    def has_only_another_time(self, before: Revision, after: Revision) -> bool:
        was, now = before.split("."), after.split(".")
        return (was[0], was[-1]) == (now[0], now[-1])  # see ``posix``: inode number, two times, size

    async def set_mtime(self, key: str, mtime_ns: int, *, condition: Revision | None = None) -> BlobInfo:
        return await run_in_thread("store", self._root.set_mtime, key, mtime_ns, condition)

    async def watch(self, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
        """By inotify; by listing again and again where that cannot work (another system, a network file system
        whose other clients raise no events here, or too few watches)."""
        if await run_in_thread("store", sees_every_change, self._root.path, abandon=True):
            try:
                await watch_by_events(self._root.path, prefix, send)
            except EventsUnavailable as reason:
                _log.warning("watching %s by listing it again and again: %s", self._root.path, reason)
        await watch_by_listing(self, prefix, send)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def _abort(upload: Upload) -> None:
    with trio.CancelScope(shield=True):
        await run_in_thread("store", upload.abort)
