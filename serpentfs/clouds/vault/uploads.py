"""From a source of cleartext to the bytes of an object, streamed: memory stays bounded whatever the size."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from serpentfs.clouds.base import Content, GrowingContent
from serpentfs.clouds.blobs.base import BlobInfo, BlobStore, Chunks, Condition
from serpentfs.clouds.vault.content import CHUNK, ContentCipher, ContentScheme
from serpentfs.errors import IntegrityError
from serpentfs.model import Span

PIECE = 16 * CHUNK
"""Cleartext bytes encrypted and handed to the store at a time: half a mebibyte."""
_JOINED = 4 * CHUNK
"""Of it, what becomes one string of bytes: no longer than a block of the cache, so that it finds room where one was."""


def encrypted(scheme: ContentScheme, header: bytes, content: Content, size: int) -> Chunks:
    """A repeatable pass over the object that holds ``content``; every pass seals with fresh chunk nonces."""
    cipher = scheme.open_header(header)

    async def chunks() -> AsyncIterator[bytes]:
        yield header
        for start in range(0, size, PIECE):
            span = Span(start, min(size, start + PIECE))
            clear = await content.read(span)
            if len(clear) != len(span):
                raise IntegrityError(f"the source of an upload gave {len(clear)} bytes instead of {len(span)}")
            await trio.lowlevel.checkpoint()
            for sealed in _sealed(cipher, start, clear):
                yield sealed

    return chunks


def encrypted_growing(
    scheme: ContentScheme, header: bytes, content: GrowingContent, ending: Callable[[], Awaitable[None]]
) -> Chunks:
    """The one pass over an object that is made while ``content`` is written. ``ending`` is awaited once the content has
    ended and before the last bytes of the object are given."""
    cipher = scheme.open_header(header)

    async def chunks() -> AsyncIterator[bytes]:
        yield header
        for start in itertools.count(step=PIECE):
            clear = await content.read(Span(start, start + PIECE))
            await trio.lowlevel.checkpoint()
            if len(clear) < PIECE:
                await ending()
            if clear:
                for sealed in _sealed(cipher, start, clear):
                    yield sealed
            if len(clear) < PIECE:
                return

    return chunks


def _sealed(cipher: ContentCipher, start: int, clear: bytes) -> Iterator[bytes]:
    """The chunks of ``clear``, which begins at ``start`` of its content, a few together."""
    view = memoryview(clear)
    for first in range(0, len(view), _JOINED):
        yield b"".join(
            cipher.encrypt_chunk((start + at) // CHUNK, view[at : at + CHUNK])
            for at in range(first, min(first + _JOINED, len(view)), CHUNK)
        )


async def put_bytes(
    store: BlobStore, key: str, data: bytes, *, condition: Condition = None, mtime_ns: int | None = None
) -> BlobInfo:
    """Write a small object."""

    async def chunks() -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield data

    return await store.put(key, chunks, len(data), condition=condition, mtime_ns=mtime_ns)
