"""Users of a network door: from ``config.toml`` and an htpasswd file, or the one of the command line; and their rights.

Knows no protocol. A user's root is below the door's own and cannot be left; a user who is read-only is so whatever the
door allows.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serpentfs import config, password_hashes
from serpentfs.errors import UsageError
from serpentfs.gateways.access import ServerOptions, UserFiles, Users
from serpentfs.gateways.watching import Watched

_MOST_KNOWN = 256
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Rights:
    """``root`` is a folder below the door's."""

    root: str = "/"
    read_only: bool = False


EVERYTHING = Rights()


@dataclass(frozen=True, slots=True)
class _User:
    password_hash: str = field(repr=False)
    rights: Rights


@dataclass(frozen=True, slots=True)
class _Read:
    users: Mapping[str, _User]
    files: tuple[Path, ...]


class Accounts:
    """Made with a UsageError when the files cannot be read or nobody could log in. Safe to use from many threads.

    A password that was right is known again by a keyed hash, because the slow one is made to be slow and a client may
    log in for every file; that is forgotten with the hash it was right for.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._single = Users(options.users)
        self._watched: Watched[_Read] | None = None
        if options.user_files is not None:
            files = options.user_files
            self._watched = Watched("the list of users", lambda: _read(files), lambda read: read.files)
            if not self._watched.last.users:
                raise UsageError(f"nobody could log in: {_named(files)} has no users")
        self._key = os.urandom(hashlib.blake2b.MAX_KEY_SIZE)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._checking = threading.Lock()

    @property
    def is_slow(self) -> bool:
        """Whether ``check`` takes so long that the loop must not wait for it."""
        return self._watched is not None

    @property
    def is_due(self) -> bool:
        """Whether it is time for ``look``."""
        return self._watched is not None and self._watched.is_due

    def look(self) -> None:
        """Read files that changed. May block."""
        if self._watched is not None:
            self._watched.value()

    @property
    def generation(self) -> int:
        """Another number than before when users were read again: what was found out about them may be wrong."""
        return 0 if self._watched is None else self._watched.generation

    def check(self, user: str, password: str) -> Rights | None:
        """What the user may do; None when the name or the password is wrong. An unknown user costs what a wrong
        password costs. May block, and reads files that changed."""
        if self._watched is None:
            return EVERYTHING if self._single.verify(user, password) else None
        users = self._watched.value().users
        found = users.get(user)
        # Each may take 32 MiB and a tenth of a second: one at a time, or guesses would take the machine down.
        with self._checking:
            other = next(iter(users.values()), None)
            against = found or other
            if against is None:
                return None
            key = self._key_of(user, password, against)
            if found is not None and key in self._known:
                self._known.move_to_end(key)
                return found.rights
            if not password_hashes.matches(password, against.password_hash) or found is None:
                return None
            self._known[key] = None
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
            return found.rights

    def _key_of(self, user: str, password: str, entry: _User) -> bytes:
        parts = (user, entry.password_hash, password)
        hashed = hashlib.blake2b(key=self._key)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            hashed.update(len(encoded).to_bytes(8, "big") + encoded)
        return hashed.digest()


def below(root: str, rights: Rights) -> str:
    """The folder of the drive that a user of a door with this root sees."""
    return "/" + "/".join(part.strip("/") for part in (root, rights.root) if part.strip("/"))


def _named(files: UserFiles) -> str:
    return str(files.htpasswd or f"[{files.door}.users] of {files.config}")


def _read(files: UserFiles) -> _Read:
    """UsageError, also for a user without a password."""
    section = config.DoorConfig()
    read_from: list[Path] = []
    if files.config is not None:
        section = config.load(files.config).doors[files.door]
        read_from.append(files.config)
    htpasswd = files.htpasswd or section.htpasswd_file
    hashes: dict[str, str] = {}
    if htpasswd is not None:
        hashes = read_htpasswd(htpasswd)
        read_from.append(htpasswd)
    users = {name: _User(one, EVERYTHING) for name, one in hashes.items()}
    for name, user in section.users.items():
        password_hash = user.password_hash or hashes.get(name)
        if password_hash is None:
            rest = "there is no htpasswd-file" if htpasswd is None else f"{htpasswd} does not have the user"
            raise UsageError(f'[{files.door}.users.{name}] of {files.config} has no "password-hash", and {rest}')
        users[name] = _User(password_hash, Rights(user.root, user.read_only))
    return _Read(users, tuple(read_from))


def read_htpasswd(path: Path) -> dict[str, str]:
    """Hashes by user of a file as Apache's ``htpasswd`` writes it. UsageError, which names the line and shows nothing
    of it."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None
    if len(raw) > _LARGEST_FILE:
        raise UsageError(f"{path} is too large for a list of users")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        user, colon, password_hash = entry.partition(":")
        if not colon or not user or not password_hashes.is_password_hash(password_hash):
            raise UsageError(f"{path}:{number}: not USER:HASH with a hash of bcrypt, SHA-512, SHA-256, Apache's MD5, "
                             "{SHA} or scrypt")
        if user in found:
            raise UsageError(f"{path}:{number}: the user {user} is there twice")
        found[user] = password_hash
    return found
