"""Files that a door reads again when they change: a certificate with its key, and users with their rights.

They are looked at when they are needed, at most once a second. What cannot be read then is logged once and leaves
what was read before in force: a certificate is often replaced before its key. Safe to use from many threads.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from serpentfs.errors import SerpentError
from serpentfs.gateways.access import TlsFiles

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0
"""Seconds."""
_State = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[T]):
    """What ``read`` made of files; ``files`` of it tells which they are now. Made with what ``read`` raises."""

    def __init__(
        self, what: str, read: Callable[[], T], files: Callable[[T], Iterable[Path]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._read = read
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self.generation = 0
        """Grows whenever something else is in force."""
        self._value, self._state = self._read_settled()
        self._next = clock() + _LOOK_EVERY

    @property
    def is_due(self) -> bool:
        """Whether ``value`` would look at the files, which may block."""
        return self._clock() >= self._next

    @property
    def last(self) -> T:
        """What was read last, without a look."""
        return self._value

    def value(self) -> T:
        """What is in force now. Looks at the files when it is time to."""
        with self._lock:
            if self.is_due:
                self._next = self._clock() + _LOOK_EVERY
                self._look()
            return self._value

    def _look(self) -> None:
        state = _state_of(self._files(self._value))
        if state == self._state:
            return
        self._state = state
        try:
            self._value, self._state = self._read_settled()
        except SerpentError as error:
            _log.warning("%s changed and cannot be used, what was there before stays in force: %s", self._what, error)
        else:
            self.generation += 1
            _log.info("%s changed and was read again", self._what)

    def _read_settled(self) -> tuple[T, _State]:
        """What the files say, and their state as it was before they were read: a change while they are read makes
        the next look find another state."""
        first = self._read()    # it tells which files these are
        state = _state_of(self._files(first))
        return self._read(), state


def _state_of(files: Iterable[Path]) -> _State:
    return tuple(_stat(file) for file in files)


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def watched_tls(files: TlsFiles, make: Callable[[TlsFiles], ssl.SSLContext]) -> Watched[ssl.SSLContext]:
    """A context that follows its files. What ``make`` raises."""
    return Watched("the TLS certificate", lambda: make(files), lambda _: (files.certificate, files.key))
