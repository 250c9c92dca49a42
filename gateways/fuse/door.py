"""One mount from its start to its end: what runs beside the request loop, and the order of taking it down.

The end, whatever its cause: requests are refused but answered while the notifier's thread ends (it may wait for
one of them) and what the kernel left open is closed in the core; then the loop stops, the connection is closed and
the mount point freed. Nothing of it may be skipped, and nothing of it may wait for the kernel without a limit.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.errors import NotADirectory, NotFound, Unavailable, UsageError
from serpentfs.gateways.fuse import mountpoint
from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.gateways.fuse.mountpoint import Mount
from serpentfs.gateways.fuse.notifier import Notifier
from serpentfs.gateways.fuse.nudge import Nudge
from serpentfs.gateways.fuse.operations import DOOR, Operations
from serpentfs.gateways.fuse.session import NotForThisLoop, Session, new_session
from serpentfs.vfs.core import Vfs

log = logging.getLogger(__name__)

_STUCK_AFTER = 60.0
"""Seconds after which a call of the notifier to the kernel counts as a deadlock. It may well wait for a READ, and
that for the network; the core answers within its deadlines, which are shorter."""
_CLEAN_UNMOUNT_WITHIN = 15.0
_CONNECTION_ENDS_WITHIN = 2.0
"""Seconds that the kernel has to end the connection of a mount that it has taken away."""
_CLOSE_WITHIN = 30.0


async def serve(vfs: Vfs, options: MountOptions, *, task_status: trio.TaskStatus[None]) -> None:
    """See the package's ``serve``."""
    try:
        await _serve(vfs, options, task_status)
    except NotForThisLoop as error:
        log.info("%s: pyfuse3 serves the mount", error)
        await _serve(vfs, replace(options, loop="pyfuse3"), task_status)


async def _serve(vfs: Vfs, options: MountOptions, task_status: trio.TaskStatus[None]) -> None:
    path = await run_in_thread(
        "disk",
        lambda: mountpoint.prepare(
            options.mountpoint, allow_other=options.allow_other, allow_nonempty=options.allows_nonempty
        ),
    )
    session = new_session(options.loop)
    notifier = Notifier(session)
    try:
        operations = Operations(vfs, options, notifier, owner=(os.getuid(), os.getgid()))
    except (NotFound, NotADirectory) as error:
        raise UsageError(f"{options.root} is not a folder of the drive") from error
    mount: Mount | None = None
    try:
        await run_in_thread("disk", session.mount, operations, path, options)
        mount = mountpoint.find_mount(path)
        if mount is None:
            raise Unavailable(f"{path} was unmounted at once")
        unsubscribe = vfs.subscribe(
            operations.on_invalidation, door=DOOR, is_behind=lambda: notifier.is_telling
        )
        try:
            await _run(session, operations, notifier, mount, task_status)
        finally:
            unsubscribe()
            with trio.CancelScope(shield=True):
                await _end(session, operations, notifier, mount)
    finally:
        with trio.CancelScope(shield=True):
            # Only what we mounted is unmounted: after a lazy unmount another mount may be there.
            ours = mount is None or mountpoint.find_mount(path) == mount
            if ours and mount is not None:
                await run_in_thread("disk", lambda: mountpoint.unmount(path, lazy=True))
            # On the loop's thread: libfuse frees the pipes it splices through only for the thread that closes.
            session.close()
            if ours and mountpoint.find_mount(path) == mount:  # libfuse leaves it when the connection was aborted
                await run_in_thread("disk", lambda: mountpoint.unmount(path, lazy=True))
            log.info("%s is unmounted", path)


async def _run(
    session: Session,
    operations: Operations,
    notifier: Notifier,
    mount: Mount,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve until unmounted; when cancelled, unmount in good order first, while requests are still answered."""
    ended = trio.Event()
    stuck = announced = False
    refusal: NotForThisLoop | None = None
    # The loop outlives a cancellation until the kernel has written back what it holds.
    loop_scope = trio.CancelScope(shield=True)

    async def loop() -> None:
        nonlocal refusal
        try:
            with loop_scope:
                await session.run()
        except NotForThisLoop as error:
            refusal = error
        finally:
            ended.set()

    async def watch() -> None:
        nonlocal stuck
        while True:
            nudge.beat()
            if notifier.stuck_for() > _STUCK_AFTER:
                log.error("the kernel does not take an invalidation for %.0f s: ending %s", _STUCK_AFTER, mount.path)
                stuck = True
                loop_scope.cancel()  # answers the requests that it may be waiting for; ``_end`` does the rest
                return
            await trio.sleep(1)

    async def announce() -> None:
        nonlocal announced
        await operations.ready.wait()
        # The kernel must know the root's mode before anything is invalidated: it throws away a first answer that
        # crosses with a notice, and then believes that nobody may enter. Abandoned, as the loop may end meanwhile.
        await run_in_thread("disk", os.stat, mount.path, abandon=True)
        notifier.start()
        await run_in_thread("disk", mount.raise_read_ahead)
        log.info("mounted on %s", mount.path)
        announced = True
        task_status.started()

    with Nudge(mount.path) as nudge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop)
            nursery.start_soon(watch)
            nursery.start_soon(announce)
            try:
                await ended.wait()
            except trio.Cancelled:
                if not ended.is_set():
                    with trio.CancelScope(shield=True):
                        await _unmount_in_good_order(operations, mount, ended)
                raise
            finally:
                loop_scope.cancel()
                nursery.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
    if stuck or not announced or mountpoint.find_mount(mount.path) == mount:
        raise Unavailable(f"the kernel's connection of {mount.path} was aborted")


async def _unmount_in_good_order(operations: Operations, mount: Mount, ended: trio.Event) -> None:
    with trio.move_on_after(_CLEAN_UNMOUNT_WITHIN):
        await _write_back(operations, mount)
        unmounted = await run_in_thread(
            "disk", lambda: mountpoint.unmount(mount.path, lazy=False), abandon=True
        )
        if unmounted:
            with trio.move_on_after(_CONNECTION_ENDS_WITHIN) as waiting:
                await ended.wait()
            if waiting.cancelled_caught:
                log.warning("%s is in use in another mount namespace (a container); ending it there, too", mount.path)
        else:
            log.warning("%s is in use; unmounting it all the same", mount.path)


async def _write_back(operations: Operations, mount: Mount) -> None:
    """What was changed in mapped files is written, which the kernel begins but does not wait for: not when asked to
    sync FUSE, and not when unmounting it. It has been done when a request of ours, queued behind it, has been
    answered and no write came or was under way meanwhile."""
    await run_in_thread("disk", mountpoint.write_back, mount.path, abandon=True)
    seen = -1
    while operations.writes_begun != seen or operations.writes_in_flight:
        seen = operations.writes_begun
        try:
            await run_in_thread("disk", os.statvfs, mount.path, abandon=True)
        except OSError as error:
            log.warning("%s has gone while it was written back: %s", mount.path, error)
            return


async def _end(session: Session, operations: Operations, notifier: Notifier, mount: Mount) -> None:
    """Refuse requests until the notifier's thread has ended, and close what is open."""
    operations.closing = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        notifier.stop()
        if not await run_in_thread("disk", notifier.wait_stopped, 5.0):
            mount.abort()
            if not await run_in_thread("disk", notifier.wait_stopped, 10.0):
                log.error("the thread that notifies the kernel does not end")
        nursery.cancel_scope.cancel()
    with trio.move_on_after(_CLOSE_WITHIN) as scope:
        await operations.release_all()
    if scope.cancelled_caught:
        log.error("not all files left open by the mount could be closed within %.0f s", _CLOSE_WITHIN)
