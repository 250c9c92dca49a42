"""Rewriting queued entries so that what cancels out is never sent.

The journal is a sequence; carried out in order it turns the cloud's tree into ours. Every rule here replaces a
few entries by others so that this stays true, and rests on two moves: an entry may change places with a neighbour
that touches none of its slots and does not need its inode where it was, and two neighbours may be rewritten as a
pair. Only *unsent* entries (queued, no attempt started) are rewritten. What cannot be shown to be safe is left
alone: the plain sequence is always right. JOURNAL.md has the rules as a table.

A draft does not touch the journal: it gathers what would change, and the journal applies that after the caller's
transaction.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from serpentfs.model import Ino
from serpentfs.vfs.entries import (
    BIRTHS,
    IN_PLACE,
    PLACING,
    Entry,
    Operation,
    Resource,
    Slot,
    claims_of,
)


class Pending(Protocol):
    """What a draft needs to see of the journal it is based on."""

    def entry(self, seq: int) -> Entry: ...

    def is_unsent(self, seq: int) -> bool:
        """Queued, and no attempt was started."""
        ...

    def writers(self, resource: Resource) -> Sequence[int]:
        """Seqs of the entries that write the resource, in order."""
        ...

    def readers(self, resource: Resource) -> int:
        """How many entries read the resource without writing it."""
        ...


class Draft:
    """The journal as it would be with some more changes.

    ``changed`` maps a seq to its new entry, None where it is to be dropped; ``superseded`` says where the effect
    of an entry went (the first answer counts: it was given to those who waited for what the entry was then).
    """

    def __init__(self, base: Pending, next_seq: int) -> None:
        self._base = base
        self._first_seq = next_seq
        self._next_seq = next_seq
        self.changed: dict[int, Entry | None] = {}
        self.superseded: dict[int, int | None] = {}

    def record(self, change: Entry) -> int:
        """Add one change at the end; the answer is its seq, which may be among the superseded ones."""
        seq = self._next_seq
        self._next_seq += 1
        change = change.recorded_as(seq)
        match change.operation:
            case Operation.CONTENT:
                self._content(change)
            case Operation.SETATTR:
                self._setattr(change)
            case Operation.REMOVE:
                self._remove(change)
            case Operation.RENAME:
                self._rename(self._bury(change))
            case Operation.CREATE | Operation.MKDIR | Operation.SYMLINK:
                self._put(self._bury(change))
                if len(self.changed) > 1 or self._base.writers(change.goal.slot):
                    self._fold(change.goal.slot)
        return seq

    # --- the rules ---

    def _content(self, change: Entry) -> None:
        """A new content takes the place of an unsent one. Renames in between do not matter to it."""
        unsent = self._unsent(change.ino)
        for entry in unsent:
            if entry.operation in (Operation.CREATE, Operation.CONTENT):
                if len(unsent) > 1:
                    entry = self._absorb_later(entry, entry.seq)
                mtime_ns = entry.mtime_ns if change.mtime_ns is None else change.mtime_ns
                self._put(entry.with_content(change.content, mtime_ns, max(entry.recorded, change.recorded)))
                self._supersede(change.seq, entry.seq)
                return
        for entry in unsent:
            if entry.operation is Operation.SETATTR:
                change = replace(change, mtime_ns=entry.mtime_ns if change.mtime_ns is None else change.mtime_ns)
                self._drop(entry.seq, change.seq)
        self._put(change)

    def _setattr(self, change: Entry) -> None:
        """A time goes with what is to be made or uploaded anyway."""
        for entry in reversed(self._unsent(change.ino)):
            if entry.operation is not Operation.RENAME:
                recorded = max(entry.recorded, change.recorded)
                self._put(entry.with_content(entry.content, change.mtime_ns, recorded))
                self._supersede(change.seq, entry.seq)
                return
        self._put(change)

    def _remove(self, change: Entry) -> None:
        unsent = self._unsent(change.ino)
        if self._is_read(change.ino):
            self._put(change)           # a folder in which something is still to happen
        elif unsent and unsent[0].operation in BIRTHS:
            self._vanish(unsent, change)
        else:
            self._remove_early(unsent, change)

    def _vanish(self, unsent: list[Entry], change: Entry) -> None:
        """Born and gone: nothing of it is sent, but what it had replaced goes away."""
        left: int | None = None
        for entry in unsent:
            if entry.replaces is None:
                self._supersede(entry.seq, None)
            else:
                left = entry.seq
            self._leave_slot(entry)
        self._supersede(change.seq, left)
        for entry in unsent:
            if entry.replaces is not None:
                self._fold(entry.goal.slot)

    def _remove_early(self, unsent: list[Entry], change: Entry) -> None:
        """The node is removed where it lies in the cloud, without being changed or moved first.

        Going back from the end: the removal takes the earlier position of a rename, and the removal of what that
        rename had replaced takes the later one (until then the slot was held by our inode, so nobody else used it).
        """
        removal = change
        slots = [change.origin.slot]
        for entry in reversed(unsent):
            if entry.operation in IN_PLACE:
                self._drop(entry.seq, change.seq)
            elif entry.goal.slot == removal.origin.slot:
                if entry.replaces is not None:
                    self._put(_removal_of_replaced(entry, removal.seq))
                elif removal.seq != change.seq:
                    self._drop(removal.seq, entry.seq)
                removal = replace(removal, seq=entry.seq, source=entry.origin)
                slots.append(entry.origin.slot)
            else:
                break
        self._put(removal)
        if removal.seq != change.seq:
            self._supersede(change.seq, removal.seq)
        for slot in slots:
            self._fold(slot)

    def _bury(self, change: Entry) -> Entry:
        """``change`` makes an end of ``replaces``: what was still to be sent for that inode is not sent."""
        victim = change.replaces
        if victim is None:
            return change
        unsent = self._unsent(victim)
        if unsent and unsent[0].operation in BIRTHS:
            return self._bury_unborn(unsent, change)
        for entry in unsent:
            if entry.operation in IN_PLACE:
                self._drop(entry.seq, change.seq)
        return change

    def _bury_unborn(self, unsent: list[Entry], change: Entry) -> Entry:
        """The victim was never in the cloud: ``change`` replaces what the victim had replaced in this slot."""
        last = [entry for entry in unsent if entry.operation in PLACING][-1]
        inherits = last.goal.slot == change.goal.slot
        for entry in unsent:
            if inherits and entry is last:
                self._drop(entry.seq, change.seq)
            else:
                self._supersede(entry.seq, change.seq)
                self._leave_slot(entry)
        if not inherits:
            return replace(change, replaces=None)
        return replace(change, replaces=last.replaces)

    def _rename(self, change: Entry) -> None:
        """What was made or moved and not sent yet is made or moved to the new place at once.

        That happens at the later position: the new parent may be younger than the earlier entry. A folder stays
        as it is when another entry needs it where it is.
        """
        placing = [entry for entry in self._unsent(change.ino) if entry.operation in PLACING]
        if placing and placing[-1].goal.slot == change.origin.slot and not self._is_read(change.ino):
            earlier = placing[-1]
            if earlier.operation is Operation.RENAME:
                if self._merge_renames(earlier, change):
                    return
            elif earlier.operation is Operation.CREATE or change.replaces is None:
                self._supersede(earlier.seq, change.seq)
                self._leave_slot(earlier)
                change = replace(
                    self._absorb_later(earlier, change.seq),
                    seq=change.seq,
                    target=change.target,
                    replaces=change.replaces,
                    recorded=max(earlier.recorded, change.recorded),
                )
        self._put(change)
        self._fold(change.goal.slot)

    def _absorb_later(self, entry: Entry, carrier: int) -> Entry:
        """``entry`` with what the later contents and times of its inode would make of it; they are not sent.

        There are any only when an attempt, during which they were recorded, turned out not to have been one.
        """
        for later in self._unsent(entry.ino):
            if later.operation in IN_PLACE and later.seq > entry.seq:
                content = later.content if later.operation is Operation.CONTENT else entry.content
                mtime_ns = entry.mtime_ns if later.mtime_ns is None else later.mtime_ns
                entry = replace(entry, content=content, mtime_ns=mtime_ns)
                self._drop(later.seq, carrier)
        return entry

    def _merge_renames(self, earlier: Entry, change: Entry) -> bool:
        """Two renames of one inode become one, from the first source to the last target; False: left alone.

        The inode then stays at the first source for longer, so nobody may have come there meanwhile, and the
        folder it lies in must not have gone (nor moved: not worth a proof).
        """
        origin = earlier.origin
        if self._is_written_after(origin.slot, earlier.seq) or self._is_written_after(origin.parent, earlier.seq):
            return False
        comes_back = origin.slot == change.goal.slot
        if comes_back and change.replaces is not None:
            return False
        self._supersede(earlier.seq, change.seq)
        self._leave_slot(earlier)
        if comes_back and origin.name == change.goal.name:
            self._supersede(change.seq, None)
            return True
        self._rename(replace(change, source=origin))
        return True

    def _fold(self, slot: Slot) -> None:
        """A removal and what takes the name next become one step: there is no moment without the file, and clouds
        with versions see one."""
        entries = self._writing(slot)
        for removal, successor in itertools.pairwise(entries):
            if (
                removal.operation is Operation.REMOVE
                and removal.leaf
                and self._is_unsent(removal.seq)
                and self._is_unsent(successor.seq)
                and successor.replaces is None
                and (successor.operation is Operation.CREATE or _moves_leaf(successor))
                and successor.goal.slot == slot
            ):
                self._put(replace(successor, replaces=removal.ino))
                self._drop(removal.seq, successor.seq)

    # --- what the rules are made of ---

    def _put(self, entry: Entry) -> None:
        self.changed[entry.seq] = entry

    def _drop(self, seq: int, carrier: int | None) -> None:
        self.changed[seq] = None
        self._supersede(seq, carrier)

    def _supersede(self, seq: int, carrier: int | None) -> None:
        self.superseded.setdefault(seq, carrier)

    def _leave_slot(self, entry: Entry) -> None:
        """The entry is not to be carried out; what it would have replaced still goes away, at its position."""
        if entry.replaces is None:
            self.changed[entry.seq] = None
        else:
            self._put(_removal_of_replaced(entry, entry.seq))

    def _is_unsent(self, seq: int) -> bool:
        return seq in self.changed or self._base.is_unsent(seq)

    def _writing(self, resource: Resource) -> list[Entry]:
        """The entries that write the resource, in order."""
        entries = [self._base.entry(seq) for seq in self._base.writers(resource) if seq not in self.changed]
        if self.changed:
            entries += [e for e in self.changed.values() if e is not None and claims_of(e).get(resource)]
            entries.sort(key=lambda entry: entry.seq)
        return entries

    def _unsent(self, ino: Ino) -> list[Entry]:
        """The unsent entries of an inode, in order. (Entries of one inode are sent one after the other, so what
        was attempted comes before all of them, and an unsent birth is the first.)"""
        return [entry for entry in self._writing(ino) if entry.ino == ino and self._is_unsent(entry.seq)]

    def _is_read(self, ino: Ino) -> bool:
        """Whether an entry needs this folder where it is."""
        count = self._base.readers(ino)
        for seq, entry in self.changed.items():
            if seq < self._first_seq and claims_of(self._base.entry(seq)).get(ino) is False:
                count -= 1
            if entry is not None and claims_of(entry).get(ino) is False:
                count += 1
        return count > 0

    def _is_written_after(self, resource: Resource, seq: int) -> bool:
        entries = self._writing(resource)
        return bool(entries) and entries[-1].seq > seq


def _removal_of_replaced(entry: Entry, seq: int) -> Entry:
    if entry.replaces is None:
        raise ValueError("the entry replaces nothing")
    return Entry(
        seq,
        Operation.REMOVE,
        entry.replaces,
        source=entry.goal,
        leaf=True,
        recorded=entry.recorded,
    )


def _moves_leaf(entry: Entry) -> bool:
    return entry.operation is Operation.RENAME and entry.leaf
