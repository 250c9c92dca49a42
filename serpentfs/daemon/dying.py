"""An owner that was killed and cannot end.

A thread of it that tells the kernel of a change may wait there for a lock that somebody holds who waits for an answer
of the same process. No signal ends such a wait: the process stays with its lock, its socket and its mount, and whoever
looks into the mount waits, too. The kernel lets all of them go when the mount's connection is aborted.
"""

from __future__ import annotations

from pathlib import Path


def is_dying(pid: int) -> bool:
    """Whether a process that still holds something is a zombie but for threads that wait in the kernel (Linux's
    proc(5): the state of its first thread)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[:1] == [b"Z"]


def release(mountpoint: str) -> None:
    """Abort the connection of the drive that is mounted there, if one is. What cannot be done is told in the log."""
    # Imported when it is needed: who only asks for the owner answers at once.
    from serpentfs.daemon.mountpoints import FILESYSTEM_TYPE
    from serpentfs.gateways.fuse.mountpoint import find_mount

    mount = find_mount(mountpoint)
    if mount is not None and mount.kind == FILESYSTEM_TYPE:
        mount.abort()
