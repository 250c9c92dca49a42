"""``refresh``, ``warm``, ``evict``, ``verify``: what is kept here of a path of a remote.

Asked of the owner where one runs, else the drive is opened for the moment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import StatusLine, count, human_size, print_json, printable
from serpentfs.cli.reaching import ask_owner
from serpentfs.cli.remotes import resolve


def add_refresh(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=refresh)
    _add_path(parser)
    parser.add_argument("-r", "--recursive", action="store_true", help="the folders below it, too")


def add_warm(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=warm)
    _add_path(parser)


def add_evict(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=evict)
    _add_path(parser)


def add_verify(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=verify)
    _add_path(parser)


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("remote", metavar="REMOTE-PATH", help=options.REMOTE_PATH_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    options.add_passphrase(parser)


def _ask(arguments: argparse.Namespace, request: str, line: _Line, **words: Any) -> dict[str, Any]:
    target = resolve(arguments)
    answer: dict[str, Any] = ask_owner(arguments, target, request, line.show, path=target.path, **words)
    return answer


def refresh(arguments: argparse.Namespace) -> ExitCode:
    with _Line("listed") as line:
        answer = _ask(arguments, "refresh", line, recursive=arguments.recursive)
    if arguments.json:
        print_json(answer)
    elif not arguments.quiet:
        print(f"{count(answer['folders'], 'folder')} listed anew")
    return ExitCode.OK


def warm(arguments: argparse.Namespace) -> ExitCode:
    with _Line("warmed") as line:
        answer = _ask(arguments, "warm", line)
    if arguments.json:
        print_json(answer)
    else:
        if not arguments.quiet:
            print(f"{answer['kept']} of {count(answer['files'], 'file')} here, {human_size(answer['bytes'])} read")
        left = answer["files"] - answer["kept"] - len(answer["failed"])
        if left > 0:
            print(f"serpentfs: the cache has no room for {count(left, 'file')}; see --cache-disk", file=sys.stderr)
        _print_failed(answer)
    return _code_of(answer)


def evict(arguments: argparse.Namespace) -> ExitCode:
    with _Line("evicted") as line:
        answer = _ask(arguments, "evict", line)
    if arguments.json:
        print_json(answer)
    elif not arguments.quiet:
        freed = f"{human_size(answer['disk_bytes'])} of disk and {human_size(answer['memory_bytes'])} of memory"
        print(f"{count(answer['files'], 'file')} dropped from the cache: {freed} freed")
        if answer["staged"]:
            print(f"{count(answer['staged'], 'file')} not uploaded yet: kept")
    return ExitCode.OK


def verify(arguments: argparse.Namespace) -> ExitCode:
    with _Line("verified") as line:
        answer = _ask(arguments, "verify", line)
    if arguments.json:
        print_json(answer)
    else:
        _print_failed(answer)
        if not arguments.quiet:
            good = answer["files"] - answer["staged"] - len(answer["failed"])
            words = [f"{count(good, 'file')} good, {human_size(answer['bytes'])} read"]
            if answer["failed"]:
                words.append(f"{len(answer['failed'])} not")
            if answer["staged"]:
                words.append(f"{answer['staged']} not uploaded yet")
            print("; ".join(words))
    return _code_of(answer)


def _print_failed(answer: Mapping[str, Any]) -> None:
    for one in answer["failed"]:
        print(f"{one['state']}: {printable(one['path'])}: {printable(one['error'])}")


def _code_of(answer: Mapping[str, Any]) -> ExitCode:
    states = {one["state"] for one in answer["failed"]}
    if "damaged" in states:
        return ExitCode.INTEGRITY
    return ExitCode.DAMAGED if states else ExitCode.OK


class _Line(StatusLine):
    """How far a walk is."""

    def __init__(self, done: str) -> None:
        super().__init__(at_once=False)
        self._done = done

    def show(self, item: Mapping[str, Any]) -> None:
        if "files" not in item:
            self.tell(f"{count(item['folders'], 'folder')} {self._done}, {item['left']} to go")
            return
        text = f"{item['files']} of {count(item['total_files'], 'file')} {self._done}, "
        text += f"{human_size(item['bytes'])} of {human_size(item['total_bytes'])}"
        self.tell(text, item["bytes"] / item["total_bytes"] if item["total_bytes"] else None)
