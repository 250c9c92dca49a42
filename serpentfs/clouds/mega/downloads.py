"""Cleartext of files: whole chunks, verified as far as can be, fetched once however many wait for them.

A chunk (128 KiB to 1 MiB) is what MEGA has a MAC of, so it is what is fetched. Neighbouring chunks that nobody has
asked for yet come in one request, several requests at a time; chunks of a moment ago are still in memory, since the
next read begins where the last one ended, not where a chunk does.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.mega.api import Api
from serpentfs.clouds.mega.chunks import chunk_index, chunk_mac, chunk_span, crypt
from serpentfs.clouds.mega.fetching import Fetcher
from serpentfs.clouds.mega.keys import FileKey
from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.transport import Transport
from serpentfs.clouds.mega.verifying import MacLedger, Verdict
from serpentfs.errors import IntegrityError, SerpentError
from serpentfs.model import Span

log = logging.getLogger(__name__)

_REQUEST = 4 * 2**20
"""Bytes of one request at most (at least one chunk)."""
_BUDGET = 32 * 2**20
"""Bytes of cleartext chunks that are kept."""
_ATTEMPTS = 2


@dataclass(eq=False)
class _Flight:
    """A run of chunks that is being fetched."""

    first: int
    last: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    chunks: Sequence[bytes] = field(default=(), repr=False)
    error: SerpentError | None = None
    waiting: int = 0


class Downloads:
    """Made by ``open_downloads``."""

    def __init__(
        self,
        api: Api,
        transport: Transport,
        replica: Replica,
        nursery: trio.Nursery,
        *,
        connections: int,
        public_file: bool,
    ) -> None:
        self._fetcher = Fetcher(api, transport, connections=connections, public_file=public_file)
        self._ledger = MacLedger(replica)
        self._nursery = nursery
        self._chunks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._kept = 0
        self._flights: dict[tuple[str, int], _Flight] = {}

    @property
    def in_use(self) -> int:
        """Connections that are being read from."""
        return self._fetcher.in_use

    def limit_connections(self, most: int | None) -> None:
        """See ``Fetcher``."""
        self._fetcher.limit_connections(most)

    def note_macs(self, handle: str, macs: Sequence[bytes]) -> None:
        """The chunk MACs of a file that was uploaded from here."""
        self._ledger.note(handle, macs)

    def save(self) -> None:
        """Write down what was learned of files."""
        self._ledger.save()

    async def read(self, node: Node, span: Span) -> bytes:
        """Cleartext of a span within the file. IntegrityError, RevisionGone, RateLimited, Unavailable."""
        if not span:
            return b""
        first, last = chunk_index(span.start), chunk_index(span.stop - 1)
        kept = {index: self._kept_chunk(node.handle, index) for index in range(first, last + 1)}
        found = {index: data for index, data in kept.items() if data is not None}
        flights = self._fly(node, [index for index in range(first, last + 1) if index not in found])
        for flight in flights:
            flight.waiting += 1
        try:
            for flight in flights:
                await flight.done.wait()
                if flight.error is not None:
                    raise flight.error
                found.update(enumerate(flight.chunks, flight.first))
        finally:
            for flight in flights:
                flight.waiting -= 1
                if not flight.waiting and not flight.done.is_set():
                    flight.scope.cancel()  # a seek made it useless
        parts = []
        for index in range(first, last + 1):
            whole = chunk_span(index, node.size)
            start, stop = max(span.start, whole.start) - whole.start, min(span.stop, whole.stop) - whole.start
            parts.append(found[index] if stop - start == len(whole) else memoryview(found[index])[start:stop])
        return b"".join(parts)

    def _kept_chunk(self, handle: str, index: int) -> bytes | None:
        data = self._chunks.get((handle, index))
        if data is not None:
            self._chunks.move_to_end((handle, index))
        return data

    def _keep(self, handle: str, index: int, data: bytes) -> None:
        self._kept += len(data) - len(self._chunks.pop((handle, index), b""))
        self._chunks[handle, index] = data
        while self._kept > _BUDGET:
            _, dropped = self._chunks.popitem(last=False)
            self._kept -= len(dropped)

    def _fly(self, node: Node, missing: list[int]) -> list[_Flight]:
        """Flights that bring these chunks: those that are under way, and new ones for the rest."""
        flights: list[_Flight] = []
        new: list[int] = []
        for index in missing:
            flight = self._flights.get((node.handle, index))
            if flight is None or flight.scope.cancel_called:
                new.append(index)
            elif flight not in flights:
                flights.append(flight)
        for first, last in _runs(new, node.size):
            flight = _Flight(first, last)
            for index in range(first, last + 1):
                self._flights[node.handle, index] = flight
            self._nursery.start_soon(self._carry, node, flight)
            flights.append(flight)
        return flights

    async def _carry(self, node: Node, flight: _Flight) -> None:
        try:
            with flight.scope:
                flight.chunks = await self._fetch(node, flight.first, flight.last)
                for index, data in enumerate(flight.chunks, flight.first):
                    self._keep(node.handle, index, data)
        except SerpentError as error:
            flight.error = error
        finally:
            for index in range(flight.first, flight.last + 1):
                if self._flights.get((node.handle, index)) is flight:
                    del self._flights[node.handle, index]
            flight.done.set()

    async def _fetch(self, node: Node, first: int, last: int) -> Sequence[bytes]:
        key = FileKey.unpack(node.key)
        spans = [chunk_span(index, node.size) for index in range(first, last + 1)]
        for _ in range(_ATTEMPTS):
            ciphertext = await self._fetcher.fetch(node, Span(spans[0].start, spans[-1].stop))
            chunks, macs = await run_in_thread("store", _decrypt, key, spans, ciphertext)
            verdict = self._ledger.check(node.handle, node.size, key, first, macs)
            if verdict is Verdict.GOOD:
                return chunks
            if verdict is Verdict.WRONG:
                log.error("node %s: the whole file does not authenticate", node.handle)
                raise IntegrityError("the file does not authenticate: it was damaged or tampered with")
            log.warning("node %s: a part is not what it was: it is fetched again", node.handle)
            self._fetcher.forget(node)
        self._ledger.doubt(node.handle)
        log.error("node %s: a part does not authenticate", node.handle)
        raise IntegrityError("a part of the file does not authenticate")


@asynccontextmanager
async def open_downloads(
    api: Api, transport: Transport, replica: Replica, *, connections: int = 8, public_file: bool = False
) -> AsyncIterator[Downloads]:
    """Downloads until the block ends. ``public_file``: nodes are public handles of file links."""
    async with trio.open_nursery() as nursery:
        downloads = Downloads(api, transport, replica, nursery, connections=connections, public_file=public_file)
        try:
            yield downloads
        finally:
            nursery.cancel_scope.cancel()
            downloads.save()


def _runs(indexes: list[int], size: int) -> Iterator[tuple[int, int]]:
    """Neighbouring chunks together, as long as one request may fetch them."""
    first: int | None = None
    previous = -1
    for index in indexes:
        if first is not None and (
            index != previous + 1 or chunk_span(index, size).stop - chunk_span(first, size).start > _REQUEST
        ):
            yield first, previous
            first = None
        if first is None:
            first = index
        previous = index
    if first is not None:
        yield first, previous


def _decrypt(key: FileKey, spans: Sequence[Span], ciphertext: bytes) -> tuple[list[bytes], list[bytes]]:
    """Cleartext and MAC of each chunk of a run. In a thread."""
    clear = memoryview(crypt(key.key, key.nonce, spans[0].start, ciphertext))
    chunks, macs = [], []
    for span in spans:
        chunk = bytes(clear[span.start - spans[0].start : span.stop - spans[0].start])
        chunks.append(chunk)
        macs.append(chunk_mac(key.key, key.nonce, chunk))
    return chunks, macs
