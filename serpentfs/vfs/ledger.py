"""The journal together with its rows: a change of the tree and its entries are one transaction, or nothing.

The machine (``journal``) decides, the database keeps, and only when the database has it does the machine move. All
of it is plain code without an await, so no other task sees a half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from serpentfs.model import ContentId, Ino
from serpentfs.tree.store import REMOVED, JournalRow, Store
from serpentfs.vfs.entries import Delta, Entry, EntryState, Operation, Place
from serpentfs.vfs.journal import Journal

_PATIENCE = 10.0
"""Seconds that a reader waits for the outcome of a change under way: longer than a cloud takes to answer a rename."""


@dataclass
class Change:
    """One transaction being put together: what is appended to ``entries`` is journalled with it."""

    entries: list[Entry] = field(default_factory=list)
    seqs: tuple[int | None, ...] = ()
    """After the transaction: where each entry's effect is carried, None where nothing is left to do."""


class Ledger:
    """Keeps machine and rows in step."""

    def __init__(self, store: Store, journal: Journal, name_key: Callable[[str], str]) -> None:
        self.store = store
        self.journal = journal
        self._name_key = name_key
        self._moved = trio.Event()
        self.wakes = 0
        """Counts the calls of ``wake``."""
        self.paused = False
        """Nothing is sent: the user wants it so."""
        self._is_unneeded: Callable[[ContentId], bool] = lambda content: False
        self._let_go: Callable[[ContentId], None] = lambda content: None
        self._finishing: dict[int, Ino] = {}

    def on_unneeded(self, is_unneeded: Callable[[ContentId], bool], let_go: Callable[[ContentId], None]) -> None:
        """When the last entry of a content goes, ``is_unneeded`` says whether its rows may go in the same
        transaction; ``let_go`` is called after it, never before, as files do not come back with a rollback."""
        self._is_unneeded = is_unneeded
        self._let_go = let_go

    def place(self, parent: Ino, name: str) -> Place:
        return Place(parent, self._name_key(name), name)

    def load(self) -> None:
        """At start: hand the stored entries to the machine."""
        self.journal.load(self._entry(row) for row in self.store.journal())

    def _entry(self, row: JournalRow) -> Entry:
        return Entry(
            seq=row.seq,
            operation=Operation(row.operation),
            ino=row.ino,
            source=None if row.source is None else self.place(*row.source),
            target=None if row.target is None else self.place(*row.target),
            replaces=row.replaces,
            content=row.content,
            mtime_ns=row.mtime_ns,
            ancestors=row.ancestors,
            leaf=row.leaf,
            recorded=row.recorded,
        )

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction of the tree with the journal entries that the block appends. Nothing in it may await."""
        change = Change()
        with self.store.transaction():
            yield change
            if not change.entries:
                return  # nothing that the cloud is to know
            for entry in change.entries:
                self._reconsider(entry.ino)
                if entry.replaces is not None:
                    self._reconsider(entry.replaces)
            delta = self.journal.propose(*change.entries)
            unneeded = self._persist(delta)
        self._apply(delta, unneeded)
        change.seqs = delta.seqs

    @contextmanager
    def outcome(self, delta: Delta) -> Iterator[None]:
        """A transaction of the tree with what the machine answered to an outcome (``confirm``)."""
        with self.store.transaction():
            yield
            unneeded = self._persist(delta)
        self._apply(delta, unneeded)

    def _persist(self, delta: Delta) -> list[ContentId]:
        if delta.drop:
            self.store.drop_journal(delta.drop)
        for entry in delta.put:
            if self._is_stored(entry):
                continue
            self.store.put_journal(
                JournalRow(
                    entry.seq,
                    entry.operation.value,
                    entry.ino,
                    None if entry.source is None else (entry.source.parent, entry.source.name),
                    None if entry.target is None else (entry.target.parent, entry.target.name),
                    entry.replaces,
                    entry.content,
                    entry.mtime_ns,
                    entry.ancestors,
                    entry.leaf,
                    entry.recorded,
                )
            )
        unneeded = [content for content in delta.unneeded if self._is_unneeded(content)]
        for content in unneeded:
            self.store.drop_stage(content)
        return unneeded

    def _is_stored(self, entry: Entry) -> bool:
        """Whether the row says all of it but its times, which count only while this process runs: an upload carries the
        time that it finds in the tree, and what is loaded at a start has settled."""
        if self.journal.state_of(entry.seq) is None:
            return False
        return entry.differs_at_most_in_times(self.journal.entry(entry.seq))

    def _apply(self, delta: Delta, unneeded: list[ContentId]) -> None:
        self.journal.apply(delta)
        for content in unneeded:
            self._let_go(content)
        self.moved()

    def is_birthplace(self, folder: Ino) -> bool:
        """Whether something that is not removed is to be made in this folder."""
        rows = map(self.store.entry, self.journal.born_in(folder))
        return any(row is not None and row.state != REMOVED for row in rows)

    async def wait_sent(self, ino: Ino, *, uploads: bool) -> bool:
        """If the cloud may have a change of this inode that it has not confirmed (it is being sent at this moment, or
        an attempt failed and is to be repeated), wait some seconds for its outcome. Tells whether there was one.
        ``uploads``: also for uploads of its content (who is part of one must not wait for it), until they are
        ``finishing`` no more; they are repeated even though the file is open."""
        waited = False
        with trio.move_on_after(_PATIENCE):
            while (entry := self._unconfirmed(ino, uploads)) is not None or (uploads and self._is_finishing(ino)):
                if entry is not None and entry.content and self.journal.state_of(entry.seq) is EntryState.QUEUED:
                    self.journal.force(entry.seq)
                await self.wait_moved()
                waited = True
        return waited

    @contextmanager
    def finishing(self, seq: int, ino: Ino) -> Iterator[None]:
        """The upload is confirmed, and who has the file open does not know yet."""
        self._finishing[seq] = ino
        try:
            yield
        finally:
            del self._finishing[seq]
            self.moved()

    def _is_finishing(self, ino: Ino) -> bool:
        return ino in self._finishing.values()

    def _unconfirmed(self, ino: Ino, uploads: bool) -> Entry | None:
        """The first change of this inode of which only the cloud knows whether it has it."""
        for entry in self.journal.entries_of(ino):
            if entry.content and not uploads:
                continue
            state = self.journal.state_of(entry.seq)
            if state is EntryState.SENDING or (state is EntryState.QUEUED and entry.attempted and not self.paused):
                return entry
        return None

    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.moved()

    def wake(self) -> None:
        """What failed is tried again now, and what is stuck once more."""
        for view in self.journal.pending():
            if view.state is EntryState.STUCK:
                self.journal.unpark(view.entry.seq)
        self.journal.wake()
        self.wakes += 1
        self.moved()

    def _reconsider(self, ino: Ino) -> None:
        """The user changes something whose earlier change the cloud refused: a refused change is not in the cloud, so
        that the two may become one that it accepts (another name, a shorter file, nothing)."""
        for entry in self.journal.entries_of(ino):
            if self.journal.state_of(entry.seq) is EntryState.STUCK:
                self.journal.unpark(entry.seq, unsent=True)

    def moved(self) -> None:
        """Wake whoever waits for the journal to move."""
        self._moved.set()
        self._moved = trio.Event()

    async def wait_moved(self) -> None:
        await self._moved.wait()
