"""The owner's end of the control socket: how another process of this user asks for something (``asking``).

One JSON object a line. A request is ``{"request": NAME, …}``; the answer is any number of ``{"item": …}`` lines
(progress, entries of a listing) and one last ``{"result": …}`` or ``{"error": CLASS, "message": TEXT}``, where
CLASS is a class of ``serpentfs.errors``. Only this user and root may connect.

Contents of files do not pass as JSON: a request may bring one end of a pipe along (SCM_RIGHTS, unix(7), with the
first byte of its line), and its handler then reads or writes there. The owner closes its end before it answers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from serpentfs.daemon.places import cannot, make_private_directory, socket_address
from serpentfs.daemon.protocol import PROTOCOL
from serpentfs.errors import SerpentError

logger = logging.getLogger(__name__)

_LONGEST_LINE = 64 * 1024
_DESCRIPTOR = struct.Struct("i")
_CREDENTIALS = struct.Struct("3i")    # struct ucred: pid, uid, gid

Emit = Callable[[Any], Awaitable[None]]
Handler = Callable[[dict[str, Any], Emit], Awaitable[Any]]
"""Gets the request and a way to send items; its return value is the result. Cancelled when the asker goes away
(which shows when something is sent to it). ``request["data"]`` is the pipe that came with the request, as a stream of
trio, or None; it is closed for the handler."""


class ControlServer:
    """The owner's side. Made by ``listening``."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._busy = 0
        self._idle = trio.Event()
        self._idle.set()
        self._connected = 0
        self._alone = trio.Event()
        self._alone.set()

    async def wait_alone(self) -> None:
        """Until nobody is connected."""
        while self._connected:
            await self._alone.wait()

    async def wait_idle(self, patience: float) -> None:
        """Until every request that is being answered has its answer, at most ``patience`` seconds."""
        with trio.move_on_after(patience):
            await self._idle.wait()

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection: requests one after the other."""
        self._connected += 1
        if self._connected == 1:
            self._alone = trio.Event()
        try:
            await self._converse(stream)
        finally:
            self._connected -= 1
            if self._connected == 0:
                self._alone.set()

    async def _converse(self, stream: trio.SocketStream) -> None:
        async with stream:
            if not _is_allowed(stream.socket):
                return
            buffer = b""
            pipe: trio.lowlevel.FdStream | None = None
            try:
                while part := await _receive(stream.socket):
                    data, came = part
                    if came is not None:
                        await _close(pipe)
                        pipe = came
                    buffer += data
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        brought, pipe = pipe, None
                        await self._answer(line, stream, brought)
                    if len(buffer) > _LONGEST_LINE:
                        return
            except trio.BrokenResourceError:
                pass    # the asker has gone
            finally:
                await _close(pipe)

    async def _answer(self, line: bytes, stream: trio.SocketStream, pipe: trio.lowlevel.FdStream | None) -> None:
        async def send(message: dict[str, Any]) -> None:
            await stream.send_all(json.dumps({"protocol": PROTOCOL, **message}).encode() + b"\n")

        async def emit(item: Any) -> None:
            await send({"item": item})

        self._busy += 1
        if self._busy == 1:
            self._idle = trio.Event()
        try:
            try:
                answer = await self._result(line, pipe, emit)
            finally:
                await _close(pipe)
            await send(answer)
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    async def _result(self, line: bytes, pipe: trio.lowlevel.FdStream | None, emit: Emit) -> dict[str, Any]:
        try:
            request = json.loads(line)
            protocol, name = request["protocol"], request["request"]
            request["data"] = pipe
        except (ValueError, KeyError, TypeError):
            return _error("Unsupported", 'a request is a JSON object of one line, with "protocol" and "request"')
        if protocol != PROTOCOL:
            return _error("Unsupported", f"the running process speaks protocol {PROTOCOL} of the control socket, and "
                                         f"was asked in {protocol!r}: end it with the version that started it")
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            return _error("Unsupported", "the running process does not know this request")
        try:
            return {"result": await handler(request, emit)}
        except SerpentError as error:
            return _error(type(error).__name__, str(error))
        except trio.BrokenResourceError:
            raise
        except Exception:    # a fault of one request must not end the drive
            logger.exception("a control request failed")
            return _error("SerpentError", "the running process failed to answer; its log tells why")


async def _receive(connection: trio.socket.SocketType) -> tuple[bytes, trio.lowlevel.FdStream | None] | None:
    """Some bytes and the pipe that came with them; None at the end. BrokenResourceError when the asker has gone."""
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    try:
        data, ancillary, _, _ = await connection.recvmsg(_LONGEST_LINE, socket.CMSG_SPACE(_DESCRIPTOR.size), flags)
    except OSError as error:
        raise trio.BrokenResourceError from error
    pipe = None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(content) >= _DESCRIPTOR.size:
            (descriptor,) = _DESCRIPTOR.unpack_from(content)
            pipe = trio.lowlevel.FdStream(descriptor)
    return (data, pipe) if data else None


async def _close(pipe: trio.lowlevel.FdStream | None) -> None:
    if pipe is not None:
        await trio.aclose_forcefully(pipe)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": kind, "message": message}


def _is_allowed(connection: trio.socket.SocketType) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True    # the folder's mode keeps others out
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())


@contextlib.asynccontextmanager
async def listening(path: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[ControlServer]:
    """Answer requests at ``path`` within the block. The caller holds the owner's lock, so that a socket file that
    is there already belongs to nobody."""
    server = ControlServer(handlers)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_bind(path)))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.handle, [listener])
            yield server
            nursery.cancel_scope.cancel()
    finally:
        _remove(path)


def _bind(path: Path) -> socket.socket:
    """A listening socket at ``path``, open to this user only."""
    make_private_directory(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove(path)
        with socket_address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise cannot("open the control socket", path, error) from error
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
