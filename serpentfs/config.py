"""``config.toml``: names for remotes, and what holds for them unless the command line says otherwise.

    [remote.work]
    url = "vault+s3://bucket/work?endpoint=https://s3.example.org"
    password-file = "~/.config/serpentfs/work.passphrase"
    cache-disk = "20G"

    [webdav.users.anna]
    password-hash = "$scrypt$ln=16,r=8,p=1$..."
    root = "/Photos"

Before the tables, ``session-store = "keyring"`` says where log-ins are kept, ``log-level = "INFO"`` how much processes
that serve doors log, and ``proxy`` how all remotes are reached that do not say it. The tables of keys below are what
the reader takes, what ``remote add`` has options for, and what the manual says.

Whatever is wrong in the file is a UsageError of one line that names file and, where it can be found, line.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from serpentfs import logs
from serpentfs.amounts import Timetable, constant_rate, parse_rate, parse_size
from serpentfs.errors import NotFound, UsageError
from serpentfs.password_hashes import is_password_hash

T = TypeVar("T")

DURABILITIES = ("local", "cloud")
MEGA_ROOTS = ("cloud", "inbox", "rubbish", "shares")
"""The trees of a MEGA account: the cloud drive, the inbox (backups), the rubbish bin, what others share with it."""
ACCOUNT_KEYS = ("root", "hard-delete", "thumbnails", "versions-view")
"""Keys that only a MEGA account has a use for."""
SESSION_STORES = ("auto", "keyring", "file")
"""Where a log-in's secrets are kept: ``auto`` is the keyring where there is one that encrypts, else the file."""
DOORS = ("webdav", "ftp")
PROXY_AUTO, PROXY_NONE = "auto", "none"
"""What may stand in place of a proxy's URL: as the environment says (the usual one), and none whatever it says."""
_TOP_KEYS = ("remote", *DOORS, "session-store", "log-level", "proxy", "proxy-password-file")
_TABLE_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
REMOTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT``, or a PORT alone, which is one of 127.0.0.1. UsageError."""
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):)?(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise UsageError(f'"{text}" is not HOST:PORT (such as 127.0.0.1:4443 or [::1]:4443)')
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def parse_proxy(text: str) -> str:
    """``auto``, ``none``, or the URL of a proxy in one spelling. UsageError, which does not repeat what could be a
    password."""
    if text in (PROXY_AUTO, PROXY_NONE):
        return text
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    if url.password is not None:
        raise UsageError("the URL of a proxy must not hold its password, because other users can see it: "
                         "proxy-password-file names a file with it")
    if url.scheme not in ("http", "https") or not host or url.path not in ("", "/") or url.query or url.fragment:
        raise UsageError("a proxy is http://HOST:PORT or http://USER@HOST:PORT (https for one that is spoken to over "
                         "TLS), auto or none")
    user = f"{url.username}@" if url.username else ""
    shown = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{user}{shown}" + ("" if port is None else f":{port}")


def parse_port_range(text: str) -> range:
    """The ports of "50000-50100". UsageError."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]) <= 65535:
        raise UsageError(f'"{text}" is not a range of ports (such as 50000-50100)')
    return range(int(match[1]), int(match[2]) + 1)


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
    limit_up: Timetable | None = None
    limit_down: Timetable | None = None
    upload_connections: int | None = None
    download_connections: int | None = None
    metrics: tuple[str, int] | None = None
    """Where the figures are served for Prometheus."""
    proxy: str | None = None
    """As ``parse_proxy`` reads it."""
    proxy_password_file: Path | None = None
    root: str | None = None
    """Which tree of a MEGA account, like the rest for such accounts only."""
    hard_delete: bool | None = None
    """Removed for good, not moved to the rubbish bin."""
    thumbnails: bool | None = None
    """Images get thumbnails and previews when they are uploaded."""
    versions_view: bool | None = None
    """Every folder has a hidden ``.versions`` with the old versions of its files."""
    mount: Path | None = None
    """The doors that ``serpentfs up`` opens: where it is mounted, and where the next two listen."""
    mount_enabled: bool | None = None
    """False: ``up`` does not mount it, and ``fuse-enable`` does."""
    webdav: tuple[str, int] | None = None
    ftp: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class DoorUser:
    """One ``[webdav.users.NAME]`` or ``[ftp.users.NAME]``."""

    name: str
    password_hash: str | None = field(default=None, repr=False)
    """None: the hash is that of the ``htpasswd-file``."""
    root: str = "/"
    """The folder that is this user's whole drive, below the folder that the door shows."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """``[webdav]`` or ``[ftp]``: what holds for that door, of every remote; None where it says nothing."""

    users: Mapping[str, DoorUser] = field(default_factory=dict)
    htpasswd_file: Path | None = None
    listen: tuple[str, int] | None = None
    certificate: Path | None = None
    key: Path | None = None
    public: bool | None = None
    insecure: bool | None = None
    data_ports: range | None = None
    """Of FTP only, like the next."""
    public_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. ``path`` is where it was looked for."""

    path: Path
    remotes: Mapping[str, RemoteConfig] = field(default_factory=dict)
    session_store: str = SESSION_STORES[0]
    log_level: str | None = None
    """Of processes that serve doors, unless options say it."""
    doors: Mapping[str, DoorConfig] = field(default_factory=lambda: dict.fromkeys(DOORS, DoorConfig()))
    """By ``DOORS``; every one is there."""
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False, repr=False)
    """Where a key stands: by table ("remote.work", "" before the first) and key, where it could be found."""

    proxy: str | None = None
    """For all remotes whose table has none."""
    proxy_password_file: Path | None = None

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
    return parse(path, text)


def parse(path: Path, text: str) -> Config:
    """What the text of a file means that is, or is to be, at ``path``. UsageError."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error
    return _Reader(path, text).config(tables)


def section_of(line: str) -> str | None:
    """The table that a line begins (``remote.work``); None when it is no header."""
    header = _TABLE_HEADER.match(line)
    return re.sub(r"""["'\s]""", "", header[1]) if header else None


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


def _rate(value: Any) -> Timetable:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return constant_rate(value or None)
    return _parsed(value, parse_rate, 'a rate, or a timetable of rates (such as "2M" or "08:00,512K 19:00,off")')


def _level(value: Any) -> str:
    return _one_of(value.upper() if isinstance(value, str) else value, tuple(logs.LEVELS))


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


def _address(value: Any) -> tuple[str, int]:
    return _parsed(value, parse_address, "HOST:PORT, such as \"127.0.0.1:4443\"")


def _ports(value: Any) -> range:
    return _parsed(value, parse_port_range, "a range of ports, such as \"50000-50100\"")


def _parsed(value: Any, parse: Callable[[str], T], what: str) -> T:
    try:
        return parse(_text(value))
    except (UsageError, _Wrong):
        raise _Wrong(what) from None


def _proxy(value: Any) -> str:
    try:
        return parse_proxy(_text(value))
    except UsageError as error:
        raise _Wrong(f'"auto", "none", or the URL of a proxy: {error}') from None


def _hash(value: Any) -> str:
    text = _text(value)
    if not is_password_hash(text):
        raise _Wrong("a hash that serpentfs config hash-password or htpasswd made")
    return text


def _folder(value: Any) -> str:
    text = _text(value)
    if not text.startswith("/") or "\0" in text or ".." in text.split("/"):
        raise _Wrong('a folder of the drive, such as "/Photos"')
    return text


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a table: how its value is read, what it takes ("SIZE"; "" is true or false), and what it means."""

    read: Callable[[Any], object]
    takes: str
    meaning: str


_ROOTS, _DURABILITIES = ("|".join(words) for words in (MEGA_ROOTS, DURABILITIES))
REMOTE_KEYS: Mapping[str, Key] = {
    "url": Key(_text, "URL", "what the remote is"),
    "password-file": Key(_path, "FILE", "file with the passphrase"),
    "password-command": Key(_text, "COMMAND", "command that prints the passphrase; it is run without a shell"),
    "read-only": Key(_flag, "", "refuse changes"),
    "durability": Key(_durability, _DURABILITIES, "when close and fsync return: once this machine has it (local), or "
                      "the store too (cloud)"),
    "settle": Key(_seconds, "SECONDS", "time after the last close before a file goes up"),
    "uploads": Key(_count, "N", "uploads at a time; four times as many of up to 256 KiB, half of over 4 MiB"),
    "cache-memory": Key(_size, "SIZE", "decrypted blocks in memory"),
    "cache-disk": Key(_size, "SIZE", "sealed blocks on disk; 0: none"),
    "cache-free-space": Key(_size, "SIZE", "stop filling the disk when less than this is free"),
    "cache-directory": Key(_path, "DIR", "keep sealed blocks there"),
    "poll-interval": Key(_interval, "SECONDS", "time between two listings of a store that does not report changes"),
    "limit-up": Key(_rate, "RATE", "upload at most so many bytes a second, as 500K; or by the time of the day, as "
                    "\"08:00,512K 19:00,off\""),
    "limit-down": Key(_rate, "RATE", "download at most this fast"),
    "upload-connections": Key(_count, "N", "connections that uploads use at a time"),
    "download-connections": Key(_count, "N", "connections that downloads use at a time"),
    "metrics": Key(_address, "HOST:PORT", "serve figures for Prometheus there, on this machine only"),
    "proxy": Key(_proxy, "PROXY", "how it is reached: the URL of a proxy (http://USER@HOST:PORT), auto (as HTTPS_PROXY "
                 "says) or none"),
    "proxy-password-file": Key(_path, "FILE", "file with the password of the proxy's user"),
    "root": Key(_root, _ROOTS, "which tree of a MEGA account: the cloud drive (the usual one), the inbox, the rubbish "
                "bin, or what others share"),
    "hard-delete": Key(_flag, "", "remove for good, not to the rubbish bin of the MEGA account"),
    "thumbnails": Key(_flag, "", "make thumbnails and previews of images that go to a MEGA account"),
    "versions-view": Key(_flag, "", "show old versions of files of a MEGA account below .versions in every folder"),
    "mount": Key(_path, "DIR", "where serpentfs up mounts it: an empty folder"),
    "mount-enabled": Key(_flag, "", "whether serpentfs up mounts it; false: only fuse-enable does"),
    "webdav": Key(_address, "HOST:PORT", "where serpentfs up serves it over WebDAV"),
    "ftp": Key(_address, "HOST:PORT", "where serpentfs up serves it over FTP"),
}
"""Of ``[remote.NAME]``."""
DOOR_KEYS: Mapping[str, Key] = {
    "listen": Key(_address, "HOST:PORT", "where to listen"),
    "htpasswd-file": Key(_path, "FILE", "users and their hashes, as Apache's htpasswd writes them (bcrypt is best); "
                         "read again when it changes"),
    "certificate": Key(_path, "FILE", "certificate with its chain, PEM; turns TLS on; read again when it changes"),
    "key": Key(_path, "FILE", "its private key, PEM"),
    "public": Key(_flag, "", "allow an address that other machines reach"),
    "insecure": Key(_flag, "", "with public: allow passwords in clear text"),
}
"""Of ``[webdav]`` and ``[ftp]``."""
FTP_KEYS: Mapping[str, Key] = {
    "data-ports": Key(_ports, "A-B", "ports for passive transfers"),
    "public-ip": Key(_text, "ADDRESS", "address to tell clients behind a NAT"),
}
"""Of ``[ftp]`` alone."""
USER_KEYS: Mapping[str, Key] = {
    "password-hash": Key(_hash, "HASH", "what serpentfs config hash-password prints; without it the htpasswd-file "
                         "has the user"),
    "root": Key(_folder, "FOLDER", "the folder of the drive that is all this user sees"),
    "read-only": Key(_flag, "", "refuse changes by this user"),
}
"""Of ``[webdav.users.NAME]`` and ``[ftp.users.NAME]``."""
assert {name.replace("-", "_") for name in REMOTE_KEYS} == {f.name for f in fields(RemoteConfig)} - {"name"}
assert {name.replace("-", "_") for name in (*DOOR_KEYS, *FTP_KEYS)} == {f.name for f in fields(DoorConfig)} - {"users"}
assert {name.replace("-", "_") for name in USER_KEYS} == {f.name for f in fields(DoorUser)} - {"name"}


def read_value(key: str, value: object, keys: Mapping[str, Key]) -> object:
    """What a key's value means. UsageError, which names the key."""
    try:
        return keys[key].read(value)
    except _Wrong as wrong:
        raise UsageError(f'"{key}" must be {wrong}') from None


class _Reader:
    """Turns parsed TOML into a Config; keeps the text to find the line that an error speaks of."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._found: dict[tuple[str, str], int] = {}

    def config(self, tables: Mapping[str, Any]) -> Config:
        for key in tables:
            if key not in _TOP_KEYS:
                raise self._error(key, None, f'unknown key "{key}"{_suggestion(key, dict.fromkeys(_TOP_KEYS))}')
        session_store = self._top_value("session-store", tables, partial(_one_of, known=SESSION_STORES))
        log_level = self._top_value("log-level", tables, _level)
        remotes = self._table_of_tables(tables.get("remote", {}), "remote", "", "[remote.work]")
        read = {name: self._remote(name, table) for name, table in remotes.items()}
        doors = {door: self._door(door, tables.get(door, {})) for door in DOORS}
        proxy = self._top_value("proxy", tables, _proxy)
        password_file = self._top_value("proxy-password-file", tables, _path)
        return Config(
            self._path, read, session_store or SESSION_STORES[0], log_level, doors, self._found, proxy,
            None if password_file is None else self._path.parent / password_file,
        )

    def _top_value(self, key: str, tables: Mapping[str, Any], read: Callable[[Any], T]) -> T | None:
        """Of a key before the tables."""
        if key not in tables:
            return None
        self._note(key, "")
        try:
            return read(tables[key])
        except _Wrong as wrong:
            raise self._error(key, None, f'"{key}" must be {wrong}') from None

    def _table_of_tables(self, value: Any, key: str, section: str, example: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._error(key, section or None, f'"{key}" must be tables such as {example}')
        return value

    def _remote(self, name: str, table: Any) -> RemoteConfig:
        section = f"remote.{name}"
        if not REMOTE_NAME.fullmatch(name):
            raise self._error(None, section, f'"{name}" is no name for a remote: letters, digits, "_", "-", "."')
        if not isinstance(table, dict):
            raise self._error(name, "remote", f'"{name}" must be a table [{section}]')
        values = self._values(section, table, REMOTE_KEYS)
        if "url" not in values:
            raise self._error(None, section, f'[{section}] has no "url"')
        if values.get("password_file") and values.get("password_command"):
            raise self._error("password-command", section,
                              f'[{section}] has both "password-file" and "password-command"')
        return RemoteConfig(name=name, **values)

    def _door(self, door: str, table: Any) -> DoorConfig:
        if not isinstance(table, dict):
            raise self._error(door, None, f'"{door}" must be a table [{door}]')
        keys = {**DOOR_KEYS, **(FTP_KEYS if door == "ftp" else {})}
        own = {key: value for key, value in table.items() if key != "users"}
        values = self._values(door, own, {**keys, "users": Key(_text, "", "")})
        for one, other in (("certificate", "key"), ("key", "certificate")):
            if one in values and other not in values:
                raise self._error(one, door, f'[{door}] has "{one}" and no "{other}"')
        users = self._table_of_tables(table.get("users", {}), "users", door, f"[{door}.users.anna]")
        read = {name: self._user(f"{door}.users.{name}", name, user) for name, user in users.items()}
        return DoorConfig(users=read, **values)

    def _user(self, section: str, name: str, table: Any) -> DoorUser:
        if not isinstance(table, dict):
            raise self._error(name, section.rpartition(".")[0], f'"{name}" must be a table [{section}]')
        if not name or ":" in name:
            raise self._error(None, section, f'"{name}" is no name for a user: it must not be empty nor have a ":"')
        return DoorUser(name=name, **self._values(section, table, USER_KEYS))

    def _values(self, section: str, table: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
        """The fields that a table sets. A relative path is one beside this file, wherever the command runs."""
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in keys:
                raise self._error(key, section, f'unknown key "{key}" in [{section}]{_suggestion(key, keys)}')
            try:
                read = keys[key].read(value)
            except _Wrong as wrong:
                raise self._error(key, section, f'"{key}" in [{section}] must be {wrong}') from None
            values[key.replace("-", "_")] = self._path.parent / read if isinstance(read, Path) else read
            self._note(key, section)
        return values

    def _note(self, key: str, section: str) -> None:
        line = self._line_of(key, section)
        if line is not None:
            self._found[section, key] = line

    def _error(self, key: str | None, section: str | None, message: str) -> UsageError:
        line = self._line_of(key, section)
        return UsageError(f"{self._path}{f':{line}' if line else ''}: {message}")

    def _line_of(self, key: str | None, section: str | None) -> int | None:
        """Line of a key (None: of the table's header), found by its text; None when it is written in another way."""
        current = ""
        assignment = re.compile(rf"""\s*["']?{re.escape(key or "")}["']?\s*[=.]""")
        for number, line in enumerate(self._lines, 1):
            if (header := section_of(line)) is not None:
                current = header
                if key is None and current == section:
                    return number
                if not section and key is not None and current.split(".")[0] == key:
                    return number
            elif key is not None and current == (section or "") and assignment.match(line):
                return number
        return None
