"""The gate: how many fetches run, and who is next."""

import pytest
import trio
import trio.testing

from serpentfs.cache.flights import MOST_HEADS, FetchGate, Flight
from serpentfs.model import ContentId, Span
from tests.unit.cache.harness import PATIENCE


async def no_fetch(span: Span) -> bytes:
    raise AssertionError(f"{span} was fetched")


def flight(*, demand: bool, head: bool = False) -> Flight:
    return Flight(ContentId(1), 1, range(1), no_fetch, demand=demand, head=head)


class Passage:
    """Flights on their way through a gate, in the order in which they got in."""

    def __init__(self, gate: FetchGate, nursery: trio.Nursery) -> None:
        self.gate = gate
        self.nursery = nursery
        self.entered: list[Flight] = []
        self.scopes: dict[Flight, trio.CancelScope] = {}

    async def send(self, *, demand: bool) -> Flight:
        passing = flight(demand=demand)
        self.nursery.start_soon(self._enter, passing)
        await trio.testing.wait_all_tasks_blocked()
        return passing

    async def _enter(self, passing: Flight) -> None:
        with trio.CancelScope() as self.scopes[passing]:
            await self.gate.enter(passing)
            self.entered.append(passing)

    async def leave(self, passing: Flight) -> None:
        self.gate.leave(passing)
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.trio
async def test_a_demand_overtakes_read_ahead_that_waits() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(1), nursery)
            first = await passage.send(demand=False)
            ahead = await passage.send(demand=False)
            demand = await passage.send(demand=True)
            assert passage.entered == [first]
            await passage.leave(first)
            assert passage.entered == [first, demand]
            await passage.leave(demand)
            assert passage.entered == [first, demand, ahead]
            await passage.leave(ahead)
            assert passage.gate.inside == 0


@pytest.mark.trio
async def test_heads_take_no_slot_and_wait_for_demands() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(1), nursery)
            head = flight(demand=False, head=True)
            await passage.gate.enter(head)
            first, second = await passage.send(demand=True), await passage.send(demand=True)
            assert passage.entered == [first]
            assert not passage.gate.has_room_for_head([])
            await passage.leave(first)
            assert passage.entered == [first, second]
            assert passage.gate.has_room_for_head([])
            coming = [flight(demand=False, head=True) for _ in range(MOST_HEADS - 1)]
            assert not passage.gate.has_room_for_head(coming)
            assert passage.gate.has_room_for_head(coming[1:])
            passage.gate.promote(head)
            await passage.leave(head)
            await passage.leave(second)
            assert passage.gate.inside == 0
            assert passage.gate.has_room_for_prefetch(coming), "they are not in its way"


@pytest.mark.trio
async def test_one_of_several_slots_is_kept_for_demands() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(3), nursery)
            aheads = [await passage.send(demand=False) for _ in range(3)]
            assert passage.entered == aheads[:2]
            assert not passage.gate.has_room_for_prefetch([])
            demand = await passage.send(demand=True)
            assert passage.entered == [*aheads[:2], demand]
            await passage.leave(demand)
            assert passage.gate.inside == 2, "the slot of the demand is not for read-ahead"
            await passage.leave(aheads[0])
            assert passage.entered[-1] is aheads[2]


@pytest.mark.trio
async def test_a_promoted_read_ahead_goes_before_other_read_ahead() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(1), nursery)
            first = await passage.send(demand=True)
            await passage.send(demand=False)
            joined = await passage.send(demand=False)
            passage.gate.promote(joined)
            await passage.leave(first)
            assert passage.entered == [first, joined]
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_promotion_of_a_running_read_ahead_makes_room_for_another() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(2), nursery)
            first = await passage.send(demand=False)
            second = await passage.send(demand=False)
            assert passage.entered == [first]
            passage.gate.promote(first)
            await trio.testing.wait_all_tasks_blocked()
            assert passage.entered == [first, second]


@pytest.mark.trio
async def test_a_cancelled_waiter_leaves_its_place_to_the_next() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(1), nursery)
            first = await passage.send(demand=True)
            second = await passage.send(demand=True)
            third = await passage.send(demand=True)
            passage.gate.leave(first)  # the second is let in here ...
            passage.scopes[second].cancel()  # ... and cancelled before it knows
            await trio.testing.wait_all_tasks_blocked()
            # Whichever of the two it notices first, the slot is not lost.
            if second in passage.entered:
                await passage.leave(second)
            assert passage.entered[-1] is third
            fourth = await passage.send(demand=True)
            passage.scopes[fourth].cancel()
            await trio.testing.wait_all_tasks_blocked()
            await passage.leave(third)
            assert passage.gate.inside == 0


@pytest.mark.trio
async def test_of_many_slots_one_is_kept_for_read_ahead() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(4), nursery)
            demands = [await passage.send(demand=True) for _ in range(4)]
            assert passage.entered == demands[:3]
            assert passage.gate.has_room_for_prefetch([flight(demand=True) for _ in range(5)])
            ahead = await passage.send(demand=False)
            assert passage.entered == [*demands[:3], ahead]
            assert not passage.gate.has_room_for_prefetch([])
            await passage.leave(ahead)
            assert passage.gate.has_room_for_prefetch([]), "it is not for demands"
            await passage.leave(demands[0])
            assert passage.entered[-1] is demands[3]
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_further_slots_are_left_to_flights_that_are_on_their_way() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            passage = Passage(FetchGate(4), nursery)
            await passage.send(demand=True)
            await passage.send(demand=False)
            assert passage.gate.has_room_for_prefetch([flight(demand=True)])
            assert not passage.gate.has_room_for_prefetch([flight(demand=True), flight(demand=True)])
            assert not passage.gate.has_room_for_prefetch([flight(demand=False), flight(demand=False)])


def test_a_gate_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FetchGate(0)
