"""From an exception to what the user reads and the exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from serpentfs.cli.exit_codes import ExitCode, exit_code
from serpentfs.errors import SerpentError


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group of groups (trio's nurseries raise those); a lone exception is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def explain(error: BaseException) -> tuple[ExitCode, str, bool]:
    """Exit code, one line for the user, and whether it was foreseen (else a traceback is of use)."""
    found = list(leaves(error))
    unforeseen = next((one for one in found if not isinstance(one, SerpentError | KeyboardInterrupt | OSError)), None)
    if unforeseen is not None:
        detail = f"{type(unforeseen).__name__}: {unforeseen}".partition("\n")[0]
        return ExitCode.FAILURE, f"this is a fault of serpentfs: {detail} (-vv shows where)", False
    if not any(isinstance(one, KeyboardInterrupt) for one in found):  # what was interrupted may fail for that
        for one in found:
            if isinstance(one, SerpentError):
                return exit_code(one), str(one), True
        for one in found:
            if isinstance(one, OSError):
                place = f": {one.filename}" if one.filename else ""
                is_full = one.errno in (errno.ENOSPC, errno.EDQUOT)
                return ExitCode.NO_SPACE if is_full else ExitCode.FAILURE, f"{one.strerror or one}{place}", True
    return ExitCode.INTERRUPTED, "interrupted", True
