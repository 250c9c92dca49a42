"""``fuse-add``, ``fuse-remove``, ``fuse-enable``, ``fuse-disable``, ``fuse-config``, ``fuse-show``: MEGAcmd's names.

They stand for what there is anyway. A mount is the ``mount`` key of a remote's table in config.toml, its name the
remote's; ``mount-enabled = false`` keeps ``serpentfs up`` from opening it; a transient mount is in no file. Mounts are
opened by ``serpentfs mount`` and taken away by ``serpentfs umount``. There is one mount per remote.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serpentfs import config as configuration
from serpentfs import config_edits
from serpentfs.cli import arguments as options
from serpentfs.cli.all_remotes import general_words
from serpentfs.cli.display import Column, Display
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import print_json
from serpentfs.cli.remotes import DEFAULT_LOGIN, Target, owner_of, resolve
from serpentfs.cli.running import umount
from serpentfs.config import REMOTE_NAME, Config, RemoteConfig
from serpentfs.daemon.lock import running_owners
from serpentfs.errors import AlreadyExists, Busy, NotFound, SerpentError, Unsupported, UsageError

_MOUNT_HELP = "the name of a mount, or the folder of this machine that it is at"
_OF_THE_MOUNT = ("mount", "mount-enabled", "read-only")
_OF_ANOTHER = ("webdav", "ftp", *_OF_THE_MOUNT)
"""Keys that a second table for another folder of a remote does not take over."""


def add_fuse_add(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=fuse_add)
    group = _add_group(
        parser, "It writes a table [remote.NAME] with the url and mount = DIR to config.toml, or the key mount to the "
        "table that the remote has, and does what serpentfs mount NAME: DIR --daemon does. serpentfs up mounts it from "
        "then on. A remote has one mount at a time; mount --bind shows a folder of it elsewhere, too.",
    )
    group.add_argument("directory", metavar="DIR", type=options.absolute_path, help="an empty folder of this machine")
    group.add_argument(
        "remote", metavar="REMOTE-PATH", help=f"{options.REMOTE_PATH_HELP}; /folder alone is one of {DEFAULT_LOGIN}:"
    )
    group.add_argument(
        "--name", help="what to call it, and its table in config.toml (default: as the remote, or as the folder)"
    )
    group.add_argument("--disabled", action="store_true", help="only write it down: fuse-enable mounts it")
    group.add_argument(
        "--transient", action="store_true", help="do not write it down: the same as serpentfs mount REMOTE-PATH DIR "
        "--daemon"
    )
    group.add_argument(
        "--read-only", action="store_true", help="refuse changes, by other doors of this remote, too (read-only in "
        "config.toml)"
    )


def add_fuse_remove(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=fuse_remove)
    _add_mount(_add_group(
        parser, "It takes the key mount out of the remote's table in config.toml, which stays: serpentfs remote remove "
        "NAME is for that. A mount is to be disabled first.",
    ))


def add_fuse_enable(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=fuse_enable)
    group = _add_group(
        parser, "It does what serpentfs mount NAME: DIR --daemon does, and takes mount-enabled = false out of "
        "config.toml.",
    )
    _add_mount(group)
    group.add_argument(
        "--temporarily", action="store_true", help="leave it to the next serpentfs up as it is in config.toml"
    )


def add_fuse_disable(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=fuse_disable)
    group = _add_group(
        parser, "It does what serpentfs umount DIR does: with the last door of a remote, its process uploads what is "
        "left and ends. In config.toml mount-enabled = false is written, so that serpentfs up leaves it.",
    )
    _add_mount(group)
    group.add_argument("--temporarily", action="store_true", help="the next serpentfs up mounts it again")


def add_fuse_config(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=fuse_config)
    group = _add_group(parser, "It changes keys of the remote's table in config.toml.")
    _add_mount(group)
    group.add_argument("--name", dest="new_name", metavar="NAME", help="another name, of its table in config.toml")
    for name, meaning in (
        ("--enable-at-startup", "whether serpentfs up mounts it (mount-enabled)"),
        ("--read-only", "refuse changes, from the next time that it is enabled (read-only)"),
        ("--persistent", "whether it is in config.toml: that cannot be changed, see fuse-add --transient"),
    ):
        group.add_argument(name, choices=("yes", "no"), help=meaning)


def add_fuse_show(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=fuse_show)
    group = _add_group(
        parser, "Mounts are the remotes with mount in config.toml, and what else is mounted now (transient)."
    )
    group.add_argument("mount", metavar="NAME|DIR", nargs="?", help=f"{_MOUNT_HELP}; all without it")
    group.add_argument("--only-enabled", action="store_true", help="those that are mounted now")
    group.add_argument("--limit", type=options.whole_number, metavar="N", help="at most so many")
    group.add_argument(
        "--disable-path-collapse", action="store_true", help="nothing: paths are always shown as a whole"
    )
    group.add_argument("--json", action="store_true", help="print JSON")


def _add_group(parser: argparse.ArgumentParser, stands_for: str) -> argparse._ArgumentGroup:
    return parser.add_argument_group("what it stands for", stands_for)


def _add_mount(group: argparse._ArgumentGroup) -> None:
    group.add_argument("mount", metavar="NAME|DIR", help=_MOUNT_HELP)


@dataclass(frozen=True, slots=True)
class Mount:
    """``enabled``: it is mounted now. A transient one has no name and is in no file."""

    name: str | None
    local_path: str
    remote_path: str
    persistent: bool
    enabled: bool
    enable_at_startup: bool
    read_only: bool


# what there is


def _path(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.config
    return path or configuration.default_path()


def _load(arguments: argparse.Namespace) -> Config:
    return configuration.load(_path(arguments), must_exist=arguments.config is not None)


def _target(arguments: argparse.Namespace, word: str) -> Target:
    return resolve(argparse.Namespace(config=arguments.config, remote=word))


def _mounts(arguments: argparse.Namespace, config: Config) -> Iterator[Mount]:
    mounted = {one.doors["mount"]: one.remote for one in running_owners() if "mount" in one.doors}
    for table in config.remotes.values():
        if table.mount is not None:
            place = os.path.realpath(table.mount)
            yield Mount(
                table.name, str(table.mount), table.url, persistent=True, enabled=mounted.pop(place, None) is not None,
                enable_at_startup=table.mount_enabled is not False, read_only=bool(table.read_only),
            )
    for place, url in mounted.items():
        yield Mount(None, place, url, persistent=False, enabled=True, enable_at_startup=False, read_only=False)


def _find(arguments: argparse.Namespace, config: Config) -> Mount:
    word: str = arguments.mount
    mounts = list(_mounts(arguments, config))
    place = os.path.realpath(options.absolute_path(word))
    found = [one for one in mounts if one.name == word.removesuffix(":")]
    found = found or [one for one in mounts if os.path.realpath(one.local_path) == place]
    if len(found) > 1:
        raise UsageError(f"several mounts are at {word}: {', '.join(str(one.name) for one in found)}; name one")
    if not found:
        known = ", ".join(one.name or one.local_path for one in mounts)
        raise NotFound(f'there is no mount "{word}"; ' + (f"there are: {known}" if known else "fuse-add makes one"))
    return found[0]


def _table_of(config: Config, mount: Mount) -> RemoteConfig:
    """Unsupported for a transient one."""
    if mount.name is None:
        raise Unsupported(f"the mount at {mount.local_path} is transient: nothing of it is in {config.path}")
    return config.remotes[mount.name]


# the commands


def fuse_add(arguments: argparse.Namespace) -> ExitCode:
    word: str = arguments.remote
    word = f"{DEFAULT_LOGIN}:{word}" if word.startswith("/") else word
    if arguments.transient:
        if arguments.disabled or arguments.name is not None:
            raise UsageError("--transient goes without --name and --disabled: nothing is written down")
        return _mount(arguments, word, arguments.directory, read_only=arguments.read_only)
    path, config = _path(arguments), _load(arguments)
    target = _target(arguments, word)
    if not arguments.disabled:
        _refuse_second(arguments, config, target)
    name = _name_for(arguments, target)
    values: dict[str, config_edits.Value] = {"mount": str(arguments.directory), "mount-enabled": False}
    if arguments.read_only:
        values["read-only"] = True
    if name in config.remotes:
        _refuse_other(config, config.remotes[name], target, _target(arguments, f"{name}:"))
        config_edits.change_keys(path, name, values)
    else:
        config_edits.add_remote(path, name, {**_keys_of(path, target), **values})
    if arguments.disabled:
        print(f"added {name}: to {path}, disabled")
        return ExitCode.OK
    code = _mount(arguments, f"{name}:", arguments.directory)
    if code == ExitCode.OK:
        config_edits.change_keys(path, name, {"mount-enabled": None})
        print(f"added {name}: to {path}")
    else:
        print(f"serpentfs: {name}: is in {path}, disabled; serpentfs fuse-enable {name} tries again", file=sys.stderr)
    return code


def _refuse_second(arguments: argparse.Namespace, config: Config, target: Target) -> None:
    """Busy where another folder of this remote, or this one elsewhere, is mounted or is to be."""
    note = owner_of(target)
    place = None if note is None else note.doors.get("mount")
    for table in config.remotes.values():
        if table.mount is None or table.mount_enabled is False:
            continue
        try:
            other = _target(arguments, f"{table.name}:")
        except SerpentError:
            continue    # that table is wrong, and somebody else's
        if other.spec.canonical == target.spec.canonical:
            place = place or str(table.mount)
    if place is not None:
        raise Busy(f"{target.name} has a mount at {place}, and one mount per remote is possible: mount --bind shows a "
                   "folder of it elsewhere, too; fuse-disable ends it")


def _refuse_other(config: Config, table: RemoteConfig, wanted: Target, there: Target) -> None:
    """A table that is there already is taken when it is for the same folder, and has no mount."""
    if table.mount is not None:
        raise AlreadyExists(f"{table.name} is a mount already, at {table.mount}: fuse-remove it, or choose --name")
    if (there.spec.canonical, there.path) != (wanted.spec.canonical, wanted.path):
        raise AlreadyExists(f"{table.name} is another remote or folder in {config.path}: choose --name")


def _name_for(arguments: argparse.Namespace, target: Target) -> str:
    """``--name``, else that of the table, of the folder, or of the log-in."""
    if arguments.name is not None:
        name = str(arguments.name)
    elif target.config is not None and target.path == _target(arguments, f"{target.config.name}:").path:
        name = target.config.name
    elif target.path != "/":
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", target.path.rpartition("/")[2]).strip("-.")
    else:
        name = target.spec.location if target.spec.cloud == "mega" else ""
    if not REMOTE_NAME.fullmatch(name):
        raise UsageError("--name is needed: letters, digits, _, - and ." if arguments.name is None else
                         f'"{name}" is no name: letters, digits, "_", "-", "."')
    return name


def _keys_of(path: Path, target: Target) -> dict[str, Any]:
    """For a table of this folder: what the remote's own table says, and the folder."""
    if target.config is None:
        return {"url": _url(target.spec.canonical, target)}
    table = tomllib.loads(path.read_text())["remote"][target.config.name]
    kept = {key: value for key, value in table.items() if key not in _OF_ANOTHER}
    return {**kept, "url": _url(target.config.url, target)}


def _url(url: str, target: Target) -> str:
    return url.partition("#")[0] + ("" if target.path == "/" else f"#{quote(target.path)}")


def _mount(arguments: argparse.Namespace, word: str, directory: Path, *, read_only: bool = False) -> ExitCode:
    """``serpentfs mount``, as the user would type it: it asks for what it needs, and prints what it did."""
    command = [sys.executable, "-P", "-m", "serpentfs.cli", "mount", word, str(directory), "--daemon"]
    command += ["--read-only"] * read_only + general_words(arguments)
    sys.stdout.flush()
    code = subprocess.run(command, check=False).returncode
    return ExitCode(code) if code in set(map(int, ExitCode)) else ExitCode.FAILURE


def fuse_enable(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    mount = _find(arguments, config)
    if mount.name is None:
        return ExitCode.OK    # a transient one that is there is enabled
    if mount.enabled:
        print(f"{mount.name}: is enabled already")
    elif (code := _mount(arguments, f"{mount.name}:", Path(mount.local_path))) != ExitCode.OK:
        return code
    if not arguments.temporarily and not mount.enable_at_startup:
        config_edits.change_keys(config.path, mount.name, {"mount-enabled": None})
    return ExitCode.OK


def fuse_disable(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    mount = _find(arguments, config)
    place = os.path.realpath(mount.local_path)
    code = ExitCode.OK
    if mount.enabled:
        code = umount(argparse.Namespace(config=arguments.config, remote=place, now=False, lazy=False))
    if not arguments.temporarily and mount.name is not None and mount.enable_at_startup:
        config_edits.change_keys(config.path, mount.name, {"mount-enabled": False})
    return code


def fuse_remove(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    mount = _find(arguments, config)
    if mount.enabled:
        raise Busy(f"it is mounted at {mount.local_path}: serpentfs fuse-disable {arguments.mount} comes first")
    table = _table_of(config, mount)
    config_edits.change_keys(config.path, table.name, dict.fromkeys(_OF_THE_MOUNT[:2]))
    print(f"removed; {table.name}: stays the name of {table.url} (serpentfs remote remove {table.name})")
    return ExitCode.OK


def fuse_config(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    mount = _find(arguments, config)
    if arguments.persistent is not None and (arguments.persistent == "yes") != mount.persistent:
        raise Unsupported("a mount does not become persistent or transient: disable and remove it, and add it anew")
    table = _table_of(config, mount)
    if arguments.new_name is not None and not REMOTE_NAME.fullmatch(arguments.new_name):
        raise UsageError(f'"{arguments.new_name}" is no name: letters, digits, "_", "-", "."')
    values: dict[str, config_edits.Value | None] = {}
    if arguments.enable_at_startup is not None:
        values["mount-enabled"] = None if arguments.enable_at_startup == "yes" else False
    if arguments.read_only is not None:
        values["read-only"] = True if arguments.read_only == "yes" else None
    name = table.name
    if arguments.new_name not in (None, name):
        config_edits.rename_remote(config.path, name, arguments.new_name)
        name = arguments.new_name
    if values:
        config_edits.change_keys(config.path, name, values)
    arguments.mount = name
    _print_one(_find(arguments, _load(arguments)))
    return ExitCode.OK


def fuse_show(arguments: argparse.Namespace) -> ExitCode:
    config = _load(arguments)
    mounts = list(_mounts(arguments, config)) if arguments.mount is None else [_find(arguments, config)]
    mounts = [one for one in mounts if one.enabled or not arguments.only_enabled]
    mounts = mounts[: arguments.limit]
    if arguments.json:
        print_json([asdict(one) for one in mounts])
    elif arguments.mount is not None:
        for one in mounts:
            _print_one(one)
    else:
        titles = ("NAME", "LOCAL_PATH", "REMOTE_PATH", "PERSISTENT", "ENABLED")
        Display().print_table([Column(title) for title in titles], [
            (one.name or "-", one.local_path, one.remote_path, _yes(one.persistent), _yes(one.enabled))
            for one in mounts
        ])
    return ExitCode.OK


def _print_one(mount: Mount) -> None:
    rows = (
        ("Name:", mount.name or "-"),
        ("Local path:", mount.local_path),
        ("Remote path:", mount.remote_path),
        ("Persistent:", _yes(mount.persistent)),
        ("Enabled:", _yes(mount.enabled)),
        ("Enable at startup:", _yes(mount.enable_at_startup)),
        ("Read-only:", _yes(mount.read_only)),
    )
    display = Display()
    for label, value in rows:
        print(f"{label:<20}{display.paint(value)}")


def _yes(value: bool) -> str:
    return "YES" if value else "NO"
