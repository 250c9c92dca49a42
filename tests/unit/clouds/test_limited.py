"""Rates, pauses and counts around a cloud, on a clock of the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from serpentfs import logs, metrics
from serpentfs.clouds.limited import LimitedCloud, Way
from serpentfs.clouds.metered import MeteredCloud
from serpentfs.clouds.retrying import Deadlines, RetryingCloud
from serpentfs.errors import AlreadyExists, RevisionGone, Unavailable
from serpentfs.model import BLOCK_SIZE, Kind, NodeInfo, NodeRef, Revision, Span
from tests.fakes.content import BytesContent
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

MiB = 1024 * 1024
TOKEN = bytes(32)


class Bench:
    """The order of wrappers that an owner has: limits outside of deadlines outside of counts."""

    def __init__(self) -> None:
        self.memory = MemoryCloud()
        self.faulty = FaultyCloud(self.memory)
        self.ways = Way(), Way()
        self.up, self.down = (way.bucket for way in self.ways)
        self.figures = metrics.Metrics()
        metered = MeteredCloud(self.faulty, self.figures)
        deadlines = Deadlines(read=2, change=2, stall=2)
        self.cloud = LimitedCloud(
            RetryingCloud(metered, deadlines=deadlines, jitter=lambda: 0.5), up=self.ways[0], down=self.ways[1]
        )
        self.data = bytes(range(256)) * (32 * 1024)    # 8 MiB
        self.file = self.memory.external_put("/file", self.data)

    async def put(self, name: str, data: bytes) -> NodeInfo:
        return await self.cloud.put(
            self.cloud.root, name, BytesContent(data), replaces=None, mtime_ns=0, token=TOKEN
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_download_keeps_to_its_rate_and_outlives_the_deadline_of_one_call(
    autojump_clock: MockClock, bench: Bench
) -> None:
    bench.down.rate = MiB // 2
    began = trio.current_time()
    assert await bench.cloud.read(bench.file.ref, Span(0, 8 * MiB)) == bench.data
    assert trio.current_time() - began == pytest.approx(16, abs=0.6)
    assert bench.figures.downloaded.total == 8 * MiB


async def test_downloads_share_the_rate(autojump_clock: MockClock, bench: Bench) -> None:
    bench.down.rate = MiB
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(bench.cloud.read, bench.file.ref, Span(0, 2 * MiB))
    assert trio.current_time() - began == pytest.approx(8, abs=0.6)


async def test_a_read_past_the_end_stops_there(autojump_clock: MockClock, bench: Bench) -> None:
    bench.down.rate = 100 * MiB
    assert await bench.cloud.read(bench.file.ref, Span(8 * MiB - 5, 99 * MiB)) == bench.data[-5:]
    with pytest.raises(RevisionGone):
        await bench.cloud.read(NodeRef(bench.memory.root, Kind.FILE, Revision("none"), 1), Span(0, 1))


async def test_an_upload_keeps_to_its_rate_though_it_may_not_stand_still(
    autojump_clock: MockClock, bench: Bench
) -> None:
    bench.up.rate = BLOCK_SIZE // 4    # a piece of 256 KiB takes eight seconds, four times the patience
    began = trio.current_time()
    await bench.put("up", bytes(MiB))
    assert trio.current_time() - began >= 24
    assert bench.figures.uploaded.total == MiB


async def test_a_new_rate_counts_at_once_and_a_pause_holds_everything(
    autojump_clock: MockClock, bench: Bench
) -> None:
    bench.up.rate = 1
    ended: list[float] = []

    async def upload() -> None:
        await bench.put("up", bytes(4 * MiB))
        ended.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        await trio.sleep(100)
        bench.up.paused = True
        bench.up.rate = None
        await trio.sleep(1000)
        assert not ended
        bench.up.paused = False
    assert ended[0] - began == pytest.approx(1100, abs=1)


async def test_no_more_transfers_at_a_time_than_lanes(autojump_clock: MockClock, bench: Bench) -> None:
    running = most = 0
    read, put = bench.memory.read, bench.memory.put

    async def counted(call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)    # longer than the patience of one call, with all of them
        running -= 1
        return await call()

    bench.memory.read = lambda *a: counted(lambda: read(*a))    # type: ignore[method-assign]
    bench.memory.put = lambda *a, **k: counted(lambda: put(*a, **k))    # type: ignore[method-assign]

    async def transfers(upload: bool) -> int:
        nonlocal most
        most = 0
        async with trio.open_nursery() as nursery:
            for number in range(8):
                if upload:
                    nursery.start_soon(bench.put, f"up-{most}-{trio.current_time()}-{number}", b"x")
                else:
                    nursery.start_soon(bench.cloud.read, bench.file.ref, Span(number, number + 1))
        return most

    for upload, way in ((True, bench.ways[0]), (False, bench.ways[1])):
        assert await transfers(upload) == 8
        way.lanes.total_tokens = 2
        assert await transfers(upload) == 2
        way.lanes.total_tokens = 3
        assert await transfers(upload) == 3


async def test_calls_are_counted_with_their_outcome(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.fail("read", times=2)
    await bench.cloud.read(bench.file.ref, Span(0, 4))
    with pytest.raises(AlreadyExists):
        await bench.put("file", b"x")
    figures = bench.figures
    assert figures.calls["read", "Unavailable"] == 2
    assert figures.calls["read", "ok"] == 1
    assert figures.calls["put", "AlreadyExists"] == 1
    assert sum(figures.latency["read"].counts) == 3
    assert metrics.current().retries["reading"] == 2


async def test_how_long_a_cloud_is_offline(autojump_clock: MockClock, bench: Bench) -> None:
    figures = bench.figures
    assert figures.offline_since is None
    bench.faulty.fail("read", times=100)
    with pytest.raises(Unavailable):
        await bench.cloud.read(bench.file.ref, Span(0, 4))
    since = figures.offline_since
    assert since is not None
    assert figures.last_error is not None
    with pytest.raises(Unavailable):
        await bench.cloud.read(bench.file.ref, Span(0, 4))
    assert figures.offline_since == since    # of the first that was not answered
    with pytest.raises(AlreadyExists):
        await bench.put("file", b"x")    # an answer, too
    assert figures.offline_since is None


async def test_every_call_of_the_cloud_names_the_request_that_it_is_for(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    read = bench.memory.read

    async def noting(node: NodeRef, span: Span) -> bytes:
        seen.append(logs.request_id())
        return await read(node, span)

    bench.memory.read = noting    # type: ignore[method-assign]
    request = logs.begin_request("mount")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cloud.read, bench.file.ref, Span(0, 4))
    assert seen == [request]
