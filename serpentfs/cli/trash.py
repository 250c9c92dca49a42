"""``trash``, ``restore``: the rubbish bin of a MEGA account, as a whole, whichever folder or tree REMOTE names.

Asked of the owner where one runs, else the drive is opened for the moment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.asking import confirmed
from serpentfs.cli.display import Cell, Column, Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import count, human_size, print_json, printable
from serpentfs.cli.remotes import Target, resolve
from serpentfs.cli.sharing import ask_about, when
from serpentfs.errors import Unsupported, UsageError


def add_trash(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=trash)
    parser.add_argument("remote", metavar="REMOTE", help=options.LOGIN_HELP)
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument("--empty", action="store_true", help="delete for good all that is in it")
    one_of.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--yes", action="store_true", help="with --empty: do not ask")


def add_restore(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=restore)
    parser.add_argument("remote", metavar="REMOTE", help=options.LOGIN_HELP)
    parser.add_argument(
        "what", metavar="NAME", help="what to put back, as trash names it; folder/file for something in a folder"
    )
    parser.add_argument(
        "--to", metavar="DIR",
        help="a folder of the cloud drive, such as /Documents, instead of the one it came from (when that is gone: "
        "the top of the cloud drive)",
    )
    parser.add_argument("--name", metavar="NEW", help="under another name")
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="with a folder, also what had been removed from it before"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _account(arguments: argparse.Namespace) -> Target:
    target = resolve(arguments)
    if target.spec.cloud != "mega":
        raise Unsupported(f"{target.name} is a vault, which has no rubbish bin")
    return target


def trash(arguments: argparse.Namespace) -> ExitCode:
    if arguments.yes and not arguments.empty:
        raise UsageError("--yes goes with --empty")
    account = _account(arguments)
    if arguments.empty and arguments.yes:
        return _empty(arguments, account)
    found: list[dict[str, Any]] = sorted(ask_about(arguments, account, "trash"), key=_name_of)
    if arguments.json:
        print_json(found)
        return ExitCode.OK
    if arguments.empty:
        if not found or confirmed(
            f"Delete {count(len(found), 'thing')} and all that is in them for good?",
            "--yes empties the bin without a question",
        ):
            return _empty(arguments, account)
        print("serpentfs: nothing was deleted", file=sys.stderr)
        return ExitCode.OK
    columns = (Column("SIZE", right=True), Column("REMOVED"), Column("NAME"), Column(""))
    Display().print_table(columns, [_row(entry) for entry in found])
    return ExitCode.OK


def _name_of(entry: Mapping[str, Any]) -> str:
    return str(entry["name"])


def _row(entry: Mapping[str, Any]) -> tuple[Cell, ...]:
    is_folder = entry["kind"] == "directory"
    size = "-" if is_folder else human_size(entry["size"])
    if entry["former"] is None:
        origin = "from a folder that is not known (any more)"
    else:
        origin = f"from {entry['former']}{' in the bin' if entry['former_is_binned'] else ''}"
    name: Cell = (f"{entry['name']}/", Role.FOLDER) if is_folder else str(entry["name"])
    return size, when(entry["mtime"]), name, origin


def _empty(arguments: argparse.Namespace, account: Target) -> ExitCode:
    deleted = ask_about(arguments, account, "empty-trash")["deleted"]
    print(f"deleted {deleted} from the rubbish bin" if deleted else "the rubbish bin is empty")
    return ExitCode.OK


def restore(arguments: argparse.Namespace) -> ExitCode:
    account = _account(arguments)
    done: dict[str, Any] = ask_about(
        arguments, account, "restore", what=arguments.what, to=arguments.to, name=arguments.name,
        recursive=arguments.recursive,
    )
    if arguments.json:
        print_json(done)
        return ExitCode.OK
    if done["is_elsewhere"]:
        print(
            "serpentfs: the folder it came from is gone or not known: it is at the top of the cloud drive now",
            file=sys.stderr,
        )
    more = f", with {done['with_it']} more that came from it" if done["with_it"] else ""
    print(f"restored {printable(done['path'])}{more}")
    if done["left"]:
        print(f"serpentfs: {done['left']} more stay in the bin: their names are taken", file=sys.stderr)
    return ExitCode.OK
