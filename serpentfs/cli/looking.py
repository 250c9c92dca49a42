"""``ls``, ``df``: look without changing anything.

Asked of the owner where one runs (it knows what is not uploaded yet), else the drive is opened for the moment.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.display import Display, share
from serpentfs.cli.entries import long_line, name_of, size_of
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import human_size, print_json, short_size
from serpentfs.cli.reaching import ask_owner
from serpentfs.cli.remotes import owner_of, resolve
from serpentfs.daemon.asking import Connection


def add_ls(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=ls)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_PATH_HELP)
    parser.add_argument("-l", "--long", action="store_true", help="with kind, size and time")
    options.add_human_readable(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    options.add_passphrase(parser)


def add_df(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=df)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_HELP)
    options.add_human_readable(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    options.add_passphrase(parser)


def ls(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    entries: list[Mapping[str, Any]] = []
    ask_owner(arguments, target, "list", entries.extend, path=target.path)
    entries.sort(key=lambda entry: str(entry["name"]))
    if arguments.json:
        print_json(entries)
        return ExitCode.OK
    display = Display()
    width = max((len(size_of(entry, human=arguments.human_readable)) for entry in entries), default=0)
    for entry in entries:
        name = str(entry["name"])
        if arguments.long:
            print(long_line(display, entry, name, width=width, human=arguments.human_readable))
        else:
            print(name_of(display, entry, name))
    return ExitCode.OK


def df(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    if note := owner_of(target):
        with Connection(Path(note.socket)) as connection:
            quota: dict[str, int | None] = connection.ask("quota")
    else:
        # Only here: who asks an owner answers at once.
        import trio

        from serpentfs.cli.opening import unlock_target
        from serpentfs.daemon import opened

        quota = asdict(trio.run(opened.room_of, unlock_target(arguments, target)))
    if arguments.json:
        print_json(quota)
        return ExitCode.OK
    shown = short_size if arguments.human_readable else human_size
    for name in ("total", "used", "free"):
        value = quota[name]
        print(f"{name:<6} {'unknown' if value is None else shown(value)}")
    if quota["total"] and quota["used"] is not None:
        part = share(quota["used"], quota["total"])
        if bar := Display().bar(part):
            print(f"{bar}{part:.0%}")
    return ExitCode.OK
