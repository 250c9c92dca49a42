"""Which files of a folder are opened next: who opens several of them one after another goes on with the others.

A file manager that makes thumbnails, a media scanner, ``file *``: each reads the head of every file, and each head
costs round trips to the cloud. From the third file on, every opening asks for the heads of some more files of its
folder, in the order of the listing, each once. What is asked for grows with what was opened, so that a user who
opens three files pays for two heads.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from serpentfs.model import Ino
from serpentfs.tree.store import EntryRow, Store
from serpentfs.vfs.reads import Contents

_FOLDERS = 16
"""Folders that are watched at a time."""
_PAUSE_S = 10.0
"""After such a pause it is another run through the folder."""
_FREE = 2
"""Files that may be opened before it looks like a run."""
_MOST = 24
"""Heads asked for at one opening: as many as the cache fetches at a time. Who opens files in another order than the
listing's meets one that is not here now and then, and while that comes the others do, too."""


@dataclass(slots=True)
class _Run:
    """One run through a folder: from the file after ``start`` on, past the end, to ``start``."""

    start: Ino
    last: Ino
    at: float
    cursor: Ino
    opened: int = 1
    wrapped: bool = False
    done: bool = False


class Siblings:
    """Told of every opening for reading."""

    def __init__(self, store: Store, contents: Contents) -> None:
        self._store = store
        self._contents = contents
        self._runs: OrderedDict[Ino, _Run] = OrderedDict()

    def opened(self, row: EntryRow) -> None:
        """``row``: a file that was opened to be read."""
        now = time.monotonic()
        run = self._runs.get(row.parent)
        if run is None or now - run.at > _PAUSE_S:
            self._runs[row.parent] = _Run(row.ino, row.ino, now, row.ino)
            self._runs.move_to_end(row.parent)
            if len(self._runs) > _FOLDERS:
                self._runs.popitem(last=False)
            return
        run.at = now
        if run.done or row.ino == run.last:
            return
        run.last = row.ino
        run.opened += 1
        if run.opened > _FREE:
            self._go_on(row.parent, run)

    def _go_on(self, folder: Ino, run: _Run) -> None:
        wanted = min(2 ** (run.opened - _FREE), _MOST, self._contents.room_for_heads())
        if wanted <= 0:
            return
        found = self._store.files_in(folder, run.cursor, wanted)
        for ino, content, size in found:
            if run.wrapped and ino > run.start:
                run.done = True
                return
            run.cursor = ino
            self._contents.warm_head(ino, content, size)
        if len(found) < wanted:
            run.done, run.wrapped, run.cursor = run.wrapped, True, Ino(0)
