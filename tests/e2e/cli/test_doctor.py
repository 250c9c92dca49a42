"""``doctor``: each trouble is one line, and what it writes for others holds nothing private."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli.conftest import PASSPHRASE, Machine, needs_fuse, wait_for
from tests.e2e.cli.test_mega import PASSWORD, Account, account, server  # noqa: F401 - the last two are fixtures
from tests.fakes.s3_server import S3Server
from tests.mega_emulator import Emulator
from tests.mounted import free_port

pytestmark = needs_fuse
NAME = "canary-name-of-a-file"
FOLDER = "canary-folder"
REMOTE = "canary-remote"
USER = "canary-user"
CANARY = b"canary"


def findings(machine: Machine, *words: str, code: int | None = None) -> list[dict[str, Any]]:
    """But for mounts that others on this machine have left."""
    done = machine.run("doctor", "--json", *words)
    assert done.returncode in (0, 15), done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert (done.returncode == 15) == any(one["state"] == "problem" for one in found)
    mine = [one for one in found if one["check"] != "mounts" or str(machine.home) in one["message"]]
    if code is not None:
        assert (15 if any(one["state"] == "problem" for one in mine) else 0) == code, mine
    return mine


def problems(machine: Machine, *words: str) -> dict[str, str]:
    """Lines of problems, by what was checked."""
    return {
        one["check"]: f"{one['message']}; {one['advice']}" for one in findings(machine, *words)
        if one["state"] == "problem"
    }


def configure(machine: Machine, text: str) -> Path:
    path = machine.home / "config" / "serpentfs" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_is_wrong(with_vault: Machine) -> None:
    configure(with_vault, f'[remote.work]\nurl = "{with_vault.url}"\n')
    found = findings(with_vault, code=0)
    assert {"config", "fuse-device", "fusermount3", "allow-other", "versions", "clock", "keyring", "state-folder",
            "cache-folder", "secret-files", "leftovers", "store"} <= {one["check"] for one in found}
    (store,) = (one for one in found if one["check"] == "store")
    assert (store["remote"], store["state"]) == ("work", "ok")
    assert not (with_vault.home / "state").exists()    # it only looks
    with_vault.mount()
    running = {one["check"]: one for one in findings(with_vault, code=0)}
    assert running["process"]["remote"] == with_vault.url
    assert running["uploads"]["message"] == "0 changes to upload"
    lines = with_vault.run("doctor", "work").stdout.splitlines()
    assert all(line.split()[0] in ("ok", "note", "problem") for line in lines)
    assert f"ok       store          {with_vault.url}: the store answers" in lines


def test_files_and_folders_that_others_can_read(with_vault: Machine) -> None:
    with_vault.ok("ls", with_vault.url)
    state = with_vault.home / "state" / "serpentfs"
    state.chmod(0o755)
    with_vault.passphrase_file.chmod(0o644)
    found = problems(with_vault)
    assert f"{state} is open to other users (mode 755); chmod 700 {state}" in found["state-folder"]
    assert found["secret-files"].endswith(f"chmod 600 {with_vault.passphrase_file}")
    assert "is open to other users (mode 644)" in found["secret-files"]
    state.chmod(0o700)
    with_vault.passphrase_file.chmod(0o600)
    config = configure(with_vault, "")
    config.chmod(0o666)
    assert "can be changed by other users" in problems(with_vault)["secret-files"]


def test_errors_of_the_configuration(with_vault: Machine) -> None:
    configure(with_vault, '[remote.work]\nurl = "vault+file:///srv"\nsettel = 1\n')
    assert 'config.toml:3: unknown key "settel"' in problems(with_vault)["config"]
    configure(with_vault, '[remote.work]\nurl = "https://example.org"\n')
    assert "begins with CLOUD+STORE" in problems(with_vault)["config"]
    configure(with_vault, f'[remote.work]\nurl = "{with_vault.url}"\npassword-file = "none"\n')
    found = problems(with_vault)
    assert "the password file" in found["secret-files"]
    assert "is not there" in found["secret-files"]
    configure(with_vault, '[remote.work]\nurl = "vault+file:///none/such"\n')
    assert "there is no folder" in problems(with_vault)["store"]
    with_vault.fails(4, "doctor", "other")


def test_a_state_folder_that_is_none(machine: Machine) -> None:
    (machine.home / "state").mkdir()
    (machine.home / "state" / "serpentfs").touch()
    found = problems(machine)
    assert found["state-folder"].endswith("is not a folder; move it away")
    assert "leftovers" in found


def test_what_a_killed_process_left_behind(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("content")
    with_vault.ok("df", with_vault.url)
    (pid,) = with_vault.daemons()
    os.kill(pid, signal.SIGKILL)
    with_vault.wait_until_gone()
    found = problems(with_vault)
    assert found["mounts"].endswith(f"serpentfs umount {with_vault.mountpoint}")
    assert "died without an end, with 1 change not uploaded; start it again" in found["leftovers"]
    with_vault.ok("umount", str(with_vault.mountpoint))
    assert "mounts" not in problems(with_vault)
    with_vault.ok("flush", with_vault.url)
    assert not problems(with_vault)


def test_a_store_that_is_away(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0")
    away = with_vault.vault.with_name("away")
    with_vault.vault.rename(away)
    (with_vault.mountpoint / "file").write_text("content")
    wait_for(lambda: "store" in problems(with_vault), "the store to be found missing")
    assert "the store cannot be reached" in problems(with_vault)["store"]
    away.rename(with_vault.vault)
    with_vault.ok("flush", with_vault.url)
    assert not problems(with_vault)


def test_a_log_in_that_has_ended(account: Account, server: Emulator) -> None:
    account.log_in()
    store = {one["remote"]: one for one in findings(account.machine, code=0) if one["check"] == "store"}
    assert store["mega"]["message"] == "the service answers, and the log-in is valid"
    account.session_file.chmod(0o640)
    server.fault("batch", "slow", seconds=3, account=account.email)
    try:
        found = problems(account.machine, "--timeout", "0.5")
    finally:
        server.clear_faults()
    assert "did not answer within 0.5 s" in found["store"]
    assert "the log-in" in found["secret-files"]
    server.end_sessions(account.email)
    told = problems(account.machine)["store"]
    assert "not valid any more" in told
    assert "serpentfs logout mega: and log in again" in told
    assert "store" not in problems(account.machine, "--offline")


def test_clocks_that_differ(with_vault: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with_vault.extra_environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with S3Server() as store:
        store.make_bucket("bucket")
        url = f"vault+s3://bucket/vault?endpoint={store.endpoint}"
        configure(with_vault, f'[remote.bucket]\nurl = "{url}"\n')
        assert "there is no vault here" in problems(with_vault)["store"]
        with_vault.ok("init", url)
        assert not problems(with_vault)
        handler = store._http.RequestHandlerClass
        monkeypatch.setattr(handler, "date_time_string", lambda self: "Sat, 01 Jan 2022 00:00:00 GMT")
        assert "minutes ahead of that of the store; set the clock" in problems(with_vault)["clock"]


def test_wrong_uses(with_vault: Machine) -> None:
    (with_vault.home / "there.tar.gz").touch()
    assert "name a new file" in with_vault.fails(10, "doctor", "--bundle", "there.tar.gz")
    with_vault.fails(2, "doctor", "--bundle", "none/such.tar.gz", "--offline", "--quiet")
    with_vault.fails(2, "doctor", "--timeout", "0")


def test_the_bundle_has_nothing_private_and_still_says_something(with_vault: Machine) -> None:
    """Logs are as talkative as can be, and with names; the vault and the config are named by canaries, too."""
    machine = with_vault
    vault = machine.vault.rename(machine.home / "canary-vault")
    url = f"vault+file://{vault}"
    door_password = machine.home / "door"
    door_password.touch(0o600)
    door_password.write_text("canary-door-password")
    configure(machine, f"""
        # canary in a comment
        [remote.{REMOTE}]
        url = "{url}#/{FOLDER}"
        password-command = "cat {machine.passphrase_file} --canary"
        cache-disk = "64M"
        [webdav.users.{USER}]
        password-hash = "HASH"
    """.replace("HASH", _hash(machine)))
    machine.ok("mkdir", f"{url}#/{FOLDER}")
    log = machine.home / "canary.log"
    machine.ok(
        "mount", f"{REMOTE}:", str(machine.mountpoint), "--daemon", "--settle", "0", "--log-level", "MAX_VERBOSE",
        "--log-names", "--log-file", str(log), "--webdav", f"127.0.0.1:{free_port()}", "--user", USER,
        "--pass-file", str(door_password),
    )  # fmt: skip
    (machine.mountpoint / NAME).write_text("canary content")
    (machine.mountpoint / f"{NAME}.folder").mkdir()
    machine.ok("flush", url)
    assert (machine.mountpoint / NAME).read_text() == "canary content"
    vault.rename(machine.home / "canary-away")    # errors, with paths in them
    (machine.mountpoint / f"{NAME}.second").write_text("canary content")
    wait_for(lambda: "store" in problems(machine), "the store to be found missing")
    with log.open("a") as more:
        more.write(_OTHER_LINES)
    target = machine.home / "report.tar.gz"
    done = machine.run("doctor", "--bundle", str(target), "--bundle-log", str(log))
    assert done.returncode == 15
    assert f"written to {target}" in done.stdout
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        members = {
            member.name.removeprefix("serpentfs-doctor/"): _content(archive, member) for member in archive.getmembers()
        }
        assert all(not member.uname and not member.uid for member in archive.getmembers())
    for name, content in members.items():
        for secret in (CANARY, PASSPHRASE.encode(), b"report.tar", os.fsencode(machine.home)):
            assert secret not in content.lower(), (name, secret)
    assert sorted(members) == [
        "README.txt", "config.json", "figures.json", "findings.json", "log-1.txt", "status.json", "versions.json",
    ]  # fmt: skip
    # And what is needed to find the fault is there.
    config = json.loads(members["config.json"])
    assert config["remotes"]["remote-1"] == {"url": "vault+file", "password-command": "(set)", "cache-disk": 64 << 20}
    assert config["doors"]["webdav"]["users"] == [{"password-hash": True, "whole-drive": True, "read-only": False}]
    (status,) = json.loads(members["status.json"]).values()
    assert status["phase"] == "running"
    assert status["drive"]["pending"][0]["operation"] == "create"
    told = {one["check"]: one for one in json.loads(members["findings.json"]) if one["state"] == "problem"}
    assert told["store"]["message"].startswith("the store cannot be reached: ")
    (figures,) = json.loads(members["figures.json"]).values()
    assert any(one["name"] == "serpentfs_cloud_calls_total" and one["labels"]["kind"] == "put" for one in figures)
    lines = members["log-1.txt"].decode().splitlines()
    assert len(lines) >= 20    # its owner goes on trying, and logging
    assert sum(line.endswith(" ***") or line == "***" for line in lines) < len(lines) / 4
    assert any("put: ok in 0." in line for line in lines)
    at = lines.index("2026-11-21T08:00:00Z 7 WARNING serpentfs.vfs.replay: [mount-1] ***: no such entry")
    assert lines[at + 1].endswith("no such entry | drive.py:3 read | NotFound: ***")
    assert json.loads(lines[at + 2])["message"] == "***: is down"
    assert lines[at + 3 : at + 5] == ["***", "***"]


_OTHER_LINES = f"""\
2026-11-21T08:00:00Z 7 WARNING serpentfs.vfs.replay: [mount-1] uploading /{FOLDER}/{NAME} failed: no such entry
2026-11-21T08:00:01Z 7 ERROR serpentfs.x: no such entry | Traceback (most recent call last): |   File \
"/home/canary/serpentfs/vfs/drive.py", line 3, in read |     canary() | serpentfs.errors.NotFound: {NAME}
{{"time": "2026-11-21T08:00:02Z", "level": "INFO", "process": 7, "logger": "serpentfs.x", "message": "{NAME}: is down"}}
{{"time": "canary", "message": "x"}}
a line of a library about {NAME}
"""
"""What a log may hold, with names in all places."""


def _hash(machine: Machine) -> str:
    return machine.run("config", "hash-password", stdin="canary-password\n").stdout.strip()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
