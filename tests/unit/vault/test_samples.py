"""Vaults that other programs made, and vaults of ours that other programs read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.base import Batch, Listing
from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.vault import VaultCloud, check_vault, create_vault, open_vault
from serpentfs.clouds.vault.check import Severity
from serpentfs.errors import AlreadyExists, WrongPassphrase
from serpentfs.model import Kind, NodeId
from tests.vault_tools import read_vault
from tests.vaults import mkdir, nothing_known, put, read_all, tree

pytestmark = pytest.mark.trio

DATA = Path(__file__).parents[2] / "data" / "cryptomator"
OUR_PASSPHRASE = "pässwörd 🔑"
KINDS = {"file": Kind.FILE, "dir": Kind.DIRECTORY, "symlink": Kind.SYMLINK}


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / f"{name}.manifest.json").read_text(encoding="utf-8"))
    return loaded


def copy_of(name: str, tmp_path: Path) -> Path:
    """A vault to work on. One sample belongs to another project and is not kept here: its place is told by the
    environment."""
    source = DATA / name
    if name == "vault-ctrmac-app":
        place = os.environ.get("SERPENTFS_VAULT_CTRMAC_APP")
        if not place:
            pytest.skip("SERPENTFS_VAULT_CTRMAC_APP is not set")
        source = Path(place)
    return Path(shutil.copytree(source, tmp_path / name))


SAMPLES = ["vault-gcm-cryptolib", "vault-ctrmac-cryptolib", "vault-gcm-pycryptomator", "vault-ctrmac-app"]


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_sample_opens_and_matches_its_manifest(name: str, tmp_path: Path) -> None:
    path, expected = copy_of(name, tmp_path), manifest(name)
    with pytest.raises(WrongPassphrase):
        await open_vault(FileStore(path), expected["passphrase"] + " ")
    vault = await open_vault(FileStore(path), expected["passphrase"])
    assert vault.jti == expected["jwt_claims"]["jti"]
    assert vault.secret.hex() == expected["enc_key"] + expected["mac_key"]
    shown = await tree(vault)
    assert set(shown) == {entry["path"] for entry in expected["entries"]}
    for entry in expected["entries"]:
        node = shown[entry["path"]]
        assert node.kind is KINDS[entry["type"]]
        if node.kind is Kind.FILE:
            data = await read_all(vault, node)
            assert node.size == entry["size"] == len(data)
            assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        elif node.kind is Kind.SYMLINK:
            assert node.target == entry["target"]
            assert node.size == len(entry["target"].encode())
        else:
            assert node.id == entry["dirId"]


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_sample_is_healthy(name: str, tmp_path: Path) -> None:
    path, expected = copy_of(name, tmp_path), manifest(name)
    vault = await open_vault(FileStore(path), expected["passphrase"])
    findings = await check_vault(vault, content=True)
    # Known: pycryptomator writes a root dirid.c9r that does not authenticate, older applications write none.
    known = {"vault-gcm-pycryptomator": {"wrong-directory-id-file"}, "vault-ctrmac-app": {"missing-directory-id-file"}}
    assert {finding.problem for finding in findings} == known.get(name, set())
    assert all(finding.severity is Severity.INFO for finding in findings)
    await check_vault(vault, content=True, fix=True)
    assert await check_vault(vault, content=True) == []


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_sample_can_be_changed(name: str, tmp_path: Path) -> None:
    path, expected = copy_of(name, tmp_path), manifest(name)
    vault = await open_vault(FileStore(path), expected["passphrase"])
    for node in (await tree(vault)).values():
        assert node.parent is not None
        if node.kind is Kind.FILE:
            replaced = await put(vault, node.parent, node.name, b"new " + node.name.encode(), replaces=node.ref)
            assert (replaced.id, replaced.name) == (node.id, node.name)
    for entry_path, node in (await tree(vault)).items():
        if node.kind is Kind.FILE:
            assert node.parent is not None
            moved = await vault.move(node.ref, node.parent, f"moved {node.name}"[:100], replaces=None)
            assert await read_all(vault, moved) == b"new " + node.name.encode(), entry_path
    assert {entry.type for entry in read_vault(path, expected["passphrase"]).values()} >= {"file", "directory"}


async def fill(vault: VaultCloud) -> dict[str, bytes | str | None]:
    """Everything that is special about a name or a size; the answer is what a reader must find."""
    made: dict[str, bytes | str | None] = {}

    async def file(parent: NodeId, prefix: str, name: str, data: bytes) -> None:
        await put(vault, parent, name, data)
        made[f"{prefix}/{name}"] = data

    for size in (0, 1, 32767, 32768, 32769, 65536, 300_000, 1_200_000):
        await file(vault.root, "", f"size-{size}", hashlib.shake_128(str(size).encode()).digest(size))
    for name in ("ünïcödé ÅÄÖ.txt", "日本語", "🐍🔑", "with space", "-dash", ".hidden", "a\\b", "x" * 146, "y" * 147):
        await file(vault.root, "", name, name.encode())
    await file(vault.root, "", "z" * 255, b"longest")
    folder = await mkdir(vault, vault.root, "folder")
    long = await mkdir(vault, folder.id, "L" * 200)
    deep = await mkdir(vault, long.id, "deep")
    await mkdir(vault, deep.id, "empty")
    made |= {"/folder": None, f"/folder/{'L' * 200}": None, f"/folder/{'L' * 200}/deep": None}
    made[f"/folder/{'L' * 200}/deep/empty"] = None
    await file(deep.id, f"/folder/{'L' * 200}/deep", "file", b"deep down")
    for name, target in (("link", "folder"), ("l" * 180, "../ünï/日本"), ("dangling", "no/such/thing")):
        await vault.symlink(vault.root, name, target, mtime_ns=1)
        made[f"/{name}"] = target
    return made


@pytest.mark.parametrize("combo", ["SIV_GCM", "SIV_CTRMAC"])
async def test_an_independent_reader_reads_our_vault(combo: str, tmp_path: Path) -> None:
    await create_vault(FileStore(tmp_path), OUR_PASSPHRASE, cipher_combo=combo)
    with pytest.raises(AlreadyExists):
        await create_vault(FileStore(tmp_path), OUR_PASSPHRASE)
    vault = await open_vault(FileStore(tmp_path), OUR_PASSPHRASE)
    made = await fill(vault)
    entries = read_vault(tmp_path, OUR_PASSPHRASE)
    assert set(entries) == set(made)
    for path, value in made.items():
        if isinstance(value, bytes):
            assert (entries[path].size, entries[path].sha256) == (len(value), hashlib.sha256(value).hexdigest())
            assert entries[path].mtime_ns == 1_600_000_000_000_000_000
        else:
            assert entries[path].target == value
    assert await check_vault(vault, content=True) == []


async def test_pycryptomator_reads_our_vault(tmp_path: Path) -> None:
    pycryptomator = pytest.importorskip("pycryptomator.cryptomator")
    vault_path, out = tmp_path / "vault", tmp_path / "out"
    vault_path.mkdir()
    await create_vault(FileStore(vault_path), OUR_PASSPHRASE)
    vault = await open_vault(FileStore(vault_path), OUR_PASSPHRASE)
    made = await fill(vault)
    theirs = pycryptomator.Vault(str(vault_path), OUR_PASSPHRASE)
    found: dict[str, bytes | str | None] = {}
    for root, directories, files in theirs.walk("/"):
        for name in directories:
            found[f"{root.rstrip('/')}/{name}"] = None
        for name in files:
            path = f"{root.rstrip('/')}/{name}"
            info = theirs.getInfo(path)
            if info.hasSym:
                found[path] = theirs.resolveSymlink(path, info.hasSym)[1]
            else:
                theirs.decryptFile(path, str(out), force=True)
                found[path] = out.read_bytes()
    # A link to a folder is a folder to its walk, so compare those by its own question.
    for path, value in made.items():
        if isinstance(value, str):
            found[path] = theirs.resolveSymlink(path, theirs.getInfo(path).hasSym)[1]
    assert {path: value for path, value in found.items() if not path.startswith("/link/")} == made


async def test_we_read_what_pycryptomator_writes(tmp_path: Path) -> None:
    pycryptomator = pytest.importorskip("pycryptomator.cryptomator")
    vault_path, source = tmp_path / "vault", tmp_path / "source"
    vault_path.mkdir()
    await create_vault(FileStore(vault_path), OUR_PASSPHRASE)
    theirs = pycryptomator.Vault(str(vault_path), OUR_PASSPHRASE)
    source.write_bytes(b"written by somebody else" * 5000)
    theirs.mkdir("/a/b")
    theirs.encryptFile(str(source), f"/a/b/{'n' * 170}")
    theirs.ln("a/b", "/link")
    vault = await open_vault(FileStore(vault_path), OUR_PASSPHRASE)
    shown = await tree(vault)
    assert set(shown) == {"/a", "/a/b", f"/a/b/{'n' * 170}", "/link"}
    assert await read_all(vault, shown[f"/a/b/{'n' * 170}"]) == source.read_bytes()
    assert shown["/link"].target == "a/b"


async def test_we_notice_what_pycryptomator_writes(tmp_path: Path) -> None:
    """It links a folder before it makes its content directory, and writes files in place: not as we do it."""
    pycryptomator = pytest.importorskip("pycryptomator.cryptomator")
    vault_path, source = tmp_path / "vault", tmp_path / "source"
    vault_path.mkdir()
    await create_vault(FileStore(vault_path), OUR_PASSPHRASE)
    vault = await open_vault(FileStore(vault_path), OUR_PASSPHRASE)
    source.write_bytes(b"x" * 100_000)

    def write() -> None:
        theirs = pycryptomator.Vault(str(vault_path), OUR_PASSPHRASE)
        for number in range(5):
            # One by one: of several it would give only the last its name.c9s.
            for folder in (f"/{number}", f"/{number}/{'d' * 180}", f"/{number}/{'d' * 180}/sub"):
                theirs.mkdir(folder)
            theirs.encryptFile(str(source), f"/{number}/{'d' * 180}/sub/file")

    send, receive = trio.open_memory_channel[Batch](0)
    listings: dict[NodeId, Listing] = {}

    def complete() -> bool:
        pending, files = [vault.root], 0
        while pending:
            folder = pending.pop()
            for child in listings[folder].children if folder in listings else ():
                files += child.kind is Kind.FILE and child.size == 100_000
                pending += [child.id] if child.kind is Kind.DIRECTORY else []
        return files == 5

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vault.changes, nothing_known, send)
            assert (await receive.receive()).complete
            nursery.start_soon(run_in_thread, "disk", write)
            while not complete():
                batch = await receive.receive()
                listings |= {listing.directory: listing for listing in batch.listings}
            nursery.cancel_scope.cancel()
