"""A file's content: the schedule of its chunks, its encryption, and the MACs over it.

Pure functions on spans of bytes; knows nothing of where they come from. Forms: meganz/sdk, ``src/utils.cpp``
(``ChunkedHash`` for the schedule, ``chunkmac_map`` for the MACs).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from serpentfs.model import Span

_UNIT = 128 * 1024
_FULL = 8 * _UNIT
_FULL_FROM = 8
# Chunk i starts at _STARTS[i]: they grow by a unit each up to the eighth, and from there on are all of that size.
_STARTS = tuple(_UNIT * number * (number + 1) // 2 for number in range(_FULL_FROM + 1))

MAC_BYTES = 16
CHECKSUM_BYTES = 12

Bytes = bytes | bytearray | memoryview


def chunk_index(offset: int) -> int:
    """Number, from 0, of the chunk that byte ``offset`` lies in."""
    if offset >= _STARTS[-1]:
        return _FULL_FROM + (offset - _STARTS[-1]) // _FULL
    return bisect_right(_STARTS, offset) - 1


def chunk_span(index: int, size: int) -> Span:
    """Where chunk ``index`` of a file of ``size`` bytes lies (empty when the file ends before it)."""
    return Span(_start(index), _start(index + 1)).clamp(size)


def chunk_count(size: int) -> int:
    """How many chunks a file of ``size`` bytes has; an empty file has none."""
    return chunk_index(size - 1) + 1 if size else 0


def _start(index: int) -> int:
    return _STARTS[index] if index <= _FULL_FROM else _STARTS[-1] + (index - _FULL_FROM) * _FULL


def crypt(key16: bytes, nonce8: bytes, offset: int, data: Bytes) -> bytes:
    """Encrypts or decrypts (it is the same) ``data`` that lies at ``offset`` of the file: AES-128-CTR, the counter
    block being the nonce and the number of the 16-byte block. ValueError: an offset that is no multiple of 16."""
    if offset & 15:
        raise ValueError("content can be decrypted from a multiple of 16 only")
    counter = nonce8 + (offset >> 4).to_bytes(8, "big")
    return Cipher(algorithms.AES128(key16), modes.CTR(counter)).encryptor().update(data)


def chunk_mac(key16: bytes, nonce8: bytes, plaintext: Bytes) -> bytes:
    """The 16-byte MAC of one chunk, from its cleartext: AES-128-CBC with the nonce, twice, as its vector; the last
    block of the zero-padded chunk. ValueError: no chunk is empty."""
    if not plaintext:
        raise ValueError("an empty chunk")
    encryptor = Cipher(algorithms.AES128(key16), modes.CBC(nonce8 * 2)).encryptor()
    mac = encryptor.update(plaintext)
    if len(plaintext) & 15:
        mac = encryptor.update(bytes(-len(plaintext) % 16))
    return mac[-MAC_BYTES:]


def meta_mac(key16: bytes, macs: Iterable[bytes]) -> bytes:
    """The 8-byte MAC of a file from the MACs of its chunks in order; zeros for an empty file.

    Other clients write something else for an empty file: a reader must not check it there."""
    joined = b"".join(macs)
    if not joined:
        return bytes(8)
    # "m = AES(m XOR mac) for each" is CBC from a zero vector.
    words = Cipher(algorithms.AES128(key16), modes.CBC(bytes(16))).encryptor().update(joined)[-MAC_BYTES:]
    folded = (int.from_bytes(words[0:4] + words[8:12], "big") ^ int.from_bytes(words[4:8] + words[12:16], "big"))
    return folded.to_bytes(8, "big")


def piece_checksum(data: Bytes) -> bytes:
    """The 12 bytes that go with an uploaded piece of ciphertext: its bytes XOR-ed at their offset modulo 12."""
    folded = int.from_bytes(data, "little")
    rows = -(-len(data) // CHECKSUM_BYTES)
    while rows > 1:
        # Halving costs twice the length in all, at the speed of memory; a loop over rows would take seconds.
        rows = (rows + 1) // 2
        bits = rows * CHECKSUM_BYTES * 8
        folded = (folded >> bits) ^ (folded & ((1 << bits) - 1))
    return folded.to_bytes(CHECKSUM_BYTES, "little")
