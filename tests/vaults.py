"""Vaults for tests, without the cost of scrypt where it is not what is tested."""

from __future__ import annotations

import secrets
from pathlib import Path

from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.vault import VaultCloud, VaultFiles
from serpentfs.clouds.vault import config as vault_config
from serpentfs.clouds.vault.config import VaultConfig
from serpentfs.clouds.vault.layout import CONFIG_FILE, MASTERKEY_FILE, ROOT
from serpentfs.clouds.vault.masterkey import Masterkey, lock, unlock
from serpentfs.clouds.vault.uploads import put_bytes
from serpentfs.model import Kind, NodeId, NodeInfo, NodeRef, Revision, Span
from tests.fakes.content import BytesContent

PASSPHRASE = "correct horse"
CHEAP_COST = 2


async def fresh_vault(store: BlobStore, cipher_combo: str = "SIV_GCM", *, threshold: int = 220) -> VaultCloud:
    """A new empty vault that ``PASSPHRASE`` opens, with a scrypt cost that is worth nothing but time."""
    key = Masterkey.generate()
    config = VaultConfig(VaultConfig.generate(cipher_combo).jti, cipher_combo, threshold)
    files = VaultFiles(vault_config.encode(config, key.raw), lock(key, PASSPHRASE, cost=CHEAP_COST))
    await put_bytes(store, MASTERKEY_FILE, files.masterkey)
    await put_bytes(store, CONFIG_FILE, files.config)
    vault = VaultCloud(store, config, key, files)
    await vault.writer.make_content_directory(ROOT)
    return vault


def cheapen(vault: Path, passphrase: str) -> None:
    """Opening this vault costs nothing any more."""
    file = vault / MASTERKEY_FILE
    file.write_bytes(lock(unlock(file.read_bytes(), passphrase), passphrase, cost=CHEAP_COST))


def reopened(vault: VaultCloud, store: BlobStore, *, poll_interval: float = 60.0) -> VaultCloud:
    """Another client of the same vault, over its own connection."""
    key = Masterkey(vault.secret[:32], vault.secret[32:])
    return VaultCloud(store, vault.config, key, vault.files, poll_interval=poll_interval)


def nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None


async def tree(vault: VaultCloud) -> dict[str, NodeInfo]:
    """The whole tree by path, from a snapshot."""
    children = {listing.directory: listing.children for listing in (await vault.snapshot(nothing_known)).listings}
    found: dict[str, NodeInfo] = {}
    pending = [(ROOT, "")]
    while pending:
        folder, prefix = pending.pop()
        for child in children[folder]:
            path = f"{prefix}/{child.name}"
            assert path not in found, f"{path} comes up twice"
            found[path] = child
            if child.kind is Kind.DIRECTORY:
                pending.append((child.id, path))
    return found


async def read_all(vault: VaultCloud, node: NodeInfo) -> bytes:
    return await vault.read(node.ref, Span(0, node.size))


async def contents(vault: VaultCloud) -> dict[str, bytes | str | None]:
    """What a user sees: path to content, link target or (folders) None."""
    seen: dict[str, bytes | str | None] = {}
    for path, node in (await tree(vault)).items():
        if node.kind is Kind.FILE:
            seen[path] = await read_all(vault, node)
        else:
            seen[path] = node.target
    return seen


async def put(
    vault: VaultCloud,
    parent: NodeId,
    name: str,
    data: bytes,
    *,
    replaces: NodeRef | None = None,
    mtime_ns: int = 1_600_000_000_000_000_000,
    token: bytes | None = None,
    retry: bool = False,
) -> NodeInfo:
    token = secrets.token_bytes(32) if token is None else token
    return await vault.put(
        parent, name, BytesContent(data), replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
    )


async def mkdir(vault: VaultCloud, parent: NodeId, name: str) -> NodeInfo:
    return await vault.mkdir(parent, name, token=secrets.token_bytes(32))
