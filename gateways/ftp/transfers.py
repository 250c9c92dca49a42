"""Data connections: when a transfer has ended well, and what is answered.

In stream mode the end of the connection is the end of the file, so a broken connection looks much like a whole
file. An upload counts as whole only when

- the data connection was closed in order (FIN): not reset, not timed out, not aborted;
- under TLS, its ``close_notify`` came first: a FIN alone can be anybody's on the way. curl, lftp, rclone and
  Python's ftplib all send it (tests/e2e/ftp);
- the control connection is still there. A client that was killed leaves an orderly FIN on *every* connection;
  the control connection was opened first, so its FIN is here first.

What plain FTP cannot tell apart is a middlebox that closes only the data connection in order; TLS can. A download
that fails is reset, never closed in order, so that nobody takes half a file for a whole one; and one that was sent
is answered with 226 when the other side has acknowledged it all, not when the last bytes went into a buffer here.

pyftpdlib keeps the state machine of the socket; everything that decides an outcome is replaced here.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from pyftpdlib.exceptions import _RetryError
from pyftpdlib.handlers.ftp.data import DTPHandler
from pyftpdlib.handlers.ftp.dispatchers import ActiveDTP, PassiveDTP

from serpentfs.errors import SerpentError
from serpentfs.gateways.ftp.replies import reply_to
from serpentfs.gateways.ftp.tls import TlsChannel
from serpentfs.gateways.ftp.uploads import Upload
from serpentfs.gateways.sync_vfs import CROSSING_SIZE, Reader

if sys.platform == "linux":
    import fcntl
    import termios

_log = logging.getLogger(__name__)

_CHUNK = 256 * 1024
"""Bytes of a listing that are put together. (Of a file, one turn of a session's poller receives at most CROSSING_SIZE
and sends a piece, as the reader gives them, so that ABOR is not kept waiting.)"""

_UNSENT = 16 * 1024
"""Bytes that a socket keeps ready beyond what is on its way (tcp(7), TCP_NOTSENT_LOWAT). Without a limit megabytes lie
there, which no processor's cache holds any more when they go: a tenth more time and CPU for the same file."""

_FIRST_DELIVERY_CHECK, _LONGEST_DELIVERY_CHECK = 0.005, 0.1
"""Seconds between two looks whether what was sent has arrived. Only clients that keep their side of the connection
open until the 226 wait for this; the kernel of a client may hold back its acknowledgement for 40 ms."""

_END, _END_OF_TLS = 1, 32
"""Bytes of a connection's end that count as unacknowledged: the FIN, and at most 31 of a ``close_notify`` (RFC 5288 §3;
24 in TLS 1.3, RFC 8446 §5.2). Before them a file has at least 23 more, so that it is not taken for them."""
_INT = struct.Struct("i")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)   # SO_LINGER on, 0 seconds


class Download:
    """A file from where its reader stands to its end: pyftpdlib's open file and producer of a RETR."""

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader = reader
        self.name = name

    @property
    def closed(self) -> bool:
        return self._reader.closed

    def more(self) -> memoryview | bytes:
        data = self._reader.read(CROSSING_SIZE)
        # A view, because what the socket does not take at once is sliced off again and again.
        return memoryview(data) if data else b""

    def send(self, descriptor: int) -> int:
        """See ``Reader.send``."""
        return self._reader.send(descriptor)

    def close(self) -> None:
        """Never raises: pyftpdlib would send no reply then, and nothing that was sent depends on it."""
        try:
            self._reader.close()
        except SerpentError as error:
            _log.info("a file that was sent could not be closed: %s", error)


class Listing:
    """Producer of a listing, piece by piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def more(self) -> bytes:
        return next(self._pieces, b"")


def encoded(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines as they go out, in large pieces."""
    piece = bytearray()
    for line in lines:
        piece += line.encode("utf-8", "surrogateescape") + b"\r\n"
        if len(piece) >= _CHUNK:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class DataConnection(TlsChannel, DTPHandler):
    """A data connection, protected when the client asked for it (PROT P)."""

    timeout = 300
    _lastdata: int
    ac_in_buffer_size = _CHUNK
    ac_out_buffer_size = CROSSING_SIZE

    def __init__(self, sock: socket.socket, cmd_channel: Any) -> None:
        self._answered = False
        self._sent_all = False
        self._delivering = False
        self._delivery_delay = _FIRST_DELIVERY_CHECK
        self._delivery_check: Any = None
        # (Under TLS a piece counts as sent when its last byte is: that must not take several turns.)
        if hasattr(socket, "TCP_NOTSENT_LOWAT") and not cmd_channel.protects_data:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        # Or the kernel holds back what sendfile gives it in small pieces: a third more time.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, cmd_channel)
        if not self.connected:
            return
        # What comes before the command it belongs to stays in the kernel: clients may send ahead of our 150.
        self._wanted_io_events = 0
        self.modify_ioloop_events(0)
        if cmd_channel.protects_data:
            self.start_tls(cmd_channel.tls_context)

    @property
    def is_busy(self) -> bool:
        """A command uses this connection."""
        return bool(self._initialized)

    @property
    def is_closed(self) -> bool:
        return bool(self._closed)

    def use_sendfile(self) -> bool:
        return False

    def modify_ioloop_events(self, events: int, logdebug: bool = False) -> None:
        if not self.is_shaking_hands:   # what is asked for here counts when the handshake is over
            super().modify_ioloop_events(events, logdebug)

    def tls_failed(self, error: OSError) -> None:
        self.log(f"TLS handshake on a data connection failed: {error!r}")
        if self.is_busy:
            self._answer("522 TLS handshake on the data connection failed.")
        self.break_connection()

    # receiving

    def readable(self) -> bool:
        return self._is_between() or self._write_waits_for_read or self._delivering or bool(self.receive)

    def handle_read(self) -> None:
        ended_in_order = self._take()
        if ended_in_order is not None:
            self._upload_ended(in_order=ended_in_order)

    def handle_read_event(self) -> None:
        if self._delivering:
            self._heard_while_delivering()
        elif self._is_between() or self._write_waits_for_read:
            super().handle_read_event()
        else:
            self.handle_read()

    def _take(self) -> bool | None:
        """Move what is there into the upload; whether the connection ended in order (None: it has not ended)."""
        upload: Upload = self.file_obj
        enough = self.tot_bytes_received + CROSSING_SIZE
        while self.tot_bytes_received < enough:
            try:
                taken = self.receive_into(upload.room())
            except _RetryError:
                return None
            except OSError as error:
                self.log(f"data connection lost: {error!r}")
                return False
            if not taken:
                return True
            self.tot_bytes_received += taken
            upload.took(taken)
        return None

    def _upload_ended(self, *, in_order: bool) -> None:
        if self._closed:
            return
        if in_order and not self.cmd_channel.is_peer_gone():
            self.file_obj.publish()
            self.transfer_finished = True
            self._answer("226 Transfer complete.")
            self.close()
        else:
            self._answer("426 Connection broke off; what came is kept for REST, the old file is unchanged.")
            self.break_connection()

    # sending

    def initiate_send(self) -> None:
        if not self._kernel_sends():
            super().initiate_send()

    def _kernel_sends(self) -> bool:
        """Whether some of a file was sent without being read here, or its connection is lost."""
        download = self.producer_fifo[0] if self.producer_fifo else None
        if self.is_secured or not isinstance(download, Download):
            return False
        try:
            sent = download.send(self.socket.fileno())
        except ConnectionError:
            self.handle_close()
            return True
        self.tot_bytes_sent += sent
        return sent > 0

    def send(self, data: bytes | memoryview) -> int:
        sent = TlsChannel.send(self, data)
        self.tot_bytes_sent += sent
        return sent

    def handle_close(self) -> None:
        """All was sent, or the connection died."""
        if self._closed:
            return
        if not self.is_busy:
            self.close()
        elif self.receive:
            self._upload_ended(in_order=False)
        elif self._delivering:
            self._other_side_closed()
        elif self.producer_fifo:
            self._sending_failed()
        else:
            self._all_is_sent()

    def _sending_failed(self) -> None:
        self._answer("426 Connection broke off.")
        self.break_connection()

    def _all_is_sent(self) -> None:
        """Nothing is left to be sent: end the connection, and wait until what is on its way has arrived."""
        self._sent_all = True
        if not self.end_tls():
            return   # the rest of the file still fills the socket
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._check_delivery(is_lost=True)
        else:
            self._check_delivery()

    def tls_may_end(self) -> None:
        if self._sent_all:
            self._all_is_sent()
        else:
            self.close()

    def _check_delivery(self, *, is_lost: bool = False) -> None:
        """A client that has the whole file may close before our last words come, and its system resets the connection
        for them: ``is_lost`` counts only for what of the file had not arrived."""
        is_lost = is_lost or self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        undelivered = self._undelivered()
        if undelivered == 0 or (undelivered is None and not is_lost):
            self.transfer_finished = True
            self._answer("226 Transfer complete.")
            DTPHandler.close(self)
        elif is_lost:
            self._sending_failed()
        else:
            if not self._delivering:
                self._delivering = True
                self._watch(self.ioloop.READ)   # most clients close at the end: no need to wait for the timer
            self._delivery_check = self.call_later(self._delivery_delay, self._check_delivery)
            self._delivery_delay = min(2 * self._delivery_delay, _LONGEST_DELIVERY_CHECK)

    def _heard_while_delivering(self) -> None:
        try:
            said = self.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            self._other_side_closed(is_lost=True)
            return
        if not said:   # what it said before is of no interest
            self._other_side_closed()

    def _other_side_closed(self, *, is_lost: bool = False) -> None:
        """In order or not, and maybe only its own direction: it may still be reading."""
        self.del_channel()   # the poller would report a connection that is closed both ways for ever
        self._delivery_check.cancel()
        self._check_delivery(is_lost=is_lost)

    def _undelivered(self) -> int | None:
        """Bytes of the file that were sent and that the other side's system has not acknowledged (those that it had not
        when the connection was lost); None where this system does not tell."""
        if sys.platform != "linux":
            return None
        answer = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        queued: int = _INT.unpack(answer)[0]
        return max(0, queued - (_END_OF_TLS if self.is_secured else _END))

    # ends

    def _answer(self, reply: str) -> None:
        """The one reply that ``close`` sends. The first stays: what comes after it is only the clearing up."""
        if not self._answered:
            self._answered = True
            self._resp = (reply, None)

    def handle_error(self) -> None:
        """The exception being handled ended the transfer."""
        error = sys.exc_info()[1]
        assert error is not None
        if self.is_busy:
            self._answer(reply_to(error, f"a transfer ({self.cmd})"))
        else:
            self.log_exception(self)
        self.break_connection()

    def handle_timeout(self) -> None:
        arrived = self.get_transmitted_bytes() - ((self._undelivered() or 0) if self._delivering else 0)
        if arrived > self._lastdata:
            self._lastdata = arrived
            return
        self._answer("421 Data connection timed out.")
        self.break_connection()
        self.cmd_channel.close_when_done()

    def break_connection(self) -> None:
        """Close so that the other side cannot take it for an orderly end."""
        if not self._closed:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError as error:
                self.log(f"cannot reset a data connection: {error!r}")   # it is gone already
            DTPHandler.close(self)

    def close(self) -> None:
        if not self._closed and self.end_tls():
            DTPHandler.close(self)


class Passive(PassiveDTP):
    """Waits for the client's data connection."""

    def __init__(self, cmd_channel: Any, extmode: bool = False) -> None:
        try:
            super().__init__(cmd_channel, extmode)
        except OSError:
            self.close()   # a bound socket that does not listen would wake the poller for ever
            raise

    def bind(self, address: tuple[str, int]) -> None:
        if address[1] == 0 and self.cmd_channel.passive_ports is not None:
            raise OSError(errno.EADDRINUSE, "every data port is in use")   # never one outside the range
        super().bind(address)

    def handle_accepted(self, sock: socket.socket, addr: tuple[str, int]) -> None:
        super().handle_accepted(sock, addr)
        if self._closed and self.cmd_channel.data_channel is None:
            self.cmd_channel.data_connection_was_lost()   # reset before it could be used

    def handle_timeout(self) -> None:
        self.cmd_channel.drop_waiting_transfer()
        super().handle_timeout()

    def close(self) -> None:
        super().close()
        if self.cmd_channel._dtp_acceptor is self:
            self.cmd_channel._dtp_acceptor = None   # nobody must wait for it any more


class Active(ActiveDTP):
    """Connects to the client's data port."""

    def handle_timeout(self) -> None:
        self.cmd_channel.drop_waiting_transfer()
        super().handle_timeout()

    def handle_close(self) -> None:
        if not self._closed:
            self.cmd_channel.drop_waiting_transfer()
        super().handle_close()

    def close(self) -> None:
        super().close()
        if self.cmd_channel._dtp_connector is self:
            self.cmd_channel._dtp_connector = None
