"""Whole trees of a drive as records that fit in a JSON line: what a pattern names, what lies below a folder, and how
large it is.

All of it is answered from the local tree, without a call to the store, in slices that let the doors work on between
them. Entries come folder before content, in the order of the drive.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serpentfs.bridge import Pace
from serpentfs.daemon.control import Emit
from serpentfs.errors import InvalidArgument, NotFound
from serpentfs.model import Attributes, DirEntry, Ino, Kind
from serpentfs.vfs.core import Vfs

_SLICE = 16
_PAGE = 200
_MAGIC = re.compile(r"[*?\[]")
_KINDS = {kind.name.lower(): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class WalkedEntry:
    """``path`` is the absolute one in the drive; ``kind`` is "file", "directory" or "symlink"; ``target`` is a
    symlink's."""

    path: str
    kind: str
    size: int
    mtime_ns: int
    target: str | None = None


def walked_entry(vfs: Vfs, path: str, attributes: Attributes) -> WalkedEntry:
    target = vfs.readlink(attributes.ino) if attributes.kind is Kind.SYMLINK else None
    return WalkedEntry(path, attributes.kind.name.lower(), attributes.size, attributes.mtime_ns, target)


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What an entry must be to be found. ``name`` is a pattern of the shell for the last part of the path; times are
    nanoseconds since 1970, limits are exclusive but for the sizes. None: any."""

    name: re.Pattern[str] | None = None
    kind: Kind | None = None
    least_size: int | None = None
    most_size: int | None = None
    newer_than: int | None = None
    older_than: int | None = None

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Conditions:
        """InvalidArgument for a kind that does not exist."""
        pattern, kind = request.get("name"), request.get("kind")
        if kind is not None and kind not in _KINDS:
            raise InvalidArgument("there is no such kind of entry")
        case = re.IGNORECASE if request.get("ignore_case") else 0
        return cls(
            name=None if pattern is None else re.compile(fnmatch.translate(str(pattern)), case),
            kind=None if kind is None else _KINDS[kind],
            least_size=request.get("least_size"),
            most_size=request.get("most_size"),
            newer_than=request.get("newer_than"),
            older_than=request.get("older_than"),
        )

    def hold(self, name: str, one: Attributes) -> bool:
        if self.name is not None and not self.name.match(name):
            return False
        if self.kind is not None and one.kind is not self.kind:
            return False
        if self.least_size is not None and one.size < self.least_size:
            return False
        if self.most_size is not None and one.size > self.most_size:
            return False
        if self.newer_than is not None and one.mtime_ns <= self.newer_than:
            return False
        return self.older_than is None or one.mtime_ns < self.older_than


async def children(vfs: Vfs, folder: Ino, pace: Pace) -> AsyncIterator[DirEntry]:
    """What is in a folder. One that was removed meanwhile has nothing in it."""
    after = 0
    while True:
        try:
            some = vfs.readdir(folder, after, _SLICE)
        except NotFound:
            return
        for entry in some:
            yield entry
        await pace.breathe()
        if len(some) < _SLICE:
            return
        after = some[-1].attributes.ino


async def walk(vfs: Vfs, path: str, depth: int | None = None) -> AsyncIterator[tuple[int, str, Attributes]]:
    """What ``path`` names and all below it, with how many folders deep each lies below ``path`` and its own path. At
    most ``depth`` folders deep. NotFound."""
    pace = Pace()
    waiting = [(0, path, vfs.resolve(path))]
    while waiting:
        level, at, attributes = waiting.pop()
        yield level, at, attributes
        if attributes.kind is Kind.DIRECTORY and (depth is None or level < depth):
            below = [
                (level + 1, joined(at, entry.name), entry.attributes)
                async for entry in children(vfs, attributes.ino, pace)
            ]
            waiting += reversed(below)


async def _send_walk(vfs: Vfs, request: Mapping[str, Any], emit: Emit) -> Any:
    conditions = Conditions.of(request)
    page: list[dict[str, Any]] = []
    async for _, path, attributes in walk(vfs, str(request["path"]), request.get("depth")):
        if conditions.hold(path.rpartition("/")[2], attributes):
            page.append(asdict(walked_entry(vfs, path, attributes)))
        if len(page) == _PAGE:
            await emit(page)
            page = []
    await emit(page)
    return {}


async def _send_matches(vfs: Vfs, request: Mapping[str, Any], emit: Emit) -> Any:
    """The entry at ``path``, else all that it names as a pattern of the shell. NotFound when there is none."""
    path = str(request["path"])
    found = [one async for one in _matches(vfs, path)]
    if not found:
        raise NotFound("nothing matches" if _MAGIC.search(path) else "no such file or folder")
    for start in range(0, len(found), _PAGE):
        await emit([asdict(one) for one in found[start : start + _PAGE]])
    return {}


async def _matches(vfs: Vfs, path: str) -> AsyncIterator[WalkedEntry]:
    try:
        yield walked_entry(vfs, path, vfs.resolve(path))    # a name may hold "*" itself
    except NotFound:
        pass
    else:
        return
    if not _MAGIC.search(path):
        return
    pace = Pace()
    found = [("/", vfs.resolve("/"))]
    for part in path.strip("/").split("/"):
        found = [
            (joined(folder, entry.name), entry.attributes)
            for folder, attributes in found
            if attributes.kind is Kind.DIRECTORY
            async for entry in _named(vfs, attributes.ino, part, pace)
        ]
    for at, attributes in sorted(found, key=lambda one: one[0]):
        yield walked_entry(vfs, at, attributes)


async def _named(vfs: Vfs, folder: Ino, part: str, pace: Pace) -> AsyncIterator[DirEntry]:
    """The entries of a folder that one part of a pattern names. As in a shell, a leading dot must be typed."""
    if not _MAGIC.search(part):
        try:
            yield vfs.lookup(folder, part)
        except NotFound:
            return
        return
    pattern = re.compile(fnmatch.translate(part))
    async for entry in children(vfs, folder, pace):
        if pattern.match(entry.name) and (part.startswith(".") or not entry.name.startswith(".")):
            yield entry


async def _send_usage(vfs: Vfs, request: Mapping[str, Any], emit: Emit) -> Any:
    """Bytes and files of every folder at most ``depth`` folders below ``path``, content before folder, and of
    ``path`` itself."""
    depth = request.get("depth")
    page: list[dict[str, Any]] = []
    async for level, sums in _sums(vfs, str(request["path"])):
        if depth is None or level <= depth:
            page.append(asdict(sums))
        if len(page) == _PAGE:
            await emit(page)
            page = []
    await emit(page)
    return {}


@dataclass(slots=True)
class Usage:
    """What a folder holds with all below it: bytes of cleartext, and how many files."""

    path: str
    size: int = 0
    files: int = 0


async def _sums(vfs: Vfs, path: str) -> AsyncIterator[tuple[int, Usage]]:
    open_folders: list[tuple[int, Usage]] = []

    def left(level: int) -> Iterator[tuple[int, Usage]]:
        """Folders that nothing at ``level`` belongs to any more."""
        while open_folders and open_folders[-1][0] >= level:
            done = open_folders.pop()
            if open_folders:
                above = open_folders[-1][1]
                above.size += done[1].size
                above.files += done[1].files
            yield done

    async for level, at, attributes in walk(vfs, path):
        for done in left(level):
            yield done
        if attributes.kind is Kind.DIRECTORY or not open_folders:
            open_folders.append((level, Usage(at)))
        if attributes.kind is not Kind.DIRECTORY:
            open_folders[-1][1].size += attributes.size
            open_folders[-1][1].files += 1
    for done in left(0):
        yield done


LOOKING = {"walk": _send_walk, "match": _send_matches, "usage": _send_usage}
