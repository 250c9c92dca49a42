"""The core as blocking calls: everything crosses, nothing hangs, streams cross seldom."""

from __future__ import annotations

import inspect
import io
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from serpentfs.bridge import LoopPortal
from serpentfs.errors import (
    BadHandle,
    InvalidArgument,
    IsADirectory,
    NotFound,
    Unavailable,
)
from serpentfs.gateways.sync_vfs import CROSSING_SIZE, LISTING_SLICE, SyncVfs
from serpentfs.model import ROOT_INO, HandleId, Ino, Span
from serpentfs.vfs.core import RenameMode, SetAttributes, Vfs
from tests.fakes.memory_vfs import MemoryVfs
from tests.fakes.sealing_vfs import SealingVfs

T = TypeVar("T")


class CountingVfs(MemoryVfs):
    def __init__(self) -> None:
        super().__init__(cold=True)
        self.reads: list[tuple[int, int]] = []

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        self.reads.append((offset, size))
        return await super().read(handle, offset, size)


V = TypeVar("V", bound=MemoryVfs)


def in_thread(work: Callable[[SyncVfs, CountingVfs], T]) -> T:
    """Run ``work`` in a thread that the loop did not start, beside a running loop."""
    return in_thread_with(CountingVfs, work)


def in_thread_with(make: Callable[[], V], work: Callable[[SyncVfs, V], T]) -> T:
    """``in_thread`` with another core."""

    async def main() -> T:
        vfs = make()
        sync = SyncVfs(vfs, LoopPortal(), "webdav")
        return await trio.to_thread.run_sync(lambda: in_foreign_thread(lambda: work(sync, vfs)))

    return trio.run(main)


def in_foreign_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:   # noqa: BLE001   # raised again below
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]
    return results[0]


def test_it_has_every_method_of_the_core() -> None:
    missing = {name for name in vars(Vfs) if not name.startswith("_")} - set(dir(SyncVfs))
    # Attributes of an instance, or of no use to a thread.
    assert missing == {"capabilities", "content_of", "expect", "read_nowait", "sealed", "subscribe"}
    for name in set(vars(Vfs)) & set(vars(SyncVfs)):
        of_core, of_ours = getattr(Vfs, name), getattr(SyncVfs, name)
        if name.startswith("_") or not inspect.isfunction(of_core):
            continue
        expected = [parameter for parameter in inspect.signature(of_core).parameters if parameter != "door"]
        assert list(inspect.signature(of_ours).parameters) == [p for p in expected if p != "door"], name


def test_a_file_from_cradle_to_grave() -> None:
    def work(sync: SyncVfs, vfs: CountingVfs) -> None:
        assert sync.capabilities.symlinks
        assert not sync.read_only
        folder = sync.mkdir(ROOT_INO, "folder")
        made, handle = sync.create(folder.ino, "file", exclusive=True)
        assert sync.write(handle, 0, b"hello") == 5
        assert sync.write(handle, None, b" world") == 6
        sync.flush(handle)
        sync.fsync(handle)
        sync.release(handle)
        sync.fsync_directory(folder.ino)
        assert sync.resolve("/folder/file").size == 11
        assert sync.path_of(made.ino) == "/folder/file"
        assert sync.lookup(folder.ino, "file").attributes == sync.getattr(made.ino)
        sync.rename(folder.ino, "file", ROOT_INO, "moved", RenameMode.NO_REPLACE)
        sync.setattr(made.ino, SetAttributes(mtime_ns=5))
        assert sync.getattr(made.ino).mtime_ns == 5
        sync.symlink(ROOT_INO, "link", "moved")
        assert sync.readlink(sync.lookup(ROOT_INO, "link").attributes.ino) == "moved"
        copied, new = sync.copy_file(made.ino, folder.ino, "copy")
        assert new
        assert copied.size == 11
        sync.setxattr(made.ino, "user.a", b"1", create=True)
        assert (sync.listxattr(made.ino), sync.getxattr(made.ino, "user.a")) == (["user.a"], b"1")
        sync.removexattr(made.ino, "user.a")
        sync.save_record("key", b"value")
        assert sync.load_records() == {"key": b"value"}
        assert vfs.load_records("webdav") == {"key": b"value"}
        assert sync.statfs().free is not None
        assert sync.status().pending == ()
        sync.wait_until_uploaded()
        sync.unlink(ROOT_INO, "moved")
        sync.unlink(folder.ino, "copy")
        sync.rmdir(ROOT_INO, "folder")
        assert [entry.name for entry in sync.readdir(ROOT_INO)] == ["link"]
        with pytest.raises(NotFound):
            sync.getattr(made.ino)

    in_thread(work)


def test_a_long_listing_in_slices() -> None:
    def work(sync: SyncVfs, vfs: CountingVfs) -> None:
        for count in (0, LISTING_SLICE - 1, LISTING_SLICE, LISTING_SLICE * 3 + 1):
            while len(vfs.readdir(ROOT_INO, limit=10_000)) < count:
                vfs.cloud_put(f"/{len(vfs.readdir(ROOT_INO, limit=10_000))}", b"")
            assert [entry.name for entry in sync.list_all(ROOT_INO)] == [str(n) for n in range(count)]

    in_thread(work)


def test_a_reader_crosses_seldom() -> None:
    data = os.urandom(CROSSING_SIZE * 2 + 1000)

    def work(sync: SyncVfs, vfs: CountingVfs) -> None:
        ino = vfs.cloud_put("/file", data)
        with sync.open_reader(ino) as reader:
            assert reader.attributes.size == len(data)
            received = bytearray()
            while piece := reader.read(1000):
                received += piece
            assert received == data
        assert reader.closed
        assert vfs.reads == [
            (0, CROSSING_SIZE), (CROSSING_SIZE, CROSSING_SIZE), (2 * CROSSING_SIZE, CROSSING_SIZE),
            (len(data), CROSSING_SIZE),
        ]  # fmt: skip
        vfs.reads.clear()
        with sync.open_reader(ino, 10, 4106) as part:
            assert part.read(1 << 20) == data[10:4106]
            assert part.read(1) == b""
        assert vfs.reads == [(10, 4096)], "no more is read than was asked for"
        assert vfs.expected == [(Span(0, len(data)), True), (Span(10, 4106), True)]
        with pytest.raises(BadHandle):
            reader.read(1)
        with pytest.raises(BadHandle):
            reader.seek(0)
        reader.close()
        with pytest.raises(IsADirectory):
            sync.open_reader(ROOT_INO)

    in_thread(work)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 3_000_000)),
        st.tuples(st.just("seek"), st.integers(0, 3_000_000)),
        st.tuples(st.just("back"), st.integers(0, 1000)),
        st.tuples(st.just("end"), st.integers(-1000, 10)),
    ),
    max_size=10,
)


@settings(max_examples=25)
@given(STEPS)
def test_a_reader_against_bytes(steps: list[tuple[str, int]]) -> None:
    in_thread(lambda sync, vfs: _compare(sync, vfs, steps))


@settings(max_examples=25)
@given(STEPS, st.sets(st.integers(0, 15), max_size=3))
def test_a_reader_of_what_the_disk_cache_holds(steps: list[tuple[str, int]], damaged: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_thread_with(
            lambda: SealingVfs(Path(folder), damaged), lambda sync, vfs: _compare(sync, vfs, steps)
        )


def _compare(sync: SyncVfs, vfs: MemoryVfs, steps: list[tuple[str, int]]) -> None:
    data = bytes(range(256)) * 8192   # 2 MiB
    model = io.BytesIO(data)
    with sync.open_reader(vfs.cloud_put("/file", data)) as reader:
        for step, number in steps:
            if step == "read":
                piece = reader.read(number)
                assert piece == model.read(len(piece))
                assert piece or not number or not model.read(1)
            elif step == "seek":
                assert reader.seek(number) == model.seek(number)
            elif step == "back":
                whence = min(number, reader.tell())
                assert reader.seek(-whence, io.SEEK_CUR) == model.seek(-whence, io.SEEK_CUR)
            else:
                assert reader.seek(number, io.SEEK_END) == model.seek(number, io.SEEK_END)
            assert reader.tell() == model.tell()
        with pytest.raises(InvalidArgument):
            reader.seek(-1)


def test_a_file_on_disk_is_read_with_few_crossings(tmp_path: Path) -> None:
    size = 20 * CROSSING_SIZE + 7
    data = (bytes(range(251)) * (size // 251 + 1))[:size]

    def work(sync: SyncVfs, vfs: SealingVfs) -> None:
        ino = vfs.cloud_put("/file", data)
        with sync.open_reader(ino) as reader:
            assert b"".join(iter(lambda: reader.read(CROSSING_SIZE), b"")) == data
        assert vfs.read_at == [size], "only the end"
        assert len(vfs.asked) <= 3
        vfs.asked.clear()
        with sync.open_reader(ino, 10, 4106) as part:
            assert part.read(1 << 20) == data[10:4106]
            assert part.read(1) == b""
        assert vfs.open_handles == 0

    in_thread_with(lambda: SealingVfs(tmp_path), work)


class HangingVfs(MemoryVfs):
    def __init__(self) -> None:
        super().__init__()
        self.hanging = trio.Event()

    async def wait_until_uploaded(self) -> None:
        self.hanging.set()
        await trio.sleep_forever()


@pytest.mark.trio
async def test_closing_frees_threads_that_wait() -> None:
    vfs = HangingVfs()
    sync = SyncVfs(vfs, LoopPortal(), "ftp")
    ino = vfs.cloud_put("/file", b"content")
    raised: list[type[BaseException]] = []

    def work() -> None:
        reader = sync.open_reader(ino)
        draft = sync.create_draft()
        sync.write(draft, 0, b"x")
        for call in (sync.wait_until_uploaded, sync.statfs, sync.status, lambda: reader.read(10)):
            with pytest.raises(Unavailable) as caught:
                call()
            raised.append(caught.type)
        reader.close()
        sync.keep_draft(draft)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, lambda: in_foreign_thread(work))
            await vfs.hanging.wait()
            sync.close()
    assert raised == [Unavailable] * 4
    assert not vfs._handles, "what was open is closed also while the door closes"


def test_a_loop_that_has_ended() -> None:
    async def main() -> SyncVfs:
        return SyncVfs(MemoryVfs(), LoopPortal(), "ftp")

    sync = trio.run(main)
    calls: list[Callable[[], object]] = [
        sync.statfs, sync.wait_until_uploaded, lambda: sync.release(HandleId(1)), lambda: sync.getattr(Ino(1)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unavailable):
            call()
