"""The drive as one logged-in user sees it over FTP: paths, links, listings, partial files.

FTP paths are text: ``..`` is taken away before the drive is asked and never leads above the door's root. Links
are followed within that root; one that leads out of it names nothing. Knows no sockets and no replies.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from serpentfs.errors import InvalidName, NotADirectory, NotFound
from serpentfs.gateways.ftp.partials import Base, Partial, Partials
from serpentfs.gateways.sync_vfs import LISTING_SLICE, SyncVfs
from serpentfs.model import Attributes, DirEntry, Ino, Kind
from serpentfs.vfs.core import Vfs

_MOST_LINKS = 40   # as Linux (MAXSYMLINKS)


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a folder, and what has that name (None: nothing). Links were followed."""

    parent: Ino
    name: str
    attributes: Attributes | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of a listing. ``attributes`` of a link are its own, ``target`` its text, and ``leads_to`` what
    it names (None: nothing within the door's root)."""

    name: str
    attributes: Attributes
    target: str | None = None
    leads_to: Attributes | None = None


def absolute(folder: str, argument: str) -> str:
    """The FTP path that ``argument`` means in ``folder``. InvalidName for what a command line cannot carry."""
    if any(character in argument for character in "\0\r\n"):
        raise InvalidName("a name with a control character in it")
    return "/" + posixpath.normpath("/" + posixpath.join(folder, argument)).lstrip("/")


class Tree:
    """See the module. ``root`` is the folder of the drive that this door shows."""

    def __init__(self, vfs: SyncVfs, root: Ino, partials: Partials, user: str) -> None:
        self.vfs = vfs
        self.root = root
        self.partials = partials
        self.user = user

    def find(self, path: str) -> Attributes:
        """What an FTP path names, links followed. NotFound, NotADirectory."""
        place = self.place_of(path)
        if place.attributes is None:
            raise NotFound("no such file or folder")
        return place.attributes

    def find_shown(self, path: str) -> Attributes:
        """``find``, where a partial upload counts as a file."""
        place = self.place_of(path)
        if place.attributes is not None:
            return place.attributes
        partial = self.partial_at(place)
        if partial is None:
            raise NotFound("no such file or folder")
        return partial.as_attributes()

    def folder(self, path: str) -> Attributes:
        """``find`` for what must be a folder."""
        found = self.find(path)
        if found.kind is not Kind.DIRECTORY:
            raise NotADirectory("not a folder")
        return found

    def place_of(self, path: str) -> Place:
        """Where a path ends, whether or not something is there. NotFound, NotADirectory of its folder."""
        return self.vfs.ask(_walk, self.root, _names(path), True)

    def name_at(self, path: str) -> Place:
        """``place_of`` for the name itself: a link at the end is not followed (remove, rename)."""
        return self.vfs.ask(_walk, self.root, _names(path), False)

    def is_root(self, path: str) -> bool:
        return not _names(path)

    def partial_at(self, place: Place) -> Partial | None:
        """This user's partial for a name. A stale one is dropped: something else has that name by now."""
        partial = self.partials.at(self.user, place.parent, place.name)
        if partial is not None and partial.base != Base.of(place.attributes):
            self.partials.forget(partial)
            return None
        return partial

    def children(self, folder: Ino) -> Iterator[Shown]:
        """What a listing shows."""
        return chain(self.entries(folder), self.partials_in(folder))

    def entries(self, folder: Ino) -> Iterator[Shown]:
        """What everybody sees there, in the order of inodes."""
        after = 0
        while True:
            page = self.vfs.ask(_page, self.root, folder, after)
            yield from page
            if len(page) < LISTING_SLICE:
                return
            after = page[-1].attributes.ino

    def partials_in(self, folder: Ino) -> Iterator[Shown]:
        """This user's partials of names that nothing has."""
        for partial in self.partials.within(self.user, folder):
            place = self.vfs.ask(_child, folder, partial.name)
            if self.partial_at(place) is not None and place.attributes is None:
                yield Shown(partial.name, partial.as_attributes())

    def one(self, path: str) -> Shown:
        """The listing's line for one path."""
        if self.is_root(path):
            return Shown("/", self.find(path))
        place = self.name_at(path)
        if place.attributes is None:
            partial = self.partial_at(place)
            if partial is None:
                raise NotFound("no such file or folder")
            return Shown(partial.name, partial.as_attributes())
        return self.vfs.ask(_shown, self.root, DirEntry(place.name, place.attributes))


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


# The following run on the loop, each in one crossing.


def _walk(core: Vfs, root: Ino, names: list[str], follow_last: bool) -> Place:
    trail = [core.getattr(root)]
    last = ""
    to_do = list(reversed(names))
    links = 0
    while to_do:
        name = to_do.pop()
        here = trail[-1]
        if here.kind is not Kind.DIRECTORY:
            raise NotADirectory("not a folder")
        if name in ("", "."):
            continue
        if name == "..":   # only links bring these here
            if len(trail) == 1:
                raise NotFound("a link leads out of what this server shows")
            trail.pop()
            continue
        is_last = not to_do
        try:
            entry = core.lookup(here.ino, name)
        except NotFound:
            if is_last:
                return Place(here.ino, name, None)
            raise
        found = entry.attributes
        if found.kind is Kind.SYMLINK and (follow_last or not is_last):
            links += 1
            target = core.readlink(found.ino)
            if links > _MOST_LINKS or target.startswith("/"):
                raise NotFound("a link leads out of what this server shows")
            to_do += reversed(target.split("/"))
            continue
        trail.append(found)
        last = entry.name
    return Place(trail[-1].parent, last, trail[-1])


def _child(core: Vfs, folder: Ino, name: str) -> Place:
    try:
        return Place(folder, name, core.lookup(folder, name).attributes)
    except NotFound:
        return Place(folder, name, None)


def _page(core: Vfs, root: Ino, folder: Ino, after: int) -> list[Shown]:
    return [_shown(core, root, entry) for entry in core.readdir(folder, after, LISTING_SLICE)]


def _shown(core: Vfs, root: Ino, entry: DirEntry) -> Shown:
    attributes = entry.attributes
    if attributes.kind is not Kind.SYMLINK:
        return Shown(entry.name, attributes)
    return Shown(entry.name, attributes, core.readlink(attributes.ino), _leads_to(core, root, attributes))


def _leads_to(core: Vfs, root: Ino, link: Attributes) -> Attributes | None:
    """What a link names, found from the root down, so that it cannot lead out."""
    above = len(_names(core.path_of(root)))
    try:
        return _walk(core, root, _names(core.path_of(link.ino))[above:], True).attributes
    except (NotFound, NotADirectory):
        return None
