"""Read-ahead of all readers under one byte budget: who may fetch how much ahead, and when.

A *stream* is what one reader wants ahead: a range of blocks not yet under way (pending), and blocks that landed
and were not read yet (unread). The budget counts what is in flight for read-ahead and what is unread, of all
streams together. Streams take turns, so that one fast reader does not starve the others; heads that were asked to
be warmed come after every reader. Decides synchronously and launches flights through a callback; it has no task
of its own and knows neither disk nor link.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from serpentfs.cache.blocks import block_length
from serpentfs.cache.flights import Fetch, Flight
from serpentfs.model import BlockIndex, ContentId

LONGEST_RUN = 32
"""Blocks in one fetch: 4 MiB. Large enough that a request's round trip is small beside its transfer on a home link,
small enough that its memory and a reader's wait for its first byte stay bounded. A guess."""

_FIRST_RUN = 8
"""Blocks in one fetch while nothing is known of the link."""

UNHURRIED = 1.0
"""Seconds that one fetch ahead may take. Those that are under way share the link, and so land together: at 500 KB/s a
reader got nothing for half a minute, and then sixteen megabytes, which is longer than many clients wait."""

IDLE = 5.0
"""Seconds without a read after which what landed for a reader counts no more: programs keep files open that they do not
read, and two of them would hold the whole budget. The blocks stay in memory as long as any others."""

NEW_LINK = 60.0
"""Seconds without a fetch after which the link may be another one: how long its trip takes is found out anew."""

MOST_WARM = 64
"""Heads that may wait to be warmed; the oldest is dropped for a new one, since a browser moves on."""

_NONE = range(0)


class Stream:
    """What is read ahead of one place of one content."""

    __slots__ = (
        "content", "fetch", "flights", "from_disk", "hesitant", "pending", "position", "read_at", "size", "unread",
    )  # fmt: skip

    def __init__(self, content: ContentId, size: int, fetch: Fetch) -> None:
        self.content = content
        self.size = size
        self.fetch = fetch
        self.pending = _NONE
        self.position = 0
        """The first block that was not read yet; those below are of no use ahead."""
        self.read_at = -math.inf
        """When something of it was last read."""
        self.unread: dict[int, int] = {}
        """Landed blocks that wait to be read, and their bytes."""
        self.flights: set[Flight] = set()
        self.from_disk = False
        """The reader takes what the disk holds from there by itself: nothing of that is loaded ahead."""
        self.hesitant = False
        """The reader has just come here, and may as well go."""


class Launcher(Protocol):
    """What the prefetcher asks of the cache."""

    def has_room(self) -> bool:
        """Whether a read-ahead could start fetching now."""
        ...

    def has_room_for_head(self) -> bool:
        """Whether a head could."""
        ...

    def is_approaching(self, stream: Stream) -> bool:
        """Whether something that was launched for a stream has not come to the link or the disk yet."""
        ...

    def is_known(self, content: ContentId, block: BlockIndex) -> bool:
        """Whether a block is in memory or in flight, or comes from disk without a wait."""
        ...

    def is_on_disk(self, content: ContentId, block: BlockIndex) -> bool:
        """Whether the disk holds a block."""
        ...

    def launch(self, stream: Stream, blocks: range, *, head: bool) -> Flight:
        """Start loading blocks that are not known; ``Prefetcher.landed`` must follow."""
        ...


class Prefetcher:
    """See the module. ``claimed`` never exceeds ``budget``, but for a moment after that was made smaller. ``clock``
    tells seconds."""

    def __init__(self, budget: int, launcher: Launcher, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._launcher = launcher
        self._clock = clock
        self._claimed = 0
        self._readers: OrderedDict[Stream, None] = OrderedDict()
        self._warm: OrderedDict[Stream, None] = OrderedDict()
        self._running: dict[Flight, tuple[Stream, int]] = {}
        self._longest_run = _FIRST_RUN
        self._trip = math.inf
        """Seconds of the shortest fetch of few blocks: what it takes whatever its size."""
        self._fetched_at = -math.inf
        self._holding: dict[Stream, None] = {}
        """Streams with unread blocks."""

    @property
    def claimed(self) -> int:
        """Bytes in flight for read-ahead, and landed but unread."""
        return self._claimed

    def resize(self, budget: int) -> None:
        """Another budget: what is claimed beyond it is read or given up as ever, and nothing new is begun before."""
        self._budget = budget
        self.pump()

    @property
    def warm_room(self) -> int:
        """Heads that may be asked for before the oldest is dropped."""
        return MOST_WARM - len(self._warm)

    def want(self, stream: Stream, blocks: range) -> None:
        """A reader wants these blocks next, after those it already asked for."""
        stream.read_at = self._clock()
        start = stream.pending.start if stream.pending else blocks.start
        stream.pending = range(max(start, stream.position), blocks.stop)
        if stream.pending:
            self._readers[stream] = None
            self.pump()

    def warm(self, stream: Stream, blocks: range) -> None:
        """Load blocks when no reader wants anything ahead. They do not count as unread: nobody may ever come."""
        stream.pending = blocks
        stream.position = blocks.stop
        while len(self._warm) >= MOST_WARM:
            self._warm.popitem(last=False)[0].pending = _NONE
        self._warm[stream] = None
        self.pump()

    def read_up_to(self, stream: Stream, position: int) -> None:
        """Every block below ``position`` was read or passed over."""
        if position <= stream.position:
            return
        stream.read_at = self._clock()
        released = 0
        if stream.unread:
            for block in [block for block in stream.unread if block < position]:
                released += stream.unread.pop(block)
        stream.position = position
        if stream.pending:
            stream.pending = range(max(stream.pending.start, position), max(stream.pending.stop, position))
        if released:
            self._claimed -= released
            self.pump()

    def stop(self, stream: Stream, position: int = 0) -> None:
        """The reader went to another ``position`` or away: nothing it wanted ahead is wanted any more. What is in
        flight stays in the budget until it lands."""
        self._readers.pop(stream, None)
        self._warm.pop(stream, None)
        stream.pending = _NONE
        stream.position = position
        stream.flights.clear()
        self._release(stream)
        self.pump()

    def _release(self, stream: Stream) -> None:
        """Count nothing that landed for it any more."""
        self._holding.pop(stream, None)
        self._claimed -= sum(stream.unread.values())
        stream.unread.clear()

    def forget(self, content: ContentId) -> None:
        """Ask for nothing more of a content."""
        for queue in (self._readers, self._warm):
            for stream in [stream for stream in queue if stream.content == content]:
                self.stop(stream)

    def fetched(self, blocks: int, seconds: float) -> None:
        """A fetch of so many blocks, by whomever, took that long: what is launched from now on is to take no longer
        than ``UNHURRIED``, but for the trip, which smaller ones would not shorten."""
        now = self._clock()
        if now - seconds > self._fetched_at + NEW_LINK:
            self._trip = math.inf
        self._fetched_at = now
        if blocks < _FIRST_RUN:
            self._trip = min(self._trip, seconds)
        if self._trip < math.inf:
            seconds = max(0.0, seconds - self._trip)
        if seconds > UNHURRIED:
            self._longest_run = max(1, min(self._longest_run, int(blocks * UNHURRIED / seconds)))
        elif blocks >= self._longest_run:
            more = self._longest_run if seconds < UNHURRIED / 4 else 1
            self._longest_run = min(LONGEST_RUN, self._longest_run + more)

    def landed(self, flight: Flight) -> None:
        """A flight that ``launch`` started has ended. A failed one ends its stream's wishes: the reader will come to
        the place by itself, and only then it is worth another try."""
        stream, claim = self._running.pop(flight)
        self._claimed -= claim
        if flight in stream.flights:
            stream.flights.discard(flight)
            for block in flight.blocks:
                if block >= stream.position and block in flight.landed:
                    amount = len(flight.landed[BlockIndex(block)])
                    stream.unread[block] = amount
                    self._claimed += amount
                    self._holding[stream] = None
            if flight.error is not None:
                stream.pending = _NONE
        self.pump()

    def pump(self) -> None:
        """Launch whatever gate and budget allow, for each stream one after the other: what is launched at the same time
        comes to the link in any order, and a reader would wait for the first behind the last."""
        passed = 0
        while True:
            head = not self._readers
            queue = self._warm if head else self._readers
            if not queue or not (self._launcher.has_room_for_head() if head else self._launcher.has_room()):
                return
            stream = next(iter(queue))
            if self._launcher.is_approaching(stream):
                queue.move_to_end(stream)
                passed += 1
                if passed == len(queue):
                    return  # they pump again when they are there
                continue
            passed = 0
            run, claim = self._next_run(stream)
            if run:
                flight = self._launcher.launch(stream, run, head=head)
                self._running[flight] = (stream, claim)
                stream.flights.add(flight)
                self._claimed += claim
            elif stream.pending:
                if self._take_back():
                    continue
                return  # the budget is used up; whoever releases some of it pumps again
            if stream.pending:
                queue.move_to_end(stream)
            else:
                del queue[stream]

    def _take_back(self) -> bool:
        """Release what landed for readers that do not read. Tells whether there was something."""
        idle = [stream for stream in self._holding if stream.read_at < self._clock() - IDLE]
        before = self._claimed
        for stream in idle:
            self._release(stream)
        return self._claimed < before

    def _next_run(self, stream: Stream) -> tuple[range, int]:
        """Take the next unknown blocks off what the stream wants, as far as the budget goes, and their bytes."""
        pending = stream.pending
        start = pending.start
        while start < pending.stop and self._is_known(stream, BlockIndex(start)):
            start += 1
        stop = start
        claim = 0
        while stop < pending.stop and stop - start < self._longest_run and not self._is_known(stream, BlockIndex(stop)):
            length = block_length(stop, stream.size)
            if self._claimed + claim + length > self._budget:
                break
            claim += length
            stop += 1
        stream.pending = range(stop, pending.stop)
        return range(start, stop), claim

    def _is_known(self, stream: Stream, block: BlockIndex) -> bool:
        return self._launcher.is_known(stream.content, block) or (
            stream.from_disk and self._launcher.is_on_disk(stream.content, block)
        )
