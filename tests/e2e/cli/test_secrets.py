"""Secrets stay in the memory of the process that needs them: canaries are looked for in logs, arguments, environments,
files and what is printed, in every form in which they could be written down."""

from __future__ import annotations

import base64
import contextlib
import ftplib
import json
import os
import resource
import shutil
import signal
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from serpentfs.clouds.vault.masterkey import unlock
from tests.e2e.cli.conftest import PASSPHRASE, SERPENTFS, TIMEOUT, Machine, needs_fuse, needs_root, wait_for
from tests.fakes.s3_server import S3Server
from tests.mega_emulator import emulator

DOOR_PASSWORD = "canary-door-password-3071"
NAME, CONTENT = "canary-name-3071.txt", "canary-content-3071"
ACCOUNT_PASSWORD = "canary-account-password-3071"


def written_down(secret: bytes) -> set[bytes]:
    """The forms in which programs show bytes."""
    base = base64.b64encode(secret).rstrip(b"=")
    numbers = ", ".join(map(str, secret)).encode()
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), base, base.translate(URL_SAFE),
            repr(secret)[2:-1].encode(), numbers}


URL_SAFE = bytes.maketrans(b"+/", b"-_")


def find(secrets: Iterable[bytes], seen: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Where a secret can be seen, and in which form."""
    forms = {form for secret in secrets for form in written_down(secret)}
    return [(place, form) for place, data in seen.items() for form in forms if form in data]


def files_below(*folders: Path) -> dict[str, bytes]:
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):    # come and gone
                if path.is_file():
                    found[str(path)] = os.fsencode(path) + b"\0" + path.read_bytes()
    return found


def processes(machine: Machine) -> dict[str, bytes]:
    """Arguments and environments of all processes of this user's drives, the helpers of libfuse among them."""
    found = {}
    for pid in machine.daemons():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found[f"{pid} {name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def log_in(address: str, password: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(address, body, method="PUT" if body else "GET")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"me:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def owner_of(machine: Machine) -> dict[str, Any]:
    (found,) = json.loads(machine.ok("status", "--json"))
    assert isinstance(found, dict)
    return found


# What a program that is started for the passphrase can see: of itself, and of who started it.
PASSWORD_COMMAND = """\
#!/bin/sh
for pid in self $PPID; do
    tr '\\0' '\\n' < /proc/$pid/cmdline; tr '\\0' '\\n' < /proc/$pid/environ
done > {home}/seen-by-child 2> /dev/null
ls -l /proc/self/fd | grep -v /proc > {home}/descriptors-of-child
cat {home}/passphrase
"""


@needs_root
@needs_fuse
def test_a_vault_with_all_doors(with_vault: Machine) -> None:
    machine = with_vault
    key = unlock((machine.vault / "masterkey.cryptomator").read_bytes(), PASSPHRASE)
    login = f"me:{DOOR_PASSWORD}".encode()
    secrets = [PASSPHRASE.encode(), DOOR_PASSWORD.encode(), login, key.encryption, key.mac]
    command = machine.home / "command"
    command.write_text(PASSWORD_COMMAND.format(home=machine.home))
    command.chmod(0o700)
    password = machine.home / "door-password"
    password.touch(0o600)
    password.write_text(DOOR_PASSWORD + "\n")
    log = machine.home / "log"
    said: dict[str, bytes] = {}

    def run(*words: str, codes: tuple[int, ...] = (0,)) -> str:
        done = machine.run(*words)
        assert done.returncode in codes, (words, done.stdout, done.stderr)
        said[" ".join(words)] = (done.stdout + done.stderr).encode()
        return done.stdout

    # With auto_unmount libfuse mounts through its setuid helper, which stays for as long as the mount.
    run(
        "mount", machine.url, str(machine.mountpoint), "--daemon", "-vvv", "--log-names", "--log-file", str(log),
        "--settle", "0.05", "--password-command", str(command), "-o", "auto_unmount",
    )
    door = ("--listen", "127.0.0.1:0", "--user", "me", "--pass-file", str(password), "-vvv")
    dav = run("webdav", machine.url, *door).split()[-1]
    ftp = run("ftp", machine.url, *door).split()[-1]
    (machine.mountpoint / NAME).write_text(CONTENT)
    assert log_in(f"{dav}{NAME}", DOOR_PASSWORD) == 200
    assert log_in(f"{dav}new-{NAME}", DOOR_PASSWORD, CONTENT.encode()) == 201
    assert log_in(f"{dav}{NAME}", "wrong" + DOOR_PASSWORD[:-1]) == 401
    with ftplib.FTP() as client:
        client.connect("127.0.0.1", int(ftp.rstrip("/").rpartition(":")[2]), timeout=TIMEOUT)
        with pytest.raises(ftplib.error_perm):
            client.login("me", DOOR_PASSWORD[:-1])
        client.login("me", DOOR_PASSWORD)
        assert NAME in client.nlst()
    run("flush", machine.url)
    for words in (["status"], ["status", "--json"], ["stats"], ["transfers"], ["ls", machine.url], ["config", "show"]):
        run(*words)
    run("verify", f"{machine.url}#/", "-vvv")
    os.kill(owner_of(machine)["pid"], signal.SIGUSR1)
    wait_for(lambda: (machine.state / "state-dump.json").exists(), "the state to be written")
    seen = processes(machine)
    assert any(b"fusermount3" in data for data in seen.values()), list(seen)
    assert len(seen) >= 4
    bundle = str(machine.home / "bundle")
    run("doctor", "--bundle", bundle, "--bundle-log", str(log), codes=(0, 15))    # whatever it finds
    run("umount", machine.url)
    machine.wait_until_gone()
    run("ls", machine.url, "-vvv", "--password-file", str(password), codes=(3,))    # not its passphrase

    kept = files_below(*(machine.home / name for name in ("state", "cache", "run", "config", "vault")))
    assert any(name.endswith("state.db") for name in kept)
    by_child = {name: (machine.home / name).read_bytes() for name in ("seen-by-child", "descriptors-of-child")}
    assert b"--password-command" in by_child["seen-by-child"]    # its parent's arguments
    for told in (seen, said, {"log": log.read_bytes()}, kept, by_child, unpacked(machine.home / "bundle")):
        assert find(secrets, told) == []
    assert b"MAX_VERBOSE" in log.read_bytes()
    # And on the disks nothing that the user wrote either.
    assert find([NAME.encode(), CONTENT.encode()], kept) == []
    # The program for the passphrase got a pipe for it, and no file of ours.
    assert "state" not in by_child["descriptors-of-child"].decode().replace(str(machine.home), "")


@needs_root
def test_a_mega_account(machine: Machine) -> None:
    with emulator() as server:
        email = "anna@example.test"
        server.add_account(email, ACCOUNT_PASSWORD)
        machine.passphrase_file.write_text(ACCOUNT_PASSWORD + "\n")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        log = machine.home / "log"
        said = {"login": machine.run("login", email, "-vvv").stderr.encode()}
        kept_session = machine.home / "state" / "serpentfs" / "mega" / "mega.session"
        session = json.loads(kept_session.read_text())
        secrets = [ACCOUNT_PASSWORD.encode(), session["sid"].encode(), *both(session["key"]), *both(session["sid"])]
        words = ("webdav", "mega:", "--no-auth", "--listen", "127.0.0.1:0", "--daemon", "--settle", "0.05")
        address = machine.ok(*words, "-vvv", "--log-names", "--log-file", str(log)).split()[-1]
        request = urllib.request.Request(f"{address}{NAME}", CONTENT.encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            pass
        machine.ok("flush", "mega:")
        commands = ("status --json", "whoami --json", "stats", "ls mega:/", f"versions mega:/{NAME}", "config show")
        for command in commands:
            done = machine.run(*command.split(), "-vvv")
            said[command] = (done.stdout + done.stderr).encode()
        os.kill(owner_of(machine)["pid"], signal.SIGUSR1)
        wait_for(lambda: bool(files_named(machine.home, "state-dump.json")), "the state to be written")
        seen = processes(machine)
        machine.ok("umount", "mega:")
        machine.wait_until_gone()
        kept = files_below(*(machine.home / name for name in ("state", "cache", "run")))
        assert find(secrets, {"session": kept.pop(str(kept_session))})    # there, and for this user only
        assert kept_session.stat().st_mode & 0o077 == 0
        for told in (seen, said, {"log": log.read_bytes()}, kept):
            assert told
            assert find(secrets, told) == []
        assert find([NAME.encode(), CONTENT.encode()], kept) == []


@needs_root
def test_keys_of_s3(machine: Machine) -> None:
    """Also in what is told of a store that refuses, and of one that is gone."""
    key_id, key = "CANARYKEYID3071ABCDE", "canary/secret+access/key/3071"
    machine.extra_environment |= {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": key}
    secrets = [PASSPHRASE.encode(), key.encode(), key_id.encode()]
    log, bundle = machine.home / "log", machine.home / "bundle.tar.gz"
    said: dict[str, bytes] = {}

    def run(line: str, *codes: int) -> str:
        done = machine.run(*line.split(), "-vvv")
        assert done.returncode in codes, (line, done.stderr)
        said[line] = (done.stdout + done.stderr).encode()
        return done.stdout

    with S3Server() as server:
        server.make_bucket("bucket")
        url = f"vault+s3://bucket/vault?endpoint={server.endpoint}&region=r"
        run(f"init {url}", 0)
        run(f"remote add home {url}", 0)
        run(f"ls vault+s3://other/vault?endpoint={server.endpoint}&region=r", 2)
        words = f"webdav {url} --no-auth --listen 127.0.0.1:0 --settle 0.05 --daemon --log-names --log-file {log}"
        address = run(words, 0).split()[-1]
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}{NAME}", CONTENT.encode(), method="PUT"), timeout=TIMEOUT
        ):
            pass
        run("flush home:", 0)
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}late-{NAME}", CONTENT.encode(), method="PUT"), timeout=TIMEOUT
    ):
        pass
    wait_for(lambda: any(one["tries"] for one in owner_of(machine)["drive"]["pending"]), "an attempt to fail")
    for line in ("status", "status --json", "transfers", "stats", "config show home:"):
        run(line, 0)
    run(f"doctor --bundle {bundle} --bundle-log {log}", 0, 15, 6)
    os.kill(owner_of(machine)["pid"], signal.SIGUSR1)
    wait_for(lambda: bool(files_named(machine.home, "state-dump.json")), "the state to be written")
    arguments = {name: data for name, data in processes(machine).items() if name.endswith("cmdline")}
    run("umount --now home:", 14)
    machine.wait_until_gone()
    kept = files_below(*(machine.home / name for name in ("state", "cache", "run", "config")))
    for told in (arguments, said, {"log": log.read_bytes()}, kept, unpacked(bundle)):
        assert told
        assert find(secrets, told) == []
    assert find([NAME.encode(), CONTENT.encode()], kept | unpacked(bundle)) == []


def unpacked(bundle: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(bundle) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                found[member.name] = member.name.encode() + file.read()
    assert found
    return found


def both(encoded: str) -> list[bytes]:
    """A secret as MEGA writes it, and its bytes."""
    return [encoded.encode(), base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))]


def files_named(folder: Path, name: str) -> list[Path]:
    return list(folder.rglob(name))


# Root may read all memory, and so can show nothing: without its capabilities it is a user as any other.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"] if os.geteuid() == 0 else []


def allow_cores() -> None:
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def may_look_into(pid: int) -> dict[str, bool]:
    """What another program of the same user gets of a process."""
    found = {}
    for name in ("environ", "mem", "maps"):
        command = [*UNPRIVILEGED, "dd", f"if=/proc/{pid}/{name}", "of=/dev/null", "count=1"]
        look = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
        denied = b"Permission denied" in look.stderr or b"not permitted" in look.stderr
        found[name] = not denied
    return found


@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="root without setpriv sees all")
def test_no_other_program_looks_into_memory_and_a_crash_leaves_no_core(with_vault: Machine) -> None:
    machine = with_vault
    with subprocess.Popen([*UNPRIVILEGED, "sleep", "1000"]) as open_book:
        wait_for(lambda: b"sleep" in Path(f"/proc/{open_book.pid}/comm").read_bytes(), "the program to start")
        assert may_look_into(open_book.pid) == {"environ": True, "mem": True, "maps": True}
        open_book.kill()
    process = subprocess.Popen(
        [*UNPRIVILEGED, str(SERPENTFS), "webdav", machine.url, "--no-auth", "--listen", "127.0.0.1:0"],
        env=machine.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=machine.home,
        preexec_fn=allow_cores,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("WebDAV at ")
        process.stdout.close()
        assert may_look_into(process.pid) == {"environ": False, "mem": False, "maps": False}
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["0", "0"]
        process.send_signal(signal.SIGSEGV)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == -signal.SIGSEGV
        assert not os.WCOREDUMP(status)
        assert not [path for path in machine.home.iterdir() if path.name.startswith("core")]
    finally:
        if process.returncode is None:
            process.kill()
            process.wait(timeout=TIMEOUT)
