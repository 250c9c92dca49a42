"""Entries of a drive (``daemon.listing``, ``daemon.walking``) as ``ls``, ``find`` and ``tree`` show them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from serpentfs.cli.display import Display, Role
from serpentfs.cli.output import short_size

_LETTERS = {"file": "-", "directory": "d", "symlink": "l"}
_ROLES = {"directory": Role.FOLDER, "symlink": Role.LINK}


def name_of(display: Display, entry: Mapping[str, Any], name: str, *, slash: bool = True) -> str:
    """``name`` (of ``entry``, or its path) fit to be printed. ``slash``: one after a folder's."""
    is_folder = entry["kind"] == "directory"
    return display.paint(name, _ROLES.get(entry["kind"])) + ("/" if slash and is_folder else "")


def arrow_of(display: Display, entry: Mapping[str, Any]) -> str:
    """Where a symbolic link leads; empty for what is none."""
    return f" -> {display.paint(entry['target'])}" if entry["target"] is not None else ""


def size_of(entry: Mapping[str, Any], *, human: bool) -> str:
    return short_size(entry["size"]) if human else str(entry["size"])


def long_line(
    display: Display, entry: Mapping[str, Any], name: str, *, width: int, human: bool, slash: bool = True
) -> str:
    """Kind, size (in ``width`` columns), time, name: the first and the last as in ``ls -l``."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["mtime_ns"] // 1_000_000_000))
    size = size_of(entry, human=human).rjust(width)
    shown = name_of(display, entry, name, slash=slash)
    return f"{_LETTERS[entry['kind']]} {size} {when} {shown}{arrow_of(display, entry)}"
