"""The sealed disk under the cache: restarts, budgets, faults, adoption, and nothing readable."""

import errno
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from serpentfs.cache import disk, slots
from serpentfs.cache.layers import BlockCache
from serpentfs.cache.memory import ENTRY_OVERHEAD
from serpentfs.cache.seal import HEADER_SIZE, PART_SIZE, SEALED_PART, SLOT_SIZE, BlockSeal
from serpentfs.errors import Unavailable
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span
from tests.unit.cache.harness import (
    PATIENCE,
    SEAL,
    Store,
    block_span,
    cleartext,
    limits,
    read_all,
    running,
    settle,
    slot_file,
    slot_files,
    write_slots,
)

B = BLOCK_SIZE
SIZE = 5 * B + 1000
ONE = ContentId(1)
DATA = cleartext(1, SIZE)
FILE = sum(slots.slot_charge(block, min(B, SIZE - block * B)) for block in range(6)) + slots.FILE_CHARGE
"""What a whole content of SIZE bytes is charged."""


@pytest.fixture(params=["page cache", "threads"], autouse=True)
def inline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read: on the loop what the page cache has, and in threads."""
    if request.param == "threads":
        monkeypatch.setattr(slots, "NOWAIT", None)


@pytest.mark.trio
async def test_a_cache_in_memory_is_read_on_the_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    if slots.NOWAIT is None:
        pytest.skip("reads in threads are meant")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        store = Store()
        async with running(Path(directory)) as cache:
            await read_all(cache, store, 1, SIZE)
            await settle(cache)
        async with running(Path(directory)) as cache:
            assert await read_offline(cache, 1, span=Span(0, 10)) == DATA[:10]  # opens the file, and is refused NOWAIT
            assert await read_offline(cache, 1, span=Span(B, B + 10)) == DATA[B : B + 10]
            monkeypatch.setattr(slots, "read", None)
            assert await read_offline(cache, 1, span=Span(2 * B, 3 * B)) == DATA[2 * B : 3 * B]
            before = cache.statistics()
            reader = cache.reader(ONE, SIZE, offline)
            assert reader.read_nowait(Span(B, SIZE)) == DATA[B:]
            after = cache.statistics()
            assert (after.disk_blocks - before.disk_blocks, after.memory_hits - before.memory_hits) == (3, 2)
            assert after.hits - before.hits == 5


@pytest.mark.trio
async def test_a_reader_that_jumps_opens_parts_and_one_that_goes_on_takes_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if slots.NOWAIT is None:
        pytest.skip("reads in threads are meant")
    size = 100 * B + 5000
    data = cleartext(1, size)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        write_slots(slot_file(Path(directory), 1), 1, size, list(range(101)))
        async with running(Path(directory)) as cache:
            for block in (90, 91):  # opens the file, and is refused NOWAIT
                assert await read_offline(cache, 1, size, Span(block * B, block * B + 10)) == data[block * B :][:10]
            whole = slots.read_cached
            monkeypatch.setattr(slots, "read_cached", None)
            spans = [Span(7, 4103), Span(50 * B + PART_SIZE - 1, 50 * B + PART_SIZE + 1), Span(100 * B + 3, size)]
            spans += [Span(60 * B - B // 2, 60 * B), Span(20 * B + PART_SIZE, 20 * B + 2 * PART_SIZE)]
            kept = cache.statistics().memory_bytes
            for span in spans:
                reader = cache.reader(ONE, size, offline)
                assert reader.read_nowait(span) == data[span.start : span.stop]
                reader.close()
            after = cache.statistics()
            assert (after.memory_bytes, after.disk_blocks) == (kept, 2 + len(spans))

            monkeypatch.setattr(slots, "read_cached", whole)
            reader = cache.reader(ONE, size, offline)
            for start in range(10 * B, 10 * B + 12 * 4096, 4096):
                assert reader.read_nowait(Span(start, start + 4096)) == data[start : start + 4096]
            assert cache.statistics().memory_bytes == kept + B + ENTRY_OVERHEAD
            reader.close()


@pytest.mark.trio
async def test_what_the_disk_gives_at_once_is_not_read_ahead() -> None:
    """It would take a thread, and memory, to bring nearer what is as near as can be."""
    store = Store()
    size = 64 * B
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        write_slots(slot_file(Path(directory), 1), 1, size, list(range(32)))
        async with running(Path(directory)) as cache:
            for block in (30, 31):  # opens the file, and is refused NOWAIT
                await read_offline(cache, 1, size, block_span(block))
            reader = cache.reader(ONE, size, store.fetch_of(1, size))
            for block in range(4):
                assert await reader.read(block_span(block)) == cleartext(1, size)[block * B : (block + 1) * B]
            await settle(cache)
            assert (cache.statistics().prefetched_bytes > 0) == (slots.NOWAIT is None)
            # What is not on disk is fetched before it is read, all the same.
            for block in range(4, 16):
                await reader.read(block_span(block))
            await settle(cache)
            assert store.spans
            assert min(span.start for span in store.spans) == 32 * B
            reader.close()


@pytest.mark.trio
async def test_a_damaged_part_is_fetched_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        write_slots(slot_file(Path(directory), 1), 1, SIZE, list(range(6)))
        with slot_file(Path(directory), 1).open("r+b") as file:
            file.seek(2 * SLOT_SIZE + HEADER_SIZE + SEALED_PART + 999)
            file.write(b"damage")
        async with running(Path(directory)) as cache:
            for block in (0, 1):
                await read_offline(cache, 1, span=Span(block * B, block * B + 10))
            for start in (2 * B + 10, 2 * B + PART_SIZE + 10):
                reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
                span = Span(start, start + 4096)
                data = reader.read_nowait(span)
                assert (await reader.read(span) if data is None else data) == DATA[start : start + 4096]
                reader.close()
            assert store.spans == [block_span(2)]
            assert cache.statistics().damaged_slots == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.trio
async def test_files_of_the_former_format_are_removed_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    former = slot_file(tmp_path, 1).with_name(f"{1:016x}")
    former.parent.mkdir()
    former.write_bytes(bytes(100_000))
    async with running(tmp_path) as cache:
        await cache.wait_written()
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0
    assert not caplog.records


@pytest.mark.trio
async def test_what_a_thread_must_read_is_not_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slots, "NOWAIT", None)
    store = Store()
    async with running(tmp_path) as cache:
        await read_all(cache, store, 1, SIZE)
        await settle(cache)
    async with running(tmp_path) as cache:
        reader = cache.reader(ONE, SIZE, offline)
        assert reader.read_nowait(Span(0, 10)) is None, "nobody knows what the disk has"
        assert await reader.read(Span(0, 10)) == DATA[:10]
        assert reader.read_nowait(Span(0, 10)) == DATA[:10]
        assert reader.read_nowait(Span(4 * B, 4 * B + 10)) is None


async def offline(span: Span) -> bytes:
    raise AssertionError(f"{span} was fetched")


async def read_offline(cache: BlockCache, content: int, size: int = SIZE, span: Span | None = None) -> bytes:
    return await cache.read_span(ContentId(content), size, span or Span(0, size), offline)


@pytest.mark.trio
async def test_what_was_fetched_is_here_after_a_restart(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path) as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        await settle(cache)
        assert cache.statistics().disk_bytes == FILE
        assert cache.statistics().queued_write_bytes == 0
    async with running(tmp_path) as cache:
        assert await read_offline(cache, 1) == DATA
        assert await read_offline(cache, 1, span=Span(3 * B + 1, 5 * B + 7)) == DATA[3 * B + 1 : 5 * B + 7]
        assert cache.statistics().fetches == 0
        assert cache.statistics().hits > 0


@pytest.mark.trio
async def test_blocks_pushed_out_of_memory_are_read_from_disk(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, limits(memory=2 * B + 2000)) as cache:
        for first in range(5):
            reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
            await reader.read(block_span(first))
            reader.close()
            await settle(cache)
        store.asked.clear()
        assert await read_offline(cache, 1, span=Span(0, 5 * B)) == DATA[: 5 * B]
        assert store.asked == []


@pytest.mark.trio
async def test_a_partly_cached_content_fetches_only_the_rest(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path) as cache:
        await cache.read_span(ONE, SIZE, block_span(1, 2), store.fetch_of(1, SIZE))
        await settle(cache)
    store.asked.clear()
    async with running(tmp_path) as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        assert sorted(store.spans, key=lambda span: span.start) == [block_span(0), Span(3 * B, SIZE)]


@pytest.mark.trio
async def test_read_ahead_comes_from_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "NOWAIT", None)
    size = 64 * B
    write_slots(slot_file(tmp_path, 1), 1, size, list(range(64)))
    async with running(tmp_path) as cache:
        reader = cache.reader(ONE, size, offline)
        for block in (0, 1):
            await reader.read(block_span(block))
        await settle(cache)
        assert cache.statistics().prefetched_bytes == 8 * B
        for block in range(2, 10):
            assert reader.read_nowait(block_span(block)) == cleartext(1, size)[block * B : (block + 1) * B]
        reader.close()
    assert cache.statistics().fetches == cache.statistics().prefetched_bytes == 0


@pytest.mark.trio
async def test_nothing_readable_is_on_disk(tmp_path: Path) -> None:
    secret = b"Gefrorene Himbeeren sind noch im Keller. "
    size = 2 * B + 300
    data = (secret * (size // len(secret) + 1))[:size]

    async def fetch(span: Span) -> bytes:
        await trio.lowlevel.checkpoint()
        return data[span.start : span.stop]

    async with running(tmp_path) as cache:
        assert await cache.read_span(ONE, size, Span(0, size), fetch) == data
        await settle(cache)
    files = slot_files(tmp_path)
    assert sum(path.stat().st_size for path in files) > size
    for path in files:
        sealed = path.read_bytes()
        for start in range(len(secret) - 8):
            assert secret[start : start + 8] not in sealed
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.trio
async def test_a_damaged_slot_is_fetched_again_and_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    write_slots(slot_file(tmp_path, 1), 1, SIZE, list(range(6)))
    with slot_file(tmp_path, 1).open("r+b") as file:
        file.seek(2 * SLOT_SIZE + 999)
        file.write(b"damage")
    async with running(tmp_path) as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        assert store.spans == [block_span(2)]
        assert cache.statistics().damaged_slots == 1
        await settle(cache)
    async with running(tmp_path) as cache:
        assert await read_offline(cache, 1) == DATA
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.trio
async def test_slots_of_another_key_are_misses(tmp_path: Path) -> None:
    """A lost state has another salt, so another key, and numbers its contents anew: nothing old may be served."""
    store = Store()
    write_slots(slot_file(tmp_path, 1), 99, SIZE, list(range(6)), BlockSeal(bytes(32), b"remote"))
    async with running(tmp_path) as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        assert cache.statistics().damaged_slots == 6


@pytest.mark.trio
async def test_a_half_written_slot_is_a_miss(tmp_path: Path) -> None:
    store = Store()
    write_slots(slot_file(tmp_path, 1), 1, SIZE, [0, 1])
    os.truncate(slot_file(tmp_path, 1), SLOT_SIZE + SLOT_SIZE // 2)
    async with running(tmp_path) as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        assert sorted(store.spans, key=lambda span: span.start) == [block_span(1), Span(2 * B, SIZE)]
        await settle(cache)
    async with running(tmp_path) as cache:
        assert await read_offline(cache, 1) == DATA


@pytest.mark.trio
async def test_the_budget_is_kept_before_each_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 3 * FILE
    most = 0
    write = slots.write

    def watched(path: Path, *rest: object) -> None:
        nonlocal most
        write(path, *rest)  # type: ignore[arg-type]
        most = max(most, sum(file.stat().st_blocks * 512 for file in slot_files(tmp_path)))

    monkeypatch.setattr(slots, "write", watched)
    store = Store()
    async with running(tmp_path, limits(disk=budget)) as cache:
        for content in range(1, 9):
            await read_all(cache, store, content, SIZE)
            await settle(cache)
            assert cache.statistics().disk_bytes <= budget
        assert 2 * SIZE < most <= budget
        await read_offline(cache, 8)
    assert slot_files(tmp_path) == [slot_file(tmp_path, content) for content in (6, 7, 8)]


@pytest.mark.trio
async def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path) as cache:
        for content in (1, 2, 3):
            await read_all(cache, store, content, SIZE)
            await settle(cache)
    async with running(tmp_path) as cache:
        await read_offline(cache, 1)  # now 2 is the one that was not used for longest
    async with running(tmp_path, limits(disk=3 * FILE)) as cache:
        await read_all(cache, store, 4, SIZE)
        await settle(cache)
    assert slot_files(tmp_path) == [slot_file(tmp_path, content) for content in (1, 3, 4)]


@pytest.mark.trio
async def test_an_open_content_is_not_evicted(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, limits(disk=2 * FILE)) as cache:
        reader = cache.reader(ONE, SIZE, store.fetch_of(1, SIZE))
        await reader.read(Span(0, SIZE))
        await settle(cache)
        for content in (2, 3):
            await read_all(cache, store, content, SIZE)
            await settle(cache)
        assert slot_file(tmp_path, 1).exists()
        assert not slot_file(tmp_path, 2).exists()
        reader.close()
        await read_all(cache, store, 4, SIZE)
        await settle(cache)
        assert not slot_file(tmp_path, 1).exists()


@pytest.mark.trio
async def test_smaller_budgets_are_obeyed_while_it_runs(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, limits()) as cache:
        for content in range(1, 9):
            await read_all(cache, store, content, 4 * BLOCK_SIZE)
        await settle(cache)
        before = cache.statistics()
        pinned = cache.reader(ContentId(1), 4 * BLOCK_SIZE, store.fetch_of(1, 4 * BLOCK_SIZE))
        cache.resize(limits(memory=2 * BLOCK_SIZE, disk=before.disk_bytes // 2))
        assert cache.statistics().memory_bytes <= 2 * BLOCK_SIZE
        await settle(cache)
        assert 0 < cache.statistics().disk_bytes <= before.disk_bytes // 2
        assert slot_file(tmp_path, 1).exists()
        assert not slot_file(tmp_path, 2).exists()
        cache.resize(limits(disk=0))
        await settle(cache)
        assert slot_files(tmp_path) == [slot_file(tmp_path, 1)]    # it is open
        pinned.close()
        await settle(cache)
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0
        cache.resize(limits())
        await read_all(cache, store, 2, 4 * BLOCK_SIZE)
        await settle(cache)
        assert slot_files(tmp_path) == [slot_file(tmp_path, 2)]


@pytest.mark.trio
async def test_a_smaller_budget_is_obeyed_after_a_start(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, limits()) as cache:
        for content in range(1, 9):
            await read_all(cache, store, content, 4 * BLOCK_SIZE)
        await settle(cache)
        budget = cache.statistics().disk_bytes // 4
    async with running(tmp_path, limits(disk=budget)) as cache:
        await settle(cache)
        assert 0 < cache.statistics().disk_bytes <= budget


@pytest.mark.trio
async def test_a_content_larger_than_the_budget_keeps_what_came_first(tmp_path: Path) -> None:
    size = 60 * B
    store = Store()
    async with running(tmp_path, limits(disk=2 * FILE)) as cache:
        fetch = store.fetch_of(1, size)
        for first in range(0, 60, 2):
            await cache.read_span(ONE, size, block_span(first, 2), fetch)
            await settle(cache)
            assert cache.statistics().disk_bytes <= 2 * FILE
        assert cache.statistics().unwritten_blocks > 0
    async with running(tmp_path) as cache:
        assert await read_offline(cache, 1, size, block_span(0, 8)) == cleartext(1, size)[: 8 * B]


@pytest.mark.trio
async def test_the_free_space_floor_is_kept_before_each_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = 4 * FILE

    def free(directory: Path) -> int:
        return capacity - sum(path.stat().st_blocks * 512 for path in slot_files(directory))

    monkeypatch.setattr(slots, "free_bytes", free)
    store = Store()
    floor = 2 * FILE
    async with running(tmp_path, limits(floor=floor)) as cache:
        for content in range(1, 7):
            await read_all(cache, store, content, SIZE)
            await settle(cache)
            assert free(tmp_path) >= floor
        assert slot_file(tmp_path, 6).exists(), "older contents made room"
        capacity = 0  # somebody else filled the disk
        written = slot_files(tmp_path)
        await read_all(cache, store, 7, SIZE)
        await settle(cache)
        assert not slot_file(tmp_path, 7).exists()
        assert cache.statistics().unwritten_blocks >= 6
        assert cache.statistics().disk_usable
        assert set(slot_files(tmp_path)) <= set(written)


def failing(name: str, error: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(error, os.strerror(error), name)

    return fail


@pytest.mark.trio
@pytest.mark.parametrize(("name", "error"), [("pwrite", errno.ENOSPC), ("pwrite", errno.EIO), ("statvfs", errno.EIO)])
async def test_a_disk_that_cannot_be_written_is_taken_out_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, error: int
) -> None:
    store = Store()
    async with running(tmp_path) as cache:
        await read_all(cache, store, 1, SIZE)
        await settle(cache)
        monkeypatch.setattr(os, name, failing(name, error))
        for content in (2, 3):
            assert await read_all(cache, store, content, SIZE) == cleartext(content, SIZE)
            await settle(cache)
        assert not cache.statistics().disk_usable
        assert cache.statistics().queued_write_bytes == 0
        for content in (1, 2, 3):
            assert await read_all(cache, store, content, SIZE) == cleartext(content, SIZE)
        cache.forget(ONE)
        await cache.wait_written()
    assert [record.levelname for record in caplog.records] == ["WARNING"], "and one warning"


@pytest.mark.trio
async def test_a_disk_that_cannot_be_read_is_taken_out_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    for content in (1, 2):
        write_slots(slot_file(tmp_path, content), content, SIZE, list(range(6)))
    async with running(tmp_path) as cache:
        assert await read_offline(cache, 1) == DATA
        monkeypatch.setattr(os, "preadv", failing("preadv", errno.EIO))
        assert await read_all(cache, store, 2, SIZE) == cleartext(2, SIZE)
        assert not cache.statistics().disk_usable
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.trio
async def test_a_directory_that_cannot_be_made_is_a_cache_without_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store()
    async with running(tmp_path / "file" / "cache") as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        await settle(cache)
        assert not cache.statistics().disk_usable
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.trio
async def test_too_few_descriptors_are_a_miss_and_not_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    write_slots(slot_file(tmp_path, 1), 1, SIZE, list(range(6)))
    async with running(tmp_path) as cache:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing("open", errno.EMFILE))
            assert await read_all(cache, store, 1, SIZE) == DATA
            await settle(cache)
        assert cache.statistics().disk_usable
        cache.forget(ContentId(2))
        assert await read_all(cache, store, 2, SIZE) == cleartext(2, SIZE)
        await settle(cache)
        assert slot_file(tmp_path, 2).exists()


@pytest.mark.trio
async def test_a_cache_that_somebody_deleted_is_filled_again(tmp_path: Path) -> None:
    store = Store()
    directory = tmp_path / "cache"
    async with running(directory, limits(memory=B + 1000)) as cache:
        await read_all(cache, store, 1, SIZE)
        await settle(cache)
        for path in slot_files(directory):
            path.unlink()
            path.parent.rmdir()
        directory.rmdir()
        for content in (1, 2):
            assert await read_all(cache, store, content, SIZE) == cleartext(content, SIZE)
            await settle(cache)
        assert cache.statistics().disk_usable
    async with running(directory) as cache:
        assert await read_offline(cache, 2) == cleartext(2, SIZE)


@pytest.mark.trio
async def test_a_full_queue_drops_blocks_and_not_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "WRITE_QUEUE_BYTES", 2 * B)
    store = Store()
    async with running(tmp_path) as cache:
        assert await read_all(cache, store, 1, SIZE) == DATA
        await settle(cache)
        assert cache.statistics().unwritten_blocks == 4
        assert cache.statistics().queued_write_bytes == 0
        assert slot_file(tmp_path, 1).exists()


@pytest.mark.trio
async def test_a_forgotten_content_leaves_the_disk(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path) as cache:
        for content in (1, 2):
            await read_all(cache, store, content, SIZE)
        cache.forget(ContentId(2))  # still in the queue
        await settle(cache)
        cache.forget(ONE)
        await settle(cache)
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0
        assert await read_all(cache, store, 1, SIZE) == DATA
        assert len(store.asked) == 3
        await settle(cache)
        assert len(slot_files(tmp_path)) == 1


@pytest.mark.trio
async def test_a_content_forgotten_while_it_is_written_leaves_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    write = slots.write
    async with running(tmp_path) as cache:

        def forget_meanwhile(path: Path, *rest: object) -> None:
            trio.from_thread.run_sync(cache.forget, ONE)
            write(path, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(slots, "write", forget_meanwhile)
        await read_all(cache, store, 1, SIZE)
        await settle(cache)
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0


@pytest.mark.trio
async def test_a_content_forgotten_while_room_is_made_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    free_bytes = slots.free_bytes
    async with running(tmp_path) as cache:

        def forget_meanwhile(directory: Path) -> int:
            trio.from_thread.run_sync(cache.forget, ONE)
            return free_bytes(directory)

        monkeypatch.setattr(slots, "free_bytes", forget_meanwhile)
        await read_all(cache, store, 1, SIZE)
        await settle(cache)
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0


@pytest.mark.trio
async def test_a_content_forgotten_while_it_is_fetched_is_not_written(tmp_path: Path) -> None:
    store = Store()
    store.held = True
    async with running(tmp_path) as cache:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, cache, store, 1, SIZE)
            await store.wait_asked(1)
            cache.forget(ONE)
            store.release()
        await settle(cache)
        assert slot_files(tmp_path) == []


@pytest.mark.trio
async def test_a_content_forgotten_while_it_is_looked_up_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slots(slot_file(tmp_path, 1), 1, SIZE, [0])
    store = Store()
    store.error = Unavailable("no network")
    look = slots.look
    async with running(tmp_path) as cache:
        await cache.wait_written()

        def forget_meanwhile(path: Path) -> slots.Found | None:
            found = look(path)
            trio.from_thread.run_sync(cache.forget, ONE)
            return found

        monkeypatch.setattr(slots, "look", forget_meanwhile)
        with pytest.raises(Unavailable):
            await read_all(cache, store, 1, SIZE)
        await settle(cache)
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0


@pytest.mark.trio
async def test_a_content_forgotten_before_the_scan_is_not_found_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slots(slot_file(tmp_path, 1), 1, SIZE, [0])
    scan = slots.scan
    listed, forgotten = threading.Event(), threading.Event()

    def slow_scan(directory: Path) -> list[tuple[ContentId, int]]:
        found = scan(directory)
        listed.set()
        assert forgotten.wait(PATIENCE)
        return found

    monkeypatch.setattr(slots, "scan", slow_scan)
    async with running(tmp_path) as cache:
        assert await trio.to_thread.run_sync(listed.wait, PATIENCE)
        cache.forget(ONE)
        forgotten.set()
        await cache.wait_written()
        assert slot_files(tmp_path) == []
        assert cache.statistics().disk_bytes == 0


@pytest.mark.trio
async def test_reads_do_not_wait_for_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slots(slot_file(tmp_path, 1), 1, SIZE, list(range(6)))
    scan = slots.scan
    read = threading.Event()

    def slow_scan(directory: Path) -> list[tuple[ContentId, int]]:
        assert read.wait(PATIENCE)
        return scan(directory)

    monkeypatch.setattr(slots, "scan", slow_scan)
    store = Store()
    async with running(tmp_path) as cache:
        assert await read_offline(cache, 1) == DATA
        assert await read_all(cache, store, 2, SIZE) == cleartext(2, SIZE)
        read.set()
        await settle(cache)
        assert slot_file(tmp_path, 2).exists()
        assert cache.statistics().disk_bytes == slots.FILE_CHARGE + FILE + slot_file(tmp_path, 1).stat().st_blocks * 512


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    directory = tmp_path / "staging"
    directory.mkdir()
    return directory


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.trio
async def test_an_adopted_file_is_the_cache_of_its_content(cached: Path, staging: Path) -> None:
    write_slots(staging / "1.0", 1, SIZE, list(range(6)))
    async with running(cached) as cache:
        await cache.adopt(ONE, staging / "1.0", [BlockIndex(block) for block in range(6)])
        assert not (staging / "1.0").exists()
        assert await read_offline(cache, 1) == DATA
        assert cache.statistics().disk_bytes >= SIZE
    async with running(cached) as cache:
        assert await read_offline(cache, 1) == DATA


@pytest.mark.trio
async def test_slots_that_are_not_adopted_are_never_read(cached: Path, staging: Path) -> None:
    """A plane of staging may hold an older block that authenticates for this very content and place."""
    old, size = b"o" * B, 3 * B
    slots.write(staging / "1.0", SEAL, ONE, {BlockIndex(0): old, BlockIndex(1): old, BlockIndex(2): old})
    store = Store()
    async with running(cached) as cache:
        await cache.adopt(ONE, staging / "1.0", [BlockIndex(1)])
    async with running(cached) as cache:  # after a restart only the file itself can tell
        expected = cleartext(1, size)
        assert await read_all(cache, store, 1, size) == expected[:B] + old + expected[2 * B :]


@pytest.mark.trio
async def test_adoption_replaces_what_was_cached(cached: Path, staging: Path) -> None:
    store = Store()
    async with running(cached, limits(disk=FILE + 4096 * 8)) as cache:
        await cache.read_span(ONE, SIZE, block_span(0, 3), store.fetch_of(1, SIZE))
        await settle(cache)
        write_slots(staging / "1.0", 1, SIZE, list(range(6)))
        await cache.adopt(ONE, staging / "1.0", [BlockIndex(block) for block in range(6)])
        assert await read_offline(cache, 1) == DATA
        assert cache.statistics().disk_bytes <= FILE + 4096 * 8


@pytest.mark.trio
@pytest.mark.parametrize("why", ["budget", "floor", "no blocks", "no disk", "ended", "gone"])
async def test_what_cannot_be_adopted_is_removed(
    cached: Path, staging: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    blocks = [BlockIndex(block) for block in range(6)]
    write_slots(staging / "1.0", 1, SIZE, list(range(6)))
    chosen = limits()
    if why == "budget":
        chosen = limits(disk=SIZE // 2)
    elif why == "floor":
        chosen = limits(floor=1 << 62)
    elif why == "gone":
        (staging / "1.0").unlink()
    async with running(None if why == "no disk" else cached, chosen) as cache:
        if why != "ended":
            await cache.adopt(ONE, staging / "1.0", [] if why == "no blocks" else blocks)
        assert cache.statistics().disk_usable == (why != "no disk")
        assert cache.statistics().disk_bytes == 0
    if why == "ended":
        await cache.adopt(ONE, staging / "1.0", blocks)
    assert not (staging / "1.0").exists()
    assert slot_files(cached) == []


@pytest.mark.trio
async def test_adoption_makes_room_by_the_rules(cached: Path, staging: Path) -> None:
    store = Store()
    async with running(cached, limits(disk=2 * FILE + 4096 * 8)) as cache:
        for content in (2, 3):
            await read_all(cache, store, content, SIZE)
            await settle(cache)
        write_slots(staging / "1.0", 1, SIZE, list(range(6)))
        await cache.adopt(ONE, staging / "1.0", [BlockIndex(block) for block in range(6)])
        assert slot_files(cached) == [slot_file(cached, content) for content in (1, 3)]


@pytest.mark.trio
async def test_adoption_waits_until_the_budget_is_known(
    cached: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = FILE + 4096 * 8
    write_slots(slot_file(cached, 2), 2, SIZE, list(range(6)))
    write_slots(staging / "1.0", 1, SIZE, list(range(6)))
    scan = slots.scan
    asked = threading.Event()

    def slow_scan(directory: Path) -> list[tuple[ContentId, int]]:
        assert asked.wait(PATIENCE)
        return scan(directory)

    monkeypatch.setattr(slots, "scan", slow_scan)
    async with running(cached, limits(disk=budget)) as cache:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.adopt, ONE, staging / "1.0", [BlockIndex(block) for block in range(6)])
            await trio.testing.wait_all_tasks_blocked()
            asked.set()
        assert slot_files(cached) == [slot_file(cached, 1)]
        assert cache.statistics().disk_bytes <= budget


@pytest.mark.trio
async def test_a_content_forgotten_while_it_is_adopted_is_not_kept(
    cached: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slots(staging / "1.0", 1, SIZE, list(range(6)))
    move_in = slots.move_in
    async with running(cached) as cache:

        def forget_meanwhile(source: Path, target: Path) -> None:
            trio.from_thread.run_sync(cache.forget, ONE)
            move_in(source, target)

        monkeypatch.setattr(slots, "move_in", forget_meanwhile)
        await cache.adopt(ONE, staging / "1.0", [BlockIndex(block) for block in range(6)])
        await settle(cache)
        assert slot_files(cached) == []
        assert not (staging / "1.0").exists()
        assert cache.statistics().disk_bytes == 0


@pytest.mark.trio
async def test_a_failing_disk_during_adoption_is_taken_out_of_use(
    cached: Path, staging: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_slots(staging / "1.0", 1, SIZE, list(range(6)))
    async with running(cached) as cache:
        monkeypatch.setattr(slots, "move_in", failing("rename", errno.EIO))
        await cache.adopt(ONE, staging / "1.0", [BlockIndex(block) for block in range(6)])
        assert not cache.statistics().disk_usable
    assert not (staging / "1.0").exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.trio
async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = open_descriptors()
    store = Store()
    async with running(tmp_path, limits(memory=B + 1000)) as cache:
        for content in range(1, disk.OPEN_FILES + 10):
            await read_all(cache, store, content, 1000)
        await settle(cache)
        for content in range(1, disk.OPEN_FILES + 10):
            await read_offline(cache, content, 1000)
        assert open_descriptors() <= before + disk.OPEN_FILES + 10
        for content in range(1, 20):
            cache.forget(ContentId(content))
        await settle(cache)
    async with running(tmp_path) as cache:
        for content in range(20, 40):
            await read_offline(cache, content, 1000)
    after = open_descriptors()
    assert after <= before + 4, "trio's own descriptors only"
