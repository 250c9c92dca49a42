"""Listens, and gives every connection a thread of its own under one trio task.

Stopping: the tasks are cancelled, every thread is woken and closes its session (a running upload is kept as a
partial); calls into the core that still wait ``GRACE`` seconds later are cancelled. No thread outlives ``serve``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import logging
import socket
from collections import Counter
from typing import Self

import trio
from pyftpdlib.ioloop import IOLoop

from serpentfs import metrics
from serpentfs.bridge import LoopPortal, limiter, run_in_thread
from serpentfs.errors import Busy, NotADirectory, SerpentError, UsageError
from serpentfs.gateways.access import (
    FtpOptions,
    LoginThrottle,
    ServerOptions,
    check_exposure,
    is_loopback,
)
from serpentfs.gateways.accounts import Accounts
from serpentfs.gateways.ftp.control import Door
from serpentfs.gateways.ftp.partials import Partials
from serpentfs.gateways.ftp.session import Session
from serpentfs.gateways.ftp.tls import ftp_tls_context
from serpentfs.gateways.sending import Pages
from serpentfs.gateways.sync_vfs import SyncVfs
from serpentfs.gateways.watching import watched_tls
from serpentfs.model import Kind
from serpentfs.vfs.core import Vfs

_log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that running calls get when the server stops: enough to keep partials and to end a publish."""

EXPIRY_INTERVAL = 3600.0
"""Seconds between two looks for partial files that are too old."""

_MOST_FROM_ONE_ADDRESS = 24
"""Off loopback: so that no single machine can hold all sessions. lftp and rclone use up to about ten."""


async def serve(
    vfs: Vfs,
    options: FtpOptions,
    pages: Pages | None = None,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the drive over FTP until cancelled. Started with the address, as in ``ftp://127.0.0.1:4990/``.

    Raises UsageError for options that must not be, Busy when the port is taken, NotFound or NotADirectory for
    ``root``.
    """
    await run_in_thread("disk", check_exposure, options.server)
    _check_data_connections(options)
    accounts = await run_in_thread("disk", Accounts, options.server)
    if vfs.resolve(options.server.root).kind is not Kind.DIRECTORY:
        raise NotADirectory(f"{options.server.root} is not a folder")
    portal = LoopPortal()
    calls = SyncVfs(vfs, portal, "ftp", pages)
    # Past SyncVfs, which refuses calls during the stop: that is when broken-off uploads have to be noted.
    partials = Partials(calls, functools.partial(portal.call, vfs.save_record, "ftp"))
    tls = options.server.tls
    door = Door(
        calls,
        options,
        accounts,
        LoginThrottle(),
        partials,
        None if tls is None else await run_in_thread("disk", watched_tls, tls, ftp_tls_context),
        requires_tls=tls is not None
        and not options.server.insecure
        and not await run_in_thread("disk", is_loopback, options.server.host),
    )
    for unreadable in partials.load(vfs.load_records("ftp")):
        vfs.save_record("ftp", unreadable, None)
    listeners = await _listen(options.server)
    sessions = _Sessions(door)
    sessions_ended = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_calls_after_grace, calls, sessions_ended)
            nursery.start_soon(_expire_partials, partials)
            try:
                await trio.serve_listeners(
                    sessions.run, listeners, task_status=_Announce(task_status, _url(listeners[0]))
                )
            finally:
                sessions_ended.set()
    finally:
        calls.close()


class _Announce(trio.TaskStatus[list[trio.SocketListener]]):
    """Turns "the listeners are ready" into "the door is open at this address"."""

    def __init__(self, task_status: trio.TaskStatus[str], url: str) -> None:
        self._task_status = task_status
        self._url = url

    def started(self, value: list[trio.SocketListener] | None = None) -> None:
        self._task_status.started(self._url)


class _Sessions:
    """Runs one session per connection, as many as may be."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._limiter = limiter("ftp")
        self._from: Counter[str] = Counter()

    async def run(self, stream: trio.SocketStream) -> None:
        """One connection from its beginning to its end. Raises nothing but Cancelled."""
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:   # reset already
            await trio.aclose_forcefully(stream)
            return
        with socket.socket(fileno=stream.socket.detach()) as connection:
            if self._is_full(address):
                with contextlib.suppress(OSError):
                    connection.send(b"421 Too many connections.\r\n")
                return
            self._from[address] += 1
            try:
                with metrics.current().client_of("ftp"):
                    await self._run_in_thread(connection)
            except Exception:   # noqa: BLE001 - one session must not end the others
                _log.exception("an FTP session ended unexpectedly")
            finally:
                self._from[address] -= 1
                if not self._from[address]:
                    del self._from[address]

    async def _run_in_thread(self, connection: socket.socket) -> None:
        with _SessionThread(connection, self._door) as thread:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(thread.wake_when_cancelled)
                with trio.CancelScope(shield=True):
                    await run_in_thread("ftp", thread.run)
                nursery.cancel_scope.cancel()

    def _is_full(self, address: str) -> bool:
        if self._from.total() >= self._limiter.total_tokens:
            return True
        return self._from[address] >= _MOST_FROM_ONE_ADDRESS and not is_loopback(address)


class _SessionThread:
    """A session, its poller, and a way to wake it up. ``run`` is for the thread, the rest for the loop."""

    def __init__(self, connection: socket.socket, door: Door) -> None:
        self._connection = connection
        self._door = door
        self._stop_reader, self._stop_writer = socket.socketpair()

    def run(self) -> None:
        with IOLoop.factory() as ioloop:
            stop = _StopSignal(self._stop_reader)
            ioloop.register(self._stop_reader.fileno(), stop, ioloop.READ)
            session = Session(self._connection, self._door, ioloop)
            if session.connected:
                session.handle()
            while not (session.is_closed or stop.arrived):
                ioloop.poll(ioloop.sched.poll())
            session.say_goodbye()

    async def wake_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stop_writer.send(b"x")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_reader.close()
        self._stop_writer.close()


class _StopSignal:
    """What pyftpdlib's poller needs of a descriptor."""

    def __init__(self, reader: socket.socket) -> None:
        self._fileno = reader.fileno()
        self.arrived = False

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self.arrived = True

    def handle_close(self) -> None:
        self.arrived = True

    def handle_error(self) -> None:
        self.arrived = True

    def close(self) -> None:
        """The descriptor belongs to ``_SessionThread``."""


async def _cancel_calls_after_grace(calls: SyncVfs, sessions_ended: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(GRACE, shield=True):
            await sessions_ended.wait()
        calls.close()


async def _expire_partials(partials: Partials) -> None:
    while True:
        try:
            await run_in_thread("ftp", partials.expire)
        except SerpentError as error:   # the door is closing
            _log.info("old partial files were not looked for: %s", error)
        await trio.sleep(EXPIRY_INTERVAL)


def _check_data_connections(options: FtpOptions) -> None:
    ports = options.data_ports
    if ports is not None and not (len(ports) and ports[0] >= 1 and ports[-1] <= 65535):
        raise UsageError("--data-ports is not a range of ports")
    if options.public_ip is not None:
        try:
            ipaddress.IPv4Address(options.public_ip)
        except ValueError as error:
            raise UsageError(f"--public-ip is not an IPv4 address: {options.public_ip!r}") from error


async def _listen(options: ServerOptions) -> list[trio.SocketListener]:
    where = f"{options.host or '*'}:{options.port}"
    try:
        listeners = await trio.open_tcp_listeners(options.port, host=options.host or None)
    except OSError as error:
        if errno.EADDRINUSE in _errnos(error):
            raise Busy(f"{where} is in use by another program") from error
        raise UsageError(f"cannot listen on {where}: {error.strerror or error}") from error
    if options.port == 0:
        # A name with two addresses would get two ports.
        for listener in listeners[1:]:
            await listener.aclose()
        del listeners[1:]
    return listeners


def _errnos(error: BaseException | None) -> set[int | None]:
    found: set[int | None] = set()
    while error is not None:
        found.add(getattr(error, "errno", None))
        error = error.__cause__ or error.__context__
    return found


def _url(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"ftp://[{host}]:{port}/" if ":" in host else f"ftp://{host}:{port}/"
