"""What of the cloud is kept on this machine, as the user wants it: warmed, evicted, verified, path by path.

Files below an entry are walked breadth first and in the order of their folders; what comes and goes meanwhile may be
met or not. Contents that only this machine has are staged: they are always here, and never evicted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from serpentfs.cache.layers import BlockCache
from serpentfs.clouds.base import Cloud
from serpentfs.errors import IntegrityError, NotFound
from serpentfs.model import Ino, Kind, NodeRef, Span
from serpentfs.tree.store import EntryRow, Store

_PIECE = 4 * 2**20
"""Bytes read at a time: what one fetch takes at most."""
_PAGE = 500


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file on the way of a walk. ``node`` is None while its content is only on this machine."""

    path: str
    row: EntryRow
    node: NodeRef | None

    @property
    def size(self) -> int:
        return self.row.size


class Keeping:
    """Over one drive's parts."""

    def __init__(self, cloud: Cloud, store: Store, cache: BlockCache) -> None:
        self._cloud = cloud
        self._store = store
        self._cache = cache

    def files(self, ino: Ino, path: str) -> Iterator[KeptFile]:
        """The file ``ino``, or all files below the folder. ``path`` is its own. Each step is short; the caller may
        await between them."""
        row = self._store.entry(ino)
        if row is None:
            raise NotFound("no such entry")
        if row.kind is Kind.FILE:
            yield self._file(row, path)
            return
        folders = deque([(ino, path.rstrip("/"))])
        while folders:
            folder, above = folders.popleft()
            after = 0
            while page := self._store.children(folder, after, _PAGE):
                after = page[-1].ino
                for child in page:
                    if child.kind is Kind.DIRECTORY:
                        folders.append((child.ino, f"{above}/{child.name}"))
                    elif child.kind is Kind.FILE:
                        yield self._file(child, f"{above}/{child.name}")

    def _file(self, row: EntryRow, path: str) -> KeptFile:
        node = self._store.node_of(row.ino)
        return KeptFile(path, row, node.ref(Kind.FILE) if node is not None and node.content == row.content else None)

    async def warm(self, file: KeptFile) -> AsyncIterator[int]:
        """Have the content of a file in the cache, on its disk where it has one. Gives the bytes done, piece by
        piece. Raises what the cloud raises."""
        node = file.node
        if node is None:
            yield file.size
            return

        async def fetch(span: Span) -> bytes:
            return await self._cloud.read(node, span)

        for start in range(0, file.size, _PIECE):
            span = Span(start, min(file.size, start + _PIECE))
            await self._cache.keep(file.row.content, file.size, span, fetch)
            yield len(span)

    async def wait_written(self) -> None:
        """Until the cache's disk has what it took, and what was dropped is gone from it."""
        await self._cache.wait_written()

    def is_warm(self, file: KeptFile) -> bool:
        """Whether all of it can be read without the cloud. False of a content that was not touched since the start."""
        return file.node is None or self._cache.has_all(file.row.content, file.size)

    def evict(self, file: KeptFile) -> bool:
        """Drop what the cache has of a file. False for one that only this machine has."""
        if file.node is None:
            return False
        self._cache.forget(file.row.content)
        return True

    async def verify(self, file: KeptFile) -> AsyncIterator[int]:
        """Read all of a file from the cloud, past the cache, in order: a format that authenticates a whole file only
        does so at its end. Gives the bytes done. IntegrityError for what does not authenticate."""
        node = file.node
        assert node is not None
        for start in range(0, file.size, _PIECE):
            span = Span(start, min(file.size, start + _PIECE))
            data = await self._cloud.read(node, span)
            if len(data) != len(span):
                raise IntegrityError("the file is shorter than its listing says")
            yield len(span)
        if not file.size:
            await self._cloud.read(node, Span(0, 0))

