"""pyfuse3's request loop: mount, answer, unmount.

pyfuse3 keeps its session in module variables, so a process has one mount at a time, and ``invalidate_*`` after
``close`` would be a crash: the notifier must have stopped by then.
"""

from __future__ import annotations

import errno
import functools
import logging
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from serpentfs.errors import Busy, UsageError
from serpentfs.gateways.fuse import complaints
from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.gateways.fuse.operations import BLKSIZE, Operations
from serpentfs.gateways.fuse.requests import Caller, Node, Opened, Refused
from serpentfs.vfs.core import SetAttributes

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_taken = False


class PyfuseSession:
    """One mount by pyfuse3. Use in order: ``mount``, ``run``, ``close``."""

    def __init__(self) -> None:
        self._open = False

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> None:
        """As in ``Session``. Raises Busy when this process has a mount of this kind."""
        global _taken
        if _taken:
            raise Busy("this process has a mount already; bind-mount that one to show it in a second place")
        failure: RuntimeError | None = None
        with complaints.listening() as heard:
            try:
                pyfuse3.init(_Handlers(operations), mountpoint, options.for_libfuse(read_only=operations.read_only))
            except RuntimeError as error:
                failure = error
        if failure is not None:
            raise UsageError(f"cannot mount {mountpoint}: {'; '.join(heard) or failure}") from failure
        for line in heard:
            log.warning("libfuse: %s", line)
        _taken = self._open = True

    async def run(self) -> None:
        # Handlers waiting for the cloud hold a task each; the kernel sends only so many reads at a time by itself.
        await pyfuse3.main(max_tasks=512)

    def close(self) -> None:
        global _taken
        if self._open:
            self._open = _taken = False
            pyfuse3.close(unmount=False)

    # KernelCaches, for the notifier's thread

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=not data)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))


def _refusing(
    handler: Callable[Concatenate[_Handlers, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Handlers, _P], Coroutine[Any, Any, _T]]:
    """Anything but FUSEError would end the mount. A cancelled request is answered, too; its task is cancelled again
    where it waits for the next one."""

    @functools.wraps(handler)
    async def refusing(self: _Handlers, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await handler(self, *args, **kwargs)
        except Refused as refused:
            raise FUSEError(refused.errno) from refused
        except trio.Cancelled:
            raise FUSEError(errno.ENOTCONN) from None

    return refusing


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid)


class _Handlers(pyfuse3.Operations):
    """``Operations`` in pyfuse3's terms."""

    supports_dot_lookup = False

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._timeout = operations.timeout

    def init(self) -> None:
        self._operations.init()

    def _entry(self, node: Node) -> EntryAttributes:
        entry = EntryAttributes()
        entry.attr_timeout = entry.entry_timeout = self._timeout
        entry.st_ino = InodeT(node.ino)
        entry.st_mode = ModeT(node.mode)
        entry.st_nlink = node.nlink
        entry.st_uid = node.uid
        entry.st_gid = node.gid
        entry.st_size = node.size
        entry.st_blksize = BLKSIZE
        entry.st_blocks = (node.size + 511) // 512
        entry.st_atime_ns = node.atime_ns
        entry.st_mtime_ns = node.mtime_ns
        entry.st_ctime_ns = node.ctime_ns
        return entry

    @_refusing
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        node = await self._operations.lookup(parent_inode, name)
        if node is not None:
            return self._entry(node)
        absent = EntryAttributes()
        absent.st_ino = InodeT(0)  # so that the kernel remembers that there is nothing
        absent.entry_timeout = self._timeout
        return absent

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self._operations.forget(inode for inode, _ in inode_list)

    @_refusing
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._operations.getattr(inode))

    @_refusing
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = SetAttributes(
            size=attr.st_size if fields.update_size else None,
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(await self._operations.setattr(inode, changes, fh))

    @_refusing
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self._operations.readlink(inode))

    @_refusing
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        room = await self._operations.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = room.block_size
        data.f_blocks = room.blocks
        data.f_bfree = data.f_bavail = room.free
        data.f_namemax = room.longest_name
        return data

    @_refusing
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._operations.mkdir(parent_inode, name, mode, _caller(ctx)))

    @_refusing
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._operations.mknod(parent_inode, name, mode, _caller(ctx)))

    @_refusing
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._operations.symlink(parent_inode, name, target, _caller(ctx)))

    @_refusing
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._operations.link(inode, new_parent_inode, new_name))

    @_refusing
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._operations.unlink(parent_inode, name)

    @_refusing
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._operations.rmdir(parent_inode, name)

    @_refusing
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self._operations.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @staticmethod
    def _opened(opened: Opened) -> FileInfo:
        return FileInfo(fh=FileHandleT(opened.handle), keep_cache=opened.keep_cache)

    @_refusing
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._opened(await self._operations.open(inode, flags))

    @_refusing
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        opened, node = await self._operations.create(parent_inode, name, mode, flags, _caller(ctx))
        return self._opened(opened), self._entry(node)

    # pyfuse3 is content with anything that has the buffer interface, whatever its annotation says.
    @_refusing
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        return await self._operations.read(fh, off, size)

    @_refusing
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._operations.write(fh, off, buf)

    @_refusing
    async def flush(self, fh: FileHandleT) -> None:
        await self._operations.flush(fh)

    @_refusing
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._operations.fsync(fh, datasync)

    @_refusing
    async def release(self, fh: FileHandleT) -> None:
        await self._operations.release(fh)

    @_refusing
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        opened = await self._operations.opendir(inode)  # pyfuse3 cannot say that a listing may be kept
        return FileHandleT(opened.handle)

    @_refusing
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        def add(name: bytes, node: Node, cookie: int) -> bool:
            return pyfuse3.readdir_reply(token, FileNameT(name), self._entry(node), cookie)

        await self._operations.readdir(fh, start_id, add)

    @_refusing
    async def releasedir(self, fh: FileHandleT) -> None:
        await self._operations.releasedir(fh)

    @_refusing
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._operations.fsyncdir(fh, datasync)

    @_refusing
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return await self._operations.getxattr(inode, name)

    @_refusing
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in await self._operations.listxattr(inode)]

    @_refusing
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        await self._operations.setxattr(inode, name, value)

    @_refusing
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._operations.removexattr(inode, name)
