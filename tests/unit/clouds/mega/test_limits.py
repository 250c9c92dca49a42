"""The token bucket and the circuit breaker, alone and in the transport that obeys them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega.limits import CircuitBreaker, TokenBucket
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import Unavailable

# the bucket


def test_a_burst_goes_out_at_once_and_the_rest_at_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(100.0) for _ in range(6)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])
    assert bucket.take(100.3) == pytest.approx(0.1)  # those of the future are taken
    assert bucket.take(101.0) == 0


def test_tokens_that_nobody_takes_are_not_hoarded() -> None:
    bucket = TokenBucket(rate=10, burst=2)
    assert [bucket.take(1e6) for _ in range(3)] == pytest.approx([0, 0, 0.1])


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60), st.floats(0.5, 50), st.integers(1, 20))
def test_no_window_has_more_than_the_burst_and_the_rate(gaps: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    starts = [now + bucket.take(now) for now in itertools.accumulate(gaps)]
    assert all(late - early > -1e-6 for early, late in itertools.pairwise(starts))  # first come, first served
    for first, last in itertools.combinations(range(len(starts)), 2):
        assert last - first + 1 <= burst + rate * (starts[last] - starts[first]) + 1e-6


@pytest.mark.trio
async def test_many_tasks_share_a_bucket(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(rate=5, burst=10)
    began: list[float] = []

    async def request() -> None:
        await trio.sleep(bucket.take(trio.current_time()))
        began.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(35):
            nursery.start_soon(request)
    assert sum(at == start for at in began) == 10
    assert trio.current_time() - start == pytest.approx(25 / 5)


# the breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker(failures=3)
    for _ in range(5):
        breaker.failed(0)
        breaker.failed(0)
        assert breaker.may_send(0)
        breaker.answered()
    for _ in range(3):
        assert breaker.may_send(0)
        breaker.failed(0)
    assert not breaker.may_send(0.99)


def test_one_request_tries_at_a_time_and_its_failure_doubles_the_pause() -> None:
    breaker = CircuitBreaker(failures=1, pause=1, longest=5)
    breaker.failed(0)
    now = 0.0
    for pause in (1, 2, 4, 5, 5):
        assert not breaker.may_send(now + pause - 0.01)
        now += pause
        assert breaker.may_send(now)
        assert not breaker.may_send(now)  # the one is out
        breaker.failed(now)
    now += 5
    assert breaker.may_send(now)
    breaker.answered()
    assert all(breaker.may_send(now) for _ in range(10))
    breaker.failed(now)
    assert breaker.may_send(now + 1)  # the pause is the first again


def test_a_try_without_an_outcome_is_followed_by_another() -> None:
    breaker = CircuitBreaker(failures=1, pause=1)
    breaker.failed(0)
    assert breaker.may_send(1)
    assert not breaker.may_send(2.9)  # twice as long: it may be on its way still
    assert breaker.may_send(3)


def test_a_line_that_breaks_under_many_connections_is_one_failure() -> None:
    breaker = CircuitBreaker(failures=5, pause=1)
    for _ in range(16):
        breaker.failed(10)
    assert breaker.may_send(11)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=80))
def test_it_never_stays_open_for_longer_than_told(events: list[tuple[float, bool]]) -> None:
    breaker = CircuitBreaker(failures=3, pause=1, longest=8)
    now = 0.0
    for gap, answers in events:
        now += gap
        if breaker.may_send(now):
            if answers:
                breaker.answered()
            else:
                breaker.failed(now)
    assert breaker.may_send(now + 8)


# in the transport

Respond = Callable[[httpx.Request], httpx.Response]
Serve = Callable[[Respond], None]


def _answer(status: int) -> httpx.Response:
    return httpx.Response(status, stream=httpx.ByteStream(b"text"))

@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Give the answers to the requests of transports that are made from now on."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def serve(respond: Respond) -> None:
        client = partial(httpx.AsyncClient, transport=httpx.MockTransport(respond))
        monkeypatch.setattr(httpx, "AsyncClient", client)

    return serve



@pytest.mark.trio
async def test_the_transport_keeps_to_its_rate(served: Serve, autojump_clock: trio.testing.MockClock) -> None:
    served(lambda _: _answer(200))
    transport = Transport(requests_per_second=4)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(28):
            nursery.start_soon(transport.request, "GET", "https://one.invalid/")
    assert trio.current_time() - start == pytest.approx(20 / 4)  # 8 at once
    await transport.aclose()


@pytest.mark.trio
async def test_a_host_that_does_not_answer_is_left_alone_and_the_others_are_not(
    served: Serve, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[str] = []
    broken = {"one.invalid"}

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host in broken:
            raise httpx.ConnectError("no route to https://one.invalid/?sid=canary")
        return _answer(500)  # an answer, whatever it says

    served(respond)
    transport = Transport()

    async def fails(message: str) -> None:
        with pytest.raises(Unavailable, match=message) as failure:
            await transport.request("GET", "https://one.invalid/?sid=canary")
        assert "canary" not in str(failure.value)

    for _ in range(5):
        await fails("cannot be reached: ConnectError")
    assert transport.trouble == "one.invalid cannot be reached: ConnectError"
    await fails("left alone")
    assert len(asked) == 5
    assert (await transport.request("GET", "https://two.invalid/")).status == 500
    assert transport.trouble is None
    broken.clear()
    await trio.sleep(1)
    assert (await transport.request("GET", "https://one.invalid/")).status == 500
    assert asked == ["one.invalid"] * 5 + ["two.invalid", "one.invalid"]
    await transport.aclose()
