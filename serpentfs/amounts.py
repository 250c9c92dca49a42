"""Sizes, and rates that may change with the time of the day, as people write them.

A timetable is written as rclone writes its --bwlimit: ``08:00,512K 19:00,10M 23:00,off``, each time optionally with
a day of the week (``Sat-10:00,off``). What is said of one day counts more than what is said of all. The time is that
of this machine's clock, in its time zone.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from dataclasses import dataclass

from serpentfs.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_STEP = re.compile(rf"(?:({'|'.join(_DAYS)})-)?(\d{{1,2}}):(\d\d),(\S+)", re.IGNORECASE)
_DAY_MINUTES = 24 * 60


def parse_size(text: str) -> int:
    """Bytes of "65536", "64K", "1.5GiB": units are powers of 1024. UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f'"{text}" is not a size (such as 65536, 64M or 10G)')
    return int(float(match[1]) * _SIZE_FACTORS[match[2].upper()])


@dataclass(frozen=True, slots=True)
class Timetable:
    """Bytes a second, by the time of the week. ``str`` gives what was written."""

    text: str
    steps: tuple[tuple[int, int | None], ...]
    """Minute of the week (0 is Monday, 00:00), and the rate from then on, None for any; in order. The last one holds
    on until the first."""

    def __str__(self) -> str:
        return self.text

    @property
    def is_constant(self) -> bool:
        return len({rate for _, rate in self.steps}) == 1

    def rate_at(self, when: float) -> int | None:
        """At a Unix time."""
        local = time.localtime(when)
        minute = (local.tm_wday * 24 + local.tm_hour) * 60 + local.tm_min
        return self.steps[bisect_right(self.steps, minute, key=lambda step: step[0]) - 1][1]


def parse_rate(text: str) -> Timetable:
    """One rate ("512K"; "0" and "off": any), or a timetable. UsageError."""
    text = " ".join(text.split())
    if "," not in text:
        rate = _rate(text)
        return Timetable("off" if rate is None else text, ((0, rate),))
    daily: dict[int, int | None] = {}
    weekly: dict[int, int | None] = {}
    for word in text.split():
        match = _STEP.fullmatch(word)
        if match is None or int(match[2]) > 23 or int(match[3]) > 59:
            raise UsageError(f'"{word}" is no part of a timetable (such as "08:00,512K Sat-10:00,2M 23:00,off")')
        minute = int(match[2]) * 60 + int(match[3])
        if match[1]:
            minute += _DAYS.index(match[1].lower()) * _DAY_MINUTES
        table = weekly if match[1] else daily
        if minute in table:
            raise UsageError(f'"{word}": that time is in the timetable twice')
        table[minute] = _rate(match[4])
    every_day = {day * _DAY_MINUTES + minute: rate for day in range(7) for minute, rate in daily.items()}
    return Timetable(text, tuple(sorted({**every_day, **weekly}.items())))


def constant_rate(rate: int | None) -> Timetable:
    """Always the same; None: any."""
    return Timetable("off" if rate is None else str(rate), ((0, rate),))


UNLIMITED = constant_rate(None)


def _rate(text: str) -> int | None:
    if text.lower() == "off":
        return None
    try:
        return parse_size(text) or None
    except UsageError:
        raise UsageError(f'"{text}" is not a rate (such as 500K, 2M or off)') from None
