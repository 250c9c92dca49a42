"""Conditional requests: If-Match and its kin (RFC 9110 §13), the WebDAV If header (RFC 4918 §10.4), byte ranges.

Pure: headers and attributes in, a verdict out. What a write must still find when it commits comes out as a
``Precondition``, so that the core checks it again at that very moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from serpentfs.gateways.webdav.messages import Refusal
from serpentfs.model import Attributes, ContentId, Kind, Span
from serpentfs.vfs.core import Precondition

_ETAG = re.compile(r'\s*((?:W/)?"[^"]*")?\s*(,|\Z)')  # or nothing: empty elements of a list are ignored (§5.6.1)
_IF_PART = re.compile(r"\s*(?:<([^<>]*)>|(\()|(\))|\[\s*((?:W/)?\"[^\"]*\")\s*\]|([Nn][Oo][Tt])\b)")
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,20})\s*-\s*(\d{0,20})\s*", re.IGNORECASE | re.ASCII)


def etag_of(attributes: Attributes) -> str | None:
    """The strong entity tag of a file, with its quotes; None for folders."""
    if attributes.kind is not Kind.FILE:
        return None
    return f'"{attributes.content:x}-{attributes.generation:x}"'


def http_date(time_ns: int) -> str:
    """A time as HTTP writes it. Years outside 1970 to 9999, which it cannot carry, are shown as the nearest."""
    return formatdate(min(max(time_ns // 1_000_000_000, 0), 253_402_300_799), usegmt=True)


def parse_http_date(text: str) -> int | None:
    """Seconds since 1970, None when it is not a date."""
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())    # asctime's form names no zone
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _etags(value: str) -> list[str] | None:
    """The tags of a list, None for ``*``."""
    if value.strip() == "*":
        return None
    tags = []
    position = 0
    while (match := _ETAG.match(value, position)) is not None:
        if match[1]:
            tags.append(match[1])
        if not match[2]:  # the end
            if tags:
                return tags
            break
        position = match.end()
    raise Refusal(400, "an entity tag is malformed")


def check_headers(headers: dict[str, str], current: Attributes | None, *, reading: bool) -> Precondition:
    """Evaluate If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since against what is there now.

    Raises Refusal: 412, or 304 where ``reading`` (GET, HEAD). The answer is what must still hold at commit.
    """
    etag = None if current is None else etag_of(current)
    must_be_same = must_exist = must_not_exist = False
    if (value := headers.get("if-match")) is not None:
        tags = _etags(value)
        if current is None or (tags is not None and etag not in tags):
            raise Refusal(412, "If-Match does not hold")
        must_exist, must_be_same = True, tags is not None
    elif (value := headers.get("if-unmodified-since")) is not None:
        since = parse_http_date(value)
        if since is not None and current is not None:
            if current.mtime_ns // 1_000_000_000 > since:
                raise Refusal(412, "If-Unmodified-Since does not hold")
            must_be_same = True
    if (value := headers.get("if-none-match")) is not None:
        tags = _etags(value)
        if current is None:
            must_not_exist = tags is None
        elif tags is None or (etag is not None and etag in {tag.removeprefix("W/") for tag in tags}):
            raise _not_modified(current) if reading else Refusal(412, "If-None-Match does not hold")
    elif reading and current is not None and (value := headers.get("if-modified-since")) is not None:
        since = parse_http_date(value)
        if since is not None and current.mtime_ns // 1_000_000_000 <= since:
            raise _not_modified(current)
    return Precondition(
        content=pin(current) if must_be_same else None, must_exist=must_exist, must_not_exist=must_not_exist
    )


def pin(current: Attributes | None) -> tuple[ContentId, int] | None:
    """The content that a commit must still find."""
    return None if current is None else (current.content, current.generation)


def _not_modified(current: Attributes) -> Refusal:
    headers = [("Last-Modified", http_date(current.mtime_ns))]
    etag = etag_of(current)
    if etag is not None:
        headers.append(("ETag", etag))
    return Refusal(304, "", headers)


@dataclass(frozen=True, slots=True)
class StateCondition:
    """One condition of an If header: ``token`` is a lock token, or ``etag`` an entity tag."""

    negated: bool
    token: str | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class StateList:
    """Conditions that must all hold for ``resource`` (None: the request's own)."""

    resource: str | None
    conditions: tuple[StateCondition, ...]


@dataclass(frozen=True, slots=True)
class ResourceState:
    """What an If header is compared with. ``tokens`` are those of all locks that cover the resource."""

    etag: str | None
    tokens: frozenset[str]


@dataclass(frozen=True, slots=True)
class IfHeader:
    lists: tuple[StateList, ...] = ()

    @property
    def submitted(self) -> frozenset[str]:
        """The lock tokens that the client shows it holds."""
        return frozenset(
            condition.token
            for one in self.lists
            for condition in one.conditions
            if condition.token is not None and not condition.negated
        )

    @property
    def names_etag(self) -> bool:
        """Whether it speaks of the content of the request's own resource."""
        return any(
            condition.etag is not None and not condition.negated
            for one in self.lists
            if one.resource is None
            for condition in one.conditions
        )

    def holds(self, state: Callable[[str | None], ResourceState]) -> bool:
        """True when there is no header or any of its lists is met."""
        return not self.lists or any(_list_holds(one, state(one.resource)) for one in self.lists)


def _list_holds(one: StateList, state: ResourceState) -> bool:
    for condition in one.conditions:
        if condition.token is not None:
            met = condition.token in state.tokens
        else:
            met = state.etag is not None and condition.etag == state.etag
        if met == condition.negated:
            return False
    return True


def parse_if(value: str | None) -> IfHeader:
    """Parse an If header (None: there is none); Refusal 400 when it does not follow the grammar."""
    if value is None:
        return IfHeader()
    lists: list[StateList] = []
    resource: str | None = None
    conditions: list[StateCondition] | None = None   # None: outside of parentheses
    negated = False
    for match in _if_parts(value):
        word, opening, closing, etag, negation = match.groups()
        if conditions is None:
            if opening:
                conditions = []
            elif word is not None:
                resource = word
            else:
                raise Refusal(400, "the If header is malformed")
        elif negation and not negated:
            negated = True
        elif word is not None or etag is not None:
            conditions.append(StateCondition(negated, token=word, etag=etag))
            negated = False
        elif closing and conditions and not negated:
            lists.append(StateList(resource, tuple(conditions)))
            conditions = None
        else:
            raise Refusal(400, "the If header is malformed")
    if conditions is not None or not lists:
        raise Refusal(400, "the If header is malformed")
    return IfHeader(tuple(lists))


def _if_parts(value: str) -> Iterator[re.Match[str]]:
    value = value.strip()
    position = 0
    while position < len(value):
        match = _IF_PART.match(value, position)
        if match is None:
            raise Refusal(400, "the If header is malformed")
        yield match
        position = match.end()


def parse_range(headers: dict[str, str], attributes: Attributes) -> Span | None:
    """The one byte range that was asked for, None to send the whole file: no Range header, several ranges, one
    that makes no sense, or If-Range of another content. Refusal 416 when it starts past the end."""
    value = headers.get("range")
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None or not _if_range_holds(headers.get("if-range"), attributes):
        return None
    first, last = match.groups()
    size = attributes.size
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    if start >= stop:
        raise Refusal(416, "the file ends before this range", [("Content-Range", f"bytes */{size}")])
    return Span(start, stop)


def _if_range_holds(value: str | None, attributes: Attributes) -> bool:
    if value is None:
        return True
    if value.strip().startswith(('"', "W/")):
        return value.strip() == etag_of(attributes)
    return False  # a date: times can be set, and two contents may have one (RFC 9110 §13.1.5)
