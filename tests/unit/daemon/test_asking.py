"""The asking end of the control socket."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from serpentfs.daemon.asking import Connection
from serpentfs.errors import Unavailable


def test_closing_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    """A thread that an interrupt abandoned may wait for one; the process that owes it may be this one."""
    path = tmp_path / "socket"
    errors = []
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen()
        connection = Connection(path)
        accepted, _ = owner.accept()

        def ask() -> None:
            with pytest.raises(Unavailable) as raised:
                connection.ask("status")
            errors.append(raised.value)

        asking = threading.Thread(target=ask)
        asking.start()
        accepted.recv(1)
        time.sleep(0.05)
        closing = threading.Thread(target=connection.close, daemon=True)
        closing.start()
        closing.join(timeout=10)
        assert not closing.is_alive()
        asking.join(timeout=10)
        assert len(errors) == 1
        accepted.close()
