"""The read path below the handles: from a content id to bytes.

One ``read()`` of a mounted file goes

    gateways/fuse/operations.read → vfs/drive.read → handles (the open file's content)
    → here: staged? writes.Stage, else → cache/layers.Reader (memory, sealed disk, one flight per block)
    → ``_fetch`` here → clouds/base.Cloud.read (decrypts and verifies)

Contents never change, so nothing here needs a lock: whoever changes a file gives it another content id, or changes
a stage that is its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from serpentfs.cache.layers import BlockCache, Reader
from serpentfs.cache.seal import BlockSeal
from serpentfs.clouds.base import Cloud
from serpentfs.errors import RevisionGone
from serpentfs.model import ContentId, Ino, Kind, NodeRef, Span
from serpentfs.tree.store import NodeRow, StageRow, Store
from serpentfs.vfs.handles import Handle, OpenFile
from serpentfs.vfs.writes import Stage, StageRetired


class Contents:
    """Every content of the drive, staged or in the cloud. ``gone`` is told of a node whose content vanished."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        cache: BlockCache,
        staging: Path,
        seal: BlockSeal,
        gone: Callable[[Ino], None],
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._cache = cache
        self._staging = staging
        self._seal = seal
        self._gone = gone
        self._stages: dict[ContentId, Stage] = {}

    # stages

    def load_stages(self) -> None:
        """At start: every stage of the database."""
        for row in self._store.stages():
            self._stages[row.content] = Stage(self._staging, self._seal, row, self._store.stage_blocks(row.content))

    def stage(self, content: ContentId) -> Stage | None:
        return self._stages.get(content)

    def stages(self) -> list[Stage]:
        return list(self._stages.values())

    def new_stage(self, row: StageRow) -> Stage:
        stage = self._stages[row.content] = Stage(self._staging, self._seal, row)
        return stage

    def drop_stage(self, content: ContentId) -> None:
        """Forget a stage and remove its files. Its rows are the caller's business."""
        stage = self._stages.pop(content, None)
        if stage is not None:
            stage.delete()

    def reload_stage(self, content: ContentId) -> None:
        """Back to what the database says of a stage (or to nothing)."""
        stage = self._stages.pop(content, None)
        if stage is not None:
            stage.close()
        for row in self._store.stages():
            if row.content == content:
                self._stages[content] = Stage(self._staging, self._seal, row, self._store.stage_blocks(content))

    async def adopt(self, content: ContentId) -> None:
        """The cloud has this stage's content: hand its blocks to the cache and forget it."""
        stage = self._stages.pop(content, None)
        if stage is None:
            return
        stage.retire()
        blocks = [block for block, plane in stage.blocks.items() if plane == 0]
        if blocks:
            await self._cache.adopt(content, Stage.plane_path(self._staging, content, 0), blocks)
        stage.delete()

    # reading

    def _node(self, ino: Ino, content: ContentId) -> NodeRow | None:
        node = self._store.node_of(ino)
        return node if node is not None and node.content == content else None

    async def _fetch(self, ino: Ino, content: ContentId, pinned: NodeRef | None, span: Span) -> bytes:
        node = self._node(ino, content)
        ref = node.ref(Kind.FILE) if node is not None else pinned
        if ref is None:
            raise RevisionGone("this content is no longer in the cloud")
        try:
            return await self._cloud.read(ref, span)
        except RevisionGone:
            self._gone(ino)
            raise

    async def read(self, ino: Ino, content: ContentId, pinned: NodeRef | None, span: Span) -> bytes:
        """Exactly ``span`` of any content of ``ino``, without read-ahead. RevisionGone when the cloud lost it."""
        while (stage := self._stages.get(content)) is not None:
            with suppress(StageRetired):
                return await stage.read(span, self.base_reader(ino, stage, pinned))
        node = self._node(ino, content)
        if node is None and pinned is None:
            raise RevisionGone("this content is no longer in the cloud")
        size = node.size if node is not None else pinned.size if pinned is not None else 0
        return await self._cache.read_span(content, size, span, partial(self._fetch, ino, content, pinned))

    def base_reader(self, ino: Ino, stage: Stage, pinned: NodeRef | None) -> Callable[[Span], Awaitable[bytes]]:
        """What shows through a stage."""
        return partial(self.read, ino, stage.base, pinned)

    def _reader(self, handle: Handle) -> Reader:
        file = handle.file
        if handle.reader is None or handle.reader_content != file.content:
            handle.close_reader()
            fetch = partial(self._fetch, file.ino, file.content, file.ref)
            handle.reader = self._cache.reader(file.content, file.size, fetch)
            handle.reader_content = file.content
        return handle.reader

    def _span(self, file: OpenFile, offset: int, size: int) -> Span:
        return Span(offset, offset + size).clamp(file.size)

    def read_file_nowait(self, handle: Handle, offset: int, size: int) -> bytes | memoryview | None:
        """What a handle sees, if it is in memory."""
        file = handle.file
        span = self._span(file, offset, size)
        if not span:
            return b""
        if file.stage is not None:
            return file.stage.read_nowait(span)
        return self._reader(handle).read_nowait(span)

    async def read_file(self, handle: Handle, offset: int, size: int) -> bytes | memoryview:
        """What a handle sees; short only at the end of the file."""
        file = handle.file
        span = self._span(file, offset, size)
        if not span:
            return b""
        while (stage := file.stage) is not None:
            with suppress(StageRetired):
                return await stage.read(span, self.base_reader(file.ino, stage, file.ref))
            if file.stage is stage:
                raise RevisionGone("this content was dropped")
        return await self._reader(handle).read(span)
