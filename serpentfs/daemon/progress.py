"""How far the uploads of a drive are, as data that fits in a JSON line."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import trio

from serpentfs.vfs.core import Status, Vfs

_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """``changes`` and ``bytes`` are still to be confirmed; ``error`` is why nothing moves, if so."""

    changes: int
    bytes: int
    online: bool
    error: str | None

    @classmethod
    def of(cls, status: Status) -> Progress:
        left = sum(max(0, change.size - change.sent) for change in status.pending)
        failed = next((change.error for change in status.pending if change.error), None)
        return cls(len(status.pending), left, status.online, failed or status.last_error)

    def as_item(self) -> dict[str, Any]:
        return asdict(self)


async def upload_all(vfs: Vfs, show: Callable[[Progress], Awaitable[None]]) -> None:
    """Wait until everything that was journalled is confirmed, showing how far it is some times a second. A
    read-only drive uploads nothing; what an earlier start left in its journal stays there."""
    if vfs.read_only:
        return

    async def report() -> None:
        while True:
            began = time.perf_counter()
            progress = Progress.of(vfs.status())
            # With tens of thousands of changes the status itself takes a while: at most a tenth of the time.
            pause = max(_INTERVAL, 10 * (time.perf_counter() - began))
            await show(progress)
            await trio.sleep(pause)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        await vfs.wait_until_uploaded()
        nursery.cancel_scope.cancel()
