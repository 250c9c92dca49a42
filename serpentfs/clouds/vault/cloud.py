"""VaultCloud: a Cryptomator vault (format 8) on any blob store, as a Cloud.

A folder's id is its directory id, which no rename changes; a file's or link's id is ``<parent id>/<ciphertext
name>``. A revision is that of the object that makes the entry what it is (``dir.c9r``, ``symlink.c9r``, the
content). Stateless about the tree, except for what change detection must remember of the folders.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from serpentfs.clouds.base import Batch, Capabilities, Content, GrowingContent, Known
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.vault.config import VaultConfig
from serpentfs.clouds.vault.content import scheme_for
from serpentfs.clouds.vault.feed import ChangeFeed
from serpentfs.clouds.vault.layout import ROOT, entry_of
from serpentfs.clouds.vault.listing import Lister, group_by_folder
from serpentfs.clouds.vault.masterkey import Masterkey
from serpentfs.clouds.vault.names import MAX_NAME_BYTES, REGULAR, NameCipher, check_name, normalize
from serpentfs.clouds.vault.reading import Reader
from serpentfs.clouds.vault.writes import Writer
from serpentfs.errors import InvalidArgument, IsADirectory, NotFound, Unsupported
from serpentfs.model import Kind, NodeId, NodeInfo, NodeRef, Quota, Revision, Span

POLL_INTERVAL = 60.0
"""Seconds between two listings of a store that has no events."""


@dataclass(frozen=True, slots=True)
class VaultFiles:
    """The two small files that open a vault, as read from its root. Useless without the passphrase, but enough to try
    guesses against: keep copies private."""

    config: bytes = field(repr=False)
    masterkey: bytes = field(repr=False)


class VaultCloud:
    """One opened vault. Made by ``open_vault``."""

    def __init__(
        self,
        store: BlobStore,
        config: VaultConfig,
        key: Masterkey,
        files: VaultFiles,
        *,
        poll_interval: float = POLL_INTERVAL,
    ) -> None:
        self.jti = config.jti
        self.config = config
        self.files = files
        self.store = store
        self._key = key
        self.names = NameCipher(key, config.shortening_threshold)
        self.scheme = scheme_for(config.cipher_combo, key)
        self.lister = Lister(store, self.names, self.scheme)
        self.reader = Reader(store, self.scheme)
        self._capabilities = Capabilities(
            symlinks=True,
            stable_file_ids=False,
            set_mtime=store.capabilities.set_mtime,
            growing_puts=store.capabilities.growing_puts,
            events=store.capabilities.events,
            longest_name_bytes=MAX_NAME_BYTES,
        )
        self._feed = ChangeFeed(store, self.lister, self.names, poll_interval)
        self.writer = Writer(store, self.names, self.scheme, key, lambda folder: folder in self._feed.bare)

    def __repr__(self) -> str:
        return f"<VaultCloud {self.jti}>"

    @property
    def secret(self) -> bytes:
        """The raw masterkey, from which this machine's own keys for the remote are derived."""
        return self._key.raw

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def root(self) -> NodeId:
        return ROOT

    def name_key(self, name: str) -> str:
        """Names are equal when their NFC forms are."""
        return normalize(name)

    def check_name(self, name: str) -> None:
        check_name(name)

    async def snapshot(self, known: Known) -> Batch:
        return await self._feed.snapshot(known)

    async def changes(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        await self._feed.run(known, send)

    def recheck(self, directory: NodeId) -> None:
        self._feed.recheck(directory)

    async def reload(self) -> float:
        """See Cloud.reload. Nothing of the vault is kept here but what is kept of its listings."""
        await trio.lowlevel.checkpoint()
        return self._feed.recheck_everything()

    @property
    def observed(self) -> int:
        return self._feed.observed

    async def read(self, node: NodeRef, span: Span) -> bytes:
        """See Cloud.read. A link's content is its target."""
        if node.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder has no content")
        key = entry_of(self.names, node).primary(node.kind)
        return await self.reader.read(key, node.revision, node.size, span)

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
        return await self.writer.put(parent, name, content, replaces, mtime_ns, token, retry)

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
        return await self.writer.put_growing(parent, name, content, replaces, mtime_ns, token)

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        return await self.writer.mkdir(parent, name, token, retry)

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        return await self.writer.symlink(parent, name, target, mtime_ns, retry)

    async def move(
        self,
        node: NodeRef,
        parent: NodeId,
        name: str,
        *,
        replaces: NodeRef | None,
        retry: bool = False,
    ) -> NodeInfo:
        return await self.writer.move(node, parent, name, replaces, retry)

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        if node.kind is Kind.DIRECTORY and node.id == ROOT:
            raise InvalidArgument("the root cannot be removed")
        await self.writer.remove(node, retry)

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        """See Cloud.set_mtime; also of folders (their ``dir.c9r``) and links. The root has no time: Unsupported."""
        if node.kind is Kind.DIRECTORY and node.id == ROOT:
            raise Unsupported("the root of a vault has no time of its own")
        return await self.writer.set_mtime(node, mtime_ns, await self._name_of(node), tried_ns)

    async def _name_of(self, node: NodeRef) -> str:
        """The name that listings show a node under: told by its ciphertext name, or else by a listing."""
        entry = entry_of(self.names, node)
        if not entry.shortened:
            clear = self.names.decrypt(entry.name.removesuffix(REGULAR), entry.parent)
            if clear is not None and clear == normalize(clear):
                return clear
        raw = (await group_by_folder(await self.store.list(entry.path))).get(entry.path, {})
        if entry.shortened and entry.name in raw:
            raw = {entry.name: raw[entry.name]}
        for shown in (await self.lister.list_folders({entry.parent: raw}, _nothing_known))[entry.parent]:
            if shown.id == node.id:
                return shown.name
        raise NotFound(f"{entry.key} is no longer there")

    async def quota(self) -> Quota:
        return await self.store.quota()

    async def aclose(self) -> None:
        await self.store.aclose()


def _nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None
