"""What the mounted tests stand on: a mount in a subprocess, and system calls that Python lacks.

Add to ``FACTORIES`` to run the suite on further implementations of Vfs.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from serpentfs.gateways.fuse.mountpoint import find_mount

FACTORIES = {
    "memory": "tests.e2e.fuse.mount_memory:memory",
    "drive": "tests.e2e.fuse.mount_memory:drive",
}

_REPOSITORY = Path(__file__).resolve().parents[3]
_TIMEOUT = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


class Mounted:
    """A mount in a subprocess, and the wire to change its Vfs behind the kernel's back."""

    def __init__(self, path: Path, state: Path, *arguments: str) -> None:
        self.path = path
        self._log_path = state / "log"
        command = [sys.executable, "-m", "tests.e2e.fuse.mount_memory", str(path), "--state", str(state)]
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )
        watchdog = threading.Timer(_TIMEOUT, self.process.kill)
        watchdog.start()
        try:
            self.first_line = self._stdout.readline().strip()
        finally:
            watchdog.cancel()
        if self.first_line != b"ready":
            self.close()
            raise RuntimeError(f"no mount: {self.log()}")

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def log(self) -> str:
        """Standard error so far."""
        return self._log_path.read_text(errors="replace")

    def command(self, command: str, **arguments: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        answer = json.loads(self._stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def put(self, path: str, data: bytes) -> None:
        """Replace or create a file as another door does."""
        self.command("put", path=path, data=base64.b64encode(data).decode())

    def get(self, path: str) -> bytes:
        return base64.b64decode(self.command("get", path=path))

    def final(self) -> dict[str, Any]:
        """How the Vfs ended (of the factory "memory"): "files" in the root, "open" handles."""
        found: dict[str, Any] = json.loads((self._log_path.parent / "final.json").read_text())
        return found

    def is_mounted(self) -> bool:
        where = f" {self.path} "
        return any(where in line for line in Path("/proc/self/mountinfo").read_text().splitlines())

    def free_hanging(self) -> None:
        """What watchdogs do: tell where the process is, then ``free``."""
        self.process.send_signal(signal.SIGUSR1)  # its stacks, to the log
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        waits = [
            f"{task.name}: {(task / 'comm').read_text().strip()} in {(task / 'wchan').read_text()}"
            for task in Path(f"/proc/{self.process.pid}/task").glob("*")
        ]
        print(f"{self.path} hangs.", self.log(), *waits, sep="\n", file=sys.stderr)
        self.free()

    def free(self) -> None:
        """End the mount by force: whoever hangs in it gets an error. The connection goes before the process: a
        process that is killed while the kernel holds one of its calls back would stay."""
        found = find_mount(str(self.path))
        if found is not None:
            found.abort()
        self.process.kill()
        subprocess.run(["fusermount3", "-q", "-uz", str(self.path)], check=False, timeout=20)

    def close(self) -> int:
        """End it in good order and answer with the exit code; by force when that takes too long."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            return self.process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.free()
            raise
        finally:
            self._stdout.close()
            if self.is_mounted():
                self.free()


def names(folder: Path) -> list[str]:
    """What is in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


class _Dirent(ctypes.Structure):
    _fields_ = (("ino", ctypes.c_uint64), ("offset", ctypes.c_int64), ("length", ctypes.c_ushort),
                ("kind", ctypes.c_ubyte), ("name", ctypes.c_char * 256))  # fmt: skip


def above(folder: Path) -> int:
    """The inode that a folder's listing has for "..", which Python leaves out."""
    _libc.fdopendir.restype = ctypes.c_void_p
    _libc.readdir.restype = ctypes.POINTER(_Dirent)
    stream = ctypes.c_void_p(_libc.fdopendir(os.open(folder, os.O_RDONLY | os.O_DIRECTORY)))
    try:
        while entry := _libc.readdir(stream):
            if entry.contents.name == b"..":
                return int(entry.contents.ino)
        raise ValueError(f"{folder} has no folder above")
    finally:
        _libc.closedir(stream)


RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


def renameat2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2), which Python does not have."""
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old))
