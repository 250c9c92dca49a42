"""The whole tree from one flat listing: folders are walked from the root, breadth first.

One id in two ``dir.c9r`` files (an interrupted move, a copied folder) would make one folder two: the first link in
the order of the walk is kept, which also keeps every folder reachable from the root; the others are hidden.
"""

from __future__ import annotations

from collections.abc import Callable

from serpentfs.clouds.base import Known, Listing
from serpentfs.clouds.blobs.base import BlobInfo, BlobStore
from serpentfs.clouds.vault.layout import DATA, ROOT
from serpentfs.clouds.vault.listing import Lister, RawFolder, group_by_folder
from serpentfs.clouds.vault.names import NameCipher
from serpentfs.clouds.vault.parallel import for_each
from serpentfs.errors import Unavailable
from serpentfs.model import Kind, NodeId, NodeInfo

MANY_PREFIXES = 256
"""From so many ``d/XX`` on, they are listed in parallel: a flat listing pages one thousand objects at a time."""
FEW_PREFIXES = 4
"""The same for who is in a hurry: below that, most lie in one folder or fit one page."""


async def list_all(
    store: BlobStore, told: Callable[[], None] = lambda: None, *, hurry: bool = False
) -> list[BlobInfo]:
    """Every object below ``d``. ``told`` is called now and then while the store answers. ``hurry``: somebody waits, so
    more requests are made if that is faster; stores are paid by the request."""
    prefixes = await store.list_directories(DATA)
    told()
    if len(prefixes) < (FEW_PREFIXES if hurry and not store.capabilities.events else MANY_PREFIXES):
        return await store.list(DATA)
    blobs: list[BlobInfo] = []

    async def list_prefix(prefix: str) -> None:
        blobs.extend(await store.list(prefix))
        told()

    await for_each(list_prefix, prefixes)
    return blobs


async def walk(
    lister: Lister, names: NameCipher, raw: dict[str, RawFolder], known: Known
) -> tuple[list[Listing], set[NodeId]]:
    """Listings of every folder that can be reached from the root, and the folders without any object of their own."""
    listings: list[Listing] = []
    links: dict[NodeId, str] = {ROOT: ""}
    bare: set[NodeId] = set()
    level: list[NodeId] = [ROOT]
    while level:
        folders: dict[NodeId, RawFolder] = {}
        for folder in level:
            there = raw.get(names.directory_path(folder))
            if there is None:
                bare.add(folder)
            folders[folder] = there or {}
        level = []
        for folder, nodes in (await lister.list_folders(folders, known)).items():
            children = without_repeated_folders(lister, nodes, links)
            listings.append(Listing(folder, tuple(children)))
            level.extend(child.id for child in children if child.kind is Kind.DIRECTORY)
    return listings, bare


def without_repeated_folders(lister: Lister, nodes: list[NodeInfo], links: dict[NodeId, str]) -> list[NodeInfo]:
    """Leave out links to folders that are linked elsewhere already; ``links`` (folder to locator) is kept up."""
    kept = []
    for node in nodes:
        if node.kind is Kind.DIRECTORY and links.setdefault(node.id, node.locator) != node.locator:
            lister.warn(node.locator, f"has the same directory id as {links[node.id] or 'the root'}; it is hidden")
            continue
        kept.append(node)
    return kept


async def scan(
    store: BlobStore, lister: Lister, names: NameCipher, known: Known, told: Callable[[], None] = lambda: None, *,
    hurry: bool = False,
) -> tuple[list[Listing], set[NodeId]]:
    """The whole vault as it is now: see ``walk``, and ``list_all`` for ``told`` and ``hurry``. Unavailable when not
    even the root is there: a store that lost its content for the moment (unmounted, not synchronised) must not look
    like an empty vault."""
    raw = await group_by_folder(await list_all(store, told, hurry=hurry))
    if names.directory_path(ROOT) not in raw:
        await require_root(store, names)
    return await walk(lister, names, raw, known)


async def require_root(store: BlobStore, names: NameCipher) -> None:
    path = names.directory_path(ROOT)
    if not await store.is_directory(path):
        raise Unavailable(f"the vault's content root {path} is missing")
