"""What others change: the store's events or a clock, turned into batches of listings.

Events name content directories; those are listed again, and with them every folder that was not known before, all
in one batch, so that what left one folder and came up in another is seen as moved. Without events the whole vault
is listed every ``poll_interval`` seconds. Trouble is logged and tried again; after it everything is listed, because
events may have been lost.
"""

from __future__ import annotations

import logging

import trio

from serpentfs.clouds.base import Batch, Known, Listing
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.vault.folders import FolderMap
from serpentfs.clouds.vault.layout import DATA, ROOT, entry_from_id
from serpentfs.clouds.vault.listing import Lister, RawFolder, group_by_folder
from serpentfs.clouds.vault.names import NameCipher
from serpentfs.clouds.vault.parallel import for_each
from serpentfs.clouds.vault.scan import require_root, scan, without_repeated_folders
from serpentfs.errors import SerpentError
from serpentfs.model import Kind, NodeId, NodeInfo

log = logging.getLogger(__name__)

COALESCE = 0.05
"""Seconds to gather events and rechecks before listing."""
LISTING_SHARE = 3.0
"""After a listing that took t seconds, events wait for this many times t (at most MAX_PAUSE): a huge folder that
changes all the time must not keep the loop busy with listing it."""
MAX_PAUSE = 5.0
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 60.0


class ChangeFeed:
    """Observes one vault. ``bare`` holds the folders that had no object of their own when last listed."""

    def __init__(self, store: BlobStore, lister: Lister, names: NameCipher, poll_interval: float) -> None:
        self._store = store
        self._lister = lister
        self._names = names
        self._poll_interval = poll_interval
        self._folders = FolderMap(names)
        self._observing = trio.Lock()
        self.bare: set[NodeId] = set()
        self._repeated: set[NodeId] = set()
        self._last_scan = -float("inf")
        # What was asked for since the last look; paths are resolved late, when the map is up to date.
        self._everything = False
        self._keys: set[str] = set()
        self._rechecks: set[NodeId] = set()
        self._wake = trio.Event()
        self._listed_prefixes = 0

    def recheck(self, folder: NodeId) -> None:
        self._rechecks.add(folder)
        self._wake.set()

    def recheck_everything(self) -> float:
        """A look at the whole vault that begins now or later is sent soon."""
        self._everything = True
        self._wake.set()
        return trio.current_time()

    @property
    def observed(self) -> int:
        """See Cloud.observed: answers of the store to the listing of everything, and folders that were read."""
        return self._listed_prefixes + self._lister.listed

    def _count_prefix(self) -> None:
        self._listed_prefixes += 1

    def _changed(self, keys: frozenset[str]) -> None:
        if not keys:
            self._everything = True
        # Whatever comes or goes in d/ itself is named beside it (d/XX).
        self._keys |= keys - {DATA}
        self._wake.set()

    async def snapshot(self, known: Known) -> Batch:
        """The whole vault, listed now."""
        async with self._observing:
            started = trio.current_time()
            hurry = self._last_scan == -float("inf")    # at the start everybody waits for it
            listings, bare = await scan(
                self._store, self._lister, self._names, known, self._count_prefix, hurry=hurry
            )
            self._folders.replace(listings)
            self.bare = bare
            self._repeated.clear()
            self._last_scan = started
            return Batch(started, tuple(listings), complete=True)

    async def run(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        """Send what changes until cancelled, or until nobody receives any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen if self._store.capabilities.events else self._tick)
            try:
                await self._serve(known, send)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()

    async def _tick(self) -> None:
        while True:
            await trio.sleep_until(self._last_scan + self._poll_interval)
            self._everything = True
            self._wake.set()
            # A failed scan is tried again by the serving side; here only the rhythm is kept.
            await trio.sleep(self._poll_interval)

    async def _listen(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            began = trio.current_time()
            trouble = await self._listen_once()
            if trio.current_time() - began > MAX_BACKOFF:
                backoff = FIRST_BACKOFF
            log.warning("watching the store broke off, again in %.1f s: %s", backoff, trouble)
            await trio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)

    async def _listen_once(self) -> SerpentError | None:
        send, receive = trio.open_memory_channel[frozenset[str]](16)
        trouble: SerpentError | None = None

        async def watch() -> None:
            nonlocal trouble
            async with send:
                try:
                    await self._store.watch(DATA, send)
                except SerpentError as error:
                    trouble = error

        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(watch)
            async for keys in receive:
                self._changed(keys)
        return trouble

    async def _serve(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        backoff = FIRST_BACKOFF
        while True:
            await self._wake.wait()
            await trio.sleep(COALESCE)
            began = trio.current_time()
            try:
                batch = await self._observe(known)
            except SerpentError as error:
                log.warning("listing the vault failed, again in %.1f s: %s", backoff, error)
                self._everything = True
                self._wake.set()
                await trio.sleep(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF)
                continue
            backoff = FIRST_BACKOFF
            if batch is not None:
                took = trio.current_time() - began
                await send.send(batch)
                if not batch.complete:
                    await trio.sleep(min(MAX_PAUSE, LISTING_SHARE * took))

    async def _observe(self, known: Known) -> Batch | None:
        """Look at what was asked for. None when that concerns no folder that is known."""
        self._wake = trio.Event()
        everything, keys, rechecks = self._everything, self._keys, self._rechecks
        self._everything, self._keys, self._rechecks = False, set(), set()
        if everything:
            return await self.snapshot(known)
        async with self._observing:
            folders = self._folders.folders_at(keys) | rechecks
            return await self._look_at(folders, known) if folders else None

    async def _look_at(self, folders: set[NodeId], known: Known) -> Batch:
        started = trio.current_time()
        listed: dict[NodeId, list[NodeInfo]] = {}
        pending = set(folders)
        while pending:
            raw = await self._list_raw(pending)
            fresh = await self._lister.list_folders(raw, known)
            listed.update(fresh)
            pending = await self._follow(fresh) - listed.keys()
        links = self._standing_links(listed)
        listings = {
            folder: Listing(folder, tuple(without_repeated_folders(self._lister, nodes, links)))
            for folder, nodes in sorted(listed.items(), key=lambda item: self._folders.links.get(item[0], "~"))
        }
        self._repeated |= {
            node.id
            for folder, nodes in listed.items()
            for node in nodes
            if node.kind is Kind.DIRECTORY and node not in listings[folder].children
        }
        forgotten = self._folders.apply(listings)
        self.bare &= self._folders.links.keys()
        if forgotten & self._repeated:
            # The link that was shown is gone; one that was hidden can take its place.
            self._everything = True
            self._wake.set()
        return Batch(started, tuple(listings.values()))

    async def _list_raw(self, folders: set[NodeId]) -> dict[NodeId, RawFolder]:
        raw: dict[NodeId, RawFolder] = {}

        async def list_one(folder: NodeId) -> None:
            path = self._names.directory_path(folder)
            there = (await group_by_folder(await self._store.list(path))).get(path)
            raw[folder] = there or {}
            if there is None and folder == ROOT:
                await require_root(self._store, self._names)
            if there is None:
                self.bare.add(folder)
            else:
                self.bare.discard(folder)

        await for_each(list_one, sorted(folders), limit=min(16, len(folders)))
        return raw

    async def _follow(self, fresh: dict[NodeId, list[NodeInfo]]) -> set[NodeId]:
        """Which folders must be listed too: new ones, and those that a moved one may have left."""
        wanted: set[NodeId] = set()
        for nodes in fresh.values():
            for node in nodes:
                if node.kind is not Kind.DIRECTORY:
                    continue
                link = self._folders.links.get(node.id)
                if link is None:
                    wanted.add(node.id)
                elif link and link != node.locator:
                    wanted.add(entry_from_id(self._names, link).parent)
        return wanted

    def _standing_links(self, listed: dict[NodeId, list[NodeInfo]]) -> dict[NodeId, str]:
        """The links that folders were shown under so far and that still stand: they go before newcomers."""
        seen = {(node.id, node.locator) for nodes in listed.values() for node in nodes if node.kind is Kind.DIRECTORY}
        standing = {folder: self._folders.links.get(folder, "") for folder, _ in seen}
        return {folder: link for folder, link in standing.items() if (folder, link) in seen}
