"""The control socket: how another process of this user asks the owner of a remote for something.

One JSON object a line. A request is ``{"request": NAME, …}``; the answer is any number of ``{"item": …}`` lines
(progress, entries of a listing) and one last ``{"result": …}`` or ``{"error": CLASS, "message": TEXT}``, where
CLASS is a class of ``serpentfs.errors``. Only this user and root may connect. The owner's side runs on trio, the
asking side blocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from serpentfs import errors
from serpentfs.daemon.places import cannot, make_private_directory
from serpentfs.errors import NotFound, PermissionDenied, SerpentError, Unavailable, UsageError

logger = logging.getLogger(__name__)

# sockaddr_un holds 108 bytes with the closing NUL (unix(7)).
_LONGEST_ADDRESS = 107
_LONGEST_LINE = 64 * 1024
_CREDENTIALS = struct.Struct("3i")    # struct ucred: pid, uid, gid

Emit = Callable[[Any], Awaitable[None]]
Handler = Callable[[dict[str, Any], Emit], Awaitable[Any]]
"""Gets the request and a way to send items; its return value is the result. Cancelled when the asker goes away
(which shows when something is sent to it)."""


@contextlib.contextmanager
def _address_of(path: Path) -> Iterator[str]:
    """An address for a socket file, however long its path: through an open folder where the path is too long."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise UsageError(f"the path of the control socket is too long: {path}; set XDG_RUNTIME_DIR to a shorter one")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


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
        with _address_of(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise cannot("open the control socket", path, error) from error
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


class Connection:
    """The asking side: blocking, one request at a time. Context manager."""

    def __init__(self, path: Path, timeout: float | None = None) -> None:
        """NotFound when nobody listens. ``timeout``: seconds that one line of an answer may take (None: any)."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
        self._socket.settimeout(timeout)
        try:
            with _address_of(path) as address:
                self._socket.connect(address)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise NotFound("nothing is running for this remote") from error
        except OSError as error:
            self._socket.close()
            raise PermissionDenied(f"cannot reach the running process: {error.strerror}") from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, request: str, on_item: Callable[[Any], None] | None = None, **arguments: Any) -> Any:
        """The result of a request. Raises what the owner's error says; Unavailable when the owner goes away or does
        not answer."""
        with _broken_connections():
            self._socket.sendall(json.dumps({"request": request, **arguments}).encode() + b"\n")
            for line in self._lines:
                message = json.loads(line)
                if "error" in message:
                    raise _error(message)
                if "result" in message:
                    return message["result"]
                if on_item is not None:
                    on_item(message["item"])
        raise Unavailable("the running process ended before it answered")


@contextlib.contextmanager
def _broken_connections() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Unavailable("the running process does not answer") from error
    except OSError as error:
        raise Unavailable(f"the connection to the running process broke: {error.strerror}") from error


def _error(message: Mapping[str, Any]) -> SerpentError:
    named = getattr(errors, str(message["error"]), None)
    if isinstance(named, type) and issubclass(named, SerpentError):
        return named(message.get("message", ""))
    return SerpentError(message.get("message", ""))
