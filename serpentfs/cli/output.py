"""What people read: sizes, times, a progress line. Machines get JSON.

Quick to import: what a terminal needs is in ``display``, and loaded when there is one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from serpentfs.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from serpentfs.cli.display import Bar

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_LETTERS = "KMGTPEZY"
_LOG_INTERVAL = 10.0


def human_size(size: int) -> str:
    """"1.5 MiB"; whole numbers below 1 KiB."""
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"


def short_size(size: int) -> str:
    """"1.5M" as ``ls -h`` and ``du -h`` of coreutils have it: powers of 1024, rounded up, two digits at least."""
    if size < 1024:
        return str(size)
    unit = 1
    for letter in _LETTERS:
        unit *= 1024
        tenths, whole = -(-size * 10 // unit), -(-size // unit)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{letter}"
        if whole < 1024 or letter == _LETTERS[-1]:
            break
    return f"{whole}{letter}"


def human_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{int(seconds)} s"
    if seconds < 7200:
        return f"{int(seconds // 60)} min"
    return f"{int(seconds // 3600)} h" if seconds < 172800 else f"{int(seconds // 86400)} days"


def count(number: int, noun: str) -> str:
    """"1 change", "3 changes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell_pending(pending: int, what_now: str, *, login_required: bool = False) -> ExitCode:
    """The exit code of a command that uploads, with a line when something is left. ``login_required``: waiting longer
    would have been for nothing."""
    if pending == 0:
        return ExitCode.OK
    if login_required:
        print(
            f"serpentfs: {count(pending, 'change')} kept in the journal; the account's session has ended or the "
            "account is blocked: the next log-in lets uploads go on (serpentfs logout, then login)",
            file=sys.stderr,
        )
        return ExitCode.LOGIN_REQUIRED
    print(f"serpentfs: {count(pending, 'change')} not uploaded; {what_now}", file=sys.stderr)
    return ExitCode.PENDING


def printable(text: str) -> str:
    """A name as it may go to a terminal: control characters and undecodable bytes are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at ``stream`` who can be shown more than lines."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class StatusLine:
    """How far something is: one line that is rewritten on a terminal, a line every ten seconds else.

    Context manager: the line is wiped at the end.
    """

    def __init__(self, stream: TextIO | None = None, *, at_once: bool = True) -> None:
        """``at_once`` False: where there is no terminal, nothing is told of what takes less than ten seconds."""
        self._stream = sys.stderr if stream is None else stream
        self.on_terminal = is_terminal(self._stream)
        self._bar: Bar | None = None
        self._shown: tuple[str, float | None, Sequence[tuple[str, float]]] | None = None
        self._next = 0.0 if at_once else time.monotonic() + _LOG_INTERVAL

    def __enter__(self) -> Self:
        _lines.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
        if self in _lines:
            _lines.remove(self)

    def wipe(self) -> None:
        """Make room for a line that stays."""
        if self._bar is not None:
            self._bar.wipe()
            self._shown = None

    def tell(self, text: str, part: float | None = None, below: Sequence[tuple[str, float]] = ()) -> None:
        """``part``: how much of the whole that is, 0 to 1, where it is known. ``below``: the same of what it is made
        of, for lines of their own on a terminal."""
        if self.on_terminal:
            if self in _lines and (text, part, below) != self._shown:
                self._shown = (text, part, below)
                self._drawn().show(text, part, below)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_INTERVAL
            self._stream.write(f"{printable(text)}\n")
            self._stream.flush()

    def _drawn(self) -> Bar:
        if self._bar is None:
            from serpentfs.cli.display import Bar, Display

            self._bar = Bar(Display(self._stream))
        return self._bar


_lines: list[StatusLine] = []
"""Those that are shown: a thread that nobody waits for any more cannot wipe its own."""


def end_status_lines() -> None:
    """Wipe what is shown and show no more of it: the last words of this process are next."""
    while _lines:
        _lines.pop().wipe()


class ProgressLine(StatusLine):
    """Uploads still to be confirmed. Takes the items that the owner sends (``daemon.progress.Progress`` as a dict).
    Nothing is printed while nothing is left."""

    _most = 0
    """Bytes that were left when most were."""

    def show(self, item: Mapping[str, Any]) -> None:
        if item["changes"] == 0:
            return
        self._most = max(self._most, item["bytes"])
        text = f"uploading: {count(item['changes'], 'change')}, {human_size(item['bytes'])} left"
        if not item["online"]:
            text += f" (offline: {item['error'] or 'no connection'})"
        elif item["error"]:
            text += f" ({item['error']})"
        self.tell(text, 1 - item["bytes"] / self._most if self._most else None)
