"""packaging/quickstart in the home of somebody who never ran it. The checkout's own .venv is used, so that nothing is
fetched; what it does on a machine without one is shown by CI itself, which starts from a clean clone."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import TIMEOUT, Machine, needs_fuse
from tests.mounted import free_port

ROOT = Path(__file__).resolve().parents[3]

pytestmark = [
    needs_fuse,
    pytest.mark.skipif(
        not (ROOT / ".venv" / ".installed-dev").exists(), reason="the checkout was not set up by packaging/test"
    ),
]


def quickstart(machine: Machine, ports: tuple[int, int]) -> str:
    environment = machine.environment
    del environment["SERPENTFS_PASSWORD_FILE"]
    environment["SERPENTFS_WEBDAV"], environment["SERPENTFS_FTP"] = (f"127.0.0.1:{port}" for port in ports)
    done = subprocess.run(
        [str(ROOT / "packaging" / "quickstart"), str(machine.mountpoint)], env=environment, capture_output=True,
        text=True, timeout=TIMEOUT, check=False, cwd=machine.home, stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_quickstart_again_and_again(machine: Machine) -> None:
    ports = free_port(), free_port()
    first = quickstart(machine, ports)
    passphrase_file = machine.home / "config" / "serpentfs" / "quickstart.passphrase"
    passphrase = passphrase_file.read_text().strip()
    assert first.count(passphrase) == 1
    assert len(passphrase) >= 30
    for name in ("quickstart.passphrase", "quickstart-doors.password", "config.toml"):
        assert (passphrase_file.with_name(name)).stat().st_mode & 0o077 == 0
    for address in (str(machine.mountpoint), f"http://127.0.0.1:{ports[0]}/", f"ftp://127.0.0.1:{ports[1]}/"):
        assert address in first
    (machine.mountpoint / "file").write_text("content")
    password = passphrase_file.with_name("quickstart-doors.password").read_text().strip()
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, f"http://127.0.0.1:{ports[0]}/", "serpent", password)
    browser = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    with browser.open(f"http://127.0.0.1:{ports[0]}/file", timeout=TIMEOUT) as answer:
        assert answer.read() == b"content"

    second = quickstart(machine, ports)
    assert "It runs already" in second
    assert passphrase not in second

    stop = next(line for line in first.splitlines() if line.startswith("Stop:")).removeprefix("Stop:").split()
    subprocess.run(stop, env=machine.environment, check=True, timeout=TIMEOUT)
    machine.wait_until_gone()
    third = quickstart(machine, ports)
    assert passphrase not in third
    assert (machine.mountpoint / "file").read_text() == "content"
    assert machine.ok("ls", "quickstart:") == "file\n"
