"""The journal against a model: whatever is done to a tree, and however sending goes, the cloud ends as the tree.

A local tree records its changes; a cloud that refuses everything impossible carries out what ``ready`` allows, in
any order and with any overlap; answers get lost, attempts fail, the process restarts. After every step the pending
entries, carried out one by one, must turn the cloud into the local tree.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serpentfs.model import NO_CONTENT, ROOT_INO, ContentId, Ino, Kind
from serpentfs.vfs.entries import claims_of
from serpentfs.vfs.journal import Delta, Entry, EntryState, Journal, Operation, Place

NAMES = ("a", "b", "c", "A")
FAR = 1e9
ENDS = (None, "confirmed", "confirmed", "answer lost", "not done", "unsent", "stuck")


@dataclass
class Node:
    kind: Kind
    place: Place
    content: ContentId = NO_CONTENT
    mtime_ns: int | None = None


@dataclass
class Tree:
    """Nodes by inode. The root is not among them."""

    nodes: dict[Ino, Node] = field(default_factory=dict)

    def at(self, parent: Ino, key: str) -> Ino | None:
        return next((ino for ino, node in self.nodes.items() if node.place.slot == (parent, key)), None)

    def children(self, folder: Ino) -> list[Ino]:
        return [ino for ino, node in self.nodes.items() if node.place.parent == folder]

    def folders(self) -> list[Ino]:
        return [ROOT_INO, *(ino for ino, node in self.nodes.items() if node.kind is Kind.DIRECTORY)]

    def above(self, ino: Ino) -> tuple[Ino, ...]:
        """The folders from this one's parent up, without the root."""
        found: list[Ino] = []
        while ino != ROOT_INO:
            ino = self.nodes[ino].place.parent
            if ino != ROOT_INO:
                found.append(ino)
            assert len(found) <= len(self.nodes), "a folder lies below itself"
        return tuple(found)

    def image(self) -> dict[Ino, tuple[Kind, Ino, str, ContentId, int | None]]:
        return {
            ino: (node.kind, node.place.parent, node.place.name, node.content, node.mtime_ns)
            for ino, node in self.nodes.items()
        }


KINDS = {
    Operation.CREATE: Kind.FILE,
    Operation.MKDIR: Kind.DIRECTORY,
    Operation.SYMLINK: Kind.SYMLINK,
}


class Cloud(Tree):
    """Carries out entries and refuses what a real one would refuse. ``retry``: "it is already so" is success."""

    def carry_out(self, entry: Entry, retry: bool) -> None:
        match entry.operation:
            case Operation.CREATE | Operation.MKDIR | Operation.SYMLINK:
                self._make(entry, retry)
            case Operation.CONTENT:
                node = self.nodes[entry.ino]
                if not (retry and node.content == entry.content):
                    node.content = entry.content
                    node.mtime_ns = entry.mtime_ns
            case Operation.SETATTR:
                node = self.nodes[entry.ino]
                node.mtime_ns = entry.mtime_ns
            case Operation.RENAME:
                self._move(entry, retry)
            case Operation.REMOVE:
                if not (retry and entry.ino not in self.nodes):
                    self._remove(entry)

    def _make(self, entry: Entry, retry: bool) -> None:
        kind = KINDS[entry.operation]
        if retry and entry.ino in self.nodes:
            node = self.nodes[entry.ino]
            assert (node.kind, node.place, node.content) == (kind, entry.goal, entry.content)
            return
        assert entry.ino not in self.nodes
        self._clear(entry)
        self.nodes[entry.ino] = Node(kind, entry.goal, entry.content, entry.mtime_ns)

    def _move(self, entry: Entry, retry: bool) -> None:
        node = self.nodes[entry.ino]
        if retry and node.place == entry.goal:
            return
        assert node.place.slot == entry.origin.slot
        assert entry.ino != entry.goal.parent
        assert entry.ino not in self.above(entry.goal.parent), "a folder would come to lie below itself"
        self._clear(entry)
        node.place = entry.goal

    def _remove(self, entry: Entry) -> None:
        node = self.nodes[entry.ino]
        assert node.place.slot == entry.origin.slot
        assert not self.children(entry.ino)
        del self.nodes[entry.ino]

    def _clear(self, entry: Entry) -> None:
        """Make the target slot free as the entry says."""
        parent, key = entry.goal.slot
        assert parent in self.folders()
        holder = self.at(parent, key)
        if entry.replaces is not None:
            assert holder == entry.replaces
            assert self.nodes[entry.replaces].kind is not Kind.DIRECTORY
            assert self.nodes[entry.ino].kind is not Kind.DIRECTORY if entry.ino in self.nodes else True
            del self.nodes[entry.replaces]
        else:
            assert holder in (None, entry.ino)


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.local = Tree()
        self.cloud = Cloud()
        self.journal = Journal()
        self.stored: dict[int, Entry] = {}
        self.sending: dict[int, Entry] = {}
        self.holds: list[Ino] = []
        self.now = 1000.0
        self.numbers = itertools.count(2)
        self.staged: set[ContentId] = set()     # contents that are kept for an upload
        self.waits: list[tuple[int, Ino, ContentId]] = []

    # --- what users do ---

    def record(self, *changes: Entry) -> None:
        first = self.journal.next_seq()
        delta = self.journal.propose(*changes)
        self.commit(delta)
        self.staged |= {change.content for change in changes if change.content != NO_CONTENT}
        self.staged -= set(delta.unneeded)
        assert len(delta.seqs) == len(changes)
        for number, change in enumerate(changes):
            assert self.journal.resolve(first + number) == delta.seqs[number]
            if change.content != NO_CONTENT:
                self.waits.append((first + number, change.ino, change.content))

    def commit(self, delta: Delta) -> None:
        for seq in delta.drop:
            del self.stored[seq]
        for entry in delta.put:
            self.stored[entry.seq] = entry
        self.journal.apply(delta)

    def pick(self, number: int, *kinds: Kind) -> Ino | None:
        found = [ino for ino, node in self.local.nodes.items() if node.kind in kinds]
        return found[number % len(found)] if found else None

    def folder(self, number: int) -> Ino:
        folders = self.local.folders()
        return folders[number % len(folders)]

    def place(self, folder: int, name: str) -> Place:
        return Place(self.folder(folder), name.lower(), name)

    def make(self, operation: Operation, place: Place) -> Ino | None:
        if self.local.at(*place.slot) is not None:
            return None
        ino = Ino(next(self.numbers))
        content = ContentId(next(self.numbers)) if operation is Operation.CREATE else NO_CONTENT
        self.record(Entry(0, operation, ino, target=place, content=content, mtime_ns=ino, recorded=self.now))
        self.local.nodes[ino] = Node(KINDS[operation], place, content, ino)
        return ino

    def change_content(self, ino: Ino) -> None:
        content = ContentId(next(self.numbers))
        node = self.local.nodes[ino]
        node.content, node.mtime_ns = content, int(content)
        self.record(
            Entry(
                0, Operation.CONTENT, ino,
                content=content, mtime_ns=int(content), recorded=self.now,
            )
        )

    def move(self, ino: Ino, goal: Place) -> Entry | None:
        """The entry of a rename that the local tree allows, done there already."""
        node = self.local.nodes[ino]
        leaf = node.kind is not Kind.DIRECTORY
        replaced = self.local.at(*goal.slot)
        if goal == node.place or ino == goal.parent or ino in self.local.above(goal.parent):
            return None
        if replaced == ino:
            replaced = None
        if replaced is not None and not (leaf and self.local.nodes[replaced].kind is not Kind.DIRECTORY):
            return None
        moves_folder = not leaf and goal.parent != node.place.parent
        entry = Entry(
            0, Operation.RENAME, ino,
            source=node.place, target=goal, replaces=replaced, leaf=leaf,
            ancestors=self.local.above(goal.parent) if moves_folder else (),
            recorded=self.now,
        )
        if replaced is not None:
            del self.local.nodes[replaced]
        node.place = goal
        return entry

    def remove(self, ino: Ino) -> None:
        node = self.local.nodes[ino]
        if self.local.children(ino):
            return
        leaf = node.kind is not Kind.DIRECTORY
        del self.local.nodes[ino]
        self.record(
            Entry(0, Operation.REMOVE, ino, source=node.place, leaf=leaf, recorded=self.now)
        )

    def does_make(self, operation: Operation, folder: int, name: str) -> None:
        self.make(operation, self.place(folder, name))

    def does_write(self, number: int) -> None:
        ino = self.pick(number, Kind.FILE)
        if ino is not None:
            self.change_content(ino)

    def does_set_mtime(self, number: int) -> None:
        ino = self.pick(number, *Kind)
        if ino is not None:
            mtime_ns = next(self.numbers)
            self.local.nodes[ino].mtime_ns = mtime_ns
            self.record(Entry(0, Operation.SETATTR, ino, mtime_ns=mtime_ns, recorded=self.now))

    def does_rename(self, number: int, folder: int, name: str) -> None:
        ino = self.pick(number, *Kind)
        if ino is not None:
            entry = self.move(ino, self.place(folder, name))
            if entry is not None:
                self.record(entry)

    def does_exchange(self, number: int, other: int, at_once: bool) -> None:
        one, two = self.pick(number, *Kind), self.pick(other, *Kind)
        if one is None or two is None or one == two or self.local.at(ROOT_INO, "exchange") is not None:
            return
        if one in self.local.above(two) or two in self.local.above(one):
            return
        places = self.local.nodes[one].place, self.local.nodes[two].place
        moves = ((one, Place(ROOT_INO, "exchange", "exchange")), (two, places[0]), (one, places[1]))
        entries = []
        for ino, goal in moves:
            entry = self.move(ino, goal)
            assert entry is not None
            if not at_once:
                self.record(entry)
            entries.append(entry)
        if at_once:
            self.record(*entries)

    def does_remove(self, number: int) -> None:
        ino = self.pick(number, *Kind)
        if ino is not None:
            self.remove(ino)

    def does_save_by_rename_over(self, number: int, operation: Operation) -> None:
        """Make a temporary file or link, rename it over the old one."""
        old = self.pick(number, Kind.FILE, Kind.SYMLINK)
        if old is None:
            return
        place = self.local.nodes[old].place
        new = self.make(operation, Place(place.parent, "saving", "saving"))
        if new is not None:
            entry = self.move(new, place)
            assert entry is not None
            self.record(entry)

    def does_save_by_backup(self, number: int) -> None:
        """Move the old file out of the way, write the new one, remove the old one."""
        old = self.pick(number, Kind.FILE)
        if old is None:
            return
        place = self.local.nodes[old].place
        entry = self.move(old, Place(place.parent, "backup", "backup"))
        if entry is None:
            return
        self.record(entry)
        assert self.make(Operation.CREATE, place) is not None
        self.remove(old)

    number = st.integers(0, 7)
    name = st.sampled_from(NAMES)
    births = st.sampled_from((Operation.CREATE, Operation.CREATE, Operation.MKDIR, Operation.MKDIR, Operation.SYMLINK))
    leaves = st.sampled_from((Operation.CREATE, Operation.SYMLINK))
    deeds = st.one_of(
        st.tuples(st.just(does_make), births, number, name),
        st.tuples(st.just(does_write), number),
        st.tuples(st.just(does_set_mtime), number),
        st.tuples(st.just(does_rename), number, number, name),
        st.tuples(st.just(does_rename), number, number, name),
        st.tuples(st.just(does_exchange), number, number, st.booleans()),
        st.tuples(st.just(does_remove), number),
        st.tuples(st.just(does_save_by_rename_over), number, leaves),
        st.tuples(st.just(does_save_by_backup), number),
    )

    @rule(deeds=st.lists(deeds, min_size=1, max_size=6))
    def users_do(self, deeds: list[tuple[Any, ...]]) -> None:
        for deed, *arguments in deeds:
            deed(self, *arguments)
            self.check_the_plan()

    @rule(number=number)
    def opens(self, number: int) -> None:
        ino = self.pick(number, Kind.FILE)
        if ino is not None:
            self.journal.hold(ino)
            self.holds.append(ino)

    @precondition(lambda self: self.holds)
    @rule(number=number)
    def closes(self, number: int) -> None:
        self.journal.unhold(self.holds.pop(number % len(self.holds)), self.now)

    def being_uploaded(self) -> list[Entry]:
        """Entries that are being sent, of files that still have that content."""
        nodes = self.local.nodes
        return [
            entry for _, entry in sorted(self.sending.items())
            if entry.content and entry.ino in nodes and nodes[entry.ino].content == entry.content
        ]

    @precondition(lambda self: self.being_uploaded())
    @rule(number=number, again=st.booleans())
    def writes_as_it_is_sent(self, number: int, again: bool) -> None:
        """What an upload that begins takes along has an entry of its own, of the same content."""
        entries = self.being_uploaded()
        entry = entries[number % len(entries)]
        mtime_ns = self.local.nodes[entry.ino].mtime_ns = next(self.numbers)
        self.record(
            Entry(0, Operation.CONTENT, entry.ino, content=entry.content, mtime_ns=mtime_ns, recorded=self.now)
        )
        if again:
            self.change_content(entry.ino)

    # --- what sending does ---

    @rule(seconds=st.sampled_from((0.3, 2.0, 40.0)), hurry=st.none() | number, wake=st.booleans())
    def time_passes(self, seconds: float, hurry: int | None, wake: bool) -> None:
        self.now += seconds
        if hurry is not None:
            self.journal.hurry(self.journal.next_seq() - 1 - hurry)
        if wake:
            self.journal.wake()

    @rule(order=st.lists(st.tuples(number, st.sampled_from(ENDS)), min_size=1, max_size=5), limit=st.integers(1, 5))
    def sends(self, order: list[tuple[int, str | None]], limit: int) -> None:
        """Start something, end something, and again."""
        for number, end in order:
            ready = self.journal.ready(self.now, limit)
            assert [entry.seq for entry in ready] == sorted(entry.seq for entry in ready)
            if ready:
                self.start(ready[number % len(ready)])
            if end is not None and self.sending:
                self.end(self.sending.pop(sorted(self.sending)[number % len(self.sending)]), end)
            self.check_the_plan()

    def start(self, entry: Entry) -> None:
        assert self.journal.start(entry.seq) == entry
        assert not (entry.ino in self.holds and entry.operation in (Operation.CREATE, Operation.CONTENT))
        self.sending[entry.seq] = entry

    def end(self, entry: Entry, how: str) -> None:
        match how:
            case "confirmed":
                self.confirm(entry)
            case "answer lost":
                self.cloud.carry_out(entry, entry.attempted)
                self.journal.fail(entry.seq, self.now + 5, "a time-out")
            case "not done":
                self.journal.fail(entry.seq, self.now, "an error of the server")
            case "unsent":
                self.journal.fail(entry.seq, self.now + 1, "no network", unsent=True)
            case "stuck":
                self.journal.park(entry.seq, "no space")

    def confirm(self, entry: Entry) -> None:
        self.cloud.carry_out(entry, entry.attempted)
        self.staged.discard(entry.content)
        self.commit(self.journal.confirm(entry.seq))

    @rule()
    def gets_unstuck(self) -> None:
        for view in self.journal.pending():
            if view.state is EntryState.STUCK:
                self.journal.unpark(view.entry.seq)

    @rule(happened=st.lists(st.booleans(), min_size=4, max_size=4))
    def restarts(self, happened: list[bool]) -> None:
        """The process is killed. Of what was under way, some reached the cloud."""
        for entry, did in zip(self.sending.values(), happened, strict=False):
            if did:
                self.cloud.carry_out(entry, entry.attempted)
        self.sending.clear()
        self.holds.clear()
        self.waits.clear()
        next_seq = self.journal.next_seq()
        self.journal = Journal()
        self.journal.load(self.stored.values(), next_seq)
        self.stored = {seq: replace(entry, attempted=True) for seq, entry in self.stored.items()}

    # --- what must hold ---

    @invariant()
    def store_and_journal_agree(self) -> None:
        pending = self.journal.pending()
        assert [replace(view.entry, attempted=False) for view in pending] == [
            replace(entry, attempted=False) for _, entry in sorted(self.stored.items())
        ]
        assert len(self.journal) == len(pending)
        assert self.staged == {view.entry.content for view in pending} - {NO_CONTENT}

    def check_the_plan(self) -> None:
        """The pending entries, one by one, lead to the local tree."""
        cloud = copy.deepcopy(self.cloud)
        for view in self.journal.pending():
            entry = view.entry
            cloud.carry_out(entry, retry=entry.attempted)
        assert cloud.image() == self.local.image()

    @invariant()
    def queries_agree_with_the_entries(self) -> None:
        entries = [view.entry for view in self.journal.pending()]
        inos = {ino for entry in entries for ino in (entry.ino, entry.replaces) if ino is not None}
        for ino in inos | set(self.local.nodes):
            assert self.journal.is_pending(ino) == (ino in inos)
            assert self.journal.entries_of(ino) == [entry for entry in entries if entry.ino == ino]
            below = any(claims_of(entry).get(ino) is False for entry in entries)
            assert self.journal.has_pending_below(ino) == below
        slots = {place.slot for entry in entries for place in (entry.source, entry.target) if place is not None}
        for slot in slots | {node.place.slot for node in self.local.nodes.values()}:
            assert self.journal.touches(*slot) == (slot in slots)

    @invariant()
    def readiness_follows_from_order_state_and_time(self) -> None:
        """The same answer as from looking at every pair of entries."""
        views = self.journal.pending()
        free = []
        for number, view in enumerate(views):
            claims = claims_of(view.entry)
            earlier = [claims_of(other.entry) for other in views[:number]]
            blocked = any(
                resource in other and (write or other[resource])
                for other in earlier
                for resource, write in claims.items()
            )
            assert view.blocked == blocked
            assert not (blocked and view.state is not EntryState.QUEUED)
            held = view.entry.ino in self.holds and view.entry.operation in (Operation.CREATE, Operation.CONTENT)
            assert view.held == held
            if not blocked and not held and view.state is EntryState.QUEUED:
                free.append(view.entry)
        ready = self.journal.ready(self.now, 100)
        assert all(entry in free for entry in ready)
        time = self.journal.next_time(self.now)
        if ready:
            assert time == self.now
        elif free:
            assert time is not None
            assert time > self.now
            assert self.journal.ready(time, 1)
        else:
            assert time is None
        assert self.journal.ready(FAR, 100) == free

    @invariant()
    def nobody_is_released_too_early(self) -> None:
        """Who waits for a content is told so only when the cloud has it, or a later one, or when the file is gone."""
        waiting = []
        for seq, ino, content in self.waits:
            if self.journal.outstanding([seq]):
                waiting.append((seq, ino, content))
            elif ino in self.local.nodes:
                assert self.cloud.nodes[ino].content >= content
        self.waits = waiting

    def teardown(self) -> None:
        while self.holds:
            self.closes(0)
        self.gets_unstuck()
        for seq in sorted(self.sending):
            self.confirm(self.sending.pop(seq))
        while len(self.journal):
            ready = self.journal.ready(FAR, 5)
            assert ready, "entries are left and none may be sent"
            for entry in reversed(ready):
                self.start(entry)
            for entry in reversed(ready):
                self.confirm(self.sending.pop(entry.seq))
        assert self.cloud.image() == self.local.image()
        assert not self.stored
        assert not any(self.journal.outstanding([seq]) for seq, _, _ in self.waits)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=100, stateful_step_count=30)


DEEDS = (
    "make", "make", "write", "set mtime", "rename", "rename", "rename", "rename", "exchange", "remove", "remove",
    "save by rename over", "save by backup",
)


def walk(random: Random, steps: int) -> None:
    """One long random life of a journal. Goes deeper than hypothesis does, and is repeated by its seed."""
    machine = JournalMachine()
    send = random.choice((0.05, 0.2, 0.5))       # how busy the sender is, against the users
    births = random.choice(((*KINDS, Operation.CREATE), (Operation.CREATE,), (Operation.MKDIR,)))
    ends = random.choice((ENDS, ("confirmed",), (None, "confirmed", "unsent")))
    for _ in range(steps):
        number, other = random.randrange(8), random.randrange(8)
        chance = random.random()
        if chance < 0.02:
            machine.restarts([random.random() < 0.5 for _ in range(20)])
        elif chance < 0.04:
            machine.gets_unstuck()
        elif chance < 0.08:
            machine.opens(number)
        elif chance < 0.12 and machine.holds:
            machine.closes(number)
        elif chance < 0.16:
            machine.time_passes(random.choice((0.3, 2.0, 40.0)), random.choice((None, number)), random.random() < 0.5)
        elif chance < 0.3 and machine.being_uploaded():
            machine.writes_as_it_is_sent(number, random.random() < 0.5)
        elif chance < 0.16 + send:
            machine.sends([(number, random.choice(ends))], 5)
        else:
            name, over = random.choice(NAMES), random.choice((Operation.CREATE, Operation.SYMLINK))
            match random.choice(DEEDS):
                case "make":
                    machine.does_make(random.choice(births), other, name)
                case "write":
                    machine.does_write(number)
                case "set mtime":
                    machine.does_set_mtime(number)
                case "rename":
                    machine.does_rename(number, other, name)
                case "exchange":
                    machine.does_exchange(number, other, random.random() < 0.5)
                case "remove":
                    machine.does_remove(number)
                case "save by rename over":
                    machine.does_save_by_rename_over(number, over)
                case "save by backup":
                    machine.does_save_by_backup(number)
            machine.check_the_plan()
        machine.store_and_journal_agree()
        machine.queries_agree_with_the_entries()
        machine.readiness_follows_from_order_state_and_time()
        machine.nobody_is_released_too_early()
    machine.teardown()


@pytest.mark.parametrize("seed", range(100))
def test_random_lives(seed: int) -> None:
    walk(Random(seed), steps=150)
