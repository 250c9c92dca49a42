"""The one table from the project's errors to FTP reply codes (RFC 959 §4.2, RFC 3659)."""

from __future__ import annotations

import logging

from serpentfs import errors

_log = logging.getLogger(__name__)

_CODES: dict[type[BaseException], int] = {
    errors.Unavailable: 451,
    errors.RateLimited: 451,
    errors.LoginRequired: 451,
    errors.NotFound: 550,
    errors.AlreadyExists: 550,
    errors.NotADirectory: 550,
    errors.IsADirectory: 550,
    errors.DirectoryNotEmpty: 550,
    # Not 501: rclone takes that for "no such command" and gives up on the whole server.
    errors.InvalidArgument: 550,
    errors.InvalidName: 553,
    errors.PermissionDenied: 550,
    errors.ReadOnly: 550,
    errors.Unsupported: 504,
    errors.NoSpace: 552,
    errors.FileTooLarge: 552,
    errors.Conflict: 450,
    errors.IntegrityError: 550,
    errors.BadHandle: 451,
    errors.PreconditionFailed: 450,
    errors.Busy: 450,
    errors.PermanentError: 550,
}
_UNEXPECTED = "451 Internal error."


class Refusal(Exception):
    """A reply that belongs to FTP alone, not to the drive. ``str`` of it is the whole line."""


def reply_to(error: BaseException, doing: str) -> str:
    """The reply line for an error; one that nobody raised on purpose is logged with its traceback."""
    if isinstance(error, Refusal):
        return str(error)
    for kind in type(error).__mro__:
        if kind in _CODES:
            return one_line(f"{_CODES[kind]} {error}")
    _log.error("unexpected error in %s", doing, exc_info=error)
    return _UNEXPECTED


def one_line(text: str) -> str:
    """``text`` with what would end or forge a reply line shown as ``?``."""
    return text.translate(_NOT_IN_A_LINE)


_NOT_IN_A_LINE = dict.fromkeys(map(ord, "\r\n\0"), "?")
