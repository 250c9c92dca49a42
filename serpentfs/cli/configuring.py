"""``config show`` and ``hash-password``, ``remote add``, ``list``, ``show`` and ``remove``: what is set, and where."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serpentfs import config as configuration
from serpentfs import config_edits
from serpentfs.amounts import UNLIMITED
from serpentfs.cli import arguments as options
from serpentfs.cli import environment
from serpentfs.cli.display import Cell, Column, Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import human_size, print_json
from serpentfs.config import ACCOUNT_KEYS, REMOTE_KEYS, REMOTE_NAME, Config, RemoteConfig
from serpentfs.credentials import PASSWORD_COMMAND_VARIABLE, PASSWORD_FILE_VARIABLE, ask, read_secret_file
from serpentfs.daemon.places import known_sessions
from serpentfs.errors import NotFound, UsageError

_SHORT = ("-v", "-q")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it came from: ``source`` is "default", "config" (then ``line`` may be known) or a variable."""

    table: str
    key: str
    value: object
    source: str
    line: int | None = None

    def as_item(self, path: Path) -> dict[str, Any]:
        kind = self.source if self.source in ("default", "config") else "environment"
        return {
            "table": self.table,
            "key": self.key,
            "value": _plain(self.value),
            "source": kind,
            "file": str(path) if kind == "config" else None,
            "line": self.line,
            "variable": self.source if kind == "environment" else None,
        }

    def origin(self, path: Path) -> str:
        if self.source == "config":
            return f"{path}:{self.line}" if self.line else str(path)
        return self.source


def add_config_show(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=config_show)
    parser.add_argument(
        "remote", metavar="REMOTE", nargs="?", help="all that holds for this one, defaults too; "
        "without it: everything that the file and the environment set",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_config_hash_password(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=hash_password)


def add_remote_add(parser: options.Parser) -> None:
    parser.set_defaults(run=remote_add)
    parser.add_argument("name", metavar="NAME", help="what to call it: letters, digits, _, - and .")
    parser.add_argument("url", metavar="URL", help="such as vault+file:///srv/vault, or mega+session://mega#/Photos")
    group = parser.add_argument_group("keys of the remote's table", "Without them the defaults hold.")
    for key, meaning in REMOTE_KEYS.items():
        if key == "url":
            continue
        if not meaning.takes:
            group.add_argument(f"--{key}", action=options.YesOrNo, help=meaning.meaning)
        elif "|" in meaning.takes:
            group.add_argument(f"--{key}", choices=meaning.takes.split("|"), help=meaning.meaning)
        else:
            group.add_argument(f"--{key}", metavar=meaning.takes, help=meaning.meaning)
    # What happens to be in the environment of this command is not what is to be written down for all others.
    parser.ignored_variables = frozenset(_field(key) for key in REMOTE_KEYS)


def add_remote_list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=remote_list)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_remote_show(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=remote_show)
    parser.add_argument("name", metavar="NAME", help="a remote of the configuration")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_remote_remove(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=remote_remove)
    parser.add_argument("name", metavar="NAME", help="a remote of the configuration")


def config_show(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    if arguments.remote is None:
        settings = [*_of_file(config), *_of_environment()]
    else:
        settings = list(_of_remote(arguments, config))
    _print(arguments, config.path, settings)
    return ExitCode.OK


def remote_show(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    table = config.remote(_name(arguments.name))
    _print(arguments, config.path, list(_of_table(config, table)))
    return ExitCode.OK


def remote_list(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    found = [{"name": name, "url": table.url, "source": "config"} for name, table in config.remotes.items()]
    found += [
        {"name": name, "url": f"mega+session://{name}", "source": "login"}
        for name in known_sessions() if name not in config.remotes
    ]
    if arguments.json:
        print_json(found)
        return ExitCode.OK
    rows = [((f"{one['name']}:", Role.TITLE), one["url"]) for one in found]
    Display().print_table((Column("NAME"), Column("URL")), rows)
    return ExitCode.OK


def remote_add(arguments: argparse.Namespace) -> ExitCode:
    # Only here: it loads the library of every store.
    from serpentfs.clouds.registry import RemoteSpec, parse_remote

    name = _name(arguments.name)
    if not REMOTE_NAME.fullmatch(name):
        raise UsageError(f'"{name}" is no name for a remote: letters, digits, "_", "-", "."')
    spec = parse_remote(arguments.url)
    if not isinstance(spec, RemoteSpec):
        raise UsageError(f"not a URL: {arguments.url}; such as vault+file:///srv/vault")
    values: dict[str, config_edits.Value] = {"url": arguments.url}
    for key in REMOTE_KEYS:
        said = getattr(arguments, _field(key))
        if key != "url" and said is not None:
            if key in ACCOUNT_KEYS and spec.cloud == "vault":
                raise UsageError(f"--{key} is for MEGA accounts")
            values[key] = _value_of(key, said)
    path = _path(arguments)
    config_edits.add_remote(path, name, values)
    print(f"added {name}: to {path}")
    return ExitCode.OK


def remote_remove(arguments: argparse.Namespace) -> ExitCode:
    path = _path(arguments)
    name = _name(arguments.name)
    if name not in _load(arguments).remotes and name in known_sessions():
        raise NotFound(f"{name} is a log-in and no remote of {path}: serpentfs logout {name}: ends it")
    config_edits.remove_remote(path, name)
    print(f"removed {name}: from {path}; what it stores, and what is kept here of it, stays")
    return ExitCode.OK


def hash_password(arguments: argparse.Namespace) -> ExitCode:
    from serpentfs.password_hashes import hash_password as make_hash

    if sys.stdin.isatty():
        password = ask("Password of the door's user", "password", "standard input", twice=True)
    else:
        password = read_secret_file(Path("-"), "password")
    print(make_hash(password))
    return ExitCode.OK


def _name(text: str) -> str:
    return text.removesuffix(":")


def _path(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.config
    return path or configuration.default_path()


def _load(arguments: argparse.Namespace) -> Config:
    return configuration.load(_path(arguments), must_exist=arguments.config is not None)


def _field(key: str) -> str:
    return key.replace("-", "_")


def _value_of(key: str, said: str | bool) -> config_edits.Value:
    """What stands in the file for what was typed. UsageError."""
    takes = REMOTE_KEYS[key].takes
    value: config_edits.Value = said
    if takes in ("FILE", "DIR"):
        value = str(options.absolute_path(str(said)))
    elif takes in ("N", "SECONDS"):
        try:
            value = int(str(said)) if str(said).isdigit() else float(str(said))
        except ValueError:
            pass    # refused below, with what it must be
    try:
        configuration.read_value(key, value, REMOTE_KEYS)
    except UsageError as error:
        raise UsageError(str(error).replace(f'"{key}"', f"--{key}", 1)) from error
    return value


def _of_file(config: Config) -> Iterator[Setting]:
    line = config.lines.get(("", "session-store"))
    yield Setting("", "session-store", config.session_store, "config" if line else "default", line)
    for key in ("log-level", "proxy", "proxy-password-file"):
        if (value := getattr(config, _field(key))) is not None:
            yield Setting("", key, value, "config", config.lines.get(("", key)))
    for table in config.remotes.values():
        yield from _of_table(config, table)
    for door, values in config.doors.items():
        keys = {**configuration.DOOR_KEYS, **configuration.FTP_KEYS}
        yield from _set_ones(config, door, {key: getattr(values, _field(key)) for key in keys})
        for user in values.users.values():
            shown = {
                "password-hash": None if user.password_hash is None else "(set)",
                "root": user.root, "read-only": user.read_only,
            }
            yield from _set_ones(config, f"{door}.users.{user.name}", shown, with_defaults=True)


def _of_table(config: Config, table: RemoteConfig) -> Iterator[Setting]:
    values = {key: getattr(table, _field(key)) for key in REMOTE_KEYS}
    yield from _set_ones(config, f"remote.{table.name}", values)


def _set_ones(
    config: Config, table: str, values: Mapping[str, object], *, with_defaults: bool = False
) -> Iterator[Setting]:
    for key, value in values.items():
        line = config.lines.get((table, key))
        if value is not None:
            yield Setting(table, key, value, "default" if with_defaults and line is None else "config", line)


def _of_environment() -> Iterator[Setting]:
    """Options of any command, and where passphrases come from."""
    from serpentfs.cli.main import COMMANDS, parser_of

    actions = {name: action for one in COMMANDS for name, action in environment.variables_of(parser_of(one)).items()}
    for name in sorted(os.environ):
        if name in actions and os.environ[name]:
            option = next((one for one in reversed(actions[name].option_strings) if one not in _SHORT), "")
            yield Setting("", option, environment.read_value(actions[name], name, os.environ[name]), name)
        elif name in environment.OTHER_VARIABLES and os.environ[name]:
            yield Setting("", _option_of(name), os.environ[name], name)


def _option_of(variable: str) -> str:
    return "--" + variable.removeprefix(environment.PREFIX).lower().replace("_", "-")


def _of_remote(arguments: argparse.Namespace, config: Config) -> Iterator[Setting]:
    from serpentfs.cli.main import find_command, parser_of
    from serpentfs.cli.remotes import resolve

    target = resolve(arguments)
    actions = environment.variables_of(parser_of(find_command(["mount"])[0]))
    defaults = _defaults(target.spec.cloud == "vault")
    yield Setting(f"remote.{target.name}" if target.config else "", "url", target.spec.canonical,
                  "config" if target.config else "default", config.lines.get((f"remote.{target.name}", "url")))
    passwords = {"password-file": PASSWORD_FILE_VARIABLE, "password-command": PASSWORD_COMMAND_VARIABLE}
    is_said = any(os.environ.get(name) for name in passwords.values())
    for key, default in defaults.items():
        variable = environment.PREFIX + _field(key).upper()
        table = f"remote.{target.config.name}" if target.config else ""
        configured = getattr(target.config, _field(key)) if target.config else None
        said = os.environ.get(variable)
        if said and (key in passwords or variable in actions or variable in environment.OTHER_VARIABLES):
            value = environment.read_value(actions[variable], variable, said) if variable in actions else said
            yield Setting(table, key, value, variable)
        elif configured is not None and not (key in passwords and is_said):
            yield Setting(table, key, configured, "config", config.lines.get((table, key)))
        elif key in ("proxy", "proxy-password-file") and (general := getattr(config, _field(key))) is not None:
            yield Setting(table, key, general, "config", config.lines.get(("", key)))
        else:
            yield Setting(table, key, default, "default")


def _defaults(is_vault: bool) -> dict[str, object]:
    """Of the keys that a remote of its kind has a use for; None where there is nothing."""
    from serpentfs.cache.layers import CacheLimits
    from serpentfs.clouds.vault import POLL_INTERVAL
    from serpentfs.vfs.drive import DriveOptions

    cache, drive = CacheLimits(), DriveOptions()
    shared: dict[str, object] = {
        "read-only": drive.read_only, "durability": drive.durability, "settle": drive.settle, "uploads": drive.uploads,
        "cache-memory": cache.memory_bytes, "cache-disk": cache.disk_bytes,
        "cache-free-space": cache.free_space_floor, "cache-directory": None,
        "limit-up": UNLIMITED, "limit-down": UNLIMITED, "upload-connections": None, "download-connections": None,
        "metrics": None, "proxy": configuration.PROXY_AUTO, "proxy-password-file": None,
    }
    if is_vault:
        return {"password-file": None, "password-command": None, **shared, "poll-interval": POLL_INTERVAL}
    return {**shared, "root": configuration.MEGA_ROOTS[0], "hard-delete": False, "thumbnails": False,
            "versions-view": False}


def _plain(value: object) -> object:
    """For JSON."""
    if isinstance(value, range):
        return f"{value.start}-{value.stop - 1}"
    if isinstance(value, tuple):
        return f"{value[0]}:{value[1]}"
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _shown(setting: Setting) -> str:
    value = _plain(setting.value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    key = REMOTE_KEYS.get(setting.key.removeprefix("--"))
    if key is not None and key.takes == "SIZE" and isinstance(value, int):
        return human_size(value)
    return str(value)


def _print(arguments: argparse.Namespace, path: Path, settings: list[Setting]) -> None:
    if arguments.json:
        print_json([setting.as_item(path) for setting in settings])
        return
    with_table = len({setting.table for setting in settings}) > 1
    rows: list[tuple[Cell, ...]] = [
        (f"{one.table}.{one.key}" if with_table and one.table else one.key, _shown(one), (one.origin(path), Role.FAINT))
        for one in settings
    ]
    Display().print_table((Column("KEY"), Column("VALUE"), Column("FROM")), rows)
