"""The link of a single file as a tree: a root made up here that holds the one file.

There are no events on such a link and nothing to be changed; the file's key came with the link.
"""

from __future__ import annotations

import json

from serpentfs.clouds.mega.api import Api
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.keys import ecb_encrypt

ROOT_HANDLE = "linkroot"
_NO_EVENTS = "AAAAAAAAAAA"


async def fetch_file_link(api: Api, handle: str, node_key: bytes, master_key: bytes) -> bytes:
    """What an account that holds just this file would answer to ``f``, its key wrapped by ``master_key``. Raises
    NotFound when the link is no more."""
    answer = await api.command({"a": "g", "p": handle})
    file = {
        "h": handle,
        "p": ROOT_HANDLE,
        "u": handle,
        "t": 0,
        "a": answer["at"],
        "k": f"{handle}:{encode(ecb_encrypt(master_key, node_key))}",
        "s": answer["s"],
        "ts": 0,
        "fa": answer.get("fa", ""),
    }
    root = {"h": ROOT_HANDLE, "p": "", "u": handle, "t": 2, "a": "", "k": "", "ts": 0}
    return json.dumps([{"f": [root, file], "ok": [], "sn": _NO_EVENTS}]).encode()
