"""What is shown of a vault in which others wrote, too: types, conflicts, foreign things, broken entries."""

from __future__ import annotations

import base64
import unicodedata

import pytest

from serpentfs.clouds.vault import VaultCloud
from serpentfs.clouds.vault.content import encrypt_small
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.clouds.vault.names import shorten
from serpentfs.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, Unsupported
from serpentfs.model import Kind, NodeId, NodeInfo, Revision
from tests.fakes.counting_blobs import CountingBlobStore
from tests.fakes.memory_blobs import MemoryBlobStore
from tests.vaults import contents, fresh_vault, mkdir, put, read_all, reopened, tree

pytestmark = pytest.mark.trio


@pytest.fixture
def store() -> CountingBlobStore:
    return CountingBlobStore(folders=True)


@pytest.fixture
async def vault(store: CountingBlobStore) -> VaultCloud:
    return await fresh_vault(store)


def place(vault: VaultCloud, folder: NodeId = ROOT) -> str:
    return vault.names.directory_path(folder)


def plant(vault: VaultCloud, key: str, data: bytes) -> None:
    assert isinstance(vault.store, MemoryBlobStore)
    vault.store.tamper(key, data)


def plant_file(vault: VaultCloud, name: str, clear: bytes, folder: NodeId = ROOT) -> str:
    """An object with exactly this name in a content directory; the answer is its key."""
    key = f"{place(vault, folder)}/{name}"
    plant(vault, key, encrypt_small(vault.scheme, clear))
    return key


def cipher(vault: VaultCloud, name: str, folder: NodeId = ROOT) -> str:
    """The base64 part of a ciphertext name."""
    return vault.names.encrypt(name, folder).removesuffix(".c9r")


async def test_foreign_files_are_not_shown(vault: VaultCloud, caplog: pytest.LogCaptureFixture) -> None:
    await put(vault, ROOT, "mine", b"data")
    for name in (
        ".DS_Store", "desktop.ini", "x.c9r", "dirid (1).c9r", "@eaDir/thumb", "a/b/c/d", "readme.txt" * 5,
    ):
        plant(vault, f"{place(vault)}/{name}", b"foreign")
    plant(vault, "IMPORTANT.rtf", b"")
    plant(vault, "d/stray", b"")
    plant(vault, "d/AB/stray", b"")
    assert await contents(vault) == {"/mine": b"data"}
    assert caplog.text == ""


async def test_a_name_that_does_not_authenticate_is_hidden_and_told_once(
    vault: VaultCloud, caplog: pytest.LogCaptureFixture
) -> None:
    await put(vault, ROOT, "mine", b"data")
    foreign = base64.urlsafe_b64encode(bytes(40)).decode() + ".c9r"
    plant(vault, f"{place(vault)}/{foreign}", b"foreign")
    elsewhere = cipher(vault, "of another folder", NodeId("other")) + ".c9r"
    plant(vault, f"{place(vault)}/{elsewhere}", b"foreign")
    for _ in range(3):
        assert await contents(vault) == {"/mine": b"data"}
    assert caplog.text.count(foreign) == caplog.text.count(elsewhere) == 1
    assert "mine" not in caplog.text


@pytest.mark.parametrize(
    "suffix", [" (Created by Alice)", "_conf(1)", "-conflict-2024_01", " (1)", "~", "_a-b_c", " - Kopie"]
)
@pytest.mark.parametrize("name", ["report.odt", "r", "no extension", ".hidden", "ab", "abc"])
async def test_sync_conflicts_are_shown_beside_the_original(vault: VaultCloud, suffix: str, name: str) -> None:
    await put(vault, ROOT, name, b"original")
    plant_file(vault, f"{cipher(vault, name)}{suffix}.c9r", b"conflict")
    seen = await contents(vault)
    assert len(seen) == 2
    assert seen.pop(f"/{name}") == b"original"
    (shown, data), = seen.items()
    assert data == b"conflict"
    assert shown != f"/{name}"
    stem, dot, extension = name.rpartition(".")
    assert shown.startswith(f"/{stem or name}")
    assert not stem or shown.endswith(dot + extension)


async def test_a_conflict_without_an_original_takes_its_name(vault: VaultCloud) -> None:
    key = plant_file(vault, f"{cipher(vault, 'name')} (2).c9r", b"conflict")
    shown = await tree(vault)
    assert set(shown) == {"/name"}
    node = shown["/name"]
    replaced = await put(vault, ROOT, "name", b"newer", replaces=node.ref)
    assert replaced.id == node.id
    assert await contents(vault) == {"/name": b"newer"}
    assert (await vault.store.stat(key)).revision == replaced.revision
    await vault.set_mtime(replaced.ref, 5)
    node = (await tree(vault))["/name"]
    moved = await vault.move(node.ref, ROOT, "moved", replaces=None)
    assert moved.id == f"/{cipher(vault, 'moved')}.c9r"
    assert await contents(vault) == {"/moved": b"newer"}


async def test_a_conflicting_copy_is_handled_under_its_own_key(vault: VaultCloud) -> None:
    await put(vault, ROOT, "a.txt", b"original")
    plant_file(vault, f"{cipher(vault, 'a.txt')} (Alice).c9r", b"conflict")
    conflict = (await tree(vault))["/a (Alice).txt"]
    changed = await vault.set_mtime(conflict.ref, 7)
    assert (changed.name, changed.mtime_ns) == ("a (Alice).txt", 7)
    await vault.remove(changed.ref)
    assert await contents(vault) == {"/a.txt": b"original"}


async def test_many_conflicts_all_stay_reachable(vault: VaultCloud) -> None:
    await put(vault, ROOT, "a.txt", b"original")
    for number in range(30):
        plant_file(vault, f"{cipher(vault, 'a.txt')}{' ' * number}(x).c9r", b"%d" % number)
    plant_file(vault, f"{cipher(vault, 'a.txt')}(x)/../.c9r".replace("/", "\u2215"), b"odd")
    seen = await contents(vault)
    assert len(seen) == 32
    assert {data for data in seen.values() if isinstance(data, bytes)} >= {b"%d" % n for n in range(30)} | {b"odd"}
    assert seen == await contents(reopened(vault, vault.store))


async def test_hidden_conflicts_are_not_shown(vault: VaultCloud) -> None:
    plant_file(vault, f".{cipher(vault, 'name')}.c9r.tmp.c9r", b"hidden")
    assert await contents(vault) == {}


async def test_a_copied_folder_link_is_hidden_and_another_folder_is_shown(
    vault: VaultCloud, caplog: pytest.LogCaptureFixture
) -> None:
    folder = await mkdir(vault, ROOT, "folder")
    await put(vault, folder.id, "file", b"data")
    plant(vault, f"{place(vault)}/{cipher(vault, 'folder')} (copy).c9r/dir.c9r", folder.id.encode())
    assert await contents(vault) == {"/folder": None, "/folder/file": b"data"}
    assert "same directory id" in caplog.text
    second = await mkdir(vault, ROOT, "second")
    plant(vault, f"{place(vault)}/{cipher(vault, 'folder')} (other).c9r/dir.c9r", second.id.encode())
    await put(vault, second.id, "inside", b"")
    await vault.store.delete(f"{place(vault)}/{cipher(vault, 'second')}.c9r/dir.c9r")
    seen = await contents(vault)
    assert set(seen) == {"/folder", "/folder/file", "/folder (other)", "/folder (other)/inside"}


async def test_a_folder_that_contains_itself_does_not_hang(vault: VaultCloud) -> None:
    outer = await mkdir(vault, ROOT, "outer")
    inner = await mkdir(vault, outer.id, "inner")
    plant(vault, f"{place(vault, inner.id)}/{cipher(vault, 'again', inner.id)}.c9r/dir.c9r", outer.id.encode())
    assert set(await tree(vault)) == {"/outer", "/outer/inner"}


async def test_a_copied_link_is_hidden(vault: VaultCloud) -> None:
    await vault.symlink(ROOT, "link", "target", mtime_ns=1)
    for target, suffix in ((b"target", " (copy)"), (b"elsewhere", " (other)")):
        key = f"{place(vault)}/{cipher(vault, 'link')}{suffix}.c9r/symlink.c9r"
        plant(vault, key, encrypt_small(vault.scheme, target))
    assert await contents(vault) == {"/link": "target", "/link (other)": "elsewhere"}


async def test_names_that_are_not_normal(vault: VaultCloud) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é.txt"), unicodedata.normalize("NFD", "é.txt")
    plant_file(vault, f"{cipher(vault, decomposed)}.c9r", b"foreign")
    shown = await tree(vault)
    assert set(shown) == {f"/{decomposed}"}
    node = shown[f"/{decomposed}"]
    assert await read_all(vault, node) == b"foreign"
    replaced = await put(vault, ROOT, composed, b"newer", replaces=node.ref)
    assert (replaced.id, replaced.name) == (node.id, decomposed)
    await put(vault, ROOT, composed, b"second")
    seen = await contents(vault)
    assert seen.pop(f"/{composed}") == b"second"
    assert list(seen.values()) == [b"newer"]
    assert unicodedata.normalize("NFC", next(iter(seen))) != f"/{composed}"


async def test_names_that_no_file_system_takes(vault: VaultCloud) -> None:
    for number, name in enumerate(("..", ".", "a/b", "/etc/passwd", "nul\0", "")):
        plant_file(vault, f"{cipher(vault, name)}.c9r", b"%d" % number)
    shown = await tree(vault)
    assert len(shown) == 6
    for path, node in shown.items():
        vault.check_name(node.name)
        assert path.count("/") == 1


async def test_broken_folders_are_hidden(vault: VaultCloud, caplog: pytest.LogCaptureFixture) -> None:
    await put(vault, ROOT, "mine", b"data")
    for name, data in {"empty": b"", "huge": b"x" * 1001, "binary": b"\xff\xfe"}.items():
        plant(vault, f"{place(vault)}/{cipher(vault, name)}.c9r/dir.c9r", data)
    plant(vault, f"{place(vault)}/{cipher(vault, 'nothing')}.c9r/other", b"")
    plant(vault, f"{place(vault)}/{cipher(vault, 'link')}.c9r/symlink.c9r", b"garbage")
    assert await contents(vault) == {"/mine": b"data"}
    assert len(caplog.records) == 5
    with pytest.raises(AlreadyExists):
        await mkdir(vault, ROOT, "empty")


async def test_an_ambiguous_entry_is_a_folder_first(vault: VaultCloud) -> None:
    folder = await mkdir(vault, ROOT, "f")
    plant(vault, f"{place(vault)}/{cipher(vault, 'f')}.c9r/symlink.c9r", encrypt_small(vault.scheme, b"target"))
    assert (await tree(vault))["/f"].id == folder.id


async def test_an_object_beside_a_prefix_is_shown_too() -> None:
    vault = await fresh_vault(MemoryBlobStore(folders=False))
    await mkdir(vault, ROOT, "name")
    plant_file(vault, f"{cipher(vault, 'name')}.c9r", b"data")
    seen = await contents(vault)
    assert seen == {"/name": None, "/name (1)": b"data"} or seen == {"/name": b"data", "/name (1)": None}


async def test_shortened_names(vault: VaultCloud, caplog: pytest.LogCaptureFixture) -> None:
    name = "l" * 200
    file = await put(vault, ROOT, name, b"data")
    long_name = vault.names.encrypt(name, "")
    right = f"{place(vault)}/{shorten(long_name)}"
    wrong = f"{place(vault)}/{base64.urlsafe_b64encode(bytes(20)).decode()}.c9s"
    plant(vault, f"{wrong}/name.c9s", long_name.encode())
    plant(vault, f"{wrong}/contents.c9r", encrypt_small(vault.scheme, b"copy"))
    seen = await contents(vault)
    assert (len(seen), seen.pop(f"/{name}"), *seen.values()) == (2, b"data", b"copy")
    assert file.id == f"/{shorten(long_name)}"
    for trouble in (None, b"garbage", b"x" * 10_241):
        plant(vault, f"{wrong}/name.c9s", trouble) if trouble else await vault.store.delete(f"{wrong}/name.c9s")
        assert await contents(vault) == {f"/{name}": b"data"}
    assert caplog.text.count("name.c9s") >= 3
    # Without the suffix (a known writer leaves it out) or with bytes after it, the name is still readable.
    for sloppy in (long_name.removesuffix(".c9r"), f"{long_name}\n"):
        plant(vault, f"{right}/name.c9s", sloppy.encode())
        assert f"/{name}" in await contents(reopened(vault, vault.store))


async def test_what_is_known_is_not_read_again(vault: VaultCloud, store: CountingBlobStore) -> None:
    parent = ROOT
    for number in range(5):
        parent = (await mkdir(vault, parent, f"{number}" * (200 if number % 2 else 1))).id
        await vault.symlink(parent, "link", "target", mtime_ns=1)
        await vault.symlink(parent, "l" * 190, "target", mtime_ns=1)
        await put(vault, parent, "f" * 190, b"data")
    nodes = {(node.locator, node.revision): node for node in (await tree(vault)).values() if node.locator}

    def known(locator: str, revision: Revision) -> NodeInfo | None:
        return nodes.get((locator, revision))

    again = reopened(vault, store)
    store.calls.clear()
    batch = await again.snapshot(known)
    assert sum(len(listing.children) for listing in batch.listings) == 20
    assert store.calls["read"] == store.calls["stat"] == 0
    assert store.calls["list"] == 1
    await again.store.delete(f"{place(vault)}/{cipher(vault, '0')}.c9r/dir.c9r")
    assert [listing.children for listing in (await again.snapshot(known)).listings] == [()]


async def test_no_request_per_file(vault: VaultCloud, store: CountingBlobStore) -> None:
    folder = await mkdir(vault, ROOT, "folder")
    for number in range(50):
        await put(vault, folder.id, f"{number}", b"x" * number)
    store.calls.clear()
    shown = await tree(reopened(vault, store))
    assert {node.size for node in shown.values() if node.kind is Kind.FILE} == set(range(50))
    assert store.calls == {"list_directories": 1, "list": 1, "read": 1}


async def test_what_changes_cost() -> None:
    store = CountingBlobStore(folders=False)
    vault = await fresh_vault(store)
    folder = await mkdir(vault, ROOT, "folder")
    store.tamper(f"{vault.names.directory_path(folder.id)}/~", b"what comes after every other name")
    store.calls.clear()
    file = await put(vault, folder.id, "file", b"data")
    assert store.calls == {"next_key": 1, "put": 1}
    store.calls.clear()
    file = await put(vault, folder.id, "file", b"newer", replaces=file.ref)
    assert store.calls == {"is_directory": 1, "put": 1}
    store.calls.clear()
    file = await vault.move(file.ref, folder.id, "moved", replaces=None)
    assert store.calls == {"stat": 1, "next_key": 1, "rename": 1}
    store.calls.clear()
    await vault.remove(file.ref)
    assert store.calls == {"delete": 1}


async def test_a_node_that_lies_nowhere(vault: VaultCloud) -> None:
    root = NodeInfo(ROOT, None, "", Kind.DIRECTORY, 0, 0, Revision("")).ref
    with pytest.raises(NotFound):
        await vault.move(root, ROOT, "x", replaces=None)
    with pytest.raises(InvalidArgument):
        await vault.remove(root)
    with pytest.raises(Unsupported):
        await vault.set_mtime(root, 5)


async def test_times_of_folders_and_links(vault: VaultCloud) -> None:
    for name in ("n", "n" * 180):
        folder = await mkdir(vault, ROOT, f"folder {name}")
        link = await vault.symlink(ROOT, f"link {name}", "target", mtime_ns=1)
        for node in (folder, link):
            changed = await vault.set_mtime(node.ref, 77)
            assert (changed.id, changed.name, changed.target, changed.mtime_ns) == (node.id, node.name, node.target, 77)
            assert (await tree(vault))[f"/{node.name}"] == changed
            with pytest.raises(Conflict):
                await vault.set_mtime(node.ref, 78)
