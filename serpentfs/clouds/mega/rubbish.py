"""The rubbish bin of an account: what lies in it, putting it back, emptying it.

What a client moves there keeps the handle of the folder it came from in its attribute ``rr`` (specification, 6). Who
puts something back leaves out the mark of own commands: the drive's tree has to hear of it like of anybody's change.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serpentfs.bridge import Pace
from serpentfs.clouds.mega import names
from serpentfs.clouds.mega.api import Api, error_of
from serpentfs.clouds.mega.feed import EventFeed
from serpentfs.clouds.mega.nodes import Node, sealed_attributes
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.share_keys import keys_of_arrival, with_all_below
from serpentfs.errors import AlreadyExists, NotADirectory, NotFound, SerpentError, Unsupported
from serpentfs.model import Kind

Item = TypeVar("Item")

_AT_ONCE = 50
"""Commands in one request."""
_NOT_THERE = -9
_DEEPEST = 10_000
"""Folders above a node at most: a circle in what the server sent ends somewhere."""


@dataclass(frozen=True, slots=True)
class Binned:
    """Something at the top of the bin. ``mtime``: the file's own time in Unix seconds; when it was removed is not
    known to anybody. ``former``: the path of the folder it came from, in the cloud drive, or in the bin if
    ``former_is_binned``; None when that is gone or was not noted."""

    name: str = field(repr=False)
    kind: Kind
    size: int
    mtime: int
    former: str | None = field(repr=False)
    former_is_binned: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """``path``: where it is now in the cloud drive. ``is_elsewhere``: not where it came from, though nobody wished
    so: its former folder is gone. ``with_it``: what else came back; ``left``: what has no place to come back to,
    because its name is taken there."""

    path: str = field(repr=False)
    is_elsewhere: bool
    with_it: int
    left: int


@dataclass(frozen=True, slots=True)
class _Return:
    """A node on its way back to a folder."""

    node: Node
    parent: str


class RubbishBin:
    """Of one account."""

    def __init__(self, api: Api, replica: Replica, feed: EventFeed) -> None:
        self._api = api
        self._replica = replica
        self._feed = feed

    def _bin(self) -> str:
        if self._replica.rubbish is None:
            raise Unsupported("there is no rubbish bin")
        return self._replica.rubbish

    def _cloud_drive(self) -> str:
        if self._replica.cloud_drive is None:
            raise NotFound("the account has no cloud drive")
        return self._replica.cloud_drive

    # looking

    async def contents(self) -> list[Binned]:
        """What lies at the top of the bin, in no order. Unavailable when the account cannot be asked for news."""
        await self._feed.ensure_fresh()
        pace = Pace()
        found = []
        for node in self._replica.children(self._bin()):
            former, is_binned = self._former(node)
            size = node.size if node.kind is Kind.FILE else 0
            found.append(Binned(node.shown, node.kind, size, node.mtime, former, is_binned))
            await pace.breathe()
        return found

    def _former(self, node: Node) -> tuple[str | None, bool]:
        handle = node.attributes.get("rr")
        if not isinstance(handle, str):
            return None, False
        if (path := self._path(handle, self._cloud_drive())) is not None:
            return path, False
        path = self._path(handle, self._bin())
        return path, path is not None

    def _path(self, handle: str, root: str) -> str | None:
        """Of a folder below a root, or the root, as drives show it."""
        parts: list[str] = []
        while handle != root and len(parts) < _DEEPEST:
            node = self._replica.node(handle)
            if node is None or node.parent is None or node.kind is not Kind.DIRECTORY:
                return None
            parts.append(node.shown)
            handle = node.parent
        return "/" + "/".join(reversed(parts))

    def _find(self, root: str, path: str) -> Node | None:
        """What a path below a root names; None for the root. NotFound."""
        above, node = root, None
        for part in filter(None, path.split("/")):
            node = self._child(above, part)
            if node is None:
                where = "the rubbish bin" if root == self._replica.rubbish else "the cloud drive"
                raise NotFound(f"there is no {path.strip('/')} in {where}")
            above = node.handle
        return node

    def _child(self, folder: str, shown: str) -> Node | None:
        wanted = names.normalize(shown)
        marked = names.marked_handle(shown)
        candidates = self._replica.named(folder, names.real_name(shown, marked))
        if marked is not None and (node := self._replica.node(marked)) is not None and node.parent == folder:
            candidates.append(node)
        return next((node for node in candidates if names.normalize(node.shown) == wanted), None)

    # putting back

    async def restore(self, path: str, *, to: str | None, name: str | None, recursive: bool) -> Restored:
        """Put back what ``path`` names in the bin: into the folder it came from, or ``to`` (a folder's path in the
        cloud drive), or when neither is there into the top of the cloud drive. ``name``: a new one. ``recursive``:
        what had been removed from a folder before it comes back into it, too. AlreadyExists when the name is taken,
        and nothing has changed then; NotFound, NotADirectory, InvalidName."""
        await self._feed.ensure_fresh()
        node = self._find(self._bin(), path)
        if node is None:
            raise NotFound("the rubbish bin itself cannot be put back: name something in it")
        if name is not None:
            names.check_name(name)
        real = node.name if name is None else names.normalize(names.real_name(name, node.handle))
        parent, is_elsewhere = self._place_for(node, to)
        if self._replica.named(parent, real):
            raise AlreadyExists(
                "the name is taken in the folder it would come back to: --name NAME and --to DIR choose another"
            )
        levels, left = await self._followers(node) if recursive else ([], 0)
        if real != node.name:
            # Here already, so that where it comes back to never holds two of a name.
            await self._describe([(node, {"n": real})])
            node = self._replica.node(node.handle) or node
        await self._bring([_Return(node, parent)])
        for level in levels:
            for at in range(0, len(level), _AT_ONCE):
                await self._bring(level[at : at + _AT_ONCE])
        folder = (self._path(parent, self._cloud_drive()) or "").rstrip("/")
        back = self._replica.node(node.handle)
        shown = node.shown if back is None else back.shown
        return Restored(f"{folder}/{shown}", is_elsewhere, sum(map(len, levels)), left)

    def _place_for(self, node: Node, to: str | None) -> tuple[str, bool]:
        """The folder to come back to, and whether it is none that anybody chose."""
        if to is not None:
            folder = self._find(self._cloud_drive(), to)
            if folder is not None and folder.kind is not Kind.DIRECTORY:
                raise NotADirectory(f"{to} is not a folder")
            return self._cloud_drive() if folder is None else folder.handle, False
        former = node.attributes.get("rr")
        if isinstance(former, str) and self._path(former, self._cloud_drive()) is not None:
            return former, False
        return self._cloud_drive(), True

    async def _followers(self, top: Node) -> tuple[list[list[_Return]], int]:
        """What lies in the bin and came from a folder that is about to come back, level by level, as each needs the
        folders of the one before; and how much of it has to stay, as its name is taken: of several of one name the
        newest comes back."""
        pace = Pace()
        by_former: dict[str, list[Node]] = defaultdict(list)
        for node in self._replica.children(self._bin()):
            if node.handle != top.handle and isinstance(former := node.attributes.get("rr"), str):
                by_former[former].append(node)
            await pace.breathe()
        levels: list[list[_Return]] = []
        left = 0
        level = [top]
        while level:
            followers: list[_Return] = []
            for folder in (one for node in level for one in with_all_below(self._replica, node)):
                taken: set[str] = set()
                for node in sorted(by_former.pop(folder.handle, ()), key=lambda one: (-one.created, one.handle)):
                    name = names.normalize(node.name)
                    if name in taken or self._replica.named(folder.handle, name):
                        left += 1
                        continue
                    taken.add(name)
                    followers.append(_Return(node, folder.handle))
                await pace.breathe()
            if followers:
                levels.append(followers)
            level = [one.node for one in followers]
        return levels, left

    async def _bring(self, returns: Sequence[_Return]) -> None:
        """The move first: a break between the two requests leaves at most an attribute too many."""
        sent = time.monotonic()
        answers = await self._api.commands([self._move(one) for one in returns])
        moved, failed = _sorted_out(returns, answers, "putting back")
        for one in moved:
            self._replica.set_parent(one.node.handle, one.parent, sent, tell=True)
        await self._describe([(one.node, {"rr": None}) for one in moved])
        if failed is not None:
            raise failed

    async def _describe(self, changes: Sequence[tuple[Node, dict[str, Any]]]) -> None:
        """Change attributes."""
        if not changes:
            return
        sealed = [(node, sealed_attributes(node, changed)) for node, changed in changes]
        sent = time.monotonic()
        answers = await self._api.commands([{"a": "a", "n": node.handle, "at": at} for node, at in sealed])
        done, failed = _sorted_out(sealed, answers, "putting back")
        for node, at in done:
            self._replica.set_attributes(node.handle, at, sent, tell=True)
        self._feed.wake()
        if failed is not None:
            raise failed

    def _move(self, one: _Return) -> dict[str, Any]:
        keys = keys_of_arrival(self._replica, one.parent, one.node)
        return {"a": "m", "n": one.node.handle, "t": one.parent, **keys}

    # emptying

    async def empty(self) -> int:
        """Delete for good all that is in the bin, also what cannot be read. The answer: how many things at its top."""
        await self._feed.ensure_fresh()
        handles = self._replica.handles_in(self._bin())
        for at in range(0, len(handles), _AT_ONCE):
            some = handles[at : at + _AT_ONCE]
            answers = await self._api.commands([{"a": "d", "n": handle} for handle in some])
            gone, failed = _sorted_out(some, [0 if one == _NOT_THERE else one for one in answers], "emptying the bin")
            for handle in gone:
                self._replica.drop(handle, tell=True)
            self._feed.wake()
            if failed is not None:
                raise failed
        return len(handles)


def _sorted_out(
    items: Sequence[Item], answers: Sequence[object], what: str
) -> tuple[list[Item], SerpentError | None]:
    """What the server did, and the first error of what it did not."""
    done: list[Item] = []
    failed: SerpentError | None = None
    for item, answer in zip(items, answers, strict=True):
        if isinstance(answer, int) and answer < 0:
            failed = failed or error_of(answer, what)
        else:
            done.append(item)
    return done, failed
