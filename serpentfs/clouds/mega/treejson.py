"""The answer to ``f``, piece by piece: an account of a million nodes is 300 MB of JSON that nobody should hold at once.

Reads one JSON object, or an array whose first element is one, and gives the elements of its arrays one after another.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from serpentfs.errors import Unavailable

_DECODER = json.JSONDecoder()
_BLANK = " \t\r\n"
_LARGEST_VALUE = 16 * 2**20
"""Characters of one element, far more than any has."""


class _Text:
    """The text that has come so far and was not read yet."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise Unavailable("the account's tree was cut short")
        try:
            self._text = self._text[self._at :] + self._decode.decode(piece)
        except UnicodeDecodeError as error:
            raise Unavailable("the account's tree is no text") from error
        self._at = 0

    def peek(self) -> str:
        """The next character that is not blank."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self._at += 1
            self._more()

    def take(self, expected: str) -> None:
        if self.peek() != expected:
            raise Unavailable("the account's tree is not as it should be")
        self._at += 1

    def value(self) -> Any:
        """One whole value, and the look at what follows it: a number may go on in the next piece."""
        self.peek()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text):
                    self._at = end
                    return found
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > _LARGEST_VALUE:
                    raise Unavailable("the account's tree is no JSON") from error
            self._more()


def read_tree(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """(key, element) for each element of an array, (key, value) for what is none. Unavailable for what is cut short or
    malformed, possibly after elements were given."""
    text = _Text(pieces)
    if text.peek() == "[":
        text.take("[")
    text.take("{")
    if text.peek() == "}":
        return
    while True:
        key = text.value()
        text.take(":")
        if text.peek() == "[":
            text.take("[")
            if text.peek() == "]":
                text.take("]")
            else:
                while True:
                    yield key, text.value()
                    if text.peek() == "]":
                        text.take("]")
                        break
                    text.take(",")
        else:
            yield key, text.value()
        if text.peek() == "}":
            return
        text.take(",")
