"""From a remote's URL and passphrase to an open cloud, also when its store cannot be reached.

The two small files that unlock a vault are copied into the state folder at every opening; with them and the
passphrase a drive starts offline, serves what it knows and takes changes.
"""

from __future__ import annotations

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.registry import RemoteSpec
from serpentfs.clouds.vault import POLL_INTERVAL, VaultCloud, VaultFiles, open_vault
from serpentfs.daemon.places import (
    RemotePlaces,
    make_private_directory,
    places_of,
    recall_url,
    remember_url,
    state_home,
    write_private,
)

MASTERKEY_FILE = "masterkey.cryptomator"
CONFIG_FILE = "vault.cryptomator"


async def unlock(
    store: BlobStore, spec: RemoteSpec, passphrase: str, poll_interval: float = POLL_INTERVAL
) -> VaultCloud:
    """Open the vault behind ``spec``, with the kept files when its store does not answer.

    WrongPassphrase, BadVault, NotFound; Unavailable when the store does not answer and the vault was never
    opened on this machine.
    """
    kept = await run_in_thread("disk", _kept_files, spec)
    return await open_vault(store, passphrase, offline=kept, poll_interval=poll_interval)


def _kept_files(spec: RemoteSpec) -> VaultFiles | None:
    remote_id = recall_url(spec.canonical)
    if remote_id is None:
        return None
    state = places_of(remote_id).state
    try:
        return VaultFiles((state / CONFIG_FILE).read_bytes(), (state / MASTERKEY_FILE).read_bytes())
    except FileNotFoundError:
        return None


def make_places(vault: VaultCloud) -> RemotePlaces:
    """Make the state folder of an open vault."""
    places = places_of(vault.jti)
    make_private_directory(state_home())
    make_private_directory(places.state)
    return places


def keep_for_offline(spec: RemoteSpec, vault: VaultCloud, places: RemotePlaces) -> None:
    """Remember what the next start needs when the store does not answer. Ciphertext only: the masterkey file is
    as the vault has it, wrapped by the passphrase."""
    for name, data in ((MASTERKEY_FILE, vault.files.masterkey), (CONFIG_FILE, vault.files.config)):
        path = places.state / name
        if not path.exists() or path.read_bytes() != data:
            write_private(path, data)
    remember_url(spec.canonical, vault.jti)
