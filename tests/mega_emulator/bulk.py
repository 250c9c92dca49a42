"""An account of very many nodes, made in the server because that many would take too long as commands.

Keys and names are real: a client can decrypt everything. Every file holds 16 zero bytes.
"""

from __future__ import annotations

import gc
import os
from typing import Any

from serpentfs.clouds.mega.attributes import pack
from serpentfs.clouds.mega.chunks import crypt
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.keys import FileKey, ecb_decrypt, ecb_encrypt
from tests.mega_emulator.service import Service
from tests.mega_emulator.state import FILE, FOLDER, ROOT, Account, Node

_FILES_IN_A_FOLDER = 100
_SIZE = 16


def load(service: Service, account: Account, master: bytes, *, count: int, largest_folder: int) -> dict[str, Any]:
    """``count`` nodes in all: one folder of ``largest_folder`` files, the rest in folders of 100 files each."""
    gc.disable()  # nothing of this is ever garbage
    try:
        folders = _Loader(service, account, master)
        largest = folders.folder("largest", account.roots[ROOT])
        left = count - 1
        folders.files(largest, min(largest_folder, left))
        left -= min(largest_folder, left)
        number = 0
        while left > 0:
            folder = folders.folder(f"folder {number}", account.roots[ROOT])
            here = min(_FILES_IN_A_FOLDER, left - 1)
            folders.files(folder, here)
            left -= here + 1
            number += 1
        service.events.forget(account.handle)
        service.content_makers[account.handle] = lambda node: _content(master, node)
        return {"nodes": count, "folders": number + 1, "largest": largest}
    finally:
        gc.freeze()
        gc.enable()


class _Loader:
    def __init__(self, service: Service, account: Account, master: bytes) -> None:
        self._service = service
        self._owner = account.handle
        self._master = master
        self._now = service.now()

    def folder(self, name: str, parent: str) -> str:
        key = os.urandom(16)
        handle = self._service.state.new_handle()
        attributes = encode(pack({"n": name}, key))
        self._service.state.insert(
            Node(handle, self._owner, FOLDER, parent, attributes, self._now, key=encode(ecb_encrypt(self._master, key)))
        )
        return handle

    def files(self, parent: str, count: int) -> None:
        state = self._service.state
        random = os.urandom(24 * count)
        keys, packed = [], []
        for at in range(0, len(random), 24):
            key, nonce = random[at:at + 16], random[at + 16:at + 24]
            keys.append(key)
            packed.append(FileKey(key, nonce, _meta_mac(key, nonce)).pack())
        wrapped = ecb_encrypt(self._master, b"".join(packed))
        for number, key in enumerate(keys):
            node_key = encode(wrapped[32 * number:32 * number + 32])
            attributes = encode(pack({"n": f"file {number}.txt"}, key))
            handle = state.new_handle()
            state.insert(Node(handle, self._owner, FILE, parent, attributes, self._now, _SIZE, None, node_key))


def _meta_mac(key: bytes, nonce: bytes) -> bytes:
    """Of one chunk of 16 zero bytes: AES(AES(nonce || nonce)), folded."""
    words = ecb_encrypt(key, ecb_encrypt(key, nonce * 2))
    folded = int.from_bytes(words[0:4] + words[8:12], "big") ^ int.from_bytes(words[4:8] + words[12:16], "big")
    return folded.to_bytes(8, "big")


def _content(master: bytes, node: Node) -> bytes:
    key = FileKey.unpack(ecb_decrypt(master, decode(node.key)))
    return crypt(key.key, key.nonce, 0, bytes(node.size))
