"""The requests that open and close doors of a running owner: ``open-doors`` and ``close-door``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.daemon import mountpoints
from serpentfs.daemon.door_options import DoorOptions, from_message, is_read_only, kind_of
from serpentfs.daemon.doors import Door, door_of
from serpentfs.daemon.open_doors import OpenDoors
from serpentfs.daemon.stopping import Stop
from serpentfs.errors import Busy, NotFound, UsageError

_UNMOUNT_PATIENCE = 15.0
_NAMES = {"mount": "mount", "webdav": "WebDAV door", "ftp": "FTP door"}


async def open_doors(doors: OpenDoors, stop: Stop, request: dict[str, Any]) -> dict[str, Any]:
    """Open what the request asks for, all or nothing. The answer: ``doors`` (addresses by kind) and ``read-only``,
    the kinds that were asked to take changes and cannot, because the whole drive is open read-only."""
    asked = request.get("doors")
    if not isinstance(asked, list) or not asked:
        raise UsageError("the request names no doors")
    wanted = [from_message(one) for one in asked]
    kinds = [kind_of(options) for options in wanted]
    if len(set(kinds)) < len(kinds):
        raise UsageError("the request names a kind of door twice")
    if stop.asked.is_set():
        raise Busy("the running process is ending; try again when it has")
    doors.check_free(kinds)    # before a mount point is looked at: it may be the mount that is in the way
    made = await run_in_thread("disk", _made, wanted)
    addresses = await doors.open(made)
    refusing = [kind_of(options) for options in wanted if doors.read_only and not is_read_only(options)]
    return {"doors": addresses, "read-only": refusing}


def _made(wanted: Sequence[DoorOptions]) -> list[Door]:
    return [door_of(options) for options in wanted]


async def close_door(doors: OpenDoors, kind: str, *, lazy: bool) -> None:
    """Take one door away, and with a mount what was opened with it. NotFound when it is not open; Busy when files are
    open below the mount, and then nothing has changed, unless ``lazy``."""
    check_open(doors, kind)
    together = doors.opened_with(kind) if kind == "mount" else (kind,)
    if kind == "mount":
        await unmount(doors, lazy=lazy)
        if not lazy:    # else it lives on until the last file is closed, unless it is ended
            with trio.move_on_after(_UNMOUNT_PATIENCE):
                await doors.wait_closed(kind)
    await doors.close(together)


def check_open(doors: OpenDoors, kind: str) -> None:
    if kind not in _NAMES:
        raise UsageError("the request names no kind of door that is known here")
    if kind not in doors.addresses:
        raise NotFound(f"there is no {_NAMES[kind]}; open: {', '.join(doors.addresses) or 'nothing'}")


def is_last(doors: OpenDoors, kind: str) -> bool:
    """Whether nothing stays open when this door goes."""
    gone = doors.opened_with(kind) if kind == "mount" else (kind,)
    return set(doors.addresses) <= set(gone)


async def unmount(doors: OpenDoors, *, lazy: bool) -> None:
    """Busy when files are open below it and not ``lazy``."""
    point = Path(doors.addresses["mount"])
    try:
        await run_in_thread("disk", lambda: mountpoints.detach(point, lazy=lazy))
    except NotFound:
        pass    # somebody else was faster
