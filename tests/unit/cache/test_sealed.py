"""What a thread reads from the disk cache by itself: the right bytes, or none."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import trio

from serpentfs.cache.layers import BlockCache, Reader
from serpentfs.cache.seal import HEADER_SIZE, SLOT_SIZE
from serpentfs.cache.sealed import SealedSpan
from serpentfs.model import BLOCK_SIZE, ContentId, Span
from tests.unit.cache.harness import SEAL, Store, cleartext, limits, running, settle, slot_file, write_slots

B = BLOCK_SIZE
SIZE = 40 * B + 1000
ONE = ContentId(1)
DATA = cleartext(1, SIZE)


def joined(sealed: SealedSpan | None) -> bytes:
    assert sealed is not None
    return b"".join(itertools.chain.from_iterable(sealed.pieces()))


def hold(directory: Path, blocks: list[int] | range) -> None:
    """Before the cache starts: these blocks of content ONE are on disk."""
    write_slots(slot_file(directory, ONE), ONE, SIZE, list(blocks))


async def reader_of(cache: BlockCache, store: Store) -> Reader:
    """Of content ONE. Its last bytes were read, so that the cache knows what the disk holds."""
    reader = cache.reader(ONE, SIZE, store.fetch_of(ONE, SIZE))
    assert reader.sealed(Span(0, SIZE)) is None, "nobody has looked yet"
    await reader.read(Span(SIZE - 1, SIZE))
    return reader


@pytest.mark.parametrize(
    "span", [Span(0, SIZE), Span(1, 10 * B + 1), Span(B, 9 * B), Span(5, 6), Span(39 * B + 7, SIZE), Span(3, 16 * B)]
)
@pytest.mark.trio
async def test_a_span_that_the_disk_holds(tmp_path: Path, span: Span) -> None:
    store = Store()
    hold(tmp_path, range(41))
    async with running(tmp_path) as cache:
        reader = await reader_of(cache, store)
        sealed = reader.sealed(span)
        assert sealed is not None
        assert sealed.span == span
        pieces = await trio.to_thread.run_sync(lambda: [b"".join(piece) for piece in sealed.pieces()])
        assert b"".join(pieces) == DATA[span.start : span.stop]
        assert max(map(len, pieces)) <= 4 * B
        await settle(cache)
        assert store.asked == []
        assert cache.statistics().prefetched_bytes == 0, "nothing is loaded that the thread reads"
        reader.close()
        assert reader.sealed(span) is None


@pytest.mark.trio
async def test_it_ends_where_the_disk_holds_no_more(tmp_path: Path) -> None:
    store = Store()
    hold(tmp_path, [0, 1, 2, 3, 8, 40])
    async with running(tmp_path) as cache:
        reader = await reader_of(cache, store)
        sealed = reader.sealed(Span(10, SIZE))
        assert sealed is not None
        assert sealed.span.stop in (4 * B, 5 * B), "the header of a slot may share a page with the one before"
        assert joined(sealed) == DATA[10 : 4 * B]
        assert reader.sealed(Span(6 * B, SIZE)) is None
        assert reader.sealed(Span(SIZE, SIZE + 5)) is None
        assert bytes(await reader.read(Span(4 * B, 6 * B))) == DATA[4 * B : 6 * B]
        await settle(cache)
        assert any(span.start <= 6 * B < span.stop for span in store.spans), "what is not on disk is read ahead"
        assert not any(span.start <= 8 * B < span.stop for span in store.spans)


@pytest.mark.trio
async def test_what_memory_holds_is_not_read_from_disk(tmp_path: Path) -> None:
    hold(tmp_path, range(41))
    async with running(tmp_path) as cache:
        reader = await reader_of(cache, Store())
        assert reader.sealed(Span(40 * B, SIZE)) is None
        assert reader.read_nowait(Span(40 * B, SIZE)) is not None


@pytest.mark.trio
async def test_without_a_disk_there_is_none() -> None:
    store = Store()
    async with running(None) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(ONE, SIZE))
        await reader.read(Span(0, B))
        assert reader.sealed(Span(B, SIZE)) is None


@pytest.mark.trio
@pytest.mark.parametrize("fault", ["damaged", "gone", "short", "empty"])
async def test_a_fault_ends_it_early_and_a_read_makes_it_good(tmp_path: Path, fault: str) -> None:
    store = Store()
    hold(tmp_path, range(41))
    async with running(tmp_path, limits(memory=B + 1024)) as cache:
        reader = await reader_of(cache, store)
        sealed = reader.sealed(Span(0, SIZE))
        assert sealed is not None
        with sealed.path.open("r+b") as file:
            file.seek(10 * SLOT_SIZE + (HEADER_SIZE if fault == "damaged" else 0))
            if fault == "short":
                file.truncate()
            else:
                file.write(bytes(HEADER_SIZE))
        if fault == "gone":
            sealed.path.unlink()
        read = joined(sealed)
        assert read == DATA[: 0 if fault == "gone" else 10 * B]
        rest = bytes(await reader.read(Span(len(read), SIZE)))
        assert read + rest == DATA
        assert store.asked


@pytest.mark.trio
async def test_a_content_that_was_forgotten_is_read_to_its_end(tmp_path: Path) -> None:
    hold(tmp_path, range(41))
    async with running(tmp_path) as cache:
        reader = await reader_of(cache, Store())
        sealed = reader.sealed(Span(0, SIZE))
        assert sealed is not None
        pieces = sealed.pieces()
        first = next(pieces)
        cache.forget(ONE)
        await cache.wait_written()
        assert not sealed.path.exists()
        assert b"".join(itertools.chain(first, *pieces)) == DATA
        assert joined(sealed) == b""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nobody counts descriptors")
def test_one_that_is_not_used_to_its_end_leaves_no_descriptor(tmp_path: Path) -> None:
    write_slots(slot_file(tmp_path, ONE), ONE, SIZE, [*range(41)])
    before = os.listdir("/proc/self/fd")
    pieces = SealedSpan(slot_file(tmp_path, ONE), SEAL, ONE, SIZE, Span(0, SIZE)).pieces()
    next(pieces)
    pieces.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
