"""The listening side: sockets, TLS, the number of connections, and the way it stops.

When the door is closed (its task is cancelled) no further connection is taken, idle ones end at once, and
answers under way have ``GRACE`` seconds to end.
"""

from __future__ import annotations

import logging
from types import MappingProxyType

import trio

from serpentfs import metrics
from serpentfs.bridge import run_in_thread
from serpentfs.errors import UsageError
from serpentfs.gateways import access
from serpentfs.gateways.accounts import Accounts
from serpentfs.gateways.sending import Pages
from serpentfs.gateways.watching import watched_tls
from serpentfs.gateways.webdav import locking, reading, writing
from serpentfs.gateways.webdav.connection import Connection
from serpentfs.gateways.webdav.door import Door
from serpentfs.vfs.core import Vfs

_log = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds."""
MOST_CONNECTIONS = 256
"""Beyond it new ones are closed at once: a client that leaks connections must not use up our descriptors."""
_BACKLOG = 128

HANDLERS = MappingProxyType({
    "OPTIONS": reading.options,
    "GET": reading.get,
    "HEAD": reading.get,
    "PROPFIND": reading.propfind,
    "PUT": writing.put,
    "MKCOL": writing.mkcol,
    "DELETE": writing.delete,
    "COPY": writing.copy,
    "MOVE": writing.move,
    "PROPPATCH": writing.proppatch,
    "LOCK": locking.lock,
    "UNLOCK": locking.unlock,
})
WRITING = frozenset({"PUT", "MKCOL", "DELETE", "COPY", "MOVE", "PROPPATCH", "LOCK", "UNLOCK"})


async def serve(
    vfs: Vfs,
    options: access.ServerOptions,
    pages: Pages | None = None,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``vfs`` over WebDAV until cancelled. Started with the address (``http://127.0.0.1:4443/``).

    Raises UsageError when the options are unsafe (``access.check_exposure``), nobody could log in, or the address
    cannot be had,
    NotFound or NotADirectory when ``options.root`` is no folder of the drive.
    """
    await run_in_thread("disk", access.check_exposure, options)
    accounts = await run_in_thread("disk", Accounts, options)
    tls = None
    if options.tls is not None:
        tls = await run_in_thread("disk", watched_tls, options.tls, access.server_tls_context)
    loopback = await run_in_thread("disk", access.is_loopback, options.host)
    door = Door(vfs, options, HANDLERS, WRITING, check_host=loopback, accounts=accounts, pages=pages)
    door.places.root()
    listeners = await _listen(options)
    address = _address_of(listeners[0], "http" if tls is None else "https")
    connections: set[Connection] = set()

    async def converse(stream: trio.SocketStream) -> None:
        if len(connections) >= MOST_CONNECTIONS:
            await stream.aclose()
            return
        try:
            peer = str(stream.socket.getpeername()[0])
        except OSError:
            await stream.aclose()   # gone before it was looked at
            return
        secured: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        if tls is not None:
            context = await run_in_thread("disk", tls.value) if tls.is_due else tls.last
            secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        connection = Connection(secured, peer, door.answer)
        connections.add(connection)
        try:
            with metrics.current().client_of("webdav"):
                await connection.run()
        except Exception:   # noqa: BLE001   # one connection must not end the door
            _log.exception("a connection from %s failed", peer)
        finally:
            connections.discard(connection)

    async with trio.open_nursery() as outer:
        holder: _Holder = await outer.start(_hold_connections)
        task_status.started(address)
        try:
            await trio.serve_listeners(converse, listeners, handler_nursery=holder.nursery)
        finally:
            for connection in connections:
                connection.close_soon()
            holder.end_within(GRACE)


class _Holder:
    """The nursery of the connections, which outlives the cancellation of the door for a moment."""

    def __init__(self, nursery: trio.Nursery, shield: trio.CancelScope) -> None:
        self.nursery = nursery
        self._shield = shield
        self.ending = trio.Event()

    def end_within(self, seconds: float) -> None:
        self._shield.deadline = trio.current_time() + seconds
        self.ending.set()


async def _hold_connections(task_status: trio.TaskStatus[_Holder]) -> None:
    with trio.CancelScope(shield=True) as shield:
        async with trio.open_nursery() as nursery:
            holder = _Holder(nursery, shield)
            task_status.started(holder)
            await holder.ending.wait()


async def _listen(options: access.ServerOptions) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(options.port, host=options.host, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from error
    if options.port == 0:
        # Each address family would get a port of its own, and only one can be told.
        for superfluous in listeners[1:]:
            await superfluous.aclose()
        del listeners[1:]
    return listeners


def _address_of(listener: trio.SocketListener, scheme: str) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"
