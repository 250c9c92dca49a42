"""Many files at a time between this machine and a drive: the workers, what they are through with, and the line that
tells of it. What one file takes is in ``getting`` and ``putting``."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.cli.display import share
from serpentfs.cli.output import StatusLine, human_duration, human_size
from serpentfs.cli.reaching import Failures
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.places import cannot
from serpentfs.errors import AlreadyExists, IsADirectory, NotADirectory, NotFound, SerpentError

_INTERVAL = 0.25
_SECOND = 1_000_000_000    # nanoseconds


class Tally:
    """How far everything is. Counted in threads, shown on the loop."""

    def __init__(self, verb: str, files: int, size: int) -> None:
        self._verb, self._files, self._size = verb, files, size
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._files_done = self._moved = self._passed = 0
        self._under_way: list[FileTally] = []

    def count(self, moved: int, passed: int) -> None:
        with self._lock:
            self._moved += moved
            self._passed += passed

    @contextlib.contextmanager
    def file(self, about: str, size: int) -> Iterator[FileTally]:
        """One file, which is done at the end of the block, well or not. Entered and left on the loop."""
        made = FileTally(self, about, size)
        self._under_way.append(made)
        try:
            yield made
        finally:
            self._under_way.remove(made)
            self._files_done += 1

    def show(self, line: StatusLine) -> None:
        done = min(self._moved + self._passed, self._size)
        speed = self._moved / max(time.monotonic() - self._began, 0.001)
        text = (
            f"{self._verb}: {self._files_done} of {self._files} files, {human_size(done)} of {human_size(self._size)}, "
            f"{human_size(int(speed))}/s"
        )
        if speed >= 1 and done < self._size:
            text += f", {human_duration((self._size - done) / speed)} left"
        part = done / self._size if self._size else self._files_done / max(self._files, 1)
        below = [(one.about, share(one.done, one.size)) for one in self._under_way if one.size and self._files > 1]
        line.tell(text, part, below)


class FileTally:
    """How far one file is. Counted in the thread that works on it."""

    def __init__(self, tally: Tally, about: str, size: int) -> None:
        self._tally = tally
        self.about, self.size, self.done = about, size, 0

    def moved(self, size: int) -> None:
        """Bytes went through."""
        self.done += size
        self._tally.count(size, 0)

    def passed(self, size: int) -> None:
        """Bytes need not go through: they are there already, or are given up."""
        self.done += size
        self._tally.count(0, size)


@dataclass(frozen=True, slots=True)
class Job:
    """One file. ``run`` blocks; ``about`` is what messages call the file."""

    about: str
    size: int
    run: Callable[[Connection, FileTally], None]


async def transfer(
    socket: Path, jobs: list[Job], *, verb: str, parallel: int, quiet: bool, failures: Failures
) -> None:
    """Do all jobs, ``parallel`` at a time. One that fails is told, and the others go on."""
    tally = Tally(verb, len(jobs), sum(job.size for job in jobs))
    waiting = iter(jobs)
    with StatusLine(at_once=False) as line:

        async def show() -> None:
            while True:
                await trio.sleep(_INTERVAL)
                tally.show(line)

        async with trio.open_nursery() as nursery:
            if not quiet:
                nursery.start_soon(show)
            async with trio.open_nursery() as workers:
                for _ in range(min(parallel, len(jobs))):
                    workers.start_soon(_work, socket, waiting, tally, failures, line)
            nursery.cancel_scope.cancel()


async def _work(socket: Path, jobs: Iterator[Job], tally: Tally, failures: Failures, line: StatusLine) -> None:
    with await run_in_thread("command", Connection, socket) as connection:
        for job in jobs:
            try:
                with tally.file(job.about, job.size) as counter:
                    await run_in_thread("command", job.run, connection, counter, abandon=True)
            except SerpentError as error:
                line.wipe()
                with failures.about(job.about):
                    raise error


def local_error(what: str, path: Path, error: OSError) -> SerpentError:
    """The error of this project for what this machine refused."""
    message = f"cannot {what} {path}: {error.strerror}"
    for kind, ours in _LOCAL.items():
        if error.errno == kind:
            return ours(message)
    return cannot(what, path, error)


_LOCAL: dict[int, type[SerpentError]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EISDIR: IsADirectory,
    errno.ENOTDIR: NotADirectory,
}


def same_time(local_ns: int, remote_ns: int) -> bool:
    """Some stores keep whole seconds only."""
    return local_ns == remote_ns or local_ns - local_ns % _SECOND == remote_ns


def is_same(status: os.stat_result, entry: dict[str, Any]) -> bool:
    """Whether a local file looks like the one that a drive shows."""
    return bool(status.st_size == entry["size"]) and same_time(status.st_mtime_ns, entry["mtime_ns"])
