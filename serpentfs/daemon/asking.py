"""The asking end of the control socket (``control`` has the protocol): blocking, and quick to import."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from serpentfs import errors
from serpentfs.daemon.places import socket_address
from serpentfs.errors import NotFound, PermissionDenied, SerpentError, Unavailable


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
