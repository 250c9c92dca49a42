"""Owners: mounts and servers in the foreground and background, how they end, what they tell."""

from __future__ import annotations

import contextlib
import ftplib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import PASSPHRASE, TIMEOUT, Machine, needs_fuse, needs_root, wait_for
from tests.mounted import free_port

DOOR_PASSWORD = "canary-door-password-5512"

pytestmark = needs_fuse


def listed(machine: Machine) -> list[str]:
    return machine.ok("ls", machine.url).split("\n")[:-1]


def doors(machine: Machine) -> list[str]:
    """Options of a network door's user."""
    path = machine.home / "doors.password"
    path.touch(0o600)
    path.write_text(DOOR_PASSWORD)
    return ["--user", "me", "--pass-file", str(path)]


def the_status(machine: Machine) -> dict[str, object]:
    (found,) = json.loads(machine.ok("status", "--json"))
    assert isinstance(found, dict)
    return found


def test_daemon_mount_write_umount(with_vault: Machine) -> None:
    printed = with_vault.mount()
    assert printed == f"mounted at {with_vault.mountpoint}\n"
    (with_vault.mountpoint / "file").write_text("content")    # it answers: no waiting here
    assert listed(with_vault) == ["file"]                     # through the owner, uploaded or not
    with_vault.ok("umount", str(with_vault.mountpoint))
    assert not with_vault.is_mounted()
    with_vault.wait_until_gone()
    assert listed(with_vault) == ["file"]                     # from the vault
    with_vault.mount()
    assert (with_vault.mountpoint / "file").read_text() == "content"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_uploads_and_unmounts(with_vault: Machine, number: signal.Signals) -> None:
    process = with_vault.start("mount", with_vault.url, str(with_vault.mountpoint), "--settle", "300")
    assert process.stdout is not None
    assert process.stdout.readline() == f"mounted at {with_vault.mountpoint}\n"
    (with_vault.mountpoint / "file").write_text("content")
    process.send_signal(number)
    assert process.wait(timeout=TIMEOUT) == 0
    assert not with_vault.is_mounted()
    assert listed(with_vault) == ["file"]


def test_umount_now_leaves_changes_to_the_next_start(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("content")
    told = with_vault.fails(14, "umount", "--now", str(with_vault.mountpoint))
    assert "1 change not uploaded" in told or "2 changes not uploaded" in told
    with_vault.wait_until_gone()
    assert not with_vault.is_mounted()
    objects = [path for path in with_vault.vault.rglob("*.c9r") if path.name != "dirid.c9r"]
    assert not objects
    with_vault.ok("flush", with_vault.url)    # becomes the owner for as long as it takes
    assert [path for path in with_vault.vault.rglob("*.c9r") if path.name != "dirid.c9r"]
    assert listed(with_vault) == ["file"]


def test_flush_waits_for_a_running_owner(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("content")
    drive = the_status(with_vault)["drive"]
    assert isinstance(drive, dict)
    assert [change["path"] for change in drive["pending"]][:1] == ["/file"]
    assert "/file" in with_vault.ok("status")
    with_vault.ok("flush", with_vault.url)
    drive = the_status(with_vault)["drive"]
    assert isinstance(drive, dict)
    assert drive["pending"] == []
    assert "all done" in with_vault.ok("status")


def test_a_second_mount_is_refused(with_vault: Machine) -> None:
    with_vault.mount()
    pid = the_status(with_vault)["pid"]
    other = with_vault.home / "other"
    other.mkdir()
    told = with_vault.fails(5, "mount", with_vault.url, str(other), "--daemon")
    assert str(pid) in told
    assert f"mount --bind {with_vault.mountpoint} DIR" in told
    told = with_vault.fails(5, "mount", with_vault.url, str(with_vault.mountpoint), "--daemon")    # the same place
    assert "already" in told
    # The same vault under another URL: found by the vault's own id, after unlocking.
    link = with_vault.home / "link"
    link.symlink_to(with_vault.vault)
    assert str(pid) in with_vault.fails(5, "mount", f"vault+file://{link}", str(other), "--daemon")


def test_umount_with_open_files(with_vault: Machine) -> None:
    with_vault.mount()
    with (with_vault.mountpoint / "file").open("w") as file:
        told = with_vault.fails(5, "umount", str(with_vault.mountpoint))
        assert "files are open" in told
        assert with_vault.is_mounted()
        file.write("still here")
        file.flush()
    with_vault.ok("umount", str(with_vault.mountpoint))
    assert listed(with_vault) == ["file"]


def test_umount_lazy(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("content")
    descriptor = os.open(with_vault.mountpoint / "file", os.O_RDONLY)
    try:
        assert os.read(descriptor, 1) == b"c"
        with_vault.ok("umount", "--lazy", str(with_vault.mountpoint))
        assert not with_vault.is_mounted()
        with_vault.wait_until_gone()
    finally:
        with contextlib.suppress(OSError):    # ENOTCONN: the process behind it is gone
            os.close(descriptor)
    assert listed(with_vault) == ["file"]


def test_an_unmount_from_outside_uploads_and_ends(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("content")
    subprocess.run(["umount", str(with_vault.mountpoint)], check=True, timeout=TIMEOUT)
    with_vault.wait_until_gone()
    assert listed(with_vault) == ["file"]


def test_after_a_kill_the_next_mount_takes_the_dead_one_away(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("content")
    os.kill(int(str(the_status(with_vault)["pid"])), signal.SIGKILL)
    with_vault.wait_until_gone()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        next(with_vault.mountpoint.iterdir())
    with_vault.mount()
    assert (with_vault.mountpoint / "file").read_text() == "content"


def test_a_dead_mount_can_be_unmounted(with_vault: Machine) -> None:
    with_vault.mount()
    os.kill(int(str(the_status(with_vault)["pid"])), signal.SIGKILL)
    with_vault.wait_until_gone()
    with_vault.ok("umount", str(with_vault.mountpoint))
    assert not with_vault.is_mounted()


def test_read_only(with_vault: Machine) -> None:
    with_vault.mount()
    (with_vault.mountpoint / "file").write_text("content")
    with_vault.ok("umount", str(with_vault.mountpoint))
    for words in (["--read-only"], ["-o", "ro"]):
        with_vault.mount(*words)
        assert (with_vault.mountpoint / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only"):
            (with_vault.mountpoint / "new").write_text("x")
        with_vault.ok("umount", str(with_vault.mountpoint))


def test_a_folder_of_the_drive(with_vault: Machine) -> None:
    with_vault.mount()
    (with_vault.mountpoint / "Photos").mkdir()
    (with_vault.mountpoint / "Photos" / "a").write_text("a")
    with_vault.ok("umount", str(with_vault.mountpoint))
    with_vault.ok("mount", f"{with_vault.url}#/Photos", str(with_vault.mountpoint), "--daemon")
    assert [path.name for path in with_vault.mountpoint.iterdir()] == ["a"]
    assert with_vault.ok("ls", "-l", f"{with_vault.url}#/Photos").endswith(" a\n")


def test_mount_options(with_vault: Machine) -> None:
    uid = 1234 if os.geteuid() == 0 else os.geteuid()    # nobody else gets in
    with_vault.mount("--uid", str(uid), "-o", "gid=2345,umask=077,noatime", "-o", "nonempty")
    (with_vault.mountpoint / "file").write_text("x")
    with_vault.ok("umount", str(with_vault.mountpoint))
    with_vault.mount("--uid", str(uid), "-o", "gid=2345,umask=077")
    status = with_vault.mountpoint.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (uid, 2345, 0o700)


def test_bad_mount_points(with_vault: Machine) -> None:
    with_vault.fails(2, "mount", with_vault.url, str(with_vault.home / "none"))
    with_vault.fails(2, "mount", with_vault.url, str(with_vault.passphrase_file))
    (with_vault.mountpoint / "x").touch()
    assert "not empty" in with_vault.fails(2, "mount", with_vault.url, str(with_vault.mountpoint))
    with_vault.fails(2, "mount", with_vault.url, str(with_vault.mountpoint), "-o", "nonempty,uid=x")
    (with_vault.mountpoint / "x").unlink()
    assert not with_vault.is_mounted()


def test_three_doors_of_one_process(with_vault: Machine) -> None:
    webdav, ftp = free_port(), free_port()
    printed = with_vault.mount(
        "--webdav", f"127.0.0.1:{webdav}", "--ftp", f"127.0.0.1:{ftp}", *doors(with_vault)
    )
    assert printed == (
        f"mounted at {with_vault.mountpoint}\nWebDAV at http://127.0.0.1:{webdav}/\nFTP at ftp://127.0.0.1:{ftp}/\n"
    )
    (with_vault.mountpoint / "file").write_text("content")
    address = f"http://127.0.0.1:{webdav}/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address + "file", timeout=TIMEOUT)
    refused.value.close()
    assert refused.value.code == 401
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, address, "me", DOOR_PASSWORD)
    browser = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    with browser.open(address + "file", timeout=TIMEOUT) as answer:
        assert answer.read() == b"content"
    with ftplib.FTP() as client:
        client.connect("127.0.0.1", ftp, timeout=TIMEOUT)
        client.login("me", DOOR_PASSWORD)
        assert "file" in client.nlst()
    assert set(the_status(with_vault)["doors"]) == {"mount", "webdav", "ftp"}    # type: ignore[call-overload]
    with_vault.ok("umount", str(with_vault.mountpoint))
    with_vault.wait_until_gone()


@pytest.mark.parametrize("door", ["webdav", "ftp"])
def test_a_network_door_alone(with_vault: Machine, door: str) -> None:
    printed = with_vault.ok(door, with_vault.url, "--listen", "127.0.0.1:0", "--daemon", *doors(with_vault))
    assert "127.0.0.1:" in printed
    assert ":0/" not in printed
    assert not with_vault.is_mounted()
    assert door in with_vault.ok("status", with_vault.url)
    with_vault.ok("umount", with_vault.url)
    with_vault.wait_until_gone()


def test_both_network_doors_without_a_mount(with_vault: Machine) -> None:
    port = free_port()
    words = ["--no-auth", "--listen", "127.0.0.1:0", "--ftp", f"127.0.0.1:{port}", "--daemon"]
    printed = with_vault.ok("webdav", with_vault.url, *words)
    assert printed.endswith(f"\nFTP at ftp://127.0.0.1:{port}/\n")
    with ftplib.FTP() as client:
        client.connect("127.0.0.1", port, timeout=TIMEOUT)
        client.login()
        client.mkd("folder")
    assert listed(with_vault) == ["folder/"]


def test_a_mount_through_a_link(with_vault: Machine) -> None:
    link = with_vault.home / "link"
    link.symlink_to("mnt")
    with_vault.ok("mount", with_vault.url, str(link), "--daemon")
    assert with_vault.is_mounted()
    with_vault.ok("umount", str(link))
    assert not with_vault.is_mounted()


@pytest.mark.parametrize(("words", "message"), [
    (["webdav"], "--user NAME and --pass-file FILE"),
    (["ftp", "--user", "me"], "--user NAME and --pass-file FILE"),
    (["webdav", "--no-auth", "--user", "me"], "does not go together"),
    (["webdav", "--no-auth", "--tls"], "--tls needs --certificate"),
    (["ftp", "--no-auth", "--listen", "0.0.0.0:0"], "public"),
    (["webdav", "--no-auth", "--public", "--listen", "0.0.0.0:0"], "insecure"),
])
def test_doors_that_may_not_open(with_vault: Machine, words: list[str], message: str) -> None:
    assert message in with_vault.fails(2, words[0], with_vault.url, *words[1:])


def test_a_daemon_that_cannot_start_says_why(with_vault: Machine) -> None:
    (with_vault.home / "wrong").write_text("wrong")
    (with_vault.home / "wrong").chmod(0o600)
    mount = ["mount", with_vault.url, str(with_vault.mountpoint), "--daemon"]
    with_vault.fails(3, *mount, "--password-file", str(with_vault.home / "wrong"))
    assert not with_vault.is_mounted()
    port = free_port()
    with_vault.ok("webdav", with_vault.url, "--no-auth", "--listen", f"127.0.0.1:{port}", "--daemon")
    second = f"vault+file://{with_vault.home}/vault2"
    with_vault.ok("init", second)
    mount[1] = second
    told = with_vault.run(*mount, "--webdav", f"127.0.0.1:{port}", "--no-auth")
    assert told.returncode in (2, 5), (told.returncode, told.stderr)
    assert str(port) in told.stderr
    assert told.stderr.count("\n") == 1
    assert not with_vault.is_mounted()


@needs_root
def test_secrets_stay_out_of_sight(with_vault: Machine) -> None:
    """Not in arguments, environment, log, state, cache, or what is printed; and no core file could hold them."""
    log = with_vault.home / "log"
    printed = with_vault.mount(
        "-vv", "--log-file", str(log), "--webdav", "127.0.0.1:0", "--ftp", "127.0.0.1:0", *doors(with_vault)
    )
    (with_vault.mountpoint / "file").write_text("content")
    printed += with_vault.ok("status") + with_vault.ok("status", "--json")
    pid = the_status(with_vault)["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["0", "0"]
    seen = [printed.encode(), log.read_bytes()]
    for process in with_vault.daemons():
        seen += [Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")]
    with_vault.ok("umount", str(with_vault.mountpoint))
    seen.append(log.read_bytes())
    for folder in ("state", "cache", "run"):
        seen += [path.read_bytes() for path in (with_vault.home / folder).rglob("*") if path.is_file()]
    assert len(seen) > 6
    for secret in (PASSPHRASE, DOOR_PASSWORD):
        assert not any(secret.encode() in data for data in seen)


def test_state_is_private(with_vault: Machine) -> None:
    with_vault.mount()
    (with_vault.mountpoint / "file").write_text("content")
    for path in [with_vault.home / "state" / "serpentfs", with_vault.state, with_vault.home / "run" / "serpentfs"]:
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (with_vault.home / "run").rglob("*.sock"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (with_vault.state / "vault.cryptomator").is_file()
    assert (with_vault.state / "masterkey.cryptomator").is_file()


def test_a_second_signal_stops_at_once(with_vault: Machine) -> None:
    """With the store gone there is no end to the uploads; the second Ctrl-C does not wait for it."""
    process = with_vault.start("mount", with_vault.url, str(with_vault.mountpoint), "--settle", "300", "-v")
    assert process.stdout is not None
    assert process.stdout.readline()
    with_vault.vault.rename(with_vault.home / "gone")
    (with_vault.mountpoint / "file").write_text("content")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "SIGINT: stopping" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=TIMEOUT) in (0, 14)
    wait_for(lambda: not with_vault.is_mounted(), "the unmount")
    (with_vault.home / "gone").rename(with_vault.vault)
    with_vault.ok("flush", with_vault.url)
    assert listed(with_vault) == ["file"]


def test_a_start_without_the_store(with_vault: Machine) -> None:
    """A drive that was opened here once starts from what is known, takes changes, and uploads them later."""
    with_vault.mount()
    (with_vault.mountpoint / "file").write_text("content")
    cache = with_vault.home / "cache"
    wait_for(lambda: any(path.is_file() for path in cache.rglob("*")), "the cache to take over what was uploaded")
    with_vault.ok("umount", str(with_vault.mountpoint))
    with_vault.vault.rename(with_vault.home / "gone")
    wrong = with_vault.home / "wrong"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    with_vault.fails(3, "mount", with_vault.url, str(with_vault.mountpoint), "--password-file", str(wrong))
    with_vault.mount()
    assert (with_vault.mountpoint / "file").read_text() == "content"    # from the sealed cache
    (with_vault.mountpoint / "new").write_text("written offline")
    wait_for(lambda: "offline" in with_vault.ok("status"), "the status to tell")
    (with_vault.home / "gone").rename(with_vault.vault)
    with_vault.ok("umount", str(with_vault.mountpoint))
    assert listed(with_vault) == ["file", "new"]
