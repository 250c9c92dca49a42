"""What other programs do to the vault is seen through the mount, though the kernel may remember for an hour."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.s3_server import S3Server
from tests.mounted import PASSPHRASE, Mounted, free_port
from tests.other_client import OtherClient

PATIENCE = 20.0
"""Seconds. A second is what is promised and what it takes less than (see the captured output), but not on a machine
that has other things to do."""
MAY_BE_GONE = (errno.ENOENT, errno.ESTALE)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for all tests: each keeps to a folder of its own."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    mounted = Mounted(tmp_path_factory.mktemp("changes") / "drive")
    try:
        mounted.start()
        yield mounted
    finally:
        mounted.clean_up()


@pytest.fixture(scope="module")
def other(drive: Mounted) -> Iterator[OtherClient]:
    with OtherClient(drive.url, PASSPHRASE) as client:
        yield client


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[str, Callable[[], bool]], None]:
    """Waits until a condition holds, and notes how long that took."""

    def wait(what: str, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        began = time.monotonic()
        while not holds(condition):
            assert time.monotonic() - began < patience, f"{what}: not seen within {patience:.0f} s"
            time.sleep(0.005)
        took = time.monotonic() - began
        record_property(what, round(took, 3))
        print(f"{what}: seen after {took:.3f} s")

    return wait


Seen = Callable[..., None]


def holds(condition: Callable[[], bool]) -> bool:
    """A name that is not there (yet, any more), or of another kind, makes it false."""
    try:
        return condition()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ESTALE):
            raise
        return False


def outcome(call: Callable[[], object]) -> object:
    """What it returns, or the number of the error that it ends with."""
    try:
        return call()
    except OSError as error:
        return error.errno


def is_gone(path: Path) -> bool:
    return not os.path.lexists(path) and path.name not in os.listdir(path.parent)


def files_below(folder: Path) -> dict[str, str]:
    return {
        str((Path(where) / name).relative_to(folder)): (Path(where) / name).read_text()
        for where, _, names in os.walk(folder)
        for name in names
    }


def make(drive: Mounted, other: OtherClient, seen: Seen, *operations: list[str]) -> None:
    """What a test starts from, made by the other client and seen here: each folder is listed in its own time."""
    other(*operations)
    paths = [drive.point / operation[1].lstrip("/") for operation in operations]
    seen("start", lambda: all(map(os.path.lexists, paths)))


def test_a_new_file_where_there_was_none(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/new"])
    path = drive.point / "new" / "file"
    assert not path.exists()
    assert os.listdir(path.parent) == []
    other(["put", "/new/file", "made elsewhere"])
    seen("new file", lambda: path.read_text() == "made elsewhere")
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("size", [1000, 700_000])
def test_changed_content(drive: Mounted, other: OtherClient, seen: Seen, size: int) -> None:
    """Of another size, then of the same: the pages of the old one are not shown, nor a mix."""
    make(drive, other, seen, ["mkdir", f"/changed{size}"], ["put", f"/changed{size}/file", "a" * size])
    path = drive.point / f"changed{size}" / "file"
    assert path.read_text() == "a" * size
    versions = ["a" * size, "b" * (size + 10), "c" * (size + 10)]
    for now in (1, 2):
        other(["put", f"/changed{size}/file", versions[now]])

        def is_new(now: int = now) -> bool:
            shown = path.read_text()
            assert shown in versions[now - 1 : now + 1]
            return shown == versions[now]

        seen("changed content", is_new)
        assert path.stat().st_size == size + 10


def test_a_smaller_size(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    """Told by stat alone. Nobody has the file open, so it keeps its inode."""
    make(drive, other, seen, ["mkdir", "/size"], ["put", "/size/file", "12345"])
    path = drive.point / "size" / "file"
    before = path.stat()
    assert before.st_size == 5
    other(["put", "/size/file", "1"])
    seen("size", lambda: path.stat().st_size == 1)
    assert path.stat().st_ino == before.st_ino


def test_a_removed_file(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/removed"], ["put", "/removed/file", "x"])
    path = drive.point / "removed" / "file"
    assert path.read_text() == "x"
    other(["remove", "/removed/file"])
    seen("removed file", lambda: is_gone(path))


def test_a_renamed_file(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/file-move"], ["mkdir", "/file-move/to"], ["put", "/file-move/a", "x"])
    old, new = drive.point / "file-move" / "a", drive.point / "file-move" / "to" / "b"
    assert old.read_text() == "x"
    assert not new.exists()
    other(["move", "/file-move/a", "/file-move/to/b"])
    seen("renamed file", lambda: is_gone(old) and new.read_text() == "x")


def test_a_renamed_folder_keeps_its_inodes(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    """Somebody sits in it, and goes along."""
    make(
        drive, other, seen, ["mkdir", "/m"], ["mkdir", "/m/to"], ["mkdir", "/m/old"], ["mkdir", "/m/old/sub"],
        ["put", "/m/old/file", "1"], ["put", "/m/old/sub/file", "2"],
    )  # fmt: skip
    old, new = drive.point / "m" / "old", drive.point / "m" / "to" / "new"
    names = ("", "file", "sub", "sub/file")
    inodes = [(old / name).stat().st_ino for name in names]
    assert not new.exists()
    seat = os.open(old, os.O_DIRECTORY)
    sitting = subprocess.Popen([sys.executable, "-c", "input()"], cwd=old, stdin=subprocess.PIPE)
    try:
        other(["move", "/m/old", "/m/to/new"])
        seen("renamed folder", lambda: is_gone(old) and (new / "sub" / "file").read_text() == "2")
        assert [(new / name).stat().st_ino for name in names] == inodes
        assert (new / "file").read_text() == "1"
        assert sorted(os.listdir(seat)) == ["file", "sub"]
        assert os.readlink(f"/proc/{sitting.pid}/cwd") == str(new)
        other(["put", "/m/to/new/later", "3"])
        seen("file in a renamed folder", lambda: "later" in os.listdir(seat))
    finally:
        sitting.communicate(b"\n", timeout=30)
        os.close(seat)


def test_folders_in_folders_in_quick_succession(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/nested"])
    assert os.listdir(drive.point / "nested") == []
    operations, expected = [], {}
    for branch in "abc":
        path = f"/nested/{branch}"
        for depth in range(6):
            operations.append(["mkdir", path])
            for number in range(3):
                operations.append(["put", f"{path}/file{number}", f"{branch}{depth}{number}"])
                expected[f"{path}/file{number}".removeprefix("/nested/")] = f"{branch}{depth}{number}"
            path += "/inner"
    other(*operations)
    seen("new nested folders", lambda: files_below(drive.point / "nested") == expected)


def test_a_changed_link(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/links"], ["put", "/links/b", "x"], ["symlink", "/links/link", "a"])
    path = drive.point / "links" / "link"
    assert os.readlink(path) == "a"
    other(["remove", "/links/link"], ["symlink", "/links/link", "b"])
    seen("changed link", lambda: os.readlink(path) == "b")
    assert path.read_text() == "x"
    assert path.lstat().st_size == 1


def test_five_hundred_files_at_once(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/many"])
    folder = drive.point / "many"
    assert not any((folder / f"file{number}").exists() for number in range(500))
    other(*(["put", f"/many/file{number}", str(number)] for number in range(500)))
    seen("the last of 500 files", lambda: len(os.listdir(folder)) == 500)
    assert files_below(folder) == {f"file{number}": str(number) for number in range(500)}
    other(["remove", "/many"])
    seen("500 files and their folder removed", lambda: is_gone(folder))


def test_a_removed_folder_in_which_somebody_sits(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(
        drive, other, seen, ["mkdir", "/gone"], ["mkdir", "/gone/a"], ["mkdir", "/gone/a/b"],
        ["put", "/gone/a/b/f", "x"],
    )  # fmt: skip
    folder = drive.point / "gone" / "a"
    assert files_below(folder) == {"b/f": "x"}
    seat = os.open(folder / "b", os.O_DIRECTORY)
    try:
        other(["remove", "/gone/a"])
        seen("removed folder", lambda: is_gone(folder))
        assert outcome(lambda: os.listdir(seat)) in ([], *MAY_BE_GONE)
        assert outcome(lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=seat)) in MAY_BE_GONE
        # The name is free for another folder, which is not the one that somebody still sits in.
        other(["mkdir", "/gone/a"], ["put", "/gone/a/f", "y"])
        seen("folder made again", lambda: files_below(folder) == {"f": "y"})
    finally:
        os.close(seat)


def test_a_file_becomes_a_folder_and_a_file_again(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/kind"], ["put", "/kind/x", "file"])
    path = drive.point / "kind" / "x"
    assert path.read_text() == "file"
    other(["remove", "/kind/x"], ["mkdir", "/kind/x"], ["put", "/kind/x/inner", "below"])
    seen("file to folder", lambda: (path / "inner").read_text() == "below")
    assert path.is_dir()
    other(["remove", "/kind/x"], ["put", "/kind/x", "file again"])
    seen("folder to file", lambda: path.read_text() == "file again")
    other(["remove", "/kind/x"], ["symlink", "/kind/x", "elsewhere"])
    seen("file to link", lambda: os.readlink(path) == "elsewhere")


def test_a_name_changes_hands(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    """A folder is renamed and another one of its old name made, all in one look."""
    names = "abcdefgh"
    make(drive, other, seen, ["mkdir", "/hands"], *(["mkdir", f"/hands/{name}"] for name in names))
    folder = drive.point / "hands"
    seen("start", lambda: sorted(os.listdir(folder)) == sorted(names))
    inodes = {name: (folder / name).stat().st_ino for name in names}
    other(*(
        operation
        for name in names
        for operation in (["move", f"/hands/{name}", f"/hands/{name}2"], ["mkdir", f"/hands/{name}"])
    ))  # fmt: skip
    expected = sorted([*names, *(f"{name}2" for name in names)])
    seen("renamed folders, new ones under their names", lambda: sorted(os.listdir(folder)) == expected)
    for name in names:
        assert (folder / f"{name}2").stat().st_ino == inodes[name]
        assert (folder / name).stat().st_ino not in inodes.values()


def test_two_folders_are_swapped(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(
        drive, other, seen, ["mkdir", "/swap"], ["mkdir", "/swap/a"], ["put", "/swap/a/in a", "1"],
        ["mkdir", "/swap/b"], ["put", "/swap/b/in b", "2"],
    )  # fmt: skip
    folder = drive.point / "swap"
    assert files_below(folder) == {"a/in a": "1", "b/in b": "2"}
    other(["move", "/swap/a", "/swap/x"], ["move", "/swap/b", "/swap/a"], ["move", "/swap/x", "/swap/b"])
    seen("two folders swapped", lambda: files_below(folder) == {"b/in a": "1", "a/in b": "2"}, 5)


def test_a_file_and_a_folder_are_swapped(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(
        drive, other, seen, ["mkdir", "/mixed"], ["mkdir", "/mixed/a"], ["put", "/mixed/a/inner", "1"],
        ["put", "/mixed/f", "file"],
    )  # fmt: skip
    folder = drive.point / "mixed"
    assert files_below(folder) == {"a/inner": "1", "f": "file"}
    other(["move", "/mixed/a", "/mixed/x"], ["move", "/mixed/f", "/mixed/a"], ["move", "/mixed/x", "/mixed/f"])
    seen("a file and a folder swapped", lambda: files_below(folder) == {"f/inner": "1", "a": "file"})
    assert sorted(os.listdir(folder)) == ["a", "f"]


def test_two_files_are_swapped(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    make(drive, other, seen, ["mkdir", "/pair"], ["put", "/pair/a", "was a"], ["put", "/pair/b", "was b"])
    folder = drive.point / "pair"
    assert files_below(folder) == {"a": "was a", "b": "was b"}
    other(["move", "/pair/a", "/pair/x"], ["move", "/pair/b", "/pair/a"], ["move", "/pair/x", "/pair/b"])
    seen("two files swapped", lambda: files_below(folder) == {"a": "was b", "b": "was a"})


def test_an_open_handle_keeps_its_content(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    """Or tells that it is gone. The pages of both contents must not meet."""
    size = 3_000_000
    make(drive, other, seen, ["mkdir", "/open"], ["put", "/open/file", "a" * size])
    path = drive.point / "open" / "file"
    seen("start", lambda: path.stat().st_size == size)
    with path.open("rb", buffering=0) as old:
        assert old.read(10) == b"a" * 10
        other(["put", "/open/file", "b" * size])
        seen("content of an open file", lambda: path.read_bytes() == b"b" * size)
        for offset in (0, size // 2, size - 10):
            read = outcome(lambda offset=offset: os.pread(old.fileno(), 10, offset))    # type: ignore[misc]
            assert read in (b"a" * 10, errno.ESTALE)
        other(["remove", "/open/file"])
        seen("removal of an open file", lambda: is_gone(path))
        assert os.pread(old.fileno(), 10, 0) == b"a" * 10


def test_readers_see_one_content_or_the_other(drive: Mounted, other: OtherClient, seen: Seen) -> None:
    """A file is replaced again and again while others read and stat it."""
    size = 400_000
    make(drive, other, seen, ["mkdir", "/versions"], ["put", "/versions/file", "a" * size])
    path = drive.point / "versions" / "file"
    stop, wrong, reads = threading.Event(), [], 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                with path.open("rb", buffering=0) as file:
                    shown = b"".join(iter(lambda: file.read(100_000), b""))
            except OSError as error:
                if error.errno not in MAY_BE_GONE:
                    wrong.append(repr(error))
                continue
            reads += 1
            if shown != shown[:1] * (size + shown[0] - ord("a")):
                wrong.append(f"{len(shown)} bytes of {set(shown)}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for letter in "bcdefghijklmnop":
            other(["put", "/versions/file", letter * (size + ord(letter) - ord("a"))])
    finally:
        seen("the last of many contents", lambda: path.stat().st_size == size + 15)
        stop.set()
        for reader in readers:
            reader.join(timeout=60)
    assert wrong == []
    assert reads > 0
    seen("the last content", lambda: path.read_bytes() == b"p" * (size + 15))


@pytest.fixture
def theirs(drive: Mounted) -> Any:
    """pycryptomator's idea of the vault: it writes in place and in another order than we do."""
    return pytest.importorskip("pycryptomator.cryptomator").Vault(str(drive.vault), PASSPHRASE)


def test_pycryptomator(drive: Mounted, theirs: Any, tmp_path: Path, seen: Seen) -> None:
    source = tmp_path / "source"
    folder = drive.point / "py"

    def write(path: str, content: str) -> None:
        source.write_text(content)
        theirs.encryptFile(str(source), path, force=True)

    assert not folder.exists()
    theirs.mkdir("/py")
    seen("its folder", folder.is_dir)
    assert not (folder / "file").exists()
    write("/py/file", "first")
    seen("its file", lambda: (folder / "file").read_text() == "first")

    def shows(content: str) -> Callable[[], bool]:
        def condition() -> bool:
            try:
                return (folder / "file").read_text() == content
            except OSError as error:
                if error.errno != errno.EIO:    # it writes in place: half of a file does not authenticate
                    raise
                return False

        return condition

    write("/py/file", "second, longer than the first")
    seen("its changed file", shows("second, longer than the first"))
    write("/py/file", "3" * 100_000)
    seen("its larger file", shows("3" * 100_000))

    for path in ("/py/a", "/py/a/b", f"/py/a/b/{'n' * 180}"):
        theirs.mkdir(path)
    write(f"/py/a/b/{'n' * 180}/deep", "below")
    seen("its nested folders", lambda: (folder / "a" / "b" / ("n" * 180) / "deep").read_text() == "below")
    inode = (folder / "a").stat().st_ino
    theirs.mv("/py/a", "/py/moved")
    seen("its renamed folder", lambda: is_gone(folder / "a") and (folder / "moved" / "b").is_dir())
    assert (folder / "moved").stat().st_ino == inode
    assert files_below(folder / "moved") == {f"b/{'n' * 180}/deep": "below"}
    theirs.mv("/py/file", "/py/renamed")
    seen("its renamed file", lambda: is_gone(folder / "file") and (folder / "renamed").stat().st_size == 100_000)

    theirs.ln("renamed", "/py/link")
    seen("its link", lambda: os.readlink(folder / "link") == "renamed")
    for number in range(50):
        write(f"/py/many{number}", str(number))
    seen("its many files", lambda: all((folder / f"many{number}").read_text() == str(number) for number in range(50)))
    theirs.remove("/py/renamed")
    seen("its removed file", lambda: is_gone(folder / "renamed"))
    theirs.rmtree("/py/moved")
    seen("its removed folder", lambda: is_gone(folder / "moved"))


# Stores that report nothing: they are listed again and again.

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
POLL = 1.0


@pytest.fixture
def bucket() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("bucket")
        yield server


def url_of(server: S3Server) -> str:
    return f"vault+s3://bucket/my/vault?endpoint={server.endpoint}&region=us-east-1"


def on_s3(mount: Callable[..., Mounted], server: S3Server, *options: str) -> Mounted:
    return mount(url=url_of(server), environment=CREDENTIALS, options=options)


def test_changes_in_a_bucket(mount: Callable[..., Mounted], bucket: S3Server, seen: Seen) -> None:
    """Each is seen with the next listing."""
    drive = on_s3(mount, bucket, "--poll-interval", str(POLL))
    point = drive.point
    with OtherClient(url_of(bucket), PASSPHRASE, CREDENTIALS) as other:
        assert not (point / "a").exists()
        other(["mkdir", "/a"], ["put", "/a/file", "first"], ["symlink", "/a/link", "file"])
        seen("new folder", lambda: (point / "a" / "file").read_text() == "first")
        assert os.readlink(point / "a" / "link") == "file"
        inode = (point / "a").stat().st_ino

        other(["put", "/a/file", "other"])
        seen("changed content", lambda: (point / "a" / "file").read_text() == "other")
        other(["put", "/a/file", "longer than before"])
        seen("changed size", lambda: (point / "a" / "file").stat().st_size == 18)

        other(["mkdir", "/b"], ["move", "/a", "/b/moved"])
        seen("renamed folder", lambda: is_gone(point / "a") and (point / "b" / "moved" / "file").exists())
        assert (point / "b" / "moved").stat().st_ino == inode
        assert (point / "b" / "moved" / "file").read_text() == "longer than before"

        other(["move", "/b/moved/file", "/b/up"], *(["put", f"/b/moved/{number}", "x"] for number in range(50)))
        seen("moved file and fifty new ones", lambda: len(os.listdir(point / "b" / "moved")) == 51)
        assert (point / "b" / "up").read_text() == "longer than before"
        other(["remove", "/b/moved"], ["put", "/b/moved", "a file now"])
        seen("folder to file", lambda: (point / "b" / "moved").read_text() == "a file now")
        assert sorted(os.listdir(point / "b")) == ["moved", "up"]


def test_metadata_costs_no_requests(mount: Callable[..., Mounted], bucket: S3Server, seen: Seen) -> None:
    drive = on_s3(mount, bucket, "--poll-interval", "3600")
    for number in range(5):
        (drive.point / str(number)).mkdir()
        (drive.point / str(number) / "file").write_text(str(number))
    drive.flush()
    drive.stop()
    drive.start()
    # The vault is opened, listed, and the room asked for; then it is quiet.
    before = -1

    def is_quiet() -> bool:
        nonlocal before
        previous, before = before, len(bucket.requests)
        time.sleep(0.3)
        return before == previous

    seen("quiet", is_quiet)
    found = [path.stat().st_size for path in drive.point.rglob("*") if path.is_file()]
    assert not (drive.point / "0" / "nothing").exists()
    assert found == [1] * 5
    assert len(bucket.requests) == before


def test_offline_from_start_to_end(mount: Callable[..., Mounted], seen: Seen) -> None:
    """The store is away: a mount starts from its state, serves its cache, keeps changes, also over a crash. When the
    store is back, they go up."""
    port = free_port()
    with S3Server(port) as server:
        server.make_bucket("bucket")
        drive = on_s3(mount, server, "--poll-interval", str(POLL))
        point = drive.point
        (point / "folder").mkdir()
        for name in ("kept", "changed", "removed"):
            (point / "folder" / name).write_text(f"content of {name}")
        drive.flush()
        drive.stop()
    began = time.monotonic()
    drive.start()
    print(f"offline start: {time.monotonic() - began:.1f} s")
    assert (point / "folder" / "kept").read_text() == "content of kept"
    (point / "folder" / "changed").write_text("written offline")
    (point / "folder" / "removed").unlink()
    (point / "folder" / "new").write_text("made offline")
    (point / "folder").rename(point / "renamed")
    drive.kill()
    drive.clean_up()
    drive.start()
    expected = {"kept": "content of kept", "changed": "written offline", "new": "made offline"}
    assert files_below(point / "renamed") == expected
    assert len(json.loads(drive.command("status", "--json"))[0]["drive"]["pending"]) >= 4
    with S3Server(port) as again:
        again.buckets = server.buckets
        drive.flush()
        with OtherClient(drive.url, PASSPHRASE, CREDENTIALS) as other:
            other(["put", "/renamed/theirs", "online again"])
            seen("a change after the store came back", lambda: (point / "renamed" / "theirs").exists())
        drive.stop()
        shutil.rmtree(drive.work / "state")
        shutil.rmtree(drive.work / "cache")
        drive.start()
        assert files_below(point) == {f"renamed/{name}": text for name, text in expected.items()} | {
            "renamed/theirs": "online again"
        }
        drive.stop()
