"""Sealed slots that a thread writes while more are being sealed.

Sealing takes the interpreter and the processor, writing takes the kernel about as long; side by side they take half the
time. The threads do next to nothing in the interpreter: a ``concurrent.futures`` executor costs an eighth more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread

from serpentfs.cache.seal import SLOT_SIZE, BlockSeal, Buffer
from serpentfs.cache.slots import borrow, give_back, write_all
from serpentfs.model import BlockIndex, ContentId

MOST_BEHIND = 2
"""Pieces of one file that are sealed and not written: while one is, the next is made."""
_MOST_THREADS = 4


@dataclass(slots=True)
class Piece:
    """Slots of neighbouring whole blocks from ``first`` on, at most PIECE, for one file. ``descriptor`` is closed when
    they are written."""

    descriptor: int
    plane: int
    first: BlockIndex
    size: int = 0
    """Bytes."""
    error: Exception | None = None
    """Why they could not be written."""
    buffer: bytearray = field(default_factory=borrow)
    """For ``slots.give_back``."""

    @property
    def blocks(self) -> range:
        return range(self.first, self.first + self.size // SLOT_SIZE)

    @property
    def is_full(self) -> bool:
        return self.size == len(self.buffer)

    def goes_on_with(self, plane: int, block: int) -> bool:
        """Whether a block can be sealed into it."""
        return plane == self.plane and block == self.blocks.stop and not self.is_full

    def seal(self, seal: BlockSeal, content: ContentId, cleartext: Buffer) -> memoryview:
        """Add the next block, a whole one; the answer is its slot."""
        slot = memoryview(self.buffer)[self.size : self.size + SLOT_SIZE]
        self.size += seal.seal_into(content, BlockIndex(self.blocks.stop), cleartext, slot)
        return slot

    def write(self) -> None:
        """In a thread. An error is kept."""
        try:
            write_all(self.descriptor, memoryview(self.buffer)[: self.size], self.first * SLOT_SIZE)
        except Exception as error:  # noqa: BLE001  (judged by who waits for it)
            self.error = error
        finally:
            os.close(self.descriptor)

    def drop(self) -> None:
        """It is not to be written."""
        os.close(self.descriptor)
        give_back(self.buffer)


_pieces: SimpleQueue[tuple[Piece, SimpleQueue[Piece]]] = SimpleQueue()
_threads: list[Thread] = []


def _write_pieces() -> None:
    while True:
        piece, written = _pieces.get()
        piece.write()
        written.put(piece)


class Behind:
    """The pieces that one owner has under way."""

    def __init__(self) -> None:
        self.under_way = 0
        self._written: SimpleQueue[Piece] = SimpleQueue()

    def start(self, piece: Piece) -> None:
        """Have a piece written."""
        if len(_threads) < _MOST_THREADS:
            thread = Thread(target=_write_pieces, name="staging", daemon=True)
            with suppress(RuntimeError):  # the system allows no more
                thread.start()
                _threads.append(thread)
        if _threads:
            _pieces.put((piece, self._written))
        else:
            piece.write()
            self._written.put(piece)
        self.under_way += 1

    def wait(self) -> Piece:
        """One that was written, or failed, in any order. Blocks; only while something is under way."""
        piece = self._written.get()
        self.under_way -= 1
        return piece

    @property
    def has_ended(self) -> bool:
        """Whether ``wait`` would not block."""
        return not self._written.empty()
