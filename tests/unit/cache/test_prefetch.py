"""Who may read ahead: the shared budget, turns, and the end of wishes. No task and no link."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serpentfs.cache.blocks import span_of
from serpentfs.cache.flights import Flight
from serpentfs.cache.prefetch import IDLE, LONGEST_RUN, MOST_WARM, NEW_LINK, UNHURRIED, Prefetcher, Stream
from serpentfs.errors import Unavailable
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span

B = BLOCK_SIZE
LARGE = 1000 * B


async def no_fetch(span: Span) -> bytes:
    raise AssertionError(f"{span} was fetched")


class Runway:
    """Stands for the cache: flights take off, and land when the test says so."""

    def __init__(self, budget: int, room: int) -> None:
        self.now = 0.0
        self.prefetcher = Prefetcher(budget, self, lambda: self.now)
        for _ in range(2):
            self.prefetcher.fetched(LONGEST_RUN, 0)  # the link is known to be fast
        self.room = room
        self.known: set[tuple[int, int]] = set()
        self.on_disk: set[tuple[int, int]] = set()
        self.flying: list[Flight] = []
        self.approaching: set[Stream] = set()

    def has_room(self) -> bool:
        return len(self.flying) < self.room

    def has_room_for_head(self) -> bool:
        return len(self.flying) < self.room

    def is_known(self, content: ContentId, block: BlockIndex) -> bool:
        return (content, block) in self.known

    def is_on_disk(self, content: ContentId, block: BlockIndex) -> bool:
        return (content, block) in self.on_disk

    def is_approaching(self, stream: Stream) -> bool:
        return stream in self.approaching

    def launch(self, stream: Stream, blocks: range, *, head: bool) -> Flight:
        flight = Flight(stream.content, stream.size, blocks, no_fetch, demand=False, head=head)
        assert len(blocks) <= LONGEST_RUN
        for block in blocks:
            assert (stream.content, block) not in self.known, "a block is fetched twice"
            self.known.add((stream.content, block))
        self.flying.append(flight)
        return flight

    def land(self, flight: Flight, *, fails: bool = False) -> None:
        self.flying.remove(flight)
        for block in flight.blocks:
            if fails:
                self.known.discard((flight.content, block))
                flight.error = Unavailable("no")
            else:
                flight.landed[BlockIndex(block)] = bytes(min(B, flight.size - block * B))
        self.prefetcher.landed(flight)

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        return [(flight.content, flight.blocks.start, flight.blocks.stop) for flight in self.flying]


def stream(content: int, size: int = LARGE) -> Stream:
    return Stream(ContentId(content), size, no_fetch)


def test_what_a_reader_takes_from_disk_by_itself_is_not_loaded_ahead() -> None:
    runway = Runway(LARGE, 9)
    runway.on_disk = {(1, block) for block in (0, 1, 2, 5, 6)}
    one = stream(1)
    one.from_disk = True
    runway.prefetcher.want(one, range(9))
    assert runway.blocks == [(1, 3, 5), (1, 7, 9)]
    other = stream(1)
    runway.prefetcher.want(other, range(9))
    assert runway.blocks[2:] == [(1, 0, 3), (1, 5, 7)], "others have it loaded"


def test_wishes_are_cut_to_the_longest_run() -> None:
    runway = Runway(LARGE, room=10)
    runway.prefetcher.want(stream(1), range(2, 2 + 2 * LONGEST_RUN + 3))
    assert runway.blocks == [(1, 2, 34), (1, 34, 66), (1, 66, 69)]


def run_lengths(runway: Runway, fetches: list[tuple[int, float]]) -> list[int]:
    """The longest run that is launched after each fetch of so many blocks in so many seconds."""
    reader = stream(1)
    lengths = []
    for blocks, seconds in fetches:
        runway.now += seconds
        runway.prefetcher.fetched(blocks, seconds)
        start = len(runway.known)
        runway.prefetcher.want(reader, range(start, start + 2 * LONGEST_RUN))
        lengths.append(max(stop - first for _, first, stop in runway.blocks))
        for flight in list(runway.flying):
            runway.land(flight)
    return lengths


@pytest.mark.parametrize("trip", [0.05, 1.5, 3.0])
def test_over_a_slow_link_runs_are_short_until_it_is_faster(trip: float) -> None:
    fetches = [
        (1, 0.0),
        (LONGEST_RUN, UNHURRIED / 2),
        (LONGEST_RUN, 8 * UNHURRIED),
        (LONGEST_RUN, 16 * UNHURRIED),
        (1, 9 * UNHURRIED),
        (1, UNHURRIED / 2),
        (1, UNHURRIED / 10),
        (2, UNHURRIED / 10),
        *[(LONGEST_RUN, UNHURRIED / 10)] * 4,
    ]
    lengths = run_lengths(Runway(LARGE, room=1000), [(blocks, trip + seconds) for blocks, seconds in fetches])
    assert lengths[1:] == [32, 4, 2, 1, 2, 2, 4, 8, 16, 32, 32]


def test_a_trip_that_is_long_makes_no_run_short() -> None:
    runway = Runway(LARGE, room=1000)
    fetches = [(8, 0.1), (1, 0.05), (32, 2.1), (15, 2.1), (7, 2.1)]
    assert run_lengths(runway, fetches) == [32, 32, 15, 7, 3], "the trip was short before"
    runway.now += NEW_LINK + 1
    assert run_lengths(runway, [(3, 2.05), *[(32, 2.1)] * 4]) == [6, 12, 24, 32, 32], "another link"


def test_who_does_not_read_holds_no_budget_for_long() -> None:
    runway = Runway(64 * B, room=9)
    paused, reader = stream(1), stream(2)
    runway.prefetcher.want(paused, range(64))
    for flight in list(runway.flying):
        runway.land(flight)
    runway.now += IDLE
    runway.prefetcher.want(reader, range(32))
    assert runway.blocks == []
    runway.now += 1
    runway.prefetcher.want(reader, range(32))
    assert runway.blocks == [(2, 0, 32)]
    assert runway.prefetcher.claimed == 32 * B
    runway.prefetcher.read_up_to(paused, 10)
    runway.prefetcher.want(paused, range(64, 74))
    assert runway.blocks[1:] == [(1, 64, 74)]
    assert runway.prefetcher.claimed == 42 * B


def test_known_blocks_are_not_fetched_again_and_cost_nothing() -> None:
    runway = Runway(LARGE, room=10)
    runway.known = {(1, 0), (1, 1), (1, 4), (1, 7)}
    runway.prefetcher.want(stream(1), range(8))
    assert runway.blocks == [(1, 2, 4), (1, 5, 7)]
    assert runway.prefetcher.claimed == 4 * B


def test_streams_take_turns() -> None:
    runway = Runway(LARGE, room=0)
    for content in (1, 2):
        runway.prefetcher.want(stream(content), range(2 * LONGEST_RUN))
    runway.room = 4
    runway.prefetcher.pump()
    assert [content for content, _, _ in runway.blocks] == [1, 2, 1, 2]


def test_what_is_on_its_way_for_a_stream_comes_to_the_link_before_more_is_launched_for_it() -> None:
    runway = Runway(LARGE, room=10)
    first, second = stream(1), stream(2)
    runway.approaching = {first}
    runway.prefetcher.want(first, range(2 * LONGEST_RUN))
    assert runway.blocks == []
    runway.prefetcher.want(second, range(LONGEST_RUN + 1))
    assert runway.blocks == [(2, 0, 32), (2, 32, 33)]
    runway.approaching = {first, second}
    runway.prefetcher.want(second, range(LONGEST_RUN + 1, LONGEST_RUN + 2))
    assert len(runway.blocks) == 2
    runway.approaching = set()
    runway.prefetcher.pump()
    assert sorted(runway.blocks[2:]) == [(1, 0, 32), (1, 32, 64), (2, 33, 34)]


def test_the_budget_holds_until_blocks_are_read() -> None:
    runway = Runway(4 * B, room=10)
    reader = stream(1)
    runway.prefetcher.want(reader, range(1, 9))
    assert runway.blocks == [(1, 1, 5)]
    runway.land(runway.flying[0])
    assert runway.flying == [], "landed is still unread"
    assert runway.prefetcher.claimed == 4 * B
    runway.prefetcher.read_up_to(reader, 3)
    assert runway.blocks == [(1, 5, 7)]
    assert runway.prefetcher.claimed == 4 * B
    runway.prefetcher.read_up_to(reader, 8)  # it overtakes its read-ahead
    assert runway.prefetcher.claimed == 3 * B, "what flies is still claimed, and one block was wished for"
    for flight in list(runway.flying):
        runway.land(flight)
    runway.prefetcher.read_up_to(reader, 9)
    assert runway.prefetcher.claimed == 0


def test_a_stopped_stream_gives_its_budget_to_others() -> None:
    runway = Runway(4 * B, room=10)
    first, second = stream(1), stream(2)
    runway.prefetcher.want(first, range(8))
    runway.prefetcher.want(second, range(2))
    runway.land(runway.flying[0])
    runway.prefetcher.stop(first)
    assert runway.blocks == [(2, 0, 2)]
    runway.prefetcher.stop(second)
    assert runway.prefetcher.claimed == 2 * B, "in flight counts until it lands"
    runway.land(runway.flying[0])
    assert runway.prefetcher.claimed == 0


def test_what_was_wished_and_not_begun_is_dropped_by_a_stop() -> None:
    runway = Runway(LARGE, room=1)
    reader = stream(1)
    runway.prefetcher.want(reader, range(2 * LONGEST_RUN))
    runway.prefetcher.stop(reader, 500)
    runway.land(runway.flying[0])
    assert runway.flying == []
    runway.prefetcher.want(reader, range(502, 504))
    assert runway.blocks == [(1, 502, 504)]


def test_a_failure_ends_the_wishes_of_its_stream_only() -> None:
    runway = Runway(LARGE, room=0)
    for content in (1, 2):
        runway.prefetcher.want(stream(content), range(2 * LONGEST_RUN))
    runway.room = 2
    runway.prefetcher.pump()
    runway.land(runway.flying[0], fails=True)
    assert [content for content, _, _ in runway.blocks] == [2, 2]
    runway.land(runway.flying[0])
    assert [content for content, _, _ in runway.blocks] == [2]


def test_heads_are_warmed_after_readers_and_are_nobodys_claim() -> None:
    runway = Runway(LARGE, room=0)
    runway.prefetcher.warm(stream(9), range(1))
    runway.prefetcher.want(stream(1), range(1, 2))
    runway.room = 1
    runway.prefetcher.pump()
    assert runway.blocks == [(1, 1, 2)]
    runway.land(runway.flying[0])
    assert runway.blocks == [(9, 0, 1)]
    runway.land(runway.flying[0])
    assert runway.prefetcher.claimed == B


def test_too_many_heads_push_out_the_oldest() -> None:
    runway = Runway(LARGE, room=0)
    for content in range(1, MOST_WARM + 2):
        runway.prefetcher.warm(stream(content), range(1))
    runway.room = 1000
    runway.prefetcher.pump()
    assert [content for content, _, _ in runway.blocks] == list(range(2, MOST_WARM + 2))


def test_forgotten_contents_are_not_asked_for() -> None:
    runway = Runway(LARGE, room=0)
    runway.prefetcher.want(stream(1), range(3))
    runway.prefetcher.warm(stream(1), range(3))
    runway.prefetcher.want(stream(2), range(3))
    runway.prefetcher.forget(ContentId(1))
    runway.room = 10
    runway.prefetcher.pump()
    assert runway.blocks == [(2, 0, 3)]


@pytest.mark.parametrize("budget", [0, B - 1])
def test_without_a_budget_nothing_is_read_ahead(budget: int) -> None:
    runway = Runway(budget, room=10)
    runway.prefetcher.want(stream(1), range(3))
    assert runway.flying == []


class AnyReaders(RuleBasedStateMachine):
    """Readers that read, seek and close in any order: the claim stays in the budget and ends at nothing."""

    @initialize(budget=st.integers(0, 40), room=st.integers(1, 5))
    def start(self, budget: int, room: int) -> None:
        self.budget = budget * B
        self.runway = Runway(self.budget, room)
        self.streams = [stream(1 + number % 2, 300 * B - 5) for number in range(4)]
        self.ahead = [0] * 4

    @rule(number=st.integers(0, 3), length=st.integers(1, 80))
    def want(self, number: int, length: int) -> None:
        start = max(self.ahead[number], self.streams[number].position)
        stop = min(start + length, 300)
        if start < stop:
            self.runway.prefetcher.want(self.streams[number], range(start, stop))
            self.ahead[number] = stop

    @rule(number=st.integers(0, 3), step=st.integers(1, 50))
    def read(self, number: int, step: int) -> None:
        self.runway.prefetcher.read_up_to(self.streams[number], min(self.streams[number].position + step, 300))

    @rule(number=st.integers(0, 3), position=st.integers(0, 300))
    def seek(self, number: int, position: int) -> None:
        self.runway.prefetcher.stop(self.streams[number], position)
        self.ahead[number] = position

    @precondition(lambda self: self.runway.flying)
    @rule(data=st.data(), fails=st.booleans())
    def land(self, data: st.DataObject, fails: bool) -> None:
        self.runway.land(data.draw(st.sampled_from(self.runway.flying)), fails=fails)

    @rule(seconds=st.floats(0.0, 2 * IDLE))
    def wait(self, seconds: float) -> None:
        self.runway.now += seconds

    @rule(content=st.integers(1, 2), block=st.integers(0, 299))
    def evict(self, content: int, block: int) -> None:
        if not any(flight.content == content and block in flight.blocks for flight in self.runway.flying):
            self.runway.known.discard((content, block))

    @invariant()
    def the_claim_is_what_flies_and_what_is_unread(self) -> None:
        prefetcher = self.runway.prefetcher
        flying = sum(len(span_of(flight.blocks, flight.size)) for flight in self.runway.flying)
        unread = sum(sum(reader.unread.values()) for reader in self.streams)
        assert prefetcher.claimed == flying + unread <= self.budget

    def teardown(self) -> None:
        for reader in self.streams:
            self.runway.prefetcher.stop(reader)
        while self.runway.flying:
            self.runway.land(self.runway.flying[0])
        assert self.runway.prefetcher.claimed == 0


TestAnyReaders = AnyReaders.TestCase
