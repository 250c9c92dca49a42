"""How commands look on a terminal, drawn by rich: colours, tables, bars, a picture that is redrawn in place.

In a pipe, and on a terminal that can do nothing (TERM=dumb), the same content is plain lines and rich is not even
loaded, so that scripts do not wait for it. What came from elsewhere (names, messages) passes ``printable`` here and is
never read as rich's markup. NO_COLOR and the kinds of terminals are rich's business.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Self, TextIO

from serpentfs.cli.output import is_terminal, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

_BAR_WIDTH = 24


class Role(StrEnum):
    """What a word is; the value is how rich shows it."""

    FOLDER = "bold blue"
    LINK = "cyan"
    GOOD = "green"
    WARNING = "yellow"
    BAD = "bold red"
    FAINT = "dim"
    TITLE = "bold"


Cell = str | tuple[str, Role]
"""A text of any origin, and what it is."""


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    """Numbers: set flush right."""


def share(done: int, total: int) -> float:
    """Of a whole, 0 to 1; nothing is done of nothing."""
    return min(1.0, max(0, done) / total) if total > 0 else 0.0


class Display:
    """One stream of this process."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """``stream``: standard output without one."""
        self.stream = sys.stdout if stream is None else stream
        self.is_terminal = is_terminal(self.stream)

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        return Console(file=self.stream, markup=False, emoji=False, highlight=False)

    @cached_property
    def _codes(self) -> dict[Role, tuple[str, str]]:
        """What this terminal wants before and after words of each role. Asked of rich once: it takes ten thousand times
        as long as putting them together."""
        from rich.text import Text

        codes = {}
        for role in Role:
            with self.console.capture() as shown:
                self.console.print(Text("|", style=role.value), end="")
            before, _, after = shown.get().partition("|")
            codes[role] = (before, after)
        return codes

    def paint(self, text: str, role: Role | None = None) -> str:
        """``text``, fit to be printed here."""
        shown = printable(text)
        if role is None or not self.is_terminal:
            return shown
        before, after = self._codes[role]
        return f"{before}{shown}{after}"

    def bar(self, part: float) -> str:
        """A bar that is full to ``part`` (0 to 1), with a space after it; nothing where there is no terminal."""
        if not self.is_terminal:
            return ""
        from rich.progress_bar import ProgressBar

        with self.console.capture() as shown:
            self.console.print(ProgressBar(total=1.0, completed=part, width=_BAR_WIDTH), end="")
        return f"{shown.get()} "

    def print_table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        """On a terminal with titles, and cells that are folded to its width. Else a line for each row, with columns
        two spaces apart, and no titles."""
        if not rows:
            return
        if not self.is_terminal:
            self.stream.writelines(_plain_lines(columns, rows))
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=Role.TITLE.value)
        for column in columns:
            table.add_column(
                column.title, justify="right" if column.right else "left", overflow="fold", no_wrap=column.right
            )
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        self.console.print(table)


def _text(cell: Cell) -> Text:
    from rich.text import Text

    text, role = (cell, None) if isinstance(cell, str) else cell
    return Text(printable(text), style=role.value if role else "")


def _plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[str]:
    texts = [[printable(cell if isinstance(cell, str) else cell[0]) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in texts) for index in range(len(columns))]
    return [
        "  ".join(
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ).rstrip() + "\n"
        for row in texts
    ]


class Screen:
    """A picture that is drawn again and again: in place on a terminal, one block after the other in a pipe.

    Context manager. What the terminal showed before is there again at the end. Lines are those of ``Display.paint``;
    those that do not fit are cut, and of more than fit the first are shown."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._live: Live | None = None
        self._drawn = False

    def __enter__(self) -> Self:
        if self._display.is_terminal:
            from rich.live import Live

            self._live = Live(
                console=self._display.console, screen=True, auto_refresh=False, redirect_stdout=False,
                redirect_stderr=False, vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, lines: Sequence[str]) -> None:
        if self._live is not None:
            self._live.update(_cut(lines), refresh=True)
            return
        self._display.stream.write("\n" * self._drawn + "".join(f"{line}\n" for line in lines))
        self._display.stream.flush()
        self._drawn = True


def _cut(lines: Sequence[str]) -> RenderableType:
    from rich.text import Text

    text = Text("\n", no_wrap=True, overflow="crop").join(Text.from_ansi(line) for line in lines)
    text.no_wrap, text.overflow = True, "crop"
    return text


class Bar:
    """How far something is, in a line at the bottom of a terminal that is rewritten and wiped at the end; below it,
    where there are such, lines for its parts."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._live: Live | None = None

    def show(self, text: str, part: float | None, below: Sequence[tuple[str, float]] = ()) -> None:
        """``part`` (0 to 1): a bar before the text. ``below``: names with parts of their own."""
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            self._live = Live(
                console=self._display.console, transient=True, auto_refresh=False, redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
            self._display.console.show_cursor(True)    # who is killed cannot bring it back
        rows = Table.grid(padding=(0, 1))
        for words, done in ((text, part), *below):
            bar = "" if done is None else ProgressBar(total=1.0, completed=done, width=_BAR_WIDTH)
            style = "" if words is text else Role.FAINT.value
            rows.add_row(bar, Text(printable(words), no_wrap=True, overflow="ellipsis", style=style))
        self._live.update(rows, refresh=True)

    def wipe(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
