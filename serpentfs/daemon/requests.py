"""What the owner answers on its control socket: status, uploads, a listing, versions and links, its end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

from serpentfs import __version__
from serpentfs.bridge import run_in_thread
from serpentfs.daemon import mountpoints, sharing
from serpentfs.daemon.control import Emit, Handler
from serpentfs.daemon.listing import list_entries
from serpentfs.daemon.progress import Progress, upload_all
from serpentfs.daemon.sharing import Account
from serpentfs.daemon.stopping import Stop
from serpentfs.errors import Busy, NotFound, SerpentError
from serpentfs.vfs.drive import Drive

_PROGRESS_INTERVAL = 0.25


class OwnerRequests:
    """Handlers over one owner. ``vfs`` is None until the drive is open, ``account`` also where it is a vault."""

    def __init__(self, remote: str, stop: Stop) -> None:
        self._remote = remote
        self._stop = stop
        self._since = time.time()
        self.left = 0
        """Changes that were not uploaded when the drive was closed."""
        self.login_required = False
        """They wait for a log-in."""
        self.vfs: Drive | None = None
        self.account: Account | None = None
        self.doors: dict[str, str] = {}

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "version": self._version,
            "status": self._status,
            "flush": self._flush,
            "stop": self._stop_all,
            "list": self._list,
            "quota": self._quota,
            **dict.fromkeys(sharing.NAMES, self._share),
        }

    def _drive(self) -> Drive:
        if self.vfs is None:
            raise Busy(f"{self._remote} is starting")
        return self.vfs

    async def _version(self, request: dict[str, Any], emit: Emit) -> Any:
        return {"version": __version__, "pid": os.getpid()}

    async def _status(self, request: dict[str, Any], emit: Emit) -> Any:
        phase = "starting" if self.vfs is None else "stopping" if self._stop.asked.is_set() else "running"
        answer: dict[str, Any] = {
            "remote": self._remote,
            "pid": os.getpid(),
            "version": __version__,
            "since": self._since,
            "phase": phase,
            "doors": self.doors,
        }
        if self.vfs is not None:
            answer["drive"] = asdict(self.vfs.status())
        if self.account is not None:
            answer["account"] = {
                "trouble": self.account.trouble, "over_quota_until": self.account.over_quota_until,
            }
        return answer

    async def _flush(self, request: dict[str, Any], emit: Emit) -> Any:
        async def show(progress: Progress) -> None:
            await emit(progress.as_item())

        await upload_all(self._drive(), show)
        status = self._drive().status()
        return {"pending": len(status.pending), "login_required": status.login_required}

    async def _stop_all(self, request: dict[str, Any], emit: Emit) -> Any:
        """Upload with the doors still open, unmount, end. Files that are open below the mount are Busy, and nothing
        has changed then, unless ``lazy``. With ``now`` nothing is uploaded, and no answer comes but the end of the
        connection."""
        now = bool(request.get("now"))
        if not now and self.vfs is not None:
            await self._flush(request, emit)
        if "mount" in self.doors:
            await self._unmount(lazy=bool(request.get("lazy")), now=now)
        self._stop.ask(now=now)
        while not self._stop.drained.is_set():
            if self.vfs is not None:
                await emit(Progress.of(self.vfs.status()).as_item())
            with trio.move_on_after(_PROGRESS_INTERVAL):
                await self._stop.drained.wait()
        return {"pending": self.left, "login_required": self.login_required}

    async def _unmount(self, *, lazy: bool, now: bool) -> None:
        # The unmount may be noticed as the end of the door before it returns here.
        self._stop.upload_at_end = not now
        try:
            detach = partial(mountpoints.detach, Path(self.doors["mount"]), lazy=lazy)
            await run_in_thread("disk", detach)
        except NotFound:
            pass    # somebody else was faster
        except SerpentError:
            self._stop.upload_at_end = True
            raise

    async def _list(self, request: dict[str, Any], emit: Emit) -> Any:
        for page in list_entries(self._drive(), str(request.get("path", "/"))):
            await emit([asdict(entry) for entry in page])
        return {}

    async def _share(self, request: dict[str, Any], emit: Emit) -> Any:
        return await sharing.answer(self._drive(), self.account, request)

    async def _quota(self, request: dict[str, Any], emit: Emit) -> Any:
        return asdict(self._drive().statfs())
