"""Span and block arithmetic, and the bitmap."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.cache.blocks import BlockSet, block_count, block_length, blocks_of, runs, span_of
from serpentfs.model import BLOCK_SIZE, Span

offsets = st.integers(0, 5 * BLOCK_SIZE)


@pytest.mark.parametrize(
    ("start", "stop", "blocks"),
    [
        (0, 0, []),
        (BLOCK_SIZE, BLOCK_SIZE, []),
        (0, 1, [0]),
        (0, BLOCK_SIZE, [0]),
        (BLOCK_SIZE - 1, BLOCK_SIZE + 1, [0, 1]),
        (BLOCK_SIZE, BLOCK_SIZE + 1, [1]),
        (BLOCK_SIZE + 7, 4 * BLOCK_SIZE, [1, 2, 3]),
    ],
)
def test_blocks_of_a_span(start: int, stop: int, blocks: list[int]) -> None:
    assert list(blocks_of(Span(start, stop))) == blocks


@given(offsets, offsets, offsets)
def test_the_blocks_of_a_span_cover_it_and_no_more(first: int, second: int, size: int) -> None:
    span = Span(*sorted((first, second))).clamp(size)
    blocks = blocks_of(span)
    if not blocks:
        assert span.start == span.stop
        return
    covered = span_of(blocks, size)
    assert covered.start <= span.start
    assert span.stop <= covered.stop <= size
    assert span.start - covered.start < BLOCK_SIZE
    assert covered.stop - span.stop < BLOCK_SIZE
    assert sum(block_length(block, size) for block in blocks) == len(covered)
    assert blocks.stop <= block_count(size)


@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_runs_are_the_blocks_in_few_pieces(blocks: set[int], longest: int) -> None:
    found = runs(sorted(blocks), longest)
    assert [block for run in found for block in run] == sorted(blocks)
    assert all(0 < len(run) <= longest for run in found)
    for left, right in itertools.pairwise(found):
        assert left.stop < right.start or len(left) == longest


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200))))
def test_a_block_set_is_a_set(changes: list[tuple[bool, int]]) -> None:
    blocks, model = BlockSet(), set[int]()
    for adds, block in changes:
        if adds:
            blocks.add(block)
            model.add(block)
        else:
            blocks.discard(block)
            model.discard(block)
    assert list(blocks) == sorted(model)
    assert len(blocks) == len(model)
    assert [block for block in range(250) if block in blocks] == sorted(model)
