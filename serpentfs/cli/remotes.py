"""From the word REMOTE on the command line to a remote and what opens it."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serpentfs import config as configuration
from serpentfs.clouds.proxy import Proxy
from serpentfs.clouds.registry import NamedRemote, RemoteSpec, parse_remote, session_spec
from serpentfs.config import ACCOUNT_KEYS, PROXY_AUTO, Config, RemoteConfig, parse_proxy
from serpentfs.credentials import PassphraseSource, is_named_by_environment, read_passphrase, split_command
from serpentfs.daemon.lock import OwnerNote, busy_message, read_owner
from serpentfs.daemon.places import known_sessions, places_of, recall_url, session_file
from serpentfs.errors import Busy, NotFound, UsageError

if TYPE_CHECKING:
    from serpentfs.clouds.mega.session import Session

PROXY_VARIABLE, PROXY_PASSWORD_FILE_VARIABLE = "SERPENTFS_PROXY", "SERPENTFS_PROXY_PASSWORD_FILE"
_PROXIED = ("s3", "session")
"""Stores that are reached over a network."""
DEFAULT_LOGIN = "mega"
"""The name of a log-in that was given none."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a REMOTE argument means. ``path`` is the folder in the drive, ``config`` the table of a named remote."""

    spec: RemoteSpec
    path: str
    config: RemoteConfig | None

    @property
    def name(self) -> str:
        if self.config:
            return self.config.name
        return self.spec.canonical if self.spec.cloud == "vault" else self.spec.location


def resolve(arguments: argparse.Namespace) -> Target:
    """UsageError for a malformed REMOTE, NotFound for a name that neither the configuration nor a log-in has."""
    parsed = parse_remote(arguments.remote)
    if isinstance(parsed, RemoteSpec):
        proxy = proxy_of(_configuration(arguments.config)) if parsed.scheme in _PROXIED else Proxy()
        target = Target(replace(parsed, proxy=proxy), parsed.path, None)
    else:
        target = _named(parsed, arguments.config)
    root: str | None = getattr(arguments, "root", None)
    # The environment speaks to all remotes, a vault among them.
    if root is not None and not (target.spec.cloud == "vault" and "root" in said_by_environment(arguments)):
        target = replace(target, spec=target.spec.with_root(root))
    return target


def proxy_of(config: Config, table: RemoteConfig | None = None) -> Proxy:
    """How what ``table`` speaks of is reached: SERPENTFS_PROXY, the table, the top of the configuration, else as the
    environment says. UsageError for a variable that is no proxy."""
    if said := os.environ.get(PROXY_VARIABLE):
        file = os.environ.get(PROXY_PASSWORD_FILE_VARIABLE)
        try:
            return Proxy(parse_proxy(said), Path(file).expanduser() if file else None)
        except UsageError as error:
            raise UsageError(f"{PROXY_VARIABLE}: {error}") from None
    if table is not None and table.proxy is not None:
        return Proxy(table.proxy, table.proxy_password_file)
    return Proxy(config.proxy or PROXY_AUTO, config.proxy_password_file)


def _configuration(file: Path | None) -> Config:
    return configuration.load(file or configuration.default_path(), must_exist=file is not None)


def said_by_environment(arguments: argparse.Namespace) -> frozenset[str]:
    """Fields of options that a variable set, and not the command line."""
    found: frozenset[str] = getattr(arguments, "from_environment", frozenset())
    return found


def _named(remote: NamedRemote, config_file: Path | None) -> Target:
    """The configuration first: a table may say more about what a log-in of the same name opens."""
    config = _configuration(config_file)
    path = config.path
    if remote.name not in config.remotes and session_file(remote.name).exists():
        return Target(replace(session_spec(remote.name), proxy=proxy_of(config)), remote.path, None)
    if remote.name not in config.remotes and remote.name == DEFAULT_LOGIN:
        raise NotFound(f"no log-in called {DEFAULT_LOGIN}: serpentfs login EMAIL makes one")
    table = config.remote(remote.name, known_sessions())
    spec = parse_remote(table.url)
    if isinstance(spec, NamedRemote):
        raise UsageError(f'the "url" of [remote.{table.name}] in {path} is not a URL: {table.url}')
    if spec.cloud == "vault":
        for key in ACCOUNT_KEYS:
            if getattr(table, key.replace("-", "_")) is not None:
                raise UsageError(f'"{key}" of [remote.{table.name}] in {path} is for MEGA accounts')
    elif table.root is not None:
        spec = spec.with_root(table.root)
    return Target(replace(spec, proxy=proxy_of(config, table)), _join(spec.path, remote.path), table)


def _join(base: str, below: str) -> str:
    """``/a`` and ``/b`` are ``/a/b``: a configured URL may already name a folder."""
    return "/" + "/".join(part.strip("/") for part in (base, below) if part.strip("/"))


def passphrase_source(arguments: argparse.Namespace, table: RemoteConfig | None) -> PassphraseSource:
    """The command line first, then the remote's table unless the environment names another source: none is said then,
    and ``read_passphrase`` looks there."""
    file: Path | None = arguments.password_file
    command: str | None = arguments.password_command
    if file is None and command is None and table is not None and not is_named_by_environment():
        file, command = table.password_file, table.password_command
    return PassphraseSource(file, split_command(command) if command is not None else None)


def ask_passphrase(arguments: argparse.Namespace, target: Target) -> str:
    return read_passphrase(passphrase_source(arguments, target.config), f"Passphrase of {target.name}")


def owner_of(target: Target) -> OwnerNote | None:
    """Who owns the remote on this machine now, found without its passphrase."""
    remote_id = recall_url(target.spec.canonical)
    return read_owner(places_of(remote_id).lock) if remote_id else None


def refuse_owned(target: Target) -> None:
    """Busy when another process owns the remote: said before a passphrase is asked for."""
    if note := owner_of(target):
        raise Busy(busy_message(target.name, note))


def session_of(target: Target) -> Session:
    """What the log-in behind a MEGA remote left. NotFound when there is none (any more), UsageError for a vault."""
    # Only here: an HTTP library that vaults do without.
    from serpentfs.clouds.mega.session import load_session

    name = target.spec.location
    if target.spec.cloud != "mega":
        raise UsageError(f"{target.name} is a vault: nobody logs in to it")
    path = session_file(name)
    if not path.exists():
        raise NotFound(f"no log-in called {name}: serpentfs login EMAIL --name {name} makes one")
    return load_session(path)
