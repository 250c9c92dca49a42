"""What is known of a file's chunk MACs, and what a fetched chunk is held against (specification, 7.3 and 7.4).

A file's own MAC can be checked only when every chunk was seen. So the MAC of each chunk that passes is kept, sealed; a
chunk that comes again must have the same one, and when all are there they must make up the file's.
"""

from __future__ import annotations

import enum
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from serpentfs.clouds.mega.chunks import chunk_count, meta_mac
from serpentfs.clouds.mega.keys import FileKey
from serpentfs.clouds.mega.replica import Replica

_KIND = "macs"
_MAC_BYTES = 16
_UNKNOWN = bytes(_MAC_BYTES)
_FILES = 256
"""Files whose MACs are held in memory."""
_SAVE_EVERY = 64
"""Chunks between two writes of a file's record."""


class Verdict(enum.Enum):
    GOOD = enum.auto()
    CHANGED = enum.auto()
    """A chunk is not what it was the last time."""
    WRONG = enum.auto()
    """The whole file is not what its key says."""


@dataclass(slots=True)
class _Known:
    macs: bytearray = field(repr=False)
    left: int
    verified: bool = False
    unsaved: int = 0


class MacLedger:
    """Chunk MACs by node handle. A handle's content never changes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def _of(self, handle: str, size: int) -> _Known:
        known = self._known.get(handle)
        if known is None:
            count = chunk_count(size)
            record = self._replica.get_record(_KIND, handle)
            if record is None or len(record) != 1 + count * _MAC_BYTES:
                record = b"\0" + _UNKNOWN * count
            macs = bytearray(record[1:])
            left = sum(macs[at : at + _MAC_BYTES] == _UNKNOWN for at in range(0, len(macs), _MAC_BYTES))
            known = self._known[handle] = _Known(macs, left, record[0] == 1)
            while len(self._known) > _FILES:
                self._save(*self._known.popitem(last=False))
        self._known.move_to_end(handle)
        return known

    def _save(self, handle: str, known: _Known) -> None:
        if known.unsaved:
            known.unsaved = 0
            self._replica.put_record(_KIND, handle, bytes([known.verified]) + bytes(known.macs))

    def save(self) -> None:
        """Write down what is only in memory."""
        for handle, known in self._known.items():
            self._save(handle, known)

    def check(self, handle: str, size: int, key: FileKey, first: int, macs: Sequence[bytes]) -> Verdict:
        """Whether chunks ``first``, ``first + 1``, … with these MACs may be served: they are those that were seen
        before, and, with the last one that was missing, the file's own MAC is right."""
        known = self._of(handle, size)
        for index, mac in enumerate(macs, first):
            before = bytes(known.macs[index * _MAC_BYTES : (index + 1) * _MAC_BYTES])
            if before != _UNKNOWN and not hmac.compare_digest(before, mac):
                return Verdict.CHANGED
        fresh = []
        for index, mac in enumerate(macs, first):
            at = index * _MAC_BYTES
            if known.macs[at : at + _MAC_BYTES] == _UNKNOWN:
                known.macs[at : at + _MAC_BYTES] = mac
                fresh.append(at)
        known.left -= len(fresh)
        known.unsaved += len(fresh)
        if fresh and not known.left:
            all_macs = [bytes(known.macs[at : at + _MAC_BYTES]) for at in range(0, len(known.macs), _MAC_BYTES)]
            known.verified = hmac.compare_digest(meta_mac(key.key, all_macs), key.meta_mac)
            if not known.verified:
                # Which chunk is wrong cannot be told: none of them is believed any more.
                self.forget(handle)
                return Verdict.WRONG
        if known.unsaved >= _SAVE_EVERY or not known.left:
            self._save(handle, known)
        return Verdict.GOOD

    def doubt(self, handle: str) -> None:
        """A chunk keeps coming with another MAC than it had. Where the old ones are proven by the file's own they
        stay; else nothing is known of the file any more."""
        known = self._known.get(handle)
        if known is not None and not known.verified:
            self.forget(handle)

    def forget(self, handle: str) -> None:
        """Nothing is known of the file."""
        self._known.pop(handle, None)
        self._replica.put_record(_KIND, handle, None)

    def note(self, handle: str, macs: Sequence[bytes]) -> None:
        """The MACs of a file that was uploaded from here."""
        if macs:
            self._replica.put_record(_KIND, handle, b"\1" + b"".join(macs))
            self._known.pop(handle, None)
