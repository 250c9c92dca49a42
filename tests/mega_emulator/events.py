"""The event channel: a bounded log of packets for every audience, its sequence numbers, and who waits for more.

An audience is an account or a public folder. Packets are kept as they go out. Callers hold the lock; waiting gives it
up. Knows nothing of what packets mean.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serpentfs.clouds.mega.encoding import decode, encode

KEPT = 20_000
MOST_AT_ONCE = 2_000
_FIRST = 1


def sn_text(serial: int) -> str:
    return encode(serial.to_bytes(8, "big"))


def sn_number(text: str) -> int | None:
    data = decode(text)
    return int.from_bytes(data, "big") if len(data) == 8 else None


@dataclass(slots=True)
class _Log:
    serial: int = _FIRST
    floor: int = _FIRST
    """No change after this serial was forgotten."""
    entries: deque[tuple[int, list[bytes]]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Since:
    packets: list[bytes]
    serial: int
    more: bool


class Events:
    """The logs of all audiences. ``condition`` is made on the service's lock."""

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition
        self._logs: dict[str, _Log] = {}
        self.kept = KEPT

    def _log(self, audience: str) -> _Log:
        return self._logs.setdefault(audience, _Log())

    def serial(self, audience: str) -> int:
        return self._log(audience).serial

    def publish(self, audience: str, packets: Sequence[dict[str, Any]]) -> None:
        """One step: packets of which no client gets only a part."""
        if not packets:
            return
        log = self._log(audience)
        log.serial += 1
        log.entries.append((log.serial, [json.dumps(packet, separators=(",", ":")).encode() for packet in packets]))
        while len(log.entries) > self.kept:
            log.floor = log.entries.popleft()[0]
        self._condition.notify_all()

    def forget(self, audience: str) -> None:
        """Everything so far: whoever is behind must load its tree anew."""
        log = self._log(audience)
        log.entries.clear()
        log.serial += 1
        log.floor = log.serial
        self._condition.notify_all()

    def since(self, audience: str, serial: int | None) -> Since | None:
        """What happened after ``serial``; None: that is not known any more, or never was."""
        log = self._log(audience)
        if serial is None or serial < log.floor or serial > log.serial:
            return None
        packets: list[bytes] = []
        last = serial
        # Serials of entries are consecutive up to the newest.
        for at in range(max(len(log.entries) - (log.serial - serial), 0), len(log.entries)):
            if packets and len(packets) + len(log.entries[at][1]) > MOST_AT_ONCE:
                return Since(packets, last, True)
            last, more = log.entries[at]
            packets += more
        return Since(packets, log.serial, False)

    def wait(self, audience: str, serial: int, seconds: float) -> None:
        """Until something happened after ``serial``, or so long."""
        deadline = time.monotonic() + seconds
        while self._log(audience).serial <= serial:
            left = deadline - time.monotonic()
            if left <= 0 or not self._condition.wait(left):
                return
