"""The emulator in a process of its own, and a bare client: JSON over http.client, nothing of the client under test."""

from __future__ import annotations

import http.client
import itertools
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from serpentfs.clouds.mega.attributes import pack
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.keys import PrivateKey, ecb_decrypt, ecb_encrypt, session_id, v2_derive
from tests.mega_emulator import Emulator, emulator

PASSWORD = "a password of the tests"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def http_request(
    url: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST"
) -> Answer:
    """The answer to one request on a connection of its own."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=_TIMEOUT_S)
    try:
        target = f"{place.path}?{place.query}" if place.query else place.path
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())
    finally:
        connection.close()


def fetch(url: str, body: bytes = b"", method: str = "POST") -> bytes:
    """The body of an answer with status 200."""
    response = http_request(url, body, method=method)
    assert response.status == 200
    return response.body


class Client:
    """One session, or one public folder."""

    def __init__(self, server: Emulator, who: str) -> None:
        self.server = server
        self._who = who
        self._numbers = itertools.count(secrets.randbelow(1 << 30))
        self.master = b""
        self.user = ""
        self.root = self.bin = self.sn = ""

    def raw(self, commands: list[Any], number: int | None = None, headers: dict[str, str] | None = None) -> Answer:
        number = next(self._numbers) if number is None else number
        url = f"{self.server.url}/cs?id={number}{self._who}"
        return http_request(url, json.dumps(commands).encode(), headers)

    def batch(self, *commands: Any, number: int | None = None) -> Any:
        return json.loads(self.raw(list(commands), number).body)

    def do(self, a: str, **fields: Any) -> Any:
        (answer,) = self.batch({"a": a, **fields})
        return answer

    def load(self) -> dict[str, Any]:
        tree: dict[str, Any] = self.do("f", c=1)
        self.sn = tree["sn"]
        roots = {node["t"]: node["h"] for node in tree["f"]}
        self.root, self.bin = roots.get(2, tree["f"][0]["h"]), roots.get(4, "")
        return tree

    def events(self) -> list[dict[str, Any]]:
        """What happened since the last call."""
        answer = json.loads(fetch(f"{self.server.url}/sc?sn={self.sn}{self._who}"))
        assert ("w" in answer) != ("a" in answer)
        self.sn = answer["sn"]
        packets: list[dict[str, Any]] = answer.get("a", [])
        return packets

    def upload(self, content: bytes, **fields: Any) -> str:
        """Completion handle of content that goes up as one piece."""
        url = self.do("u", s=len(content), v=2, **fields)["p"]
        handle = fetch(f"{url}/0", content)
        assert len(handle) == 36
        return encode(handle)

    def put(self, content: bytes, parent: str | None = None, **fields: Any) -> dict[str, Any]:
        return self.put_node({"h": self.upload(content), "t": 0, **fields}, parent)

    def mkdir(self, parent: str | None = None, **fields: Any) -> dict[str, Any]:
        return self.put_node({"h": "xxxxxxxx", "t": 1, **fields}, parent)

    def put_node(self, entry: dict[str, Any], parent: str | None = None, **command: Any) -> dict[str, Any]:
        key = secrets.token_bytes(32 if entry["t"] == 0 else 16)
        entry = {"a": encode(pack({"n": "x"}, key[:16])), "k": encode(ecb_encrypt(self.master, key)), **entry}
        answer = self.do("p", t=parent or self.root, n=[entry], **command)
        node: dict[str, Any] = answer["f"][0]
        return node


def log_in_answer(server: Emulator, email: str, code: str | None = None) -> Any:
    """To ``us`` with the right password."""
    return _log_in_answer(server, email, code)[1]


def _log_in_answer(server: Emulator, email: str, code: str | None) -> tuple[bytes, Any]:
    anybody = Client(server, "")
    salt = decode(anybody.do("us0", user=email)["s"])
    password_key, user_hash = v2_derive(PASSWORD, salt)
    return password_key, anybody.do("us", user=email, uh=encode(user_hash), **({"mfa": code} if code else {}))


def log_in(server: Emulator, email: str) -> Client:
    password_key, told = _log_in_answer(server, email, None)
    master = ecb_decrypt(password_key, decode(told["k"]))
    private = PrivateKey.parse(ecb_decrypt(master, decode(told["privk"])))
    sid = session_id(decode(told["csid"]), private)
    assert sid[16:27].decode() == told["u"]
    client = Client(server, f"&sid={encode(sid)}")
    client.master, client.user = master, told["u"]
    client.load()
    return client


@pytest.fixture(scope="session")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults_stay(server: Emulator) -> Iterator[None]:
    yield
    server.clear_faults()


@pytest.fixture
def email(server: Emulator, request: pytest.FixtureRequest) -> str:
    """An account of the test's own."""
    email = f"{request.node.name}@example.test".lower()
    server.add_account(email, PASSWORD)
    return email


@pytest.fixture
def client(server: Emulator, email: str) -> Client:
    return log_in(server, email)


@pytest.fixture
def other(server: Emulator, email: str) -> Client:
    """A second session of the account."""
    return log_in(server, email)
