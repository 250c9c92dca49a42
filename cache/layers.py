"""The block cache as readers see it: one look-up through memory, sealed disk and fetch; one flight per block.

``Reader.read_nowait`` answers from memory and from what the disk gives at once; ``Reader.read`` boards flights for
what is missing and waits. A fault of the cache is a miss, never an error; errors of a fetch reach every reader that
waits for it and are not kept. Knows no cloud, no tree and no handle: contents are named by content id and come through
a fetch function.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from serpentfs.cache import slots
from serpentfs.cache.blocks import block_length, blocks_of, cut, runs, span_of
from serpentfs.cache.disk import DiskCache, discard
from serpentfs.cache.flights import Fetch, FetchGate, Flight
from serpentfs.cache.memory import MemoryCache
from serpentfs.cache.prefetch import LONGEST_RUN, Prefetcher, Stream
from serpentfs.cache.seal import BlockSeal
from serpentfs.cache.sealed import SealedSpan
from serpentfs.cache.window import ReadAhead, Window
from serpentfs.errors import SerpentError, Unavailable
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span

__all__ = ["BlockCache", "CacheLimits", "CacheStatistics", "Fetch", "Reader"]

log = logging.getLogger(__name__)

MiB = 1024 * 1024
GiB = 1024 * MiB

FEW_BYTES = BLOCK_SIZE // 2
"""The longest read that opens parts of a block: beyond half of it, all of it in memory is worth more. (So is a short
block, such as a small file is, that is read as a whole.)"""

HESITATION = 0.003
"""Seconds that what a new run wants ahead waits for the program to go elsewhere. Over a link that megabytes fill for
tens of milliseconds, the place it goes to would wait behind them."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Budgets, in bytes."""

    memory_bytes: int = 64 * MiB
    """Cleartext in memory, with 512 bytes of overhead for each block."""
    disk_bytes: int = 10 * GiB
    """Sealed blocks on disk, in whole pages."""
    free_space_floor: int = 1 * GiB
    """The cache writes nothing that would leave the file system with less."""
    prefetch_bytes: int = 32 * MiB
    """In flight for read-ahead or landed and not yet read, of all readers together. At most half of
    ``memory_bytes`` is used, so that what was read ahead is still there when it is read."""
    window_bytes: int = 16 * MiB
    """The furthest that one reader reads ahead."""
    parallel_fetches: int = 8
    """Fetches at a time. Each is of at most 4 MiB."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Gauges (what is so now) and counters (since the start)."""

    memory_bytes: int
    disk_bytes: int
    prefetched_bytes: int
    flights: int
    """Gauge: loads under way, from disk or by fetches."""
    fetches_in_flight: int
    queued_write_bytes: int
    """Gauge: cleartext waiting to be written to disk."""
    open_readers: int
    disk_usable: bool
    """False without a disk cache, and once the disk was taken out of use."""
    hits: int
    """Counter: blocks that reads found in memory or on disk."""
    misses: int
    """Counter: blocks that reads had to wait for."""
    memory_hits: int
    """Counter: those of ``hits`` that were in memory."""
    disk_blocks: int
    """Counter: blocks that came from disk, wholly or in part, whether a read waited for them or not."""
    fetched_blocks: int
    """Counter: blocks that were fetched, those of read-ahead among them."""
    fetches: int
    fetched_bytes: int
    damaged_slots: int
    """Counter: slots on disk that did not open and were fetched again."""
    unwritten_blocks: int
    """Counter: blocks that did not go to disk for want of room or time."""


class BlockCache:
    """See the module. ``run`` must be running for anything to be fetched; what is in memory is answered without.

    Without ``directory`` or ``seal`` there is no disk cache."""

    def __init__(self, *, seal: BlockSeal | None, directory: Path | None, limits: CacheLimits) -> None:
        self._limits = limits
        self._memory = MemoryCache(limits.memory_bytes)
        self._pins: Counter[ContentId] = Counter()
        self._disk: DiskCache | None = None
        if seal is not None and directory is not None:
            self._disk = DiskCache(
                directory, seal, limits.disk_bytes, limits.free_space_floor, self._pins.__contains__
            )
        self._gate = FetchGate(limits.parallel_fetches)
        self._board: dict[tuple[ContentId, BlockIndex], Flight] = {}
        self._approaching: set[Flight] = set()
        """Flights that took off and have not come to the gate: no read-ahead may slip in before them."""
        self._prefetcher = Prefetcher(_prefetch_budget(limits), self, trio.current_time)
        self._nursery: trio.Nursery | None = None
        self._hits = 0
        self._misses = 0
        self._memory_hits = 0
        self._disk_blocks = 0
        self._fetched_blocks = 0
        self._fetches = 0
        self._fetched_bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of the cache until cancelled. Disk writes that are still queued then are dropped. Readers
        that wait get Unavailable. What the disk holds is found out in the background; reads wait for it where
        they need it."""
        async with trio.open_nursery() as nursery:
            if self._disk is not None:
                await nursery.start(self._disk.run)
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # what flies is waited for, and nothing takes off any more

    def reader(self, content: ContentId, size: int, fetch: Fetch) -> Reader:
        """A reader of a content of ``size`` bytes with a read-ahead window of its own: one for each open handle.
        While one is open, its content is not evicted from disk."""
        return Reader(self, content, size, fetch, Window(size, self._limits.window_bytes))

    async def read_span(self, content: ContentId, size: int, span: Span, fetch: Fetch) -> bytes:
        """The bytes of ``span``, clamped to ``size``, without read-ahead."""
        span = span.clamp(size)
        ticket = await self.book(content, size, blocks_of(span), fetch)
        return bytes(cut(await ticket.arrive(), span))

    def store(self, content: ContentId, block: BlockIndex, data: bytes | memoryview) -> None:
        """Keep a known block, all of its bytes, in memory."""
        self._memory.put(content, block, bytes(data))

    def warm(self, content: ContentId, size: int, span: Span, fetch: Fetch) -> None:
        """Load ``span`` when nothing more urgent is to be done: the head of a file that is probably opened next.
        Only a hint; it may be dropped."""
        blocks = blocks_of(span.clamp(size))
        if blocks and not all(self.is_known(content, BlockIndex(block)) for block in blocks):
            self._prefetcher.warm(Stream(content, size, fetch), blocks)

    def room_for_heads(self) -> int:
        """How many spans may be given to ``warm`` before the oldest is dropped for them."""
        return self._prefetcher.warm_room

    async def keep(self, content: ContentId, size: int, span: Span, fetch: Fetch) -> None:
        """Load ``span`` and hand it to the disk, however slow that is: unlike a read, which never waits for a disk.
        Raises what the fetch raises."""
        span = span.clamp(size)
        blocks = blocks_of(span)
        disk = self._disk
        if disk is not None:
            await disk.wait_room(len(span))
        arrived = await (await self.book(content, size, blocks, fetch)).arrive()
        if disk is not None:
            await disk.wait_room(len(span))
            for block, data in zip(blocks, arrived, strict=True):
                disk.offer(content, BlockIndex(block), data)

    def has_all(self, content: ContentId, size: int) -> bool:
        """Whether every block is probably here, in memory or on disk."""
        disk = self._disk
        return all(
            (content, block) in self._memory or (disk is not None and disk.holds(content, block))
            for block in map(BlockIndex, blocks_of(Span(0, size)))
        )

    async def adopt(self, content: ContentId, slots: Path, blocks: Collection[BlockIndex]) -> None:
        """Make the file ``slots``, sealed for this content with the cache's seal, the content's disk cache. Only the
        slots in ``blocks`` count. It is removed instead when there is no room or no disk cache; afterwards
        ``slots`` does not exist in any case, unless it could not be removed, which is logged."""
        if self._disk is None:
            await discard(slots)
        else:
            await self._disk.adopt(content, slots, blocks)

    def forget(self, content: ContentId) -> None:
        """The content is gone: drop it from memory and disk. Who waits for it still gets it."""
        self._prefetcher.forget(content)
        for flight in {flight for (of, _), flight in self._board.items() if of == content}:
            flight.keep = False
            self._cancel_if_useless(flight)
        self._memory.forget(content)
        if self._disk is not None:
            self._disk.forget(content)

    def statistics(self) -> CacheStatistics:
        disk = self._disk
        return CacheStatistics(
            memory_bytes=self._memory.charged_bytes,
            disk_bytes=disk.taken_bytes if disk else 0,
            prefetched_bytes=self._prefetcher.claimed,
            flights=len(set(self._board.values())),
            fetches_in_flight=self._gate.inside,
            queued_write_bytes=disk.queued_bytes if disk else 0,
            open_readers=self._pins.total(),
            disk_usable=disk is not None and disk.usable,
            hits=self._hits,
            misses=self._misses,
            memory_hits=self._memory_hits,
            disk_blocks=self._disk_blocks,
            fetched_blocks=self._fetched_blocks,
            fetches=self._fetches,
            fetched_bytes=self._fetched_bytes,
            damaged_slots=disk.damaged_slots if disk else 0,
            unwritten_blocks=disk.unwritten_blocks if disk else 0,
        )

    @property
    def has_disk(self) -> bool:
        return self._disk is not None

    @property
    def limits(self) -> CacheLimits:
        return self._limits

    def resize(self, limits: CacheLimits) -> None:
        """Other budgets, of memory and of the disk, and another floor; the rest stays as it is. Memory is given back
        at once, disk soon."""
        self._limits = limits
        self._memory.resize(limits.memory_bytes)
        self._prefetcher.resize(_prefetch_budget(limits))
        if self._disk is not None:
            self._disk.resize(limits.disk_bytes, limits.free_space_floor)

    def hold_back(self, size: int) -> None:
        """From now on ``size`` bytes of the memory budget stay unused; with what is in flight, at most three
        quarters of it."""
        self._memory.hold_back(size)

    async def wait_written(self) -> None:
        """Until every block fetched so far is on disk, or dropped, and forgotten contents are gone from it."""
        if self._disk is not None:
            await self._disk.wait_written()
        else:
            await trio.lowlevel.checkpoint()

    # what Reader needs

    def in_memory(self, content: ContentId, span: Span) -> bytes | memoryview | None:
        """The bytes of a span (not empty) that lies wholly in memory, else None. One block's are not copied."""
        get = self._memory.get
        first = span.start // BLOCK_SIZE
        last = (span.stop - 1) // BLOCK_SIZE
        if first == last:
            data = get((content, BlockIndex(first)))
            stop = span.stop - first * BLOCK_SIZE
            if data is None or stop > len(data):
                return None
            self._hits += 1
            self._memory_hits += 1
            start = span.start - first * BLOCK_SIZE
            return data if start == 0 and stop == len(data) else memoryview(data)[start:stop]
        found: list[bytes] = []
        for block in range(first, last + 1):
            data = get((content, BlockIndex(block)))
            if data is None or len(data) < min(BLOCK_SIZE, span.stop - block * BLOCK_SIZE):
                return None
            found.append(data)
        self._hits += len(found)
        self._memory_hits += len(found)
        return cut(found, span)

    def at_hand(self, content: ContentId, size: int, span: Span, *, alone: bool) -> bytes | memoryview | None:
        """As ``in_memory``, where the disk gives at once what is not in memory; at most a mebibyte. ``alone``: nothing
        near is expected to be read next, so that of a block only what is needed is opened, and memory keeps none."""
        disk, blocks = self._disk, blocks_of(span)
        if disk is None or len(blocks) > slots.PIECE or disk.must_look(content):
            return None
        if alone and len(blocks) == 1 and len(span) <= min(FEW_BYTES, block_length(blocks.start, size) - 1):
            data = self._part_at_hand(disk, content, size, span, BlockIndex(blocks.start))
            if data is not None:
                return data
        found, missing = self._find(content, size, blocks)
        if not all(self._is_on_disk_only(disk, content, BlockIndex(block)) for block in missing):
            return None
        self._open_nowait(disk, content, size, missing, found)
        if len(found) < len(blocks):
            return None
        self._hits += len(blocks)
        self._memory_hits += len(blocks) - len(missing)
        return cut([found[block] for block in blocks], span)

    def _part_at_hand(
        self, disk: DiskCache, content: ContentId, size: int, span: Span, block: BlockIndex
    ) -> memoryview | None:
        if not disk.holds(content, block):
            return None
        data = disk.read_parts_nowait(content, span, size)
        if data is not None:
            self._hits += 1
            self._disk_blocks += 1
        return data

    def _is_on_disk_only(self, disk: DiskCache, content: ContentId, block: BlockIndex) -> bool:
        return disk.holds(content, block) and (content, block) not in self._board

    def sealed(self, content: ContentId, size: int, span: Span) -> SealedSpan | None:
        """As much of ``span`` (not empty) from its beginning on as the disk holds; None when it begins with what is
        elsewhere, in memory for instance."""
        disk, first = self._disk, span.start // BLOCK_SIZE
        if disk is None or disk.must_look(content) or (content, BlockIndex(first)) in self._memory:
            return None
        stop = first
        while stop * BLOCK_SIZE < span.stop and self._is_on_disk_only(disk, content, BlockIndex(stop)):
            stop += 1
        if stop == first:
            return None
        self._hits += stop - first
        self._disk_blocks += stop - first
        return disk.sealed(content, size, Span(span.start, min(stop * BLOCK_SIZE, span.stop)))

    async def book(self, content: ContentId, size: int, blocks: range, fetch: Fetch) -> Ticket:
        """Find what is here, and board flights for what is not. The ticket must be used."""
        await trio.lowlevel.checkpoint()
        disk = self._disk
        found, missing = self._find(content, size, blocks)
        if missing and disk is not None and disk.must_look(content):
            await disk.look(content)
            found, missing = self._find(content, size, blocks)
        missing = [block for block in missing if (content, block) not in self._board]
        on_disk: list[int] = []
        self._memory_hits += len(found)
        if missing and disk is not None:
            on_disk = [block for block in missing if disk.holds(content, BlockIndex(block))]
            self._open_nowait(disk, content, size, on_disk, found)
            missing = [block for block in missing if block not in found]
            on_disk = [block for block in missing if disk.holds(content, BlockIndex(block))]
        self._hits += len(found)
        self._misses += len(blocks) - len(found)
        to_fetch = sorted({*missing} - {*on_disk})
        for part in (on_disk, to_fetch):
            for run in runs(part, LONGEST_RUN):
                self._take_off(Flight(content, size, run, fetch, demand=True))
        return Ticket(self, content, blocks, found)

    def _open_nowait(
        self, disk: DiskCache, content: ContentId, size: int, blocks: Iterable[int], found: dict[int, bytes]
    ) -> None:
        """Bring what the disk gives at once into memory and ``found``."""
        for run in runs(blocks, slots.PIECE):
            opened = disk.read_nowait(content, run, size)
            if opened is None:
                return
            for block, data in zip(run, opened, strict=True):
                if data is not None:
                    self._memory.put(content, BlockIndex(block), data)
                    self._disk_blocks += 1
                    found[block] = data

    def _find(self, content: ContentId, size: int, blocks: range) -> tuple[dict[int, bytes], list[int]]:
        """Split blocks into those in memory and the others. One of another length than the content's size says was
        stored by mistake and is not used."""
        found: dict[int, bytes] = {}
        missing: list[int] = []
        for block in blocks:
            data = self._memory.get((content, BlockIndex(block)))
            if data is not None and len(data) == block_length(block, size):
                found[block] = data
            else:
                missing.append(block)
        return found, missing

    def join(self, content: ContentId, blocks: Iterable[int]) -> dict[int, Flight]:
        """The flights of blocks on the board, which count as demanded from now on."""
        flights = {block: self._board[content, BlockIndex(block)] for block in blocks}
        for flight in set(flights.values()):
            flight.waiters += 1
            flight.wanted.set()
            if not flight.demand:
                self._gate.promote(flight)
                self._prefetcher.pump()
        return flights

    def leave(self, flight: Flight) -> None:
        """A waiter of a flight has its bytes or went away."""
        flight.waiters -= 1
        self._cancel_if_useless(flight)

    # what Prefetcher needs

    def has_room(self) -> bool:
        return self._nursery is not None and self._gate.has_room_for_prefetch(self._approaching)

    def has_room_for_head(self) -> bool:
        return self._nursery is not None and self._gate.has_room_for_head(self._approaching)

    def is_approaching(self, stream: Stream) -> bool:
        return any(not flight.has_begun for flight in stream.flights)

    def is_known(self, content: ContentId, block: BlockIndex) -> bool:
        key = (content, block)
        if key in self._memory or key in self._board:
            return True
        return self._disk is not None and self._disk.gives_at_once(content) and self._disk.holds(content, block)

    def is_on_disk(self, content: ContentId, block: BlockIndex) -> bool:
        return self._disk is not None and self._disk.holds(content, block)

    def launch(self, stream: Stream, blocks: range, *, head: bool) -> Flight:
        flight = Flight(
            stream.content, stream.size, blocks, stream.fetch, demand=False, head=head, hesitant=stream.hesitant
        )
        self._take_off(flight)
        return flight

    # flights

    def _take_off(self, flight: Flight) -> None:
        if self._nursery is None:
            raise Unavailable("the block cache is not running")
        for block in flight.blocks:
            self._board[flight.content, BlockIndex(block)] = flight
        self._approaching.add(flight)
        self._nursery.start_soon(self._fly, flight)

    async def _fly(self, flight: Flight) -> None:
        try:
            with flight.scope:
                await self._load(flight)
        except trio.Cancelled:
            self._nursery = None  # the cache is ending: nothing may take off any more
            raise
        except SerpentError as error:
            flight.error = error
            log.debug("cache: a fetch failed: %s", error)
        except Exception as error:  # a fault in one fetch is its readers' matter, not the drive's end
            flight.error = error
            if not flight.waiters:
                log.exception("cache: a fetch that nobody waits for failed")
        finally:
            if flight.error is None and len(flight.landed) < len(flight.blocks):
                flight.error = Unavailable("the read was given up")
            self._take_off_board(flight)
            flight.done.set()
            self._approaching.discard(flight)
            if flight.for_prefetch:
                self._prefetcher.landed(flight)
            else:
                self._prefetcher.pump()

    def _take_off_board(self, flight: Flight) -> None:
        for block in flight.blocks:
            if self._board.get((flight.content, BlockIndex(block))) is flight:
                del self._board[flight.content, BlockIndex(block)]

    def _cancel_if_useless(self, flight: Flight) -> None:
        """Nobody waits for a flight any more: end it, unless its fetch already runs."""
        if not flight.waiters and not flight.fetching and not flight.done.is_set():
            self._take_off_board(flight)
            flight.scope.cancel()

    async def _load(self, flight: Flight) -> None:
        """Disk first, then the rest by fetches of neighbouring blocks."""
        content, disk = flight.content, self._disk
        if disk is not None:
            if disk.must_look(content):
                await disk.look(content)
            held = [block for block in flight.blocks if disk.holds(content, BlockIndex(block))]
            if held:
                self._has_begun(flight)
            for run in runs(held, LONGEST_RUN):
                opened = await disk.read(content, run, flight.size)
                for block, data in zip(run, opened, strict=True):
                    if data is not None:
                        self._disk_blocks += 1
                        self._land(flight, BlockIndex(block), data)
        for run in runs((block for block in flight.blocks if block not in flight.landed), LONGEST_RUN):
            await self._fetch(flight, run)

    async def _fetch(self, flight: Flight, blocks: range) -> None:
        span = span_of(blocks, flight.size)
        if not flight.wanted.is_set():
            with trio.move_on_after(HESITATION):
                await flight.wanted.wait()
            flight.wanted.set()  # for all of its runs
        self._approaching.discard(flight)
        await self._gate.enter(flight)
        try:
            self._has_begun(flight)
            flight.fetching = True
            self._fetches += 1
            began = trio.current_time()
            # Half as many again: at its end it is here twice, sealed and open.
            with self._memory.lending(len(span) * 3 // 2):
                data = await flight.fetch(span)
            self._prefetcher.fetched(len(blocks), trio.current_time() - began)
        finally:
            flight.fetching = False
            self._gate.leave(flight)
        if len(data) != len(span):
            raise Unavailable(f"{len(data)} bytes came where {len(span)} were asked for")
        self._fetched_bytes += len(data)
        self._fetched_blocks += len(blocks)
        view = memoryview(data)
        for block in blocks:
            start = block * BLOCK_SIZE - span.start
            # A copy of its own for each block, or one block in use would pin the whole fetch; of a fetch of one
            # block ``bytes`` makes none.
            cleartext = bytes(data) if len(blocks) == 1 else bytes(view[start : start + BLOCK_SIZE])
            self._land(flight, BlockIndex(block), cleartext)
            if self._disk is not None and flight.keep:
                self._disk.offer(flight.content, BlockIndex(block), cleartext)

    def _has_begun(self, flight: Flight) -> None:
        flight.has_begun = True
        self._prefetcher.pump()

    def _land(self, flight: Flight, block: BlockIndex, data: bytes) -> None:
        flight.landed[block] = data
        if flight.keep:
            self._memory.put(flight.content, block, data)

    # readers

    def opened(self, content: ContentId) -> None:
        self._pins[content] += 1
        if self._disk is not None:
            self._disk.used(content)

    def closed(self, content: ContentId) -> None:
        self._pins[content] -= 1
        if not self._pins[content]:
            del self._pins[content]
            if self._disk is not None:
                self._disk.unpinned()

    def read_ahead(self, window: Window, stream: Stream, span: Span) -> None:
        """A reader asked for ``span``: move its window, and start or stop what follows from it."""
        commands = window.got_read(span)
        position = -(-window.position // BLOCK_SIZE)
        if position > stream.position:
            self._prefetcher.read_up_to(stream, position)
        for command in commands:
            if isinstance(command, ReadAhead):
                stream.hesitant = window.has_just_begun
                self._prefetcher.want(stream, blocks_of(command.span))
            else:
                self.drop_ahead(stream, position)

    def drop_ahead(self, stream: Stream, position: int) -> None:
        useless = [flight for flight in stream.flights if not flight.waiters]
        self._prefetcher.stop(stream, position)
        for flight in useless:
            self._cancel_if_useless(flight)


class Ticket:
    """Blocks that a read needs: some are here, the others on flights that it has joined."""

    __slots__ = ("_blocks", "_cache", "_flights", "_found")

    def __init__(self, cache: BlockCache, content: ContentId, blocks: range, found: dict[int, bytes]) -> None:
        self._cache = cache
        self._blocks = blocks
        self._found = found
        self._flights = cache.join(content, (block for block in blocks if block not in found))

    async def arrive(self) -> list[bytes]:
        """All blocks in order. Raises what a flight's fetch raised."""
        flights = dict.fromkeys(self._flights.values())
        try:
            for flight in flights:
                await flight.done.wait()
                if flight.error is not None:
                    raise flight.error
        finally:
            for flight in flights:
                self._cache.leave(flight)
        found = self._found
        for block, flight in self._flights.items():
            found[block] = flight.landed[BlockIndex(block)]
        return [found[block] for block in self._blocks]


class Reader:
    """One open handle's way into the cache."""

    __slots__ = ("_cache", "_content", "_fetch", "_open", "_size", "_stream", "_window")

    def __init__(self, cache: BlockCache, content: ContentId, size: int, fetch: Fetch, window: Window) -> None:
        self._cache = cache
        self._content = content
        self._size = size
        self._fetch = fetch
        self._window = window
        self._stream = Stream(content, size, fetch)
        self._open = True
        cache.opened(content)

    @property
    def size(self) -> int:
        return self._size

    def expect(self, span: Span, *, sealed: bool) -> None:
        """All of ``span`` will be read, in order: only a hint. ``sealed``: by ``sealed`` where that gives something."""
        self._stream.from_disk = sealed
        self._window.expect(span)

    def read_nowait(self, span: Span) -> bytes | memoryview | None:
        """The bytes of ``span``, clamped to the content, when nothing has to be waited for, else None."""
        if span.stop > self._size:
            span = span.clamp(self._size)
        if span.start == span.stop:
            return b""
        data = self._cache.in_memory(self._content, span)
        if data is None:
            alone = not self._window.length
            data = self._cache.at_hand(self._content, self._size, span, alone=alone)
        if data is not None and self._open:
            self._cache.read_ahead(self._window, self._stream, span)
        return data

    def sealed(self, span: Span) -> SealedSpan | None:
        """The beginning of ``span``, clamped to the content, for a thread that reads it from disk by itself and that
        ``read`` follows for the rest. None when ``read`` is the way."""
        span = span.clamp(self._size)
        if not span or not self._open:
            return None
        found = self._cache.sealed(self._content, self._size, span)
        if found is not None:
            self._stream.from_disk = True
            self._cache.read_ahead(self._window, self._stream, found.span)
        return found

    async def read(self, span: Span) -> bytes | memoryview:
        """The bytes of ``span``, clamped to the content. Raises what the fetch raises, Unavailable when the cache
        does not run."""
        span = span.clamp(self._size)
        ticket = await self._cache.book(self._content, self._size, blocks_of(span), self._fetch)
        if span.start < span.stop and self._open:
            self._cache.read_ahead(self._window, self._stream, span)
        return cut(await ticket.arrive(), span)

    def close(self) -> None:
        """Give up what was read ahead. Closing again does nothing."""
        if self._open:
            self._open = False
            self._cache.drop_ahead(self._stream, 0)
            self._cache.closed(self._content)


def _prefetch_budget(limits: CacheLimits) -> int:
    return min(limits.prefetch_bytes, limits.memory_bytes // 2)
