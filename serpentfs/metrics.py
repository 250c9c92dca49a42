"""What is counted while a drive runs: plain numbers that belong to one trio loop, for status and for Prometheus.

Counting must cost nothing to speak of, so these are attributes and dicts that whoever does the work adds to; names and
labels for the outside are given where they are rendered (``daemon.metrics``). All on the loop; threads do not count.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the buckets of a histogram, in seconds: a folder on disk answers in the first, a large upload on a slow
line ends in the last."""

_SPEED_SECONDS = 5


@dataclass(slots=True)
class Histogram:
    """``counts`` by bucket, not added up; the last one is for what took longer than the last bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.total += seconds


class Meter:
    """Bytes that went one way: all of them, and how many a second lately."""

    def __init__(self) -> None:
        self.total = 0
        self._by_second: dict[int, int] = {}

    def add(self, size: int) -> None:
        self.total += size
        now = int(time.monotonic())
        by_second = self._by_second
        if now in by_second:
            by_second[now] += size
        else:
            by_second[now] = size
            for old in [second for second in by_second if second < now - _SPEED_SECONDS]:
                del by_second[old]

    def speed(self) -> float:
        """Bytes a second, over the last five whole seconds, or since something moved again within them."""
        now = int(time.monotonic())
        recent = {second: size for second, size in self._by_second.items() if now - _SPEED_SECONDS <= second < now}
        return sum(recent.values()) / (now - min(recent)) if recent else 0.0


@dataclass(slots=True)
class DoorTraffic:
    """What one door asked of the drive."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0


@dataclass(slots=True)
class Trouble:
    """An error as it is shown later. ``when`` is Unix time."""

    message: str
    when: float


class Metrics:
    """Counters since the start of one loop."""

    def __init__(self) -> None:
        self.doors: defaultdict[str, DoorTraffic] = defaultdict(DoorTraffic)
        self.clients: Counter[str] = Counter()
        """Connections that a network door has open now."""
        self.calls: Counter[tuple[str, str]] = Counter()
        """Calls of the cloud by kind and outcome: ``ok``, or the class of the error."""
        self.latency: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.retries: Counter[str] = Counter()
        """Calls that were made again because one failed, by kind."""
        self.failed_uploads = 0
        """Attempts at a change of the journal that failed."""
        self.downloaded = Meter()
        self.uploaded = Meter()
        self.offline_since: float | None = None
        """Unix time of the first call that the cloud did not answer, None when it answered the last one."""
        self.last_error: Trouble | None = None

    @contextmanager
    def client_of(self, door: str) -> Iterator[None]:
        """A connection to a network door, while it lasts."""
        self.clients[door] += 1
        try:
            yield
        finally:
            self.clients[door] -= 1

    def cloud_answered(self) -> None:
        self.offline_since = None

    def cloud_silent(self, message: str) -> None:
        now = time.time()
        if self.offline_since is None:
            self.offline_since = now
        self.last_error = Trouble(message, now)


_current: trio.lowlevel.RunVar[Metrics] = trio.lowlevel.RunVar("serpentfs_metrics")


def current() -> Metrics:
    """Those of the running loop."""
    try:
        return _current.get()
    except LookupError:
        made = Metrics()
        _current.set(made)
        return made
