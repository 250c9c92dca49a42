"""``umount``, and what else ends doors and owners. What only the rarer cases need is imported there: the command is
called often, from scripts too, and answers at once."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import ProgressLine, tell_pending
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.lock import OwnerNote, running_owners
from serpentfs.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from serpentfs.cli.remotes import Target

Show = Callable[[Mapping[str, Any]], None]
# Doors, threads and the store are closed after the last upload; this is far above what that takes.
_END_PATIENCE = 30.0


def add_umount(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=umount)
    parser.add_argument(
        "remote", metavar="DIR|REMOTE", help="the folder it is mounted at, or a remote: all its doors then"
    )
    parser.add_argument(
        "--now", action="store_true", help="do not wait for uploads; the next start goes on with them"
    )
    parser.add_argument("--lazy", action="store_true", help="detach though files are open below the folder")
    options.add_root(parser)


def umount(arguments: argparse.Namespace) -> ExitCode:
    path = _mount_path(arguments.remote)
    note = next((one for one in running_owners() if one.doors.get("mount") == str(path)), None)
    if note is None:
        if _detach_ownerless(path, lazy=arguments.lazy):
            return ExitCode.OK
        if path.exists():
            raise NotFound(f"no drive is mounted at {path}")
        note = _owner_of_remote(arguments)
        left = stop_owner(note, now=arguments.now, lazy=arguments.lazy)
    else:
        left = _close_door(note, "mount", now=arguments.now, lazy=arguments.lazy)
    return _tell_left(left)


@dataclass(frozen=True, slots=True)
class Left:
    """What an owner that ended had not uploaded, and whether that waits for a log-in."""

    changes: int
    login_required: bool = False


def _tell_left(left: Left) -> ExitCode:
    return tell_pending(left.changes, "the next start goes on with that", login_required=left.login_required)


def take_away(target: Target, kind: str, *, now: bool) -> ExitCode:
    """What ``webdav -d`` and ``ftp -d`` do. NotFound when nothing runs for the remote, or it has no such door."""
    from serpentfs.cli.remotes import owner_of

    note = owner_of(target)
    if note is None:
        raise NotFound(f"nothing is running for {target.name}")
    return _tell_left(_close_door(note, kind, now=now))


def _close_door(note: OwnerNote, kind: str, *, now: bool, lazy: bool = False) -> Left:
    """Have an owner take one door away, and wait for its end when that was the last."""
    with Connection(Path(note.socket)) as connection, ProgressLine() as line:
        pending = len(connection.ask("status").get("drive", {}).get("pending", ())) if now else 0
        try:
            answer = connection.ask("close-door", line.show, door=kind, now=now, lazy=lazy)
        except Unavailable:
            if not now:
                raise
            answer = {"pending": pending, "ending": True}    # it ends without an answer
    if answer["ending"]:
        _wait_for_end(note)
    return Left(int(answer["pending"]), bool(answer.get("login_required")))


def stop_owner(note: OwnerNote, *, now: bool, lazy: bool = False, show: Show | None = None) -> Left:
    """Ask an owner to end, after its uploads unless ``now``, and wait until it has. ``show`` gets how far the uploads
    are (``Progress`` as a dict); without it they are shown on a line."""
    if now:
        left = _stop_now(note, lazy)
    elif show is not None:
        left = _stop(note, lazy, show)
    else:
        with ProgressLine() as line:
            left = _stop(note, lazy, line.show)
    _wait_for_end(note)
    return left


def _mount_path(text: str) -> Path:
    """Where a link leads, without looking at a mount itself: it may be one that does not answer."""
    path = options.absolute_path(text)
    try:
        return options.absolute_path(str(path.parent / path.readlink()))
    except OSError:
        return path


def _detach_ownerless(path: Path, *, lazy: bool) -> bool:
    """Unmount what is mounted there though no owner of this user is behind it: it is dead, or another user's, and
    then the kernel decides whether we may. False when no drive is mounted there."""
    from serpentfs.daemon import mountpoints

    if not mountpoints.is_ours(path):
        return False
    mountpoints.detach(path, lazy=lazy)
    return True


def _owner_of_remote(arguments: argparse.Namespace) -> OwnerNote:
    from serpentfs.cli.remotes import owner_of, resolve

    note = owner_of(resolve(arguments))
    if note is None:
        raise NotFound(f"nothing is running for {arguments.remote}")
    return note


def _stop(note: OwnerNote, lazy: bool, show: Show) -> Left:
    with Connection(Path(note.socket)) as connection:
        answer = connection.ask("stop", show, lazy=lazy)
    return Left(answer["pending"], answer["login_required"])


def _stop_now(note: OwnerNote, lazy: bool) -> Left:
    with Connection(Path(note.socket)) as connection:
        drive = connection.ask("status").get("drive", {})
        with contextlib.suppress(Unavailable):    # it ends without an answer
            connection.ask("stop", now=True, lazy=lazy)
    return Left(len(drive.get("pending", ())))


def _wait_for_end(note: OwnerNote) -> None:
    """Until the owner gave up its lock, so that the next command finds the remote free."""
    give_up = time.monotonic() + _END_PATIENCE
    while any(one.pid == note.pid and one.socket == note.socket for one in running_owners()):
        if time.monotonic() > give_up:
            raise Unavailable(f"process {note.pid} unmounted but does not end")
        time.sleep(0.05)
