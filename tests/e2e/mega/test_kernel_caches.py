"""What others do with an account is in a mount though the kernel may believe what it knows for an hour.

Everything is looked at first, so that the kernel has it: listings, attributes, that a name is not there, content.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mega_clients import Account, MegaClient, Megatools, OwnCloud
from tests.mega_emulator import Emulator, emulator
from tests.mounted import PASSPHRASE, Mounted

_NUMBERS = itertools.count(1)
_SEEN_WITHIN = 10.0

pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="there is no FUSE here")


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


@pytest.fixture
def account(server: Emulator) -> Account:
    email = f"mount{next(_NUMBERS)}@example.test"
    server.add_account(email, PASSPHRASE)
    return Account(server.url, server.ca_file, email, PASSPHRASE)


@pytest.fixture
def other(account: Account, tmp_path: Path) -> Iterator[OwnCloud]:
    """Another client of the account, on another machine."""
    with OwnCloud(account, tmp_path / "other") as client:
        yield client


@pytest.fixture
def point(account: Account, other: OwnCloud, tmp_path: Path) -> Iterator[Path]:
    """Where the account is mounted, with a folder and two files in it that the kernel knows."""
    other.mkdir("folder")
    put(other, tmp_path, "folder/file", b"first")
    put(other, tmp_path, "top", b"of the top")
    drive = Mounted(
        tmp_path / "drive", url="mega:", exists=True, environment={"SERPENTFS_MEGA_API": account.url}
    )
    try:
        drive.command("login", account.email)
        drive.start()
        look(drive.point)
        assert os.listdir(drive.point / "folder") == ["file"]
        yield drive.point
        drive.stop()
    finally:
        drive.clean_up()


def put(client: MegaClient, work: Path, path: str, content: bytes) -> None:
    source = work / path.rpartition("/")[2]
    source.write_bytes(content)
    client.upload(source, path)


def look(point: Path) -> dict[str, bytes | None]:
    """All that is below, by path: a file's content, None for a folder."""
    return {
        str(path.relative_to(point)): None if path.is_dir() else path.read_bytes() for path in point.rglob("*")
    }


def seen(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _SEEN_WITHIN
    while not condition():
        assert time.monotonic() < give_up, f"not seen within {_SEEN_WITHIN} s"
        time.sleep(0.005)


def test_a_new_file(point: Path, other: OwnCloud, tmp_path: Path) -> None:
    assert not (point / "new").exists()  # the kernel knows that, too
    assert not (point / "folder" / "new").exists()
    put(other, tmp_path, "new", b"of a phone")
    put(other, tmp_path, "folder/new", b"second")
    seen(lambda: "new" in os.listdir(point))
    seen((point / "folder" / "new").exists)
    assert look(point) == {
        "folder": None, "folder/file": b"first", "folder/new": b"second", "new": b"of a phone", "top": b"of the top",
    }  # fmt: skip


def test_a_new_folder(point: Path, other: OwnCloud, tmp_path: Path) -> None:
    assert not (point / "made").exists()
    other.mkdir("made")
    put(other, tmp_path, "made/inside", b"x")
    seen((point / "made" / "inside").exists)
    assert (point / "made" / "inside").read_bytes() == b"x"
    assert sorted(os.listdir(point)) == ["folder", "made", "top"]


def test_another_name_and_another_place(point: Path, other: OwnCloud) -> None:
    inode = (point / "top").stat().st_ino
    other.rename("top", "renamed")
    seen(lambda: sorted(os.listdir(point)) == ["folder", "renamed"])
    seen(lambda: not (point / "top").exists())  # the kernel is told of a folder and of its names one by one
    other.move("renamed", "folder")
    seen((point / "folder" / "renamed").exists)
    assert look(point) == {"folder": None, "folder/file": b"first", "folder/renamed": b"of the top"}
    assert (point / "folder" / "renamed").stat().st_ino == inode
    other.rename("folder", "another")
    seen((point / "another").exists)
    assert look(point) == {"another": None, "another/file": b"first", "another/renamed": b"of the top"}


def test_another_content(point: Path, other: OwnCloud, tmp_path: Path) -> None:
    file = point / "folder" / "file"
    assert file.read_bytes() == b"first"  # from now on in the page cache
    put(other, tmp_path, "folder/file", b"saved over elsewhere")
    seen(lambda: file.stat().st_size == len(b"saved over elsewhere"))
    assert file.read_bytes() == b"saved over elsewhere"
    put(other, tmp_path, "folder/file", b"of the very same size")
    put(other, tmp_path, "folder/file", b"OF THE VERY SAME SIZE")
    seen(lambda: file.read_bytes() == b"OF THE VERY SAME SIZE")


def test_removed(point: Path, other: OwnCloud) -> None:
    other.remove("top")
    seen(lambda: not (point / "top").exists())
    assert os.listdir(point) == ["folder"]
    other.remove("folder/file")
    seen(lambda: os.listdir(point / "folder") == [])
    other.remove("folder")
    seen(lambda: os.listdir(point) == [])


@pytest.mark.skipif(Megatools.missing() is not None, reason=str(Megatools.missing()))
def test_what_a_program_of_others_does(point: Path, account: Account, tmp_path: Path) -> None:
    with Megatools(account, tmp_path / "megatools") as megatools:
        assert not (point / "theirs").exists()
        put(megatools, tmp_path, "theirs", b"of megatools")
        seen((point / "theirs").exists)
        assert (point / "theirs").read_bytes() == b"of megatools"
        megatools.remove("top")
        seen(lambda: sorted(os.listdir(point)) == ["folder", "theirs"])
