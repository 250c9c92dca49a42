"""One process for a remote: doors that others ask it to open, doors taken away, and how it ends."""

from __future__ import annotations

import base64
import contextlib
import ftplib
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli.conftest import TIMEOUT, Machine, needs_fuse, needs_root, wait_for
from tests.mounted import free_port
from tests.rounds import rounds

DOOR_PASSWORD = "canary-door-password-8840"

pytestmark = needs_fuse


def user(machine: Machine, name: str = "me", password: str = DOOR_PASSWORD) -> list[str]:
    path = machine.home / f"{name}.password"
    path.touch(0o600)
    path.write_text(password)
    return ["--user", name, "--pass-file", str(path)]


def status(machine: Machine) -> dict[str, Any]:
    (found,) = json.loads(machine.ok("status", "--json"))
    assert isinstance(found, dict)
    return found


def get(address: str, name: str = "me", password: str = DOOR_PASSWORD) -> bytes:
    request = urllib.request.Request(address)
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        content: bytes = answer.read()
    return content


def address_in(printed: str) -> str:
    """The address in "WebDAV at http://127.0.0.1:1234/"."""
    assert printed.count("\n") == 1, printed
    return printed.split()[-1]


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def webdav(machine: Machine, *words: str) -> str:
    return address_in(machine.ok("webdav", machine.url, "--listen", "127.0.0.1:0", *user(machine), *words))


# attaching


def test_doors_are_opened_by_who_owns_the_remote(with_vault: Machine) -> None:
    with_vault.mount()
    (with_vault.mountpoint / "folder").mkdir()
    (with_vault.mountpoint / "folder" / "file").write_text("content")
    before = status(with_vault)
    first = webdav(with_vault)    # in the foreground: it returns all the same
    port = free_port()
    told = with_vault.ok(
        "ftp", f"{with_vault.url}#/folder", "--listen", f"127.0.0.1:{port}", *user(with_vault, "other", "x y"),
        "--daemon", "--read-only",
    )
    assert told == f"FTP at ftp://127.0.0.1:{port}/\n"
    after = status(with_vault)
    assert after["pid"] == before["pid"]
    assert after["doors"] == {"mount": str(with_vault.mountpoint), "webdav": first, "ftp": f"ftp://127.0.0.1:{port}/"}
    assert get(f"{first}folder/file") == b"content"
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        get(f"{first}folder/file", "other", "x y")
    refused.value.close()
    with ftplib.FTP() as client:    # its own folder, user and rights
        client.connect("127.0.0.1", port, timeout=TIMEOUT)
        client.login("other", "x y")
        assert client.nlst() == ["file"]
        with pytest.raises(ftplib.error_perm):
            client.delete("file")
    (with_vault.mountpoint / "folder" / "file").unlink()    # the other doors take changes
    assert len(with_vault.daemons()) == 1


def test_a_mount_joins_a_network_door(with_vault: Machine) -> None:
    address = webdav(with_vault, "--daemon")
    uid = 1234 if os.geteuid() == 0 else os.geteuid()    # nobody else gets in
    assert with_vault.mount("-o", "gid=2345,umask=077", "--uid", str(uid)) == f"mounted at {with_vault.mountpoint}\n"
    (with_vault.mountpoint / "file").write_text("content")
    assert with_vault.mountpoint.stat().st_mode & 0o777 == 0o700
    assert get(f"{address}file") == b"content"
    with_vault.ok("umount", str(with_vault.mountpoint))
    assert not with_vault.is_mounted()
    assert get(f"{address}file") == b"content"
    with_vault.mount()    # a second time, in the same process
    put = urllib.request.Request(f"{address}file", b"changed", method="PUT")
    put.add_header("Authorization", "Basic " + base64.b64encode(f"me:{DOOR_PASSWORD}".encode()).decode())
    assert (with_vault.mountpoint / "file").read_text() == "content"    # now in the kernel's cache, too
    with urllib.request.urlopen(put, timeout=TIMEOUT):
        pass
    wait_for(lambda: (with_vault.mountpoint / "file").read_text() == "changed", "the kernel to be told")


def test_the_same_remote_under_another_url(with_vault: Machine) -> None:
    with_vault.mount()
    link = with_vault.home / "link"
    link.symlink_to(with_vault.vault)
    words = ["--listen", "127.0.0.1:0", *user(with_vault)]
    for more in ([], ["--daemon"]):
        address_in(with_vault.ok("webdav", f"vault+file://{link}", *words, *more))
        with_vault.ok("webdav", "-d", with_vault.url)
    assert len(with_vault.daemons()) == 1


def figures(machine: Machine) -> dict[str, int]:
    """What was counted: blocks by where they came from, and what was fetched from the store."""
    found = {}
    for one in json.loads(machine.ok("stats", "--json")):
        labels = [value for label, value in dict(one["labels"]).items() if label not in ("remote", "outcome")]
        found[" ".join([one["name"].removeprefix("serpentfs_"), *labels])] = int(one["value"])
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's mounts are read ahead by more than a block")
def test_one_cache_for_all_doors(with_vault: Machine) -> None:
    """What is read through one door is not fetched again for another one, and counted once for each read; not at all
    where the kernel has it from the time before."""
    with_vault.mount()
    blocks = 8    # of 128 KiB
    content = os.urandom(blocks << 17)
    (with_vault.mountpoint / "file").write_bytes(content)
    with_vault.ok("umount", str(with_vault.mountpoint))
    with_vault.mount("--cache-disk", "0")    # nothing is kept from before
    address = webdav(with_vault)
    ftp = address_in(with_vault.ok("ftp", with_vault.url, "--listen", "127.0.0.1:0", *user(with_vault)))

    def by_mount() -> bytes:
        return (with_vault.mountpoint / "file").read_bytes()

    def by_webdav() -> bytes:
        return get(f"{address}file")

    def by_ftp() -> bytes:
        pieces: list[bytes] = []
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", int(ftp.rstrip("/").rpartition(":")[2]), timeout=TIMEOUT)
            client.login("me", DOOR_PASSWORD)
            client.retrbinary("RETR file", pieces.append)
        return b"".join(pieces)

    counted = ("cache_blocks_total cloud", "cache_misses_total", "cache_blocks_total memory", "cache_hits_total",
               "cloud_bytes_total down", "cloud_calls_total read")
    before = figures(with_vault)
    reads = (
        (by_mount, blocks, [0]), (by_webdav, 0, [blocks]),
        # Whatever the kernel asks for, in pieces of which two may meet in a block.
        (by_ftp, 0, range(2 * blocks + 1)), (by_webdav, 0, range(1, 2 * blocks + 1)),
    )  # fmt: skip
    for read, fetched, found in reads:
        assert read() == content
        after = figures(with_vault)
        grown = [after[name] - before.get(name, 0) for name in counted]
        assert grown[2] in found, read
        assert grown == [fetched, fetched, grown[2], grown[2], fetched << 17, 1 if fetched else 0], read
        before = after


def test_mistakes_are_told_as_when_the_door_is_opened_directly(with_vault: Machine) -> None:
    taken = free_port()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", taken))
        holder.listen()
        wrong = [
            ["webdav", with_vault.url, "--listen", f"127.0.0.1:{taken}", "--no-auth"],
            ["webdav", f"{with_vault.url}#/none", "--listen", "127.0.0.1:0", "--no-auth"],
            ["webdav", with_vault.url, "--listen", "0.0.0.0:0", "--no-auth"],
            ["mount", with_vault.url, str(with_vault.home / "none")],
            ["mount", f"{with_vault.url}#/none", str(with_vault.mountpoint)],
            ["mount", with_vault.url, str(with_vault.mountpoint), "--webdav", f"127.0.0.1:{taken}", "--no-auth"],
        ]

        def told() -> list[tuple[int, str]]:
            answers = [with_vault.run(*words) for words in wrong]
            return [(answer.returncode, answer.stderr) for answer in answers]

        directly = told()
        assert all(code in (2, 4, 5) and line.count("\n") == 1 for code, line in directly), directly
        address = address_in(with_vault.ok("ftp", with_vault.url, "--listen", "127.0.0.1:0", "--no-auth", "--daemon"))
        assert told() == directly
    assert status(with_vault)["doors"] == {"ftp": address}
    assert not with_vault.is_mounted()    # the last one opened all or nothing


def test_one_door_of_a_kind(with_vault: Machine) -> None:
    address = webdav(with_vault, "--daemon")
    told = with_vault.fails(5, "webdav", with_vault.url, "--listen", "127.0.0.1:0", "--no-auth")
    assert address in told
    assert "webdav -d" in told


def test_a_read_only_drive_says_so(with_vault: Machine) -> None:
    webdav(with_vault, "--daemon", "--read-only")
    done = with_vault.run("mount", with_vault.url, str(with_vault.mountpoint))
    assert done.returncode == 0
    assert "read-only" in done.stderr
    with pytest.raises(OSError, match="Read-only"):
        (with_vault.mountpoint / "new").write_text("x")


# taking doors away


def test_doors_go_one_by_one_and_the_last_one_uploads(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    address = webdav(with_vault)
    port = int(address.rstrip("/").rpartition(":")[2])
    with_vault.ok("ftp", with_vault.url, "--listen", "127.0.0.1:0", "--no-auth")
    (with_vault.mountpoint / "file").write_text("content")
    with_vault.ok("umount", str(with_vault.mountpoint))    # does not wait for the upload: others go on with it
    assert status(with_vault)["drive"]["pending"]
    assert set(status(with_vault)["doors"]) == {"webdav", "ftp"}
    with_vault.ok("webdav", "-d", with_vault.url)
    assert is_refused(port)
    with_vault.fails(4, "webdav", "-d", with_vault.url)
    assert set(status(with_vault)["doors"]) == {"ftp"}
    with_vault.ok("ftp", "-d", with_vault.url)
    with_vault.wait_until_gone()
    with_vault.fails(4, "ftp", "-d", with_vault.url)
    assert with_vault.ok("ls", with_vault.url) == "file\n"


def test_the_last_door_now_leaves_changes_to_the_next_start(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    webdav(with_vault)
    (with_vault.mountpoint / "file").write_text("content")
    with_vault.ok("umount", "--now", str(with_vault.mountpoint))    # not the last: nothing is left behind
    assert "not uploaded" in with_vault.fails(14, "webdav", "-d", "--now", with_vault.url)
    with_vault.wait_until_gone()
    assert not [path for path in with_vault.vault.rglob("*.c9r") if path.name != "dirid.c9r"]
    with_vault.fails(2, "webdav", "--now", with_vault.url, "--no-auth")


def test_umount_with_open_files_takes_nothing_away(with_vault: Machine) -> None:
    with_vault.mount()
    webdav(with_vault)
    descriptor = os.open(with_vault.mountpoint / "file", os.O_CREAT | os.O_WRONLY)
    try:
        assert "files are open" in with_vault.fails(5, "umount", str(with_vault.mountpoint))
        assert set(status(with_vault)["doors"]) == {"mount", "webdav"}
        with_vault.ok("umount", "--lazy", str(with_vault.mountpoint))
        assert set(status(with_vault)["doors"]) == {"webdav"}
    finally:
        with contextlib.suppress(OSError):    # ENOTCONN: no door is behind it any more
            os.close(descriptor)


def test_an_unmount_from_outside_leaves_the_other_doors(with_vault: Machine) -> None:
    with_vault.mount()
    address = webdav(with_vault)
    (with_vault.mountpoint / "file").write_text("content")
    subprocess.run(["umount", str(with_vault.mountpoint)], check=True, timeout=TIMEOUT)
    wait_for(lambda: set(status(with_vault)["doors"]) == {"webdav"}, "the mount to be taken away")
    assert get(f"{address}file") == b"content"


def test_umount_of_a_remote_ends_all(with_vault: Machine) -> None:
    with_vault.mount()
    webdav(with_vault)
    with_vault.ok("umount", with_vault.url)
    with_vault.wait_until_gone()
    assert not with_vault.is_mounted()


# nothing is left behind


def test_after_a_kill_with_all_doors_open_the_next_start_cleans_up(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    address = webdav(with_vault)
    with_vault.ok("ftp", with_vault.url, "--listen", "127.0.0.1:0", "--no-auth")
    (with_vault.mountpoint / "file").write_text("content")
    os.kill(status(with_vault)["pid"], signal.SIGKILL)
    with_vault.wait_until_gone()
    assert with_vault.is_mounted()    # dead, as the kernel keeps it
    assert with_vault.ok("status") == "nothing is running\n"
    again = webdav(with_vault, "--daemon", "--listen", address.split("/")[2])    # not the door that left it
    assert again == address
    assert not with_vault.is_mounted()
    assert get(f"{again}file") == b"content"
    with_vault.mount()
    assert (with_vault.mountpoint / "file").read_text() == "content"


def test_starts_and_stops_leave_nothing(with_vault: Machine) -> None:
    mounts = Path("/proc/self/mountinfo").read_text().count(str(with_vault.home))
    for number in range(rounds(4, 50)):
        with_vault.mount()
        with_vault.ok("webdav", with_vault.url, "--listen", "127.0.0.1:0", "--no-auth")
        (with_vault.mountpoint / "file").write_text(str(number))
        if number % 2:
            with_vault.ok("umount", with_vault.url)
        else:
            with_vault.ok("webdav", "-d", with_vault.url)
            with_vault.ok("umount", str(with_vault.mountpoint))
        with_vault.wait_until_gone()
        assert Path("/proc/self/mountinfo").read_text().count(str(with_vault.home)) == mounts
        assert not list((with_vault.home / "run" / "serpentfs").iterdir())
    assert len(list((with_vault.home / "state" / "serpentfs").glob("*/owner.lock"))) == 1
    assert with_vault.ok("ls", with_vault.url) == "file\n"


@needs_root
def test_doors_opened_and_closed_leak_no_descriptors(with_vault: Machine) -> None:
    with_vault.ok("ftp", with_vault.url, "--listen", "127.0.0.1:0", "--no-auth", "--daemon")
    (pid,) = with_vault.daemons()

    def open_descriptors() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    def threads() -> int:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))

    def a_round() -> None:
        get(f"{webdav(with_vault)}")
        with_vault.mount()
        next(with_vault.mountpoint.iterdir(), None)
        with_vault.ok("webdav", "-d", with_vault.url)
        with_vault.ok("umount", str(with_vault.mountpoint))

    a_round()    # what is made once and kept
    before = open_descriptors()
    workers = threads()
    for _ in range(3):
        a_round()
    wait_for(lambda: open_descriptors() <= before, "descriptors to be closed", 10)
    assert threads() <= workers + 8    # trio keeps some idle ones for a while
