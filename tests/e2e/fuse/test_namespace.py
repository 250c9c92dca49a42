"""Names through the mount: folders, renames, links, listings, and names that cannot be."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.e2e.fuse.harness import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    Mounted,
    names,
    renameat2,
)


def fails(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


# --- folders


def test_mkdir_and_rmdir(folder: Path) -> None:
    (folder / "sub").mkdir()
    with fails(errno.EEXIST):
        (folder / "sub").mkdir()
    (folder / "sub" / "file").touch()
    with fails(errno.ENOTEMPTY):
        (folder / "sub").rmdir()
    (folder / "sub" / "file").unlink()
    (folder / "sub").rmdir()
    with fails(errno.ENOENT):
        (folder / "sub").stat()


def test_rmdir_and_unlink_mind_the_kind(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "file").touch()
    with fails(errno.EISDIR):
        (folder / "sub").unlink()
    with fails(errno.ENOTDIR):
        (folder / "file").rmdir()
    with fails(errno.ENOTDIR):
        (folder / "file" / "below").touch()


def test_a_removed_folder_that_is_open(folder: Path) -> None:
    (folder / "sub").mkdir()
    fd = os.open(folder / "sub", os.O_RDONLY)
    (folder / "sub").rmdir()
    with fails(errno.ENOENT):
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)


# --- rename


def test_rename_over_a_file(folder: Path) -> None:
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    ino = (folder / "a").stat().st_ino
    (folder / "a").rename(folder / "b")
    assert names(folder) == ["b"]
    assert (folder / "b").read_bytes() == b"a"
    assert (folder / "b").stat().st_ino == ino


def test_rename_of_a_folder(folder: Path) -> None:
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / "a" / "deep" / "file").write_bytes(b"data")
    (folder / "b").mkdir()
    (folder / "a").rename(folder / "b")
    assert (folder / "b" / "deep" / "file").read_bytes() == b"data"
    (folder / "c").mkdir()
    with fails(errno.ENOTEMPTY):
        (folder / "c").rename(folder / "b")
    with fails(errno.EINVAL):
        (folder / "b").rename(folder / "b" / "deep" / "x")


def test_rename_minds_the_kind(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "sub").mkdir()
    with fails(errno.EISDIR):
        (folder / "file").rename(folder / "sub")
    with fails(errno.ENOTDIR):
        (folder / "sub").rename(folder / "file")


def test_rename_noreplace(folder: Path) -> None:
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    with fails(errno.EEXIST):
        renameat2(folder / "a", folder / "b", RENAME_NOREPLACE)
    renameat2(folder / "a", folder / "c", RENAME_NOREPLACE)
    assert names(folder) == ["b", "c"]


def test_rename_exchange(folder: Path) -> None:
    (folder / "file").write_bytes(b"data")
    (folder / "sub" / "deep").mkdir(parents=True)
    renameat2(folder / "file", folder / "sub", RENAME_EXCHANGE)
    assert (folder / "sub").read_bytes() == b"data"
    assert (folder / "file" / "deep").is_dir()
    with fails(errno.ENOENT):
        renameat2(folder / "file", folder / "nothing", RENAME_EXCHANGE)


def test_rename_whiteout(folder: Path) -> None:
    (folder / "file").touch()
    with fails(errno.EINVAL):
        renameat2(folder / "file", folder / "other", RENAME_WHITEOUT)


def test_rename_of_an_open_file(folder: Path) -> None:
    with open(folder / "a", "w+b", buffering=0) as file:
        file.write(b"one ")
        (folder / "a").rename(folder / "b")
        file.write(b"two")
    assert (folder / "b").read_bytes() == b"one two"


# --- links and devices


def test_symlinks(folder: Path) -> None:
    link = folder / "link"
    link.symlink_to("ziel/ümläut")
    assert link.readlink() == Path("ziel/ümläut")
    assert stat.S_ISLNK(link.lstat().st_mode)
    assert link.lstat().st_size == len("ziel/ümläut".encode())
    assert not link.exists()
    (folder / "ziel").mkdir()
    (folder / "ziel" / "ümläut").write_bytes(b"found")
    assert link.read_bytes() == b"found"
    link.unlink()
    assert (folder / "ziel" / "ümläut").exists()


def test_a_symlink_loop(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    with fails(errno.ELOOP):
        (folder / "loop").stat()


def test_hard_links_are_refused(folder: Path) -> None:
    (folder / "file").touch()
    with fails(errno.EPERM):
        os.link(folder / "file", folder / "other")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_special_files_are_refused(folder: Path, kind: int) -> None:
    with fails(errno.EPERM):
        os.mknod(folder / "special", kind | 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may try to make a device")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_are_refused(folder: Path, kind: int) -> None:
    with fails(errno.EPERM):
        os.mknod(folder / "device", kind | 0o600, os.makedev(1, 3))


def test_mknod_makes_a_plain_file(folder: Path) -> None:
    os.mknod(folder / "file", stat.S_IFREG | 0o640)
    found = (folder / "file").stat()
    assert (stat.S_ISREG(found.st_mode), stat.S_IMODE(found.st_mode), found.st_size) == (True, 0o640, 0)
    with fails(errno.EEXIST):
        os.mknod(folder / "file", stat.S_IFREG | 0o640)


# --- names


@pytest.mark.parametrize("name", ["with space", "e\u0301", "漢字", "🐍", "new\nline", "-rf", "...", "ä" * 127])
def test_names_are_kept(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"data")
    assert names(folder) == [name]
    assert (folder / name).read_bytes() == b"data"


@pytest.mark.parametrize("make", ["open", "mkdir", "symlink", "rename"])
def test_a_name_that_is_not_utf8_cannot_be_made(folder: Path, make: str) -> None:
    path = folder / os.fsdecode(b"\xff\xfe")
    (folder / "file").touch()
    with fails(errno.EILSEQ):
        if make == "open":
            path.touch()
        elif make == "mkdir":
            path.mkdir()
        elif make == "symlink":
            path.symlink_to("target")
        else:
            (folder / "file").rename(path)
    with fails(errno.ENOENT):
        path.stat()


def test_too_long_a_name(folder: Path) -> None:
    name = folder / ("a" * 256)
    for attempt in (name.touch, name.mkdir, name.stat):
        with fails(errno.ENAMETOOLONG):
            attempt()
    (folder / ("a" * 255)).touch()


def test_a_name_that_was_not_there_a_moment_ago(folder: Path) -> None:
    """The kernel remembers that there is nothing; making the name makes it forget that."""
    for number in range(5):
        path = folder / f"file{number}"
        assert not path.exists()
        path.touch()
        assert path.exists()
        path.unlink()
        assert not path.exists()


# --- listings


def test_listing_of_many(folder: Path) -> None:
    expected = {f"file number {number:04}" for number in range(1500)}
    for name in expected:
        os.mknod(folder / name, stat.S_IFREG | 0o600)
    found = names(folder)
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(entry.stat(follow_symlinks=False).st_ino == entry.inode() for entry in os.scandir(folder))


def test_a_listing_is_stable_while_the_folder_changes(folder: Path) -> None:
    """What is there all the time is listed exactly once."""
    for number in range(600):
        os.mknod(folder / f"stay{number:04}", stat.S_IFREG | 0o600)
        os.mknod(folder / f"gone{number:04}", stat.S_IFREG | 0o600)
    seen: list[str] = []
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 2 == 0 and number < 1000:
                (folder / f"gone{number // 2:04}").unlink()
                os.mknod(folder / f"new{number:04}", stat.S_IFREG | 0o600)
            if number % 10 == 0:
                (folder / f"stay{599 - number // 10:04}").rename(folder / f"moved{number:04}")
    assert len(seen) == len(set(seen))
    stayed = {f"stay{number:04}" for number in range(400)}
    assert stayed <= set(seen)


def test_rewinding_a_listing(folder: Path) -> None:
    for number in range(10):
        (folder / str(number)).touch()
    fd = os.open(folder, os.O_RDONLY)
    first = os.listdir(fd)
    (folder / "new").touch()
    assert sorted([*first, "new"]) == sorted(os.listdir(fd))
    os.close(fd)


def test_dot_and_dotdot_are_listed(folder: Path, mounted: Mounted) -> None:
    shown = subprocess.run(["ls", "-aif", folder], capture_output=True, text=True, check=True, timeout=30).stdout
    inodes = {name: int(number) for number, name in (line.split() for line in shown.splitlines())}
    assert inodes["."] == folder.stat().st_ino
    assert inodes[".."] == mounted.path.stat().st_ino
