"""Opening a drive: the parts put together, and the tasks that keep it going.

Order of opening: state, journal, cache, then the tree as the cloud has it. A drive that has seen its whole cloud
once starts from the local tree at once and catches up behind; one that has not must hear the cloud first.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.cache.layers import BlockCache
from serpentfs.cache.seal import BlockSeal
from serpentfs.clouds.base import Batch, Cloud
from serpentfs.errors import RetryableError, SerpentError
from serpentfs.model import NO_CONTENT, ROOT_INO, Ino, Revision
from serpentfs.tree.feed import Feed
from serpentfs.tree.store import NodeRow, Store
from serpentfs.vfs.drive import Drive, DriveOptions
from serpentfs.vfs.journal import Journal
from serpentfs.vfs.ledger import Ledger
from serpentfs.vfs.reads import Contents
from serpentfs.vfs.recovery import recover, sweep
from serpentfs.vfs.replay import Replay

log = logging.getLogger(__name__)

_CATCH_UP = 3.0
"""Seconds that a start with a known tree waits for a fresh listing: a folder on disk makes it, and shows what
happened meanwhile from the first moment; a slow or absent cloud does not hold the start up."""
_QUOTA_EVERY = 60.0
_QUOTA_SETTLE, _QUOTA_PAUSE = 1.0, 5.0
"""Seconds from a change in the cloud to the question how much room there is now, so that changes that come together
cost one question; and between two such questions, while changes go on."""


@asynccontextmanager
async def open_drive(
    cloud: Cloud,
    *,
    remote_id: str,
    secret: bytes,
    state_directory: Path,
    cache_directory: Path | None,
    options: DriveOptions = DriveOptions(),
) -> AsyncIterator[Drive]:
    """A drive over ``cloud``, until the block ends. Then what is open and dirty is journalled; what is not uploaded
    stays in the journal for the next start (``Drive.wait_until_uploaded`` waits for it).

    ``secret`` is the remote's own: every local key derives from it. Raises what the cloud raises when the first
    listing cannot be had, BadVault when the local state is damaged or belongs to another key.
    """
    staging = state_directory / "staging"
    await run_in_thread("disk", partial(staging.mkdir, mode=0o700, parents=True, exist_ok=True))
    store = Store(state_directory / "state.db", secret, cloud.name_key)
    try:
        seal = BlockSeal(store.block_key, remote_id.encode())
        cache = BlockCache(seal=seal, directory=cache_directory, limits=options.cache)
        ledger = Ledger(store, Journal(settle=options.settle), cloud.name_key)

        def content_gone(ino: Ino) -> None:
            row = store.entry(ino)
            node = None if row is None else store.node_of(row.parent)
            if node is not None:
                cloud.recheck(node.node)

        contents = Contents(store, cloud, cache, staging, seal, ledger, content_gone)
        recover(store, ledger, contents)
        await store.sync()
        await run_in_thread("disk", sweep, staging, {stage.content for stage in contents.stages()})
        if store.node_of(ROOT_INO) is None:
            with store.transaction():
                store.put_node(NodeRow(ROOT_INO, Ino(0), cloud.root, "", Revision(""), 0, NO_CONTENT))
        drive = Drive(cloud, store, ledger, contents, cache, options)
        feed = Feed(store, cloud, drive)
        replay = Replay(
            cloud, store, ledger, contents, feed, drive, workers=options.uploads, host=options.host,
            early_size=options.early_size,
        )
        drive.follow(feed, replay.stop, replay.begin_early)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            await _first_listing(cloud, store, feed)
            nursery.start_soon(_follow, cloud, store, feed)
            nursery.start_soon(_refresh_quota, cloud, drive)
            nursery.start_soon(_revisit, feed)
            nursery.start_soon(store.run_checkpoints)
            nursery.start_soon(contents.remove_doomed)
            nursery.start_soon(drive.commit_old_writes)
            if not options.read_only:
                await nursery.start(replay.run)
            try:
                yield drive
            finally:
                with trio.CancelScope(shield=True):
                    await drive.commit_everything()
                    await store.sync()
                nursery.cancel_scope.cancel()
    finally:
        store.close()


async def _first_listing(cloud: Cloud, store: Store, feed: Feed) -> None:
    if not store.is_complete():
        await _apply(await cloud.snapshot(store.known), store, feed)
        return
    if cloud.capabilities.resumes_changes:
        return
    with trio.move_on_after(_CATCH_UP):
        try:
            await _apply(await cloud.snapshot(store.known), store, feed)
        except RetryableError as error:
            log.warning("starting from the local tree: %s", error)


async def _apply(batch: Batch, store: Store, feed: Feed) -> None:
    await feed.apply(batch)
    if batch.applied is not None:
        await store.sync()
        await batch.applied()


async def _follow(cloud: Cloud, store: Store, feed: Feed) -> None:
    send, receive = trio.open_memory_channel[Batch](8)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cloud.changes, store.known, send)
        async for batch in receive:
            try:
                await _apply(batch, store, feed)
            except SerpentError as error:
                # A full disk must not end the drive; the next listing brings the same news.
                log.error("what the cloud reported could not be stored: %s", error)


async def _revisit(feed: Feed) -> None:
    """Files that were open when news of them came are looked at again once they are closed."""
    while True:
        await trio.sleep(1)
        feed.revisit_settled()


async def _refresh_quota(cloud: Cloud, drive: Drive) -> None:
    while True:
        asked = trio.current_time()
        changed = drive.next_room_change()  # what happens while the store answers may not be in its answer
        try:
            drive.set_quota(await cloud.quota())
        except SerpentError as error:
            log.info("the store does not tell its room: %s", error)
        with trio.move_on_after(_QUOTA_EVERY):
            await changed.wait()
            await trio.sleep_until(max(trio.current_time() + _QUOTA_SETTLE, asked + _QUOTA_PAUSE))
