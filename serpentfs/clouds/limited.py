"""A Cloud whose transfers keep to a rate and a number, and can be paused: a token bucket and lanes for uploads, and for
downloads.

Waits here must not count against the deadlines of ``retrying``, so this wraps that one. A download is asked for in
pieces of a quarter of a second; an upload waits where its content is read, when the clock of its deadline stands.
Rates and numbers may be changed at any time, and whoever waits is told.
"""

from __future__ import annotations

import math

import trio

from serpentfs.clouds.base import Cloud, Content, GrowingContent
from serpentfs.clouds.forwarding import ForwardingCloud
from serpentfs.model import BLOCK_SIZE, NodeId, NodeInfo, NodeRef, Span

_BURST = 0.25
"""Seconds of its rate that a bucket holds: a transfer after a rest is not faster than it should be for longer."""


class Bucket:
    """Lets bytes pass at ``rate`` a second (None: at any), and none while ``paused``. Takers are served in order.

    Whoever comes may take more than there is; the next one waits until the debt is paid. So a piece larger than the
    bucket passes, too, and the rate holds on average.
    """

    def __init__(self, rate: int | None = None) -> None:
        self._rate = rate
        self._paused = False
        self._tokens = 0.0
        self._counted_at = 0.0
        self._turn = trio.Lock()
        self._changed = trio.Event()

    @property
    def rate(self) -> int | None:
        return self._rate

    @rate.setter
    def rate(self, rate: int | None) -> None:
        self._rate = rate
        self._tokens = 0.0    # a debt of slower times is not owed any more
        self._tell()

    @property
    def paused(self) -> bool:
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._tell()

    @property
    def is_open(self) -> bool:
        """Whether nothing has to wait."""
        return self._rate is None and not self._paused

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, size: int) -> None:
        """Wait until ``size`` bytes may pass."""
        if self.is_open:
            return
        async with self._turn:
            while (wait := self._wait_time()) > 0:
                with trio.move_on_after(wait):
                    await self._changed.wait()
            self._tokens -= size

    def _wait_time(self) -> float:
        """Seconds until the next one may take; infinite while paused."""
        now = trio.current_time()
        if self._paused:
            return float("inf")
        if self._rate is None:
            return 0.0
        self._tokens = min(self._rate * _BURST, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        return max(0.0, -self._tokens / self._rate)

    def piece(self) -> int | None:
        """How much to ask for at a time so that the rate holds from moment to moment: whole blocks, None for all."""
        return None if self._rate is None else max(1, int(self._rate * _BURST) // BLOCK_SIZE) * BLOCK_SIZE


class Way:
    """One direction: ``bucket`` for its bytes, and at most so many transfers at a time as ``lanes`` has tokens."""

    def __init__(self) -> None:
        self.bucket = Bucket()
        self.lanes = trio.CapacityLimiter(math.inf)


class LimitedCloud(ForwardingCloud):
    """``cloud`` behind ``up`` and ``down``."""

    def __init__(self, cloud: Cloud, *, up: Way, down: Way) -> None:
        super().__init__(cloud)
        self._up = up
        self._down = down

    async def read(self, node: NodeRef, span: Span) -> bytes:
        async with self._down.lanes:
            return await self._read(node, span, self._down.bucket)

    async def _read(self, node: NodeRef, span: Span, bucket: Bucket) -> bytes:
        if bucket.is_open:
            return await super().read(node, span)
        parts: list[bytes] = []
        start = span.start
        while start < span.stop:
            stop = min(span.stop, start + (bucket.piece() or len(span)))
            await bucket.take(stop - start)
            data = await super().read(node, Span(start, stop))
            parts.append(data)
            if len(data) < stop - start:
                break    # the end of the file
            start = stop
        return b"".join(parts)

    async def put(
        self, parent: NodeId, name: str, content: Content, *, replaces: NodeRef | None, mtime_ns: int, token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        limited = _LimitedContent(content, self._up.bucket)
        async with self._up.lanes:
            return await super().put(
                parent, name, limited, replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
            )

    async def put_growing(
        self, parent: NodeId, name: str, content: GrowingContent, *, replaces: NodeRef | None, mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        limited = _LimitedGrowing(content, self._up)
        try:
            return await super().put_growing(
                parent, name, limited, replaces=replaces, mtime_ns=mtime_ns, token=token
            )
        finally:
            limited.rest()


class _LimitedContent:
    def __init__(self, content: Content, bucket: Bucket) -> None:
        self._content = content
        self._bucket = bucket

    @property
    def size(self) -> int:
        return self._content.size

    async def read(self, span: Span) -> bytes:
        await self._bucket.take(len(span))
        return await self._content.read(span)


class _LimitedGrowing:
    """While it waits for whoever writes the content, its lane is free for others."""

    def __init__(self, content: GrowingContent, way: Way) -> None:
        self._content = content
        self._way = way
        self._has_lane = False

    async def read(self, span: Span) -> bytes:
        self.rest()
        data = await self._content.read(span)
        await self._way.lanes.acquire_on_behalf_of(self)
        self._has_lane = True
        await self._way.bucket.take(len(data))
        return data

    def rest(self) -> None:
        if self._has_lane:
            self._has_lane = False
            self._way.lanes.release_on_behalf_of(self)
