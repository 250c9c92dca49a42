"""From a URL path to a place in the drive.

Owns the walk from the door's root, with symbolic links: WebDAV has none, so a link that stays within the door's
root is shown as what it points to, and one that dangles or leads out (also an absolute one) as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serpentfs.errors import NotADirectory, NotFound
from serpentfs.gateways.webdav.messages import Refusal, UrlPath, make_href
from serpentfs.model import Attributes, DirEntry, Ino, Kind
from serpentfs.vfs.core import Vfs

_MOST_LINKS = 16
"""Links followed in one walk (Linux: 40); beyond it a link counts as dangling."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads. ``attributes`` is None when nothing is there, ``parent`` is None for the door's root and
    where not even the folder exists. ``name`` is the stored name of what is there, else the wanted one."""

    url: UrlPath
    parent: Ino | None
    name: str
    attributes: Attributes | None
    path: str
    """The path in the drive, in its stored spelling: what locks are kept by. "" where the folder is missing."""

    @property
    def found(self) -> Attributes:
        """What is there; Refusal 404 when nothing is."""
        if self.attributes is None:
            raise Refusal(404, "there is no such file or folder")
        return self.attributes

    @property
    def is_directory(self) -> bool:
        return self.attributes is not None and self.attributes.kind is Kind.DIRECTORY

    @property
    def folder(self) -> Ino:
        """The folder that holds or would hold it; Refusal 409 when that is missing, 403 for the door's root."""
        if self.parent is not None:
            return self.parent
        if not self.url.names:
            raise Refusal(403, "this cannot be done to the root")
        raise Refusal(409, "the parent folder does not exist")

    @property
    def href(self) -> str:
        return make_href(self.url.names, self.is_directory)


class Places:
    """``root`` is the path of the folder that the door shows as ``/``."""

    def __init__(self, vfs: Vfs, root: str) -> None:
        self._vfs = vfs
        self._root = root

    def root(self) -> Attributes:
        """The door's root folder; NotFound when it is gone, NotADirectory."""
        attributes = self._vfs.resolve(self._root)
        if attributes.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{self._root} is not a folder")
        return attributes

    def find(self, url: UrlPath, *, follow: bool = True) -> Place:
        """Look a URL up. ``follow``: through a link at its end (links on the way are always followed)."""
        root = self.root()
        if not url.names:
            return Place(url, None, "", root, self._vfs.path_of(root.ino))
        try:
            parent, name, attributes = self._walk(root, root.ino, url.names, follow)
        except (NotFound, NotADirectory):
            return Place(url, None, url.names[-1], None, "")
        return Place(url, parent.ino, name, attributes, self.child_path(self._vfs.path_of(parent.ino), name))

    def follow(self, folder: Ino, link: DirEntry) -> Attributes | None:
        """What a link in a folder leads to, None when it dangles."""
        try:
            _, _, attributes = self._walk(self._vfs.getattr(folder), self.root().ino, [link.name], True)
        except (NotFound, NotADirectory):
            return None
        return attributes

    def href_of_path(self, path: str, directory: bool) -> str:
        """The URL path of a path of the drive, which lies within the door's root or is shown as it stands."""
        base = self._vfs.path_of(self.root().ino).rstrip("/")
        inside = path.removeprefix(base) if path == base or path.startswith(base + "/") else path
        return make_href([name for name in inside.split("/") if name], directory)

    @staticmethod
    def child_path(folder: str, name: str) -> str:
        return f"{folder.rstrip('/')}/{name}"

    def _walk(
        self, start: Attributes, root: Ino, names: Sequence[str], follow: bool
    ) -> tuple[Attributes, str, Attributes | None]:
        """The folder, the name in it, and what is there. NotFound, NotADirectory when the folder is missing."""
        current, parent, name = start, start, ""
        pending = list(reversed(names))
        links = 0
        while pending:
            wanted = pending.pop()
            if current.kind is not Kind.DIRECTORY:
                raise NotADirectory(f"{name!r} is not a folder")
            if wanted == "..":   # only links have it: a URL with it was refused
                if current.ino == root:
                    raise NotFound("a link leads out of the root")
                current = self._vfs.getattr(current.parent)
                parent, name = self._vfs.getattr(current.parent), ""
                continue
            try:
                entry = self._vfs.lookup(current.ino, wanted)
            except NotFound:
                if pending:
                    raise
                return current, wanted, None
            if entry.attributes.kind is Kind.SYMLINK and (pending or follow):
                links += 1
                target = self._vfs.readlink(entry.attributes.ino)
                if links > _MOST_LINKS or target.startswith("/"):
                    raise NotFound(f"{wanted!r} is a link that leads nowhere")
                pending.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
                continue
            parent, current, name = current, entry.attributes, entry.name
        if not name:
            # A link that ends in "..": the name of that folder is only known from its path.
            name = self._vfs.path_of(current.ino).rpartition("/")[2]
        return parent, name, current
