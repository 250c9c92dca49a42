"""CONTROL.md has every request of the control socket with its fields, and no other; and its example is what happens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs.daemon import control, settings
from serpentfs.daemon.protocol import PROTOCOL
from serpentfs.daemon.requests import OwnerRequests
from serpentfs.daemon.stopping import Stop

DAEMON = Path(control.__file__).parent
DOCUMENT = (DAEMON / "CONTROL.md").read_text(encoding="utf-8")
ROWS = [(name, rest.split("|")[0]) for name, rest in re.findall(r"^\| `([\w-]+)` \|(.*)$", DOCUMENT, re.MULTILINE)]
"""Each request and its fields."""
FIELD = re.compile(r"request(?:\.get\(|\[)\"(\w+)\"")
OF_EVERY_LINE = {"protocol", "request", "data"}
"""``data`` is where a handler finds the pipe."""


def requests() -> OwnerRequests:
    return OwnerRequests("vault+file:///srv/vault", Stop(trio.CancelScope()), serves=True)


@pytest.mark.trio
async def test_every_request_is_described_and_nothing_else() -> None:
    described = [name for name, _ in ROWS]
    assert len(described) == len(set(described))
    assert set(described) == set(requests().handlers())


def test_every_field_is_described_and_nothing_else() -> None:
    read = {
        field for module in DAEMON.glob("*.py") for field in FIELD.findall(module.read_text(encoding="utf-8"))
    } - OF_EVERY_LINE | set(settings._BUDGETS)
    described: set[str] = set()
    for _, fields in ROWS:
        outside = re.sub(r"\([^()]*\)", "", fields)
        described.update(re.findall(r"`(\w+)`", outside.replace("as `move`", "")))
    assert described == read


def test_the_number_of_the_protocol() -> None:
    assert f"It is {PROTOCOL}." in DOCUMENT
    numbers = {int(number) for number in re.findall(r"\"protocol\": (\d+)", DOCUMENT)}
    assert numbers == {PROTOCOL}


async def exchange(path: Path, line: bytes) -> dict[str, Any]:
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(line + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += await stream.receive_some()
    message: dict[str, Any] = json.loads(answer)
    return message


@pytest.mark.trio
async def test_the_example_is_what_happens(tmp_path: Path) -> None:
    examples = [json.loads(line) for line in re.findall(r"^\{.*\}$", DOCUMENT, re.MULTILINE)]
    asked, item, result, error = examples
    path = tmp_path / "run" / "sock"
    with trio.fail_after(30):
        async with control.listening(path, requests().handlers()):
            answer = await exchange(path, json.dumps(asked).encode())
            assert answer.keys() == result.keys()
            assert answer["result"].keys() == result["result"].keys()
            refused = await exchange(path, json.dumps({**asked, "protocol": PROTOCOL + 1}).encode())
            assert (refused.keys(), refused["error"]) == (error.keys(), "Unsupported")
            assert (await exchange(path, b'{"protocol": 1, "request": "none"}'))["error"] == "Unsupported"
            assert (await exchange(path, b'{"protocol": 1, "request": "list"}'))["error"] == "Busy"
            assert (await exchange(path, b"[]"))["error"] == "Unsupported"
    assert item.keys() == {"protocol", "item"}
