"""How far one reader reads ahead: a pure machine, reads in, commands out.

The window is four times what was read without a break, rounded down to a power of two: it doubles whenever the
unbroken run doubles, so that read-ahead that turns out useless is bounded by a multiple of what was used. The
first read after an open or a seek asks for nothing ahead: whoever reads a file's head only gets one block.

Knows no task, no cache and no budget other than its own largest size.
"""

from __future__ import annotations

from dataclasses import dataclass

from serpentfs.cache.blocks import block_count
from serpentfs.cache.prefetch import LONGEST_RUN
from serpentfs.model import BLOCK_SIZE, Span

GROWTH = 4
"""Window over run. Four lets a reader on a link of one round trip per request catch up within a few requests;
more would fetch more for nothing when the reader stops. A guess."""

NEAR_AHEAD = 1024 * 1024
"""Bytes a read may jump over and still belong to the run: the kernel sends the parts of its own read-ahead (at most
1 MiB a request) in any order, and players skip over small things."""

NEAR_BEHIND = 4 * 1024 * 1024
"""Bytes a read may begin behind the position. More than ahead: what lies there was read, so that nothing is fetched
for it, and a few requests that overtook one another must not end a run."""


STEP = LONGEST_RUN * BLOCK_SIZE
"""Bytes after which a large window moves on: one fetch at a time. Two at a time, every half window, leave the link idle
whenever the reader is a little late: over 40 ms at 200 MB/s that was a twentieth of it."""


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """Fetch these bytes (block-aligned, or up to the content's end) before they are asked for."""

    span: Span


@dataclass(frozen=True, slots=True)
class DropAhead:
    """Whatever was asked ahead is of no use any more."""


Command = ReadAhead | DropAhead
_NOTHING: tuple[Command, ...] = ()


class Window:
    """The read-ahead of one reader of a content of ``size`` bytes, at most ``largest`` bytes ahead.

    ======================  ==========================================  ================================
    read begins             means                                       answer
    ======================  ==========================================  ================================
    anywhere, the first     a new run                                   nothing
    near the position, or   the run goes on (a part that lies behind    ReadAhead, once less than half
    in what was asked       the position does not lengthen it)          the window is still ahead, or a
    ahead                                                               ``STEP`` of a large one was read
    elsewhere               a seek: a new run begins                    DropAhead
    ======================  ==========================================  ================================

    In what is expected to be read the window has one ``STEP`` at once (more at the same time would share a slow link,
    and the first come no sooner than the last), and ends where that ends.
    """

    __slots__ = ("_ahead", "_expected", "_largest", "_position", "_reads", "_run", "_size")

    def __init__(self, size: int, largest: int) -> None:
        self._size = size
        self._largest = largest
        self._position = 0
        self._run = 0
        self._reads = 0
        self._ahead = 0
        self._expected = Span(0, 0)

    def expect(self, span: Span) -> None:
        """The program has said that it will read all of this, in order: no run has to show it."""
        self._expected = span

    @property
    def _is_expected(self) -> bool:
        return self._expected.start <= self._position < self._expected.stop

    @property
    def position(self) -> int:
        """Where the run has come to: the end of the furthest read since the last seek."""
        return self._position

    @property
    def length(self) -> int:
        """Bytes to keep ahead of the position now: 0, or a power of two of at least one block."""
        if self._reads < 2 and not self._is_expected:
            return 0
        wanted = min(max(GROWTH * self._run, STEP if self._is_expected else 0), self._largest)
        return 1 << wanted.bit_length() - 1 if wanted >= BLOCK_SIZE else 0

    @property
    def has_just_begun(self) -> bool:
        """Of this run only the second read came, which may be the kernel's read-ahead, while the program is about to
        read elsewhere: players do."""
        return self._reads == 2 and not self._is_expected

    def got_read(self, span: Span) -> tuple[Command, ...]:
        """A read of ``span`` (not empty, within the content) was asked for."""
        position = self._position
        if self._reads and position - NEAR_BEHIND <= span.start <= max(position + NEAR_AHEAD, self._ahead):
            if span.stop <= position:
                return _NOTHING
            self._run += span.stop - max(span.start, position)
            self._reads += 1
            self._position = span.stop
            return self._read_ahead()
        sought = self._reads > 0
        self._position = self._ahead = span.stop
        self._run = len(span)
        self._reads = 1
        ahead = self._read_ahead()
        return (DropAhead(), *ahead) if sought else ahead

    def _read_ahead(self) -> tuple[Command, ...]:
        length = self.length
        if not length or self._ahead - self._position > max(length // 2, length - STEP):
            return _NOTHING
        start = _round_up(max(self._ahead, self._position))
        end = self._position + length
        if self._is_expected:
            end = min(end, self._expected.stop)
        stop = min(_round_up(end), self._size)
        if start >= stop:
            return _NOTHING
        self._ahead = stop
        return (ReadAhead(Span(start, stop)),)


def _round_up(offset: int) -> int:
    return block_count(offset) * BLOCK_SIZE
