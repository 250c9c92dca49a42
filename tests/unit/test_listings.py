"""Listings that are kept: when they are found again, and how much of them."""

from __future__ import annotations

import pytest

from serpentfs.gateways.listings import KeptListings

KIB = 1024


def keep(listings: KeptListings, key: str, size: int, mark: int | None = 1) -> None:
    with listings.making(key, lambda: mark) as collected:
        collected.add(b"a" * (size // 2))
        collected.add(b"b" * (size - size // 2))


def _break_off(listings: KeptListings) -> None:
    with listings.making("broken", lambda: 1) as collected:
        collected.add(b"x")
        raise OSError("gone")


def test_one_is_found_under_its_key_and_mark_only() -> None:
    listings = KeptListings(100 * KIB)
    keep(listings, "one", 10)
    assert listings.find("one", 1) == [b"aaaaa", b"bbbbb"]
    assert listings.find("two", 1) is None
    assert listings.find("one", 2) is None
    assert listings.find("one", None) is None
    keep(listings, "one", 4, mark=2)
    assert listings.find("one", 1) is None
    assert listings.find("one", 2) == [b"aa", b"bb"]


def test_what_changed_meanwhile_or_broke_off_is_not_kept() -> None:
    listings = KeptListings(100 * KIB)
    marks = iter([1, 2])
    with listings.making("changed", lambda: next(marks)) as collected:
        collected.add(b"x")
    with pytest.raises(OSError, match="gone"):
        _break_off(listings)
    keep(listings, "unmarked", 10, mark=None)
    for key in ("changed", "broken", "unmarked"):
        assert [listings.find(key, mark) for mark in (1, 2, None)] == [None] * 3
    assert listings.taken_bytes == 0
    keep(listings, "next", 10)
    assert listings.find("next", 1)


def test_the_budget_holds() -> None:
    listings = KeptListings(100 * KIB)
    keep(listings, "too large", 50 * KIB + 1)
    assert listings.find("too large", 1) is None
    for key in "abc":
        keep(listings, key, 40 * KIB)
        assert listings.find("a", 1) if key != "c" else True
        assert listings.taken_bytes <= 100 * KIB
    assert listings.find("a", 1), "it was asked for last"
    assert listings.find("b", 1) is None
    assert listings.find("c", 1)
    for number in range(1000):
        keep(listings, f"small {number}", 0)
    assert listings.taken_bytes <= 100 * KIB
    assert listings.find("a", 1) is None


def test_only_one_is_collected_at_a_time() -> None:
    listings = KeptListings(100 * KIB)
    with listings.making("first", lambda: 1) as first:
        first.add(b"1")
        keep(listings, "second", 10)
    assert listings.find("second", 1) is None
    assert listings.find("first", 1) == [b"1"]
    keep(listings, "second", 10)
    assert listings.find("second", 1)
