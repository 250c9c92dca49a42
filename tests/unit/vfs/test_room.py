"""How much room the store has: asked again soon after a change of it, and not for every single one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from serpentfs.model import Quota
from serpentfs.vfs import opening
from tests.drives import a_drive, unlink, until, write
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio
_TOTAL = 1_000_000


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> MemoryCloud:
    """And no question because of the time alone."""
    monkeypatch.setattr(opening, "_QUOTA_EVERY", float("inf"))
    monkeypatch.setattr(opening, "_QUOTA_SETTLE", 0.05)
    monkeypatch.setattr(opening, "_QUOTA_PAUSE", 0.2)
    return MemoryCloud(total=_TOTAL)


async def test_after_uploads_and_removals(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path) as drive:
        await until(lambda: drive.statfs().free == _TOTAL)
        await write(drive, "/file", b"x" * 1000)
        await until(lambda: drive.statfs().free == _TOTAL - 1000)
        assert drive.statfs().used == 1000
        await unlink(drive, "/file")
        await until(lambda: drive.statfs().free == _TOTAL)


async def test_many_changes_are_not_as_many_questions(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path) as drive:
        await until(lambda: drive.statfs().total == _TOTAL)
        began = trio.current_time()
        for number in range(100):
            await write(drive, f"/{number}", b"x" * 10)
        await drive.wait_until_uploaded()
        await until(lambda: drive.statfs().used == 1000)
        assert cloud.calls["quota"] <= 3 + (trio.current_time() - began) / 0.2


async def test_nothing_is_asked_while_nothing_happens(cloud: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(cloud, tmp_path) as drive:
        await until(lambda: drive.statfs().total == _TOTAL)
        await trio.sleep(0.5)  # what must not happen has no condition to wait for
        assert cloud.calls["quota"] == 1


async def test_what_happens_while_the_store_answers(
    cloud: MemoryCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was under way when a change came through is not the last word."""
    plain, answering, go_on = cloud.quota, trio.Event(), trio.Event()

    async def slow() -> Quota:
        answer = await plain()
        answering.set()
        await go_on.wait()
        return answer

    monkeypatch.setattr(cloud, "quota", slow)
    async with a_drive(cloud, tmp_path) as drive:
        with trio.fail_after(10):
            await answering.wait()
        await write(drive, "/file", b"x" * 1000)
        await drive.wait_until_uploaded()
        go_on.set()
        await until(lambda: drive.statfs().used == 1000)
