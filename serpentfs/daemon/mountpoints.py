"""Mount points of this program on this machine, seen from another process: finding and detaching them.

Talks to the kernel's mount table only; whether uploads are done is the owner's business.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

from serpentfs.errors import Busy, NotFound, PermissionDenied, Unsupported
from serpentfs.gateways.fuse.mountpoint import find_mount
from serpentfs.mount_table import is_dead

FILESYSTEM_TYPE = "fuse.serpentfs"
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def is_ours(path: Path) -> bool:
    """Whether a drive is mounted at exactly this (resolved) path, its owner alive or dead."""
    mount = find_mount(str(path))
    return mount is not None and mount.kind == FILESYSTEM_TYPE


def detach_dead(path: Path) -> bool:
    """Unmount a drive whose process is no more; whether there was one. What answers, or is not ours, stays. May block
    where a mount does not answer."""
    if not is_ours(path):
        return False
    try:
        os.statvfs(path)
    except OSError as error:
        if is_dead(error.errno):
            detach(path, lazy=True)
            return True
    return False


def detach(path: Path, *, lazy: bool) -> None:
    """Unmount. ``lazy`` takes it out of sight at once, though files are open below it.

    Busy when files are open, NotFound when nothing is mounted there, PermissionDenied, Unsupported.
    """
    if os.geteuid() == 0 and sys.platform == "linux":
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), flags) != 0:
            _raise(path, ctypes.get_errno())
        return
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise Unsupported("cannot unmount without fusermount3 (Debian, Ubuntu: apt install fuse3)")
    command = [program, "-u", *(["-z"] if lazy else []), "--", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    if "busy" in message:
        _raise(path, errno.EBUSY)
    if find_mount(str(path)) is None:
        _raise(path, errno.EINVAL)
    raise PermissionDenied(f"cannot unmount {path}: {message}")


def _raise(path: Path, number: int) -> None:
    if number == errno.EBUSY:
        raise Busy(f"files are open below {path} (--lazy detaches nevertheless)")
    if number in (errno.EINVAL, errno.ENOENT):
        raise NotFound(f"nothing is mounted at {path}")
    raise PermissionDenied(f"cannot unmount {path}: {os.strerror(number)}")
