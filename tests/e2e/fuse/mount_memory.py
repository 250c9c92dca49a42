"""Mounts a Vfs, in a process of its own: what the mounted tests start.

Prints "ready" when the mount answers, then obeys JSON lines on standard input and answers each with one: changes
made behind the kernel's back, as another door would make them. The end of the input, or SIGTERM, unmounts. Which
Vfs it is, ``--factory module:name`` says: an async context manager that takes a folder for its state.
"""

from __future__ import annotations

import argparse
import base64
import faulthandler
import importlib
import json
import logging
import os
import posixpath
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from serpentfs.gateways.fuse import MountOptions, door, notifier, serve
from serpentfs.model import ROOT_INO, Attributes, DirEntry, HandleId, Ino, Kind, Quota
from serpentfs.vfs.core import SetAttributes, Vfs
from tests.drives import a_drive
from tests.fakes.memory_cloud import MemoryCloud
from tests.fakes.memory_vfs import MemoryVfs

DOOR = "webdav"


@asynccontextmanager
async def memory(state: Path) -> AsyncIterator[Vfs]:
    """Leaves a note of how it ended: its files in the root and the handles that nobody closed."""
    vfs = MemoryVfs()
    yield vfs
    files = {entry.name: vfs.bytes_of("/" + entry.name) for entry in vfs.readdir(ROOT_INO)
             if entry.attributes.kind is Kind.FILE}
    final = {"files": {name: data.decode("latin-1") for name, data in files.items()}, "open": vfs.open_handles}
    (state / "final.json").write_text(json.dumps(final))


@asynccontextmanager
async def drive(state: Path) -> AsyncIterator[Vfs]:
    """The real thing, over a cloud in memory."""
    async with a_drive(MemoryCloud(), state) as opened:
        yield opened


@asynccontextmanager
async def memory_unknown_quota(state: Path) -> AsyncIterator[Vfs]:
    yield MemoryVfs(quota=Quota(None, None, None))


class Failing(MemoryVfs):
    """Raises what no handler expects, for names and handles that ask for it."""

    def __init__(self) -> None:
        super().__init__()
        self._broken: set[HandleId] = set()

    def lookup(self, parent: Ino, name: str) -> Any:
        if name == "broken-lookup":
            raise RuntimeError("a fault in the core")
        return super().lookup(parent, name)

    async def mkdir(self, parent: Ino, name: str, mode: int | None = None, *, door: str) -> Attributes:
        if name.startswith("broken"):
            raise ZeroDivisionError("a fault in the core")
        return await super().mkdir(parent, name, mode, door=door)

    async def create(
        self, parent: Ino, name: str, mode: int | None = None, *, exclusive: bool, door: str
    ) -> tuple[Attributes, HandleId]:
        attributes, handle = await super().create(parent, name, mode, exclusive=exclusive, door=door)
        if name.startswith("broken"):
            self._broken.add(handle)
        return attributes, handle

    def _fail_if_broken(self, handle: HandleId) -> None:
        if handle in self._broken:
            raise RuntimeError("a fault in the core")

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        self._fail_if_broken(handle)
        return super().read_nowait(handle, offset, size)

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        self._fail_if_broken(handle)
        return await super().write(handle, offset, data)

    async def flush(self, handle: HandleId) -> None:
        self._fail_if_broken(handle)
        await super().flush(handle)


class Stalling(MemoryVfs):
    """Reads of a file called "stalled", and opening one called "stuck", wait for ever, as for a network that is gone,
    without a deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.stalled = 0
        self.given_up = 0

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        return None

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        if self.path_of(self.attributes_of(handle).ino) == "/stalled":
            await self._stall()
        return await super().read(handle, offset, size)

    async def open(self, ino: Ino, *, write: bool, truncate: bool = False, door: str) -> HandleId:
        if self.path_of(ino) == "/stuck":
            await self._stall()
        return await super().open(ino, write=write, truncate=truncate, door=door)

    async def _stall(self) -> None:
        self.stalled += 1
        try:
            await trio.sleep_forever()
        finally:
            self.given_up += 1


@asynccontextmanager
async def stalling(state: Path) -> AsyncIterator[Vfs]:
    yield Stalling()


class Counting(MemoryVfs):
    """Counts the reads, of files and of folders, that get as far as here."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.listings = 0

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        self.listings += 1
        return super().readdir(ino, after, limit)

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        self.reads += 1
        return super().read_nowait(handle, offset, size)


@asynccontextmanager
async def counting(state: Path) -> AsyncIterator[Vfs]:
    yield Counting()


@asynccontextmanager
async def read_only(state: Path) -> AsyncIterator[Vfs]:
    """A drive that cannot be changed, with a file in it."""
    vfs = MemoryVfs(read_only=True)
    vfs.cloud_put("/file", b"data")
    yield vfs


@asynccontextmanager
async def failing(state: Path) -> AsyncIterator[Vfs]:
    yield Failing()


class Control:
    """The commands. Paths are the drive's, not the mount's."""

    def __init__(self, vfs: Vfs) -> None:
        self._vfs = vfs

    def _place(self, path: str) -> tuple[Ino, str]:
        parent, name = posixpath.split(path)
        return self._vfs.resolve(parent).ino, name

    async def put(self, path: str, data: str) -> int:
        parent, name = self._place(path)
        draft = await self._vfs.create_draft(door=DOOR)
        await self._vfs.write(draft, None, base64.b64decode(data))
        attributes, _ = await self._vfs.publish(draft, parent, name, door=DOOR)
        return attributes.ino

    async def overwrite(self, path: str, offset: int, data: str) -> None:
        handle = await self._vfs.open(self._vfs.resolve(path).ino, write=True, door=DOOR)
        await self._vfs.write(handle, offset, base64.b64decode(data))
        await self._vfs.release(handle)

    async def append(self, path: str, data: str) -> None:
        handle = await self._vfs.open(self._vfs.resolve(path).ino, write=True, door=DOOR)
        await self._vfs.write(handle, None, base64.b64decode(data))
        await self._vfs.release(handle)

    async def get(self, path: str) -> str:
        handle = await self._vfs.open(self._vfs.resolve(path).ino, write=False, door=DOOR)
        data = await self._vfs.read(handle, 0, 1 << 30)
        await self._vfs.release(handle)
        return base64.b64encode(data).decode()

    async def mkdir(self, path: str) -> None:
        await self._vfs.mkdir(*self._place(path), door=DOOR)

    async def unlink(self, path: str) -> None:
        await self._vfs.unlink(*self._place(path), door=DOOR)

    async def rmdir(self, path: str) -> None:
        await self._vfs.rmdir(*self._place(path), door=DOOR)

    async def rename(self, path: str, new_path: str) -> None:
        await self._vfs.rename(*self._place(path), *self._place(new_path), door=DOOR)

    async def truncate(self, path: str, size: int) -> None:
        await self._vfs.setattr(self._vfs.resolve(path).ino, SetAttributes(size=size), door=DOOR)

    async def chmod(self, path: str, mode: int) -> None:
        await self._vfs.setattr(self._vfs.resolve(path).ino, SetAttributes(mode=mode), door=DOOR)

    async def stat(self, path: str) -> dict[str, int | None]:
        attributes = self._vfs.resolve(path)
        return {
            "ino": attributes.ino, "size": attributes.size, "mtime_ns": attributes.mtime_ns,
            "mode": attributes.mode, "uid": attributes.uid, "gid": attributes.gid,
        }

    async def reads(self) -> int:
        assert isinstance(self._vfs, Counting)
        return self._vfs.reads

    async def listings(self) -> int:
        assert isinstance(self._vfs, Counting)
        return self._vfs.listings

    async def stalled(self) -> int:
        assert isinstance(self._vfs, Stalling)
        return self._vfs.stalled

    async def given_up(self) -> int:
        assert isinstance(self._vfs, Stalling)
        return self._vfs.given_up

    async def obey(self, line: bytes) -> dict[str, Any]:
        command = json.loads(line)
        name = command.pop("command")
        try:
            return {"result": await getattr(self, name)(**command)}
        except Exception as error:  # noqa: BLE001  (told to the test, which decides)
            return {"error": f"{type(error).__name__}: {error}"}


async def obey_input(vfs: Vfs, scope: trio.CancelScope) -> None:
    """Not through trio's threads: a blocked read of standard input would hold up the end."""
    control = Control(vfs)
    waiting = b""
    stream = trio.lowlevel.FdStream(0)
    async for chunk in stream:
        waiting += chunk
        *lines, waiting = waiting.split(b"\n")
        for line in lines:
            print(json.dumps(await control.obey(line)), flush=True)
    scope.cancel()


async def cancel_on_sigterm(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def load(factory: str) -> Callable[[Path], AbstractAsyncContextManager[Vfs]]:
    module, _, name = factory.partition(":")
    made: Callable[[Path], AbstractAsyncContextManager[Vfs]] = getattr(importlib.import_module(module), name)
    return made


async def main(arguments: argparse.Namespace) -> None:
    options = MountOptions(
        mountpoint=arguments.mountpoint,
        name="memory",
        read_only=arguments.read_only,
        allow_other=arguments.allow_other,
        uid=arguments.uid,
        gid=arguments.gid,
        umask=arguments.umask,
        root=arguments.root,
        extra=tuple(arguments.o),
        loop=arguments.loop,
    )
    if arguments.stuck_after is not None:
        door._STUCK_AFTER = arguments.stuck_after
        notifier._DEFERRED_AT_MOST = 0.0
    async with load(arguments.factory)(arguments.state) as vfs:
        for folder in arguments.mkdir:
            await Control(vfs).mkdir(folder)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_sigterm, nursery.cancel_scope)
            async with trio.open_nursery() as served:
                await served.start(serve, vfs, options)
                print("ready", flush=True)
                nursery.start_soon(obey_input, vfs, served.cancel_scope)
            nursery.cancel_scope.cancel()
    print("unmounted", flush=True)


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--factory", default="tests.e2e.fuse.mount_memory:memory")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--umask", type=lambda text: int(text, 8), default=0o022)
    parser.add_argument("--root", default="/")
    parser.add_argument("--mkdir", action="append", default=[], help="make this folder before mounting")
    parser.add_argument("--stuck-after", type=float, help="what the watchdog takes for a deadlock, in seconds")
    parser.add_argument("--loop", default=os.environ.get("SERPENTFS_FUSE_LOOP", "pyfuse3"), help="the request loop")
    parser.add_argument("-o", action="append", default=[])
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    trio.run(main, parser.parse_args())


if __name__ == "__main__":
    # Under its own name, so that a factory's classes are the same here and there.
    importlib.import_module("tests.e2e.fuse.mount_memory").run()
