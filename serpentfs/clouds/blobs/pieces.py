"""Regrouping of an upload's chunks into pieces large enough to be worth a thread switch or a request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from serpentfs.clouds.blobs.base import Chunks
from serpentfs.errors import InvalidArgument


@asynccontextmanager
async def in_pieces(chunks: Chunks, size: int | None, piece_size: int) -> AsyncIterator[AsyncIterator[list[bytes]]]:
    """One pass over ``chunks`` as pieces: lists of them of at least ``piece_size`` bytes (the last may be shorter).

    Raises InvalidArgument, before the last piece is given, when the chunks are not ``size`` bytes together (where that
    is known): an object is never published short. An abandoned pass is closed.
    """
    async with aclosing(_pieces(chunks, size, piece_size)) as pieces:
        yield pieces


async def _pieces(chunks: Chunks, size: int | None, piece_size: int) -> AsyncGenerator[list[bytes], None]:
    source = chunks()
    seen = 0
    held: list[bytes] = []
    held_size = 0
    try:
        async for chunk in source:
            if held_size >= piece_size:
                piece, held, held_size = held, [], 0
                yield piece
                del piece
            held.append(chunk)
            held_size += len(chunk)
            seen += len(chunk)
            if size is not None and seen > size:
                raise InvalidArgument(f"the source gave more than the {size} bytes it announced")
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
    if size is not None and seen != size:
        raise InvalidArgument(f"the source gave {seen} bytes instead of {size}")
    if held:
        yield held
