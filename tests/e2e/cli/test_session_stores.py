"""The session of a MEGA account in a keyring: from log-in to log-out, through the installed command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import Machine, needs_fuse
from tests.file_keyring import FILE_VARIABLE
from tests.mega_emulator import Emulator, emulator

EMAIL = "ring@example.test"
PASSWORD = "canary-ring-password-4417"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        running.add_account(EMAIL, PASSWORD)
        yield running


class Home:
    """A user with a keyring and a password file."""

    def __init__(self, machine: Machine, server: Emulator) -> None:
        self.machine = machine
        self.ring = machine.home / "ring.json"
        machine.passphrase_file.write_text(PASSWORD + "\n")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        machine.extra_environment["PYTHONPATH"] = str(ROOT)
        machine.extra_environment[FILE_VARIABLE] = str(self.ring)
        self.use("FileKeyring")

    def use(self, backend: str) -> None:
        self.machine.extra_environment["PYTHON_KEYRING_BACKEND"] = f"tests.file_keyring.{backend}"

    @property
    def entries(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.ring.read_text()) if self.ring.exists() else {}
        return found

    @property
    def session_file(self) -> Path:
        return self.machine.home / "state" / "serpentfs" / "mega" / "mega.session"

    def in_file(self) -> bool:
        return "sid" in json.loads(self.session_file.read_text())


@pytest.fixture
def home(machine: Machine, server: Emulator) -> Home:
    return Home(machine, server)


def test_log_in_and_out(home: Home) -> None:
    machine = home.machine
    machine.ok("login", EMAIL)
    (kept,) = home.entries.values()
    assert not home.in_file()
    secrets = json.loads(kept)
    everything = b"".join(path.read_bytes() for path in machine.home.rglob("*") if path.is_file() and path != home.ring)
    assert secrets["sid"].encode() not in everything
    assert secrets["key"].encode() not in everything
    assert json.loads(machine.ok("whoami", "--json"))["email"] == EMAIL
    assert machine.ok("session", "--show").strip()
    assert machine.ok("ls", "mega:") == ""
    machine.fails(10, "login", EMAIL)
    machine.ok("logout", "--keep-session")
    assert len(home.entries) == 1
    machine.ok("logout")
    assert not home.entries
    assert not home.session_file.exists()
    machine.fails(4, "whoami")


@needs_fuse
def test_a_daemon_takes_it_from_there(home: Home) -> None:
    machine = home.machine
    machine.ok("login", EMAIL)
    machine.ok("mount", "mega:", str(machine.mountpoint), "--daemon")
    (machine.mountpoint / "file").write_bytes(b"content")
    machine.ok("umount", str(machine.mountpoint))
    machine.wait_until_gone()
    assert machine.ok("ls", "mega:") == "file\n"
    machine.ok("logout")
    assert not home.entries


def test_who_insists_on_a_keyring_that_is_not_there(home: Home, server: Emulator) -> None:
    machine = home.machine
    machine.extra_environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    assert "there is no keyring" in machine.fails(12, "login", EMAIL, "--session-store", "keyring")
    assert not home.session_file.exists()
    # A locked one is found out after the log-in: the session is ended again.
    home.use("LockedKeyring")
    assert "locked" in machine.fails(6, "login", EMAIL, "--session-store", "keyring")
    assert not home.session_file.exists()
    (machine.home / "config" / "serpentfs").mkdir(parents=True)
    settings = machine.home / "config" / "serpentfs" / "config.toml"
    settings.write_text('session-store = "keyring"\n')
    machine.fails(6, "login", EMAIL)
    assert not home.session_file.exists()
    machine.ok("login", EMAIL, "--session-store", "file")    # the command line first
    assert home.in_file()
    machine.ok("logout")


@pytest.mark.parametrize("backend", ["PlainKeyring", "ForgetfulKeyring", "LockedKeyring"])
def test_without_a_good_keyring_it_is_the_file(home: Home, backend: str) -> None:
    machine = home.machine
    home.use(backend)
    done = machine.run("login", EMAIL)
    assert done.returncode == 0, done.stderr
    assert ("kept in a file" in done.stderr) == (backend != "PlainKeyring")
    assert home.in_file()
    assert home.session_file.stat().st_mode & 0o777 == 0o600
    assert not home.entries
    machine.ok("whoami")
    machine.ok("logout")
    assert not home.session_file.exists()
