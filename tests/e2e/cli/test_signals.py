"""What an owner does on signals, and what it tells systemd."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

from tests.e2e.cli.conftest import PASSPHRASE, SERPENTFS, TIMEOUT, Machine, needs_fuse, wait_for

pytestmark = needs_fuse


def owner_of(machine: Machine) -> int:
    (found,) = json.loads(machine.ok("status", "--json"))
    pid: int = found["pid"]
    return pid


def test_sighup_lists_folders_again_and_opens_the_log_anew(with_vault: Machine) -> None:
    log = with_vault.home / "log"
    with_vault.mount("-v", "--log-file", str(log))
    (with_vault.mountpoint / "a" / "b").mkdir(parents=True)
    with_vault.ok("flush", with_vault.url)
    log.rename(with_vault.home / "log.1")
    os.kill(owner_of(with_vault), signal.SIGHUP)
    wait_for(lambda: log.exists() and "3 folders were listed again" in log.read_text(), "the folders to be listed")
    assert with_vault.is_mounted()


def test_the_end_of_the_terminal_stops_what_was_started_on_it(with_vault: Machine) -> None:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.login_tty(theirs)

    process = subprocess.Popen(
        [str(SERPENTFS), "mount", with_vault.url, str(with_vault.mountpoint), "--settle", "300"],
        env=with_vault.environment, preexec_fn=take_terminal,
    )
    try:
        os.close(theirs)
        wait_for(with_vault.is_mounted, "the mount")
        wait_for(lambda: b"mounted at" in os.read(ours, 4096), "it to be ready")
        (with_vault.mountpoint / "file").write_text("content")
        os.close(ours)
        process.wait(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait(timeout=TIMEOUT)
    assert not with_vault.is_mounted()
    assert with_vault.ok("ls", with_vault.url) == "file\n"


def test_an_interrupted_command_ends_as_one(with_vault: Machine, tmp_path: Path) -> None:
    """It owns the drive itself: the interrupt comes in the middle of whatever that is at."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(150):
        (source / str(number)).write_bytes(bytes(100_000))
    config = with_vault.home / "config" / "serpentfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[remote.slow]\nurl = "{with_vault.url}"\nlimit-up = "1M"\n')
    with_vault.ok("ls", "slow:")
    staging = with_vault.state / "staging"
    for number in range(4):
        before = set(staging.iterdir())
        process = with_vault.start("put", str(source), f"slow:/{number}")
        wait_for(lambda: not before.issuperset(staging.iterdir()), "files to arrive")  # noqa: B023
        time.sleep(0.05 * number)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=TIMEOUT) == ("", "serpentfs: interrupted\n")
        assert process.returncode == 130
    assert with_vault.ok("put", str(source), f"{with_vault.url}#/last") == ""
    assert len(with_vault.ok("ls", f"{with_vault.url}#/last").split()) == 150


def test_sigusr1_writes_the_state_without_names_and_secrets(with_vault: Machine) -> None:
    log = with_vault.home / "log"
    with_vault.mount("--settle", "300", "--log-file", str(log))
    (with_vault.mountpoint / "canary-name-2291").write_text("canary-content-2291")
    os.kill(owner_of(with_vault), signal.SIGUSR1)
    dump = with_vault.state / "state-dump.json"
    wait_for(lambda: str(dump) in log.read_text(), "the log to tell")
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    text = dump.read_text()
    for hidden in ("canary-name-2291", "canary-content-2291", PASSPHRASE):
        assert hidden not in text
    found = json.loads(text)
    assert found["status"]["doors"] == {"mount": str(with_vault.mountpoint)}
    assert found["status"]["drive"]["pending"][0]["operation"]
    assert "watch_signals" in json.dumps(found["tasks"])
    assert "door.py" in json.dumps(found["tasks"])    # the mount, and where in it
    assert (with_vault.mountpoint / "canary-name-2291").read_text() == "canary-content-2291"    # it goes on


class Systemd:
    """The receiving end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(TIMEOUT)

    def wait_for(self, start: str) -> str:
        """The next message that begins with ``start``."""
        while True:
            message = self._socket.recv(4096).decode()
            self.heard.append(message)
            if message.startswith(start):
                return message

    def close(self) -> None:
        self._socket.close()


def test_systemd_is_told(with_vault: Machine) -> None:
    systemd = Systemd(with_vault.home / "n")
    try:
        with_vault.extra_environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "200000"}
        process = with_vault.start("mount", with_vault.url, str(with_vault.mountpoint), "--settle", "300")
        systemd.wait_for("READY=1")
        assert systemd.wait_for("STATUS=") == "STATUS=everything is uploaded"
        systemd.wait_for("WATCHDOG=1")
        systemd.wait_for("WATCHDOG=1")
        (with_vault.mountpoint / "file").write_text("x" * 3 * 2**19)
        assert systemd.wait_for("STATUS=").endswith("to upload, 1.5 MiB left")
        process.send_signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert process.wait(timeout=TIMEOUT) == 0
        assert not any("file" in message for message in systemd.heard)
    finally:
        systemd.close()


def test_signs_of_life_are_not_sent_for_another_process(with_vault: Machine) -> None:
    systemd = Systemd(with_vault.home / "n")
    try:
        with_vault.extra_environment = {
            "NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1",
        }
        with_vault.mount()
        systemd.wait_for("STATUS=")
        with_vault.ok("umount", str(with_vault.mountpoint))
        systemd.wait_for("STOPPING=1")
        assert systemd.heard[0] == "READY=1"
        assert "WATCHDOG=1" not in systemd.heard
    finally:
        systemd.close()
