"""The one table from ``serpentfs.errors`` to errno."""

from __future__ import annotations

import errno

from serpentfs import errors

# A class without a line of its own has its base's. Retryable errors are not EAGAIN: on a file that nobody made
# non-blocking, programs either loop on it or take it for a fault of their own.
_ERRNO: dict[type[errors.SerpentError], int] = {
    errors.SerpentError: errno.EIO,
    errors.RetryableError: errno.ETIMEDOUT,
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.DirectoryNotEmpty: errno.ENOTEMPTY,
    errors.InvalidArgument: errno.EINVAL,
    errors.InvalidName: errno.EILSEQ,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.PermissionDenied: errno.EACCES,
    errors.LoginRequired: errno.EACCES,
    errors.ReadOnly: errno.EROFS,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.NoSpace: errno.ENOSPC,
    errors.FileTooLarge: errno.EFBIG,
    errors.Conflict: errno.ESTALE,  # the kernel looks the path up again and tries once more
    errors.IntegrityError: errno.EIO,
    errors.WrongPassphrase: errno.EACCES,
    errors.BadVault: errno.EIO,
    errors.BadHandle: errno.EBADF,
    errors.PreconditionFailed: errno.ESTALE,
    errors.Busy: errno.EBUSY,
    errors.UsageError: errno.EINVAL,
}


def errno_of(error: errors.SerpentError) -> int:
    """The errno that says this error best."""
    return next(_ERRNO[kind] for kind in type(error).__mro__ if kind in _ERRNO)
