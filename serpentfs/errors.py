"""The one tree of errors.

    SerpentError
    ├── RetryableError                    the same call may succeed later
    │   ├── Unavailable                   no network, a time-out, a 5xx, a broken connection
    │   ├── RateLimited                   the store asks to wait
    │   └── LoginRequired                 the account's session has ended; works again after a log-in
    └── PermanentError                    the same call will fail again
        ├── NotFound                      no such entry, node or blob
        ├── AlreadyExists
        ├── NotADirectory
        ├── IsADirectory
        ├── DirectoryNotEmpty
        ├── InvalidArgument
        ├── InvalidName                   the cloud cannot carry this name
        │   └── NameTooLong
        ├── PermissionDenied
        ├── ReadOnly
        ├── Unsupported
        ├── NoSpace                       the store or this machine's disk is full
        ├── FileTooLarge
        ├── Conflict                      the cloud moved on since the caller looked
        │   └── RevisionGone              the content that was asked for is no more
        ├── IntegrityError                ciphertext that does not authenticate; never served as data
        ├── WrongPassphrase
        ├── BadVault                      not a vault, or one that cannot be opened
        ├── BadHandle
        ├── PreconditionFailed            a door's own condition (If-Match, must not exist) does not hold
        ├── Busy                          in use: another process owns it, or it is locked
        └── UsageError                    a wrong option, URL or configuration

The class answers "would a retry help?"; strings never do. Raise at the point of knowledge, chain with ``from``.
Foreign exceptions are mapped at the seam where the library is called and nowhere else. Every message is one
line, fit to be shown to a user, and holds no secret. Each door keeps one table from these classes to its codes.
"""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class SerpentError(Exception):
    """Base of everything this project raises on purpose."""


class RetryableError(SerpentError):
    """The same call may succeed later."""


class Unavailable(RetryableError):
    """The store cannot be reached, broke off, or did not answer in time."""


class RateLimited(RetryableError):
    """The store asks to wait ``retry_after`` seconds (None: it did not say how long)."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoginRequired(RetryableError):
    """The account's session has ended or the account is blocked. Nothing is lost by waiting: what is pending goes on
    after the user logged in again."""


class PermanentError(SerpentError):
    """The same call will fail again."""


class NotFound(PermanentError):
    pass


class AlreadyExists(PermanentError):
    pass


class NotADirectory(PermanentError):
    pass


class IsADirectory(PermanentError):
    pass


class DirectoryNotEmpty(PermanentError):
    pass


class InvalidArgument(PermanentError):
    pass


class InvalidName(PermanentError):
    """The cloud cannot carry this name (not UTF-8, reserved, forbidden characters)."""


class NameTooLong(InvalidName):
    pass


class PermissionDenied(PermanentError):
    pass


class ReadOnly(PermanentError):
    pass


class Unsupported(PermanentError):
    pass


class NoSpace(PermanentError):
    """The store or a disk of this machine is full."""


class FileTooLarge(PermanentError):
    pass


class Conflict(PermanentError):
    """The node is not in the state the caller saw: somebody else changed, replaced or removed it."""


class RevisionGone(Conflict):
    """The very content that was asked for is no longer in the cloud."""


class IntegrityError(PermanentError):
    """Ciphertext that does not authenticate. Never served as data."""


class WrongPassphrase(PermanentError):
    pass


class BadVault(PermanentError):
    """Not a vault, a damaged one, or one of a format that is not supported."""


class BadHandle(PermanentError):
    pass


class PreconditionFailed(PermanentError):
    """A door's own condition (If-Match, If-None-Match, must-not-exist) does not hold."""


class Busy(PermanentError):
    """In use: another process owns it, or a lock stands in the way."""


class UsageError(PermanentError):
    """A wrong option, URL or configuration."""


def first_of(group: BaseExceptionGroup[E]) -> E:
    """One error for those of tasks that failed side by side."""
    for error in group.exceptions:
        return first_of(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("a group is never empty")
