"""Sealed blocks: how one block of cleartext is kept on this machine's disk.

A *slot* is one sealed block at a fixed place of a file: slot *i* starts at ``i * SLOT_SIZE``.

    length (4, big-endian) | nonce (12) | part 0 | part 1 | …
    a part: ciphertext of PART_SIZE bytes of the block (fewer in its last) | tag (16)

``length`` is the block's, 0 means "nothing here" (a hole of a sparse file reads so). A read of a few bytes opens the
parts that hold them and not the block. Each part is AES-256-GCM under the slot's nonce with the part's number XORed
into the last byte; the associated data is (remote id, content id, block, length, part). So a slot moved to another
place, file or remote does not open, and neither does a part that is not where it was, or that another sealing of the
same block made: all parts that open beside one header are of one sealing.

Nonces are random, and two slots share none unless theirs agree in all but the last three bits: after 2^31 slots (256
TiB sealed) that has happened with a probability of 2^-32 (birthday bound over 93 bits), the one that SP 800-38D allows.
Staging and cache share this format, so that an uploaded file is adopted by the cache and not fetched again.
"""

from __future__ import annotations

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serpentfs.errors import IntegrityError
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId

NONCE_SIZE = 12
TAG_SIZE = 16
_LENGTH = struct.Struct(">I")
_BINDING = struct.Struct(">QQI")
HEADER_SIZE = _LENGTH.size + NONCE_SIZE
PART_SIZE = 32 * 1024
"""A read of 4 KiB then costs a third of reading and opening the whole block. Parts of 16 KiB would take another fifth
of it away, and make sealing and opening whole blocks dearer by a third."""
SEALED_PART = PART_SIZE + TAG_SIZE

_NUMBER = [bytes((part,)) for part in range(BLOCK_SIZE // PART_SIZE)]

Buffer = bytes | bytearray | memoryview


def sealed_size(length: int) -> int:
    """Bytes of a slot that holds ``length`` (more than 0) bytes of cleartext, without the unused rest."""
    return HEADER_SIZE + length + TAG_SIZE * part_count(length)


def part_count(length: int) -> int:
    """Parts of a block of ``length`` bytes."""
    return -(-length // PART_SIZE)


SLOT_SIZE = sealed_size(BLOCK_SIZE)


class BlockSeal:
    """Seals and opens slots of one remote. ``key`` is 32 bytes, ``remote`` the remote's id."""

    def __init__(self, key: bytes, remote: bytes) -> None:
        self._aead = AESGCM(key)
        self._remote = remote

    def _binding(self, content: ContentId, block: BlockIndex, length: int) -> bytes:
        """The associated data of a part, but for its number, which is the byte that follows."""
        return self._remote + _BINDING.pack(content, block, length)

    def seal_into(self, content: ContentId, block: BlockIndex, cleartext: Buffer, slot: memoryview) -> int:
        """Make a slot of 1 to BLOCK_SIZE bytes of cleartext at the start of ``slot``; the answer is its length without
        the unused rest."""
        length = len(cleartext)
        if not 0 < length <= BLOCK_SIZE:
            raise ValueError(f"a slot holds 1 to {BLOCK_SIZE} bytes, not {length}")
        nonce = os.urandom(NONCE_SIZE)
        _LENGTH.pack_into(slot, 0, length)
        slot[_LENGTH.size : HEADER_SIZE] = nonce
        view = memoryview(cleartext)
        encrypt, binding = self._aead.encrypt_into, self._binding(content, block, length)
        end = HEADER_SIZE
        for part in range(part_count(length)):
            piece = view[part * PART_SIZE : (part + 1) * PART_SIZE]
            start, end = end, end + len(piece) + TAG_SIZE
            encrypt(_nonce_of(nonce, part), piece, binding + _NUMBER[part], slot[start:end])
        return end

    def open(self, content: ContentId, block: BlockIndex, slot: Buffer) -> bytes | None:
        """The cleartext of a slot, None for an empty one. IntegrityError when it does not authenticate."""
        if len(slot) < HEADER_SIZE:
            return None
        (length,) = _LENGTH.unpack_from(slot)
        if length == 0:
            return None
        if length > BLOCK_SIZE or len(slot) < sealed_size(length):
            raise IntegrityError("a sealed block is damaged")
        view = memoryview(slot)
        sealed = view[HEADER_SIZE : sealed_size(length)]
        return self.open_parts(content, block, length, range(part_count(length)), view[:HEADER_SIZE], sealed)

    def open_parts(
        self, content: ContentId, block: BlockIndex, length: int, parts: range, header: Buffer, sealed: memoryview
    ) -> bytes:
        """The cleartext of neighbouring parts of a block of ``length`` bytes, which lie in ``sealed``; ``header`` is
        their slot's. IntegrityError when one does not authenticate, as none does of an empty slot."""
        nonce = bytes(header[_LENGTH.size :])
        decrypt, binding = self._aead.decrypt, self._binding(content, block, length)
        opened = []
        start = 0
        try:
            for part in parts:
                piece = sealed[start : start + SEALED_PART]
                opened.append(decrypt(_nonce_of(nonce, part), piece, binding + _NUMBER[part]))
                start += SEALED_PART
        except InvalidTag as error:
            raise IntegrityError("a sealed block does not authenticate") from error
        return b"".join(opened)


def _nonce_of(nonce: bytes, part: int) -> bytes:
    return nonce[:-1] + bytes((nonce[-1] ^ part,))
