"""What of an owner may be changed while it runs: rates, connections, room for the cache, how much is logged.

It begins with what a start was told. Requests (``speedlimit``, ``cache``) change it, and so does ``reread``, which
takes over what the configuration says differently since it was last read: a change by a command outlives that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import trio

from serpentfs import logs
from serpentfs.amounts import UNLIMITED, constant_rate, parse_rate
from serpentfs.bridge import run_in_thread
from serpentfs.cache.layers import CacheLimits
from serpentfs.daemon.control import Emit, Handler
from serpentfs.daemon.limits import DIRECTIONS, Limits, Throttle
from serpentfs.errors import SerpentError, UsageError
from serpentfs.vfs.drive import Drive

logger = logging.getLogger(__name__)

_BUDGETS = {"memory": "memory_bytes", "disk": "disk_bytes", "free_space": "free_space_floor"}


@dataclass(frozen=True, slots=True)
class Settings:
    """``log_level``: one of ``logs.LEVELS``; None: nobody says, so it is that of the start."""

    limits: Limits
    cache: CacheLimits
    log_level: str | None = None


Read = Callable[[], Settings]
"""Reads the settings anew, as a start at this moment would have them. It blocks. UsageError, NotFound."""


class LiveSettings:
    """``drive`` gives the open drive, or raises Busy."""

    def __init__(self, drive: Callable[[], Drive]) -> None:
        self._drive = drive
        self._settings: Settings | None = None
        self._read: Read | None = None
        self._reading = trio.Lock()
        self._level_at_start = logs.level()
        self.throttle = Throttle()

    def begin(self, settings: Settings, read: Read | None) -> None:
        """Those of the start; room for the cache is the business of who opens the drive. Without ``read`` they stay."""
        self._settings, self._read = settings, read
        self.throttle.apply(settings.limits)
        if settings.log_level is not None:
            logs.set_level(settings.log_level)

    def handlers(self) -> Mapping[str, Handler]:
        return {"speedlimit": self._speedlimit, "cache": self._cache}

    async def reread(self) -> None:
        """Take over what is new. What cannot be read, or done, is told in the log, and stays as it was."""
        if self._read is None or self._settings is None:
            return
        async with self._reading:
            try:
                now = await run_in_thread("disk", self._read)
                before, self._settings = self._settings, now
                self._take_over(before, now)
            except SerpentError as error:
                logger.warning("the configuration could not be taken over: %s", error)

    def _take_over(self, before: Settings, now: Settings) -> None:
        if now.log_level != before.log_level:
            logs.set_level(now.log_level or self._level_at_start)
            logger.info("log level: %s", logs.level())
        for direction in DIRECTIONS:
            rate = now.limits.rates.get(direction, UNLIMITED)
            if rate != before.limits.rates.get(direction, UNLIMITED):
                self.throttle.set_rate(direction, rate)
                logger.info("limit %s: %s", direction, rate)
            most = now.limits.connections.get(direction)
            if most != before.limits.connections.get(direction):
                self.throttle.set_connections(direction, most)
                logger.info("connections %s: %s", direction, "as many as are of use" if most is None else most)
        if now.cache != before.cache:
            budgets = {
                key: getattr(now.cache, name) for key, name in _BUDGETS.items()
                if getattr(now.cache, name) != getattr(before.cache, name)
            }
            self._resize(budgets)
            logger.info("room for the cache: %s", budgets)

    def _resize(self, budgets: Mapping[str, int]) -> None:
        drive = self._drive()
        limits = replace(drive.cache_limits, **{_BUDGETS[key]: size for key, size in budgets.items()})
        drive.resize_cache(
            memory_bytes=limits.memory_bytes, disk_bytes=limits.disk_bytes, free_space_floor=limits.free_space_floor
        )

    # requests

    async def _speedlimit(self, request: dict[str, Any], emit: Emit) -> Any:
        """``direction`` with ``rate`` (a text as ``amounts`` reads it, bytes a second, or None: none) or
        ``connections`` (a number, or None) set a limit. The answer: ``Throttle.facts``."""
        await trio.lowlevel.checkpoint()
        direction = request.get("direction")
        if ("rate" in request or "connections" in request) and direction not in DIRECTIONS:
            raise UsageError("a limit has a direction, up or down")
        if "rate" in request:
            rate = request["rate"]
            if isinstance(rate, bool) or not (rate is None or isinstance(rate, str | int)) or rate == 0:
                raise UsageError("a rate is a number of bytes a second, a timetable, or nothing")
            self.throttle.set_rate(str(direction), parse_rate(rate) if isinstance(rate, str) else constant_rate(rate))
        if "connections" in request:
            most = request["connections"]
            if isinstance(most, bool) or not (most is None or (isinstance(most, int) and most > 0)):
                raise UsageError("connections are a number, or nothing")
            self.throttle.set_connections(str(direction), most)
        return self.throttle.facts()

    async def _cache(self, request: dict[str, Any], emit: Emit) -> Any:
        """``memory``, ``disk`` and ``free_space`` (bytes) set a budget each. The answer: those in use, all three. What
        is too much for a smaller one has left memory then, and leaves the disk soon. Unsupported."""
        await trio.lowlevel.checkpoint()
        budgets = {key: request[key] for key in _BUDGETS if request.get(key) is not None}
        if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in budgets.values()):
            raise UsageError("a budget is a number of bytes")
        if budgets:
            self._resize(budgets)
        limits = self._drive().cache_limits
        return {key: getattr(limits, name) for key, name in _BUDGETS.items()}
