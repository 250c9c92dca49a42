"""Requests about what is kept here of a path: ``refresh``, ``warm``, ``evict``, ``verify``.

All but ``refresh`` walk the files below a path and send an item now and then: how many files and bytes are done, of
how many. A file that fails for good does not end the walk; a cloud that cannot be reached does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import trio

from serpentfs.bridge import Pace
from serpentfs.daemon.control import Emit
from serpentfs.daemon.listing import resolve
from serpentfs.errors import IntegrityError, NotFound, PermanentError, SerpentError, Unavailable
from serpentfs.model import Attributes, Ino, Kind
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.keeping import KeptFile

_AT_ONCE = 4
"""Files read at the same time: enough to hide the way to the store behind small ones."""
_REPORT_EVERY = 0.25
_REFRESH_PATIENCE = 60.0
"""Seconds for one answer of the cloud."""
_LISTED_TOGETHER = 500
_WRITE_PATIENCE = 60.0
"""Seconds to wait for the disk to take what was warmed."""

Request = Mapping[str, Any]


def _find(drive: Drive, request: Request) -> tuple[Attributes, str]:
    """What the request's path names, and that path as it is shown. NotFound."""
    found = resolve(drive, str(request.get("path", "/")))
    return found, drive.path_of(found.ino)


async def _refresh(drive: Drive, request: Request, emit: Emit) -> Any:
    """``path``; ``recursive``: the folders below it, too. Unavailable when the cloud does not answer in time."""
    found, path = _find(drive, request)
    folder = found
    if found.kind is not Kind.DIRECTORY:
        folder = drive.resolve(path.rpartition("/")[0] or "/")
    patience = float(request.get("patience", _REFRESH_PATIENCE))
    folders = 0
    waiting = [folder.ino]
    while waiting:
        together, waiting = waiting[:_LISTED_TOGETHER], waiting[_LISTED_TOGETHER:]
        there = await _refresh_together(drive, together, patience, needed=folder.ino)
        if isinstance(there, SerpentError):
            raise there
        folders += len(there)
        if request.get("recursive"):
            for ino in there:
                children = _children(drive, ino)
                waiting += [child.attributes.ino for child in children if _is_synced_folder(drive, child)]
        await emit({"folders": folders, "left": len(waiting)})
    return {"folders": folders}


async def _refresh_together(
    drive: Drive, folders: list[Ino], patience: float, *, needed: Ino
) -> list[Ino] | SerpentError:
    """Those that are still there then, of several; that ``needed`` is not is an error. Clouds gather what is asked of
    them at the same time: one after the other a thousand folders would take a minute. The error is for the caller to
    raise, past a nursery."""
    there: list[Ino] = []
    failed: list[SerpentError] = []

    async def refresh(ino: Ino) -> None:
        try:
            await drive.refresh(ino)
            drive.getattr(ino)
        except NotFound as error:
            if ino == needed:
                failed.append(error)
        except SerpentError as error:
            failed.append(error)
        else:
            there.append(ino)

    with trio.move_on_after(patience) as scope:
        async with trio.open_nursery() as nursery:
            for ino in folders:
                nursery.start_soon(refresh, ino)
    if scope.cancelled_caught:
        return Unavailable("the cloud does not answer; what was known before stays")
    return failed[0] if failed else there


def _children(drive: Drive, ino: Ino) -> Iterator[Any]:
    after = 0
    while page := drive.readdir(ino, after):
        yield from page
        after = page[-1].attributes.ino


def _is_synced_folder(drive: Drive, child: Any) -> bool:
    return child.attributes.kind is Kind.DIRECTORY and drive.node_of(child.attributes.ino) is not None


class _Walk:
    """The files below a path, some at a time, with progress."""

    def __init__(self, drive: Drive, request: Request, emit: Emit) -> None:
        self._drive = drive
        self._emit = emit
        self._start, self._path = _find(drive, request)
        self.files = self.total_files = 0
        self.bytes = self.total_bytes = 0
        self.failed: list[dict[str, str]] = []

    def all(self) -> Iterator[KeptFile]:
        return self._drive.keeping.files(self._start.ino, self._path)

    def _progress(self) -> dict[str, int]:
        return {
            "files": self.files, "bytes": self.bytes, "total_files": self.total_files, "total_bytes": self.total_bytes,
        }

    async def _report(self, walk: trio.CancelScope) -> None:
        """Until cancelled, or until nobody listens any more: then the walk ends, too."""
        try:
            while True:
                await self._emit(self._progress())
                await trio.sleep(_REPORT_EVERY)
        except trio.BrokenResourceError:
            walk.cancel()

    async def _count(self) -> None:
        pace = Pace()
        for file in self.all():
            self.total_files += 1
            self.total_bytes += file.size
            await pace.breathe()

    async def run(self, work: Callable[[KeptFile], AsyncIterator[int]]) -> None:
        """``work`` gives the bytes it has done. A PermanentError of it is noted in ``failed``; another error of ours
        ends the walk and is raised."""
        await self._count()
        files = self.all()
        ended: list[SerpentError] = []

        async def worker() -> None:
            try:
                for file in files:
                    await self._one(file, work)
            except SerpentError as error:
                ended.append(error)
                workers.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, nursery.cancel_scope)
            async with trio.open_nursery() as workers:
                for _ in range(_AT_ONCE):
                    workers.start_soon(worker)
            nursery.cancel_scope.cancel()
        if ended:
            raise ended[0]
        await self._emit(self._progress())

    async def _one(self, file: KeptFile, work: Callable[[KeptFile], AsyncIterator[int]]) -> None:
        try:
            async for size in work(file):
                self.bytes += size
        except PermanentError as error:
            kind = "damaged" if isinstance(error, IntegrityError) else "unreadable"
            self.failed.append({"path": file.path, "state": kind, "error": str(error)})
        self.files += 1
        await trio.lowlevel.checkpoint()


async def _warm(drive: Drive, request: Request, emit: Emit) -> Any:
    """``kept``: files that can now be read without the cloud; fewer than ``files`` where the cache is too small."""
    walk = _Walk(drive, request, emit)
    await walk.run(drive.keeping.warm)
    with trio.move_on_after(_WRITE_PATIENCE):
        await drive.keeping.wait_written()
    kept, pace = 0, Pace()
    for file in walk.all():
        kept += drive.keeping.is_warm(file)
        await pace.breathe()
    return {"files": walk.files, "bytes": walk.bytes, "kept": kept, "failed": walk.failed}


async def _evict(drive: Drive, request: Request, emit: Emit) -> Any:
    """``staged``: files of which only this machine has the content; they stay."""
    walk = _Walk(drive, request, emit)
    before = drive.cache_statistics
    evicted = staged = 0
    pace = Pace()
    for file in walk.all():
        if drive.keeping.evict(file):
            evicted += 1
        else:
            staged += 1
        await pace.breathe()
    with trio.move_on_after(_WRITE_PATIENCE):
        await drive.keeping.wait_written()
    after = drive.cache_statistics
    return {
        "files": evicted, "staged": staged,
        "memory_bytes": max(0, before.memory_bytes - after.memory_bytes),
        "disk_bytes": max(0, before.disk_bytes - after.disk_bytes),
    }


async def _verify(drive: Drive, request: Request, emit: Emit) -> Any:
    """``failed`` has the files that do not authenticate (state ``damaged``) or cannot be read (``unreadable``);
    ``staged`` counts those that are not in the cloud yet."""
    walk = _Walk(drive, request, emit)
    staged = 0

    async def verify(file: KeptFile) -> AsyncIterator[int]:
        nonlocal staged
        if file.node is None:
            staged += 1
            yield file.size
            return
        async for size in drive.keeping.verify(file):
            yield size

    await walk.run(verify)
    return {"files": walk.files, "bytes": walk.bytes, "staged": staged, "failed": walk.failed}


Answer = Callable[[Drive, Request, Emit], Awaitable[Any]]
ANSWERS: Mapping[str, Answer] = {"refresh": _refresh, "warm": _warm, "evict": _evict, "verify": _verify}
