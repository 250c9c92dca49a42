"""Mount points of this program on this machine: checking, finding and detaching them.

Talks to the kernel's mount table only; whether uploads are done is the owner's business.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from serpentfs.errors import Busy, NotADirectory, NotFound, PermissionDenied, Unavailable, Unsupported, UsageError

FILESYSTEM_TYPE = "fuse.serpentfs"
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_OCTAL = re.compile(r"\\([0-7]{3})")


def mounted_paths() -> dict[Path, str]:
    """Every mount point of this mount namespace and its file system type; the topmost one where they are stacked."""
    try:
        text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except FileNotFoundError:
        return {}
    found: dict[Path, str] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        path = _OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        found[Path(path)] = after.split(" ")[0]
    return found


def is_ours(path: Path) -> bool:
    return mounted_paths().get(path) == FILESYSTEM_TYPE


def prepare(path: Path, *, allow_nonempty: bool) -> None:
    """Check that one can mount at ``path``, and detach a mount whose owner died there.

    NotFound, NotADirectory; Busy when something is mounted; UsageError for a folder that is not empty, because
    a mount would hide what is in it.
    """
    try:
        empty = not any(os.scandir(path))
    except FileNotFoundError as error:
        raise NotFound(f"no such folder to mount at: {path}") from error
    except NotADirectoryError as error:
        raise NotADirectory(f"not a folder: {path}") from error
    except PermissionError as error:
        raise PermissionDenied(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        if error.errno != errno.ENOTCONN or not is_ours(path):
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error
        detach(path, lazy=True)
        return prepare(path, allow_nonempty=allow_nonempty)
    if is_ours(path):
        raise Busy(f"a drive is mounted at {path} already")
    if not empty and not allow_nonempty:
        raise UsageError(f"{path} is not empty; a mount would hide what is in it (-o nonempty mounts nevertheless)")
    return None


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
    if path not in mounted_paths():
        _raise(path, errno.EINVAL)
    raise PermissionDenied(f"cannot unmount {path}: {message}")


def _raise(path: Path, number: int) -> None:
    if number == errno.EBUSY:
        raise Busy(f"files are open below {path} (--lazy detaches nevertheless)")
    if number in (errno.EINVAL, errno.ENOENT):
        raise NotFound(f"nothing is mounted at {path}")
    raise PermissionDenied(f"cannot unmount {path}: {os.strerror(number)}")
