from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega.raid import PARTS, join, part_size, part_span, split
from serpentfs.errors import IntegrityError
from serpentfs.model import Span
from tests.unit.clouds.mega.vectors import content, linear, vectors


def fetched(parts: list[bytes], lines: Span, missing: int | None) -> list[bytes | None]:
    """What a reader of ``lines`` has: of each part the span, clamped, and one part not at all."""
    span = part_span(lines)
    return [None if number == missing else part[span.start:span.stop] for number, part in enumerate(parts)]


@pytest.mark.parametrize("vector", vectors("cloudraid"), ids=lambda vector: str(vector["size"]))
def test_vectors(vector: dict[str, Any]) -> None:
    data = content(vector["content"])
    parts = split(data)
    assert [part_size(len(data), number) for number in range(PARTS)] == vector["part_sizes"]
    assert [len(part) for part in parts] == vector["part_sizes"]
    assert [hashlib.sha256(part).hexdigest() for part in parts] == vector["part_sha256"]
    if "parts_hex" in vector:
        assert [part.hex() for part in parts] == vector["parts_hex"]
    whole = Span(0, len(data))
    for missing in (None, *range(PARTS)):
        assert join(fetched(parts, whole, missing), whole) == data


@given(st.integers(0, 700), st.sampled_from([None, 0, 1, 2, 3, 4, 5]), st.data())
def test_any_span_from_any_five_parts(size: int, missing: int | None, data: st.DataObject) -> None:
    whole = linear(size)
    start = data.draw(st.integers(0, size))
    span = Span(start, data.draw(st.integers(start, size)))
    assert join(fetched(split(whole), span, missing), span) == whole[span.start:span.stop]


@given(st.integers(0, 1 << 45))
def test_the_data_parts_hold_the_file(size: int) -> None:
    sizes = [part_size(size, number) for number in range(PARTS)]
    assert sum(sizes[1:]) == size
    assert sizes[0] == sizes[1] == max(sizes)


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 20))
def test_the_span_of_the_parts_holds_the_span_of_the_file(start: int, length: int) -> None:
    span = part_span(Span(start, start + length))
    assert span.start % 16 == span.stop % 16 == 0
    assert span.start * 5 <= start < span.start * 5 + 80
    assert start + length <= span.stop * 5 < start + length + 80


def test_nothing_of_an_empty_file() -> None:
    assert split(b"") == [b""] * PARTS
    assert join([b""] * PARTS, Span(0, 0)) == b""


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("missing", [None, 2])
def test_a_part_of_another_length_is_noticed(part: int, missing: int | None) -> None:
    span = Span(0, 1000)
    parts = fetched(split(linear(1000)), span, missing)
    found = parts[part]
    if found is None:
        return
    for damaged in (found[:-17], found + b"x" * 17, b""):
        with pytest.raises(IntegrityError):
            join([*parts[:part], damaged, *parts[part + 1:]], span)


def test_four_parts_are_not_enough() -> None:
    parts: list[bytes | None] = [*split(linear(100))]
    with pytest.raises(ValueError, match="five"):
        join([None, None, *parts[2:]], Span(0, 100))
    with pytest.raises(ValueError, match="five"):
        join(parts[1:], Span(0, 100))
