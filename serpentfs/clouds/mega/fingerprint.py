"""The fingerprint of a file's content (attribute ``c``): sparse CRCs and the modification time, as text.

Tells which bytes have to be read and computes from them; reads nothing itself. Format: meganz/sdk,
``src/filefingerprint.cpp`` and ``src/serialize64.cpp``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.model import Span

CRC_BYTES = 16
_LANES = 4
_DENSE = 8192
_BLOCK = 64
_BLOCKS = 128
_MOST_MTIME = (1 << 64) - 1


def sample_spans(size: int) -> list[Span]:
    """What must be read, in this order, of a file of ``size`` bytes: all of a file of up to 8 KiB as one span, 128
    spans of 64 bytes (which may overlap) of a longer one."""
    if size <= _DENSE:
        return [Span(0, size)]
    starts = ((size - _BLOCK) * number // (_BLOCKS - 1) for number in range(_BLOCKS))
    return [Span(start, start + _BLOCK) for start in starts]


def checksum(size: int, samples: Sequence[bytes]) -> bytes:
    """The 16 bytes for what ``sample_spans(size)`` asked for: the content itself if it fits, else four CRC-32.
    ValueError: these are not those samples.

    Old versions of the service's own client computed the places in 32 bits: of a file above 32 MiB a different
    checksum means "unknown", not "damaged"."""
    if [len(sample) for sample in samples] != [len(span) for span in sample_spans(size)]:
        raise ValueError("samples of another size")
    if size <= CRC_BYTES:
        return bytes(samples[0]).ljust(CRC_BYTES, b"\0")
    if size <= _DENSE:
        whole = samples[0]
        lanes = [whole[size * lane // _LANES:size * (lane + 1) // _LANES] for lane in range(_LANES)]
    else:
        each = _BLOCKS // _LANES
        lanes = [b"".join(samples[lane * each:(lane + 1) * each]) for lane in range(_LANES)]
    return b"".join(zlib.crc32(lane).to_bytes(4, "big") for lane in lanes)


def pack_fingerprint(crc16: bytes, mtime: int) -> str:
    """The attribute's text. ``mtime`` is in seconds since 1970; the format knows no time before that, which becomes
    1970 itself."""
    mtime = min(max(mtime, 0), _MOST_MTIME)
    length = (mtime.bit_length() + 7) // 8
    return encode(crc16 + bytes((length,)) + mtime.to_bytes(length, "little"))


def unpack_fingerprint(text: str) -> tuple[bytes, int] | None:
    """(checksum, mtime in seconds) of an attribute's text; None when it is not one. Any client of the account wrote
    it: the time is anything that fits in 64 bits."""
    data = decode(text)
    if len(data) <= CRC_BYTES:
        return None
    length = data[CRC_BYTES]
    number = data[CRC_BYTES + 1:CRC_BYTES + 1 + length]
    if length > 8 or len(number) != length:
        return None
    return data[:CRC_BYTES], int.from_bytes(number, "little")
