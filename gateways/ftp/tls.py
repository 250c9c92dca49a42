"""TLS on a connection that pyftpdlib's poller drives, by the standard library's ``ssl``.

pyftpdlib brings its own on pyOpenSSL; that one cannot tell a ``close_notify`` from a bare end of the connection
when it reads, and cannot be kept from sending session tickets. The tickets matter on uploads: a client that only
writes (rclone) leaves them unread, and then its kernel ends the connection with a reset that can overtake the
last bytes of the file.
"""

from __future__ import annotations

import enum
import logging
import socket
import ssl

from pyftpdlib.exceptions import _RetryError
from pyftpdlib.ioloop import AsyncChat

from serpentfs.gateways.access import TlsFiles, server_tls_context

_log = logging.getLogger(__name__)


def ftp_tls_context(files: TlsFiles) -> ssl.SSLContext:
    """``server_tls_context`` without session tickets. Raises UsageError."""
    context = server_tls_context(files)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


class _Phase(enum.Enum):
    CLEAR = 0
    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3
    """``close_notify`` waits for room in the socket."""
    ENDED = 4


class TlsChannel(AsyncChat):
    """A connection that begins in clear text and may be secured.

    ``_wanted_io_events`` is what the protocol above waits for; in a handshake something else may be waited for.
    """

    socket: socket.socket | ssl.SSLSocket
    _wanted_io_events: int
    _current_io_events: int
    _phase = _Phase.CLEAR
    _write_waits_for_read = False
    _read_waits_for_write = False

    @property
    def is_secured(self) -> bool:
        """TLS was asked for; nothing goes out in clear text any more."""
        return self._phase is not _Phase.CLEAR

    @property
    def is_shaking_hands(self) -> bool:
        return self._phase is _Phase.HANDSHAKE

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Let TLS begin, as the server. ``tls_established`` or ``tls_failed`` follows."""
        self._phase = _Phase.HANDSHAKE
        try:
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except OSError as error:   # the client is gone already
            self.tls_failed(error)
            return
        self._watch(self.ioloop.READ)

    def tls_established(self) -> None:
        """The handshake is over."""

    def tls_failed(self, error: OSError) -> None:
        """The handshake failed: the connection is of no use."""
        raise NotImplementedError

    def end_tls(self) -> bool:
        """Send ``close_notify``. False when it could not be sent yet; ``tls_may_end`` is then called later."""
        if self._phase not in (_Phase.OPEN, _Phase.CLOSING):
            return True
        self._phase = _Phase.CLOSING
        assert isinstance(self.socket, ssl.SSLSocket)
        try:
            self.socket.unwrap()
        except ssl.SSLWantReadError:
            pass   # ours is out; nothing of what the client may still say is of interest
        except ssl.SSLWantWriteError:
            self._watch(self.ioloop.WRITE)
            return False
        except (OSError, ValueError) as error:   # ValueError: never established
            self.log(f"no orderly end of TLS: {error!r}")
        self._phase = _Phase.ENDED
        return True

    def tls_may_end(self) -> None:
        """There is room for the ``close_notify`` that ``end_tls`` could not send."""
        self.close()

    # events

    def _watch(self, events: int) -> None:
        self._current_io_events = events
        self.ioloop.modify(self._fileno, events)

    def readable(self) -> bool:
        return self._is_between() or self._write_waits_for_read or bool(super().readable())

    def writable(self) -> bool:
        return self._is_between() or self._read_waits_for_write or bool(super().writable())

    def _is_between(self) -> bool:
        return self._phase in (_Phase.HANDSHAKE, _Phase.CLOSING)

    def handle_read_event(self) -> None:
        if self._is_between():
            self._go_on()
        elif self._write_waits_for_read:
            self._write_waits_for_read = False
            self._watch(self._wanted_io_events)
            self.initiate_send()
        else:
            super().handle_read_event()

    def handle_write_event(self) -> None:
        if self._is_between():
            self._go_on()
        elif self._read_waits_for_write:
            self._read_waits_for_write = False
            self._watch(self._wanted_io_events)
            self.handle_read()
        else:
            super().handle_write_event()

    def _go_on(self) -> None:
        if self._phase is _Phase.CLOSING:
            self.tls_may_end()
            return
        assert isinstance(self.socket, ssl.SSLSocket)
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(self.ioloop.READ)
        except ssl.SSLWantWriteError:
            self._watch(self.ioloop.WRITE)
        except OSError as error:
            self.tls_failed(error)
        else:
            self._phase = _Phase.OPEN
            self._watch(self._wanted_io_events)
            self.tls_established()

    # bytes

    def send(self, data: bytes | memoryview) -> int:
        if self._phase is _Phase.CLEAR:
            return int(super().send(data))
        if self._phase is not _Phase.OPEN:
            return 0
        try:
            return self.socket.send(data)
        except ssl.SSLWantReadError:
            self._write_waits_for_read = True
            self._watch(self.ioloop.READ)
        except ssl.SSLWantWriteError:
            pass
        except OSError as error:
            self.log(f"connection lost: {error!r}")
            self.handle_close()
        return 0

    def receive_into(self, buffer: bytearray | memoryview) -> int:
        """How many bytes came; 0 is an orderly end, which under TLS is the client's ``close_notify``. Raises
        _RetryError when there is nothing yet, OSError when the connection broke: under TLS also when it just
        ended."""
        try:
            return self.socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError) as error:
            raise _RetryError from error
        except ssl.SSLWantWriteError as error:
            self._read_waits_for_write = True
            self._watch(self._wanted_io_events | self.ioloop.WRITE)
            raise _RetryError from error

    def recv(self, size: int) -> bytes:
        """For the control connection: an end of any kind closes it."""
        buffer = bytearray(size)
        try:
            received = self.receive_into(buffer)
        except OSError as error:
            self.log(f"connection lost: {error!r}")
            received = 0
        if not received:
            self.handle_close()
        return bytes(memoryview(buffer)[:received])
