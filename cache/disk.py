"""The sealed disk cache as the loop sees it: what is where, who is evicted, and the one writer.

Index, budget and queue live on the loop; files are touched by ``slots`` in threads. One lock orders everything
that changes files (write, adopt, remove). A fault of the disk is never a reader's: the disk is taken out of use
with one warning and every look-up from then on is a miss. Knows no memory cache and no fetch.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.cache import slots
from serpentfs.cache.blocks import BlockSet
from serpentfs.cache.eviction import DiskLedger
from serpentfs.cache.seal import BlockSeal
from serpentfs.cache.sealed import SealedSpan
from serpentfs.model import BlockIndex, ContentId, Span

log = logging.getLogger(__name__)

WRITE_QUEUE_BYTES = 16 * 1024 * 1024
"""Cleartext that may wait to be written. A block that finds the queue full is not written: it is in memory, and a
disk slower than the link must not slow the reader down."""

WRITE_BATCH_BYTES = 4 * 1024 * 1024
WRITE_BATCH_CONTENTS = 64

OPEN_FILES = 64
"""Descriptors kept open for reads that the page cache can answer on the loop."""

TOUCHES_AT_ONCE = 256

_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Shortages of this process, not faults of the disk: the one attempt counts as a miss."""


@dataclass(slots=True)
class _File:
    """A content's file. ``blocks`` is where slots may be; None when nobody looked yet."""

    blocks: BlockSet | None


class DiskCache:
    """Sealed blocks under ``directory``: at most ``budget`` bytes, and none that would leave the file system with
    less than ``floor`` bytes free. ``pinned`` tells which contents are open: those are not evicted."""

    def __init__(
        self, directory: Path, seal: BlockSeal, budget: int, floor: int, pinned: Callable[[ContentId], bool]
    ) -> None:
        self._directory = directory
        self._seal = seal
        self._floor = floor
        self._pinned = pinned
        self._files: dict[ContentId, _File] = {}
        self._ledger = DiskLedger(budget)
        self._descriptors: OrderedDict[ContentId, int] = OrderedDict()
        self._at_once: set[ContentId] = set()
        """Of those, whose last read on the loop did not fail."""
        self._buffer = slots.scratch()
        self._queue: OrderedDict[ContentId, dict[BlockIndex, bytes]] = OrderedDict()
        self._batch: dict[ContentId, dict[BlockIndex, bytes]] = {}
        self._adopting: ContentId | None = None
        self._doomed: dict[ContentId, None] = {}
        self._closing: list[int] = []
        self._touched: dict[ContentId, int] = {}
        self._lock = trio.Lock()
        self._work = trio.lowlevel.ParkingLot()
        self._progress = trio.lowlevel.ParkingLot()
        self._scanned = trio.Event()
        self._busy = False
        self._over_budget = False
        """Something may be evicted because of that."""
        self._running = False
        self._inline = slots.NOWAIT
        """Flags of reads on the loop; None: there are none."""
        self.usable = True
        self.damaged_slots = 0
        self.queued_bytes = 0
        self.unwritten_blocks = 0
        """Blocks that were not written: queue full, no room, or no descriptor."""

    @property
    def taken_bytes(self) -> int:
        """Bytes of disk that count against the budget (whole pages: at least what the files really take)."""
        return self._ledger.total

    def resize(self, budget: int, floor: int) -> None:
        """Other limits. What is too much for the budget is evicted soon, and what is open then once it is closed."""
        self._floor = floor
        self._ledger.resize(budget)
        self.unpinned()

    def unpinned(self) -> None:
        """Something that was open is not any more."""
        if self.usable and self._ledger.excess(0):
            self._over_budget = True
            self._work.unpark_all()

    # look-ups

    def must_look(self, content: ContentId) -> bool:
        """Whether ``look`` has to be called before ``holds`` can tell."""
        if not self.usable:
            return False
        file = self._files.get(content)
        if file is None:
            return not self._scanned.is_set() and content not in self._doomed
        return file.blocks is None

    async def look(self, content: ContentId) -> None:
        """Find out which blocks of a content are here."""
        before = self._files.get(content)
        try:
            found = await run_in_thread("disk", slots.look, self._path(content))
        except OSError as error:
            self._failed(error)
            return
        if found is None:
            if before is not None and self._files.get(content) is before:
                self._lost(content)
            return
        file = self._files.get(content)
        if file is None and before is None and not self._scanned.is_set() and content not in self._doomed:
            file = self._files[content] = _File(None)
            self._ledger.took(content, found.taken)
        if file is not None and file.blocks is None and self.usable:
            file.blocks = found.blocks
            self._keep_open(content, found.descriptor)
        else:  # somebody else looked, or the file is another one or gone
            self._close_later(found.descriptor)

    def holds(self, content: ContentId, block: BlockIndex) -> bool:
        """Whether a block is probably here. Only opening its slot tells for certain."""
        file = self._files.get(content)
        return self.usable and file is not None and file.blocks is not None and block in file.blocks

    def read_nowait(self, content: ContentId, blocks: range, size: int) -> slots.Opened | None:
        """At most ``slots.PIECE`` neighbouring blocks that ``holds`` named, None when the disk would have to be
        waited for. An item is None where the slot turned out empty or damaged."""
        descriptor = self._descriptors.get(content)
        if descriptor is None or self._inline is None or not self.usable:
            return None
        self._descriptors.move_to_end(content)
        try:
            read = slots.read_cached(descriptor, self._seal, content, blocks, size, self._buffer, self._inline)
        except OSError as error:
            self._not_read(descriptor, error)
            return None
        if read is None:
            self._at_once.discard(content)
            return None
        self._at_once.add(content)
        self._count(content, blocks, read)
        return read.blocks

    def gives_at_once(self, content: ContentId) -> bool:
        """Whether a read of what is here of a content will probably not wait for the disk: the last one did not."""
        return content in self._at_once

    def read_parts_nowait(self, content: ContentId, span: Span, size: int) -> memoryview | None:
        """The bytes of ``span`` within one block that ``holds`` named. None when the disk would have to be waited for,
        or the slot is empty or damaged, which ``read_nowait`` finds out and remembers."""
        descriptor = self._descriptors.get(content)
        if descriptor is None or self._inline is None or not self.usable:
            return None
        self._descriptors.move_to_end(content)
        try:
            data = slots.read_parts_cached(descriptor, self._seal, content, span, size, self._buffer, self._inline)
        except OSError as error:
            self._not_read(descriptor, error)
            return None
        if data is not None:
            self.used(content)
        return data

    def _not_read(self, descriptor: int, error: OSError) -> None:
        """A read on the loop failed: the disk's fault, unless the file system refuses such reads."""
        if error.errno != errno.EOPNOTSUPP:
            self._failed(error)
        else:
            self._inline = 0 if self._inline and slots.lies_in_memory(descriptor) else None

    def sealed(self, content: ContentId, size: int, span: Span) -> SealedSpan:
        """The bytes of ``span``, whose blocks ``holds`` named, for a thread that reads them by itself."""
        self.used(content)
        return SealedSpan(self._path(content), self._seal, content, size, span)

    async def read(self, content: ContentId, blocks: range, size: int) -> slots.Opened:
        """Neighbouring blocks, read in a thread. An item is None where there is no good slot."""
        file = self._files.get(content)
        try:
            read, descriptor = await run_in_thread(
                "disk", slots.read, self._path(content), self._seal, content, blocks, size
            )
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                if file is not None and self._files.get(content) is file:
                    self._lost(content)
            else:
                self._failed(error)
            return [None] * len(blocks)
        if file is not None and self._files.get(content) is file and self.usable:
            self._keep_open(content, descriptor)
            self._count(content, blocks, read)
        else:
            self._close_later(descriptor)
        return read.blocks

    def _count(self, content: ContentId, blocks: range, read: slots.Slots) -> None:
        if read.damaged:
            self.damaged_slots += read.damaged
            log.warning("cache: %d damaged blocks will be fetched again", read.damaged)
        file = self._files[content]
        if file.blocks is not None:
            for block, data in zip(blocks, read.blocks, strict=True):
                if data is None:
                    file.blocks.discard(block)
        self.used(content)

    def _keep_open(self, content: ContentId, descriptor: int) -> None:
        if content in self._descriptors or not self._running:
            os.close(descriptor)
            return
        self._descriptors[content] = descriptor
        if len(self._descriptors) > OPEN_FILES:
            oldest, descriptor = self._descriptors.popitem(last=False)
            self._at_once.discard(oldest)
            os.close(descriptor)

    def used(self, content: ContentId) -> None:
        """A content was opened or read: it becomes the most recently used, also for the next start."""
        if content in self._ledger:
            self._ledger.used(content)
            self._touched[content] = time.time_ns()
            if len(self._touched) >= TOUCHES_AT_ONCE:
                self._work.unpark_all()

    # changes

    def offer(self, content: ContentId, block: BlockIndex, data: bytes) -> None:
        """Queue a block for the writer, unless it is here, the queue is full or the disk out of use."""
        if not self.usable or not self._running or self.holds(content, block):
            return
        queued = self._queue.get(content)
        if queued is not None and block in queued:
            return
        if self.queued_bytes + len(data) > WRITE_QUEUE_BYTES:
            self.unwritten_blocks += 1
            return
        self._queue.setdefault(content, {})[block] = data
        self.queued_bytes += len(data)
        self._work.unpark_all()

    async def wait_room(self, size: int) -> None:
        """Until the queue has room for ``size`` more bytes (at most ``WRITE_QUEUE_BYTES``), or nobody writes."""
        await trio.lowlevel.checkpoint()
        while self._running and self.usable and self.queued_bytes + size > WRITE_QUEUE_BYTES:
            await self._progress.park()

    def forget(self, content: ContentId) -> None:
        """Drop a content; the file is removed by the writer."""
        self.queued_bytes -= sum(map(len, self._queue.pop(content, {}).values()))
        self._batch.pop(content, None)
        if self._adopting == content:
            self._adopting = None
        if self.usable and (content in self._files or not self._scanned.is_set()):
            self._doom(content)

    def _doom(self, content: ContentId) -> None:
        self._files.pop(content, None)
        self._ledger.removed(content)
        self._touched.pop(content, None)
        self._drop_descriptor(content)
        self._doomed[content] = None
        self._work.unpark_all()

    def _lost(self, content: ContentId) -> None:
        """Somebody removed the file."""
        del self._files[content]
        self._ledger.removed(content)
        self._touched.pop(content, None)
        self._drop_descriptor(content)

    def _drop_descriptor(self, content: ContentId) -> None:
        self._at_once.discard(content)
        descriptor = self._descriptors.pop(content, None)
        if descriptor is not None:
            self._close_later(descriptor)

    def _close_later(self, descriptor: int) -> None:
        """Leave a descriptor of a file that may be removed to the writer: its close may take long."""
        if self._running:
            self._closing.append(descriptor)
            self._work.unpark_all()
        else:
            os.close(descriptor)

    async def adopt(self, content: ContentId, source: Path, blocks: Collection[BlockIndex]) -> None:
        """Make a slot file of this content its file here, with exactly ``blocks``; one that does not fit is removed.
        ``source`` is gone afterwards."""
        if self._running and self.usable:
            await self._scanned.wait()
        async with self._lock:
            self._busy = True
            self._adopting = content
            try:
                adopted = await self._adopt(content, source, blocks)
            except FileNotFoundError as error:
                log.warning("cache: there is nothing to adopt: %s", error)
                adopted = False
            except OSError as error:
                self._failed(error)
                adopted = False
            finally:
                self._adopting = None
                self._finish()
            if not adopted:
                await discard(source)

    async def _adopt(self, content: ContentId, source: Path, blocks: Collection[BlockIndex]) -> bool:
        if not self._running or not self.usable or not blocks:
            return False
        if content in self._files:
            self._doom(content)  # what was here of it; the new file has all
        await self._remove_doomed()
        target = self._path(content)
        taken, needs, is_moved = await run_in_thread(
            "disk", slots.take_in, source, target, frozenset(blocks), self._directory, self._ledger.room, self._floor
        )
        if not is_moved:
            if not await self._make_room(taken, needs) or self._adopting is None:
                return False
            await run_in_thread("disk", slots.move_in, source, target)
        if self._adopting is None:
            self._doom(content)  # forgotten meanwhile
        else:
            self._files[content] = _File(BlockSet(blocks))
            self._ledger.took(content, taken)
            self._touched[content] = time.time_ns()
        return True

    # the writer

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Scan the directory, then write and remove what is queued, until cancelled."""
        self._running = True
        task_status.started()
        try:
            await self._scan()
            while True:
                while self._has_work():
                    async with self._lock:
                        self._busy = True
                        try:
                            await self._work_once()
                        except OSError as error:
                            self._failed(error)
                        finally:
                            self._finish()
                await self._work.park()
        finally:
            self._running = False
            self._shut_down()

    def _has_work(self) -> bool:
        waiting = self._queue or self._doomed or self._closing or self._over_budget
        return bool(waiting or len(self._touched) >= TOUCHES_AT_ONCE)

    def _finish(self) -> None:
        self._busy = False
        self._progress.unpark_all()

    async def wait_written(self) -> None:
        """Until what was queued is on disk or dropped. Does not wait when the writer does not run."""
        await trio.lowlevel.checkpoint()
        while self._running and (
            self._busy or self._queue or self._doomed or self._over_budget or not self._scanned.is_set()
        ):
            await self._progress.park()

    async def _scan(self) -> None:
        try:
            found = await run_in_thread("disk", slots.scan, self._directory)
        except OSError as error:
            self._failed(error)
            self.usable = False  # without knowing what is here, no budget can be kept
            found = []
        self._ledger.found((content, taken) for content, taken in found if content not in self._doomed)
        for content, _ in found:
            if content not in self._doomed:
                self._files.setdefault(content, _File(None))
        self.unpinned()  # the budget may be smaller than at the last start
        self._scanned.set()
        self._progress.unpark_all()

    async def _work_once(self) -> None:
        if self._over_budget:
            self._over_budget = False
            for victim in self._ledger.oldest(self._ledger.excess(0), self._is_protected):
                self._doom(victim)
        await self._remove_doomed()
        if self._touched:
            times = {self._path(content): when for content, when in self._touched.items()}
            self._touched.clear()
            await run_in_thread("disk", slots.touch, times)
        self._batch = self._next_batch()
        try:
            if self._batch:
                await self._write()
        finally:
            self._batch = {}  # what is written is no more protected than the rest

    async def _remove_doomed(self) -> None:
        """Not to be called without the lock."""
        if not self._doomed and not self._closing:
            return
        doomed = list(self._doomed)
        closing, self._closing = self._closing, []
        try:
            await run_in_thread("disk", slots.remove, [self._path(content) for content in doomed], closing)
        finally:
            for content in doomed:
                self._doomed.pop(content, None)

    def _next_batch(self) -> dict[ContentId, dict[BlockIndex, bytes]]:
        """Take blocks off the queue, oldest contents first."""
        batch: dict[ContentId, dict[BlockIndex, bytes]] = {}
        left = WRITE_BATCH_BYTES
        while self._queue and left > 0 and len(batch) < WRITE_BATCH_CONTENTS:
            content, queued = self._queue.popitem(last=False)
            taken = batch[content] = {}
            while queued and left > 0:
                block, data = queued.popitem()
                taken[block] = data
                left -= len(data)
                self.queued_bytes -= len(data)
            if queued:
                self._queue[content] = queued
        return batch

    async def _write(self) -> None:
        need = self._batch_charge()
        if not await self._make_room(need, need):
            self.unwritten_blocks += sum(map(len, self._batch.values()))
            return
        jobs = []
        for content, blocks in self._batch.items():  # without what was forgotten while room was made
            self._ledger.took(content, self._charge(content, blocks))
            self._files.setdefault(content, _File(BlockSet()))
            jobs.append((self._path(content), content, blocks))
        await run_in_thread("disk", _write_jobs, self._seal, jobs)
        for _, content, blocks in jobs:
            # A content that was forgotten during the write is doomed, and its file goes in the next round.
            file = self._files.get(content)
            if file is not None and file.blocks is not None:
                for block in blocks:
                    file.blocks.add(block)

    def _batch_charge(self) -> int:
        return sum(self._charge(content, blocks) for content, blocks in self._batch.items())

    def _charge(self, content: ContentId, blocks: dict[BlockIndex, bytes]) -> int:
        file = self._files.get(content)
        charge = 0 if file is not None else slots.FILE_CHARGE
        for block, data in blocks.items():
            if file is None or file.blocks is None or block not in file.blocks:
                charge += slots.slot_charge(block, len(data))
        return charge

    async def _make_room(self, charge: int, needs: int) -> bool:
        """Evict until ``charge`` more bytes fit into the budget and writing ``needs`` more bytes leaves the floor.
        False when that cannot be had."""
        shortage = self._ledger.excess(charge)
        for _ in range(3):  # what a victim frees is known only afterwards: sparse files take less than counted
            if shortage:
                victims = self._ledger.victims(shortage, self._is_protected)
                if victims is None:
                    return False
                for victim in victims:
                    self._doom(victim)
                await self._remove_doomed()
            free = await run_in_thread("disk", slots.free_bytes, self._directory)
            shortage = max(0, self._floor + needs - free)
            if not shortage:
                return True
        return False

    def _is_protected(self, content: ContentId) -> bool:
        return content in self._batch or self._pinned(content)

    # faults and the end

    def _failed(self, error: OSError) -> None:
        """Take the disk out of use, except for a passing shortage of this process."""
        if error.errno in _PASSING:
            self.unwritten_blocks += 1
            log.debug("cache: %s", error)
            return
        self._drop_queue()
        if not self.usable:
            return
        self.usable = False
        log.warning("cache: the disk cache in %s is out of use: %s", self._directory, error)

    def _drop_queue(self) -> None:
        self._queue.clear()
        self.queued_bytes = 0
        self._doomed.clear()

    def _shut_down(self) -> None:
        """Leave files as they are, except those that must go; everything here is disposable."""
        times = {self._path(content): when for content, when in self._touched.items()}
        descriptors = [*self._closing, *self._descriptors.values()]
        doomed = [self._path(content) for content in self._doomed]
        self._touched.clear()
        self._closing.clear()
        self._descriptors.clear()
        self._at_once.clear()
        self._drop_queue()
        self._scanned.set()
        try:
            slots.remove(doomed, descriptors)
            if self.usable:
                slots.touch(times)
        except OSError as error:
            log.debug("cache: at the end: %s", error)
        self._progress.unpark_all()

    def _path(self, content: ContentId) -> Path:
        return slots.path_of(self._directory, content)


def _write_jobs(seal: BlockSeal, jobs: list[tuple[Path, ContentId, dict[BlockIndex, bytes]]]) -> None:
    for path, content, blocks in jobs:
        slots.write(path, seal, content, blocks)


async def discard(source: Path) -> None:
    """Remove a slot file that is not adopted."""
    try:
        await run_in_thread("disk", slots.remove, [source])
    except OSError as error:
        log.warning("cache: cannot remove %s: %s", source, error)
