"""Whether there is room for a new file: asked with as few requests as the store allows, and answered as ever."""

from __future__ import annotations

import pytest

from serpentfs.clouds.vault.layout import ROOT, entry_for
from serpentfs.errors import AlreadyExists, NotFound
from tests.fakes.counting_blobs import CountingBlobStore
from tests.vaults import fresh_vault, mkdir, put, tree

pytestmark = pytest.mark.trio


@pytest.mark.parametrize("parent", ["root", "folder"])
async def test_one_question_is_enough_between_others(parent: str) -> None:
    store = CountingBlobStore()
    vault = await fresh_vault(store)
    folder = ROOT if parent == "root" else (await mkdir(vault, ROOT, "folder")).id
    free = [f"file {number}" for number in range(20)]
    names = sorted(free, key=lambda name: entry_for(vault.names, folder, name)[0].key)
    await put(vault, folder, names[-1], b"last of all")
    store.calls.clear()
    for name in names[:-1]:
        await put(vault, folder, name, b"data")
    assert store.calls["next_key"] == store.calls["put"] == 19
    assert store.calls["list"] == store.calls["is_directory"] == 0


async def test_the_last_of_a_folder_is_asked_for_again() -> None:
    vault = await fresh_vault(CountingBlobStore())
    for number in range(5):
        await put(vault, ROOT, f"file {number}", b"data")
    assert len(await tree(vault)) == 5


@pytest.mark.parametrize("later", [False, True])
async def test_a_folder_of_the_name_is_seen(later: bool) -> None:
    vault = await fresh_vault(CountingBlobStore())
    if later:
        for number in range(20):
            await put(vault, ROOT, f"file {number}", b"data")
    await mkdir(vault, ROOT, "taken")
    await vault.symlink(ROOT, "link", "target", mtime_ns=0)
    for name in ("taken", "link"):
        with pytest.raises(AlreadyExists):
            await put(vault, ROOT, name, b"data")


async def test_a_folder_that_is_gone_is_missed() -> None:
    store = CountingBlobStore()
    vault = await fresh_vault(store)
    folder = await mkdir(vault, ROOT, "folder")
    await put(vault, ROOT, "file", b"data")
    await vault.remove(folder.ref)
    with pytest.raises(NotFound):
        await put(vault, folder.id, "file", b"data")


async def test_a_store_that_tells_the_first_of_all_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingBlobStore()
    vault = await fresh_vault(store)
    await put(vault, ROOT, "file", b"data")
    await mkdir(vault, ROOT, "taken")

    async def first_of_all(prefix: str, after: str) -> str | None:
        return min(key for key in store.account.blobs if key.startswith(prefix))

    monkeypatch.setattr(store, "next_key", first_of_all)
    with pytest.raises(AlreadyExists):
        await put(vault, ROOT, "taken", b"data")
    await put(vault, ROOT, "free", b"data")
