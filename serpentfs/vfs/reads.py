"""The read path below the handles: from a content id to bytes.

One ``read()`` of a mounted file goes

    gateways/fuse/operations.read → vfs/drive.read → handles (the open file's content)
    → here: staged? writes.Stage, else → cache/layers.Reader (memory, sealed disk, one flight per block)
    → ``_fetch`` here → clouds/base.Cloud.read (decrypts and verifies)

Contents never change, so nothing here needs a lock: whoever changes a file gives it another content id, or changes
a stage that is its own.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.cache.layers import BlockCache, Reader
from serpentfs.cache.seal import BlockSeal
from serpentfs.cache.sealed import SealedSpan
from serpentfs.clouds.base import Cloud
from serpentfs.errors import RevisionGone, SerpentError, Unavailable
from serpentfs.model import BLOCK_SIZE, ContentId, Ino, Kind, NodeId, Revision, Span
from serpentfs.tree.store import NodeRow, StageRow, Store
from serpentfs.vfs.handles import Handle, OpenFile
from serpentfs.vfs.ledger import Ledger
from serpentfs.vfs.writes import Stage, StageRetired

log = logging.getLogger(__name__)

_GATHER_DOOMED = 0.1
"""Seconds in which stages that end are gathered: their files go together."""
_RETRY_REMOVAL = 10.0
"""Seconds after which files are removed again that could not be."""
_BASES = "kept-bases"
"""Where the records of ``give_up_node`` are kept, as if it were a door."""


class Contents:
    """Every content of the drive, staged or in the cloud. ``gone`` is told of a node whose content vanished."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        cache: BlockCache,
        staging: Path,
        seal: BlockSeal,
        ledger: Ledger,
        gone: Callable[[Ino], None],
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._cache = cache
        self._staging = staging
        self._seal = seal
        self._ledger = ledger
        self._gone = gone
        self._stages: dict[ContentId, Stage] = {}
        self._doomed: list[str] = []
        self._more_doomed = trio.Event()
        self._showing: Counter[ContentId] = Counter()
        """How many stages show a content."""
        self._bases = {node.content: node for node in map(_read_node, store.records(_BASES).values())}
        """Nodes that are not their inodes' any more, but show through a stage."""

    # stages

    def load_stages(self) -> None:
        """At start: every stage of the database."""
        for row in self._store.stages():
            self._add(Stage(self._staging, self._seal, row, self._store.stage_blocks(row.content)))
        with self._store.transaction():
            for content in [base for base in self._bases if not self.is_base(base)]:
                del self._bases[content]
                self._store.put_record(_BASES, str(content), None)

    def stage(self, content: ContentId) -> Stage | None:
        return self._stages.get(content)

    def stages(self) -> list[Stage]:
        return list(self._stages.values())

    def new_stage(self, row: StageRow, *, stored: bool = False) -> Stage:
        """``stored``: the database has ``row``."""
        stage = Stage(self._staging, self._seal, row, {} if stored else None)
        self._add(stage)
        return stage

    def _add(self, stage: Stage) -> None:
        self._stages[stage.content] = stage
        if stage.base:
            self._showing[stage.base] += 1

    def _take_away(self, content: ContentId) -> Stage | None:
        stage = self._stages.pop(content, None)
        if stage is not None:
            self._showing[stage.base] -= 1
            if self._showing[stage.base] <= 0:
                del self._showing[stage.base]
                self._bases.pop(stage.base, None)  # its record goes at the next start
            stage.retire()
        return stage

    def is_base(self, content: ContentId) -> bool:
        """Whether a stage shows this content."""
        return content in self._showing

    def drop_stage(self, content: ContentId) -> None:
        """Forget a stage; its rows are the caller's business. Its files go when no power cut can bring back a
        database that names them."""
        stage = self._take_away(content)
        if stage is not None:
            self._doom(stage.paths)

    def reload_stage(self, content: ContentId) -> None:
        """Back to what the database says of a stage (or to nothing)."""
        stage = self._stages[content]
        stage.drop_upload()
        row = self._store.stage(content)
        if row is None:
            self.drop_stage(content)
            return
        stage.close()
        stage = self._stages[content] = Stage(self._staging, self._seal, row, self._store.stage_blocks(content))
        stage.frozen = True  # an ETag of this content may be out that stands for what is given up now

    async def adopt(self, content: ContentId, *, rows_are_durable: bool) -> None:
        """The cloud has this stage's content, and its rows are gone: forget it, and hand its blocks to the cache once
        no power cut can bring back a database that names them."""
        stage = self._take_away(content)
        if stage is None:
            return
        blocks = [block for block, plane in stage.blocks.items() if plane == 0]
        if blocks and (rows_are_durable or await self.rows_are_durable()):
            await self._cache.adopt(content, Path(Stage.plane_path(self._staging, content, 0)), blocks)
        self._doom(stage.paths)

    async def rows_are_durable(self, *, patient: bool = False) -> bool:
        """Whether everything committed so far could be made to survive a power cut. ``patient``: see ``Store.sync``."""
        try:
            await self._store.sync(patient=patient)
        except Unavailable as error:
            log.warning("%s", error)
            return False
        return True

    def _doom(self, paths: list[str]) -> None:
        self._doomed += paths
        self._more_doomed.set()

    async def remove_doomed(self) -> None:
        """Remove the files of stages that are gone, until cancelled. What is left then, the next start removes."""
        while True:
            await self._more_doomed.wait()
            await trio.sleep(_GATHER_DOOMED)
            self._more_doomed = trio.Event()
            doomed, self._doomed = self._doomed, []
            try:
                await self._store.sync()
                await run_in_thread("disk", remove_files, doomed)
            except (SerpentError, OSError) as error:
                log.warning("staging files cannot be removed: %s", error)
                self._doom(doomed)
                await trio.sleep(_RETRY_REMOVAL)

    # bases

    def give_up_node(self, ino: Ino) -> None:
        """A node is not its inode's any more. Where a change of its content shows it (journalled, or still being
        written), it is kept, and read as long as the cloud (or the cache) still has it. Within a transaction."""
        node = self._store.node_of(ino)
        if node is None:
            return
        if self.is_base(node.content):
            self._keep(node)
        self._store.drop_node(ino)

    def keep_base(self, stage: Stage, pinned: NodeRow | None) -> None:
        """What shows through a stage that is journalled now: the inode may have lost its node before it was written to,
        and what the file was opened with ends with its last handle. Within a transaction."""
        if pinned is None or pinned.content != stage.base or stage.base in self._stages:
            return
        if self._node(pinned.ino, stage.base) is None:
            self._keep(pinned)

    def _keep(self, node: NodeRow) -> None:
        self._bases[node.content] = node
        self._store.put_record(_BASES, str(node.content), _node_record(node))

    async def sync_stages(self) -> None:
        """Make all that was journalled of contents survive a power cut (``Store.sync`` must follow)."""
        for stage in self.stages():
            await stage.sync()

    async def sync_bases(self, stage: Stage) -> None:
        """The same for what shows through one stage."""
        base = self._stages.get(stage.base)
        while base is not None:
            await base.sync()
            base = self._stages.get(base.base)

    # reading

    def _node(self, ino: Ino, content: ContentId) -> NodeRow | None:
        node = self._store.node_of(ino)
        return node if node is not None and node.content == content else self._bases.get(content)

    def is_at_hand(self, ino: Ino, content: ContentId, pinned: NodeRow | None) -> bool:
        """Whether it is known where a content of ``ino`` is to be had."""
        return (
            content in self._stages
            or self._node(ino, content) is not None
            or (pinned is not None and pinned.content == content)
        )

    async def _fetch(self, ino: Ino, content: ContentId, pinned: NodeRow | None, span: Span) -> bytes:
        while True:
            node = self._node(ino, content)
            if node is None and pinned is not None and pinned.content == content:
                node = pinned
            if node is None:
                raise RevisionGone("this content is no longer in the cloud")
            try:
                return await self._cloud.read(node.ref(Kind.FILE), span)
            except RevisionGone:
                # Our own rename may be what made it go, and its outcome not be here yet.
                if await self._ledger.wait_sent(ino, uploads=False) or self._node(ino, content) not in (None, node):
                    continue
                self._gone(ino)
                raise

    async def read(self, ino: Ino, content: ContentId, pinned: NodeRow | None, span: Span) -> bytes:
        """Exactly ``span`` of any content of ``ino``, without read-ahead. RevisionGone when the cloud lost it."""
        while (stage := self._stages.get(content)) is not None:
            with suppress(StageRetired):
                return await stage.read(span, self.base_reader(ino, stage, pinned))
        node = self._node(ino, content)
        if node is None:
            node = pinned
        if node is None or node.content != content:
            raise RevisionGone("this content is no longer in the cloud")
        return await self._cache.read_span(content, node.size, span, partial(self._fetch, ino, content, pinned))

    def warm_head(self, ino: Ino, content: ContentId, size: int) -> None:
        """Load the first block of a file, if it is not here, when nothing more urgent is to be done."""
        head = min(size, BLOCK_SIZE)
        if head and content not in self._stages and not self._cache.has_all(content, head):
            self._cache.warm(content, size, Span(0, head), partial(self._fetch, ino, content, None))

    def room_for_heads(self) -> int:
        """How many heads may be asked for before those that wait are given up for them."""
        return self._cache.room_for_heads()

    def base_reader(self, ino: Ino, stage: Stage, pinned: NodeRow | None) -> Callable[[Span], Awaitable[bytes]]:
        """What shows through a stage."""
        return partial(self.read, ino, stage.base, pinned)

    def _reader(self, handle: Handle) -> Reader:
        file = handle.file
        if handle.reader is None or handle.reader_content != file.content:
            handle.close_reader()
            fetch = partial(self._fetch, file.ino, file.content, file.node)
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

    def expect(self, handle: Handle, span: Span, *, sealed: bool) -> None:
        """All of ``span`` will be read by a handle, in order."""
        if handle.file.stage is None:
            self._reader(handle).expect(span, sealed=sealed)

    def sealed_of_file(self, handle: Handle, offset: int, size: int) -> SealedSpan | None:
        """The beginning of what a handle sees, where the disk cache holds it."""
        file = handle.file
        return None if file.stage is not None else self._reader(handle).sealed(self._span(file, offset, size))

    async def read_file(self, handle: Handle, offset: int, size: int) -> bytes | memoryview:
        """What a handle sees; short only at the end of the file."""
        file = handle.file
        while True:
            span = self._span(file, offset, size)
            if not span:
                return b""
            stage = file.stage
            if stage is None:
                return await self._reader(handle).read(span)
            try:
                return await stage.read(span, self.base_reader(file.ino, stage, file.node))
            except (StageRetired, RevisionGone) as error:
                # An upload of it ended: all of it, or what shows through, is another node's now.
                if await self._ledger.wait_sent(file.ino, uploads=True) or file.stage is not stage:
                    continue
                raise RevisionGone("this content is no longer in the cloud") from error


def _node_record(node: NodeRow) -> bytes:
    return json.dumps(node).encode()


def _read_node(record: bytes) -> NodeRow:
    ino, parent, node, locator, revision, size, content = json.loads(record)
    return NodeRow(Ino(ino), Ino(parent), NodeId(node), locator, Revision(revision), size, ContentId(content))


def remove_files(paths: list[str]) -> None:
    """In a thread: the last unlink of a large file takes long. Those that are not there are passed over."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)    # noqa: PTH108 - of text, see ``Stage.plane_path``
