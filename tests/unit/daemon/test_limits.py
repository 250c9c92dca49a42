"""Limits of an owner that change while it runs: by the clock, and by what the configuration says anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from serpentfs import logs
from serpentfs.amounts import parse_rate
from serpentfs.cache.layers import CacheLimits
from serpentfs.daemon.limits import Limits, Throttle
from serpentfs.daemon.settings import LiveSettings, Settings
from serpentfs.errors import UsageError
from serpentfs.vfs.drive import Drive

pytestmark = pytest.mark.trio

KiB = 1024


class Drives:
    """As much of a drive as has a cache to be resized."""

    def __init__(self) -> None:
        self.cache_limits = CacheLimits()

    def resize_cache(self, *, memory_bytes: int, disk_bytes: int, free_space_floor: int) -> None:
        self.cache_limits = replace(
            self.cache_limits, memory_bytes=memory_bytes, disk_bytes=disk_bytes, free_space_floor=free_space_floor
        )


async def test_a_timetable_is_followed(autojump_clock: MockClock) -> None:
    midnight = 1772406000.0 + 60 * 60    # whatever the zone: only differences count below
    began = trio.current_time()
    throttle = Throttle(clock=lambda: midnight + trio.current_time() - began)
    minute = 60 * 24
    table = " ".join(f"{(m // 60) % 24:02}:{m % 60:02},{m + 1}" for m in range(minute))    # another rate each minute
    async with trio.open_nursery() as nursery:
        nursery.start_soon(throttle.keep_time)
        await trio.sleep(30)
        throttle.set_rate("up", parse_rate(table))
        first = throttle.rates["up"]
        assert first is not None
        await trio.sleep(5 * 60)
        assert throttle.rates["up"] == (first - 1 + 5) % minute + 1
        throttle.set_rate("up", parse_rate("3K"))
        await trio.sleep(3600)
        assert throttle.rates == {"up": 3 * KiB, "down": None}
        nursery.cancel_scope.cancel()


@pytest.fixture
def info_level() -> Iterator[None]:
    logger = logging.getLogger(logs.ROOT_LOGGER)
    before = logger.level
    logs.set_level("INFO")
    yield
    logger.setLevel(before)


async def test_only_what_the_file_says_anew_is_taken_over(info_level: None) -> None:
    drives = Drives()
    live = LiveSettings(lambda: cast(Drive, drives))
    first = Settings(Limits({"up": parse_rate("1M")}, {"down": 3}), CacheLimits())
    told = [first]
    live.begin(first, lambda: told[0])
    live.throttle.set_rate("down", parse_rate("5K"))    # by a command
    drives.cache_limits = replace(drives.cache_limits, memory_bytes=7)
    await live.reread()
    assert live.throttle.rates == {"up": 1024 * KiB, "down": 5 * KiB}
    assert drives.cache_limits.memory_bytes == 7
    told[0] = Settings(
        Limits({"up": parse_rate("2K")}, {"up": 4}), replace(CacheLimits(), disk_bytes=9), log_level="DEBUG"
    )
    await live.reread()
    assert live.throttle.rates == {"up": 2 * KiB, "down": 5 * KiB}
    assert live.throttle.connections == {"up": 4, "down": None}
    assert (drives.cache_limits.memory_bytes, drives.cache_limits.disk_bytes) == (7, 9)
    assert logs.level() == "DEBUG"
    told[0] = first
    await live.reread()
    assert logs.level() == "INFO"
    assert live.throttle.rates["up"] == 1024 * KiB


async def test_what_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    live = LiveSettings(lambda: cast(Drive, Drives()))

    def read() -> Settings:
        raise UsageError("config.toml:3: no")

    live.begin(Settings(Limits({"up": parse_rate("1M")}), CacheLimits()), read)
    await live.reread()
    assert live.throttle.rates["up"] == 1024 * KiB
    assert "config.toml:3: no" in caplog.text
