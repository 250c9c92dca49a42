"""Entries that were read or written lately, so that they need not be read again: a request of a door looks the same
few rows up several times (the folder above all), and each look costs a query and the opening of a sealed name.

Pure bookkeeping, for ``store`` alone: it tells every change of a row, and calls ``forget_all`` when it cannot say what
changed (a transaction that was rolled back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serpentfs.model import Ino

if TYPE_CHECKING:
    from serpentfs.tree.store import EntryRow

_MOST = 4096
"""Rows: two megabytes."""


class KnownRows:
    """A row is known by its inode and, while it is in a folder, by (folder, key of its name), too."""

    def __init__(self) -> None:
        self._rows: dict[Ino, tuple[EntryRow, str]] = {}
        self._names: dict[tuple[Ino, str], Ino] = {}
        self._free: tuple[Ino, str] | None = None
        """The place that was found free last: who looks a name up in order to make it asks twice."""

    def row(self, ino: Ino) -> EntryRow | None:
        """None: not known here."""
        known = self._rows.get(ino)
        return None if known is None else known[0]

    def at(self, parent: Ino, key: str) -> EntryRow | None:
        """None: not known here."""
        ino = self._names.get((parent, key))
        return None if ino is None else self._rows[ino][0]

    def put(self, row: EntryRow, key: str) -> None:
        """``row`` is as the database has it; ``key``: of its name, where it is in a folder."""
        self.forget(row.ino)
        if len(self._rows) >= _MOST:
            self.forget(next(iter(self._rows)))
        if row.parent:
            place = row.parent, key
            self.is_taken(*place)
            other = self._names.get(place)
            if other is not None:  # "OR REPLACE" took the place from it
                self.forget(other)
            self._names[place] = row.ino
        self._rows[row.ino] = row, key

    def change(self, row: EntryRow) -> None:
        """A row that is known, with other values at the same place."""
        self._rows[row.ino] = row, self._rows[row.ino][1]

    def forget(self, ino: Ino) -> None:
        known = self._rows.pop(ino, None)
        if known is not None and known[0].parent:
            del self._names[known[0].parent, known[1]]

    def forget_all(self) -> None:
        self._rows.clear()
        self._names.clear()
        self._free = None

    def is_free(self, parent: Ino, key: str) -> bool:
        """Whether nothing is there, for certain."""
        return self._free == (parent, key)

    def is_taken(self, parent: Ino, key: str) -> None:
        """Something is there now."""
        if self._free == (parent, key):
            self._free = None

    def found_free(self, parent: Ino, key: str) -> None:
        """The database has nothing there."""
        self._free = parent, key
