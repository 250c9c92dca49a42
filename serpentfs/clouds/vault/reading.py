"""Reading a file: the chunks that a span touches, fetched with one ranged request and opened one by one.

Headers are remembered per (file, revision), so that a read usually is one request. What does not authenticate, or
is shorter than the listing said, is IntegrityError naming the object's key, never data. A store checks the
revision after the last byte, so an object that was changed in place meanwhile is RevisionGone, not mixed bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import trio
from cachetools import LRUCache

from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.vault.content import CHUNK, ContentCipher, ContentScheme, cleartext_size
from serpentfs.clouds.vault.parallel import all_of
from serpentfs.errors import IntegrityError, NotFound, RevisionGone
from serpentfs.model import Revision, Span

HEADERS_KEPT = 4096
NEAR_HEADER = 8 * CHUNK
"""Reads that start so near to the head fetch from the head, rather than the header with a request of its own."""
CHUNKS_PER_STRETCH = 16
"""Chunks opened between two checkpoints: half a mebibyte, a fraction of a millisecond."""


class Reader:
    """Reads contents of one vault."""

    def __init__(self, store: BlobStore, scheme: ContentScheme) -> None:
        self._store = store
        self._scheme = scheme
        self._headers: LRUCache[tuple[str, Revision], ContentCipher] = LRUCache(HEADERS_KEPT)
        self._coming: dict[tuple[str, Revision], trio.Event] = {}
        """Headers that a read is bringing: others of the same file need not."""

    async def read(self, key: str, revision: Revision, size: int, span: Span) -> bytes:
        """Cleartext of ``span`` of the object at ``key``, whose cleartext has ``size`` bytes. Raises IntegrityError
        and RevisionGone."""
        wanted = span.clamp(size)
        try:
            if size == 0:
                await self._check_empty(key, revision)
                return b""
            if not wanted:
                return b""
            return await self._read(key, revision, size, wanted)
        except NotFound as error:
            raise RevisionGone(f"{key}: the content is no longer there") from error
        except IntegrityError as error:
            raise IntegrityError(f"{key}: {error}") from error

    async def _read(self, key: str, revision: Revision, size: int, wanted: Span) -> bytes:
        header_size, step = self._scheme.header_size, CHUNK + self._scheme.overhead
        first, last = wanted.start // CHUNK, (wanted.stop - 1) // CHUNK
        start = header_size + first * step
        stop = header_size + min((last + 1) * step, size + self._scheme.overhead * -(-size // CHUNK))
        cipher = self._headers.get((key, revision))
        if cipher is None:
            cipher, body = await self._read_with_header(key, revision, Span(start, stop))
        else:
            body = memoryview(await self._store.read(key, Span(start, stop), revision=revision))
        if len(body) != stop - start:
            raise IntegrityError("the file is cut short")
        clear = await self._open(cipher, first, body)
        if first == last:
            return clear[0][wanted.start - first * CHUNK : wanted.stop - first * CHUNK]
        clear[0] = clear[0][wanted.start - first * CHUNK :]
        clear[-1] = clear[-1][: wanted.stop - last * CHUNK]
        data = b"".join(clear)
        if len(data) != len(wanted):
            raise IntegrityError("the file is shorter than its object's size tells")
        return data

    async def _read_with_header(self, key: str, revision: Revision, span: Span) -> tuple[ContentCipher, memoryview]:
        """``span`` of an object, and what opens it. Its header comes by the same request, if it is near and nobody has
        to wait long for it, else by one of its own, which serves all reads that began meanwhile."""
        header_size = self._scheme.header_size
        is_short = len(span) <= NEAR_HEADER
        if span.start == header_size or (is_short and span.start - header_size <= NEAR_HEADER):
            with self._bringing(key, revision, self._announced(key, revision)) if is_short else nullcontext():
                whole = memoryview(await self._store.read(key, Span(0, span.stop), revision=revision))
                return self._remember(key, revision, whole[:header_size]), whole[span.start :]
        body = b""
        cipher: ContentCipher | None = None

        async def fetch_body() -> None:
            nonlocal body
            body = await self._store.read(key, span, revision=revision)

        async def fetch_header() -> None:
            nonlocal cipher
            with self._bringing(key, revision, announced):
                header = await self._store.read(key, Span(0, header_size), revision=revision)
                cipher = self._remember(key, revision, memoryview(header))

        coming = self._coming.get((key, revision))
        if coming is None:
            announced = self._announced(key, revision)  # here, as it takes a moment until a task runs
            await all_of(fetch_body, fetch_header)
        else:
            await fetch_body()
            await coming.wait()
            cipher = self._headers.get((key, revision))
            if cipher is None:  # who was to bring it failed
                announced = self._announced(key, revision)
                await fetch_header()
        assert cipher is not None
        return cipher, memoryview(body)

    def _announced(self, key: str, revision: Revision) -> trio.Event:
        event = self._coming[key, revision] = trio.Event()
        return event

    @contextmanager
    def _bringing(self, key: str, revision: Revision, announced: trio.Event) -> Iterator[None]:
        try:
            yield
        finally:
            if self._coming.get((key, revision)) is announced:
                del self._coming[key, revision]
            announced.set()

    async def _open(self, cipher: ContentCipher, first: int, body: memoryview) -> list[bytes]:
        step = CHUNK + self._scheme.overhead
        clear = []
        for count, start in enumerate(range(0, len(body), step)):
            if count % CHUNKS_PER_STRETCH == CHUNKS_PER_STRETCH - 1:
                await trio.lowlevel.checkpoint()
            clear.append(cipher.decrypt_chunk(first + count, body[start : start + step]))
        return clear

    def _remember(self, key: str, revision: Revision, header: memoryview) -> ContentCipher:
        cipher = self._scheme.open_header(header)
        self._headers[key, revision] = cipher
        return cipher

    async def _check_empty(self, key: str, revision: Revision) -> None:
        """A file that is listed as empty: nothing at all, a header, or a header and a chunk without content."""
        limit = self._scheme.header_size + self._scheme.overhead + 1
        data = await self._store.read(key, Span(0, limit), revision=revision)
        if data:
            cipher = self._remember(key, revision, memoryview(data)[: self._scheme.header_size])
            if len(data) > self._scheme.header_size:
                cipher.decrypt_chunk(0, memoryview(data)[self._scheme.header_size :])

    async def verify(self, key: str, revision: Revision, object_size: int) -> None:
        """Authenticate the header and every chunk. IntegrityError, RevisionGone."""
        size = cleartext_size(self._scheme, object_size)
        if size is None:
            raise IntegrityError(f"{key}: the file is cut off inside a chunk")
        step = 64 * CHUNK
        for start in range(0, max(size, 1), step):
            await self.read(key, revision, size, Span(start, min(size, start + step)))
        rest = (object_size - self._scheme.header_size) % (CHUNK + self._scheme.overhead)
        if object_size and size and rest == self._scheme.overhead:
            await self._verify_empty_tail(key, revision, size // CHUNK)

    async def _verify_empty_tail(self, key: str, revision: Revision, index: int) -> None:
        start = self._scheme.header_size + index * (CHUNK + self._scheme.overhead)
        chunk = await self._store.read(key, Span(start, start + self._scheme.overhead), revision=revision)
        try:
            self._headers[key, revision].decrypt_chunk(index, chunk)
        except IntegrityError as error:
            raise IntegrityError(f"{key}: {error}") from error
