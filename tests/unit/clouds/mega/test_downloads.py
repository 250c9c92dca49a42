"""Verified downloads, from a storage server that misbehaves as a test wants it to."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from serpentfs.clouds.mega.api import open_api
from serpentfs.clouds.mega.chunks import chunk_count, chunk_mac, chunk_span, crypt, meta_mac
from serpentfs.clouds.mega.downloads import Downloads, open_downloads
from serpentfs.clouds.mega.keys import FileKey
from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.raid import split
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import IntegrityError, RateLimited, RevisionGone, Unavailable
from serpentfs.model import Span
from tests.fakes.http_script import Answer, Asked, http_server

pytestmark = pytest.mark.trio
KEY, NONCE = bytes(range(16)), bytes(range(8))
SIZE = 5_300_001


def content(size: int) -> bytes:
    return hashlib.shake_128(b"downloads").digest(size)


def node_of(data: bytes, handle: str = "file0001", *, meta: bytes | None = None) -> Node:
    macs = [
        chunk_mac(KEY, NONCE, data[span.start : span.stop])
        for span in (chunk_span(index, len(data)) for index in range(chunk_count(len(data))))
    ]
    key = FileKey(KEY, NONCE, meta_mac(KEY, macs) if meta is None else meta).pack()
    return Node(handle, "root", "me", 0, "name", "name", len(data), 0, 0, key, {})


@dataclass
class Storage:
    """``mishaps``: answers that come instead, one for each download that is asked for."""

    ciphertext: bytes
    raid: bool = False
    mishaps: list[Answer | str] = field(default_factory=list)
    dead_parts: tuple[int, ...] = ()
    question: list[object] = field(default_factory=list)
    """Answers to ``g`` that come instead."""
    url: str = ""
    served: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    gate: trio.Event | None = None

    async def __call__(self, asked: Asked) -> Answer:
        if asked.target.startswith("/cs"):
            self.calls["g"] += 1
            if self.question:
                return Answer(body=json.dumps([self.question.pop(0)]).encode())
            urls = [f"{self.url}/dl{self.calls['g']}.{part}" for part in range(6)]
            found = {"s": len(self.ciphertext), "g": urls if self.raid else urls[0]}
            return Answer(body=json.dumps([found]).encode())
        place, _, span = asked.target.rpartition("/")
        part = int(place[-1])
        start, stop = (int(text) for text in span.split("-"))
        self.served.append(span)
        if self.gate is not None:
            await self.gate.wait()
        if part in self.dead_parts:
            return Answer(503)
        data = (split(self.ciphertext)[part] if self.raid else self.ciphertext)[start : stop + 1]
        if self.mishaps:
            mishap = self.mishaps.pop(0)
            if isinstance(mishap, Answer):
                return mishap
            if mishap == "cut":
                return Answer(body=data, cut=len(data) // 2)
            if mishap == "short":
                return Answer(body=data[: len(data) // 2])
            return Answer(body=bytes([data[0] ^ 1]) + data[1:])
        return Answer(body=data)


@dataclass
class Bench:
    storage: Storage
    downloads: Downloads
    replica: Replica


@asynccontextmanager
async def a_bench(storage: Storage, replica: Replica | None = None) -> AsyncIterator[Bench]:
    transport = Transport(requests_per_second=1000)
    replica = replica or Replica(None, bytes(16), "me")
    async with http_server(storage) as url:
        storage.url = url
        async with (
            open_api(transport, url, sid="sid", link=None) as api,
            open_downloads(api, transport, replica, connections=4) as downloads,
        ):
            with trio.fail_after(60):
                yield Bench(storage, downloads, replica)
            assert downloads.in_use == 0
    await transport.aclose()


def stored(data: bytes, **more: object) -> Storage:
    return Storage(crypt(KEY, NONCE, 0, data), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("raid", [False, True])
async def test_any_span(raid: bool) -> None:
    data = content(SIZE)
    dice = random.Random(7)
    async with a_bench(stored(data, raid=raid)) as bench:
        node = node_of(data)
        for _ in range(30):
            start, stop = sorted((dice.randrange(SIZE + 1), dice.randrange(SIZE + 1)))
            assert await bench.downloads.read(node, Span(start, stop)) == data[start:stop]
        assert await bench.downloads.read(node, Span(0, SIZE)) == data


async def test_a_chunk_is_fetched_once() -> None:
    data = content(SIZE)
    async with a_bench(stored(data)) as bench:
        node = node_of(data)
        async with trio.open_nursery() as nursery:
            for start in range(0, 2**20, 4096):
                nursery.start_soon(bench.downloads.read, node, Span(start, start + 4096))
        assert len(bench.storage.served) == len(set(bench.storage.served))
        assert bench.storage.calls["g"] == 1
        served = len(bench.storage.served)
        await bench.downloads.read(node, Span(0, 2**20))
        assert len(bench.storage.served) == served


async def test_a_head_costs_one_small_chunk() -> None:
    data = content(SIZE)
    async with a_bench(stored(data)) as bench:
        await bench.downloads.read(node_of(data), Span(0, 4096))
        assert bench.storage.served == ["0-131071"]


@pytest.mark.parametrize("mishap", ["cut", "short", Answer(503), Answer(500), Answer(429), Answer(404), Answer(403)])
async def test_what_passes_is_got_over(mishap: Answer | str) -> None:
    data = content(SIZE)
    async with a_bench(stored(data, mishaps=[mishap, mishap])) as bench:
        assert await bench.downloads.read(node_of(data), Span(0, SIZE)) == data


async def test_a_broken_download_goes_on_where_it_was() -> None:
    data = content(100_000)
    async with a_bench(stored(data, mishaps=["cut"])) as bench:
        assert await bench.downloads.read(node_of(data), Span(0, 100_000)) == data
        assert bench.storage.served == ["0-99999", "50000-99999"]


async def test_transfer_quota() -> None:
    data = content(1000)
    over = Answer(509, headers={"X-MEGA-Time-Left": "1234"})
    async with a_bench(stored(data, mishaps=[over])) as bench:
        for _ in range(2):
            with pytest.raises(RateLimited) as caught:
                await bench.downloads.read(node_of(data), Span(0, 10))
            assert caught.value.retry_after is not None
            assert 1230 < caught.value.retry_after <= 1234
        assert len(bench.storage.served) == 1  # nothing is asked before the time


async def test_transfer_quota_told_by_the_api() -> None:
    async with a_bench(stored(content(10), question=[{"e": -17, "tl": 60}])) as bench:
        began = time.time()
        with pytest.raises(RateLimited):
            await bench.downloads.read(node_of(content(10)), Span(0, 10))
        assert time.time() - began < 30


async def test_what_is_gone() -> None:
    async with a_bench(stored(content(10), question=[-9])) as bench:
        with pytest.raises(RevisionGone):
            await bench.downloads.read(node_of(content(10)), Span(0, 10))


@pytest.mark.parametrize("part", range(6))
async def test_five_parts_are_enough(part: int) -> None:
    data = content(SIZE)
    async with a_bench(stored(data, raid=True, dead_parts=(part,))) as bench:
        assert await bench.downloads.read(node_of(data), Span(100, 3_000_000)) == data[100:3_000_000]


async def test_four_parts_are_not() -> None:
    data = content(1000)
    async with a_bench(stored(data, raid=True, dead_parts=(1, 4))) as bench:
        with pytest.raises(Unavailable):
            await bench.downloads.read(node_of(data), Span(0, 1000))


async def test_a_wrong_byte_is_noticed_at_the_end_of_a_whole_pass() -> None:
    data = content(400_000)
    async with a_bench(stored(data, mishaps=["flip"])) as bench:
        node = node_of(data)
        await bench.downloads.read(node, Span(0, 131_072))
        with pytest.raises(IntegrityError):
            await bench.downloads.read(node, Span(131_072, 400_000))
        # Nothing that was learned is believed now.
        assert bench.replica.get_record("macs", node.handle) is None


async def test_a_whole_pass_protects_later_ranges() -> None:
    data, replica = content(SIZE), Replica(None, bytes(16), "me")
    node = node_of(data)
    async with a_bench(stored(data), replica) as bench:
        assert await bench.downloads.read(node, Span(0, SIZE)) == data
    async with a_bench(stored(data, mishaps=["flip", "flip"]), replica) as bench:
        with pytest.raises(IntegrityError):
            await bench.downloads.read(node, Span(2_000_000, 2_000_010))
        assert await bench.downloads.read(node, Span(2_000_000, 2_000_010)) == data[2_000_000:2_000_010]
    async with a_bench(stored(data, mishaps=["flip"]), replica) as bench:  # once: it is fetched again
        assert await bench.downloads.read(node, Span(2_000_000, 2_000_010)) == data[2_000_000:2_000_010]


async def test_own_uploads_are_protected_from_the_start() -> None:
    data, replica = content(400_000), Replica(None, bytes(16), "me")
    node = node_of(data)
    macs = [chunk_mac(KEY, NONCE, data[s.start : s.stop]) for s in (chunk_span(i, len(data)) for i in range(3))]
    async with a_bench(stored(data, mishaps=["flip", "flip"]), replica) as bench:
        bench.downloads.note_macs(node.handle, macs[: chunk_count(len(data))])
        with pytest.raises(IntegrityError):
            await bench.downloads.read(node, Span(0, 10))


async def test_a_key_that_does_not_belong_to_the_file() -> None:
    data = content(1000)
    async with a_bench(stored(data)) as bench:
        with pytest.raises(IntegrityError):
            await bench.downloads.read(node_of(data, meta=bytes(8)), Span(0, 10))


async def test_a_cancelled_reader_does_not_take_others_along() -> None:
    data = content(SIZE)
    storage = stored(data, gate=trio.Event())
    node = node_of(data)
    results = []
    async with a_bench(storage) as bench, trio.open_nursery() as nursery:

        async def read() -> None:
            results.append(await bench.downloads.read(node, Span(0, 1000)))

        nursery.start_soon(read)
        with trio.move_on_after(0.05):
            await bench.downloads.read(node, Span(0, 2000))
        assert storage.gate is not None
        storage.gate.set()
    assert results == [data[:1000]]


async def test_a_fetch_that_nobody_waits_for_ends() -> None:
    storage = stored(content(SIZE), gate=trio.Event())
    async with a_bench(storage) as bench:
        with trio.move_on_after(0.1):
            await bench.downloads.read(node_of(content(SIZE)), Span(0, SIZE))
        with trio.fail_after(10):
            while bench.downloads.in_use:  # noqa: ASYNC110 - the gauge has no event
                await trio.sleep(0.005)
