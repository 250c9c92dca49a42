"""Creating and opening vaults."""

from __future__ import annotations

from functools import partial

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.blobs.base import ABSENT, BlobStore
from serpentfs.clouds.vault import config as vault_config
from serpentfs.clouds.vault.cloud import POLL_INTERVAL, VaultCloud, VaultFiles
from serpentfs.clouds.vault.config import SIV_GCM, UnverifiedConfig, VaultConfig
from serpentfs.clouds.vault.content import encrypt_small, scheme_for
from serpentfs.clouds.vault.layout import CONFIG_FILE, DATA, DIRECTORY_ID_FILE, MASTERKEY_FILE, ROOT
from serpentfs.clouds.vault.masterkey import Masterkey, lock, unlock
from serpentfs.clouds.vault.names import NameCipher, self_test
from serpentfs.clouds.vault.parallel import all_of
from serpentfs.clouds.vault.uploads import put_bytes
from serpentfs.errors import AlreadyExists, BadVault, NotFound, RetryableError, UsageError

MAX_SMALL_FILE = 64 * 1024
"""Bytes of the largest configuration or masterkey file that is believed to be one."""


async def create_vault(store: BlobStore, passphrase: str, *, cipher_combo: str = SIV_GCM) -> None:
    """Make a new, empty vault in a store. AlreadyExists when there is one, or something that could be one.

    ``vault.cryptomator`` is written last: what a crash leaves is not a vault yet.
    """
    self_test()
    if cipher_combo not in vault_config.CIPHER_COMBOS:
        raise UsageError(f"unknown cipher combo {cipher_combo!r}; there are {', '.join(vault_config.CIPHER_COMBOS)}")
    if not passphrase:
        raise UsageError("a vault needs a passphrase")
    if await _exists(store, CONFIG_FILE):
        raise AlreadyExists("there is a vault already")
    if await _exists(store, MASTERKEY_FILE) or await store.is_directory(DATA):
        raise AlreadyExists("the place is not empty: it holds parts of a vault (d/ or masterkey.cryptomator)")
    key = Masterkey.generate()
    config = VaultConfig.generate(cipher_combo)
    masterkey = await run_in_thread("crypto", lock, key, passphrase)
    path = NameCipher(key, config.shortening_threshold).directory_path(ROOT)
    await put_bytes(store, MASTERKEY_FILE, masterkey, condition=ABSENT)
    await store.make_directory(path)
    # As the official application writes it: a header and one chunk without content.
    scheme = scheme_for(cipher_combo, key)
    backup = encrypt_small(scheme, b"")
    backup += scheme.open_header(backup).encrypt_chunk(0, b"")
    await put_bytes(store, f"{path}/{DIRECTORY_ID_FILE}", backup)
    await put_bytes(store, CONFIG_FILE, vault_config.encode(config, key.raw), condition=ABSENT)


async def open_vault(
    store: BlobStore, passphrase: str, *, offline: VaultFiles | None = None, poll_interval: float = POLL_INTERVAL
) -> VaultCloud:
    """Open a vault. WrongPassphrase; BadVault for everything else that stands in the way; what the store raises.

    ``offline`` holds local copies of the vault's two files, which are used when the store cannot be reached.
    """
    self_test()
    try:
        files, token = await _read_files(store)
    except RetryableError:
        if offline is None:
            raise
        files, token = offline, vault_config.parse(offline.config)
    key = await run_in_thread("crypto", unlock, files.masterkey, passphrase)
    config = token.verify(key.raw)
    path = NameCipher(key, config.shortening_threshold).directory_path(ROOT)
    try:
        rooted = await store.is_directory(path)
    except RetryableError:
        if offline is None:
            raise
        rooted = True  # unknown until the store comes back; the first listing will tell
    if not rooted:
        raise BadVault(f"the vault's content root {path} is missing; perhaps it is not synchronised yet")
    return VaultCloud(store, config, key, files, poll_interval=poll_interval)


async def find_vault(store: BlobStore) -> None:
    """Look whether there is a vault that the right passphrase would open. BadVault; what the store raises."""
    await _read_files(store)


async def _read_files(store: BlobStore) -> tuple[VaultFiles, UnverifiedConfig]:
    files: dict[str, bytes | None] = {}
    has_data = False

    async def read(name: str) -> None:
        files[name] = await _read_small(store, name)

    async def look_for_data() -> None:
        nonlocal has_data
        has_data = await store.is_directory(DATA)

    # At once, because a far store takes its time for each; the masterkey is hardly ever elsewhere.
    await all_of(partial(read, CONFIG_FILE), partial(read, MASTERKEY_FILE), look_for_data)
    config = files[CONFIG_FILE]
    if config is None:
        if files[MASTERKEY_FILE] is not None:
            raise BadVault("the vault has an old format (7 or earlier): migrate it with the Cryptomator application")
        raise BadVault(f"there is no vault here: {CONFIG_FILE} is missing")
    token = vault_config.parse(config)
    if token.masterkey_file not in files:
        await read(token.masterkey_file)
    masterkey = files[token.masterkey_file]
    if masterkey is None:
        raise BadVault(f"the vault's {token.masterkey_file} is missing")
    if not has_data:
        raise BadVault("the vault has no d/ folder; perhaps it is not synchronised yet")
    return VaultFiles(config, masterkey), token


async def _read_small(store: BlobStore, key: str) -> bytes | None:
    """None when there is no such object."""
    try:
        blob = await store.stat(key)
        if blob.size > MAX_SMALL_FILE:
            raise BadVault(f"{key} is far too large to be what its name says")
        return await store.read(key)
    except NotFound:
        return None


async def _exists(store: BlobStore, key: str) -> bool:
    try:
        await store.stat(key)
    except NotFound:
        return False
    return True
