"""A picture that is drawn again and again on a terminal, in place; in a pipe, one block after the other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TextIO

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
# The other screen, so that what the terminal showed before is there again at the end; and no cursor.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class Screen:
    """Context manager. Lines that do not fit are cut; of more lines than fit the first are shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty()
        self._drawn = False

    def __enter__(self) -> Screen:
        if self.is_terminal:
            self._stream.write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_terminal:
            self._stream.write(_LEAVE)
            self._stream.flush()

    def show(self, lines: Sequence[str]) -> None:
        if self.is_terminal:
            width, height = shutil.get_terminal_size()
            shown = [line[:width] + _CLEAR_LINE for line in lines[:height]]
            self._stream.write(_HOME + "\n".join(shown) + _CLEAR_BELOW)
        else:
            self._stream.write("\n" * self._drawn + "".join(f"{line}\n" for line in lines))
        self._drawn = True
        self._stream.flush()
