"""Thumbnails and previews: small encrypted attachments of a file (specification, 7.8)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC

from serpentfs.clouds.mega.api import Api
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import Unavailable

_BLOCK = 16
_HANDLE_BYTES = 8


class FileAttributes:
    def __init__(self, api: Api, transport: Transport) -> None:
        self._api = api
        self._transport = transport

    async def attach(self, handle: str, key: bytes, kind: int, data: bytes) -> None:
        """Store and attach; ``kind`` 0 is a thumbnail, 1 a preview. Unavailable and the API's errors."""
        padded = data + bytes(-len(data) % _BLOCK)
        encryptor = Cipher(AES128(key), CBC(bytes(_BLOCK))).encryptor()
        sealed = encryptor.update(padded) + encryptor.finalize()
        answer = await self._api.command({"a": "ufa", "s": len(sealed), "ssl": 2, "h": handle})
        reply = await self._transport.request("POST", str(answer["p"]), body=sealed)
        if reply.status != 200 or len(reply.body) != _HANDLE_BYTES:
            raise Unavailable("the server did not take an attachment")
        await self._api.command({"a": "pfa", "n": handle, "fa": f"{kind}*{encode(reply.body)}", "i": self._api.own_id})
