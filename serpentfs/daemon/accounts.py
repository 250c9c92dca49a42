"""MEGA accounts and links on this machine: which state folder is whose, what of them can be changed, and the few
questions that need an account but no drive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.proxy import Proxy
from serpentfs.clouds.registry import RemoteSpec, session_spec
from serpentfs.config import MEGA_ROOTS
from serpentfs.errors import NotFound, Unavailable, UsageError
from serpentfs.model import Quota

if TYPE_CHECKING:
    from serpentfs.clouds.mega.api import Api
    from serpentfs.clouds.mega.session import Session
    from serpentfs.clouds.mega.transport import Transport

T = TypeVar("T")

_PATIENCE = 45.0
_CLOSE_PATIENCE = 5.0
_WRITABLE_ROOTS = ("cloud", "rubbish")


@dataclass(frozen=True, slots=True)
class MegaAccess:
    """What opens a MEGA account or link. The options are those of ``clouds.mega.cloud.MegaOptions``."""

    session: Session = field(repr=False)
    root: str = MEGA_ROOTS[0]
    hard_delete: bool = False
    thumbnails: bool = False

    def __post_init__(self) -> None:
        if self.session.kind != "account" and self.root != MEGA_ROOTS[0]:
            raise UsageError("a link has no other roots: --root is for accounts")

    @property
    def remote_id(self) -> str:
        """Names the state folder. One tree of one account has one, under whatever name it was logged in."""
        return remote_id_of(self.session, self.root)

    @property
    def read_only(self) -> bool:
        """A link is somebody else's, what is in the inbox belongs to backups, and what contacts share has rights of
        its own for each folder, which a change that waits in the journal could violate later."""
        return self.session.kind != "account" or self.root not in _WRITABLE_ROOTS


def remote_id_of(session: Session, root: str) -> str:
    """See ``Session.remote_id``."""
    return session.remote_id(root)


def trees_of(name: str, session: Session) -> Iterator[tuple[RemoteSpec, str]]:
    """Every remote that the log-in ``name`` can open, with its id."""
    spec = session_spec(name)
    for root in MEGA_ROOTS if session.kind == "account" else MEGA_ROOTS[:1]:
        yield spec.with_root(root), remote_id_of(session, root)


# Questions without a drive. Each is given up after _PATIENCE seconds, as Unavailable: the API itself tries for ever.


async def _in_time(api_url: str, proxy: Proxy, ask: Callable[[Transport], Awaitable[T]]) -> T:
    # Only here: an HTTP library that vaults do without.
    from serpentfs.clouds.mega.transport import Transport

    transport = Transport(proxy=proxy)
    try:
        with trio.move_on_after(_PATIENCE):
            return await ask(transport)
        reason = transport.trouble or f"{_PATIENCE:.0f} s were not enough (-v tells more)"
        raise Unavailable(f"{api_url} does not answer: {reason}")
    finally:
        with trio.move_on_after(_CLOSE_PATIENCE, shield=True):
            await transport.aclose()


async def _ask(session: Session, proxy: Proxy, ask: Callable[[Api], Awaitable[T]]) -> T:
    from serpentfs.clouds.mega.api import open_api

    async def with_api(transport: Transport) -> T:
        link = session.user if session.kind == "folder-link" else None
        async with open_api(transport, session.api, sid=session.sid or None, link=link) as api:
            return await ask(api)

    return await _in_time(session.api, proxy, with_api)


async def log_in(
    api_url: str, email: str, password: str, auth_code: str | None, proxy: Proxy = Proxy()
) -> Session:
    """A new session. MfaRequired (of ``clouds.mega.session``) when a code is wanted and none is given,
    WrongPassphrase."""
    from serpentfs.clouds.mega.session import login

    async def ask(transport: Transport) -> Session:
        return await login(transport, api_url, email, password, auth_code)

    return await _in_time(api_url, proxy, ask)


async def end(session: Session, proxy: Proxy = Proxy()) -> None:
    """Tell the service to forget a session. One that has ended before is no error."""
    from serpentfs.clouds.mega.session import end_session

    async def ask(transport: Transport) -> None:
        await end_session(transport, session)

    await _in_time(session.api, proxy, ask)


async def check_link(session: Session, proxy: Proxy = Proxy()) -> None:
    """Ask whether what a link leads to is there. NotFound, PermissionDenied."""
    from serpentfs.clouds.mega.treejson import read_tree

    def tells_of_node(pieces: list[bytes]) -> bool:
        nodes = (node for what, node in read_tree(pieces) if what in ("f", "f2"))
        return any(isinstance(node, dict) and node.get("h") == session.node for node in nodes)

    async def ask(api: Api) -> None:
        if session.kind == "file-link":
            await api.command({"a": "g", "p": session.user})
            return
        async with api.stream_tree({"a": "f", "c": 1, "r": 1}) as tree:
            if session.node is None:
                async for _ in tree:
                    return    # it answers; the whole tree is for whoever opens it
            pieces = [piece async for piece in tree]
        if not await run_in_thread("store", tells_of_node, pieces):
            raise NotFound("what the link names is not in the shared folder (any more)")

    await _ask(session, proxy, ask)


async def room_of(session: Session, proxy: Proxy = Proxy()) -> Quota:
    """As ``Cloud.quota`` tells it, without a tree. A link does not tell."""
    if session.kind != "account":
        return Quota(None, None, None)
    found = await describe(session, proxy)
    total, used = int(found["total"]), int(found["used"])
    return Quota(total, used, max(0, total - used))


async def describe(session: Session, proxy: Proxy = Proxy()) -> dict[str, Any]:
    """Whose session it is, and how much room there is (bytes). LoginRequired when it has ended."""
    from serpentfs.clouds.mega.session import whoami

    if session.kind != "account":
        await check_link(session, proxy)
        return {"kind": session.kind, "handle": session.user}
    return {"kind": session.kind, **await _ask(session, proxy, whoami)}
