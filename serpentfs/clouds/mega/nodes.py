"""One node of an account, decrypted: what the rest of the driver works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serpentfs.clouds.mega import attributes as sealing
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.fingerprint import unpack_fingerprint
from serpentfs.clouds.mega.keys import attribute_key
from serpentfs.model import Kind

FILE, FOLDER, CLOUD_DRIVE, INBOX, RUBBISH = range(5)
"""Types of nodes (specification, 8)."""
_LATEST = 2**33
"""Times above are somebody's mistake: they fit neither nanoseconds in 64 bits nor any calendar."""


@dataclass(frozen=True, slots=True)
class Node:
    """``name`` is the real one in cleartext, ``shown`` the one in a drive: escaped, and made unique in its folder.
    ``size`` is bytes, ``created`` the server's time and ``mtime`` the file's own, both Unix seconds. ``key``: 32 bytes
    of a file, 16 of a folder, none of a root. ``parent`` is None for roots and for the top of an incoming share."""

    handle: str
    parent: str | None
    owner: str
    type: int
    name: str = field(repr=False)
    shown: str = field(repr=False)
    size: int
    created: int
    mtime: int
    key: bytes = field(repr=False)
    attributes: Mapping[str, Any] = field(repr=False)
    fa: str = field(default="", repr=False)

    @property
    def kind(self) -> Kind:
        return Kind.FILE if self.type == FILE else Kind.DIRECTORY

    @property
    def cipher_key(self) -> bytes:
        """The AES key of a file's content, and of the attributes."""
        return attribute_key(self.key)


def time_of(attributes: Mapping[str, Any], created: int) -> int:
    """A file's own time: from its fingerprint, else when it was uploaded."""
    packed = attributes.get("c")
    found = unpack_fingerprint(packed) if isinstance(packed, str) else None
    return min(max(created if found is None else found[1], 0), _LATEST)


def sealed_attributes(node: Node, changed: Mapping[str, Any]) -> str:
    """A node's attributes as commands take them, with some changed (None: dropped) and all others kept, also those
    that mean nothing here."""
    merged = {**node.attributes, **changed}
    return encode(sealing.pack({key: value for key, value in merged.items() if value is not None}, node.cipher_key))
