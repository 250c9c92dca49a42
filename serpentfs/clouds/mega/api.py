"""The command channel of the API, and the event channel beside it (specification, 2 and 3).

Commands that wait at the same moment go out as one array. One array is under way at a time, so that commands take
effect in the order in which they were given; each has an id, and a repetition repeats id and body, so that the server
executes it once. Questions, which change nothing, have a queue of their own and a few arrays at a time. What passes by
itself (load, a broken connection) is waited for here, as long as the caller waits.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import string
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.mega.hashcash import solve
from serpentfs.clouds.mega.transport import Reply, Transport
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    IntegrityError,
    InvalidArgument,
    LoginRequired,
    NoSpace,
    NotFound,
    PermissionDenied,
    RateLimited,
    SerpentError,
    Unavailable,
)

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0
_MOST_COMMANDS = 50
"""In one array."""
_QUESTIONS_AT_ONCE = 4
"""Arrays: the first question of many need not wait for an answer to others, and the rest go together."""
_EVENT_WAIT = 90.0
"""Seconds that a wait URL may stay silent: it answers after about a minute when nothing happens."""
_AGAIN = (-3, -4)

_ERRORS: dict[int, tuple[type[SerpentError], str]] = {
    -1: (Unavailable, "the server reports an error of its own"),
    -2: (InvalidArgument, "the server does not understand the request"),
    -3: (Unavailable, "the server is busy"),
    -4: (RateLimited, "too many requests"),
    -5: (Unavailable, "the server could not do it"),
    -6: (RateLimited, "too many requests at a time"),
    -8: (NotFound, "expired"),
    -9: (NotFound, "not there any more"),
    -10: (Conflict, "a folder cannot be moved below itself"),
    -11: (PermissionDenied, "the account has no right to do this"),
    -12: (AlreadyExists, "already there"),
    -13: (IntegrityError, "incomplete"),
    -14: (IntegrityError, "does not authenticate"),
    -15: (LoginRequired, "the session has ended: log in again"),
    -16: (LoginRequired, "the account is blocked: its owner was told why by e-mail"),
    -17: (NoSpace, "the account is full"),
    -18: (Unavailable, "temporarily not available"),
    -19: (RateLimited, "too many connections"),
    -24: (NoSpace, "the account would be over its quota"),
    -27: (PermissionDenied, "only the main account may do this"),
    -28: (PermissionDenied, "the business account is past due"),
    -29: (PermissionDenied, "the account is over its quota for so long that nothing is served"),
}


class EventsLost(Unavailable):
    """The server does not keep what happened since the sequence number: the tree must be loaded anew."""


def error_of(code: int, what: str) -> SerpentError:
    """The error for a code of the API (specification, 3)."""
    kind, meaning = _ERRORS.get(code, (Unavailable, f"error {code}"))
    return kind(f"{what}: {meaning}")


@dataclass(frozen=True, slots=True)
class Poll:
    """What the event channel answered."""

    packets: list[dict[str, Any]]
    sn: str
    wait_url: str | None


@dataclass(eq=False)
class _Waiting:
    """Commands that belong into one request, and who waits for their answers."""

    commands: list[dict[str, Any]] = field(repr=False)
    alone: bool
    done: trio.Event = field(default_factory=trio.Event)
    answers: list[Any] = field(default_factory=list, repr=False)
    error: SerpentError | None = None
    abandoned: bool = False


class _Queue:
    """Commands that wait to be sent."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._filled = trio.Event()

    async def answers(self, commands: list[dict[str, Any]], alone: bool) -> list[Any]:
        waiting = _Waiting(commands, alone)
        self._waiting.append(waiting)
        self._filled.set()
        try:
            await waiting.done.wait()
        finally:
            waiting.abandoned = True
        if waiting.error is not None:
            raise waiting.error
        return waiting.answers

    async def next(self) -> list[_Waiting]:
        """Those that go into one request; waits until there are some."""
        while True:
            await self._filled.wait()
            await trio.lowlevel.checkpoint()  # whoever wants to come along
            if batch := self._take():
                return batch
            if self._filled.is_set():    # else another task has done this, and waits for it
                self._filled = trio.Event()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and sum(len(waiting.commands) for waiting in batch) < _MOST_COMMANDS:
            if self._waiting[0].abandoned:
                self._waiting.popleft()
            elif not batch or not (batch[0].alone or self._waiting[0].alone):
                batch.append(self._waiting.popleft())
            else:
                break
        return batch


class Api:
    """One account (``sid``), one public folder (``link``), or neither (before log-in). Made by ``open_api``."""

    def __init__(self, transport: Transport, endpoint: str, sid: str | None, link: str | None) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._who = {key: value for key, value in (("sid", sid), ("n", link)) if value is not None}
        self._serial = secrets.randbelow(2**31)
        self._orders, self._questions = _Queue(), _Queue()
        self.own_id = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(10))
        """Sent with changes, so that their packets are known as our own."""
        self.trouble: str | None = None
        """What the last answer was, when it was none of use."""
        self.over_quota_until: float | None = None
        """Unix time until which nothing may be downloaded."""

    # commands

    async def command(self, command: dict[str, Any], *, alone: bool = False) -> Any:
        """The answer to one command; ``alone``: in a request of its own. Raises ``error_of`` what is none."""
        return _checked((await self._orders.answers([command], alone))[0], command)

    async def commands(self, commands: list[dict[str, Any]]) -> list[Any]:
        """The answers to commands that are executed in this order, in one request; error codes are answers here."""
        return await self._orders.answers(commands, True)

    async def quick(self, command: dict[str, Any]) -> Any:
        """As ``command``, but beside the others: for what changes nothing."""
        return _checked((await self._questions.answers([command], False))[0], command)

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_from, self._orders)
            for _ in range(_QUESTIONS_AT_ONCE):
                nursery.start_soon(self._send_from, self._questions)

    async def _send_from(self, queue: _Queue) -> None:
        while True:
            batch = await queue.next()
            commands = [command for waiting in batch for command in waiting.commands]
            try:
                answers = await self._exchange(commands, batch)
            except SerpentError as error:
                for waiting in batch:
                    waiting.error = error
            else:
                for waiting in batch:
                    waiting.answers = answers[: len(waiting.commands)]
                    answers = answers[len(waiting.commands) :]
            for waiting in batch:
                waiting.done.set()

    def _url(self, path: str, **query: str) -> str:
        return f"{self._endpoint}/{path}?{urlencode({**query, **self._who})}"

    async def _exchange(self, commands: list[dict[str, Any]], batch: list[_Waiting]) -> list[Any]:
        """One request, repeated until it is answered or nobody waits any more."""
        self._serial += 1
        url = self._url("cs", id=str(self._serial))
        body = json.dumps(commands, separators=(",", ":")).encode()
        pause, headers = _FIRST_PAUSE, {"content-type": "application/json"}
        while True:
            try:
                answers = await self._answers(url, body, headers, len(commands))
                self.trouble = None
                return answers
            except (Unavailable, RateLimited) as error:
                self.trouble = str(error)
                if all(waiting.abandoned for waiting in batch):
                    raise
                log.info("the API did not answer, next attempt in %.1f s: %s", pause, error)
            except SerpentError as error:
                self.trouble = str(error)
                raise
            await trio.sleep(pause * random.uniform(0.6, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _answers(self, url: str, body: bytes, headers: dict[str, str], count: int) -> list[Any]:
        reply = await self._transport.request("POST", url, body=body, headers=headers)
        if reply.status == 402:
            headers["x-hashcash"] = await _pay(reply)
            reply = await self._transport.request("POST", url, body=body, headers=headers)
        answer = _json_of(reply)
        if isinstance(answer, list) and len(answer) == 1 and count > 1 and _code_of(answer[0]) is not None:
            answer = answer[0]
        code = _code_of(answer)
        if code is not None:
            raise error_of(code, "the request")
        if not isinstance(answer, list) or len(answer) != count:
            raise Unavailable("the server sent an answer that is none")
        if count == 1 and _code_of(answer[0]) in (*_AGAIN, -15, -16):
            raise error_of(answer[0], "the request")
        return [one if (inner := _code_of(one)) is None else inner for one in answer]

    # the tree

    @asynccontextmanager
    async def stream_tree(self, command: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer to a command as it comes, undecoded. An answer that is an error is raised."""
        self._serial += 1
        url = self._url("cs", id=str(self._serial))
        body = json.dumps([command], separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        for _ in range(2):
            async with self._transport.stream("POST", url, body=body, headers=headers, timeout=300) as reply:
                if reply.status == 402:
                    headers["x-hashcash"] = await _pay(Reply(402, reply.headers, b""))
                    continue
                if reply.status != 200:
                    raise _busy(reply.status)
                pieces = reply.chunks()
                first = b""
                async for piece in pieces:
                    first += piece
                    if len(first) >= 32:
                        break
                _raise_if_code(first)

                async def joined(first: bytes = first, rest: AsyncIterator[bytes] = pieces) -> AsyncIterator[bytes]:
                    yield first
                    async for piece in rest:
                        yield piece

                yield joined()
                return
        raise Unavailable("the server asks for work again and again")

    # events

    async def poll(self, sn: str) -> Poll:
        """What happened since ``sn``, at once. EventsLost, Unavailable, LoginRequired, NotFound (a link is no more)."""
        reply = await self._transport.request("POST", self._url("sc", sn=sn))
        if reply.status == 402:
            headers = {"x-hashcash": await _pay(reply)}
            reply = await self._transport.request("POST", self._url("sc", sn=sn), headers=headers)
        answer = _json_of(reply)
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        code = _code_of(answer)
        if code == -6:
            raise EventsLost("the server does not keep what happened since")
        if code is not None and code < 0:
            raise error_of(code, "events")
        if not isinstance(answer, dict):
            return Poll([], sn, None)  # a sign of life
        packets = [packet for packet in answer.get("a", []) if isinstance(packet, dict)]
        url = answer.get("w")
        return Poll(packets, str(answer.get("sn", sn)), url if isinstance(url, str) else None)

    async def wait(self, url: str) -> None:
        """Until the server says that something happened, or about a minute. Unavailable."""
        await self._transport.request("POST", url, timeout=_EVENT_WAIT)

    def note_over_quota(self, seconds: float) -> RateLimited:
        """Downloads are over their quota for so long; the error to raise."""
        self.over_quota_until = time.time() + seconds
        return RateLimited(f"the transfer quota is used up for {seconds / 60:.0f} minutes more", seconds)


@asynccontextmanager
async def open_api(transport: Transport, endpoint: str, *, sid: str | None, link: str | None) -> AsyncIterator[Api]:
    """The API of a session, until the block ends."""
    api = Api(transport, endpoint, sid, link)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.run)
        yield api
        nursery.cancel_scope.cancel()


def _checked(answer: Any, command: dict[str, Any]) -> Any:
    if isinstance(answer, int) and answer < 0:
        raise error_of(answer, f'command "{command.get("a")}"')
    return answer


def _code_of(answer: Any) -> int | None:
    """The error code that an answer is, in any of its forms (specification, 2.2); 0 is success and no code."""
    if isinstance(answer, dict) and isinstance(answer.get("err"), int):
        answer = answer["err"]
    return answer if isinstance(answer, int) and not isinstance(answer, bool) and answer < 0 else None


def _busy(status: int) -> SerpentError:
    if status in (429, 509):
        return RateLimited(f"the server asks to wait (HTTP {status})")
    return Unavailable(f"the server answered with HTTP {status}")


def _json_of(reply: Reply) -> Any:
    if reply.status != 200:
        raise _busy(reply.status)
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise Unavailable("the server sent an answer that is cut short or no JSON") from error


def _raise_if_code(start: bytes) -> None:
    """Raise the error that a whole answer of a few bytes is."""
    text = start.strip()
    if len(text) >= 32 or (text[:1] == b"[" and text[1:2] == b"{" and b'"err"' not in text):
        return
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise Unavailable("the server sent an answer that is cut short") from error
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    code = _code_of(answer)
    if code is not None:
        raise error_of(code, "the account's tree")


async def _pay(reply: Reply) -> str:
    """The proof of work that a server asks for before it answers (specification, 2.3)."""
    challenge = reply.headers.get("x-hashcash", "")
    log.info("the server asks for a proof of work")
    return await run_in_thread("crypto", solve, challenge)
