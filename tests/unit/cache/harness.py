"""A running cache, contents with known bytes, and a fetch that counts and can be held back."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path

import trio

from serpentfs.cache import slots
from serpentfs.cache.layers import BlockCache, CacheLimits, Fetch
from serpentfs.cache.seal import BlockSeal
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span

SEAL = BlockSeal(bytes(range(32)), b"remote")
PATIENCE = 60
"""Seconds after which a test that hangs fails; the machine may be busy."""


@lru_cache(maxsize=64)
def cleartext(content: int, size: int) -> bytes:
    """The bytes of a content: a function of its id. They repeat, but no two blocks are alike."""
    period = random.Random(content).randbytes(1_000_003)
    return (period * (size // len(period) + 1))[:size]


def block_span(first: int, count: int = 1) -> Span:
    return Span(first * BLOCK_SIZE, (first + count) * BLOCK_SIZE)


def limits(
    memory: int = 64 << 20, disk: int = 1 << 30, floor: int = 0, prefetch: int = 32 << 20, fetches: int = 8
) -> CacheLimits:
    return CacheLimits(
        memory_bytes=memory, disk_bytes=disk, free_space_floor=floor, prefetch_bytes=prefetch, parallel_fetches=fetches
    )


@asynccontextmanager
async def running(
    directory: Path | None, chosen: CacheLimits | None = None, seal: BlockSeal = SEAL
) -> AsyncIterator[BlockCache]:
    cache = BlockCache(seal=seal, directory=directory, limits=chosen or limits())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            yield cache
            nursery.cancel_scope.cancel()


class Store:
    """Where contents are fetched from. ``asked`` lists every span; while ``held`` fetches wait for ``release``."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Span]] = []
        self.running = 0
        self.most_running = 0
        self.held = False
        self.error: Exception | None = None
        self._gate = trio.Event()
        self._arrivals = trio.lowlevel.ParkingLot()

    def fetch_of(self, content: int, size: int) -> Fetch:
        data = cleartext(content, size)

        async def fetch(span: Span) -> bytes:
            self.asked.append((content, span))
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            self._arrivals.unpark_all()
            try:
                if self.held:
                    await self._gate.wait()
                await trio.lowlevel.checkpoint()
                if self.error is not None:
                    raise self.error
                return data[span.start : span.stop]
            finally:
                self.running -= 1

        return fetch

    def release(self) -> None:
        self.held = False
        self._gate.set()

    async def wait_asked(self, count: int) -> None:
        while len(self.asked) < count:
            await self._arrivals.park()

    @property
    def spans(self) -> list[Span]:
        return [span for _, span in self.asked]


async def read_all(cache: BlockCache, store: Store, content: int, size: int) -> bytes:
    return await cache.read_span(ContentId(content), size, Span(0, size), store.fetch_of(content, size))


def slot_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def slot_file(directory: Path, content: int) -> Path:
    return slots.path_of(directory, ContentId(content))


def write_slots(path: Path, content: int, size: int, blocks: list[int], seal: BlockSeal = SEAL) -> None:
    """A slot file as staging makes one."""
    data = cleartext(content, size)
    parts = {BlockIndex(block): data[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] for block in blocks}
    slots.write(path, seal, ContentId(content), parts)


async def settle(cache: BlockCache) -> None:
    """Until nothing is loaded and no disk write waits."""
    while cache.statistics().flights:
        await trio.lowlevel.checkpoint()
    await cache.wait_written()
