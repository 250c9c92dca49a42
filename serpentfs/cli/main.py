"""Entry point: finds the command, reads its options, runs it, turns errors into one line and an exit code.

A command's module is imported only when it is the one that was asked for, so that ``serpentfs version`` and a
mistyped word answer at once.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from serpentfs import __version__, logs
from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.failures import explain
from serpentfs.credentials import keep_memory_private
from serpentfs.errors import UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """``module`` (in this package) has ``add_<name>(parser)``, which adds the options and sets ``run``."""

    name: str
    module: str
    summary: str
    example: str


COMMANDS = (
    Command("init", "vaults", "Make a new encrypted vault.", "serpentfs init vault+file:///srv/vault"),
    Command(
        "mount", "serving", "Show a remote as a folder of this machine.",
        "serpentfs mount vault+file:///srv/vault ~/Serpent --daemon",
    ),
    Command(
        "webdav", "serving", "Serve a remote over WebDAV.",
        "serpentfs webdav work: --user me --pass-file ~/.config/serpentfs/doors.pass",
    ),
    Command(
        "ftp", "serving", "Serve a remote over FTP.",
        "serpentfs ftp work:/Photos --user me --pass-file ~/.config/serpentfs/doors.pass --read-only",
    ),
    Command(
        "umount", "running", "Upload what is left, unmount, and end the process behind it.",
        "serpentfs umount ~/Serpent",
    ),
    Command("status", "running", "Tell what runs, and what is still to be uploaded.", "serpentfs status --json"),
    Command("flush", "uploading", "Wait until everything is uploaded.", "serpentfs flush work:"),
    Command("ls", "looking", "List a folder of a remote.", "serpentfs ls -l work:/Photos"),
    Command("df", "looking", "Tell how much room a remote's store has.", "serpentfs df work:"),
    Command("login", "accounts", "Log in to a MEGA account, or open a public link.", "serpentfs login me@example.org"),
    Command(
        "logout", "accounts", "End what runs for a MEGA account, and its session.", "serpentfs logout mega:"
    ),
    Command("whoami", "accounts", "Tell which MEGA account a log-in is for, and its room.", "serpentfs whoami mega:"),
    Command("session", "accounts", "Print the session string of a log-in, as MEGAcmd takes it.", "serpentfs session"),
    Command(
        "versions", "sharing", "List the old versions of a file, restore one, delete them.",
        "serpentfs versions mega:/report.odt --restore 1",
    ),
    Command(
        "export", "sharing", "Make a public link to a file or folder, or take it back.",
        "serpentfs export mega:/Photos --expire 30d",
    ),
    Command("import", "sharing", "Copy what a public link leads to.", "serpentfs import - mega:/Downloads"),
    Command(
        "trash", "trash", "List what lies in the rubbish bin of a MEGA account, or empty it.", "serpentfs trash mega:"
    ),
    Command(
        "restore", "trash", "Put something back from the rubbish bin of a MEGA account.",
        "serpentfs restore mega: report.odt --to /Documents",
    ),
    Command("check", "vaults", "Check the health of a vault, and repair it.", "serpentfs check work: --content"),
    Command("version", "about", "Print the version.", "serpentfs version"),
)
_BY_NAME = {command.name: command for command in COMMANDS}


def overview() -> str:
    """What ``serpentfs --help`` prints."""
    width = max(len(name) for name in _BY_NAME) + 2
    lines = [f"  {command.name:{width}}{command.summary}" for command in COMMANDS]
    return "\n".join(
        ("usage: serpentfs COMMAND [OPTIONS]", "", "An end-to-end encrypted cloud as if it were a local disk.", "",
         "commands:", *lines, "", "serpentfs COMMAND --help tells more. REMOTE is", f"  {options.REMOTE_HELP}.")
    )


def parser_of(command: Command) -> options.Parser:
    parser = options.Parser(
        prog=f"serpentfs {command.name}", description=command.summary, epilog=f"example:\n  {command.example}",
        formatter_class=options.HelpFormatter, allow_abbrev=False,
    )
    module = importlib.import_module(f"serpentfs.cli.{command.module}")
    getattr(module, f"add_{command.name}")(parser)
    options.add_general(parser)
    return parser


def _command_named(word: str) -> Command:
    if word in _BY_NAME:
        return _BY_NAME[word]
    if word.startswith("-"):
        raise UsageError(f"the command comes first: serpentfs COMMAND [OPTIONS]; {word} is an option")
    near = difflib.get_close_matches(word, _BY_NAME, 1)
    hint = f'did you mean "{near[0]}"?' if near else "see serpentfs --help"
    raise UsageError(f'there is no command "{word}"; {hint}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # who read our output has enough; the exit flushes once more
        return ExitCode.FAILURE
    except BaseException as error:    # noqa: BLE001 - the one place that answers for everything
        return _fail(error, verbosity=sum(word.count("v") for word in words if re.fullmatch("-v+|--verbose", word)))


def _run(words: list[str]) -> ExitCode:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return ExitCode.OK if words else ExitCode.USAGE
    if words[0] == "--version":
        print(f"serpentfs {__version__}")
        return ExitCode.OK
    try:
        arguments = parser_of(_command_named(words[0])).parse_args(words[1:])
    except SystemExit:
        return ExitCode.OK    # --help was printed; mistakes are UsageErrors
    logs.configure(-1 if arguments.quiet else arguments.verbose, arguments.log_file)
    keep_memory_private()
    code: ExitCode = arguments.run(arguments)
    return code


def _fail(error: BaseException, verbosity: int) -> ExitCode:
    code, message, foreseen = explain(error)
    if verbosity >= 2:
        traceback.print_exception(error)
    elif not foreseen:
        logger.debug("unforeseen", exc_info=error)
    print(f"serpentfs: {message}", file=sys.stderr)
    return code
