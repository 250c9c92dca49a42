"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from serpentfs import logs
from serpentfs.amounts import parse_rate, parse_size
from serpentfs.cli import environment
from serpentfs.config import DURABILITIES, MEGA_ROOTS, parse_address, parse_port_range
from serpentfs.errors import UsageError

T = TypeVar("T")

REMOTE_HELP = (
    "a URL (vault+file:///srv/vault, vault+s3://bucket/prefix?endpoint=URL), a name from the config, "
    "or that of a log-in (mega:)"
)
REMOTE_PATH_HELP = f"{REMOTE_HELP}; with a folder in it as URL#/folder or name:/folder"
LOGIN_HELP = "a log-in, or a remote that uses it"
_ROOT_HELP = "which tree: the cloud drive (the usual one), the inbox, the rubbish bin, or what others share"


YesOrNo = argparse.BooleanOptionalAction
"""For what ``config.toml`` or the environment may have turned on: None when the command line says nothing."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing a page and exiting; takes from the environment what the command line
    does not say (``environment``)."""

    ignored_variables: frozenset[str] = frozenset()
    """Fields of options that are to be typed."""

    def parse_known_args(    # type: ignore[override]    # argparse's is overloaded over types of namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        present = {
            name: action for name, action in environment.variables_of(self).items() if os.environ.get(name)
        }
        arguments = argparse.Namespace() if namespace is None else namespace
        for action in present.values():
            setattr(arguments, action.dest, None)    # else argparse sets the default, which could have been typed
            action.required = False
        arguments, rest = super().parse_known_args(args, arguments)
        waiting = {name: action for name, action in present.items() if getattr(arguments, action.dest) is None}
        environment.apply(self, arguments, waiting)
        return arguments, rest

    def parse_args(    # type: ignore[override]    # as above
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._surplus(unknown))
        return arguments

    def _surplus(self, unknown: Sequence[str]) -> str:
        """What is wrong with words that no option and no argument takes. Only the name of an option is repeated: the
        rest may be a passphrase, in the wrong place."""
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        if option is None:
            places = " ".join(str(action.metavar or action.dest) for action in self._get_positional_actions())
            many = "1 argument" if len(unknown) == 1 else f"{len(unknown)} arguments"
            return f"{many} too many: {self.prog} takes {places or 'none'}"
        known = {name.lstrip("-"): name for name in self._option_string_actions if len(name) > 2}
        near = difflib.get_close_matches(option.lstrip("-"), known, 1)
        return f"there is no option {option}" + (f"; did you mean {known[near[0]]}?" if near else "")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults, keeps examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and action.default not in (None, False, argparse.SUPPRESS, (), []) and "%(default)" not in text:
            return f"{text} (default: %(default)s)"
        return text


def value_of(read: Callable[[str], T], name: str) -> Callable[[str], T]:
    """``read`` as argparse wants it: its UsageError becomes the message of the option."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    convert.__name__ = name
    return convert


def absolute_path(text: str) -> Path:
    """A path that stays true when the process leaves its folder. The last part is not looked at: it may be a
    mount whose owner is dead."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    path = Path(text).expanduser().absolute()
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def parse_umask(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise UsageError(f'"{text}" is not an octal umask (such as 022)')
    return int(text, 8)


def parse_id(text: str) -> int:
    if not re.fullmatch(r"\d{1,10}", text):
        raise UsageError(f'"{text}" is not a numeric id')
    return int(text)


def parse_seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise UsageError(f'"{text}" is not a number of seconds')
    return float(text)


def parse_interval(text: str) -> float:
    interval = parse_seconds(text)
    if interval == 0:
        raise UsageError(f'"{text}" is not a number of seconds above 0')
    return interval


def parse_count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise UsageError(f'"{text}" is not a whole number above 0')
    return int(text)


address = value_of(parse_address, "address")
port_range = value_of(parse_port_range, "port range")
umask = value_of(parse_umask, "umask")
numeric_id = value_of(parse_id, "id")
seconds = value_of(parse_seconds, "seconds")
interval = value_of(parse_interval, "seconds")
whole_number = value_of(parse_count, "number")
count_or_none = value_of(lambda text: 0 if text == "0" else parse_count(text), "number")
size = value_of(parse_size, "size")
rate = value_of(parse_rate, "rate")


def _level_name(text: str) -> str:
    logs.level_named(text)
    return text.upper()


log_level = value_of(_level_name, "level")


def add_general(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("general")
    group.add_argument("-v", "--verbose", action="count", default=0, help="tell more; -vv and -vvv: even more")
    group.add_argument("-q", "--quiet", action="store_true", help="tell errors only")
    group.add_argument(
        "--log-level", type=log_level, metavar="LEVEL", help=f"instead of -v and -q: {', '.join(logs.LEVELS)}"
    )
    group.add_argument("--log-file", type=absolute_path, metavar="FILE", help="write the log there")
    group.add_argument(
        "--log-format", choices=logs.FORMATS, default=logs.FORMATS[0], help="lines to read, or one JSON object a line"
    )
    group.add_argument("--log-names", action="store_true", help="show names of files in the log, whatever its level")
    group.add_argument(
        "--config", type=absolute_path, metavar="FILE", help="instead of ~/.config/serpentfs/config.toml"
    )


def configure_logs(arguments: argparse.Namespace, daemon_file: Path | None = None) -> None:
    """Set up the log as the general options say. ``daemon_file``: the process has detached, so that nobody sees more
    than its log, in this file."""
    verbosity: int = -1 if arguments.quiet else arguments.verbose
    logs.configure(
        verbosity if daemon_file is None else max(1, verbosity), daemon_file or arguments.log_file,
        level=arguments.log_level, form=arguments.log_format, names=arguments.log_names,
    )


def add_human_readable(parser: argparse.ArgumentParser) -> None:
    """As in coreutils: -h is not help here; that keeps its long name."""
    group = parser.add_argument_group("sizes", conflict_handler="resolve")
    group.add_argument("-h", "--human-readable", action="store_true", help="such as 1.5M, in powers of 1024")


def add_passphrase(
    parser: argparse.ArgumentParser, what: str = "passphrase",
    otherwise: str = "Without these: the file that SERPENTFS_PASSWORD_FILE names, the command of "
    "SERPENTFS_PASSWORD_COMMAND, or you are asked.",
) -> None:
    group = parser.add_argument_group(what, otherwise)
    one_of = group.add_mutually_exclusive_group()
    one_of.add_argument("--password-file", type=Path, metavar="FILE", help="read it from FILE (-: standard input)")
    one_of.add_argument(
        "--password-command", metavar="COMMAND", help="run COMMAND (without a shell) and take what it prints"
    )


def add_drive(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("drive")
    group.add_argument("--read-only", action=YesOrNo, help="refuse changes")
    group.add_argument(
        "--durability", choices=DURABILITIES, default=None,
        help="when close and fsync return: once this machine has it (local), or the store too (cloud)",
    )
    group.add_argument(
        "--settle", type=seconds, metavar="SECONDS", help="time after the last close before a file goes up"
    )
    group.add_argument(
        "--uploads", type=whole_number, metavar="N",
        help="uploads at a time; four times as many of up to 256 KiB, half of over 4 MiB",
    )
    group.add_argument(
        "--poll-interval", type=interval, metavar="SECONDS",
        help="time between two listings of a store that does not report changes, such as S3",
    )
    cache = parser.add_argument_group("cache", "Sizes such as 512M or 20G.")
    cache.add_argument("--cache-memory", type=size, metavar="SIZE", help="decrypted blocks in memory")
    cache.add_argument("--cache-disk", type=size, metavar="SIZE", help="sealed blocks on disk; 0: none")
    cache.add_argument(
        "--cache-free-space", type=size, metavar="SIZE", help="stop filling the disk when less than this is free"
    )
    cache.add_argument("--cache-directory", type=absolute_path, metavar="DIR", help="keep sealed blocks there")


def add_seeing(parser: argparse.ArgumentParser) -> None:
    """For commands that serve a drive: its rates and its figures."""
    group = parser.add_argument_group(
        "transfers and figures",
        "A RATE is bytes a second, such as 500K or 2M, or a timetable: \"08:00,512K Sat-00:00,2M 23:00,off\".",
    )
    group.add_argument("--limit-up", type=rate, metavar="RATE", help="upload at most this fast (see speedlimit)")
    group.add_argument("--limit-down", type=rate, metavar="RATE", help="download at most this fast")
    group.add_argument(
        "--upload-connections", type=whole_number, metavar="N", help="connections that uploads use at a time"
    )
    group.add_argument(
        "--download-connections", type=whole_number, metavar="N", help="connections that downloads use at a time"
    )
    group.add_argument(
        "--metrics", type=address, metavar="HOST:PORT",
        help="serve metrics for Prometheus there; others than users of this machine reach it with --public only",
    )


def add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("MEGA accounts").add_argument("--root", choices=MEGA_ROOTS, help=_ROOT_HELP)


def add_account(parser: argparse.ArgumentParser) -> None:
    """For commands that serve a drive."""
    group = parser.add_argument_group("MEGA accounts")
    group.add_argument("--root", choices=MEGA_ROOTS, help=_ROOT_HELP)
    group.add_argument("--hard-delete", action=YesOrNo, help="remove for good, not to the rubbish bin")
    group.add_argument("--thumbnails", action=YesOrNo, help="make thumbnails and previews of uploaded images")
    group.add_argument(
        "--versions-view", action=YesOrNo,
        help="show old versions of files, read-only, in a hidden folder .versions of every folder",
    )


def add_process(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("process").add_argument(
        "--daemon", action="store_true", help="go to the background; returns when the drive answers"
    )


def add_access(parser: argparse.ArgumentParser) -> None:
    """Who may use a network door, over what."""
    group = parser.add_argument_group(
        "access to network doors", "Without these, what [webdav] and [ftp] of the configuration say."
    )
    group.add_argument("--user", metavar="NAME", help="user name that clients log in with")
    group.add_argument("--pass-file", type=Path, metavar="FILE", help="file with that user's password")
    group.add_argument(
        "--htpasswd-file", type=absolute_path, metavar="FILE",
        help="users and their hashes, as Apache's htpasswd writes them; read again when it changes",
    )
    group.add_argument("--no-auth", action="store_true", help="let every user of this machine in, without a password")
    group.add_argument("--tls", action=YesOrNo, help="encrypt (HTTPS, explicit FTPS); needs the next two")
    group.add_argument("--certificate", type=absolute_path, metavar="FILE", help="certificate with its chain, PEM")
    group.add_argument("--key", type=absolute_path, metavar="FILE", help="its private key, PEM")
    group.add_argument("--public", action=YesOrNo, help="allow an address that other machines reach")
    group.add_argument("--insecure", action=YesOrNo, help="with --public: allow passwords in clear text")


def add_ftp(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("FTP")
    group.add_argument("--data-ports", type=port_range, metavar="A-B", help="ports for passive transfers")
    group.add_argument("--public-ip", metavar="ADDRESS", help="address to tell clients behind a NAT")
