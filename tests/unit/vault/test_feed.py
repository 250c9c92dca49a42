"""Change detection: what others do comes in batches that tell moves from removals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from serpentfs.clouds.base import Batch, Listing
from serpentfs.clouds.vault import VaultCloud
from serpentfs.clouds.vault.folders import FolderMap
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.errors import PermissionDenied, Unavailable
from serpentfs.model import Kind, NodeId, NodeInfo, Revision
from tests.fakes.counting_blobs import CountingBlobStore
from tests.fakes.memory_blobs import Account, MemoryBlobStore
from tests.vaults import fresh_vault, mkdir, nothing_known, put, reopened, tree

pytestmark = pytest.mark.trio

PATIENCE = 1000.0
"""Virtual seconds."""


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


@asynccontextmanager
async def following(vault: VaultCloud) -> AsyncIterator[trio.MemoryReceiveChannel[Batch]]:
    """The batches of ``changes``, after the first complete one."""
    send, receive = trio.open_memory_channel[Batch](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(vault.changes, nothing_known, send)
        with trio.fail_after(PATIENCE):
            assert (await receive.receive()).complete
        yield receive
        nursery.cancel_scope.cancel()


async def next_batch(batches: trio.MemoryReceiveChannel[Batch]) -> dict[NodeId, set[str]]:
    """Folder to the names in it."""
    with trio.fail_after(PATIENCE):
        batch = await batches.receive()
    assert batch.started <= trio.current_time()
    return {listing.directory: {child.name for child in listing.children} for listing in batch.listings}


async def two_clients() -> tuple[VaultCloud, VaultCloud, Account]:
    account = Account(folders=True)
    ours = await fresh_vault(CountingBlobStore(account))
    return ours, reopened(ours, MemoryBlobStore(account)), account


async def test_a_move_is_one_batch(clock: trio.testing.MockClock) -> None:
    ours, theirs, _ = await two_clients()
    a, b = await mkdir(theirs, ROOT, "a"), await mkdir(theirs, ROOT, "b")
    moving = await mkdir(theirs, a.id, "moving")
    await put(theirs, moving.id, "inside", b"")
    file = await put(theirs, a.id, "file", b"data")
    async with following(ours) as batches:
        await theirs.move(moving.ref, b.id, "moved", replaces=None)
        await theirs.move(file.ref, b.id, "file", replaces=None)
        seen = await next_batch(batches)
        assert seen == {a.id: set(), b.id: {"moved", "file"}}


async def test_a_new_tree_is_one_batch(clock: trio.testing.MockClock) -> None:
    ours, theirs, _ = await two_clients()
    async with following(ours) as batches:
        a = await mkdir(theirs, ROOT, "a")
        b = await mkdir(theirs, a.id, "b")
        c = await mkdir(theirs, b.id, "c")
        await put(theirs, c.id, "file", b"data")
        seen: dict[NodeId, set[str]] = {}
        while seen.get(c.id) != {"file"}:
            seen |= await next_batch(batches)
        assert seen == {ROOT: {"a"}, a.id: {"b"}, b.id: {"c"}, c.id: {"file"}}


async def test_a_folder_that_comes_back_is_listed_in_full(clock: trio.testing.MockClock) -> None:
    ours, theirs, account = await two_clients()
    outer = await mkdir(theirs, ROOT, "outer")
    inner = await mkdir(theirs, outer.id, "inner")
    await put(theirs, inner.id, "file", b"data")
    link = f"{ours.names.directory_path(ROOT)}{outer.locator}/dir.c9r"
    store = MemoryBlobStore(account)
    async with following(ours) as batches:
        data = store.contents()[link]
        store.tamper(link, None)
        assert (await next_batch(batches))[ROOT] == set()
        store.tamper(link, data)
        seen = await next_batch(batches)
        assert seen == {ROOT: {"outer"}, outer.id: {"inner"}, inner.id: {"file"}}


async def test_only_what_changed_is_listed(clock: trio.testing.MockClock) -> None:
    ours, theirs, _ = await two_clients()
    folders = [await mkdir(theirs, ROOT, f"{number}") for number in range(20)]
    async with following(ours) as batches:
        assert isinstance(ours.store, CountingBlobStore)
        ours.store.calls.clear()
        await put(theirs, folders[7].id, "l" * 200, b"data")
        assert await next_batch(batches) == {folders[7].id: {"l" * 200}}
        assert ours.store.calls["list"] == 1
        assert ours.store.calls["list_directories"] == 0


async def test_a_second_link_is_hidden_until_the_first_goes(clock: trio.testing.MockClock) -> None:
    ours, theirs, account = await two_clients()
    a, b = await mkdir(theirs, ROOT, "a"), await mkdir(theirs, ROOT, "b")
    folder = await mkdir(theirs, a.id, "folder")
    store = MemoryBlobStore(account)
    second = f"{ours.names.directory_path(b.id)}/{ours.names.entry_name('again', b.id)[0]}/dir.c9r"
    async with following(ours) as batches:
        store.tamper(second, folder.id.encode())
        assert (await next_batch(batches))[b.id] == set()
        await store.delete(f"{ours.names.directory_path(a.id)}/{folder.locator.rpartition('/')[2]}/dir.c9r")
        seen: dict[NodeId, set[str]] = {}
        while seen.get(b.id) != {"again"}:
            seen |= await next_batch(batches)
        assert seen[a.id] == set()


async def test_recheck(clock: trio.testing.MockClock) -> None:
    ours, theirs, _ = await two_clients()
    folder = await mkdir(theirs, ROOT, "folder")
    await put(theirs, folder.id, "file", b"")
    async with following(ours) as batches:
        ours.recheck(folder.id)
        ours.recheck(ROOT)
        assert await next_batch(batches) == {ROOT: {"folder"}, folder.id: {"file"}}


async def test_polling(clock: trio.testing.MockClock) -> None:
    account = Account(folders=False)
    theirs = await fresh_vault(MemoryBlobStore(account))
    ours = reopened(theirs, MemoryBlobStore(account), poll_interval=60)
    async with following(ours) as batches:
        for number in range(3):
            before = trio.current_time()
            await put(theirs, ROOT, f"{number}", b"")
            assert len((await next_batch(batches))[ROOT]) == number + 1
            assert 30 < trio.current_time() - before < 130
        before = trio.current_time()
        ours.recheck(ROOT)
        await next_batch(batches)
        assert trio.current_time() - before < 1


class Unreliable(MemoryBlobStore):
    """Fails while ``trouble`` is set."""

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self.trouble: Exception | None = None
        self.broken = trio.Event()

    def break_off(self, trouble: Exception) -> None:
        self.trouble = trouble
        self.broken.set()

    def mend(self) -> None:
        self.trouble = None
        self.broken = trio.Event()

    async def list(self, prefix: str) -> list:  # type: ignore[type-arg]
        if self.trouble is not None:
            raise self.trouble
        return await super().list(prefix)

    async def watch(self, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().watch, prefix, send)
            await self.broken.wait()
            nursery.cancel_scope.cancel()
        raise self.trouble or Unavailable("it broke")


@pytest.mark.parametrize("trouble", [Unavailable("no network"), PermissionDenied("not now")])
@pytest.mark.parametrize("folders", [True, False])
async def test_trouble_passes(clock: trio.testing.MockClock, trouble: Exception, folders: bool) -> None:
    account = Account(folders=folders)
    theirs = await fresh_vault(MemoryBlobStore(account))
    store = Unreliable(account)
    ours = reopened(theirs, store)
    async with following(ours) as batches:
        store.break_off(trouble)
        await put(theirs, ROOT, "file", b"")
        with trio.move_on_after(300):
            raise AssertionError(await batches.receive())
        await put(theirs, ROOT, "another", b"")
        store.mend()
        with trio.fail_after(PATIENCE):
            while (await next_batch(batches)).get(ROOT) != {"file", "another"}:
                pass


@pytest.mark.parametrize("folders", [True, False])
async def test_a_vault_that_vanished_is_not_an_empty_vault(clock: trio.testing.MockClock, folders: bool) -> None:
    account = Account(folders=folders)
    ours = await fresh_vault(MemoryBlobStore(account))
    await put(ours, ROOT, "file", b"")
    async with following(ours) as batches:
        blobs, directories = account.blobs, account.directories
        account.blobs, account.directories = {}, set()
        account.touched(f"{ours.names.directory_path(ROOT)}/x")
        with trio.move_on_after(300):
            raise AssertionError(await batches.receive())
        with pytest.raises(Unavailable):
            await ours.snapshot(nothing_known)
        account.blobs, account.directories = blobs, directories
        assert await next_batch(batches) == {ROOT: {"file"}}


async def test_nobody_listens_any_more(clock: trio.testing.MockClock) -> None:
    ours, theirs, _ = await two_clients()
    send, receive = trio.open_memory_channel[Batch](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.changes, nothing_known, send)
        await receive.receive()
        receive.close()
        await put(theirs, ROOT, "file", b"")


async def test_a_busy_huge_folder_leaves_time_for_others(clock: trio.testing.MockClock) -> None:
    ours, theirs, account = await two_clients()

    class Slow(CountingBlobStore):
        async def list(self, prefix: str) -> list:  # type: ignore[type-arg]
            await trio.sleep(1)
            return await super().list(prefix)

    store = Slow(account)
    ours = reopened(ours, store)
    async with following(ours) as batches, trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(600):
                await put(theirs, ROOT, f"{number}", b"")
                await trio.sleep(0.1)

        nursery.start_soon(write)
        store.calls.clear()
        with trio.fail_after(PATIENCE):
            while len((await next_batch(batches))[ROOT]) < 600:
                pass
        assert store.calls["list"] < 25


def folder(parent: str, name: str, identity: str) -> NodeInfo:
    return NodeInfo(
        NodeId(identity), NodeId(parent), name, Kind.DIRECTORY, 0, 0, Revision("r"), f"{parent}/{identity}-link"
    )


async def test_folder_map_forgets_what_is_gone() -> None:
    vault = await fresh_vault(MemoryBlobStore())
    folders = FolderMap(vault.names)
    folders.replace([Listing(ROOT, (folder("", "a", "A"),)), Listing(NodeId("A"), (folder("A", "b", "B"),))])
    path = vault.names.directory_path
    assert folders.folders_at([path("A"), f"{path('B')}/x.c9r", "d/nowhere/else"]) == {"A", "B"}
    assert folders.folders_at([path("A").rpartition("/")[0]]) >= {"A"}
    moved = {ROOT: Listing(ROOT, (folder("", "b", "B"),))}
    assert folders.apply(moved) == {"A"}
    assert folders.folders_at([path("A"), path("B")]) == {"B"}
    assert folders.apply({ROOT: Listing(ROOT, ())}) == {"B"}
    assert set(folders.links) == {ROOT}


async def test_many_prefixes_are_listed_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serpentfs.clouds.vault.scan.MANY_PREFIXES", 3)
    vault = await fresh_vault(CountingBlobStore(folders=False))
    for number in range(12):
        inner = await mkdir(vault, ROOT, f"{number}")
        await put(vault, inner.id, "file", b"data")
    assert isinstance(vault.store, CountingBlobStore)
    vault.store.calls.clear()
    assert len(await tree(vault)) == 24
    assert vault.store.calls["list"] > 3


async def test_only_the_first_look_hurries_and_only_where_every_answer_takes_its_time() -> None:
    for folders in (False, True):
        store = CountingBlobStore(folders=folders)
        vault = await fresh_vault(store)
        for number in range(12):
            inner = await mkdir(vault, ROOT, f"{number}")
            await put(vault, inner.id, "file", b"data")
        prefixes = len(await store.list_directories("d"))    # 13 folders, of which two may have the same
        for listings in (1 if folders else prefixes, 1):
            store.calls.clear()
            assert len(await tree(vault)) == 24
            assert store.calls["list"] == listings
