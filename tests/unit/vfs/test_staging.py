"""A stage under random writes, truncations, commits and fsyncs, and what a killed process or a power cut leaves of it.

A killed process leaves every slot that was written and the rows of the last commit. A power cut leaves for certain only
the slots that were synced, while the database may be as of any commit since the last fsync: the kernel writes its log
back when it likes. So at every moment each of these databases is opened over the synced slots alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serpentfs.cache.seal import SLOT_SIZE, BlockSeal
from serpentfs.errors import BadVault, IntegrityError, Unavailable
from serpentfs.model import BLOCK_SIZE, NO_CONTENT, BlockIndex, ContentId, Span
from serpentfs.tree.store import StageRow, Store
from serpentfs.vfs import behind, writes
from serpentfs.vfs.writes import Stage

CONTENT = ContentId(7)
PWRITE = os.pwrite
SEAL = BlockSeal(b"k" * 32, b"remote")


async def no_base(span: Span) -> bytes:
    raise AssertionError("this stage has no base")


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


@dataclass
class Image:
    """A database as it may be found: its rows, and what the content was then."""

    row: StageRow
    planes: dict[BlockIndex, int]
    data: bytes


@dataclass
class World:
    """A stage, its database, and what of both is durable."""

    root: Path
    data: bytearray = field(default_factory=bytearray)
    """What the stage shows."""
    images: list[Image] = field(default_factory=list)
    """The commit that the last fsync made durable, and those since: the last is what a killed process leaves."""
    promised: bytes | None = None
    """The content at the last fsync."""
    fails_in: int = 0
    """Which of the following calls of pwrite fails; none when it is not above 0."""
    has_failed: bool = False
    """One of them did, which may be told by a later step than the one that met it."""

    def __post_init__(self) -> None:
        self.files = self.root / "staging"
        self.durable = self.root / "durable"
        self.files.mkdir()
        self.durable.mkdir()
        self.store = Store(self.root / "state.db", b"s" * 32, str)
        row = StageRow(CONTENT, 0, NO_CONTENT, 0)
        with self.store.transaction():
            self.store.put_stage(row)
        self.images.append(Image(row, {}, b""))
        self.stage = Stage(self.files, SEAL, row, {})
        self._sync_slots = self.stage.sync
        self._sync_rows = self.store.sync
        self.stage.sync = self.sync_slots  # type: ignore[method-assign]
        self.store.sync = self.sync_rows  # type: ignore[method-assign]

    async def sync_slots(self) -> None:
        written = {Path(Stage.plane_path(self.files, CONTENT, plane)) for plane in self.stage._unsynced_files}
        await self._sync_slots()
        for path in written:
            shutil.copyfile(path, self.durable / path.name)

    async def sync_rows(self, *, patient: bool = False) -> None:
        await self._sync_rows(patient=patient)
        del self.images[:-1]

    async def write(self, offset: int, data: bytes) -> None:
        """What failed before is met here, and changes nothing."""
        self.fails_in = 0
        await self.stage.write(offset, data, no_base)
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def lay(self, blocks: int) -> None:
        """As a thread of a door does, where it is lent room."""
        room = self.stage.lend_room()
        if room is not None:
            data = secrets.token_bytes(blocks * BLOCK_SIZE)
            for block in range(blocks):
                room.write(memoryview(data)[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE])
            room.flush()
            self.stage.take_back(room)
            room.close()
            self.data.extend(data)

    async def append(self, data: bytes) -> None:
        """Of what the disk refuses the beginning may be there."""
        whole = self.data + data
        try:
            await self.stage.write(len(self.data), data, no_base)
        finally:
            self.data = whole[: self.stage.size]

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        self.fails_in -= 1
        if self.fails_in == 0:
            self.has_failed = True
            PWRITE(descriptor, data[: SLOT_SIZE // 2], offset)
            raise OSError(errno.EIO, "planned")
        return PWRITE(descriptor, data, offset)

    async def truncate(self, size: int) -> None:
        self.fails_in = 0
        await self.stage.truncate(size, no_base)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    async def commit(self) -> None:
        await self.stage.prepare(self.store)
        with self.store.transaction():
            self.stage.commit(self.store)
        self.stage.committed()
        row = self.store.stage(CONTENT)
        assert row is not None
        for block, plane in self.stage.blocks.items():  # the cache adopts slots of the right length only
            slot = _bytes(Stage.plane_path(self.files, CONTENT, plane))[block * SLOT_SIZE :][:SLOT_SIZE]
            assert len(SEAL.open(CONTENT, block, slot) or b"") == min(BLOCK_SIZE, row.size - block * BLOCK_SIZE)
        self.images.append(Image(row, self.store.stage_blocks(CONTENT), bytes(self.data)))

    async def fsync(self) -> None:
        await self.commit()
        await self.stage.make_durable(self.store)
        self.promised = bytes(self.data)

    async def check(self) -> None:
        whole = Span(0, len(self.data))
        assert await self.stage.read(whole, no_base) == self.data
        killed = self.images[-1]
        assert await opened(self.files, killed).read(Span(0, killed.row.size), no_base) == killed.data
        if self.promised is None:
            return
        for image in self.images:
            cut = opened(self.durable, image)
            for start in range(0, min(len(self.promised), image.row.size), BLOCK_SIZE):
                span = Span(start, min(start + BLOCK_SIZE, image.row.size))
                assert await cut.read(span, no_base) == image.data[span.start : span.stop]
            cut.close()


def opened(files: Path, image: Image) -> Stage:
    return Stage(files, SEAL, image.row, image.planes)


STEPS = st.one_of(
    st.tuples(
        st.just("write"),
        st.sampled_from([0, 5, BLOCK_SIZE - 3, BLOCK_SIZE, 2 * BLOCK_SIZE + 1]),
        st.sampled_from([1, 10, BLOCK_SIZE, BLOCK_SIZE + 4, 5 * BLOCK_SIZE + 7]),
    ),
    st.tuples(st.just("truncate"), st.sampled_from([0, 1, 5, BLOCK_SIZE, BLOCK_SIZE + 2, 3 * BLOCK_SIZE]), st.just(0)),
    st.tuples(st.just("lay"), st.just(0), st.integers(0, 3)),
    st.tuples(
        st.just("append"), st.just(0), st.sampled_from([1, BLOCK_SIZE - 1, BLOCK_SIZE, 9 * BLOCK_SIZE, 17 * BLOCK_SIZE])
    ),
    st.tuples(st.just("disk fails"), st.just(0), st.integers(1, 3)),
    st.tuples(st.sampled_from(["spill", "commit", "commit", "fsync"]), st.just(0), st.just(0)),
)


async def run(steps: list[tuple[str, int, int]], root: Path) -> None:
    world = World(root)
    with mock.patch.object(os, "pwrite", world.pwrite):
        try:
            for step in steps:
                try:
                    await take(world, *step)
                except Unavailable:
                    assert world.has_failed, "nothing has failed"
                await world.check()
        finally:
            world.stage.close()
            world.store.close()


async def take(world: World, what: str, at: int, length: int) -> None:
    match what:
        case "write":
            await world.write(at, secrets.token_bytes(length))
        case "append":
            await world.append(secrets.token_bytes(length))
        case "lay":
            world.fails_in = 0
            world.lay(length)
        case "truncate":
            await world.truncate(at)
        case "disk fails":
            world.fails_in = length
        case "spill":
            await world.stage.spill()
        case "commit":
            await world.commit()
        case "fsync":
            await world.fsync()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=3, max_size=12))
@example(
    [("write", 0, 1), ("spill", 0, 0), ("truncate", BLOCK_SIZE, 0), ("spill", 0, 0), ("truncate", 5, 0),
     ("commit", 0, 0)]
)
@example([("write", 0, 10), ("write", BLOCK_SIZE - 3, 5 * BLOCK_SIZE + 7), ("commit", 0, 0)])
@example([("lay", 0, 3), ("fsync", 0, 0), ("truncate", BLOCK_SIZE, 0), ("lay", 0, 2), ("commit", 0, 0)])
@example([("append", 0, 9 * BLOCK_SIZE), ("truncate", 0, 0), ("append", 0, 9 * BLOCK_SIZE), ("commit", 0, 0)])
@example([("disk fails", 0, 1), ("append", 0, 9 * BLOCK_SIZE), ("write", 5, 10), ("write", 5, 10), ("commit", 0, 0)])
@example([("append", 0, 1), ("fsync", 0, 0), ("disk fails", 0, 1), ("append", 0, 9 * BLOCK_SIZE), ("spill", 0, 0)])
@example([("append", 0, 17 * BLOCK_SIZE), ("append", 0, 9 * BLOCK_SIZE), ("fsync", 0, 0), ("append", 0, BLOCK_SIZE)])
@example(
    [("append", 0, 1), ("fsync", 0, 0), ("append", 0, BLOCK_SIZE - 1), ("disk fails", 0, 1),
     ("append", 0, 17 * BLOCK_SIZE), ("append", 0, 17 * BLOCK_SIZE), ("fsync", 0, 0)]
)
@example(
    [("disk fails", 0, 1), ("append", 0, 9 * BLOCK_SIZE), ("disk fails", 0, 2), ("append", 0, 9 * BLOCK_SIZE)]
)
@example([("write", BLOCK_SIZE, 10), ("write", 0, 5 * BLOCK_SIZE + 7), ("write", 0, 5 * BLOCK_SIZE + 7)])
def test_nothing_acknowledged_is_damaged(steps: list[tuple[str, int, int]]) -> None:
    root = Path(tempfile.mkdtemp(prefix="staging-model-"))
    try:
        trio.run(run, steps, root)
    finally:
        shutil.rmtree(root)


def test_a_rewrite_that_dies_leaves_the_committed_blocks(tmp_path: Path) -> None:
    """A truncation and a rewrite that no commit follows: the slots that the database names stay as they are."""
    trio.run(run, [("write", 0, 10), ("commit", 0, 0), ("truncate", 0, 0), ("write", 0, 5), ("spill", 0, 0)], tmp_path)


@pytest.mark.trio
async def test_a_read_meets_a_slot_that_is_being_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a slot is neither an error nor kept: the block is looked at again."""
    stage = Stage(tmp_path, SEAL, StageRow(CONTENT, 0, NO_CONTENT, 0))
    await stage.write(0, b"a" * BLOCK_SIZE, no_base)
    await stage.spill()
    torn = trio.Event()
    again = trio.Event()

    async def slow(where: str, function: object, *arguments: object) -> bytes:
        """The first read of a slot takes until it was written again, and sees half of each."""
        monkeypatch.undo()
        torn.set()
        await again.wait()
        return b"\0\0\1\0" + bytes(SLOT_SIZE - 4)

    async def reads() -> None:
        assert await stage.read(Span(0, BLOCK_SIZE), no_base) == b"b" * BLOCK_SIZE

    monkeypatch.setattr(writes, "read_at_once", lambda *_: None)
    monkeypatch.setattr(stage, "_in_thread", slow)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reads)
            await torn.wait()
            await stage.write(0, b"b" * BLOCK_SIZE, no_base)
            await stage.spill()
            again.set()
    stage.close()


def test_room_is_lent_where_nothing_lies(tmp_path: Path) -> None:
    async def lending() -> None:
        world = World(tmp_path)
        await world.write(0, bytes(BLOCK_SIZE))
        room = world.stage.lend_room()
        assert room is not None
        room.write(memoryview(bytes(2 * BLOCK_SIZE)))
        with pytest.raises(ValueError, match="being written"):
            world.stage.take_back(room)
        room.flush()
        await world.check()  # nothing of it is there yet
        await world.write(BLOCK_SIZE, b"meanwhile")
        with pytest.raises(ValueError, match="written to"):
            world.stage.take_back(room)
        room.close()
        assert world.stage.lend_room() is None  # not at the end of a block
        await world.commit()
        await world.truncate(BLOCK_SIZE)
        assert world.stage.lend_room() is None  # the database still names what lay there
        await world.commit()
        world.lay(1)
        await world.check()
        world.stage.close()
        world.store.close()

    trio.run(lending)


def test_nothing_counts_that_follows_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, SEAL, StageRow(CONTENT, 0, NO_CONTENT, 0))
    room = stage.lend_room()
    assert room is not None
    pwrite = os.pwrite
    both_are_sealed = threading.Event()

    def failing(descriptor: int, data: bytes, offset: int) -> int:
        if offset == SLOT_SIZE:
            assert both_are_sealed.wait(10)
            raise OSError(errno.EIO, "planned")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    block = memoryview(bytes(BLOCK_SIZE))
    for _ in range(3):
        room.write(block)
    both_are_sealed.set()
    for again in (room.flush, lambda: room.write(block), room.flush):
        with pytest.raises(Unavailable):
            again()
    stage.take_back(room)
    assert stage.size == BLOCK_SIZE
    room.close()
    stage.close()


@pytest.mark.trio
async def test_a_stage_that_is_given_up_while_it_is_written_keeps_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for blocks in (1, 8, 9, 25):
        stage = Stage(tmp_path, SEAL, StageRow(CONTENT, 0, NO_CONTENT, 0))
        await stage.write(0, bytes(blocks * BLOCK_SIZE), no_base)
        stage.retire()
    with trio.fail_after(10):
        while len(os.listdir("/proc/self/fd")) > len(before):  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.trio
async def test_blocks_are_written_where_no_thread_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(behind, "_threads", [])
    monkeypatch.setattr(threading.Thread, "start", refused)
    stage = Stage(tmp_path, SEAL, StageRow(CONTENT, 0, NO_CONTENT, 0))
    data = secrets.token_bytes(8 * BLOCK_SIZE)
    await stage.write(0, data, no_base)
    assert await stage.read(Span(0, len(data)), no_base) == data
    assert len(_bytes(Stage.plane_path(tmp_path, CONTENT, 0))) == 8 * SLOT_SIZE
    stage.close()


@pytest.mark.trio
async def test_a_damaged_slot_is_an_error(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SEAL, StageRow(CONTENT, 0, NO_CONTENT, 0))
    await stage.write(0, b"a" * BLOCK_SIZE, no_base)
    await stage.spill()
    slot = _bytes(stage.paths[0])
    (tmp_path / stage.paths[0]).write_bytes(slot[:-1] + bytes([slot[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        await stage.read(Span(0, BLOCK_SIZE), no_base)
    stage.close()


@pytest.mark.trio
async def test_only_much_data_is_spilled_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, SEAL, StageRow(CONTENT, 0, NO_CONTENT, 0))
    in_threads: list[str] = []
    in_thread = stage._in_thread

    async def noting(where: str, function: Callable[..., object], *arguments: object) -> object:
        in_threads.append(where)
        return await in_thread(where, function, *arguments)

    monkeypatch.setattr(stage, "_in_thread", noting)
    await stage.write(0, b"a" * 8192, no_base)
    await stage.spill()
    assert in_threads == []
    assert await stage.read(Span(0, 8192), no_base) == b"a" * 8192
    in_threads.clear()
    await stage.write(0, b"b" * (BLOCK_SIZE + 1), no_base)
    await stage.spill()
    assert in_threads == ["disk"]
    monkeypatch.undo()
    assert await stage.read(Span(0, BLOCK_SIZE), no_base) == b"b" * BLOCK_SIZE
    stage.close()


def a_former_state(path: Path, blocks: dict[BlockIndex, int]) -> None:
    """A database of the first schema, with these blocks in staging."""
    store = Store(path, b"s" * 32, str)
    with store.transaction():
        store.put_stage(StageRow(CONTENT, 10, NO_CONTENT, 0))
        store.put_stage_blocks(CONTENT, blocks)
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = 1 WHERE key = 'schema'")


def test_a_former_state_without_staged_blocks_is_taken_over(tmp_path: Path) -> None:
    a_former_state(tmp_path / "state.db", {})
    for _ in range(2):
        store = Store(tmp_path / "state.db", b"s" * 32, str)
        assert [row.content for row in store.stages()] == [CONTENT]
        store.close()


def test_staged_blocks_of_a_former_state_are_left_to_the_former_version(tmp_path: Path) -> None:
    """They are sealed in another way: opening them as ours would lose them."""
    a_former_state(tmp_path / "state.db", {BlockIndex(0): 0})
    for _ in range(2):
        with pytest.raises(BadVault, match="upload them first"):
            Store(tmp_path / "state.db", b"s" * 32, str)
