"""Longer texts, one file each in ``guides/``: read as they are beside the source, and as man pages of section 7.

Of Markdown they use titles, paragraphs, lists, tables of two columns, blocks of code, and code within a line; anything
else in one is an error, which a test meets before a reader does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "guides"


@dataclass(frozen=True, slots=True)
class Block:
    """``kind`` is "title" (the one of the whole), "section", "paragraph", "item", "row" (of a table: two texts) or
    "code". Texts are still marked up, but for code."""

    kind: str
    text: str
    second: str = ""


@dataclass(frozen=True, slots=True)
class Guide:
    name: str
    title: str
    blocks: tuple[Block, ...]


def guides() -> list[Guide]:
    """In the order of their names. ValueError for what is no such text."""
    return [read_guide(path) for path in sorted(FOLDER.glob("*.md"))]


def read_guide(path: Path) -> Guide:
    first, *blocks = _blocks(path.read_text(encoding="utf-8"))
    if first.kind != "title" or any(block.kind == "title" for block in blocks):
        raise ValueError(f"{path.name} does not begin with its one title")
    return Guide(path.stem, first.text, tuple(blocks))


def _blocks(text: str) -> Iterator[Block]:
    for index, part in enumerate(text.strip().split("```")):
        if index % 2:
            yield Block("code", part.partition("\n")[2].rstrip("\n"))
            continue
        for paragraph in re.split(r"\n\n+", part.strip("\n")):
            if paragraph:
                yield from _blocks_of(paragraph)


def _blocks_of(paragraph: str) -> Iterator[Block]:
    lines = paragraph.splitlines()
    if title := re.fullmatch(r"(##?) (.+)", paragraph):
        yield Block("title" if title[1] == "#" else "section", title[2])
    elif lines[0].startswith("|"):
        for line in lines[2:]:    # after the heads and the rule
            _, term, meaning, _ = line.split("|")
            yield Block("row", term.strip(), meaning.strip())
    elif lines[0].startswith("- "):
        for item in re.split(r"\n- ", paragraph.removeprefix("- ")):
            yield Block("item", " ".join(item.split()))
    elif re.match(r"[#>*]|\d+\. ", paragraph):
        raise ValueError(f"this is not of the Markdown that guides use: {lines[0]}")
    else:
        yield Block("paragraph", " ".join(lines))
