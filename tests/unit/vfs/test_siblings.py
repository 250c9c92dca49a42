"""Heads of the files that are probably opened next."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from serpentfs.model import BLOCK_SIZE, Ino
from serpentfs.vfs.drive import Drive
from tests.drives import DOOR, a_drive, ino_at
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

_FILES = 30


@pytest.fixture
def memory() -> MemoryCloud:
    memory = MemoryCloud()
    for number in range(_FILES):
        memory.external_put(f"/{number:02}", bytes([number]) * (2 * BLOCK_SIZE))
    memory.external_mkdir("/a folder")
    return memory


def inos(drive: Drive) -> list[Ino]:
    return sorted(ino_at(drive, f"/{number:02}") for number in range(_FILES))


async def head(drive: Drive, ino: Ino) -> None:
    handle = await drive.open(ino, write=False, door=DOOR)
    try:
        await drive.read(handle, 0, 4096)
    finally:
        await drive.release(handle)


async def quiet(memory: MemoryCloud) -> int:
    """The cloud's reads, once there come no more."""
    before = -1
    while before != memory.calls["read"]:
        before = memory.calls["read"]
        await trio.sleep(0.02)
    return before


async def test_who_opens_one_after_another_finds_the_next_ones_here(memory: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(memory, tmp_path) as drive:
        files = inos(drive)
        for ino in files[:5]:
            await head(drive, ino)
            await quiet(memory)
        reads = memory.calls["read"]
        for ino in files[5:9]:
            await head(drive, ino)
        assert drive.cache_statistics.misses <= 5
        assert await quiet(memory) > reads  # it stays ahead


async def test_two_files_are_no_run(memory: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(memory, tmp_path) as drive:
        files = inos(drive)
        await head(drive, files[0])
        await head(drive, files[0])
        await head(drive, files[1])
        assert await quiet(memory) == 2


async def test_every_head_is_fetched_once_wherever_one_begins(memory: MemoryCloud, tmp_path: Path) -> None:
    async with a_drive(memory, tmp_path) as drive:
        files = inos(drive)
        for ino in [*files[20:], *files[:20]]:
            await head(drive, ino)
        assert await quiet(memory) == _FILES
        for ino in files:
            await head(drive, ino)
        assert await quiet(memory) == _FILES
