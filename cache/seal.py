"""Sealed blocks: how one block of cleartext is kept on this machine's disk.

A *slot* is one sealed block at a fixed place of a file: slot *i* starts at ``i * SLOT_SIZE``.

    length (4, big-endian) | nonce (12) | ciphertext (length, then zeros up to BLOCK_SIZE) | tag (16, right after)

``length`` 0 means "nothing here" (a hole of a sparse file reads so). AES-256-GCM; the associated data is
(remote id, content id, block, length), so that a slot moved to another place, file or remote does not open.
Nonces are random: 2^32 slots under one key stay far below the birthday bound that SP 800-38D allows.
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
SLOT_SIZE = HEADER_SIZE + BLOCK_SIZE + TAG_SIZE


class BlockSeal:
    """Seals and opens slots of one remote. ``key`` is 32 bytes, ``remote`` the remote's id."""

    def __init__(self, key: bytes, remote: bytes) -> None:
        self._aead = AESGCM(key)
        self._remote = remote

    def _binding(self, content: ContentId, block: BlockIndex, length: int) -> bytes:
        return self._remote + _BINDING.pack(content, block, length)

    def seal(self, content: ContentId, block: BlockIndex, cleartext: bytes | bytearray | memoryview) -> bytes:
        """One slot's bytes without the unused rest: 1 to BLOCK_SIZE bytes of cleartext go in."""
        length = len(cleartext)
        if not 0 < length <= BLOCK_SIZE:
            raise ValueError(f"a slot holds 1 to {BLOCK_SIZE} bytes, not {length}")
        nonce = os.urandom(NONCE_SIZE)
        sealed = self._aead.encrypt(nonce, cleartext, self._binding(content, block, length))
        return b"".join((_LENGTH.pack(length), nonce, sealed))

    def open(self, content: ContentId, block: BlockIndex, slot: bytes | bytearray | memoryview) -> bytes | None:
        """The cleartext of a slot, None for an empty one. IntegrityError when it does not authenticate."""
        if len(slot) < HEADER_SIZE:
            return None
        (length,) = _LENGTH.unpack_from(slot)
        if length == 0:
            return None
        view = memoryview(slot)
        end = HEADER_SIZE + length + TAG_SIZE
        if length > BLOCK_SIZE or len(view) < end:
            raise IntegrityError("a sealed block is damaged")
        try:
            return self._aead.decrypt(
                view[_LENGTH.size : HEADER_SIZE], view[HEADER_SIZE:end], self._binding(content, block, length)
            )
        except InvalidTag as error:
            raise IntegrityError("a sealed block does not authenticate") from error
