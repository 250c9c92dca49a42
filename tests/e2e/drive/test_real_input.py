"""Real programs on a real mount: what people do with a disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import PASSPHRASE, Mounted
from tests.rounds import rounds
from tests.vault_tools import read_vault

MakeMount = Callable[..., Mounted]
MIB = 2**20

pytestmark = pytest.mark.slow


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Path to (hash, size, mtime) of files, target of links, None of folders."""
    found: dict[str, tuple[object, ...]] = {}
    for where, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(where) / name
            shown = str(path.relative_to(root))
            if path.is_symlink():
                found[shown] = ("link", str(path.readlink()))
            elif path.is_dir():
                found[shown] = ("folder",)
            else:
                stat = path.stat()
                found[shown] = (digest(path), stat.st_size, stat.st_mtime_ns)
    return found


def run(*command: str, cwd: Path | None = None, timeout: float = 300) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-1500:]} {done.stderr[-1500:]}"
    return done.stdout


def test_rsync_of_a_documentation_tree(mount: MakeMount) -> None:
    """Cache deleted, then state deleted too: the vault alone gives every hash, size and mtime back."""
    drive = mount()
    found = sorted(path.name for path in Path("/usr/share/doc").iterdir())
    source = drive.work / "source"
    run("rsync", "-a", *found[:: max(1, len(found) // rounds(60, 10_000))], str(source), cwd=Path("/usr/share/doc"))
    run("rsync", "-a", f"{source}/", str(drive.point))
    wanted = listing(source)
    assert len(wanted) > 100
    drive.stop()
    shutil.rmtree(drive.work / "cache")
    drive.start()
    assert listing(drive.point) == wanted

    drive.stop()
    shutil.rmtree(drive.work / "cache")
    shutil.rmtree(drive.work / "state")
    drive.start()
    assert listing(drive.point) == wanted


def test_a_git_repository(mount: MakeMount) -> None:
    drive = mount()
    repository = drive.point / "repository"
    repository.mkdir()
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0")
    run("git", "init", "-q", cwd=repository)
    for number in range(rounds(300, 2000)):
        folder = repository / f"folder{number % 40}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number}").write_text(f"content of {number}\n" * (number % 30 + 1))
    run(*git, "add", ".", cwd=repository)
    run(*git, "commit", "-q", "-m", "first", cwd=repository)
    (repository / "folder1" / "file1").write_text("changed\n")
    run(*git, "commit", "-q", "-a", "-m", "second", cwd=repository)
    run("git", "fsck", "--full", "--strict", cwd=repository)
    run("git", "gc", "-q", cwd=repository)
    run("git", "fsck", "--full", "--strict", cwd=repository)
    assert run("git", "status", "--porcelain", cwd=repository) == ""
    drive.stop()
    shutil.rmtree(drive.work / "state")
    shutil.rmtree(drive.work / "cache")
    drive.start()
    run("git", "fsck", "--full", "--strict", cwd=repository)
    assert len(run("git", "log", "--oneline", cwd=repository).splitlines()) == 2


WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60)
for number in range(100):
    with db:
        db.execute("INSERT INTO t VALUES (?, ?)", (sys.argv[2], number))
"""


@pytest.mark.parametrize("journal_mode", ["delete", "truncate"])
def test_a_database_written_by_two_processes(mount: MakeMount, journal_mode: str) -> None:
    drive = mount()
    path = drive.point / "data.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA journal_mode={journal_mode}")
        db.execute("CREATE TABLE t (who TEXT, number INTEGER)")
    db.close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), who]) for who in "ab"]
    assert [writer.wait(timeout=240) for writer in writers] == [0, 0]
    drive.stop()
    shutil.rmtree(drive.work / "state")
    drive.start()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = db.execute("SELECT who, count(*), count(DISTINCT number) FROM t GROUP BY who ORDER BY who").fetchall()
    db.close()
    assert rows == [("a", 100, 100), ("b", 100, 100)]


def test_a_source_distribution_runs_from_the_mount(mount: MakeMount) -> None:
    """This project's own sources, as a tar ball: unpacked onto the mount, and tests of it run there."""
    drive = mount()
    root = Path(__file__).parents[3]
    archive = drive.work / "source.tar.gz"

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tarfile.open(archive, "w:gz") as tar:
        for name in ("pyproject.toml", "serpentfs", "gateways", "cache", "tests/unit/cache"):
            tar.add(root / name, arcname=f"source/{name}", filter=wanted)
    run("tar", "xzf", str(archive), "-C", str(drive.point))
    out = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/cache/test_window.py",
        cwd=drive.point / "source",
    )  # fmt: skip
    assert " passed" in out
    run(sys.executable, "-c", "import serpentfs.vfs, sys; assert 'source' in serpentfs.__file__, serpentfs.__file__",
        cwd=drive.point / "source")  # fmt: skip


def test_a_large_file(mount: MakeMount) -> None:
    """Written, read back from the middle, cut, appended to; checked in the vault by an independent reader."""
    drive = mount()
    size = rounds(300, 1024)    # MiB
    if shutil.disk_usage(drive.work).free < 5 * size * MIB:
        pytest.skip(f"needs {5 * size} MiB of free disk")
    kept = size * 4 // 5
    path = drive.point / "large"
    piece = os.urandom(MIB)
    wanted = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(size):
            block = number.to_bytes(8, "big") + piece[8:]
            file.write(block)
            if number < kept:
                wanted.update(block)
    with path.open("rb") as file:
        for number in (size // 2, 1, size - 1):
            file.seek(number * MIB)
            assert file.read(16) == number.to_bytes(8, "big") + piece[8:16]
    os.truncate(path, kept * MIB)
    with path.open("ab") as file:
        file.write(b"the end")
    wanted.update(b"the end")
    assert path.stat().st_size == kept * MIB + 7
    drive.stop()
    entry = read_vault(drive.vault, PASSPHRASE)["/large"]
    assert (entry.size, entry.sha256) == (kept * MIB + 7, wanted.hexdigest())
