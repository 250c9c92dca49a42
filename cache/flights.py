"""Flights: one load of neighbouring blocks that any number of readers wait for, and the gate to the link.

A flight is on the board from its start to its landing; ``layers`` owns the board and flies. The gate lets a fixed
number of fetches run at a time and puts those that somebody waits for before those that only read ahead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

import trio

from serpentfs.model import BlockIndex, ContentId, Span

Fetch: TypeAlias = Callable[[Span], Awaitable[bytes]]
"""Fetches cleartext of one content. The span starts at a block boundary and ends at one or at the content's end;
the answer is exactly its bytes. Raises errors of ``serpentfs.errors``. It may be called after the reader that
brought it was closed, and its answer may go to other readers of the same content."""


RESERVE_FROM = 4
"""Slots from which on one is kept for read-ahead: a quarter of the fetches at most."""


MOST_HEADS = 24
"""Heads fetched at a time, beside the slots. Each is one block and one round trip, so that all of them move less than
one large fetch does, and what limits them is the trips: measured over 40 ms, 500 heads one after the other took 2.9 s
through the slots and 1.5 s beside them."""


class Flight:
    """One load of ``blocks`` of a content of ``size`` bytes.

    ``demand`` tells that a reader waits (or waited) for it, otherwise it only reads ahead; ``for_prefetch`` tells that
    it began as read-ahead, ``head`` that it is one that no reader of its content asked for. The fetch of one that is
    made ``hesitant`` waits a moment for ``wanted``, which a reader sets; ``has_begun`` tells that it came to the link,
    or at least to the disk. When ``done`` is set, either ``error`` is set or ``landed`` holds every block. ``keep`` is
    False once the content was forgotten: the readers get their bytes, the cache takes none.
    """

    __slots__ = (
        "blocks", "content", "demand", "done", "error", "fetch", "fetching", "for_prefetch", "has_begun", "head",
        "keep", "landed", "scope", "size", "waiters", "wanted",
    )  # fmt: skip

    def __init__(
        self, content: ContentId, size: int, blocks: range, fetch: Fetch, *, demand: bool, head: bool = False,
        hesitant: bool = False,
    ) -> None:
        self.content = content
        self.size = size
        self.blocks = blocks
        self.fetch = fetch
        self.demand = demand
        self.for_prefetch = not demand
        self.head = head
        self.waiters = 0
        self.fetching = False
        self.has_begun = False
        self.keep = True
        self.landed: dict[BlockIndex, bytes] = {}
        self.error: Exception | None = None
        self.done = trio.Event()
        self.wanted = trio.Event()
        if not hesitant:
            self.wanted.set()
        self.scope = trio.CancelScope()


class FetchGate:
    """At most ``slots`` fetches at a time, those that a reader waits for first.

    Of several slots one is never given to read-ahead, so that a reader does not wait for a whole fetch that nobody
    asked for. Of RESERVE_FROM or more, one is given to nothing else: with many readers somebody always waits, and
    without that slot all of them would fall back to the small fetches of a reader that is never read ahead for.

    Heads take no slot; there are MOST_HEADS at a time, and none is begun while a demand waits.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError("at least one fetch must be allowed")
        self._slots = slots
        self._most_prefetch = max(1, slots - 1)
        self._most_demand = slots - 1 if slots >= RESERVE_FROM else slots
        self._inside: set[Flight] = set()
        self._heads: set[Flight] = set()
        self._demand: OrderedDict[Flight, trio.Event] = OrderedDict()
        self._prefetch: OrderedDict[Flight, trio.Event] = OrderedDict()

    @property
    def inside(self) -> int:
        """Fetches that run now."""
        return len(self._inside) + len(self._heads)

    def has_room_for_head(self, coming: Collection[Flight]) -> bool:
        """Whether one more head may be fetched beside those that run and ``coming``."""
        return not self._demand and len(self._heads) + sum(flight.head for flight in coming) < MOST_HEADS

    def has_room_for_prefetch(self, coming: Collection[Flight]) -> bool:
        """Whether one more read-ahead that came after all of ``coming`` would get in at once, without taking the
        place of a demand."""
        coming = [flight for flight in coming if not flight.head]
        ahead = sum(not flight.demand for flights in (self._inside, coming) for flight in flights)
        if self._prefetch or ahead >= self._most_prefetch or len(self._inside) >= self._slots:
            return False
        if not ahead and self._most_demand < self._slots:
            return True
        return not self._demand and len(self._inside) + len(coming) < self._slots

    def _may_enter(self, *, demand: bool) -> bool:
        alike = sum(flight.demand == demand for flight in self._inside)
        return len(self._inside) < self._slots and alike < (self._most_demand if demand else self._most_prefetch)

    async def enter(self, flight: Flight) -> None:
        """Wait for a slot. ``leave`` must follow, however the fetch ends."""
        if flight.head:
            self._heads.add(flight)
            return
        if self._may_enter(demand=flight.demand):
            self._inside.add(flight)
            return
        granted = trio.Event()
        (self._demand if flight.demand else self._prefetch)[flight] = granted
        try:
            await granted.wait()
        except BaseException:
            self._demand.pop(flight, None)
            self._prefetch.pop(flight, None)
            self.leave(flight)  # the slot may have been granted in the moment of the cancellation
            raise

    def leave(self, flight: Flight) -> None:
        self._inside.discard(flight)
        self._heads.discard(flight)
        self._admit()

    def promote(self, flight: Flight) -> None:
        """A reader waits for this read-ahead now: it counts and queues as a demand from here on."""
        flight.demand = True
        waiting = self._prefetch.pop(flight, None)
        if waiting is not None:
            self._demand[flight] = waiting
        self._admit()

    def _admit(self) -> None:
        """Let in whoever may, demands first."""
        for queue, demand in ((self._demand, True), (self._prefetch, False)):
            while queue and self._may_enter(demand=demand):
                flight, granted = queue.popitem(last=False)
                self._inside.add(flight)
                granted.set()
