"""A user's machine in a folder: home, state, cache and runtime directories of its own, and the installed command."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.vaults import cheapen

PASSPHRASE = "canary-passphrase-7391"
TIMEOUT = 90.0
SERPENTFS = Path(sys.executable).with_name("serpentfs")


def wait_for(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up, f"waited {timeout} s for {what}"
        time.sleep(0.02)


@dataclass
class Machine:
    """Runs ``serpentfs`` and knows what it left running."""

    home: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    extra_environment: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "SERPENTFS_PASSWORD_FILE": str(self.passphrase_file),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",    # not that of who runs the tests
            **self.extra_environment,
        }

    @property
    def passphrase_file(self) -> Path:
        return self.home / "passphrase"

    @property
    def vault(self) -> Path:
        return self.home / "vault"

    @property
    def url(self) -> str:
        return f"vault+file://{self.vault}"

    @property
    def mountpoint(self) -> Path:
        return self.home / "mnt"

    @property
    def state(self) -> Path:
        """The state folder of the one remote."""
        return next(path.parent for path in (self.home / "state" / "serpentfs").glob("*/owner.lock"))

    def run(
        self, *words: str, stdin: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SERPENTFS), *words], env=environment or self.environment, input=stdin, capture_output=True,
            text=True, timeout=TIMEOUT, check=False, start_new_session=True, cwd=self.home,
        )

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def fails(self, code: int, *words: str, stdin: str = "") -> str:
        """The one line that a command says when it fails with ``code``."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert done.stderr.startswith("serpentfs: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in the foreground, which prints its addresses when it is ready."""
        process = subprocess.Popen(
            [str(SERPENTFS), *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=self.home,
        )
        self.processes.append(process)
        return process

    def mount(self, *words: str) -> str:
        return self.ok("mount", self.url, str(self.mountpoint), "--daemon", *words)

    def is_mounted(self) -> bool:
        return f" {self.mountpoint} " in Path("/proc/self/mountinfo").read_text()

    def status(self) -> dict[str, Any]:
        """What ``status`` tells of the one remote that is served."""
        (answer,) = json.loads(self.ok("status", "--json"))
        assert isinstance(answer, dict)
        return answer

    def daemons(self) -> list[int]:
        """Every process of this machine that is left: they carry its home in their environment, which of some only
        root can read; those have it in their arguments."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                with contextlib.suppress(OSError):
                    try:
                        belongs = f"HOME={self.home}\0".encode() in (folder / "environ").read_bytes()
                    except PermissionError:
                        belongs = os.fsencode(self.home) in (folder / "cmdline").read_bytes()
                    if belongs:
                        found.append(int(folder.name))
        return found

    def wait_until_gone(self) -> None:
        wait_for(lambda: not self.daemons(), "every process to end")

    def clean(self) -> None:
        for pid in self.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.is_mounted():    # frees who waits for it, and a killed process that cannot end before
            subprocess.run(["umount", "-f", str(self.mountpoint)], capture_output=True, check=False, timeout=30)
        while self.is_mounted():
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=True, timeout=30)
        for process in self.processes:
            process.communicate(timeout=30)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    for name in ("mnt", "run"):
        (tmp_path / name).mkdir()
    made.passphrase_file.touch(0o600)
    made.passphrase_file.write_text(PASSPHRASE + "\n")
    yield made
    made.clean()


@pytest.fixture(scope="session")
def made_vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty vault. Copied for each test: making and opening one costs a key derivation and a process."""
    machine = Machine(tmp_path_factory.mktemp("vault"))
    machine.passphrase_file.touch(0o600)
    machine.passphrase_file.write_text(PASSPHRASE + "\n")
    machine.ok("init", machine.url)
    cheapen(machine.vault, PASSPHRASE)
    return machine.vault


@pytest.fixture
def with_vault(machine: Machine, made_vault: Path) -> Machine:
    shutil.copytree(made_vault, machine.vault)
    return machine


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root looks into our processes")
needs_fuse = pytest.mark.skipif(
    sys.platform != "linux" or not os.access("/dev/fuse", os.W_OK), reason="there is no FUSE here"
)
