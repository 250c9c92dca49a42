"""Uploads that begin while their file is written: they are sent once, under a token of their own, and nothing of them
is seen before the file is closed, whatever happens to the file meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.limited import LimitedCloud, Way
from serpentfs.model import ROOT_INO, HandleId
from serpentfs.vfs.cancelling import Cancelled
from serpentfs.vfs.core import SetAttributes
from serpentfs.vfs.drive import Drive, DriveOptions
from serpentfs.vfs.early import is_passing
from tests.drives import DOOR, a_drive, contents, ino_at, mkdir, rename, unlink, until
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

PIECE = 500
SIZE = 4000
"""From here on an upload may begin; a quarter of it is kept back."""
EARLY = DriveOptions(settle=0.01, host="here", early_size=SIZE)


def some(size: int, seed: int = 0) -> bytes:
    """Bytes that tell where they come from."""
    return b"".join((seed * 1_000_000 + at).to_bytes(8, "big") for at in range(size // 8 + 1))[:size]


class Written:
    """A drive over the reference cloud, and a file that is being written there."""

    def __init__(self, drive: Drive, memory: MemoryCloud, faulty: FaultyCloud) -> None:
        self.drive, self.memory, self.faulty = drive, memory, faulty
        self.handle = HandleId(0)

    async def create(self, name: str = "file") -> None:
        _, self.handle = await self.drive.create(ROOT_INO, name, exclusive=False, door=DOOR)
        await self.drive.setattr(
            self.drive.attributes_of(self.handle).ino, SetAttributes(size=0), self.handle, door=DOOR
        )

    async def append(self, size: int, seed: int = 0) -> None:
        await self.drive.write(self.handle, None, some(size, seed))

    async def begun(self, size: int = 2 * SIZE) -> None:
        """A file whose upload is under way, and has sent all that it may."""
        await self.append(size)
        await until(lambda: self.sent >= (size - SIZE // 4) // PIECE)

    @property
    def sent(self) -> int:
        """Pieces that were sent of anything."""
        return self.memory.pieces_sent

    async def close(self) -> None:
        await self.drive.release(self.handle)

    async def uploaded(self) -> dict[str, bytes | str | None]:
        with trio.fail_after(20):
            await self.drive.wait_until_uploaded()
        assert self.drive.status().pending == ()
        assert self.memory.leaks == []
        assert self.memory.contents() == await contents(self.drive)
        return self.memory.contents()

    @property
    def puts(self) -> tuple[int, int]:
        """Calls so far: those that began early, and the others."""
        return self.memory.calls["put_growing"], self.memory.calls["put"]


@asynccontextmanager
async def opened(
    where: Path, options: DriveOptions = EARLY, memory: MemoryCloud | None = None
) -> AsyncIterator[Written]:
    memory = memory or MemoryCloud(growing_puts=True, piece=PIECE)
    faulty = FaultyCloud(memory)
    async with a_drive(faulty, where, options=options) as drive:
        yield Written(drive, memory, faulty)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Written]:
    async with opened(tmp_path) as written:
        await written.create()
        yield written


# what it is for


async def test_it_is_sent_once_and_seen_after_the_close(file: Written) -> None:
    await file.begun()
    await file.append(3 * SIZE, seed=1)
    await until(lambda: file.sent >= 4 * SIZE // PIECE)
    await trio.sleep(0.05)
    assert file.memory.contents() == {}
    assert file.sent <= (5 * SIZE - SIZE // 4) // PIECE
    await file.close()
    assert await file.uploaded() == {"/file": some(2 * SIZE) + some(3 * SIZE, seed=1)}
    assert file.puts == (1, 0)


@pytest.mark.parametrize("size", [SIZE, SIZE + 1, 2 * SIZE, 2 * SIZE + PIECE - 1])
async def test_ends_of_all_kinds(file: Written, size: int) -> None:
    await file.append(size)
    await file.close()
    assert await file.uploaded() == {"/file": some(size)}
    assert sum(file.puts) == 1


async def test_a_small_file_is_not_begun_early(file: Written) -> None:
    await file.append(SIZE - 1)
    await trio.sleep(0.05)
    assert file.puts == (0, 0)
    await file.close()
    assert await file.uploaded() == {"/file": some(SIZE - 1)}


async def test_a_file_that_is_written_anew(file: Written) -> None:
    await file.begun()
    await file.close()
    await file.uploaded()
    await file.create()
    await file.append(2 * SIZE, seed=1)
    await until(lambda: file.puts == (2, 0))
    assert file.memory.contents() == {"/file": some(2 * SIZE)}
    await file.close()
    assert await file.uploaded() == {"/file": some(2 * SIZE, seed=1)}
    assert file.puts == (2, 0)


async def test_what_was_journalled_before_goes_on(file: Written) -> None:
    await file.begun()
    await file.drive.fsync(file.handle)
    await file.append(SIZE, seed=1)
    await file.close()
    assert await file.uploaded() == {"/file": some(2 * SIZE) + some(SIZE, seed=1)}
    assert file.puts == (1, 0)


async def test_progress_is_told(file: Written) -> None:
    file.faulty.stall("put_growing", 0.3, after=True)
    await file.begun()
    await file.close()
    await until(lambda: [one.sent for one in file.drive.status().pending] == [2 * SIZE])
    assert await file.uploaded() == {"/file": some(2 * SIZE)}


async def test_what_is_written_while_it_is_finished_comes_after(tmp_path: Path) -> None:
    memory = MemoryCloud(growing_puts=True, piece=PIECE)
    async with opened(tmp_path, memory=memory) as file:
        file.faulty.stall("put_growing", 0.3, after=True)
        await file.create()
        await file.begun()
        await file.close()
        await until(lambda: [one.state for one in file.drive.status().pending] == ["sending"])
        file.handle = await file.drive.open(ino_at(file.drive, "/file"), write=True, door=DOOR)
        await file.drive.write(file.handle, 5, b"changed")
        await file.close()
        data = some(2 * SIZE)
        assert await file.uploaded() == {"/file": data[:5] + b"changed" + data[12:]}


@pytest.mark.parametrize("change", ["renamed", "removed"])
async def test_one_that_is_being_finished_goes_on(tmp_path: Path, change: str) -> None:
    """What is done to the file then, comes after, as with every upload under way."""
    async with opened(tmp_path) as file:
        file.faulty.stall("put_growing", 0.3, after=True)
        await file.create()
        await file.begun()
        await file.close()
        await until(lambda: [one.state for one in file.drive.status().pending] == ["sending"])
        if change == "renamed":
            await rename(file.drive, "/file", "/other")
        else:
            await unlink(file.drive, "/file")
        assert await file.uploaded() == ({"/other": some(2 * SIZE)} if change == "renamed" else {})
        assert file.puts == (1, 0)


# what drops it


@pytest.mark.parametrize("change", ["write", "shorter", "empty"])
async def test_a_change_of_what_was_sent(file: Written, change: str) -> None:
    await file.begun()
    data = some(2 * SIZE)
    if change == "write":
        await file.drive.write(file.handle, 10, b"changed")
        data = data[:10] + b"changed" + data[17:]
    else:
        size = SIZE // 2 if change == "shorter" else 0
        await file.drive.setattr(ino_at(file.drive, "/file"), SetAttributes(size=size), file.handle, door=DOOR)
        data = data[:size]
    await file.append(2 * SIZE, seed=1)
    await file.close()
    assert await file.uploaded() == {"/file": data + some(2 * SIZE, seed=1)}
    assert file.puts[1] == 1


async def test_a_change_of_what_was_kept_back_does_not(file: Written) -> None:
    await file.begun()
    await file.drive.write(file.handle, 2 * SIZE - 20, b"changed")
    await file.close()
    assert await file.uploaded() == {"/file": some(2 * SIZE)[:-20] + b"changed" + some(2 * SIZE)[-13:]}
    assert file.puts == (1, 0)


async def test_what_is_about_to_be_changed_is_not_taken(file: Written) -> None:
    """A write waits in its middle while the upload would like more."""
    await file.append(SIZE)
    (stage,) = [stage for stage in file.drive._contents.stages() if stage.size]
    upload = stage.upload
    assert upload is not None
    with stage._changing(PIECE + 1):
        await trio.sleep(0.05)
        assert upload.taken <= PIECE
    await until(lambda: upload.taken > PIECE)
    await file.close()
    assert await file.uploaded() == {"/file": some(SIZE)}


async def test_a_read_that_a_change_overtakes_is_not_used(file: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are taken, and changed before they are read."""
    await file.begun()
    (stage,) = [stage for stage in file.drive._contents.stages() if stage.size]
    upload = stage.upload
    assert upload is not None
    reached, go_on, true_read = trio.Event(), trio.Event(), stage.read

    async def slow_read(*args: object) -> bytes:
        reached.set()
        await go_on.wait()
        return await true_read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "read", slow_read)
    await file.append(SIZE, seed=1)
    await reached.wait()
    monkeypatch.undo()
    await file.drive.write(file.handle, upload.taken - 7, b"changed")
    go_on.set()
    await file.close()
    data = some(2 * SIZE) + some(SIZE, seed=1)
    at = upload.taken - 7
    assert await file.uploaded() == {"/file": data[:at] + b"changed" + data[at + 7 :]}
    assert file.puts == (1, 1)


@pytest.mark.parametrize("while_open", [True, False])
async def test_a_renamed_file(tmp_path: Path, while_open: bool) -> None:
    async with opened(tmp_path, replace(EARLY, settle=3600)) as file:
        await file.create()
        await file.begun()
        if while_open:
            await rename(file.drive, "/file", "/other")
        await file.close()
        if not while_open:
            await rename(file.drive, "/file", "/other")
        assert await file.uploaded() == {"/other": some(2 * SIZE)}
        assert file.puts == (1, 1)


async def test_a_removed_file(file: Written) -> None:
    await file.begun()
    await unlink(file.drive, "/file")
    sent = file.sent
    await file.append(4 * SIZE, seed=1)
    await trio.sleep(0.05)
    assert file.sent == sent
    await file.close()
    assert await file.uploaded() == {}


async def test_a_file_that_another_one_is_renamed_over(file: Written) -> None:
    _, other = await file.drive.create(ROOT_INO, "other", exclusive=True, door=DOOR)
    await file.drive.write(other, 0, b"other")
    await file.drive.release(other)
    await file.begun()
    await rename(file.drive, "/other", "/file")
    await file.close()
    assert await file.uploaded() == {"/file": b"other"}


async def test_a_folder_that_moves_takes_it_along(tmp_path: Path) -> None:
    async with opened(tmp_path) as file:
        folder = await mkdir(file.drive, "/folder")
        await file.drive.wait_until_uploaded()
        _, file.handle = await file.drive.create(folder, "file", exclusive=True, door=DOOR)
        await file.begun()
        await rename(file.drive, "/folder", "/moved")
        await file.close()
        assert (await file.uploaded())["/moved/file"] == some(2 * SIZE)


async def test_a_cancelled_upload(tmp_path: Path) -> None:
    async with opened(tmp_path, replace(EARLY, settle=3600)) as file:
        await file.create()
        await file.begun()
        await file.close()
        (pending,) = file.drive.status().pending
        assert (await file.drive.cancel_upload(pending.seq))[0] is Cancelled.GONE
        assert await file.uploaded() == {}
        assert file.puts == (1, 0)


async def test_one_cancelled_while_it_is_finished(tmp_path: Path) -> None:
    """It has ended by then: nothing of it comes up later."""
    up = Way()
    memory = MemoryCloud(growing_puts=True, piece=PIECE)
    async with a_drive(LimitedCloud(memory, up=up, down=Way()), tmp_path, options=EARLY) as drive:
        file = Written(drive, memory, FaultyCloud(memory))
        await file.create()
        await file.begun()
        up.bucket.paused = True
        await file.append(SIZE, seed=1)
        await file.close()
        await until(lambda: [one.state for one in drive.status().pending] == ["sending"])
        (pending,) = drive.status().pending
        assert (await drive.cancel_upload(pending.seq))[0] is Cancelled.GONE
        up.bucket.paused = False
        await trio.sleep(0.05)
        assert await file.uploaded() == {}
        assert file.puts == (1, 0)


@pytest.mark.parametrize("name", [".file.x3fT", "film.mkv.part", "Document.TMP", "data.crdownload", "notes~"])
async def test_files_that_will_be_renamed_are_left_alone(tmp_path: Path, name: str) -> None:
    assert is_passing(name)
    async with opened(tmp_path) as file:
        await file.create(name)
        await file.append(2 * SIZE)
        await trio.sleep(0.05)
        assert file.puts == (0, 0)
        await file.close()
        await file.uploaded()


async def test_clouds_that_cannot(tmp_path: Path) -> None:
    async with opened(tmp_path, memory=MemoryCloud(piece=PIECE)) as file:
        await file.create()
        await file.append(2 * SIZE)
        await file.close()
        assert await file.uploaded() == {"/file": some(2 * SIZE)}
        assert file.puts == (0, 1)


async def test_not_while_uploads_are_paused(file: Written) -> None:
    file.drive.pause_uploads(True)
    await file.append(2 * SIZE)
    await file.close()
    await trio.sleep(0.05)
    assert file.puts == (0, 0)
    file.drive.pause_uploads(False)
    assert await file.uploaded() == {"/file": some(2 * SIZE)}


# trouble


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_it_fails(tmp_path: Path, after: bool) -> None:
    """In the second case the cloud has it, and only the answer is lost: it is recognised."""
    async with opened(tmp_path) as file:
        file.faulty.fail("put_growing", after=after)
        await file.create()
        await file.append(2 * SIZE)
        await trio.sleep(0.05)
        await file.close()
        assert await file.uploaded() == {"/file": some(2 * SIZE)}
        assert file.drive.conflicts == 0
        assert file.memory.calls["put"] == 1


async def test_the_network_breaks_in_its_middle(file: Written) -> None:
    await file.begun()
    file.faulty.network_gone = True
    await file.append(SIZE, seed=1)
    await file.close()
    assert file.memory.contents() == {}
    file.faulty.clear()
    assert await file.uploaded() == {"/file": some(2 * SIZE) + some(SIZE, seed=1)}


async def test_somebody_else_takes_the_name(file: Written) -> None:
    await file.begun()
    file.memory.external_put("/file", b"theirs")
    await file.close()
    with trio.fail_after(20):
        await file.drive.wait_until_uploaded()
    assert sorted(map(str, file.memory.contents().values())) == sorted([str(b"theirs"), str(some(2 * SIZE))])
    assert file.memory.contents()["/file"] == b"theirs"
    assert file.memory.leaks == []


async def test_somebody_else_changes_what_it_replaces(file: Written) -> None:
    await file.begun()
    await file.close()
    await file.uploaded()
    await file.create()
    await file.append(2 * SIZE, seed=1)
    await until(lambda: file.puts == (2, 0))
    file.memory.external_put("/file", b"theirs")
    await file.close()
    with trio.fail_after(20):
        await file.drive.wait_until_uploaded()
    assert file.memory.contents()["/file"] == b"theirs"
    assert some(2 * SIZE, seed=1) in file.memory.contents().values()
    assert file.memory.leaks == []


@pytest.mark.parametrize("when", ["while it is written", "after it was finished"])
async def test_a_crash(tmp_path: Path, when: str) -> None:
    """The state directory as it is at that moment is what the next start finds."""
    memory = MemoryCloud(growing_puts=True, piece=PIECE)
    async with opened(tmp_path / "one", memory=memory) as file:
        await file.create()
        if when == "after it was finished":
            file.faulty.stall("put_growing", after=True)
            await file.append(2 * SIZE)
            await file.close()
            await until(lambda: memory.contents())
        else:
            await file.begun()
            await file.drive.flush(file.handle)
            await file.append(SIZE, seed=1)
            await until(lambda: file.sent > (2 * SIZE) // PIECE)
        shutil.copytree(tmp_path / "one" / "state", tmp_path / "two" / "state")
        file.faulty.network_gone = True
    async with opened(tmp_path / "two", memory=memory) as file:
        assert await file.uploaded() == {"/file": some(2 * SIZE)}
        assert file.drive.conflicts == 0
        assert memory.calls["put"] == 1


async def test_while_its_writer_rests_others_have_the_lane(tmp_path: Path) -> None:
    memory = MemoryCloud(growing_puts=True, piece=PIECE)
    up = Way()
    up.lanes.total_tokens = 1
    async with a_drive(LimitedCloud(memory, up=up, down=Way()), tmp_path, options=EARLY) as drive:
        file = Written(drive, memory, FaultyCloud(memory))
        await file.create()
        await file.begun()
        _, other = await drive.create(ROOT_INO, "other", exclusive=True, door=DOOR)
        await drive.write(other, 0, b"other")
        await drive.release(other)
        await until(lambda: "/other" in memory.contents())
        up.bucket.paused = True
        sent = file.sent
        await file.append(2 * SIZE, seed=1)
        await trio.sleep(0.05)
        assert file.sent == sent
        up.bucket.paused = False
        await file.close()
        assert (await file.uploaded())["/file"] == some(2 * SIZE) + some(2 * SIZE, seed=1)
        assert file.puts == (1, 1)
        assert up.lanes.borrowed_tokens == 0
