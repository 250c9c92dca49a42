"""``get``: files and folders of a drive to this machine.

A file is written to NAME.part beside its place and takes its name when it is whole. The partial file's times tell what
it is a part of: the remote file's time of modification is its own, and its time of access is the remote file's size
(in nanoseconds). They are set after every piece, so that a ``get`` that was killed goes on where it stopped, but only
with the same file; anything else is begun anew.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from serpentfs.cli.piping import download
from serpentfs.cli.reaching import Failures, matches, walk
from serpentfs.cli.transferring import FileTally, Job, is_same, local_error
from serpentfs.daemon.asking import Connection
from serpentfs.errors import AlreadyExists, Busy, Conflict, InvalidName, NotADirectory, NotFound

_SUFFIX = ".part"
_LONGEST_NAME = 255


@dataclass(slots=True)
class GetPlan:
    """What there is to get. ``folders``: those of the target tree with the times that they are to have, folder before
    content."""

    jobs: list[Job] = field(default_factory=list)
    folders: list[tuple[Path, int]] = field(default_factory=list)

    def finish(self) -> None:
        """Folders get their times, once nothing is made in them any more."""
        for folder, mtime_ns in reversed(self.folders):
            try:
                os.utime(folder, ns=(mtime_ns, mtime_ns))
            except OSError as error:
                raise local_error("set the time of", folder, error) from error


def plan_get(socket: Path, path: str, local: Path, *, update: bool, failures: Failures) -> GetPlan:
    """Find what ``path`` (or pattern) names, and make the folders for it. NotFound; NotADirectory when several things
    are to go to one name."""
    plan = GetPlan()
    with Connection(socket) as connection:
        try:
            tops = matches(connection, path)
        except NotFound as error:
            raise NotFound(f"{path}: {error}") from error
        into = local.is_dir()
        if len(tops) > 1 and not into:
            raise NotADirectory(f"{local} is not a folder, and {len(tops)} things match")
        found: list[tuple[dict[str, Any], Path]] = []
        named: set[Path] = {local}
        for top in tops:
            name = top["path"].rpartition("/")[2]
            place = local / name if into and name else local
            named.add(place)
            below = walk(connection, top["path"]) if top["kind"] == "directory" else [top]
            skip = len(top["path"].rstrip("/"))
            found += ((one, place / _checked(one["path"][skip:].lstrip("/"))) for one in below)
    partials = _partial_names(place for one, place in found if one["kind"] == "file")
    refused: list[Path] = []
    for one, place in found:
        if any(folder in place.parents for folder in refused):
            continue
        if one["kind"] == "directory":
            with failures.about(one["path"]):
                refused.append(place)
                _make_folder(place, is_named=place in named)
                refused.pop()
                plan.folders.append((place, one["mtime_ns"]))
        elif one["kind"] == "symlink":
            plan.jobs.append(Job(one["path"], 0, partial(_get_link, one, place)))
        else:
            plan.jobs.append(Job(one["path"], one["size"], partial(_get_file, one, place, partials[place], update)))
    return plan


def _checked(path: str) -> str:
    """A path below a folder that cannot lead out of it."""
    if any(part in (".", "..") or "\0" in part for part in path.split("/")):
        raise InvalidName("a name of the drive cannot be one of this machine")
    return path


def _make_folder(place: Path, *, is_named: bool) -> None:
    """A link in the place of a folder is followed only where the user named it: elsewhere it may be one that the remote
    put there, and lead anywhere."""
    try:
        place.mkdir(exist_ok=True)
        if not is_named and place.is_symlink():
            raise AlreadyExists(f"{place} is a symbolic link, not a folder")
    except FileExistsError as error:
        raise AlreadyExists(f"{place} is there and is not a folder") from error
    except OSError as error:
        raise local_error("make the folder", place, error) from error


def _partial_names(places: Iterable[Path]) -> dict[Path, Path]:
    """Where each file is written first: a name that no other file gets."""
    names: dict[Path, Path] = dict.fromkeys(places, Path())
    taken = set(names)
    for place in names:
        part, number = _partial_name(place, _SUFFIX), 0
        while part in taken:
            number += 1
            part = _partial_name(place, f"~{number}{_SUFFIX}")
        taken.add(part)
        names[place] = part
    return names


def _partial_name(place: Path, suffix: str) -> Path:
    return place.with_name(os.fsdecode(os.fsencode(place.name)[: _LONGEST_NAME - len(suffix)]) + suffix)


def _get_link(entry: dict[str, Any], place: Path, connection: Connection, tally: FileTally) -> None:
    try:
        if place.is_symlink():
            place.unlink()
        place.symlink_to(entry["target"])
    except OSError as error:
        raise local_error("make the link", place, error) from error


def _get_file(
    entry: dict[str, Any], place: Path, part: Path, update: bool, connection: Connection, tally: FileTally
) -> None:
    try:
        if update and _is_here(place, entry):
            tally.passed(entry["size"])
            return
        _check_replaceable(place)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            _own(descriptor, part)
            _fill(descriptor, entry, connection, tally)
            os.utime(descriptor, ns=(entry["mtime_ns"], entry["mtime_ns"]))
            part.replace(place)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise local_error("write", place, error) from error


def _is_here(place: Path, entry: dict[str, Any]) -> bool:
    try:
        status = place.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and is_same(status, entry)


def _check_replaceable(place: Path) -> None:
    """Renaming over it would take a device or a pipe away from everybody. (Over a link it is meant.)"""
    with suppress(FileNotFoundError):
        mode = place.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise AlreadyExists(f"{place} is there and is no file")


def _own(descriptor: int, part: Path) -> None:
    """Nobody else writes this partial file, and it is the one of that name. Busy."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"another get is writing {part}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise AlreadyExists(f"{part} is there and is not a file")
    if not os.path.samestat(status, part.lstat()):
        raise Busy(f"another get has just written {part}")


def _fill(descriptor: int, entry: dict[str, Any], connection: Connection, tally: FileTally) -> None:
    """The rest of a partial file, or all of it."""
    size, mtime_ns = entry["size"], entry["mtime_ns"]
    status = os.fstat(descriptor)
    is_part = (status.st_atime_ns, status.st_mtime_ns) == (size, mtime_ns) and status.st_size <= size
    there = status.st_size if is_part else 0
    os.ftruncate(descriptor, there)
    os.lseek(descriptor, there, os.SEEK_SET)
    tally.passed(there)
    written = there

    def take(data: bytes) -> None:
        nonlocal written
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.utime(descriptor, ns=(size, mtime_ns))
        written += len(data)
        tally.moved(len(data))

    download(connection, entry["path"], take, offset=there, size=size, mtime_ns=mtime_ns)
    if written != size:
        raise Conflict(f"{written} bytes came, not {size}")
