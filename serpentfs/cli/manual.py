"""``manual``: man pages, and the README's table of commands, from the text that ``--help`` prints.

``serpentfs manual DIR`` writes ``serpentfs.1``, one page for each command, ``serpentfs.toml.5`` and the guides;
``serpentfs manual --readme README.md`` brings the table up to date. No page has a date, so that the same version gives
the same bytes. The format is that of man-pages(7) and groff_man(7).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from serpentfs import __version__, config
from serpentfs.cli import arguments as options
from serpentfs.cli.environment import OTHER_VARIABLES
from serpentfs.cli.exit_codes import MEANINGS, ExitCode
from serpentfs.cli.guides import Block, Guide, guides
from serpentfs.cli.reference import Option, Page, pages
from serpentfs.errors import NotFound, UsageError

_BEGIN, _END = "<!-- commands: written by serpentfs manual --readme -->", "<!-- end of commands -->"

_DESCRIPTION = """\
SerpentFS shows an end-to-end encrypted cloud as if it were a local disk: as a folder of this machine, over WebDAV and
over FTP. A remote is a Cryptomator vault in a folder or a bucket, or a MEGA account.

The first of mount, webdav and ftp for a remote becomes the process that owns it. What a program was told is written is
in a journal here first and goes up later, also after a crash or without the network."""

_REMOTES = """\
A REMOTE is a URL (vault+file:///srv/vault, vault+s3://bucket/prefix?endpoint=URL, mega+session://NAME), the name of a
remote from serpentfs.toml(5), or that of a log-in (mega:). A folder in it is written URL#/folder or name:/folder."""

_PRECEDENCE = """\
A default is overruled by the configuration, that by a variable of the environment, and that by the command line. Every
option has a variable: that of --cache-disk is SERPENTFS_CACHE_DISK. What takes no value is set to true or false. An
empty variable counts as none. Passphrases are in no variable:"""

_VARIABLES = {
    "SERPENTFS_PASSWORD_FILE": "file with the passphrase of a vault, or the password of an account that is logged in",
    "SERPENTFS_PASSWORD_COMMAND": "command that prints it; it is run without a shell",
    "SERPENTFS_MEGA_API": "another server that speaks MEGA's protocol",
    "SERPENTFS_PROXY": "how remotes are reached: the URL of a proxy (http://USER@HOST:PORT), auto or none",
    "SERPENTFS_PROXY_PASSWORD_FILE": "file with the password of that proxy's user",
}
assert set(_VARIABLES) == set(OTHER_VARIABLES)

_FILES = {
    "~/.config/serpentfs/config.toml": "names of remotes and what holds for them; see serpentfs.toml(5)",
    "~/.local/state/serpentfs/": "journals, log-ins, the log of what runs in the background",
    "~/.cache/serpentfs/": "sealed blocks; may be deleted while nothing runs",
    "$XDG_RUNTIME_DIR/serpentfs/": "control sockets",
}

_TOML_DESCRIPTION = """\
The configuration of serpentfs(1), in TOML. A key that is unknown or has a value of a wrong type is an error that names
the line. serpentfs remote add writes the tables of remotes, serpentfs config show tells what holds and why.

Sizes are numbers of bytes, or texts such as "64M" or "10G", in powers of 1024. Relative paths are beside the file."""

_TOML_EXAMPLE = """\
session-store = "file"

[remote.work]
url = "vault+s3://bucket/work?endpoint=https://s3.example.org"
password-command = "pass show work"
cache-disk = "20G"

[webdav]
certificate = "/etc/ssl/work.pem"
key = "/etc/ssl/work.key"

[webdav.users.anna]
password-hash = "$scrypt$ln=15,r=8,p=1$..."
root = "/Photos"
read-only = true"""


def add_manual(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=manual)
    parser.add_argument("directory", metavar="DIR", nargs="?", type=options.absolute_path, help="where pages go")
    parser.add_argument(
        "--readme", type=options.absolute_path, metavar="FILE", help="bring the table of commands in FILE up to date"
    )


def manual(arguments: argparse.Namespace) -> ExitCode:
    if (arguments.directory is None) == (arguments.readme is None):
        raise UsageError("either a folder for the man pages, or --readme FILE")
    if arguments.readme is not None:
        update_readme(arguments.readme)
        return ExitCode.OK
    try:
        arguments.directory.mkdir(parents=True, exist_ok=True)
        for name, text in man_pages().items():
            (arguments.directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {arguments.directory}: {error.strerror}") from error
    return ExitCode.OK


def man_pages() -> dict[str, str]:
    """By file name."""
    found = pages()
    made = {f"{_page_name(page)}.1": _command_page(page) for page in found}
    more = guides()
    return {
        "serpentfs.1": _main_page(found, more), **made, "serpentfs.toml.5": _toml_page(),
        **{f"serpentfs-{guide.name}.7": _guide_page(guide) for guide in more},
    }


def readme_table() -> str:
    """The rows for the README."""
    rows = [f"| `{page.usage.replace('|', chr(92) + '|')}` | {_lower(page.command.summary)} |" for page in pages()]
    return "\n".join(("| command | |", "|---|---|", *rows))


def update_readme(path: Path) -> None:
    """Write the table between its two marks. NotFound, UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
        before, begin, rest = text.partition(_BEGIN)
        _, end, after = rest.partition(_END)
        if not begin or not end:
            raise UsageError(f"{path} does not have the marks {_BEGIN} and {_END}")
        path.write_text(f"{before}{begin}\n{readme_table()}\n{end}{after}", encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {path}") from error
    except OSError as error:
        raise UsageError(f"cannot change {path}: {error.strerror}") from error


def _lower(summary: str) -> str:
    return summary[0].lower() + summary[1:].rstrip(".")


def _page_name(page: Page) -> str:
    return "serpentfs-" + page.command.name.replace(" ", "-")


def _main_page(found: list[Page], more: list[Guide]) -> str:
    return _page("serpentfs", 1, [
        ".SH NAME", r"serpentfs \- " + _escaped("an end-to-end encrypted cloud as if it were a local disk"),
        ".SH SYNOPSIS", r"\fBserpentfs\fR \fICOMMAND\fR [\fIOPTIONS\fR]",
        ".SH DESCRIPTION", *_paragraphs(_DESCRIPTION),
        ".SH COMMANDS",
        *_items({page.usage: f"{page.command.summary} See {_page_name(page)}(1)." for page in found}),
        ".SH REMOTES", *_paragraphs(_REMOTES),
        ".SH ENVIRONMENT", *_paragraphs(_PRECEDENCE), *_items(_VARIABLES),
        ".SH EXIT STATUS",
        *_items({str(int(code)): meaning.replace("`", "") for code, meaning in MEANINGS.items()}),
        ".SH FILES", *_items(_FILES),
        ".SH SEE ALSO", ", ".join(rf"\fB{_escaped(_page_name(page))}\fR(1)" for page in found)
        + r", \fBserpentfs.toml\fR(5)"
        + "".join(rf", \fBserpentfs\-{guide.name}\fR(7)" for guide in more),
    ])


def _command_page(page: Page) -> str:
    arguments = "".join(rf" \fI{_escaped(argument.usage)}\fR" for argument in page.arguments)
    lines = [
        ".SH NAME", rf"{_escaped(_page_name(page))} \- {_escaped(_lower(page.command.summary))}",
        ".SH SYNOPSIS", rf"\fBserpentfs {_escaped(page.command.name)}\fR [\fIOPTIONS\fR]{arguments}",
        ".SH DESCRIPTION", _escaped(page.command.summary),
    ]
    if page.arguments:
        lines += [".SH ARGUMENTS", *_items({argument.name: argument.help for argument in page.arguments})]
    lines.append(".SH OPTIONS")
    for group in page.groups:
        lines.append(f".SS {_escaped(group.title)}")
        lines += _paragraphs(group.text) if group.text else []
        for option in group.options:
            lines += [".TP", _invocation(option), _escaped(_option_text(option))]
    return _page(_page_name(page), 1, [
        *lines, ".SH EXAMPLE", *_literal(page.command.example),
        ".SH EXIT STATUS", _escaped("Those of all commands are in serpentfs(1)."),
        ".SH SEE ALSO", r"\fBserpentfs\fR(1), \fBserpentfs.toml\fR(5)",
    ])


def _option_text(option: Option) -> str:
    variable = f" Variable: {option.variable}." if option.variable else ""
    return f"{option.help[:1].upper()}{option.help[1:].rstrip('.')}.{variable}"


def _invocation(option: Option) -> str:
    names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in option.names)
    return rf"{names} \fI{_escaped(option.takes)}\fR" if option.takes else names


def _toml_page() -> str:
    door_keys = {**config.DOOR_KEYS, **config.FTP_KEYS}
    store = f"session-store = {'|'.join(config.SESSION_STORES)}"
    where = "where a log-in's secrets are kept: the system's keyring, a file, or (auto) the keyring where there is one"
    return _page("serpentfs.toml", 5, [
        ".SH NAME", r"serpentfs.toml \- configuration of SerpentFS",
        ".SH SYNOPSIS", r"\fI~/.config/serpentfs/config.toml\fR",
        ".SH DESCRIPTION", *_paragraphs(_TOML_DESCRIPTION),
        ".SH BEFORE THE TABLES",
        *_items({store: where}),
        *_key_items({key: config.REMOTE_KEYS[key] for key in ("proxy", "proxy-password-file")}),
        ".SH [remote.NAME]", *_key_items(config.REMOTE_KEYS),
        ".SH [webdav] AND [ftp]", _escaped("What holds for the doors of every remote. Of [ftp] alone: "
                                           + ", ".join(config.FTP_KEYS) + "."), *_key_items(door_keys),
        ".SH [webdav.users.NAME] AND [ftp.users.NAME]",
        _escaped("Who may log in, when --user and --no-auth are not given. Read again when the file changes."),
        *_key_items(config.USER_KEYS),
        ".SH EXAMPLE", *_literal(_TOML_EXAMPLE),
        ".SH SEE ALSO", r"\fBserpentfs\fR(1), \fBserpentfs-config-show\fR(1), \fBserpentfs-remote-add\fR(1)",
    ])


def _guide_page(guide: Guide) -> str:
    title = guide.title if guide.title[1].isupper() else guide.title[0].lower() + guide.title[1:]
    lines = [".SH NAME", rf"serpentfs\-{guide.name} \- {_escaped(title)}"]
    if guide.blocks[0].kind != "section":
        lines.append(".SH DESCRIPTION")
    for block in guide.blocks:
        lines += _block(block)
    return _page(f"serpentfs-{guide.name}", 7, [*lines, ".SH SEE ALSO", r"\fBserpentfs\fR(1), \fBserpentfs.toml\fR(5)"])


def _block(block: Block) -> list[str]:
    match block.kind:
        case "section":
            return [f".SH {_escaped(block.text)}"]
        case "code":
            return _literal(block.text)
        case "item":
            return [r".IP \(bu 2", _marked(block.text)]
        case "row":
            return [".TP", _marked(block.text), _marked(block.second)]
        case _:
            return [".PP", _marked(block.text)]


def _key_items(keys: Mapping[str, config.Key]) -> list[str]:
    return _items({f"{key} = {one.takes or 'true|false'}": one.meaning for key, one in keys.items()})


# The markup


def _page(name: str, section: int, lines: Iterable[str]) -> str:
    title = f'.TH "{name.upper().replace("-", chr(92) + "-")}" {section} "" "serpentfs {__version__}" "SerpentFS"'
    return "\n".join((title, *lines)) + "\n"


def _escaped(text: str) -> str:
    """Text that is typed or copied keeps its own hyphens and quotes; a line cannot begin a request."""
    for char, escape in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("`", r"\(ga"), ("^", r"\(ha"), ("~", r"\(ti")):
        text = text.replace(char, escape)
    return re.sub(r"^\.", r"\\&.", " ".join(text.split()))


def _marked(text: str) -> str:
    """Text of a guide: code within a line is bold, and a link is what it is called."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return re.sub(r"\\\(ga(.+?)\\\(ga", r"\\fB\1\\fR", _escaped(text))


def _paragraphs(text: str) -> list[str]:
    return [line for part in text.split("\n\n") for line in (".PP", _escaped(part))]


def _items(items: Mapping[str, str]) -> list[str]:
    return [line for term, text in items.items() for line in (".TP", rf"\fB{_escaped(term)}\fR", _escaped(text))]


def _literal(text: str) -> list[str]:
    return [".PP", ".RS 4", ".EX", *(_literal_line(line) for line in text.splitlines()), ".EE", ".RE"]


def _literal_line(line: str) -> str:
    """With its indentation, which ``_escaped`` would take."""
    return " " * (len(line) - len(line.lstrip())) + _escaped(line) if line.strip() else ""
