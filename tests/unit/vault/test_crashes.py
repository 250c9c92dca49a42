"""Every change, broken off at every call to the store: the vault is always as it was or as it should become, an
attempt that is told of the earlier one succeeds, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import pytest

from serpentfs.clouds.vault import Severity, VaultCloud, check_vault
from serpentfs.errors import SerpentError, Unavailable
from serpentfs.model import NodeInfo
from tests.fakes.faulty_blobs import FaultyBlobStore
from tests.fakes.memory_blobs import Account, MemoryBlobStore
from tests.vaults import contents, fresh_vault, mkdir, put, reopened, tree

pytestmark = pytest.mark.trio

SHORT, LONG, LONG2 = "short", "l" * 180, "m" * 180
TOKEN = bytes(range(32))

Manner = Literal["before", "after", "half"]
Tree = dict[str, NodeInfo]
State = dict[str, bytes | str | None]


async def prepare(vault: VaultCloud) -> None:
    for name in (SHORT, LONG):
        await put(vault, vault.root, f"file-{name}", f"file {name}".encode())
        folder = await mkdir(vault, vault.root, f"folder-{name}")
        await put(vault, folder.id, "inside", b"inside")
        await mkdir(vault, vault.root, f"empty-{name}")
        await vault.symlink(vault.root, f"link-{name}", f"target {name}", mtime_ns=1)


@dataclass(frozen=True)
class Change:
    """``run`` makes a change, given the tree before it; ``expect`` tells what it makes of the contents."""

    name: str
    run: Callable[[VaultCloud, Tree, bool], Awaitable[object]]
    expect: Callable[[State], State]
    between: Callable[[State], State] | None = None
    """A state in the middle that is allowed too: what is to be replaced by another kind of node is gone already."""


def without(state: State, *paths: str) -> State:
    return {path: value for path, value in state.items() if path not in paths}


def renamed(state: State, old: str, new: str) -> State:
    return {
        (new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path): value
        for path, value in state.items()
        if path != new
    }


def put_new(name: str) -> Change:
    async def run(vault: VaultCloud, before: Tree, retry: bool) -> object:
        return await put(vault, vault.root, name, b"new" * 30_000, token=TOKEN, retry=retry)

    return Change(f"put {name[:2]}", run, lambda state: {**state, f"/{name}": b"new" * 30_000})


def put_over(path: str) -> Change:
    async def run(vault: VaultCloud, before: Tree, retry: bool) -> object:
        node = before[path]
        return await put(vault, vault.root, node.name, b"newer", replaces=node.ref, token=TOKEN, retry=retry)

    return Change(
        f"put over {path[:8]}", run, lambda state: {**state, path: b"newer"}, lambda state: without(state, path)
    )


def make_folder(name: str) -> Change:
    async def run(vault: VaultCloud, before: Tree, retry: bool) -> object:
        return await vault.mkdir(vault.root, name, token=TOKEN, retry=retry)

    return Change(f"mkdir {name[:2]}", run, lambda state: {**state, f"/{name}": None})


def make_link(name: str) -> Change:
    async def run(vault: VaultCloud, before: Tree, retry: bool) -> object:
        return await vault.symlink(vault.root, name, "somewhere", mtime_ns=1, retry=retry)

    return Change(f"symlink {name[:2]}", run, lambda state: {**state, f"/{name}": "somewhere"})


def move(old: str, new: str, over: bool = False) -> Change:
    async def run(vault: VaultCloud, before: Tree, retry: bool) -> object:
        parent = before[new.rpartition("/")[0]].id if new.count("/") > 1 else vault.root
        replaces = before[new].ref if over else None
        return await vault.move(
            before[old].ref, parent, new.rpartition("/")[2], replaces=replaces, retry=retry
        )

    between = (lambda state: without(state, new)) if over else None
    name = f"move {old[:9]}{len(old)} to {new[:9]}{len(new)}"
    return Change(name, run, lambda state: renamed(state, old, new), between)


def remove(path: str) -> Change:
    async def run(vault: VaultCloud, before: Tree, retry: bool) -> object:
        await vault.remove(before[path].ref, retry=retry)
        return None

    return Change(f"remove {path[:9]}{len(path)}", run, lambda state: without(state, path))


CHANGES = [
    *(make(name) for make in (put_new, make_folder, make_link) for name in ("new", "n" * 180)),
    *(put_over(f"/{kind}-{name}") for kind in ("file", "link") for name in (SHORT, LONG)),
    *(
        move(f"/{kind}-{old}", f"/{new}")
        for kind in ("file", "folder", "link")
        for old in (SHORT, LONG)
        for new in ("new", LONG2)
    ),
    move(f"/file-{SHORT}", f"/folder-{LONG}/moved"),
    move(f"/empty-{LONG}", f"/folder-{SHORT}/{LONG}"),
    *(move(f"/file-{a}", f"/file-{b}", over=True) for a, b in ((SHORT, LONG), (LONG, SHORT))),
    *(move(f"/link-{a}", f"/link-{b}", over=True) for a, b in ((SHORT, LONG), (LONG, SHORT))),
    *(move(f"/file-{a}", f"/link-{b}", over=True) for a in (SHORT, LONG) for b in (SHORT, LONG)),
    *(move(f"/link-{a}", f"/file-{b}", over=True) for a in (SHORT, LONG) for b in (SHORT, LONG)),
    *(remove(f"/{kind}-{name}") for kind in ("file", "empty", "link") for name in (SHORT, LONG)),
]


@pytest.mark.parametrize("folders", [True, False], ids=["folders", "objects"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_broken_off_anywhere(change: Change, folders: bool) -> None:
    seed = Account(folders=folders)
    vault = await fresh_vault(MemoryBlobStore(seed))
    await prepare(vault)
    before, old = await tree(vault), await contents(vault)
    new = change.expect(old)
    allowed = [old, new] + ([change.between(old)] if change.between else [])
    manners: tuple[Manner, ...] = ("before", "after") if folders else ("before", "after", "half")
    for how in manners:
        fail_at = 0
        while True:
            fail_at += 1
            store = MemoryBlobStore(seed.copy())
            faulty = FaultyBlobStore(store, fail_at=fail_at, how=how)
            try:
                await change.run(reopened(vault, faulty), before, False)
            except Unavailable:
                assert faulty.failed
            if not faulty.failed:
                break
            await assert_consistent(reopened(vault, store), allowed, folders)
            await change.run(reopened(vault, store), before, True)
            after = reopened(vault, store)
            assert await contents(after) == new
            assert await check_vault(after, content=True) == [], (fail_at, how)
        assert fail_at > 1


async def assert_consistent(vault: VaultCloud, allowed: list[State], folders: bool) -> None:
    state = await contents(vault)
    # An object store moves by copy and delete: in between a file or link is in both places, which loses nothing.
    assert state in allowed or (not folders and any(only_copies(state, to) for to in allowed)), sorted(state)
    severe = {
        finding.problem
        for finding in await check_vault(vault, content=True)
        if finding.severity is Severity.CRITICAL
    }
    assert severe <= (set() if folders else {"repeated-directory-id"})


def only_copies(state: State, allowed: State) -> bool:
    """Whether ``state`` is ``allowed`` and a copy of something in it."""
    extra = [value for path, value in state.items() if path not in allowed]
    return all(state.get(path, ...) == value for path, value in allowed.items()) and len(extra) == 1


@pytest.mark.parametrize("folders", [True, False], ids=["folders", "objects"])
async def test_a_failed_attempt_can_be_followed_by_another_change(folders: bool) -> None:
    """What an attempt leaves behind stands in nobody's way: the name can be used for anything, by anyone."""
    seed = Account(folders=folders)
    vault = await fresh_vault(MemoryBlobStore(seed))
    attempts = [make_folder("name"), put_new("name"), make_link("name"), make_folder(LONG), put_new(LONG)]
    for first in attempts:
        for second in attempts:
            for fail_at in range(1, 12):
                store = MemoryBlobStore(seed.copy())
                faulty = FaultyBlobStore(store, fail_at=fail_at)
                try:
                    await first.run(reopened(vault, faulty), {}, False)
                    break
                except SerpentError:
                    if await contents(reopened(vault, store)) != {}:
                        continue
                await second.run(reopened(vault, store), {}, False)
                assert await contents(reopened(vault, store)) == second.expect({})


async def test_a_folder_whose_removal_broke_off_is_an_empty_folder() -> None:
    seed = Account(folders=True)
    vault = await fresh_vault(MemoryBlobStore(seed))
    folder = await mkdir(vault, vault.root, "folder")
    path = vault.names.directory_path(folder.id)
    await vault.store.delete(f"{path}/dirid.c9r")
    await vault.store.remove_directory(path)
    assert await contents(vault) == {"/folder": None}
    await put(vault, folder.id, "file", b"data")
    assert await contents(vault) == {"/folder": None, "/folder/file": b"data"}
    assert await check_vault(vault) == []
