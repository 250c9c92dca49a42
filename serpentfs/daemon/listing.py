"""A folder of a drive as plain records, for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serpentfs.errors import NotADirectory, NotFound
from serpentfs.model import Attributes, Kind
from serpentfs.vfs.core import Vfs


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """``kind`` is "file", "directory" or "symlink"; ``target`` is a symlink's."""

    name: str
    kind: str
    size: int
    mtime_ns: int
    target: str | None = None


def resolve(vfs: Vfs, path: str) -> Attributes:
    """What ``path`` names. NotFound, which says so."""
    try:
        return vfs.resolve(path)
    except (NotFound, NotADirectory) as error:
        raise NotFound(f"{path}: no such file or folder") from error


def list_entries(vfs: Vfs, path: str) -> Iterator[list[ListedEntry]]:
    """What is in a folder (or the one file that ``path`` names), page by page, in the order of the drive. NotFound."""
    attributes = resolve(vfs, path)
    if attributes.kind is not Kind.DIRECTORY:
        yield [_entry(vfs, path.rstrip("/").rpartition("/")[2], attributes)]
        return
    after = 0
    while page := vfs.readdir(attributes.ino, after):
        yield [_entry(vfs, entry.name, entry.attributes) for entry in page]
        after = page[-1].attributes.ino


def _entry(vfs: Vfs, name: str, attributes: Attributes) -> ListedEntry:
    target = vfs.readlink(attributes.ino) if attributes.kind is Kind.SYMLINK else None
    return ListedEntry(name, attributes.kind.name.lower(), attributes.size, attributes.mtime_ns, target)
