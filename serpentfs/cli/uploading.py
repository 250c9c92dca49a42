"""``flush``: wait for the uploads of a running owner, or be the owner until the journal is empty."""

from __future__ import annotations

import argparse
from pathlib import Path

import trio

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.opening import unlock_target
from serpentfs.cli.output import ProgressLine, tell_pending
from serpentfs.cli.remotes import owner_of, resolve
from serpentfs.daemon import owner
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.progress import Progress, upload_all
from serpentfs.vfs.core import Status


def add_flush(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=flush)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_HELP)
    options.add_root(parser)
    options.add_passphrase(parser)


def flush(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    note = owner_of(target)
    with ProgressLine() as line:
        if note is not None:
            with Connection(Path(note.socket)) as connection:
                answer = connection.ask("flush", line.show)
            return tell_pending(
                answer["pending"], "they wait for a file to be closed, or status tells why",
                login_required=answer["login_required"],
            )
        remote = unlock_target(arguments, target)

        async def show(progress: Progress) -> None:
            line.show(progress.as_item())

        async def run() -> Status:
            async with owner.borrow(remote) as drive:
                await upload_all(drive, show)
                return drive.status()

        status = trio.run(run)
    return tell_pending(len(status.pending), "the log tells why (-v)", login_required=status.login_required)
