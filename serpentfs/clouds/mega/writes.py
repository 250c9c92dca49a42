"""Changes of an account's nodes: each Cloud call as the commands that make it so.

The server knows handles only and never minds two nodes of one name, so what a name holds is looked up in the replica,
which is first brought up to date. A change of several steps is one request whose commands are executed in order, and
an order in which a break between two of them loses nothing. What the server confirmed is in the replica before the
caller hears of it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.base import Content
from serpentfs.clouds.mega import attributes, fingerprint, names
from serpentfs.clouds.mega.api import Api, error_of
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.feed import EventFeed
from serpentfs.clouds.mega.file_attributes import FileAttributes
from serpentfs.clouds.mega.keys import ecb_encrypt
from serpentfs.clouds.mega.nodes import Node, sealed_attributes
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.share_keys import keys_of_arrival
from serpentfs.clouds.mega.thumbnails import make_preview, make_thumbnail
from serpentfs.clouds.mega.uploads import Uploads, upload_key
from serpentfs.clouds.mega.view import View
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    IsADirectory,
    NotFound,
    PermissionDenied,
    SerpentError,
    Unavailable,
    Unsupported,
)
from serpentfs.model import Kind, NodeId, NodeInfo, NodeRef, Span

log = logging.getLogger(__name__)

_NEW = "xxxxxxxx"
"""Placeholder of a folder that has no handle yet (specification, 8.1)."""
_THUMBNAIL, _PREVIEW = 0, 1
_LARGEST_IMAGE = 64 * 2**20
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SECOND = 1_000_000_000


class Writer:
    """``hard_delete``: remove for good instead of into the rubbish bin. ``thumbnails``: make them for images."""

    def __init__(
        self,
        api: Api,
        replica: Replica,
        view: View,
        feed: EventFeed,
        uploads: Uploads,
        pictures: FileAttributes,
        *,
        master_key: bytes,
        secret: bytes,
        hard_delete: bool,
        thumbnails: bool,
    ) -> None:
        self._api = api
        self._replica = replica
        self._view = view
        self._feed = feed
        self._uploads = uploads
        self._pictures = pictures
        self._master_key = master_key
        self._secret = secret
        self._hard_delete = hard_delete
        self._thumbnails = thumbnails

    # what a name holds

    def _real(self, name: str, node: Node | None) -> str:
        """The name in the account for one in the drive; a node that is shown under it already keeps its own."""
        if node is not None and name == node.shown:
            return names.normalize(node.name)
        return names.normalize(names.real_name(name, None if node is None else node.handle))

    def _expect(self, parent: NodeId, name: str, replaces: NodeRef | None, mover: Node | None = None) -> Node | None:
        """The node that goes away when something comes to this name; Conflict, AlreadyExists."""
        if replaces is None:
            there = self._replica.named(parent, self._real(name, mover))
            if any(mover is None or node.handle != mover.handle for node in there):
                raise AlreadyExists("the name is taken")
            return None
        found = self._view.find(replaces.id)
        if found is None or found.parent != parent or self._real(name, found) != names.normalize(found.name):
            raise Conflict("what was to be replaced is no longer there")
        if found.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder cannot be replaced")
        if found.handle != replaces.revision:
            raise Conflict("what was to be replaced is a newer version by now")
        return found

    async def _expect_still(self, parent: NodeId, name: str, replaces: NodeRef | None) -> None:
        """``_expect`` once more: others did not wait while a content was sent."""
        await self._feed.ensure_fresh()
        self._expect(parent, name, replaces)

    # commands

    async def _execute(self, commands: Sequence[dict[str, Any]], what: str) -> None:
        for answer in await self._api.commands(list(commands)):
            if isinstance(answer, int) and answer < 0:
                raise error_of(answer, what)

    def _set_attributes(self, node: Node, changed: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The command that changes some of a node's attributes and keeps the others, and the new attributes sealed."""
        sealed = sealed_attributes(node, changed)
        return {"a": "a", "n": node.handle, "at": sealed, "i": self._api.own_id}, sealed

    # Cloud's calls

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool,
    ) -> NodeInfo:
        names.check_name(name)
        await self._feed.ensure_fresh()
        self._view.folder_to_write(parent)
        if retry:
            earlier = self._replica.by_key(parent, upload_key(self._secret, token).key)
            if earlier is not None:
                return self._view.info(earlier)
        old = self._expect(parent, name, replaces)
        sent = time.monotonic()
        made = await self._uploads.put(
            parent,
            self._real(name, old),
            content,
            mtime=mtime_ns // _SECOND,
            replaces=None if old is None else old.handle,
            token=token,
            secret=self._secret,
            extra={} if old is None else {k: v for k, v in old.attributes.items() if k not in ("n", "c", "c0")},
            share=self._replica.share_of(parent),
            check=partial(self._expect_still, parent, name, replaces),
        )
        # What it replaced is an old version now, or gone; the events tell which.
        node = self._stored([made], sent, None if old is None else old.handle)
        if self._thumbnails:
            await self._attach_pictures(node, content)
        return self._view.info(node)

    def _stored(self, answer: Sequence[dict[str, Any]], sent: float, replaced: str | None = None) -> Node:
        """The one node that a command made."""
        stored = self._replica.store(answer, sent, replaced)
        if len(stored) != 1:
            raise Unavailable("the server's answer to a new node cannot be understood")
        return stored[0]

    def _changed(self, handle: str) -> Node:
        node = self._replica.node(handle)
        if node is None:
            raise NotFound("what was changed just now is gone")
        return node

    async def _attach_pictures(self, node: Node, content: Content) -> None:
        """The file is safe already: whatever fails here is told and forgotten."""
        if not node.name.lower().endswith(_IMAGES) or not 0 < content.size <= _LARGEST_IMAGE:
            return
        try:
            data = await content.read(Span(0, content.size))
            for kind, make in ((_THUMBNAIL, make_thumbnail), (_PREVIEW, make_preview)):
                picture = await run_in_thread("crypto", make, data)
                if picture is not None:
                    await self._pictures.attach(node.handle, node.cipher_key, kind, picture)
        except SerpentError as error:
            log.warning("a picture's thumbnail was not stored: %s", error)

    async def mkdir(self, parent: NodeId, name: str, token: bytes, retry: bool) -> NodeInfo:
        names.check_name(name)
        await self._feed.ensure_fresh()
        self._view.folder_to_write(parent)
        key = hmac.new(self._secret, b"folder" + token, hashlib.sha256).digest()[:16]
        if retry and (earlier := self._replica.by_key(parent, key)) is not None:
            return self._view.info(earlier)
        self._expect(parent, name, None)
        folder = {
            "h": _NEW,
            "t": 1,
            "a": encode(attributes.pack({"n": self._real(name, None)}, key)),
            "k": encode(ecb_encrypt(self._master_key, key)),
        }
        command: dict[str, Any] = {"a": "p", "t": parent, "n": [folder], "i": self._api.own_id}
        if shares := self._replica.share_of(parent):
            triples: list[Any] = []
            for at, (_, share_key) in enumerate(shares):
                triples += [at, 0, encode(ecb_encrypt(share_key, key))]
            command["cr"] = [[handle for handle, _ in shares], [], triples]
        sent = time.monotonic()
        answer = await self._api.command(command)
        return self._view.info(self._stored(answer["f"], sent))

    def _head(self, handle: NodeId) -> Node | None:
        """The file that a node is now: where somebody saved over it, the newest version."""
        node = self._replica.node(handle)
        while node is not None and node.parent is not None:
            above = self._replica.node(node.parent)
            if above is None or above.kind is Kind.DIRECTORY:
                break
            node = above
        return node if node is not None and self._view.holds(node) else None

    async def move(
        self, node: NodeRef, parent: NodeId, name: str, replaces: NodeRef | None, retry: bool
    ) -> NodeInfo:
        names.check_name(name)
        await self._feed.ensure_fresh()
        found = self._head(node.id)
        if found is None:
            raise NotFound("what was to be moved is no longer there")
        self._check_own_place(found)
        self._view.folder_to_write(parent)
        real = self._real(name, found)
        is_there = found.parent == parent and names.normalize(found.name) == real
        gone: Node | None = None
        if replaces is not None and retry and is_there and self._view.find(replaces.id) is None:
            pass  # the earlier attempt took it away
        elif replaces is None or replaces.id != found.handle:
            gone = self._expect(parent, name, replaces, found)
        commands: list[dict[str, Any]] = []
        if found.parent != parent:
            keys = keys_of_arrival(self._replica, parent, found)
            commands.append({"a": "m", "n": found.handle, "t": parent, "i": self._api.own_id, **keys})
        sealed: str | None = None
        if names.normalize(found.name) != real:
            rename, sealed = self._set_attributes(found, {"n": real})
            commands.append(rename)
        for_good = gone is not None and self._is_for_good(gone)
        if gone is not None:
            commands += self._removal(gone, for_good=for_good)
        sent = time.monotonic()
        if commands:
            await self._execute(commands, "moving")
        if found.parent != parent:
            self._replica.set_parent(found.handle, parent, sent)
        if sealed is not None:
            self._replica.set_attributes(found.handle, sealed, sent)
        if gone is not None:
            self._removed(gone, sent, for_good=for_good)
        info = self._view.info(self._changed(found.handle))
        return replace(info, same_content=found.handle == node.id)

    @staticmethod
    def _check_own_place(node: Node) -> None:
        if node.parent is None:
            raise PermissionDenied("what somebody shares has its name and place from its owner")

    def _is_for_good(self, node: Node) -> bool:
        # What is somebody else's must not end up in this account's bin (and nobody could decrypt it there).
        own = (self._replica.cloud_drive, self._replica.inbox)
        return self._hard_delete or self._replica.rubbish is None or self._replica.root_of(node.handle) not in own

    def _removal(self, node: Node, *, for_good: bool) -> list[dict[str, Any]]:
        if for_good:
            return [{"a": "d", "n": node.handle, "i": self._api.own_id}]
        # Where it came from, for who restores it (specification, 6).
        note, _ = self._set_attributes(node, {"rr": node.parent})
        return [note, {"a": "m", "n": node.handle, "t": self._replica.rubbish, "i": self._api.own_id}]

    def _removed(self, node: Node, sent: float, *, for_good: bool) -> None:
        """``for_good`` as it was asked for: by now the packet may have the node in the bin."""
        if for_good or self._replica.rubbish is None:
            self._replica.drop(node.handle)
            return
        _, sealed = self._set_attributes(node, {"rr": node.parent})
        self._replica.set_attributes(node.handle, sealed, sent)
        self._replica.set_parent(node.handle, self._replica.rubbish, sent)

    async def remove(self, node: NodeRef, retry: bool) -> None:
        await self._feed.ensure_fresh()
        found = self._view.find(node.id)
        if found is None:
            if self._head(node.id) is not None:
                raise Conflict("it was replaced")
            if retry:
                return
            raise NotFound("it is already gone")
        self._check_own_place(found)
        if found.kind is Kind.DIRECTORY and self._replica.has_children(found.handle):
            raise DirectoryNotEmpty("the folder is not empty")
        for_good = self._is_for_good(found)
        sent = time.monotonic()
        await self._execute(self._removal(found, for_good=for_good), "removing")
        self._removed(found, sent, for_good=for_good)

    async def set_mtime(self, node: NodeRef, mtime_ns: int) -> NodeInfo:
        if node.kind is not Kind.FILE:
            raise Unsupported("only files have a time of their own here")
        await self._feed.ensure_fresh()
        found = self._view.find(node.id)
        if found is None:
            if self._head(node.id) is not None:
                raise Conflict("it was replaced")
            raise NotFound("it is no longer there")
        known = fingerprint.unpack_fingerprint(str(found.attributes.get("c", "")))
        # Without a fingerprint other clients take the node key's first half for the checksum (specification, 6.1).
        checksum = found.key[:16] if known is None else known[0]
        packed = fingerprint.pack_fingerprint(checksum, max(0, mtime_ns // _SECOND))
        command, sealed = self._set_attributes(found, {"c": packed})
        sent = time.monotonic()
        await self._execute([command], "setting a time")
        self._replica.set_attributes(found.handle, sealed, sent)
        return self._view.info(self._changed(found.handle))

