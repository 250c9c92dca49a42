"""Where state, cache and sockets of a remote live (XDG base directories), and how small files there are written.

    $XDG_STATE_HOME/serpentfs/<id>/      0700: state.db, staging/, owner.lock, copies of what unlocks offline
    $XDG_STATE_HOME/serpentfs/urls/<h>   which <id> was last behind the URL with the hash h: for an offline start
    $XDG_STATE_HOME/serpentfs/mega/NAME.session   0600: what a log-in to a MEGA account, or to a link, left, or
                                         which entry of the keyring has it
    $XDG_CACHE_HOME/serpentfs/<id>/      sealed blocks; may be deleted while no owner runs
    $XDG_RUNTIME_DIR/serpentfs/<id>.sock control socket (without that directory: in the state folder)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serpentfs.errors import BadVault, NoSpace, PermissionDenied, SerpentError, UsageError

# sockaddr_un holds 108 bytes with the closing NUL (unix(7)).
_LONGEST_ADDRESS = 107
_SESSION_SUFFIX = ".session"
_REMOTE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def _base(environment: Mapping[str, str], variable: str, default: str) -> Path:
    """XDG says: a relative path in one of its variables is invalid and is to be ignored."""
    value = environment.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default


def state_home(environment: Mapping[str, str] = os.environ) -> Path:
    return _base(environment, "XDG_STATE_HOME", ".local/state") / "serpentfs"


def cache_home(environment: Mapping[str, str] = os.environ) -> Path:
    return _base(environment, "XDG_CACHE_HOME", ".cache") / "serpentfs"


def default_log_file(environment: Mapping[str, str] = os.environ) -> Path:
    """For processes that detached and were not told another one."""
    return state_home(environment) / "serpentfs.log"


def make_private_directory(path: Path) -> Path:
    """Make a folder (and its parents) that only this user may enter. Errors of a SerpentError kind."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise PermissionDenied(f"{path} belongs to another user")
        if status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise cannot("make the folder", path, error) from error
    return path


def cannot(what: str, path: Path, error: OSError) -> SerpentError:
    """The error of this project for a failure of the local disk."""
    message = f"cannot {what} {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return PermissionDenied(message)
    if error.errno in (28, 122):    # ENOSPC, EDQUOT
        return NoSpace(message)
    return UsageError(message)


def write_private(path: Path, data: bytes) -> None:
    """Replace a small file so that a crash leaves the old or the new one, readable only by this user."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot("write", path, error) from error


@dataclass(frozen=True, slots=True)
class RemotePlaces:
    """The folders and files of one remote."""

    remote_id: str
    state: Path
    cache: Path
    socket: Path

    @property
    def lock(self) -> Path:
        return self.state / "owner.lock"


def places_of(remote_id: str, environment: Mapping[str, str] = os.environ) -> RemotePlaces:
    """Where things of ``remote_id`` are; nothing is made. BadVault for an id that cannot name a folder."""
    if not _REMOTE_ID.fullmatch(remote_id):
        raise BadVault(f"the remote's id {remote_id[:40]!r} cannot be used as a folder name")
    state = state_home(environment) / remote_id
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        socket = Path(runtime) / "serpentfs" / f"{remote_id}.sock"
    else:
        socket = state / "control.sock"
    return RemotePlaces(remote_id, state, cache_home(environment) / remote_id, socket)


def known_remotes(environment: Mapping[str, str] = os.environ) -> Iterator[RemotePlaces]:
    """Every remote that has state on this machine."""
    try:
        folders = sorted(state_home(environment).iterdir())
    except FileNotFoundError:
        return
    for folder in folders:
        if _REMOTE_ID.fullmatch(folder.name) and (folder / "owner.lock").is_file():
            yield places_of(folder.name, environment)


def _url_file(canonical_url: str, environment: Mapping[str, str]) -> Path:
    # Hashed: a URL may name accounts, and is too long for a file name.
    return state_home(environment) / "urls" / hashlib.sha256(canonical_url.encode()).hexdigest()[:32]


def remember_url(canonical_url: str, remote_id: str, environment: Mapping[str, str] = os.environ) -> None:
    path = _url_file(canonical_url, environment)
    if recall_url(canonical_url, environment) != remote_id:
        make_private_directory(path.parent)
        write_private(path, remote_id.encode())


def recall_url(canonical_url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The id of the remote that was last found behind this URL, None when it was never opened here."""
    try:
        remote_id = _url_file(canonical_url, environment).read_text()
    except FileNotFoundError:
        return None
    return remote_id if _REMOTE_ID.fullmatch(remote_id) else None


def forget_url(canonical_url: str, environment: Mapping[str, str] = os.environ) -> None:
    """No longer hold that anything is known to be behind this URL."""
    _url_file(canonical_url, environment).unlink(missing_ok=True)


def session_file(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the log-in called ``name`` is kept. The name is one that a remote may have."""
    return state_home(environment) / "mega" / f"{name}{_SESSION_SUFFIX}"


def known_sessions(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The names of all log-ins of this user on this machine."""
    return sorted(path.stem for path in (state_home(environment) / "mega").glob(f"*{_SESSION_SUFFIX}"))


def make_places(remote_id: str) -> RemotePlaces:
    """``places_of`` a remote, with its state folder made."""
    places = places_of(remote_id)
    make_private_directory(state_home())
    make_private_directory(places.state)
    return places


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for a socket file, however long its path: through an open folder where the path is too long."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise UsageError(f"the path of the control socket is too long: {path}; set XDG_RUNTIME_DIR to a shorter one")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
