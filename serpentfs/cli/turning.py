"""``transfers`` and ``speedlimit``: what goes up and what waits, and how fast it may go.

There is no way to cancel an upload: what was saved here is nowhere else. Removing the file is one.
"""

from __future__ import annotations

import argparse
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.display import Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import count, human_size, print_json, printable
from serpentfs.cli.seeing import ask, change_line, owners
from serpentfs.errors import NotFound, UsageError


def add_transfers(parser: argparse.ArgumentParser) -> None:
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
    options.add_root(parser)


def add_speedlimit(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=speedlimit)
    parser.add_argument("direction", nargs="?", choices=("up", "down"), help="without it, both limits are told")
    parser.add_argument(
        "rate", metavar="RATE", nargs="?", type=options.size, help="bytes a second, such as 500K or 2M; 0: no limit"
    )
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)


def transfers(arguments: argparse.Namespace) -> ExitCode:
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
    elif answer["speed"]["up"]:
        words += f", {human_size(int(answer['speed']['up']))}/s"
    display = Display()
    print(f"{display.paint(answer['remote'], Role.TITLE)}: {words}")
    for change in pending:
        print(f"  {change_line(change, display)}")


def speedlimit(arguments: argparse.Namespace) -> ExitCode:
    words: dict[str, Any] = {}
    if arguments.rate is not None:
        words = {"direction": arguments.direction, "rate": arguments.rate or None}
    elif arguments.remote is not None:
        raise UsageError("speedlimit up|down RATE REMOTE: there is no rate")
    notes = owners(arguments)
    if words and not notes:
        raise NotFound("nothing is running: mount --limit-up and --limit-down set limits for a start")
    answers = [{"remote": note.remote, **ask(note, "speedlimit", **words)} for note in notes]
    if arguments.json:
        print_json(answers)
    elif not answers:
        print("nothing is running")
    else:
        for answer in answers:
            shown = (arguments.direction,) if arguments.direction and not words else ("up", "down")
            limits = (f"{way} {f'{human_size(answer[way])}/s' if answer[way] else 'unlimited'}" for way in shown)
            print(f"{printable(answer['remote'])}: {', '.join(limits)}")
    return ExitCode.OK
