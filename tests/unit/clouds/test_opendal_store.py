"""What only a store over the network has: lost answers, broken connections, other writers, pages."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from serpentfs.clouds.blobs import opendal as module
from serpentfs.clouds.blobs.base import ABSENT, Chunks
from serpentfs.clouds.blobs.opendal import PART_SIZE, PARTS_AT_ONCE, OpendalStore, Timeouts
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RateLimited,
    RevisionGone,
    SerpentError,
    Unavailable,
    Unsupported,
    UsageError,
)
from serpentfs.model import Span
from tests.fakes.s3_server import Fault, S3Server, s3_operator

pytestmark = pytest.mark.trio

LARGE = bytes(range(256)) * (2 * PART_SIZE // 256 + 100)


def chunked(data: bytes) -> Chunks:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 65536):
            yield data[start : start + 65536]

    return chunks


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        running.make_bucket("bucket")
        yield running


@pytest.fixture
def store(server: S3Server) -> OpendalStore:
    return OpendalStore(s3_operator(server, "bucket", "root"))


def requests(server: S3Server, method: str) -> list[str]:
    return [line for line in server.requests if line.startswith(f"{method} ")]


# what a call costs


async def test_a_small_put_is_a_request_and_a_look(server: S3Server, store: OpendalStore) -> None:
    await store.put("d/file", chunked(b"data"), 4, condition=ABSENT, mtime_ns=1_500_000_000_123_456_789)
    assert server.requests == ["PUT /bucket/root/d/file", "HEAD /bucket/root/d/file"]
    stored = server.buckets["bucket"]["root/d/file"]
    assert stored.headers["x-amz-meta-mtime"] == "1500000000.123456789"


async def test_a_read_is_one_request(server: S3Server, store: OpendalStore) -> None:
    info = await store.put("file", chunked(b"0123456789"), 10)
    server.requests.clear()
    assert await store.read("file", Span(2, 5), revision=info.revision) == b"234"
    assert server.requests == ["GET /bucket/root/file"]


async def test_a_listing_asks_for_no_single_object(server: S3Server, store: OpendalStore) -> None:
    server.page_size = 100
    for index in range(950):
        server.put_object("bucket", f"root/d/{index % 10}/{index}", b"x" * (index % 3))
    found = await store.list("d")
    assert {blob.key: blob.size for blob in found} == {f"d/{index % 10}/{index}": index % 3 for index in range(950)}
    assert len(requests(server, "GET")) == len(server.requests) == 10


async def test_a_listing_does_not_stop_the_process(server: S3Server, store: OpendalStore) -> None:
    """OpenDAL's blocking lister would hold the GIL: every other thread, the event loop among them, stood still."""
    server.put_object("bucket", "root/file", b"")
    server.intercept = lambda method, path: Fault(stall=1.0)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.01):
            ticks.append(time.monotonic())

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        started = time.monotonic()
        assert len(await store.list("")) == 1
        took = time.monotonic() - started
    finally:
        done.set()
        ticker.join()
    assert took >= 1.0
    during = [when for when in ticks if started + 0.1 < when < started + 0.9]
    assert len(during) > 5


# large objects


async def test_what_fits_a_part_is_a_request_and_a_look(server: S3Server, store: OpendalStore) -> None:
    data = LARGE[:PART_SIZE]
    await store.put("file", chunked(data), len(data), condition=ABSENT)
    assert server.requests == ["PUT /bucket/root/file", "HEAD /bucket/root/file"]
    assert server.buckets["bucket"]["root/file"].data == data
    with pytest.raises(AlreadyExists):
        await store.put("file", chunked(data), len(data), condition=ABSENT)


async def test_uploads_beside_others_send_fewer_parts_at_a_time(
    store: OpendalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    tell, told = trio.open_memory_channel[int](1)
    whole = store._open

    def noted(upload: module._Write, parts_at_once: int) -> object:
        trio.from_thread.run_sync(tell.send_nowait, parts_at_once)
        return whole(upload, parts_at_once)

    monkeypatch.setattr(store, "_open", noted)
    go_on = trio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield LARGE[:PART_SIZE]
        await go_on.wait()
        yield LARGE[PART_SIZE:]

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(store.put, str(number), chunks, len(LARGE))
            opened.append(await told.receive())
        go_on.set()
    await store.put("alone", chunks, len(LARGE))
    opened.append(await told.receive())
    assert opened == [PARTS_AT_ONCE, PARTS_AT_ONCE // 2, 1, 1, 1, PARTS_AT_ONCE]


async def test_a_large_put_goes_in_parts(server: S3Server, store: OpendalStore) -> None:
    info = await store.put("large", chunked(LARGE), len(LARGE), condition=ABSENT)
    assert server.buckets["bucket"]["root/large"].data == LARGE
    assert len([line for line in requests(server, "PUT") if "partNumber" in line]) == 3
    assert server.uploads == {}
    assert await store.read("large", Span(PART_SIZE - 10, PART_SIZE + 10), revision=info.revision) == (
        LARGE[PART_SIZE - 10 : PART_SIZE + 10]
    )


async def test_a_large_put_meets_its_condition_at_the_end_too(server: S3Server, store: OpendalStore) -> None:
    base = await store.put("large", chunked(b"base"), 4)

    async def chunks() -> AsyncIterator[bytes]:
        yield LARGE[: PART_SIZE + 1]
        server.put_object("bucket", "root/large", b"theirs")
        yield LARGE[PART_SIZE + 1 :]

    with pytest.raises(Conflict):
        await store.put("large", chunks, len(LARGE), condition=base.revision)
    assert server.buckets["bucket"]["root/large"].data == b"theirs"


async def test_a_hopeless_large_put_is_not_sent(server: S3Server, store: OpendalStore) -> None:
    await store.put("large", chunked(b"base"), 4)
    server.requests.clear()
    with pytest.raises(AlreadyExists):
        await store.put("large", chunked(LARGE), len(LARGE), condition=ABSENT)
    assert server.requests == ["HEAD /bucket/root/large"]


# trouble


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(500), Unavailable),
        (Fault(503, "SlowDown"), RateLimited),
        (Fault(403, "AccessDenied"), PermissionDenied),
        (Fault(404, "NoSuchBucket"), UsageError),
        (Fault(body_bytes=0), Unavailable),
        (Fault(409, "ConditionalRequestConflict"), Unavailable),
        (Fault(stall=30), Unavailable),
    ],
)
async def test_trouble_is_told_in_one_line(
    server: S3Server, fault: Fault, expected: type[SerpentError]
) -> None:
    server.put_object("bucket", "root/file", b"data")
    store = OpendalStore(s3_operator(server, "bucket", "root"), timeouts=Timeouts(0.5, 0.5, 0.5))
    server.intercept = lambda method, path: fault
    for call in (
        lambda: store.read("file"),
        lambda: store.put("file", chunked(b"new"), 3),
        lambda: store.list(""),
    ):
        with pytest.raises(expected) as caught:
            await call()
        assert "\n" not in str(caught.value)
    assert server.buckets["bucket"]["root/file"].data == b"data"


async def test_an_unreachable_store(server: S3Server) -> None:
    with S3Server() as gone:
        operator = s3_operator(gone, "bucket")
    with pytest.raises(Unavailable):
        await OpendalStore(operator).stat("file")


async def test_a_body_that_breaks_off_is_never_data(server: S3Server, store: OpendalStore) -> None:
    server.put_object("bucket", "root/file", b"0123456789" * 100)
    server.intercept = lambda method, path: Fault(body_bytes=10) if method == "GET" else None
    with pytest.raises(Unavailable):
        await store.read("file")
    with pytest.raises(Unavailable):
        await store.read("file", Span(100, 200))


async def test_a_lost_answer_of_a_put(server: S3Server, store: OpendalStore) -> None:
    server.intercept = lambda method, path: Fault(after=True, body_bytes=0) if method == "PUT" else None
    with pytest.raises(Unavailable):
        await store.put("file", chunked(b"data"), 4, condition=ABSENT)
    assert len(requests(server, "PUT")) == 1  # tried again, it would have met itself
    assert server.buckets["bucket"]["root/file"].data == b"data"


async def test_anothers_object_is_not_taken_for_ours(server: S3Server, store: OpendalStore) -> None:
    def replace_before_the_look(method: str, path: str) -> None:
        if method == "HEAD" and path == "/bucket/root/file":
            server.put_object("bucket", "root/file", b"them", {"x-amz-meta-serpentfs-put": "another"})

    server.intercept = replace_before_the_look
    with pytest.raises(Conflict):
        await store.put("file", chunked(b"ours"), 4)
    server.intercept = None
    assert await store.read("file") == b"them"


async def test_a_source_that_changes_while_it_is_renamed_stays(server: S3Server, store: OpendalStore) -> None:
    await store.put("source", chunked(b"old"), 3)

    def change_after_the_copy(method: str, path: str) -> None:
        if method == "HEAD" and path == "/bucket/root/target":
            server.put_object("bucket", "root/source", b"newer")

    server.intercept = change_after_the_copy
    with pytest.raises(Conflict):
        await store.rename("source", "target")
    server.intercept = None
    assert [blob.key for blob in await store.list("")] == ["source"]
    assert await store.read("source") == b"newer"


@pytest.mark.parametrize("condition", [None, ABSENT])
async def test_a_rename_keeps_the_files_time(
    server: S3Server, store: OpendalStore, condition: None
) -> None:
    await store.put("source", chunked(b"data"), 4, mtime_ns=1_500_000_000_123_456_789)
    await store.rename("source", "target", condition=condition)
    assert server.buckets["bucket"]["root/target"].headers["x-amz-meta-mtime"] == "1500000000.123456789"


async def test_reading_what_became_shorter(server: S3Server, store: OpendalStore) -> None:
    info = await store.put("file", chunked(b"0123456789"), 10)
    server.put_object("bucket", "root/file", b"012")
    for span in (Span(5, 10), Span(2, 10), Span(3, 3)):
        with pytest.raises(RevisionGone):
            await store.read("file", span, revision=info.revision)
    server.delete_object("bucket", "root/file")
    with pytest.raises(RevisionGone):
        await store.read("file", Span(5, 10), revision=info.revision)


async def test_what_the_store_cannot_do_is_said(store: OpendalStore) -> None:
    send, _ = trio.open_memory_channel[frozenset[str]](0)
    with pytest.raises(Unsupported):
        await store.set_mtime("file", 0)
    with pytest.raises(Unsupported):
        await store.watch("", send)
    for key in (" file", "file "):
        with pytest.raises(InvalidArgument):
            await store.put(key, chunked(b""), 0)
    with pytest.raises(NotFound):
        await store.rename("missing", "missing")


async def test_markers_of_folders_are_no_objects(server: S3Server, store: OpendalStore) -> None:
    server.put_object("bucket", "root/d/", b"")
    server.put_object("bucket", "root/d/file", b"")
    assert [blob.key for blob in await store.list("")] == ["d/file"]
    assert await store.list_directories("") == ["d"]
    assert await store.list_directories("d") == []
    with pytest.raises(DirectoryNotEmpty):
        await store.remove_directory("d")
    await store.delete("d/file")
    await store.remove_directory("d")
    assert not await store.is_directory("d")
    assert server.buckets["bucket"] == {}


async def test_the_constants_keep_to_the_services_limits() -> None:
    assert module.PART_SIZE >= 5 * 1024 * 1024
    assert module.MOST_PARTS <= 10_000
