"""Look-ups, flights and read-ahead of a cache without a disk."""

import sys

import pytest
import trio
import trio.testing

from serpentfs.cache import layers
from serpentfs.cache.flights import MOST_HEADS
from serpentfs.cache.layers import BlockCache
from serpentfs.cache.prefetch import LONGEST_RUN
from serpentfs.errors import RateLimited, Unavailable
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span
from tests.unit.cache.harness import PATIENCE, Store, block_span, cleartext, limits, running, settle

B = BLOCK_SIZE
SIZE = 40 * B + 1000
ONE = ContentId(1)
DATA = cleartext(1, SIZE)


@pytest.mark.trio
@pytest.mark.parametrize(
    "span", [Span(0, 4096), Span(B - 1, B + 1), Span(B, 2 * B), Span(5, 3 * B), Span(40 * B, SIZE), Span(0, SIZE)]
)
async def test_a_span_is_what_was_asked_for_and_once_fetched_is_here(span: Span) -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        assert reader.size == SIZE
        assert reader.read_nowait(span) is None
        assert bytes(await reader.read(span)) == DATA[span.start : span.stop]
        asked = len(store.asked)
        again = reader.read_nowait(span)
        assert again is not None
        assert bytes(again) == DATA[span.start : span.stop]
        assert bytes(await reader.read(span)) == DATA[span.start : span.stop]
        assert await cache.read_span(ONE, SIZE, span, store.fetch_of(1, SIZE)) == DATA[span.start : span.stop]
        assert len(store.asked) == asked


@pytest.mark.trio
async def test_spans_end_with_the_content() -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        assert bytes(await reader.read(Span(SIZE - 3, SIZE + B))) == DATA[-3:]
        assert bytes(reader.read_nowait(Span(SIZE - 3, SIZE + B)) or b"") == DATA[-3:]
        assert bytes(await reader.read(Span(SIZE + 5, SIZE + 9))) == b""
        assert reader.read_nowait(Span(SIZE + 5, SIZE + 9)) == b""
        assert store.spans == [Span(40 * B, SIZE)]
        empty = cache.reader(ContentId(2), 0, store.fetch_of(2, 0))
        assert bytes(await empty.read(Span(0, 10))) == b""


@pytest.mark.trio
async def test_a_small_read_of_a_head_fetches_one_block() -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        await reader.read(Span(0, 4096))
        await settle(cache)
        assert store.spans == [block_span(0)]


@pytest.mark.trio
async def test_a_hit_is_the_cached_block_itself_and_pins_no_more() -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        await reader.read(Span(0, 8 * B))
        whole = reader.read_nowait(block_span(3))
        assert type(whole) is bytes
        assert whole is reader.read_nowait(block_span(3))
        part = reader.read_nowait(Span(3 * B + 10, 3 * B + 20))
        assert isinstance(part, memoryview)
        assert part.obj is whole
        assert sys.getsizeof(whole) < B + 100


@pytest.mark.trio
async def test_a_large_read_is_cut_into_large_parallel_fetches() -> None:
    store = Store()
    size = 3 * LONGEST_RUN * B
    async with running(None) as cache:
        store.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.read_span, ONE, size, Span(0, size), store.fetch_of(1, size))
            await store.wait_asked(3)
            assert store.running == 3
            store.release()
        assert sorted(store.spans, key=lambda span: span.start) == [
            block_span(start, LONGEST_RUN) for start in range(0, 3 * LONGEST_RUN, LONGEST_RUN)
        ]


@pytest.mark.trio
async def test_only_what_is_missing_is_fetched() -> None:
    store = Store()
    async with running(None) as cache:
        fetch = store.fetch_of(1, SIZE)
        await cache.read_span(ONE, SIZE, block_span(3), fetch)
        await cache.read_span(ONE, SIZE, block_span(5, 2), fetch)
        store.asked.clear()
        assert await cache.read_span(ONE, SIZE, block_span(1, 8), fetch) == DATA[B : 9 * B]
        assert sorted(store.spans, key=lambda span: span.start) == [block_span(1, 2), block_span(4), block_span(7, 2)]


@pytest.mark.trio
async def test_one_flight_for_many_readers() -> None:
    store = Store()
    store.held = True
    got: list[bytes] = []
    async with running(None) as cache:

        async def read() -> None:
            got.append(await cache.read_span(ONE, SIZE, block_span(0, 3), store.fetch_of(1, SIZE)))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            store.release()
        assert got == [DATA[: 3 * B]] * 20
        assert store.spans == [block_span(0, 3)]


@pytest.mark.trio
async def test_one_readers_cancellation_leaves_the_fetch_to_the_others() -> None:
    store = Store()
    store.held = True
    got: list[bytes] = []
    async with running(None) as cache:

        async def read(scope: trio.CancelScope) -> None:
            with scope:
                got.append(await cache.read_span(ONE, SIZE, block_span(0), store.fetch_of(1, SIZE)))

        async with trio.open_nursery() as nursery:
            first, second = trio.CancelScope(), trio.CancelScope()
            nursery.start_soon(read, first)
            await store.wait_asked(1)
            nursery.start_soon(read, second)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            store.release()
        assert first.cancelled_caught
        assert got == [DATA[:B]]
        assert len(store.asked) == 1


@pytest.mark.trio
async def test_a_fetch_whose_only_reader_left_still_fills_the_cache() -> None:
    store = Store()
    store.held = True
    async with running(None) as cache:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cache.read_span, ONE, SIZE, block_span(0), store.fetch_of(1, SIZE))
                await store.wait_asked(1)
                scope.cancel()
        store.release()
        await settle(cache)
        await trio.testing.wait_all_tasks_blocked()
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        assert reader.read_nowait(block_span(0)) == DATA[:B]


@pytest.mark.trio
async def test_a_fetch_that_did_not_begin_ends_with_its_last_reader() -> None:
    store = Store()
    store.held = True
    async with running(None, limits(fetches=1)) as cache:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.read_span, ContentId(2), SIZE, block_span(0), store.fetch_of(2, SIZE))
            await store.wait_asked(1)
            with trio.move_on_after(PATIENCE) as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(cache.read_span, ONE, SIZE, block_span(0), store.fetch_of(1, SIZE))
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            store.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [content for content, _ in store.asked] == [2]
        assert await cache.read_span(ONE, SIZE, block_span(0), store.fetch_of(1, SIZE)) == DATA[:B]


@pytest.mark.trio
async def test_an_error_reaches_every_reader_and_is_not_kept() -> None:
    store = Store()
    store.held = True
    store.error = RateLimited("wait", retry_after=3)
    errors: list[RateLimited] = []
    async with running(None) as cache:

        async def read() -> None:
            with pytest.raises(RateLimited) as caught:
                await cache.read_span(ONE, SIZE, block_span(0, 2), store.fetch_of(1, SIZE))
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            store.release()
        assert [error.retry_after for error in errors] == [3] * 5
        assert len(store.asked) == 1
        store.error = None
        assert await cache.read_span(ONE, SIZE, block_span(0, 2), store.fetch_of(1, SIZE)) == DATA[: 2 * B]


@pytest.mark.trio
async def test_a_fault_in_a_fetch_reaches_its_reader_and_does_not_end_the_cache() -> None:
    store = Store()
    store.error = ZeroDivisionError("a fault in a driver")
    async with running(None) as cache:
        with pytest.raises(ZeroDivisionError):
            await cache.read_span(ONE, SIZE, block_span(0), store.fetch_of(1, SIZE))
        store.error = None
        assert await cache.read_span(ONE, SIZE, block_span(0), store.fetch_of(1, SIZE)) == DATA[:B]


@pytest.mark.trio
@pytest.mark.parametrize("wrong", [0, 1, 2 * B - 1, 2 * B + 1])
async def test_a_fetch_of_another_length_is_an_error_and_never_data(wrong: int) -> None:
    async def fetch(span: Span) -> bytes:
        await trio.lowlevel.checkpoint()
        return bytes(wrong)

    async with running(None) as cache:
        with pytest.raises(Unavailable):
            await cache.read_span(ONE, SIZE, block_span(0, 2), fetch)
        assert cache.statistics().memory_bytes == 0


@pytest.mark.trio
async def test_a_demand_goes_before_read_ahead_that_is_queued() -> None:
    store = Store()
    size = 1000 * B
    async with running(None, limits(fetches=1)) as cache:
        reader = cache.reader(ONE, size, store.fetch_of(1, size))
        await reader.read(Span(0, 30 * B))
        await settle(cache)
        store.asked.clear()
        store.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, Span(30 * B, 60 * B))  # its read-ahead takes several fetches
            await store.wait_asked(1)
            nursery.start_soon(cache.read_span, ContentId(2), B, Span(0, B), store.fetch_of(2, B))
            await trio.testing.wait_all_tasks_blocked()
            store.release()
        await settle(cache)
        assert store.asked[:2] == [(1, block_span(30, 30)), (2, block_span(0))]
        assert len(store.asked) > 2


@pytest.mark.trio
async def test_with_one_fetch_at_a_time_the_demand_is_fetched_first() -> None:
    """The read-ahead that a read sets off must not slip in before the read."""
    store = Store()
    size = 1000 * B
    async with running(None, limits(fetches=1)) as cache:
        reader = cache.reader(ONE, size, store.fetch_of(1, size))
        for start in range(0, 300, 3):
            seek = 300 + start if start % 9 == 0 else start
            await reader.read(block_span(seek, 2))
        await settle(cache)
        store.asked.clear()
        await reader.read(block_span(900, 2))
        await reader.read(block_span(902, 2))
        await settle(cache)
        assert store.spans[:2] == [block_span(900, 2), block_span(902, 2)]
        assert len(store.spans) > 2


@pytest.mark.trio
async def test_read_ahead_that_a_reader_waits_for_is_a_demand() -> None:
    store = Store()
    async with running(None, limits(fetches=2)) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        await reader.read(block_span(0))
        cache.store(ONE, BlockIndex(1), DATA[B : 2 * B])
        store.held = True
        assert reader.read_nowait(block_span(1)) is not None
        other = cache.reader(ContentId(2), SIZE, store.fetch_of(2, SIZE))
        for block in range(2):
            cache.store(ContentId(2), BlockIndex(block), cleartext(2, SIZE)[block * B : (block + 1) * B])
            assert other.read_nowait(block_span(block)) is not None
        await store.wait_asked(2)
        await trio.testing.wait_all_tasks_blocked()
        assert store.asked[1:] == [(1, block_span(2, 8))], "the other slot is for demands"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, block_span(2))
            await store.wait_asked(3)
            assert store.asked[2:] == [(2, block_span(2, 8))]
            store.release()


@pytest.mark.trio
async def test_a_seek_drops_read_ahead_that_did_not_begin() -> None:
    store = Store()
    size = 2000 * B
    async with running(None, limits(fetches=2)) as cache:
        reader = cache.reader(ONE, size, store.fetch_of(1, size))
        await reader.read(Span(0, 64 * B))
        store.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, Span(64 * B, 65 * B))  # asks for up to 128 blocks ahead
            await store.wait_asked(4)
            nursery.start_soon(reader.read, block_span(1500))
            await trio.testing.wait_all_tasks_blocked()
            store.release()
        await settle(cache)
        ahead = [span for span in store.spans if 65 * B <= span.start < 1500 * B]
        assert len(ahead) == 1, "only the fetch that was running when the reader went away"
        assert block_span(1500) in store.spans
        assert cache.statistics().prefetched_bytes == 0


@pytest.mark.trio
async def test_a_seek_right_after_a_run_began_leaves_the_link_to_the_new_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "HESITATION", PATIENCE)
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        for block in (0, 1, 30):
            await reader.read(block_span(block))
        await settle(cache)
        assert store.spans == [block_span(block) for block in (0, 1, 30)]
        assert cache.statistics().prefetched_bytes == 0


@pytest.mark.trio
async def test_who_reads_on_does_not_wait_for_what_hesitates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "HESITATION", PATIENCE)
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        for block in range(3):
            await reader.read(block_span(block))
        assert store.spans == [block_span(0), block_span(1), block_span(2, 8)]
        reader.close()


@pytest.mark.trio
async def test_what_hesitates_is_fetched_when_nothing_comes_after_it() -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        for block in range(2):
            await reader.read(block_span(block))
        await store.wait_asked(3)
        reader.close()


@pytest.mark.trio
async def test_a_sequential_reader_is_read_ahead_for_within_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "HESITATION", PATIENCE)
    store = Store()
    size = 400 * B
    async with running(None) as cache:
        reader = cache.reader(ONE, size, store.fetch_of(1, size))
        waited = 0
        for block in range(400):
            if reader.read_nowait(block_span(block)) is None:
                waited += 1
                await reader.read(block_span(block))
            furthest = max(span.stop for span in store.spans)
            assert furthest <= (block + 1) * B + (16 << 20) + B
            await trio.testing.wait_all_tasks_blocked()
        assert waited == 3, "the first two blocks, and the third, which ends the hesitation"
        assert len(store.asked) < 40, "and in large requests"
        assert cache.statistics().prefetched_bytes == 0
        reader.close()


@pytest.mark.trio
async def test_what_is_expected_to_be_read_is_fetched_with_the_first_read_and_in_order() -> None:
    size = 6 * LONGEST_RUN * B
    for _ in range(10):  # tasks that begin together run in any order
        store = Store()
        async with running(None) as cache, trio.open_nursery() as nursery:
            await cache.read_span(ContentId(2), size, block_span(0, 2 * LONGEST_RUN), store.fetch_of(2, size))
            store.asked.clear()
            store.held = True
            reader = cache.reader(ONE, size, store.fetch_of(1, size))
            reader.expect(Span(0, size), sealed=False)
            nursery.start_soon(reader.read, Span(0, B))
            await store.wait_asked(2)
            assert sorted(store.spans, key=lambda span: span.start) == [block_span(0), block_span(1, LONGEST_RUN)]
            nursery.start_soon(reader.read, block_span(1, LONGEST_RUN))
            await store.wait_asked(6)
            assert store.spans[2:] == [block_span(1 + LONGEST_RUN * number, LONGEST_RUN) for number in range(1, 5)]
            store.release()


@pytest.mark.trio
async def test_closing_gives_up_what_was_read_ahead() -> None:
    store = Store()
    size = 400 * B
    async with running(None) as cache:
        reader = cache.reader(ONE, size, store.fetch_of(1, size))
        await reader.read(Span(0, B))
        await reader.read(Span(B, 2 * B))
        await settle(cache)
        assert cache.statistics().prefetched_bytes == 8 * B
        assert cache.statistics().open_readers == 1
        reader.close()
        reader.close()
        assert cache.statistics().prefetched_bytes == 0
        assert cache.statistics().open_readers == 0
        assert bytes(reader.read_nowait(block_span(0)) or b"") == cleartext(1, size)[:B]
        assert bytes(await reader.read(block_span(300))) == cleartext(1, size)[300 * B : 301 * B]
        assert cache.statistics().prefetched_bytes == 0


@pytest.mark.trio
async def test_failed_read_ahead_is_tried_again_by_the_read_alone() -> None:
    store = Store()
    size = 400 * B
    async with running(None) as cache:
        reader = cache.reader(ONE, size, store.fetch_of(1, size))
        await reader.read(Span(0, B))
        store.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, Span(B, 2 * B))
            await store.wait_asked(3)
            nursery.cancel_scope.cancel()
        store.error = Unavailable("no network")
        store.release()
        await settle(cache)
        await trio.testing.wait_all_tasks_blocked()
        assert cache.statistics().prefetched_bytes == 0
        assert len(store.asked) == 3, "the failure is not repeated by itself"
        store.error = None
        assert bytes(await reader.read(block_span(2))) == cleartext(1, size)[2 * B : 3 * B]


@pytest.mark.trio
async def test_warming_loads_a_head_and_nothing_twice() -> None:
    store = Store()
    async with running(None) as cache:
        cache.warm(ONE, SIZE, Span(0, 1000), store.fetch_of(1, SIZE))
        cache.warm(ONE, SIZE, Span(0, 1000), store.fetch_of(1, SIZE))
        await store.wait_asked(1)
        await trio.testing.wait_all_tasks_blocked()
        cache.warm(ONE, SIZE, Span(0, 1000), store.fetch_of(1, SIZE))
        await trio.testing.wait_all_tasks_blocked()
        assert store.spans == [block_span(0)]
        assert cache.reader(ONE, SIZE, store.fetch_of(1, SIZE)).read_nowait(Span(0, 1000)) is not None
        assert cache.statistics().prefetched_bytes == 0


@pytest.mark.trio
async def test_many_heads_are_fetched_at_a_time_beside_a_reader() -> None:
    store = Store()
    async with running(None, limits(fetches=1)) as cache:
        store.held = True
        for content in range(2, MOST_HEADS + 4):
            cache.warm(ContentId(content), B, Span(0, B), store.fetch_of(content, B))
        await trio.testing.wait_all_tasks_blocked()
        assert len(store.asked) == MOST_HEADS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.reader(ONE, SIZE, store.fetch_of(1, SIZE)).read, block_span(0))
            await store.wait_asked(MOST_HEADS + 1)
            assert store.asked[MOST_HEADS:] == [(1, block_span(0))], "they take no slot from it"
            store.release()
        await store.wait_asked(MOST_HEADS + 3)


@pytest.mark.trio
async def test_a_stored_block_is_a_copy_and_a_hit() -> None:
    store = Store()
    async with running(None) as cache:
        buffer = bytearray(DATA[:B])
        cache.store(ONE, BlockIndex(0), memoryview(buffer))
        buffer[:] = bytes(B)
        assert cache.reader(ONE, SIZE, store.fetch_of(1, SIZE)).read_nowait(block_span(0)) == DATA[:B]
        cache.store(ONE, BlockIndex(1), DATA[B : B + 10])
        assert cache.reader(ONE, SIZE, store.fetch_of(1, SIZE)).read_nowait(block_span(1)) is None, "not all of it"
        assert await cache.read_span(ONE, SIZE, block_span(1), store.fetch_of(1, SIZE)) == DATA[B : 2 * B]


@pytest.mark.trio
async def test_a_forgotten_content_leaves_memory_and_its_flights_bring_nothing_in() -> None:
    store = Store()
    async with running(None) as cache:
        await cache.read_span(ONE, SIZE, block_span(0, 3), store.fetch_of(1, SIZE))
        store.held = True
        got: list[bytes] = []

        async def read() -> None:
            got.append(await cache.read_span(ONE, SIZE, block_span(5), store.fetch_of(1, SIZE)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await store.wait_asked(2)
            cache.forget(ONE)
            store.release()
        assert got == [DATA[5 * B : 6 * B]], "who waited gets it"
        assert cache.statistics().memory_bytes == 0


@pytest.mark.trio
async def test_a_cache_smaller_than_a_read_still_reads() -> None:
    store = Store()
    async with running(None, limits(memory=B)) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        assert bytes(await reader.read(Span(0, SIZE))) == DATA
        assert cache.statistics().memory_bytes <= B


@pytest.mark.trio
async def test_readers_of_an_ending_cache_get_an_error_at_once() -> None:
    store = Store()
    store.held = True
    cache = BlockCache(seal=None, directory=None, limits=limits(fetches=1))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as readers:

            async def read(content: int) -> None:
                with pytest.raises(Unavailable):
                    await cache.read_span(ContentId(content), SIZE, block_span(0), store.fetch_of(content, SIZE))

            async with trio.open_nursery() as nursery:
                await nursery.start(cache.run)
                for content in (1, 2):  # one that is being fetched, one that waits at the gate
                    readers.start_soon(read, content)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with pytest.raises(Unavailable):
            await cache.read_span(ONE, SIZE, block_span(0), store.fetch_of(1, SIZE))
    assert cache.statistics().fetches_in_flight == 0


@pytest.mark.trio
async def test_readers_that_come_while_the_cache_ends_get_an_error() -> None:
    store = Store()

    async def read(cache: BlockCache, content: int) -> None:
        with pytest.raises(Unavailable):
            await cache.read_span(ContentId(content), SIZE, block_span(0), store.fetch_of(content, SIZE))

    for steps in range(60):  # the order within a step is random
        cache = BlockCache(seal=None, directory=None, limits=limits())
        async with trio.open_nursery() as readers, trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for _ in range(steps % 4):
                    await trio.lowlevel.checkpoint()
            readers.start_soon(read, cache, 1)


@pytest.mark.trio
async def test_memory_answers_also_when_the_cache_does_not_run() -> None:
    store = Store()
    cache = BlockCache(seal=None, directory=None, limits=limits())
    cache.store(ONE, BlockIndex(0), DATA[:B])
    reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
    assert reader.read_nowait(block_span(0)) == DATA[:B]
    with pytest.raises(Unavailable):
        await reader.read(block_span(1))


@pytest.mark.trio
async def test_hits_and_misses_are_counted_in_blocks() -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        await reader.read(block_span(0, 3))
        reader.read_nowait(block_span(0, 2))
        await reader.read(block_span(2, 2))
        counted = cache.statistics()
        assert (counted.misses, counted.hits) == (4, 3)
