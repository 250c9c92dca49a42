"""A client of the WebDAV door in this process: an HTTP connection over streams in memory, or over a socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import trio
from trio.testing import memory_stream_pair, open_stream_to_socket_listener

from serpentfs.gateways.access import ServerOptions
from serpentfs.gateways.sending import Pages
from serpentfs.gateways.webdav.connection import Connection, Handler
from serpentfs.gateways.webdav.door import Door
from serpentfs.gateways.webdav.server import HANDLERS, WRITING
from serpentfs.vfs.core import Vfs


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection. ``stream`` is the client's end, for tests that speak for themselves."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, connection: Connection) -> None:
        self.stream = stream
        self.connection = connection
        self._http = h11.Connection(h11.CLIENT)

    async def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        head = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
        await self._send(h11.Request(method=method, target=target, headers=list(head.items())))
        if body:
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
        response: h11.Response | None = None
        received = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                received += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("closed without an answer")
        assert response is not None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        fields = {name.decode(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status_code, fields, bytes(received))

    async def _send(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            await self.stream.send_all(data)

    async def read_until_closed(self) -> bytes:
        received = bytearray()
        while piece := await self.stream.receive_some(65536):
            received += piece
        return bytes(received)


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[Client]:
    """A connection to ``handler``; it must end by itself when the client's end is closed."""
    async with _conversing(*memory_stream_pair(), handler) as client:
        yield client


@asynccontextmanager
async def connected_by_tcp(handler: Handler, *, send_buffer: int | None = None) -> AsyncIterator[Client]:
    """``connected`` over a real socket, for at most a minute."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    ours = await open_stream_to_socket_listener(listener)
    theirs = await listener.accept()
    if send_buffer is not None:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    with trio.fail_after(60):
        async with _conversing(ours, theirs, handler) as client:
            yield client
    await listener.aclose()


@asynccontextmanager
async def _conversing(
    ours: trio.abc.HalfCloseableStream, theirs: trio.abc.Stream, handler: Handler
) -> AsyncIterator[Client]:
    connection = Connection(theirs, "127.0.0.1", handler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        try:
            yield Client(ours, connection)
        finally:
            await ours.aclose()


def make_door(vfs: Vfs, pages: Pages | None = None, **options: Any) -> Door:
    values = {"host": "localhost", "port": 0, "no_auth": "users" not in options, **options}
    return Door(vfs, ServerOptions(**values), HANDLERS, WRITING, check_host=True, pages=pages)


@asynccontextmanager
async def client_of(vfs: Vfs, **options: Any) -> AsyncIterator[Client]:
    async with connected(make_door(vfs, **options).answer) as client:
        yield client
