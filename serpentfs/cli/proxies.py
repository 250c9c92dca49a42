"""``proxy``: how a remote is reached over HTTP, in config.toml.

MEGAcmd's words, but for the password of an authenticated proxy: other users can see arguments, so it is asked for, or
comes from a file. What is asked for is kept in a file beside config.toml that only this user can read.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from serpentfs import config as configuration
from serpentfs import config_edits
from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import print_json, printable
from serpentfs.cli.remotes import PROXY_VARIABLE, proxy_of
from serpentfs.config import PROXY_AUTO, PROXY_NONE, Config, parse_proxy
from serpentfs.credentials import ask, read_secret_file
from serpentfs.daemon.lock import running_owners
from serpentfs.daemon.places import known_sessions, write_private
from serpentfs.errors import UsageError
from serpentfs.logs import redact

_SETTING = re.compile(rf"[a-z0-9]+://.*|{PROXY_AUTO}|{PROXY_NONE}", re.IGNORECASE | re.DOTALL)
"""A URL of a remote has a "+" in its scheme."""
Values = Mapping[str, config_edits.Value | None]
_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


def add_proxy(parser: options.Parser) -> None:
    parser.set_defaults(run=proxy)
    parser.add_argument(
        "remote", metavar="REMOTE", nargs="?", help="a remote of the configuration, or a log-in; without it: for all "
        "that have no proxy of their own"
    )
    parser.add_argument(
        "setting", metavar="URL|none|auto", nargs="?", help="the proxy (http://HOST:PORT, or https:// for one that is "
        "spoken to over TLS), none, or auto: as HTTPS_PROXY of the environment says; without it, what is set is told",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--none", action="store_const", dest="word", const=PROXY_NONE, help="as none")
    group.add_argument("--auto", action="store_const", dest="word", const=PROXY_AUTO, help="as auto")
    group.add_argument(
        "--clear", action="store_true", help="say nothing any more: what is set for all remotes holds, else auto"
    )
    parser.add_argument(
        "--username", metavar="NAME", help="user of the proxy; you are asked for the password, or standard input has it"
    )
    parser.add_argument(
        "--proxy-password-file", type=Path, metavar="FILE",
        help="file with that user's password, to be read at each start; -: read it now, from standard input",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    # SERPENTFS_PROXY_PASSWORD_FILE goes with SERPENTFS_PROXY, and is not what is to be written down.
    parser.ignored_variables = frozenset({"username", "proxy_password_file"})


def proxy(arguments: argparse.Namespace) -> ExitCode:
    remote, setting = _words(arguments)
    path: Path = arguments.config or configuration.default_path()
    config = configuration.load(path, must_exist=arguments.config is not None)
    if remote is not None and remote not in config.remotes and remote not in known_sessions():
        config.remote(remote, known_sessions())    # NotFound, with the nearest name
    if setting is None and not arguments.clear:
        if arguments.username is not None or arguments.proxy_password_file is not None:
            raise UsageError("--username and --proxy-password-file go with the URL of a proxy")
        return _show(arguments, config, remote)
    nothing: Values = {"proxy": None, "proxy-password-file": None}
    values = nothing if setting is None else _values(arguments, path, remote, setting)
    _change(path, config, remote, values)
    _forget_password(path, remote, values)
    if not arguments.quiet:
        _tell(config, path, remote)
    return ExitCode.OK


def _words(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """REMOTE and setting; either may be left out."""
    words = [word for word in (arguments.remote, arguments.setting) if word is not None]
    setting: str | None = arguments.word
    if words and _SETTING.fullmatch(words[-1]):
        if setting is not None or arguments.clear:
            raise UsageError("one of URL, none, auto, --none, --auto and --clear")
        setting = words.pop()
    if len(words) > 1:
        raise UsageError("not a proxy: that is a URL such as http://HOST:PORT, none or auto")
    remote = words[0].removesuffix(":") if words else None
    if remote is not None and not configuration.REMOTE_NAME.fullmatch(remote):
        raise UsageError("a proxy is set for a remote that has a name (serpentfs remote add gives one), or for all")
    return remote, None if setting is None else parse_proxy(setting)


def _values(arguments: argparse.Namespace, path: Path, remote: str | None, setting: str) -> Values:
    user: str | None = arguments.username
    file: Path | None = arguments.proxy_password_file
    if setting in (PROXY_AUTO, PROXY_NONE):
        if user is not None or file is not None:
            raise UsageError("--username and --proxy-password-file go with the URL of a proxy")
        return {"proxy": setting, "proxy-password-file": None}
    parts = urlsplit(setting)
    if user is not None:
        setting = parts._replace(netloc=f"{quote(user, safe='')}@{parts.netloc.rpartition('@')[2]}").geturl()
    elif not parts.username:
        if file is not None:
            raise UsageError("--proxy-password-file goes with --username")
        return {"proxy": setting, "proxy-password-file": None}
    if file is None and sys.stdin.isatty():
        password = ask(f"Password of the proxy's user {user or parts.username}", "proxy password",
                       "--proxy-password-file")
    elif file is None or str(file) == "-":
        password = read_secret_file(Path("-"), "proxy password")
    else:
        read_secret_file(file, "proxy password")    # it is told now if it cannot be read, and not at the next start
        return {"proxy": setting, "proxy-password-file": str(options.absolute_path(str(file)))}
    own = _own_password_file(path, remote)
    own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(own, password.encode() + b"\n")
    return {"proxy": setting, "proxy-password-file": str(own)}


def _own_password_file(path: Path, remote: str | None) -> Path:
    """Where a password that was typed is kept."""
    return path.with_name("proxy.password" if remote is None else f"proxy-{remote}.password")


def _change(path: Path, config: Config, remote: str | None, values: Values) -> None:
    if remote is None or remote in config.remotes:
        config_edits.change_keys(path, remote, values)
        return
    # A log-in that config.toml says nothing about yet.
    said = {key: value for key, value in values.items() if value is not None}
    if said:
        config_edits.add_remote(path, remote, {"url": f"mega+session://{remote}", **said})


def _forget_password(path: Path, remote: str | None, values: Values) -> None:
    own = _own_password_file(path, remote)
    if values["proxy-password-file"] != str(own):
        own.unlink(missing_ok=True)


def _tell(config: Config, path: Path, remote: str | None) -> None:
    now = configuration.load(path)
    table = None if remote is None else now.remotes.get(remote)
    print(f"{'all remotes' if remote is None else remote}: {proxy_of(now, table).setting}")
    owners = [one for one in running_owners() if not one.remote.startswith("vault+file")]
    if owners:
        print("what runs goes on as it is until its next start (serpentfs down, up)")


def _show(arguments: argparse.Namespace, config: Config, remote: str | None) -> ExitCode:
    names = [*dict.fromkeys((*config.remotes, *known_sessions()))] if remote is None else [remote]
    rows: list[dict[str, Any]] = [] if remote is not None else [_row(config, None)]
    rows += [_row(config, name) for name in names if remote is not None or _is_proxied(config, name)]
    said = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in _VARIABLES}
    variables = {name: redact(value) for name, value in said.items() if value}
    if arguments.json:
        print_json({"proxies": rows, "environment": variables})
        return ExitCode.OK
    for row in rows:
        about = "all remotes" if row["remote"] is None else row["remote"]
        user = "" if row["password_file"] is None else f", password in {row['password_file']}"
        print(printable(f"{about}: {row['proxy']}{user} ({row['source']})"))
    if any(row["proxy"] == PROXY_AUTO for row in rows):
        told = ", ".join(f"{name}={value}" for name, value in variables.items()) or "no proxy"
        print(printable(f"the environment says: {told}"))
    return ExitCode.OK


def _is_proxied(config: Config, name: str) -> bool:
    """Whether it is reached over a network."""
    return name not in config.remotes or not config.remotes[name].url.startswith(("vault+file:", "vault+memory:"))


def _row(config: Config, remote: str | None) -> dict[str, Any]:
    table = None if remote is None else config.remotes.get(remote)
    found = proxy_of(config, table)
    section = "" if table is None or table.proxy is None else f"remote.{table.name}"
    line = config.lines.get((section, "proxy"))
    source = f"{config.path}:{line}" if line else "default"
    if os.environ.get(PROXY_VARIABLE):
        source = PROXY_VARIABLE
    file = found.password_file
    return {
        "remote": remote, "proxy": found.setting, "password_file": None if file is None else str(file),
        "source": source,
    }
