"""What the owner answers on its control socket: status, uploads, doors, a listing, versions and links, its end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from serpentfs import __version__
from serpentfs.bridge import run_in_thread
from serpentfs.daemon import caching, cancelling, door_requests, dumping, files, reloading, sharing
from serpentfs.daemon.control import Emit, Handler
from serpentfs.daemon.listing import list_entries
from serpentfs.daemon.open_doors import OpenDoors
from serpentfs.daemon.places import write_private
from serpentfs.daemon.progress import Progress, upload_all
from serpentfs.daemon.settings import LiveSettings
from serpentfs.daemon.sharing import Account
from serpentfs.daemon.stopping import Stop
from serpentfs.daemon.watching import Watch
from serpentfs.errors import Busy, SerpentError, Unavailable
from serpentfs.vfs.drive import Drive

logger = logging.getLogger(__name__)

_PROGRESS_INTERVAL = 0.25


class OwnerRequests:
    """Handlers over one owner. ``vfs`` is None until the drive is open, ``account`` also where it is a vault.

    ``serves``: it is to have doors, and who asks for one while it starts waits until it can be opened. Else the owner
    runs one short command."""

    def __init__(self, remote: str, stop: Stop, *, serves: bool) -> None:
        self.remote = remote
        self._stop = stop
        self.serves = serves
        self._serving = trio.Event()
        self._open_doors: OpenDoors | None = None
        self._since = time.time()
        self.left = 0
        """Changes that were not uploaded when the drive was closed."""
        self.login_required = False
        """They wait for a log-in."""
        self.state_directory: Path | None = None
        """Once the remote is owned."""
        self.vfs: Drive | None = None
        self.account: Account | None = None
        self.settings = LiveSettings(self._drive)
        self.watch = Watch(remote, self._drive, lambda: self.account, self.settings.throttle)

    @property
    def doors(self) -> dict[str, str]:
        """Addresses of the open doors, by kind."""
        return {} if self._open_doors is None else self._open_doors.addresses

    def begin_serving(self, doors: OpenDoors) -> None:
        """The drive has its first doors."""
        self._open_doors = doors
        self._serving.set()

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "version": self._version,
            "status": self._status,
            "flush": self._flush,
            "stop": self._stop_all,
            "open-doors": self._open,
            "close-door": self._close,
            "list": self._list,
            "quota": self._quota,
            "reload": self._reload,
            "cancel": self._cancel,
            **self.watch.handlers(),
            **self.settings.handlers(),
            **dict.fromkeys(caching.ANSWERS, self._keep),
            **dict.fromkeys(sharing.NAMES, self._share),
            **dict.fromkeys(files.NAMES, self._work_on_files),
        }

    def _drive(self) -> Drive:
        if self.vfs is None:
            raise Busy(f"{self.remote} is starting")
        return self.vfs

    async def refresh_everything(self) -> None:
        """Have the cloud list every folder again. What fails is told in the log."""
        drive = self.vfs
        if drive is None:
            return

        async def go_on(item: Any) -> None:
            if self.vfs is not drive:
                raise Unavailable("the drive is closed")

        everything = {"path": "/", "recursive": True, "patience": math.inf}
        try:
            answer = await caching.ANSWERS["refresh"](drive, everything, go_on)
        except SerpentError as error:
            logger.warning("not all folders could be listed again: %s", error)
        else:
            logger.info("%d folders were listed again", answer["folders"])

    async def dump_state(self) -> None:
        """Write what this process is doing to a file in the state folder. What fails is told in the log."""
        if self.state_directory is None:
            logger.warning("there is no state to be written yet")
            return

        async def ignore(item: Any) -> None:
            """Items, of which a status has none."""

        path = self.state_directory / dumping.DUMP_FILE
        data = dumping.make_dump(await self._status({}, ignore))
        try:
            await run_in_thread("disk", write_private, path, data)
        except SerpentError as error:
            logger.warning("the state could not be written: %s", error)
        else:
            logger.warning("the state of this process is in %s", path)

    def summary(self) -> str:
        """One line without names, for systemd."""
        if self.vfs is None:
            return "starting"
        progress = Progress.of(self.vfs.status())
        state = f"{progress.changes} changes to upload, {progress.bytes / 2**20:.1f} MiB left"
        if not progress.changes:
            state = "everything is uploaded"
        return state if progress.online else f"{state}; offline"

    async def _version(self, request: dict[str, Any], emit: Emit) -> Any:
        return {"version": __version__, "pid": os.getpid()}

    async def _status(self, request: dict[str, Any], emit: Emit) -> Any:
        phase = "starting" if self.vfs is None else "stopping" if self._stop.asked.is_set() else "running"
        answer: dict[str, Any] = {
            "remote": self.remote,
            "pid": os.getpid(),
            "version": __version__,
            "since": self._since,
            "phase": phase,
            "doors": self.doors,
            **self.watch.facts(self.vfs, self.doors),
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
        if self._open_doors is not None and "mount" in self.doors:
            # The unmount may be noticed as the end of the last door before it returns here.
            self._stop.upload_at_end = not now
            try:
                await door_requests.unmount(self._open_doors, lazy=bool(request.get("lazy")))
            except SerpentError:
                self._stop.upload_at_end = True
                raise
        self._stop.ask(now=now)
        return await self._until_drained(emit)

    async def _until_drained(self, emit: Emit) -> Any:
        while not self._stop.drained.is_set():
            if self.vfs is not None:
                await emit(Progress.of(self.vfs.status()).as_item())
            with trio.move_on_after(_PROGRESS_INTERVAL):
                await self._stop.drained.wait()
        return {"pending": self.left, "ending": True, "login_required": self.login_required}

    async def _open(self, request: dict[str, Any], emit: Emit) -> Any:
        """``doors``: a list of ``{"kind": …, "options": {…}}`` (``door_options``). All are opened or none."""
        if not self.serves:
            raise Busy(f"{self.remote} is in use by process {os.getpid()} for one command; try again when it has ended")
        await self._serving.wait()
        assert self._open_doors is not None
        return await door_requests.open_doors(self._open_doors, self._stop, request)

    async def _close(self, request: dict[str, Any], emit: Emit) -> Any:
        """Take ``door`` away. ``ending``: it was the last, and the process ends, as after ``stop``."""
        if self._open_doors is None:
            raise Busy(f"{self.remote} is starting")
        kind = str(request.get("door"))
        door_requests.check_open(self._open_doors, kind)
        if door_requests.is_last(self._open_doors, kind) and not request.get("now"):
            await self._flush(request, emit)    # meanwhile another door may be opened, or this one be gone
            door_requests.check_open(self._open_doors, kind)
        if door_requests.is_last(self._open_doors, kind):
            return await self._stop_all(request, emit)
        await door_requests.close_door(self._open_doors, kind, lazy=bool(request.get("lazy")))
        if self._stop.asked.is_set():    # the others went meanwhile
            return await self._until_drained(emit)
        return {"pending": 0, "ending": False}

    async def _list(self, request: dict[str, Any], emit: Emit) -> Any:
        for page in list_entries(self._drive(), str(request.get("path", "/"))):
            await emit([asdict(entry) for entry in page])
        return {}

    async def _keep(self, request: dict[str, Any], emit: Emit) -> Any:
        return await caching.ANSWERS[request["request"]](self._drive(), request, emit)

    async def _reload(self, request: dict[str, Any], emit: Emit) -> Any:
        return await reloading.reload(self._drive(), request, emit)

    async def _cancel(self, request: dict[str, Any], emit: Emit) -> Any:
        return await cancelling.cancel(self._drive(), request)

    async def _share(self, request: dict[str, Any], emit: Emit) -> Any:
        return await sharing.answer(self._drive(), self.account, request)

    async def _work_on_files(self, request: dict[str, Any], emit: Emit) -> Any:
        return await files.answer(self._drive(), request, emit)

    async def _quota(self, request: dict[str, Any], emit: Emit) -> Any:
        return asdict(self._drive().statfs())
