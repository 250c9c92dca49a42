"""``config.toml``: names for remotes, and what holds for them unless the command line says otherwise.

    [remote.work]
    url = "vault+s3://bucket/work?endpoint=https://s3.example.org"
    password-file = "~/.config/serpentfs/work.passphrase"
    cache-disk = "20G"

Before the tables, ``session-store = "keyring"`` says where log-ins are kept.

Whatever is wrong in the file is a UsageError of one line that names file and, where it can be found, line.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serpentfs.errors import NotFound, UsageError

DURABILITIES = ("local", "cloud")
MEGA_ROOTS = ("cloud", "inbox", "rubbish", "shares")
"""The trees of a MEGA account: the cloud drive, the inbox (backups), the rubbish bin, what others share with it."""
ACCOUNT_KEYS = ("root", "hard-delete", "thumbnails", "versions-view")
"""Keys that only a MEGA account has a use for."""
SESSION_STORES = ("auto", "keyring", "file")
"""Where a log-in's secrets are kept: ``auto`` is the keyring where there is one that encrypts, else the file."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TOP_KEYS = ("remote", "session-store")
_TABLE_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
REMOTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def parse_size(text: str) -> int:
    """Bytes of "65536", "64K", "1.5GiB": units are powers of 1024. UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f'"{text}" is not a size (such as 65536, 64M or 10G)')
    return int(float(match[1]) * _SIZE_FACTORS[match[2].upper()])


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """One ``[remote.NAME]`` table; None where it says nothing. A field is the key with "-" for "_"."""

    name: str
    url: str
    password_file: Path | None = None
    password_command: str | None = None
    read_only: bool | None = None
    durability: str | None = None
    settle: float | None = None
    """Seconds after the last close before a file is uploaded."""
    uploads: int | None = None
    """Uploads at a time."""
    cache_memory: int | None = None
    """Bytes, like the next two."""
    cache_disk: int | None = None
    cache_free_space: int | None = None
    cache_directory: Path | None = None
    poll_interval: float | None = None
    """Seconds between two listings of a store that does not report changes."""
    root: str | None = None
    """Which tree of a MEGA account, like the rest for such accounts only."""
    hard_delete: bool | None = None
    """Removed for good, not moved to the rubbish bin."""
    thumbnails: bool | None = None
    """Images get thumbnails and previews when they are uploaded."""
    versions_view: bool | None = None
    """Every folder has a hidden ``.versions`` with the old versions of its files."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. ``path`` is where it was looked for."""

    path: Path
    remotes: Mapping[str, RemoteConfig] = field(default_factory=dict)
    session_store: str = SESSION_STORES[0]

    def remote(self, name: str, others: Iterable[str] = ()) -> RemoteConfig:
        """NotFound, with the nearest name (also of ``others``, which are known elsewhere), for one that is not
        configured."""
        if name in self.remotes:
            return self.remotes[name]
        known = dict.fromkeys((*self.remotes, *others))
        raise NotFound(f'no remote "{name}" in {self.path}{_suggestion(name, known)}')


def default_path(environment: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_CONFIG_HOME/serpentfs/config.toml``."""
    home = environment.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".config"
    return base / "serpentfs" / "config.toml"


def load(path: Path, *, must_exist: bool = False) -> Config:
    """Read the file; an absent one is an empty one unless ``must_exist``. UsageError for anything wrong in it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        if must_exist:
            raise NotFound(f"no such configuration file: {path}") from error
        return Config(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error
    return _Reader(path, text).config(tables)


def _suggestion(word: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f' (did you mean "{near[0]}"?)' if near else ""


class _Wrong(Exception):
    """A value of the wrong type or range; the message completes "KEY must be ..."."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong("a text")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise _Wrong("a number of seconds")
    return float(value)


def _interval(value: Any) -> float:
    if _seconds(value) == 0:
        raise _Wrong("a number of seconds above 0")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Wrong("a whole number above 0")
    return value


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        try:
            return parse_size(value)
        except UsageError:
            pass    # said below, with the key's name
    raise _Wrong('a size (such as 65536, "64M" or "10G")')


def _durability(value: Any) -> str:
    if value not in DURABILITIES:
        raise _Wrong(" or ".join(f'"{known}"' for known in DURABILITIES))
    return str(value)


def _one_of(value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _Wrong("one of " + ", ".join(f'"{word}"' for word in known))
    return str(value)


def _root(value: Any) -> str:
    return _one_of(value, MEGA_ROOTS)


REMOTE_KEYS: dict[str, Callable[[Any], object]] = {
    "url": _text,
    "password-file": _path,
    "password-command": _text,
    "read-only": _flag,
    "durability": _durability,
    "settle": _seconds,
    "uploads": _count,
    "cache-memory": _size,
    "cache-disk": _size,
    "cache-free-space": _size,
    "cache-directory": _path,
    "poll-interval": _interval,
    "root": _root,
    "hard-delete": _flag,
    "thumbnails": _flag,
    "versions-view": _flag,
}
assert {name.replace("-", "_") for name in REMOTE_KEYS} == {f.name for f in fields(RemoteConfig)} - {"name"}


class _Reader:
    """Turns parsed TOML into a Config; keeps the text to find the line that an error speaks of."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def config(self, tables: Mapping[str, Any]) -> Config:
        for key in tables:
            if key not in _TOP_KEYS:
                raise self._error(key, None, f'unknown key "{key}"{_suggestion(key, dict.fromkeys(_TOP_KEYS))}')
        try:
            session_store = _one_of(tables.get("session-store", SESSION_STORES[0]), SESSION_STORES)
        except _Wrong as wrong:
            raise self._error("session-store", None, f'"session-store" must be {wrong}') from None
        remotes = tables.get("remote", {})
        if not isinstance(remotes, dict):
            raise self._error("remote", None, '"remote" must be tables such as [remote.work]')
        read = {name: self._remote(name, table) for name, table in remotes.items()}
        return Config(self._path, read, session_store)

    def _remote(self, name: str, table: Any) -> RemoteConfig:
        section = f"remote.{name}"
        if not REMOTE_NAME.fullmatch(name):
            raise self._error(None, section, f'"{name}" is no name for a remote: letters, digits, "_", "-", "."')
        if not isinstance(table, dict):
            raise self._error(name, "remote", f'"{name}" must be a table [{section}]')
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in REMOTE_KEYS:
                raise self._error(key, section, f'unknown key "{key}" in [{section}]{_suggestion(key, REMOTE_KEYS)}')
            try:
                read = REMOTE_KEYS[key](value)
            except _Wrong as wrong:
                raise self._error(key, section, f'"{key}" in [{section}] must be {wrong}') from None
            # A relative path is one beside this file, wherever the command runs.
            values[key.replace("-", "_")] = self._path.parent / read if isinstance(read, Path) else read
        if "url" not in values:
            raise self._error(None, section, f'[{section}] has no "url"')
        if values.get("password_file") and values.get("password_command"):
            raise self._error("password-command", section,
                              f'[{section}] has both "password-file" and "password-command"')
        return RemoteConfig(name=name, **values)

    def _error(self, key: str | None, section: str | None, message: str) -> UsageError:
        line = self._line_of(key, section)
        return UsageError(f"{self._path}{f':{line}' if line else ''}: {message}")

    def _line_of(self, key: str | None, section: str | None) -> int | None:
        """Line of a key (None: of the table's header), found by its text; None when it is written in another way."""
        current: str | None = None
        assignment = re.compile(rf"""\s*["']?{re.escape(key or "")}["']?\s*[=.]""")
        for number, line in enumerate(self._lines, 1):
            if header := _TABLE_HEADER.match(line):
                current = re.sub(r"""["'\s]""", "", header[1])
                if key is None and current == section:
                    return number
                if section is None and key is not None and current.split(".")[0] == key:
                    return number
            elif key is not None and current == section and assignment.match(line):
                return number
        return None
