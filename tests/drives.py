"""A drive for tests, and what a test does with one by path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from serpentfs.clouds.base import Cloud
from serpentfs.errors import NotFound
from serpentfs.model import ROOT_INO, Attributes, Ino, Kind
from serpentfs.vfs.drive import Drive, DriveOptions
from serpentfs.vfs.opening import open_drive

DOOR = "test"


@asynccontextmanager
async def a_drive(
    cloud: Cloud, where: Path, *, settle: float = 0.01, options: DriveOptions | None = None
) -> AsyncIterator[Drive]:
    """A drive over ``cloud`` with its state below ``where``."""
    async with open_drive(
        cloud,
        remote_id="test",
        secret=b"s" * 64,
        state_directory=where / "state",
        cache_directory=where / "cache",
        options=options or DriveOptions(settle=settle, host="here"),
    ) as drive:
        yield drive


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait for a condition that other tasks bring about."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - whatever brings it about has no event to wait for
            await trio.sleep(0.002)


def ino_at(drive: Drive, path: str) -> Ino:
    return drive.resolve(path).ino


def exists(drive: Drive, path: str) -> bool:
    try:
        drive.resolve(path)
    except NotFound:
        return False
    return True


def _split(drive: Drive, path: str) -> tuple[Ino, str]:
    parent, _, name = path.rpartition("/")
    return ino_at(drive, parent or "/"), name


async def write(drive: Drive, path: str, data: bytes) -> Attributes:
    """Create or rewrite a file."""
    parent, name = _split(drive, path)
    _, handle = await drive.create(parent, name, exclusive=False, door=DOOR)
    try:
        ino = drive.attributes_of(handle).ino
        if drive.getattr(ino).size:
            await drive.release(handle)
            handle = await drive.open(ino, write=True, truncate=True, door=DOOR)
        await drive.write(handle, 0, data)
    finally:
        await drive.release(handle)
    return drive.resolve(path)


async def patch(drive: Drive, path: str, offset: int | None, data: bytes) -> None:
    """Overwrite a part of a file. ``offset`` None: append."""
    handle = await drive.open(ino_at(drive, path), write=True, door=DOOR)
    try:
        await drive.write(handle, offset, data)
    finally:
        await drive.release(handle)


async def read(drive: Drive, path: str) -> bytes:
    handle = await drive.open(ino_at(drive, path), write=False, door=DOOR)
    try:
        size = drive.attributes_of(handle).size
        parts = []
        for offset in range(0, size, 1 << 20):
            parts.append(bytes(await drive.read(handle, offset, 1 << 20)))
        return b"".join(parts)
    finally:
        await drive.release(handle)


async def mkdir(drive: Drive, path: str) -> Ino:
    parent, name = _split(drive, path)
    return (await drive.mkdir(parent, name, door=DOOR)).ino


async def rename(drive: Drive, old: str, new: str) -> None:
    parent, name = _split(drive, old)
    new_parent, new_name = _split(drive, new)
    await drive.rename(parent, name, new_parent, new_name, door=DOOR)


async def unlink(drive: Drive, path: str) -> None:
    parent, name = _split(drive, path)
    await drive.unlink(parent, name, door=DOOR)


async def rmdir(drive: Drive, path: str) -> None:
    parent, name = _split(drive, path)
    await drive.rmdir(parent, name, door=DOOR)


async def contents(drive: Drive, ino: Ino = ROOT_INO, prefix: str = "") -> dict[str, bytes | str | None]:
    """Every path of the drive: a file's bytes, a link's target, None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for entry in drive.readdir(ino, 0, 1_000_000):
        path = f"{prefix}/{entry.name}"
        match entry.attributes.kind:
            case Kind.DIRECTORY:
                found[path] = None
                found |= await contents(drive, entry.attributes.ino, path)
            case Kind.SYMLINK:
                found[path] = drive.readlink(entry.attributes.ino)
            case Kind.FILE:
                found[path] = await read(drive, path)
    return found
