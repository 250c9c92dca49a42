"""``get`` and ``put``: files and folders between a remote and this machine, several at a time."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from serpentfs.bridge import run_in_thread
from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.getting import plan_get
from serpentfs.cli.putting import local_paths, plan_put
from serpentfs.cli.reaching import Access, Failures, run_with_drive, upload_rest
from serpentfs.cli.remotes import resolve
from serpentfs.cli.transferring import transfer


def add_get(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=get)
    parser.add_argument(
        "remote", metavar="REMOTE-PATH",
        help="a file or folder as URL#/path or name:/path, or a pattern such as 'name:/Photos/*.jpg'",
    )
    parser.add_argument(
        "local", metavar="LOCAL", type=Path, nargs="?", default=Path(),
        help="a folder that exists, or a new name; a file is written to LOCAL.part until it is whole",
    )
    _add_transfer(parser, "here")


def add_put(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=put)
    parser.add_argument("local", metavar="LOCAL", nargs="+", help="a file, a folder, or a pattern")
    parser.add_argument("remote", metavar="REMOTE-PATH", help="a folder that exists, or a new name, as name:/path")
    parser.add_argument("-c", "--create", action="store_true", help="make the remote folder if there is none")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until everything is uploaded")
    _add_transfer(parser, "there")


def _add_transfer(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument(
        "-u", "--update", action="store_true", help=f"skip files that are {where} with the same size and time"
    )
    parser.add_argument(
        "--parallel", type=options.whole_number, metavar="N", default=4, help="files at a time"
    )
    options.add_root(parser)
    options.add_passphrase(parser)


def get(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    access = Access(arguments, target)
    failures = Failures()

    async def run() -> None:
        async with access.open() as socket:
            planning = partial(plan_get, update=arguments.update, failures=failures)
            plan = await run_in_thread("command", planning, socket, target.path, arguments.local, abandon=True)
            await transfer(
                socket, plan.jobs, verb="getting", parallel=arguments.parallel, quiet=arguments.quiet,
                failures=failures,
            )
            await run_in_thread("command", plan.finish)

    run_with_drive(run)
    return failures.code


def put(arguments: argparse.Namespace) -> ExitCode:
    sources = local_paths(arguments.local)
    target = resolve(arguments)
    access = Access(arguments, target)
    failures = Failures()

    async def run() -> ExitCode:
        async with access.open() as socket:
            planning = partial(plan_put, create=arguments.create, update=arguments.update, failures=failures)
            plan = await run_in_thread("command", planning, socket, sources, target.path, abandon=True)
            await transfer(
                socket, plan.jobs, verb="putting", parallel=arguments.parallel, quiet=arguments.quiet,
                failures=failures,
            )
            await run_in_thread("command", plan.finish, socket)
            if arguments.no_wait and not access.borrows:
                return ExitCode.OK
            ours = None if access.borrows else plan.paths
            rest = partial(upload_rest, quiet=arguments.quiet, only=ours, wait=not arguments.no_wait)
            return await run_in_thread("command", rest, socket, abandon=True)

    code = run_with_drive(run)
    return failures.code or code
