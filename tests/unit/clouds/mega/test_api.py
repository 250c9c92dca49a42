"""The command and event channel, against a server whose answers the test gives."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trio.testing

from serpentfs.clouds.mega.api import Api, EventsLost, error_of, open_api
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.hashcash import verify
from serpentfs.clouds.mega.transport import Transport, check_endpoint
from serpentfs.errors import (
    LoginRequired,
    NoSpace,
    NotFound,
    RateLimited,
    RetryableError,
    SerpentError,
    Unavailable,
    UsageError,
)
from tests.drives import until
from tests.fakes.http_script import Answer, Asked, http_server

pytestmark = pytest.mark.trio
SID = "secret-session-id-" + "x" * 40


@asynccontextmanager
async def an_api(respond: Callable[[Asked], Awaitable[Answer]]) -> AsyncIterator[Api]:
    transport = Transport()
    async with http_server(respond) as url, open_api(transport, url, sid=SID, link=None) as api:
        with trio.fail_after(30):
            yield api
    await transport.aclose()


class Script:
    """Answers one after another; what was asked is kept."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []

    async def __call__(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        return self.answers.pop(0)

    def ids(self) -> list[str]:
        return [parse_qs(urlsplit(asked.target).query)["id"][0] for asked in self.asked]


def reply(value: Any) -> Answer:
    return Answer(body=json.dumps(value).encode())


async def test_an_answer() -> None:
    script = Script(reply([{"x": 1}]))
    async with an_api(script) as api:
        assert await api.command({"a": "ug"}) == {"x": 1}
    assert json.loads(script.asked[0].body) == [{"a": "ug"}]
    assert parse_qs(urlsplit(script.asked[0].target).query)["sid"] == [SID]


PASSING = {
    "busy": reply(-3),
    "busy in an array": reply([-3]),
    "rate": reply(-4),
    "as an object": reply({"err": -3}),
    "HTTP 500": Answer(500),
    "HTTP 429": Answer(429),
    "no JSON": Answer(body=b"<html>"),
    "cut JSON": Answer(body=b'[{"x":'),
    "broken": Answer(body=b'[{"x":1}]', cut=3),
    "another number of answers": reply([1, 2, 3]),
}


@pytest.mark.parametrize("what", PASSING)
async def test_what_passes_is_asked_again_in_the_same_words(what: str) -> None:
    script = Script(PASSING[what], PASSING[what], reply([{"x": 1}]))
    async with an_api(script) as api:
        assert await api.command({"a": "p", "n": 1}) == {"x": 1}
    assert len(set(script.ids())) == 1
    assert len({asked.body for asked in script.asked}) == 1


@pytest.mark.parametrize(
    ("code", "kind"), [(-9, NotFound), (-15, LoginRequired), (-16, LoginRequired), (-17, NoSpace), (-24, NoSpace)]
)
@pytest.mark.parametrize("whole", [True, False])
async def test_what_does_not_pass_is_raised(code: int, kind: type[SerpentError], whole: bool) -> None:
    script = Script(reply(code if whole else [code]))
    async with an_api(script) as api:
        with pytest.raises(kind) as caught:
            await api.command({"a": "g"})
    assert "\n" not in str(caught.value)
    assert SID not in str(caught.value)


async def test_commands_in_order_keep_their_codes() -> None:
    script = Script(reply([0, -9, {"err": -11}]))
    async with an_api(script) as api:
        assert await api.commands([{"a": "m"}, {"a": "a"}, {"a": "d"}]) == [0, -9, -11]


async def test_commands_that_wait_go_together() -> None:
    gate = trio.Event()
    batches: list[int] = []

    async def respond(asked: Asked) -> Answer:
        commands = json.loads(asked.body)
        batches.append(len(commands))
        if len(batches) == 1:
            await gate.wait()
        return reply([command["n"] for command in commands])

    answers: dict[int, int] = {}
    async with an_api(respond) as api, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            answers[number] = await api.command({"a": "x", "n": number})

        nursery.start_soon(ask, 0)
        await until(lambda: batches)
        for number in range(1, 8):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.set()
    assert answers == {number: number for number in range(8)}
    assert batches == [1, 7]


async def test_who_gives_up_does_not_disturb_the_others() -> None:
    gate = trio.Event()
    seen: list[Sequence[Any]] = []

    async def respond(asked: Asked) -> Answer:
        seen.append(json.loads(asked.body))
        if len(seen) == 1:
            await gate.wait()
        return reply([0] * len(seen[-1]))

    async with an_api(respond) as api, trio.open_nursery() as nursery:
        nursery.start_soon(api.command, {"a": "first"})
        await until(lambda: seen)
        with trio.move_on_after(0.05) as given_up:
            await api.command({"a": "nobody waits"})
        assert given_up.cancelled_caught
        nursery.start_soon(api.command, {"a": "second"})
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.set()
    assert seen[1:] == [[{"a": "second"}]]


async def test_work_is_done_where_it_is_asked_for() -> None:
    challenge = f"1:255:1:{encode(bytes(48))}"
    script = Script(Answer(402, headers={"X-Hashcash": challenge}), reply([7]))
    async with an_api(script) as api:
        assert await api.command({"a": "g"}) == 7
    assert verify(challenge, script.asked[1].headers["x-hashcash"])


async def test_a_quick_question_passes_the_queue() -> None:
    gate = trio.Event()

    async def respond(asked: Asked) -> Answer:
        (command,) = json.loads(asked.body)
        if command["a"] == "slow":
            await gate.wait()
        return reply([command["a"]])

    async with an_api(respond) as api, trio.open_nursery() as nursery:
        nursery.start_soon(api.command, {"a": "slow"})
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await api.quick({"a": "g"}) == "g"
        gate.set()


async def test_many_questions_go_together_while_the_first_are_answered() -> None:
    gate = trio.Event()
    seen: list[list[str]] = []

    async def respond(asked: Asked) -> Answer:
        names = [command["n"] for command in json.loads(asked.body)]
        seen.append(names)
        await gate.wait()
        return reply(names)

    answers: dict[int, Any] = {}
    async with an_api(respond) as api, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            answers[number] = await api.quick({"a": "g", "n": str(number)})

        for number in range(4):
            nursery.start_soon(ask, number)
            await until(lambda: len(seen) == number + 1)    # noqa: B023 - waited for here
        for number in range(4, 30):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.set()
    assert sorted(map(len, seen)) == [1, 1, 1, 1, 26]
    assert answers == {number: str(number) for number in range(30)}


async def test_events() -> None:
    script = Script(
        reply({"a": [{"a": "u"}], "sn": "2"}), reply({"w": "http://x/w", "sn": "2"}), reply(-6), reply(-15), reply(-3)
    )
    async with an_api(script) as api:
        assert (await api.poll("1")).packets == [{"a": "u"}]
        assert (await api.poll("2")).wait_url == "http://x/w"
        with pytest.raises(EventsLost):
            await api.poll("2")
        with pytest.raises(LoginRequired):
            await api.poll("2")
        with pytest.raises(Unavailable):
            await api.poll("2")
    assert parse_qs(urlsplit(script.asked[0].target).query)["sn"] == ["1"]


async def test_a_tree_as_it_comes() -> None:
    whole = b'[{"f":[' + b'{"h":"x"},' * 1000 + b'{"h":"y"}],"sn":"1"}]'
    async with an_api(Script(Answer(body=whole), reply(-15), reply([-3]))) as api:
        async with api.stream_tree({"a": "f"}) as pieces:
            assert b"".join([piece async for piece in pieces]) == whole
        for kind in (LoginRequired, RetryableError):
            with pytest.raises(kind):
                async with api.stream_tree({"a": "f"}):
                    pass


async def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "serpentfs")
    async with an_api(Script(Answer(500), Answer(body=b"x", cut=0), reply([0]))) as api:
        await api.command({"a": "up", "k": "very-secret"})
    assert caplog.records
    assert SID not in caplog.text
    assert "very-secret" not in caplog.text


async def test_a_server_that_is_not_there() -> None:
    transport = Transport()
    for _ in range(8):
        with pytest.raises(Unavailable):
            await transport.request("POST", "http://127.0.0.1:9/cs")
    await transport.aclose()


@pytest.mark.parametrize("url", ["http://example.org", "ftp://x", "nonsense", "https://", "http://10.0.0.1:80"])
async def test_endpoints_without_tls(url: str) -> None:
    with pytest.raises(UsageError):
        check_endpoint(url)


async def test_endpoints() -> None:
    assert check_endpoint("https://g.api.mega.co.nz/") == "https://g.api.mega.co.nz"
    assert check_endpoint("http://127.0.0.1:80") == "http://127.0.0.1:80"


async def test_every_code_is_an_error_of_ours() -> None:
    for code in range(-40, 0):
        assert "\n" not in str(error_of(code, "what"))
    assert isinstance(error_of(-4, ""), RateLimited)
