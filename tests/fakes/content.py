"""Sources of cleartext for uploads in tests."""

from __future__ import annotations

import trio

from serpentfs.model import Span


class BytesContent:
    """A Content over bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    async def read(self, span: Span) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._data[span.start : span.stop]
