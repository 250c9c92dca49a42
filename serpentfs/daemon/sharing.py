"""What an account can do beyond a drive: old versions of files, public links, adopting somebody else's link, and the
rubbish bin.

A path becomes the cloud's own node here; the account (a driver that has such things) knows nothing of paths. Answers
and arguments fit in a JSON line, because most of them travel over the control socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from serpentfs.daemon.listing import resolve
from serpentfs.errors import Busy, IsADirectory, NotADirectory, NotFound, ReadOnly, Unsupported
from serpentfs.model import Attributes, Ino, Kind, NodeId
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.old_versions import KeptVersion


class BinnedEntry(Protocol):
    """Something at the top of a rubbish bin. Properties as in ``clouds.mega.rubbish.Binned``."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def size(self) -> int: ...

    @property
    def mtime(self) -> int: ...

    @property
    def former(self) -> str | None: ...

    @property
    def former_is_binned(self) -> bool: ...


class RestoredEntry(Protocol):
    """How something came back. Properties as in ``clouds.mega.rubbish.Restored``."""

    @property
    def path(self) -> str: ...

    @property
    def is_elsewhere(self) -> bool: ...

    @property
    def with_it(self) -> int: ...

    @property
    def left(self) -> int: ...


class Account(Protocol):
    """A cloud that is somebody's account, or a link into one."""

    @property
    def trouble(self) -> str | None:
        """Why the service does not serve as it should, None when it does."""
        ...

    @property
    def over_quota_until(self) -> float | None:
        """Unix time at which transfers go on, None when they are not held up."""
        ...

    async def export(self, node: NodeId, *, password: str | None, expires: int | None) -> str:
        """The public link to a file or folder, key included; valid until the Unix time ``expires``."""
        ...

    async def unexport(self, node: NodeId) -> None: ...

    async def import_link(self, link: str, password: str | None, parent: NodeId) -> None:
        """Copy what is behind a public link into a folder, within the service."""
        ...

    def versions(self, node: NodeId) -> Sequence[KeptVersion]:
        """Former contents of a file, newest first, without the present one."""
        ...

    async def restore_version(self, node: NodeId, handle: str) -> None: ...

    async def delete_versions(self, node: NodeId, handles: list[str] | None) -> None:
        """None: all of them. The present content stays in any case."""
        ...

    async def trash(self) -> Sequence[BinnedEntry]:
        """What lies in the rubbish bin."""
        ...

    async def restore(self, path: str, *, to: str | None, name: str | None, recursive: bool) -> RestoredEntry:
        """Put back what a path in the bin names: to where it came from, or into the folder ``to``."""
        ...

    async def empty_trash(self) -> int:
        """Delete for good what lies in the bin. The answer: how many things."""
        ...


Request = Mapping[str, Any]


def _find(drive: Drive, request: Request) -> tuple[Attributes, NodeId]:
    """The entry that the request names, by its path in the drive or by its inode, and its node. NotFound, also for
    what is not uploaded yet."""
    found = drive.getattr(Ino(int(request["ino"]))) if "ino" in request else resolve(drive, str(request["path"]))
    node = drive.node_of(found.ino)
    if node is None:
        raise NotFound("not uploaded yet: serpentfs flush waits until it is")
    return found, node


def _find_file(drive: Drive, request: Request) -> tuple[Attributes, NodeId]:
    found, node = _find(drive, request)
    if found.kind is not Kind.FILE:
        raise IsADirectory("only a file has versions")
    return found, node


def _settled(drive: Drive, found: Attributes) -> None:
    """The cloud's node is about to be another one when a change waits. Busy."""
    if drive.is_pending(found.ino):
        raise Busy("changes of it are not uploaded yet: serpentfs flush waits until they are")


async def _versions(drive: Drive, account: Account, request: Request) -> Any:
    _, node = _find_file(drive, request)
    return [
        {"handle": one.handle, "size": one.size, "mtime": one.mtime, "created": one.created}
        for one in account.versions(node)
    ]


async def _restore_version(drive: Drive, account: Account, request: Request) -> Any:
    found, node = _find_file(drive, request)
    _settled(drive, found)
    await account.restore_version(node, str(request["handle"]))
    return {}


async def _delete_versions(drive: Drive, account: Account, request: Request) -> Any:
    _, node = _find_file(drive, request)
    handles = request["handles"]
    await account.delete_versions(node, None if handles is None else [str(handle) for handle in handles])
    return {}


async def _export(drive: Drive, account: Account, request: Request) -> Any:
    found, node = _find(drive, request)
    if found.kind is Kind.FILE:
        _settled(drive, found)
    link = await account.export(node, password=request.get("password"), expires=request.get("expires"))
    return {"link": link}


async def _unexport(drive: Drive, account: Account, request: Request) -> Any:
    _, node = _find(drive, request)
    await account.unexport(node)
    return {}


async def _import(drive: Drive, account: Account, request: Request) -> Any:
    found, node = _find(drive, request)
    if found.kind is not Kind.DIRECTORY:
        raise NotADirectory("a link is imported into a folder")
    await account.import_link(str(request["link"]), request.get("password"), node)
    return {}


async def _trash(drive: Drive, account: Account, request: Request) -> Any:
    return [
        {
            "name": one.name, "kind": one.kind.name.lower(), "size": one.size, "mtime": one.mtime, "former": one.former,
            "former_is_binned": one.former_is_binned,
        }
        for one in await account.trash()
    ]  # fmt: skip


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


async def _restore(drive: Drive, account: Account, request: Request) -> Any:
    done = await account.restore(
        str(request["what"]),
        to=_text_or_none(request.get("to")),
        name=_text_or_none(request.get("name")),
        recursive=bool(request.get("recursive")),
    )
    return {"path": done.path, "is_elsewhere": done.is_elsewhere, "with_it": done.with_it, "left": done.left}


async def _empty_trash(drive: Drive, account: Account, request: Request) -> Any:
    return {"deleted": await account.empty_trash()}


Answer = Callable[[Drive, Account, Request], Awaitable[Any]]
_LOOKING: Mapping[str, Answer] = {"versions": _versions, "trash": _trash}
_CHANGING: Mapping[str, Answer] = {
    "restore-version": _restore_version,
    "delete-versions": _delete_versions,
    "export": _export,
    "unexport": _unexport,
    "import": _import,
    "restore": _restore,
    "empty-trash": _empty_trash,
}
NAMES = (*_LOOKING, *_CHANGING)


async def answer(drive: Drive, account: Account | None, request: Request) -> Any:
    """The answer to the request that ``request["request"]`` (one of ``NAMES``) names. Unsupported for a vault,
    ReadOnly for a change of what is open read-only."""
    name = request["request"]
    if account is None:
        raise Unsupported("a vault has neither versions nor links nor a rubbish bin")
    if name in _LOOKING:
        return await _LOOKING[name](drive, account, request)
    if drive.read_only:
        raise ReadOnly("the drive is read-only")
    try:
        return await _CHANGING[name](drive, account, request)
    finally:
        drive.room_changed()  # by versions, by what was imported or deleted
