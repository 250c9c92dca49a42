"""Entry point: finds the command, reads its options, runs it, turns errors into one line and an exit code.

A command's module is imported only when it is the one that was asked for, so that ``serpentfs version`` and a
mistyped word answer at once.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import io
import logging
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from serpentfs import __version__, config
from serpentfs.cli import arguments as options
from serpentfs.cli import environment
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.failures import explain
from serpentfs.cli.output import end_status_lines, printable
from serpentfs.credentials import keep_memory_private
from serpentfs.errors import UsageError

logger = logging.getLogger(__name__)

# What imports make, and tens of thousands of listed names, are alive at a time and no garbage: with CPython's default
# of 700 the cyclic collector goes through them again and again (a third of a listing's time, stalls of 0.2 s).
_COLLECT_EVERY = 20_000


@dataclass(frozen=True, slots=True)
class Command:
    """``module`` (in this package) has ``add_<name>(parser)``, which adds the options and sets ``run``. A name of two
    words (``remote add``) is ``add_remote_add``."""

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
        "umount", "running", "Take a mount away; with the last door, upload what is left and end the process.",
        "serpentfs umount ~/Serpent",
    ),
    Command("up", "all_remotes", "Start every remote that the configuration gives doors.", "serpentfs up"),
    Command("down", "all_remotes", "Upload what is left of what up started, and end it.", "serpentfs down work"),
    Command(
        "fuse-add", "fuse_mounts", "Mount a folder of a remote, and keep that in the configuration.",
        "serpentfs fuse-add ~/Mega mega:/Photos --name photos",
    ),
    Command(
        "fuse-remove", "fuse_mounts", "Take a mount out of the configuration (its mount key).",
        "serpentfs fuse-remove photos",
    ),
    Command(
        "fuse-enable", "fuse_mounts", "Mount what the configuration says, now and by up.",
        "serpentfs fuse-enable photos",
    ),
    Command(
        "fuse-disable", "fuse_mounts", "Unmount, as umount does, and let up leave it so.",
        "serpentfs fuse-disable photos --temporarily",
    ),
    Command(
        "fuse-config", "fuse_mounts", "Change what the configuration says of a mount.",
        "serpentfs fuse-config photos --read-only yes",
    ),
    Command("fuse-show", "fuse_mounts", "List mounts of the configuration, and others.", "serpentfs fuse-show"),
    Command(
        "status", "seeing", "Tell what runs, and what is still to be uploaded.", "serpentfs status --watch"
    ),
    Command(
        "doctor", "doctor", "Tell what is wrong on this machine and with the remotes, and what to do about it.",
        "serpentfs doctor --bundle ~/serpentfs-report.tar.gz",
    ),
    Command("stats", "seeing", "Tell what was counted since the start.", "serpentfs stats work: --prometheus"),
    Command(
        "transfers", "turning", "List what is being uploaded and what waits; pause it, try again, cancel it.",
        "serpentfs transfers --pause",
    ),
    Command(
        "speedlimit", "limiting", "Limit how fast uploads and downloads are, and over how many connections.",
        "serpentfs speedlimit up 2M",
    ),
    Command(
        "cache", "limiting", "Tell or change how much memory and disk the cache may take.",
        "serpentfs cache work: --disk 50G",
    ),
    Command(
        "proxy", "proxies", "Tell or set the HTTP proxy by which a remote is reached.",
        "serpentfs proxy mega: http://proxy.example.org:3128 --username me",
    ),
    Command("log", "seeing", "Tell or change how much a running process logs.", "serpentfs log work: DEBUG"),
    Command("refresh", "caching", "Have the store list a folder anew.", "serpentfs refresh work:/Photos"),
    Command("reload", "reloading", "Have the whole tree fetched anew from the store.", "serpentfs reload mega:"),
    Command("warm", "caching", "Read a path into the cache.", "serpentfs warm work:/Photos/2026"),
    Command("evict", "caching", "Drop a path from the cache.", "serpentfs evict work:/Films"),
    Command(
        "verify", "caching", "Read all of a path from the store, and authenticate it.", "serpentfs verify work:/Photos"
    ),
    Command("flush", "uploading", "Wait until everything is uploaded.", "serpentfs flush work:"),
    Command("ls", "looking", "List a folder of a remote.", "serpentfs ls -l work:/Photos"),
    Command("df", "looking", "Tell how much room a remote's store has.", "serpentfs df work:"),
    Command("tree", "finding", "Draw what is below a folder.", "serpentfs tree work:/Photos --depth 2"),
    Command(
        "find", "finding", "Find files and folders by name, kind, size and time.",
        "serpentfs find work:/ --name *.jpg --size +10M --newer 7d",
    ),
    Command("du", "finding", "Tell how large folders are.", "serpentfs du -s -h work:/Photos"),
    Command("cat", "files", "Print the content of files.", "serpentfs cat work:/notes.txt"),
    Command("mkdir", "files", "Make a folder.", "serpentfs mkdir -p work:/Photos/2026"),
    Command("mv", "files", "Move or rename files and folders.", "serpentfs mv work:/draft.odt work:/Letters"),
    Command("cp", "files", "Copy files and folders within a remote.", "serpentfs cp -r work:/Photos work:/Copy"),
    Command("rm", "files", "Remove files and folders.", "serpentfs rm -r work:/Photos/2019"),
    Command(
        "get", "transfer", "Copy files and folders from a remote to this machine.",
        "serpentfs get work:/Photos ~/Pictures",
    ),
    Command(
        "put", "transfer", "Copy files and folders of this machine to a remote.",
        "serpentfs put ~/Pictures/2026 work:/Photos",
    ),
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
    Command(
        "remote add", "configuring", "Give a remote a name in the configuration, with what holds for it.",
        "serpentfs remote add work vault+file:///srv/vault --cache-disk 20G",
    ),
    Command("remote list", "configuring", "List the remotes that have a name.", "serpentfs remote list"),
    Command(
        "remote show", "configuring", "Tell what the configuration says about a remote.", "serpentfs remote show work"
    ),
    Command(
        "remote remove", "configuring", "Take a remote out of the configuration; nothing else is touched.",
        "serpentfs remote remove work",
    ),
    Command(
        "config show", "configuring", "Tell what is set, and whether by default, file or environment.",
        "serpentfs config show work:",
    ),
    Command(
        "config hash-password", "configuring", "Hash a password for a user of WebDAV or FTP in the configuration.",
        "serpentfs config hash-password",
    ),
    Command(
        "completion", "completion", "Print a script that completes commands, options and remotes.",
        "serpentfs completion bash",
    ),
    Command("manual", "manual", "Write the man pages into a folder.", "serpentfs manual ~/.local/share/man/man1"),
    Command("version", "about", "Print the version.", "serpentfs version"),
)
_HEADINGS = {
    "init": "drives", "status": "what runs", "ls": "files, without a mount", "login": "MEGA accounts",
    "check": "upkeep",
}
"""Shown above the command that is the first of its kind."""
_BY_NAME = {command.name: command for command in COMMANDS}
_WORDS = dict.fromkeys(word for name in _BY_NAME for word in (name, name.split()[0]))


def overview(group: str = "") -> str:
    """What ``serpentfs --help`` prints, and ``serpentfs remote --help`` of the commands of ``group``."""
    shown = [command for command in COMMANDS if not group or command.name.startswith(f"{group} ")]
    width = max(len(command.name) for command in shown) + 4
    room = max(60, shutil.get_terminal_size().columns)
    lines: list[str] = []
    for command in shown:
        if heading := "commands" if group and not lines else _HEADINGS.get(command.name, ""):
            lines += ["", f"{heading}:"]
        name = f"  {command.name}".ljust(width)
        lines += textwrap.wrap(command.summary, room, initial_indent=name, subsequent_indent=" " * width)
    return "\n".join(
        ("usage: serpentfs COMMAND [OPTIONS]", "", "An end-to-end encrypted cloud as if it were a local disk.",
         *lines, "", "serpentfs COMMAND --help tells more.",
         *textwrap.wrap(f"REMOTE is {options.REMOTE_HELP}.", room, break_on_hyphens=False))
    )


def parser_of(command: Command) -> options.Parser:
    parser = options.Parser(
        prog=f"serpentfs {command.name}", description=command.summary, epilog=f"example:\n  {command.example}",
        formatter_class=options.HelpFormatter, allow_abbrev=False,
    )
    module = importlib.import_module(f"serpentfs.cli.{command.module}")
    getattr(module, f"add_{command.name.replace(' ', '_').replace('-', '_')}")(parser)
    options.add_general(parser)
    return parser


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that a command line begins with, and the rest of it. UsageError."""
    first, two = words[0], " ".join(words[:2])
    if two in _BY_NAME:
        return _BY_NAME[two], list(words[2:])
    if first in _BY_NAME:
        return _BY_NAME[first], list(words[1:])
    if first.startswith("-"):
        raise UsageError(f"the command comes first: serpentfs COMMAND [OPTIONS]; {first} is an option")
    group = [name for name in _BY_NAME if name.startswith(f"{first} ")]
    near = difflib.get_close_matches(two if group else first, group or _WORDS, 1)
    hint = f'did you mean "{near[0]}"?' if near else f"see serpentfs {first + ' ' if group else ''}--help"
    if group and len(words) == 1:
        raise UsageError(f'"{first}" is followed by {", ".join(name.split()[1] for name in group)}')
    raise UsageError(f'there is no command "{two if group else first}"; {hint}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit code."""
    gc.set_threshold(_COLLECT_EVERY, 20, 20)
    _open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")    # a name that the terminal's encoding lacks is no failure
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()    # who read it has enough
        return ExitCode.FAILURE
    except BaseException as error:    # noqa: BLE001 - the one place that answers for everything
        code = _fail(error, verbosity=sum(word.count("v") for word in words if re.fullmatch("-v+|--verbose", word)))
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return code


def _drop_output() -> None:
    """What cannot be written would be tried again at the exit, and decide about its code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_streams() -> None:
    """Some supervisors start programs with them closed: Python has None in their place then, and the next files that
    are opened would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)    # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))    # noqa: SIM115


def _run(words: list[str]) -> ExitCode:
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]    # as others have it
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return ExitCode.OK if words else ExitCode.USAGE
    if words[0] == "--version":
        print(f"serpentfs {__version__}")
        return ExitCode.OK
    if words[1:2] in (["-h"], ["--help"]) and words[0] not in _BY_NAME and words[0] in _WORDS:
        print(overview(words[0]))
        return ExitCode.OK
    try:
        command, rest = find_command(words)
        parser = parser_of(command)
        arguments = parser.parse_args(rest)
    except SystemExit:
        return ExitCode.OK    # --help was printed; mistakes are UsageErrors
    options.configure_logs(arguments)
    _warn_about_variables(parser)
    keep_memory_private()
    code: ExitCode = arguments.run(arguments)
    return code


def _warn_about_variables(parser: options.Parser) -> None:
    """A line for each variable that is likely a mistyped option's. All commands are only asked when one is near an
    option of this one, or a key of the configuration: that takes a while."""
    keys = [environment.PREFIX + key.upper().replace("-", "_") for key in config.REMOTE_KEYS]
    if not environment.typos([*environment.variables_of(parser), *keys]):
        return
    known = {name for one in COMMANDS for name in environment.variables_of(parser_of(one))}
    for name, meant in environment.typos(known).items():
        logger.warning("%s is no option's variable; did you mean %s?", name, meant)


def _fail(error: BaseException, verbosity: int) -> ExitCode:
    end_status_lines()
    code, message, foreseen = explain(error)
    if verbosity >= 2:
        traceback.print_exception(error)
    elif not foreseen:
        logger.debug("unforeseen", exc_info=error)
    print(f"serpentfs: {printable(message)}", file=sys.stderr)
    return code
