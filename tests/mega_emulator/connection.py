"""HTTP/1.1 over one blocking socket, as little of it as MEGA's clients use, and fast for big bodies.

Reads requests (also absolute-form, chunked, with Expect), writes answers, from a file without copying where there is no
TLS. Knows nothing of what is asked.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LONGEST_HEAD = 64 * 1024
_LARGEST_BODY = 256 * 1024 * 1024
_SLICE = 1024 * 1024
_REASONS = {200: "OK", 402: "Payment Required", 403: "Forbidden", 404: "Not Found", 500: "Server Too Busy",
            503: "Service Unavailable", 509: "Bandwidth Limit Exceeded"}


class Closed(Exception):
    """The other side is gone, or the connection is to be given up."""


@dataclass(slots=True)
class Request:
    """``path`` and ``query`` as sent (of an absolute-form target too); header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)
    keep_alive: bool


class Connection:
    """``rate``: bytes per second in either direction, 0 for no limit."""

    def __init__(self, sock: socket.socket, rate: float) -> None:
        self._socket = sock
        self._rate = rate
        self._ahead = bytearray()

    def slow_down(self, rate: float) -> None:
        self._rate = rate

    # reading

    def request(self) -> Request | None:
        """The next one; None when the other side has closed. Closed: it is no HTTP."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            if len(self._ahead) > _LONGEST_HEAD:
                raise Closed
            data = self._receive(65536)
            if not data:
                if self._ahead:
                    raise Closed
                return None
            self._ahead += data
        lines = self._ahead[:end].decode("latin-1").split("\r\n")
        del self._ahead[:end + 4]
        try:
            method, target, version = lines[0].split(" ")
            headers = {name.strip().lower(): value.strip() for name, value in
                       (line.split(":", 1) for line in lines[1:])}
        except ValueError:
            raise Closed from None
        if "://" in target and not target.startswith("/"):
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("?")
        keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Request(method, path, query, headers, keep_alive)

    def body(self, request: Request) -> bytearray:
        """The whole body."""
        if request.headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunked_body()
        return self._exactly(int(request.headers.get("content-length", "0")))

    def _chunked_body(self) -> bytearray:
        whole = bytearray()
        while True:
            size = int(self._line().partition(b";")[0], 16)
            whole += self._exactly(size)
            if size == 0:
                while self._line():
                    pass
                return whole
            self._line()

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            data = self._receive(65536)
            if not data:
                raise Closed
            self._ahead += data
        line = bytes(self._ahead[:end])
        del self._ahead[:end + 2]
        return line

    def _exactly(self, size: int) -> bytearray:
        if size > _LARGEST_BODY:
            raise Closed
        body = bytearray(size)
        got = min(size, len(self._ahead))
        body[:got] = self._ahead[:got]
        del self._ahead[:got]
        view = memoryview(body)
        started = time.monotonic()
        while got < size:
            count = self._socket.recv_into(view[got:got + _SLICE])
            if not count:
                raise Closed
            got += count
            self._keep_to_rate(started, got)
        return body

    def _receive(self, most: int) -> bytes:
        return self._socket.recv(most)

    # writing

    def send(self, data: bytes | bytearray | memoryview) -> None:
        if not self._rate:
            self._socket.sendall(data)
            return
        started = time.monotonic()
        step = self._step()
        for at in range(0, len(data), step):
            self._socket.sendall(data[at:at + step])
            self._keep_to_rate(started, at + step)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        head = self._head(status, len(body), headers)
        if len(body) < 65536:
            self.send(head + body)
        else:
            self.send(head)
            self.send(body)

    def answer_in_pieces(self, pieces: Iterable[bytes]) -> None:
        """With a body whose length is not known yet."""
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            if piece:
                self.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.send(b"0\r\n\r\n")

    def answer_of_length(self, length: int, pieces: Iterable[bytes]) -> None:
        """With a body that is made while it is sent."""
        self.send(self._head(200, length, {"Content-Type": "application/octet-stream"}))
        for piece in pieces:
            self.send(piece)

    def answer_from_file(self, descriptor: int, start: int, stop: int, send_until: int) -> None:
        """Bytes ``start`` to ``stop`` of a file; ``send_until`` less than ``stop`` breaks the answer off there."""
        self.send(self._head(200, stop - start, {"Content-Type": "application/octet-stream"}))
        at, started = start, time.monotonic()
        step = self._step() if self._rate else 64 * _SLICE
        while at < send_until:
            if isinstance(self._socket, ssl.SSLSocket):
                data = os.pread(descriptor, min(_SLICE, send_until - at), at)
                self._socket.sendall(data)
                at += len(data)
            else:
                at += os.sendfile(self._socket.fileno(), descriptor, at, min(step, send_until - at))
            self._keep_to_rate(started, at - start)

    def answer_cut_short(self, body: bytes, sent: int) -> None:
        """An answer that says how long it is and ends before that."""
        self.send(self._head(200, max(len(body), sent + 1), None) + body[:sent])

    @staticmethod
    def _head(status: int, length: int, headers: Mapping[str, str] | None) -> bytes:
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Answer')}", f"Content-Length: {length}"]
        given = {"Content-Type": "application/json", "Access-Control-Allow-Origin": "*", **(headers or {})}
        lines += [f"{name}: {value}" for name, value in given.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    # pace

    def _step(self) -> int:
        return max(int(self._rate / 20), 1024)

    def _keep_to_rate(self, started: float, count: int) -> None:
        if self._rate:
            ahead = count / self._rate - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(ahead)
