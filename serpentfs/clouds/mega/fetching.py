"""Ciphertext of a file from the storage servers: URLs, ranges, cloud-RAID (specification, 7.5 and 7.6)."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.mega.api import Api
from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.raid import LINE, PARTS, join, part_size, part_span
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import NotFound, RateLimited, RetryableError, RevisionGone, Unavailable
from serpentfs.model import Span

log = logging.getLogger(__name__)

_URL_AGE = 3600.0
"""Seconds for which a download URL is used: servers keep them far longer, but none is needed that old."""
_MOST_URLS = 4096
_ATTEMPTS = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 8.0
_OVER_QUOTA = 3600.0
"""Seconds to wait for transfer quota when the server does not say how long."""
_STALL = 30.0


@dataclass(frozen=True, slots=True)
class _Urls:
    urls: tuple[str, ...] = field(repr=False)
    until: float


class _Expired(Exception):
    """The URL is not good any more."""


class Fetcher:
    """``public_file``: nodes are named by the handle of a public link."""

    def __init__(self, api: Api, transport: Transport, *, connections: int, public_file: bool) -> None:
        self._api = api
        self._transport = transport
        self._public_file = public_file
        self._connections = connections
        self._limiter = trio.CapacityLimiter(connections)
        self._urls: dict[str, _Urls] = {}
        self._asking: dict[str, trio.Lock] = {}

    @property
    def in_use(self) -> int:
        """Connections that are being read from."""
        return int(self._limiter.borrowed_tokens)

    def limit_connections(self, most: int | None) -> None:
        """From now on; what runs goes on. None: as many as at the start."""
        self._limiter.total_tokens = self._connections if most is None else min(most, self._connections)

    def forget(self, node: Node) -> None:
        """The next fetch asks for a new URL."""
        self._urls.pop(node.handle, None)

    async def _urls_of(self, node: Node) -> tuple[str, ...]:
        lock = self._asking.setdefault(node.handle, trio.Lock())
        try:
            async with lock:
                known = self._urls.get(node.handle)
                if known is None or known.until < trio.current_time():
                    if len(self._urls) >= _MOST_URLS:
                        self._urls.clear()
                    known = _Urls(await self._ask(node), trio.current_time() + _URL_AGE)
                    self._urls[node.handle] = known
                return known.urls
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._asking.pop(node.handle, None)

    async def _ask(self, node: Node) -> tuple[str, ...]:
        who = {"p": node.handle} if self._public_file else {"n": node.handle}
        answer = await self._question({"a": "g", "g": 1, "ssl": 2, "v": 2, **who})
        urls = answer.get("g")
        if isinstance(urls, str):
            return (urls,)
        if isinstance(urls, list) and len(urls) in (1, PARTS) and all(isinstance(url, str) for url in urls):
            return tuple(urls)
        raise Unavailable("the file is not available for now")

    async def _question(self, command: dict[str, Any]) -> Mapping[str, Any]:
        try:
            answer = await self._api.quick(command)
        except NotFound as error:
            raise RevisionGone("the content is no longer there") from error
        if not isinstance(answer, dict):
            raise Unavailable("the server's answer cannot be understood")
        if answer.get("e") == -17 or (answer.get("tl") and "g" not in answer):
            raise self._api.note_over_quota(float(answer.get("tl") or _OVER_QUOTA))
        if "d" in answer or answer.get("e") in (-9, -16):
            raise RevisionGone("the content was taken down")
        return answer

    async def fetch(self, node: Node, span: Span) -> bytes:
        """The ciphertext of a span. RevisionGone, RateLimited (transfer quota), Unavailable."""
        until = self._api.over_quota_until
        if until is not None and until > time.time():
            raise self._api.note_over_quota(until - time.time())
        buffer = bytearray()
        pause = _FIRST_PAUSE
        for attempt in range(_ATTEMPTS):
            before = len(buffer)
            try:
                urls = await self._urls_of(node)
                if len(urls) == PARTS:
                    return await self._fetch_parts(urls, node.size, span)
                await self._continue(urls[0], span, buffer)
                return bytes(buffer)
            except _Expired:
                self.forget(node)
                if attempt + 1 == _ATTEMPTS:
                    raise Unavailable("the storage server does not know its own address") from None
                continue
            except RateLimited:
                raise
            except RetryableError as error:
                if attempt + 1 == _ATTEMPTS:
                    raise
                log.info("a download broke off and goes on: %s", error)
            if len(buffer) > before:
                pause = _FIRST_PAUSE
                continue
            await trio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise Unavailable("the storage server breaks off again and again")

    async def _continue(self, url: str, span: Span, buffer: bytearray) -> None:
        """Fetch what is missing of a span behind what is in the buffer."""
        start = span.start + len(buffer)
        async with (
            self._limiter,
            self._transport.stream("GET", f"{url}/{start}-{span.stop - 1}", timeout=_STALL, storage=True) as reply,
        ):
            self._check(reply.status, reply.headers)
            async for piece in reply.chunks():
                buffer += piece
                if len(buffer) > len(span):
                    del buffer[start - span.start :]
                    raise Unavailable("the storage server sent more than was asked for")
        if len(buffer) < len(span):
            raise Unavailable("the storage server broke off")

    def _check(self, status: int, headers: Mapping[str, str]) -> None:
        match status:
            case 200 | 206:
                return
            case 403 | 404 | 410:
                raise _Expired
            case 509:
                left = headers.get("x-mega-time-left", "")
                raise self._api.note_over_quota(float(left) if left.isdigit() else _OVER_QUOTA)
            case _:
                raise Unavailable(f"the storage server answered with HTTP {status}")

    async def _fetch_parts(self, urls: tuple[str, ...], size: int, span: Span) -> bytes:
        """A span of a file that lies in six parts, of which any five are enough: all are asked, the last one is not
        waited for."""
        lines = Span(span.start - span.start % LINE, min(size, span.stop + -span.stop % LINE))
        parts: list[bytes | None] = [None] * PARTS
        failures: list[Exception] = []

        async def fetch_part(number: int, scope: trio.CancelScope) -> None:
            wanted = part_span(lines).clamp(part_size(size, number))
            buffer = bytearray()
            try:
                if len(wanted):
                    await self._continue(urls[number], wanted, buffer)
            except (RetryableError, _Expired) as error:
                failures.append(error)
                if len(failures) > 1:
                    scope.cancel()
                return
            parts[number] = bytes(buffer)
            if sum(part is not None for part in parts) == PARTS - 1:
                scope.cancel()

        async with trio.open_nursery() as nursery:
            for number in range(PARTS):
                nursery.start_soon(fetch_part, number, nursery.cancel_scope)
        if sum(part is not None for part in parts) < PARTS - 1:
            raise failures[0]
        whole = await run_in_thread("store", join, parts, lines)
        return whole[span.start - lines.start :][: len(span)]
