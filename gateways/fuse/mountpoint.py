"""What the system knows about a mount point, and what can be done to it from outside the request loop.

Reads the mount table and /sys/fs/fuse, /sys/class/bdi. Never looks *into* a mount of this process:
on the loop's thread that would wait for itself.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serpentfs.errors import UsageError
from serpentfs.mount_table import answer_of, is_dead, mount_entries

log = logging.getLogger(__name__)

_READ_AHEAD_KB = 1024
"""Against 128 by default: half the CPU per byte, 1.8 times the throughput. The largest READ is 1 MiB anyway."""
_AUTOMOUNT = "autofs"
_COMMAND_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted at a place."""

    path: str
    device: str
    """``major:minor``; for FUSE the minor number names the connection, too."""
    kind: str

    @property
    def _connection(self) -> Path:
        return Path("/sys/fs/fuse/connections", self.device.partition(":")[2])

    def abort(self) -> None:
        """End the kernel's connection by force: whatever waits for it fails with ENOTCONN or ECONNABORTED."""
        try:
            (self._connection / "abort").write_text("1")
        except OSError as error:
            log.warning("cannot abort the connection of %s (%s), trying umount -f", self.path, error)
            _run(["umount", "-f", self.path])

    def raise_read_ahead(self) -> None:
        """Let the kernel read further ahead on this mount. Only root may; others keep the default."""
        try:
            Path("/sys/class/bdi", self.device, "read_ahead_kb").write_text(f"{_READ_AHEAD_KB}\n")
        except OSError as error:
            log.debug("read-ahead of %s stays as it is: %s", self.path, error)


def find_mount(path: str) -> Mount | None:
    """What is mounted at exactly this (resolved) path: the topmost if several are."""
    found = None
    for entry in mount_entries():
        if entry.path == path:
            found = Mount(path, entry.device, entry.kind)
    return found


def prepare(mountpoint: Path, *, allow_other: bool, allow_nonempty: bool) -> str:
    """Check that something can be mounted there and answer with the resolved path. May block.

    A mount whose process died (ENOTCONN) is taken away first. Raises UsageError with what to do about it.
    """
    _check_system(allow_other=allow_other)
    path = os.path.realpath(mountpoint)
    mounted = find_mount(path)
    if mounted is not None and mounted.kind != _AUTOMOUNT:
        answer = answer_of(path, _ANSWER_TIMEOUT) if mounted.kind.startswith("fuse") else 0
        if answer is None:
            raise UsageError(f"{path} is a mount that does not answer; free it with umount -f {path}")
        if not is_dead(answer):
            raise UsageError(f"{path} is a mount point already ({mounted.kind}); unmount it first")
        log.warning("unmounting %s, which a dead process left behind", path)
        unmount(path, lazy=True)
        mounted = find_mount(path)
        if mounted is not None and mounted.kind != _AUTOMOUNT:
            raise UsageError(f"{path} is a dead mount that cannot be taken away; try umount -l {path}")
    if mounted is not None:
        return path    # systemd waits there for this very mount; who looked inside would wait for itself
    try:
        if not stat.S_ISDIR(Path(path).stat().st_mode):
            raise UsageError(f"{path} is not a folder")
        if not allow_nonempty and any(Path(path).iterdir()):
            raise UsageError(f"{path} is not empty; what is in it would be hidden (-o nonempty mounts anyway)")
    except OSError as error:
        raise UsageError(f"cannot mount on {path}: {error.strerror}") from error
    return path


def unmount(path: str, *, lazy: bool) -> bool:
    """Unmount by command; False when that did not work (in use, not mounted, not ours). May block."""
    if shutil.which("fusermount3"):
        return _run(["fusermount3", "-q", "-uz" if lazy else "-u", path])
    return _run(["umount", "-l", path] if lazy else ["umount", path])


def write_back(path: str) -> None:
    """Have the kernel write what it holds (dirty pages of mappings) to the filesystem there. May block."""
    if not _run(["sync", "-f", path]):
        log.warning("what programs changed in mapped files of %s may not have been written", path)


def _check_system(*, allow_other: bool) -> None:
    if not Path("/dev/fuse").exists():
        raise UsageError("there is no /dev/fuse: load the fuse module, or give the container that device")
    if os.geteuid() == 0:
        return
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise UsageError("/dev/fuse is not accessible to this user")
    if not shutil.which("fusermount3"):
        raise UsageError("fusermount3 is missing: install the package fuse3")
    if allow_other and not _conf_allows_other():
        raise UsageError("allow_other needs the line user_allow_other in /etc/fuse.conf")


def _conf_allows_other() -> bool:
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as lines:
            return any(line.strip() == "user_allow_other" for line in lines)
    except OSError:
        return False


def _run(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: %s", command[0], error)
        return False
    return done.returncode == 0
