"""File contents: header and chunks of both cipher combos, and the arithmetic between cleartext and ciphertext sizes.

Pure. A file is ``header || chunk 0 || chunk 1 …``; every chunk but the last holds CHUNK bytes of cleartext.
What the format does not authenticate (the number of chunks, which content belongs to which name) is not noticed
here. Errors are IntegrityError without a name; who knows the object's key adds it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serpentfs.clouds.vault.config import SIV_CTRMAC, SIV_GCM
from serpentfs.clouds.vault.masterkey import Masterkey
from serpentfs.errors import IntegrityError

Buffer = bytes | bytearray | memoryview

CHUNK = 32 * 1024
"""Cleartext bytes in a full chunk."""
_RESERVED = b"\xff" * 8
_CONTENT_KEY_SIZE = 32
_CHUNK_NUMBER = struct.Struct(">Q")


class ContentCipher(Protocol):
    """The chunks of one file."""

    def encrypt_chunk(self, index: int, cleartext: Buffer) -> bytes:
        """One chunk under a fresh random nonce."""
        ...

    def decrypt_chunk(self, index: int, chunk: Buffer) -> bytes:
        """IntegrityError when it is not chunk ``index`` of this file."""
        ...


class ContentScheme(Protocol):
    """One cipher combo's way with contents."""

    header_size: int
    nonce_size: int
    overhead: int
    """Bytes that a chunk is longer than its cleartext."""

    def seal_header(self, nonce: bytes, content_key: bytes) -> bytes: ...

    def open_header(self, header: Buffer) -> ContentCipher:
        """The cipher of the file that starts with these ``header_size`` bytes. IntegrityError."""
        ...


class GcmScheme:
    """SIV_GCM: AES-256-GCM with (chunk number, header nonce) as associated data."""

    header_size = 12 + 8 + _CONTENT_KEY_SIZE + 16
    nonce_size = 12
    overhead = 12 + 16

    def __init__(self, key: Masterkey) -> None:
        self._aead = AESGCM(key.encryption)

    def seal_header(self, nonce: bytes, content_key: bytes) -> bytes:
        return nonce + self._aead.encrypt(nonce, _RESERVED + content_key, None)

    def open_header(self, header: Buffer) -> ContentCipher:
        header = bytes(header)
        if len(header) != self.header_size:
            raise IntegrityError("the file header is cut short")
        nonce = header[:12]
        try:
            payload = self._aead.decrypt(nonce, header[12:], None)
        except InvalidTag as error:
            raise IntegrityError("the file header does not authenticate") from error
        return _GcmContent(payload[8:], nonce)


class _GcmContent:
    def __init__(self, content_key: bytes, header_nonce: bytes) -> None:
        self._aead = AESGCM(content_key)
        self._header_nonce = header_nonce

    def encrypt_chunk(self, index: int, cleartext: Buffer) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, cleartext, _CHUNK_NUMBER.pack(index) + self._header_nonce)

    def decrypt_chunk(self, index: int, chunk: Buffer) -> bytes:
        if len(chunk) < GcmScheme.overhead:
            raise IntegrityError(f"chunk {index} is cut short")
        view = memoryview(chunk)
        try:
            return self._aead.decrypt(view[:12], view[12:], _CHUNK_NUMBER.pack(index) + self._header_nonce)
        except InvalidTag as error:
            raise IntegrityError(f"chunk {index} does not authenticate") from error


class CtrMacScheme:
    """SIV_CTRMAC: AES-256-CTR, then HMAC-SHA256 with the vault's mac key."""

    header_size = 16 + 8 + _CONTENT_KEY_SIZE + 32
    nonce_size = 16
    overhead = 16 + 32

    def __init__(self, key: Masterkey) -> None:
        self._key = key

    def seal_header(self, nonce: bytes, content_key: bytes) -> bytes:
        sealed = nonce + _ctr(self._key.encryption, nonce, _RESERVED + content_key)
        return sealed + hmac.digest(self._key.mac, sealed, hashlib.sha256)

    def open_header(self, header: Buffer) -> ContentCipher:
        header = bytes(header)
        if len(header) != self.header_size:
            raise IntegrityError("the file header is cut short")
        if not hmac.compare_digest(hmac.digest(self._key.mac, header[:-32], hashlib.sha256), header[-32:]):
            raise IntegrityError("the file header does not authenticate")
        nonce = header[:16]
        payload = _ctr(self._key.encryption, nonce, header[16:-32])
        return _CtrMacContent(payload[8:], nonce, self._key.mac)


class _CtrMacContent:
    def __init__(self, content_key: bytes, header_nonce: bytes, mac_key: bytes) -> None:
        self._content_key = content_key
        self._header_nonce = header_nonce
        self._hmac = hmac.new(mac_key, header_nonce, hashlib.sha256)

    def _mac(self, index: int, *parts: Buffer) -> bytes:
        mac = self._hmac.copy()
        mac.update(_CHUNK_NUMBER.pack(index))
        for part in parts:
            mac.update(part)
        return mac.digest()

    def encrypt_chunk(self, index: int, cleartext: Buffer) -> bytes:
        nonce = os.urandom(16)
        sealed = _ctr(self._content_key, nonce, cleartext)
        return b"".join((nonce, sealed, self._mac(index, nonce, sealed)))

    def decrypt_chunk(self, index: int, chunk: Buffer) -> bytes:
        if len(chunk) < CtrMacScheme.overhead:
            raise IntegrityError(f"chunk {index} is cut short")
        view = memoryview(chunk)
        if not hmac.compare_digest(self._mac(index, view[:-32]), view[-32:]):
            raise IntegrityError(f"chunk {index} does not authenticate")
        return _ctr(self._content_key, bytes(view[:16]), view[16:-32])


def _ctr(key: bytes, nonce: bytes, data: Buffer) -> bytes:
    """AES-CTR, either direction; the nonce is the whole 128-bit start counter."""
    context = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
    return context.update(data) + context.finalize()


def scheme_for(cipher_combo: str, key: Masterkey) -> ContentScheme:
    """The scheme of a vault's ``cipherCombo``. KeyError for one that the configuration should have refused."""
    schemes: dict[str, type[GcmScheme] | type[CtrMacScheme]] = {SIV_GCM: GcmScheme, SIV_CTRMAC: CtrMacScheme}
    return schemes[cipher_combo](key)


def ciphertext_size(scheme: ContentScheme, size: int) -> int:
    """Bytes of the object that holds ``size`` bytes of cleartext."""
    return scheme.header_size + size + scheme.overhead * (-(-size // CHUNK))


def cleartext_size(scheme: ContentScheme, object_size: int) -> int | None:
    """Cleartext bytes in an object; None when no file has this size (it is truncated or foreign).

    An object without a byte is an empty file that nobody wrote to yet, and a last chunk without cleartext (as
    streaming writers leave) counts as no chunk.
    """
    if object_size == 0:
        return 0
    payload = object_size - scheme.header_size
    if payload < 0:
        return None
    full, rest = divmod(payload, CHUNK + scheme.overhead)
    if rest == 0:
        return full * CHUNK
    if rest < scheme.overhead:
        return None
    return full * CHUNK + rest - scheme.overhead


def listed_size(scheme: ContentScheme, object_size: int) -> int:
    """The size to show for an object. One that is cut off inside a chunk shows one byte more than its whole chunks
    hold: a reader must run into the damage, not into what looks like a proper end of file."""
    size = cleartext_size(scheme, object_size)
    if size is not None:
        return size
    return max(0, object_size - scheme.header_size) // (CHUNK + scheme.overhead) * CHUNK + 1


def new_header(scheme: ContentScheme) -> bytes:
    """A header with a fresh random nonce and content key."""
    return scheme.seal_header(os.urandom(scheme.nonce_size), os.urandom(_CONTENT_KEY_SIZE))


def header_for_token(scheme: ContentScheme, key: Masterkey, token: bytes) -> bytes:
    """The header of the one content that ``token`` stands for: an upload whose answer was lost is recognised by it.

    Repeating it under the same nonce is harmless, because it is the very same plaintext. The masterkey is mixed
    in, so that who knows a token knows nothing of the content key.
    """
    return scheme.seal_header(
        derive(key, token, b"serpentfs vault header nonce", scheme.nonce_size),
        derive(key, token, b"serpentfs vault content key", _CONTENT_KEY_SIZE),
    )


def derive(key: Masterkey, token: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 of a token, salted with the masterkey."""
    return HKDF(algorithm=SHA256(), length=length, salt=key.raw, info=info).derive(token)


def encrypt_small(scheme: ContentScheme, cleartext: bytes) -> bytes:
    """A whole small object (a link's target, a directory id) under a new header."""
    header = new_header(scheme)
    cipher = scheme.open_header(header)
    return header + b"".join(
        cipher.encrypt_chunk(i, cleartext[start : start + CHUNK])
        for i, start in enumerate(range(0, len(cleartext), CHUNK))
    )


def decrypt_small(scheme: ContentScheme, data: bytes) -> bytes:
    """The cleartext of a whole object; an empty last chunk is authenticated too. IntegrityError."""
    cipher = scheme.open_header(data[: scheme.header_size])
    view, size = memoryview(data)[scheme.header_size :], CHUNK + scheme.overhead
    return b"".join(
        cipher.decrypt_chunk(i, view[start : start + size]) for i, start in enumerate(range(0, len(view), size))
    )
