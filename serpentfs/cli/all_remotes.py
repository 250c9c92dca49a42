"""``up`` and ``down``: every remote that ``config.toml`` gives doors, started and ended side by side.

A remote is started by the same command that a user would type, in a process of its own: ``mount``, ``webdav`` or
``ftp`` with ``--daemon``. What one of them cannot do does not hold up the others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from serpentfs import config as configuration
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.failures import explain
from serpentfs.cli.output import ProgressLine, count, printable
from serpentfs.cli.remotes import owner_of, resolve
from serpentfs.cli.running import stop_owner
from serpentfs.config import Config, RemoteConfig
from serpentfs.errors import SerpentError, UsageError

T = TypeVar("T")

_DOORS = ("mount", "webdav", "ftp")
_AT_ONCE = 16


def add_up(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=up)
    _add_names(parser, "start")


def add_down(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=down)
    _add_names(parser, "end")
    parser.add_argument(
        "--now", action="store_true", help="do not wait for uploads; the next start goes on with them"
    )


def _add_names(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "remotes", metavar="REMOTE", nargs="*",
        help=f"names from the config to {verb}; without one: all with mount, webdav or ftp in their table",
    )


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one remote: lines to print, lines about what went wrong."""

    name: str
    code: int
    lines: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def up(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    tables = _chosen(config, arguments.remotes)
    without = next((table for table in tables if not _doors_of(table)), None)
    if without is not None:
        raise UsageError(f'[remote.{without.name}] in {config.path} has no "mount", "webdav" or "ftp" that is enabled')
    if not tables:
        raise UsageError(f'there is nothing to start: no remote in {config.path} has "mount", "webdav" or "ftp"')
    return _tell(_side_by_side(lambda table: _start(arguments, table), tables))


def down(arguments: argparse.Namespace) -> ExitCode:
    tables = _chosen(_load(arguments), arguments.remotes)
    with ProgressLine() as line:
        progress = _Together(line)
        done = _side_by_side(lambda table: _end(arguments, table, progress), tables)
    return _tell(done)


def _load(arguments: argparse.Namespace) -> Config:
    file: Path | None = arguments.config
    return configuration.load(file or configuration.default_path(), must_exist=file is not None)


def _chosen(config: Config, names: Sequence[str]) -> list[RemoteConfig]:
    """In the order of the file, or as they were named. NotFound for one that is not configured."""
    if not names:
        return [table for table in config.remotes.values() if _doors_of(table)]
    return [config.remote(name.removesuffix(":")) for name in dict.fromkeys(names)]


def _doors_of(table: RemoteConfig) -> list[str]:
    """What ``up`` opens: a mount that is disabled (``fuse-disable``) is left to ``fuse-enable``."""
    disabled = ("mount",) if table.mount_enabled is False else ()
    return [door for door in _DOORS if getattr(table, door) is not None and door not in disabled]


def _side_by_side(work: Callable[[T], _Done], tables: Sequence[T]) -> list[_Done]:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(work, tables))


def _tell(done: Sequence[_Done]) -> ExitCode:
    """The exit code is that of the first failure."""
    for one in done:
        for line in one.lines:
            print(f"{one.name}: {line}", flush=True)
        for line in one.errors:
            print(f"serpentfs: {one.name}: {printable(line)}", file=sys.stderr)
    return ExitCode(next((one.code for one in done if one.code != ExitCode.OK), ExitCode.OK))


def _start(arguments: argparse.Namespace, table: RemoteConfig) -> _Done:
    try:
        note = owner_of(resolve(_for_remote(arguments, table)))
    except SerpentError as error:
        return _failed(table, error)
    open_doors = {} if note is None else note.doors
    missing = [door for door in _doors_of(table) if door not in open_doors]
    if "mount" in _doors_of(table) and open_doors.get("mount", _place_of(table)) != _place_of(table):
        missing.insert(0, "mount")    # which is refused, with where it is mounted
    if not missing:
        return _Done(table.name, ExitCode.OK, ("is up already",))
    command = [sys.executable, "-P", "-m", "serpentfs.cli", *_opening(table, missing), *general_words(arguments)]
    # In a session of its own: a passphrase that nobody can type side by side is an error there, not a prompt.
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, start_new_session=True
    )
    return _Done(
        table.name, done.returncode, tuple(done.stdout.splitlines()),
        tuple(line.removeprefix("serpentfs: ") for line in done.stderr.splitlines()),
    )


def _place_of(table: RemoteConfig) -> str:
    assert table.mount is not None
    return os.path.realpath(table.mount)


def _opening(table: RemoteConfig, doors: Sequence[str]) -> list[str]:
    """The words of one command that opens these doors of a remote."""
    first, *others = doors
    words = [first, f"{table.name}:", "--daemon"]
    if first == "mount":
        words.append(str(table.mount))
    else:
        words += ["--listen", _address(getattr(table, first))]
    for other in others:
        words += [f"--{other}", _address(getattr(table, other))]
    return words


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def general_words(arguments: argparse.Namespace) -> list[str]:
    """The general options as they were given here."""
    words = ["-v"] * arguments.verbose + ["-q"] * arguments.quiet + ["--log-names"] * arguments.log_names
    for option, value in (
        ("--config", arguments.config), ("--log-file", arguments.log_file), ("--log-level", arguments.log_level),
        ("--log-format", arguments.log_format),
    ):
        words += [] if value is None else [option, str(value)]
    return words


def _for_remote(arguments: argparse.Namespace, table: RemoteConfig) -> argparse.Namespace:
    """What ``resolve`` takes: the options of here, and one remote."""
    return argparse.Namespace(config=arguments.config, remote=f"{table.name}:")


def _failed(table: RemoteConfig, error: Exception) -> _Done:
    code, message, _ = explain(error)
    return _Done(table.name, code, errors=(message,))


class _Together:
    """The uploads of several owners on one line. Told from several threads."""

    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._items: dict[str, Mapping[str, Any]] = {}

    def show(self, name: str, item: Mapping[str, Any]) -> None:
        with self._lock:
            self._items[name] = item
            items = self._items.values()
            self._line.show({
                "changes": sum(one["changes"] for one in items),
                "bytes": sum(one["bytes"] for one in items),
                "online": all(one["online"] for one in items),
                "error": next((one["error"] for one in items if one["error"]), None),
            })


def _end(arguments: argparse.Namespace, table: RemoteConfig, progress: _Together) -> _Done:
    try:
        note = owner_of(resolve(_for_remote(arguments, table)))
        if note is None:
            return _Done(table.name, ExitCode.OK, ("is not running",) if arguments.remotes else ())
        left = stop_owner(note, now=arguments.now, show=lambda item: progress.show(table.name, item))
    except SerpentError as error:
        return _failed(table, error)
    if left.changes:
        code = ExitCode.LOGIN_REQUIRED if left.login_required else ExitCode.PENDING
        told = f"{count(left.changes, 'change')} not uploaded; the next start goes on with that"
        return _Done(table.name, code, errors=(told,))
    return _Done(table.name, ExitCode.OK, ("is down",))
