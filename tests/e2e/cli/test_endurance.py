"""What a drive with all its doors has to stand: kills in the midst of writing, start after start, and a log that is
rotated again and again."""

from __future__ import annotations

import base64
import ftplib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from serpentfs.daemon.asking import Connection
from serpentfs.password_hashes import hash_password
from tests.e2e.cli.conftest import TIMEOUT, Machine, needs_fuse, needs_root, wait_for
from tests.mega_emulator import emulator
from tests.mounted import free_port
from tests.rounds import rounds
from tests.unit.access.test_access import write_certificate

ACCOUNT_PASSWORD = "a password of the tests"

pytestmark = needs_fuse


# kills


class Writer(threading.Thread):
    """Writes files through one door until it is gone, and remembers those that it was told are written."""

    def __init__(self, door: str, write: Callable[[str, bytes], None]) -> None:
        super().__init__()
        self.door, self._write = door, write
        self.acknowledged: dict[str, bytes] = {}

    def run(self) -> None:
        # OSError: the mount has no process. HTTPException and EOFError are what the clients make of a broken line.
        number = 0
        with suppress(OSError, EOFError, urllib.error.URLError, ConnectionError, *ftplib.all_errors):
            while True:
                name, content = f"{self.door}-{number}", os.urandom(1 + number * 997 % 40_000)
                self._write(name, content)
                self.acknowledged[name] = content
                number += 1


def by_mount(folder: Path) -> Callable[[str, bytes], None]:
    def write(name: str, content: bytes) -> None:
        (folder / f"{name}.part").write_bytes(content)
        os.rename(folder / f"{name}.part", folder / name)

    return write


def by_webdav(address: str) -> Callable[[str, bytes], None]:
    def write(name: str, content: bytes) -> None:
        request = urllib.request.Request(address + name, content, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                assert answer.status == 201
        except Exception as error:
            raise OSError(str(error)) from error

    return write


def by_ftp(client: ftplib.FTP) -> Callable[[str, bytes], None]:
    def write(name: str, content: bytes) -> None:
        assert client.storbinary(f"STOR {name}", io.BytesIO(content)).startswith("226")

    return write


def test_what_was_acknowledged_by_any_door_is_there_after_kills(with_vault: Machine) -> None:
    """Killed with uploads under way. The first command that comes then, whichever, finds a clean place."""
    machine = with_vault
    expected: dict[str, bytes] = {}
    first_commands: list[Callable[[], object]] = [
        lambda: machine.ok("ls", machine.url),    # owns the remote for the moment
        lambda: machine.mount("--settle", "0.05"),
        lambda: machine.ok("webdav", machine.url, "--no-auth", "--listen", "127.0.0.1:0", "--daemon"),
    ]
    for number, first in enumerate(first_commands):
        ftp_port = free_port()
        if not machine.is_mounted():
            machine.mount("--settle", "0.05")
        if "webdav" not in machine.status()["doors"]:
            machine.ok("webdav", machine.url, "--no-auth", "--listen", "127.0.0.1:0")
        machine.ok("ftp", machine.url, "--no-auth", "--listen", f"127.0.0.1:{ftp_port}")
        status = machine.status()
        client = ftplib.FTP()
        client.connect("127.0.0.1", ftp_port, timeout=TIMEOUT)
        client.login()
        writers = [
            Writer(f"{number}-mount", by_mount(machine.mountpoint)),
            Writer(f"{number}-webdav", by_webdav(status["doors"]["webdav"])),
            Writer(f"{number}-ftp", by_ftp(client)),
        ]
        for writer in writers:
            writer.start()
        wait_for(lambda: all(len(one.acknowledged) >= 15 for one in writers), "files to be written")    # noqa: B023
        os.kill(status["pid"], signal.SIGKILL)
        machine.wait_until_gone()
        assert machine.is_mounted()    # dead, as the kernel keeps it
        assert list((machine.home / "run" / "serpentfs").iterdir())    # and so is the socket
        first()
        # Only now: the kernel may hold up a killed process, and who waits for it, until its mount is freed.
        for writer in writers:
            writer.join(3 * TIMEOUT)    # a client's own time-outs are over by then
            assert not writer.is_alive()
            expected |= writer.acknowledged
        client.close()
        if number == 0:
            assert not list((machine.home / "run" / "serpentfs").iterdir())
        if number != 1:
            assert not machine.is_mounted()
    if not machine.is_mounted():
        machine.mount()
    for name, content in expected.items():
        assert (machine.mountpoint / name).read_bytes() == content, name
    machine.ok("umount", machine.url)
    machine.wait_until_gone()
    assert not machine.is_mounted()
    assert not list((machine.home / "run" / "serpentfs").iterdir())
    assert not [path for path in (machine.state / "staging").rglob("*") if path.is_file()]
    # What a store shows is all of it, too.
    machine.ok("get", f"{machine.url}#/", "all")
    assert {name: (machine.home / "all" / name).read_bytes() for name in expected} == expected


# starts


def test_many_starts_and_stops_in_one_process_leave_nothing(with_vault: Machine) -> None:
    """With a mount, WebDAV and FTP each time. A leak that the end of a process would hide shows."""
    times = rounds(20, 50)
    machine = with_vault
    environment = machine.environment
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), environment.get("PYTHONPATH", "")])
    temporary = machine.home / "tmp"
    temporary.mkdir()
    environment["TMPDIR"] = str(temporary)
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.cli.cycling", machine.url, str(machine.mountpoint), str(times)],
        env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False, start_new_session=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["code"] for one in found] == [0] * times
    warm, last = found[9], found[-1]    # the first rounds take what is taken once
    assert last["descriptors"] == warm["descriptors"]
    assert last["children"] == []
    assert last["threads"] <= warm["threads"] + 4    # idle ones, which trio keeps for some seconds
    assert last["resident"] <= warm["resident"] + (12 << 20)
    assert not machine.is_mounted()
    assert not list((machine.home / "run" / "serpentfs").iterdir())
    assert not list(temporary.iterdir())
    assert not [path for path in (machine.state / "staging").rglob("*") if path.is_file()]
    assert len(list((machine.home / "state" / "serpentfs").glob("*/owner.lock"))) == 1
    assert machine.ok("cat", f"{machine.url}#/file") == f"round {times - 1}"


# months


class Process:
    """What an owner takes of the machine."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(self._folder / "fd"))

    @property
    def threads(self) -> int:
        return len(os.listdir(self._folder / "task"))

    @property
    def resident(self) -> int:
        return int((self._folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def without_growth(self, times: int) -> Iterator[int]:
        """So many rounds. The first fifth may take what is taken once."""
        before = threads = size = 0
        for number in range(times):
            if number == times // 5:
                before, threads, size = self.descriptors, self.threads, self.resident
            yield number
        wait_for(lambda: self.descriptors <= before + 2, "descriptors to be closed", 10)
        assert self.threads <= threads + 4
        assert self.resident <= size + (8 << 20)


@needs_root
def test_rotations_and_reloads_one_after_the_other(with_vault: Machine) -> None:
    """As logrotate does it: the log is moved away and SIGHUP sent. Users and certificate are replaced with it."""
    machine = with_vault
    log, config = machine.home / "log", machine.home / "config" / "serpentfs" / "config.toml"
    config.parent.mkdir(parents=True)
    files = [machine.home / "one", machine.home / "two"]
    certificates = []
    for folder in files:
        folder.mkdir()
        made = write_certificate(folder, "localhost")
        certificates.append((made.certificate.read_bytes(), made.key.read_bytes()))
    hashes = [hash_password("one"), hash_password("two")]

    def write(path: Path, content: bytes) -> None:
        fresh = path.with_name("fresh")
        fresh.write_bytes(content)
        os.replace(fresh, path)

    def turn(number: int) -> None:
        for name, content in zip(("cert.pem", "key.pem"), certificates[number % 2], strict=True):
            write(machine.home / name, content)
        write(config, (
            f'[webdav]\ncertificate = "{machine.home}/cert.pem"\nkey = "{machine.home}/key.pem"\n'
            f'[webdav.users.anna]\npassword-hash = "{hashes[number % 2]}"\n'
        ).encode())

    turn(0)
    printed = machine.mount("--webdav", "127.0.0.1:0", "--tls", "--log-file", str(log), "--log-level", "INFO")
    address = printed.split()[-1]
    for number in range(20):
        (machine.mountpoint / f"folder-{number}").mkdir()
    machine.ok("flush", machine.url)
    pid = machine.status()["pid"]
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE

    def log_in(password: str) -> int:
        request = urllib.request.Request(address)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"anna:{password}".encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=anyone) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    for number in Process(pid).without_growth(rounds(20, 80)):
        turn(number)
        log.replace(machine.home / "log.1")
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: log.exists() and "21 folders were listed again" in log.read_text(), "the folders to be listed")
        assert log.stat().st_mode & 0o777 == 0o600
        if number % 20 == 0:
            wait_for(lambda: log_in(("one", "two")[number % 2]) == 200, "the new users")    # noqa: B023
            assert log_in("neither") == 401
    held = {os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd")}
    assert not [name for name in held if name.endswith(("log.1", "(deleted)")) and str(machine.home) in name], held
    assert machine.is_mounted()
    assert len(os.listdir(machine.mountpoint)) == 20


@needs_root
def test_a_mega_account_that_is_reloaded_and_changed_elsewhere_again_and_again(machine: Machine) -> None:
    with emulator() as server:
        email = "anna@example.test"
        server.add_account(email, ACCOUNT_PASSWORD)
        machine.passphrase_file.write_text(ACCOUNT_PASSWORD + "\n")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        machine.ok("login", email)
        machine.ok("mount", "mega:", str(machine.mountpoint), "--daemon")
        status = machine.status()
        (socket,) = (machine.home / "run" / "serpentfs").iterdir()
        for number in Process(status["pid"]).without_growth(rounds(20, 80)):
            server.add_file(email, f"file-{number}", b"content")
            path = machine.mountpoint / f"file-{number}"
            if number % 10 == 3:
                server.forget_events(email)    # as after a long absence: everything is to be loaded anew
            if number % 10 == 7:
                with Connection(socket, timeout=TIMEOUT) as connection:
                    connection.ask("reload")
            wait_for(path.exists, "what somebody else did to be seen")
            path.unlink()
            if number % 25 == 0:
                machine.ok("flush", "mega:")
        assert os.listdir(machine.mountpoint) == []
        machine.ok("umount", "mega:")


@needs_root
def test_clients_that_come_and_go(with_vault: Machine) -> None:
    """Some say goodbye, others are just gone; each looks at a file, and some write one over."""
    machine = with_vault
    ftp_port = free_port()
    machine.mount("--settle", "0.05", "--no-auth", "--webdav", "127.0.0.1:0", "--ftp", f"127.0.0.1:{ftp_port}")
    (machine.mountpoint / "file").write_bytes(bytes(200_000))
    status = machine.status()
    (control,) = (machine.home / "run" / "serpentfs").iterdir()
    for number in Process(status["pid"]).without_growth(rounds(80, 400)):
        with urllib.request.urlopen(f"{status['doors']['webdav']}file", timeout=TIMEOUT) as answer:
            if number % 3:
                assert len(answer.read()) == 200_000
        client = ftplib.FTP()
        client.connect("127.0.0.1", ftp_port, timeout=TIMEOUT)
        client.login()
        client.retrbinary("RETR file", lambda _: None)
        if number % 10 == 0:
            client.storbinary("STOR other", io.BytesIO(b"x" * number))
        if number % 2:
            client.quit()
        client.close()
        with Connection(control, timeout=TIMEOUT) as connection:
            connection.ask("status")
        assert len((machine.mountpoint / "file").read_bytes()) == 200_000
    machine.ok("umount", machine.url)
