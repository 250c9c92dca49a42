"""The owner's end of the control socket: how another process of this user asks for something (``asking``).

One JSON object a line. A request is ``{"request": NAME, …}``; the answer is any number of ``{"item": …}`` lines
(progress, entries of a listing) and one last ``{"result": …}`` or ``{"error": CLASS, "message": TEXT}``, where
CLASS is a class of ``serpentfs.errors``. Only this user and root may connect.
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
from serpentfs.errors import SerpentError

logger = logging.getLogger(__name__)

_LONGEST_LINE = 64 * 1024
_CREDENTIALS = struct.Struct("3i")    # struct ucred: pid, uid, gid

Emit = Callable[[Any], Awaitable[None]]
Handler = Callable[[dict[str, Any], Emit], Awaitable[Any]]
"""Gets the request and a way to send items; its return value is the result. Cancelled when the asker goes away
(which shows when something is sent to it)."""


class ControlServer:
    """The owner's side. Made by ``listening``."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._busy = 0
        self._idle = trio.Event()
        self._idle.set()

    async def wait_idle(self, patience: float) -> None:
        """Until every request that is being answered has its answer, at most ``patience`` seconds."""
        with trio.move_on_after(patience):
            await self._idle.wait()

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection: requests one after the other."""
        async with stream:
            if not _is_allowed(stream.socket):
                return
            buffer = b""
            with contextlib.suppress(trio.BrokenResourceError):
                async for part in stream:
                    buffer += part
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        await self._answer(line, stream)
                    if len(buffer) > _LONGEST_LINE:
                        return

    async def _answer(self, line: bytes, stream: trio.SocketStream) -> None:
        async def send(message: dict[str, Any]) -> None:
            await stream.send_all(json.dumps(message).encode() + b"\n")

        async def emit(item: Any) -> None:
            await send({"item": item})

        self._busy += 1
        if self._busy == 1:
            self._idle = trio.Event()
        try:
            await send(await self._result(line, emit))
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    async def _result(self, line: bytes, emit: Emit) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["request"]]
        except (ValueError, KeyError, TypeError):
            return {"error": "Unsupported", "message": "the running process does not know this request"}
        try:
            return {"result": await handler(request, emit)}
        except SerpentError as error:
            return {"error": type(error).__name__, "message": str(error)}
        except trio.BrokenResourceError:
            raise
        except Exception:    # a fault of one request must not end the drive
            logger.exception("a control request failed")
            return {"error": "SerpentError", "message": "the running process failed to answer; its log tells why"}


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
