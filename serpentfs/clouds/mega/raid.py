"""Cloud-RAID: a file's ciphertext in six parts, any five of which give it back.

A line of 80 bytes of the file is five sectors of 16, one in each of the parts 1 to 5; part 0 holds their XOR. Knows
offsets and bytes only. Layout: meganz/sdk, ``src/raid.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import xor

from serpentfs.errors import IntegrityError
from serpentfs.model import Span

PARTS = 6
SECTOR = 16
LINE = SECTOR * (PARTS - 1)
_WORDS = SECTOR // 8
_LINE_WORDS = LINE // 8


def part_size(size: int, part: int) -> int:
    """Bytes that part 0 to 5 of a file of ``size`` bytes has. The parity is as long as the longest data part."""
    lines, rest = divmod(size, LINE)
    place = part - 1 if part else 0
    return lines * SECTOR + min(max(rest - place * SECTOR, 0), SECTOR)


def part_span(span: Span) -> Span:
    """Which bytes of each part hold the lines that ``span`` of the file touches: the same in every part, but for the
    end of the file, where each is clamped to its own size."""
    return Span(span.start // LINE * SECTOR, -(-span.stop // LINE) * SECTOR)


def split(data: bytes) -> list[bytes]:
    """The six parts of a whole file."""
    lines = -(-len(data) // LINE)
    source = memoryview(data.ljust(lines * LINE, b"\0")).cast("Q")
    sectors = []
    for number in range(PARTS - 1):
        sector = bytearray(lines * SECTOR)
        words = memoryview(sector).cast("Q")
        for word in range(_WORDS):
            words[word::_WORDS] = source[number * _WORDS + word::_LINE_WORDS]
        sectors.append(bytes(sector))
    return [part[:part_size(len(data), number)] for number, part in enumerate([_xor(sectors), *sectors])]


def join(parts: Sequence[bytes | None], lines: Span) -> bytes:
    """The bytes ``lines`` of the file from ``part_span(lines)`` of its parts, of which one may be None.

    Sectors are copied and XOR-ed without a loop over lines; some milliseconds for megabytes: call in a thread.
    IntegrityError: the parts have lengths that do not belong together. ValueError: fewer than five parts."""
    missing = [number for number, part in enumerate(parts) if part is None]
    if len(parts) != PARTS or len(missing) > 1:
        raise ValueError("five of six parts are needed")
    if not lines:
        return b""
    first = lines.start // LINE
    count = -(-lines.stop // LINE) - first
    _check_lengths(parts, lines.stop - first * LINE, count)
    whole = [None if part is None else part.ljust(count * SECTOR, b"\0") for part in parts]
    joined = bytearray(count * LINE)
    target = memoryview(joined).cast("Q")
    for number, part in enumerate(whole[1:]):
        # Zeros stand for what a short last line does not have, so a rebuilt part needs no length of its own.
        words = memoryview(_xor([other for other in whole if other is not None]) if part is None else part).cast("Q")
        for word in range(_WORDS):
            target[number * _WORDS + word::_LINE_WORDS] = words[word::_WORDS]
    start = lines.start - first * LINE
    return bytes(memoryview(joined)[start:start + len(lines)])


def _check_lengths(parts: Sequence[bytes | None], stop: int, count: int) -> None:
    """The last line is whole, or the file ends in it at ``stop`` or later: some such end must explain every length."""
    for end in range(count * LINE, stop - 1, -1):
        if all(part is None or len(part) == part_size(end, number) for number, part in enumerate(parts)):
            return
    raise IntegrityError("the parts of a file do not fit together")


def _xor(parts: Sequence[bytes]) -> bytes:
    return reduce(xor, (int.from_bytes(part, "little") for part in parts)).to_bytes(len(parts[0]), "little")
