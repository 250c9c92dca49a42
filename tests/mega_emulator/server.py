"""The HTTP side: which path is what, and what faults do to an answer.

A thread for each connection, so that slow links, waiting polls and large transfers do not hold up one another. CONNECT
leads to this server's own TLS side whatever host is asked for.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import socketserver
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.hashcash import verify
from tests.mega_emulator import control
from tests.mega_emulator.certificates import make_certificates
from tests.mega_emulator.commands import execute
from tests.mega_emulator.connection import Closed, Connection, Request
from tests.mega_emulator.events import sn_number, sn_text
from tests.mega_emulator.faults import Fault, Place
from tests.mega_emulator.service import Service
from tests.mega_emulator.state import Actor, Refused
from tests.mega_emulator.storage import Download, Storage
from tests.mega_emulator.tree_commands import Streamed

_REMEMBERED_ANSWERS = 2000
_PART_PIECE = 512 * 1024


@dataclass(slots=True)
class Pace:
    """``latency``: seconds before every answer and every connection; ``rate``: bytes per second of a connection."""

    latency: float = 0.0
    rate: float = 0.0


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, server: Server, port: int, *, tls: bool) -> None:
        self.owner = server
        self.tls = tls
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        raise  # into the hook for threads: a fault of the emulator itself must be seen


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Listener)
        self.server.owner.serve(self.request, tls=self.server.tls)


class Server:
    """Listens from the start; ``run`` serves until ``close``. ``folder``: for content and certificates."""

    def __init__(self, folder: Path, *, port: int = 0, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        certificates = make_certificates(folder)
        self.ca_file = certificates.ca_file
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificates.server_file)
        self._plain = _Listener(self, port, tls=False)
        self._secure = _Listener(self, 0, tls=True)
        content = folder / "content"
        content.mkdir()
        self.port: int = self._plain.server_address[1]
        self.tls_port: int = self._secure.server_address[1]
        self.service = Service(content, f"http://127.0.0.1:{self.port}")
        self._answers: OrderedDict[tuple[str, str, bytes], bytes] = OrderedDict()
        self._challenges: dict[str, str] = {}

    def run(self) -> None:
        thread = threading.Thread(target=self._secure.serve_forever, daemon=True)
        thread.start()
        self._plain.serve_forever()
        self._secure.shutdown()
        thread.join()

    def close(self) -> None:
        """From another thread than ``run``'s."""
        self._plain.shutdown()

    # connections

    def serve(self, sock: socket.socket, *, tls: bool) -> None:
        """One connection until its end."""
        with contextlib.suppress(OSError, Closed):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.pace.latency:
                time.sleep(self.pace.latency)
            if tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            connection = Connection(sock, self.pace.rate)
            while (request := connection.request()) is not None:
                if request.method == "CONNECT":
                    connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    sock = self._tls.wrap_socket(sock, server_side=True)
                    connection = Connection(sock, self.pace.rate)
                    continue
                self._route(connection, request)
                if not request.keep_alive:
                    break
        with contextlib.suppress(OSError):
            # The end of the stream at once, also where a TLS layer took the socket over.
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _route(self, connection: Connection, request: Request) -> None:
        connection.slow_down(self.pace.rate)
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        path = request.path
        parts = path.strip("/").split("/")
        if path.endswith("/cs"):
            self._commands(connection, request, query)
        elif path.endswith(("/sc", "/wsc")):
            self._events(connection, request, query, long=path.endswith("/wsc"))
        elif path == "/control":
            self._control(connection, connection.body(request))
        elif parts[0] == "wscw":
            self._long_poll(connection, request, query)
        elif parts[0] == "wait" and len(parts) == 3:
            self._wait(connection, request, parts[1], parts[2])
        elif parts[0] == "ul" and len(parts) == 3:
            self._piece(connection, request, parts[1], parts[2], query)
        elif parts[0] == "dl" and len(parts) in (2, 3):
            self._range(connection, request, parts[1], parts[2] if len(parts) == 3 else "0-")
        elif parts[0] == "ufa" and len(parts) in (2, 3):
            data = bytes(connection.body(request))
            with self.service.condition:
                handle = self.service.storage.put_attribute(parts[1], data)
            self._answer(connection, 200, handle if handle is not None else b"-9")
        elif parts[0] == "fa":
            handles = bytes(connection.body(request))
            with self.service.condition:
                found = self.service.storage.get_attributes(handles)
            self._answer(connection, 200, found)
        else:
            connection.body(request)
            self._answer(connection, 404)

    def _answer(self, connection: Connection, status: int, body: bytes = b"",
                headers: dict[str, str] | None = None) -> None:
        if self.pace.latency:
            time.sleep(self.pace.latency)
        connection.answer(status, body, headers)

    def _fault(self, place: Place, name: str | None, account: str | None) -> Fault | None:
        with self.service.condition:
            self.service.count(place)
            return self.service.faults.take(place, name, account)

    def _suffer(self, connection: Connection, fault: Fault | None) -> bool:
        """What a fault does before anything is done; whether that was all."""
        match fault.effect if fault else None:
            case "break":
                raise Closed
            case "slow":
                assert fault is not None
                time.sleep(fault.seconds)
                if fault.rate:
                    connection.slow_down(fault.rate)
            case "error":
                assert fault is not None
                self._answer(connection, 200, str(fault.code).encode())
                return True
            case "http":
                assert fault is not None
                self._answer(connection, fault.status, b"", fault.headers)
                return True
            case "quota":
                assert fault is not None
                self._answer(connection, 509, b"", {"X-MEGA-Time-Left": str(int(fault.seconds))})
                return True
            case "hashcash":
                assert fault is not None
                token = encode(secrets.token_bytes(48))
                challenge = f"1:{fault.easiness}:{int(time.time())}:{token}"
                self._challenges[token] = challenge
                self._answer(connection, 402, b"", {"X-Hashcash": challenge})
                return True
        return False

    def _has_paid(self, request: Request) -> bool:
        answer = request.headers.get("x-hashcash")
        if answer is None:
            return False
        challenge = self._challenges.pop(answer.split(":")[1] if ":" in answer else "", None)
        return challenge is not None and verify(challenge, answer)

    # commands

    def _commands(self, connection: Connection, request: Request, query: dict[str, str]) -> None:
        body = bytes(connection.body(request))
        if "wlt" in query:
            self._answer(connection, 200, b"1")
            return
        try:
            batch = json.loads(body)
        except ValueError:
            batch = None
        if isinstance(batch, dict):
            batch = [batch]
        first = batch[0].get("a") if isinstance(batch, list) and batch and isinstance(batch[0], dict) else None
        fault = None if self._has_paid(request) else self._fault("batch", first, self._email(query))
        if self._suffer(connection, fault):
            return
        answer = self._execute(query, batch, body)
        if fault is not None and fault.effect == "lose":
            raise Closed
        if isinstance(answer, Streamed):
            if self.pace.latency:
                time.sleep(self.pace.latency)
            pieces = _bracketed(answer.pieces)
            if fault is not None and fault.effect == "truncate":
                connection.answer_cut_short(b"".join(pieces), fault.bytes)
                raise Closed
            connection.answer_in_pieces(pieces)
        elif fault is not None and fault.effect == "truncate":
            connection.answer_cut_short(answer, fault.bytes)
            raise Closed
        else:
            self._answer(connection, 200, answer)

    def _email(self, query: dict[str, str]) -> str | None:
        with self.service.condition:
            account = self.service.state.sessions.get(query.get("sid", ""))
            return account.email if account else None

    def _execute(self, query: dict[str, str], batch: Any, body: bytes) -> bytes | Streamed:
        """The answer to a batch; the one that was given before when it is a repetition."""
        service = self.service
        number = query.get("id")
        session = query.get("sid") or query.get("n")
        if session is None:
            # Before log-in a number means nothing: megatools counts from the second it starts in, and a second one
            # would be taken for the first one's repetition.
            number = None
        key = (session or "", number or "", body)
        with service.condition:
            if number is not None and key in self._answers:
                service.count("replayed")
                return self._answers[key]
            if not isinstance(batch, list):
                return b"-2"
            try:
                actor = service.actor(query.get("sid"), query.get("n"))
            except Refused as refused:
                return str(refused.code).encode()
            results = [self._run(actor, command) for command in batch]
            if len(results) == 1 and isinstance(results[0], Streamed):
                return results[0]
            whole = [json.loads(b"".join(each.pieces)) if isinstance(each, Streamed) else each for each in results]
            answer = json.dumps(whole, separators=(",", ":")).encode()
            if number is not None:
                self._answers[key] = answer
                if len(self._answers) > _REMEMBERED_ANSWERS:
                    self._answers.popitem(last=False)
            return answer

    def _run(self, actor: Actor, command: Any) -> Any:
        name = command.get("a") if isinstance(command, dict) else None
        fault = self.service.faults.take("command", name, actor.account.email if actor.account else None)
        return fault.code if fault is not None else execute(self.service, actor, command)

    # events

    def _events(self, connection: Connection, request: Request, query: dict[str, str], *, long: bool) -> None:
        connection.body(request)
        fault = None if self._has_paid(request) else self._fault("events", None, self._email(query))
        if self._suffer(connection, fault):
            return
        answer = self._poll(query, long=long, twice=fault is not None and fault.effect == "twice")
        if fault is not None and fault.effect == "truncate":
            connection.answer_cut_short(answer, fault.bytes)
            raise Closed
        self._answer(connection, 200, answer)

    def _poll(self, query: dict[str, str], *, long: bool, twice: bool = False) -> bytes:
        service = self.service
        with service.condition:
            try:
                audience = service.actor(query.get("sid"), query.get("n")).audience
            except Refused as refused:
                return str(refused.code).encode()
            if "c" in query and "sn" not in query:
                return json.dumps({"c": [], "u": [], "lsn": sn_text(service.events.serial(audience))}).encode()
            since = service.events.since(audience, sn_number(query.get("sn", "")))
        if since is None:
            return b"-6"
        sn = sn_text(since.serial)
        packets = since.packets * 2 if twice else since.packets
        told = []
        if long:
            told.append(f'"w":"{service.base_url}/wscw"'.encode())
            if since.more:
                told.append(b'"ir":1')
        elif not packets:
            told.append(f'"w":"{service.base_url}/wait/{audience}/{since.serial}"'.encode())
        if packets:
            told.append(b'"a":[' + b",".join(packets) + b"]")
        told.append(f'"sn":"{sn}"'.encode())
        return b"{" + b",".join(told) + b"}"

    def _wait(self, connection: Connection, request: Request, audience: str, serial: str) -> None:
        connection.body(request)
        if self._suffer(connection, self._fault("wait", None, None)):
            return
        with self.service.condition:
            if serial.isdigit():
                self.service.events.wait(audience, int(serial), self.service.wait_seconds)
        self._answer(connection, 200, b"0")

    def _long_poll(self, connection: Connection, request: Request, query: dict[str, str]) -> None:
        connection.body(request)
        if self._suffer(connection, self._fault("wait", None, self._email(query))):
            return
        serial = sn_number(query.get("sn", ""))
        with self.service.condition, contextlib.suppress(Refused):
            audience = self.service.actor(query.get("sid"), query.get("n")).audience
            if serial is not None:
                self.service.events.wait(audience, serial, self.service.wait_seconds)
                if self.service.events.serial(audience) == serial:
                    self._answer(connection, 200, b"0")
                    return
        self._answer(connection, 200, self._poll(query, long=True))

    # storage

    def _piece(self, connection: Connection, request: Request, token: str, place: str, query: dict[str, str]) -> None:
        storage = self.service.storage
        fault = self._fault("upload", None, None)
        if fault is not None and fault.effect == "slow" and fault.rate:
            connection.slow_down(fault.rate)
        if fault is not None and fault.effect == "break":
            raise Closed
        data = connection.body(request)
        if self._suffer(connection, fault):
            return
        with self.service.condition:
            upload = storage.upload(token)
            if isinstance(upload, int):
                code = upload
            else:
                code = storage.check_piece(upload, int(place), len(data)) if place.isdigit() else -2
        checksum = query.get("d") or query.get("c")
        if code == 0 and checksum and not storage.checksum_fits(data, checksum):
            code = -14
        if code or isinstance(upload, int):
            self._answer(connection, 200, str(code).encode())
            return
        upload.write(int(place), data)
        with self.service.condition:
            handle = storage.note_piece(upload, int(place), len(data))
        if fault is not None and fault.effect == "lose":
            raise Closed
        unfinished = b"0" if "d" in query else b""
        self._answer(connection, 200, unfinished if handle is None else handle)

    def _range(self, connection: Connection, request: Request, token: str, wanted: str) -> None:
        connection.body(request)
        with self.service.condition:
            download = self.service.storage.download(token)
        fault = self._fault("download", None, download.account if download else None)
        if self._suffer(connection, fault):
            return
        span = _span(wanted, download.size) if download is not None else None
        if download is None or span is None:
            self._answer(connection, 404)
            return
        start, stop = span
        with self.service.condition:
            self.service.counts["downloaded"] = self.service.counts.get("downloaded", 0) + stop - start
        if self.pace.latency:
            time.sleep(self.pace.latency)
        cut = stop
        if fault is not None and fault.effect == "truncate":
            cut = min(start + fault.bytes, stop)
        is_corrupt = fault is not None and fault.effect == "corrupt"
        if download.part is None and not is_corrupt:
            with download.blob.path.open("rb") as file:
                connection.answer_from_file(file.fileno(), start, stop, cut)
        elif cut == stop and not is_corrupt:
            pieces = (
                Storage.read_part(download, at, min(at + _PART_PIECE, stop)) for at in range(start, stop, _PART_PIECE)
            )
            connection.answer_of_length(stop - start, pieces)
        else:
            data = _bytes_of(download, start, stop)
            if fault is not None and fault.effect == "corrupt" and data:
                data[fault.bytes % len(data)] ^= 1
            if cut < stop:
                connection.answer_cut_short(bytes(data), cut - start)
            else:
                connection.answer(200, bytes(data), {"Content-Type": "application/octet-stream"})
        if cut < stop:
            raise Closed

    # control

    def _control(self, connection: Connection, body: bytearray) -> None:
        try:
            result = control.run(self, json.loads(body))
        except (Refused, KeyError, TypeError, ValueError) as error:
            connection.answer(400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
            return
        connection.answer(200, json.dumps(result).encode())


def _bracketed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield b"["
    yield from pieces
    yield b"]"


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """``start-end`` (inclusive) or ``start-``, clamped to the size. None: not that, or behind the end."""
    first, dash, last = wanted.partition("-")
    if not (dash and first.isdigit() and (last.isdigit() or not last)):
        return None
    start, stop = int(first), min(int(last) + 1, size) if last else size
    if size == 0:
        return 0, 0
    return (start, stop) if start < stop else None


def _bytes_of(download: Download, start: int, stop: int) -> bytearray:
    if download.part is None:
        return bytearray(download.blob.read(start, stop))
    return bytearray(Storage.read_part(download, start, stop))
