"""Contents through the mount: reads, writes, holes, truncation, appending, mmap, open-unlink."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.fuse.harness import Mounted

InDrive = Callable[[str], str]


def test_what_is_written_is_read(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    data = random.Random(1).randbytes(3_000_001)
    (folder / "file").write_bytes(data)
    assert (folder / "file").read_bytes() == data
    assert mounted.get(in_drive("file")) == data


def test_random_reads_and_writes(folder: Path) -> None:
    chance = random.Random(2)
    model = bytearray(500_000)
    with open(folder / "file", "w+b", buffering=0) as file:
        file.write(model)
        for _ in range(200):
            offset, length = chance.randrange(600_000), chance.randrange(1, 70_000)
            if chance.random() < 0.5:
                data = chance.randbytes(length)
                file.seek(offset)
                file.write(data)
                if offset > len(model):
                    model.extend(bytes(offset - len(model)))
                model[offset : offset + length] = data
            else:
                assert os.pread(file.fileno(), length, offset) == model[offset : offset + length]
    assert (folder / "file").read_bytes() == model


def test_a_hole_reads_as_zeros(folder: Path) -> None:
    with open(folder / "file", "w+b") as file:
        file.seek(30_000_000)
        file.write(b"end")
        file.flush()
        assert os.pread(file.fileno(), 10, 29_999_996) == b"\0\0\0\0end"
        assert os.pread(file.fileno(), 4096, 1_000_000) == bytes(4096)
    assert (folder / "file").stat().st_size == 30_000_003


def test_truncate_down_and_up(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"x" * 200_000)
    os.truncate(path, 70_001)
    assert path.stat().st_size == 70_001
    os.truncate(path, 150_000)
    assert path.read_bytes() == b"x" * 70_001 + bytes(79_999)


def test_ftruncate_through_an_open_file(folder: Path) -> None:
    with open(folder / "file", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        file.truncate(4)
        assert os.fstat(file.fileno()).st_size == 4
        file.write(b"ab")
        assert os.pread(file.fileno(), 100, 0) == b"0123" + bytes(6) + b"ab"


def test_truncate_of_an_open_unlinked_file(folder: Path) -> None:
    with open(folder / "file", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        (folder / "file").unlink()
        file.truncate(3)
        assert os.pread(file.fileno(), 100, 0) == b"012"


def test_two_descriptors_append_without_overwriting(folder: Path) -> None:
    path = folder / "file"
    one = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    two = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(50):
        os.write((one, two)[number % 2], b"%02d" % number)
    os.close(one)
    os.close(two)
    assert path.read_bytes() == b"".join(b"%02d" % number for number in range(50))


def test_threads_append_whole_records(folder: Path) -> None:
    path = folder / "file"

    def append(letter: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for _ in range(50):
            os.write(fd, letter * 10)
        os.close(fd)

    threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = path.read_bytes()
    records = [data[start : start + 10] for start in range(0, len(data), 10)]
    assert sorted(records) == [letter * 10 for letter in (b"a", b"b", b"c") for _ in range(50)]


def test_an_append_goes_to_the_end_that_another_door_made(
    folder: Path, mounted: Mounted, in_drive: InDrive
) -> None:
    """The kernel may not know the new size yet; the core does."""
    path = folder / "file"
    path.write_bytes(b"ours")
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    mounted.command("append", path=in_drive("file"), data="dGhlaXJz")  # "theirs"
    os.write(fd, b"ours again")
    os.close(fd)
    assert mounted.get(in_drive("file")) == b"ourstheirsours again"


def test_mmap_reads_and_writes(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 300_000)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[100_000:100_005] = b"mmap!"
        mapped.flush()
        assert os.pread(file.fileno(), 7, 99_999) == b"ammap!a"
    data = path.read_bytes()
    assert (data[100_000:100_005], len(data)) == (b"mmap!", 300_000)


def test_mmap_writes_after_the_descriptor_is_closed(folder: Path, mounted: Mounted, in_drive: InDrive) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 10_000)
    with open(path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[5_000:5_005] = b"later"
    mapped.flush()
    mapped.close()
    assert mounted.get(in_drive("file"))[4_999:5_006] == b"alatera"


def test_a_private_mmap_changes_nothing(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 10_000)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:5] = b"never"
    assert path.read_bytes() == b"a" * 10_000


def test_an_unlinked_file_lives_while_it_is_open(folder: Path) -> None:
    path = folder / "file"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"content")
        path.unlink()
        assert list(folder.iterdir()) == []
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" and more")
        os.fchmod(file.fileno(), 0o600)
        assert os.pread(file.fileno(), 100, 0) == b"content and more"
        path.write_bytes(b"a new file")
        assert os.pread(file.fileno(), 100, 0) == b"content and more"
    assert path.read_bytes() == b"a new file"


def test_a_file_that_is_renamed_over_lives_while_it_is_open(folder: Path) -> None:
    (folder / "old").write_bytes(b"old")
    (folder / "new").write_bytes(b"new")
    with open(folder / "old", "rb", buffering=0) as file:
        (folder / "new").rename(folder / "old")
        assert file.read() == b"old"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert (folder / "old").read_bytes() == b"new"


def test_fsync_and_fdatasync(folder: Path) -> None:
    with open(folder / "file", "wb", buffering=0) as file:
        file.write(b"data")
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def test_reading_a_descriptor_that_only_writes(folder: Path) -> None:
    fd = os.open(folder / "file", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.read(fd, 1)
    os.close(fd)


def test_what_was_read_is_kept_and_what_was_written_is_seen(folder: Path) -> None:
    """One content again and again, through descriptors that come and go."""
    path = folder / "file"
    for number in range(20):
        data = b"%d" % number * 5_000
        path.write_bytes(data)
        assert path.read_bytes() == data
        assert path.read_bytes() == data


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_locks_hold_between_processes(folder: Path, kind: str) -> None:
    path = folder / "file"
    path.touch()
    script = f"import fcntl; fcntl.{kind}(open({str(path)!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def other_gets_it() -> bool:
        return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30).returncode == 0

    with open(path, "r+b") as file:
        getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not other_gets_it()
    assert other_gets_it()


def test_sendfile(folder: Path) -> None:
    data = random.Random(3).randbytes(300_000)
    (folder / "source").write_bytes(data)
    with open(folder / "source", "rb") as source, open(folder / "target", "wb") as target:
        done = 0
        while done < len(data):
            done += os.sendfile(target.fileno(), source.fileno(), done, len(data) - done)
    assert (folder / "target").read_bytes() == data
