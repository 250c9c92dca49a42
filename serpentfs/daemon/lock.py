"""owner.lock: at most one process owns a remote. A flock, held for life and freed by the kernel with the process.

The file also tells who owns (JSON: process id, control socket, doors), for messages and for finding the owner of
a mount point. What it tells counts only while the lock is held.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from serpentfs.daemon import dying
from serpentfs.daemon.places import cannot, known_remotes
from serpentfs.errors import Busy

# Somebody who only looks (``read_owner``) holds the lock for microseconds; an owner stays.
_PATIENCE = 0.5
_DYING_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class OwnerNote:
    """What the owner says of itself. ``doors`` maps "mount", "webdav", "ftp" to the address of each."""

    pid: int
    remote: str
    """The remote's URL, without a path inside it."""
    socket: str
    doors: dict[str, str]

    def describe(self) -> str:
        doors = ", ".join(f"{door} at {address}" for door, address in self.doors.items())
        return f"process {self.pid}" + (f", {doors}" if doors else "")


class RemoteOwned(Busy):
    """Another process owns the remote whose lock file is ``lock``."""

    def __init__(self, message: str, lock: Path) -> None:
        super().__init__(message)
        self.lock = lock


class OwnerLock:
    """The held lock: leave the ``with`` block to give it up. Made by ``acquire`` only."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, remote: str) -> OwnerLock:
        """Blocks for at most half a second. RemoteOwned when another process owns ``remote``."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot("open", path, error) from error
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(descriptor)
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    os.close(descriptor)
                    note = read_owner(path)
                    if note is None:    # it was dying
                        return cls.acquire(path, remote)
                    raise RemoteOwned(busy_message(remote, note), path) from None
                time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)    # the file stays: removing it would let two processes hold "the" lock

    def read(self) -> OwnerNote | None:
        """What was written last: before the first ``write`` by an owner that is no more."""
        return _read(self._descriptor)

    def write(self, note: OwnerNote) -> None:
        data = json.dumps(asdict(note)).encode() + b"\n"
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))


def busy_message(remote: str, note: OwnerNote | None) -> str:
    """What to tell who wants to own a remote that has an owner."""
    if note is None:
        return f"{remote} is in use by another process"
    hint = f"; mount --bind {note.doors['mount']} DIR shows it elsewhere, too" if "mount" in note.doors else ""
    return f"{remote} is in use by {note.describe()}{hint}"


def read_owner(path: Path) -> OwnerNote | None:
    """Who owns the remote of this lock file now; None when nobody does. One that was killed and cannot end is helped
    to (``dying``). Busy when it cannot be."""
    note = _holder(path)
    if note is None or not dying.is_dying(note.pid):
        return note
    if mountpoint := note.doors.get("mount"):
        dying.release(mountpoint)
    give_up = time.monotonic() + _DYING_PATIENCE
    while (now := _holder(path)) is not None and now.pid == note.pid:
        if time.monotonic() >= give_up:
            free = f": umount -f {mountpoint} as root frees it" if mountpoint else ""
            raise Busy(f"process {note.pid} was killed, and the kernel does not let it end{free}")
        time.sleep(0.02)
    return now


def _holder(path: Path) -> OwnerNote | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot("open", path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor) or OwnerNote(0, "", "", {})
    else:
        return None
    finally:
        os.close(descriptor)


def running_owners() -> list[OwnerNote]:
    """Every owner that this user has running on this machine."""
    notes = (read_owner(places.lock) for places in known_remotes())
    return [note for note in notes if note is not None]


def _read(descriptor: int) -> OwnerNote | None:
    """None while the owner has not written yet."""
    try:
        fields = json.loads(os.pread(descriptor, 64 * 1024, 0))
        return OwnerNote(int(fields["pid"]), fields["remote"], fields["socket"], dict(fields["doors"]))
    except (ValueError, KeyError, TypeError):
        return None
