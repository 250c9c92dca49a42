"""From the word REMOTE on the command line to a remote and what opens it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from serpentfs import config as configuration
from serpentfs.clouds.registry import NamedRemote, RemoteSpec, parse_remote
from serpentfs.config import RemoteConfig
from serpentfs.credentials import PassphraseSource, read_passphrase, split_command
from serpentfs.daemon.lock import OwnerNote, busy_message, read_owner
from serpentfs.daemon.places import places_of, recall_url
from serpentfs.errors import Busy, UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """What a REMOTE argument means. ``path`` is the folder in the drive, ``config`` the table of a named remote."""

    spec: RemoteSpec
    path: str
    config: RemoteConfig | None

    @property
    def name(self) -> str:
        return self.config.name if self.config else self.spec.canonical


def resolve(arguments: argparse.Namespace) -> Target:
    """UsageError for a malformed REMOTE, NotFound for a name that the configuration does not have."""
    parsed = parse_remote(arguments.remote)
    if isinstance(parsed, RemoteSpec):
        return Target(parsed, parsed.path, None)
    path = arguments.config or configuration.default_path()
    table = configuration.load(path, must_exist=arguments.config is not None).remote(parsed.name)
    spec = parse_remote(table.url)
    if isinstance(spec, NamedRemote):
        raise UsageError(f'the "url" of [remote.{table.name}] in {path} is not a URL: {table.url}')
    return Target(spec, _join(spec.path, parsed.path), table)


def _join(base: str, below: str) -> str:
    """``/a`` and ``/b`` are ``/a/b``: a configured URL may already name a folder."""
    return "/" + "/".join(part.strip("/") for part in (base, below) if part.strip("/"))


def passphrase_source(arguments: argparse.Namespace, table: RemoteConfig | None) -> PassphraseSource:
    """The command line first, then the remote's table."""
    file: Path | None = arguments.password_file
    command: str | None = arguments.password_command
    if file is None and command is None and table is not None:
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
