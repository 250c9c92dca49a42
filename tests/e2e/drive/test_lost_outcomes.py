"""A vault in a folder takes a change, and the drive dies before it has noted that; what came after it here was
acknowledged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.blobs.files import FileStore
from serpentfs.model import ROOT_INO
from serpentfs.vfs.core import SetAttributes
from serpentfs.vfs.drive import Drive
from tests.drives import DOOR, a_drive, contents, ino_at, patch, rename, unlink, until, write
from tests.fakes.faulty_cloud import FaultyCloud
from tests.vaults import fresh_vault, reopened

pytestmark = pytest.mark.trio


async def after_a_death(
    where: Path,
    before: Callable[[Drive], Awaitable[None]],
    call: str,
    changes: list[Callable[[Drive], Awaitable[None]]],
    later: Callable[[Drive], Awaitable[None]],
) -> dict[str, bytes | str | None]:
    """What the drive holds in the end. ``before`` is uploaded; each of ``changes`` makes one ``call`` of the vault,
    which is done and not answered; ``later`` follows, then the death and another start."""
    (where / "vault").mkdir()
    vault = await fresh_vault(FileStore(where / "vault"))
    cloud = FaultyCloud(vault)
    with trio.CancelScope() as life:
        async with a_drive(cloud, where) as drive:
            await before(drive)
            await drive.wait_until_uploaded()
            stalled = cloud.stall(call, times=len(changes), after=True)
            for change in changes:
                await change(drive)
            await until(lambda: stalled.hits == len(changes))
            await trio.sleep(0.05)
            await later(drive)
            life.cancel()
            await trio.lowlevel.checkpoint()
    async with a_drive(reopened(vault, FileStore(where / "vault"), poll_interval=0.1), where) as drive:
        with trio.fail_after(20):
            await drive.wait_until_uploaded()
        await trio.sleep(0.3)
        assert not drive.status().pending
        return await contents(drive)


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_a_file_is_saved_over(tmp_path: Path, kind: str) -> None:
    """Nobody else touched it: no conflict."""

    async def before(drive: Drive) -> None:
        if kind == "file":
            await write(drive, "/letter", b"first")
        else:
            await drive.symlink(ROOT_INO, "letter", "somewhere", door=DOOR)

    async def second(drive: Drive) -> None:
        if kind == "file":
            await patch(drive, "/letter", 0, b"second")
        else:
            await write(drive, "/new", b"second")
            await rename(drive, "/new", "/letter")

    async def third(drive: Drive) -> None:
        await write(drive, "/new", b"third")
        await rename(drive, "/new", "/letter")

    assert await after_a_death(tmp_path, before, "put", [second], third) == {"/letter": b"third"}


async def test_the_time_of_a_file_is_set(tmp_path: Path) -> None:
    """What is removed after it stays so, and what is appended is no conflict."""

    async def before(drive: Drive) -> None:
        await write(drive, "/removed", b"old")
        await write(drive, "/appended", b"old")

    def set_time(path: str) -> Callable[[Drive], Awaitable[None]]:
        async def change(drive: Drive) -> None:
            await drive.setattr(ino_at(drive, path), SetAttributes(mtime_ns=10**18), door=DOOR)

        return change

    async def later(drive: Drive) -> None:
        await unlink(drive, "/removed")
        await patch(drive, "/appended", None, b"+new")

    changes = [set_time("/removed"), set_time("/appended")]
    assert await after_a_death(tmp_path, before, "set_mtime", changes, later) == {"/appended": b"old+new"}
