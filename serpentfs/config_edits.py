"""Changes to ``config.toml`` by commands: of a table or a key, while every other byte stays as the user wrote it.

A new text is only accepted when it means what was intended, by comparing what a TOML parser reads before and after;
a file in a style that this module does not understand (inline tables) is therefore refused and never damaged.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from serpentfs import config
from serpentfs.errors import AlreadyExists, UsageError

Value = str | int | float | bool
_HEADER = re.compile(r"\s*\[")


def add_remote(path: Path, name: str, values: Mapping[str, Value]) -> None:
    """Append ``[remote.NAME]``. AlreadyExists; UsageError for a name, key or value that the file may not have, and for
    a file that is wrong already."""

    def change(text: str) -> str:
        if name in config.parse(path, text).remotes:
            raise AlreadyExists(f"there is a remote called {name} in {path}: remove it first, or choose another name")
        lines = [f"[remote.{_key(name)}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        before = text if not text or text.endswith("\n") else text + "\n"
        return before + ("\n" if before.strip() else "") + "\n".join(lines) + "\n"

    def expect(tables: dict[str, Any]) -> None:
        tables.setdefault("remote", {})[name] = dict(values)

    _edit(path, change, expect)


def remove_remote(path: Path, name: str) -> None:
    """Take ``[remote.NAME]`` out, with the comments between its keys. NotFound, UsageError."""

    def change(text: str) -> str:
        config.parse(path, text).remote(name)
        return "".join(_without(text.splitlines(keepends=True), f"remote.{name}"))

    def expect(tables: dict[str, Any]) -> None:
        del tables["remote"][name]
        if not tables["remote"]:
            del tables["remote"]

    _edit(path, change, expect)


def change_keys(path: Path, name: str | None, values: Mapping[str, Value | None]) -> None:
    """Set keys of ``[remote.NAME]``, or (None) of those before the tables; None takes one out. NotFound, UsageError."""
    section = "" if name is None else f"remote.{name}"

    def change(text: str) -> str:
        if name is not None:
            config.parse(path, text).remote(name)
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        for key, value in values.items():
            lines = _with_key(lines, section, key, value)
        return "".join(lines)

    def expect(tables: dict[str, Any]) -> None:
        table = tables if name is None else tables["remote"][name]
        for key, value in values.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value

    _edit(path, change, expect)


def rename_remote(path: Path, name: str, new_name: str) -> None:
    """Give ``[remote.NAME]`` another name. NotFound, AlreadyExists, UsageError."""

    def change(text: str) -> str:
        remotes = config.parse(path, text)
        remotes.remote(name)
        if new_name in remotes.remotes:
            raise AlreadyExists(f"there is a remote called {new_name} in {path}")
        return "".join(
            f"[remote.{_key(new_name)}]\n" if config.section_of(line) == f"remote.{name}" else line
            for line in text.splitlines(keepends=True)
        )

    def expect(tables: dict[str, Any]) -> None:
        tables["remote"] = {new_name if key == name else key: table for key, table in tables["remote"].items()}

    _edit(path, change, expect)


def _with_key(lines: list[str], section: str, key: str, value: Value | None) -> list[str]:
    """The lines with a key of a table set or taken out. A new one comes after the last key of its table."""
    assignment = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
    new = [] if value is None else [f"{key} = {_toml(value)}\n"]
    current, end = "", 0
    for number, line in enumerate(lines):
        if _HEADER.match(line):
            current = config.section_of(line) or ""
            if current == section and section:
                end = number + 1
        elif current == section and assignment.match(line):
            return [*lines[:number], *new, *lines[number + 1 :]]
        elif current == section and line.strip() and not line.lstrip().startswith("#"):
            end = number + 1
    after = ["\n"] if new and not section and end == 0 and lines else []
    return [*lines[:end], *new, *after, *lines[end:]]


def _without(lines: list[str], section: str) -> Iterator[str]:
    """The lines that do not belong to a table. Comments right above the next header are that one's."""
    held: list[str] = []
    inside = False
    for line in lines:
        if _HEADER.match(line):
            inside = config.section_of(line) == section
            if not inside:
                yield from held
            held = []
        if not inside:
            yield line
        elif line.lstrip().startswith("#"):
            held.append(line)
        else:
            held = []


def _edit(path: Path, change: Callable[[str], str], expect: Callable[[dict[str, Any]], None]) -> None:
    """Replace the file by ``change(text)`` at once or not at all. Two commands do not overwrite one another."""
    target = path.resolve()    # a link to where somebody keeps such files stays one
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(target.parent):
            text = target.read_text(encoding="utf-8") if target.exists() else ""
            new = change(text)
            expected = tomllib.loads(text)
            expect(expected)
            if _meaning(new) != expected:
                raise UsageError(f"{path} is written in a way that cannot be edited by a command: do it by hand")
            config.parse(path, new)
            _replace(target, new)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8") from error
    except OSError as error:
        raise UsageError(f"cannot change {path}: {error.strerror}") from error


def _meaning(text: str) -> dict[str, Any] | None:
    """None for a text that is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)    # 0600
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Value) -> str:
    """A value as TOML has it: JSON's strings, numbers and booleans are also TOML's but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
