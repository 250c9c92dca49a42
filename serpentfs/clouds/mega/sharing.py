"""Public links and old versions: what an account can do beyond a drive (specification, 8.2 and 10)."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.mega import attributes
from serpentfs.clouds.mega.api import Api, error_of, open_api
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.keys import attribute_key, ecb_encrypt, share_auth
from serpentfs.clouds.mega.links import Link, format_link, format_password_link, parse_link
from serpentfs.clouds.mega.nodes import FILE, Node
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.share_keys import keys_for, with_all_below
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import NotFound, PermissionDenied, Unavailable
from serpentfs.model import Kind

_TREE = {"a": "f", "c": 1, "r": 1}


@dataclass(frozen=True, slots=True)
class Version:
    """A former content of a file. Times are Unix seconds."""

    handle: str
    size: int
    mtime: int
    created: int


class Sharing:
    """Links to and versions of the nodes of one account."""

    def __init__(self, api: Api, transport: Transport, replica: Replica, master_key: bytes, endpoint: str) -> None:
        self._api = api
        self._transport = transport
        self._replica = replica
        self._master_key = master_key
        self._endpoint = endpoint

    def _node(self, handle: str) -> Node:
        node = self._replica.node(handle)
        if node is None:
            raise NotFound("no such file or folder in the account")
        return node

    # links

    async def export(self, handle: str, *, password: str | None, expires: int | None) -> str:
        """A public link with its key. The same node has one link: a second call changes its expiry."""
        node = self._node(handle)
        key = node.key if node.kind is Kind.FILE else await self._share_key(node)
        command: dict[str, Any] = {"a": "l", "n": handle, "i": self._api.own_id}
        if expires is not None:
            command["ets"] = expires
        public = await self._api.command(command)
        if not isinstance(public, str):
            raise Unavailable("the server's answer to a link cannot be understood")
        link = Link("file" if node.kind is Kind.FILE else "folder", public, key)
        return format_link(link) if password is None else await run_in_thread(
            "crypto", format_password_link, link, password
        )

    async def _share_key(self, folder: Node) -> bytes:
        """The key of the folder's share with everybody; the share is made, and all that is in it given its keys."""
        known = dict(self._replica.share_of(folder.handle)).get(folder.handle)
        key = known or secrets.token_bytes(16)
        answer = await self._api.command(
            {
                "a": "s2",
                "n": folder.handle,
                "s": [{"u": "EXP", "r": 0}],
                "ok": encode(ecb_encrypt(self._master_key, key)),
                "ha": encode(share_auth(self._master_key, folder.handle)),
                "cr": keys_for([(folder.handle, key)], with_all_below(self._replica, folder)),
                "i": self._api.own_id,
            }
        )
        if isinstance(answer, dict) and answer.get("ok"):
            # It was shared before, under another key: that one counts.
            return self._replica.add_own_share(folder.handle, str(answer["ok"]))
        self._replica.add_own_share(folder.handle, encode(ecb_encrypt(self._master_key, key)))
        return key

    async def unexport(self, handle: str) -> None:
        """NotFound when there is no link."""
        node = self._node(handle)
        await self._api.command({"a": "l", "n": handle, "d": 1, "i": self._api.own_id})
        if node.kind is Kind.DIRECTORY:
            await self._api.command({"a": "s2", "n": handle, "s": [{"u": "EXP", "r": ""}], "i": self._api.own_id})

    async def import_link(self, text: str, password: str | None, parent: str) -> None:
        """Copy what is behind a link into a folder, within the service: nothing is downloaded. UsageError,
        WrongPassphrase, NotFound (the link is no more), NoSpace."""
        link = await run_in_thread("crypto", parse_link, text, password)
        nodes = await self._linked_file(link) if link.kind == "file" else await self._linked_folder(link)
        sent = time.monotonic()
        answer = await self._api.command({"a": "p", "t": parent, "n": nodes, "i": self._api.own_id})
        self._replica.store(answer["f"], sent)

    async def _linked_file(self, link: Link) -> list[dict[str, Any]]:
        answer = await self._api.command({"a": "g", "p": link.handle})
        wrapped = encode(ecb_encrypt(self._master_key, link.key))
        return [{"ph": link.handle, "t": 0, "a": answer["at"], "k": wrapped}]

    async def _linked_folder(self, link: Link) -> list[dict[str, Any]]:
        replica = Replica(None, self._master_key, link.handle, link_key=link.key)
        try:
            async with (
                open_api(self._transport, self._endpoint, sid=None, link=link.handle) as api,
                api.stream_tree(_TREE) as pieces,
            ):
                whole = [piece async for piece in pieces]
            replica.install(await run_in_thread("store", replica.load, whole))
            top = replica.node(link.node or replica.cloud_drive or "")
            if top is None:
                raise NotFound("what the link names is not there any more")
            return self._copies(replica, top)
        finally:
            replica.close()

    def _copies(self, replica: Replica, top: Node) -> list[dict[str, Any]]:
        """A tree of nodes as one command makes it, each after its folder; folders get new keys."""
        found: list[dict[str, Any]] = []
        waiting: list[tuple[Node, str | None]] = [(top, None)]
        while waiting:
            node, above = waiting.pop(0)
            key = node.key if node.type == FILE else secrets.token_bytes(16)
            copy = {
                "h": node.handle,
                "t": node.type,
                "a": encode(attributes.pack(node.attributes, attribute_key(key))),
                "k": encode(ecb_encrypt(self._master_key, key)),
            }
            found.append(copy if above is None else {**copy, "p": above})
            if node.kind is Kind.DIRECTORY:
                waiting.extend((child, node.handle) for child in replica.children(node.handle))
        return found

    # versions

    def versions(self, handle: str) -> list[Version]:
        """Former contents of a file, newest first, without the present one."""
        return [Version(one.handle, one.size, one.mtime, one.created) for one in self._replica.versions(handle)]

    def _version(self, head: str, handle: str) -> Node:
        found = next((one for one in self._replica.versions(head) if one.handle == handle), None)
        if found is None:
            raise NotFound("the file has no such version")
        return found

    async def restore_version(self, head: str, handle: str) -> None:
        """A former content becomes the present one, which becomes a version itself."""
        old, now = self._version(head, handle), self._node(head)
        if now.parent is None:
            raise PermissionDenied("a file without a folder cannot be restored")
        described = {**old.attributes, "n": now.name}
        node = {
            "h": handle,
            "t": 0,
            "a": encode(attributes.pack(dict(sorted(described.items())), old.cipher_key)),
            "k": encode(ecb_encrypt(self._master_key, old.key)),
            "ov": head,
        }
        # Without our mark: the drive's tree has to hear of it like of anybody's change.
        await self._api.command({"a": "p", "t": now.parent, "n": [node], "vb": 1})

    async def delete_versions(self, head: str, handles: list[str] | None) -> None:
        """None: all of them; the present content stays."""
        wanted = [one.handle for one in self._replica.versions(head)] if handles is None else handles
        for handle in wanted:
            self._version(head, handle)
        commands = [{"a": "d", "n": handle, "v": 1, "i": self._api.own_id} for handle in wanted]
        if commands:
            for answer in await self._api.commands(commands):
                if isinstance(answer, int) and answer < 0 and answer != -9:
                    raise error_of(answer, "deleting a version")

