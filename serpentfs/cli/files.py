"""``cat``, ``mkdir``, ``mv``, ``rm``, ``cp``: work on files of a remote without a mount, as the commands of those names
do on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import StatusLine, human_size
from serpentfs.cli.piping import download
from serpentfs.cli.reaching import Access, Failures, change, matches, resolve_all
from serpentfs.daemon.asking import Connection
from serpentfs.errors import NotFound

_PATHS_HELP = "a file or folder as URL#/path or name:/path, or a pattern such as 'name:/Photos/*.jpg'"


def add_remote_paths(parser: argparse.ArgumentParser, text: str = _PATHS_HELP) -> None:
    parser.add_argument("remote", metavar="REMOTE-PATH", nargs="+", help=text)
    options.add_root(parser)
    options.add_passphrase(parser)


def add_cat(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=cat)
    add_remote_paths(parser)


def add_mkdir(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=mkdir)
    parser.add_argument("-p", "--parents", action="store_true", help="also the folders above; one may exist")
    add_remote_paths(parser, "a new folder as URL#/path or name:/path")


def add_rm(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=rm)
    parser.add_argument("-r", "-R", "--recursive", action="store_true", help="folders, too, with all that is in them")
    parser.add_argument("-f", "--force", action="store_true", help="say nothing of what is not there")
    add_remote_paths(parser)


def add_mv(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=mv)
    _add_sources(parser)


def add_cp(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=cp)
    parser.add_argument("-r", "-R", "--recursive", action="store_true", help="folders, too, with all that is in them")
    parser.add_argument("-p", "--preserve", action="store_true", help="keep times of modification")
    _add_sources(parser)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--no-clobber", action="store_true", help="replace no file that exists")
    parser.add_argument("remote", metavar="REMOTE-PATH", nargs="+", help=_PATHS_HELP)
    parser.add_argument("target", metavar="TARGET", help="there: a folder that exists, or a new name")
    options.add_root(parser)
    options.add_passphrase(parser)


def cat(arguments: argparse.Namespace) -> ExitCode:
    targets = resolve_all(arguments, arguments.remote)
    failures = Failures()

    def work(socket: Path) -> None:
        with Connection(socket) as connection:
            for target in targets:
                with failures.about(target.path):
                    for found in matches(connection, target.path):
                        with failures.about(found["path"]):
                            download(connection, found["path"], sys.stdout.buffer.write)
        sys.stdout.buffer.flush()

    Access(arguments, targets[0]).run(work)
    return failures.code


def mkdir(arguments: argparse.Namespace) -> ExitCode:
    targets = resolve_all(arguments, arguments.remote)

    def work(connection: Connection, failures: Failures) -> None:
        for target in targets:
            with failures.about(target.path):
                connection.ask("mkdir", path=target.path, parents=arguments.parents)

    return change(arguments, targets[0], work)


def rm(arguments: argparse.Namespace) -> ExitCode:
    targets = resolve_all(arguments, arguments.remote)

    def work(connection: Connection, failures: Failures) -> None:
        for target in targets:
            with failures.about(target.path):
                try:
                    found = matches(connection, target.path)
                except NotFound:
                    if arguments.force:
                        continue
                    raise
                for one in found:
                    with failures.about(one["path"]):
                        connection.ask("remove", path=one["path"], recursive=arguments.recursive)

    return change(arguments, targets[0], work)


def mv(arguments: argparse.Namespace) -> ExitCode:
    return _to_target(arguments, "move")


def cp(arguments: argparse.Namespace) -> ExitCode:
    return _to_target(arguments, "copy", recursive=arguments.recursive, preserve=arguments.preserve)


def _to_target(arguments: argparse.Namespace, request: str, **more: Any) -> ExitCode:
    *targets, last = resolve_all(arguments, [*arguments.remote, arguments.target])

    def work(connection: Connection, failures: Failures) -> None:
        sources: list[str] = []
        for target in targets:
            with failures.about(target.path):
                sources += (found["path"] for found in matches(connection, target.path))
        copied = 0
        with StatusLine(at_once=False) as line:

            def show(item: dict[str, int]) -> None:
                nonlocal copied
                copied += item["bytes"]
                if not arguments.quiet:
                    line.tell(f"copied: {human_size(copied)}")

            for source in sources:
                with failures.about(source):
                    connection.ask(
                        request, show, source=source, target=last.path, into_folder=len(arguments.remote) > 1 or
                        len(sources) > 1, keep=arguments.no_clobber, **more,
                    )
                    line.wipe()

    return change(arguments, last, work)
