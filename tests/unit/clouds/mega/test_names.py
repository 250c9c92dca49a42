"""Names of nodes as file names: every name can be shown, and leads back to itself."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from serpentfs.clouds.mega.names import MAX_NAME_BYTES, check_name, normalize, real_name, shown_name
from serpentfs.errors import InvalidName, NameTooLong

HANDLE = "AbCd-_12"
ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=90)
AWKWARD = st.text(st.sampled_from("./\0‛／␀．a ()é"), max_size=30)


@given(ANY | AWKWARD, st.booleans())
@example("a/b", False)
@example("..", True)
@example("x" * 255 + "/", False)
@example("/" * 255, False)
def test_a_shown_name_is_a_file_name(name: str, duplicate: bool) -> None:
    shown = shown_name(name, HANDLE, duplicate=duplicate)
    assert shown not in ("", ".", "..")
    assert "/" not in shown
    assert "\0" not in shown
    assert len(shown.encode()) <= MAX_NAME_BYTES


@given(ANY | AWKWARD, st.booleans())
def test_a_shown_name_leads_back(name: str, duplicate: bool) -> None:
    shown = shown_name(name, HANDLE, duplicate=duplicate)
    assume(name and len(shown_name(name, HANDLE).encode()) + 12 <= MAX_NAME_BYTES)
    assert real_name(shown, HANDLE) == name


@given(AWKWARD, AWKWARD)
def test_different_names_are_shown_differently(one: str, other: str) -> None:
    assume(one and other and one != other)
    assert shown_name(one, HANDLE) != shown_name(other, HANDLE)
    assert shown_name(one, HANDLE) != shown_name(other, "other123", duplicate=True)


@given(ANY)
def test_an_ordinary_name_is_shown_as_it_is(name: str) -> None:
    assume(name not in ("", ".", "..") and not set(name) & set("/\0‛") and len(name.encode()) <= MAX_NAME_BYTES)
    assert shown_name(name, HANDLE) == name
    assert real_name(name, None) == name


def test_the_mark_of_a_duplicate() -> None:
    assert shown_name("photo.jpg", HANDLE, duplicate=True) == f"photo (‛{HANDLE}).jpg"
    assert real_name(f"photo (‛{HANDLE}).jpg", HANDLE) == "photo.jpg"
    with pytest.raises(InvalidName):
        real_name(f"photo (‛{HANDLE}).jpg", "another1")  # somebody else's mark means nothing here


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "\udc80", "a‛b", "‛"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


def test_a_name_is_too_long() -> None:
    check_name("é" * 127)
    with pytest.raises(NameTooLong):
        check_name("é" * 128)


@given(ANY | AWKWARD)
def test_whatever_is_shown_may_be_written(name: str) -> None:
    check_name(normalize(shown_name(name, HANDLE)))
