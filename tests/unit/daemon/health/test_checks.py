"""Troubles that a test cannot make of the machine it runs on."""

from __future__ import annotations

import datetime
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serpentfs import __version__
from serpentfs.daemon.health import folders, leftovers, secret_files, stores, system


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)


def fuse(*, is_needed: bool = True, **environment: str) -> dict[str, tuple[str, str]]:
    found = system.check_fuse(is_needed=is_needed, environment=environment)
    return {one.check: (one.state, one.line) for one in found}


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "_DEVICE", tmp_path / "fuse")
    state, line = fuse()["fuse-device"]
    assert state == "problem"
    assert "modprobe fuse" in line
    assert fuse(is_needed=False)["fuse-device"][0] == "note"


@pytest.mark.usefixtures("somebody")
def test_no_helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fuse()["fusermount3"] == ("problem", "fusermount3 is missing; install the package fuse3")
    helper = tmp_path / "fusermount3"
    helper.touch(0o755)
    assert "is not set-uid root; chown root" in fuse()["fusermount3"][1]
    if helper.stat().st_uid == 0:
        helper.chmod(0o755 | stat.S_ISUID)
        nosuid = bool(os.statvfs(helper).f_flag & os.ST_NOSUID) or system._has_no_new_privileges()
        assert (fuse()["fusermount3"][0] == "problem") == nosuid
        monkeypatch.setattr(system, "_has_no_new_privileges", lambda: True)
        assert fuse()["fusermount3"][0] == "problem"


@pytest.mark.usefixtures("somebody")
def test_allow_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    monkeypatch.setattr(system, "_FUSE_CONF", conf)
    assert fuse()["allow-other"][0] == "note"
    assert fuse(SERPENTFS_ALLOW_OTHER="true")["allow-other"][0] == "problem"
    conf.write_text("#user_allow_other\n")
    assert fuse()["allow-other"][0] == "note"
    conf.write_text("# comment\nuser_allow_other\n")
    assert fuse(SERPENTFS_ALLOW_OTHER="true")["allow-other"][0] == "ok"


def test_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.state for one in system.check_versions()] == ["ok"]
    monkeypatch.setattr(system, "_required", lambda: {"trio": "99", "no-such-package": "1.0", "h11": "0.1"})
    monkeypatch.setattr(system, "_MODULES", {"h11": "no_such_module"})
    told = [one.line for one in system.check_versions()]
    assert told[0].endswith("is too old; pip install 'trio>=99'")
    assert told[1] == "the Python package no-such-package is not installed; pip install 'no-such-package>=1.0'"
    assert "cannot be loaded: ModuleNotFoundError" in told[2]
    assert len(told) == 3


def test_a_clock_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert system.check_clock().state == "problem"


def test_room_and_kind_of_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(room: int, *, holds_changes: bool) -> list[tuple[str, str]]:
        found = folders.check_folder("x", tmp_path / "a" / "b", room, holds_changes=holds_changes)
        return [(one.state, one.message) for one in found]

    assert check(0, holds_changes=True)[0][0] == "ok"
    assert not (tmp_path / "a").exists()
    assert check(1 << 60, holds_changes=True)[0][0] == "problem"
    assert [state for state, _ in check(1 << 60, holds_changes=False)] == ["note", "ok"]
    monkeypatch.setattr(folders, "_file_system", lambda path: "nfs4")
    assert "network file system (nfs4)" in check(0, holds_changes=True)[0][1]
    assert check(0, holds_changes=False)[0][0] == "ok"
    (tmp_path / "a").touch()
    assert "is not a folder" in next(
        folders.check_folder("x", tmp_path / "a", 0, holds_changes=True)
    ).message


@pytest.mark.usefixtures("somebody")
def test_what_belongs_to_another_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    states = [one.state for one in folders.check_folder("x", tmp_path, 0, holds_changes=True)]
    if tmp_path.stat().st_uid != 12345:
        assert states == ["problem"]
    if secret.stat().st_uid not in (0, 12345):
        assert "another user" in secret_files.check_secret(secret, "the file").message


@pytest.mark.parametrize(("days", "state"), [(-1, "problem"), (2, "problem"), (60, "ok")])
def test_certificates(tmp_path: Path, days: int, state: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=90)).not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path / "certificate"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    assert secret_files.check_certificate(path).state == state
    path.write_text("none")
    assert secret_files.check_certificate(path).state == "problem"
    path.unlink()
    assert "is not there" in secret_files.check_certificate(path).message


def test_a_mount_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_ANSWER_TIMEOUT", 0.05)
    monkeypatch.setattr(leftovers, "_mount_points", lambda: iter(["/mnt/silent"]))
    monkeypatch.setattr(os, "statvfs", lambda path: time.sleep(0.3))
    (found,) = leftovers.check_mounts()
    assert found.line == "the mount at /mnt/silent does not answer; free it: umount -f /mnt/silent, as root"


def change(**facts: Any) -> dict[str, Any]:
    return {"seq": 1, "error": None, "tries": 0, "state": "queued", **facts}


def running(**facts: Any) -> dict[str, Any]:
    drive = {"pending": [], "login_required": False, "conflicts": 0, **facts.pop("drive", {})}
    return {
        "version": __version__, "pid": 7, "cloud": {"state": "online"}, "drive": drive,
        "cache": {"disk_budget": 1, "disk_usable": True}, **facts,
    }  # fmt: skip


@pytest.mark.parametrize(("answer", "check", "message"), [
    (running(), None, ""),
    (running(drive={"pending": [change(error="x", tries=2)]}), None, ""),
    (running(version="0.0.1"), "process", "process 7 runs version 0.0.1"),
    (running(cloud={"state": "offline"}, last_error={"message": "gone"}), "store", "cannot be reached: gone"),
    (running(account={"trouble": "blocked", "over_quota_until": None}), "store", "blocked"),
    (running(drive={"login_required": True}), "uploads", "wait for a log-in"),
    (running(drive={"pending": [change(error="disk full", tries=5), change(seq=2)]}), "uploads",
     "1 changes fail again and again, the last one because: disk full"),
    (running(drive={"pending": [change(error="no", state="stuck")]}), "uploads", "because: no"),
    (running(cache={"disk_budget": 1, "disk_usable": False}), "cache-folder", "out of use"),
])  # fmt: skip
def test_what_a_status_tells(answer: dict[str, Any], check: str | None, message: str) -> None:
    bad = [one for one in stores.check_running(answer, "work") if one.state == "problem"]
    assert [one.check for one in bad] == ([check] if check else [])
    assert not bad or message in bad[0].message
    assert all(one.advice for one in bad)
