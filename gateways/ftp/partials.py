"""Broken-off uploads, kept so that ``REST`` and ``APPE`` can go on with them.

A partial belongs to a user and a place (parent inode and name: a renamed folder takes its partials along). Its
bytes are a kept draft of the core; what is noted about it here is one sealed record, under a random key because
names may not be readable. It also remembers the content that had that name when the upload began (``base``):
once something else is there, the partial is stale. Threads share this; the records are written on the loop.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from serpentfs.errors import NotFound, SerpentError
from serpentfs.gateways.sync_vfs import SyncVfs
from serpentfs.model import NO_CONTENT, Attributes, Ino, Kind

_log = logging.getLogger(__name__)

KEPT_FOR = 7 * 24 * 3600.0
"""Seconds; the core keeps drafts for at least as long."""

SaveRecord = Callable[[str, bytes | None], None]
"""Writes (None: drops) a durable record, called from threads. Must work until the last session has ended."""


@dataclass(frozen=True, slots=True)
class Base:
    """The content that a name had; see ``Attributes.generation``."""

    content: int
    generation: int

    @classmethod
    def of(cls, attributes: Attributes | None) -> Base | None:
        return None if attributes is None else cls(attributes.content, attributes.generation)


@dataclass(frozen=True, slots=True)
class Partial:
    """The first ``length`` bytes of a file that ``user`` was uploading to ``name`` in ``parent``."""

    user: str
    parent: Ino
    name: str
    draft: Ino
    length: int
    since: float
    """When it broke off, in seconds since 1970."""
    base: Base | None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def place(self) -> tuple[str, Ino, str]:
        return self.user, self.parent, self.name

    def as_attributes(self) -> Attributes:
        """What listings show of it."""
        moment = int(self.since * 1e9)
        return Attributes(
            self.draft, self.parent, Kind.FILE, self.length, moment, moment, moment, NO_CONTENT, 0
        )


class Partials:
    """All partials of the door."""

    def __init__(self, vfs: SyncVfs, save: SaveRecord, clock: Callable[[], float] = time.time) -> None:
        self._vfs = vfs
        self._save = save
        self._clock = clock
        self._lock = threading.Lock()   # around _by_place only: never held while the core is asked
        self._by_place: dict[tuple[str, Ino, str], Partial] = {}

    def load(self, records: dict[str, bytes]) -> list[str]:
        """Take over what an earlier process left; the keys of records that mean nothing are answered."""
        unreadable = []
        for key, value in records.items():
            partial = _decode(key, value)
            if partial is None:
                unreadable.append(key)
            else:
                self._by_place[partial.place] = partial
        return unreadable

    def at(self, user: str, parent: Ino, name: str) -> Partial | None:
        with self._lock:
            return self._by_place.get((user, parent, name))

    def within(self, user: str, parent: Ino) -> list[Partial]:
        with self._lock:
            return [
                partial
                for (owner, folder, _), partial in self._by_place.items()
                if owner == user and folder == parent
            ]

    def claim(self, partial: Partial) -> bool:
        """Take it out of sight, to continue it. False when another session was quicker. The record stays, so
        that a crash leaves the partial as it was; ``keep`` or ``forget`` follows."""
        with self._lock:
            if self._by_place.get(partial.place) != partial:
                return False
            del self._by_place[partial.place]
            return True

    def keep(self, partial: Partial) -> None:
        """Remember this one, instead of an older one at its place."""
        with self._lock:
            older = self._by_place.get(partial.place)
            self._by_place[partial.place] = partial
        self._save(partial.key, _encode(partial))
        if older is not None and older.key != partial.key:
            self._drop(older)

    def forget(self, partial: Partial) -> None:
        """Drop the bytes and the record of a partial that nobody is continuing."""
        if self.claim(partial):
            self._drop(partial)

    def forget_record(self, partial: Partial) -> None:
        """Drop the record of a claimed partial whose bytes became a file or are gone."""
        self._save(partial.key, None)

    def expire(self) -> None:
        """Drop what is over a week old, and what lies in a folder that is gone."""
        with self._lock:
            present = list(self._by_place.values())
        for partial in present:
            if partial.since + KEPT_FOR < self._clock() or not self._has_folder(partial):
                self.forget(partial)

    def _has_folder(self, partial: Partial) -> bool:
        try:
            return self._vfs.getattr(partial.parent).nlink > 0
        except NotFound:
            return False

    def _drop(self, partial: Partial) -> None:
        self._save(partial.key, None)
        try:
            draft = self._vfs.reopen_draft(partial.draft)
            self._vfs.discard(draft)
        except NotFound:
            pass   # the core dropped it before us
        except SerpentError as error:
            # The core drops kept drafts of its own accord later; the upload at hand must not fail for this.
            _log.warning("a partial file could not be dropped: %s", error)




def _encode(partial: Partial) -> bytes:
    return json.dumps(asdict(partial)).encode()


def _decode(key: str, value: bytes) -> Partial | None:
    try:
        raw = json.loads(value)
        base = raw["base"]
        return Partial(
            str(raw["user"]),
            Ino(int(raw["parent"])),
            str(raw["name"]),
            Ino(int(raw["draft"])),
            int(raw["length"]),
            float(raw["since"]),
            None if base is None else Base(int(base["content"]), int(base["generation"])),
            key,
        )
    except (ValueError, KeyError, TypeError):
        _log.warning("a record of a partial file cannot be read and is dropped")
        return None
