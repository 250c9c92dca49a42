"""open(2) on the mount does what it does on the local disk: every combination of flags, on a file, on nothing, on
a folder and on links, and what the descriptor can then do."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

ACCESS = {"RDONLY": os.O_RDONLY, "WRONLY": os.O_WRONLY, "RDWR": os.O_RDWR}
FLAGS = {"CREAT": os.O_CREAT, "EXCL": os.O_EXCL, "TRUNC": os.O_TRUNC, "APPEND": os.O_APPEND}
KINDS = {"NOFOLLOW": os.O_NOFOLLOW, "DIRECTORY": os.O_DIRECTORY}
TARGETS = ("file", "nothing", "folder", "link", "dangling", "nowhere/file", "file/below")

_SETS = [names for count in range(5) for names in itertools.combinations(FLAGS, count)]
_SETS += [(*names, kind) for kind in KINDS for names in ((), ("CREAT",))]
COMBINATIONS = [(access, *names) for access in ACCESS for names in _SETS]


def arrange(where: Path) -> None:
    where.mkdir()
    (where / "file").write_bytes(b"0123456789")
    (where / "folder").mkdir()
    (where / "link").symlink_to("file")
    (where / "dangling").symlink_to("made-through-the-link")


def outcome(where: Path, flags: int, target: str) -> list[object]:
    """What opening, reading, writing and seeking give, and what is in the folder afterwards."""
    seen: list[object] = []

    def note(what: str, function: object, *arguments: object) -> object:
        try:
            result = function(*arguments)  # type: ignore[operator]
        except OSError as error:
            seen.append((what, errno_name(error)))
            return None
        seen.append((what, "fd" if what == "open" else result))
        return result

    fd = note("open", os.open, where / target, flags, 0o640)
    if isinstance(fd, int):
        try:
            note("read", os.read, fd, 4)
            note("write", os.write, fd, b"ab")
            note("offset", os.lseek, fd, 0, os.SEEK_CUR)
            note("pread", os.pread, fd, 100, 0)
            note("pwrite", os.pwrite, fd, b"XY", 1)
            note("ftruncate", os.ftruncate, fd, 7)
            seen.append(("size", os.fstat(fd).st_size if not (where / target).is_dir() else None))
        finally:
            os.close(fd)
    for path in sorted(where.iterdir()):
        content = None if path.is_dir() or not path.exists() else path.read_bytes()
        seen.append((path.name, oct(path.lstat().st_mode), content))
    return seen


def errno_name(error: OSError) -> str:
    assert error.errno is not None
    return os.strerror(error.errno)


@pytest.mark.parametrize("target", TARGETS)
def test_as_on_the_local_disk(folder: Path, tmp_path: Path, target: str) -> None:
    differing = {}
    for number, names in enumerate(COMBINATIONS):
        flags = 0
        for name in names:
            flags |= (ACCESS | FLAGS | KINDS)[name]
        answers = []
        for base in (tmp_path, folder):
            where = base / str(number)
            arrange(where)
            answers.append(outcome(where, flags, target))
        if answers[0] != answers[1]:
            differing["|".join(names)] = tuple(answers)
    assert differing == {}
