"""Where passphrases and door passwords come from, and how this process keeps them to itself.

A secret is read from a terminal, a file or another program's output; never from an argument or the environment
(which other programs can read), and it is never logged. Knows nothing of what the secret opens.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path

from serpentfs.errors import NotFound, UsageError

logger = logging.getLogger(__name__)

PASSWORD_FILE_VARIABLE = "SERPENTFS_PASSWORD_FILE"
PASSWORD_COMMAND_VARIABLE = "SERPENTFS_PASSWORD_COMMAND"
_LONGEST_SECRET = 64 * 1024
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True, slots=True)
class PassphraseSource:
    """What the user said about where the passphrase is. At most one of both is set; none: ask."""

    file: Path | None = None
    command: tuple[str, ...] | None = None


def keep_memory_private() -> None:
    """No core file of this process, and no other process of this user may read its memory (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        logger.warning("cannot make this process undumpable: %s", os.strerror(ctypes.get_errno()))


def split_command(text: str) -> tuple[str, ...]:
    """The words of a command line; it is run without a shell. UsageError when quotes do not match."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"the password command cannot be read: {error}") from error
    if not words:
        raise UsageError("the password command is empty")
    return words


def read_secret_file(path: Path, what: str) -> str:
    """The text of a file without its last line end; ``-`` is standard input (one line).

    Warns when others may read the file. NotFound, UsageError (unreadable, empty, not UTF-8, too large).
    """
    if str(path) == "-":
        return _decode(sys.stdin.buffer.readline(_LONGEST_SECRET), f"the {what} on standard input")
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(_LONGEST_SECRET + 1)
    except FileNotFoundError as error:
        raise NotFound(f"no such {what} file: {path}") from error
    except OSError as error:
        raise UsageError(f"cannot read the {what} file {path}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        logger.warning("the %s file %s can be read by others (mode %o); chmod 600 it", what, path,
                       stat.S_IMODE(status.st_mode))
    if len(raw) > _LONGEST_SECRET:
        raise UsageError(f"the {what} file {path} is too large to be one")
    return _decode(raw, f"the {what} file {path}")


def _decode(raw: bytes, origin: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{origin} is not UTF-8") from None    # the chained error would quote the secret's bytes
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError(f"{origin} is empty")
    if "\n" in text or "\0" in text:
        raise UsageError(f"{origin} is more than one line of text")
    return text


def _run_command(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise UsageError(f"cannot run the password command {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise UsageError(f"the password command {command[0]} failed with exit code {done.returncode}")
    return _decode(done.stdout, f"the output of the password command {command[0]}")


def ask(question: str, what: str, instead: str, *, twice: bool = False) -> str:
    """Ask for a secret on the terminal, without showing it. ``what`` names it and ``instead`` the options that give
    it without a terminal, both for the UsageError that tells that there is none, or no answer."""
    try:
        with open("/dev/tty", "rb", buffering=0):
            pass
    except OSError as error:
        raise UsageError(f"no {what}: there is no terminal to ask on; use {instead}") from error
    answer = getpass(f"{question}: ")
    if not answer:
        raise UsageError(f"the {what} is empty")
    if twice and getpass(f"{question} again: ") != answer:
        raise UsageError(f"the two {what}s differ")
    return answer


def is_named_by_environment(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment tells where the passphrase is. UsageError when it does so twice."""
    named = [name for name in (PASSWORD_FILE_VARIABLE, PASSWORD_COMMAND_VARIABLE) if environment.get(name)]
    if len(named) > 1:
        raise UsageError(" and ".join(named) + " exclude each other")
    return bool(named)


def read_passphrase(
    source: PassphraseSource,
    question: str,
    *,
    twice: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """The passphrase: from ``source``, else the file that SERPENTFS_PASSWORD_FILE names or the command of
    SERPENTFS_PASSWORD_COMMAND, else asked on the terminal (``twice`` when it is being chosen). UsageError, NotFound."""
    if source.file is not None:
        return read_secret_file(source.file, "password")
    if source.command is not None:
        return _run_command(source.command)
    if named := environment.get(PASSWORD_FILE_VARIABLE):
        return read_secret_file(Path(named).expanduser(), "password")
    if command := environment.get(PASSWORD_COMMAND_VARIABLE):
        return _run_command(split_command(command))
    return ask(
        question, "passphrase", f"--password-file, --password-command or {PASSWORD_FILE_VARIABLE}", twice=twice
    )
