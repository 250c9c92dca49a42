"""``mount``, ``webdav``, ``ftp``: what their options say about doors, and ``-d``, which takes one away."""

from __future__ import annotations

import argparse
from dataclasses import replace

from serpentfs.cli import arguments as options
from serpentfs.cli.door_access import DEFAULT_ADDRESSES, DoorAccess
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.owning import open_or_own
from serpentfs.cli.remotes import Target, resolve
from serpentfs.cli.running import take_away
from serpentfs.daemon.door_options import DoorOptions
from serpentfs.errors import UsageError
from serpentfs.gateways.fuse import LOOPS, MountOptions


def add_mount(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=mount_remote)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_PATH_HELP)
    parser.add_argument("directory", metavar="DIR", type=options.absolute_path, help="an empty folder")
    group = parser.add_argument_group("mount")
    group.add_argument("--allow-other", action="store_true", help="let other users of this machine in")
    group.add_argument("--uid", type=options.numeric_id, help="owner of files that have none (default: you)")
    group.add_argument("--gid", type=options.numeric_id, help="group of files that have none (default: yours)")
    group.add_argument("--umask", type=options.umask, help="permission bits that files without a mode lack, octal")
    group.add_argument(
        "-o", dest="mount_options", action="append", default=[], metavar="A,B=C",
        help="options as mount(8) has them: ro, allow_other, uid=, gid=, umask=, fsname=, nonempty; the rest is the "
        "kernel's, or libfuse's",
    )
    group.add_argument(
        "--fuse-loop", choices=LOOPS, default=LOOPS[0],
        help="what carries the kernel's requests: a loop of our own, or the library pyfuse3, which also takes over for "
        "kernels before Linux 5.4 and options that are libfuse's",
    )
    doors = parser.add_argument_group("further doors of the same process")
    doors.add_argument("--webdav", type=options.address, metavar="HOST:PORT", help="serve over WebDAV too")
    doors.add_argument("--ftp", type=options.address, metavar="HOST:PORT", help="serve over FTP too")
    options.add_access(parser)
    options.add_ftp(parser)
    _add_owner_options(parser)


def add_webdav(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=webdav_remote)
    _add_server(parser, DEFAULT_ADDRESSES["webdav"])
    parser.add_argument("--ftp", type=options.address, metavar="HOST:PORT", help="serve over FTP too, in this process")
    options.add_ftp(parser)
    _add_owner_options(parser)


def add_ftp(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=ftp_remote)
    _add_server(parser, DEFAULT_ADDRESSES["ftp"])
    options.add_ftp(parser)
    _add_owner_options(parser)


def _add_server(parser: argparse.ArgumentParser, default: tuple[str, int]) -> None:
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_PATH_HELP)
    parser.add_argument(
        "--listen", type=options.address, metavar="HOST:PORT",
        help=f"where to listen (default: {default[0]}:{default[1]})",
    )
    parser.add_argument(
        "-d", "--delete", action="store_true",
        help="take this door of REMOTE away; with the last one, uploads what is left and ends the process",
    )
    parser.add_argument(
        "--now", action="store_true", help="with -d: do not wait for uploads; the next start goes on with them"
    )
    options.add_access(parser)


def _add_owner_options(parser: argparse.ArgumentParser) -> None:
    options.add_drive(parser)
    options.add_account(parser)
    options.add_seeing(parser)
    options.add_passphrase(parser)
    options.add_process(parser)


def mount_remote(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    mount = _mount_options(arguments, target)
    arguments.read_only = mount.wants_read_only or arguments.read_only
    doors: list[DoorOptions] = [mount]
    if arguments.webdav is not None or arguments.ftp is not None:
        access = DoorAccess(arguments, target.path)
        if arguments.webdav is not None:
            doors.append(access.webdav(arguments.webdav))
        if arguments.ftp is not None:
            doors.append(access.ftp(arguments.ftp))
    return open_or_own(arguments, target, doors)


def webdav_remote(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    if _is_taken_away(arguments):
        return take_away(target, "webdav", now=arguments.now)
    access = DoorAccess(arguments, target.path)
    doors: list[DoorOptions] = [access.webdav(arguments.listen)]
    if arguments.ftp is not None:
        doors.append(access.ftp(arguments.ftp))
    return open_or_own(arguments, target, doors)


def ftp_remote(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    if _is_taken_away(arguments):
        return take_away(target, "ftp", now=arguments.now)
    return open_or_own(arguments, target, [DoorAccess(arguments, target.path).ftp(arguments.listen)])


def _is_taken_away(arguments: argparse.Namespace) -> bool:
    if arguments.now and not arguments.delete:
        raise UsageError("--now goes with -d")
    return bool(arguments.delete)


def _mount_options(arguments: argparse.Namespace, target: Target) -> MountOptions:
    """The options of ``mount`` with what ``-o`` adds; the last word on a thing counts."""
    mount = MountOptions(
        mountpoint=arguments.directory, name=target.name, root=target.path, read_only=bool(arguments.read_only),
        allow_other=arguments.allow_other, uid=arguments.uid, gid=arguments.gid,
        loop=arguments.fuse_loop,
    )
    if arguments.umask is not None:
        mount = replace(mount, umask=arguments.umask)
    for word in (word for group in arguments.mount_options for word in group.split(",") if word):
        key, _, value = word.partition("=")
        if key == "allow_other":
            mount = replace(mount, allow_other=True)
        elif key == "uid":
            mount = replace(mount, uid=options.parse_id(value))
        elif key == "gid":
            mount = replace(mount, gid=options.parse_id(value))
        elif key == "umask":
            mount = replace(mount, umask=options.parse_umask(value))
        elif key == "fsname" and value:
            mount = replace(mount, name=value)
        else:
            mount = replace(mount, extra=(*mount.extra, word))
    return mount
