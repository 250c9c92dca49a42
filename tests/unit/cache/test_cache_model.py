"""The whole cache against a dict of contents: whatever happens to it, a read gives the content's bytes or the
fetch's error."""

import errno
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serpentfs.cache.layers import BlockCache, CacheLimits, Reader
from serpentfs.cache.seal import SLOT_SIZE
from serpentfs.errors import Unavailable
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span
from tests.unit.cache.harness import PATIENCE, SEAL, cleartext, settle, slot_file, slot_files

B = BLOCK_SIZE
T = TypeVar("T")
SIZES = [1, 4095, B - 1, B, B + 1, 3 * B + 17, 9 * B]
LIMITS = CacheLimits(
    memory_bytes=5 * B,
    disk_bytes=20 * B,
    free_space_floor=0,
    prefetch_bytes=2 * B,
    window_bytes=4 * B,
    parallel_fetches=2,
)


class Loop:
    """A trio loop in a thread, in which the cache lives from one step of the machine to the next."""

    def __init__(self) -> None:
        started: Future[trio.lowlevel.TrioToken] = Future()
        self._end = trio.Event()

        async def main() -> None:
            started.set_result(trio.lowlevel.current_trio_token())
            await self._end.wait()

        self._thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
        self._thread.start()
        self._token = started.result(PATIENCE)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        async def in_time() -> T:
            with trio.fail_after(PATIENCE):
                return await function()

        return trio.from_thread.run(in_time, trio_token=self._token)

    def call(self, function: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(function, trio_token=self._token)

    def end(self) -> None:
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class RunningCache:
    """A cache whose ``run`` is a system task of the loop, so that it outlives the step that started it."""

    def __init__(self, directory: Path) -> None:
        self.cache = BlockCache(seal=SEAL, directory=directory, limits=LIMITS)
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self) -> None:
        started = trio.Event()

        async def run() -> None:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.cache.run)
                    started.set()
            self._ended.set()

        trio.lowlevel.spawn_system_task(run)
        await started.wait()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()


class CacheMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="serpentfs-cache-test-"))
        self.loop = Loop()
        self.sizes: dict[int, int] = {}
        self.next_content = 1
        self.online = True
        self.readers: list[tuple[int, Reader]] = []
        self.pwrite = os.pwrite
        self._open_cache()

    def _open_cache(self) -> None:
        async def start() -> RunningCache:
            running = RunningCache(self.directory)
            await running.start()
            return running

        self.running = self.loop.run(start)

    @property
    def cache(self) -> BlockCache:
        return self.running.cache

    async def _fetch(self, content: int, span: Span) -> bytes:
        assert span.start % B == 0
        assert span.stop % B == 0 or span.stop == self.sizes[content]
        await trio.lowlevel.checkpoint()
        if not self.online:
            raise Unavailable("no network")
        return cleartext(content, self.sizes[content])[span.start : span.stop]

    def _fetch_of(self, content: int) -> Callable[[Span], Awaitable[bytes]]:
        return lambda span: self._fetch(content, span)

    def _check(self, content: int, span: Span, read: Callable[[], Awaitable[bytes | memoryview]]) -> None:
        try:
            got = self.loop.run(read)
        except Unavailable:
            assert not self.online
            return
        assert got == cleartext(content, self.sizes[content])[span.start : span.stop]

    @rule(size=st.sampled_from(SIZES))
    def appear(self, size: int) -> None:
        self.sizes[self.next_content] = size
        self.next_content += 1

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), place=st.floats(0, 1), length=st.integers(0, 4 * B))
    def read(self, data: st.DataObject, place: float, length: int) -> None:
        content = data.draw(st.sampled_from(sorted(self.sizes)))
        size = self.sizes[content]
        span = Span(int(place * size), int(place * size) + length)
        fetch = self._fetch_of(content)
        self._check(content, span, lambda: self.cache.read_span(ContentId(content), size, span, fetch))

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), seed=st.integers(0, 1000))
    def read_together(self, data: st.DataObject, seed: int) -> None:
        """Several readers of one content at once, of which some are cancelled somewhere on the way."""
        content = data.draw(st.sampled_from(sorted(self.sizes)))
        size = self.sizes[content]
        choose = random.Random(seed)
        expected = cleartext(content, size)

        async def read(span: Span, patience: int | None) -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    if patience is not None:
                        nursery.start_soon(cancel, scope, patience)
                    try:
                        got = await self.cache.read_span(ContentId(content), size, span, self._fetch_of(content))
                    except Unavailable:
                        assert not self.online
                    else:
                        assert got == expected[span.start : span.stop]
                    nursery.cancel_scope.cancel()

        async def cancel(scope: trio.CancelScope, patience: int) -> None:
            for _ in range(patience):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        async def together() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    start = choose.randrange(size)
                    span = Span(start, min(size, start + choose.randrange(3 * B)))
                    nursery.start_soon(read, span, choose.choice([None, 1, 2, 5, 20]))

        self.loop.run(together)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(sorted(self.sizes)))
        size = self.sizes[content]
        reader = self.loop.call(lambda: self.cache.reader(ContentId(content), size, self._fetch_of(content)))
        self.readers.append((content, reader))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), start=st.integers(0, 9 * B), lengths=st.lists(st.integers(1, 2 * B), min_size=1, max_size=6))
    def read_on(self, data: st.DataObject, start: int, lengths: list[int]) -> None:
        content, reader = data.draw(st.sampled_from(self.readers))
        for length in lengths:
            span = Span(start, start + length)
            here = self.loop.call(lambda span=span: reader.read_nowait(span))  # type: ignore[misc]
            if here is not None:
                assert here == cleartext(content, self.sizes[content])[span.start : span.stop]
            else:
                self._check(content, span, lambda span=span: reader.read(span))  # type: ignore[misc]
            start = span.stop

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.readers) - 1))
        _, reader = self.readers.pop(number)
        self.loop.call(reader.close)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(sorted(self.sizes)))
        block = data.draw(st.integers(0, (self.sizes[content] - 1) // B))
        known = cleartext(content, self.sizes[content])[block * B : (block + 1) * B]
        self.loop.call(lambda: self.cache.store(ContentId(content), BlockIndex(block), known))

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def warm(self, data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(sorted(self.sizes)))
        size, fetch = self.sizes[content], self._fetch_of(content)
        self.loop.call(lambda: self.cache.warm(ContentId(content), size, Span(0, 1), fetch))

    @rule(size=st.sampled_from(SIZES), data=st.data())
    def adopt(self, size: int, data: st.DataObject) -> None:
        content = self.next_content
        self.appear(size)
        blocks = range(-(-size // B))
        kept = data.draw(st.sets(st.sampled_from([BlockIndex(block) for block in blocks])))
        source = self.directory / "staging"
        # What is not adopted holds other bytes that authenticate: an older state of the same content.
        stale = {BlockIndex(block): b"s" * min(B, size - block * B) for block in blocks}
        current = {block: cleartext(content, size)[block * B : (block + 1) * B] for block in kept}
        with source.open("wb") as file:
            for block, block_data in {**stale, **current}.items():
                file.seek(block * SLOT_SIZE)
                slot = bytearray(SLOT_SIZE)
                file.write(slot[: SEAL.seal_into(ContentId(content), block, block_data, memoryview(slot))])
        self.loop.run(lambda: self.cache.adopt(ContentId(content), source, kept))
        assert not source.exists()

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(sorted(self.sizes)))
        if any(open_content == content for open_content, _ in self.readers):
            return
        del self.sizes[content]

        async def forget() -> None:
            self.cache.forget(ContentId(content))
            await settle(self.cache)

        self.loop.run(forget)
        if self.loop.call(self.cache.statistics).disk_usable:
            assert slot_file(self.directory, content) not in slot_files(self.directory)

    @rule(seed=st.integers(0, 1000))
    def damage(self, seed: int) -> None:
        """Bytes of a slot file change, or its end is cut off."""
        choose = random.Random(seed)
        files = [path for path in slot_files(self.directory) if path.stat().st_size]
        if not files:
            return
        path = choose.choice(files)
        size = path.stat().st_size
        if choose.random() < 0.3:
            os.truncate(path, choose.randrange(size + 1))
            return
        with path.open("r+b") as file:
            place = choose.randrange(size)
            file.seek(place if choose.random() < 0.5 else place // SLOT_SIZE * SLOT_SIZE)
            file.write(choose.randbytes(20))

    @rule(seed=st.integers(0, 1000))
    def lose_a_file(self, seed: int) -> None:
        files = slot_files(self.directory)
        if files:
            random.Random(seed).choice(files).unlink()

    @rule()
    def fill_the_disk(self) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        os.pwrite = full

    @rule()
    def go_offline_or_online(self) -> None:
        self.online = not self.online

    @rule()
    def settle(self) -> None:
        self.loop.run(lambda: settle(self.cache))

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        """Orderly, or with whatever was written by then."""
        for _, reader in self.readers:
            self.loop.call(reader.close)
        self.readers.clear()
        if not crash:
            self.loop.run(lambda: settle(self.cache))
            ended = self.loop.call(self.cache.statistics)
            assert (ended.prefetched_bytes, ended.flights, ended.queued_write_bytes, ended.open_readers) == (0, 0, 0, 0)
        self.loop.run(self.running.stop)
        os.pwrite = self.pwrite
        self._open_cache()

    @invariant()
    def budgets_hold(self) -> None:
        if not hasattr(self, "running"):
            return
        now = self.loop.call(self.cache.statistics)
        assert now.memory_bytes <= LIMITS.memory_bytes
        assert now.disk_bytes <= LIMITS.disk_bytes
        assert now.prefetched_bytes <= LIMITS.prefetch_bytes
        assert now.fetches_in_flight <= LIMITS.parallel_fetches

    def teardown(self) -> None:
        if not hasattr(self, "running"):
            return
        self.online = True
        for content, size in self.sizes.items():
            fetch = self._fetch_of(content)
            self._check(
                content,
                Span(0, size),
                lambda content=content, size=size, fetch=fetch: self.cache.read_span(  # type: ignore[misc]
                    ContentId(content), size, Span(0, size), fetch
                ),
            )
        self.restart(crash=False)
        self.loop.run(self.running.stop)
        self.loop.end()
        shutil.rmtree(self.directory)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=40, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
