"""Blocking file operations below one folder: durable, and never through a symbolic link.

A key is walked component by component from the root with O_NOFOLLOW, so that a link planted in the store cannot
lead out of it; what follows works relative to the folder's descriptor. Every change is on disk (fsync of the
file, then of its folder) when its function returns. Everything here runs in threads and knows no event loop;
``OSError`` leaves this module only as an error of ``serpentfs.errors``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serpentfs.clouds.blobs.base import ABSENT, BlobInfo, Condition
from serpentfs.clouds.blobs.keys import parts_of, split_key
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    FileTooLarge,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotFound,
    PermissionDenied,
    ReadOnly,
    RevisionGone,
    SerpentError,
    Unavailable,
    Unsupported,
)
from serpentfs.model import Quota, Revision, Span, kept_time

_TEMP_PREFIX, _TEMP_SUFFIX = ".serpentfs-", ".tmp"
ORPHAN_AGE = 24 * 3600.0
"""Seconds without a change after which a temporary file belongs to a process that died. A running upload touches
its file all the time; a day leaves room for clocks that disagree and for an fsync over a slow network."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO planted in the store must not stop a thread in open().
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEMP_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_ERRORS: dict[int, type[SerpentError]] = {
    errno.ENOENT: NotFound,
    errno.ELOOP: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.ENOTDIR: NotADirectory,
    errno.EISDIR: IsADirectory,
    errno.ENOTEMPTY: DirectoryNotEmpty,
    errno.EINVAL: InvalidArgument,
    errno.ENAMETOOLONG: NameTooLong,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: ReadOnly,
    errno.ENOTSUP: Unsupported,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EFBIG: FileTooLarge,
}
"""Everything else (EIO, ESTALE, ETIMEDOUT, ENOTCONN, EMFILE, ...) is a store in trouble: Unavailable."""

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """The seam: OSError becomes ours. ``what`` names the object in the message."""
    try:
        yield
    except OSError as error:
        kind = _ERRORS.get(error.errno or 0, Unavailable)
        raise kind(f"{what or 'the store'}: {os.strerror(error.errno or errno.EIO)}") from error


def is_temporary(name: str) -> bool:
    """Whether a file name is one of ours for an unfinished upload."""
    return name.startswith(_TEMP_PREFIX) and name.endswith(_TEMP_SUFFIX)


def _temporary_name() -> str:
    return f"{_TEMP_PREFIX}{secrets.token_hex(8)}{_TEMP_SUFFIX}"


def revision_of(status: os.stat_result) -> Revision:
    """Inode number, ctime, mtime and size: it changes with the content, and also with a rename or a utime."""
    return Revision(f"{status.st_ino:x}.{status.st_ctime_ns:x}.{status.st_mtime_ns:x}.{status.st_size:x}")


def is_moved(before: Revision, after: Revision) -> bool:
    """Whether a rename alone can have made the one revision of the other: it changes no more than the ctime."""
    inode, _, *rest = before.split(".")
    new_inode, _, *new_rest = after.split(".")
    return (inode, rest) == (new_inode, new_rest)


def _info(key: str, status: os.stat_result) -> BlobInfo:
    return BlobInfo(key, status.st_size, kept_time(status.st_mtime_ns), revision_of(status))


def _sync_file(descriptor: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone stops at the drive's cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _sync_folder(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; there is nothing better to call there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


class Root:
    """The store's folder. Opened anew for every operation, so that its disk can be unmounted in between."""

    def __init__(self, path: Path) -> None:
        self._path = os.path.realpath(path)
        self._identity: tuple[int, int] | None = None
        # Between a condition's check and the change that relies on it, against other threads of this process.
        self._conditions = threading.Lock()

    @property
    def path(self) -> str:
        return self._path

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Unavailable when the folder is not there, or is another than at first: an unmounted disk leaves its empty
        mount point, and a store must never look empty because of that."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unavailable(f"there is no folder {self._path}") from error
        try:
            status = os.fstat(descriptor)
            if self._identity is None:
                self._identity = (status.st_dev, status.st_ino)
            elif self._identity[0] != status.st_dev and self._identity[1] != status.st_ino:
                raise Unavailable(f"{self._path} is on another disk than before: is it still mounted?")
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def folder(self, parts: list[str], *, make_from: int | None = None) -> Iterator[int]:
        """A descriptor of a folder. Of its parts, missing ones are made durably from the number ``make_from`` on."""
        with self._opened() as root:
            current = root
            try:
                for number, part in enumerate(parts):
                    deeper = _step(current, part, make_from is not None and number >= make_from)
                    if current != root:
                        os.close(current)
                    current = deeper
                yield current
            finally:
                if current != root:
                    os.close(current)

    # looking

    def stat(self, key: str) -> BlobInfo:
        above, name = split_key(key)
        with store_errors(key), _as_missing(), self.folder(above) as folder:
            return _info(key, _stat_object(folder, name))

    def is_directory(self, prefix: str) -> bool:
        try:
            with store_errors(prefix), _as_missing(), self.folder(parts_of(prefix)):
                return True
        except NotFound:
            return False

    def read(self, key: str, span: Span | None, revision: Revision | None) -> bytes:
        try:
            return self._read(key, span, revision)
        except NotFound as error:
            if revision is None:
                raise
            raise RevisionGone(f"{key} is no longer there") from error

    def _read(self, key: str, span: Span | None, revision: Revision | None) -> bytes:
        above, name = split_key(key)
        with store_errors(key), _as_missing(), self.folder(above) as folder, _opened_file(folder, name) as file:
            size = os.fstat(file).st_size
            part = Span(0, size) if span is None else span.clamp(size)
            data = _read_span(file, part)
            # A replaced or removed file's ctime changes too, so the descriptor alone tells.
            if revision is not None and revision_of(os.fstat(file)) != revision:
                raise RevisionGone(f"{key} has changed")
            return data

    def list_directories(self, prefix: str) -> list[str]:
        start = f"{prefix}/" if prefix else ""
        with store_errors(prefix):
            try:
                with self.folder(parts_of(prefix)) as folder, os.scandir(folder) as entries:
                    return [
                        start + entry.name
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False) and _is_utf8(entry.name)
                    ]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def list(self, prefix: str, *, remove_orphans: bool = False) -> list[BlobInfo]:
        """Every object below a prefix. What vanishes meanwhile is left out; so are links, other special files and
        names that are not UTF-8, which no store of ours can have made."""
        found: list[BlobInfo] = []
        with store_errors(prefix):
            try:
                with self.folder(parts_of(prefix)) as folder:
                    _list_into(found, folder, f"{prefix}/" if prefix else "", remove_orphans)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return found

    def quota(self) -> Quota:
        with store_errors(self._path), self._opened() as root:
            figures = os.fstatvfs(root)
        unit = figures.f_frsize
        return Quota(
            total=figures.f_blocks * unit,
            used=(figures.f_blocks - figures.f_bfree) * unit,
            free=figures.f_bavail * unit,
        )

    # changing

    def put(self, key: str, data: bytes, condition: Condition, mtime_ns: int | None, within: str) -> BlobInfo:
        """The whole of a small object in one go."""
        upload = self.begin(key, condition, within)
        try:
            upload.write(data)
            return upload.publish(mtime_ns)
        except BaseException:
            upload.abort()
            raise

    def begin(self, key: str, condition: Condition, within: str) -> Upload:
        above, name = split_key(key)
        with store_errors(key), self.folder(above, make_from=len(parts_of(within))) as folder:
            _check(folder, name, key, condition)
            return Upload(key, name, condition, os.dup(folder), self._conditions)

    def rename(self, key: str, new_key: str, condition: Condition) -> BlobInfo:
        above, name = split_key(key)
        new_above, new_name = split_key(new_key)
        with store_errors(key), _as_missing(), self.folder(above) as source:
            _stat_object(source, name)
            with store_errors(new_key), self.folder(new_above, make_from=0) as target:
                with self._conditions:
                    _check(target, new_name, new_key, condition)
                    _rename_if(source, name, target, new_name, new_key, condition)
                    status = _stat_object(target, new_name)  # at once: whose change comes next is not ours
                _sync_folder(target)
            if above != new_above:
                _sync_folder(source)
        return _info(new_key, status)

    def rename_directory(self, prefix: str, new_prefix: str) -> None:
        above, name = split_key(prefix)
        new_above, new_name = split_key(new_prefix)
        with store_errors(prefix), _as_missing(), self.folder(above) as source:
            if not stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
                raise NotADirectory(f"{prefix} is not a folder")
            with store_errors(new_prefix), self.folder(new_above, make_from=0) as target:
                _rename(source, name, target, new_name, replace=False)
                _sync_folder(target)
            if above != new_above:
                _sync_folder(source)

    def delete(self, key: str, condition: Revision | None) -> None:
        above, name = split_key(key)
        with store_errors(key), _as_missing(), self.folder(above) as folder:
            with self._conditions:
                status = _stat_object(folder, name)
                if condition is not None and revision_of(status) != condition:
                    raise Conflict(f"{key} has changed")
                _unlink_if(folder, name, key, condition)
            _sync_folder(folder)

    def make_directory(self, prefix: str) -> None:
        with store_errors(prefix), self.folder(parts_of(prefix), make_from=0):
            pass

    def remove_directory(self, prefix: str) -> None:
        above, name = split_key(prefix)
        try:
            with store_errors(prefix), self.folder(above) as folder:
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    _remove_unfinished_uploads(folder, name)
                    os.rmdir(name, dir_fd=folder)
                _sync_folder(folder)
        except (NotFound, NotADirectory):  # there is no such folder
            return

    def set_mtime(self, key: str, mtime_ns: int, condition: Revision | None) -> BlobInfo:
        above, name = split_key(key)
        with store_errors(key), _as_missing(), self.folder(above) as folder, _opened_file(folder, name) as file:
            status = os.fstat(file)
            if condition is not None and revision_of(status) != condition:
                raise Conflict(f"{key} has changed")
            os.utime(file, ns=(status.st_atime_ns, mtime_ns))
            _sync_file(file)
            return _info(key, os.fstat(file))


class Upload:
    """One object on its way: a temporary file in the target's folder, then one rename. Used by one thread at a time;
    ends with ``publish`` or ``abort``."""

    def __init__(
        self,
        key: str,
        name: str,
        condition: Condition,
        folder: int,
        conditions: threading.Lock,
    ) -> None:
        """``folder`` is a descriptor that the upload now owns. Raises OSError."""
        self._key = key
        self._name = name
        self._condition = condition
        self._folder = folder
        self._conditions = conditions
        self._temporary = _temporary_name()
        self._open = [folder]
        try:
            self._file = os.open(self._temporary, _TEMP_FLAGS, 0o666, dir_fd=folder)
        except OSError:
            self._close()
            raise
        self._open.append(self._file)

    def write(self, data: bytes) -> None:
        with store_errors(self._key):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def publish(self, mtime_ns: int | None) -> BlobInfo:
        """Put the object in its place."""
        with store_errors(self._key):
            if mtime_ns is not None:
                os.utime(self._file, ns=(mtime_ns, mtime_ns))
            _sync_file(self._file)
            with self._conditions:
                _check(self._folder, self._name, self._key, self._condition)
                _rename_if(self._folder, self._temporary, self._folder, self._name, self._key, self._condition)
                info = _info(self._key, os.fstat(self._file))  # at once: whose change comes next is not ours
            _sync_folder(self._folder)
            self._close()
            return info

    def abort(self) -> None:
        """Remove what was written. Quiet: the reason for it is already on its way to the caller."""
        if self._open:
            _unlink_quietly(self._temporary, self._folder)
            self._close()

    def _close(self) -> None:
        while self._open:  # never the same number twice: another thread may have it by then
            os.close(self._open.pop())


def _step(folder: int, name: str, make: bool) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, dir_fd=folder)
        _sync_folder(folder)
    except FileExistsError:
        pass  # another put was faster
    return os.open(name, _FOLDER_FLAGS, dir_fd=folder)


@contextmanager
def _as_missing() -> Iterator[None]:
    """For questions about an object: a component that is no folder means that there is no such object."""
    try:
        yield
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error


def _stat_object(folder: int, name: str) -> os.stat_result:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise NotFound(f"{name} is not a regular file")
    return status


@contextmanager
def _opened_file(folder: int, name: str) -> Iterator[int]:
    file = os.open(name, _FILE_FLAGS, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise NotFound(f"{name} is not a regular file")
        yield file
    finally:
        os.close(file)


def _read_span(file: int, span: Span) -> bytes:
    data = os.pread(file, len(span), span.start)
    if len(data) == len(span):
        return data
    pieces = [data]
    got = len(data)
    while got < len(span):
        piece = os.pread(file, len(span) - got, span.start + got)
        if not piece:  # the file became shorter while it was read
            break
        pieces.append(piece)
        got += len(piece)
    return b"".join(pieces)


def _check(folder: int, name: str, key: str, condition: Condition) -> None:
    """Raise when ``condition`` does not hold for what has this name now."""
    if condition is None:
        return
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as error:
        if condition is ABSENT:
            return
        raise Conflict(f"{key} is no longer there") from error
    if condition is ABSENT:
        raise AlreadyExists(f"{key} exists")
    if not stat.S_ISREG(status.st_mode) or revision_of(status) != condition:
        raise Conflict(f"{key} has changed")


def _rename_if(source: int, name: str, target: int, new_name: str, key: str, condition: Condition) -> None:
    """Rename a file to where ``condition`` was just found to hold. POSIX has no rename with a condition, and another
    program may be faster: so the two change places, and what comes out is looked at before it is removed. (Where the
    file system cannot do that, there remains a window of some microseconds.)"""
    if condition is None or condition is ABSENT:
        _rename(source, name, target, new_name, replace=condition is None)
        return
    try:
        has_exchanged = _rename_with(_RENAME_EXCHANGE, source, name, target, new_name)
    except FileNotFoundError as error:
        _stat_object(source, name)
        raise Conflict(f"{key} is no longer there") from error
    if not has_exchanged:
        _rename(source, name, target, new_name, replace=True)
    elif _is_still(source, name, condition):
        os.unlink(name, dir_fd=source)
    else:
        _rename_with(_RENAME_EXCHANGE, source, name, target, new_name)
        raise Conflict(f"{key} has changed")


def _unlink_if(folder: int, name: str, key: str, condition: Revision | None) -> None:
    """Remove a file of which ``condition`` was just found to hold, as ``_rename_if``."""
    aside = _temporary_name()
    if condition is None or not _rename_with(_RENAME_NOREPLACE, folder, name, folder, aside):
        os.unlink(name, dir_fd=folder)
    elif _is_still(folder, aside, condition):
        os.unlink(aside, dir_fd=folder)
    else:
        _rename(folder, aside, folder, name, replace=False)
        raise Conflict(f"{key} has changed")


def _is_still(folder: int, name: str, before: Revision) -> bool:
    """Whether what was renamed to this name is at the revision that it had before."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and is_moved(before, revision_of(status))


def _rename(source: int, name: str, target: int, new_name: str, *, replace: bool) -> None:
    if replace:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    elif not _rename_with(_RENAME_NOREPLACE, source, name, target, new_name):
        _rename_without_flags(source, name, target, new_name)


def _rename_with(flag: int, source: int, name: str, target: int, new_name: str) -> bool:
    """renameat2(2). False where the file system or the system does not have it. OSError."""
    if _renameat2 is None:
        return False
    if _renameat2(source, os.fsencode(name), target, os.fsencode(new_name), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code))


def _rename_without_flags(source: int, name: str, target: int, new_name: str) -> None:
    """Where the file system or the system has no RENAME_NOREPLACE. Atomic for files by way of a hard link; a folder's
    target is looked for first, and rename itself would replace nothing but an empty folder."""
    if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
        try:
            os.stat(new_name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    os.unlink(name, dir_fd=source)


def _list_into(found: list[BlobInfo], folder: int, start: str, remove_orphans: bool) -> None:
    deeper: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(name)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if is_temporary(name):
                        if remove_orphans and time.time() - status.st_ctime > ORPHAN_AGE:
                            _unlink_quietly(name, folder)
                    elif _is_utf8(name):
                        found.append(_info(start + name, status))
            except FileNotFoundError:
                continue
    for name in deeper:
        if not _is_utf8(name):
            continue
        try:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            _list_into(found, inner, f"{start}{name}/", remove_orphans)
        finally:
            os.close(inner)


def _remove_unfinished_uploads(above: int, name: str) -> None:
    """Remove them when nothing else is in the folder: they do not keep it alive, a crash may have left them."""
    folder = os.open(name, _FOLDER_FLAGS, dir_fd=above)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        if all(map(is_temporary, names)):
            for temporary in names:
                _unlink_quietly(temporary, folder)
    finally:
        os.close(folder)


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _unlink_quietly(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # it stays until a later start finds it
