"""From a source of cleartext to the bytes of an object, streamed: memory stays bounded whatever the size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from serpentfs.clouds.base import Content
from serpentfs.clouds.blobs.base import BlobInfo, BlobStore, Chunks, Condition
from serpentfs.clouds.vault.content import CHUNK, ContentScheme
from serpentfs.errors import IntegrityError
from serpentfs.model import Span

CHUNKS_PER_PIECE = 16
"""Chunks encrypted and handed to the store at a time: half a mebibyte."""


def encrypted(scheme: ContentScheme, header: bytes, content: Content, size: int) -> Chunks:
    """A repeatable pass over the object that holds ``content``; every pass seals with fresh chunk nonces."""
    cipher = scheme.open_header(header)

    async def chunks() -> AsyncIterator[bytes]:
        yield header
        piece = CHUNKS_PER_PIECE * CHUNK
        for start in range(0, size, piece):
            span = Span(start, min(size, start + piece))
            clear = memoryview(await content.read(span))
            if len(clear) != len(span):
                raise IntegrityError(f"the source of an upload gave {len(clear)} bytes instead of {len(span)}")
            await trio.lowlevel.checkpoint()
            yield b"".join(
                cipher.encrypt_chunk((start + at) // CHUNK, clear[at : at + CHUNK])
                for at in range(0, len(clear), CHUNK)
            )

    return chunks


async def put_bytes(
    store: BlobStore, key: str, data: bytes, *, condition: Condition = None, mtime_ns: int | None = None
) -> BlobInfo:
    """Write a small object."""

    async def chunks() -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield data

    return await store.put(key, chunks, len(data), condition=condition, mtime_ns=mtime_ns)
