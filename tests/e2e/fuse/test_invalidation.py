"""What others change is seen in the mount at once, though the kernel may believe what it knows for an hour."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.fuse.harness import FACTORIES, Mounted, names

InDrive = Callable[[str], str]

WITHIN = 1.0
"""Seconds, as promised. On a machine that is busy with other things the wait may go on, but not much."""
PATIENCE = 10.0


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds. It need not at once: the notifier's thread has to run first."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the change is not seen"
        threading.Event().wait(0.005)


def test_a_new_file(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    assert not (folder / "file").exists()
    assert names(folder) == []
    mounted.put(in_drive("file"), b"data")
    eventually((folder / "file").exists)
    assert (folder / "file").read_bytes() == b"data"
    assert names(folder) == ["file"]


def test_a_new_content(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.write_bytes(b"old content")
    assert path.read_bytes() == b"old content"
    for data in (b"newcontent!", b"short", b"longer than before, " * 10_000):
        mounted.put(in_drive("file"), data)
        eventually(lambda expected=data: path.stat().st_size == len(expected))  # type: ignore[misc]
        assert path.read_bytes() == data


def test_a_change_in_place_is_seen_by_an_open_file(
    folder: Path, mounted: Mounted, in_drive: InDrive
) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 10_000)
    with open(path, "rb", buffering=0) as file:
        assert file.read(10_000) == b"a" * 10_000
        mounted.command("overwrite", path=in_drive("file"), offset=5_000, data="bmV3")
        eventually(lambda: os.pread(file.fileno(), 10_000, 0) == b"a" * 5_000 + b"new" + b"a" * 4_997)


def test_a_replaced_file_that_is_open_keeps_its_content(
    folder: Path, mounted: Mounted, in_drive: InDrive
) -> None:
    path = folder / "file"
    path.write_bytes(b"old" * 100_000)
    with open(path, "rb", buffering=0) as file:
        mounted.put(in_drive("file"), b"new")
        eventually(lambda: path.read_bytes() == b"new")
        assert os.pread(file.fileno(), 300_000, 0) == b"old" * 100_000


def test_a_replaced_file_is_never_missing(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    """Before the kernel has been told, it still asks for the file that was there."""
    path = folder / "file"
    path.write_bytes(b"start")
    for number in range(100):
        mounted.put(in_drive("file"), b"%d" % number)
        path.stat()
        with open(path, "rb", buffering=0) as file:
            assert file.read() in (b"start", b"%d" % (number - 1), b"%d" % number)


def test_an_append(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.write_bytes(b"one")
    assert path.read_bytes() == b"one"
    mounted.command("append", path=in_drive("file"), data="dHdv")
    eventually(lambda: path.read_bytes() == b"onetwo")


def test_a_truncation(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.write_bytes(b"0123456789")
    assert path.read_bytes() == b"0123456789"
    mounted.command("truncate", path=in_drive("file"), size=3)
    eventually(lambda: path.read_bytes() == b"012")
    mounted.command("truncate", path=in_drive("file"), size=5)
    eventually(lambda: path.read_bytes() == b"012\0\0")


def test_a_removed_file(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.write_bytes(b"data")
    mounted.command("unlink", path=in_drive("file"))
    eventually(lambda: not path.exists())
    assert names(folder) == []


def test_a_removed_file_that_is_open(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.write_bytes(b"data")
    with open(path, "rb", buffering=0) as file:
        mounted.command("unlink", path=in_drive("file"))
        eventually(lambda: not path.exists())
        assert os.pread(file.fileno(), 100, 0) == b"data"


def test_folders_come_and_go(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    assert not (folder / "sub").exists()
    mounted.command("mkdir", path=in_drive("sub"))
    eventually((folder / "sub").is_dir)
    assert names(folder / "sub") == []
    mounted.put(in_drive("sub/file"), b"data")
    eventually(lambda: names(folder / "sub") == ["file"])
    mounted.command("unlink", path=in_drive("sub/file"))
    mounted.command("rmdir", path=in_drive("sub"))
    eventually(lambda: not (folder / "sub").exists())


def test_a_rename(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "file").write_bytes(b"data")
    assert not (folder / "b").exists()
    mounted.command("rename", path=in_drive("a"), new_path=in_drive("b"))
    eventually(lambda: not (folder / "a").exists() and (folder / "b").exists())
    assert (folder / "b" / "file").read_bytes() == b"data"


def test_a_rename_over(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"bbb")
    assert (folder / "b").read_bytes() == b"bbb"
    mounted.command("rename", path=in_drive("a"), new_path=in_drive("b"))
    eventually(lambda: (folder / "b").read_bytes() == b"a")
    assert names(folder) == ["b"]


def test_a_mode(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.touch(0o644)
    mounted.command("chmod", path=in_drive("file"), mode=0o600)
    eventually(lambda: path.stat().st_mode & 0o777 == 0o600)


def test_changes_are_seen_within_a_second(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    """The median of several, so that one unlucky moment of a busy machine does not count."""
    path = folder / "file"
    path.write_bytes(b"start")
    taken = []
    for number in range(9):
        data = b"content %d" % number
        began = time.monotonic()
        mounted.put(in_drive("file"), data)
        eventually(lambda expected=data: path.read_bytes() == expected)  # type: ignore[misc]
        taken.append(time.monotonic() - began)
    assert sorted(taken)[4] < WITHIN


@pytest.mark.parametrize("number", range(3))
def test_changes_under_load_end_in_the_last_state(
    folder: Path, mounted: Mounted, in_drive: InDrive, number: int
) -> None:
    """Reads are in flight all the while: that is when a notice on the loop's thread would deadlock."""
    path = folder / "file"
    path.write_bytes(b"0" * 300_000)
    stop = threading.Event()
    odd: list[object] = []

    def read_once() -> None:
        for start in range(0, 300_000, 100_000):
            with open(path, "rb", buffering=0) as file:
                byte = os.pread(file.fileno(), 1, start)
            if not byte.isdigit():
                odd.append(byte)
        names(folder)
        (folder / "nothing").exists()

    def read() -> None:
        while not stop.is_set():
            try:
                read_once()
            except OSError as error:
                # Replaced twice while the kernel opened it. It tries once more by itself, not twice.
                if error.errno != errno.ESTALE:
                    odd.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for round_ in range(30):
            mounted.put(in_drive("file"), b"%d" % (round_ % 10) * 300_000)
            mounted.put(in_drive(f"other{round_ % 3}"), b"x")
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    eventually(lambda: path.read_bytes() == b"9" * 300_000)
    assert odd == []


@pytest.mark.parametrize(("name", "other_name"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_both_normal_forms_of_a_name_follow_a_change_of_one(
    mount: Callable[..., Mounted], name: str, other_name: str
) -> None:
    mounted = mount("--factory", FACTORIES["drive"])  # which takes them for one name
    path, other, plain = (mounted.path / entry for entry in (name, other_name, "plain"))

    def are_there(expected: bool) -> None:
        assert os.path.lexists(path) == expected
        eventually(lambda: os.path.lexists(other) == expected)

    are_there(False)
    path.write_text("made")
    are_there(True)
    assert other.read_text() == "made"
    path.unlink()
    are_there(False)
    path.mkdir()
    are_there(True)
    path.rmdir()
    are_there(False)
    os.symlink("target", path)
    are_there(True)
    path.rename(plain)
    are_there(False)
    plain.rename(path)
    are_there(True)
    plain.write_text("saved over it")
    plain.rename(path)
    eventually(lambda: other.is_file() and other.read_text() == "saved over it")
    path.unlink()
    are_there(False)
    os.mknod(path)
    are_there(True)
    mounted.command("unlink", path="/caf\u00e9")
    eventually(lambda: not os.path.lexists(path))
    eventually(lambda: not os.path.lexists(other))
