"""What every BlobStore must do, run over each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import opendal
import pytest
import trio

from serpentfs.clouds.blobs.base import ABSENT, BlobInfo, BlobStore, Chunks
from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.blobs.opendal import OpendalStore
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    NotFound,
    RevisionGone,
    Unavailable,
    Unsupported,
)
from serpentfs.model import Revision, Span
from tests.fakes.memory_blobs import MemoryBlobStore
from tests.fakes.s3_server import S3Server, s3_operator

pytestmark = pytest.mark.trio

PATIENCE = 20.0
MTIME = 1_600_000_000_000_000_000


@asynccontextmanager
async def files(tmp_path: Path) -> AsyncIterator[BlobStore]:
    yield FileStore(tmp_path)


@asynccontextmanager
async def memory_objects(tmp_path: Path) -> AsyncIterator[BlobStore]:
    yield MemoryBlobStore()


@asynccontextmanager
async def memory_folders(tmp_path: Path) -> AsyncIterator[BlobStore]:
    yield MemoryBlobStore(folders=True)


@asynccontextmanager
async def opendal_memory(tmp_path: Path) -> AsyncIterator[BlobStore]:
    yield OpendalStore(opendal.Operator("memory"))


@asynccontextmanager
async def opendal_s3(tmp_path: Path) -> AsyncIterator[BlobStore]:
    with S3Server() as server:
        server.make_bucket("bucket")
        server.put_object("bucket", "elsewhere/file", b"not below the prefix")
        yield OpendalStore(s3_operator(server, "bucket", "some/prefix"))


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[BlobStore]]] = {
    "files": files,
    "memory, as folders": memory_folders,
    "memory, as objects": memory_objects,
    "opendal memory": opendal_memory,
    "opendal s3": opendal_s3,
}


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened
        await opened.aclose()


def chunked(data: bytes, chunk: int = 32 * 1024) -> Chunks:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), chunk):
            await trio.lowlevel.checkpoint()
            yield data[start : start + chunk]

    return chunks


async def put(store: BlobStore, key: str, data: bytes = b"data") -> BlobInfo:
    return await store.put(key, chunked(data), len(data))


async def keys(store: BlobStore, prefix: str = "") -> list[str]:
    return sorted(blob.key for blob in await store.list(prefix))


# objects


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 1 << 20, (1 << 20) + 1, 12_345_678])
async def test_what_was_put_is_read(store: BlobStore, size: int) -> None:
    data = bytes(index * 7 % 251 for index in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    info = await store.put("d/AA/BBB/file.c9r", chunked(data), size)
    assert (info.key, info.size) == ("d/AA/BBB/file.c9r", size)
    assert info.revision
    assert await store.read("d/AA/BBB/file.c9r") == data
    assert await store.read("d/AA/BBB/file.c9r", revision=info.revision) == data


async def test_stat_and_list_show_what_put_answered(store: BlobStore) -> None:
    info = await put(store, "d/AA/file")
    assert await store.stat("d/AA/file") == info
    assert await store.list("") == [info]
    assert await store.list("d/AA") == [info]


async def test_read_spans(store: BlobStore) -> None:
    data = bytes(range(256)) * 1000
    info = await put(store, "file", data)
    for start, stop in [(0, 1), (0, len(data)), (5, 5), (1000, 200_000), (len(data) - 1, len(data))]:
        assert await store.read("file", Span(start, stop), revision=info.revision) == data[start:stop]
    assert await store.read("file", Span(len(data) - 5, len(data) + 100)) == data[-5:]
    assert await store.read("file", Span(len(data), len(data) + 100)) == b""
    assert await store.read("file", Span(len(data) + 50, len(data) + 100)) == b""


async def test_an_empty_object(store: BlobStore) -> None:
    info = await put(store, "empty", b"")
    assert info.size == 0
    assert await store.read("empty") == b""
    assert await store.read("empty", Span(0, 10)) == b""
    assert [blob.size for blob in await store.list("")] == [0]


async def test_missing_objects(store: BlobStore) -> None:
    await put(store, "folder/file")
    for key in ("missing", "folder/missing", "missing/missing", "folder/file/below", "folder"):
        with pytest.raises(NotFound):
            await store.stat(key)
        with pytest.raises(NotFound):
            await store.read(key)
        with pytest.raises(NotFound):
            await store.delete(key)
        with pytest.raises(NotFound):
            await store.rename(key, "elsewhere")
    assert await keys(store) == ["folder/file"]


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/absolute", "a//b", "a/./b", "a/", "nul\0"])
async def test_keys_that_lead_out_are_refused(store: BlobStore, key: str) -> None:
    with pytest.raises(InvalidArgument):
        await put(store, key)
    with pytest.raises(InvalidArgument):
        await store.read(key)
    with pytest.raises(InvalidArgument):
        await store.delete(key)
    with pytest.raises(InvalidArgument):
        await store.list(key)


async def test_an_object_needs_a_key(store: BlobStore) -> None:
    with pytest.raises(InvalidArgument):
        await put(store, "")


@pytest.mark.parametrize(
    "name", ["sp ace", "ünï", "日本語", "a%2Fb", "plus+and&?#", "-_=.c9r", "'\"<>", "~tilde", "x" * 220]
)
async def test_names_come_back(store: BlobStore, name: str) -> None:
    info = await put(store, f"folder/{name}")
    assert await store.stat(f"folder/{name}") == info
    assert await keys(store) == [f"folder/{name}"]
    assert await store.read(f"folder/{name}") == b"data"
    await store.delete(f"folder/{name}")
    assert await keys(store) == []


async def test_a_new_content_is_a_new_revision(store: BlobStore) -> None:
    first = await put(store, "file", b"1111")
    second = await put(store, "file", b"2222")
    assert first.revision != second.revision
    with pytest.raises(RevisionGone):
        await store.read("file", revision=first.revision)
    assert await store.read("file", revision=second.revision) == b"2222"
    await store.delete("file")
    with pytest.raises((RevisionGone, NotFound)):
        await store.read("file", revision=second.revision)


async def test_mtime_is_kept_where_it_can_be(store: BlobStore) -> None:
    info = await store.put("file", chunked(b"data"), 4, mtime_ns=MTIME)
    assert await store.stat("file") == info
    if store.capabilities.set_mtime:
        assert info.mtime_ns == MTIME
        with pytest.raises(Conflict):
            await store.set_mtime("file", MTIME, condition=Revision("another"))
        before = await store.stat("file")
        changed = await store.set_mtime("file", MTIME + 1_000_000_000, condition=before.revision)
        assert changed.mtime_ns == MTIME + 1_000_000_000
        assert await store.stat("file") == changed
        assert await store.read("file", revision=changed.revision) == b"data"


# conditions


async def test_put_if_absent(store: BlobStore) -> None:
    await store.put("folder/file", chunked(b"first"), 5, condition=ABSENT)
    with pytest.raises(AlreadyExists):
        await store.put("folder/file", chunked(b"second"), 6, condition=ABSENT)
    assert await store.read("folder/file") == b"first"


async def test_put_if_at_a_revision(store: BlobStore) -> None:
    first = await put(store, "file", b"first")
    second = await store.put("file", chunked(b"second"), 6, condition=first.revision)
    with pytest.raises(Conflict):
        await store.put("file", chunked(b"third"), 5, condition=first.revision)
    assert await store.read("file", revision=second.revision) == b"second"
    await store.delete("file")
    with pytest.raises(Conflict):
        await store.put("file", chunked(b"third"), 5, condition=second.revision)
    assert await keys(store) == []


async def test_a_large_put_keeps_its_condition(store: BlobStore) -> None:
    first = await put(store, "file", b"first")
    large = b"x" * 9_000_000
    with pytest.raises(AlreadyExists):
        await store.put("file", chunked(large), len(large), condition=ABSENT)
    second = await store.put("file", chunked(large), len(large), condition=first.revision)
    with pytest.raises(Conflict):
        await store.put("file", chunked(large), len(large), condition=first.revision)
    assert await store.list("") == [second]


# order


async def test_the_next_key(store: BlobStore) -> None:
    if not store.capabilities.sorted_keys:
        with pytest.raises(Unsupported):
            await store.next_key("d/A", "d/A/b")
        return
    assert await store.next_key("d/A", "d/A/b") is None
    for key in ("d/A/b", "d/A/b.x", "d/A/c/inner/file", "d/A/d", "d/B/e", "d/AA/f"):
        await put(store, key)
    for after, following in [
        ("d/A/", "d/A/b"), ("d/A/b", "d/A/b.x"), ("d/A/b/", "d/A/c/inner/file"), ("d/A/c/", "d/A/c/inner/file"),
        ("d/A/c/inner/file", "d/A/d"), ("d/A/d", None), ("d/A/d/", None),
    ]:  # fmt: skip
        assert await store.next_key("d/A", after) == following, after


# objects whose size is not known when they begin


async def test_a_growing_put(store: BlobStore) -> None:
    if not store.capabilities.growing_puts:
        with pytest.raises(Unsupported):
            await store.put("file", chunked(b"data"), None)
        return
    for size in (0, 1, 100_000, 20_000_000):
        data = bytes(index * 7 % 251 for index in range(1000)) * (size // 1000 + 1)
        info = await store.put(f"d/{size}", chunked(data[:size]), None, mtime_ns=MTIME)
        assert info == await store.stat(f"d/{size}")
        assert await store.read(f"d/{size}") == data[:size]


async def test_nothing_is_seen_of_a_growing_put_until_it_ends(store: BlobStore) -> None:
    if not store.capabilities.growing_puts:
        return
    reached, go_on = trio.Event(), trio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(18):
            yield b"x" * 1_000_000
        reached.set()
        await go_on.wait()
        yield b"end"

    outcome: list[BlobInfo] = []
    async with trio.open_nursery() as nursery:

        async def upload() -> None:
            outcome.append(await store.put("file", chunks, None, condition=ABSENT))

        nursery.start_soon(upload)
        with trio.fail_after(PATIENCE):
            await reached.wait()
        assert await store.list("") == []
        go_on.set()
    assert await store.list("") == outcome
    assert outcome[0].size == 18_000_003


async def test_a_growing_put_that_is_given_up_leaves_nothing(store: BlobStore) -> None:
    if not store.capabilities.growing_puts:
        return
    first = await put(store, "file", b"first")
    reached = trio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(18):
            yield b"x" * 1_000_000
        reached.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(store.put, "file", chunks, None, condition=first.revision))
        with trio.fail_after(PATIENCE):
            await reached.wait()
        nursery.cancel_scope.cancel()
    assert await store.list("") == [first]


@pytest.mark.parametrize("size", [100, 18_000_000])
async def test_a_growing_put_meets_what_came_meanwhile(store: BlobStore, size: int) -> None:
    if not store.capabilities.growing_puts:
        return
    base = await put(store, "replaced", b"base")
    theirs: list[BlobInfo] = []

    def overtaken(key: str) -> Chunks:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x" * size
            theirs.append(await put(store, key, b"theirs"))
            yield b"end"

        return chunks

    with pytest.raises(AlreadyExists):
        await store.put("new", overtaken("new"), None, condition=ABSENT)
    with pytest.raises(Conflict):
        await store.put("replaced", overtaken("replaced"), None, condition=base.revision)
    assert await store.list("") == theirs


async def test_only_one_of_many_puts_wins(store: BlobStore) -> None:
    outcomes: list[bytes | None] = []

    async def attempt(data: bytes) -> None:
        try:
            await store.put("file", chunked(data), len(data), condition=ABSENT)
        except AlreadyExists:
            outcomes.append(None)
        else:
            outcomes.append(data)

    async with trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(attempt, b"%d" % index)
    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(outcomes) == 8
    assert [await store.read("file")] == winners


async def test_only_one_of_many_replacements_wins(store: BlobStore) -> None:
    base = await put(store, "file", b"base")
    outcomes: list[bytes | None] = []

    async def attempt(data: bytes) -> None:
        try:
            await store.put("file", chunked(data), len(data), condition=base.revision)
        except Conflict:
            outcomes.append(None)
        else:
            outcomes.append(data)

    async with trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(attempt, b"%d" % index)
    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(outcomes) == 8
    assert [await store.read("file")] == winners


async def test_delete_if_at_a_revision(store: BlobStore) -> None:
    first = await put(store, "file", b"first")
    second = await put(store, "file", b"second")
    with pytest.raises(Conflict):
        await store.delete("file", condition=first.revision)
    assert await store.read("file") == b"second"
    await store.delete("file", condition=second.revision)
    with pytest.raises(NotFound):
        await store.delete("file", condition=second.revision)


# all or nothing


@pytest.mark.parametrize("size", [50_000, 9_000_000])
async def test_a_cancelled_put_leaves_the_old_object(store: BlobStore, size: int) -> None:
    old = await put(store, "folder/file", b"old")
    reached = trio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * (size - 1)
        reached.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, "folder/file", chunks, size)
        with trio.fail_after(PATIENCE):
            await reached.wait()
        nursery.cancel_scope.cancel()
    assert await store.list("") == [old]
    assert await store.read("folder/file", revision=old.revision) == b"old"


@pytest.mark.parametrize("size", [50_000, 9_000_000])
async def test_a_failing_source_leaves_the_old_object(store: BlobStore, size: int) -> None:
    old = await put(store, "folder/file", b"old")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * (size - 1)
        raise Unavailable("the source broke")

    with pytest.raises(Unavailable):
        await store.put("folder/file", chunks, size)
    with pytest.raises(Unavailable):
        await store.put("folder/new", chunks, size)
    assert await store.list("") == [old]
    assert await store.read("folder/file", revision=old.revision) == b"old"


@pytest.mark.parametrize("size", [50_000, 9_000_000])
@pytest.mark.parametrize("difference", [-1, 1])
async def test_a_source_of_another_length_is_refused(store: BlobStore, size: int, difference: int) -> None:
    old = await put(store, "file", b"old")
    with pytest.raises(InvalidArgument):
        await store.put("file", chunked(b"x" * (size + difference)), size)
    assert await store.list("") == [old]


async def test_a_reader_sees_the_old_or_the_new_object(store: BlobStore) -> None:
    old, new = b"o" * 300_000, b"n" * 200_000
    await put(store, "file", old)
    seen: set[bytes] = set()
    done = trio.Event()

    async def reader() -> None:
        while not done.is_set():
            seen.add(await store.read("file"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        for _ in range(5):
            await put(store, "file", new)
            await put(store, "file", old)
        done.set()
    assert seen <= {old, new}
    assert seen


# renaming


async def test_rename(store: BlobStore) -> None:
    await put(store, "a/file", b"data")
    info = await store.rename("a/file", "b/c/renamed")
    assert (info.key, info.size) == ("b/c/renamed", 4)
    assert await store.list("") == [info]
    assert await store.read("b/c/renamed", revision=info.revision) == b"data"


async def test_rename_with_conditions(store: BlobStore) -> None:
    await put(store, "source", b"data")
    target = await put(store, "target", b"target")
    with pytest.raises(AlreadyExists):
        await store.rename("source", "target", condition=ABSENT)
    with pytest.raises(Conflict):
        await store.rename("source", "target", condition=Revision(target.revision + "0"))
    with pytest.raises(Conflict):
        await store.rename("source", "missing", condition=target.revision)
    assert await keys(store) == ["source", "target"]
    await store.rename("source", "target", condition=target.revision)
    assert await store.read("target") == b"data"
    info = await store.rename("target", "free", condition=ABSENT)
    assert await store.list("") == [info]
    await put(store, "target", b"target")
    await store.rename("free", "target")
    assert await store.read("target") == b"data"
    assert await keys(store) == ["target"]


async def test_rename_a_large_object(store: BlobStore) -> None:
    data = bytes(range(256)) * 50_000
    await put(store, "file", data)
    await store.rename("file", "renamed")
    assert await store.read("renamed") == data
    assert await keys(store) == ["renamed"]


async def test_rename_directory(store: BlobStore) -> None:
    await put(store, "a/x.c9s/name.c9s", b"name")
    await put(store, "a/x.c9s/contents.c9r", b"contents")
    await put(store, "a/x.c9s2/other", b"other")
    await store.rename_directory("a/x.c9s", "b/y.c9s")
    assert await keys(store) == ["a/x.c9s2/other", "b/y.c9s/contents.c9r", "b/y.c9s/name.c9s"]
    assert await store.read("b/y.c9s/contents.c9r") == b"contents"
    with pytest.raises(NotFound):
        await store.rename_directory("a/x.c9s", "b/z.c9s")
    with pytest.raises(AlreadyExists):
        await store.rename_directory("a/x.c9s2", "b/y.c9s")
    assert await keys(store) == ["a/x.c9s2/other", "b/y.c9s/contents.c9r", "b/y.c9s/name.c9s"]


# folders


async def test_list_is_recursive_and_keeps_to_its_folder(store: BlobStore) -> None:
    for key in ("top", "d/AA/one", "d/AA/x.c9r/two", "d/AAA/three", "d/B", "e/four"):
        await put(store, key)
    assert await keys(store) == ["d/AA/one", "d/AA/x.c9r/two", "d/AAA/three", "d/B", "e/four", "top"]
    assert await keys(store, "d") == ["d/AA/one", "d/AA/x.c9r/two", "d/AAA/three", "d/B"]
    assert await keys(store, "d/AA") == ["d/AA/one", "d/AA/x.c9r/two"]
    assert await keys(store, "missing") == []
    assert sorted(await store.list_directories("")) == ["d", "e"]
    assert sorted(await store.list_directories("d")) == ["d/AA", "d/AAA"]
    assert await store.list_directories("d/AA") == ["d/AA/x.c9r"]
    assert await store.list_directories("missing") == []
    assert await store.is_directory("")
    assert await store.is_directory("d")
    assert await store.is_directory("d/AA")
    assert not await store.is_directory("d/A")
    assert not await store.is_directory("d/B")
    assert not await store.is_directory("missing")


async def test_list_many(store: BlobStore) -> None:
    async def fill(part: int) -> None:
        for index in range(part, 1200, 8):
            await put(store, f"d/{index % 7}/{index:05}", b"x" * (index % 5))

    async with trio.open_nursery() as nursery:
        for part in range(8):
            nursery.start_soon(fill, part)
    found = {blob.key: blob.size for blob in await store.list("d")}
    assert found == {f"d/{index % 7}/{index:05}": index % 5 for index in range(1200)}


async def test_folders_are_made_and_removed(store: BlobStore) -> None:
    await store.make_directory("d/AA/BBB")
    await store.make_directory("d/AA/BBB")
    await put(store, "d/AA/BBB/file")
    for prefix in ("d/AA/BBB", "d/AA", "d"):
        with pytest.raises(DirectoryNotEmpty):
            await store.remove_directory(prefix)
    await store.delete("d/AA/BBB/file")
    for prefix in ("d/AA/BBB", "d/AA", "d", "d", "d/AA"):
        await store.remove_directory(prefix)
    assert not await store.is_directory("d")
    assert await store.list_directories("") == []


async def test_quota(store: BlobStore) -> None:
    quota = await store.quota()
    for value in (quota.total, quota.used, quota.free):
        assert value is None or value >= 0


async def test_a_put_makes_no_folder_that_must_be_there(store: BlobStore) -> None:
    await put(store, "d/AA/BBB/file")
    for key, within in (("d/AA/BBB/other", "d/AA/BBB"), ("d/AA/BBB/new/deep/file", "d/AA/BBB"), ("e/file", "")):
        await store.put(key, chunked(b"data"), 4, condition=ABSENT, within=within)
    for key, within in (("d/AA/CCC/file", "d/AA/CCC"), ("d/AA/CCC/deep/file", "d/AA/CCC"), ("f/file", "f")):
        for condition in (ABSENT, None):
            if store.capabilities.folders:
                with pytest.raises(NotFound):
                    await store.put(key, chunked(b"data"), 4, condition=condition, within=within)
                assert not await store.is_directory(within)
            else:
                await store.put(key, chunked(b"data"), 4, condition=condition, within=within)
    assert {"d/AA/BBB/file", "d/AA/BBB/new/deep/file", "d/AA/BBB/other", "e/file"} <= set(await keys(store))


# events


class Watched:
    """What ``watch`` sent so far."""

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.started = trio.Event()
        self.more = trio.Event()

    async def run(self, store: BlobStore, prefix: str) -> None:
        send, receive = trio.open_memory_channel[frozenset[str]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.watch, prefix, send)
            async for folders in receive:
                if not self.started.is_set():
                    assert folders == frozenset()
                    self.started.set()
                self.folders |= folders
                self.more.set()
                self.more = trio.Event()

    async def wait_for(self, *folders: str) -> None:
        with trio.fail_after(PATIENCE):
            while not self.folders >= set(folders):
                await self.more.wait()
        self.folders.clear()


async def test_watch_tells_the_folders_that_changed(store: BlobStore) -> None:
    if not store.capabilities.events:
        pytest.skip("no events here")
    await put(store, "d/AA/BBB/file")
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        with trio.fail_after(PATIENCE):
            await watched.started.wait()
        info = await put(store, "d/AA/BBB/second")
        await watched.wait_for("d/AA/BBB")
        await put(store, "d/CC/DDD/deep/file")
        await watched.wait_for("d", "d/CC", "d/CC/DDD", "d/CC/DDD/deep")
        await store.put("d/AA/BBB/second", chunked(b"other"), 5, condition=info.revision)
        await watched.wait_for("d/AA/BBB")
        await store.rename("d/AA/BBB/second", "d/CC/DDD/second")
        await watched.wait_for("d/AA/BBB", "d/CC/DDD")
        await store.rename_directory("d/CC/DDD/deep", "d/AA/deep")
        await watched.wait_for("d/CC/DDD", "d/AA", "d/AA/deep")
        await put(store, "d/AA/deep/again")
        await watched.wait_for("d/AA/deep")
        await store.delete("d/AA/BBB/file")
        await watched.wait_for("d/AA/BBB")
        nursery.cancel_scope.cancel()
