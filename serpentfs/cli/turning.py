"""``transfers``: what goes up and what waits."""

from __future__ import annotations

import argparse
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.cancelling import cancel
from serpentfs.cli.display import Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import count, human_size, print_json
from serpentfs.cli.seeing import ask, change_line, owners
from serpentfs.errors import NotFound, UsageError


def add_transfers(parser: options.Parser) -> None:
    parser.set_defaults(run=transfers)
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--pause", dest="do", action="store_const", const="pause",
        help="upload nothing until --resume or the next start; changes are kept here meanwhile",
    )
    change.add_argument("--resume", dest="do", action="store_const", const="resume", help="go on")
    change.add_argument(
        "--retry", dest="do", action="store_const", const="retry",
        help="try now what failed, and once more what the store refused",
    )
    change.add_argument(
        "-c", "--cancel", action="append", metavar="TAG",
        help="drop an upload, by its number in this list or the path of its file: the file is what the store has of it "
        "again, and what was written here is gone; asks first; may be given several times",
    )
    parser.add_argument("-f", "--force", action="store_true", help="with --cancel: do not ask")
    options.add_root(parser)
    # What drops something is typed.
    parser.ignored_variables = frozenset({"cancel", "force"})


def transfers(arguments: argparse.Namespace) -> ExitCode:
    if arguments.cancel:
        return cancel(arguments)
    if arguments.force:
        raise UsageError("--force goes with --cancel")
    notes = owners(arguments)
    if arguments.do is not None and not notes:
        raise NotFound("nothing is running")
    answers = [{"remote": note.remote, **ask(note, "transfers", do=arguments.do)} for note in notes]
    if arguments.json:
        print_json(answers)
    elif not answers:
        print("nothing is running")
    else:
        for answer in answers:
            _print_transfers(answer)
    return ExitCode.OK


def _print_transfers(answer: dict[str, Any]) -> None:
    pending = answer["transfers"]
    left = sum(max(0, change["size"] - change["sent"]) for change in pending)
    words = f"{count(len(pending), 'change')}, {human_size(left)} left" if pending else "nothing to upload"
    if answer["paused"]:
        words += ", paused"
    elif pending and answer["speed"]["up"]:
        words += f", {human_size(int(answer['speed']['up']))}/s"
    display = Display()
    print(f"{display.paint(answer['remote'], Role.TITLE)}: {words}")
    for change in pending:
        print(f"  {change['seq']:>5}  {change_line(change, display)}")
