"""What an owner lets others see of itself: figures, transfers, the log.

One ``Watch`` belongs to one owner. It wraps the cloud (limits outside of deadlines outside of counts), completes the
answer to ``status`` and answers the requests ``metrics``, ``transfers`` and ``log``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import trio

from serpentfs import logs, metrics
from serpentfs.clouds.base import Cloud
from serpentfs.clouds.metered import MeteredCloud
from serpentfs.clouds.retrying import RetryingCloud
from serpentfs.daemon import metrics as exposition
from serpentfs.daemon.control import Emit, Handler
from serpentfs.daemon.limits import LimitConnections, Throttle
from serpentfs.daemon.sharing import Account
from serpentfs.errors import UsageError
from serpentfs.vfs.drive import Drive


class Watch:
    """``drive`` gives the open drive, or raises Busy; ``account`` is None for a vault."""

    def __init__(
        self, remote: str, drive: Callable[[], Drive], account: Callable[[], Account | None], throttle: Throttle
    ) -> None:
        self._remote = remote
        self._drive = drive
        self._account = account
        self._figures = metrics.current()
        self._throttle = throttle
        self._since = time.time()
        self.endpoint: str | None = None
        """URL of the metrics, where they are served."""

    def wrap(self, cloud: Cloud, limit_connections: LimitConnections | None) -> Cloud:
        """``cloud`` as a drive may use it."""
        return self._throttle.wrap(RetryingCloud(MeteredCloud(cloud, self._figures)), limit_connections)

    def handlers(self) -> Mapping[str, Handler]:
        return {"metrics": self._metrics, "transfers": self._transfers, "log": self._log}

    # status

    def facts(self, drive: Drive | None, doors: Iterable[str]) -> dict[str, Any]:
        """What ``status`` tells beside the drive's own. Speeds are bytes a second, times Unix time. ``doors``: the open
        ones."""
        figures = self._figures
        facts: dict[str, Any] = {
            "cloud": self._cloud_state(drive),
            "speed": {"up": figures.uploaded.speed(), "down": figures.downloaded.speed()},
            "limits": self._throttle.facts(),
            "log_level": logs.level(),
        }
        if figures.last_error is not None:
            facts["last_error"] = asdict(figures.last_error)
        if self.endpoint is not None:
            facts["metrics"] = self.endpoint
        if drive is None:
            return facts
        opened = drive.open_files()
        facts["clients"] = {
            door: {"connections": figures.clients[door], "open_files": opened[door]}
            for door in sorted({*doors, *+figures.clients, *opened})
        }
        facts["uploads_paused"] = drive.uploads_paused
        facts["cache"] = _cache_facts(drive)
        return facts

    def _cloud_state(self, drive: Drive | None) -> dict[str, Any]:
        account = self._account()
        until = None if account is None else account.over_quota_until
        since = self._figures.offline_since
        if since is not None:
            return {"state": "offline", "since": since}
        if drive is not None and not drive.online:
            return {"state": "offline", "since": None}
        if until is not None and until > time.time():
            return {"state": "over quota", "until": until}
        return {"state": "online"}

    # requests

    async def _metrics(self, request: dict[str, Any], emit: Emit) -> Any:
        """``text`` is for Prometheus, ``families`` the same as data."""
        await trio.lowlevel.checkpoint()
        families = self._families()
        return {"text": exposition.render(families), "families": [asdict(family) for family in families]}

    def _families(self) -> list[exposition.Family]:
        return exposition.collect(self._remote, self._figures, self._drive(), self._throttle, self._since)

    def exposition(self) -> str:
        """The figures as Prometheus reads them."""
        return exposition.render(self._families())

    async def _transfers(self, request: dict[str, Any], emit: Emit) -> Any:
        """``do``: ``pause``, ``resume`` or ``retry``; without it nothing changes. The answer is what is pending."""
        await trio.lowlevel.checkpoint()
        drive = self._drive()
        what = request.get("do")
        if what in ("pause", "resume"):
            drive.pause_uploads(what == "pause")
            self._throttle.pause_uploads(what == "pause")
        elif what == "retry":
            drive.retry_uploads()
        elif what is not None:
            raise UsageError("transfers can be paused, resumed and retried")
        return {
            "paused": drive.uploads_paused,
            "transfers": [asdict(change) for change in drive.status().pending],
            "speed": {"up": self._figures.uploaded.speed(), "down": self._figures.downloaded.speed()},
        }

    async def _log(self, request: dict[str, Any], emit: Emit) -> Any:
        """``level``: the new one. The answer: the present one, and the one before."""
        await trio.lowlevel.checkpoint()
        before = logs.level()
        if request.get("level") is not None:
            logs.set_level(str(request["level"]))
        return {"level": logs.level(), "before": before}


def _cache_facts(drive: Drive) -> dict[str, Any]:
    cache, limits = drive.cache_statistics, drive.cache_limits
    asked = cache.hits + cache.misses
    return {
        "hit_rate": cache.hits / asked if asked else None,
        "memory_bytes": cache.memory_bytes,
        "memory_budget": limits.memory_bytes,
        "disk_bytes": cache.disk_bytes,
        "disk_budget": limits.disk_bytes,
        "disk_usable": cache.disk_usable,
    }
