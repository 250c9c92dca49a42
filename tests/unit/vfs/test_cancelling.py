"""Uploads that are taken back: the file is what the cloud has of it, nothing else is touched, and nothing is left."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serpentfs.clouds.retrying import Deadlines, RetryingCloud
from serpentfs.errors import Busy, NoSpace, NotFound, PermissionDenied, SerpentError, Unavailable, Unsupported
from serpentfs.model import BLOCK_SIZE, ROOT_INO
from serpentfs.vfs.cancelling import Cancelled
from serpentfs.vfs.core import SetAttributes
from serpentfs.vfs.drive import Drive, DriveOptions
from tests.drives import DOOR, a_drive, contents, exists, ino_at, mkdir, patch, read, rename, unlink, until, write
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

QUICK = Deadlines(read=0.5, snapshot=5, change=0.3, stall=0.3)
LATER = DriveOptions(settle=3600, host="here")


@pytest.fixture(params=["unstable-ids", "stable-ids", "events"])
def cloud(request: pytest.FixtureRequest) -> MemoryCloud:
    return MemoryCloud(stable_file_ids=request.param == "stable-ids", events=request.param == "events")


def pending(drive: Drive) -> dict[str, int]:
    """Numbers of what waits, by path."""
    return {one.path: one.seq for one in drive.status().pending}


def nothing_is_staged(where: Path) -> bool:
    return not list((where / "state" / "staging").iterdir())


async def test_a_new_file_goes(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await mkdir(drive, "/folder")
        await write(drive, "/folder/new", os.urandom(3 * BLOCK_SIZE))
        await write(drive, "/other", b"other")
        assert await drive.cancel_upload(pending(drive)["/folder/new"]) == (Cancelled.GONE, "/folder/new")
        assert not exists(drive, "/folder/new")
        await write(drive, "/folder/new", b"again")
        assert await drive.cancel_upload(pending(drive)["/folder/new"]) == (Cancelled.GONE, "/folder/new")
        await drive.wait_until_uploaded()
        assert cloud.contents() == await contents(drive) == {"/folder": None, "/other": b"other"}
        assert drive.status().pending == ()
        await until(lambda: nothing_is_staged(tmp_path))
    async with a_drive(cloud, tmp_path) as drive:
        assert await contents(drive) == cloud.contents()


@pytest.mark.parametrize("how", ["rewritten", "patched", "cut", "touched after"])
async def test_a_changed_file_has_its_former_content_again(cloud: MemoryCloud, tmp_path: Path, how: str) -> None:
    before = os.urandom(3 * BLOCK_SIZE + 5)
    cloud.external_put("/file", before, mtime_ns=5_000_000_000)
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        ino = ino_at(drive, "/file")
        if how == "rewritten":
            await write(drive, "/file", b"new")
        elif how == "cut":
            await drive.setattr(ino, SetAttributes(size=10), door=DOOR)
        else:
            await patch(drive, "/file", BLOCK_SIZE, b"new")
        if how == "touched after":
            await drive.setattr(ino, SetAttributes(mtime_ns=9_000_000_000), door=DOOR)
        assert await read(drive, "/file") != before
        assert await drive.cancel_upload(pending(drive)["/file"]) == (Cancelled.REVERTED, "/file")
        assert ino_at(drive, "/file") == ino
        assert await read(drive, "/file") == before
        await until(lambda: drive.getattr(ino).mtime_ns == 5_000_000_000)
        assert drive.status().pending == ()
        await until(lambda: nothing_is_staged(tmp_path))
        await write(drive, "/file", b"later")
        await drive.wait_until_uploaded()
        assert cloud.contents() == {"/file": b"later"}


async def test_a_file_that_was_saved_over_another_gives_that_one_back(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/document", b"old")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await write(drive, "/.document.tmp", b"new")
        await rename(drive, "/.document.tmp", "/document")
        assert await drive.cancel_upload(pending(drive)["/document"]) == (Cancelled.RETURNS, "/document")
        await until(lambda: exists(drive, "/document"))
        assert await read(drive, "/document") == b"old"
        assert drive.status().pending == ()
    assert cloud.contents() == {"/document": b"old"}


async def test_an_upload_under_way_is_stopped(tmp_path: Path) -> None:
    memory = MemoryCloud()
    faulty = FaultyCloud(memory)
    memory.external_put("/old", b"old")
    async with a_drive(faulty, tmp_path) as drive:
        faulty.stall("put", times=10)
        await write(drive, "/new", b"new")
        await write(drive, "/old", b"changed")
        await until(lambda: [one.state for one in drive.status().pending] == ["sending"] * 2)
        with trio.fail_after(10):
            assert (await drive.cancel_upload(pending(drive)["/new"]))[0] is Cancelled.GONE
            assert (await drive.cancel_upload(pending(drive)["/old"]))[0] is Cancelled.REVERTED
        faulty.clear()
        assert await contents(drive) == {"/old": b"old"}
        await write(drive, "/next", b"next")
        await drive.wait_until_uploaded()
        assert memory.contents() == {"/old": b"old", "/next": b"next"}
        await until(lambda: nothing_is_staged(tmp_path))


async def test_with_what_was_written_while_it_was_on_its_way(tmp_path: Path) -> None:
    memory = MemoryCloud()
    faulty = FaultyCloud(memory)
    async with a_drive(faulty, tmp_path) as drive:
        faulty.stall("put", times=10)
        await write(drive, "/file", os.urandom(2 * BLOCK_SIZE))
        await until(lambda: [one.state for one in drive.status().pending] == ["sending"])
        await patch(drive, "/file", 5, b"more")
        assert len(drive.status().pending) == 2
        await drive.cancel_upload(drive.status().pending[1].seq)
        assert drive.status().pending == ()
        assert await contents(drive) == {}
        await until(lambda: nothing_is_staged(tmp_path))


@pytest.mark.parametrize("is_new", [True, False])
async def test_what_arrived_all_the_same_is_shown(tmp_path: Path, is_new: bool) -> None:
    memory = MemoryCloud()
    faulty = FaultyCloud(memory)
    if not is_new:
        memory.external_put("/file", b"old")
    async with a_drive(faulty, tmp_path) as drive:
        faulty.stall("put", after=True, times=10)
        await write(drive, "/file", b"arrived")
        await until(lambda: memory.contents().get("/file") == b"arrived")
        await drive.cancel_upload(pending(drive)["/file"])
        await until(lambda: exists(drive, "/file") and drive.resolve("/file").size == 7)
        assert await contents(drive) == memory.contents() == {"/file": b"arrived"}
        assert drive.status().pending == ()


async def test_a_refused_upload_can_be_taken_back(tmp_path: Path) -> None:
    memory = MemoryCloud()
    faulty = FaultyCloud(memory)
    async with a_drive(faulty, tmp_path) as drive:
        faulty.fail("put", PermissionDenied("the store refuses"), times=1000)
        await write(drive, "/file", b"data")
        await until(lambda: [change.state for change in drive.status().pending] == ["stuck"])
        await drive.cancel_upload(pending(drive)["/file"])
        assert drive.status().pending == ()
        assert not exists(drive, "/file")


async def test_who_waits_for_the_cloud_is_told(tmp_path: Path) -> None:
    faulty = FaultyCloud(MemoryCloud())
    options = DriveOptions(durability="cloud", host="here")
    told: list[str] = []

    async def publish(drive: Drive) -> None:
        draft = await drive.create_draft(door=DOOR)
        await drive.write(draft, 0, b"data")
        try:
            await drive.publish(draft, ROOT_INO, "file", door=DOOR)
        except Unavailable as error:
            told.append(str(error))

    async with a_drive(faulty, tmp_path, options=options) as drive:
        faulty.stall("put", times=10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, drive)
            await until(lambda: [one.state for one in drive.status().pending] == ["sending"])
            await drive.cancel_upload(pending(drive)["/file"])
        assert told == ["the upload was cancelled"]
        assert not exists(drive, "/file")


async def test_after_a_restart_without_the_cloud(tmp_path: Path) -> None:
    memory = MemoryCloud()
    faulty = FaultyCloud(memory)
    memory.external_put("/file", b"old")
    async with a_drive(faulty, tmp_path, options=LATER) as drive:
        assert await read(drive, "/file") == b"old"
        await write(drive, "/file", b"new")
    faulty.network_gone = True
    async with a_drive(faulty, tmp_path, options=LATER) as drive:
        await drive.cancel_upload(pending(drive)["/file"])
        assert drive.resolve("/file").size == 3
        faulty.network_gone = False
        await drive.wait_until_uploaded()
        assert await contents(drive) == memory.contents() == {"/file": b"old"}


async def test_a_rename_goes_on_without_the_content(cloud: MemoryCloud, tmp_path: Path) -> None:
    cloud.external_put("/file", b"old")
    async with a_drive(cloud, tmp_path, options=LATER) as drive:
        await patch(drive, "/file", 0, b"NEW")
        await rename(drive, "/file", "/renamed")
        (upload,) = (one.seq for one in drive.status().pending if one.operation == "content")
        assert await drive.cancel_upload(upload) == (Cancelled.REVERTED, "/renamed")
        await drive.wait_until_uploaded()
        assert await contents(drive) == cloud.contents() == {"/renamed": b"old"}


async def test_what_cannot_be_taken_back_stays(tmp_path: Path) -> None:
    memory = MemoryCloud()
    faulty = FaultyCloud(memory)
    async with a_drive(faulty, tmp_path) as drive:
        with pytest.raises(NotFound):
            await drive.cancel_upload(4711)
        for method in ("put", "mkdir"):
            faulty.fail(method, NoSpace("full"), times=1000)
        await mkdir(drive, "/folder")
        with pytest.raises(Unsupported, match="mkdir"):
            await drive.cancel_upload(pending(drive)["/folder"])
        handle = await drive.open(ino_at(drive, (await _a_file(drive, "/open"))), write=False, door=DOOR)
        with pytest.raises(Busy, match="open"):
            await drive.cancel_upload(pending(drive)["/open"])
        await drive.release(handle)
        for path in ("/moved", "/removed"):
            await _a_file(drive, path)
            # From here on it may be in the cloud, so that what follows is a change of its own.
            await _tried(drive, path)
        moved, removed = pending(drive)["/moved"], pending(drive)["/removed"]
        await rename(drive, "/moved", "/elsewhere")
        await unlink(drive, "/removed")
        for seq, why in ((moved, "renamed"), (removed, "removed")):
            with pytest.raises(Busy, match=why):
                await drive.cancel_upload(seq)
        faulty.clear()
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        assert memory.contents() == {"/folder": None, "/open": b"/open", "/elsewhere": b"/moved"}


async def _tried(drive: Drive, path: str) -> None:
    await until(lambda: any(one.tries for one in drive.status().pending if one.path == path))


async def _a_file(drive: Drive, path: str) -> str:
    await write(drive, path, path.encode())
    return path


NAMES = st.sampled_from(["/a", "/b", "/folder/a", "/folder/b"])
STEPS = st.lists(st.one_of(
    st.tuples(st.just("write"), NAMES, NAMES), st.tuples(st.just("patch"), NAMES, NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES), st.tuples(st.just("unlink"), NAMES, NAMES),
    st.tuples(st.just("attempt"), NAMES, NAMES), st.tuples(st.just("cancel"), NAMES, NAMES),
), max_size=14)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(STEPS)
async def test_whatever_is_taken_back_both_sides_agree_in_the_end(steps: list[tuple[str, str, str]]) -> None:
    for events in (False, True):
        with tempfile.TemporaryDirectory() as where:
            await _any_steps(steps, Path(where), MemoryCloud(events=events))


async def _any_steps(steps: list[tuple[str, str, str]], where: Path, memory: MemoryCloud) -> None:
    faulty = FaultyCloud(memory)
    memory.external_mkdir("/folder")
    memory.external_put("/a", b"cloud's a")
    memory.external_put("/folder/b", b"cloud's b")
    async with a_drive(RetryingCloud(faulty, deadlines=QUICK), where, options=LATER) as drive:
        faulty.network_gone = True
        for number, (step, path, other) in enumerate(steps):
            try:
                if step == "write":
                    await write(drive, path, f"{number}".encode() * 100)
                elif step == "patch":
                    await patch(drive, path, 3, f"{number}".encode())
                elif step == "rename":
                    await rename(drive, path, other)
                elif step == "unlink":
                    await unlink(drive, path)
                elif step == "attempt":
                    drive.retry_uploads()
                    with trio.move_on_after(0.05):
                        await drive.wait_until_uploaded()
                elif found := [one.seq for one in drive.status().pending if one.path == path]:
                    await drive.cancel_upload(found[-1])
            except SerpentError:
                pass    # not there, or not now
        faulty.network_gone = False
        drive.retry_uploads()
        with trio.fail_after(30):
            while True:
                await drive.wait_until_uploaded()
                with trio.move_on_after(1):    # what is asked before the cloud is followed is not heard
                    await drive.reload()
                if not drive.status().pending and await contents(drive) == memory.contents():
                    break
                await trio.sleep(0.05)
    async with a_drive(memory, where) as drive:
        assert await contents(drive) == memory.contents()
        assert nothing_is_staged(where)
