"""The owner process of a remote, put together: cloud, retries, drive, doors, control socket.

``serve`` keeps a drive and its doors alive until it is asked to stop; ``borrow`` opens the drive for one short
command when nobody owns the remote. Everything runs in one nursery under the owner's lock.

    lock ⊃ control socket ⊃ drive ⊃ doors
    stop: doors still open, uploads drained → doors closed → drained again → drive closed → socket → lock
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.daemon import control, metrics, mountpoints, systemd
from serpentfs.daemon.doors import Door
from serpentfs.daemon.heap import keep_in_bounds, share_one_heap
from serpentfs.daemon.lock import OwnerNote
from serpentfs.daemon.open_doors import OpenDoors
from serpentfs.daemon.opened import Remote, open_cloud
from serpentfs.daemon.places import RemotePlaces, make_private_directory
from serpentfs.daemon.progress import Progress, upload_all
from serpentfs.daemon.requests import OwnerRequests
from serpentfs.daemon.settings import Settings
from serpentfs.daemon.signals import watch_signals
from serpentfs.daemon.stopping import Stop
from serpentfs.errors import SerpentError, Unsupported
from serpentfs.gateways.fuse.native.pages import KernelPages
from serpentfs.model import ROOT_INO
from serpentfs.vfs.core import Vfs
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.opening import open_drive
from serpentfs.vfs.versions_view import VersionsView

logger = logging.getLogger(__name__)

# With CPython's default of 5 ms one busy thread (a door that lists) slows every commit of the loop forty-fold.
_SWITCH_INTERVAL = 0.00005
_ANSWER_PATIENCE = 2.0
_DEAD_MOUNT_PATIENCE = 5.0
_CATCH_UP_PATIENCE = 5.0
_SYSTEMD_LISTENS_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How serving ended: changes that the cloud has not confirmed (they are journalled), and whether they wait for the
    user to log in again."""

    pending: int
    login_required: bool = False


Announce = Callable[[dict[str, str]], None]
ShowProgress = Callable[[Progress], Awaitable[None]]


async def serve(remote: Remote, doors: Sequence[Door], announce: Announce, show: ShowProgress) -> Outcome:
    """Own ``remote`` and serve ``doors``, and those that others ask for later, until a signal, a request to stop, or
    the end of the last door.

    ``announce`` is called once with the address of each door when all answer. RemoteOwned when another process owns
    the remote; what else cannot be opened raises its own error, and nothing is left behind.
    """
    share_one_heap()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    async with trio.open_nursery() as nursery:
        stop = Stop(nursery.cancel_scope)
        requests = OwnerRequests(remote.spec.canonical, stop, serves=True)
        settings = requests.settings
        nursery.start_soon(watch_signals, stop, settings.reread, requests.refresh_everything, requests.dump_state)
        nursery.start_soon(settings.throttle.keep_time)
        async with _open_owned(remote, stop, requests) as (drive, note):
            shown = _shown(remote, drive, requests)
            pages = KernelPages(shown)
            nursery.start_soon(pages.run)    # until all doors are closed
            nursery.start_soon(
                keep_in_bounds, lambda: drive.cache_limits.memory_bytes, drive.hold_back_memory, lambda: pages.sender
            )
            if remote.metrics is not None:
                watch = requests.watch
                watch.endpoint = await nursery.start(
                    partial(metrics.serve, watch.exposition, *remote.metrics, public=remote.metrics_public)
                )

            def ready(addresses: dict[str, str]) -> None:
                announce(addresses)
                systemd.notify("READY=1", within=_SYSTEMD_LISTENS_WITHIN)
                nursery.start_soon(systemd.keep_informed, requests.summary)

            try:
                await _serve_doors(drive, shown, pages, doors, stop, requests, note, ready, show)
            finally:
                status = drive.status()
                requests.left, requests.login_required = len(status.pending), status.login_required
        nursery.cancel_scope.cancel()
    return Outcome(requests.left, requests.login_required)


@contextlib.asynccontextmanager
async def borrow(remote: Remote) -> AsyncIterator[None]:
    """Own ``remote`` for one command, without doors, and answer on its control socket. RemoteOwned when another process
    owns it."""
    async with trio.open_nursery() as nursery:
        stop = Stop(nursery.cancel_scope)
        requests = OwnerRequests(remote.spec.canonical, stop, serves=False)
        nursery.start_soon(requests.settings.throttle.keep_time)
        async with _open_owned(remote, stop, requests) as (drive, _):
            await _catch_up(drive)
            yield
        nursery.cancel_scope.cancel()


async def _catch_up(drive: Drive) -> None:
    """A mount shows what was known and hears the news a moment later; one command has that moment only."""
    if not drive.capabilities.resumes_changes:
        return    # was listed when it was opened
    with trio.move_on_after(_CATCH_UP_PATIENCE) as patience:
        await drive.refresh(ROOT_INO)
    if patience.cancelled_caught:
        logger.warning("the cloud does not answer: this is as it was known before")


@contextlib.asynccontextmanager
async def _open_owned(
    remote: Remote, stop: Stop, requests: OwnerRequests
) -> AsyncIterator[tuple[Drive, Announce]]:
    """The open drive under the owner's lock, with the control socket answering around it; and what notes the
    addresses of its doors in the lock file."""
    async with open_cloud(remote) as opened:
        places = opened.places

        def note(addresses: dict[str, str]) -> None:
            opened.lock.write(OwnerNote(os.getpid(), remote.spec.canonical, str(places.socket), addresses))

        await _clean_up_after(opened.lock.read())
        note({})
        async with control.listening(places.socket, requests.handlers()) as server:
            requests.account = opened.account
            requests.state_directory = places.state
            requests.settings.begin(
                Settings(remote.limits, remote.options.cache, remote.log_level), remote.read_settings
            )
            async with open_drive(
                requests.watch.wrap(opened.cloud, opened.limit_connections),
                remote_id=places.remote_id,
                secret=opened.secret,
                state_directory=places.state,
                cache_directory=_cache_directory(remote, places),
                options=remote.options,
            ) as drive:
                requests.vfs = drive
                try:
                    yield drive, note
                    if not requests.serves:
                        # Commands that came while this one was the owner go through it, and are not cut off.
                        await server.wait_alone()
                finally:
                    requests.vfs = None
            stop.drained.set()
            await server.wait_idle(_ANSWER_PATIENCE)


async def _clean_up_after(last: OwnerNote | None) -> None:
    """Take away what an owner that was killed has left: its mount (a mount point that is to be used again is freed
    before that, when it is looked at). The socket is replaced, and the kernel freed the lock."""
    if last is None or "mount" not in last.doors:
        return
    point = Path(last.doors["mount"])
    with trio.move_on_after(_DEAD_MOUNT_PATIENCE):
        try:
            # Abandoned: it may be another's mount by now, which does not answer.
            if await run_in_thread("disk", mountpoints.detach_dead, point, abandon=True):
                logger.warning("took away the dead mount at %s, which process %d left behind", point, last.pid)
        except SerpentError as error:
            logger.warning("cannot take away the dead mount at %s: %s", point, error)


def _cache_directory(remote: Remote, places: RemotePlaces) -> Path | None:
    if remote.options.cache.disk_bytes == 0:
        return None
    base = remote.cache_directory
    return make_private_directory(places.cache if base is None else base / places.remote_id)


def _shown(remote: Remote, drive: Drive, requests: OwnerRequests) -> Vfs:
    """The drive as doors see it."""
    if not remote.versions_view:
        return drive
    if requests.account is None:
        raise Unsupported("a vault has no versions to show")
    return VersionsView(drive, requests.account)


async def _serve_doors(
    drive: Drive,
    shown: Vfs,
    pages: KernelPages,
    doors: Sequence[Door],
    stop: Stop,
    requests: OwnerRequests,
    note: Announce,
    ready: Announce,
    show: ShowProgress,
) -> None:
    """Until everything is stopped and, unless cancelled, uploaded."""
    async with trio.open_nursery() as nursery:
        open_doors = OpenDoors(requests.remote, shown, pages, nursery, note, stop.door_closed)
        addresses = await open_doors.open(doors)
        requests.begin_serving(open_doors)
        stop.begin_serving()
        ready(addresses)
        await stop.asked.wait()
        systemd.notify("STOPPING=1", within=_SYSTEMD_LISTENS_WITHIN)
        # First with the doors open, so that nobody is cut off while much is to be uploaded; what is written
        # meanwhile goes up in a second round that nobody can add to.
        await upload_all(drive, show)
        nursery.cancel_scope.cancel()
    await upload_all(drive, show)
