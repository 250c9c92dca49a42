"""What others change in the account, from the event channel to the replica and on to the tree.

The replica takes every packet in the transaction that takes its sequence number, and keeps the list of what the tree
was not told yet; so nothing is missed between two starts, however either ended. Own changes come back as packets,
too: they are told with a delay, when the tree knows them already and finds nothing new.

A packet may come after the answer to a later command of ours: for a moment the replica then holds what was. So nothing
is told before all that waited at the start has been applied, and own changes only while nothing waits; and what is told
is an observation as old as the last poll that found nothing more, so that the tree leaves alone what was ours since.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from serpentfs.bridge import received, run_in_thread
from serpentfs.clouds.base import Batch, Listing
from serpentfs.clouds.mega.api import Api, EventsLost
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.view import View
from serpentfs.errors import LoginRequired, RetryableError, SerpentError, Unavailable, first_of
from serpentfs.model import NodeId

log = logging.getLogger(__name__)

_TREE = {"a": "f", "c": 1, "r": 1}
_PAGE = 500
"""Changes told to the tree at a time."""
_OWN_DELAY = 2.0
"""Seconds until an own change is told: its answer is in the tree by then."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_PIECES = 64
"""Pieces of a tree's reply that may wait for the thread that decodes them."""
_WHOLE_WITHIN = 1800.0
"""Seconds that the tree takes at most to be compared as a whole."""
_RESYNC = ("feed", "resync")
"""Record: the replica was loaded anew, and the tree was not compared with it yet."""


class EventFeed:
    """Follows one account. ``run`` is MegaCloud's ``changes``."""

    def __init__(
        self, api: Api, replica: Replica, view: View, whole: Callable[[], Awaitable[bytes]] | None = None
    ) -> None:
        """``whole`` fetches the tree where there are no events to follow (a file's link)."""
        self._api = api
        self._replica = replica
        self._view = view
        self._whole = whole
        self._polling = trio.Lock()
        self._polls_begun = 0
        self._caught_up_from = 0
        """The number of the poll that last found nothing more."""
        self._news = trio.Event()
        self._complete_since = (0.0, -math.inf)
        """When that poll began (trio's time, time.monotonic()): what the server had done by then is in the replica."""
        self._live = False
        """The server is asked to tell the moment something happens: the replica is as fresh as can be."""
        self._behind = whole is None
        """The replica is as a former process left it, perhaps in the middle of packets."""
        self._waiting = trio.CancelScope()
        """The wait for the server to say that something happened."""
        self._rechecks: dict[NodeId, int] = {}
        """Folders to be listed, with the number of polls that had begun when that was asked for."""
        self._whole_told = -math.inf
        """When (trio's time) the tree was given everything, and has not said yet that it holds it."""
        self.fetched = 0
        """Bytes of trees that came so far."""

    def recheck(self, directory: NodeId) -> None:
        self._rechecks[directory] = self._polls_begun
        self.wake()

    def wake(self) -> None:
        """Something is to be told."""
        self._news.set()

    # server → replica

    async def load(self) -> None:
        """Fetch the whole tree into the replica, decoded in a thread piece by piece as it comes."""
        send, receive = trio.open_memory_channel[bytes](_PIECES)

        async def fetch() -> None:
            if self._whole is not None:
                async with send:
                    await send.send(await self._whole())
                return
            async with send, self._api.stream_tree(_TREE) as pieces:
                async for piece in pieces:
                    self.fetched += len(piece)
                    await send.send(piece)

        began = trio.current_time(), time.monotonic()
        self._replica.put_record(*_RESYNC, b"1")
        failure: SerpentError | None = None  # raised below: Python before 3.11.4 wraps what is raised in an ``except*``
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch)
                async with receive:
                    loaded = await run_in_thread("store", self._replica.load, received(receive))
        except* SerpentError as group:
            failure = first_of(group)
        except* trio.BrokenResourceError:
            failure = failure or Unavailable("the account's tree could not be decoded")
        if failure is not None:
            raise failure
        self._replica.install(loaded)
        self._whole_told = -math.inf
        self._complete_since = began
        self._behind = False

    async def ensure_fresh(self) -> None:
        """The replica holds whatever others did up to now, as far as the server has told."""
        if self._live and self._complete_since[1] >= self._replica.passed_over:
            return
        arrived = self._polls_begun
        async with self._polling:
            # One poll that began after several came is the answer to all of them.
            if self._caught_up_from <= arrived:
                await self._catch_up()

    async def catch_up(self) -> str | None:
        """Apply all packets that wait. The answer: the URL that blocks until there are more. Raises EventsLost when
        the server does not keep what happened since; what is in the replica then has to be loaded anew."""
        async with self._polling:
            return await self._catch_up()

    async def _catch_up(self) -> str | None:
        if not self._replica.is_loaded:
            await self.load()
        while self._whole is None:
            self._polls_begun += 1
            begun = self._polls_begun
            now = trio.current_time(), time.monotonic()
            poll = await self._api.poll(self._replica.sn or "")
            if poll.packets:
                applied = self._replica.apply(poll.packets, poll.sn, self._api.own_id)
                self.wake()
                if applied.reload:
                    raise EventsLost("the account's events name folders that are not known")
            elif poll.wait_url is not None:
                self._caught_up_from = begun
                self._complete_since = now
                self._behind = False
                return poll.wait_url
        return None

    async def _reload(self) -> None:
        log.warning("the server does not keep what happened since: the account's tree is loaded anew")
        async with self._polling:
            await self.load()
        self.wake()

    async def reload(self) -> float:
        """Fetch the account's tree anew. The answer as of Cloud.reload."""
        async with self._polling:
            await self.load()
            loaded = self._complete_since[0]
        self.wake()
        return loaded

    async def _follow(self) -> None:
        """Until cancelled: apply what happens, the moment it happens."""
        pause = _FIRST_PAUSE
        while True:
            try:
                try:
                    wait_url = await self.catch_up()
                    self._live = True
                    self.wake()    # for who waits for a listing as of now
                    pause = _FIRST_PAUSE
                    if wait_url is not None:
                        with trio.CancelScope() as self._waiting:
                            await self._api.wait(wait_url)
                    continue
                except EventsLost:
                    self._live = False
                    await self._reload()
                    continue
                finally:
                    self._live = False
            except LoginRequired as error:
                log.error("changes elsewhere are not seen: %s", error)
                pause = _LONGEST_PAUSE
            except RetryableError as error:
                log.info("changes elsewhere are not seen for now: %s", error)
            await trio.sleep(pause * random.uniform(0.7, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    # replica → tree

    async def run(self, send: trio.MemorySendChannel[Batch]) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._whole is None:
                nursery.start_soon(self._follow)
            while True:
                self._news = trio.Event()
                again = await self._tell(send)
                with trio.move_on_after(again):
                    await self._news.wait()

    async def _tell(self, send: trio.MemorySendChannel[Batch]) -> float:
        """Send what the tree does not know. The answer: seconds until own changes are due."""
        if self._behind or not self._replica.is_loaded:
            return _OWN_DELAY
        if self._replica.get_record(*_RESYNC) is not None:
            if trio.current_time() > self._whole_told + _WHOLE_WITHIN:
                await send.send(self.whole())
            return _OWN_DELAY
        while True:
            started = self._observed_at()
            own_before = time.monotonic() - _OWN_DELAY if self._live else -math.inf
            unseen = self._replica.unseen(_PAGE, own_before=own_before)
            if not unseen.serials:
                break
            changed, removed = [], [NodeId(handle) for handle in unseen.removed]
            for node in unseen.changed:
                if self._view.holds(node):
                    changed.append(self._view.info(node))
                else:
                    removed.append(NodeId(node.handle))
            await send.send(
                Batch(
                    started,
                    (),
                    changed=tuple(changed),
                    removed=tuple(removed),
                    applied=partial(self._acknowledge, unseen.serials),
                )
            )
        rechecks = [directory for directory, asked in self._rechecks.items() if self._is_newer_than(asked)]
        if rechecks:
            for directory in rechecks:
                del self._rechecks[directory]
            started = self._observed_at()
            listings = [
                Listing(directory, tuple(children))
                for directory in rechecks
                if (children := self._view.children(directory)) is not None
            ]
            await send.send(Batch(started, tuple(listings)))
        if self._rechecks:
            # The packet of our last command may have come before its answer: then nothing need come any more.
            self._waiting.cancel()
        return _OWN_DELAY

    def _is_newer_than(self, polls: int) -> bool:
        """Whether the replica holds what had happened when that many polls had begun."""
        return self._is_settled or self._caught_up_from > polls

    @property
    def _is_settled(self) -> bool:
        """Nothing waits at the server, not even the packets of our own commands."""
        return self._whole is not None or (self._live and self._complete_since[1] >= self._replica.answered)

    def _observed_at(self) -> float:
        """From when (trio's time) what the replica holds is."""
        return trio.current_time() if self._is_settled else self._complete_since[0]

    def whole(self) -> Batch:
        """Everything, folder by folder."""
        serial = self._replica.latest_serial()
        told = self._whole_told = trio.current_time()

        async def applied() -> None:
            if told == self._whole_told:  # it was not loaded anew meanwhile
                self._replica.acknowledge_until(serial)
                self._replica.put_record(*_RESYNC, None)
                self.wake()

        return Batch(self._observed_at(), (), complete=True, tree=self._view, applied=applied)

    async def _acknowledge(self, serials: tuple[int, ...]) -> None:
        self._replica.acknowledge(serials)
