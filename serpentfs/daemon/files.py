"""Files of a drive without a mount: what the control socket answers to ``get``, ``put``, ``rm`` and the like.

Everything is named by its absolute path in the drive. Contents pass through a pipe that comes with the request
(``control``): ``read`` writes exactly the bytes that it was asked for and closes the pipe, ``write`` takes exactly the
bytes that were announced. A ``write`` that ends early changes nothing, and a ``read`` of a file that changes under it
is a Conflict, so that nobody takes a mixture for a file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import trio

from serpentfs.bridge import Pace
from serpentfs.daemon.control import Emit
from serpentfs.daemon.walking import LOOKING, children, joined, walk, walked_entry
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
    SerpentError,
    Unavailable,
)
from serpentfs.model import Attributes, HandleId, Ino, Kind
from serpentfs.vfs.core import Precondition, RenameMode, SetAttributes, Vfs

DOOR = "control"
_PIECE = 1024 * 1024

Request = Mapping[str, Any]
Answer = Callable[[Vfs, Request, Emit], Awaitable[Any]]


def _split(path: str) -> tuple[str, str]:
    """The folder and the name. InvalidArgument for the root, which has neither."""
    folder, _, name = path.rstrip("/").rpartition("/")
    if not name:
        raise InvalidArgument("this is the root of the drive")
    return folder or "/", name


def _folder(vfs: Vfs, path: str) -> Attributes:
    """NotFound, NotADirectory."""
    try:
        found = vfs.resolve(path)
    except NotFound as error:
        raise NotFound(f"no such folder: {path}") from error
    if found.kind is not Kind.DIRECTORY:
        raise NotADirectory(f"not a folder: {path}")
    return found


def _existing(vfs: Vfs, path: str) -> Attributes | None:
    try:
        return vfs.resolve(path)
    except NotFound:
        return None


def _place(vfs: Vfs, path: str) -> tuple[Ino, str]:
    """Where a name is to be: its folder, which must exist, and the name."""
    folder, name = _split(path)
    return _folder(vfs, folder).ino, name


def _target(vfs: Vfs, request: Request) -> str:
    """As mv and cp see their last word: the entry itself, or its place in a folder that exists. NotADirectory when it
    has to be a folder (``into_folder``) and is not."""
    target = str(request["target"])
    found = _existing(vfs, target)
    if found is not None and found.kind is Kind.DIRECTORY:
        source = str(request["source"])
        return target if source == "/" else joined(target, _split(source)[1])
    if request.get("into_folder"):
        raise NotFound(f"no such folder: {target}") if found is None else NotADirectory(f"not a folder: {target}")
    return target


@contextmanager
def _about(path: str | None) -> Iterator[None]:
    """Errors tell which of many entries they are about; of the one that was asked for, the asker knows."""
    try:
        yield
    except SerpentError as error:
        if path is None:
            raise
        raise type(error)(f"{path}: {error}") from error


# bytes


async def _read(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """From ``offset`` to the end. Conflict when the file has not the announced ``size`` and ``mtime_ns``."""
    pipe = _pipe(request)
    found = vfs.resolve(str(request["path"]))
    if found.kind is not Kind.FILE:
        raise _no_file(found)
    handle = await vfs.open(found.ino, write=False, door=DOOR)
    try:
        before = vfs.attributes_of(handle)
        if "mtime_ns" in request and (before.size, before.mtime_ns) != (request["size"], request["mtime_ns"]):
            raise Conflict("it has changed since it was listed")
        await _send(vfs, handle, int(request.get("offset", 0)), before.size, pipe)
        after = vfs.attributes_of(handle)
        if (after.content, after.generation) != (before.content, before.generation):
            raise Conflict("it changed while it was read")
    finally:
        with trio.CancelScope(shield=True):
            await vfs.release(handle)
    return {}


async def _send(vfs: Vfs, handle: HandleId, offset: int, stop: int, pipe: trio.lowlevel.FdStream) -> None:
    while offset < stop:
        size = min(_PIECE, stop - offset)
        data = vfs.read_nowait(handle, offset, size)
        if data is None:
            data = await vfs.read(handle, offset, size)
        if not data:
            raise Conflict("it became shorter while it was read")
        offset += len(data)
        try:
            await pipe.send_all(bytes(data))    # a copy: a view would be of memory that is used again
        except trio.BrokenResourceError as error:
            raise Unavailable("the reader has gone") from error


async def _write(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """A new or a replaced file of ``size`` bytes; all of it, or nothing. With ``keep`` an existing one is
    AlreadyExists."""
    pipe, size = _pipe(request), int(request["size"])
    parent, name = _place(vfs, str(request["path"]))
    draft = await vfs.create_draft(door=DOOR)
    try:
        written = 0
        while written < size:
            data = await pipe.receive_some(min(_PIECE, size - written))
            if not data:
                raise Unavailable(f"only {written} of {size} bytes came")
            written += await vfs.write(draft, written, data)
        await vfs.publish(draft, parent, name, precondition=_condition(vfs, request, parent, name),
                          mtime_ns=request.get("mtime_ns"), door=DOOR)
    except BaseException:
        with trio.CancelScope(shield=True):
            await vfs.discard(draft)
        raise
    return {}


def _condition(vfs: Vfs, request: Request, parent: Ino, name: str) -> Precondition:
    """AlreadyExists when the name is taken and what has it is to be kept."""
    if not request.get("keep"):
        return Precondition()
    with suppress(NotFound):
        vfs.lookup(parent, name)
        raise AlreadyExists("it exists already")
    return Precondition(must_not_exist=True)


def _pipe(request: Request) -> trio.lowlevel.FdStream:
    pipe = request.get("data")
    if not isinstance(pipe, trio.lowlevel.FdStream):
        raise InvalidArgument("this request needs a pipe")
    return pipe


def _no_file(found: Attributes) -> SerpentError:
    if found.kind is Kind.DIRECTORY:
        return IsADirectory("is a folder")
    return InvalidArgument("is a symbolic link, which is not followed")


# names


async def _mkdir(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """With ``parents`` also the folders above it, and nothing is wrong when it exists."""
    path = str(request["path"])
    if not request.get("parents"):
        parent, name = _place(vfs, path)
        if _existing(vfs, path) is not None:
            raise AlreadyExists("it exists already")
        await vfs.mkdir(parent, name, door=DOOR)
        return {}
    at = "/"
    for part in path.strip("/").split("/"):
        above = _folder(vfs, at)
        at = joined(at, part) if part else at
        found = _existing(vfs, at)
        if found is None:
            with suppress(AlreadyExists):    # a door was faster
                await vfs.mkdir(above.ino, part, door=DOOR)
        elif found.kind is not Kind.DIRECTORY:
            raise AlreadyExists("a file has that name" if at == path else f"{at} is not a folder")
    return {}


async def _remove(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """A file or link; with ``recursive`` also a folder and all that is in it."""
    parent, name = _place(vfs, str(request["path"]))
    try:
        found = vfs.lookup(parent, name).attributes
    except NotFound as error:
        raise NotFound("no such file or folder") from error
    if found.kind is not Kind.DIRECTORY:
        await vfs.unlink(parent, name, door=DOOR)
    elif request.get("recursive"):
        await _remove_folder(vfs, parent, name, found.ino)
    else:
        raise IsADirectory("is a folder (-r removes it)")
    return {}


async def _remove_folder(vfs: Vfs, parent: Ino, name: str, ino: Ino) -> None:
    pace = Pace()
    full = [(parent, name, ino)]
    while full:
        parent, name, ino = full[-1]
        below = []
        for entry in [entry async for entry in children(vfs, ino, pace)]:
            if entry.attributes.kind is Kind.DIRECTORY:
                below.append((ino, entry.name, entry.attributes.ino))
            else:
                with _about(entry.name), suppress(NotFound):    # somebody else removed it
                    await vfs.unlink(ino, entry.name, door=DOOR)
                await pace.breathe()
        if below:
            full += below
            continue
        full.pop()
        with _about(name if full else None), suppress(NotFound):
            await vfs.rmdir(parent, name, door=DOOR)


async def _move(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """Rename, or move into the folder that ``target`` names; over an existing file, unless ``keep``."""
    source = str(request["source"])
    parent, name = _place(vfs, source)
    try:
        vfs.lookup(parent, name)
    except NotFound as error:
        raise NotFound("no such file or folder") from error
    new_parent, new_name = _place(vfs, _target(vfs, request))
    mode = RenameMode.NO_REPLACE if request.get("keep") else RenameMode.REPLACE
    await vfs.rename(parent, name, new_parent, new_name, mode, door=DOOR)
    return {}


async def _copy(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """Copy a file or link; with ``recursive`` also a folder and all that is in it, into one that exists already or a
    new one. With ``preserve`` times are kept. Sends ``{"bytes": …}`` for every file."""
    source, target = str(request["source"]), _target(vfs, request)
    try:
        found = vfs.resolve(source)
    except NotFound as error:
        raise NotFound("no such file or folder") from error
    if found.kind is Kind.DIRECTORY:
        if not request.get("recursive"):
            raise IsADirectory("is a folder (-r copies it)")
        if f"{target}/".startswith(joined(source, "")):
            raise InvalidArgument("a folder cannot be copied into itself")
    entries = [one async for one in walk(vfs, source)]
    folders = []
    for level, path, attributes in entries:
        place = target + path[len(source.rstrip("/")) :]
        with _about(path if level else None):
            if attributes.kind is Kind.DIRECTORY:
                await _mkdir(vfs, {"path": place, "parents": True}, emit)
                folders.append((place, attributes.mtime_ns))
            else:
                await _copy_file(vfs, attributes, place, request)
        if attributes.kind is Kind.FILE:
            await emit({"bytes": attributes.size})
    if request.get("preserve"):
        for place, mtime_ns in reversed(folders):
            await vfs.setattr(vfs.resolve(place).ino, SetAttributes(mtime_ns=mtime_ns), door=DOOR)
    return {}


async def _copy_file(vfs: Vfs, attributes: Attributes, place: str, request: Request) -> None:
    parent, name = _place(vfs, place)
    existing = _existing(vfs, place)
    if existing is not None and existing.ino == attributes.ino:
        raise InvalidArgument("the copy would be the file itself")
    condition = _condition(vfs, request, parent, name)
    made, _ = await vfs.copy_file(attributes.ino, parent, name, precondition=condition, door=DOOR)
    if request.get("preserve"):
        await vfs.setattr(made.ino, SetAttributes(mtime_ns=attributes.mtime_ns), door=DOOR)


async def _symlink(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """A link to ``target``, in place of a file or link that has its name."""
    path = str(request["path"])
    parent, name = _place(vfs, path)
    existing = _existing(vfs, path)
    if existing is not None and existing.kind is Kind.SYMLINK and vfs.readlink(existing.ino) == request["target"]:
        return {}
    if existing is not None:
        await vfs.unlink(parent, name, door=DOOR)
    await vfs.symlink(parent, name, str(request["target"]), door=DOOR)
    return {}


async def _set_time(vfs: Vfs, request: Request, emit: Emit) -> Any:
    changes = SetAttributes(mtime_ns=int(request["mtime_ns"]))
    await vfs.setattr(vfs.resolve(str(request["path"])).ino, changes, door=DOOR)
    return {}


async def _stat(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """The entry at ``path`` and what the drive can do with links; an ``entry`` of None when there is none."""
    path = str(request["path"])
    found = _existing(vfs, path)
    return {
        "entry": None if found is None else asdict(walked_entry(vfs, path, found)),
        "symlinks": vfs.capabilities.symlinks,
    }


_ANSWERS: Mapping[str, Answer] = {
    **LOOKING,
    "stat": _stat,
    "read": _read,
    "write": _write,
    "mkdir": _mkdir,
    "remove": _remove,
    "move": _move,
    "copy": _copy,
    "symlink": _symlink,
    "set-time": _set_time,
}
NAMES = tuple(_ANSWERS)


async def answer(vfs: Vfs, request: Request, emit: Emit) -> Any:
    """The answer to the request that ``request["request"]`` (one of ``NAMES``) names."""
    return await _ANSWERS[request["request"]](vfs, request, emit)
