"""Nodes as a client encrypts them, as orders to put them into an account without a client."""

from __future__ import annotations

import secrets
from typing import Any

from serpentfs.clouds.mega.attributes import pack
from serpentfs.clouds.mega.chunks import chunk_count, chunk_mac, chunk_span, crypt, meta_mac
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.fingerprint import checksum, pack_fingerprint, sample_spans
from serpentfs.clouds.mega.keys import FileKey, ecb_encrypt
from tests.mega_emulator.accounts import OwnKeys
from tests.mega_emulator.state import FILE, FOLDER


def folder_order(keys: OwnKeys, parent: str | None, name: str, *, readable: bool = True) -> dict[str, Any]:
    """A folder. ``parent``: a handle, None for the cloud drive. Not ``readable``: under a key that nobody has."""
    key = secrets.token_bytes(16)
    return _order(keys, parent, FOLDER, pack({"n": name}, key), key, readable)


def file_order(
    keys: OwnKeys, parent: str | None, name: str, content: bytes, *, mtime: int, readable: bool = True
) -> dict[str, Any]:
    """A file with its fingerprint; ``mtime`` in Unix seconds."""
    key, nonce = secrets.token_bytes(16), secrets.token_bytes(8)
    spans = [chunk_span(index, len(content)) for index in range(chunk_count(len(content)))]
    mac = meta_mac(key, [chunk_mac(key, nonce, content[span.start:span.stop]) for span in spans])
    samples = [content[span.start:span.stop] for span in sample_spans(len(content))]
    attributes = {"c": pack_fingerprint(checksum(len(content), samples), mtime), "n": name}
    order = _order(keys, parent, FILE, pack(attributes, key), FileKey(key, nonce, mac).pack(), readable)
    return order | {"content": encode(crypt(key, nonce, 0, content))}


def _order(
    keys: OwnKeys, parent: str | None, kind: int, attributes: bytes, node_key: bytes, readable: bool
) -> dict[str, Any]:
    wrapped = ecb_encrypt(keys.master if readable else secrets.token_bytes(16), node_key)
    return {
        "do": "add_node", "email": keys.email, "parent": parent, "type": kind, "attributes": encode(attributes),
        "key": encode(wrapped),
    }  # fmt: skip
