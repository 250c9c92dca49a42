"""A proxy between an FTP client and the door that cuts data connections after a number of bytes."""

from __future__ import annotations

import fcntl
import re
import select
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterator

from tests.e2e.ftp.harness import TIMEOUT, reset

_PASSIVE = re.compile(rb"^227 .*\((\d+,\d+,\d+,\d+),(\d+),(\d+)\).*\r\n")
_EXTENDED = re.compile(rb"^229 .*\(\|\|\|(\d+)\|\).*\r\n")

_Relay = Callable[[socket.socket, socket.socket], None]
_Pieces = Iterator[tuple[socket.socket, bytes]]


class CuttingProxy:
    """Relays control connections to ``port`` of 127.0.0.1 and puts itself between their data connections, which
    must not be under TLS. The first ``cuts`` of those that carry more than ``after`` bytes are reset then."""

    def __init__(self, port: int, *, after: int, cuts: int) -> None:
        self._after = after
        self.cuts_left = cuts
        self.uploaded: list[bytearray] = []
        """What clients sent by data connections, in the order in which they began to."""
        self._lock = threading.Lock()
        self._listeners: list[socket.socket] = []
        self.port = self._serve(port, self._relay_control, connections=100)

    def _serve(self, port: int, relay: _Relay, *, connections: int) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        # Small, so that a client still has something to send when the connection is cut: lftp 4.9.2 forgets to
        # read on after a restart if it had read its file to the end, and sends a short rest as if it were all.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self._listeners.append(listener)

        def accept() -> None:
            for _ in range(connections):
                try:
                    client, _address = listener.accept()
                except OSError:
                    return   # closed
                server = socket.socket()
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
                server.settimeout(TIMEOUT)
                try:
                    server.connect(("127.0.0.1", port))
                except OSError:   # the door no longer waits for this data connection
                    client.close()
                    server.close()
                    continue
                threading.Thread(target=relay, args=(client, server), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        own_port: int = listener.getsockname()[1]
        return own_port

    def _relay_control(self, client: socket.socket, server: socket.socket) -> None:
        pending = b""
        for source, data in _both_ways(client, server):
            if source is client:
                server.sendall(data)
                continue
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                client.sendall(self._with_own_port(line + b"\n"))

    def _with_own_port(self, line: bytes) -> bytes:
        if match := _PASSIVE.match(line):
            port = self._serve(int(match[2]) * 256 + int(match[3]), self._relay_data, connections=1)
            return b"227 Here (127,0,0,1,%d,%d).\r\n" % divmod(port, 256)
        if match := _EXTENDED.match(line):
            port = self._serve(int(match[1]), self._relay_data, connections=1)
            return b"229 Here (|||%d|)\r\n" % port
        return line

    def _relay_data(self, client: socket.socket, server: socket.socket) -> None:
        carried = 0
        uploaded = bytearray()
        for source, data in _both_ways(client, server):
            carried += len(data)
            if carried > self._after and self._may_cut():
                _wait_until_sent(server)
                reset(client)
                reset(server)
                return
            if source is client:
                if not uploaded:
                    self.uploaded.append(uploaded)
                uploaded += data
            (server if source is client else client).sendall(data)

    def _may_cut(self) -> bool:
        with self._lock:
            if self.cuts_left == 0:
                return False
            self.cuts_left -= 1
            return True

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


def _wait_until_sent(connection: socket.socket) -> None:
    """What is not acknowledged yet would be forgotten by a reset, or all of it, if nobody has accepted it yet."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and any(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))):
        time.sleep(0.001)


def _both_ways(client: socket.socket, server: socket.socket) -> _Pieces:
    """What either side says, until both have ended or one is lost; ends are passed on as they are."""
    open_ends = {client, server}
    try:
        while open_ends:
            for source in select.select(open_ends, [], [])[0]:
                data = source.recv(16384)
                if data:
                    yield source, data
                else:
                    open_ends.discard(source)
                    (server if source is client else client).shutdown(socket.SHUT_WR)
    except OSError:
        return
    finally:
        client.close()
        server.close()
