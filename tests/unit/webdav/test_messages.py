from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.gateways.webdav.messages import Refusal, UrlPath, make_href, parse_destination, parse_target

NAMES = st.lists(
    st.text(min_size=1, alphabet=st.characters(exclude_characters="/\0")).filter(lambda n: n not in (".", ".."))
)


@given(NAMES.filter(lambda names: not any(_unpaired(name) for name in names)), st.booleans())
def test_href_round_trip(names: list[str], directory: bool) -> None:
    href = make_href(names, directory)
    assert href.isascii()
    assert not set("<>&'\" ") & set(href)
    assert parse_target(href.encode()) == UrlPath(tuple(names), directory or not names)


def _unpaired(name: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in name)


@given(st.lists(st.binary(min_size=1).filter(lambda b: not set(b) & {0, 47} and b not in (b".", b"..")), min_size=1))
def test_names_that_are_not_utf_8_round_trip(raw: list[bytes]) -> None:
    target = b"/" + b"/".join(b"".join(b"%%%02x" % byte for byte in name) for name in raw)
    url = parse_target(target)
    assert url is not None
    assert [name.encode("utf-8", "surrogateescape") for name in url.names] == raw
    assert parse_target(url.href.encode()) == url


@pytest.mark.parametrize(
    ("target", "names", "directory"),
    [
        (b"/", (), True),
        (b"/a", ("a",), False),
        (b"/a/", ("a",), True),
        (b"//a///b", ("a", "b"), False),
        (b"/a%20b?x=/../y", ("a b",), False),
        (b"http://host:1/a", ("a",), False),
        (b"http://host", (), True),
        (b"/%e2%82%ac+%2B", ("€++",), False),
    ],
)
def test_targets(target: bytes, names: tuple[str, ...], directory: bool) -> None:
    assert parse_target(target) == UrlPath(names, directory)


@given(st.binary())
def test_any_target_is_a_path_or_refused(target: bytes) -> None:
    try:
        url = parse_target(target)
    except Refusal as refusal:
        assert refusal.status == 400   # noqa: PT017   # it may be refused or not
    else:
        assert url is None or not {"", ".", ".."} & set(url.names)


@given(st.text())
def test_any_destination_is_a_path_or_refused(value: str) -> None:
    try:
        parse_destination(value, "host")
    except Refusal as refusal:
        assert refusal.status in (400, 502)   # noqa: PT017   # it may be refused or not


def test_destinations() -> None:
    assert parse_destination("https://Host:1/a%2Cb", "host:1") == UrlPath(("a,b",), False)
    assert parse_destination("/a", "host") == UrlPath(("a",), False)
    for other in ("http://elsewhere/a", "http://host:2/a", "http://user@host/a"):
        with pytest.raises(Refusal) as caught:
            parse_destination(other, "host")
        assert caught.value.status == 502
