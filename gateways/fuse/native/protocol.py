"""The kernel's FUSE protocol, version 7.31: numbers and layouts, as its public header linux/fuse.h has them.

Every message begins with a header; all numbers have the machine's byte order, and every field lies where its size
aligns it, so that the layouts need no padding. "In" is what the kernel says, "out" what it is answered.
"""

from __future__ import annotations

import enum
import mmap
import struct
from struct import Struct
from typing import NamedTuple

MAJOR, MINOR = 7, 31
"""What is spoken here. The kernel speaks the older one of its own version and this."""

IN_HEADER = Struct("=IIQQIIIHH")
"""Length of the whole, opcode, unique, inode, uid, gid, pid, length of extensions, nothing."""
OUT_HEADER = Struct("=IiQ")
"""Length of the whole, negative errno (in a notice: its code), unique (in a notice: 0)."""


class Opcode(enum.IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


class Notice(enum.IntEnum):
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4


class InitFlag(enum.IntFlag):
    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    HANDLE_KILLPRIV_V2 = 1 << 28


class SetattrField(enum.IntEnum):
    """Which fields of SETATTR count: bits. (Not an IntFlag: a dozen are looked at for each request, and it makes an
    object of each answer.)"""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    HANDLE = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


OPEN_KEEP_CACHE, OPEN_CACHE_DIR, OPEN_NOFLUSH = 1 << 1, 1 << 3, 1 << 5
OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID = 1 << 0, 1 << 2
"""Of OPEN (that truncates) and WRITE: who asks may not keep the file's set-user-ID and set-group-ID bits."""
FSYNC_DATA = 1 << 0
XATTR_CREATE, XATTR_REPLACE = 1, 2

INIT_IN = Struct("=IIII")
"""Major, minor, largest read-ahead, flags."""
INIT_OUT = Struct("=IIIIHHIIHHI28x")
"""Major, minor, largest read-ahead, flags, background requests at most, and from how many on the kernel takes it for
congested, largest write, granularity of times in ns, pages of a request at most, two things that are not used."""
NUMBER = Struct("=Q")
"""Body of FORGET (a count), LINK and RENAME (a folder), RELEASEDIR's and others' beginning (a handle)."""
PAIR = Struct("=II")
"""Body of BATCH_FORGET (how many follow), MKDIR (mode), OPEN (flags, and flags of the kernel's own), GETXATTR (size),
SETXATTR (size, flags)."""
FORGET_ONE = Struct("=QQ")
"""Inode, look-ups that are forgotten."""
SETATTR_IN = Struct("=I4xQQQqqqIIIIIII4x")
"""Fields that count, handle, size, lock owner, atime, mtime, ctime, their nanoseconds, mode, nothing, uid, gid."""
MKNOD_IN = Struct("=IIII")
"""Mode, device, umask, nothing."""
RENAME2_IN = Struct("=QI4x")
"""New folder, flags."""
CREATE_IN = Struct("=IIII")
"""Flags, mode, umask, what to do besides."""
READ_IN = Struct("=QQI")
"""Handle, offset, size: of READ and READDIR."""
WRITE_IN = Struct("=QQIIQI4x")
"""Handle, offset, size, flags of the kernel's own, lock owner, flags of the open file (none when it is the kernel that
writes mapped pages back): precedes the data of a WRITE."""
FSYNC_IN = Struct("=QI4x")
"""Handle, flags."""

_ATTR = "QQQqqqIIIIIIIIII"
"""Inode, size, blocks of 512 bytes, atime, mtime, ctime, their nanoseconds, mode, links, uid, gid, device, block size,
flags. The seconds of times count down before 1970."""
_ENTRY = "QQQQII" + _ATTR
_DIRENT = "QQII"
ATTR_OUT = Struct("=IiQ" + "QII" + _ATTR)
"""GETATTR's and SETATTR's whole answer."""
ENTRY_OUT = Struct("=" + _ENTRY)
ENTRY_ANSWER = Struct("=IiQ" + _ENTRY)
"""The whole answer of what makes or finds an entry."""
DIRENT = Struct("=" + _DIRENT)
DIRENT_PLUS = Struct("=" + _ENTRY + _DIRENT)
OPEN_OUT = Struct("=QI4x")
"""Handle, flags."""
WRITE_OUT = Struct("=I4x")
STATFS_OUT = Struct("=QQQQQIII4x24x")
"""Blocks, free, free to users, inodes, free ones, block size, longest name, fragment size."""
GETXATTR_OUT = Struct("=I4x")
INVAL_INODE_OUT = Struct("=Qqq")
"""Inode, offset (negative: the attributes only), length (0: to the end)."""
INVAL_ENTRY_OUT = Struct("=QI4x")
"""Folder, length of the name, which follows with a NUL."""

STORE_OUT = Struct("=QQI4x")
"""Inode, offset, length of the data, which follow."""

MAX_WRITE = 1 << 20
"""Bytes of data of one request."""
BUFFER_SIZE = MAX_WRITE + 4096
"""The kernel wants room for the headers of a WRITE besides, and never sends more than this."""


class Header(NamedTuple):
    length: int
    opcode: int
    unique: int
    inode: int
    uid: int
    gid: int
    pid: int
    """Of the thread that waits; 0 when it is in another pid namespace, or nobody does."""
    extensions: int
    padding: int


def padded(length: int) -> int:
    """The length that a record of a folder's listing takes."""
    return (length + 7) & ~7


def names(data: memoryview, count: int) -> list[bytes]:
    """``count`` names, each with a NUL at its end. ValueError when there are others."""
    found = bytes(data).split(b"\0")
    if len(found) != count + 1 or found.pop():
        raise ValueError("a request has other names than it should")
    return found


def error_answer(unique: int, errno: int) -> bytes:
    """An answer without content; 0 is success."""
    return OUT_HEADER.pack(OUT_HEADER.size, -errno, unique)


def notice(code: Notice, body: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), code, 0) + body


def inval_inode(ino: int, *, data: bool) -> bytes:
    """Attributes, and with ``data`` all pages, of an inode are stale."""
    return notice(Notice.INVAL_INODE, INVAL_INODE_OUT.pack(ino, 0 if data else -1, 0))


def inval_entry(parent: int, name: bytes) -> bytes:
    """What ``name`` means in a folder is stale."""
    return notice(Notice.INVAL_ENTRY, INVAL_ENTRY_OUT.pack(parent, len(name)) + name + b"\0")


def store(ino: int, offset: int, length: int) -> bytes:
    """What comes before ``length`` bytes that the kernel is to keep as pages of an inode."""
    size = OUT_HEADER.size + STORE_OUT.size + length
    return OUT_HEADER.pack(size, Notice.STORE, 0) + STORE_OUT.pack(ino, offset, length)


class Init(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    max_readahead: int
    flags: int


def read_init(body: memoryview) -> Init:
    if len(body) < INIT_IN.size:
        raise struct.error("the kernel's FUSE is older than any that is known here")
    return Init(*INIT_IN.unpack_from(body))


def init_body(init: Init, *, wanted: InitFlag, background: int, congested: int) -> bytes:
    """The answer to INIT: what both sides can of what is ``wanted``; ``background`` requests at a time."""
    pages = MAX_WRITE // mmap.PAGESIZE
    return INIT_OUT.pack(
        MAJOR, MINOR, init.max_readahead, init.flags & wanted, background, congested, MAX_WRITE, 1, pages, 0, 0
    )
