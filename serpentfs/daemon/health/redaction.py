"""Texts of this program with everything taken out that did not come from its own source.

Masking what looks like a name or a secret misses those that do not look like one. Here it is the other way round: a
text is compared with the messages that the source holds (format strings of log calls, f-strings, plain texts), and of
the one that it was made from only the fixed words are kept, and numbers where the message has a number. What was
filled in is masked unless it is such a text itself (the message of an error, for example) or the name of a class of
errors. A text that is no message of ours is masked as a whole.
"""

from __future__ import annotations

import ast
import builtins
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import serpentfs
from serpentfs import errors, logs

MASK = "***"
_LOG_CALLS = frozenset({"debug", "info", "warning", "error", "critical", "exception", "log"})
_PERCENT = re.compile(r"%(?:%|(?P<flags>[-+ #0-9.]*)(?P<kind>[sdrfgixXa]))")
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_DEEPEST = 4
_SHORTEST = 2
"""Letters of fixed text that a message has at least; ": " alone joins two others."""
_JOINTS = (": ", "; ", ", ")
_WORDS = frozenset(
    name for module in (errors, builtins) for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, BaseException)
) | frozenset({
    "ok", "cancelled", "fault", "snapshot", "read", "quota", "put", "mkdir", "symlink", "move", "remove", "set_mtime",
    "mount", "webdav", "ftp", "local", "cloud", "up", "down", *logs.LEVELS,
    # of the HTTP library, as our messages name them
    "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "ReadError", "ReadTimeout", "RemoteProtocolError",
    "WriteError", "WriteTimeout",
})  # fmt: skip
_FIELDS = {
    "time": r"[\d:TZ.-]+", "process": r"\d+", "level": "|".join(logs.LEVELS), "logger": r"serpentfs[\w.]*",
    "request": r"[a-z_-]+-[0-9a-f]+",
}  # fmt: skip
"""Of a line of a log."""
_TEXT_LINE = re.compile(
    "(?P<head>{time} {process} (?:{level}) {logger}:(?: \\[{request}\\])?) (?P<rest>.*)".format(**_FIELDS)
)
_FRAME = re.compile(r'\s*File "(?P<file>[^"]*)", line (?P<line>\d+), in (?P<function>[\w.<>]+)')
_RAISED = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?", re.DOTALL)
_TOLD_KEYS = frozenset({"phase", "state", "operation", "version", "log_level", "level", "kind", "check"})
"""Keys of data whose texts are words of ours."""


@dataclass(frozen=True, slots=True)
class _Template:
    """``parts`` are the fixed texts; between two of them something is filled in, a number where ``numeric`` says so."""

    parts: tuple[str, ...]
    numeric: tuple[bool, ...]

    @property
    def letters(self) -> int:
        return sum(character.isalpha() for part in self.parts for character in part)

    def pattern(self) -> re.Pattern[str]:
        pieces = [re.escape(self.parts[0])]
        for part, numeric in zip(self.parts[1:], self.numeric, strict=True):
            pieces += [f"({_NUMBER})" if numeric else "(.*?)", re.escape(part)]
        return re.compile("".join(pieces), re.DOTALL)


class Redactor:
    """Reads the source of this program once, which takes a second or two."""

    def __init__(self) -> None:
        templates = sorted(set(_templates()), key=lambda one: one.letters, reverse=True)
        self._plain = frozenset(one.parts[0] for one in templates if not one.numeric)
        self._patterns = [
            (max(one.parts, key=len), one, one.pattern()) for one in templates if one.numeric
        ]
        self._requests = frozenset(_requests())
        self.text = functools.lru_cache(10_000)(self._text)

    def _text(self, text: str, depth: int = 0) -> str:
        """What of a message may be shown."""
        if text in _WORDS or text in self._plain or not text:
            return text
        if depth < _DEEPEST:
            for longest, template, pattern in self._patterns:
                if longest in text and (match := pattern.fullmatch(text)) is not None:
                    return self._filled(template, match, depth)
            for joint in _JOINTS:
                if joint in text:
                    shown = [self._text(part, _DEEPEST) for part in text.split(joint)]
                    if any(part != MASK for part in shown):
                        return joint.join(shown)
        return MASK

    def _filled(self, template: _Template, match: re.Match[str], depth: int) -> str:
        shown = template.parts[0]
        for part, numeric, value in zip(template.parts[1:], template.numeric, match.groups(), strict=True):
            shown += (value if numeric else self._text(value, depth + 1)) + part
        return shown

    def log_line(self, line: str) -> str:
        """A line of a log of ours, in either form. Lines of any other form are masked as a whole."""
        if line.startswith("{"):
            return self._json_line(line)
        match = _TEXT_LINE.fullmatch(line)
        if match is None:
            return MASK
        message, *trace = match["rest"].split(" | ")
        # The requests of doors are logged as one word.
        rest = " | ".join([message if message in self._requests else self.text(message), *self._trace(trace)])
        return f"{match['head']} {rest}"

    def _json_line(self, line: str) -> str:
        try:
            fields = json.loads(line)
            kept = {key: str(fields[key]) for key in _FIELDS if key in fields}
            if not all(re.fullmatch(_FIELDS[key], value) for key, value in kept.items()):
                return MASK
            kept["message"] = self.text(str(fields["message"]))
            trace = list(self._trace(map(str, fields.get("exception", ()))))
        except (ValueError, KeyError, TypeError, AttributeError):
            return MASK
        return json.dumps({**kept, "exception": trace} if trace else kept)

    def _trace(self, lines: Any) -> Iterator[str]:
        """Of a traceback: where it was, and what was raised."""
        for line in lines:
            if (frame := _FRAME.match(line)) is not None:
                yield f"{Path(frame['file']).name}:{frame['line']} {frame['function']}"
            elif (raised := _RAISED.fullmatch(line)) is not None and raised["name"].rpartition(".")[2] in _WORDS:
                message = "" if raised["message"] is None else f": {self.text(raised['message'])}"
                yield f"{raised['name'].rpartition('.')[2]}{message}"

    def data(self, value: Any, key: str = "") -> Any:
        """Data as the control socket carries it: numbers and our own words."""
        if isinstance(value, Mapping):
            return {str(name): self.data(inner, str(name)) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(inner, key) for inner in value]
        if isinstance(value, str):
            return value if key in _TOLD_KEYS and re.fullmatch(r"[\w. -]{1,40}", value) else self.text(value)
        return value


# the messages of the source


def _nodes(below: str = "") -> Iterator[ast.AST]:
    for top in serpentfs.__path__:
        for folder, _, names in os.walk(Path(top, below), followlinks=True):    # a checkout links two packages here
            for name in names:
                if name.endswith(".py"):
                    yield from ast.walk(ast.parse(Path(folder, name).read_bytes()))


def _requests() -> Iterator[str]:
    """Names of the mount's handlers, of methods of WebDAV and of commands of FTP, as far as the doors name them."""
    for node in _nodes("gateways"):
        if isinstance(node, ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[A-Z]{3,9}", node.value):
            yield node.value


def _templates() -> Iterator[_Template]:
    for node in _nodes():
        yield from _templates_of(node)


def _templates_of(node: ast.AST) -> Iterator[_Template]:
    found: _Template | None = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOG_CALLS:
        for argument in node.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found = _of_percent(argument.value)
                break
    elif isinstance(node, ast.JoinedStr):
        found = _of_f_string(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
        found = _Template((node.value,), ())
    if found is not None and found.letters >= _SHORTEST:
        yield found


def _of_percent(text: str) -> _Template:
    parts, numeric, last = [""], [], 0
    for match in _PERCENT.finditer(text):
        parts[-1] += text[last:match.start()]
        last = match.end()
        if match[0] == "%%":
            parts[-1] += "%"
        else:
            numeric.append(match["kind"] in "dfgi")
            parts.append("")
    parts[-1] += text[last:]
    return _Template(tuple(parts), tuple(numeric))


def _of_f_string(node: ast.JoinedStr) -> _Template:
    parts, numeric = [""], []
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts[-1] += str(value.value)
        elif isinstance(value, ast.FormattedValue):
            spec = value.format_spec
            form = "".join(str(one.value) for one in getattr(spec, "values", ()) if isinstance(one, ast.Constant))
            numeric.append(form.endswith(("d", "f", "g")))
            parts.append("")
    return _Template(tuple(parts), tuple(numeric))
