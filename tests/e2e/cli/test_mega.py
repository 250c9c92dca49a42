"""A MEGA account from log-in to log-out, through the installed command, against the emulator."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import SERPENTFS, TIMEOUT, Machine, needs_fuse, wait_for
from tests.mega_emulator import Emulator, emulator
from tests.mounted import free_port

PASSWORD = "canary-mega-password-8813"
DOOR_PASSWORD = "canary-door-password-5512"
NAME = "canary-name-of-a-file.txt"
CONTENT = b"canary content of a file\n" * 1000


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


class Account:
    """Somebody's machine with a password file, and the account that it is for."""

    def __init__(self, machine: Machine, server: Emulator, email: str) -> None:
        self.machine = machine
        self.server = server
        self.email = email
        machine.passphrase_file.write_text(PASSWORD + "\n")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url

    def log_in(self, *words: str) -> str:
        return self.machine.ok("login", self.email, *words)

    def ls(self, remote: str = "mega:") -> list[str]:
        return self.machine.ok("ls", remote).splitlines()

    def mount(self, remote: str = "mega:", *words: str) -> Path:
        self.machine.ok("mount", remote, str(self.machine.mountpoint), "--daemon", *words)
        return self.machine.mountpoint

    def umount(self) -> None:
        self.machine.ok("umount", str(self.machine.mountpoint))
        self.machine.wait_until_gone()

    def upload(self, **files: bytes) -> None:
        """Files with these names in the top folder."""
        mountpoint = self.mount()
        for name, content in files.items():
            (mountpoint / name).write_bytes(content)
        self.umount()

    @property
    def session_file(self) -> Path:
        return self.machine.home / "state" / "serpentfs" / "mega" / "mega.session"


@pytest.fixture
def account(machine: Machine, server: Emulator, request: pytest.FixtureRequest) -> Account:
    """An account of the test's own: its tree is empty."""
    email = f"{re.sub('[^a-z0-9]+', '.', request.node.name).strip('.')}@example.test"
    server.add_account(email, PASSWORD)
    return Account(machine, server, email)


def leaks(home: Path, *secrets: bytes, but: tuple[Path, ...] = ()) -> list[tuple[Path, bytes]]:
    """Which files below ``home`` hold a secret, in their name or content."""
    found = []
    for path in home.rglob("*"):
        if path in but or not path.is_file():
            continue
        data = os.fsencode(path.name) + b"\0" + path.read_bytes()
        found += [(path, secret) for secret in secrets if secret in data]
    return found


def arguments_of(machine: Machine) -> bytes:
    return b"".join((Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in machine.daemons())


def test_log_in_and_out(account: Account) -> None:
    machine = account.machine
    assert account.email in account.log_in()
    assert account.session_file.stat().st_mode & 0o777 == 0o600
    told = json.loads(machine.ok("whoami", "--json"))
    assert told["email"] == account.email
    assert len(told["handle"]) == 11
    assert told["total"] > 0
    assert account.email in machine.ok("whoami")
    assert account.ls() == []
    assert json.loads(machine.ok("df", "mega:", "--json"))["total"] == told["total"]
    assert "serpentfs logout mega" in machine.fails(10, "login", account.email)
    assert PASSWORD.encode() not in account.session_file.read_bytes()
    string = machine.ok("session", "--show").strip()
    assert len(base64.urlsafe_b64decode(string + "=" * (-len(string) % 4))) >= 59
    machine.fails(12, "check", "mega:")
    machine.ok("logout")
    assert not account.session_file.exists()
    assert "serpentfs login" in machine.fails(4, "ls", "mega:")
    account.log_in("--name", "second")
    assert account.ls("second:/") == []
    machine.ok("logout", "second:")


def test_a_command_knows_what_others_did_just_now(account: Account) -> None:
    account.log_in()
    assert account.ls() == []
    names = []
    for name in "abcd":
        account.server.add_file(account.email, name, b"content")
        names.append(name)
        assert account.ls() == names
    session = json.loads(account.session_file.read_text())
    account.session_file.write_text(json.dumps({**session, "api": "http://127.0.0.1:9"}))
    done = account.machine.run("ls", "mega:")
    assert done.stdout.splitlines() == names
    assert "as it was known before" in done.stderr


def test_version_1_accounts(machine: Machine, server: Emulator) -> None:
    server.add_account("v1@example.test", PASSWORD, version=1)
    account = Account(machine, server, "v1@example.test")
    account.log_in()
    assert account.ls() == []


def test_what_cannot_log_in(account: Account) -> None:
    machine = account.machine
    wrong = machine.home / "wrong"
    wrong.touch(0o600)
    wrong.write_text("not it\n")
    told = machine.fails(3, "login", account.email, "--password-file", str(wrong))
    assert "not it" not in told
    machine.fails(3, "login", "nobody@example.test")
    assert not account.session_file.exists()
    assert not account.machine.run("ls", "mega:").stdout


def test_two_factor_codes(machine: Machine, server: Emulator) -> None:
    server.add_account("mfa@example.test", PASSWORD, mfa="135790")
    account = Account(machine, server, "mfa@example.test")
    assert "--auth-code" in machine.fails(2, "login", account.email)
    assert machine.run("login", account.email, "--auth-code", "000000").returncode in (2, 3)
    assert not account.session_file.exists()
    account.log_in("--auth-code", "135790")
    machine.ok("logout")

    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", "--wait", str(SERPENTFS), "login", account.email]
    shown = b""
    with subprocess.Popen(command, env=machine.environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while b"Two-factor code of" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, b"135790\n")
        while True:
            try:
                shown += os.read(ours, 1000)
            except OSError:    # EIO: the terminal's other end is closed
                break
        assert process.wait(timeout=TIMEOUT) == 0, shown
    os.close(ours)
    assert account.ls() == []


@needs_fuse
def test_mount_write_read_and_nothing_readable_is_left(account: Account) -> None:
    machine = account.machine
    log = machine.home / "log"
    account.log_in("-vv", "--log-file", str(log))
    mountpoint = account.mount("mega:", "-vv", "--log-file", str(log))
    (mountpoint / "folder").mkdir()
    (mountpoint / "folder" / NAME).write_bytes(CONTENT)
    assert account.ls("mega:/folder") == [NAME]    # through the owner
    (status,) = json.loads(machine.ok("status", "--json"))
    assert status["account"] == {"trouble": None, "over_quota_until": None}
    assert PASSWORD.encode() not in arguments_of(machine)
    account.umount()
    assert account.ls("mega:/folder") == [NAME]    # from the account
    mountpoint = account.mount("mega:/folder", "-vv", "--log-file", str(log))
    assert (mountpoint / NAME).read_bytes() == CONTENT
    (mountpoint / NAME).rename(mountpoint / "other")
    account.umount()
    assert account.ls("mega:/folder") == ["other"]
    session = json.loads(account.session_file.read_text())
    secrets = [value.encode() for value in session.values() if isinstance(value, str) and len(value) >= 16]
    secrets = [value for value in secrets if not value.startswith(b"http") and b"@" not in value]
    assert secrets, "the session file holds the session"
    found = leaks(
        machine.home, PASSWORD.encode(), NAME.encode(), CONTENT[:24], *secrets,
        but=(account.session_file, machine.passphrase_file),
    )
    assert not found


@needs_fuse
def test_the_rubbish_bin(account: Account) -> None:
    account.log_in()
    account.upload(kept=b"k", removed=b"r", gone=b"g")
    (account.mount() / "removed").unlink()
    account.umount()
    (account.mount("mega:", "--hard-delete") / "gone").unlink()
    account.umount()
    assert account.ls() == ["kept"]
    assert account.machine.ok("ls", "mega:", "--root", "rubbish") == "removed\n"


def test_webdav(account: Account) -> None:
    machine = account.machine
    account.log_in()
    (machine.home / "doors").touch(0o600)
    (machine.home / "doors").write_text(DOOR_PASSWORD)
    port = free_port()
    machine.ok(
        "webdav", "mega:", "--daemon", "--listen", f"127.0.0.1:{port}", "--user", "me", "--pass-file",
        str(machine.home / "doors"),
    )
    url = f"http://127.0.0.1:{port}/file"
    token = base64.b64encode(f"me:{DOOR_PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {token}"}
    put = urllib.request.Request(url, data=CONTENT, method="PUT", headers=headers)
    with urllib.request.urlopen(put, timeout=TIMEOUT) as answer:
        assert answer.status == 201
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        assert answer.read() == CONTENT
    machine.ok("flush", "mega:")
    machine.ok("umount", "mega:")
    machine.wait_until_gone()
    assert account.ls() == ["file"]


@needs_fuse
def test_versions(account: Account) -> None:
    machine = account.machine
    account.log_in()
    account.upload(file=b"first")
    account.upload(file=b"second")
    (old,) = json.loads(machine.ok("versions", "mega:/file", "--json"))
    assert old["size"] == len(b"first")
    assert "5 B" in machine.ok("versions", "mega:/file")
    assert "has 1 old" in machine.fails(4, "versions", "mega:/file", "--restore", "2")
    machine.ok("versions", "mega:/file", "--restore", "1")
    mountpoint = account.mount()
    wait_for(lambda: (mountpoint / "file").read_bytes() == b"first", "the restored version")
    assert len(json.loads(machine.ok("versions", str(mountpoint / "file"), "--json"))) == 2
    machine.ok("versions", str(mountpoint / "file"), "--delete", "2")
    assert len(json.loads(machine.ok("versions", "mega:/file", "--json"))) == 1
    machine.ok("versions", "mega:/file", "--delete-old")
    assert json.loads(machine.ok("versions", "mega:/file", "--json")) == []
    account.umount()


@needs_fuse
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links(account: Account, kind: str) -> None:
    machine = account.machine
    account.log_in()
    mountpoint = account.mount()
    (mountpoint / "folder").mkdir()
    (mountpoint / "folder" / NAME).write_bytes(CONTENT)
    machine.ok("flush", "mega:")
    path = "mega:/folder" if kind == "folder" else f"mega:/folder/{NAME}"
    link = machine.ok("export", path).strip()
    assert link.startswith("https://mega.nz/")
    account.umount()

    key = link.partition("#")[2].encode()
    done = machine.run("login", "-", "--name", "theirs", stdin=link + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert account.ls("theirs:") == [NAME]
    mountpoint = account.mount("theirs:")
    assert (mountpoint / NAME).read_bytes() == CONTENT
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "new").write_bytes(b"x")
    assert key not in arguments_of(machine)
    machine.ok("logout", "theirs:")    # ends the mount
    assert not machine.is_mounted()
    machine.wait_until_gone()
    assert not leaks(machine.home, key)

    machine.ok("export", path, "-d")
    assert machine.run("login", "-", "--name", "theirs", stdin=link + "\n").returncode == 4


@needs_fuse
def test_a_link_with_a_password_and_its_import(account: Account, server: Emulator) -> None:
    machine = account.machine
    account.log_in()
    account.upload(file=CONTENT)
    secret = machine.home / "link.password"
    secret.touch(0o600)
    secret.write_text("canary-link-password")
    link = machine.ok("export", "mega:/file", "--password-file", str(secret)).strip()
    assert "#P!" in link
    machine.ok("logout")

    server.add_account("bob@example.test", PASSWORD)
    bob = Account(machine, server, "bob@example.test")
    bob.log_in()
    (mountpoint := bob.mount()).joinpath("inbox").mkdir()
    machine.ok("flush", "mega:")
    assert machine.run("import", "-", "mega:/inbox", stdin=link + "\n").returncode == 2    # no password, no terminal
    done = machine.run("import", "-", "mega:/inbox", "--password-file", str(secret), stdin=link + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: os.listdir(mountpoint / "inbox") == ["file"], "the imported file")
    assert (mountpoint / "inbox" / "file").read_bytes() == CONTENT
    bob.umount()
    assert not leaks(machine.home, link.partition("#P!")[2].encode())


@needs_fuse
def test_log_out_with_changes_that_wait(account: Account) -> None:
    machine = account.machine
    account.log_in()
    (account.mount("mega:", "--settle", "300") / "file").write_bytes(CONTENT)
    assert "not uploaded" in machine.fails(14, "logout", "--now", "--keep-session")
    machine.wait_until_gone()
    assert account.session_file.exists()
    done = machine.run("logout")
    assert done.returncode == 14
    assert "after the next log-in" in done.stderr
    assert not account.session_file.exists()
    account.log_in()
    machine.ok("flush", "mega:")
    assert account.ls() == ["file"]
    # Ending what runs, uploads first.
    (account.mount("mega:", "--settle", "300") / "second").write_bytes(CONTENT)
    machine.ok("logout")
    machine.wait_until_gone()
    account.log_in()
    assert account.ls() == ["file", "second"]


@needs_fuse
def test_a_session_that_ended_elsewhere(account: Account, server: Emulator) -> None:
    machine = account.machine
    account.log_in()
    mountpoint = account.mount("mega:", "--settle", "0")
    (mountpoint / "before").write_bytes(CONTENT)
    machine.ok("flush", "mega:")
    server.end_sessions(account.email)
    (mountpoint / "after").write_bytes(CONTENT)    # taken all the same
    wait_for(lambda: "session has ended" in machine.ok("status"), "the trouble to be told")
    assert "session has ended" in machine.fails(16, "whoami")
    assert (mountpoint / "before").read_bytes() == CONTENT
    done = machine.run("logout", "--now")
    assert done.returncode == 14, (done.stdout, done.stderr)
    machine.wait_until_gone()
    account.log_in()
    machine.ok("flush", "mega:")
    assert account.ls() == ["after", "before"]


@needs_fuse
def test_the_end_of_a_mount_whose_session_ended_elsewhere(account: Account, server: Emulator) -> None:
    machine = account.machine
    account.log_in()
    mountpoint = account.mount("mega:", "--settle", "0")
    (mountpoint / "before").write_bytes(CONTENT)
    machine.ok("flush", "mega:")
    server.end_sessions(account.email)
    (mountpoint / "after").write_bytes(CONTENT)
    (mountpoint / "before").unlink()
    for words in (("flush", "mega:"), ("umount", str(mountpoint))):
        done = machine.run(*words)
        assert done.returncode == 16, (words, done.stderr)
        assert "2 changes kept in the journal; the account's session has ended" in done.stderr.splitlines()[-1]
    machine.wait_until_gone()
    assert not machine.is_mounted()
    process = machine.start("mount", "mega:", str(mountpoint))    # from what this machine knows
    assert process.stdout is not None
    assert process.stdout.readline() == f"mounted at {mountpoint}\n"    # from now on a signal lets it upload
    assert os.listdir(mountpoint) == ["after"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=TIMEOUT) == 16
    assert machine.run("logout").returncode == 14
    account.log_in()
    machine.ok("flush", "mega:")
    assert account.ls() == ["after"]


@needs_fuse
def test_a_start_without_the_network(account: Account) -> None:
    machine = account.machine
    account.log_in()
    account.upload(file=CONTENT)
    # The session names its server; nobody listens at the discard port.
    session = json.loads(account.session_file.read_text())
    usual = session["api"]
    account.session_file.write_text(json.dumps({**session, "api": "http://127.0.0.1:9"}))
    mountpoint = account.mount()
    assert os.listdir(mountpoint) == ["file"]
    (mountpoint / "offline").write_bytes(b"written offline")
    machine.fails(14, "umount", "--now", str(mountpoint))
    machine.wait_until_gone()
    assert account.ls() == ["file", "offline"]
    account.session_file.write_text(json.dumps({**session, "api": usual}))
    machine.ok("flush", "mega:")
    assert sorted(entry.path for entry in account.server.tree(account.email)) == ["/file", "/offline"]


@needs_fuse
def test_a_transfer_quota_that_is_used_up(account: Account, server: Emulator) -> None:
    machine = account.machine
    server.add_file(account.email, "file", CONTENT)
    account.log_in()
    mountpoint = account.mount()
    server.fault("download", "quota", times=None, seconds=3600)
    try:
        with pytest.raises(TimeoutError):    # at once: an hour is longer than anybody waits for a read
            (mountpoint / "file").read_bytes()
        assert "over quota until" in machine.ok("status")
    finally:
        server.clear_faults()
