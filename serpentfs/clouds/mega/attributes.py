"""A node's attributes: a JSON object behind a magic, zero padded, AES-128-CBC with a zero vector.

Owns the wrapping only: what the attributes mean (``n`` is the name, ``c`` the fingerprint) is known elsewhere.
Format: meganz/sdk, ``src/attrmap.cpp`` and ``src/node.cpp``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from serpentfs.errors import InvalidArgument

_MAGIC = b'MEGA{"'
_ZERO_VECTOR = modes.CBC(bytes(16))
LONGEST_BYTES = 65536 * 3 // 4
"""Packed attributes must not take more: the service allows 65536 characters of base64."""


def pack(attributes: Mapping[str, Any], key16: bytes) -> bytes:
    """The attributes, in their order, encrypted with the node's attribute key (ValueError: not 16 bytes).
    InvalidArgument: there are none, or they are longer than the service allows."""
    if not attributes:
        raise InvalidArgument("a node without attributes")
    plain = b"MEGA" + _json(attributes)
    plain += bytes(-len(plain) % 16)
    if len(plain) > LONGEST_BYTES:
        raise InvalidArgument("the attributes of a node are too long")
    return Cipher(algorithms.AES128(key16), _ZERO_VECTOR).encryptor().update(plain)


def unpack(data: bytes, key16: bytes) -> dict[str, Any] | None:
    """What ``pack`` packed; None when it is not that: another key, or damaged. ValueError: a key not of 16 bytes.

    Every string in the answer can be written as UTF-8: bytes and escapes that stand for no character are replaced,
    as the attributes of a node are whatever any client of the account chose to write."""
    plain = Cipher(algorithms.AES128(key16), _ZERO_VECTOR).decryptor().update(data[:len(data) & -16])
    if not plain.startswith(_MAGIC):
        return None
    end = plain.find(b"\0")
    text = plain[4:end if end >= 0 else len(plain)].decode("utf-8", "replace")
    try:
        attributes = json.loads(text)
        if "\\u" in text:
            attributes = json.loads(_without_lone_surrogates(json.dumps(attributes, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None
    return attributes if isinstance(attributes, dict) else None


def _json(attributes: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(attributes, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument("an attribute that is not valid text") from None


def _without_lone_surrogates(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
