"""The journal: a pure machine that knows which changes the cloud has not confirmed and which may be sent now.

No I/O, no clock, no tasks: time comes in as an argument, and what to store goes out as a ``Delta`` that the caller
commits before it calls ``apply``. Nothing may happen to the journal between computing a delta and applying it.
The drawing, the rules and the invariants are in JOURNAL.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from serpentfs.model import NO_CONTENT, ContentId, Ino
from serpentfs.vfs.claims import Claims
from serpentfs.vfs.coalescing import Draft
from serpentfs.vfs.entries import (
    BIRTHS,
    Delta,
    Entry,
    EntryState,
    Operation,
    Place,
    Resource,
    claims_of,
)

__all__ = ["Delta", "Entry", "EntryState", "Journal", "Operation", "PendingEntry", "Place"]


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An entry and how it fares, for ``status``."""

    entry: Entry
    state: EntryState
    error: str | None
    """Why the last attempt failed."""
    failures: int
    """Attempts that failed since the start."""
    not_before: float | None
    """End of the back-off, None when there is none."""
    held: bool
    """Waits for its file to be closed."""
    blocked: bool
    """Waits for an earlier entry."""


class _Slot:
    """An entry with what is known of it here and not stored."""

    __slots__ = (
        "blocked", "changed_at", "entry", "error", "failures", "first_attempt", "forced", "hurried", "listed",
        "not_before", "since", "state",
    )

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.state = EntryState.QUEUED
        self.error: str | None = None
        self.failures = 0
        self.not_before: float | None = None
        self.blocked = 0                        # claims that are not granted yet
        self.changed_at = entry.recorded        # settling counts from here: the last change or the last close
        self.since: float | None = None         # when it could begin to settle: recorded, or closed for the first time
        self.hurried = False
        self.forced = False                     # to be sent although its file is open
        self.first_attempt = False              # the attempt under way is the first
        self.listed = False                     # is in one of the journal's two heaps


class Journal:
    """What the cloud has not confirmed, in order.

    ``settle``: seconds that an entry stays unchanged before it is sent. ``patience``: after this long it is sent
    even though it keeps changing.
    """

    def __init__(self, *, settle: float = 1.0, patience: float = 30.0) -> None:
        self._settle = settle
        self._patience = max(patience, settle)
        self._slots: dict[int, _Slot] = {}
        self._claims = Claims()
        self._next_seq = 1
        self._version = 0
        self._holds: dict[Ino, int] = {}
        self._pins: dict[Ino, int] = {}
        self._hurried_to = 0
        self._carrier: dict[int, int] = {}              # superseded entry -> the pending one that took over
        self._carried: dict[int, list[int]] = {}        # the same, backwards
        self._ready: list[int] = []                     # heap: seqs that may be due, checked when they come up
        self._timed: list[tuple[float, int]] = []       # heap: (time, seq) of those that only wait for time
        self._latest = 0.0                              # the latest time that was told

    def __len__(self) -> int:
        return len(self._slots)

    # --- what is recorded ---

    def load(self, entries: Iterable[Entry], next_seq: int = 1) -> None:
        """Take over the stored entries after a restart. Each may have reached the cloud, so all are ``attempted``.
        ``next_seq``: the lowest seq to give out, where the store remembers higher ones than it holds."""
        if self._slots:
            raise ValueError("the journal is not empty")
        for entry in sorted(entries, key=lambda entry: entry.seq):
            self._insert(replace(entry, attempted=True))
        self._next_seq = max(self._next_seq, next_seq)
        self._version += 1

    def next_seq(self) -> int:
        """The seq that the next proposed change gets; those after it get the following ones."""
        return self._next_seq

    def propose(self, *changes: Entry) -> Delta:
        """What recording these changes (seq 0, in order, of one transaction) does to the stored journal."""
        draft = Draft(self, self._next_seq)
        seqs = [draft.record(change) for change in changes]
        before, put, drop = list(changes), [], []
        for seq, entry in sorted(draft.changed.items()):
            slot = self._slots.get(seq)
            if slot is not None:
                before.append(slot.entry)
            if entry is not None:
                put.append(entry)
            elif slot is not None:
                drop.append(seq)
        return Delta(
            put=tuple(put),
            drop=tuple(drop),
            superseded=draft.superseded,
            seqs=tuple([_follow(draft.superseded, seq) for seq in seqs]),
            unneeded=self._unneeded(before, put, drop),
            basis=self._version,
        )

    def _unneeded(self, before: Iterable[Entry], put: Sequence[Entry], drop: Sequence[int]) -> tuple[ContentId, ...]:
        """Contents of entries that are changed or dropped, where none that stays carries them: a file that is written
        to once more as its upload begins has two entries of one content."""
        carried = {NO_CONTENT, *[entry.content for entry in put]}
        unneeded = {entry.content: entry.ino for entry in before if entry.content not in carried}
        if not unneeded:
            return ()
        changed = {*drop, *(entry.seq for entry in put)}
        return tuple(sorted(
            content for content, ino in unneeded.items()
            if not any(s.entry.content == content and s.entry.seq not in changed for s in self._slots_of(ino))
        ))

    def apply(self, delta: Delta) -> None:
        """Do what the delta says, after it was stored. RuntimeError when the journal changed since the delta was
        computed: then the store and the journal disagree, and only a restart puts that right."""
        if delta.basis != self._version:
            raise RuntimeError("the journal changed between computing a delta and applying it")
        carriers = {seq: _follow(delta.superseded, seq) for seq in delta.superseded}
        replaced = {seq: slot for seq in carriers if (slot := self._slots.get(seq)) is not None}
        for seq in delta.drop:
            self._remove(seq)
        overwriting = []
        for entry in delta.put:
            slot = self._slots.get(entry.seq)
            if slot is not None and entry.claims_as(slot.entry):
                self._change(slot, entry)
            elif slot is not None:
                overwriting.append(entry)
        for entry in overwriting:
            self._give_up_claims(entry)
        for entry in overwriting:
            self._overwrite(entry)
        for entry in delta.put:
            if entry.seq not in self._slots:
                self._insert(entry)
        for seq, carrier in carriers.items():
            self._supersede(seq, carrier)
        for seq in delta.drop:
            if seq not in carriers:
                self._supersede(seq, None)
        for seq, slot in replaced.items():
            self._inherit(slot, carriers[seq])
        self._next_seq = max(self._next_seq, 1 + max(carriers, default=0))
        self._version += 1

    # --- what doors tell ---

    def hold(self, ino: Ino) -> None:
        """The file is open for writing: its content is not sent. Counts; ``unhold`` as often."""
        self._holds[ino] = self._holds.get(ino, 0) + 1

    def unhold(self, ino: Ino, now: float) -> None:
        """One of those who held it closed the file. Settling counts from the last close."""
        count = self._holds[ino] - 1
        if count:
            self._holds[ino] = count
            return
        del self._holds[ino]
        for slot in self._slots_of(ino):
            if slot.entry.operation in (Operation.CREATE, Operation.CONTENT):
                slot.changed_at = max(slot.changed_at, now)
                if slot.since is None:
                    slot.since = now
                self._offer(slot)

    def pin(self, ino: Ino) -> None:
        """Somebody has the file open, perhaps only to read: what takes its node away (a REMOVE, an entry that
        replaces it) is not sent. Counts; ``unpin`` as often."""
        self._pins[ino] = self._pins.get(ino, 0) + 1

    def unpin(self, ino: Ino) -> None:
        count = self._pins[ino] - 1
        if count:
            self._pins[ino] = count
            return
        del self._pins[ino]
        for seq in self._claims.writers(ino):
            self._offer(self._slots[seq])

    def hurry(self, seq: int) -> None:
        """Entries up to ``seq``, and what carries them later, need not settle. Files held open still wait."""
        self._hurried_to = max(self._hurried_to, seq)
        self._offer_timed()

    def force(self, seq: int) -> None:
        """Send what carries ``seq``, and the contents that it waits for, although their files are open, and without
        settling (an fsync that must reach the cloud)."""
        carrier = self.resolve(seq)
        if carrier is not None:
            for forced in (carrier, *self._held_before(carrier)):
                slot = self._slots[forced]
                slot.forced = slot.hurried = True
                self._offer(slot)
            self._offer_timed()

    def waits_for_close(self, seq: int) -> bool:
        """Whether a pending entry, or one that it waits for, waits for a file to be closed."""
        return self._is_held(self._slots[seq]) or bool(self._held_before(seq))

    # --- what the executor asks and tells ---

    def ready(self, now: float, limit: int) -> list[Entry]:
        """Up to ``limit`` entries that may be started now, in order of seq."""
        self._tick(now)
        due: list[Entry] = []
        while self._ready and len(due) < limit:
            slot = self._slots.get(heapq.heappop(self._ready))
            if slot is None:
                continue
            slot.listed = False
            if not self._may_start(slot):
                continue        # listed again by whatever ends its waiting
            due_at = self._due_at(slot, now)
            if due_at > now:
                slot.listed = True
                heapq.heappush(self._timed, (due_at, slot.entry.seq))
            else:
                due.append(slot.entry)
        for entry in due:
            self._offer(self._slots[entry.seq])
        return due

    def next_time(self, now: float) -> float | None:
        """When an entry becomes ready by time alone (``now`` if one is ready); None when only events help."""
        if self.ready(now, 1):
            return now
        while self._timed:
            time, seq = self._timed[0]
            slot = self._slots.get(seq)
            if slot is not None and self._may_start(slot):
                due_at = self._due_at(slot, now)
                if due_at <= time:
                    return time
                heapq.heapreplace(self._timed, (due_at, seq))
            else:
                heapq.heappop(self._timed)
                if slot is not None:
                    slot.listed = False
        return None

    def start(self, seq: int) -> Entry:
        """An attempt begins. The answer is the entry as it was before: ``attempted`` tells whether an earlier attempt
        may have reached the cloud."""
        slot = self._slots[seq]
        if slot.state is not EntryState.QUEUED or slot.blocked:
            raise ValueError(f"entry {seq} cannot be started")
        entry = slot.entry
        slot.state = EntryState.SENDING
        slot.first_attempt = not entry.attempted
        slot.entry = replace(entry, attempted=True)
        self._version += 1
        return entry

    def confirm(self, seq: int) -> Delta:
        """The cloud has it. Of a second entry of its content only the time is left."""
        entry = self._sending(seq)
        put = tuple(
            replace(later.entry, operation=Operation.SETATTR, content=NO_CONTENT)
            for later in self._slots_of(entry.ino)
            if entry.content != NO_CONTENT and later.entry.content == entry.content and later.entry.seq != seq
        )
        return Delta(put, (seq,), {}, (), (), self._version)

    def give_up(self, seq: int) -> Delta:
        """Nothing is left to be done for what is being sent."""
        return Delta((), (seq,), {}, (), self._unneeded([self._sending(seq)], (), (seq,)), self._version)

    def _sending(self, seq: int) -> Entry:
        slot = self._slots[seq]
        if slot.state is not EntryState.SENDING:
            raise ValueError(f"entry {seq} is {slot.state.value}, not being sent")
        return slot.entry

    def abandon(self, seqs: Iterable[int]) -> Delta:
        """The user takes these back: what to store so that they are gone. None of them is being sent. What waits for
        them goes on, and those who wait for their outcome are told that nothing is left to do."""
        gone = tuple(seqs)
        for seq in gone:
            if self._slots[seq].state is EntryState.SENDING:
                raise ValueError(f"entry {seq} is being sent")
        return Delta((), gone, {}, (), (), self._version)

    def fail(self, seq: int, not_before: float, error: str, *, unsent: bool = False) -> None:
        """The attempt failed and may be repeated from ``not_before`` on. ``unsent``: it is certain that nothing of
        it reached the cloud (there was no connection), so that it may be rewritten again."""
        slot = self._slots[seq]
        if slot.state is not EntryState.SENDING:
            raise ValueError(f"entry {seq} is {slot.state.value}, not being sent")
        slot.state = EntryState.QUEUED
        slot.failures += 1
        slot.error = error
        slot.not_before = not_before
        if unsent and slot.first_attempt:
            slot.entry = replace(slot.entry, attempted=False)
        self._offer(slot)
        self._version += 1

    def park(self, seq: int, error: str) -> None:
        """A permanent error: the entry, and what depends on it, waits until somebody decides."""
        slot = self._slots[seq]
        slot.state = EntryState.STUCK
        slot.error = error
        self._version += 1

    def retarget(self, seq: int, place: Place) -> Delta:
        """The name of a queued entry is taken in the cloud: what to store so that it goes to ``place``, a name that
        no entry touches, and replaces nothing. A CONTENT becomes a CREATE there: its own node is somebody else's.

        It keeps its seq, unless a later entry moves or removes that folder and may be on its way: then it goes to the
        end, or, where a newer content of the file waits there, that one alone is left. At the end it comes after all
        that the entry is renamed to by then, so it goes there at once."""
        slot = self._slots[seq]
        if slot.state is not EntryState.QUEUED:
            raise ValueError(f"entry {seq} is {slot.state.value}, not queued")
        entry = slot.entry
        operation = Operation.CREATE if entry.operation is Operation.CONTENT else entry.operation
        changed = replace(entry, operation=operation, target=place, replaces=None)
        if max(self._claims.writers(place.parent), default=0) < seq:
            return Delta((changed,), (), {}, (), (), self._version)
        later = [waiting.entry for waiting in self._slots_of(entry.ino) if waiting.entry.seq > seq]
        for newer in later:
            if newer.content:
                unneeded = self._unneeded([entry], (), (seq,))
                return Delta((), (seq,), {seq: newer.seq}, (), unneeded, self._version)
        moves = [move for move in later if move.operation is Operation.RENAME]
        if moves:
            changed = replace(changed, target=moves[-1].target, replaces=moves[-1].replaces)
        changed = replace(changed, seq=self._next_seq)
        gone = (seq, *[move.seq for move in moves])
        return Delta((changed,), gone, dict.fromkeys(gone, changed.seq), (), (), self._version)

    def unpark(self, seq: int, *, unsent: bool = False) -> None:
        """Try a stuck entry again. ``unsent``: nothing of it is in the cloud, so that it may be rewritten."""
        slot = self._slots[seq]
        if slot.state is not EntryState.STUCK:
            raise ValueError(f"entry {seq} is {slot.state.value}, not stuck")
        slot.state = EntryState.QUEUED
        slot.not_before = None
        if unsent:
            slot.entry = replace(slot.entry, attempted=False)
        self._offer(slot)
        self._version += 1

    def wake(self) -> None:
        """Every back-off ends now (the cloud can be reached again, or the clock was set)."""
        for slot in self._slots.values():
            slot.not_before = None
        self._offer_timed()

    # --- what is pending ---

    def pending(self) -> list[PendingEntry]:
        """Everything, in order of seq."""
        return [self.view(seq) for seq in sorted(self._slots)]

    def view(self, seq: int) -> PendingEntry:
        """One entry and how it fares. KeyError when it is not pending."""
        slot = self._slots[seq]
        return PendingEntry(
            slot.entry,
            slot.state,
            slot.error,
            slot.failures,
            slot.not_before,
            self._is_held(slot),
            slot.blocked > 0,
        )

    def state_of(self, seq: int) -> EntryState | None:
        """Of the entry that has this seq now, whatever ``resolve`` says to those who waited for an earlier one; None
        when there is none."""
        slot = self._slots.get(seq)
        return None if slot is None else slot.state

    def is_pending(self, ino: Ino) -> bool:
        """Whether an entry changes, moves, removes or replaces this inode."""
        return bool(self._claims.writers(ino))

    def entries_of(self, ino: Ino) -> list[Entry]:
        """The entries whose ``ino`` this is, in order of seq."""
        return [slot.entry for slot in self._slots_of(ino)]

    def changes_of(self, ino: Ino) -> list[Entry]:
        """The entries that change it or take it away, in order of seq."""
        return [self._slots[seq].entry for seq in sorted(self._claims.writers(ino))]

    def born_in(self, ino: Ino) -> Iterator[Ino]:
        """What is to be made in this folder, wherever it is moved after."""
        if self.has_pending_below(ino):
            for slot in self._slots.values():
                if slot.entry.operation in BIRTHS and slot.entry.goal.parent == ino:
                    yield slot.entry.ino

    def carries_time(self, ino: Ino) -> bool:
        """Whether an upload of the file that did not begin yet will take along the time that it finds."""
        return any(
            slot.entry.operation in (Operation.CREATE, Operation.CONTENT) and self.is_unsent(slot.entry.seq)
            for slot in self._slots_of(ino)
        )

    def touches(self, parent: Ino, key: str) -> bool:
        """Whether an entry has this name slot as its source or target."""
        return bool(self._claims.writers((parent, key)))

    def has_pending_below(self, ino: Ino) -> bool:
        """Whether an entry changes names in this folder (or, for a folder that moves, needs it in its way up)."""
        return self._claims.readers(ino) > 0

    def resolve(self, seq: int) -> int | None:
        """The entry that carries the effect of ``seq`` now; None when it is done or nothing was left to do."""
        carrier = self._carrier.get(seq, seq)
        return carrier if carrier in self._slots else None

    def outstanding(self, seqs: Iterable[int]) -> set[int]:
        """The entries that still carry the effect of ``seqs``: empty when a wait for them is over."""
        return {carrier for seq in seqs if (carrier := self.resolve(seq)) is not None}

    # --- what a draft sees ---

    def entry(self, seq: int) -> Entry:
        """KeyError when it is not pending."""
        return self._slots[seq].entry

    def is_unsent(self, seq: int) -> bool:
        """Queued, and no attempt was started: may be rewritten."""
        slot = self._slots[seq]
        return slot.state is EntryState.QUEUED and not slot.entry.attempted

    def writers(self, resource: Resource) -> Sequence[int]:
        """Seqs of the entries that write an inode or a slot, in order."""
        return self._claims.writers(resource)

    def readers(self, resource: Resource) -> int:
        """How many entries read it without writing it."""
        return self._claims.readers(resource)

    # --- entries come and go ---

    def _insert(self, entry: Entry) -> None:
        if entry.seq < self._next_seq:
            raise ValueError(f"entry {entry.seq} comes after entry {self._next_seq - 1}")
        slot = self._slots[entry.seq] = _Slot(entry)
        for resource, write in claims_of(entry).items():
            slot.blocked += not self._claims.add(entry.seq, resource, write)
        self._next_seq = entry.seq + 1
        if not self._is_held(slot):
            slot.since = entry.recorded
        self._offer(slot)

    def _remove(self, seq: int) -> None:
        for resource, write in claims_of(self._slots.pop(seq).entry).items():
            self._grant(self._claims.drop(seq, resource, write)[1])

    def _give_up_claims(self, entry: Entry) -> None:
        """What the entry of this seq claims now and ``entry``, which is to overwrite it, will not."""
        slot = self._slots[entry.seq]
        new = claims_of(entry)
        for resource, write in claims_of(slot.entry).items():
            if new.get(resource) is not write:
                was_granted, granted = self._claims.drop(entry.seq, resource, write)
                slot.blocked -= not was_granted
                self._grant(granted)

    def _overwrite(self, entry: Entry) -> None:
        """Same seq, other words. New claims are possible only where nobody queued later."""
        slot = self._slots[entry.seq]
        old = claims_of(slot.entry)
        for resource, write in claims_of(entry).items():
            if old.get(resource) is not write:
                slot.blocked += not self._claims.add(entry.seq, resource, write)
        self._change(slot, entry)

    def _change(self, slot: _Slot, entry: Entry) -> None:
        """Same seq and claims, other words."""
        slot.entry = entry
        slot.changed_at = max(slot.changed_at, entry.recorded)
        self._offer(slot)

    def _grant(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            slot = self._slots[seq]
            slot.blocked -= 1
            self._offer(slot)

    def _slots_of(self, ino: Ino) -> list[_Slot]:
        return [slot for seq in self._claims.writers(ino) if (slot := self._slots[seq]).entry.ino == ino]

    def _inherit(self, old: _Slot, carrier: int | None) -> None:
        """What carries an older entry now has waited as long as that one, and is in as much of a hurry."""
        if carrier is None:
            return
        new = self._slots[carrier]
        if old.since is not None:
            new.since = old.since if new.since is None else min(new.since, old.since)
        new.hurried = new.hurried or old.hurried or old.entry.seq <= self._hurried_to
        new.forced = new.forced or old.forced
        self._offer(new)

    # --- superseded entries ---

    def _supersede(self, seq: int, carrier: int | None) -> None:
        """``carrier`` takes over from ``seq`` and from all that it carried; None: they are done.

        A seq that was superseded before stands for something else since (the removal of what its entry would have
        replaced): those who waited for it then stay with the carrier they were told.
        """
        moved = self._carried.pop(seq, [])
        if seq not in self._carrier:
            moved.append(seq)
        if carrier is None:
            for old in moved:
                self._carrier.pop(old, None)
            return
        for old in moved:
            self._carrier[old] = carrier
        self._carried.setdefault(carrier, []).extend(moved)

    # --- when ---

    def _is_held(self, slot: _Slot) -> bool:
        entry = slot.entry
        if entry.replaces in self._pins or (entry.operation is Operation.REMOVE and entry.ino in self._pins):
            return True
        return (
            entry.operation in (Operation.CREATE, Operation.CONTENT) and entry.ino in self._holds and not slot.forced
        )

    def _held_before(self, seq: int) -> list[int]:
        """The entries that wait for a file to be closed, and that this one waits for, be it through others."""
        if not self._slots[seq].blocked:
            return []
        opened = {
            *(slot.entry.seq for ino in self._holds for slot in self._slots_of(ino)),
            *(writer for ino in self._pins for writer in self._claims.writers(ino)),
        }
        return [held for held in opened if self._is_held(self._slots[held]) and seq in self._behind(held)]

    def _behind(self, seq: int) -> set[int]:
        """The entries that wait for this one, be it through others."""
        found: set[int] = set()
        look = [seq]
        while look:
            earlier = look.pop()
            for resource, write in claims_of(self._slots[earlier].entry).items():
                later = set(self._claims.behind(earlier, resource, write)) - found
                found |= later
                look += later
        return found

    def _may_start(self, slot: _Slot) -> bool:
        """But for the time."""
        return slot.state is EntryState.QUEUED and not slot.blocked and not self._is_held(slot)

    def _due_at(self, slot: _Slot, now: float) -> float:
        due_at = now
        hurried = slot.hurried or slot.entry.attempted or slot.entry.seq <= self._hurried_to
        if not hurried and slot.changed_at <= now + self._settle:       # later: the clock was set back since
            since = slot.changed_at if slot.since is None else slot.since
            due_at = min(slot.changed_at + self._settle, since + self._patience)
        if slot.not_before is not None:
            due_at = max(due_at, slot.not_before)
        return due_at

    def _offer(self, slot: _Slot) -> None:
        if not slot.listed and self._may_start(slot):
            slot.listed = True
            heapq.heappush(self._ready, slot.entry.seq)

    def _offer_timed(self) -> None:
        """What waits for time is looked at again."""
        self._ready += [seq for _, seq in self._timed]
        heapq.heapify(self._ready)
        self._timed.clear()

    def _tick(self, now: float) -> None:
        if now < self._latest:
            self._offer_timed()
        self._latest = now
        while self._timed and self._timed[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._timed)[1])


def _follow(carriers: Mapping[int, int | None], seq: int) -> int | None:
    carrier: int | None = seq
    while carrier is not None and carrier in carriers:
        carrier = carriers[carrier]
    return carrier
