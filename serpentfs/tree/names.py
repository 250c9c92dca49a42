"""Sealing of names and other small texts in state.db (AES-SIV, RFC 5297).

SIV is deterministic on purpose: equal names in one folder give equal ciphertexts, so that SQLite can look them up,
while the parent's inode as associated data keeps equal names of two folders apart.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serpentfs.errors import IntegrityError

_SCOPE = struct.Struct(">q")


def derive_key(secret: bytes, salt: bytes, purpose: str, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869) of the remote's secret for one ``purpose``."""
    info = b"serpentfs " + purpose.encode()
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)


class NameSeal:
    """Seals texts under a 64-byte key. ``scope`` is the parent's inode for names, a column's own number otherwise."""

    def __init__(self, key: bytes) -> None:
        self._siv = AESSIV(key)

    def seal(self, text: str, scope: int) -> bytes:
        return self.seal_bytes(text.encode("utf-8", "surrogateescape"), scope)

    def open(self, sealed: bytes, scope: int) -> str:
        """IntegrityError when the database was damaged or belongs to another key."""
        return self.open_bytes(sealed, scope).decode("utf-8", "surrogateescape")

    def seal_bytes(self, value: bytes, scope: int) -> bytes:
        return self._siv.encrypt(value, [_SCOPE.pack(scope)])

    def open_bytes(self, sealed: bytes, scope: int) -> bytes:
        try:
            return self._siv.decrypt(sealed, [_SCOPE.pack(scope)])
        except InvalidTag as error:
            raise IntegrityError("a sealed name in state.db does not authenticate") from error
