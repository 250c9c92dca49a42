"""Sizes, rates and timetables as people write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.amounts import UNLIMITED, constant_rate, parse_rate
from serpentfs.errors import UsageError

KiB, MiB = 1024, 1024 * 1024


def at(day: int, hour: int, minute: int = 0) -> float:
    """Unix time of a moment of the week from Monday, the 2nd of March 2026, by this machine's clock."""
    return time.mktime((2026, 3, 2 + day, hour, minute, 30, 0, 0, -1))


@pytest.mark.parametrize(("text", "rate"), [
    ("512K", 512 * KiB), ("0", None), ("off", None), ("OFF", None), (" 2M ", 2 * MiB), ("1.5M", 3 * MiB // 2),
])
def test_one_rate(text: str, rate: int | None) -> None:
    read = parse_rate(text)
    assert read.is_constant
    assert {read.rate_at(at(day, 12)) for day in range(7)} == {rate}
    assert parse_rate(str(read)) == read


def test_a_day_from_step_to_step() -> None:
    table = parse_rate("08:00,512K 19:00,10M  23:00,off")
    assert not table.is_constant
    told = {hour: table.rate_at(at(3, hour)) for hour in (0, 7, 8, 18, 19, 22, 23)}
    assert told == {0: None, 7: None, 8: 512 * KiB, 18: 512 * KiB, 19: 10 * MiB, 22: 10 * MiB, 23: None}
    assert table.rate_at(at(3, 7, 59)) is None
    assert str(table) == "08:00,512K 19:00,10M 23:00,off"


def test_days_of_the_week_as_rclone_has_them() -> None:
    table = parse_rate("Mon-00:00,512 Fri-23:59,10M sat-10:00,1M Sun-20:00,off")
    assert table.rate_at(at(0, 0)) == 512
    assert table.rate_at(at(4, 23, 58)) == 512
    assert table.rate_at(at(4, 23, 59)) == 10 * MiB
    assert table.rate_at(at(5, 9)) == 10 * MiB
    assert table.rate_at(at(6, 19)) == MiB
    assert table.rate_at(at(6, 20)) is None


def test_one_day_outweighs_every_day() -> None:
    table = parse_rate("08:00,1M Sat-08:00,off")
    assert table.rate_at(at(4, 8)) == MiB
    assert table.rate_at(at(5, 8)) is None
    assert table.rate_at(at(6, 7)) is None
    assert table.rate_at(at(6, 8)) == MiB


@pytest.mark.parametrize("text", [
    "", "fast", "-1", "08:00", "08:00,fast", "25:00,1M", "08:60,1M", "8,1M", "Xyz-08:00,1M", "08:00,1M 08:00,2M",
    "08:00,1M,2M", "08:00,1M 2M", "Mon-08:00,1M mon-08:00,2M", "10M:1M",
])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


@given(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 59), st.integers(0, 10**9)), min_size=1, max_size=6,
                unique_by=lambda step: step[:2]), st.integers(0, 6), st.integers(0, 23), st.integers(0, 59))
def test_the_last_step_before_a_moment_holds(
    steps: list[tuple[int, int, int]], day: int, hour: int, minute: int
) -> None:
    table = parse_rate(" ".join(f"{h:02}:{m:02},{rate}" for h, m, rate in steps))
    ordered = sorted(steps)
    expected = ([step for step in ordered if step[:2] <= (hour, minute)] or ordered)[-1][2]
    assert table.rate_at(at(day, hour, minute)) == (expected or None)


def test_plain_numbers() -> None:
    assert constant_rate(1000).rate_at(0) == 1000
    assert parse_rate(str(constant_rate(1000))) == constant_rate(1000)
    assert UNLIMITED.rate_at(0) is None
