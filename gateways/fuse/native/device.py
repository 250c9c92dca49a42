"""Mounting: a descriptor of /dev/fuse that the kernel sends a mount's requests to.

Root calls mount(2). Anyone else asks fusermount3, which is set-user-ID: it mounts and sends the descriptor through
the socket whose number it finds in ``_FUSE_COMMFD`` (fuse(4) and mount.fuse3(8) name the options).
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess

from serpentfs.errors import UsageError
from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.gateways.fuse.session import NotForThisLoop

_DEVICE = "/dev/fuse"
_KIND = "fuse.serpentfs"
_COMMAND_TIMEOUT = 30.0

# Flags of mount(2) by the words of mount(8): what a word sets and what it clears.
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _SYNCHRONOUS, _DIRSYNC = 1, 2, 4, 8, 16, 128
_NOATIME, _NODIRATIME, _RELATIME, _STRICTATIME, _LAZYTIME, _NOSYMFOLLOW = 1024, 2048, 1 << 21, 1 << 24, 1 << 25, 256
_FLAGS: dict[str, tuple[int, int]] = {
    "ro": (_RDONLY, 0), "rw": (0, _RDONLY),
    "nosuid": (_NOSUID, 0), "suid": (0, _NOSUID),
    "nodev": (_NODEV, 0), "dev": (0, _NODEV),
    "noexec": (_NOEXEC, 0), "exec": (0, _NOEXEC),
    "sync": (_SYNCHRONOUS, 0), "async": (0, _SYNCHRONOUS),
    "dirsync": (_DIRSYNC, 0),
    "noatime": (_NOATIME, 0), "atime": (0, _NOATIME),
    "nodiratime": (_NODIRATIME, 0), "diratime": (0, _NODIRATIME),
    "relatime": (_RELATIME, 0), "norelatime": (0, _RELATIME),
    "strictatime": (_STRICTATIME, 0), "nostrictatime": (0, _STRICTATIME),
    "lazytime": (_LAZYTIME, 0), "nolazytime": (0, _LAZYTIME),
    "nosymfollow": (_NOSYMFOLLOW, 0), "symfollow": (0, _NOSYMFOLLOW),
}  # fmt: skip
_DEFAULT_FLAGS = _NOSUID | _NODEV
_OF_KERNEL = ("allow_other", "default_permissions", "max_read=", "context=", "fscontext=", "defcontext=",
              "rootcontext=")  # fmt: skip
"""What the kernel's FUSE, or its security modules, understand by themselves."""


def mount(path: str, options: MountOptions, *, read_only: bool) -> int:
    """Mount at ``path`` and answer with the connection's descriptor, which does not block. May block. UsageError with
    the reason when the system refuses, NotForThisLoop for options that only libfuse may know."""
    words = options.for_libfuse(read_only=read_only)
    flags, rest = kernel_options(words)  # for any user: for some others fusermount3 would stay
    descriptor = None if os.geteuid() != 0 else _mount_by_root(path, options.name, flags, rest)
    if descriptor is None:
        descriptor = _mount_by_helper(path, words)
    os.set_blocking(descriptor, False)
    return descriptor


def kernel_options(words: set[str]) -> tuple[int, list[str]]:
    """The flags of mount(2) and the options for the kernel in what ``MountOptions.for_libfuse`` gives.
    NotForThisLoop for a word that is neither."""
    flags, rest = _DEFAULT_FLAGS, []
    for word in sorted(words):
        if word in _FLAGS:
            sets, clears = _FLAGS[word]
            flags = (flags | sets) & ~clears
        elif word.startswith(_OF_KERNEL):
            rest.append(word)
        elif not word.startswith(("fsname=", "subtype=")):
            raise NotForThisLoop(f"-o {word} is nothing that the kernel knows")
    return flags, rest


def _mount_by_root(path: str, name: str, flags: int, rest: list[str]) -> int | None:
    """None for a root without CAP_SYS_ADMIN, where there is fusermount3."""
    try:
        descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot mount {path}: {_DEVICE}: {error.strerror}") from error
    try:
        _call_mount(name.replace("\0", "_") or "serpentfs", path, flags, f"fd={descriptor}", rest)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EPERM and shutil.which("fusermount3"):
            return None
        raise UsageError(f"cannot mount {path}: {error.strerror}") from error
    return descriptor


def _call_mount(source: str, path: str, flags: int, descriptor: str, rest: list[str]) -> None:
    """mount(2): the kernel's FUSE wants to know the descriptor, the kind of the root and whose mount it is. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    data = ",".join([descriptor, f"rootmode={stat.S_IFDIR:o}", "user_id=0", "group_id=0", *rest])
    if libc.mount(os.fsencode(source), os.fsencode(path), _KIND.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount_by_helper(path: str, words: set[str]) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            done = subprocess.run(
                ["fusermount3", "-o", ",".join(sorted(words)), "--", path],
                env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(f"cannot mount {path}: {error}") from error
        if done.returncode != 0:
            said = " ".join(done.stderr.decode(errors="replace").split()).removeprefix("fusermount3: ")
            raise UsageError(f"cannot mount {path}: {said or 'fusermount3 does not say why'}")
        theirs.close()
        return _received_descriptor(ours, path)


def _received_descriptor(sender: socket.socket, path: str) -> int:
    room = socket.CMSG_LEN(array.array("i").itemsize)
    _, ancillary, _, _ = sender.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", data[: array.array("i").itemsize])[0]
    raise UsageError(f"cannot mount {path}: fusermount3 gave no descriptor")
