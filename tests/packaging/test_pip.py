"""Installed with pip and uninstalled again: the program goes, and what it kept for its user stays.

The wheel is SERPENTFS_WHEEL, as CI names it, or built here. What it depends on is found where the tests found it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "canary-passphrase-6627"
TIMEOUT = 120.0


class Installed:
    """A virtual environment, and a user's home beside it."""

    def __init__(self, work: Path) -> None:
        self.venv, self.home = work / "venv", work / "home"
        for name in ("run", "config/serpentfs"):
            (self.home / name).mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True, timeout=TIMEOUT)
        self.python = self.venv / "bin" / "python"
        self.program = self.venv / "bin" / "serpentfs"
        self.packages = next((self.venv / "lib").glob("python3*/site-packages"))
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (self.home / "passphrase").touch(0o600)
        (self.home / "passphrase").write_text(PASSPHRASE + "\n")
        (self.home / "config" / "serpentfs" / "config.toml").write_text(
            f'[remote.work]\nurl = "vault+file://{self.home}/vault"\npassword-file = "{self.home}/passphrase"\n'
        )

    def pip(self, *words: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.python)]
        command += map(str, words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def ok(self, *words: str, code: int = 0) -> str:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8",
            **{f"XDG_{name.upper()}_HOME": str(self.home / name) for name in ("config", "state", "cache")},
            "XDG_RUNTIME_DIR": str(self.home / "run"),
        }
        done = subprocess.run(
            [self.program, *words], env=environment, cwd=self.home, capture_output=True, text=True, timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout

    def place(self) -> Path:
        """Where the program's modules come from."""
        code = "import serpentfs; print(serpentfs.__file__)"
        done = subprocess.run(
            [str(self.python), "-I", "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT
        )
        return Path(done.stdout.strip())

    def kept(self) -> dict[str, str]:
        """Every file of the user, with a hash of what is in it."""
        return {
            str(path.relative_to(self.home)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.home.rglob("*") if path.is_file()
        }


def test_uninstalled_and_installed_again(wheel: Path, tmp_path: Path) -> None:
    """Journal, vault and configuration are as they were; what had not been uploaded goes up later."""
    pytest.importorskip("pip")
    machine = Installed(tmp_path)
    machine.pip("install", "--no-deps", "--no-index", wheel)
    assert machine.packages in machine.place().parents    # not the one that the tests run with
    machine.ok("init", "work:")
    machine.ok("webdav", "work:", "--no-auth", "--listen", "127.0.0.1:0", "--daemon", "--settle", "300")
    (machine.home / "file").write_text("only here so far")
    machine.ok("put", "--no-wait", "file", "work:")
    machine.ok("umount", "--now", "work:", code=14)
    before = machine.kept()
    assert any(name.startswith("state/") and name.endswith("state.db") for name in before)

    machine.pip("uninstall", "--yes", "serpentfs")
    assert not machine.program.exists()
    assert {path.name for path in machine.packages.iterdir()} == {"dependencies.pth"}
    assert machine.kept() == before

    machine.pip("install", "--no-deps", "--no-index", wheel)
    machine.ok("flush", "work:")
    assert machine.ok("cat", "work:/file") == "only here so far"
