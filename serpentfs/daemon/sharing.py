"""What an account can do beyond a drive: old versions of files, public links, and adopting somebody else's link.

A path becomes the cloud's own node here; the account (a driver that has such things) knows nothing of paths. Answers
and arguments fit in a JSON line, because most of them travel over the control socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from serpentfs.errors import Busy, IsADirectory, NotADirectory, NotFound, ReadOnly, Unsupported
from serpentfs.model import Attributes, Ino, Kind, NodeId
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.old_versions import KeptVersion


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


Request = Mapping[str, Any]


def _find(drive: Drive, request: Request) -> tuple[Attributes, NodeId]:
    """The entry that the request names, by its path in the drive or by its inode, and its node. NotFound, also for
    what is not uploaded yet."""
    found = drive.getattr(Ino(int(request["ino"]))) if "ino" in request else drive.resolve(str(request["path"]))
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


Answer = Callable[[Drive, Account, Request], Awaitable[Any]]
_LOOKING: Mapping[str, Answer] = {"versions": _versions}
_CHANGING: Mapping[str, Answer] = {
    "restore-version": _restore_version,
    "delete-versions": _delete_versions,
    "export": _export,
    "unexport": _unexport,
    "import": _import,
}
NAMES = (*_LOOKING, *_CHANGING)


async def answer(drive: Drive, account: Account | None, request: Request) -> Any:
    """The answer to the request that ``request["request"]`` (one of ``NAMES``) names. Unsupported for a vault,
    ReadOnly for a change of what is open read-only."""
    name = request["request"]
    if account is None:
        raise Unsupported("a vault has neither versions nor links")
    if name in _LOOKING:
        return await _LOOKING[name](drive, account, request)
    if drive.read_only:
        raise ReadOnly("the drive is read-only")
    return await _CHANGING[name](drive, account, request)
