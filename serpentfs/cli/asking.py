"""A question before something is done that cannot be undone."""

from __future__ import annotations

import sys

from serpentfs.errors import UsageError


def confirmed(question: str, without_terminal: str) -> bool:
    """Whether the answer is yes. UsageError where nobody can be asked; ``without_terminal`` says what to do then."""
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask on: {without_terminal}")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
