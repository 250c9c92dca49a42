"""Random operations on a drive and on a folder of the local disk, side by side.

After every operation both must have answered alike (the same success or the same errno), and at the end the drive,
the folder and the cloud must hold the same tree. In between the drive is stopped and started again, calls to the
cloud fail before or after they took effect, and uploads are let through or held up.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serpentfs.errors import SerpentError
from serpentfs.gateways.fuse.errnos import errno_of
from serpentfs.model import BLOCK_SIZE, HandleId
from serpentfs.vfs.core import SetAttributes
from serpentfs.vfs.drive import Drive, DriveOptions
from tests.drives import DOOR, a_drive, contents, ino_at, mkdir, rename, rmdir, unlink
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud

NAMES = st.sampled_from(["a", "b", "c"])
CHANGES = ("put", "mkdir", "move", "remove", "symlink", "set_mtime")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
DATA = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.integers(1, 255).map(lambda n: bytes([n]) * (BLOCK_SIZE + n)),
)
OFFSETS = st.sampled_from([0, 1, 7, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 3])


@dataclass(frozen=True)
class Step:
    """One operation; which fields matter depends on ``what``."""

    what: str
    path: str = "/a"
    other: str = "/b"
    data: bytes = b"x"
    offset: int = 0




def of_link(path: str) -> str:
    """Links have a name of their own: what a path through a link means is the kernel's business, not a drive's."""
    return path.rpartition("/")[0] + "/link"


STEPS = st.builds(
    Step,
    what=st.sampled_from(
        ["write", "write", "patch", "append", "truncate", "mkdir", "mkdir", "rmdir", "unlink", "rename", "rename",
         "symlink", "unlink_link", "rename_link", "mtime", "open", "close", "write_open", "restart", "fault", "fault",
         "let_through"]
    ),
    path=PATHS,
    other=PATHS,
    data=DATA,
    offset=OFFSETS,
)  # fmt: skip


class LocalFolder:
    """The oracle: the same operations on a folder of the local disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open: int | None = None

    def at(self, path: str) -> str:
        return f"{self.root}{path}"

    def do(self, step: Step) -> None:
        path = self.at(step.path)
        match step.what:
            case "write":
                self._put(path, os.O_CREAT | os.O_TRUNC, 0, step.data)
            case "patch":
                self._put(path, 0, step.offset, step.data)
            case "append":
                self._put(path, os.O_APPEND, None, step.data)
            case "truncate":
                os.truncate(path, step.offset)
            case "mkdir":
                os.mkdir(path)
            case "rmdir":
                os.rmdir(path)
            case "unlink":
                os.unlink(path)
            case "rename":
                os.rename(path, self.at(step.other))
            case "symlink":
                os.symlink("target", of_link(path))
            case "unlink_link":
                os.unlink(of_link(path))
            case "rename_link":
                os.rename(of_link(path), of_link(self.at(step.other)))
            case "mtime":
                os.utime(path, ns=(5, 5 + step.offset))
            case "open" if self.open is None:
                self.open = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            case "close" if self.open is not None:
                self.close()
            case "write_open" if self.open is not None:
                os.pwrite(self.open, step.data, step.offset)

    def close(self) -> None:
        if self.open is not None:
            os.close(self.open)
            self.open = None

    @staticmethod
    def _put(path: str, flags: int, offset: int | None, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | flags)
        try:
            if offset is None:
                os.write(descriptor, data)
            else:
                os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def contents(self) -> dict[str, bytes | str | None]:
        found: dict[str, bytes | str | None] = {}
        for path in self.root.rglob("*"):
            name = f"/{path.relative_to(self.root)}"
            found[name] = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        return found


class OnDrive:
    """The same operations on the drive."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.open: HandleId | None = None

    async def do(self, step: Step) -> None:
        drive = self.drive
        match step.what:
            case "write":
                await self._put(step.path, 0, step.data, create=True)
            case "patch":
                await self._put(step.path, step.offset, step.data)
            case "append":
                await self._put(step.path, None, step.data)
            case "truncate":
                await drive.setattr(ino_at(drive, step.path), SetAttributes(size=step.offset), door=DOOR)
            case "mkdir":
                await mkdir(drive, step.path)
            case "rmdir":
                await rmdir(drive, step.path)
            case "unlink":
                await unlink(drive, step.path)
            case "rename":
                await rename(drive, step.path, step.other)
            case "symlink":
                parent, _, name = of_link(step.path).rpartition("/")
                await drive.symlink(ino_at(drive, parent or "/"), name, "target", door=DOOR)
            case "unlink_link":
                await unlink(drive, of_link(step.path))
            case "rename_link":
                await rename(drive, of_link(step.path), of_link(step.other))
            case "mtime":
                ino = ino_at(drive, step.path)
                await drive.setattr(ino, SetAttributes(mtime_ns=5 + step.offset, atime_ns=5), door=DOOR)
            case "open" if self.open is None:
                self.open = await drive.open(ino_at(drive, step.path), write=True, door=DOOR)
            case "close" if self.open is not None:
                await self.close()
            case "write_open" if self.open is not None:
                await drive.write(self.open, step.offset, step.data)

    async def close(self) -> None:
        if self.open is not None:
            handle, self.open = self.open, None
            await self.drive.release(handle)

    async def _put(self, path: str, offset: int | None, data: bytes, *, create: bool = False) -> None:
        parent, _, name = path.rpartition("/")
        if create:
            _, handle = await self.drive.create(ino_at(self.drive, parent or "/"), name, exclusive=False, door=DOOR)
            await self.drive.setattr(self.drive.attributes_of(handle).ino, SetAttributes(size=0), handle, door=DOOR)
        else:
            handle = await self.drive.open(ino_at(self.drive, path), write=True, door=DOOR)
        try:
            await self.drive.write(handle, offset, data)
        finally:
            await self.drive.release(handle)


def local_answer(do: Callable[[Step], None], step: Step) -> int:
    try:
        do(step)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


async def drive_answer(do: Callable[[Step], Awaitable[None]], step: Step) -> int:
    try:
        await do(step)
    except SerpentError as error:
        return errno_of(error)
    return 0


ALIKE = {errno.EEXIST: errno.ENOTEMPTY, errno.ENOTDIR: errno.ENOENT}
"""Errnos that POSIX lets stand for each other, and two that depend on which of two paths is looked at first."""


@asynccontextmanager
async def restartable(cloud: FaultyCloud, where: Path, settle: float) -> AsyncIterator[Callable[[], Awaitable[Drive]]]:
    """Opens the drive, again and again."""
    async with AsyncExitStack() as stack:

        async def start() -> Drive:
            await stack.aclose()
            options = DriveOptions(settle=settle, host="here")
            return await stack.enter_async_context(a_drive(cloud, where, options=options))

        yield start


async def run(steps: list[Step], where: Path, *, stable_ids: bool, settle: float) -> None:
    local = LocalFolder(where / "local")
    local.root.mkdir()
    memory = MemoryCloud(stable_file_ids=stable_ids)
    cloud = FaultyCloud(memory)
    async with restartable(cloud, where, settle) as start:
        on_drive = OnDrive(await start())
        for step in steps:
            if step.what == "restart":
                local.close()
                await on_drive.close()
                on_drive = OnDrive(await start())
            elif step.what == "let_through":
                await trio.sleep(0.005)
            elif step.what == "fault":
                method = CHANGES[len(step.data) % len(CHANGES)]
                cloud.fail(method, after=step.offset % 2 == 1)
            else:
                expected, got = local_answer(local.do, step), await drive_answer(on_drive.do, step)
                assert ALIKE.get(got, got) == ALIKE.get(expected, expected), step
        local.close()
        await on_drive.close()
        drive = on_drive.drive
        assert await contents(drive) == local.contents()
        cloud.clear()
        with trio.fail_after(30):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert memory.contents() == local.contents()
        drive = await start()
        assert await contents(drive) == local.contents()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEPS, min_size=4, max_size=30), st.booleans(), st.sampled_from([0.0, 0.0, 3600.0]))
def test_a_drive_is_a_folder(steps: list[Step], stable_ids: bool, settle: float) -> None:
    where = Path(tempfile.mkdtemp(prefix="drive-model-"))
    try:
        trio.run(lambda: run(steps, where, stable_ids=stable_ids, settle=settle))
    finally:
        shutil.rmtree(where)
