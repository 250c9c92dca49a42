"""Attributes through the mount: times, modes, owners, sizes, extended attributes, and the space of the store."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.fuse.harness import Mounted


def fails(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_times_to_the_nanosecond(folder: Path, mounted: Mounted, in_drive: Callable[[str], str]) -> None:
    path = folder / "file"
    path.touch()
    atime, mtime = 1_234_567_890_123_456_789, 1_700_000_000_987_654_321
    os.utime(path, ns=(atime, mtime))
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (atime, mtime)
    assert mounted.command("stat", path=in_drive("file"))["mtime_ns"] == mtime


@pytest.mark.parametrize("mtime", [0, 1, -1_000_000_001, 4_000_000_000 * 10**9 + 5])
def test_times_far_away(folder: Path, mtime: int) -> None:
    path = folder / "file"
    path.touch()
    os.utime(path, ns=(mtime, mtime))
    assert path.stat().st_mtime_ns == mtime


def test_utime_now_and_of_a_folder(folder: Path) -> None:
    before = time.time_ns() - 50_000_000  # the kernel's clock for this ticks only so often
    (folder / "sub").mkdir()
    os.utime(folder / "sub", ns=(1, 1))
    assert (folder / "sub").stat().st_mtime_ns == 1
    os.utime(folder / "sub")
    assert before <= (folder / "sub").stat().st_mtime_ns <= time.time_ns()


def test_a_time_set_through_an_open_file_outlives_closing_it(folder: Path) -> None:
    with open(folder / "file", "wb") as file:
        file.write(b"data")
        file.flush()
        os.utime(file.fileno(), ns=(5, 7))
    assert (folder / "file").stat().st_mtime_ns == 7


def test_writing_moves_mtime_and_ctime(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"a")
    os.utime(path, ns=(1, 1))
    changed = path.stat().st_ctime_ns
    path.write_bytes(b"b")
    found = path.stat()
    assert found.st_mtime_ns > 1
    assert found.st_ctime_ns > changed


def test_making_an_entry_moves_the_time_of_its_folder(folder: Path) -> None:
    os.utime(folder, ns=(1, 1))
    (folder / "file").touch()
    assert folder.stat().st_mtime_ns > 1


def test_modes(folder: Path) -> None:
    path = folder / "file"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o604))
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    path.chmod(0o4751)
    assert stat.S_IMODE(path.stat().st_mode) == 0o4751
    (folder / "sub").mkdir(0o700)
    assert stat.S_IMODE((folder / "sub").stat().st_mode) == 0o700


def test_the_caller_s_umask(folder: Path) -> None:
    previous = os.umask(0o077)
    try:
        (folder / "file").touch(0o666)
        (folder / "sub").mkdir(0o777)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "sub").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a root without a capability, and give files away")
def test_who_writes_to_a_file_or_gives_it_away_takes_its_set_id_bits(folder: Path) -> None:
    path = folder / "file"
    path.touch()

    def left(mode: int, change: str) -> int:
        path.chmod(mode)
        subprocess.run(["setpriv", "--bounding-set=-fsetid", "sh", "-c", change, "sh", path], check=True)
        return stat.S_IMODE(path.stat().st_mode)

    assert left(0o6755, 'echo more >>"$1"') == 0o755
    assert path.read_text() == "more\n"
    for change in ('echo more >>"$1"', 'exec >>"$1"; echo twice; echo', 'truncate -s 3 "$1"', 'echo >"$1"'):
        assert left(0o6755, change) == 0o755, change
        assert left(0o6745, change) == 0o2745, change
    assert path.read_text() == "\n"
    path.chmod(0o6755)
    path.write_text("by who may keep them")
    os.truncate(path, 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o6755
    os.chown(path, 1234, 5678)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    (folder / "sub").mkdir()
    (folder / "sub").chmod(0o2775)
    os.chown(folder / "sub", 1234, 5678)
    assert stat.S_IMODE((folder / "sub").stat().st_mode) == 0o2775


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owners(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
    os.chown(path, 1234, 5678)
    os.chown(path, -1, 99)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 99)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_set_group_id_folder_hands_its_group_on(folder: Path) -> None:
    os.chown(folder, -1, 5678)
    folder.chmod(0o2775)
    (folder / "file").touch()
    (folder / "sub").mkdir(mode=0o750)
    (folder / "sub" / "deeper").mkdir()
    (folder / "sub" / "file").touch()
    os.symlink("file", folder / "link")
    os.mknod(folder / "node")
    for path in ("file", "sub", "sub/deeper", "sub/file", "link", "node"):
        found = (folder / path).lstat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), 5678), path
    assert stat.S_IMODE((folder / "sub").stat().st_mode) == 0o2750
    assert stat.S_IMODE((folder / "file").stat().st_mode) & stat.S_ISGID == 0
    folder.chmod(0o775)
    (folder / "after").touch()
    assert (folder / "after").stat().st_gid == os.getgid()


def test_size_and_blocks(folder: Path) -> None:
    for size in (0, 1, 512, 513):
        (folder / "file").write_bytes(b"a" * size)
        found = (folder / "file").stat()
        assert (found.st_size, found.st_blocks, found.st_nlink) == (size, (size + 511) // 512, 1)


# --- extended attributes


def test_xattrs(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    assert os.listxattr(path) == []
    value = bytes(range(256)) * 16
    os.setxattr(path, "user.one", value)
    os.setxattr(path, "user.zwei-ü", b"")
    assert os.getxattr(path, "user.one") == value
    assert os.getxattr(path, "user.zwei-ü") == b""
    assert sorted(os.listxattr(path)) == ["user.one", "user.zwei-ü"]
    os.removexattr(path, "user.one")
    for attempt in (os.getxattr, os.removexattr):
        with fails(errno.ENODATA):
            attempt(path, "user.one")


def test_xattrs_of_folders(folder: Path) -> None:
    os.setxattr(folder, "user.one", b"1")
    assert os.getxattr(folder, "user.one") == b"1"


def test_xattr_create_and_replace(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    with fails(errno.ENODATA):
        os.setxattr(path, "user.one", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.one", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
    os.setxattr(path, "user.one", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.one") == b"3"


def test_xattrs_that_are_not_for_users(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    with fails(errno.EACCES):
        os.setxattr(path, "user.serpentfs.id", b"1")
    with fails(errno.EOPNOTSUPP):
        os.getxattr(path, "system.posix_acl_access")
