"""``flush``: wait for the uploads of a running owner, or be the owner until the journal is empty."""

from __future__ import annotations

import argparse

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import ProgressLine, tell_pending
from serpentfs.cli.reaching import Access
from serpentfs.cli.remotes import resolve


def add_flush(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=flush)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_HELP)
    options.add_root(parser)
    options.add_passphrase(parser)


def flush(arguments: argparse.Namespace) -> ExitCode:
    access = Access(arguments, resolve(arguments))
    with ProgressLine() as line:
        answer = access.ask("flush", line.show)
    why = "the log tells why (-v)" if access.borrows else "they wait for a file to be closed, or status tells why"
    return tell_pending(answer["pending"], why, login_required=answer["login_required"])
