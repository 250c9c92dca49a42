"""One request at a time: from the kernel's layout to a call of ``Operations``, and its answer back.

A handler takes the request's header and body and gives the whole answer, as one buffer or as several to be written in
a row; None where the kernel expects none. The body lies in a buffer that is used again after the answer.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from serpentfs.gateways.fuse.native import protocol
from serpentfs.gateways.fuse.native.protocol import Header, Opcode, SetattrField
from serpentfs.gateways.fuse.operations import BLKSIZE, Operations
from serpentfs.gateways.fuse.requests import Caller, Node, Opened, Refused
from serpentfs.vfs.core import SetAttributes

Buffer: TypeAlias = bytes | bytearray | memoryview
Answer: TypeAlias = Buffer | tuple[Buffer, Buffer] | None
Handler: TypeAlias = Callable[[Header, memoryview], Coroutine[Any, Any, Answer]]

_NS = 1_000_000_000
_MODE_BITS = 0o7777
_DOTS = (b".", b"..")
_OUT_HEADER_SIZE = protocol.OUT_HEADER.size


def content_answer(header: Header, content: Buffer) -> tuple[Buffer, Buffer]:
    """An answer of which nothing but its content is peculiar to the request."""
    return protocol.OUT_HEADER.pack(_OUT_HEADER_SIZE + len(content), 0, header.unique), content


def attribute_fields(node: Node) -> tuple[int, ...]:
    """The fields of ``struct fuse_attr``."""
    ino, mode, nlink, uid, gid, size, atime, mtime, ctime = node
    return (
        ino, size, (size + 511) // 512, atime // _NS, mtime // _NS, ctime // _NS,
        atime % _NS, mtime % _NS, ctime % _NS, mode, nlink, uid, gid, 0, BLKSIZE, 0,
    )  # fmt: skip


def entry_fields(node: Node, timeout: tuple[int, int]) -> tuple[int, ...]:
    """The fields of ``struct fuse_entry_out``; the kernel may keep it for ``timeout``: seconds and nanoseconds."""
    seconds, rest = timeout
    return node.ino, 0, seconds, seconds, rest, rest, *attribute_fields(node)


def entry_answer(header: Header, node: Node, timeout: tuple[int, int]) -> bytes:
    """What makes or finds an entry is answered with it; ``timeout`` as above."""
    return protocol.ENTRY_ANSWER.pack(protocol.ENTRY_ANSWER.size, 0, header.unique, *entry_fields(node, timeout))


def attributes_answer(header: Header, node: Node, timeout: tuple[int, int]) -> bytes:
    """GETATTR's and SETATTR's answer; ``timeout`` as above."""
    return protocol.ATTR_OUT.pack(
        protocol.ATTR_OUT.size, 0, header.unique, *timeout, 0, *attribute_fields(node)
    )


class Dispatch:
    """The handlers of one mount, by opcode."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._timeout = (int(operations.timeout), int(operations.timeout % 1 * _NS))
        seconds, rest = self._timeout
        no_attributes = Node(0, 0, 0, 0, 0, 0, 0, 0, 0)
        self._absent = protocol.ENTRY_OUT.pack(0, 0, seconds, 0, rest, 0, *attribute_fields(no_attributes))
        self.handlers: dict[int, Handler] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.SYMLINK: self._symlink,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename2,
            Opcode.LINK: self._link,
            Opcode.OPEN: self._open,
            Opcode.CREATE: self._create,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FLUSH: self._flush,
            Opcode.FSYNC: self._fsync,
            Opcode.RELEASE: self._release,
            Opcode.STATFS: self._statfs,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.FSYNCDIR: self._fsyncdir,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.SETXATTR: self._setxattr,
            Opcode.REMOVEXATTR: self._removexattr,
        }

    # --- answers

    @staticmethod
    def _done(header: Header) -> bytes:
        return protocol.error_answer(header.unique, 0)

    def _entry_answer(self, header: Header, node: Node) -> bytes:
        return entry_answer(header, node, self._timeout)

    def _attributes_answer(self, header: Header, node: Node) -> bytes:
        return attributes_answer(header, node, self._timeout)

    # --- look-ups and attributes

    async def _lookup(self, header: Header, body: memoryview) -> Answer:
        [name] = protocol.names(body, 1)
        node = await self._operations.lookup(header.inode, name)
        if node is None:
            return content_answer(header, self._absent)
        return self._entry_answer(header, node)

    async def _forget(self, header: Header, body: memoryview) -> None:
        self._operations.forget((header.inode,))

    async def _batch_forget(self, header: Header, body: memoryview) -> None:
        count, _ = protocol.PAIR.unpack_from(body)
        rest = body[protocol.PAIR.size :][: count * protocol.FORGET_ONE.size]
        self._operations.forget(inode for inode, _ in protocol.FORGET_ONE.iter_unpack(rest))

    async def _getattr(self, header: Header, body: memoryview) -> Answer:
        return self._attributes_answer(header, await self._operations.getattr(header.inode))

    async def _setattr(self, header: Header, body: memoryview) -> Answer:
        (
            valid, handle, size, _owner, atime, mtime, _ctime, atime_ns, mtime_ns, _ctime_ns, mode, _, uid, gid,
        ) = protocol.SETATTR_IN.unpack_from(body)  # fmt: skip
        if valid & SetattrField.KILL_SUIDGID or (
            valid & (SetattrField.UID | SetattrField.GID) and not valid & SetattrField.MODE
        ):
            kept = self._operations.mode_without_set_ids(header.inode)
            if kept is not None:
                mode, valid = kept, valid | SetattrField.MODE
        now = time.time_ns()
        atime = now if valid & SetattrField.ATIME_NOW else atime * _NS + atime_ns
        mtime = now if valid & SetattrField.MTIME_NOW else mtime * _NS + mtime_ns
        changes = SetAttributes(
            size=size if valid & SetattrField.SIZE else None,
            mode=mode & _MODE_BITS if valid & SetattrField.MODE else None,
            uid=uid if valid & SetattrField.UID else None,
            gid=gid if valid & SetattrField.GID else None,
            atime_ns=atime if valid & SetattrField.ATIME else None,
            mtime_ns=mtime if valid & SetattrField.MTIME else None,
        )
        on = handle if valid & SetattrField.HANDLE else None
        return self._attributes_answer(header, await self._operations.setattr(header.inode, changes, on))

    async def _readlink(self, header: Header, body: memoryview) -> Answer:
        return content_answer(header, await self._operations.readlink(header.inode))

    async def _statfs(self, header: Header, body: memoryview) -> Answer:
        room = await self._operations.statfs()
        unit = room.block_size
        return content_answer(
            header,
            protocol.STATFS_OUT.pack(room.blocks, room.free, room.free, 0, 0, unit, room.longest_name, unit),
        )

    # --- namespace

    async def _mkdir(self, header: Header, body: memoryview) -> Answer:
        mode, _umask = protocol.PAIR.unpack_from(body)
        [name] = protocol.names(body[protocol.PAIR.size :], 1)
        caller = Caller(header.uid, header.gid)
        return self._entry_answer(header, await self._operations.mkdir(header.inode, name, mode, caller))

    async def _mknod(self, header: Header, body: memoryview) -> Answer:
        mode, _device, _umask, _ = protocol.MKNOD_IN.unpack_from(body)
        [name] = protocol.names(body[protocol.MKNOD_IN.size :], 1)
        caller = Caller(header.uid, header.gid)
        return self._entry_answer(header, await self._operations.mknod(header.inode, name, mode, caller))

    async def _symlink(self, header: Header, body: memoryview) -> Answer:
        name, target = protocol.names(body, 2)
        caller = Caller(header.uid, header.gid)
        return self._entry_answer(header, await self._operations.symlink(header.inode, name, target, caller))

    async def _link(self, header: Header, body: memoryview) -> Answer:
        [inode] = protocol.NUMBER.unpack_from(body)
        [name] = protocol.names(body[protocol.NUMBER.size :], 1)
        return self._entry_answer(header, await self._operations.link(inode, header.inode, name))

    async def _unlink(self, header: Header, body: memoryview) -> Answer:
        [name] = protocol.names(body, 1)
        await self._operations.unlink(header.inode, name)
        return self._done(header)

    async def _rmdir(self, header: Header, body: memoryview) -> Answer:
        [name] = protocol.names(body, 1)
        await self._operations.rmdir(header.inode, name)
        return self._done(header)

    async def _rename(self, header: Header, body: memoryview) -> Answer:
        [folder] = protocol.NUMBER.unpack_from(body)
        name, new_name = protocol.names(body[protocol.NUMBER.size :], 2)
        await self._operations.rename(header.inode, name, folder, new_name, 0)
        return self._done(header)

    async def _rename2(self, header: Header, body: memoryview) -> Answer:
        folder, flags = protocol.RENAME2_IN.unpack_from(body)
        name, new_name = protocol.names(body[protocol.RENAME2_IN.size :], 2)
        await self._operations.rename(header.inode, name, folder, new_name, flags)
        return self._done(header)

    # --- open files

    @staticmethod
    def _opened(opened: Opened) -> bytes:
        flags = protocol.OPEN_KEEP_CACHE if opened.keep_cache else 0
        if not opened.writable:
            flags |= protocol.OPEN_NOFLUSH  # there is nothing to flush: spares a request for each close
        return protocol.OPEN_OUT.pack(opened.handle, flags)

    async def _open(self, header: Header, body: memoryview) -> Answer:
        flags, kernel_flags = protocol.PAIR.unpack_from(body)
        if kernel_flags & protocol.OPEN_KILL_SUIDGID:
            await self._operations.take_set_ids(header.inode)
        return content_answer(header, self._opened(await self._operations.open(header.inode, flags)))

    async def _create(self, header: Header, body: memoryview) -> Answer:
        flags, mode, _umask, _ = protocol.CREATE_IN.unpack_from(body)
        [name] = protocol.names(body[protocol.CREATE_IN.size :], 1)
        caller = Caller(header.uid, header.gid)
        opened, node = await self._operations.create(header.inode, name, mode, flags, caller)
        entry = protocol.ENTRY_OUT.pack(*entry_fields(node, self._timeout))
        return content_answer(header, entry + self._opened(opened))

    async def _read(self, header: Header, body: memoryview) -> Answer:
        handle, offset, size = protocol.READ_IN.unpack_from(body)
        return content_answer(header, await self._operations.read(handle, offset, size))

    async def _write(self, header: Header, body: memoryview) -> Answer:
        handle, offset, size, flags, _owner, open_flags = protocol.WRITE_IN.unpack_from(body)
        if flags & protocol.WRITE_KILL_SUIDGID:
            await self._operations.take_set_ids(header.inode)
        data = body[protocol.WRITE_IN.size :][:size]
        written = await self._operations.write(handle, offset, data, bool(open_flags & os.O_APPEND))
        return content_answer(header, protocol.WRITE_OUT.pack(written))

    async def _flush(self, header: Header, body: memoryview) -> Answer:
        [handle] = protocol.NUMBER.unpack_from(body)
        await self._operations.flush(handle)
        return self._done(header)

    async def _fsync(self, header: Header, body: memoryview) -> Answer:
        handle, flags = protocol.FSYNC_IN.unpack_from(body)
        await self._operations.fsync(handle, bool(flags & protocol.FSYNC_DATA))
        return self._done(header)

    async def _release(self, header: Header, body: memoryview) -> Answer:
        [handle] = protocol.NUMBER.unpack_from(body)
        await self._operations.release(handle)
        return self._done(header)

    # --- open folders

    async def _opendir(self, header: Header, body: memoryview) -> Answer:
        opened = await self._operations.opendir(header.inode)
        flags = protocol.OPEN_KEEP_CACHE
        if opened.may_be_kept:
            flags |= protocol.OPEN_CACHE_DIR
        return content_answer(header, protocol.OPEN_OUT.pack(opened.handle, flags))

    async def _readdir(self, header: Header, body: memoryview) -> Answer:
        handle, cookie, size = protocol.READ_IN.unpack_from(body)
        reply = bytearray()
        record = protocol.DIRENT

        def add(name: bytes, node: Node, next_cookie: int) -> bool:
            length = protocol.padded(record.size + len(name))
            if len(reply) + length > size:
                return False
            reply.extend(record.pack(node.ino, next_cookie, len(name), node.mode >> 12))
            reply.extend(name.ljust(length - record.size, b"\0"))
            return True

        await self._operations.readdir(handle, cookie, add)
        return content_answer(header, reply)

    async def _readdirplus(self, header: Header, body: memoryview) -> Answer:
        handle, cookie, size = protocol.READ_IN.unpack_from(body)
        reply = bytearray()
        record = protocol.DIRENT_PLUS

        def add(name: bytes, node: Node, next_cookie: int) -> bool:
            length = protocol.padded(record.size + len(name))
            if len(reply) + length > size:
                return False
            # The kernel takes no entry for the dots, and so would never forget it.
            entry = entry_fields(node._replace(ino=0) if name in _DOTS else node, self._timeout)
            reply.extend(record.pack(*entry, node.ino, next_cookie, len(name), node.mode >> 12))
            reply.extend(name.ljust(length - record.size, b"\0"))
            return True

        await self._operations.readdir(handle, cookie, add)
        return content_answer(header, reply)

    async def _releasedir(self, header: Header, body: memoryview) -> Answer:
        [handle] = protocol.NUMBER.unpack_from(body)
        await self._operations.releasedir(handle)
        return self._done(header)

    async def _fsyncdir(self, header: Header, body: memoryview) -> Answer:
        handle, flags = protocol.FSYNC_IN.unpack_from(body)
        await self._operations.fsyncdir(handle, bool(flags & protocol.FSYNC_DATA))
        return self._done(header)

    # --- extended attributes

    def _sized(self, header: Header, size: int, value: bytes) -> Answer:
        """A value for who said how much room there is; 0 asks how much it takes."""
        if not size:
            return content_answer(header, protocol.GETXATTR_OUT.pack(len(value)))
        if len(value) > size:
            raise Refused(errno.ERANGE)
        return content_answer(header, value)

    async def _getxattr(self, header: Header, body: memoryview) -> Answer:
        size, _ = protocol.PAIR.unpack_from(body)
        [name] = protocol.names(body[protocol.PAIR.size :], 1)
        return self._sized(header, size, await self._operations.getxattr(header.inode, name))

    async def _listxattr(self, header: Header, body: memoryview) -> Answer:
        size, _ = protocol.PAIR.unpack_from(body)
        found = await self._operations.listxattr(header.inode)
        return self._sized(header, size, b"".join(name + b"\0" for name in found))

    async def _setxattr(self, header: Header, body: memoryview) -> Answer:
        size, flags = protocol.PAIR.unpack_from(body)
        rest = bytes(body[protocol.PAIR.size :])
        name, _, value = rest.partition(b"\0")
        if len(value) != size:
            raise ValueError("a value of another length than the request says")
        if flags & protocol.XATTR_REPLACE:
            await self._operations.getxattr(header.inode, name)
        elif flags & protocol.XATTR_CREATE and await self._has_xattr(header.inode, name):
            raise Refused(errno.EEXIST)
        await self._operations.setxattr(header.inode, name, value)
        return self._done(header)

    async def _has_xattr(self, inode: int, name: bytes) -> bool:
        try:
            await self._operations.getxattr(inode, name)
        except Refused as refused:
            if refused.errno != errno.ENODATA:
                raise
            return False
        return True

    async def _removexattr(self, header: Header, body: memoryview) -> Answer:
        [name] = protocol.names(body, 1)
        await self._operations.removexattr(header.inode, name)
        return self._done(header)
