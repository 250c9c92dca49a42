"""Taking back an upload: what was written here is dropped, and the file is what the cloud has of it.

That is the one way in which something acknowledged goes away, so it happens only when a user asks for it by its
number. Where it was on its way already, and arrived all the same, the next listing shows it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

from serpentfs.errors import Busy, NotFound, Unsupported
from serpentfs.model import NO_CONTENT, ContentId, Ino
from serpentfs.tree.feed import Feed
from serpentfs.tree.store import REMOVED, EntryRow, Store
from serpentfs.vfs.entries import IN_PLACE, Entry, EntryState, Operation
from serpentfs.vfs.ledger import Ledger
from serpentfs.vfs.reads import Contents

_UPLOADS = (Operation.CREATE, Operation.CONTENT)

Stop = Callable[[int], Awaitable[None]]
"""Ends the attempt at an entry, and returns when it has ended. See ``Replay.stop``."""


class Cancelled(StrEnum):
    """What became of the file."""

    GONE = "gone"
    """The cloud never had it."""
    REVERTED = "reverted"
    """It has its former content."""
    RETURNS = "returns"
    """It had taken the place of another one, which comes back with the next listing."""


class Cancelling:
    """``is_open``: somebody has the file open."""

    def __init__(
        self, store: Store, ledger: Ledger, contents: Contents, feed: Feed, stop: Stop, is_open: Callable[[Ino], bool]
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._journal = ledger.journal
        self._contents = contents
        self._feed = feed
        self._stop = stop
        self._is_open = is_open
        self.dropped: set[int] = set()
        """Entries that were taken back since the start, for those who wait for them."""

    async def cancel(self, seq: int) -> tuple[Cancelled, EntryRow]:
        """Drop an upload, with what was written to the file since. The answer has the entry as it was. NotFound when
        it is not pending (any more), Unsupported for what is no upload, Busy while the file is open, or where later
        changes build on it; nothing has changed then, except that an attempt was broken off."""
        while True:
            row, dropped = self._check(seq)
            under_way = [one.seq for one in dropped if self._journal.view(one.seq).state is EntryState.SENDING]
            if not under_way:
                return self._drop(row, dropped), row
            for one in under_way:
                await self._stop(one)

    def _check(self, seq: int) -> tuple[EntryRow, list[Entry]]:
        """The file, and all entries that go."""
        if self._journal.state_of(seq) is None:
            raise NotFound(f"there is no transfer {seq} (any more)")
        entry = self._journal.entry(seq)
        if entry.operation not in _UPLOADS:
            raise Unsupported(f"only uploads of files can be cancelled, and this is a {entry.operation.value}: undo it")
        row = self._store.entry(entry.ino)
        if row is None or row.state == REMOVED or not row.parent:
            raise Busy("the file was removed here meanwhile, and that waits for this upload")
        if self._is_open(entry.ino):
            raise Busy("the file is open: close it first")
        entries = [self._journal.entry(one) for one in self._journal.writers(entry.ino)]
        dropped = [one for one in entries if one.ino == entry.ino and one.operation in (*_UPLOADS, *IN_PLACE)]
        is_new = any(one.operation is Operation.CREATE for one in dropped)
        if is_new and len(dropped) < len(entries):
            raise Busy("the file was renamed meanwhile, and that waits for this upload")
        if any(one.replaces is not None and self._journal.entries_of(one.replaces) for one in dropped):
            raise Busy("what it took the place of is on its way to the cloud, and this upload ends that")
        return row, dropped

    def _drop(self, row: EntryRow, dropped: list[Entry]) -> Cancelled:
        node = self._store.node_of(row.ino)
        has_node = node is not None and node.content != NO_CONTENT
        replaced = [one.replaces for one in dropped if one.replaces is not None]
        now = time.time_ns()
        stages = self._stages_of(dropped)
        self.dropped.update(one.seq for one in dropped)
        with self._ledger.outcome(self._journal.abandon([one.seq for one in dropped])):
            for content in stages:
                self._store.drop_stage(content)
            for ino in replaced:
                self._store.drop_node(ino)
            if node is not None and has_node:
                self._store.set_content(row.ino, node.content, node.size, row.mtime_ns, now)
            else:
                self._store.drop_node(row.ino)
                self._store.remove_entry(row.ino)
                self._store.set_times(row.parent, now, None, now)
        for content in stages:
            self._contents.drop_stage(content)
        if has_node:
            self._feed.reverted(row.ino, row.parent)
            return Cancelled.REVERTED
        self._feed.leave_for_later(row.parent)
        self._feed.revisit_settled()
        return Cancelled.RETURNS if replaced else Cancelled.GONE

    def _stages_of(self, dropped: list[Entry]) -> list[ContentId]:
        """Every staged content that only these entries need: what they upload, and what shows through that."""
        found: list[ContentId] = []
        for entry in dropped:
            content = entry.content
            while content not in found and (stage := self._contents.stage(content)) is not None:
                found.append(content)
                content = stage.base
        return found
