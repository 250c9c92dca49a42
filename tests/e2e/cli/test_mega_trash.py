"""``trash`` and ``restore`` through the installed command, with and without an owner."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import json
import os
import subprocess

from tests.e2e.cli.conftest import SERPENTFS, TIMEOUT, needs_fuse, wait_for
from tests.e2e.cli.test_mega import Account, account, server  # noqa: F401 - the last two are fixtures


@needs_fuse
def test_back_from_the_bin_while_mounted(account: Account) -> None:
    machine = account.machine
    account.log_in()
    mountpoint = account.mount("mega:", "--settle", "0")
    (mountpoint / "folder").mkdir()
    (mountpoint / "folder" / "file").write_bytes(b"content")
    (mountpoint / "folder" / "second").write_bytes(b"2")
    machine.ok("flush", "mega:")
    for name in ("file", "second"):
        (mountpoint / "folder" / name).unlink()
    machine.ok("flush", "mega:")
    entries = json.loads(machine.ok("trash", "mega:", "--json"))
    assert [(entry["name"], entry["size"], entry["former"]) for entry in entries] == [
        ("file", 7, "/folder"), ("second", 1, "/folder")
    ]
    assert "7 B" in machine.ok("trash", "mega:").splitlines()[0]
    assert machine.ok("trash", "mega:").splitlines()[0].split()[-3:] == ["file", "from", "/folder"]
    assert machine.ok("restore", "mega:", "file") == "restored /folder/file\n"
    wait_for((mountpoint / "folder" / "file").exists, "the restored file")
    assert (mountpoint / "folder" / "file").read_bytes() == b"content"
    (mountpoint / "folder" / "second").write_bytes(b"another")
    machine.ok("flush", "mega:")
    assert "--name NAME and --to DIR" in machine.fails(10, "restore", "mega:", "second")
    assert "no none in the rubbish bin" in machine.fails(4, "restore", "mega:", "none")
    assert "no /none in" not in machine.fails(4, "restore", "mega:", "second", "--to", "/none")
    assert machine.ok("restore", "mega:", "second", "--to", "/", "--name", "first") == "restored /first\n"
    wait_for((mountpoint / "first").exists, "the restored file")
    account.umount()
    assert account.ls("mega:/folder") == ["file", "second"]


@needs_fuse
def test_back_from_the_bin_without_an_owner(account: Account) -> None:
    machine = account.machine
    account.log_in()
    mountpoint = account.mount("mega:", "--settle", "0")
    (mountpoint / "folder").mkdir()
    (mountpoint / "folder" / "file").write_bytes(b"content")
    machine.ok("flush", "mega:")
    (mountpoint / "folder" / "file").unlink()
    (mountpoint / "folder").rmdir()
    account.umount()
    lines = machine.ok("trash", "mega:").splitlines()
    assert [line.partition(" from ")[2] for line in lines] == ["/folder in the bin", "/"]
    done = machine.run("restore", "mega:", "file")
    assert (done.returncode, done.stdout) == (0, "restored /file\n")
    assert "top of the cloud drive" in done.stderr
    assert machine.ok("restore", "mega:", "folder", "--recursive", "--json")
    assert account.ls() == ["file", "folder/"]


def test_emptying_asks(account: Account) -> None:
    machine, server = account.machine, account.server
    rubbish = next(node["h"] for node in server.control("tree", email=account.email) if node["t"] == 4)
    server.add_file(account.email, "removed", b"x", parent=rubbish)
    server.add_file(account.email, "kept", b"x")
    account.log_in()
    assert "--yes" in machine.fails(2, "trash", "mega:", "--empty")
    shown = b""
    for answer, left in ((b"\n", 1), (b"y\n", 0)):
        ours, theirs = os.openpty()
        command = [str(SERPENTFS), "trash", "mega:", "--empty"]
        with subprocess.Popen(
            command, env=machine.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            os.write(ours, answer)
            try:
                while part := os.read(ours, 1000):
                    shown += part
            except OSError:    # EIO: the terminal's other end is closed
                pass
            assert process.wait(timeout=TIMEOUT) == 0, shown
        os.close(ours)
        assert len(json.loads(machine.ok("trash", "mega:", "--json"))) == left
    assert b"Delete 1 thing and all" in shown
    assert b"nothing was deleted" in shown
    assert machine.ok("trash", "mega:", "--empty", "--yes") == "the rubbish bin is empty\n"
    assert account.ls() == ["kept"]
