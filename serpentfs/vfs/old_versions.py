"""The synthetic tree below ``.versions``: which inodes it has, how they are named, and what they show.

    <folder>/.versions/<file>/<time of upload, UTC><extension of the file>

Nothing of it is stored: an inode says what it stands for, and what that is now is asked of the drive and of whoever
keeps old versions. Read-only; knows no door. ``versions_view`` puts it in front of a drive.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Protocol

from serpentfs.errors import NotADirectory, NotFound
from serpentfs.model import NO_CONTENT, Attributes, ContentId, DirEntry, Ino, Kind, NodeId, NodeRef, Revision
from serpentfs.vfs.drive import Drive

NAME = ".versions"
_SHIFT = 60
"""Inodes of the drive are counted, so they are small numbers. The bits from here on say what is shown of one."""
_BELOW = (1 << _SHIFT) - 1
_CONTENTS = 1 << 62
"""Contents of the drive are counted, too; those of versions lie above them."""
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999: what the service says of times is not believed blindly."""
_LONGEST_EXTENSION = 32
"""Bytes. More is no extension, and the name would become too long."""


class _Shown(enum.IntEnum):
    """What a synthetic inode stands for; the bits below are a number."""

    FOLDER = 1
    """The ``.versions`` of the folder with that inode."""
    FILE = 2
    """The versions of the file with that inode."""
    VERSION = 3
    """A version, by its place in ``OldVersions._numbered``."""

    def ino(self, number: int) -> Ino:
        return Ino(self << _SHIFT | number)


def _split(ino: Ino) -> tuple[_Shown, Ino]:
    return _Shown(ino >> _SHIFT), Ino(ino & _BELOW)


class KeptVersion(Protocol):
    """One former content of a file, which never changes: ``handle`` is both its node's id and its revision. ``size`` in
    bytes; times are Unix seconds, the content's own and that of its upload."""

    @property
    def handle(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def mtime(self) -> int: ...

    @property
    def created(self) -> int: ...


class VersionKeeper(Protocol):
    """A cloud that keeps old versions."""

    def versions(self, node: NodeId) -> Sequence[KeptVersion]:
        """Former contents of a file, without the present one."""
        ...


def is_synthetic(ino: Ino) -> bool:
    return ino > _BELOW


def folder_of_versions(directory: Ino) -> Ino:
    """The ``.versions`` of a folder of the drive."""
    return _Shown.FOLDER.ino(directory)


def names_of(file_name: str, versions: Sequence[KeptVersion]) -> list[tuple[str, KeptVersion]]:
    """Versions with their names, oldest first: no later version changes the name of an earlier one."""
    extension = PurePosixPath(file_name).suffix
    if len(extension.encode("utf-8", "surrogateescape")) > _LONGEST_EXTENSION:
        extension = ""
    named: dict[str, KeptVersion] = {}
    for version in sorted(versions, key=lambda one: (one.created, one.handle)):
        moment = time.gmtime(min(max(version.created, 0), _LAST_SECOND))
        # Without colons: WebDAV and FTP clients on Windows cannot make a file of such a name.
        stem = time.strftime("%Y-%m-%dT%H-%M-%SZ", moment)
        name, number = f"{stem}{extension}", 1
        while name in named:
            number += 1
            name = f"{stem} ({number}){extension}"
        named[name] = version
    return list(named.items())


class OldVersions:
    """The tree over one drive. All calls are quick questions; NotFound for what is there no more."""

    def __init__(self, drive: Drive, keeper: VersionKeeper) -> None:
        self._drive = drive
        self._keeper = keeper
        # Versions have no inode in the drive: those that were looked at get a number for as long as this lives.
        self._numbers: dict[tuple[Ino, str], int] = {}
        self._numbered: list[tuple[Ino, str]] = []
        self._shown: set[Ino] = set()

    def is_shown(self, directory: Ino) -> bool:
        """Whether somebody looked below the ``.versions`` of this folder, and may remember what was there."""
        return directory in self._shown

    def getattr(self, ino: Ino) -> Attributes:
        shown, of = _split(ino)
        if shown is _Shown.FOLDER:
            return self._folder(self._drive.getattr(of))
        if shown is _Shown.FILE:
            return self._file(self._drive.getattr(of))
        return self._version(*self._find(ino))

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        """NotADirectory below a version."""
        shown, of = _split(parent)
        if shown is _Shown.FOLDER:
            self._shown.add(of)
            found = self._drive.lookup(of, name)
            if found.attributes.kind is not Kind.FILE or found.name == NAME:
                raise NotFound("no such file")
            return DirEntry(found.name, self._file(found.attributes))
        if shown is _Shown.FILE:
            for known, version in self._versions(of):
                if known == name:
                    return DirEntry(name, self._version(of, version))
            raise NotFound("no such version")
        raise NotADirectory("not a folder")

    def readdir(self, ino: Ino, after: int, limit: int) -> list[DirEntry]:
        """As ``Vfs.readdir``."""
        shown, of = _split(ino)
        if shown is _Shown.FOLDER:
            self._shown.add(of)
            return self._files(of, after & _BELOW, limit)
        if shown is _Shown.FILE:
            entries = [DirEntry(name, self._version(of, version)) for name, version in self._versions(of)]
            entries.sort(key=lambda entry: entry.attributes.ino)
            return [entry for entry in entries if entry.attributes.ino > after][:limit]
        raise NotADirectory("not a folder")

    def path_of(self, ino: Ino) -> str:
        shown, of = _split(ino)
        if shown is _Shown.FOLDER:
            return f"{self._drive.path_of(of).rstrip('/')}/{NAME}"
        if shown is _Shown.FILE:
            folder, _, name = self._drive.path_of(of).rpartition("/")
            return f"{folder}/{NAME}/{name}"
        file, wanted = self._find(ino)
        name = next(name for name, version in self._versions(file) if version.handle == wanted.handle)
        return f"{self.path_of(_Shown.FILE.ino(file))}/{name}"

    def content_of(self, ino: Ino) -> tuple[ContentId, NodeRef]:
        """What a version is read by."""
        _, version = self._find(ino)
        node = NodeRef(NodeId(version.handle), Kind.FILE, Revision(version.handle), version.size)
        return _content(version.handle), node

    def _files(self, directory: Ino, after: int, limit: int) -> list[DirEntry]:
        entries: list[DirEntry] = []
        while len(entries) < limit and (page := self._drive.readdir(directory, after, limit)):
            after = page[-1].attributes.ino
            for entry in page:
                if entry.attributes.kind is Kind.FILE and entry.name != NAME and len(entries) < limit:
                    entries.append(DirEntry(entry.name, self._file(entry.attributes)))
        return entries

    def _versions(self, file: Ino) -> list[tuple[str, KeptVersion]]:
        node = self._drive.node_of(file)
        if node is None:
            return []
        name = self._drive.path_of(file).rpartition("/")[2]
        return names_of(name, self._keeper.versions(node))

    def _find(self, ino: Ino) -> tuple[Ino, KeptVersion]:
        _, number = _split(ino)
        if number >= len(self._numbered):
            raise NotFound("no such version")
        file, handle = self._numbered[number]
        node = self._drive.node_of(file)
        for version in () if node is None else self._keeper.versions(node):
            if version.handle == handle:
                return file, version
        raise NotFound("no such version")

    # what is shown

    @staticmethod
    def _folder(directory: Attributes) -> Attributes:
        if directory.kind is not Kind.DIRECTORY:
            raise NotFound("no such folder")
        return directory._replace(ino=folder_of_versions(directory.ino), parent=directory.ino)

    @staticmethod
    def _file(file: Attributes) -> Attributes:
        """A file, shown as the folder of its versions. Its mode is a file's: nobody could enter the folder."""
        return file._replace(
            ino=_Shown.FILE.ino(file.ino), parent=folder_of_versions(file.parent), kind=Kind.DIRECTORY, size=0,
            content=NO_CONTENT, generation=1, mode=None,
        )

    def _version(self, file: Ino, version: KeptVersion) -> Attributes:
        key = (file, version.handle)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbered)
            self._numbered.append(key)
        mtime_ns, created_ns = version.mtime * 10**9, version.created * 10**9
        return self._drive.getattr(file)._replace(
            ino=_Shown.VERSION.ino(self._numbers[key]), parent=_Shown.FILE.ino(file),
            size=version.size, mtime_ns=mtime_ns, ctime_ns=created_ns, atime_ns=mtime_ns,
            content=_content(version.handle), generation=1,
        )


def _content(handle: str) -> ContentId:
    """The same in every run, so that what the disk cache holds of a version is of use after a restart."""
    number = int.from_bytes(hashlib.sha256(handle.encode()).digest()[:8])
    return ContentId(_CONTENTS | number & _CONTENTS - 1)
