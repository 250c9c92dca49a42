"""What change detection must remember of the tree: which folder a content directory belongs to, and who is whose child.

Pure bookkeeping, bounded by the number of folders. A content directory's path is a hash of the folder's id, so an
event tells nothing unless the folder was seen before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serpentfs.clouds.base import Listing
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.clouds.vault.names import NameCipher
from serpentfs.model import Kind, NodeId


class FolderMap:
    """The folders that were shown, as of the last listings."""

    def __init__(self, names: NameCipher) -> None:
        self._names = names
        self.links: dict[NodeId, str] = {}
        """Folder to locator: where its link lies."""
        self._children: dict[NodeId, frozenset[NodeId]] = {}
        self._by_path: dict[str, NodeId] = {}
        self.replace([])

    def replace(self, listings: Iterable[Listing]) -> None:
        """Start over from a complete set of listings."""
        self.links = {ROOT: ""}
        self._children = {}
        self._by_path = {self._names.directory_path(ROOT): ROOT}
        for listing in listings:
            self._add(listing)

    def apply(self, listings: Mapping[NodeId, Listing]) -> set[NodeId]:
        """Take in new listings of some folders. Folders that left one and came up in no other are forgotten with all
        below them, so that they are listed in full should they come back; the answer names them."""
        linked = {
            child.id
            for listing in listings.values()
            for child in listing.children
            if child.kind is Kind.DIRECTORY
        }
        gone: set[NodeId] = set()
        for folder in listings:
            gone |= self._children.get(folder, frozenset()) - linked
        for listing in listings.values():
            self._add(listing)
        forgotten: set[NodeId] = set()
        while gone:
            folder = gone.pop()
            if folder in forgotten or folder in linked or folder == ROOT:
                continue
            forgotten.add(folder)
            self.links.pop(folder, None)
            self._by_path.pop(self._names.directory_path(folder), None)
            gone |= self._children.pop(folder, frozenset())
        return forgotten

    def _add(self, listing: Listing) -> None:
        children = {child.id: child.locator for child in listing.children if child.kind is Kind.DIRECTORY}
        self._children[listing.directory] = frozenset(children)
        for child, locator in children.items():
            self.links[child] = locator
            self._by_path[self._names.directory_path(child)] = child

    def folders_at(self, keys: Iterable[str]) -> set[NodeId]:
        """The known folders that a change at or below these keys (``d/XX``, ``d/XX/YYYY``, deeper) concerns."""
        folders: set[NodeId] = set()
        prefixes: set[str] = set()
        for key in keys:
            parts = key.split("/")
            if len(parts) >= 3:
                folder = self._by_path.get("/".join(parts[:3]))
                if folder is not None:
                    folders.add(folder)
            else:
                prefixes.add(key)
        if prefixes:
            # A content directory came or went as a whole: its own name may not be in the event.
            wanted = tuple(f"{prefix}/" for prefix in prefixes)
            folders |= {folder for path, folder in self._by_path.items() if path.startswith(wanted)}
        return folders
