"""Arithmetic between spans of cleartext and blocks, and a compact set of block numbers.

Pure. Knows no cache, no file and no cloud. A range of block numbers is a ``range``; its step is always 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serpentfs.model import BLOCK_SIZE, BlockIndex, Span


def block_count(size: int) -> int:
    """How many blocks a content of ``size`` bytes has."""
    return -(-size // BLOCK_SIZE)


def block_length(block: int, size: int) -> int:
    """Cleartext bytes in a block of a content of ``size`` bytes: BLOCK_SIZE, fewer in the last block."""
    return min(BLOCK_SIZE, size - block * BLOCK_SIZE)


def blocks_of(span: Span) -> range:
    """The blocks that ``span`` touches; none for an empty span."""
    if span.start == span.stop:
        return range(0)
    return range(span.start // BLOCK_SIZE, block_count(span.stop))


def span_of(blocks: range, size: int) -> Span:
    """The cleartext of neighbouring blocks: aligned, except where the content ends."""
    return Span(blocks.start * BLOCK_SIZE, min(blocks.stop * BLOCK_SIZE, size))


def cut(blocks: list[bytes], span: Span) -> bytes | memoryview:
    """``span`` out of the neighbouring blocks that it touches; joined once, and of one block not copied."""
    parts = trimmed(blocks, span)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def trimmed(blocks: list[bytes], span: Span) -> list[bytes | memoryview]:
    """The neighbouring blocks that ``span`` touches without what lies outside it; nothing is copied."""
    parts: list[bytes | memoryview] = list(blocks)
    if not parts:
        return parts
    end = span.stop - (span.stop - 1) // BLOCK_SIZE * BLOCK_SIZE
    if end < len(blocks[-1]):
        parts[-1] = memoryview(blocks[-1])[:end]
    if start := span.start % BLOCK_SIZE:
        parts[0] = memoryview(parts[0])[start:]
    return parts


def runs(blocks: Iterable[int], longest: int) -> list[range]:
    """Ascending block numbers as ranges of neighbours, none longer than ``longest`` blocks."""
    found: list[range] = []
    start = stop = -1
    for block in blocks:
        if block == stop and stop - start < longest:
            stop += 1
            continue
        if stop > start:
            found.append(range(start, stop))
        start, stop = block, block + 1
    if stop > start:
        found.append(range(start, stop))
    return found


class BlockSet:
    """A set of block numbers as a bitmap: one bit a block up to the highest, so that the map of a file of a
    tebibyte takes one mebibyte where a ``set`` of its blocks would take hundreds."""

    __slots__ = ("_bits",)

    def __init__(self, blocks: Iterable[int] = ()) -> None:
        self._bits = bytearray()
        for block in blocks:
            self.add(block)

    def add(self, block: int) -> None:
        byte = block >> 3
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        self._bits[byte] |= 1 << (block & 7)

    def discard(self, block: int) -> None:
        byte = block >> 3
        if byte < len(self._bits):
            self._bits[byte] &= ~(1 << (block & 7))

    def __contains__(self, block: int) -> bool:
        byte = block >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (block & 7) & 1)

    def __iter__(self) -> Iterator[BlockIndex]:
        for byte, bits in enumerate(self._bits):
            if bits:
                for bit in range(8):
                    if bits >> bit & 1:
                        yield BlockIndex(byte * 8 + bit)

    def __len__(self) -> int:
        return sum(bits.bit_count() for bits in self._bits)
