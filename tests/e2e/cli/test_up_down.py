"""``up`` and ``down``: every remote that the configuration gives doors."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import Machine, needs_fuse
from tests.mounted import free_port

pytestmark = needs_fuse


@pytest.fixture
def two_remotes(with_vault: Machine) -> Machine:
    """``work`` with a mount and WebDAV, ``home`` with FTP, and one that up has nothing to do with."""
    second = with_vault.home / "vault2"
    shutil.copytree(with_vault.vault, second)
    with_vault.ok("init", f"vault+file://{with_vault.home}/vault3")
    configuration = with_vault.home / "config" / "serpentfs"
    configuration.mkdir(parents=True)
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "door"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    (configuration / "users").write_text(f"anna:{hashed}\n")
    (configuration / "config.toml").write_text(f"""
        [webdav]
        htpasswd-file = "users"
        [ftp]
        htpasswd-file = "users"
        [remote.work]
        url = "{with_vault.url}"
        mount = "~/mnt"
        webdav = "127.0.0.1:{free_port()}"
        [remote.home]
        url = "vault+file://{with_vault.home}/vault3"
        ftp = "127.0.0.1:{free_port()}"
        [remote.other]
        url = "vault+file://{second}"
    """)
    return with_vault


def running(machine: Machine) -> dict[str, list[str]]:
    """Kinds of open doors by the last part of the remote's URL."""
    return {Path(one["remote"]).name: sorted(one["doors"]) for one in json.loads(machine.ok("status", "--json"))}


def replace(machine: Machine, old: str, new: str) -> None:
    path = machine.home / "config" / "serpentfs" / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_up_starts_all_and_down_ends_all(two_remotes: Machine) -> None:
    printed = two_remotes.ok("up").splitlines()
    assert [line.split(" at ")[0] for line in printed] == ["work: mounted", "work: WebDAV", "home: FTP"]
    assert running(two_remotes) == {"vault": ["mount", "webdav"], "vault3": ["ftp"]}
    assert two_remotes.ok("up") == "work: is up already\nhome: is up already\n"
    two_remotes.ok("webdav", "-d", "work:")
    assert two_remotes.ok("up", "work").startswith("work: WebDAV at ")    # what is missing
    (two_remotes.mountpoint / "file").write_text("content")
    assert two_remotes.ok("down") == "work: is down\nhome: is down\n"
    two_remotes.wait_until_gone()
    assert not two_remotes.is_mounted()
    assert two_remotes.ok("ls", "work:") == "file\n"
    assert two_remotes.ok("down") == ""
    assert two_remotes.ok("down", "work") == "work: is not running\n"


def test_one_that_cannot_start_does_not_hold_up_the_others(two_remotes: Machine) -> None:
    replace(two_remotes, "~/mnt", "~/none")
    told = two_remotes.run("up")
    assert told.returncode == 2
    assert told.stderr.startswith("serpentfs: work: cannot mount on")
    assert told.stderr.count("\n") == 1
    assert told.stdout.startswith("home: FTP at")
    assert running(two_remotes) == {"vault3": ["ftp"]}


def test_a_remote_that_is_mounted_elsewhere(two_remotes: Machine) -> None:
    other = two_remotes.home / "other"
    other.mkdir()
    two_remotes.ok("mount", "work:", str(other), "--daemon")
    told = two_remotes.fails(5, "up", "work")
    assert told.startswith("serpentfs: work: ")
    assert str(other) in told
    two_remotes.ok("umount", str(other))


def test_down_now_leaves_changes_to_the_next_start(two_remotes: Machine) -> None:
    replace(two_remotes, 'mount = "~/mnt"', 'mount = "~/mnt"\nsettle = 300')
    two_remotes.ok("up", "work:")
    (two_remotes.mountpoint / "file").write_text("content")
    told = two_remotes.fails(14, "down", "--now")
    assert told.startswith("serpentfs: work: ")
    two_remotes.wait_until_gone()


def test_what_up_cannot_make_sense_of(two_remotes: Machine) -> None:
    assert '"mount", "webdav" or "ftp"' in two_remotes.fails(2, "up", "other")
    two_remotes.fails(4, "up", "nobody")
    two_remotes.fails(4, "down", "nobody")
    path = two_remotes.home / "config" / "serpentfs" / "config.toml"
    path.write_text(path.read_text().replace("ftp = ", "ftp = 1  # "))
    told = two_remotes.fails(2, "up")
    assert f"{path}:" in told
    path.write_text("")
    assert "nothing to start" in two_remotes.fails(2, "up")
