"""MegaCloud: one root of a MEGA account, or a public folder, as a Cloud.

A node's id is its handle; a file's handle is its revision as well, since MEGA never changes the content of a node but
puts a new one in its place. Only opening an account for the first time needs the network at once.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from serpentfs.clouds.base import Batch, Capabilities, Content, GrowingContent, Known, Listing
from serpentfs.clouds.mega import names
from serpentfs.clouds.mega.api import Api, open_api
from serpentfs.clouds.mega.downloads import Downloads, open_downloads
from serpentfs.clouds.mega.encoding import decode
from serpentfs.clouds.mega.feed import EventFeed
from serpentfs.clouds.mega.file_attributes import FileAttributes
from serpentfs.clouds.mega.filelink import fetch_file_link
from serpentfs.clouds.mega.keys import ecb_decrypt
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.rubbish import Binned, Restored, RubbishBin
from serpentfs.clouds.mega.session import Session
from serpentfs.clouds.mega.sharing import Sharing, Version
from serpentfs.clouds.mega.transport import Transport
from serpentfs.clouds.mega.uploads import Uploads
from serpentfs.clouds.mega.view import ROOTS, View
from serpentfs.clouds.mega.writes import Writer
from serpentfs.clouds.proxy import Proxy
from serpentfs.errors import (
    IsADirectory,
    PermanentError,
    ReadOnly,
    RevisionGone,
    Unsupported,
    UsageError,
    first_of,
)
from serpentfs.model import Kind, NodeId, NodeInfo, NodeRef, Quota, Span

log = logging.getLogger(__name__)

_CLOSE_PATIENCE = 5.0
_LOST_PAUSE = 60.0
"""Seconds until events that were refused for good are asked for once more."""
_PRIVATE_KEY = ("account", "privk")
"""Record: the account's RSA key, for keys that others made for it. Sealed like every record."""


@dataclass(frozen=True, slots=True)
class MegaOptions:
    """``root``: which of the account's trees (``view.ROOTS``). ``hard_delete``: remove for good, not into the rubbish
    bin. ``thumbnails``: make and attach them for images. ``connections``: to each storage server. ``proxy``: by which
    way."""

    root: str = "cloud"
    hard_delete: bool = False
    thumbnails: bool = False
    connections: int = 8
    proxy: Proxy = field(default_factory=Proxy)


class MegaCloud:
    """Made by ``open_mega``."""

    def __init__(
        self,
        session: Session,
        options: MegaOptions,
        transport: Transport,
        api: Api,
        replica: Replica,
        downloads: Downloads,
    ) -> None:
        self._session = session
        self._api = api
        self._transport = transport
        self._replica = replica
        self._downloads = downloads
        self.secret = hmac.new(session.key, b"serpentfs local state", hashlib.sha256).digest()
        """From which this machine's own keys for the remote are derived."""
        self.remote_id = session.remote_id(options.root)
        self._no_news: str | None = None
        self._view = View(replica, options.root, folder_link=session.kind == "folder-link", linked=session.node)
        file = partial(fetch_file_link, api, session.user, session.key, _master_key(session))
        self._feed = EventFeed(api, replica, self._view, file if session.kind == "file-link" else None)
        self._uploads = Uploads(
            api,
            transport,
            replica,
            session.key,
            connections=options.connections,
            note_macs=downloads.note_macs,
        )
        self._sharing = Sharing(api, transport, replica, session.key, session.api)
        self._rubbish = RubbishBin(api, replica, self._feed)
        self._writer = Writer(
            api,
            replica,
            self._view,
            self._feed,
            self._uploads,
            FileAttributes(api, transport),
            master_key=session.key,
            secret=self.secret,
            hard_delete=options.hard_delete,
            thumbnails=options.thumbnails,
        )

    def __repr__(self) -> str:
        return f"<MegaCloud {self.remote_id}>"

    @property
    def trouble(self) -> str | None:
        """What keeps the account from answering, for ``status``."""
        return self._no_news or self._api.trouble

    @property
    def over_quota_until(self) -> float | None:
        """Unix time until which the transfer quota is used up."""
        return self._api.over_quota_until

    @property
    def connections_in_use(self) -> int:
        """Downloads under way."""
        return self._downloads.in_use

    def limit_connections(self, direction: str, most: int | None) -> None:
        """To storage servers, from now on, ``up`` or ``down``. None: as many as at the start."""
        (self._uploads if direction == "up" else self._downloads).limit_connections(most)

    @property
    def is_link(self) -> bool:
        return self._session.kind != "account"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            symlinks=False,
            stable_file_ids=True,
            set_mtime=True,
            versions=True,
            resumes_changes=True,
            reports_times=True,
            longest_name_bytes=names.MAX_NAME_BYTES,
        )

    @property
    def root(self) -> NodeId:
        return self._view.root

    def name_key(self, name: str) -> str:
        """Names are equal when their NFC forms are: the official clients normalise."""
        return names.normalize(name)

    def check_name(self, name: str) -> None:
        names.check_name(name)

    async def open(self) -> None:
        """Fetch what must be known of the account, if it was never fetched here."""
        if self._session.kind == "account":
            private_key = self._replica.get_record(*_PRIVATE_KEY)
            if private_key is None:
                answer = await self._api.command({"a": "ug"})
                private_key = ecb_decrypt(self._session.key, decode(answer.get("privk", "")))
                self._replica.put_record(*_PRIVATE_KEY, private_key)
            if private_key:
                self._replica.set_private_key(private_key)
        if not self._replica.is_loaded:
            await self._feed.catch_up()
        _ = self._view.root  # NotFound is told now, not by whatever asks first

    async def snapshot(self, known: Known) -> Batch:
        await self._feed.ensure_fresh()
        return self._feed.whole()

    async def changes(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        """See Cloud.changes. What will not pass by itself (a link that was taken back) is told in ``trouble``; what is
        known stays in use."""
        while True:
            self._no_news = None
            try:
                await self._follow(send)
            except* PermanentError as group:
                self._no_news = f"changes elsewhere are not seen: {first_of(group)}"
                log.error("%s", self._no_news)
            await trio.sleep(_LOST_PAUSE)

    async def _follow(self, send: trio.MemorySendChannel[Batch]) -> None:
        top = self.root
        told, receive = trio.open_memory_channel[Batch](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed.run, told)
            async with receive:
                async for batch in receive:
                    if top in batch.removed:
                        # A link's folder that leaves what is shared may come back: the drive keeps its top, empty.
                        removed = tuple(node for node in batch.removed if node != top)
                        batch = replace(batch, removed=removed, listings=(*batch.listings, Listing(top, ())))
                    await send.send(batch)

    def recheck(self, directory: NodeId) -> None:
        self._feed.recheck(directory)

    async def reload(self) -> float:
        """See Cloud.reload. Unavailable when the account's tree does not come, or not whole: what was known stays."""
        return await self._feed.reload()

    @property
    def observed(self) -> int:
        return self._feed.fetched

    async def read(self, node: NodeRef, span: Span) -> bytes:
        """See Cloud.read. Also of a file that was replaced or removed, while the account still has it."""
        if node.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder has no content")
        # The node may be a newer version of what is asked for.
        found = self._replica.node(node.revision)
        if found is None:
            await self._feed.ensure_fresh()
            found = self._replica.node(node.revision)
        if found is None:
            raise RevisionGone("the content is no longer there")
        span = span.clamp(found.size)
        return await self._downloads.read(found, span) if len(span) else b""

    def _check_writable(self) -> None:
        if self.is_link:
            raise ReadOnly("a public link is read-only")

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        self._check_writable()
        return await self._writer.put(parent, name, content, replaces, mtime_ns, token, retry)

    async def put_growing(
        self,
        parent: NodeId,
        name: str,
        content: GrowingContent,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        raise Unsupported("MEGA wants to know the size of an upload before it begins")

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        self._check_writable()
        return await self._writer.mkdir(parent, name, token, retry)

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        raise Unsupported("MEGA has no symbolic links")

    async def move(
        self,
        node: NodeRef,
        parent: NodeId,
        name: str,
        *,
        replaces: NodeRef | None,
        retry: bool = False,
    ) -> NodeInfo:
        self._check_writable()
        return await self._writer.move(node, parent, name, replaces, retry)

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        self._check_writable()
        await self._writer.remove(node, retry)

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        self._check_writable()
        return await self._writer.set_mtime(node, mtime_ns)

    async def quota(self) -> Quota:
        if self.is_link:
            return Quota(None, None, None)
        answer = await self._api.command({"a": "uq", "strg": 1, "xfer": 1, "pro": 1})
        total, used = int(answer["mstrg"]), int(answer["cstrg"])
        return Quota(total, used, max(0, total - used))

    # what is not part of a drive

    async def export(self, node: NodeId, *, password: str | None, expires: int | None) -> str:
        """The public link to a file or folder, key included; valid until the Unix time ``expires``."""
        self._check_writable()
        return await self._sharing.export(node, password=password, expires=expires)

    async def unexport(self, node: NodeId) -> None:
        """Take the public link back. NotFound when there is none."""
        self._check_writable()
        await self._sharing.unexport(node)

    async def import_link(self, link: str, password: str | None, parent: NodeId) -> None:
        """Copy what is behind a public link into a folder, within the service."""
        self._check_writable()
        await self._sharing.import_link(link, password, self._view.folder_to_write(parent))
        self._feed.recheck(parent)

    def versions(self, node: NodeId) -> Sequence[Version]:
        """Former contents of a file, newest first, without the present one."""
        return self._sharing.versions(node)

    async def restore_version(self, node: NodeId, handle: str) -> None:
        """A former content becomes the present one, which becomes a version."""
        self._check_writable()
        await self._sharing.restore_version(node, handle)

    async def delete_versions(self, node: NodeId, handles: list[str] | None) -> None:
        """None: all of them. The present content stays in any case."""
        self._check_writable()
        await self._sharing.delete_versions(node, handles)

    async def trash(self) -> list[Binned]:
        """What lies in the rubbish bin, in no order."""
        if self.is_link:
            raise Unsupported("a public link has no rubbish bin")
        return await self._rubbish.contents()

    async def restore(self, path: str, *, to: str | None, name: str | None, recursive: bool) -> Restored:
        """See ``RubbishBin.restore``."""
        self._check_writable()
        return await self._rubbish.restore(path, to=to, name=name, recursive=recursive)

    async def empty_trash(self) -> int:
        """Delete for good what lies in the rubbish bin. The answer: how many things."""
        self._check_writable()
        return await self._rubbish.empty()

    async def aclose(self) -> None:
        """Nothing to be done: what is open is closed by ``open_mega``."""


@asynccontextmanager
async def open_mega(
    session: Session, *, directory: Path | None, options: MegaOptions = MegaOptions()
) -> AsyncIterator[MegaCloud]:
    """The cloud of a session, until the block ends. ``directory`` holds what is known of the account (None: memory);
    only the first time there the network is needed, and Unavailable, LoginRequired or NotFound (a link that is no
    more) may be raised. UsageError for a root that there is not."""
    if options.root not in ROOTS:
        raise UsageError(f'no root "{options.root}" in an account; there are: {", ".join(ROOTS)}')
    replica = Replica(
        None if directory is None else directory / "mega.db",
        _master_key(session),
        session.user,
        link_key=session.key if session.kind == "folder-link" else None,
    )
    try:
        transport = Transport(connections=2 * options.connections, proxy=options.proxy)
        try:
            async with (
                open_api(
                    transport,
                    session.api,
                    sid=session.sid or None,
                    link=session.user if session.kind == "folder-link" else None,
                ) as api,
                open_downloads(
                    api,
                    transport,
                    replica,
                    connections=options.connections,
                    public_file=session.kind == "file-link",
                ) as downloads,
            ):
                cloud = MegaCloud(session, options, transport, api, replica, downloads)
                await cloud.open()
                yield cloud
        finally:
            with trio.move_on_after(_CLOSE_PATIENCE, shield=True):
                await transport.aclose()
    finally:
        replica.close()


def _master_key(session: Session) -> bytes:
    """The account's. A file link has none: its one node is kept under a key of our own (see ``filelink``)."""
    return hashlib.sha256(session.key).digest()[:16] if session.kind == "file-link" else session.key
