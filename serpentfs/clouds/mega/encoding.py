"""How MEGA writes bytes and big numbers as text: base64url without padding, and multi-precision integers.

Knows nothing of what the bytes mean. Formats: alphabet of RFC 4648 section 5; MPIs as in OpenPGP (RFC 4880, 3.2).
"""

from __future__ import annotations

import binascii

from serpentfs.errors import IntegrityError

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TO_URL = bytes.maketrans(b"+/", b"-_")
# From both alphabets to the one that binascii reads; what belongs to neither becomes a zero byte.
_FROM_TEXT = bytes(
    byte if byte in _ALPHABET + b"+/" else {ord("-"): ord("+"), ord("_"): ord("/")}.get(byte, 0) for byte in range(256)
)


def encode(data: bytes) -> str:
    """``data`` in base64url, without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes that ``text`` stands for. Never fails, as the service's own clients do not: both base64 alphabets
    are read, reading ends at the first character of neither, and bits that do not fill a byte are dropped."""
    symbols = text.encode("ascii", "replace").translate(_FROM_TEXT)   # "?" is foreign as well
    end = symbols.find(b"\0")
    if end >= 0:
        symbols = symbols[:end]
    odd = len(symbols) & 3
    if odd == 1:
        symbols = symbols[:-1]
    elif odd:
        symbols += b"=="[odd - 2:]
    return binascii.a2b_base64(symbols)


def write_mpi(number: int) -> bytes:
    """A number of at most 65535 bits: its bit count in two bytes, then the number, both big-endian."""
    bits = number.bit_length()
    return bits.to_bytes(2, "big") + number.to_bytes((bits + 7) // 8, "big")


def read_mpi(data: bytes, at: int = 0) -> tuple[int, int]:
    """The number that is written at offset ``at``, and the offset behind it. IntegrityError: the data ends early."""
    start = at + 2
    stop = start + (int.from_bytes(data[at:start], "big") + 7) // 8
    if not start <= stop <= len(data):
        raise IntegrityError("a number in the account's key data is cut short")
    return int.from_bytes(data[start:stop], "big"), stop
