"""What doors that send files ask for: the kernel sends them from its page cache, if it can.

Bytes that are decrypted for a socket pass the interpreter, its lock and two copies each time. A file that the
kernel holds in pages goes out by sendfile(2), at the price of neither. Pages are plaintext that the kernel may drop
at any time, never writes to a disk, and does not count as memory of this process: those of a mount, which have
always been there, are no different.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from serpentfs.model import HandleId, Span


class PagedFile(Protocol):
    """An open file on its way to one client: a context that must end before its handle is released.

    The first time a file is sent, what had to be fetched is given to the kernel (``keep``); from the second time on
    the kernel sends it, and asks for what it does not have.
    """

    def is_for_kernel(self, span: Span) -> bool:
        """Whether to try ``send``: the file was sent before, and this is long enough to be worth it. For any thread."""
        ...

    async def send(self, descriptor: int, span: Span) -> int:
        """Have the kernel send the beginning of ``span`` to a socket that does not block, for a moment (0.1 s, longer
        only where the store is waited for): how many bytes were sent. 0 when this is not possible now: the caller
        reads and sends them, or learns from that what is wrong. There may be no room in the socket after it.
        ConnectionError when the connection is gone."""
        ...

    async def keep(self, offset: int, data: bytes) -> None:
        """What was read of the file, for the next time."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Pages(Protocol):
    def prepare(self) -> None:
        """Files will be sent."""
        ...

    def file(self, handle: HandleId) -> PagedFile: ...
