"""The seam between kinds of remote: whatever it is, an open cloud under its owner's lock.

A vault's id is inside the vault, so it is unlocked first and locked then; an account's id is in its session, and its
files must not be opened before the lock is held. What comes out is the same, and nothing above asks which it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.base import Cloud
from serpentfs.clouds.registry import RemoteSpec
from serpentfs.clouds.vault import POLL_INTERVAL
from serpentfs.daemon import accounts
from serpentfs.daemon.accounts import MegaAccess
from serpentfs.daemon.limits import LimitConnections, Limits
from serpentfs.daemon.lock import OwnerLock
from serpentfs.daemon.places import RemotePlaces, make_places, remember_url
from serpentfs.daemon.settings import Read
from serpentfs.daemon.sharing import Account
from serpentfs.daemon.unlock import keep_for_offline, unlocked
from serpentfs.model import Quota
from serpentfs.vfs.drive import DriveOptions


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """What opens a vault."""

    passphrase: str = field(repr=False)
    poll_interval: float = POLL_INTERVAL
    """Seconds between two listings of a store that does not report changes."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote, what opens it and how."""

    spec: RemoteSpec
    access: VaultAccess | MegaAccess
    options: DriveOptions
    cache_directory: Path | None = None
    """Instead of the usual place."""
    versions_view: bool = False
    """Doors show old versions below ``.versions``."""
    metrics: tuple[str, int] | None = None
    """Where to serve metrics over HTTP: host and port."""
    metrics_public: bool = False
    """The host may be one that other machines reach."""
    limits: Limits = field(default_factory=Limits)
    log_level: str | None = None
    """None: the level stays as it is."""
    read_settings: Read | None = None
    """Tells what of this a start would have at the moment."""


@dataclass(frozen=True, slots=True)
class OpenedCloud:
    """``secret`` is the remote's own: every local key derives from it. The lock is held."""

    cloud: Cloud
    secret: bytes = field(repr=False)
    places: RemotePlaces
    lock: OwnerLock
    account: Account | None = None
    """What it can do beyond a drive; None for a vault."""
    limit_connections: LimitConnections | None = None
    """Where one file may take several connections."""

    @property
    def remote_id(self) -> str:
        return self.places.remote_id


@contextlib.asynccontextmanager
async def open_cloud(remote: Remote) -> AsyncIterator[OpenedCloud]:
    """Open ``remote`` and own it until the block ends. Busy when another process owns it; what cannot be opened
    raises its own error."""
    match remote.access:
        case VaultAccess():
            opening = _open_vault(remote.spec, remote.access)
        case MegaAccess():
            opening = _open_mega(remote.spec, remote.access)
        case _:
            assert_never(remote.access)
    async with opening as opened:
        yield opened


@contextlib.asynccontextmanager
async def _open_vault(spec: RemoteSpec, access: VaultAccess) -> AsyncIterator[OpenedCloud]:
    async with unlocked(spec, access.passphrase, access.poll_interval) as vault:
        places = make_places(vault.jti)
        with await run_in_thread("disk", OwnerLock.acquire, places.lock, spec.canonical) as lock:
            await run_in_thread("disk", keep_for_offline, spec, vault, places)
            yield OpenedCloud(vault, vault.secret, places, lock)


@contextlib.asynccontextmanager
async def _open_mega(spec: RemoteSpec, access: MegaAccess) -> AsyncIterator[OpenedCloud]:
    # Only here: an HTTP library that vaults do without.
    from serpentfs.clouds.mega.cloud import MegaOptions, open_mega

    options = MegaOptions(
        root=access.root, hard_delete=access.hard_delete, thumbnails=access.thumbnails, proxy=spec.proxy
    )
    places = make_places(access.remote_id)
    with await run_in_thread("disk", OwnerLock.acquire, places.lock, spec.canonical) as lock:
        await run_in_thread("disk", remember_url, spec.canonical, places.remote_id)
        async with open_mega(access.session, directory=places.state, options=options) as mega:
            yield OpenedCloud(
                mega, mega.secret, places, lock, account=mega, limit_connections=mega.limit_connections
            )


async def room_of(remote: Remote) -> Quota:
    """How much room a store or account has, without owning the remote."""
    match remote.access:
        case VaultAccess():
            async with unlocked(remote.spec, remote.access.passphrase, remote.access.poll_interval) as vault:
                return await vault.quota()
        case MegaAccess():
            return await accounts.room_of(remote.access.session, remote.spec.proxy)
        case _:
            assert_never(remote.access)
