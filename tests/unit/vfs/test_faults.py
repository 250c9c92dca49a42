"""A cloud that fails, stalls, breaks off, lies, is full or gone; disks that are full. Nothing is lost, nothing waits
for ever, nothing wrong is served, and ``status`` tells."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.retrying import Deadlines, RetryingCloud
from serpentfs.errors import IntegrityError, LoginRequired, NoSpace, PermissionDenied, SerpentError, Unavailable
from serpentfs.model import BLOCK_SIZE, ROOT_INO
from serpentfs.vfs.drive import Drive, DriveOptions
from tests.drives import DOOR, a_drive, contents, ino_at, mkdir, patch, read, rename, unlink, until, write
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

QUICK = Deadlines(read=0.5, snapshot=5, change=0.3, stall=0.3)
LATER = DriveOptions(settle=3600, host="here")


class Clouds:
    """The reference cloud, with faults in front of it and deadlines in front of those."""

    def __init__(self) -> None:
        self.memory = MemoryCloud()
        self.faulty = FaultyCloud(self.memory)
        self.retrying = RetryingCloud(self.faulty, deadlines=QUICK)


@pytest.fixture
def clouds() -> Clouds:
    return Clouds()


@asynccontextmanager
async def opened(clouds: Clouds, where: Path, options: DriveOptions | None = None) -> AsyncIterator[Drive]:
    async with a_drive(clouds.retrying, where, options=options) as drive:
        yield drive


async def some_changes(drive: Drive) -> None:
    """One of every operation; the tree that comes out is compared."""
    await mkdir(drive, "/folder")
    await write(drive, "/folder/new", b"new" * 1000)
    await patch(drive, "/large", BLOCK_SIZE + 7, b"patched")
    await rename(drive, "/old", "/folder/renamed")
    await unlink(drive, "/removed")
    await drive.symlink(ROOT_INO, "link", "large", door=DOOR)


def fill(memory: MemoryCloud) -> None:
    memory.external_put("/large", os.urandom(3 * BLOCK_SIZE))
    memory.external_put("/old", b"old")
    memory.external_put("/removed", b"removed")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["put", "mkdir", "move", "remove", "symlink"])
@pytest.mark.parametrize("kind", ["fails", "stalls"])
async def test_a_call_fails_or_stalls(clouds: Clouds, tmp_path: Path, method: str, kind: str, after: bool) -> None:
    fill(clouds.memory)
    async with opened(clouds, tmp_path, LATER) as drive:
        await some_changes(drive)
        wanted = await contents(drive)
        if kind == "fails":
            fault = clouds.faulty.fail(method, after=after)
        else:
            fault = clouds.faulty.stall(method, after=after)
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert fault.hits == 1
        assert drive.status().pending == ()
        assert clouds.memory.contents() == wanted == await contents(drive)


async def test_every_third_call_fails(clouds: Clouds, tmp_path: Path) -> None:
    fill(clouds.memory)
    async with opened(clouds, tmp_path, LATER) as drive:
        await some_changes(drive)
        wanted = await contents(drive)
        for nth in range(1, 40, 3):
            clouds.faulty.fail(None, nth=nth, after=nth % 2 == 0)
        with trio.fail_after(60):
            await drive.wait_until_uploaded()
        assert clouds.memory.contents() == wanted


async def test_the_network_is_gone_for_a_while(clouds: Clouds, tmp_path: Path) -> None:
    """What is cached stays readable, what is not is an error within the deadline, changes go on, status tells."""
    fill(clouds.memory)
    async with opened(clouds, tmp_path) as drive:
        assert await read(drive, "/old") == b"old"
        clouds.faulty.network_gone = True
        assert await read(drive, "/old") == b"old"
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await read(drive, "/large")
        assert trio.current_time() - began < QUICK.read + 5
        await write(drive, "/new", b"written offline")
        await unlink(drive, "/removed")
        assert await read(drive, "/new") == b"written offline"
        await until(lambda: all(change.error for change in drive.status().pending))
        status = drive.status()
        assert not status.online
        assert {change.operation for change in status.pending} == {"create", "remove"}
        assert all(change.state in ("failed", "sending") for change in status.pending)
        clouds.faulty.clear()
        with trio.fail_after(30):
            await drive.wait_until_uploaded()
        assert drive.status().online
        assert clouds.memory.contents() == await contents(drive)


async def test_a_start_without_network(clouds: Clouds, tmp_path: Path) -> None:
    """A drive that was seen once starts offline, with what was pending."""
    fill(clouds.memory)
    async with opened(clouds, tmp_path, LATER) as drive:
        await write(drive, "/pending", b"pending")
        assert await read(drive, "/old") == b"old"
        await until(lambda: drive.cache_statistics.disk_bytes)
    clouds.faulty.network_gone = True
    async with opened(clouds, tmp_path, LATER) as drive:
        assert await read(drive, "/pending") == b"pending"
        assert await read(drive, "/old") == b"old"  # from the disk cache
        clouds.faulty.clear()
        await drive.wait_until_uploaded()
        assert clouds.memory.contents()["/pending"] == b"pending"


async def test_a_first_start_without_network_is_an_error(clouds: Clouds, tmp_path: Path) -> None:
    clouds.faulty.network_gone = True
    with pytest.RaisesGroup(Unavailable, allow_unwrapped=True, flatten_subgroups=True):
        async with opened(clouds, tmp_path):
            pass


async def test_the_store_is_full(clouds: Clouds, tmp_path: Path) -> None:
    async with opened(clouds, tmp_path) as drive:
        clouds.faulty.full = True
        await write(drive, "/file", b"data")
        await until(lambda: any(change.error for change in drive.status().pending))
        (change,) = drive.status().pending
        assert change.path == "/file"
        assert "full" in (change.error or "")
        assert await read(drive, "/file") == b"data"
        clouds.faulty.full = False
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert clouds.memory.contents() == {"/file": b"data"}


@pytest.mark.parametrize("lie", ["short", "long"])
async def test_an_answer_of_the_wrong_length_is_never_served(clouds: Clouds, tmp_path: Path, lie: str) -> None:
    fill(clouds.memory)
    wanted = clouds.memory.contents()["/large"]
    async with opened(clouds, tmp_path) as drive:
        if lie == "short":
            clouds.faulty.shorten_read(times=1000)
        else:
            clouds.faulty.lengthen_read(times=1000)
        with pytest.raises(SerpentError):
            await read(drive, "/large")
        clouds.faulty.clear()
        assert await read(drive, "/large") == wanted


async def test_what_does_not_authenticate_is_an_error(clouds: Clouds, tmp_path: Path) -> None:
    fill(clouds.memory)
    async with opened(clouds, tmp_path) as drive:
        clouds.faulty.fail("read", IntegrityError("a chunk does not authenticate"), times=1000)
        with pytest.raises(IntegrityError):
            await read(drive, "/large")
        assert drive.getattr(ino_at(drive, "/large")).size == 3 * BLOCK_SIZE


async def test_a_refused_change_is_stuck_and_shown(clouds: Clouds, tmp_path: Path) -> None:
    async with opened(clouds, tmp_path) as drive:
        clouds.faulty.fail("put", PermissionDenied("the store refuses"), times=1000)
        await write(drive, "/file", b"data")
        await until(lambda: [change.state for change in drive.status().pending] == ["stuck"])
        with trio.fail_after(5):
            await drive.wait_until_uploaded()  # nothing moves by itself any more
        assert await read(drive, "/file") == b"data"
        clouds.faulty.clear()
    async with opened(clouds, tmp_path) as drive:
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert clouds.memory.contents() == {"/file": b"data"}


async def test_a_removal_under_a_number_that_stood_for_another_is_tried_again(clouds: Clouds, tmp_path: Path) -> None:
    """A file is renamed over another and removed: the second removal gets the number under which the user's waits for
    the first one. It fails, and goes on all the same; who waits for everything waits for it."""
    fill(clouds.memory)
    async with opened(clouds, tmp_path, LATER) as drive:
        clouds.faulty.network_gone = True
        await rename(drive, "/old", "/removed")
        await unlink(drive, "/removed")
        drive.retry_uploads()
        with trio.move_on_after(0.2):
            await drive.wait_until_uploaded()
        await until(lambda: [one.tries > 0 for one in drive.status().pending] == [True, True])
        clouds.faulty.network_gone = False
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert list(clouds.memory.contents()) == ["/large"]


async def test_the_disk_with_the_state_is_full(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write (or the close) says so, and what was there before stays."""
    async with opened(clouds, tmp_path, LATER) as drive:
        await write(drive, "/file", b"before")
        real = os.pwrite

        def no_room(*arguments: object) -> int:
            raise OSError(errno.ENOSPC, "no room")

        handle = await drive.open(ino_at(drive, "/file"), write=True, door=DOOR)
        await drive.write(handle, 0, b"AFTER!")
        monkeypatch.setattr(os, "pwrite", no_room)
        with pytest.raises(NoSpace):
            await drive.flush(handle)
        with pytest.raises(NoSpace):
            await drive.release(handle)
        monkeypatch.setattr(os, "pwrite", real)
        assert await read(drive, "/file") == b"before"
        await write(drive, "/file", b"again")
        await drive.wait_until_uploaded()
        assert clouds.memory.contents() == {"/file": b"again"}


async def test_a_failing_cache_disk_is_taken_out_of_use(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(clouds.memory)
    async with opened(clouds, tmp_path) as drive:

        def broken(*arguments: object) -> int:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(os, "pwrite", broken)
        assert await read(drive, "/large") == clouds.memory.contents()["/large"]
        await until(lambda: not drive.status().cache_disk_usable)
        assert await read(drive, "/large") == clouds.memory.contents()["/large"]


async def test_a_crash_between_upload_and_confirmation(clouds: Clouds, tmp_path: Path) -> None:
    """The cloud has the change, the answer never came, and the process ended: nothing is doubled."""
    fill(clouds.memory)
    for method in ("put", "mkdir", "move", "remove", "symlink"):
        clouds.faulty.stall(method, after=True, times=1000)
    async with opened(clouds, tmp_path, LATER) as drive:
        await some_changes(drive)
        wanted = await contents(drive)
        with trio.move_on_after(0.2):
            await drive.wait_until_uploaded()
    clouds.faulty.clear()
    async with opened(clouds, tmp_path, LATER) as drive:
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert clouds.memory.contents() == wanted == await contents(drive)
        assert drive.status().conflicts == 0


async def test_a_session_that_has_ended_is_not_waited_for(clouds: Clouds, tmp_path: Path) -> None:
    fill(clouds.memory)
    async with opened(clouds, tmp_path, LATER) as drive:
        await some_changes(drive)
        wanted = await contents(drive)
        clouds.faulty.fail(None, LoginRequired("the session has ended"), times=float("inf"))
        with trio.fail_after(5):
            await drive.wait_until_uploaded()
        assert drive.status().login_required
        assert drive.status().pending
    clouds.faulty.clear()
    async with opened(clouds, tmp_path, LATER) as drive:
        assert not drive.status().login_required
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert not drive.status().login_required
        assert clouds.memory.contents() == wanted
