"""A change by one door returns when the others show it, and never waits long for one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from serpentfs.model import ROOT_INO
from serpentfs.vfs.core import Invalidation
from serpentfs.vfs.drive import DriveOptions
from tests.drives import a_drive
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio
LATER = DriveOptions(settle=3600)


class Follower:
    """Hears of changes, and is behind with them until told otherwise."""

    def __init__(self) -> None:
        self.behind = False

    def hear(self, invalidation: Invalidation) -> None:
        if invalidation.origin != "mount":
            self.behind = True


async def test_others_wait_until_a_door_has_passed_on_what_it_heard(tmp_path: Path) -> None:
    async with a_drive(MemoryCloud(), tmp_path, options=LATER) as drive:
        follower = Follower()
        unsubscribe = drive.subscribe(follower.hear, door="mount", is_behind=lambda: follower.behind)
        seen: list[bool] = []

        async def changes() -> None:
            await drive.mkdir(ROOT_INO, "folder", door="ftp")
            seen.append(follower.behind)
            await drive.rename(ROOT_INO, "folder", ROOT_INO, "moved", door="ftp")
            seen.append(follower.behind)
            await drive.rmdir(ROOT_INO, "moved", door="ftp")
            seen.append(follower.behind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(changes)
            for count in range(3):
                with trio.fail_after(10):
                    while not follower.behind:
                        await trio.lowlevel.checkpoint()
                await trio.sleep(0.01)
                assert len(seen) == count
                follower.behind = False
                with trio.fail_after(10):
                    while len(seen) == count:
                        await trio.lowlevel.checkpoint()
        unsubscribe()


async def test_a_door_does_not_wait_for_itself(tmp_path: Path) -> None:
    """It would be for the very request that it is answering."""
    async with a_drive(MemoryCloud(), tmp_path, options=LATER) as drive:
        drive.subscribe(lambda invalidation: None, door="mount", is_behind=lambda: pytest.fail("it was asked"))
        _, handle = await drive.create(ROOT_INO, "file", exclusive=True, door="mount")
        await drive.write(handle, 0, b"data")
        await drive.flush(handle)
        await drive.release(handle)
        await drive.rename(ROOT_INO, "file", ROOT_INO, "moved", door="mount")
        await drive.unlink(ROOT_INO, "moved", door="mount")


async def test_a_door_that_stays_behind_is_not_waited_for_long(tmp_path: Path) -> None:
    async with a_drive(MemoryCloud(), tmp_path, options=LATER) as drive:
        drive.subscribe(lambda invalidation: None, door="mount", is_behind=lambda: True)
        with trio.fail_after(5):
            await drive.mkdir(ROOT_INO, "folder", door="ftp")
        assert drive.lookup(ROOT_INO, "folder") is not None
