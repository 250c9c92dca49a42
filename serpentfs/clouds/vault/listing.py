"""From the objects of content directories to nodes: types, ids, names.

Reads only what a listing does not tell (``dir.c9r``, ``symlink.c9r``, ``name.c9s``), in parallel, and not even that
when it is known. Sizes and times come from the listing. An entry that cannot be shown is left out and reported once
in the log by its ciphertext key; the rest stays usable. Knows nothing of the tree above a folder.

A folder's time is that of its ``dir.c9r``: it is in the listing of its parent, it is the same whoever lists, and
``set_mtime`` can set it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from cachetools import LRUCache

from serpentfs.bridge import Pace
from serpentfs.clouds.base import Known
from serpentfs.clouds.blobs.base import BlobInfo, BlobStore
from serpentfs.clouds.vault.conflicts import Claim, assign_names, showable
from serpentfs.clouds.vault.content import ContentScheme, ciphertext_size, decrypt_small, listed_size
from serpentfs.clouds.vault.layout import (
    LONG_NAME_FILE,
    MAX_DIRECTORY_ID_BYTES,
    MAX_TARGET_CHARS,
    TYPE_FILES,
    Entry,
)
from serpentfs.clouds.vault.names import (
    MAX_LONG_NAME_BYTES,
    REGULAR,
    NameCipher,
    is_ciphertext_name,
    normalize,
    shorten,
)
from serpentfs.clouds.vault.parallel import for_each
from serpentfs.errors import IntegrityError, NotFound
from serpentfs.model import Kind, NodeId, NodeInfo

log = logging.getLogger(__name__)

_REMEMBERED_NAMES = 20_000
_REMEMBERED_WARNINGS = 10_000
_MAX_TARGET_BYTES = 4 * MAX_TARGET_CHARS


@dataclass(slots=True)
class RawEntry:
    """What lies under one name of a content directory: an object of that name, objects in a folder of that name."""

    object: BlobInfo | None = None
    inner: dict[str, BlobInfo] = field(default_factory=dict)

    def kinds(self, name: str) -> list[Kind]:
        """Which nodes this entry is; more than one only when something went wrong. The first is the one to show."""
        if not self.inner:  # nearly every entry, so worth a short cut
            return [Kind.FILE] if self.object is not None and name.endswith(REGULAR) else []
        kinds = [
            kind
            for kind, file in TYPE_FILES.items()
            if file in self.inner and (kind is not Kind.FILE or not name.endswith(REGULAR))
        ]
        if self.object is not None and name.endswith(REGULAR):
            kinds.append(Kind.FILE)
        return kinds

    def is_leftover(self, name: str) -> bool:
        """Nothing but, at most, a long name: a creation or removal that was interrupted. Holds no data."""
        return self.object is None and self.inner.keys() <= {LONG_NAME_FILE}


RawFolder = dict[str, RawEntry]


async def group_by_folder(blobs: Iterable[BlobInfo]) -> dict[str, RawFolder]:
    """A flat listing as content directory path → entry name → what lies there."""
    folders: dict[str, RawFolder] = {}
    pace = Pace()
    for blob in blobs:
        await pace.breathe()
        parts = blob.key.split("/")
        if not 4 <= len(parts) <= 5 or not parts[-1]:  # some tools keep a folder alive by an object "folder/"
            continue
        entry = folders.setdefault("/".join(parts[:3]), {}).setdefault(parts[3], RawEntry())
        if len(parts) == 4:
            entry.object = blob
        else:
            entry.inner[parts[4]] = blob
    return folders


@dataclass(slots=True)
class _Found:
    """A node on its way to be shown. ``trouble`` tells why it cannot be, "" that it went away meanwhile."""

    entry: Entry
    kind: Kind
    blob: BlobInfo
    long_name: BlobInfo | None
    clear: str | None = None
    suffix: str = ""
    canonical: bool = True
    directory_id: NodeId | None = None
    target: str | None = None
    trouble: str | None = None

    @property
    def complete(self) -> bool:
        return self.trouble is not None or (
            self.clear is not None
            and (self.kind is not Kind.DIRECTORY or self.directory_id is not None)
            and (self.kind is not Kind.SYMLINK or self.target is not None)
        )


class Lister:
    """Turns raw listings of one vault into nodes. Keeps a bounded memory of long names and of what it warned of."""

    def __init__(self, store: BlobStore, names: NameCipher, scheme: ContentScheme) -> None:
        self._store = store
        self._names = names
        self._scheme = scheme
        self.listed = 0
        """Folders so far."""
        # A long name is addressed by its hash, so once it was found right it is right for ever.
        self._long_names: LRUCache[str, str] = LRUCache(_REMEMBERED_NAMES)
        self._warned: LRUCache[str, str] = LRUCache(_REMEMBERED_WARNINGS)

    async def list_folders(self, folders: Mapping[NodeId, RawFolder], known: Known) -> dict[NodeId, list[NodeInfo]]:
        """The nodes of several folders, by folder. Raises what the store raises, except for what is just gone."""
        found: dict[NodeId, list[_Found]] = {}
        for folder, raw in folders.items():
            found[folder] = await self._classify(folder, raw, known)
            self.listed += 1
        incomplete = [node for nodes in found.values() for node in nodes if not node.complete]
        if incomplete:
            await for_each(self._read_missing, incomplete, limit=min(32, len(incomplete)))
        return {folder: await self._show(nodes) for folder, nodes in found.items()}

    def warn(self, key: str, trouble: str) -> None:
        """Tell the log of a trouble with an entry, once."""
        if self._warned.get(key) != trouble:
            self._warned[key] = trouble
            log.warning("vault entry %s: %s", key, trouble)

    async def _classify(self, folder: NodeId, raw: RawFolder, known: Known) -> list[_Found]:
        path = self._names.directory_path(folder)
        found = []
        pace = Pace()
        for name, there in raw.items():
            await pace.breathe()
            if not is_ciphertext_name(name):
                continue
            entry = Entry(folder, name, path)
            kinds = there.kinds(name)
            if not kinds:
                if not there.is_leftover(name):
                    self.warn(entry.key, "is no file, folder or link; it is not shown")
                continue
            # Of an ambiguous entry the first kind is shown; a plain object beside it is a file of its own.
            shown = kinds[:1] + [kind for kind in kinds[1:] if entry.is_object(kind)]
            if len(kinds) > 1:
                self.warn(entry.key, "is more than one of file, folder and link")
            for kind in shown:
                blob = there.object if entry.is_object(kind) else there.inner[TYPE_FILES[kind]]
                assert blob is not None
                node = _Found(entry, kind, blob, there.inner.get(LONG_NAME_FILE))
                self._fill_in(node, known)
                if node.trouble is None and node.clear is None and not entry.shortened:
                    node.trouble = "its name does not authenticate here; it is not shown"
                found.append(node)
        return found

    def _fill_in(self, node: _Found, known: Known) -> None:
        """What can be said without reading anything."""
        entry = node.entry
        previous = None
        if not entry.is_object(node.kind):
            previous = known(entry.id, node.blob.revision)
            if previous is not None and previous.kind is not node.kind:
                previous = None
        if entry.shortened:
            self._fill_in_long_name(node, previous)
        elif (clear := self._names.decrypt(entry.name.removesuffix(REGULAR), entry.parent)) is not None:
            node.clear = clear
        elif not entry.name.startswith(".") and (match := self._names.find_in(entry.name, entry.parent)):
            node.clear, node.suffix = match
            node.canonical = False
        if previous is not None and node.kind is Kind.DIRECTORY:
            node.directory_id = previous.id
        if previous is not None and node.kind is Kind.SYMLINK:
            node.target = previous.target

    def _fill_in_long_name(self, node: _Found, previous: NodeInfo | None) -> None:
        entry = node.entry
        ciphertext = self._long_names.get(entry.name)
        if ciphertext is None and previous is not None:
            candidate = self._names.encrypt(previous.name, entry.parent)
            if shorten(candidate) == entry.name:
                ciphertext = self._long_names[entry.name] = candidate.removesuffix(REGULAR)
        if ciphertext is not None:
            node.clear = self._names.decrypt(ciphertext, entry.parent)
            if node.clear is None:
                node.trouble = "its name does not authenticate here; it is not shown"
        elif node.long_name is None:
            node.trouble = "its name.c9s is missing; it is not shown"
        elif node.long_name.size > MAX_LONG_NAME_BYTES:
            node.trouble = "its name.c9s is too long; it is not shown"

    async def _read_missing(self, node: _Found) -> None:
        try:
            if node.clear is None:
                self._set_long_name(node, await self._store.read(node.entry.long_name_key))
            if node.trouble is None and node.kind is Kind.DIRECTORY and node.directory_id is None:
                await self._read_directory_id(node)
            if node.trouble is None and node.kind is Kind.SYMLINK and node.target is None:
                await self._read_target(node)
        except NotFound:
            node.trouble = ""

    def _set_long_name(self, node: _Found, text: bytes) -> None:
        ciphertext = text.partition(REGULAR.encode("ascii"))[0].decode("ascii", "replace")
        node.clear = self._names.decrypt(ciphertext, node.entry.parent)
        if node.clear is None:
            node.trouble = "its name.c9s does not authenticate here; it is not shown"
            return
        node.canonical = shorten(ciphertext + REGULAR) == node.entry.name
        if node.canonical:
            self._long_names[node.entry.name] = ciphertext
        else:
            self.warn(node.entry.key, "is not named after the hash of its name.c9s")

    async def _read_directory_id(self, node: _Found) -> None:
        if not 0 < node.blob.size <= MAX_DIRECTORY_ID_BYTES:
            node.trouble = "its dir.c9r has an impossible size; it is not shown"
            return
        data = await self._store.read(node.blob.key)
        try:
            node.directory_id = NodeId(data.decode("utf-8"))
        except UnicodeDecodeError:
            node.trouble = "its dir.c9r is damaged; it is not shown"
        if not data:
            node.trouble = "its dir.c9r is empty; it is not shown"

    async def _read_target(self, node: _Found) -> None:
        if node.blob.size > ciphertext_size(self._scheme, _MAX_TARGET_BYTES):
            node.trouble = "its link target is too long; it is not shown"
            return
        try:
            node.target = decrypt_small(self._scheme, await self._store.read(node.blob.key)).decode("utf-8")
        except (IntegrityError, UnicodeDecodeError):
            node.trouble = "its link target is damaged; it is not shown"

    async def _show(self, nodes: list[_Found]) -> list[NodeInfo]:
        usable = []
        for node in nodes:
            if node.trouble is None:
                usable.append(node)
            elif node.trouble:
                self.warn(node.entry.key, node.trouble)
        usable = self._without_repeated_links(usable)
        names = await self._names_of(usable)
        # Folders first and in a fixed order, untouched entries before copies: of two links to one folder, the first
        # is the one to show.
        folders = [node for node in usable if node.kind is Kind.DIRECTORY]
        folders.sort(key=lambda node: (not node.canonical, node.entry.name))
        shown = []
        pace = Pace()
        for node in chain(folders, (node for node in usable if node.kind is not Kind.DIRECTORY)):
            await pace.breathe()
            shown.append(self._info(node, names[node.blob.key]))
        return shown

    async def _names_of(self, nodes: list[_Found]) -> dict[str, str]:
        """Primary key to the name shown. Untouched entries with normal names, which nearly all are, go first."""
        names: dict[str, str] = {}
        taken: set[str] = set()
        others = []
        pace = Pace()
        for node in nodes:
            await pace.breathe()
            clear = node.clear or ""
            if node.canonical and clear not in taken and normalize(showable(clear)) == clear:
                taken.add(clear)
                names[node.blob.key] = clear
            else:
                others.append(Claim(node.blob.key, clear, node.canonical, node.suffix))
        return names | assign_names(others, taken)

    def _without_repeated_links(self, nodes: list[_Found]) -> list[_Found]:
        """Without the copies that a sync client made of a symbolic link: same name, same target."""
        links = {(node.clear, node.target) for node in nodes if node.kind is Kind.SYMLINK and node.canonical}
        return [
            node
            for node in nodes
            if node.canonical or node.kind is not Kind.SYMLINK or (node.clear, node.target) not in links
        ]

    def _info(self, node: _Found, name: str) -> NodeInfo:
        entry, blob = node.entry, node.blob
        if node.kind is Kind.FILE and (blob.size == 0 or blob.size < self._scheme.header_size):
            self.warn(entry.key, "has no file header")
        return node_info(self._scheme, entry, node.kind, blob, name, node.directory_id, node.target)


def node_info(
    scheme: ContentScheme,
    entry: Entry,
    kind: Kind,
    blob: BlobInfo,
    name: str,
    directory_id: NodeId | None = None,
    target: str | None = None,
) -> NodeInfo:
    """A node as every call of this cloud answers it. ``blob`` is the object that makes the entry what it is."""
    return NodeInfo(
        id=directory_id if directory_id is not None else entry.id,
        parent=entry.parent,
        name=name,
        kind=kind,
        size=0 if kind is Kind.DIRECTORY else listed_size(scheme, blob.size),
        mtime_ns=blob.mtime_ns,
        revision=blob.revision,
        # Only what costs a read to list is worth asking ``known`` for.
        locator="" if entry.is_object(kind) else entry.id,
        target=target,
    )


