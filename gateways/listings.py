"""Listings of folders as they went out, kept for clients that ask for the same again and again.

A listing is most of the work that a client in a browser's or a synchroniser's hands makes: names are opened, and an
entry costs 20 to 40 µs. What was made of them is kept, byte for byte, and is good as long as the core's ``state_mark``
is the same. Knows neither HTTP nor FTP: a listing is bytes under a key that names all that it depends on besides.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

_OVERHEAD = 1024
"""Bytes charged for a listing beside its own, for the key and the tables: a guess."""


class Collected:
    """The pieces of a listing that is being made, as long as there is ``room`` bytes for them."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.pieces: list[bytes] = []

    @property
    def is_whole(self) -> bool:
        return self._room >= 0

    def add(self, piece: bytes) -> None:
        """The next of them."""
        self._room -= len(piece)
        if self.is_whole:
            self.pieces.append(piece)
        else:
            self.pieces.clear()


class KeptListings:
    """Listings of at most ``budget`` bytes together, and of half of it each; one more of that size while it is being
    made. Those not asked for longest go first. Safe to use from many threads."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, tuple[int, list[bytes]]] = OrderedDict()
        self._taken = 0
        self._making = False
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        """What counts against the budget."""
        return self._taken

    def find(self, key: Hashable, mark: int | None) -> list[bytes] | None:
        """The pieces of a listing that was kept when the mark was this one."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept[0] != mark:
                return None
            self._kept.move_to_end(key)
            return kept[1]

    @contextmanager
    def making(self, key: Hashable, mark: Callable[[], int | None]) -> Iterator[Collected]:
        """What is collected within is kept, if there was no exception and ``mark`` tells the same before and after. Of
        several that are made at a time only the first is collected, or many slow clients would hold one each."""
        with self._lock:
            first, self._making = not self._making, True
        try:
            before = mark() if first else None
            collected = Collected(-1 if before is None else self._budget // 2)
            yield collected
            if before is not None and collected.is_whole and mark() == before:
                self._keep(key, before, collected.pieces)
        finally:
            if first:
                self._making = False

    def _keep(self, key: Hashable, mark: int, pieces: list[bytes]) -> None:
        with self._lock:
            self._drop(key)
            self._kept[key] = mark, pieces
            self._taken += _charge(pieces)
            while self._taken > self._budget:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._taken -= _charge(kept[1])


def _charge(pieces: list[bytes]) -> int:
    return sum(map(len, pieces)) + _OVERHEAD
