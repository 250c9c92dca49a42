"""What ``status`` shows of the journal: its entries with their present paths and how they fare.

With many entries pending this is the longest look that anybody takes at once, so a folder's path is found once for
all that lies in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from serpentfs.errors import NotFound
from serpentfs.model import ROOT_INO, Ino
from serpentfs.tree.store import EntryRow, Store
from serpentfs.vfs.core import PendingChange
from serpentfs.vfs.entries import Entry, EntryState
from serpentfs.vfs.journal import Journal


class Paths:
    """Paths as they are at one moment: to be made anew for every look."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folders: dict[Ino, str] = {ROOT_INO: ""}

    def of(self, ino: Ino) -> str:
        """``/`` for the root. NotFound for what has no path."""
        row = self._store.entry(ino)
        if row is None:
            raise NotFound("no such entry")
        return self.of_row(row)

    def of_row(self, row: EntryRow) -> str:
        if row.ino == ROOT_INO:
            return "/"
        if not row.parent:
            raise NotFound("this entry has no path")
        return f"{self._folder(row.parent)}/{row.name}"

    def _folder(self, ino: Ino) -> str:
        unknown: list[EntryRow] = []
        while ino not in self._folders:
            row = self._store.entry(ino)
            if row is None or not row.parent:
                raise NotFound("this entry has no path")
            unknown.append(row)
            ino = row.parent
        path = self._folders[ino]
        for row in reversed(unknown):
            path = self._folders[row.ino] = f"{path}/{row.name}"
        return path


def pending_changes(
    journal: Journal, store: Store, sent: Mapping[int, int], settle: float
) -> tuple[PendingChange, ...]:
    """``sent``: bytes that went out, by seq. ``settle`` as in ``DriveOptions``."""
    now = time.time()
    paths = Paths(store)
    changes = []
    for view in journal.pending():
        entry = view.entry
        row = store.entry(entry.ino)
        settles = view.not_before is None and now < entry.recorded + settle
        state = view.state.value
        if view.state is EntryState.QUEUED:
            waits = view.held or view.blocked or settles
            state = "failed" if view.error else "waiting" if waits else "queued"
        changes.append(
            PendingChange(
                seq=entry.seq,
                operation=entry.operation.value,
                path=_path_or_name(paths, entry, row),
                size=row.size if row is not None and entry.content else 0,
                sent=sent.get(entry.seq, 0),
                state=state,
                error=view.error,
                next_try_in=None if view.not_before is None else max(0.0, view.not_before - now),
                tries=view.failures,
            )
        )
    return tuple(changes)


def _path_or_name(paths: Paths, entry: Entry, row: EntryRow | None) -> str:
    try:
        if row is not None:
            return paths.of_row(row)
    except NotFound:
        pass
    place = entry.target or entry.source
    return f"(removed) {place.name}" if place is not None else "(removed)"
