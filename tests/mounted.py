"""A vault, mounted by the installed ``serpentfs`` command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PASSPHRASE = "a passphrase of the tests"
WEBDAV_USER = "anna"
WEBDAV_PASSWORD = "a password of the tests"
SERPENTFS = str(Path(sys.executable).with_name("serpentfs"))


def free_port() -> int:
    """One below those that the system gives out by itself: until it is used, and while a server is away, no connection
    and no other test's server takes it."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Mounted:
    """``serpentfs mount`` as a child process. Everything lies below ``work``; ``doors`` adds WebDAV and FTP.

    ``url`` names another vault than the one in ``work``, ``exists`` tells that it is made already; ``environment``
    comes on top of this process's."""

    def __init__(
        self, work: Path, *, doors: bool = False, options: tuple[str, ...] = (), url: str | None = None,
        exists: bool = False, environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.work = work
        self.vault = work / "vault"
        self.point = work / "mount"
        self.url = url or f"vault+file://{self.vault}"
        self._password = work / "password"
        self._log = work / "log"
        self._options = list(options)
        self._addresses: list[str] = []
        self.point.mkdir(parents=True)
        self._password.write_text(PASSPHRASE + "\n")
        self._password.chmod(0o600)
        if doors:
            self.webdav, self.ftp = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
            pass_file = work / "door-password"
            pass_file.write_text(WEBDAV_PASSWORD + "\n")
            pass_file.chmod(0o600)
            self._addresses = [self.webdav, self.ftp]
            self._options += ["--webdav", self.webdav, "--ftp", self.ftp]
            self._options += ["--user", WEBDAV_USER, "--pass-file", str(pass_file)]
        self.environment = os.environ | {
            "HOME": str(work),
            "XDG_STATE_HOME": str(work / "state"),
            "XDG_CACHE_HOME": str(work / "cache"),
            "XDG_CONFIG_HOME": str(work / "config"),
            "XDG_RUNTIME_DIR": str(work / "run"),
            "SERPENTFS_PASSWORD_FILE": str(self._password),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",  # not that of who runs the tests
        } | dict(environment or {})
        (work / "run").mkdir(mode=0o700)
        if not exists:
            self.command("init", self.url)
        self._child: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> str:
        """Run one ``serpentfs`` command to its end; what it printed."""
        done = subprocess.run(
            [SERPENTFS, *arguments], env=self.environment, check=False, timeout=300, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"serpentfs {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        """Return when the mount and the other doors answer."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [SERPENTFS, "mount", self.url, str(self.point), *self._options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the drive did not start; its log ends:\n{self.log()[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        for address in self._addresses:
            host, _, port = address.partition(":")
            try:
                socket.create_connection((host, int(port)), timeout=10).close()
            except ConnectionRefusedError:
                return False
        return self.point.is_mount()

    def flush(self) -> None:
        """Until everything is uploaded."""
        self.command("flush", self.url)

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()

    def clean_up(self) -> None:
        """Whatever happened: no process and no mount is left."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        subprocess.run(["fusermount3", "-uz", str(self.point)], capture_output=True, timeout=30, check=False)

    def stop(self) -> None:
        """End as a user would end it: that waits for the uploads and unmounts."""
        assert self._child is not None
        self._child.send_signal(signal.SIGTERM)
        if self._child.wait(timeout=300) != 0:
            raise RuntimeError(f"the drive did not stop cleanly; its log ends:\n{self.log()[-2000:]}")
        self._child = None
