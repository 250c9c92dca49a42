"""Exit codes: frozen, scripts rely on them. The table of the README is this one (a test compares them)."""

from __future__ import annotations

import enum

from serpentfs import errors


class ExitCode(enum.IntEnum):
    OK = 0
    FAILURE = 1
    USAGE = 2
    WRONG_PASSPHRASE = 3
    NOT_FOUND = 4
    BUSY = 5
    UNAVAILABLE = 6
    INTEGRITY = 7
    NO_SPACE = 8
    BAD_VAULT = 9
    EXISTS = 10
    DENIED = 11
    UNSUPPORTED = 12
    CONFLICT = 13
    PENDING = 14
    DAMAGED = 15
    LOGIN_REQUIRED = 16
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "failed for a reason that has no code of its own",
    ExitCode.USAGE: "a wrong option, URL or configuration",
    ExitCode.WRONG_PASSPHRASE: "a wrong passphrase or password",
    ExitCode.NOT_FOUND: "no such vault, remote, log-in, folder or file; nothing is running for this remote",
    ExitCode.BUSY: "in use: another process owns the remote, files are open below the mount, or a port is taken",
    ExitCode.UNAVAILABLE: "the store cannot be reached now; the same command may succeed later",
    ExitCode.INTEGRITY: "data that does not authenticate",
    ExitCode.NO_SPACE: "the store or a disk of this machine is full",
    ExitCode.BAD_VAULT: "not a vault, a damaged one, or one of a format that is not supported",
    ExitCode.EXISTS: "what was to be made is there already",
    ExitCode.DENIED: "not permitted, or read-only",
    ExitCode.UNSUPPORTED: "not possible with this store, this system or this version",
    ExitCode.CONFLICT: "somebody else changed it meanwhile",
    ExitCode.PENDING: "stopped before everything was uploaded; the rest goes up at the next start",
    ExitCode.DAMAGED: "`check` or `doctor` found problems that remain",
    ExitCode.LOGIN_REQUIRED: "the account's session has ended, or the account is blocked: log out and in again",
    ExitCode.INTERRUPTED: "interrupted at a prompt or during a command",
}

_BY_CLASS: dict[type[errors.SerpentError], ExitCode] = {
    errors.SerpentError: ExitCode.FAILURE,
    errors.RetryableError: ExitCode.UNAVAILABLE,
    errors.LoginRequired: ExitCode.LOGIN_REQUIRED,
    errors.NotFound: ExitCode.NOT_FOUND,
    errors.NotADirectory: ExitCode.NOT_FOUND,
    errors.AlreadyExists: ExitCode.EXISTS,
    errors.DirectoryNotEmpty: ExitCode.EXISTS,
    errors.InvalidArgument: ExitCode.USAGE,
    errors.UsageError: ExitCode.USAGE,
    errors.PermissionDenied: ExitCode.DENIED,
    errors.ReadOnly: ExitCode.DENIED,
    errors.Unsupported: ExitCode.UNSUPPORTED,
    errors.NoSpace: ExitCode.NO_SPACE,
    errors.Conflict: ExitCode.CONFLICT,
    errors.PreconditionFailed: ExitCode.CONFLICT,
    errors.IntegrityError: ExitCode.INTEGRITY,
    errors.WrongPassphrase: ExitCode.WRONG_PASSPHRASE,
    errors.BadVault: ExitCode.BAD_VAULT,
    errors.Busy: ExitCode.BUSY,
}


def exit_code(error: errors.SerpentError) -> ExitCode:
    """The code of the nearest class above the error's own."""
    return next(_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS)
