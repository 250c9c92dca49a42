"""``transfers --cancel``: an upload is taken back, visibly, and only by who means it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cli.conftest import PASSPHRASE, SERPENTFS, TIMEOUT, Machine, needs_fuse, wait_for
from tests.mega_emulator import emulator

pytestmark = needs_fuse


@pytest.fixture
def mounted(with_vault: Machine) -> Iterator[Machine]:
    """With an uploaded file, and uploads that take hours from then on."""
    with_vault.mount("--settle", "0.05")
    (with_vault.mountpoint / "old").write_text("former")
    with_vault.ok("flush", with_vault.url)
    with_vault.ok("speedlimit", "up", "1K")
    yield with_vault
    with_vault.run("umount", "--now", str(with_vault.mountpoint))


def pending(machine: Machine) -> list[dict[str, Any]]:
    (answer,) = json.loads(machine.ok("transfers", "--json"))
    found: list[dict[str, Any]] = answer["transfers"]
    return found


def sending(machine: Machine, *paths: str) -> None:
    wait_for(
        lambda: {one["path"] for one in pending(machine) if one["state"] == "sending"} >= set(paths),
        "the uploads to begin",
    )


def test_by_number_and_by_path_while_they_go_up(mounted: Machine) -> None:
    machine = mounted
    folder = machine.mountpoint
    (folder / "new").write_bytes(os.urandom(3_000_000))
    inode = (folder / "old").stat().st_ino
    (folder / "old").write_bytes(os.urandom(2_000_000))
    (folder / "kept").write_bytes(os.urandom(1000))
    sending(machine, "/new", "/old")
    listed = machine.ok("transfers")
    (number,) = re.findall(r"^ +(\d+)  sending +create +/new ", listed, re.MULTILINE)
    told = machine.ok("transfers", "--cancel", number, "--cancel", "/old", "--force")
    assert told == (
        "cancelled /new: it was nowhere else, and is gone\n"
        "cancelled /old: the file has its former content again\n"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "old"]
    assert (folder / "old").read_text() == "former"
    assert (folder / "old").stat().st_ino == inode
    assert [one["path"] for one in pending(machine)] in (["/kept"], [])
    machine.ok("speedlimit", "up", "off")
    machine.ok("flush", machine.url)
    assert machine.ok("cat", f"{machine.url}#/old") == "former"
    assert machine.ok("transfers").endswith(": nothing to upload\n")
    machine.ok("umount", str(folder))
    machine.wait_until_gone()
    assert machine.ok("ls", machine.url) == "kept\nold\n"
    machine.ok("check", machine.url, "--content")    # what was broken off has left nothing there


def test_what_was_saved_over_a_file_gives_that_one_back(mounted: Machine) -> None:
    machine = mounted
    (machine.mountpoint / ".old.tmp").write_bytes(os.urandom(2_000_000))
    (machine.mountpoint / ".old.tmp").rename(machine.mountpoint / "old")
    sending(machine, "/old")
    (done,) = json.loads(machine.ok("transfers", machine.url, "-c", "/old", "-f", "--json"))
    assert (done["path"], done["became"]) == ("/old", "returns")

    def is_back() -> bool:
        path = machine.mountpoint / "old"
        return path.exists() and path.read_text() == "former"

    wait_for(is_back, "the former file")


def test_it_is_asked_for(mounted: Machine) -> None:
    machine = mounted
    (machine.mountpoint / "new").write_bytes(os.urandom(2_000_000))
    sending(machine, "/new")
    assert "--force" in machine.fails(2, "transfers", "--cancel", "/new")
    machine.extra_environment["SERPENTFS_FORCE"] = "true"    # that is to be typed
    assert "--force" in machine.fails(2, "transfers", "--cancel", "/new")
    assert [one["path"] for one in pending(machine)] == ["/new"]
    for answer, shown in ((b"\n", b"nothing was cancelled"), (b"y\n", b"cancelled /new")):
        ours, theirs = pty.openpty()
        try:
            os.write(ours, answer)
            done = subprocess.run(
                [str(SERPENTFS), "transfers", "--cancel", "/new"], env=machine.environment, stdin=theirs,
                capture_output=True, timeout=TIMEOUT, check=True,
            )
        finally:
            os.close(ours)
            os.close(theirs)
        assert b"Drop what was written to /new (1.9 MiB) and is not uploaded?" in done.stderr
        assert shown in done.stdout + done.stderr
    assert not (machine.mountpoint / "new").exists()


def test_wrong_transfers(mounted: Machine) -> None:
    machine = mounted
    (machine.mountpoint / "open").write_bytes(os.urandom(2_000_000))
    (machine.mountpoint / "folder").mkdir()
    sending(machine, "/open")
    for code, words in (
        (4, ("--cancel", "4711")), (4, ("--cancel", "/nothing")), (2, ("--cancel", "nothing")),
        (2, ("--cancel", "/open", "--pause")), (2, ("--force",)),
        (4, ("--cancel", "/open", "--cancel", "/nothing", "--force")),
    ):
        machine.fails(code, "transfers", *words)
    with (machine.mountpoint / "open").open("rb"):
        assert "open: close it first" in machine.fails(5, "transfers", "--cancel", "/open", "--force")
    assert (machine.mountpoint / "open").stat().st_size == 2_000_000
    assert pending(machine)[0]["path"] == "/open"


def test_nothing_to_cancel(with_vault: Machine) -> None:
    with_vault.fails(4, "transfers", "--cancel", "1")


def test_of_an_account(machine: Machine) -> None:
    with emulator() as server:
        server.add_account("me@example.test", PASSPHRASE)
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        machine.ok("login", "me@example.test")
        server.add_file("me@example.test", "old", b"former")
        machine.ok("mount", "mega:", str(machine.mountpoint), "--daemon", "--settle", "0.05")
        before = (machine.mountpoint / "old").stat().st_mtime
        server.fault("upload", "slow", times=None, seconds=60)
        (machine.mountpoint / "old").write_bytes(os.urandom(2_000_000))
        (machine.mountpoint / "new").write_bytes(os.urandom(2_000_000))
        sending(machine, "/old", "/new")
        machine.ok("transfers", "--cancel", "/old", "--cancel", "/new", "--force")
        assert [path.name for path in machine.mountpoint.iterdir()] == ["old"]
        assert (machine.mountpoint / "old").read_bytes() == b"former"
        wait_for(lambda: (machine.mountpoint / "old").stat().st_mtime == before, "the former time")
        assert pending(machine) == []
        server.clear_faults()
        machine.ok("umount", str(machine.mountpoint))
        assert [entry.path for entry in server.tree("me@example.test") if not entry.is_version] == ["/old"]
