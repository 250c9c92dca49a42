"""HTTP/1.1 on one connection: h11 does the grammar, trio the bytes.

Owns framing, time limits, ``100-continue`` and how a connection ends. Bodies stream in both directions and are
never held whole. Knows nothing of WebDAV.

A connection goes round:

    idle → head read → handler (body read as it asks, answer written) → rest of the body thrown away → idle

It is closed instead of going round when the client asks for it, after a framing error (what follows cannot be
told from a body: request smuggling), when too much of a body was left unread, and when the door closes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate

import h11
import trio

from serpentfs.bridge import run_in_thread
from serpentfs.cache.sealed import SealedSpan
from serpentfs.errors import SerpentError
from serpentfs.gateways.sending import PagedFile
from serpentfs.gateways.webdav.messages import REASONS, Headers, Refusal, Request, parse_target
from serpentfs.model import Span
from serpentfs.vfs.writes import SealedRoom

_log = logging.getLogger(__name__)

IDLE_TIMEOUT = 75.0
"""Seconds that a connection may wait between requests, and that a request's head may take."""
STALL_TIMEOUT = 60.0
"""Seconds without a single byte of progress after which a body or an answer is given up."""
LINGER_TIMEOUT = 5.0
"""Seconds for which the rest of an unread body is thrown away, so that the client gets to read the answer."""
LARGEST_HEAD = 64 * 1024
DRAINED_BODY = 256 * 1024
"""Bytes of an unread body that are read and dropped to keep a connection; beyond it is closed."""
_ONE_PACKET = 16 * 1024
_RECEIVE_HEAD = 32 * 1024
"""Less than LARGEST_HEAD: h11 looks at the limit only when a head is still incomplete after a piece."""
_RECEIVE_SIZE = 256 * 1024
_SEND_SIZE = 128 * 1024
"""Bytes that must go out within STALL_TIMEOUT: a client at 20 kbit/s still gets its file."""
_LONGEST_SENDING = 0.05
"""Seconds that a thread sends without coming back, where a cancelled answer would end."""
_BUSY_CLIENT = 2
"""Milliseconds that a thread waits for room. A client of this machine makes it sooner; for others no thread waits."""


class Gone(Exception):
    """The client broke off, stalled, or an answer cannot be finished: nothing can be sent any more."""


class Exchange:
    """One request and its answer, as a handler sees them."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.request = request
        self.started = False
        """The head of the answer is out: an error can only be shown by breaking off."""

    async def receive_into(self, room: memoryview) -> int:
        """Some of the body into ``room`` (not empty): how many bytes, 0 at its end: all of Content-Length, or the last
        chunk, has arrived. Refusal 400 (408) when it ends before (stalls)."""
        return await self._connection.receive_into(room)

    @property
    def lays(self) -> bool:
        """Whether ``lay`` may be used."""
        return self._connection.lays

    async def lay(self, room: SealedRoom, buffer: memoryview) -> int:
        """Write ``buffer``, which is full, into a room, and more of the body as long as it keeps coming, by one thread.
        How many bytes are in the buffer now."""
        return await self._connection.lay(room, buffer)

    async def receive_all(self, limit: int) -> bytes:
        """A small body whole; Refusal 413 beyond ``limit`` bytes."""
        if self.request.content_length is not None and self.request.content_length > limit:
            raise Refusal(413, f"the body is larger than {limit} bytes")
        body = bytearray()
        while piece := await self._connection.receive_body():
            body += piece
            if len(body) > limit:
                raise Refusal(413, f"the body is larger than {limit} bytes")
        return bytes(body)

    def start(self, status: int, headers: Headers) -> None:
        """Begin an answer; its head goes out with the first of its body. Without Content-Length it is sent in
        chunks."""
        self.started = True
        self._connection.send_head(status, headers)

    async def send(self, data: bytes) -> None:
        """More of the body; nothing is sent in answer to HEAD."""
        if self.request.method != "HEAD":
            await self._connection.send_body(data)

    @property
    def sends_unread(self) -> bool:
        """Whether ``send_sealed`` and ``send_pages`` may be used."""
        return self._connection.is_clear

    async def send_sealed(self, sealed: SealedSpan) -> int:
        """More of the body, read from the disk cache by the thread that sends it. How many bytes of it were sent: 0
        when it cannot be read, else there may be more of it. Only of an answer with Content-Length."""
        return await self._connection.send_sealed(sealed)

    async def send_pages(self, paged: PagedFile, span: Span) -> int:
        """More of the body, sent by the kernel. How many bytes of it were sent: 0 when it cannot be. Otherwise as
        ``send_sealed``."""
        return await self._connection.send_pages(paged, span)

    async def reply(
        self, status: int, body: bytes = b"", content_type: str | None = None, headers: Headers = ()
    ) -> None:
        """A whole answer."""
        head = list(headers)
        if status not in (204, 304):
            head.append(("Content-Length", str(len(body))))
        if body and content_type is not None:
            head.append(("Content-Type", content_type))
        self.start(status, head)
        if body:
            await self.send(body)


Handler = Callable[[Exchange], Awaitable[None]]


class Connection:
    """One client. ``handle`` answers each request and raises nothing but Gone."""

    def __init__(self, stream: trio.abc.Stream, peer: str, handle: Handler) -> None:
        self._stream = stream
        self._peer = peer
        self._handle = handle
        self._http = _grammar()
        self._aside: bytearray | None = None
        """Of a request whose body has a Content-Length, which h11 never sees: what came of it, and of what follows it,
        together with the head."""
        self._waiting: trio.CancelScope | None = None
        self._closing = False
        self._body_finished = True
        self._unread: int | None = 0
        """Bytes of the body that were not received yet, None when nobody knows."""
        self._drain = False
        """What is left of the body is read and dropped after the answer."""
        self._chunk = b""
        """What is left of a chunk that had no room."""
        self._unsent = b""
        """A head that waits for the first of its body, to go out in one packet."""

    def close_soon(self) -> None:
        """Close after the answer that is under way, now if there is none."""
        self._closing = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self) -> None:
        """Serve until the connection ends; closes the stream."""
        try:
            while await self._serve_one():
                self._start_next()
        except Gone as error:
            _log.debug("connection from %s: %s", self._peer, error)
        finally:
            with trio.move_on_after(LINGER_TIMEOUT) as closing:
                # A TLS stream says goodbye, which a client may never read.
                closing.shield = True
                await self._stream.aclose()

    async def _serve_one(self) -> bool:
        """Answer one request; whether another may follow."""
        try:
            request = await self._next_request()
        except h11.RemoteProtocolError as error:
            await self._refuse_head(error.error_status_hint, "the request is malformed")
            return False
        except Refusal as refusal:
            await self._refuse_head(refusal.status, refusal.text)
            return False
        if request is None:
            return False
        await self._handle(Exchange(self, request))
        return await self._finish()

    def _start_next(self) -> None:
        if self._aside is None:
            self._http.start_next_cycle()
            return
        self._http, followed, self._aside = _grammar(), self._aside, None
        if followed:
            self._http.receive_data(bytes(followed))

    @property
    def is_clear(self) -> bool:
        """Bytes go to the socket as they are, without TLS."""
        return isinstance(self._stream, trio.SocketStream)

    # Reading

    async def _next_request(self) -> Request | None:
        """None at the end of the connection. Raises Refusal, h11.RemoteProtocolError."""
        with trio.move_on_after(IDLE_TIMEOUT) as scope:
            self._waiting = scope
            try:
                if self._closing:
                    return None
                event = await self._next_event(_RECEIVE_HEAD)
            finally:
                self._waiting = None
        if scope.cancelled_caught or isinstance(event, h11.ConnectionClosed):
            return None
        if not isinstance(event, h11.Request):
            raise Gone(f"unexpected {type(event).__name__}")
        request = self._request_of(event)
        self._body_finished = False
        self._unread = request.content_length
        if request.content_length:
            # h11 would copy each byte of it three times.
            self._aside = bytearray(self._http.trailing_data[0])
        return request

    def _request_of(self, event: h11.Request) -> Request:
        headers: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if "transfer-encoding" in headers:
            # RFC 9112 §6.1: the usual sign of request smuggling. An HTTP/1.0 peer knows no chunks.
            if "content-length" in headers or event.http_version < b"1.1":
                raise Refusal(400, "the length of the body is ambiguous")
            length = None
        else:
            length = int(headers.get("content-length", "0"))
        method = event.method.decode("ascii")
        url = parse_target(event.target)
        if url is None and method != "OPTIONS":
            raise Refusal(400, "the URL is malformed")
        return Request(method, url, headers, self._peer, length)

    async def _next_event(self, receive_size: int) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is h11.PAUSED:
                raise Gone("the request goes on after its end")
            if event is not h11.NEED_DATA:
                return event   # type: ignore[return-value]   # the two sentinels are gone
            await self._invite()
            try:
                data = await self._stream.receive_some(receive_size)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._http.receive_data(bytes(data))

    async def _invite(self) -> None:
        """Answer a client that wants to be asked for the body."""
        if self._http.they_are_waiting_for_100_continue:
            await self._send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))

    async def receive_body(self) -> bytes:
        """The next piece of the body, empty at its end. Raises as ``Exchange.receive_into`` does."""
        if self._aside is not None:
            room = bytearray(min(_RECEIVE_SIZE, self._unread or 0))
            return bytes(room[: await self._receive_aside(memoryview(room), self._aside)])
        while not self._body_finished:
            with self._impatient():
                event = await self._next_event(_RECEIVE_SIZE)
            if isinstance(event, h11.EndOfMessage):
                self._body_finished = True
            elif isinstance(event, h11.Data):
                if event.data:
                    return bytes(event.data)
            else:
                raise Gone("the connection ended inside a body")
        return b""

    async def receive_into(self, room: memoryview) -> int:
        """See ``Exchange.receive_into``."""
        if self._aside is not None:
            return await self._receive_aside(room, self._aside)
        piece = self._chunk or await self.receive_body()
        count = min(len(room), len(piece))
        room[:count], self._chunk = piece[:count], piece[count:]
        return count

    async def _receive_aside(self, room: memoryview, held: bytearray) -> int:
        """Bytes of a body of known length; ``held`` comes first."""
        if self._body_finished or self._unread is None:
            return 0
        room = room[: self._unread]
        with self._impatient():
            await self._invite()
            if held:
                count = min(len(room), len(held))
                room[:count] = held[:count]
                del held[:count]
            else:
                count = await self._receive_some_into(room)
            if not count:
                raise h11.RemoteProtocolError("the connection ended inside a body")
        self._unread -= count
        self._body_finished = not self._unread
        return count

    @property
    def lays(self) -> bool:
        """See ``Exchange.lays``: the body is of known length and in the clear."""
        return self.is_clear and self._aside is not None

    async def lay(self, room: SealedRoom, buffer: memoryview) -> int:
        """See ``Exchange.lay``."""
        assert isinstance(self._stream, trio.SocketStream)
        assert self._unread is not None
        most = 0 if self._aside else self._unread   # what was received already comes first
        done = await run_in_thread("receiving", _lay, self._stream.socket.fileno(), most, room, buffer)
        self._unread -= done.received
        self._body_finished = not self._unread
        if done.error is not None:
            raise done.error
        return done.filled

    async def _receive_some_into(self, room: memoryview) -> int:
        """0 at the end of the connection."""
        try:
            if isinstance(self._stream, trio.SocketStream):
                return await self._stream.socket.recv_into(room)
            data = await self._stream.receive_some(len(room))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return 0
        room[: len(data)] = data
        return len(data)

    @contextlib.contextmanager
    def _impatient(self) -> Iterator[None]:
        """Around what receives some of a body: Refusal when it stalls, or is none."""
        try:
            with trio.fail_after(STALL_TIMEOUT):
                yield
        except h11.RemoteProtocolError as error:
            self._body_finished = self._closing = True
            raise Refusal(400, "the body is incomplete or malformed") from error
        except trio.TooSlowError as error:
            self._body_finished = self._closing = True
            raise Refusal(408, "the body stalled") from error

    # Writing

    async def _send(self, data: bytes | memoryview | None) -> None:
        rest = memoryview(self._unsent + data if self._unsent and data else self._unsent or data or b"")
        self._unsent = b""
        try:
            with trio.fail_after(STALL_TIMEOUT) as patience:
                while rest:
                    await self._stream.send_all(rest[:_SEND_SIZE])
                    rest = rest[_SEND_SIZE:]
                    patience.deadline = trio.current_time() + STALL_TIMEOUT
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise Gone("the answer cannot be sent") from error

    def send_head(self, status: int, headers: Headers) -> None:
        """See ``Exchange.start``."""
        raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        raw += [(b"Date", formatdate(usegmt=True).encode()), (b"Server", b"SerpentFS")]
        self._drain = self._can_drain()
        if self._closing or not self._drain:
            self._closing = True
            raw.append((b"Connection", b"close"))
        head = h11.Response(status_code=status, headers=raw, reason=REASONS[status].encode())
        self._unsent = self._http.send(head) or b""

    def _can_drain(self) -> bool:
        """Whether what is left of the body is little enough to keep the connection."""
        if self._body_finished:
            return True
        if self._http.they_are_waiting_for_100_continue:
            return False   # it will not be sent after a final answer, or it will: RFC 9110 §10.1.1 leaves it open
        return self._unread is not None and self._unread <= DRAINED_BODY

    async def send_body(self, data: bytes) -> None:
        """See ``Exchange.send``."""
        framed = self._http.send(h11.Data(data=data)) or b""
        if self._unsent and len(framed) > _ONE_PACKET:
            await self._send(b"")   # not worth a copy
        await self._send(framed)

    async def send_sealed(self, sealed: SealedSpan) -> int:
        """See ``Exchange.send_sealed``."""
        assert isinstance(self._stream, trio.SocketStream)
        await self._send(b"")
        try:
            read, unsent = await run_in_thread("sending", _send_pieces, self._stream.socket.fileno(), sealed)
        except OSError as error:
            raise Gone("the answer cannot be sent") from error
        self._http.send_with_data_passthrough(h11.Data(data=_Sent(read)))   # type: ignore[arg-type]
        await self._send(unsent)
        return read

    async def send_pages(self, paged: PagedFile, span: Span) -> int:
        """See ``Exchange.send_pages``."""
        assert isinstance(self._stream, trio.SocketStream)
        await self._send(b"")
        try:
            with trio.fail_after(STALL_TIMEOUT):
                await trio.lowlevel.wait_writable(self._stream.socket)
            sent = await paged.send(self._stream.socket.fileno(), span)
        except (ConnectionError, trio.TooSlowError) as error:
            raise Gone("the answer cannot be sent") from error
        if sent:
            self._http.send_with_data_passthrough(h11.Data(data=_Sent(sent)))   # type: ignore[arg-type]
        return sent

    async def _refuse_head(self, status: int, text: str) -> None:
        """Answer a head that never became a request, and give up the connection."""
        self._closing = True
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"{text}\n".encode()
        self.send_head(status, [("Content-Length", str(len(body))), ("Content-Type", "text/plain")])
        await self.send_body(body)
        await self._send(self._http.send(h11.EndOfMessage()))
        await self._linger()

    # Ends

    async def _finish(self) -> bool:
        """End the answer; whether another request may follow."""
        try:
            await self._send(self._http.send(h11.EndOfMessage()))
        except h11.LocalProtocolError as error:
            raise Gone("the answer is shorter than was announced") from error
        if not self._drain or self._http.their_state is h11.ERROR:
            await self._linger()
            return False
        try:
            while await self.receive_body():
                pass
        except Refusal as refusal:
            raise Gone(refusal.text) from refusal
        is_read = self._aside is not None or self._http.their_state is h11.DONE
        return not self._closing and self._http.our_state is h11.DONE and is_read

    async def _linger(self) -> None:
        """Throw away what the client still sends. Closing over it would reset the connection, and the client
        would lose the answer that it has not read yet."""
        with trio.move_on_after(LINGER_TIMEOUT):
            try:
                if isinstance(self._stream, trio.SocketStream):
                    await self._stream.send_eof()
                while await self._stream.receive_some(_RECEIVE_SIZE):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass


def _grammar() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)


class _Sent:
    """Bytes of a body that went past h11, which only has to count them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def _send_pieces(descriptor: int, sealed: SealedSpan) -> tuple[int, bytes]:
    """In a thread: read and send for a moment, or until a client takes nothing, which is waited for elsewhere. How many
    bytes were read, and the last of them that were not sent. Raises OSError when the connection is gone."""
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    end = time.perf_counter() + _LONGEST_SENDING
    read = 0
    with contextlib.closing(sealed.pieces()) as pieces:
        for piece in pieces:
            read += sum(map(len, piece))
            while piece := _send_now(descriptor, piece):
                # The room of a few packets is not worth a call; a poll waits for more.
                if not room.poll(_BUSY_CLIENT):
                    return read, b"".join(piece)
            if time.perf_counter() > end:
                break
    return read, b""


@dataclass(slots=True)
class _Laid:
    filled: int
    received: int = 0
    error: SerpentError | None = None


def _lay(descriptor: int, most: int, room: SealedRoom, buffer: memoryview) -> _Laid:
    """In a thread: write a full buffer, fill it again and so on, with at most ``most`` bytes, for a moment, or until a
    client has nothing more, which is waited for elsewhere. What the socket says of its end is met again there, too."""
    done = _Laid(filled=len(buffer))
    try:
        try:
            _fill_and_write(descriptor, most, room, buffer, done)
        finally:
            room.flush()
    except SerpentError as error:
        done.error = error
    except OSError:   # of the socket
        pass
    return done


def _fill_and_write(descriptor: int, most: int, room: SealedRoom, buffer: memoryview, done: _Laid) -> None:
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    end = time.perf_counter() + _LONGEST_SENDING
    while True:
        if done.filled == len(buffer):
            room.write(buffer)
            done.filled = 0
            if time.perf_counter() > end:
                return
        wanted = min(len(buffer) - done.filled, most - done.received)
        try:
            count = os.readv(descriptor, [buffer[done.filled : done.filled + wanted]]) if wanted else 0
        except BlockingIOError:
            if not ready.poll(_BUSY_CLIENT):
                return
            continue
        if not count:
            return
        done.received += count
        done.filled += count


def _send_now(descriptor: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """What a socket had no room for."""
    try:
        sent = os.writev(descriptor, parts)
    except BlockingIOError:
        return parts
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []
