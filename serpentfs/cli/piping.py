"""Contents of files between this process and the owner of a drive, through pipes (``daemon.control``). Blocking."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable
from typing import Any

from serpentfs.daemon.asking import Connection

PIECE = 1024 * 1024
# Without this a pipe holds 64 KiB, and every one of those costs both sides a turn. Refused to who has many pipes.
_PIPE_SIZE = 1024 * 1024


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return reading, writing


def download(connection: Connection, path: str, sink: Callable[[bytes], object], **arguments: Any) -> None:
    """Give a file's bytes to ``sink``. Whether that was all of them is known only when this returns."""
    reading, writing = _pipe()

    def drain() -> None:
        try:
            while data := os.read(reading, PIECE):
                sink(data)
        finally:
            os.close(reading)

    connection.ask_with_pipe("read", writing, drain, path=path, **arguments)


def upload(connection: Connection, path: str, pieces: Iterable[bytes], size: int, **arguments: Any) -> None:
    """Make or replace a file of exactly ``size`` bytes. What ``pieces`` raises is raised, and nothing is changed."""
    reading, writing = _pipe()

    def feed() -> None:
        try:
            for piece in pieces:
                _write_all(writing, piece)
        except BrokenPipeError:
            pass    # the owner's answer tells why
        finally:
            os.close(writing)

    connection.ask_with_pipe("write", reading, feed, path=path, size=size, **arguments)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
