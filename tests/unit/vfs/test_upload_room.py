"""How many changes go up at the same time: contents in their number, small ones in more, large ones in less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs.model import NodeInfo
from serpentfs.vfs.drive import DriveOptions
from tests.drives import a_drive, until, write
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio
_SMALL, _MEDIUM, _LARGE = 256 * 1024, 256 * 1024 + 1, 4 * 1024 * 1024 + 1


class Gate:
    """Holds up the uploads of a cloud, and counts them."""

    def __init__(self, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        """Of those under way."""
        self.open = trio.Event()
        plain = cloud.put

        async def put(parent: Any, name: Any, content: Any, **facts: Any) -> NodeInfo:
            self.sizes.append(content.size)
            await self.open.wait()
            try:
                return await plain(parent, name, content, **facts)
            finally:
                self.sizes.remove(content.size)

        monkeypatch.setattr(cloud, "put", put)


@pytest.mark.parametrize(
    ("sizes", "under_way"),
    [
        ([_MEDIUM] * 5, [_MEDIUM] * 2),
        ([_SMALL] * 10, [_SMALL] * 8),
        ([1, _MEDIUM, _MEDIUM, 1], [1, _MEDIUM]),    # what is next waits for room, and is not overtaken
        ([_MEDIUM, 1, 1, 1, 1, 1], [_MEDIUM, 1, 1, 1, 1]),
        ([_LARGE, 1, _MEDIUM], [_LARGE]),
        ([_MEDIUM, _LARGE, 1], [_MEDIUM]),
    ],
)
async def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], under_way: list[int]) -> None:
    cloud = MemoryCloud()
    gate = Gate(cloud, monkeypatch)
    async with a_drive(cloud, tmp_path, options=DriveOptions(settle=0.0, uploads=2)) as drive:
        drive.pause_uploads(True)
        for number, size in enumerate(sizes):
            await write(drive, f"/{number}", bytes(size))
        drive.pause_uploads(False)
        await until(lambda: sorted(gate.sizes) == sorted(under_way))
        await trio.sleep(0.1)    # what must not happen has no condition to wait for
        assert sorted(gate.sizes) == sorted(under_way)
        gate.open.set()
        await drive.wait_until_uploaded()
    assert len(cloud.contents()) == len(sizes)
