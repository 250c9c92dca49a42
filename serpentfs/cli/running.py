"""``umount`` and ``status``: talk to the process that owns a remote. What only the rarer cases need is imported there:
these commands are called often, from scripts too, and answer at once."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import ProgressLine, count, human_duration, human_size, print_json, printable, tell_pending
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.lock import OwnerNote, running_owners
from serpentfs.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from serpentfs.cli.remotes import Target

# Doors, threads and the store are closed after the last upload; this is far above what that takes.
_END_PATIENCE = 30.0
_STATUS_PATIENCE = 10.0
_SHOWN_CHANGES = 20


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


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=status)
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    parser.add_argument("--json", action="store_true", help="print JSON")
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


def stop_owner(note: OwnerNote, *, now: bool, lazy: bool = False) -> Left:
    """Ask an owner to end, after its uploads unless ``now``, and wait until it has."""
    left = _stop_now(note, lazy) if now else _stop(note, lazy)
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


def _stop(note: OwnerNote, lazy: bool) -> Left:
    with Connection(Path(note.socket)) as connection, ProgressLine() as line:
        answer = connection.ask("stop", line.show, lazy=lazy)
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


def status(arguments: argparse.Namespace) -> ExitCode:
    notes = [_owner_of_remote(arguments)] if arguments.remote is not None else running_owners()
    answers = [_status_of(note) for note in notes]
    if arguments.json:
        print_json(answers)
    elif not answers:
        print("nothing is running")
    for answer in answers if not arguments.json else ():
        _print_status(answer)
    return ExitCode.OK


def _status_of(note: OwnerNote) -> dict[str, Any]:
    """What the owner says; of one that does not answer what its lock says."""
    try:
        with Connection(Path(note.socket), timeout=_STATUS_PATIENCE) as connection:
            answer: dict[str, Any] = connection.ask("status")
            return answer
    except (NotFound, Unavailable) as error:
        return {"remote": note.remote, "pid": note.pid, "phase": "silent", "doors": note.doors, "error": str(error)}


def _print_status(answer: Mapping[str, Any]) -> None:
    since = f" for {human_duration(max(0.0, time.time() - answer['since']))}" if "since" in answer else ""
    print(f"{printable(answer['remote'])}: {answer['phase']}{since}, process {answer['pid']}")
    for door, address in answer["doors"].items():
        print(f"  {door:<8} {printable(address)}")
    if "error" in answer:
        print(f"  error    {answer['error']}")
    account = answer.get("account")
    if account is not None:
        _print_account(account)
    drive = answer.get("drive")
    if drive is None:
        return
    trouble = drive["last_error"]
    print(f"  store    {'online' if drive['online'] else 'offline'}{f' ({printable(trouble)})' if trouble else ''}")
    pending = drive["pending"]
    left = sum(max(0, change["size"] - change["sent"]) for change in pending)
    uploads = f"{count(len(pending), 'change')}, {human_size(left)} left" if pending else "all done"
    print(f"  uploads  {uploads}")
    for change in pending[:_SHOWN_CHANGES]:
        print(f"    {_change_line(change)}")
    if len(pending) > _SHOWN_CHANGES:
        print(f"    and {len(pending) - _SHOWN_CHANGES} more (--json has all)")
    disk = human_size(drive["cache_disk_bytes"]) if drive["cache_disk_usable"] else "out of use"
    reads = f"{drive['cache_hits']} hits, {drive['cache_misses']} misses"
    print(f"  cache    memory {human_size(drive['cache_memory_bytes'])}, disk {disk}; {reads}")
    if drive["dirty_bytes"]:
        print(f"  open     {human_size(drive['dirty_bytes'])} written and not closed yet")
    if drive["conflicts"]:
        print(f"  conflict copies made: {drive['conflicts']}")


def _print_account(account: Mapping[str, Any]) -> None:
    if account["trouble"]:
        print(f"  account  {printable(account['trouble'])}")
    if account["over_quota_until"] is not None:
        wait = account["over_quota_until"] - time.time()
        print(f"  quota    used up for now; transfers go on in {human_duration(max(0.0, wait))}")


def _change_line(change: Mapping[str, Any]) -> str:
    line = f"{change['state']:<8} {change['operation']:<8} {printable(change['path'])}"
    if change["size"]:
        line += f"  {human_size(change['sent'])} of {human_size(change['size'])}"
    if change["error"]:
        line += f"  {printable(change['error'])}"
    if change["next_try_in"] is not None:
        line += f"  next try in {human_duration(change['next_try_in'])}"
    return line
