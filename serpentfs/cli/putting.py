"""``put``: files and folders of this machine into a drive.

A file appears in the drive when it is whole. One that changes while it is read is not put at all.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from serpentfs.cli.piping import PIECE, upload
from serpentfs.cli.reaching import Failures
from serpentfs.cli.transferring import FileTally, Job, is_same, local_error
from serpentfs.daemon.asking import Connection
from serpentfs.errors import Conflict, NotADirectory, NotFound, Unsupported


@dataclass(slots=True)
class PutPlan:
    """What there is to put. ``folders``: those of the target tree with the times that they are to have, folder before
    content."""

    jobs: list[Job] = field(default_factory=list)
    folders: list[tuple[str, int]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    """Everything in the drive that this makes or replaces."""

    def finish(self, socket: Path) -> None:
        """Folders get their times, once nothing is made in them any more."""
        with Connection(socket) as connection:
            for path, mtime_ns in reversed(self.folders):
                connection.ask("set-time", path=path, mtime_ns=mtime_ns)


def local_paths(words: list[str]) -> list[Path]:
    """What the words name, patterns expanded if nothing has that very name. NotFound."""
    found: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        if os.path.lexists(path):
            found.append(path)
            continue
        several = sorted(glob.glob(str(path)))    # noqa: PTH207 - takes an absolute pattern, too
        if not several:
            raise NotFound(f"no such file or folder: {path}")
        found += map(Path, several)
    return found


def plan_put(
    socket: Path, sources: list[Path], target: str, *, create: bool, update: bool, failures: Failures
) -> PutPlan:
    """Walk the local folders and make the remote ones. NotFound, NotADirectory for a target that cannot be."""
    plan = PutPlan()
    with Connection(socket) as connection:
        answer = connection.ask("stat", path=target)
        there = answer["entry"]
        if there is None and create:
            connection.ask("mkdir", path=target, parents=True)
        into = create if there is None else there["kind"] == "directory"
        if len(sources) > 1 and not into:
            raise NotFound(f"no such folder: {target} (-c makes it)") if there is None else NotADirectory(
                f"not a folder: {target}"
            )
        walker = _Walker(connection, plan, failures, update, symlinks=answer["symlinks"])
        for source in sources:
            place = f"{target.rstrip('/')}/{source.name}" if into and source.name not in ("", "..") else target
            walker.add(source, place)
    return plan


@dataclass(slots=True)
class _Walker:
    """Fills a plan from local folders."""

    connection: Connection
    plan: PutPlan
    failures: Failures
    update: bool
    symlinks: bool

    def add(self, source: Path, place: str) -> None:
        """What the user named: a link there means what it leads to."""
        waiting = [(source, place)]
        named = True
        while waiting:
            local, path = waiting.pop()
            with self.failures.about(str(local)):
                try:
                    status = local.stat() if named else local.lstat()
                    waiting += reversed(self._take(local, path, status))
                except OSError as error:
                    raise local_error("read", local, error) from error
            named = False

    def _take(self, local: Path, path: str, status: os.stat_result) -> list[tuple[Path, str]]:
        """What is below it is the answer."""
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(local))    # noqa: PTH208 - names, not paths
            self.connection.ask("mkdir", path=path, parents=True)
            self.plan.folders.append((path, status.st_mtime_ns))
            self.plan.paths.add(path)
            return [(local / name, f"{path.rstrip('/')}/{name}") for name in names]
        if stat.S_ISLNK(status.st_mode):
            if not self.symlinks:
                raise Unsupported("symbolic links are not possible with this store")
            job = Job(str(local), 0, partial(_put_link, str(local.readlink()), path))
        elif stat.S_ISREG(status.st_mode):
            job = Job(str(local), status.st_size, partial(_put_file, local, path, self.update))
        else:
            raise Unsupported("neither a file nor a folder")
        self.plan.jobs.append(job)
        self.plan.paths.add(path)
        return []


def _put_link(target: str, path: str, connection: Connection, tally: FileTally) -> None:
    connection.ask("symlink", path=path, target=target)


def _put_file(local: Path, path: str, update: bool, connection: Connection, tally: FileTally) -> None:
    try:
        descriptor = os.open(local, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Conflict("it was a file when it was listed")
            if update and _is_there(connection, path, status):
                tally.passed(status.st_size)
                return
            pieces = _pieces(descriptor, status, tally)
            upload(connection, path, pieces, status.st_size, mtime_ns=status.st_mtime_ns)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise local_error("read", local, error) from error


def _is_there(connection: Connection, path: str, status: os.stat_result) -> bool:
    there: dict[str, Any] | None = connection.ask("stat", path=path)["entry"]
    return there is not None and there["kind"] == "file" and is_same(status, there)


def _pieces(descriptor: int, before: os.stat_result, tally: FileTally) -> Iterator[bytes]:
    """A file's bytes. The last are held back if it is no longer the file that it was. Conflict."""
    left = before.st_size
    while left:
        data = os.read(descriptor, min(PIECE, left))
        left -= len(data)
        now = os.fstat(descriptor)
        if not data or (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise Conflict("it changed while it was read")
        yield data
        tally.moved(len(data))
