from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.gateways.webdav.conditions import (
    ResourceState,
    check_headers,
    etag_of,
    http_date,
    parse_http_date,
    parse_if,
    parse_range,
)
from serpentfs.gateways.webdav.messages import Refusal
from serpentfs.model import Attributes, ContentId, Ino, Kind, Span
from serpentfs.vfs.core import Precondition


def file(content: int = 7, generation: int = 1, size: int = 100, mtime: int = 1_000) -> Attributes:
    mtime_ns = mtime * 1_000_000_000 + 999
    return Attributes(
        Ino(5), Ino(1), Kind.FILE, size, mtime_ns, mtime_ns, mtime_ns, ContentId(content), generation
    )


def refused(headers: dict[str, str], current: Attributes | None, *, reading: bool = False) -> int:
    with pytest.raises(Refusal) as caught:
        check_headers(headers, current, reading=reading)
    return caught.value.status


TAG = etag_of(file()) or ""


def test_the_tag_tells_contents_apart() -> None:
    tags = {etag_of(file(content, generation)) for content in range(20) for generation in range(20)}
    assert len(tags) == 400


def test_what_must_hold_at_commit() -> None:
    assert check_headers({}, file(), reading=False) == Precondition()
    same = Precondition(content=(ContentId(7), 1), must_exist=True)
    assert check_headers({"if-match": TAG}, file(), reading=False) == same
    assert check_headers({"if-match": f'"a",{TAG} , "b"'}, file(), reading=False) == same
    assert check_headers({"if-match": "*"}, file(), reading=False) == Precondition(must_exist=True)
    assert check_headers({"if-none-match": "*"}, None, reading=False) == Precondition(must_not_exist=True)
    since = {"if-unmodified-since": http_date(1_000 * 10**9)}
    assert check_headers(since, file(), reading=False) == Precondition(content=(ContentId(7), 1))


@pytest.mark.parametrize(
    ("headers", "there", "status"),
    [
        ({"if-match": '"x"'}, True, 412),
        ({"if-match": f"W/{TAG}"}, True, 412),   # If-Match compares strongly
        ({"if-match": TAG}, False, 412),
        ({"if-match": "*"}, False, 412),
        ({"if-none-match": "*"}, True, 412),
        ({"if-none-match": f"W/{TAG}"}, True, 412),
        ({"if-unmodified-since": http_date(999 * 10**9)}, True, 412),
        ({"if-match": "x"}, True, 400),
        ({"if-match": ""}, True, 400),
        ({"if-match": '"x" "y"'}, True, 400),
        ({"if-match": ","}, True, 400),
        ({"if-none-match": f"{TAG},"}, True, 412),   # empty elements of a list are none (RFC 9110 §5.6.1)
        ({"if-none-match": f', "a",,{TAG}'}, True, 412),
    ],
)
def test_refused_writes(headers: dict[str, str], there: bool, status: int) -> None:
    assert refused(headers, file() if there else None) == status


def test_reading() -> None:
    assert refused({"if-none-match": TAG}, file(), reading=True) == 304
    assert refused({"if-modified-since": http_date(1_000 * 10**9)}, file(), reading=True) == 304
    assert check_headers({"if-modified-since": http_date(999 * 10**9)}, file(), reading=True) == Precondition()
    assert check_headers({"if-modified-since": "never"}, file(), reading=True) == Precondition()


@given(st.integers(0, 253_402_300_799))
def test_dates_round_trip(seconds: int) -> None:
    assert parse_http_date(http_date(seconds * 10**9)) == seconds


def test_all_forms_of_a_date_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110 §5.6.7, whose examples these are."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        for text in ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
            assert parse_http_date(text) == 784_111_777
    time.tzset()


@given(st.integers())
def test_any_time_has_a_date(time_ns: int) -> None:
    assert parse_http_date(http_date(time_ns)) is not None


@given(st.text())
def test_any_text_is_a_date_or_none(text: str) -> None:
    assert parse_http_date(text) is None or isinstance(parse_http_date(text), int)


STATE = ResourceState(etag='"e"', tokens=frozenset({"urn:a", "urn:b"}))
ELSEWHERE = ResourceState(etag=None, tokens=frozenset())


@pytest.mark.parametrize(
    ("header", "holds"),
    [
        ("(<urn:a>)", True),
        ("(<urn:c>)", False),
        ("(<urn:a> <urn:b>)", True),
        ("(<urn:a> <urn:c>)", False),
        ("(<urn:c>) (<urn:a>)", True),
        ('(["e"])', True),
        ('(["f"])', False),
        ('(Not ["f"] <urn:a>)', True),
        ("(Not <urn:a>)", False),
        ("(not <urn:c>)", True),
        ("</x> (<urn:a>)", False),
        ("</x> (Not <urn:a>)", True),
        ("</x> (<urn:a>) (<urn:b>) </y> (<urn:a>)", False),
        ('(<urn:a>["e"])(Not<urn:a>)', True),
    ],
)
def test_if_header(header: str, holds: bool) -> None:
    parsed = parse_if(header)
    assert parsed.holds(lambda resource: STATE if resource is None else ELSEWHERE) is holds


def test_submitted_tokens() -> None:
    parsed = parse_if('(<urn:a> Not <urn:b>) (<urn:c> ["e"])')
    assert parsed.submitted == {"urn:a", "urn:c"}
    assert parsed.names_etag
    assert not parse_if('</x> (["e"])').names_etag
    assert parse_if(None).submitted == frozenset()
    assert parse_if(None).holds(lambda resource: ELSEWHERE)


@given(st.text(alphabet=st.sampled_from('<>()[]" Not/W\\"ab,'), max_size=40))
def test_any_if_header_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_if(text)
    except Refusal as refusal:
        assert refusal.status == 400   # noqa: PT017   # it may be refused or not
    else:
        assert parsed.lists
        assert all(one.conditions for one in parsed.lists)


@given(st.integers(0, 300), st.integers(0, 300) | st.none(), st.integers(0, 200))
def test_ranges_lie_within_the_file(first: int, last: int | None, size: int) -> None:
    header = f"bytes={first}-{'' if last is None else last}"
    try:
        span = parse_range({"range": header}, file(size=size))
    except Refusal as refusal:
        assert refusal.status == 416   # noqa: PT017   # it may be refused or not
        assert first >= size
    else:
        if last is not None and last < first:
            assert span is None
        else:
            assert span == Span(first, size if last is None else min(last + 1, size))


@pytest.mark.parametrize("text", [f"bytes=0-{'9' * 5000}", f"bytes={'9' * 5000}-", f"bytes=-{'9' * 5000}"])
def test_a_range_of_very_many_digits_is_none(text: str) -> None:
    assert parse_range({"range": text}, file()) is None


@given(st.text())
def test_any_range_is_answered(text: str) -> None:
    try:
        parse_range({"range": text}, file())
    except Refusal as refusal:
        assert refusal.status == 416   # noqa: PT017   # it may be refused or not
