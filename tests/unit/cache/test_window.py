"""The read-ahead machine: tables of reads and commands, and what must hold for any reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.cache.window import GROWTH, NEAR_AHEAD, NEAR_BEHIND, Command, DropAhead, ReadAhead, Window
from serpentfs.model import BLOCK_SIZE, Span

B = BLOCK_SIZE
MiB = 1024 * 1024
KiB = 1024
LARGE = 1 << 40


def ahead(start: int, stop: int) -> ReadAhead:
    return ReadAhead(Span(start, stop))


TABLE: dict[str, tuple[int, list[tuple[Span, list[Command]]]]] = {
    "a file's head asks for nothing more": (LARGE, [(Span(0, 4 * KiB), [])]),
    "a few small reads of a head stay in its block": (
        LARGE,
        [(Span(0, 4 * KiB), []), (Span(4 * KiB, 8 * KiB), []), (Span(8 * KiB, 16 * KiB), [])],
    ),
    "whole blocks in order: the window doubles as the run doubles": (
        LARGE,
        [
            (Span(0, B), []),
            (Span(B, 2 * B), [ahead(2 * B, 10 * B)]),
            (Span(2 * B, 3 * B), []),
            (Span(3 * B, 4 * B), [ahead(10 * B, 20 * B)]),
            (Span(4 * B, 8 * B), [ahead(20 * B, 40 * B)]),
        ],
    ),
    "no further than the file": (3 * B + 5, [(Span(0, B), []), (Span(B, 2 * B), [ahead(2 * B, 3 * B + 5)])]),
    "at the file's end nothing is left to ask for": (2 * B, [(Span(0, B), []), (Span(B, 2 * B), [])]),
    "a seek drops what was ahead and begins small": (
        LARGE,
        [
            (Span(0, B), []),
            (Span(B, 2 * B), [ahead(2 * B, 10 * B)]),
            (Span(100 * MiB, 100 * MiB + B), [DropAhead()]),
            (Span(100 * MiB + B, 100 * MiB + 2 * B), [ahead(100 * MiB + 2 * B, 100 * MiB + 10 * B)]),
        ],
    ),
    "a near seek backward changes nothing": (
        LARGE,
        [
            (Span(0, B), []),
            (Span(B, 2 * B), [ahead(2 * B, 10 * B)]),
            (Span(0, B), []),
            (Span(2 * B, 3 * B), []),
            (Span(3 * B, 4 * B), [ahead(10 * B, 20 * B)]),
        ],
    ),
    "a read beyond the next one, then the next one: the kernel's order": (
        LARGE,
        [
            (Span(0, MiB), []),
            (Span(2 * MiB, 3 * MiB), [ahead(3 * MiB, 11 * MiB)]),
            (Span(MiB, 2 * MiB), []),
        ],
    ),
    "a jump within what was asked ahead is no seek": (
        LARGE,
        [
            (Span(0, 2 * MiB), []),
            (Span(2 * MiB, 4 * MiB), [ahead(4 * MiB, 20 * MiB)]),
            (Span(15 * MiB, 16 * MiB), [ahead(20 * MiB, 32 * MiB)]),
        ],
    ),
    "far behind is a seek": (
        LARGE,
        [
            (Span(10 * MiB, 11 * MiB), []),
            (Span(0, B), [DropAhead()]),
        ],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_reads_and_commands(case: str) -> None:
    size, steps = TABLE[case]
    window = Window(size, 16 * MiB)
    for read, commands in steps:
        assert list(window.got_read(read)) == commands, read


def test_a_large_window_moves_on_one_fetch_at_a_time() -> None:
    window = Window(LARGE, 16 * MiB)
    window.got_read(Span(0, 4 * MiB))
    assert list(window.got_read(Span(4 * MiB, 8 * MiB))) == [ahead(8 * MiB, 24 * MiB)]
    commands = [window.got_read(Span(at, at + MiB)) for at in range(8 * MiB, 17 * MiB, MiB)]
    asked = [command for answer in commands for command in answer]
    assert asked == [ahead(24 * MiB, 28 * MiB), ahead(28 * MiB, 32 * MiB)]


def test_what_is_expected_is_read_ahead_from_the_first_read_on_and_no_further() -> None:
    window = Window(LARGE, 16 * MiB)
    window.expect(Span(MiB, 30 * MiB + 5))
    assert list(window.got_read(Span(MiB, MiB + B))) == [ahead(MiB + B, 5 * MiB + B)]
    assert not window.has_just_begun
    assert list(window.got_read(Span(MiB + B, 5 * MiB + B))) == [ahead(5 * MiB + B, 21 * MiB + B)]
    assert not window.has_just_begun
    assert list(window.got_read(Span(5 * MiB + B, 16 * MiB))) == [ahead(21 * MiB + B, 30 * MiB + B)]
    assert window.got_read(Span(16 * MiB, 30 * MiB + 5)) == (ahead(30 * MiB + B, 46 * MiB + B),), "it did go on"


def test_elsewhere_than_expected_a_run_has_to_show_itself() -> None:
    window = Window(LARGE, 16 * MiB)
    window.expect(Span(0, 10 * MiB))
    window.got_read(Span(0, B))
    far = 100 * MiB
    assert list(window.got_read(Span(far, far + B))) == [DropAhead()]
    assert list(window.got_read(Span(far + B, far + 2 * B))) == [ahead(far + 2 * B, far + 10 * B)]
    assert list(window.got_read(Span(0, B))) == [DropAhead(), ahead(B, 4 * MiB + B)]


def test_the_window_doubles_up_to_its_largest() -> None:
    window = Window(LARGE, 16 * MiB)
    lengths = []
    for block in range(64):
        window.got_read(Span(block * B, (block + 1) * B))
        lengths.append(window.length)
    assert lengths[0] == 0
    assert sorted(set(lengths[1:])) == [MiB << power for power in range(5)]
    assert lengths == sorted(lengths)


def test_a_window_of_nothing_never_reads_ahead() -> None:
    window = Window(LARGE, 0)
    assert not any(window.got_read(Span(block * B, (block + 1) * B)) for block in range(50))


reads = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.integers(1, 2 * MiB)),
        st.tuples(st.just("near"), st.integers(-2 * MiB, 2 * MiB)),
        st.tuples(st.just("far"), st.integers(0, 200 * MiB)),
    ),
    max_size=40,
)


@given(st.integers(1, 200 * MiB), st.integers(0, 16 * MiB), reads)
def test_what_holds_for_any_reads(size: int, largest: int, steps: list[tuple[str, int]]) -> None:
    window = Window(size, largest)
    position = asked = 0
    read_since_seek = 0
    for number, (kind, value) in enumerate(steps):
        start = {"next": position, "near": position + value, "far": value}[kind]
        start = min(max(start, 0), size - 1)
        stop = min(start + (value if kind == "next" else 64 * KiB), size)
        commands = window.got_read(Span(start, stop))
        if DropAhead() in commands or number == 0:
            assert list(commands) == [] if number == 0 else [DropAhead()]
            assert number == 0 or not position - NEAR_BEHIND <= start <= position + NEAR_AHEAD
            read_since_seek = 0
            position, asked = stop, 0
        read_since_seek += stop - start
        position = max(position, stop)
        assert window.position == position
        for command in commands:
            if isinstance(command, ReadAhead):
                span = command.span
                assert span.start < span.stop <= size
                assert span.start % B == 0
                assert span.stop % B == 0 or span.stop == size
                assert span.start >= max(position, asked), "nothing is asked for twice or too late"
                assert span.stop <= position + min(GROWTH * read_since_seek, largest) + B
                asked = span.stop


@given(st.integers(1, 40), st.sampled_from([4 * KiB, 100_000, B, MiB]))
def test_a_steady_reader_finds_everything_asked_for(blocks: int, step: int) -> None:
    """From the second block of a run on, every block was asked ahead before it was read."""
    size = blocks * B
    window = Window(size, 16 * MiB)
    asked: set[int] = set()
    for start in range(0, size, step):
        stop = min(start + step, size)
        if start >= 2 * max(step, B):
            assert set(range(start // B, -(-stop // B))) <= asked
        for command in window.got_read(Span(start, stop)):
            assert isinstance(command, ReadAhead)
            asked |= set(range(command.span.start // B, -(-command.span.stop // B)))
