"""The asking end of the control socket (CONTROL.md has the protocol): blocking, and quick to import."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from serpentfs import errors
from serpentfs.daemon.places import socket_address
from serpentfs.daemon.protocol import PROTOCOL
from serpentfs.errors import NotFound, PermissionDenied, SerpentError, Unavailable, Unsupported


class Connection:
    """One request at a time. Context manager."""

    def __init__(self, path: Path, timeout: float | None = None) -> None:
        """NotFound when nobody listens. ``timeout``: seconds that one line of an answer may take (None: any)."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
        self._socket.settimeout(timeout)
        try:
            with socket_address(path) as address:
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
        self.close()

    def close(self) -> None:
        """A thread that still waits for an answer gets Unavailable."""
        with contextlib.suppress(OSError):
            # It holds what it reads from: closing that would wait for the answer, and the owner may be this process.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._socket.close()

    def ask(self, request: str, on_item: Callable[[Any], None] | None = None, **arguments: Any) -> Any:
        """The result of a request. Raises what the owner's error says; Unavailable when the owner goes away or does
        not answer."""
        with _broken_connections():
            self._socket.sendall(_line(request, arguments))
        return self._answer(on_item)

    def ask_with_pipe(self, request: str, pipe: int, meanwhile: Callable[[], None], **arguments: Any) -> Any:
        """``ask``, with one end of a pipe that the owner reads or writes. This process's copy of that end is closed
        here, and ``meanwhile`` is called, which handles the other end until the owner is through with its own. What
        ``meanwhile`` raises is raised after the owner's answer was taken, in place of it."""
        try:
            with _broken_connections():
                line = _line(request, arguments)
                sent = socket.send_fds(self._socket, [line], [pipe])
                self._socket.sendall(line[sent:])
        finally:
            os.close(pipe)
        try:
            meanwhile()
        except BaseException:
            with contextlib.suppress(SerpentError):
                self._answer(None)
            raise
        return self._answer(None)

    def _answer(self, on_item: Callable[[Any], None] | None) -> Any:
        while line := self._next_line():
            message = json.loads(line)
            if message.get("protocol") != PROTOCOL:
                raise Unsupported(
                    f"the running process answers in protocol {message.get('protocol')!r} of the control socket, this "
                    f"program speaks {PROTOCOL}: end that process with the version that started it"
                )
            if "error" in message:
                raise _error(message)
            if "result" in message:
                return message["result"]
            if on_item is not None:
                on_item(message["item"])
        raise Unavailable("the running process ended before it answered")

    def _next_line(self) -> bytes:
        """Empty at the end of the connection."""
        with _broken_connections():
            return self._lines.readline()


def _line(request: str, arguments: Mapping[str, Any]) -> bytes:
    return json.dumps({"protocol": PROTOCOL, "request": request, **arguments}).encode() + b"\n"


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
