"""Deadlines and retries around a Cloud, so that nothing above it waits for ever.

What changes nothing (``read``, ``snapshot``, ``quota``) is tried again, with growing pauses, until its deadline.
What changes the cloud is tried once: whether a lost answer may be followed by another attempt is the journal's
knowledge, and it says so with ``retry``. An upload has no deadline as a whole but must not stand still. Nor have
``reload`` and ``changes``: how long they take depends on the cloud, and passing trouble is dealt with in there.
Time is trio's, so that a test's clock rules here too.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from serpentfs import metrics
from serpentfs.clouds.base import Batch, Cloud, Content, GrowingContent, Known
from serpentfs.clouds.forwarding import ForwardingCloud
from serpentfs.errors import (
    LoginRequired,
    RateLimited,
    RetryableError,
    Unavailable,
)
from serpentfs.model import NodeId, NodeInfo, NodeRef, Quota, Span

_log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 8.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds until a call that has not been answered is given up as Unavailable."""

    read: float = 30.0
    """All attempts of a read, and of a question about space, together."""
    snapshot: float = 900.0
    """All attempts of a listing of the whole cloud: a million objects are a thousand requests."""
    change: float = 60.0
    stall: float = 150.0
    """An upload may stand still for this long. Longer than a part of it may take on a slow line."""


class RetryingCloud(ForwardingCloud):
    """``cloud`` with deadlines and retries. ``jitter`` gives numbers in [0, 1) that spread the pauses of clients
    which lost their store at the same moment."""

    def __init__(
        self, cloud: Cloud, *, deadlines: Deadlines = Deadlines(), jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(cloud)
        self._deadlines = deadlines
        self._jitter = jitter

    # outcomes

    def _too_late(self, what: str, seconds: float) -> Unavailable:
        error = Unavailable(f"{what}: no answer within {seconds:g} s")
        metrics.current().cloud_silent(str(error))
        return error

    async def _repeated(self, what: str, seconds: float, call: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, fails for good, or there is no time left for another attempt."""
        give_up = trio.current_time() + seconds
        pause = FIRST_PAUSE
        with trio.move_on_at(give_up):
            while True:
                try:
                    return await call()
                except LoginRequired:
                    raise  # that takes a human
                except RetryableError as error:
                    delay = pause * (0.5 + self._jitter() / 2)
                    if isinstance(error, RateLimited) and error.retry_after is not None:
                        delay = max(delay, error.retry_after)
                    if trio.current_time() + delay >= give_up:
                        raise
                    metrics.current().retries[what] += 1
                    _log.info("%s failed, next attempt in %.1f s: %s", what, delay, error)
                await trio.sleep(delay)
                pause = min(2 * pause, LONGEST_PAUSE)
        raise self._too_late(what, seconds)

    async def _once(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        with trio.move_on_after(self._deadlines.change):
            return await call()
        raise self._too_late(what, self._deadlines.change)

    # what changes nothing

    async def snapshot(self, known: Known) -> Batch:
        return await self._repeated("listing", self._deadlines.snapshot, lambda: self._cloud.snapshot(known))

    async def read(self, node: NodeRef, span: Span) -> bytes:
        return await self._repeated("reading", self._deadlines.read, lambda: self._cloud.read(node, span))

    async def quota(self) -> Quota:
        return await self._repeated("asking for space", self._deadlines.read, self._cloud.quota)

    # what changes the cloud

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        stall = self._deadlines.stall
        with trio.CancelScope(deadline=trio.current_time() + stall) as scope:
            watched = _WatchedContent(content, scope, stall)
            return await self._cloud.put(
                parent, name, watched, replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
            )
        raise self._too_late("uploading", stall)

    async def put_growing(
        self,
        parent: NodeId,
        name: str,
        content: GrowingContent,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        stall = self._deadlines.stall
        with trio.CancelScope(deadline=trio.current_time() + stall) as scope:
            watched = _WatchedGrowing(content, scope, stall)
            return await self._cloud.put_growing(
                parent, name, watched, replaces=replaces, mtime_ns=mtime_ns, token=token
            )
        raise self._too_late("uploading", stall)

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        return await self._once("making a folder", lambda: self._cloud.mkdir(parent, name, token=token, retry=retry))

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        return await self._once(
            "making a link", lambda: self._cloud.symlink(parent, name, target, mtime_ns=mtime_ns, retry=retry)
        )

    async def move(
        self,
        node: NodeRef,
        parent: NodeId,
        name: str,
        *,
        replaces: NodeRef | None,
        retry: bool = False,
    ) -> NodeInfo:
        return await self._once(
            "moving", lambda: self._cloud.move(node, parent, name, replaces=replaces, retry=retry)
        )

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        await self._once("removing", lambda: self._cloud.remove(node, retry=retry))

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        return await self._once("setting a time", lambda: self._cloud.set_mtime(node, mtime_ns, tried_ns=tried_ns))


class _WatchedGrowing:
    """A GrowingContent whose readers show that an upload is moving. While one reads, the clock of the upload's deadline
    stands: what the bytes come from (this machine's disk, whoever writes them, or the cloud itself for the untouched
    parts of a file) has its own deadlines."""

    def __init__(self, content: GrowingContent, scope: trio.CancelScope, stall: float) -> None:
        self._content = content
        self._scope = scope
        self._stall = stall
        self._reading = 0

    async def read(self, span: Span) -> bytes:
        self._reading += 1
        self._scope.deadline = float("inf")
        try:
            return await self._content.read(span)
        finally:
            self._reading -= 1
            if not self._reading:
                self._scope.deadline = trio.current_time() + self._stall


class _WatchedContent(_WatchedGrowing):
    """The same for a Content."""

    def __init__(self, content: Content, scope: trio.CancelScope, stall: float) -> None:
        super().__init__(content, scope, stall)
        self.size = content.size
