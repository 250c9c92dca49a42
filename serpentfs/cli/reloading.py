"""``reload``: the whole tree fetched anew.

What is cached and what waits to be uploaded stays; so do inodes. Without a REMOTE, for all that run, side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import StatusLine, count, human_duration, print_json, printable
from serpentfs.cli.reaching import Failures, ask_owner
from serpentfs.cli.remotes import resolve
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.lock import OwnerNote, running_owners
from serpentfs.daemon.reloading import PATIENCE
from serpentfs.errors import NotFound, SerpentError

_AT_ONCE = 16


def add_reload(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=reload)
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all that run without it")
    parser.add_argument(
        "--patience", type=options.interval, default=PATIENCE, metavar="SECONDS",
        help="give up when nothing is heard of the store for so long",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    options.add_passphrase(parser)


def reload(arguments: argparse.Namespace) -> ExitCode:
    words = {"patience": arguments.patience}
    failures = Failures()
    with StatusLine(at_once=False) as line:
        if arguments.remote is None:
            answers = _reload_all(words, line, failures)
        else:
            answers = [_reload_one(arguments, words, line)]
    if arguments.json:
        print_json(answers)
    elif not arguments.quiet:
        for answer in answers:
            took = human_duration(answer["seconds"])
            print(f"{printable(answer['remote'])}: {count(answer['folders'], 'folder')} compared in {took}")
    return failures.code


def _reload_one(arguments: argparse.Namespace, words: Mapping[str, Any], line: StatusLine) -> dict[str, Any]:
    target = resolve(arguments)
    answer = ask_owner(arguments, target, "reload", partial(_show, line), **words)
    return {"remote": target.spec.canonical, **answer}


def _reload_all(words: Mapping[str, Any], line: StatusLine, failures: Failures) -> list[dict[str, Any]]:
    notes = running_owners()
    if not notes:
        raise NotFound("nothing is running: serpentfs reload REMOTE fetches the tree of one remote")

    def ask(note: OwnerNote) -> dict[str, Any] | SerpentError:
        try:
            return _ask(note, words, line)
        except SerpentError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = list(threads.map(ask, notes))
    line.wipe()
    done = []
    for note, answer in zip(notes, answers, strict=True):
        if isinstance(answer, SerpentError):
            failures.add(note.remote, answer)
        else:
            done.append(answer)
    return done


def _ask(note: OwnerNote, words: Mapping[str, Any], line: StatusLine) -> dict[str, Any]:
    with Connection(Path(note.socket)) as connection:
        return {"remote": note.remote, **connection.ask("reload", partial(_show, line), **words)}


def _show(line: StatusLine, item: Mapping[str, Any]) -> None:
    line.tell(f"reloading: {count(item['folders'], 'folder')} compared, {human_duration(item['seconds'])}")
