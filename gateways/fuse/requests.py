"""What a request of the kernel brings along and what it is answered with, whichever loop carries it.

``operations`` is written in these terms; a session translates them to its library's or to the kernel's own.
Inode numbers are the kernel's (its root is 1), names are bytes, times are in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

ROOT = 1
"""The kernel's number of the folder that the mount shows."""


class Refused(Exception):
    """The request is answered with this errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Caller(NamedTuple):
    """On whose behalf the kernel asks."""

    uid: int
    gid: int


class Node(NamedTuple):
    """An inode as stat(2) shows it."""

    ino: int
    mode: int
    """With the bits of its type."""
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Opened(NamedTuple):
    handle: int
    keep_cache: bool
    """The pages that the kernel holds of the file are right."""
    writable: bool


class OpenedFolder(NamedTuple):
    handle: int
    may_be_kept: bool
    """The kernel may answer with the listing that it has kept, or keep the one it gets."""


class Room(NamedTuple):
    """What statfs(2) tells; ``blocks`` and ``free`` in units of ``block_size`` bytes."""

    block_size: int
    blocks: int
    free: int
    longest_name: int


AddEntry = Callable[[bytes, Node, int], bool]
"""Takes one entry of a folder (name, node, cookie of the next entry); False when the reply has no room for it."""
