"""What a thread of a door needs to read a stretch of a file from the disk cache by itself.

A stream of a gigabyte that passes the loop costs it two crossings for each piece, and they cost as much as reading
the piece. So the loop looks up once what the disk holds of the next megabytes, and the thread that sends them reads
and opens them. A content never changes under its id and every part of a slot authenticates, so that nothing can come
of this but the right bytes, or none.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from serpentfs.cache import slots
from serpentfs.cache.blocks import blocks_of, runs, span_of, trimmed
from serpentfs.cache.seal import SLOT_SIZE, BlockSeal
from serpentfs.model import ContentId, Span

SEALED_SIZE = 32 * 1024 * 1024
"""Bytes that a thread reads by itself before the loop is asked again. A piece of them is in memory at once."""
_PIECE = 4
"""Blocks that are read and opened at a time: with twice as many, sealed and opened no longer stay in the cache of the
processor, and the same file takes 1.4 times as long."""


@dataclass(frozen=True, slots=True)
class SealedSpan:
    """The bytes ``span`` of a content of ``size`` bytes, as the disk held them a moment ago."""

    path: Path
    seal: BlockSeal
    content: ContentId
    size: int
    span: Span

    def pieces(self) -> Generator[list[bytes | memoryview], None, None]:
        """The bytes in order, at most half a mebibyte at a time, each in parts that follow one another. It ends early,
        and raises nothing, where a slot is gone, is damaged or cannot be read: a read through the cache follows, which
        finds out and fetches the block.

        Blocks; for threads. Close it when it is not used to its end."""
        try:
            yield from self._pieces()
        except OSError:
            return

    def _pieces(self) -> Generator[list[bytes | memoryview], None, None]:
        blocks = blocks_of(self.span)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):
                # The disk goes on reading while a piece is sent.
                start = blocks.start * SLOT_SIZE
                os.posix_fadvise(descriptor, start, len(blocks) * SLOT_SIZE, os.POSIX_FADV_WILLNEED)
            for piece in runs(blocks, _PIECE):
                found = slots.read_piece(descriptor, self.seal, self.content, piece, self.size).blocks
                whole = _until_missing(found)
                of_whole = span_of(piece[: len(whole)], self.size)
                start, stop = max(of_whole.start, self.span.start), min(of_whole.stop, self.span.stop)
                if whole:
                    yield trimmed(whole, Span(start, stop))
                if len(whole) < len(found):
                    return
        finally:
            os.close(descriptor)


def _until_missing(blocks: slots.Opened) -> list[bytes]:
    whole = []
    for block in blocks:
        if block is None:
            break
        whole.append(block)
    return whole
