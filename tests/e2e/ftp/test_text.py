"""What the door says and reads as text: codes, times, paths, listing lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs import errors
from serpentfs.errors import InvalidArgument, InvalidName, SerpentError
from serpentfs.gateways.ftp.listing import FACTS, list_line, mlsx, parse_time_value, time_value
from serpentfs.gateways.ftp.replies import one_line, reply_to
from serpentfs.gateways.ftp.tree import Shown, absolute
from serpentfs.model import NO_CONTENT, Attributes, Ino, Kind

ALL_ERRORS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SerpentError)
]


def attributes(kind: Kind, mtime_ns: int = 0, size: int = 0) -> Attributes:
    return Attributes(Ino(42), Ino(1), kind, size, mtime_ns, 0, 0, NO_CONTENT, 0)


@pytest.mark.parametrize("kind", [kind for kind in ALL_ERRORS if kind not in (SerpentError, errors.RetryableError)])
def test_every_error_has_a_code_that_tells_whether_a_retry_helps(
    kind: type[SerpentError], caplog: pytest.LogCaptureFixture
) -> None:
    code, _, text = reply_to(kind("why"), "a test").partition(" ")
    assert text == "why"
    assert caplog.text == ""
    may_come_right = issubclass(kind, errors.RetryableError | errors.Conflict | errors.PreconditionFailed | errors.Busy)
    assert code[0] == ("4" if may_come_right or kind is errors.BadHandle else "5")


def test_what_nobody_raised_on_purpose_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        raise ZeroDivisionError("private")
    assert reply_to(raised.value, "a test") == "451 Internal error."
    assert "private" in caplog.text
    assert "Traceback" in caplog.text


def test_a_reply_is_one_line() -> None:
    assert reply_to(errors.NotFound("a\r\n226 forged"), "a test") == "550 a??226 forged"
    assert one_line("a\0b") == "a?b"


@given(st.integers(-62_135_596_800, 253_402_300_799), st.integers(0, 999))
def test_times_survive(seconds: int, milliseconds: int) -> None:
    mtime_ns = (seconds * 1000 + milliseconds) * 1_000_000
    assert parse_time_value(time_value(mtime_ns)) == mtime_ns


def test_known_times() -> None:
    assert time_value(0) == "19700101000000"
    assert time_value(1_709_210_096_789_999_999) == "20240229123456.789"
    assert parse_time_value("20240229123456.789123456") == 1_709_210_096_789_123_456
    assert parse_time_value("20161231235960") == parse_time_value("20170101000000"), "a leap second"
    assert time_value(10**30) == time_value(253_402_300_799 * 10**9)
    assert time_value(-(10**30)).startswith("0001")


@pytest.mark.parametrize("text", ["", "2024", "20240230000000", "20240101246060", "2024010100000x", "20240101000000."])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_time_value(text)


@pytest.mark.parametrize(
    ("folder", "argument", "path"),
    [
        ("/", "", "/"), ("/a", "", "/a"), ("/a", "b", "/a/b"), ("/a", "/b", "/b"), ("/a", "..", "/"),
        ("/a", "../../../b", "/b"), ("/", "a/./b//c/", "/a/b/c"), ("/", "//a", "/a"), ("/", "///", "/"),
        ("/a", "b/..", "/a"), ("/", "...", "/..."), ("/", "a\\..\\b", "/a\\..\\b"), ("/", "%2e%2e/a", "/%2e%2e/a"),
    ],
)   # fmt: skip
def test_paths(folder: str, argument: str, path: str) -> None:
    assert absolute(folder, argument) == path


@given(st.text("ab./\\%", max_size=20), st.text("ab./", max_size=10))
def test_no_path_leads_out(argument: str, folder: str) -> None:
    path = absolute(absolute("/", folder), argument)
    assert path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/")[1:-1])
    assert path == "/" or path.split("/")[-1] not in ("", ".", "..")


@pytest.mark.parametrize("name", ["a\0", "a\r", "a\n"])
def test_paths_that_a_line_cannot_carry(name: str) -> None:
    with pytest.raises(InvalidName):
        absolute("/", name)


def test_links_in_listings() -> None:
    file, link = attributes(Kind.FILE, size=7), attributes(Kind.SYMLINK)
    assert "type=file;size=7;" in mlsx(Shown("l", link, "f", file), "l", FACTS, read_only=False)
    folder = attributes(Kind.DIRECTORY)
    assert "type=OS.unix=slink:d;" in mlsx(Shown("l", link, "d", folder), "l", FACTS, read_only=False)
    for target in ("with space", "semi;colon", "new\nline"):
        assert "type=OS.unix=symlink;" in mlsx(Shown("l", link, target), "l", FACTS, read_only=False)
    assert list_line(Shown("l", link, "d", folder), "me", 0, read_only=False).endswith("Jan  1 00:00 l -> d")


def test_old_and_future_files_show_their_year() -> None:
    now = 1_709_210_096 * 10**9
    year = 365 * 86_400 * 10**9
    for mtime_ns, shown in ((now, "Feb 29 12:34"), (now - year, "Mar  1  2023"), (now + year, "Feb 28  2025")):
        line = list_line(Shown("f", attributes(Kind.FILE, mtime_ns)), "me", now, read_only=True)
        assert line == f"-r--r--r--   1 me       me                  0 {shown} f"
