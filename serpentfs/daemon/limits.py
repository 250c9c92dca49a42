"""How fast an owner may go and over how many connections: both may change while it runs, rates by the clock too.

One ``Throttle`` belongs to one owner; the cloud that its drive uses is wrapped by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from serpentfs.amounts import UNLIMITED, Timetable
from serpentfs.clouds.base import Cloud
from serpentfs.clouds.limited import LimitedCloud, Way

DIRECTIONS = ("up", "down")
_LOOK_EVERY = 20.0
"""Seconds between two looks at the clock, which may be set, or jump over a time of the table."""

LimitConnections = Callable[[str, int | None], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """By direction, ``up`` and ``down``; what is missing is not limited."""

    rates: Mapping[str, Timetable] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)


class Throttle:
    """``limit_connections`` tells a cloud of its own about them where one file may take several. ``clock`` gives Unix
    time."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._ways = {direction: Way() for direction in DIRECTIONS}
        self._timetables = dict.fromkeys(DIRECTIONS, UNLIMITED)
        self._connections: dict[str, int | None] = dict.fromkeys(DIRECTIONS)
        self._limit_connections: LimitConnections | None = None
        self._changed = trio.Event()

    def wrap(self, cloud: Cloud, limit_connections: LimitConnections | None = None) -> Cloud:
        """``cloud`` behind these limits. ``limit_connections``: for a cloud that takes several for one file, and keeps
        to a limit by itself."""
        self._limit_connections = limit_connections
        for direction in DIRECTIONS:
            self.set_connections(direction, self._connections[direction])
        return LimitedCloud(cloud, up=self._ways["up"], down=self._ways["down"])

    def apply(self, limits: Limits) -> None:
        for direction in DIRECTIONS:
            self.set_rate(direction, limits.rates.get(direction, UNLIMITED))
            self.set_connections(direction, limits.connections.get(direction))

    def set_rate(self, direction: str, timetable: Timetable) -> None:
        self._timetables[direction] = timetable
        self._look_at_clock()
        self._changed.set()
        self._changed = trio.Event()

    def set_connections(self, direction: str, most: int | None) -> None:
        """What runs goes on, and nothing new begins until there are fewer. None: as many as are of use."""
        self._connections[direction] = most
        self._ways[direction].lanes.total_tokens = math.inf if most is None else most
        if self._limit_connections is not None:
            self._limit_connections(direction, most)

    def pause_uploads(self, paused: bool) -> None:
        self._ways["up"].bucket.paused = paused

    async def keep_time(self) -> None:
        """Have timetables followed, until cancelled."""
        while True:
            self._look_at_clock()
            is_constant = all(timetable.is_constant for timetable in self._timetables.values())
            with trio.move_on_after(math.inf if is_constant else _LOOK_EVERY):
                await self._changed.wait()

    def _look_at_clock(self) -> None:
        now = self._clock()
        for direction, timetable in self._timetables.items():
            bucket = self._ways[direction].bucket
            rate = timetable.rate_at(now)
            if bucket.rate != rate:
                bucket.rate = rate

    @property
    def rates(self) -> dict[str, int | None]:
        """Bytes a second, as they are now."""
        return {direction: way.bucket.rate for direction, way in self._ways.items()}

    @property
    def connections(self) -> dict[str, int | None]:
        return dict(self._connections)

    @property
    def transfers(self) -> dict[str, int]:
        """Calls of the cloud that move content, and are under way now."""
        return {direction: int(way.lanes.borrowed_tokens) for direction, way in self._ways.items()}

    def facts(self) -> dict[str, Any]:
        """For the control socket: rates as they are now, and as they are written."""
        return {
            **self.rates,
            "timetable": {
                direction: None if timetable.is_constant else str(timetable)
                for direction, timetable in self._timetables.items()
            },
            "connections": self.connections,
        }
