"""Starts and ends a drive with all its doors again and again in one process, as a test sees it from outside.

``python -m tests.e2e.cli.cycling URL DIR ROUNDS`` prints a line of JSON for each round: what the process has then."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

from serpentfs.cli.main import main
from tests.mounted import free_port

_PATIENCE = 60.0


class _User(threading.Thread):
    """Waits for the doors, uses them, and has the process stop."""

    def __init__(self, number: int, point: Path, webdav: int, ftp: int) -> None:
        super().__init__()
        self._number, self._point, self._webdav, self._ftp = number, point, webdav, ftp
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._wait()
            content = f"round {self._number}"
            (self._point / "file").write_text(content)
            with urllib.request.urlopen(f"http://127.0.0.1:{self._webdav}/file", timeout=_PATIENCE) as answer:
                assert answer.read().decode() == content
            with socket.create_connection(("127.0.0.1", self._ftp), timeout=_PATIENCE) as ftp:
                assert ftp.recv(3) == b"220"
        except BaseException as error:    # noqa: BLE001 - told by the main thread
            self.failure = error
        os.kill(os.getpid(), signal.SIGTERM)

    def _wait(self) -> None:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._ftp), timeout=_PATIENCE).close()    # the last to open
                return
            except ConnectionRefusedError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.005)


def facts() -> dict[str, object]:
    gc.collect()
    memory = Path("/proc/self/statm").read_text().split()
    return {
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()),
        "threads": len(os.listdir("/proc/self/task")),
        "resident": int(memory[1]) * os.sysconf("SC_PAGE_SIZE"),
        "children": Path("/proc/self/task", str(os.getpid()), "children").read_text().split(),
    }


def _descriptors() -> list[str]:
    with os.scandir("/proc/self/fd") as entries:
        found = [entry.name for entry in entries]
    return [name for name in found if os.path.lexists(f"/proc/self/fd/{name}")]    # but the one of this look


def run(url: str, point: Path, rounds: int) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)    # what the command prints
    for number in range(rounds):
        webdav, ftp = free_port(), free_port()
        user = _User(number, point, webdav, ftp)
        user.start()
        code = main([
            "mount", url, str(point), "--webdav", f"127.0.0.1:{webdav}", "--ftp", f"127.0.0.1:{ftp}", "--no-auth",
            "--settle", "0",
        ])
        user.join(_PATIENCE)
        if user.failure is not None:
            raise user.failure
        print(json.dumps({"code": code, **facts()}), file=out, flush=True)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
