"""A small HTTP server on a real socket whose answers a test gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """``cut``: bytes of the body after which the connection breaks."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


Respond = Callable[[Asked], Awaitable[Answer]]


@asynccontextmanager
async def http_server(respond: Respond) -> AsyncIterator[str]:
    """Serve within the block; the value is the base URL."""

    async def serve(stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            async with stream:
                while await _one_exchange(stream, connection, respond):
                    connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return  # the client went away, as some tests want it to

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _event(stream: trio.SocketStream, connection: h11.Connection) -> h11.Event | type[h11.PAUSED]:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(2**16))
    return event  # type: ignore[return-value]


async def _one_exchange(stream: trio.SocketStream, connection: h11.Connection, respond: Respond) -> bool:
    """Whether the connection goes on."""
    request = await _event(stream, connection)
    if not isinstance(request, h11.Request):
        return False
    body = b""
    while isinstance(part := await _event(stream, connection), h11.Data):
        body += part.data
    headers = {name.decode(): value.decode() for name, value in request.headers}
    answer = await respond(Asked(request.method.decode(), request.target.decode(), headers, body))
    head = [*answer.headers.items(), ("content-length", str(len(answer.body)))]
    await stream.send_all(connection.send(h11.Response(status_code=answer.status, headers=head)) or b"")
    await stream.send_all(connection.send(h11.Data(data=answer.body[: answer.cut])) or b"")
    if answer.cut is not None:
        return False
    await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE
