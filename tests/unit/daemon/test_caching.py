"""Walks over what is kept here, where the cloud does not answer or nobody listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs.clouds.retrying import Deadlines, RetryingCloud
from serpentfs.daemon.caching import ANSWERS
from serpentfs.errors import Unavailable
from serpentfs.model import ROOT_INO, Ino
from serpentfs.vfs.drive import DriveOptions
from serpentfs.vfs.opening import open_drive
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio


class Site:
    def __init__(self, state: Path) -> None:
        self.memory = MemoryCloud()
        self.faulty = FaultyCloud(self.memory)
        self._state = state

    def drive(self) -> Any:
        (self._state / "state").mkdir(mode=0o700, exist_ok=True)
        return open_drive(
            RetryingCloud(self.faulty, deadlines=Deadlines(read=2), jitter=lambda: 0.5), remote_id="r",
            secret=bytes(32), state_directory=self._state / "state", cache_directory=None,
            options=DriveOptions(settle=0.0, read_only=True),
        )


async def ignore(item: Any) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("request_name", ["warm", "verify"])
async def test_a_cloud_that_does_not_answer_ends_the_walk(tmp_path: Path, request_name: str) -> None:
    site = Site(tmp_path)
    for number in range(50):
        site.memory.external_put(f"/{number}", b"data")
    async with site.drive() as drive:
        site.faulty.fail("read", times=1000)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await ANSWERS[request_name](drive, {"path": "/"}, ignore)
        assert trio.current_time() - began < 10    # not two seconds for each of the files
        site.faulty.clear()
        done = await ANSWERS[request_name](drive, {"path": "/"}, ignore)
        assert done["files"] == 50
        assert done["bytes"] == 200


async def test_a_walk_that_nobody_listens_to_ends(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.memory.external_put("/file", bytes(1000))
    told = 0

    async def gone(item: Any) -> None:
        nonlocal told
        told += 1
        raise trio.BrokenResourceError

    async with site.drive() as drive:
        with pytest.raises(trio.BrokenResourceError):
            await ANSWERS["warm"](drive, {"path": "/"}, gone)
    assert told


async def test_a_refresh_that_is_not_answered_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.drive() as drive:
        await ANSWERS["refresh"](drive, {"path": "/"}, ignore)    # the first listing is over
        site.faulty.recheck = lambda directory: None    # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="does not answer"):
            await ANSWERS["refresh"](drive, {"path": "/", "patience": 0.2}, ignore)


async def test_folders_are_listed_together(tmp_path: Path) -> None:
    """A cloud takes its time for each round of listings, however many folders it is for; some go meanwhile."""
    site = Site(tmp_path)
    for number in range(300):
        site.memory.external_mkdir(f"/{number}")
    async with site.drive() as drive:
        refresh_one = drive.refresh
        now = most = 0

        async def refresh(ino: Ino) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await refresh_one(ino)
            now -= 1
            if ino == ROOT_INO:
                site.memory.external_remove("/7")

        drive.refresh = refresh
        answer = await ANSWERS["refresh"](drive, {"path": "/", "recursive": True}, ignore)
    assert most == 300
    assert answer["folders"] in (300, 301)
