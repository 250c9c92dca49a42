"""The drive against the reference cloud: what arrives there, what survives a restart, and two actors at once.

The two-actor tests are the numbered examples of SEMANTICS.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from serpentfs.errors import RevisionGone
from serpentfs.model import BLOCK_SIZE, ROOT_INO
from serpentfs.vfs.core import RenameMode, SetAttributes
from serpentfs.vfs.drive import DriveOptions
from tests.drives import (
    DOOR,
    a_drive,
    contents,
    exists,
    ino_at,
    mkdir,
    patch,
    read,
    rename,
    rmdir,
    unlink,
    until,
    write,
)
from tests.fakes.faulty_cloud import FOR_EVER, FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

LATER = DriveOptions(settle=3600, host="here")


@pytest.fixture(params=["unstable-ids", "stable-ids", "events"])
def cloud(request: pytest.FixtureRequest) -> MemoryCloud:
    return MemoryCloud(stable_file_ids=request.param == "stable-ids", events=request.param == "events")


async def test_everything_arrives(cloud: MemoryCloud, tmp_path: Path) -> None:
    big = os.urandom(3 * BLOCK_SIZE + 17)
    async with a_drive(cloud, tmp_path) as drive:
        await mkdir(drive, "/a")
        await mkdir(drive, "/a/b")
        await write(drive, "/a/b/file", b"hello")
        await write(drive, "/big", big)
        await write(drive, "/empty", b"")
        await drive.symlink(ROOT_INO, "link", "a/b/file", door=DOOR)
        await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert cloud.contents() == await contents(drive)
        assert cloud.contents()["/big"] == big


async def test_a_random_write_and_an_append_keep_the_rest(cloud: MemoryCloud, tmp_path: Path) -> None:
    data = bytearray(os.urandom(5 * BLOCK_SIZE))
    cloud.external_put("/file", bytes(data))
    async with a_drive(cloud, tmp_path) as drive:
        await patch(drive, "/file", BLOCK_SIZE + 100, b"x" * 10)
        data[BLOCK_SIZE + 100 : BLOCK_SIZE + 110] = b"x" * 10
        assert await read(drive, "/file") == bytes(data)
        await drive.wait_until_uploaded()
        assert cloud.contents()["/file"] == bytes(data)
        await patch(drive, "/file", len(data), b"tail")
        data += b"tail"
        await drive.wait_until_uploaded()
        assert cloud.contents()["/file"] == bytes(data) == await read(drive, "/file")


async def test_truncation_cuts_the_base_for_ever(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/file", b"a" * (2 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path) as drive:
        ino = ino_at(drive, "/file")
        await drive.setattr(ino, SetAttributes(size=10), door=DOOR)
        await drive.setattr(ino, SetAttributes(size=BLOCK_SIZE + 10), door=DOOR)
        expected = b"a" * 10 + bytes(BLOCK_SIZE)
        assert await read(drive, "/file") == expected
        await drive.wait_until_uploaded()
        assert cloud.contents()["/file"] == expected


async def test_what_was_acknowledged_survives_a_restart(cloud: MemoryCloud, tmp_path: Path) -> None:
    big = os.urandom(2 * BLOCK_SIZE + 5)
    cloud.external_put("/old", b"0123456789")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await mkdir(drive, "/folder")
        await write(drive, "/folder/big", big)
        await patch(drive, "/old", 3, b"abc")
        await rename(drive, "/old", "/folder/renamed")
        before = await contents(drive)
        inos = {path: ino_at(drive, path) for path in before}
    assert cloud.contents() == {"/old": b"0123456789"}
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        assert await contents(drive) == before
        assert {path: ino_at(drive, path) for path in before} == inos
        await drive.wait_until_uploaded()
        assert cloud.contents() == before
        await until(lambda: not list((tmp_path / "state" / "staging").iterdir()))


async def test_the_temporary_file_pattern_is_one_upload(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/document", b"old")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/.document.tmp", b"new")
        await rename(drive, "/.document.tmp", "/document")
        assert [change.operation for change in drive.status().pending] == ["create"]
        await drive.wait_until_uploaded()
        assert cloud.contents() == {"/document": b"new"}


async def test_what_cancels_out_is_not_sent(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await mkdir(drive, "/folder")
        await write(drive, "/folder/file", b"data")
        await unlink(drive, "/folder/file")
        await rmdir(drive, "/folder")
        assert drive.status().pending == ()
        await until(lambda: not list((tmp_path / "state" / "staging").iterdir()))


async def test_exchange_of_two_files(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/one", b"1")
    cloud.external_put("/two", b"2")
    async with a_drive(cloud, tmp_path) as drive:
        await drive.rename(ROOT_INO, "one", ROOT_INO, "two", RenameMode.EXCHANGE, door=DOOR)
        assert await contents(drive) == {"/one": b"2", "/two": b"1"}
        await drive.wait_until_uploaded()
        assert cloud.contents() == {"/one": b"2", "/two": b"1"}


async def test_a_removed_open_file_is_readable_to_the_end(cloud: MemoryCloud, tmp_path: Path) -> None:
    data = os.urandom(3 * BLOCK_SIZE)
    cloud.external_put("/file", data)
    async with a_drive(cloud, tmp_path) as drive:
        handle = await drive.open(ino_at(drive, "/file"), write=False, door=DOOR)
        await unlink(drive, "/file")
        await drive.wait_until_uploaded()
        assert bytes(await drive.read(handle, 0, len(data))) == data
        assert "/file" in cloud.contents()
        await drive.release(handle)
        await drive.wait_until_uploaded()
        assert cloud.contents() == {}


async def test_a_write_during_the_upload_of_the_same_file(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path, settle=0.0) as drive:
        for round_number in range(30):
            await write(drive, "/file", b"%d" % round_number * 100)
            await patch(drive, "/file", 1, b"!")
            await trio.sleep(0.001)
        await drive.wait_until_uploaded()
        assert cloud.contents()["/file"] == await read(drive, "/file")
        assert (await read(drive, "/file")).startswith(b"2!29")


async def test_an_mtime_arrives_with_its_file(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path) as drive:
        await write(drive, "/file", b"data")
        mtime_ns = 1_234_567_890_123_456_789
        await drive.setattr(ino_at(drive, "/file"), SetAttributes(mtime_ns=mtime_ns), door=DOOR)
        await drive.wait_until_uploaded()
        unit = 1_000_000_000 if cloud.capabilities.reports_times else 1
        assert cloud.find("/file").mtime_ns == mtime_ns // unit * unit
        await drive.setattr(ino_at(drive, "/file"), SetAttributes(mtime_ns=5 * unit), door=DOOR)
        await drive.wait_until_uploaded()
        assert cloud.find("/file").mtime_ns == 5 * unit


async def test_durability_cloud_waits_for_the_cloud(cloud: MemoryCloud, tmp_path: Path) -> None:
    options = DriveOptions(settle=3600, durability="cloud", host="here")
    async with a_drive(cloud, tmp_path, options=options) as drive:
        await mkdir(drive, "/folder")
        assert cloud.contents() == {"/folder": None}
        _, handle = await drive.create(ino_at(drive, "/folder"), "file", exclusive=True, door=DOOR)
        await drive.write(handle, 0, b"first")
        await drive.flush(handle)
        assert cloud.contents()["/folder/file"] == b"first"
        await drive.write(handle, None, b" second")
        await drive.fsync(handle)
        assert cloud.contents()["/folder/file"] == b"first second"
        await drive.release(handle)


# --- two actors


async def test_example_1_a_file_added_elsewhere_appears(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path) as drive:
        cloud.external_mkdir("/folder")
        cloud.external_put("/folder/file", b"theirs")
        await until(lambda: exists(drive, "/folder/file"))
        assert await read(drive, "/folder/file") == b"theirs"


async def test_example_2_a_file_changed_elsewhere_changes(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/file", b"before")
    async with a_drive(cloud, tmp_path) as drive:
        before = drive.resolve("/file")
        cloud.external_put("/file", b"and after")
        await until(lambda: drive.resolve("/file").size == 9)
        after = drive.resolve("/file")
        assert after.ino == before.ino
        assert after.content != before.content
        assert await read(drive, "/file") == b"and after"


async def test_example_3_a_reader_never_gets_half_of_two_contents(cloud: MemoryCloud, tmp_path: Path) -> None:
    old = b"o" * (8 * BLOCK_SIZE)
    cloud.external_put("/file", old)
    async with a_drive(cloud, tmp_path) as drive:
        handle = await drive.open(ino_at(drive, "/file"), write=False, door=DOOR)
        assert bytes(await drive.read(handle, 0, 10)) == b"o" * 10
        cloud.external_put("/file", b"n" * (8 * BLOCK_SIZE))
        await until(lambda: drive.resolve("/file").ino != drive.attributes_of(handle).ino)
        assert bytes(await drive.read(handle, 0, 10)) == b"o" * 10
        with pytest.raises(RevisionGone):
            await drive.read(handle, 7 * BLOCK_SIZE, 10)
        await drive.release(handle)
        assert await read(drive, "/file") == b"n" * (8 * BLOCK_SIZE)


async def test_example_4_both_change_a_file(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/report.txt", b"base")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/report.txt", b"mine")
        cloud.external_put("/report.txt", b"theirs")
        await drive.wait_until_uploaded()
        await until(lambda: exists(drive, "/report.txt"))
        found = cloud.contents()
        assert found.pop("/report.txt") == b"theirs"
        ((name, data),) = found.items()
        assert name.startswith("/report (conflict here ")
        assert name.endswith(").txt")
        assert data == b"mine"
        await until(lambda: len(drive.readdir(ROOT_INO)) == 2)
        assert await contents(drive) == cloud.contents()
        assert drive.status().conflicts == 1


async def test_example_5_both_create_a_file_of_one_name(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/new", b"mine")
        cloud.external_put("/new", b"theirs")
        await drive.wait_until_uploaded()
        assert sorted(filter(None, cloud.contents().values()), key=str) == [b"mine", b"theirs"]
        assert cloud.contents()["/new"] == b"theirs"
        await until(lambda: len(drive.readdir(ROOT_INO)) == 2)
        assert await contents(drive) == cloud.contents()


async def test_example_6_changed_here_removed_there(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/file", b"base")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/file", b"mine")
        cloud.external_remove("/file")
        await drive.wait_until_uploaded()
        assert cloud.contents() == {"/file": b"mine"} == await contents(drive)


async def test_example_7_removed_here_changed_there(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/file", b"base")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await unlink(drive, "/file")
        cloud.external_put("/file", b"theirs")
        await drive.wait_until_uploaded()
        assert cloud.contents() == {"/file": b"theirs"}
        await until(lambda: exists(drive, "/file"))
        assert await read(drive, "/file") == b"theirs"


async def test_example_8_written_into_a_folder_that_was_removed_there(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_mkdir("/folder")
    cloud.external_put("/folder/old", b"old")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/folder/new", b"mine")
        cloud.external_remove("/folder/old")
        cloud.external_remove("/folder")
        await until(lambda: not exists(drive, "/folder/old"))
        await drive.wait_until_uploaded()
        assert cloud.contents() == {"/folder": None, "/folder/new": b"mine"}
        assert await contents(drive) == cloud.contents()


async def test_example_9_a_folder_moved_there_keeps_its_inode(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_mkdir("/a")
    cloud.external_mkdir("/b")
    cloud.external_mkdir("/a/folder")
    cloud.external_put("/a/folder/file", b"data")
    async with a_drive(cloud, tmp_path) as drive:
        ino = ino_at(drive, "/a/folder")
        cloud.external_rename("/a/folder", "/b/moved")
        await until(lambda: exists(drive, "/b/moved/file"))
        assert ino_at(drive, "/b/moved") == ino
        assert not exists(drive, "/a/folder")
        assert await read(drive, "/b/moved/file") == b"data"


async def test_example_10_renamed_here_changed_there(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/old", b"base")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await rename(drive, "/old", "/new")
        cloud.external_put("/old", b"theirs, longer")
        await drive.wait_until_uploaded()
        await until(lambda: not drive.status().pending)
        await trio.sleep(0.05)
        assert b"theirs, longer" in cloud.contents().values()
        await until(lambda: drive.readdir(ROOT_INO)[0].attributes.size == 14)
        assert await contents(drive) == cloud.contents()


async def test_example_11_a_part_written_here_the_whole_replaced_there(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/file", b"a" * (4 * BLOCK_SIZE))
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await patch(drive, "/file", 0, b"X" * 10)
        cloud.external_put("/file", b"b" * (4 * BLOCK_SIZE))
        await drive.wait_until_uploaded()
        found = cloud.contents()
        assert found.pop("/file") == b"b" * (4 * BLOCK_SIZE)
        ((name, data),) = found.items()
        assert "conflict" in name
        assert isinstance(data, bytes)
        assert data[:10] == b"X" * 10
        assert len(data) == 4 * BLOCK_SIZE


async def test_example_12_both_make_a_folder_of_one_name(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await mkdir(drive, "/folder")
        await write(drive, "/folder/mine", b"mine")
        cloud.external_mkdir("/folder")
        cloud.external_put("/folder/theirs", b"theirs")
        await drive.wait_until_uploaded()
        assert cloud.contents()["/folder/theirs"] == b"theirs"
        assert b"mine" in cloud.contents().values()
        await until(lambda: len(drive.readdir(ROOT_INO)) == 2)
        assert await contents(drive) == cloud.contents()


async def test_a_read_goes_on_while_its_upload_is_confirmed(cloud: MemoryCloud, tmp_path: Path) -> None:
    """The stage ends between two blocks of one read; the rest comes from where the content is now."""
    async with a_drive(cloud, tmp_path, settle=0.0) as drive:
        for number in range(10):
            data = os.urandom(40 * BLOCK_SIZE)
            await write(drive, f"/file{number}", data)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drive.wait_until_uploaded)
                handle = await drive.open(ino_at(drive, f"/file{number}"), write=False, door=DOOR)
                while drive.status().pending:
                    assert bytes(await drive.read(handle, 0, len(data))) == data
                await drive.release(handle)
        await until(lambda: not list((tmp_path / "state" / "staging").iterdir()))


async def test_who_waits_for_many_uploads_hears_soon_that_they_are_through(tmp_path: Path) -> None:
    cloud = FaultyCloud(MemoryCloud())
    cloud.stall("put", 0.4, times=FOR_EVER)
    options = DriveOptions(settle=60.0, host="here", uploads=200)
    async with a_drive(cloud, tmp_path, options=options) as drive:
        for number in range(150):
            await write(drive, f"/{number}", b"data")
        with trio.fail_after(5):    # looking at what is left takes no time worth a pause
            await drive.wait_until_uploaded()
        assert not drive.status().pending
