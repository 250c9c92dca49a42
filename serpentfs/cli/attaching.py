"""Doors of a remote that another process owns: asking that process to open them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serpentfs.daemon.asking import Connection
from serpentfs.daemon.door_options import DoorOptions, to_message
from serpentfs.daemon.lock import OwnerNote, busy_message
from serpentfs.errors import Busy, NotFound, Unavailable

logger = logging.getLogger(__name__)

# Between taking its lock and listening an owner needs milliseconds, and between its last answer and giving the lock
# up not much more; this is for a machine that is busy with other things.
_CHANGE_PATIENCE = 20.0
_END_PATIENCE = 2.0


def open_doors(
    find_owner: Callable[[], OwnerNote | None], name: str, doors: Sequence[DoorOptions]
) -> Mapping[str, str] | None:
    """Have the owner of the remote called ``name`` open these doors, all or none: their addresses by kind. None when
    it has no owner, or none any more. What a door cannot do is the error that opening it here would have raised; an
    owner that is starting is waited for."""
    give_up = time.monotonic() + _CHANGE_PATIENCE
    while (note := find_owner()) is not None:
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(Connection(Path(note.socket)))
            except NotFound:
                if time.monotonic() > give_up:
                    raise Busy(f"{busy_message(name, note)}, which does not answer") from None
                time.sleep(0.05)
                continue
            try:
                answer = connection.ask("open-doors", doors=[to_message(options) for options in doors])
            except Unavailable:
                if _ends(note, find_owner):
                    continue
                raise
        if answer["read-only"]:
            logger.warning("the drive is open read-only by process %d: it takes no changes here either", note.pid)
        return dict(answer["doors"])
    return None


def _ends(note: OwnerNote, find_owner: Callable[[], OwnerNote | None]) -> bool:
    """Whether an owner that broke a connection off is going away; then it is waited for."""
    give_up = time.monotonic() + _END_PATIENCE
    while (now := find_owner()) is not None and now.pid == note.pid:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
