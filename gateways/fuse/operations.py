"""FUSE requests translated to ``vfs.core`` and its answers back. No meaning of its own.

Inode numbers are the core's, except that the kernel's root (1) is whichever folder the mount shows. The core
keeps removed inodes as tombstones, so look-up counts are not kept here. What is kept: open files and folders, and
which contents the kernel's page cache may be believed to hold.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import stat
import unicodedata
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio

from serpentfs.bridge import urgent
from serpentfs.errors import AlreadyExists, IntegrityError, NotFound, SerpentError, Unsupported
from serpentfs.gateways.fuse.errnos import errno_of
from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.gateways.fuse.notifier import Notifier
from serpentfs.gateways.fuse.requests import ROOT, AddEntry, Caller, Node, Opened, OpenedFolder, Refused, Room
from serpentfs.logs import MAX_VERBOSE, begin_request
from serpentfs.model import Attributes, ContentId, HandleId, Ino, Kind
from serpentfs.vfs.core import Invalidation, RenameMode, SetAttributes, Vfs

log = logging.getLogger(__name__)

DOOR = "mount"

_P = ParamSpec("_P")
_T = TypeVar("_T")

_TYPE_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}

BLKSIZE = 64 * 1024
"""st_blksize, which stdio takes for its buffers: without the write-back cache each flush of a buffer is a request.
Just under the size from which malloc asks the kernel for every single buffer."""

_TOLD_WITHIN, _TELLING_TAKES = 1.0, 0.0005
"""Seconds that opening a file waits for the kernel to be told of its change, and between two looks."""

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
"""Flags of renameat2(2), as linux/fs.h has them."""

_STATFS_UNIT = 4096
_UNKNOWN_SPACE = 1 << 50
"""Shown as free where the store does not tell: programs refuse to write to a disk with nothing free."""

_DOT, _DOTDOT, _COOKIE_OFFSET = 1, 2, 2
"""Readdir cookies: 1 after ".", 2 after "..", inode + 2 after an entry (inode 1, the root, is never an entry)."""


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _answer(
    handler: Callable[Concatenate[Operations, _P], Coroutine[Any, Any, _T]], *, changes: bool = False
) -> Callable[Concatenate[Operations, _P], Coroutine[Any, Any, _T]]:
    """Turn whatever a handler raises into Refused: anything else would end the mount. What is left to the session is a
    cancelled request: it must be answered, too. It may hold a page lock that the notifier's thread waits for, and
    that thread holds the connection open: left without an answer, both would stay for ever, and SIGKILL ends
    neither.
    """

    @functools.wraps(handler)
    async def answering(self: Operations, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        urgent()
        begin_request(DOOR)
        if log.isEnabledFor(MAX_VERBOSE):
            log.log(MAX_VERBOSE, "%s", handler.__name__)
        if self.closing:
            raise Refused(errno.ENOTCONN)
        if changes and self.read_only:
            raise Refused(errno.EROFS)
        try:
            return await handler(self, *args, **kwargs)
        except Refused:
            raise
        except SerpentError as error:
            if isinstance(error, IntegrityError):
                log.error("%s: %s", handler.__name__, error)
            else:
                log.debug("%s: %s: %s", handler.__name__, type(error).__name__, error)
            raise Refused(errno_of(error)) from error
        except Exception as error:
            log.exception("%s failed", handler.__name__)
            raise Refused(errno.EIO) from error

    return answering


def _changing(
    handler: Callable[Concatenate[Operations, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Operations, _P], Coroutine[Any, Any, _T]]:
    """``_answer`` for a handler that changes something: EROFS on a read-only mount, also if root remounts it."""
    return _answer(handler, changes=True)


def _of_inode(
    handler: Callable[Concatenate[Operations, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Operations, _P], Coroutine[Any, Any, _T]]:
    """For a handler that is given an inode and no name: one that is gone is ESTALE, not ENOENT. Another door may
    just have put another file under the name; on ESTALE the kernel looks the name up anew and tries once more."""

    @functools.wraps(handler)
    async def asking(self: Operations, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await handler(self, *args, **kwargs)
        except NotFound as error:
            raise Refused(errno.ESTALE) from error

    return asking


@dataclass(slots=True)
class _OpenFile:
    ino: Ino
    append: bool
    wrote: bool = False
    """Since the last flush."""


@dataclass(slots=True)
class _OpenFolder:
    ino: Ino
    may_be_kept: bool
    page: int = 32
    """How many entries the last reply held: as many are asked for next time."""


class Operations:
    """One mount of one folder of a Vfs."""

    def __init__(self, vfs: Vfs, options: MountOptions, notifier: Notifier, *, owner: tuple[int, int]) -> None:
        """``owner``: who mounts, (uid, gid). Raises NotFound, NotADirectory when ``options.root`` is no folder."""
        self.ready = trio.Event()
        self.writes_begun = self.writes_in_flight = 0
        self.closing = False
        """Set when the mount ends: every request is answered with ENOTCONN from then on."""
        self.read_only = options.wants_read_only or vfs.read_only
        self._vfs = vfs
        self._notifier = notifier
        self.timeout = options.attribute_timeout
        """Seconds for which the kernel may believe attributes and names, also that there is nothing."""
        self._uid = owner[0] if options.uid is None else options.uid
        self._gid = owner[1] if options.gid is None else options.gid
        self._creators_own = options.uid is None
        self._file_mode = 0o666 & ~options.umask
        self._folder_mode = 0o777 & ~options.umask
        self._root = vfs.resolve(options.root).ino
        vfs.readdir(self._root, limit=1)  # NotADirectory
        self._files: dict[HandleId, _OpenFile] = {}
        self._folders: dict[int, _OpenFolder] = {}
        self._folder_handles = itertools.count(1)
        # Which content of an inode the kernel's page cache holds pages of, if any. An entry appears when the file
        # is opened (the kernel then drops other pages), follows our own writes, which went through that cache,
        # and goes when somebody else changes the content.
        self._cached: dict[Ino, tuple[ContentId, int]] = {}
        # Listings that the kernel keeps, see ``opendir``: by folder, its time of change when the listing was begun;
        # folders with an open handle that may use or make one; those that somebody else has changed something of,
        # which the kernel may not have been told yet.
        self._listed: dict[Ino, int] = {}
        self._keeping: set[Ino] = set()
        self._behind: set[Ino] = set()

    def init(self) -> None:
        """The kernel begins to ask."""
        self.ready.set()

    # --- translation

    def _ino(self, kernel_ino: int) -> Ino:
        return self._root if kernel_ino == ROOT else Ino(kernel_ino)

    def _kernel_ino(self, ino: Ino) -> int:
        return ROOT if ino == self._root else ino

    def _node(self, attributes: Attributes) -> Node:
        kind, mode = attributes.kind, attributes.mode
        if kind is Kind.SYMLINK:
            mode = 0o777
        elif mode is None:
            mode = self._folder_mode if kind is Kind.DIRECTORY else self._file_mode
        return Node(
            self._kernel_ino(attributes.ino),
            _TYPE_BITS[kind] | mode,
            attributes.nlink,
            self._uid if attributes.uid is None else attributes.uid,
            self._gid if attributes.gid is None else attributes.gid,
            attributes.size,
            attributes.atime_ns,
            attributes.mtime_ns,
            attributes.ctime_ns,
        )

    async def _owned(self, created: Attributes, caller: Caller) -> Attributes:
        """A new entry, given to its creator unless that is who owns entries anyway; in a folder with the set-group-ID
        bit to the folder's group, and a folder with that bit, too (inode(7))."""
        folder = self._vfs.getattr(created.parent)
        hands_on = folder.mode is not None and folder.mode & stat.S_ISGID
        is_owners = not self._creators_own or caller == (self._uid, self._gid)
        if is_owners and not hands_on:
            return created
        owner = SetAttributes() if is_owners else SetAttributes(uid=caller.uid, gid=caller.gid)
        if hands_on:
            owner = replace(owner, gid=self._gid if folder.gid is None else folder.gid)
            if created.kind is Kind.DIRECTORY:
                mode = self._folder_mode if created.mode is None else created.mode
                owner = replace(owner, mode=mode | stat.S_ISGID)
        return await self._vfs.setattr(created.ino, owner, door=DOOR)

    def on_invalidation(self, invalidation: Invalidation) -> None:
        """A listener for ``Vfs.subscribe``: what others changed, told to the kernel."""
        if invalidation.origin == DOOR:
            return
        if invalidation.ino is not None:
            if invalidation.data:
                self._cached.pop(invalidation.ino, None)
            self._notifier.inode_changed(self._kernel_ino(invalidation.ino), data=invalidation.data)
            self._listing_changed(invalidation.ino)
        if invalidation.entry is not None:
            parent, name = invalidation.entry
            self._listing_changed(parent)
            self._notifier.entry_changed(self._kernel_ino(parent), _encode(name))
            self._other_forms_changed(self._kernel_ino(parent), _encode(name))

    def _other_forms_changed(self, parent: int, name: bytes) -> None:
        """The kernel takes each normal form of a name for a name of its own, and knows of a change of this one only."""
        if not name.isascii():
            shown = _decode(name)
            for form in {unicodedata.normalize("NFC", shown), unicodedata.normalize("NFD", shown)} - {shown}:
                self._notifier.entry_changed(parent, _encode(form))

    def _listing_changed(self, folder: Ino) -> None:
        """Something changed in a folder behind the kernel's back, or where it lies. The new time of change tells the
        kernel that what it has kept is old; where that did not change, what it kept is dropped. (Only then: a listing
        that it had kept one half of could not be kept again.)"""
        if folder in self._listed:
            self._behind.add(folder)
            data = self._listed[folder] == self._time_of_change(folder)
            self._notifier.inode_changed(self._kernel_ino(folder), data=data)

    def _time_of_change(self, folder: Ino) -> int:
        try:
            return self._vfs.getattr(folder).mtime_ns
        except NotFound:
            return 0

    # --- look-ups and attributes

    @_answer
    async def lookup(self, parent: int, name: bytes) -> Node | None:
        """None: there is nothing, which the kernel may remember."""
        try:
            return self._node(self._vfs.lookup(self._ino(parent), _decode(name)).attributes)
        except NotFound:
            if len(name) > self._vfs.capabilities.longest_name_bytes:
                raise Refused(errno.ENAMETOOLONG) from None
            return None

    def forget(self, inodes: Iterable[int]) -> None:
        """The kernel no longer holds these."""
        for inode in inodes:
            # With the inode go its pages. Should the kernel still hold some, one cache is dropped for nothing.
            ino = self._ino(inode)
            self._cached.pop(ino, None)
            self._listed.pop(ino, None)
            self._behind.discard(ino)

    @_answer
    @_of_inode
    async def getattr(self, inode: int) -> Node:
        ino = self._ino(inode)
        self._behind.discard(ino)
        return self._node(self._vfs.getattr(ino))

    @_changing
    @_of_inode
    async def setattr(self, inode: int, changes: SetAttributes, handle: int | None) -> Node:
        ino = self._ino(inode)
        attributes = await self._vfs.setattr(ino, changes, None if handle is None else HandleId(handle), door=DOOR)
        if changes.size is not None:
            self._cache_follows(attributes)
        return self._node(attributes)

    def mode_without_set_ids(self, inode: int) -> int | None:
        """What is left of a file's mode when it is given away, or its content changed by somebody without CAP_FSETID;
        None: all of it. As in Linux, set-group-ID without the right to execute is something else and stays."""
        try:
            attributes = self._vfs.getattr(self._ino(inode))
        except NotFound:
            return None  # what is about to be done will find that out
        mode = attributes.mode
        if mode is None or attributes.kind is not Kind.FILE:
            return None
        kept = mode & ~(stat.S_ISUID | stat.S_ISGID if mode & stat.S_IXGRP else stat.S_ISUID)
        return None if kept == mode else kept

    async def take_set_ids(self, inode: int) -> None:
        """Before a file's content is changed by somebody without CAP_FSETID. (Not ``_answer``: it comes before every
        write of such users, and most files have nothing to be taken.)"""
        mode = self.mode_without_set_ids(inode)
        if mode is not None:
            await self.setattr(inode, SetAttributes(mode=mode), None)
            self._notifier.inode_changed(inode, data=False)

    @_answer
    @_of_inode
    async def readlink(self, inode: int) -> bytes:
        return _encode(self._vfs.readlink(self._ino(inode)))

    @_answer
    async def statfs(self) -> Room:
        quota = self._vfs.statfs()
        used = quota.used or 0
        free = quota.free
        if free is None:
            free = _UNKNOWN_SPACE if quota.total is None else max(quota.total - used, 0)
        total = used + free if quota.total is None else quota.total
        return Room(
            _STATFS_UNIT, total // _STATFS_UNIT, free // _STATFS_UNIT, self._vfs.capabilities.longest_name_bytes
        )

    # --- namespace

    @_changing
    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Node:
        created = await self._vfs.mkdir(self._ino(parent), _decode(name), stat.S_IMODE(mode), door=DOOR)
        self._other_forms_changed(parent, name)
        return self._node(await self._owned(created, caller))

    @_changing
    async def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Node:
        if not stat.S_ISREG(mode):
            raise Refused(errno.EPERM)
        created, handle = await self._vfs.create(
            self._ino(parent), _decode(name), stat.S_IMODE(mode), exclusive=True, door=DOOR
        )
        try:
            self._other_forms_changed(parent, name)
            created = await self._owned(created, caller)
        finally:
            await self._vfs.release(handle)
        return self._node(created)

    @_changing
    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Node:
        try:
            created = await self._vfs.symlink(self._ino(parent), _decode(name), _decode(target), door=DOOR)
        except Unsupported as error:
            raise Refused(errno.EPERM) from error  # what symlink(2) says of such filesystems
        self._other_forms_changed(parent, name)
        return self._node(await self._owned(created, caller))

    @_changing
    async def link(self, inode: int, new_parent: int, new_name: bytes) -> Node:
        raise Refused(errno.EPERM)

    @_changing
    async def unlink(self, parent: int, name: bytes) -> None:
        await self._vfs.unlink(self._ino(parent), _decode(name), door=DOOR)
        self._other_forms_changed(parent, name)

    @_changing
    async def rmdir(self, parent: int, name: bytes) -> None:
        await self._vfs.rmdir(self._ino(parent), _decode(name), door=DOOR)
        self._other_forms_changed(parent, name)

    @_changing
    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        modes = {
            0: RenameMode.REPLACE,
            RENAME_NOREPLACE: RenameMode.NO_REPLACE,
            RENAME_EXCHANGE: RenameMode.EXCHANGE,
        }
        if flags not in modes:
            raise Refused(errno.EINVAL)
        source, target = (self._ino(parent), _decode(name)), (self._ino(new_parent), _decode(new_name))
        moved: list[Ino] = []
        if new_parent != parent:  # ".." is in a kept listing, too
            for place in (source, target):
                with contextlib.suppress(NotFound):
                    moved.append(self._vfs.lookup(*place).attributes.ino)
        await self._vfs.rename(*source, *target, modes[flags], door=DOOR)
        self._other_forms_changed(parent, name)
        self._other_forms_changed(new_parent, new_name)
        for ino in moved:
            self._listing_changed(ino)

    # --- open files

    def _opened(self, handle: HandleId, attributes: Attributes, flags: int, *, writable: bool) -> Opened:
        now = (attributes.content, attributes.generation)
        keep_cache = self._cached.get(attributes.ino) == now
        self._cached[attributes.ino] = now
        self._files[handle] = _OpenFile(attributes.ino, append=bool(flags & os.O_APPEND))
        return Opened(handle, keep_cache, writable)

    def _cache_follows(self, attributes: Attributes) -> None:
        """This content came about through the kernel, so its pages are as good as before."""
        if attributes.ino in self._cached:
            self._cached[attributes.ino] = (attributes.content, attributes.generation)

    @_answer
    @_of_inode
    async def open(self, inode: int, flags: int) -> Opened:
        truncate = bool(flags & os.O_TRUNC)
        write = truncate or flags & os.O_ACCMODE != os.O_RDONLY  # O_RDONLY | O_TRUNC truncates, too
        if self.read_only and write:
            raise Refused(errno.EROFS)
        if self._notifier.is_behind(inode):
            await self._until_told(inode)
        handle = await self._vfs.open(self._ino(inode), write=write, truncate=truncate, door=DOOR)
        return self._opened(handle, self._vfs.attributes_of(handle), flags, writable=write)

    async def _until_told(self, inode: int) -> None:
        """A content that the kernel does not know of yet would be shown in the size of the one before. Whether its
        notices come through at all is the watchdog's affair."""
        with trio.move_on_after(_TOLD_WITHIN):
            while self._notifier.is_behind(inode):  # noqa: ASYNC110 - a thread tells, and milliseconds later
                await trio.sleep(_TELLING_TAKES)

    @_changing
    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Opened, Node]:
        folder, shown = self._ino(parent), _decode(name)
        try:
            attributes, handle = await self._vfs.create(folder, shown, stat.S_IMODE(mode), exclusive=True, door=DOOR)
        except AlreadyExists:  # somebody else was faster
            if flags & os.O_EXCL:
                raise
            ino = self._vfs.lookup(folder, shown).attributes.ino
            handle = await self._vfs.open(ino, write=True, truncate=bool(flags & os.O_TRUNC), door=DOOR)
            attributes = self._vfs.attributes_of(handle)
            return self._opened(handle, attributes, flags, writable=True), self._node(attributes)
        try:
            self._other_forms_changed(parent, name)
            attributes = await self._owned(attributes, caller)
            return self._opened(handle, attributes, flags, writable=True), self._node(attributes)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._vfs.release(handle)
            raise

    @_answer
    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:
        handle = HandleId(fh)
        data = self._vfs.read_nowait(handle, off, size)
        if data is not None:
            return data
        ino = self._kernel_ino(self._files[handle].ino)
        self._notifier.read_began(ino)
        try:
            return await self._vfs.read(handle, off, size)
        finally:
            self._notifier.read_ended(ino)

    @_changing
    async def write(self, fh: int, off: int, data: bytes | memoryview, append: bool | None = None) -> int:
        """``append``: whether this very write goes to the end, which a program can change, and which what is mapped
        never does; None: as the file was opened. ``data`` is not looked at any more when this has returned."""
        handle = HandleId(fh)
        file = self._files[handle]
        append = file.append if append is None else append
        self.writes_begun += 1
        self.writes_in_flight += 1
        try:
            written = await self._vfs.write(handle, None if append else off, data)
        finally:
            self.writes_in_flight -= 1
            file.wrote = True
        if append and self._vfs.attributes_of(handle).size != off + written:
            # Somebody else appended, too. The kernel has put these bytes where it took the end to be.
            self._cached.pop(file.ino, None)
            self._notifier.inode_changed(self._kernel_ino(file.ino), data=True)
        return written

    @_answer
    async def flush(self, fh: int) -> None:
        await self._vfs.flush(HandleId(fh))
        self._note_own_writes(HandleId(fh))

    @_answer
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._vfs.fsync(HandleId(fh))

    @_answer
    async def release(self, fh: int) -> None:
        handle = HandleId(fh)
        self._note_own_writes(handle)
        try:
            await self._vfs.release(handle)
        except trio.Cancelled:
            raise  # not closed: ``release_all`` will
        except BaseException:
            del self._files[handle]
            raise
        del self._files[handle]

    def _note_own_writes(self, handle: HandleId) -> None:
        file = self._files[handle]
        if file.wrote:
            file.wrote = False
            self._cache_follows(self._vfs.attributes_of(handle))

    async def release_all(self) -> None:
        """Close what the kernel left open when the mount ended. Failures are logged: nobody is left to be told."""
        while self._files:
            handle, file = self._files.popitem()
            try:
                await self._vfs.release(handle)
            except Exception:
                log.exception("closing inode %d, which the mount left open", file.ino)

    # --- open folders

    @_answer
    async def opendir(self, inode: int) -> OpenedFolder:
        """The kernel takes a kept listing for right while the folder's time of change is what it was when that was
        begun, and it has changed nothing there itself. So a listing must not be begun by one and gone on with by
        another, who knows of a later time: only one handle at a time may use it or make it, the others get theirs from
        here. Nor is it used while the kernel may not know of a change (before it asks for the new time, or any)."""
        ino = self._ino(inode)
        handle = next(self._folder_handles)
        may_be_kept = ino not in self._keeping and ino not in self._behind
        if may_be_kept:
            self._keeping.add(ino)
        self._folders[handle] = _OpenFolder(ino, may_be_kept)
        return OpenedFolder(handle, may_be_kept)

    @_answer
    @_of_inode
    async def readdir(self, fh: int, start_id: int, add: AddEntry) -> None:
        """Give ``add`` the entries after the cookie ``start_id`` until it takes no more."""
        folder = self._folders[fh]
        if start_id < _DOT and folder.may_be_kept:
            self._listed[folder.ino] = self._time_of_change(folder.ino)
        if start_id < _DOT and not self._add_dot(add, b".", folder.ino, _DOT):
            return
        if start_id < _DOTDOT:
            parent = folder.ino if folder.ino == self._root else self._vfs.getattr(folder.ino).parent
            if not self._add_dot(add, b"..", parent, _DOTDOT):
                return
        after = max(start_id - _COOKIE_OFFSET, 0)
        replied = 0
        # One entry more than the last reply took, so that it is full again; read at once and not kept, because
        # a reply that holds attributes must not hold old ones.
        while entries := self._vfs.readdir(folder.ino, after, folder.page + 1):
            for entry in entries:
                after = entry.attributes.ino
                if not add(_encode(entry.name), self._node(entry.attributes), after + _COOKIE_OFFSET):
                    folder.page = max(replied, 1)
                    return
                replied += 1

    def _add_dot(self, add: AddEntry, name: bytes, ino: Ino, cookie: int) -> bool:
        return add(name, self._node(self._vfs.getattr(ino)), cookie)

    @_answer
    async def releasedir(self, fh: int) -> None:
        folder = self._folders.pop(fh)
        if folder.may_be_kept:
            self._keeping.discard(folder.ino)

    @_answer
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._vfs.fsync_directory(self._folders[fh].ino)

    # --- extended attributes

    @_answer
    async def getxattr(self, inode: int, name: bytes) -> bytes:
        # The kernel asks for security.capability before writes to a file, ls for ACLs and labels.
        # EOPNOTSUPP, unlike ENODATA, also keeps ls from asking for each file. ENOSYS would end user.*, too.
        if not name.startswith(b"user."):
            raise Refused(errno.EOPNOTSUPP)
        try:
            return self._vfs.getxattr(self._ino(inode), _decode(name))
        except NotFound:
            raise Refused(errno.ENODATA) from None

    @_answer
    @_of_inode
    async def listxattr(self, inode: int) -> list[bytes]:
        return [_encode(name) for name in self._vfs.listxattr(self._ino(inode))]

    @_changing
    @_of_inode
    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        # XATTR_CREATE and XATTR_REPLACE are the session's business: it asks getxattr first.
        await self._vfs.setxattr(self._ino(inode), _decode(name), value)

    @_changing
    async def removexattr(self, inode: int, name: bytes) -> None:
        try:
            await self._vfs.removexattr(self._ino(inode), _decode(name))
        except NotFound:
            raise Refused(errno.ENODATA) from None
