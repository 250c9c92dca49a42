"""Names of nodes as names of files, and back.

MEGA takes any text as a name, several times in a folder. What cannot be a file's name is shown behind the escape
character U+201B, which is doubled where a name has it: "/" as "‛／", NUL as "‛␀", "." and ".." as "‛．" and "‛．．".
Of nodes of one name in a folder the oldest shows it as it is, the others with their handle, " (‛HANDLE)", before the
suffix; so do those whose names are too long, cut. Nothing else changes, and everything but a cut leads back to the
real name.
"""

from __future__ import annotations

import re
import unicodedata

from serpentfs.errors import InvalidName, NameTooLong

MAX_NAME_BYTES = 255
"""Of UTF-8, as Linux has it."""
_ESCAPE = "‛"
_SHOWN = {"/": "‛／", "\0": "‛␀", _ESCAPE: "‛‛"}
_WHOLE = {".": "‛．", "..": "‛．．"}
_REAL = {"／": "/", "␀": "\0", _ESCAPE: _ESCAPE}
_UNNAMED = "unnamed"
_MARKED = re.compile(r"^(?P<stem>.*) \(‛(?P<handle>[A-Za-z0-9_-]{8})\)(?P<suffix>(?:\.[^.]*)?)$", re.DOTALL)
_LONGEST_SUFFIX = 20


def normalize(name: str) -> str:
    """NFC, in which the official clients write names."""
    return unicodedata.normalize("NFC", name)


def shown_name(name: str, handle: str, *, duplicate: bool = False) -> str:
    """The name in a drive. ``duplicate``: an older node of the folder has this name."""
    if not name:
        return _marked(_UNNAMED, handle)
    escaped = _WHOLE.get(name) or "".join(_SHOWN.get(character, character) for character in name)
    if duplicate or len(escaped.encode()) > MAX_NAME_BYTES:
        return _marked(escaped, handle)
    return escaped


def _marked(escaped: str, handle: str) -> str:
    stem, dot, suffix = escaped.rpartition(".")
    if not stem or len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, dot, suffix = escaped, "", ""
    tail = f" (‛{handle}){dot}{suffix}"
    room = MAX_NAME_BYTES - len(tail.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode(errors="ignore").removesuffix(_ESCAPE)
    return stem + tail


def real_name(shown: str, handle: str | None) -> str:
    """The name that a file of this name has in the account. ``handle``: the node that is to have it, whose mark is
    taken off. InvalidName for an escape that there is not."""
    marked = _MARKED.match(shown)
    if marked is not None and marked["handle"] == handle:
        shown = marked["stem"] + marked["suffix"]
    for real, escaped in _WHOLE.items():
        if shown == escaped:
            return real
    if _ESCAPE not in shown:
        return shown
    real, rest = "", iter(shown)
    for character in rest:
        if character != _ESCAPE:
            real += character
            continue
        follows = next(rest, "")
        if follows not in _REAL:
            raise InvalidName('"‛" is this drive\'s escape character: it is written twice')
        real += _REAL[follows]
    return real


def marked_handle(shown: str) -> str | None:
    """The handle that a shown name is marked with, if it is a mark."""
    marked = _MARKED.match(shown)
    return None if marked is None else marked["handle"]


def check_name(shown: str) -> None:
    """InvalidName, NameTooLong."""
    if shown in ("", ".", "..") or "/" in shown or "\0" in shown:
        raise InvalidName(f"not a name: {shown!r}")
    try:
        encoded = normalize(shown).encode()
    except UnicodeEncodeError as error:
        raise InvalidName("the name is not valid Unicode") from error
    if len(encoded) > MAX_NAME_BYTES:
        raise NameTooLong(f"the name has {len(encoded)} bytes, more than {MAX_NAME_BYTES}")
    if (marked := _MARKED.match(shown)) is not None:
        shown = marked["stem"] + marked["suffix"]
    real_name(shown, None)
