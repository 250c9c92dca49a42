"""``mount``, ``webdav``, ``ftp``: what their options say about doors, and ``-d``, which takes one away."""

from __future__ import annotations

import argparse
from dataclasses import replace

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.owning import open_or_own
from serpentfs.cli.remotes import Target, resolve
from serpentfs.cli.running import take_away
from serpentfs.credentials import read_secret_file
from serpentfs.daemon.door_options import DoorOptions
from serpentfs.errors import UsageError
from serpentfs.gateways.access import FtpOptions, ServerOptions, TlsFiles
from serpentfs.gateways.fuse import MountOptions

DEFAULT_WEBDAV = ("127.0.0.1", 4443)
DEFAULT_FTP = ("127.0.0.1", 4990)


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
        help="options as mount(8) has them: ro, allow_other, uid=, gid=, umask=, fsname=, nonempty; the rest is "
        "libfuse's",
    )
    doors = parser.add_argument_group("further doors of the same process")
    doors.add_argument("--webdav", type=options.address, metavar="HOST:PORT", help="serve over WebDAV too")
    doors.add_argument("--ftp", type=options.address, metavar="HOST:PORT", help="serve over FTP too")
    options.add_access(parser)
    options.add_ftp(parser)
    _add_owner_options(parser)


def add_webdav(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=webdav_remote)
    _add_server(parser, DEFAULT_WEBDAV)
    parser.add_argument("--ftp", type=options.address, metavar="HOST:PORT", help="serve over FTP too, in this process")
    options.add_ftp(parser)
    _add_owner_options(parser)


def add_ftp(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=ftp_remote)
    _add_server(parser, DEFAULT_FTP)
    options.add_ftp(parser)
    _add_owner_options(parser)


def _add_server(parser: argparse.ArgumentParser, default: tuple[str, int]) -> None:
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_PATH_HELP)
    parser.add_argument(
        "--listen", type=options.address, metavar="HOST:PORT", default=default,
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
        users = _users(arguments)
        if arguments.webdav is not None:
            doors.append(_server_options(arguments, arguments.webdav, users, target.path))
        if arguments.ftp is not None:
            doors.append(_ftp_options(arguments, arguments.ftp, users, target.path))
    return open_or_own(arguments, target, doors)


def webdav_remote(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    if _is_taken_away(arguments):
        return take_away(target, "webdav", now=arguments.now)
    users = _users(arguments)
    doors: list[DoorOptions] = [_server_options(arguments, arguments.listen, users, target.path)]
    if arguments.ftp is not None:
        doors.append(_ftp_options(arguments, arguments.ftp, users, target.path))
    return open_or_own(arguments, target, doors)


def ftp_remote(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    if _is_taken_away(arguments):
        return take_away(target, "ftp", now=arguments.now)
    door = _ftp_options(arguments, arguments.listen, _users(arguments), target.path)
    return open_or_own(arguments, target, [door])


def _is_taken_away(arguments: argparse.Namespace) -> bool:
    if arguments.now and not arguments.delete:
        raise UsageError("--now goes with -d")
    return bool(arguments.delete)


def _mount_options(arguments: argparse.Namespace, target: Target) -> MountOptions:
    """The options of ``mount`` with what ``-o`` adds; the last word on a thing counts."""
    mount = MountOptions(
        mountpoint=arguments.directory, name=target.name, root=target.path, read_only=bool(arguments.read_only),
        allow_other=arguments.allow_other, uid=arguments.uid, gid=arguments.gid,
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


def _users(arguments: argparse.Namespace) -> dict[str, str]:
    """User name and password of the network doors. UsageError when they are asked for and missing."""
    if arguments.no_auth:
        if arguments.user or arguments.pass_file:
            raise UsageError("--no-auth lets everybody in: it does not go together with --user and --pass-file")
        return {}
    if not arguments.user or not arguments.pass_file:
        raise UsageError("a network door needs --user NAME and --pass-file FILE (or --no-auth)")
    return {arguments.user: read_secret_file(arguments.pass_file.expanduser(), "password")}


def _server_options(
    arguments: argparse.Namespace, listen: tuple[str, int], users: dict[str, str], root: str
) -> ServerOptions:
    tls = None
    if arguments.certificate and arguments.key:
        tls = TlsFiles(arguments.certificate, arguments.key)
    if arguments.tls and tls is None:
        raise UsageError("--tls needs --certificate FILE and --key FILE")
    if not arguments.tls and (arguments.certificate or arguments.key):
        raise UsageError("--certificate and --key need --tls")
    return ServerOptions(
        host=listen[0], port=listen[1], users=users, no_auth=arguments.no_auth, tls=tls, public=arguments.public,
        insecure=arguments.insecure, root=root, read_only=bool(arguments.read_only),
    )


def _ftp_options(
    arguments: argparse.Namespace, listen: tuple[str, int], users: dict[str, str], root: str
) -> FtpOptions:
    server = _server_options(arguments, listen, users, root)
    return FtpOptions(server, data_ports=arguments.data_ports, public_ip=arguments.public_ip)
