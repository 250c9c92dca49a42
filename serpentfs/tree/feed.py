"""What the cloud reports, applied to the tree.

A listing is compared with what the cloud was last known to hold (``nodes``), never with what the user sees: local
changes that the cloud does not know yet stay as they are. Three rules keep a late or early look harmless:

- an entry with a pending local change is left alone, and its folder is listed again when the change is through;
- what this process itself changed after the observation began is left alone, and the folder is listed again;
- within a batch, a node that left one folder and came up in another was moved.

A cloud that never lists again what it reported once (``resumes_changes``) has what is left for later written down.

A file whose content changed in the cloud while somebody has it open comes as a new inode, so that nobody reads
half of one content and half of another.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

import trio

from serpentfs.bridge import Pace
from serpentfs.clouds.base import Batch, Cloud
from serpentfs.errors import NotFound
from serpentfs.model import NO_CONTENT, Ino, Kind, NodeId, NodeInfo
from serpentfs.tree.store import EntryRow, NodeRow, Store

log = logging.getLogger(__name__)

Place = tuple[NodeId, str]
"""A folder of the cloud and a name key in it."""

_REVISIT = "feed-revisit"
"""Where the records of folders to be listed again are kept, as if it were a door."""
_SECOND = 1_000_000_000
_SLICE = 16
"""Children handled in one transaction: a fraction of a millisecond, so that no door waits long for the loop."""
_FIRST_SLICE = 256
"""The same while the tree is not complete: no door shows it yet, and fewer transactions cost less."""
_REMEMBER = 3600.0
"""Seconds for which an own change outweighs a listing that began before it: longer than any listing takes."""


class Local(Protocol):
    """What the feed must know of local changes, and whom it tells."""

    def is_pending(self, ino: Ino) -> bool:
        """A change of this inode is not in the cloud yet, or is being written."""
        ...

    def touches(self, parent: Ino, name: str) -> bool:
        """A pending change takes or frees this name."""
        ...

    def is_new(self, ino: Ino) -> bool:
        """It has never been in the cloud, and waits to be made there."""
        ...

    def is_open(self, ino: Ino) -> bool: ...

    def is_birthplace(self, ino: Ino) -> bool:
        """Something is to be made in this folder that is elsewhere by now: it is moved there after."""
        ...

    def give_up_node(self, ino: Ino) -> None:
        """Drop a node, which a change that is not in the cloud yet may be made in. Within a transaction."""
        ...

    def changed(self, ino: Ino | None, *, data: bool = False, entry: tuple[Ino, str] | None = None) -> None:
        """The tree changed here."""
        ...


class Feed:
    """Applies batches. Batches are applied one after another; local changes may come in between slices."""

    def __init__(self, store: Store, cloud: Cloud, local: Local) -> None:
        self._store = store
        self._cloud = cloud
        self._local = local
        self._own_inos: dict[Ino, float] = {}
        self._own_nodes: dict[NodeId, float] = {}
        self._own_slots: dict[tuple[Ino, str], float] = {}
        self._revisit: set[Ino] = set()
        self._recorded = {Ino(int(key)) for key in store.records(_REVISIT)}
        """Folders whose revisit is written down: what is left for later outlives this process where the cloud would
        not tell it again."""
        self._revisit.update(self._recorded)
        self._untimely: set[Ino] = set()
        """Files whose time here is not theirs."""
        self._asked: set[Ino] = set()
        """Folders whose new listing was asked for and has not come yet."""
        self._applied = trio.Event()
        """The batch after this moment is applied."""
        self._place_of: Callable[[NodeId], Place | None] = lambda _: None
        """Where the batch that is being applied has a node."""
        self._leaving: frozenset[NodeId] = frozenset()
        """Nodes that the batch says are no more."""
        self._new_folders: set[NodeId] = set()
        """Folders that a listing brought and whose own listing has not come yet."""
        self._doomed: list[Ino] = []
        """Folders to be taken out with all that is below."""
        self._complete_since = -math.inf
        """When the last complete batch that was applied began."""
        self.compared = 0
        """Folders so far that were compared with a listing."""

    # what this process did itself

    def confirmed(self, *inos: Ino, left: NodeId | None = None, slots: Iterable[tuple[Ino, str]] = ()) -> None:
        """The cloud has just confirmed our change of these inodes. ``left`` is an id that went away by it. ``slots``
        are the names (folder, name key) that it took or freed: what an earlier look found there, perhaps an upload of
        ours whose answer never came, may have gone by it, too."""
        now = trio.current_time()
        for ino in inos:
            self._own_inos[ino] = now
        for slot in slots:
            self._own_slots[slot] = now
        if left is not None:
            self._own_nodes[left] = now
        if len(self._own_inos) + len(self._own_nodes) + len(self._own_slots) > 50_000:
            self._own_inos = {k: t for k, t in self._own_inos.items() if t > now - _REMEMBER}
            self._own_nodes = {k: t for k, t in self._own_nodes.items() if t > now - _REMEMBER}
            self._own_slots = {k: t for k, t in self._own_slots.items() if t > now - _REMEMBER}

    def revisit_settled(self) -> None:
        """Ask for listings of the folders that had to be left alone, where nothing is pending any more."""
        for folder in list(self._revisit):
            if self._local.is_pending(folder):
                continue
            self._revisit.discard(folder)
            node = self._store.node_of(folder)
            if node is not None:
                self._asked.add(folder)
                self._cloud.recheck(node.node)

    def leave_for_later(self, folder: Ino) -> None:
        """Have a folder listed again, once nothing of it is pending."""
        self._revisit.add(folder)
        self._record_revisits()

    def reverted(self, ino: Ino, folder: Ino) -> None:
        """A file is what the cloud has of it again, but for its time: have its folder listed."""
        self._untimely.add(ino)
        self.leave_for_later(folder)
        self.revisit_settled()

    async def refresh(self, folder: Ino) -> None:
        """Ask for a listing of a folder now, and wait until it is applied. Waits as long as the cloud is silent.
        NotFound also when the folder goes meanwhile."""
        node = self._store.node_of(folder)
        if node is None:
            raise NotFound("not uploaded yet: there is nothing to ask for")
        self._asked.add(folder)
        self._cloud.recheck(node.node)
        while folder in self._asked:
            await self._applied.wait()
            if self._store.node_of(folder) is None:
                self._asked.discard(folder)
                raise NotFound("it is gone")

    async def reload(self) -> None:
        """Have the cloud fetch everything anew, and wait until it is applied. Waits as long as the cloud is silent."""
        since = await self._cloud.reload()
        while self._complete_since < since:
            await self._applied.wait()

    @property
    def observed(self) -> int:
        """See Cloud.observed."""
        return self._cloud.observed

    # batches

    async def apply(self, batch: Batch) -> None:
        """Apply what was observed. A folder that is not known and in nobody's listing is passed over."""
        self._leaving = frozenset(batch.removed)
        children_of: Callable[[NodeId], Iterable[NodeInfo] | None]
        if batch.tree is not None:
            children_of, folders = batch.tree.children, [self._cloud.root]
            self._place_of = self._places_in(batch.tree.place)
        else:
            listings = {listing.directory: listing.children for listing in batch.listings}
            children_of, folders = listings.get, [self._cloud.root] if batch.complete else list(listings)
            self._place_of = self._places_of(batch)
        queue = deque(folders)
        done: set[NodeId] = set()
        while queue:
            directory = queue.popleft()
            node = self._store.node_by_id(directory)
            children = None if directory in done or node is None else children_of(directory)
            if children is None or node is None:
                continue
            done.add(directory)
            self.compared += 1
            self._asked.discard(node.ino)
            queue.extend(await self._apply_listing(node.ino, children, batch.started))
            self._new_folders.discard(directory)
        await self._apply_changed(batch)
        await self._apply_removed(batch)
        for directory in self._new_folders:
            node = self._store.node_by_id(directory)
            if node is not None:
                self._asked.add(node.ino)  # which is written down: what was told of its children was passed over
            self._cloud.recheck(directory)
        self._new_folders.clear()
        if batch.complete and not self._store.is_complete():
            with self._store.transaction():
                self._store.set_complete()
        if batch.complete:
            self._complete_since = batch.started
        self._record_revisits()
        self._place_of = lambda _: None
        self._applied.set()
        self._applied = trio.Event()

    def _places_of(self, batch: Batch) -> Callable[[NodeId], Place | None]:
        places = {
            child.id: (listing.directory, self._cloud.name_key(child.name))
            for listing in batch.listings
            for child in listing.children
        }
        places.update((child.id, (child.parent, self._cloud.name_key(child.name)))
                      for child in batch.changed if child.parent is not None)
        if batch.listings or not (batch.changed or batch.removed):
            return places.get

        def place_of(node: NodeId) -> Place | None:
            return None if node in self._leaving else places.get(node) or self._known_place(node)

        return place_of

    def _places_in(self, place: Callable[[NodeId], Place | None]) -> Callable[[NodeId], Place | None]:
        def place_of(node: NodeId) -> Place | None:
            found = place(node)
            return None if found is None else (found[0], self._cloud.name_key(found[1]))

        return place_of

    def _known_place(self, node: NodeId) -> Place | None:
        row = self._store.node_by_id(node)
        entry = None if row is None else self._store.entry(row.ino)
        parent = None if row is None else self._store.node_of(row.parent)
        return None if entry is None or parent is None else (parent.node, self._cloud.name_key(entry.name))

    def _record_revisits(self) -> None:
        wanted = self._revisit | self._asked
        if not self._cloud.capabilities.resumes_changes or self._recorded == wanted:
            return
        with self._store.transaction():
            for folder in wanted ^ self._recorded:
                self._store.put_record(_REVISIT, str(folder), b"" if folder in wanted else None)
        self._recorded = wanted

    async def _apply_listing(self, folder: Ino, children: Iterable[NodeInfo], started: float) -> list[NodeId]:
        """The answer: the folders among the children."""
        pace = Pace()
        after = 0
        while page := self._store.nodes_in(folder, after, _SLICE):
            after = page[-1].ino
            vanished = [node for node in page if self._place_of(node.node) is None]
            if vanished:
                with self._store.transaction():
                    for node in vanished:
                        self._vanished(folder, node, started)
            await self._take_out_doomed()
            await pace.breathe()
        rest = iter(children)
        below: list[NodeId] = []
        size = _SLICE if self._store.is_complete() else _FIRST_SLICE
        while some := list(islice(rest, size)):
            self._apply_children(folder, some, started)
            below.extend(child.id for child in some if child.kind is Kind.DIRECTORY)
            await self._take_out_doomed()
            await pace.breathe()
        await self._take_out_leftovers(folder, started)
        return below

    async def _take_out_leftovers(self, folder: Ino, started: float) -> None:
        """The folder's listing has been applied: what has no node and none coming is in nobody's hands any more."""
        pace = Pace()
        after: Ino | None = Ino(0)
        while after is not None:
            found, after = self._store.without_node(folder, after)
            for ino in found:
                if self._local.is_pending(ino) or self._own_inos.get(ino, -1.0) >= started:
                    if not self._local.is_new(ino):
                        self._revisit.add(folder)
                    continue
                with self._store.transaction():
                    self._remove(ino)
                await self._take_out_doomed()
            await pace.breathe()

    async def _apply_removed(self, batch: Batch) -> None:
        pace = Pace()
        for removed in batch.removed:
            node = self._store.node_by_id(removed)
            if node is not None:
                with self._store.transaction():
                    self._vanished(node.parent, node, batch.started)
                await self._take_out_doomed()
                await pace.breathe()

    async def _apply_changed(self, batch: Batch) -> None:
        """A node whose folder is among the changed ones, too, may come before it."""
        pace = Pace()
        waiting = [child for child in batch.changed if child.parent is not None]
        while waiting:
            rest = []
            for child in waiting:
                folder = None if child.parent is None else self._store.node_by_id(child.parent)
                if folder is None:
                    rest.append(child)
                    continue
                self._apply_children(folder.ino, [child], batch.started)
                await self._take_out_doomed()
                await pace.breathe()
            if len(rest) == len(waiting):
                return  # below a folder that is not there: its own news brings a listing of it
            waiting = rest

    def _apply_children(self, folder: Ino, children: Sequence[NodeInfo], started: float) -> None:
        # Most listings change nothing: find out what does before a transaction is opened.
        known = self._store.nodes_by_id([child.id for child in children])
        changes = []
        for child in children:
            node = known.get(child.id)
            if node is None or not self._is_as_known(folder, node, child):
                changes.append((child, node))
        if not changes:
            return
        with self._store.transaction():
            plain = self._insert_plain(folder, changes, started)
            for child, node in changes[plain:]:
                if node is None:
                    self._appeared(folder, child, started)
                else:
                    self._differs(folder, child, node, started)

    def _insert_plain(self, folder: Ino, changes: Sequence[tuple[NodeInfo, NodeRow | None]], started: float) -> int:
        """Insert the new nodes that ``changes`` begins with, up to the first about which something must be decided: as
        ``_appeared`` would, together. The answer: how many."""
        keys = [self._cloud.name_key(child.name) for child, _ in changes]
        taken = self._store.taken(folder, keys)
        plain = 0
        for (child, node), key in zip(changes, keys, strict=True):
            if node is not None or key in taken or self._own_since(started, None, child.id, (folder, key)):
                break
            if self._local.touches(folder, child.name):
                break
            taken.add(key)
            plain += 1
        if plain:
            self._insert(folder, [(child.name, child) for child, _ in changes[:plain]])
        return plain

    def _is_as_known(self, folder: Ino, node: NodeRow, child: NodeInfo) -> bool:
        if (node.parent, node.revision, node.size, node.locator) != (folder, child.revision, child.size, child.locator):
            return False
        if node.ino in self._untimely:
            return False
        if child.kind is Kind.FILE and not self._cloud.capabilities.stable_file_ids:
            return True  # the id itself depends on the name
        entry = self._store.entry(node.ino)
        if entry is None or entry.name != child.name or entry.kind is not child.kind:
            return False
        return not self._time_was_set(entry, child)

    def _time_was_set(self, entry: EntryRow, child: NodeInfo) -> bool:
        return entry.ino in self._untimely or (
            self._cloud.capabilities.reports_times
            and child.kind is Kind.FILE
            and entry.mtime_ns // _SECOND != child.mtime_ns // _SECOND
        )

    def _own_since(self, started: float, ino: Ino | None, node: NodeId, slot: tuple[Ino, str] | None = None) -> bool:
        return (
            (ino is not None and self._own_inos.get(ino, -1.0) >= started)
            or self._own_nodes.get(node, -1.0) >= started
            or (slot is not None and self._own_slots.get(slot, -1.0) >= started)
        )

    def _vanished(self, folder: Ino, node: NodeRow, started: float) -> None:
        if self._local.is_pending(node.ino) or self._own_since(started, node.ino, node.node):
            self._revisit.add(folder)
            return
        self._remove(node.ino)

    def _remove(self, ino: Ino) -> bool:
        """Take an entry out of the tree. False for a folder with something in it: that is done behind; and for one in
        which something has yet to be made: it will be made again in the cloud for that."""
        if self._store.has_children(ino):
            self._doomed.append(ino)
            return False
        entry = self._store.entry(ino)
        self._store.drop_node(ino)
        if entry is None or not entry.parent:
            return True
        if entry.kind is Kind.DIRECTORY and self._local.is_birthplace(ino):
            self._revisit.add(entry.parent)
            return False
        self._store.remove_entry(ino)
        self._local.changed(ino, data=True, entry=(entry.parent, entry.name))
        return True

    def overtaken(self, ino: Ino, folder: Ino, info: NodeInfo) -> None:
        """Our renaming took along a content that is not known here: the entry has that one now, so that there is no
        moment in which it cannot be read. Who has it open goes on with the old one, and the new one comes with the next
        listing. Within a transaction."""
        entry = self._store.entry(ino)
        if entry is None or not entry.parent or self._local.is_open(ino):
            self._local.give_up_node(ino)
        else:
            self._replace_content(ino, folder, info)

    def remove_leftover(self, ino: Ino) -> None:
        """An entry has lost its node for good: it goes at once where it is in nobody's hands, and else (or with
        something in it) when its folder is listed. Within a transaction."""
        if not self._local.is_pending(ino) and not self._local.is_open(ino) and not self._store.has_children(ino):
            self._remove(ino)

    async def _take_out_doomed(self) -> None:
        while self._doomed:
            await self.take_out(self._doomed.pop())

    async def take_out(self, ino: Ino) -> bool:
        """Take an entry that the cloud has no more out of the tree, with everything below it, but for what has pending
        changes and the folders that lead to it (they will be made again in the cloud when those are sent). Tells
        whether all went. Goes by slices, from below."""
        pace = Pace()
        after = 0
        while page := self._store.children(ino, after, _SLICE):
            after = page[-1].ino
            with self._store.transaction():
                for child in page:
                    if self._local.is_pending(child.ino):
                        node = self._store.node_of(child.ino)
                        if child.kind is not Kind.DIRECTORY and node is not None and node.parent == ino:
                            self._local.give_up_node(child.ino)  # unless it only was to come here
                    elif child.kind is not Kind.DIRECTORY:
                        self._remove(child.ino)
            for child in page:
                if child.kind is Kind.DIRECTORY and not self._local.is_pending(child.ino):
                    await self.take_out(child.ino)
            await pace.breathe()
        with self._store.transaction():
            if not self._store.has_children(ino) and not self._local.is_pending(ino):
                return self._remove(ino)
            self._store.drop_node(ino)
        log.warning("a folder that was removed in the cloud holds changes that are not uploaded yet: it is kept")
        return False

    def _appeared(self, folder: Ino, child: NodeInfo, started: float) -> None:
        name = child.name
        if self._own_since(started, None, child.id, (folder, self._cloud.name_key(name))):
            self._revisit.add(folder)
            return
        occupant = self._store.child(folder, name)
        if occupant is not None:
            node = self._store.node_of(occupant.ino)
            both_folders = occupant.kind is Kind.DIRECTORY and child.kind is Kind.DIRECTORY
            if self._is_leftover(occupant) or (both_folders and node is None and not self._local.is_new(occupant.ino)):
                self._adopt(occupant, folder, child)
                return
            if node is not None and self._is_gone(occupant, node, started):
                if occupant.kind is child.kind is Kind.FILE and not self._local.is_open(occupant.ino):
                    self._replace_content(occupant.ino, folder, child)
                    return
                if not self._remove(occupant.ino):
                    self._revisit.add(folder)
                    return
            elif not self._gives_way(occupant, folder, started):
                if self._local.is_pending(occupant.ino) or node is None or not self._is_in(node.node, folder):
                    self._revisit.add(folder)
                    return
                name = distinct_name(name, child.id)
                if self._store.child(folder, name) is not None:
                    self._revisit.add(folder)
                    return
        elif self._local.touches(folder, name):
            self._revisit.add(folder)
            return
        self._insert(folder, [(name, child)])

    def _is_gone(self, occupant: EntryRow, node: NodeRow, started: float) -> bool:
        """Whether an entry is no more, as this batch says, and its own turn has not come yet."""
        return (
            node.node in self._leaving
            and not self._local.is_pending(occupant.ino)
            and not self._own_since(started, occupant.ino, node.node)
        )

    def _replace_content(self, ino: Ino, folder: Ino, child: NodeInfo) -> None:
        """Somebody saved over a file, and the cloud made a new node of it: the same entry with a new content."""
        content = self._store.new_content()
        self._store.set_content(ino, content, child.size, child.mtime_ns, time.time_ns())
        self._store.put_node(NodeRow(ino, folder, child.id, child.locator, child.revision, child.size, content))
        self._local.changed(ino, data=True)

    def _gives_way(self, occupant: EntryRow, folder: Ino, started: float) -> bool:
        """Whether the entry under a name is somewhere else by now, as this batch says: then it goes aside, and its own
        turn brings it to its place. Without that two folders that swapped names would wait for each other."""
        node = self._store.node_of(occupant.ino)
        here = self._store.node_of(folder)
        if node is None or here is None or self._local.is_pending(occupant.ino):
            return False
        place = self._place_of(node.node)
        if place is None or place == (here.node, self._cloud.name_key(occupant.name)):
            return False
        return not self._own_since(started, occupant.ino, node.node) and self._put_aside(occupant, folder, node.node)

    def _is_in(self, node: NodeId, folder: Ino) -> bool:
        """Whether the batch has the node in this folder."""
        place, here = self._place_of(node), self._store.node_of(folder)
        return place is not None and here is not None and place[0] == here.node

    def _is_leftover(self, entry: EntryRow) -> bool:
        """An entry that has no node and none coming: it lost it to somebody else's change."""
        return not self._local.is_pending(entry.ino) and self._store.node_of(entry.ino) is None

    def _adopt(self, occupant: EntryRow, folder: Ino, child: NodeInfo) -> None:
        """A leftover entry's name holds this now."""
        if occupant.kind is Kind.DIRECTORY and child.kind is Kind.DIRECTORY:
            self._store.put_node(NodeRow(occupant.ino, folder, child.id, child.locator, child.revision, 0, NO_CONTENT))
            self._new_folders.add(child.id)
        elif self._make_room(occupant, folder):
            self._insert(folder, [(occupant.name, child)])
        else:
            self._revisit.add(folder)

    def _make_room(self, leftover: EntryRow, folder: Ino) -> bool:
        """Take a leftover out of the way of what its name holds now. A folder with something in it goes aside: what
        waits for its upload there is uploaded to a folder of that name, and without such it goes altogether."""
        return self._remove(leftover.ino) or self._put_aside(leftover, folder, NodeId(str(leftover.ino)))

    def _put_aside(self, entry: EntryRow, folder: Ino, node: NodeId) -> bool:
        aside = distinct_name(entry.name, node)
        if self._store.child(folder, aside) is not None:
            return False
        self._store.place_entry(entry.ino, folder, aside, time.time_ns())
        self._local.changed(entry.ino, entry=(folder, entry.name))
        self._local.changed(None, entry=(folder, aside))
        self._revisit.add(folder)
        return True

    def _insert(self, folder: Ino, named: Iterable[tuple[str, NodeInfo]]) -> None:
        """Make entries under names that are free in a folder."""
        rows = []
        for name, child in named:
            ino = self._store.new_ino()
            content = self._store.new_content() if child.kind is Kind.FILE else NO_CONTENT
            size = len(child.target.encode("utf-8", "surrogateescape")) if child.target is not None else child.size
            times = child.mtime_ns
            entry = EntryRow(ino, folder, name, child.kind, size, times, times, times, content, 1, target=child.target)
            rows.append((entry, NodeRow(ino, folder, child.id, child.locator, child.revision, child.size, content)))
            if child.kind is Kind.DIRECTORY:
                self._new_folders.add(child.id)
        self._store.insert_children(rows)
        self._folder_changed(folder)
        for entry, _ in rows:
            self._local.changed(None, entry=(folder, entry.name))

    def _differs(self, folder: Ino, child: NodeInfo, node: NodeRow, started: float) -> None:
        ino = node.ino
        if self._local.is_pending(ino) or self._own_since(started, ino, node.node):
            self._revisit.add(folder)
            return
        entry = self._store.entry(ino)
        if entry is None or entry.kind is not child.kind:
            if self._remove(ino):
                self._insert(folder, [(child.name, child)])
            else:
                self._revisit.add(folder)
            return
        if (entry.parent, entry.name) != (folder, child.name):
            if child.kind is Kind.DIRECTORY and self._is_at_or_below(folder, ino):
                self._revisit.add(folder)  # by a renaming here that is not sent yet, and will turn out to be impossible
                return
            occupant = self._store.child(folder, child.name)
            if occupant is not None and occupant.ino != ino and self._is_leftover(occupant):
                occupant = None if self._make_room(occupant, folder) else occupant
            if occupant is not None and occupant.ino != ino and self._gives_way(occupant, folder, started):
                occupant = None
            if (occupant is not None and occupant.ino != ino) or self._local.touches(folder, child.name):
                self._revisit.add(folder)
                return
            self._store.place_entry(ino, folder, child.name, time.time_ns())
            self._folder_changed(entry.parent)
            self._folder_changed(folder)
            self._local.changed(ino, entry=(entry.parent, entry.name))
            self._local.changed(ino, entry=(folder, child.name))
        content = node.content
        if child.kind is Kind.FILE and (node.revision, node.size) != (child.revision, child.size):
            if self._local.is_open(ino):
                self._store.remove_entry(ino)
                self._store.drop_node(ino)
                self._local.changed(None, entry=(folder, child.name))
                self._insert(folder, [(child.name, child)])
                return
            content = self._store.new_content()
            self._store.set_content(ino, content, child.size, child.mtime_ns, time.time_ns())
            self._local.changed(ino, data=True)
        elif self._time_was_set(entry, child):
            self._store.set_times(ino, child.mtime_ns, None, time.time_ns())
            self._local.changed(ino)
        elif child.kind is Kind.SYMLINK and child.target is not None and child.target != entry.target:
            self._store.set_target(ino, child.target, len(child.target.encode("utf-8", "surrogateescape")))
            self._local.changed(ino, data=True)
        self._store.put_node(NodeRow(ino, folder, child.id, child.locator, child.revision, child.size, content))
        self._untimely.discard(ino)

    def _is_at_or_below(self, folder: Ino, above: Ino) -> bool:
        while folder != above:
            entry = self._store.entry(folder)
            if entry is None or not entry.parent:
                return False
            folder = entry.parent
        return True

    def _folder_changed(self, folder: Ino) -> None:
        if self._store.is_complete():
            now = time.time_ns()
            self._store.set_times(folder, now, None, now)
        self._local.changed(folder)


def distinct_name(name: str, node: NodeId) -> str:
    """A second node of one name in one folder: shown under a name of its own, the same at every start."""
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    return f"{stem} (duplicate {hashlib.sha256(node.encode()).hexdigest()[:8]}){dot}{suffix}"
