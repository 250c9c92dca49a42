"""``speedlimit`` and ``cache``: how fast it goes, over how many connections, and how much room is taken here; told, and
changed while it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.display import Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import human_size, print_json
from serpentfs.cli.seeing import ask, owners
from serpentfs.daemon.lock import OwnerNote
from serpentfs.errors import NotFound, UsageError

_WAYS = ("up", "down")
_FOR_ONE_START = "This changes what runs; the configuration, or options of mount, webdav and ftp, say what a start has"


def add_speedlimit(parser: options.Parser) -> None:
    parser.set_defaults(run=speedlimit)
    parser.add_argument("direction", metavar="up|down", nargs="?", help="without it, all limits are told")
    parser.add_argument(
        "rate", metavar="RATE", nargs="?", type=options.rate,
        help='bytes a second, such as 500K or 2M; off: no limit; or a timetable: "08:00,512K Sat-00:00,2M 23:00,off"',
    )
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    group = parser.add_argument_group("connections", f"At a time; 0: as many as are of use. {_FOR_ONE_START}.")
    group.add_argument("--upload-connections", metavar="N", type=options.count_or_none, help="that uploads use")
    group.add_argument("--download-connections", metavar="N", type=options.count_or_none, help="that downloads use")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    # In the environment they are what a start begins with.
    parser.ignored_variables = frozenset({"upload_connections", "download_connections"})


def add_cache(parser: options.Parser) -> None:
    parser.set_defaults(run=cache)
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    group = parser.add_argument_group("budgets", f"Sizes such as 512M or 20G. {_FOR_ONE_START}.")
    group.add_argument("--memory", type=options.size, metavar="SIZE", help="decrypted blocks in memory")
    group.add_argument("--disk", type=options.size, metavar="SIZE", help="sealed blocks on disk")
    group.add_argument(
        "--free-space", type=options.size, metavar="SIZE", help="stop filling the disk when less than this is free"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    parser.ignored_variables = frozenset({"memory", "disk", "free_space"})


def speedlimit(arguments: argparse.Namespace) -> ExitCode:
    direction: str | None = arguments.direction
    if direction is not None and direction not in _WAYS:
        if arguments.rate is not None:
            raise UsageError(f'"{direction}" is neither up nor down')
        direction, arguments.remote = None, direction
    elif arguments.rate is None and arguments.remote is not None:
        raise UsageError("speedlimit up|down RATE REMOTE: there is no rate")
    changes: list[dict[str, Any]] = []
    if arguments.rate is not None:
        changes.append({"direction": direction, "rate": str(arguments.rate)})
    for way, most in (("up", arguments.upload_connections), ("down", arguments.download_connections)):
        if most is not None:
            changes.append({"direction": way, "connections": most or None})
    notes = _owners(arguments, changing=bool(changes))
    answers = []
    for note in notes:
        answer = {}
        for change in changes or [{}]:
            answer = ask(note, "speedlimit", **change)
        answers.append({"remote": note.remote, **answer})
    if arguments.json:
        print_json(answers)
    elif not answers:
        print("nothing is running")
    else:
        _tell_limits(answers, (direction,) if direction is not None and not changes else _WAYS)
    return ExitCode.OK


def _owners(arguments: argparse.Namespace, *, changing: bool) -> list[OwnerNote]:
    notes = owners(arguments)
    if changing and not notes:
        raise NotFound("nothing is running: this changes what runs; see mount --help for what a start begins with")
    return notes


def _tell_limits(answers: list[dict[str, Any]], ways: tuple[str, ...]) -> None:
    display = Display()
    for answer in answers:
        told = ", ".join(_limits(answer, ways))
        print(f"{display.paint(answer['remote'], Role.TITLE)}: {told}")


def _limits(answer: Mapping[str, Any], ways: tuple[str, ...]) -> Iterator[str]:
    for way in ways:
        words = f"{way} {f'{human_size(answer[way])}/s' if answer[way] else 'unlimited'}"
        if (table := answer["timetable"][way]) is not None:
            words += f" now ({table})"
        if (most := answer["connections"][way]) is not None:
            words += f" over {most} connection{'s' * (most != 1)}"
        yield words


def cache(arguments: argparse.Namespace) -> ExitCode:
    budgets = {"memory": arguments.memory, "disk": arguments.disk, "free_space": arguments.free_space}
    changes = {key: size for key, size in budgets.items() if size is not None}
    answers = []
    for note in _owners(arguments, changing=bool(changes)):
        limits = ask(note, "cache", **changes)
        facts = ask(note, "status")["cache"]
        answers.append({"remote": note.remote, **facts, "free_space": limits["free_space"]})
    if arguments.json:
        print_json(answers)
    elif not answers:
        print("nothing is running")
    else:
        display = Display()
        for answer in answers:
            print(f"{display.paint(answer['remote'], Role.TITLE)}: {', '.join(_room(answer))}")
    return ExitCode.OK


def _room(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"memory {human_size(answer['memory_bytes'])} of {human_size(answer['memory_budget'])}"
    if answer["disk_usable"]:
        yield f"disk {human_size(answer['disk_bytes'])} of {human_size(answer['disk_budget'])}"
        yield f"{human_size(answer['free_space'])} stay free"
    else:
        yield "disk out of use" if answer["disk_budget"] else "no disk"
