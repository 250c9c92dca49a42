"""Sixty-four readers at once: every budget holds at every moment, and every gauge ends at zero."""

import random
from pathlib import Path

import pytest
import trio

from serpentfs.cache import slots
from serpentfs.cache.layers import BlockCache, CacheLimits
from serpentfs.model import BLOCK_SIZE, ContentId, Span
from tests.unit.cache.harness import Store, cleartext, running, settle, slot_files

B = BLOCK_SIZE
READERS = 64
CONTENTS = 24
LIMITS = CacheLimits(
    memory_bytes=24 * B,
    disk_bytes=100 * B,
    free_space_floor=0,
    prefetch_bytes=10 * B,
    window_bytes=16 * B,
    parallel_fetches=5,
)


def size_of(content: int) -> int:
    return (content % 7) * 5 * B + content * 1001


class Watch:
    """The largest value of every gauge, looked at whenever something changes."""

    def __init__(self, cache: BlockCache) -> None:
        self.cache = cache
        self.memory = self.disk = self.prefetched = self.fetches = 0

    def look(self) -> None:
        now = self.cache.statistics()
        self.memory = max(self.memory, now.memory_bytes)
        self.disk = max(self.disk, now.disk_bytes)
        self.prefetched = max(self.prefetched, now.prefetched_bytes)
        self.fetches = max(self.fetches, now.fetches_in_flight)


async def read_somehow(cache: BlockCache, store: Store, watch: Watch, number: int) -> None:
    """Read a content in order, with jumps, or at random; compare every byte."""
    choose = random.Random(number)
    content = 1 + number % CONTENTS
    size = size_of(content)
    data = cleartext(content, size)
    fetch = store.fetch_of(content, size)

    async def watched(span: Span) -> bytes:
        watch.look()
        try:
            return await fetch(span)
        finally:
            watch.look()

    reader = cache.reader(ContentId(content), size, watched)
    position = 0
    for _ in range(40):
        length = choose.choice([4096, B, B + 1, 3 * B])
        if (number % 3 == 1 and choose.random() < 0.2) or number % 3 == 2:
            position = choose.randrange(size)
        span = Span(position, position + length).clamp(size)
        got = reader.read_nowait(span)
        if got is None:
            got = await reader.read(span)
        assert got == data[span.start : span.stop]
        watch.look()
        position = span.stop if span.stop < size else 0
    reader.close()
    watch.look()


@pytest.mark.trio
async def test_budgets_hold_under_many_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most_on_disk = 0
    write = slots.write

    def watched(path: Path, *rest: object) -> None:
        nonlocal most_on_disk
        write(path, *rest)  # type: ignore[arg-type]
        most_on_disk = max(most_on_disk, sum(file.stat().st_blocks * 512 for file in slot_files(tmp_path)))

    monkeypatch.setattr(slots, "write", watched)
    store = Store()
    async with running(tmp_path, LIMITS) as cache:
        watch = Watch(cache)
        async with trio.open_nursery() as nursery:
            for number in range(READERS):
                nursery.start_soon(read_somehow, cache, store, watch, number)
        await settle(cache)
        assert 0 < watch.memory <= LIMITS.memory_bytes
        assert 0 < watch.prefetched <= LIMITS.prefetch_bytes
        assert 1 < watch.fetches <= LIMITS.parallel_fetches
        assert store.most_running == watch.fetches
        # On a busy machine all is read before the first block is written: what counts is what there was at any time.
        assert watch.disk <= LIMITS.disk_bytes
        assert 0 < cache.statistics().disk_bytes <= LIMITS.disk_bytes
        assert 0 < most_on_disk <= LIMITS.disk_bytes
        ended = cache.statistics()
        assert (ended.prefetched_bytes, ended.flights, ended.fetches_in_flight) == (0, 0, 0)
        assert (ended.queued_write_bytes, ended.open_readers) == (0, 0)
        for content in range(1, CONTENTS + 1):
            cache.forget(ContentId(content))
        await settle(cache)
        assert cache.statistics().memory_bytes == cache.statistics().disk_bytes == 0
        assert slot_files(tmp_path) == []
