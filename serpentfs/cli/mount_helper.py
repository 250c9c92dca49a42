"""``mount.serpentfs``: what mount(8) runs for ``mount -t serpentfs`` and for the lines of fstab, also as
``mount.fuse.serpentfs``.

    work:  /mnt/work  serpentfs  ro,allow_other,uid=anna,password-file=/etc/serpentfs/work.pass,_netdev,nofail  0 0

Every option of ``serpentfs mount`` with two dashes is one here without them; words of mount(8) and systemd are
passed over. The drive runs in the background; this returns when it answers, or with one of mount(8)'s exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import grp
import io
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from serpentfs.cli import main as command_line
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.errors import Unsupported, UsageError

USAGE = "usage: mount.serpentfs REMOTE DIR [-fnsv] [-o OPTION,OPTION=VALUE,...]"

# Exit codes of mount(8).
MOUNTED = 0
WRONG_USE = 1
INTERRUPTED = 8
FAILED = 32

_OF_MOUNT_AND_SYSTEMD = frozenset(
    {
        "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "_rnetdev",
        "silent", "loud", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime",
        "mand", "nomand", "iversion", "noiversion", "helper", "uhelper", "comment", "rw",
    }
)  # fmt: skip
_PREFIXES_OF_OTHERS = ("x-", "X-")
_FOR_LIBFUSE = frozenset(
    {
        "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "sync", "dirsync", "atime", "noatime",
        "diratime", "nodiratime", "default_permissions", "nonempty",
    }
)  # fmt: skip
_OTHER_NAMES = {"ro": "read-only", "door-user": "user"}
"""Words for options that are called differently in fstab: ``user`` is mount(8)'s own."""
_NOT_FOR_FSTAB = ("help", "daemon", "verbose", "quiet", "user")
_SECRETS = ("password", "passphrase", "passwd", "pass", "secret")
_WORD = re.compile(r'(?:[^,"]|"[^"]*"|")+')


@dataclass(frozen=True, slots=True)
class Request:
    """What mount(8) asks for. ``sloppy``: unknown options are no error; ``fake``: everything but the mount."""

    remote: str
    directory: str
    options: tuple[str, ...]
    verbose: bool = False
    sloppy: bool = False
    fake: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Mount; the answer is an exit code of mount(8). One line on standard error tells what went wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["-h"], ["--help"]):
        print(USAGE)
        return MOUNTED
    try:
        request = parse(words)
        arguments = mount_arguments(request)
    except (UsageError, Unsupported) as error:
        print(f"mount.serpentfs: {error}", file=sys.stderr)
        return WRONG_USE
    if request.fake:
        return MOUNTED
    if request.verbose:
        return mount_code(command_line.main(arguments))
    with contextlib.redirect_stdout(io.StringIO()):    # helpers of mount(8) say nothing when all is well
        return mount_code(command_line.main(arguments))


def mount_code(code: int) -> int:
    """mount(8)'s exit code for one of ours."""
    if code in (ExitCode.USAGE, ExitCode.DENIED):
        return WRONG_USE
    return {ExitCode.OK: MOUNTED, ExitCode.INTERRUPTED: INTERRUPTED}.get(ExitCode(code), FAILED)


def parse(words: Sequence[str]) -> Request:
    """The words of mount(8): ``SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]``, in any order. UsageError."""
    places, options, flags = [], [], ""
    left = iter(words)
    for word in left:
        if word in ("-o", "-t", "-N"):
            value = next(left, None)
            if value is None:
                raise UsageError(f"{word} needs a value ({USAGE})")
            options += _split(value) if word == "-o" else []
        elif re.fullmatch("-[fnsv]+", word):
            flags += word
        elif word.startswith("-"):
            raise UsageError(f"there is no option {word} ({USAGE})")
        else:
            places.append(word)
    if len(places) != 2 or not all(places):
        raise UsageError(USAGE)
    return Request(places[0], places[1], tuple(options), "v" in flags, "s" in flags, "f" in flags)


def _split(options: str) -> list[str]:
    """At commas that are not between double quotes, as mount(8) does it."""
    return [word.replace('"', "") for word in _WORD.findall(options)]


def mount_arguments(request: Request) -> list[str]:
    """The words of the ``serpentfs`` command that mounts. UsageError, Unsupported for an option that cannot be."""
    known = _options_of_mount()
    arguments = ["mount", request.remote, request.directory, "--daemon"]
    if "," not in request.remote:
        # What the mount table shows is what fstab has: "mount -a" sees by that what is mounted already.
        arguments += ["-o", f"fsname={request.remote}"]
    if request.verbose:
        arguments.append("--verbose")
    for option in _settled(request.options):
        word, equals, value = option.partition("=")
        if word in _FOR_LIBFUSE:
            arguments += ["-o", option]
        elif not _is_for_others(word) and (name := _our_name(word, known, sloppy=request.sloppy)) is not None:
            arguments.append(_argument(name, known[name], value if equals else None))
    return arguments


def _settled(options: Iterable[str]) -> list[str]:
    """Without what a later word took back: of ``ro`` and ``rw`` the last one counts."""
    words = list(options)
    access = [word for word in words if word in ("ro", "rw")]
    return [word for word in words if word != "ro"] + access[-1:]


def _is_for_others(word: str) -> bool:
    return word in _OF_MOUNT_AND_SYSTEMD or word.startswith(_PREFIXES_OF_OTHERS)


def _options_of_mount() -> dict[str, argparse.Action]:
    """Those of ``serpentfs mount`` that make sense in fstab, without their dashes."""
    command = next(one for one in command_line.COMMANDS if one.name == "mount")
    return {
        text.removeprefix("--"): action
        for action in command_line.parser_of(command)._actions
        for text in action.option_strings
        if text.startswith("--") and text.removeprefix("--") not in _NOT_FOR_FSTAB
    } | {"user": argparse.Action(["--user"], "user")}


def _our_name(word: str, known: Mapping[str, argparse.Action], *, sloppy: bool) -> str | None:
    """Which option of ``serpentfs mount`` is meant; None for a word that is to be passed over. Values are in no
    message: who writes a passphrase into fstab shall not find it in a log, too."""
    if word == "remount":
        raise Unsupported("a mounted drive cannot take other options: unmount it and mount it again")
    if word in _SECRETS:
        raise UsageError(f"{word}= would show the secret to every user of this machine: use password-file=FILE")
    name = _OTHER_NAMES.get(word) or word.replace("_", "-")
    if name in known:
        return name
    if sloppy:
        return None
    near = difflib.get_close_matches(word, (*known, *_FOR_LIBFUSE, *_OF_MOUNT_AND_SYSTEMD), 1)
    raise UsageError(f'there is no mount option "{word}"' + (f'; did you mean "{near[0]}"?' if near else ""))


def _argument(name: str, action: argparse.Action, value: str | None) -> str:
    if action.nargs == 0:
        if value is not None:
            raise UsageError(f'the mount option "{name}" takes no value')
        return f"--{name}"
    if not value:
        raise UsageError(f'the mount option "{name}" needs a value: {name}=...')
    if name == "uid":
        value = _number(value, lambda user: pwd.getpwnam(user).pw_uid, "user")
    elif name == "gid":
        value = _number(value, lambda group: grp.getgrnam(group).gr_gid, "group")
    return f"--{name}={value}"


def _number(value: str, look_up: Callable[[str], int], what: str) -> str:
    """The number of a user or group, which fstab may call by name."""
    if value.isdecimal():
        return value
    try:
        return str(look_up(value))
    except KeyError:
        raise UsageError(f'there is no {what} "{value}"') from None


if __name__ == "__main__":
    sys.exit(main())
