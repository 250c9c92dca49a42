"""``versions``, ``export``, ``import``: what an account can do beyond a drive.

Asked of the owner where one runs, else the drive is opened for the moment.
"""

from __future__ import annotations

import argparse
import calendar
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serpentfs.cli import arguments as options
from serpentfs.cli.display import Column, Display
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.links import read_link, read_link_password
from serpentfs.cli.output import human_size, print_json
from serpentfs.cli.reaching import ask_owner
from serpentfs.cli.remotes import Target, resolve
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.lock import OwnerNote, running_owners
from serpentfs.errors import NotFound, Unsupported, UsageError

_SPAN = re.compile(r"([1-9]\d{0,5})([mhdw])")
_SPAN_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PLACE_HELP = "of a MEGA account, as name:/folder/file, or below its mount, as /path or ./path"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def add_versions(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=versions)
    parser.add_argument("remote", metavar="REMOTE-PATH", help=f"a file {_PLACE_HELP}")
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument(
        "--restore", type=options.whole_number, metavar="N",
        help="make version N the present one; what is present becomes an old one",
    )
    one_of.add_argument("--delete", type=options.whole_number, metavar="N", help="delete version N for good")
    one_of.add_argument("--delete-old", action="store_true", help="delete all old versions for good")
    one_of.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=export)
    parser.add_argument("remote", metavar="REMOTE-PATH", help=f"a file or folder {_PLACE_HELP}")
    parser.add_argument("-d", "--delete", action="store_true", help="take the link back")
    parser.add_argument(
        "--expire", type=options.value_of(parse_expiry, "time"), metavar="TIME",
        help="end of the link: 12h, 30d, 2w or a day such as 2027-01-31 (needs a paid account)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_root(parser)
    _add_link_password(parser, "Protect the link. Without these it has no password.")
    parser.add_argument("--ask-password", action="store_true", help="ask for a password that protects the link")


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=import_link)
    parser.add_argument("link", metavar="LINK", help="a public link; -: read from standard input, where nobody sees it")
    parser.add_argument("remote", metavar="REMOTE-PATH", help=f"a folder {_PLACE_HELP}")
    options.add_root(parser)
    _add_link_password(parser, "If the link has one. Without these you are asked.")


def _add_link_password(parser: argparse.ArgumentParser, otherwise: str) -> None:
    options.add_passphrase(parser, "password of the link", otherwise)


def parse_expiry(text: str, now: float | None = None) -> int:
    """Unix time of "12h", "30d", "2w" from now, or of the end of a day (UTC) such as "2027-01-31". UsageError."""
    moment = time.time() if now is None else now
    if match := _SPAN.fullmatch(text):
        return int(moment) + int(match[1]) * _SPAN_SECONDS[match[2]]
    if _DATE.fullmatch(text):
        try:
            end = calendar.timegm(time.strptime(text, "%Y-%m-%d")) + 86400 - 1
        except ValueError as error:
            raise UsageError(f'"{text}" is no day of the calendar') from error
        if end <= moment:
            raise UsageError(f'"{text}" is in the past')
        return end
    raise UsageError(f'"{text}" is not a time such as 12h, 30d, 2w or 2027-01-31')


@dataclass(frozen=True, slots=True)
class _Mounted:
    """A path below a mount of this machine: its owner, and the inode, which is the drive's own."""

    note: OwnerNote
    ino: int


def _place(arguments: argparse.Namespace) -> Target | _Mounted:
    """What REMOTE-PATH means: something in a remote, or below a mount."""
    if arguments.remote.startswith(("/", "./", "../", "~")):
        return _mounted(options.absolute_path(arguments.remote))
    target = resolve(arguments)
    if target.spec.cloud != "mega":
        raise Unsupported(f"{target.name} is a vault, which has neither versions nor links")
    return target


def _mounted(path: Path) -> _Mounted:
    mounts = {Path(note.doors["mount"]): note for note in running_owners() if "mount" in note.doors}
    if path in mounts:
        # The kernel calls the top of every mount inode 1, whichever folder of the drive that is.
        raise UsageError("the top of a mount is named as a remote, such as mega:/")
    above = next((mount for mount in path.parents if mount in mounts), None)
    if above is None:
        raise NotFound(f"no drive is mounted above {path}")
    try:
        return _Mounted(mounts[above], path.lstat().st_ino)
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {path}") from error


def ask_about(arguments: argparse.Namespace, place: Target | _Mounted, request: str, **more: Any) -> Any:
    """``reaching.ask_owner``, also about what is named by its place below a mount."""
    if isinstance(place, _Mounted):
        with Connection(Path(place.note.socket)) as connection:
            return connection.ask(request, ino=place.ino, **more)
    return ask_owner(arguments, place, request, path=place.path, **more)


def versions(arguments: argparse.Namespace) -> ExitCode:
    place = _place(arguments)
    if arguments.delete_old:
        ask_about(arguments, place, "delete-versions", handles=None)
        return ExitCode.OK
    found: list[dict[str, Any]] = ask_about(arguments, place, "versions")
    if arguments.json:
        print_json(found)
        return ExitCode.OK
    chosen: int | None = arguments.restore or arguments.delete
    if chosen is None:
        columns = (Column("N", right=True), Column("SIZE", right=True), Column("MODIFIED"), Column(""))
        Display().print_table(columns, [
            (str(number), human_size(one["size"]), when(one["mtime"]), f"uploaded {when(one['created'])}")
            for number, one in enumerate(found, 1)
        ])
        return ExitCode.OK
    if chosen > len(found):
        raise NotFound(f"there is no version {chosen}: the file has {len(found)} old ones")
    handle = found[chosen - 1]["handle"]
    if arguments.restore:
        ask_about(arguments, place, "restore-version", handle=handle)
    else:
        ask_about(arguments, place, "delete-versions", handles=[handle])
    return ExitCode.OK


def when(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def export(arguments: argparse.Namespace) -> ExitCode:
    place = _place(arguments)
    password = _new_link_password(arguments)
    if arguments.delete:
        if password is not None or arguments.expire is not None:
            raise UsageError("--delete takes the link back: it goes with neither a password nor --expire")
        ask_about(arguments, place, "unexport")
        return ExitCode.OK
    answer = ask_about(arguments, place, "export", password=password, expires=arguments.expire)
    if arguments.json:
        print_json({**answer, "expires": arguments.expire})
    else:
        print(answer["link"])
    return ExitCode.OK


def _new_link_password(arguments: argparse.Namespace) -> str | None:
    if arguments.ask_password or arguments.password_file is not None or arguments.password_command is not None:
        return read_link_password(arguments, twice=True)
    return None


def import_link(arguments: argparse.Namespace) -> ExitCode:
    from serpentfs.clouds.mega.links import needs_password, parse_link

    place = _place(arguments)
    link = read_link(arguments.link)
    password = None
    if needs_password(link):
        password = read_link_password(arguments)
    parse_link(link, password)    # a mistake is told before a drive is opened
    ask_about(arguments, place, "import", link=link, password=password)
    return ExitCode.OK
