"""Servers for tests that come from outside: a runner in a subprocess, spoken to over sockets.

Every runner in RUNNERS has the contract that ``runner`` describes.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).parents[3]
RUNNERS = {name: Path(__file__).parent / f"serve_{name}.py" for name in ("memory", "vault")}
PATIENCE = 60.0
"""Seconds for anything that must happen; the machine may be busy."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Server:
    """A running door. ``url`` is its address with a slash at the end."""

    def __init__(self, runner: Path, options: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(runner), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self.pid = self._process.pid
        self.url = self._read_address()

    def _read_address(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        address = self._process.stdout.readline().strip() if ready else ""
        if not address:
            self._process.kill()
            raise AssertionError("the server did not start")
        return address

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def tls(self) -> bool:
        return self.url.startswith("https")

    def restart(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("restart\n")
        self._process.stdin.flush()
        self.url = self._read_address()

    def stop(self) -> int:
        """End the program as its user would; the exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context.wrap_socket(sock)
        return sock

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are; everything that comes back until the server closes."""
        with self.connect() as sock:
            sock.sendall(request)
            answer = bytearray()
            try:
                while piece := sock.recv(65536):
                    answer += piece
            except ConnectionResetError:
                pass
            return bytes(answer)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        if self.tls:
            connection.sock = self.connect()
        try:
            data = body.encode() if isinstance(body, str) else body
            given = {name.lower() for name in headers or {}}
            connection.putrequest(
                method, quote(path, safe="/%?"), skip_accept_encoding=True, skip_host="host" in given
            )
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if data is not None and not given & {"content-length", "transfer-encoding"}:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            return Answer(
                response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def put(self, path: str, data: bytes) -> None:
        answer = self.request("PUT", path, data)
        assert answer.status in (201, 204), answer

    def read(self, path: str) -> bytes:
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return answer.body


Start = Callable[..., Server]


HOST = b"Host: localhost\r\n"
"""A header for requests that are written by hand."""


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def memory_of(server: Server) -> int:
    """Bytes resident."""
    with open(f"/proc/{server.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.02)
