"""Behind ``mount``, ``webdav`` and ``ftp``: doors opened by the process that owns the remote, or by becoming it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from serpentfs.cli import arguments as options
from serpentfs.cli.attaching import open_doors
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.failures import explain, leaves
from serpentfs.cli.opening import unlock_target
from serpentfs.cli.output import ProgressLine, is_terminal, printable, tell_pending
from serpentfs.cli.remotes import Target, owner_of, said_by_environment
from serpentfs.daemon import owner
from serpentfs.daemon.door_options import DoorOptions
from serpentfs.daemon.doors import Door, door_of
from serpentfs.daemon.lock import RemoteOwned, read_owner
from serpentfs.daemon.opened import Remote
from serpentfs.daemon.places import default_log_file, make_private_directory
from serpentfs.daemon.progress import Progress
from serpentfs.daemon.readiness import Report, Reporter, detach

logger = logging.getLogger(__name__)

_OF_A_START = (
    "durability", "settle", "uploads", "poll_interval", "cache_memory", "cache_disk", "cache_free_space",
    "cache_directory", "limit_up", "limit_down", "upload_connections", "download_connections", "metrics",
)
"""Fields of options that an owner takes when it starts."""
_WORDS = {"mount": "mounted at", "webdav": "WebDAV at", "ftp": "FTP at"}


def open_or_own(arguments: argparse.Namespace, target: Target, wanted: Sequence[DoorOptions]) -> ExitCode:
    """Have the doors opened by who owns the remote, and return; else own it and serve them until stopped. With
    --daemon that returns twice: in the command, and at the end in the daemon."""
    addresses = open_doors(lambda: owner_of(target), target.name, wanted)
    if addresses is not None:
        _warn_of_ignored(arguments)
        print(*_announcements(addresses), sep="\n", flush=True)
        return ExitCode.OK
    doors = [door_of(one) for one in wanted]
    remote = unlock_target(arguments, target)
    reporter: Reporter | None = None
    if arguments.daemon:
        log_file = arguments.log_file or default_log_file()
        if arguments.log_file is None:
            make_private_directory(log_file.parent)
        answer = detach(log_file)
        if isinstance(answer, Report):
            return _relay(answer, log_file)
        reporter = answer
        options.configure_logs(arguments, log_file)

    def announce(addresses: Mapping[str, str]) -> None:
        lines = _announcements(addresses)
        for line in lines:
            logger.info("%s", line)
        if reporter is not None:
            reporter.report(ExitCode.OK, lines)
        else:
            print(*lines, sep="\n", flush=True)

    def stay(addresses: Mapping[str, str]) -> None:
        announce(addresses)
        if reporter is None and is_terminal(sys.stdout) and not arguments.quiet:
            print("Ctrl-C uploads what is left and ends it; with --daemon it stays in the background", flush=True)

    try:
        outcome = _own(remote, target, doors, wanted, stay, announce)
    except BaseException as error:
        if reporter is not None:
            code, message, foreseen = explain(error)
            if not foreseen:
                logger.error("%s", message, exc_info=error)
            reporter.report(code, (message,))
        raise
    return tell_pending(
        outcome.pending, "the next start goes on with that", login_required=outcome.login_required
    )


def _warn_of_ignored(arguments: argparse.Namespace) -> None:
    """Options that were typed for a process which runs already."""
    typed = [
        name for name in _OF_A_START
        if getattr(arguments, name, None) is not None and name not in said_by_environment(arguments)
    ]
    if typed:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in typed)
        logger.warning("it runs already, and %s would count at a start; speedlimit and cache change what runs", named)


def _own(
    remote: Remote, target: Target, doors: Sequence[Door], wanted: Sequence[DoorOptions], stay: owner.Announce,
    announce: owner.Announce,
) -> owner.Outcome:
    """How it ends. ``stay`` tells the addresses when this process is the owner, ``announce`` when another one is:
    somebody may own the remote in spite of the first look, under another URL, which shows only once the remote is
    unlocked, or since a moment ago."""
    with ProgressLine() as line:

        async def show(progress: Progress) -> None:
            line.show(progress.as_item())

        try:
            return trio.run(owner.serve, remote, doors, stay, show)
        except BaseException as error:
            owned = next((one for one in leaves(error) if isinstance(one, RemoteOwned)), None)
            if owned is None:
                raise
            lock = owned.lock
            addresses = open_doors(lambda: read_owner(lock), target.name, wanted)
            if addresses is None:
                raise
    announce(dict(addresses))
    return owner.Outcome(0)


def _announcements(addresses: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{_WORDS.get(kind, kind)} {printable(address)}" for kind, address in addresses.items())


def _relay(report: Report, log_file: Path) -> ExitCode:
    """Print what the daemon reported, as if this process had done it."""
    if report.code is None:
        print(f"serpentfs: the background process died while it started; see {log_file}", file=sys.stderr)
        return ExitCode.FAILURE
    if report.code == ExitCode.OK:
        print(*report.lines, sep="\n", flush=True)
    else:
        for line in report.lines:
            print(f"serpentfs: {printable(line)}", file=sys.stderr)
    return ExitCode(report.code)
