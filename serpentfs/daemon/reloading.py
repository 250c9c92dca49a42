"""The request ``reload``: everything fetched anew from the cloud, compared with the tree here.

How long that takes depends on how much there is, so nobody waits for a time, but for as long as the cloud is heard of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from serpentfs.daemon.control import Emit
from serpentfs.errors import SerpentError, Unavailable
from serpentfs.vfs.drive import Drive

PATIENCE = 60.0
"""Seconds without a word of the cloud after which it counts as away."""
_REPORT_EVERY = 0.25


async def reload(drive: Drive, request: Mapping[str, Any], emit: Emit) -> Any:
    """``patience``: seconds. Items and the answer: ``observed`` (what was heard of the cloud, in units of its own),
    ``folders`` (compared so far) and ``seconds``. Unavailable when nothing is heard any more; what was known stays."""
    began = trio.current_time()
    observed, folders = drive.reloading()
    ended: list[SerpentError | trio.BrokenResourceError] = []

    def progress() -> dict[str, Any]:
        heard, compared = drive.reloading()
        return {
            "observed": heard - observed, "folders": compared - folders,
            "seconds": round(trio.current_time() - began, 3),
        }

    async def wait() -> None:
        try:
            await drive.reload()
        except SerpentError as error:
            ended.append(error)
        nursery.cancel_scope.cancel()

    # Errors are carried past the nursery, which would make a group of them.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        try:
            await _watch(drive, float(request.get("patience", PATIENCE)), lambda: emit(progress()))
        except trio.BrokenResourceError as error:    # nobody listens any more
            ended.append(error)
        else:
            ended.append(Unavailable("the cloud does not answer; what was known before stays"))
        nursery.cancel_scope.cancel()
    if ended:
        raise ended[0]
    return progress()


async def _watch(drive: Drive, patience: float, report: Callable[[], Awaitable[None]]) -> None:
    """Until nothing was heard for ``patience`` seconds."""
    last, since = drive.reloading(), trio.current_time()
    while trio.current_time() < since + patience:
        await report()
        await trio.sleep(min(_REPORT_EVERY, patience))
        if (now := drive.reloading()) != last:
            last, since = now, trio.current_time()
