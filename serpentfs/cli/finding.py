"""``find``, ``tree``, ``du``: what is in a remote, far below a folder."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serpentfs.amounts import parse_size
from serpentfs.cli import arguments as options
from serpentfs.cli.display import Display
from serpentfs.cli.entries import arrow_of, long_line, name_of, size_of
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.files import add_remote_paths
from serpentfs.cli.output import count, human_size, print_json, printable
from serpentfs.cli.reaching import Access, Failures, matches, resolve_all, walk
from serpentfs.daemon.asking import Connection
from serpentfs.errors import UsageError

_KINDS = {"f": "file", "d": "directory", "l": "symlink"}
_SIZE_WIDTH = 15
"""Found page by page: nobody knows how wide the largest will be."""
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MOMENTS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


def parse_depth(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text):
        raise UsageError(f'"{text}" is not a number of folders')
    return int(text)


def parse_moment(text: str, now: float | None = None) -> int:
    """Nanoseconds since 1970 of "2026-11-01", "2026-11-01 12:30" (local time), or "36h" and "7d", which is that long
    ago. UsageError."""
    if match := _AGE.fullmatch(text):
        moment = time.time() if now is None else now
        return int((moment - int(match[1]) * _AGE_SECONDS[match[2]]) * 1_000_000_000)
    for form in _MOMENTS:
        try:
            return int(time.mktime(time.strptime(text, form))) * 1_000_000_000
        except (ValueError, OverflowError):
            continue
    raise UsageError(f'"{text}" is not a time such as 2026-11-01, "2026-11-01 12:30", 36h or 7d')


def parse_size_range(text: str) -> tuple[int | None, int | None]:
    """Least and most bytes of "+10M" (at least), "-10M" (at most) or "10M" (just that). UsageError."""
    size = parse_size(text.lstrip("+-")) if text[:1] in ("+", "-") else parse_size(text)
    return (None if text.startswith("-") else size, None if text.startswith("+") else size)


depth = options.value_of(parse_depth, "depth")
moment = options.value_of(parse_moment, "time")
size_range = options.value_of(parse_size_range, "size")


def add_find(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=find)
    group = parser.add_argument_group("conditions", "All that are given must hold.")
    names = group.add_mutually_exclusive_group()
    names.add_argument("--name", metavar="PATTERN", help="the name, such as '*.jpg'")
    names.add_argument("--iname", metavar="PATTERN", help="the same, whatever the case")
    group.add_argument("--type", choices=tuple(_KINDS), help="a file, a folder (d), or a link")
    group.add_argument(
        "--size", type=size_range, metavar="[+-]SIZE", help="+10M: at least; --size=-10M: at most; 10M: just that"
    )
    group.add_argument("--newer", type=moment, metavar="TIME", help="modified after 2026-11-01 or '2026-11-01 12:30', "
                       "or in the last 36h or 7d")
    group.add_argument("--older", type=moment, metavar="TIME", help="modified before that")
    group.add_argument("--depth", type=depth, metavar="N", help="at most N folders deep; 0: what is named itself")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-l", "--long", action="store_true", help="with kind, size and time")
    form.add_argument("-0", "--print0", action="store_true", help="names as they are, each with a NUL at its end")
    form.add_argument("--json", action="store_true", help="print JSON")
    options.add_human_readable(parser)
    add_remote_paths(parser)


def add_tree(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=tree)
    parser.add_argument("--depth", type=depth, metavar="N", help="at most N folders deep")
    parser.add_argument("-d", "--folders", action="store_true", help="folders only")
    parser.add_argument("-s", "--size", action="store_true", help="with sizes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_remote_paths(parser)


def add_du(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=du)
    deep = parser.add_mutually_exclusive_group()
    deep.add_argument("-s", "--summarize", action="store_true", help="only what is named itself")
    deep.add_argument("--depth", type=depth, metavar="N", help="folders at most N deep")
    options.add_human_readable(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_remote_paths(parser)


def find(arguments: argparse.Namespace) -> ExitCode:
    least, most = arguments.size or (None, None)
    conditions = {
        "name": arguments.iname if arguments.name is None else arguments.name,
        "ignore_case": arguments.iname is not None,
        "kind": _KINDS.get(arguments.type),
        "least_size": least,
        "most_size": most,
        "newer_than": arguments.newer,
        "older_than": arguments.older,
        "depth": arguments.depth,
    }
    targets = resolve_all(arguments, arguments.remote)
    failures = Failures()
    found: list[Mapping[str, Any]] = []

    def work(socket: Path) -> None:
        take = found.extend if arguments.json else lambda page: _print_found(arguments, page)
        with Connection(socket) as connection:
            for target in targets:
                with failures.about(target.path):
                    for top in matches(connection, target.path):
                        connection.ask("walk", take, path=top["path"], **conditions)

    Access(arguments, targets[0]).run(work)
    if arguments.json:
        print_json(found)
    return failures.code


def _print_found(arguments: argparse.Namespace, page: Iterable[Mapping[str, Any]]) -> None:
    if arguments.print0:
        sys.stdout.buffer.write(b"".join(one["path"].encode("utf-8", "surrogateescape") + b"\0" for one in page))
        return
    display = Display()
    for one in page:
        if arguments.long:
            print(long_line(display, one, one["path"], width=_SIZE_WIDTH, human=arguments.human_readable, slash=False))
        else:
            print(name_of(display, one, one["path"], slash=False))


def tree(arguments: argparse.Namespace) -> ExitCode:
    targets = resolve_all(arguments, arguments.remote)
    failures = Failures()
    tops: list[dict[str, Any]] = []

    def work(socket: Path) -> None:
        kind = "directory" if arguments.folders else None
        with Connection(socket) as connection:
            for target in targets:
                with failures.about(target.path):
                    for top in matches(connection, target.path):
                        tops.append(_nested(walk(connection, top["path"], depth=arguments.depth, kind=kind), top))

    Access(arguments, targets[0]).run(work)
    if arguments.json:
        print_json(tops)
        return failures.code
    display = Display()
    folders = files = 0
    for top in tops:
        print(name_of(display, top, top["path"], slash=False))
        for line, entry in _drawn(top):
            size = f"[{human_size(entry['size']):>10}]  " if arguments.size and entry["kind"] == "file" else ""
            name = name_of(display, entry, entry["path"].rpartition("/")[2])
            print(f"{line}{size}{name}{arrow_of(display, entry)}")
            folders += entry["kind"] == "directory"
            files += entry["kind"] != "directory"
    if tops:
        print(f"\n{count(folders, 'folder')}" + ("" if arguments.folders else f", {count(files, 'file')}"))
    return failures.code


def _nested(entries: list[dict[str, Any]], top: dict[str, Any]) -> dict[str, Any]:
    """The same records with what a folder holds in its ``children``, by name."""
    folders: dict[str, dict[str, Any]] = {}
    for entry in [top, *(one for one in entries if one["path"] != top["path"])]:
        if entry["kind"] == "directory":
            entry["children"] = []
            folders[entry["path"].rstrip("/")] = entry
        if entry is not top:
            folders[entry["path"].rpartition("/")[0]]["children"].append(entry)
    for folder in folders.values():
        folder["children"].sort(key=lambda one: one["path"])
    return top


def _drawn(top: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Everything below ``top`` with the lines that lead to it."""
    waiting = [("", entry, entry is top["children"][-1]) for entry in reversed(top.get("children", []))]
    while waiting:
        before, entry, is_last = waiting.pop()
        yield before + ("└── " if is_last else "├── "), entry
        below = entry.get("children", [])
        inner = before + ("    " if is_last else "│   ")
        waiting += [(inner, child, child is below[-1]) for child in reversed(below)]


def du(arguments: argparse.Namespace) -> ExitCode:
    targets = resolve_all(arguments, arguments.remote)
    failures = Failures()
    sums: list[dict[str, Any]] = []

    def work(socket: Path) -> None:
        deep = 0 if arguments.summarize else arguments.depth
        with Connection(socket) as connection:
            for target in targets:
                with failures.about(target.path):
                    for top in matches(connection, target.path):
                        connection.ask("usage", sums.extend, path=top["path"], depth=deep)

    Access(arguments, targets[0]).run(work)
    if arguments.json:
        print_json(sums)
        return failures.code
    for one in sums:
        print(f"{size_of(one, human=arguments.human_readable):<11} {printable(one['path'])}")
    return failures.code
