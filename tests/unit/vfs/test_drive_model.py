"""Random operations on a drive and on a folder of the local disk, side by side.

After every operation both must have answered alike (the same success or the same errno), and at the end the drive,
the folder and the cloud must hold the same tree. In between the drive is stopped and started again, calls to the
cloud fail before or after they took effect, uploads are let through or held up, two handles stay open and write
late, and another client changes a folder of its own.
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

from serpentfs.errors import RevisionGone, SerpentError
from serpentfs.gateways.fuse.errnos import errno_of
from serpentfs.model import BLOCK_SIZE, ROOT_INO, HandleId, Ino, Kind
from serpentfs.vfs.core import RenameMode, SetAttributes
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
    which: int = 0
    """Of the two handles that stay open."""


def of_link(path: str) -> str:
    """Links have a name of their own: what a path through a link means is the kernel's business, not a drive's."""
    return path.rpartition("/")[0] + "/link"


STEPS = st.builds(
    Step,
    what=st.sampled_from(
        ["write", "write", "patch", "append", "truncate", "mkdir", "mkdir", "rmdir", "unlink", "rename", "rename",
         "symlink", "unlink_link", "rename_link", "mtime", "open", "open", "close", "write_open", "write_open",
         "cut_open", "flush_open", "fsync_open", "publish", "publish", "copy", "exchange", "external", "restart",
         "fault", "fault", "let_through"]
    ),
    path=PATHS,
    other=PATHS,
    data=DATA,
    offset=OFFSETS,
    which=st.integers(0, 1),
)  # fmt: skip


class LocalFolder:
    """The oracle: the same operations on a folder of the local disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open: dict[int, int] = {}

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
            case "publish":
                self._replace(path, step.data)
            case "copy":
                os.lstat(path)
                os.lstat(Path(self.at(step.other)).parent)
                with Path(path).open("rb") as source:
                    self._replace(self.at(step.other), source.read())
            case "exchange":
                self._exchange(path, self.at(step.other))
            case "external":
                (self.root / "external").mkdir(exist_ok=True)
                (self.root / "external" / step.path[1]).write_bytes(step.data)
            case "open" if step.which not in self.open:
                self.open[step.which] = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            case "close" if step.which in self.open:
                os.close(self.open.pop(step.which))
            case "write_open" if step.which in self.open:
                os.pwrite(self.open[step.which], step.data, step.offset)
            case "cut_open" if step.which in self.open:
                os.ftruncate(self.open[step.which], step.offset)

    def read_open(self) -> dict[int, bytes]:
        return {which: os.pread(descriptor, 1 << 24, 0) for which, descriptor in self.open.items()}

    @staticmethod
    def _replace(path: str, data: bytes) -> None:
        """A new file in one step, over what is there."""
        new = f"{path}.new"
        Path(new).write_bytes(data)
        try:
            os.rename(new, path)
        except OSError:
            os.unlink(new)
            raise

    @staticmethod
    def _exchange(one: str, other: str) -> None:
        for path in (one, other):
            os.lstat(path)
        if one == other:
            return
        if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
            raise OSError(errno.EINVAL, "one is inside the other")
        os.rename(one, f"{one}.passing")
        os.rename(other, one)
        os.rename(f"{one}.passing", other)

    def close(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open.clear()

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
        self.open: dict[int, HandleId] = {}

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
            case "publish":
                await self._publish(step.path, step.data)
            case "copy":
                source = ino_at(drive, step.path)
                parent, _, name = step.other.rpartition("/")
                await drive.copy_file(source, ino_at(drive, parent or "/"), name, door=DOOR)
            case "exchange":
                parent, _, name = step.path.rpartition("/")
                other_parent, _, other = step.other.rpartition("/")
                source, target = ino_at(drive, parent or "/"), ino_at(drive, other_parent or "/")
                await drive.rename(source, name, target, other, RenameMode.EXCHANGE, door=DOOR)
            case "open" if step.which not in self.open:
                self.open[step.which] = await drive.open(ino_at(drive, step.path), write=True, door=DOOR)
            case "close" if step.which in self.open:
                await drive.release(self.open.pop(step.which))
            case "write_open" if step.which in self.open:
                await drive.write(self.open[step.which], step.offset, step.data)
            case "cut_open" if step.which in self.open:
                handle = self.open[step.which]
                ino = drive.attributes_of(handle).ino
                await drive.setattr(ino, SetAttributes(size=step.offset), handle, door=DOOR)
            case "flush_open" if step.which in self.open:
                await drive.flush(self.open[step.which])
            case "fsync_open" if step.which in self.open:
                await drive.fsync(self.open[step.which])

    async def read_open(self) -> dict[int, bytes]:
        return {which: bytes(await self.drive.read(handle, 0, 1 << 24)) for which, handle in self.open.items()}

    async def _publish(self, path: str, data: bytes) -> None:
        parent, _, name = path.rpartition("/")
        draft = await self.drive.create_draft(door=DOOR)
        await self.drive.write(draft, 0, data)
        try:
            await self.drive.publish(draft, ino_at(self.drive, parent or "/"), name, door=DOOR)
        finally:
            await self.drive.discard(draft)

    async def close(self) -> None:
        for which in list(self.open):
            await self.drive.release(self.open.pop(which))

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


async def shown(drive: Drive) -> dict[str, bytes | str | None] | None:
    """None while the drive has not heard that a file was replaced."""
    try:
        return await contents(drive)
    except RevisionGone:
        return None


class Marks:
    """What a drive showed under each mark of its state: never two things under one."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._shown: dict[int, object] = {}

    def look(self) -> None:
        mark = self._drive.state_mark()
        if mark is not None:
            assert self._shown.setdefault(mark, self._listed(ROOT_INO)) == self._listed(ROOT_INO)

    def _listed(self, folder: Ino) -> object:
        listed = []
        for entry in self._drive.readdir(folder, 0, 1_000_000):
            ino, kind = entry.attributes.ino, entry.attributes.kind
            below = self._listed(ino) if kind is Kind.DIRECTORY else None
            target = self._drive.readlink(ino) if kind is Kind.SYMLINK else None
            listed.append((entry, below, target, [self._drive.getxattr(ino, x) for x in self._drive.listxattr(ino)]))
        return listed


ALIKE = {errno.EEXIST: errno.ENOTEMPTY, errno.ENOTDIR: errno.ENOENT}
"""Errnos that POSIX lets stand for each other, and two that depend on which of two paths is looked at first."""


@asynccontextmanager
async def restartable(cloud: FaultyCloud, where: Path, settle: float) -> AsyncIterator[Callable[[], Awaitable[Drive]]]:
    """Opens the drive, again and again."""
    async with AsyncExitStack() as stack:

        async def start() -> Drive:
            await stack.aclose()
            options = DriveOptions(settle=settle, host="here", early_size=BLOCK_SIZE)
            return await stack.enter_async_context(a_drive(cloud, where, options=options))

        yield start


async def run(steps: list[Step], where: Path, *, kind: str, settle: float) -> None:
    local = LocalFolder(where / "local")
    local.root.mkdir()
    memory = MemoryCloud(
        stable_file_ids=kind == "stable ids", events=kind == "events", growing_puts=kind != "stable ids", piece=1000
    )
    cloud = FaultyCloud(memory)
    async with restartable(cloud, where, settle) as start:
        on_drive = OnDrive(await start())
        marks = Marks(on_drive.drive)
        for step in steps:
            marks.look()
            if step.what == "restart":
                local.close()
                await on_drive.close()
                on_drive = OnDrive(await start())
                marks = Marks(on_drive.drive)
            elif step.what == "let_through":
                await trio.sleep(0.005)
            elif step.what == "external":
                local.do(step)
                if "/external" not in memory.contents():
                    memory.external_mkdir("/external")
                memory.external_put(f"/external/{step.path[1]}", step.data)
            elif step.what == "fault":
                method = CHANGES[len(step.data) % len(CHANGES)]
                cloud.fail(method, after=step.offset % 2 == 1)
            else:
                expected, got = local_answer(local.do, step), await drive_answer(on_drive.do, step)
                assert ALIKE.get(got, got) == ALIKE.get(expected, expected), step
                assert await on_drive.read_open() == local.read_open(), step
        local.close()
        await on_drive.close()
        drive = on_drive.drive
        cloud.clear()
        with trio.fail_after(30):
            while await shown(drive) != local.contents():  # until it heard of the other client
                assert any(step.what == "external" for step in steps)
                await trio.sleep(0.005)
        with trio.fail_after(30):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert memory.contents() == local.contents()
        assert memory.leaks == []
        drive = await start()
        assert await contents(drive) == local.contents()


@settings(max_examples=90, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(STEPS, min_size=4, max_size=30),
    st.sampled_from(["paths as ids", "stable ids", "events"]),
    st.sampled_from([0.0, 0.0, 3600.0]),
)
def test_a_drive_is_a_folder(steps: list[Step], kind: str, settle: float) -> None:
    where = Path(tempfile.mkdtemp(prefix="drive-model-"))
    try:
        trio.run(lambda: run(steps, where, kind=kind, settle=settle))
    finally:
        shutil.rmtree(where)
