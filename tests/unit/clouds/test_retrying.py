from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from serpentfs.clouds.retrying import FIRST_PAUSE, Deadlines, RetryingCloud
from serpentfs.errors import (
    IntegrityError,
    NotFound,
    RateLimited,
    RevisionGone,
    SerpentError,
    Unavailable,
)
from serpentfs.model import NodeId, NodeInfo, NodeRef, Revision, Span
from tests.fakes.content import BytesContent
from tests.fakes.faulty_cloud import FOR_EVER, FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

DEADLINES = Deadlines(read=30, snapshot=90, change=60, stall=120)
TOKEN = bytes(32)


class Bench:
    """A retrying cloud over a faulty one over the reference."""

    def __init__(self) -> None:
        self.memory = MemoryCloud()
        self.faulty = FaultyCloud(self.memory)
        self.cloud = RetryingCloud(self.faulty, deadlines=DEADLINES, jitter=lambda: 0.5)
        self.file = self.memory.external_put("/file", b"data")

    async def read(self) -> bytes:
        return await self.cloud.read(self.file.ref, Span(0, 4))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None


async def test_a_read_is_tried_until_it_works(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.fail("read", times=3)
    started = trio.current_time()
    assert await bench.read() == b"data"
    assert bench.faulty.calls == ["read"] * 4
    assert trio.current_time() - started == pytest.approx(0.75 * FIRST_PAUSE * (1 + 2 + 4))


async def test_snapshot_and_quota_are_tried_again(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.fail("snapshot", times=2)
    assert (await bench.cloud.snapshot(nothing_known)).complete
    bench.faulty.fail("quota", times=2)
    assert (await bench.cloud.quota()).used == 4


async def test_a_read_that_never_works_fails_within_its_deadline(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.network_gone = True
    started = trio.current_time()
    with pytest.raises(Unavailable):
        await bench.read()
    assert 20 < trio.current_time() - started <= 30
    bench.faulty.network_gone = False
    assert await bench.read() == b"data"


async def test_a_stalled_read_fails_at_its_deadline(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.stall("read")
    started = trio.current_time()
    with pytest.raises(Unavailable, match="30 s"):
        await bench.read()
    assert trio.current_time() - started == pytest.approx(30)


async def test_the_store_may_say_when_to_come_back(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.fail("read", RateLimited("slow down", retry_after=11))
    started = trio.current_time()
    assert await bench.read() == b"data"
    assert trio.current_time() - started == pytest.approx(11)


async def test_a_wait_beyond_the_deadline_is_not_waited_for(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.fail("read", RateLimited("slow down", retry_after=31))
    started = trio.current_time()
    with pytest.raises(RateLimited):
        await bench.read()
    assert trio.current_time() == started


@pytest.mark.parametrize("error", [RevisionGone("gone"), IntegrityError("damaged"), NotFound("nothing")])
async def test_what_fails_for_good_is_not_tried_again(
    autojump_clock: MockClock, bench: Bench, error: SerpentError
) -> None:
    bench.faulty.fail("read", error)
    with pytest.raises(type(error)):
        await bench.read()
    assert bench.faulty.calls == ["read"]


def _changes(bench: Bench) -> dict[str, Callable[[], Awaitable[object]]]:
    cloud, root, file = bench.cloud, bench.cloud.root, bench.file.ref
    return {
        "put": lambda: _put(bench, root, "new"),
        "mkdir": lambda: cloud.mkdir(root, "new", token=TOKEN),
        "symlink": lambda: cloud.symlink(root, "new", "target", mtime_ns=0),
        "move": lambda: cloud.move(file, root, "new", replaces=None),
        "remove": lambda: cloud.remove(file),
        "set_mtime": lambda: cloud.set_mtime(file, 7),
    }


async def _put(bench: Bench, parent: NodeId, name: str, replaces: NodeRef | None = None) -> NodeInfo:
    return await bench.cloud.put(
        parent, name, BytesContent(b"content"), replaces=replaces, mtime_ns=0, token=TOKEN
    )


@pytest.mark.parametrize("method", ["put", "mkdir", "symlink", "move", "remove", "set_mtime"])
async def test_changes_are_not_tried_again(autojump_clock: MockClock, bench: Bench, method: str) -> None:
    bench.faulty.fail(method, after=True)
    with pytest.raises(Unavailable):
        await _changes(bench)[method]()
    assert bench.faulty.calls == [method]


@pytest.mark.parametrize("method", ["put", "mkdir", "symlink", "move", "remove", "set_mtime"])
async def test_changes_pass(autojump_clock: MockClock, bench: Bench, method: str) -> None:
    await _changes(bench)[method]()
    assert bench.faulty.calls == [method]


@pytest.mark.parametrize("method", ["mkdir", "symlink", "move", "remove", "set_mtime"])
async def test_a_stalled_change_fails_at_its_deadline(autojump_clock: MockClock, bench: Bench, method: str) -> None:
    bench.faulty.stall(method)
    started = trio.current_time()
    with pytest.raises(Unavailable, match="60 s"):
        await _changes(bench)[method]()
    assert trio.current_time() - started == pytest.approx(60)


async def test_an_upload_that_stands_still_fails(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.stall("put")
    started = trio.current_time()
    with pytest.raises(Unavailable, match="120 s"):
        await _put(bench, bench.cloud.root, "new")
    assert trio.current_time() - started == pytest.approx(120)


class _SlowCloud(MemoryCloud):
    """Takes 100 s for every piece of an upload."""

    async def put(self, parent, name, content, **rest):  # type: ignore[no-untyped-def]
        class Slow:
            size = content.size

            async def read(self, span: Span) -> bytes:
                await trio.sleep(100)
                data: bytes = await content.read(span)
                return data

        return await super().put(parent, name, Slow(), **rest)


async def test_a_slow_upload_that_moves_may_take_as_long_as_it_likes(
    autojump_clock: MockClock,
) -> None:
    cloud = RetryingCloud(_SlowCloud(), deadlines=DEADLINES)
    started = trio.current_time()
    content = BytesContent(bytes(2_000_000))
    node = await cloud.put(cloud.root, "large", content, replaces=None, mtime_ns=0, token=TOKEN)
    assert node.size == 2_000_000
    assert trio.current_time() - started == pytest.approx(800)


async def test_waiting_for_the_source_is_not_the_clouds_fault(autojump_clock: MockClock, bench: Bench) -> None:
    class SlowSource(BytesContent):
        async def read(self, span: Span) -> bytes:
            await trio.sleep(500)
            return await super().read(span)

    node = await bench.cloud.put(
        bench.cloud.root, "new", SlowSource(b"content"), replaces=None, mtime_ns=0, token=TOKEN
    )
    assert node.size == 7


async def test_a_cancelled_caller_is_cancelled(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.stall("read", FOR_EVER)
    with trio.move_on_after(5) as scope:
        await bench.read()
    assert scope.cancelled_caught


async def test_a_network_that_goes_breaks_what_is_under_way(autojump_clock: MockClock, bench: Bench) -> None:
    bench.faulty.stall("quota", 1)
    reached = trio.Event()

    class Source(BytesContent):
        async def read(self, span: Span) -> bytes:
            reached.set()
            await trio.sleep(10)
            return await super().read(span)

    async def cut() -> None:
        await reached.wait()
        bench.faulty.network_gone = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        with pytest.raises(Unavailable, match="broke"):
            await bench.cloud.put(
                bench.cloud.root, "new", Source(b"content"), replaces=None, mtime_ns=0, token=TOKEN
            )
    assert "/new" not in bench.memory.contents()


async def test_faults_strike_the_nth_call_and_after_it_took_effect(autojump_clock: MockClock, bench: Bench) -> None:
    fault = bench.faulty.fail("mkdir", nth=2, after=True)
    cloud, root = bench.faulty, bench.faulty.root
    await cloud.mkdir(root, "a", token=b"a" * 32)
    with pytest.raises(Unavailable):
        await cloud.mkdir(root, "b", token=b"b" * 32)
    await cloud.mkdir(root, "c", token=b"c" * 32)
    assert set(bench.memory.contents()) == {"/file", "/a", "/b", "/c"}
    assert fault.hits == 1
    bench.faulty.shorten_read(3)
    assert await cloud.read(bench.file.ref, Span(0, 4)) == b"d"
    bench.faulty.lengthen_read(2)
    assert await cloud.read(bench.file.ref, Span(0, 4)) == b"data\0\0"
    assert await cloud.read(bench.file.ref, Span(0, 4)) == b"data"


async def test_changes_arrive_when_the_network_is_back(autojump_clock: MockClock, bench: Bench) -> None:
    send, receive = trio.open_memory_channel[object](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cloud.changes, nothing_known, send)
        await receive.receive()
        bench.faulty.network_gone = True
        bench.memory.external_put("/other", b"")
        with trio.move_on_after(100) as scope:
            await receive.receive()
        assert scope.cancelled_caught
        bench.faulty.network_gone = False
        with trio.fail_after(1):
            await receive.receive()
        nursery.cancel_scope.cancel()
