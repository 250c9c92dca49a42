"""The request ``cancel``: an upload taken back, by the number that ``transfers`` and ``status`` give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serpentfs.errors import UsageError
from serpentfs.vfs.drive import Drive


async def cancel(drive: Drive, request: Mapping[str, Any]) -> Any:
    """``seq``: the number. What was written is dropped, without a question: that is the business of who asks. The
    answer: ``path`` of the file, and ``became``: gone, reverted or returns (``vfs.cancelling.Cancelled``). NotFound,
    Busy, Unsupported."""
    seq = request.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool):
        raise UsageError("a transfer is named by its number")
    became, path = await drive.cancel_upload(seq)
    return {"path": path, "became": became.value}
