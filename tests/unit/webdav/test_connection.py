"""Framing, time limits and the end of connections, with a virtual clock."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serpentfs.gateways.webdav import connection as module
from serpentfs.gateways.webdav.connection import Exchange
from serpentfs.gateways.webdav.messages import REASONS, Refusal
from tests.unit.webdav.in_process import connected

pytestmark = pytest.mark.trio


async def echo(exchange: Exchange) -> None:
    await exchange.reply(200, await exchange.receive_all(1 << 20))


async def ignore(exchange: Exchange) -> None:
    """Answers without looking at the body."""
    await exchange.reply(200, b"ignored")


POST = b"POST / HTTP/1.1\r\nHost: h\r\n"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with connected(echo) as client:
        one = POST + b"Content-Length: 3\r\n\r\none"
        two = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nt\r\n2\r\nwo\r\n0\r\n\r\n"
        last = POST + b"Connection: close\r\nContent-Length: 5\r\n\r\nthree"
        await client.stream.send_all(one + two + last)
        answer = await client.read_until_closed()
        assert [part.rpartition(b"\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")][1:] == [
            b"one", b"two", b"three",
        ]  # fmt: skip


async def test_100_continue_is_sent_only_when_the_body_is_wanted() -> None:
    expecting = POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with connected(echo) as client:
        await client.stream.send_all(expecting)
        assert (await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 100")
        await client.stream.send_all(b"abc")
        assert (await client.stream.receive_some(1000)).endswith(b"abc")
    async with connected(ignore) as client:
        await client.stream.send_all(expecting)
        answer = await client.stream.receive_some(1000)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in answer, "whether a body follows is not known"


async def test_a_small_body_nobody_read_keeps_the_connection() -> None:
    async with connected(ignore) as client:
        for _ in range(3):
            answer = await client.request("PUT", "/", b"x" * 1000)
            assert (answer.status, answer.headers.get("connection")) == (200, None)


async def test_a_large_body_nobody_read_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(ignore) as client:
        await client.stream.send_all(POST + b"Content-Length: 100000000\r\n\r\nsome")
        assert b"Connection: close" in await client.read_until_closed()
    assert trio.current_time() <= module.LINGER_TIMEOUT * 2


async def test_idle_connections_end(autojump_clock: trio.testing.MockClock) -> None:
    for start in (b"", b"GET / HT"):
        begun = trio.current_time()
        async with connected(echo) as client:
            if start:
                await client.stream.send_all(start)
            assert await client.read_until_closed() == b""
        assert trio.current_time() - begun == pytest.approx(module.IDLE_TIMEOUT)


async def test_a_body_that_stalls_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def patient(exchange: Exchange) -> None:
        try:
            await exchange.receive_all(100)
        except Refusal as refusal:
            await exchange.reply(refusal.status)

    async with connected(patient) as client:
        await client.stream.send_all(POST + b"Content-Length: 10\r\n\r\n")
        for _ in range(5):
            # Slow is not stalled.
            await trio.sleep(module.STALL_TIMEOUT * 0.9)
            await client.stream.send_all(b"x")
        begun = trio.current_time()
        assert (await client.read_until_closed()).startswith(b"HTTP/1.1 408")
        assert trio.current_time() - begun <= module.STALL_TIMEOUT + module.LINGER_TIMEOUT


async def test_a_reader_that_stalls_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ended = trio.Event()

    async def send_much(exchange: Exchange) -> None:
        exchange.start(200, [("Content-Length", str(10_000_000))])
        try:
            for _ in range(10):
                await exchange.send(bytes(1_000_000))
        finally:
            ended.set()

    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(module.Connection(theirs, "peer", send_much).run)
        await ours.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await ours.receive_some(1000)
        await ended.wait()
    assert trio.current_time() <= module.STALL_TIMEOUT + module.LINGER_TIMEOUT + 1


async def test_an_answer_shorter_than_announced_is_broken_off() -> None:
    async def lie(exchange: Exchange) -> None:
        exchange.start(200, [("Content-Length", "10")])
        await exchange.send(b"short")

    async with connected(lie) as client:
        await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.read_until_closed()).endswith(b"short")


async def test_an_answer_of_unknown_length() -> None:
    async def chunks(exchange: Exchange) -> None:
        exchange.start(200, [])
        await exchange.send(b"one")
        await exchange.send(b"two")

    async with connected(chunks) as client:
        assert (await client.request("GET", "/")).body == b"onetwo"
        assert (await client.request("HEAD", "/")).body == b""
        await client.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.read_until_closed()).endswith(b"onetwo")


FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from([
            b"GET / HTTP/1.1\r\n", b"PUT /x HTTP/1.0\r\n", b"Host: h\r\n", b"Content-Length: 5\r\n", b"\r\n",
            b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"Expect: 100-continue\r\n",
            b"Connection: close\r\n", b"\x00", b"OPTIONS * HTTP/1.1\r\n",
        ]),
        st.binary(max_size=20),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=100)
@given(FRAGMENTS)
@example([b"PUT /x HTTP/1.0\r\n", b"\r\n", *[b"GET / HTTP/1.1\r\n"] * 10])
async def test_whatever_is_sent_the_connection_ends_well(fragments: list[bytes]) -> None:
    """Answers are HTTP, nothing is raised, and it ends when the client has ended."""
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(module.Connection(theirs, "peer", ignore).run)
            with suppress(trio.BrokenResourceError):  # it may end before all is said, as after HTTP/1.0
                for fragment in fragments:
                    await ours.send_all(fragment)
                await ours.send_eof()
            received = bytearray()
            while piece := await ours.receive_some(65536):
                received += piece
    assert not received or received.startswith(b"HTTP/1.1 ")


bodies = st.lists(st.tuples(st.booleans(), st.binary(max_size=300), st.integers(1, 200)), min_size=1, max_size=5)


@given(bodies, st.integers(1, 400), st.integers(0, 400), st.integers(1, 200))
async def test_bodies_come_whole_however_they_are_sent_and_received(
    requests: list[tuple[bool, bytes, int]], cut: int, wanted: int, room_size: int
) -> None:
    """Of known length and in chunks, in pieces of ``cut`` bytes, pipelined. What is not ``wanted`` is left to the
    connection, which ends where it cannot tell how much that is."""
    answered = next(
        (at for at, (chunked, body, _) in enumerate(requests, 1) if chunked and wanted <= len(body)), len(requests)
    )
    got: list[bytes] = []

    async def take(exchange: Exchange) -> None:
        room = memoryview(bytearray(room_size))
        body = b""
        while len(body) < wanted and (count := await exchange.receive_into(room)):
            body += room[:count]
        got.append(body)
        await exchange.reply(200)

    async with connected(take) as client:
        sent = b""
        for chunked, body, size in requests:
            if chunked:
                chunks = [body[at : at + size] for at in range(0, len(body), size)]
                framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
                sent += POST + b"Transfer-Encoding: chunked\r\n\r\n" + framed
            else:
                sent += POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        for at in range(0, len(sent), cut):
            await client.stream.send_all(sent[at : at + cut])
        await client.stream.send_eof()
        answer = await client.read_until_closed()
    assert answer.count(b"HTTP/1.1 200") == len(got) == answered
    for body, (_, whole, _) in zip(got, requests, strict=False):
        assert whole.startswith(body)
        assert len(body) >= min(wanted, len(whole))


async def test_a_body_that_ends_early_is_refused() -> None:
    async def take(exchange: Exchange) -> None:
        assert await exchange.receive_into(memoryview(bytearray(100))) == 4
        with pytest.raises(Refusal) as refused:
            await exchange.receive_into(memoryview(bytearray(100)))
        await exchange.reply(refused.value.status)

    async with connected(take) as client:
        await client.stream.send_all(POST + b"Content-Length: 10\r\n\r\nfour")
        await client.stream.send_eof()
        assert (await client.read_until_closed()).startswith(b"HTTP/1.1 400")


async def test_close_soon() -> None:
    under_way, may_end = trio.Event(), trio.Event()

    async def slow(exchange: Exchange) -> None:
        under_way.set()
        await may_end.wait()
        await exchange.reply(200, b"done")

    async with connected(slow) as client:
        client.connection.close_soon()
        assert await client.read_until_closed() == b""
    async with connected(slow) as client:
        await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await under_way.wait()
        client.connection.close_soon()
        may_end.set()
        answer = await client.read_until_closed()
        assert b"Connection: close" in answer
        assert answer.endswith(b"done")


async def test_every_status_has_a_reason() -> None:
    async def every(exchange: Exchange) -> None:
        assert exchange.request.url is not None
        await exchange.reply(int(exchange.request.url.names[0]), b"" if status in (204, 304) else b"x")

    async with connected(every) as client:
        for status in REASONS:
            assert (await client.request("GET", f"/{status}")).status == status
