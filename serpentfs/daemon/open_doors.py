"""The doors of a running owner: opened together or one by one, taken away, ended from outside.

There is one door of each kind: the mount because FUSE gives a process one, the others because locks and partial files
of a protocol are kept once for a drive. Doors that one command opened together also go together when their mount
goes. A door that fails while others are open is taken away and logged; the failure of the last one is the owner's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from serpentfs.daemon.doors import Door
from serpentfs.errors import Busy, SerpentError, Unavailable, first_of
from serpentfs.gateways.sending import Pages
from serpentfs.vfs.core import Vfs

logger = logging.getLogger(__name__)

_WORDS = {"mount": "mounted", "webdav": "served over WebDAV", "ftp": "served over FTP"}


class _OpenDoor:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.scope = trio.CancelScope()
        self.address = ""
        self.together: tuple[str, ...] = (kind,)
        """The kinds of the doors that were opened with it, itself among them."""
        self.closed = trio.Event()


class OpenDoors:
    """The doors of one drive, each a task of ``nursery``.

    ``changed`` is called with the addresses by kind whenever they are others; ``last_closed`` when, after some door
    was open, none is any more.
    """

    def __init__(
        self, remote: str, vfs: Vfs, pages: Pages, nursery: trio.Nursery,
        changed: Callable[[dict[str, str]], None], last_closed: Callable[[], None],
    ) -> None:
        self._remote = remote
        self._vfs = vfs
        self._pages = pages
        self._nursery = nursery
        self._changed = changed
        self._last_closed = last_closed
        self._open: dict[str, _OpenDoor] = {}
        self._taken: set[str] = set()
        """Kinds that are open, being opened or being closed."""
        self._opening = 0
        self._has_served = False

    @property
    def addresses(self) -> dict[str, str]:
        return {kind: door.address for kind, door in self._open.items()}

    @property
    def read_only(self) -> bool:
        """Whether the drive refuses changes, whatever a door says."""
        return self._vfs.read_only

    def check_free(self, kinds: Iterable[str]) -> None:
        """Busy, with where it is, when there is a door of such a kind already."""
        for kind in kinds:
            if kind not in self._taken:
                continue
            if kind not in self._open:
                raise Busy(f"{self._remote} is being {_WORDS[kind]}, or was until a moment ago; try again")
            address = self._open[kind].address
            if kind == "mount":
                hint = f"mount --bind {address} DIR shows it elsewhere, too"
            else:
                hint = f"serpentfs {kind} -d REMOTE takes that away"
            who = f"by process {os.getpid()}"
            raise Busy(f"{self._remote} is {_WORDS[kind]} at {address} already, {who}; {hint}")

    async def open(self, doors: Sequence[Door]) -> dict[str, str]:
        """Open all of them or none; the answer is their addresses by kind. Busy for a kind that is open already; what
        a door cannot do raises its own error."""
        kinds = tuple(door.name for door in doors)
        self.check_free(kinds)
        self._taken.update(kinds)
        self._opening += 1
        opened: list[_OpenDoor] = []
        try:
            for door in doors:
                opened.append(await self._start(door))
            for one in opened:
                if one.closed.is_set():
                    raise Unavailable(f"the {one.kind} door ended while others were being opened")
            for one in opened:
                one.together = kinds
                self._open[one.kind] = one
        except BaseException:
            with trio.CancelScope(shield=True):
                for one in reversed(opened):
                    one.scope.cancel()
                    await one.closed.wait()
            self._taken.difference_update(kinds)
            raise
        finally:
            self._opening -= 1
            self._tell_if_last()
        self._has_served = True
        if set(kinds) != {"mount"}:
            self._pages.prepare()
        self._changed(self.addresses)
        return {one.kind: one.address for one in opened}

    async def _start(self, door: Door) -> _OpenDoor:
        try:
            started: _OpenDoor = await self._nursery.start(self._keep_open, door)
        except BaseExceptionGroup as group:
            foreseen = _foreseen(group)
            if foreseen is None:
                raise
            raise foreseen from group    # a door's own nursery wrapped it
        return started

    async def close(self, kinds: Iterable[str]) -> None:
        """Take doors away and wait until they are; kinds that are not open are passed over."""
        doors = [self._open[kind] for kind in kinds if kind in self._open]
        for door in doors:
            door.scope.cancel()
        for door in doors:
            await door.closed.wait()

    async def wait_closed(self, kind: str) -> None:
        """Until a door that is about to end by itself has ended."""
        if kind in self._open:
            await self._open[kind].closed.wait()

    def opened_with(self, kind: str) -> tuple[str, ...]:
        """The kinds of the open doors that the command which opened this one opened, itself among them."""
        if kind not in self._open:
            return ()
        return tuple(other for other in self._open[kind].together if other in self._open)

    async def _keep_open(self, door: Door, *, task_status: trio.TaskStatus[_OpenDoor]) -> None:
        one = _OpenDoor(door.name)
        try:
            with one.scope:
                await door.serve(self._vfs, self._pages, task_status=_Opened(one, door, task_status))
        except (SerpentError, BaseExceptionGroup) as error:
            foreseen = _foreseen(error)
            others_are_open = any(other is not one for other in self._open.values())
            if foreseen is None or not one.address or not others_are_open:
                raise
            logger.error("the %s door failed and is taken away: %s", one.kind, foreseen)
        finally:
            one.closed.set()
        if self._open.get(one.kind) is not one:
            return    # its opening failed as a whole, and is told there
        logger.info("the %s door is closed", one.kind)
        del self._open[one.kind]
        self._taken.discard(one.kind)
        if one.kind == "mount":
            for companion in one.together:
                if companion in self._open:
                    self._open[companion].scope.cancel()
        self._changed(self.addresses)
        self._tell_if_last()

    def _tell_if_last(self) -> None:
        if self._has_served and not self._open and not self._opening:
            self._last_closed()


def _foreseen(error: BaseException) -> SerpentError | None:
    """The one error to tell of what a door raised; None when a fault is among it."""
    if isinstance(error, BaseExceptionGroup):
        ours, others = error.split(SerpentError)
        return first_of(ours) if ours is not None and others is None else None
    return error if isinstance(error, SerpentError) else None


class _Opened(trio.TaskStatus[Any]):
    """Turns "the door answers at this" into "the door is open"."""

    def __init__(self, one: _OpenDoor, door: Door, task_status: trio.TaskStatus[_OpenDoor]) -> None:
        self._one = one
        self._door = door
        self._task_status = task_status

    def started(self, value: Any = None) -> None:
        self._one.address = self._door.address(value)
        self._task_status.started(self._one)
