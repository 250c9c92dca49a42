"""Vaults for tests, without the cost of scrypt where it is not what is tested."""

from __future__ import annotations

from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.vault import VaultCloud, VaultFiles
from serpentfs.clouds.vault import config as vault_config
from serpentfs.clouds.vault.config import VaultConfig
from serpentfs.clouds.vault.layout import CONFIG_FILE, MASTERKEY_FILE, ROOT
from serpentfs.clouds.vault.masterkey import Masterkey, lock
from serpentfs.clouds.vault.uploads import put_bytes

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


def reopened(vault: VaultCloud, store: BlobStore, *, poll_interval: float = 60.0) -> VaultCloud:
    """Another client of the same vault, over its own connection."""
    key = Masterkey(vault.secret[:32], vault.secret[32:])
    return VaultCloud(store, vault.config, key, vault.files, poll_interval=poll_interval)
