"""From a vault's URL and passphrase to an open vault, also when its store cannot be reached.

The two small files that unlock a vault are copied into the state folder at every opening; with them and the
passphrase a drive starts offline, serves what it knows and takes changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.registry import RemoteSpec, open_store
from serpentfs.clouds.vault import POLL_INTERVAL, VaultCloud, VaultFiles, open_vault
from serpentfs.daemon.places import RemotePlaces, places_of, recall_url, remember_url, write_private

MASTERKEY_FILE = "masterkey.cryptomator"
CONFIG_FILE = "vault.cryptomator"
_CLOSE_PATIENCE = 5.0


@asynccontextmanager
async def unlocked(
    spec: RemoteSpec, passphrase: str, poll_interval: float = POLL_INTERVAL
) -> AsyncIterator[VaultCloud]:
    """The open vault behind ``spec``, with the kept files when its store does not answer.

    WrongPassphrase, BadVault, NotFound; Unavailable when the store does not answer and the vault was never
    opened on this machine; Unsupported for a remote that is no vault.
    """
    store = open_store(spec)
    try:
        kept = await run_in_thread("disk", _kept_files, spec)
        yield await open_vault(store, passphrase, offline=kept, poll_interval=poll_interval)
    finally:
        with trio.move_on_after(_CLOSE_PATIENCE, shield=True):
            await store.aclose()


def _kept_files(spec: RemoteSpec) -> VaultFiles | None:
    remote_id = recall_url(spec.canonical)
    if remote_id is None:
        return None
    state = places_of(remote_id).state
    try:
        return VaultFiles((state / CONFIG_FILE).read_bytes(), (state / MASTERKEY_FILE).read_bytes())
    except FileNotFoundError:
        return None


def keep_for_offline(spec: RemoteSpec, vault: VaultCloud, places: RemotePlaces) -> None:
    """Remember what the next start needs when the store does not answer. Ciphertext only: the masterkey file is
    as the vault has it, wrapped by the passphrase."""
    for name, data in ((MASTERKEY_FILE, vault.files.masterkey), (CONFIG_FILE, vault.files.config)):
        path = places.state / name
        if not path.exists() or path.read_bytes() != data:
            write_private(path, data)
    remember_url(spec.canonical, vault.jti)
