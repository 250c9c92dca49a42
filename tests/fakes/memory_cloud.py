"""The reference cloud: the whole Cloud protocol over dictionaries, and the tests' truth.

It is strict where real clouds are strict and awkward where they are awkward: by default a file's id changes
when it moves and its revision changes with every rename and utime, as in a vault on ``file://``; with
``stable_file_ids`` both stay. With ``events`` it is as on MEGA: ids stay when a file moves, a new content is a new
node in the old one's place, and ``changes`` tells single changes and goes on where it was left. Every change takes
effect in one stretch without an ``await``, so a cancelled call has either happened or not. ``external_*`` and
``another_client`` act as somebody else.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from serpentfs.clouds.base import Batch, Capabilities, Cloud, Content, GrowingContent, Known, Listing
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotFound,
    RevisionGone,
    Unsupported,
)
from serpentfs.model import Kind, NodeId, NodeInfo, NodeRef, Quota, Revision, Span

_SECOND = 1_000_000_000
READ_PIECE = 256 * 1024
"""Bytes that ``put`` asks its content for at a time."""


@dataclass(eq=False)
class _Node:
    serial: int
    """Identity for ever, whatever happens to the id."""
    kind: Kind
    parent: _Node | None
    name: str
    mtime_ns: int
    content: int
    """Number of this content: the part of the revision that a rename keeps (an inode number on ``file://``)."""
    change: int = 0
    """Number of the last rename or utime: the part of the revision that a rename changes (ctime)."""
    data: bytes = b""
    target: str | None = None
    token: bytes = b""
    children: dict[str, _Node] = field(default_factory=dict)


class _Watcher:
    """One running ``changes``: folders whose listing it still has to send."""

    def __init__(self, client: MemoryCloud) -> None:
        self.client = client
        self.dirty: set[_Node] = set()
        self.asked: set[_Node] = set()
        """Those of them that ``recheck`` asked for."""
        self.complete = True
        self.wake = trio.Event()
        self.wake.set()


class _Account:
    """What all clients of one cloud share."""

    def __init__(self, total: int | None) -> None:
        self.numbers = itertools.count(1)
        self.root = _Node(0, Kind.DIRECTORY, None, "", 0, 0)
        self.by_id: dict[NodeId, _Node] = {}
        self.successors: dict[NodeId, _Node] = {}
        """With ``events``: the node that took the place of one that was saved over."""
        self.sent: dict[tuple[bytes, int], int] = {}
        """By token and offset: a hash of what was to be put there. Clouds derive keys from tokens: one that comes with
        other bytes would give them away."""
        self.leaks: list[bytes] = []
        self.used = 0
        self.total = total
        self.watchers: list[_Watcher] = []

    def walk(self, top: _Node | None = None) -> Iterator[_Node]:
        pending = [top or self.root]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(node.children.values())

    def notify(self, author: MemoryCloud | None, *folders: _Node | None) -> None:
        for watcher in self.watchers:
            if author is watcher.client and not author.echo:
                continue
            watcher.dirty.update(folder for folder in folders if folder is not None)
            watcher.wake.set()


class MemoryCloud(Cloud):
    """``echo``: ``changes`` also shows what this client did itself, as inotify does. ``total``: bytes until
    NoSpace. ``piece``: bytes of a content that are read at a time. ``calls`` counts the protocol's requests by method,
    for tests of what may not reach the network. The first batch of ``changes`` is complete, so nothing is missed that
    happened before it ran."""

    def __init__(
        self,
        *,
        stable_file_ids: bool = False,
        case_sensitive: bool = True,
        set_mtime: bool = True,
        symlinks: bool = True,
        echo: bool = False,
        total: int | None = None,
        longest_name_bytes: int = 255,
        events: bool = False,
        growing_puts: bool = False,
        piece: int = READ_PIECE,
    ) -> None:
        self._capabilities = Capabilities(
            growing_puts=growing_puts,
            symlinks=symlinks,
            stable_file_ids=stable_file_ids or events,
            set_mtime=set_mtime,
            longest_name_bytes=longest_name_bytes,
            resumes_changes=events,
            reports_times=events,
        )
        self._events = events
        self._piece = piece
        self._told: dict[NodeId, NodeInfo] | None = None
        """With ``events``: what the tree of this client is known to hold."""
        self._case_sensitive = case_sensitive
        self.echo = echo
        self._account = _Account(total)
        self._account.by_id[self.root] = self._account.root
        self.calls: Counter[str] = Counter()

    def another_client(self) -> MemoryCloud:
        """A second client of the same account."""
        other = MemoryCloud(
            stable_file_ids=self._capabilities.stable_file_ids,
            case_sensitive=self._case_sensitive,
            set_mtime=self._capabilities.set_mtime,
            symlinks=self._capabilities.symlinks,
            echo=self.echo,
            longest_name_bytes=self._capabilities.longest_name_bytes,
            events=self._events,
            growing_puts=self._capabilities.growing_puts,
            piece=self._piece,
        )
        other._account = self._account
        return other

    # names and ids

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def root(self) -> NodeId:
        return self._id(self._account.root)

    def name_key(self, name: str) -> str:
        normal = unicodedata.normalize("NFC", name)
        return normal if self._case_sensitive else normal.casefold()

    def check_name(self, name: str) -> None:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidName(f"not a name: {name!r}")
        try:
            encoded = unicodedata.normalize("NFC", name).encode()
        except UnicodeEncodeError as error:
            raise InvalidName("the name is not valid Unicode") from error
        if len(encoded) > self._capabilities.longest_name_bytes:
            raise NameTooLong(f"the name has {len(encoded)} bytes")

    def _id(self, node: _Node) -> NodeId:
        if node.kind is Kind.DIRECTORY or self._capabilities.stable_file_ids:
            return NodeId(f"n{node.serial}")
        return NodeId(self._place(node))

    @staticmethod
    def _place(node: _Node) -> str:
        return "" if node.parent is None else f"n{node.parent.serial}/{node.name}"

    def _revision(self, node: _Node) -> Revision:
        if self._capabilities.stable_file_ids:
            return Revision(f"{node.content}")
        return Revision(f"{node.content}.{node.change}")

    def _info(self, node: _Node) -> NodeInfo:
        size = len(node.data) if node.target is None else len(node.target.encode())
        return NodeInfo(
            id=self._id(node),
            parent=None if node.parent is None else self._id(node.parent),
            name=node.name,
            kind=node.kind,
            size=size,
            mtime_ns=node.mtime_ns // _SECOND * _SECOND if self._events else node.mtime_ns,
            revision=self._revision(node),
            locator=self._place(node),
            target=node.target,
        )

    def _find(self, node_id: NodeId) -> _Node | None:
        return self._account.by_id.get(node_id)

    def _folder(self, node_id: NodeId) -> _Node:
        node = self._find(node_id)
        if node is None:
            raise NotFound("the folder is no longer there")
        if node.kind is not Kind.DIRECTORY:
            raise NotADirectory("not a folder")
        return node

    def _source(self, ref: NodeRef) -> _Node | None:
        """The node that ``ref`` means. A folder with an unstable place is not found where it no longer is."""
        node, key = self._find(ref.id), ref.id
        while node is None and key in self._account.successors:
            key = self._id(self._account.successors[key])
            node = self._find(key)
        if node is None or node.kind is not ref.kind:
            return None
        may_have_moved = node.kind is Kind.DIRECTORY and not self._capabilities.stable_file_ids
        return None if may_have_moved and self._place(node) != ref.locator else node

    def _is_same(self, node: _Node, ref: NodeRef) -> bool:
        """Whether ``node`` is what ``ref`` meant before an unconfirmed move."""
        if node.kind is Kind.DIRECTORY or self._capabilities.stable_file_ids:
            return self._id(node) == ref.id
        return str(node.content) == ref.revision.partition(".")[0]

    # looking

    def _listing(self, folder: _Node) -> Listing:
        return Listing(self._id(folder), tuple(self._info(child) for child in folder.children.values()))

    def observe(self, *folders: NodeId) -> Batch:
        """A batch of these folders (none: the complete tree) as it is now. A test may deliver it later."""
        if not folders:
            listings = [self._listing(node) for node in self._account.walk() if node.kind is Kind.DIRECTORY]
            return Batch(trio.current_time(), tuple(listings), complete=True)
        return Batch(trio.current_time(), tuple(self._listing(self._folder(folder)) for folder in folders))

    def _check_known(self, known: Known, nodes: Iterable[_Node]) -> None:
        """A driver believes what it is told is known; here a false answer is caught."""
        for node in nodes:
            if node.kind is Kind.FILE or node.parent is None:
                continue
            answer = known(self._place(node), self._revision(node))
            if answer is not None and (answer.kind, answer.target) != (node.kind, node.target):
                raise AssertionError(f"falsely known: {answer} at {self._place(node)}")
            if answer is not None and answer.id != self._id(node):
                raise AssertionError(f"known under a false id: {answer} at {self._place(node)}")

    async def snapshot(self, known: Known) -> Batch:
        self.calls["snapshot"] += 1
        await trio.lowlevel.checkpoint()
        self._check_known(known, self._account.walk())
        return self._tell_all() if self._events else self.observe()

    def children(self, directory: NodeId) -> Iterable[NodeInfo] | None:
        """See WholeTree."""
        folder = self._find(directory)
        return None if folder is None else [self._info(child) for child in folder.children.values()]

    def place(self, node: NodeId) -> tuple[NodeId, str] | None:
        """See WholeTree."""
        found = self._find(node)
        return None if found is None or found.parent is None else (self._id(found.parent), found.name)

    def _tell_all(self) -> Batch:
        told = {self._id(node): self._info(node) for node in self._account.walk()}
        return Batch(trio.current_time(), (), complete=True, tree=self, applied=partial(self._applied, told))

    async def _applied(self, told: dict[NodeId, NodeInfo]) -> None:
        self._told = told

    def _tell_changes(self, told: dict[NodeId, NodeInfo]) -> Batch:
        now = {self._id(node): self._info(node) for node in self._account.walk()}
        changed = tuple(info for key, info in now.items() if told.get(key) != info)
        removed = tuple(key for key in told if key not in now)
        applied = partial(self._applied, now)
        return Batch(trio.current_time(), (), changed=changed, removed=removed, applied=applied)

    async def _tell(self, watcher: _Watcher, send: trio.MemorySendChannel[Batch]) -> None:
        """What ``changes`` sends with ``events``, each time something happened."""
        told = self._told
        if watcher.complete or told is None:
            watcher.complete = False
            await send.send(self._tell_all())
        else:
            batch = self._tell_changes(told)
            if batch.changed or batch.removed:
                await send.send(batch)
        asked, watcher.asked = watcher.asked, set()
        folders = [self._id(folder) for folder in asked if self._account.by_id.get(self._id(folder)) is folder]
        if folders:
            await send.send(self.observe(*folders))

    async def changes(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        watcher = _Watcher(self)
        self._account.watchers.append(watcher)
        watcher.complete = not self._events
        try:
            while True:
                await watcher.wake.wait()
                watcher.wake = trio.Event()
                if self._events:
                    await self._tell(watcher, send)
                    continue
                dirty, watcher.dirty = watcher.dirty, set()
                complete, watcher.complete = watcher.complete, False
                folders = [node for node in dirty if self._account.by_id.get(self._id(node)) is node]
                if complete:
                    self._check_known(known, self._account.walk())
                    await send.send(self.observe())
                elif folders:
                    shown = (child for folder in folders for child in folder.children.values())
                    self._check_known(known, shown)
                    await send.send(self.observe(*(self._id(folder) for folder in folders)))
        finally:
            self._account.watchers.remove(watcher)

    def recheck(self, directory: NodeId) -> None:
        self.calls["recheck"] += 1
        folder = self._find(directory)
        if folder is None:
            return
        for watcher in self._account.watchers:
            if watcher.client is self:
                watcher.dirty.add(folder)
                watcher.asked.add(folder)
                watcher.wake.set()

    @property
    def observed(self) -> int:
        return self.calls["reload"]

    async def reload(self) -> float:
        self.calls["reload"] += 1
        await trio.lowlevel.checkpoint()
        for watcher in self._account.watchers:
            if watcher.client is self:
                watcher.complete = True
                watcher.wake.set()
        return trio.current_time()

    def lose_events(self) -> None:
        """Every running ``changes`` of the account sends a complete batch next, as after a queue overflow."""
        for watcher in self._account.watchers:
            watcher.complete = True
            watcher.wake.set()

    # reading

    async def read(self, node: NodeRef, span: Span) -> bytes:
        self.calls["read"] += 1
        await trio.lowlevel.checkpoint()
        found = self._find(node.id)
        if found is None or found.kind is not Kind.FILE or self._revision(found) != node.revision:
            raise RevisionGone("the content is no longer there")
        part = span.clamp(len(found.data))
        return found.data[part.start : part.stop]

    async def quota(self) -> Quota:
        self.calls["quota"] += 1
        await trio.lowlevel.checkpoint()
        used, total = self._account.used, self._account.total
        return Quota(total, used, None if total is None else max(0, total - used))

    # changing

    def _child(self, folder: _Node, name: str) -> _Node | None:
        return folder.children.get(self.name_key(name))

    def _add(self, folder: _Node, name: str, kind: Kind, mtime_ns: int) -> _Node:
        serial, content = next(self._account.numbers), next(self._account.numbers)
        node = _Node(serial, kind, folder, unicodedata.normalize("NFC", name), mtime_ns, content)
        folder.children[self.name_key(name)] = node
        self._account.by_id[self._id(node)] = node
        return node

    def _drop(self, node: _Node) -> None:
        """Take a node and what is below it out of the tree."""
        if node.parent is None:
            raise InvalidArgument("the root cannot be removed")
        del node.parent.children[self.name_key(node.name)]
        for gone in self._account.walk(node):
            del self._account.by_id[self._id(gone)]
            self._account.used -= len(gone.data)

    def _succeed(self, old: _Node, folder: _Node, name: str, mtime_ns: int) -> _Node:
        """A new node in the place of a file."""
        self._drop(old)
        node = self._add(folder, name, Kind.FILE, mtime_ns)
        self._account.successors[self._id(old)] = node
        return node

    def _fill(self, node: _Node, data: bytes) -> None:
        self._account.used += len(data) - len(node.data)
        node.data = data

    def _check_space(self, more: int) -> None:
        total = self._account.total
        if total is not None and self._account.used + more > total:
            raise NoSpace("the store is full")

    def _expect(self, existing: _Node | None, replaces: NodeRef | None) -> None:
        """What a name must hold for a node to be put or moved there."""
        if replaces is None:
            if existing is not None:
                raise AlreadyExists("the name is taken")
            return
        if existing is None or self._id(existing) != replaces.id or existing.kind is not replaces.kind:
            raise Conflict("what was to be replaced is no longer there")
        if existing.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder cannot be replaced")
        if self._revision(existing) != replaces.revision:
            raise Conflict("what was to be replaced has changed")

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        self.calls["put"] += 1
        self.check_name(name)
        folder = self._find(parent)
        earlier = None if folder is None else self._child(folder, name)
        if retry and earlier is not None and earlier.token == token:
            await trio.lowlevel.checkpoint()
            return self._info(earlier)
        pieces = []
        for start in range(0, content.size, self._piece):
            span = Span(start, min(start + self._piece, content.size))
            piece = await content.read(span)
            if len(piece) != len(span):
                raise AssertionError(f"the content gave {len(piece)} bytes for {span}")
            self._note_sent(token, start, piece)
            pieces.append(piece)
        await trio.lowlevel.checkpoint()
        return self._put(parent, name, b"".join(pieces), replaces, mtime_ns, token, retry)

    def _note_sent(self, token: bytes, start: int, piece: bytes) -> None:
        """Pieces of all calls begin at the same offsets, so that they can be compared."""
        if self._account.sent.setdefault((token, start), hash(piece)) != hash(piece):
            self.leaks.append(token)
            raise AssertionError("one token stands for two contents")

    @property
    def leaks(self) -> list[bytes]:
        """Tokens that came with two contents."""
        return self._account.leaks

    @property
    def pieces_sent(self) -> int:
        """Different pieces of contents that were read to be put."""
        return sum(start >= 0 for _, start in self._account.sent)

    async def put_growing(
        self,
        parent: NodeId,
        name: str,
        content: GrowingContent,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        self.calls["put_growing"] += 1
        self.check_name(name)
        self._expect(self._child(self._folder(parent), name), replaces)
        pieces: list[bytes] = []
        while not pieces or len(pieces[-1]) == self._piece:
            start = len(pieces) * self._piece
            piece = await content.read(Span(start, start + self._piece))
            if len(piece) > self._piece:
                raise AssertionError(f"the content gave {len(piece)} bytes instead of {self._piece}")
            if piece:
                self._note_sent(token, start, piece)
            await trio.lowlevel.checkpoint()
            pieces.append(piece)
        return self._put(parent, name, b"".join(pieces), replaces, mtime_ns, token, retry=False)

    def _put(
        self,
        parent: NodeId,
        name: str,
        data: bytes,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool,
    ) -> NodeInfo:
        folder = self._folder(parent)
        existing = self._child(folder, name)
        if retry and existing is not None and existing.kind is Kind.FILE and existing.token == token:
            return self._info(existing)
        self._expect(existing, replaces)
        self._note_sent(token, -1, str(len(data)).encode())
        self._check_space(len(data) - (len(existing.data) if existing is not None else 0))
        if existing is not None and existing.kind is Kind.FILE and self._events:
            node = self._succeed(existing, folder, name, mtime_ns)
        elif existing is not None and existing.kind is Kind.FILE:
            node = existing
            node.content, node.change, node.mtime_ns = next(self._account.numbers), 0, mtime_ns
        else:
            node = self._add(folder, name, Kind.FILE, mtime_ns)
        self._fill(node, data)
        node.token = token
        self._account.notify(self, folder)
        return self._info(node)

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        self.calls["mkdir"] += 1
        self.check_name(name)
        await trio.lowlevel.checkpoint()
        folder = self._folder(parent)
        existing = self._child(folder, name)
        if existing is not None:
            if retry and existing.kind is Kind.DIRECTORY and existing.token == token:
                return self._info(existing)
            raise AlreadyExists("the name is taken")
        node = self._add(folder, name, Kind.DIRECTORY, 0)
        node.token = token
        self._account.notify(self, folder, node)
        return self._info(node)

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        self.calls["symlink"] += 1
        if not self._capabilities.symlinks:
            raise Unsupported("this cloud has no symbolic links")
        self.check_name(name)
        await trio.lowlevel.checkpoint()
        folder = self._folder(parent)
        existing = self._child(folder, name)
        if existing is not None:
            if retry and existing.kind is Kind.SYMLINK and existing.target == target:
                return self._info(existing)
            raise AlreadyExists("the name is taken")
        node = self._add(folder, name, Kind.SYMLINK, mtime_ns)
        node.target = target
        self._account.notify(self, folder)
        return self._info(node)

    async def move(
        self,
        node: NodeRef,
        parent: NodeId,
        name: str,
        *,
        replaces: NodeRef | None,
        retry: bool = False,
    ) -> NodeInfo:
        self.calls["move"] += 1
        self.check_name(name)
        await trio.lowlevel.checkpoint()
        folder = self._folder(parent)
        existing = self._child(folder, name)
        if retry and existing is not None and existing.name == name and self._is_same(existing, node):
            return self._info(existing)
        source = self._source(node)
        if source is None:
            raise NotFound("what was to be moved is no longer there")
        if source is not existing:
            self._expect(existing, replaces)
        same = source.kind is not Kind.FILE or self._revision(source) == node.revision
        self._move(source, folder, name, self)
        return replace(self._info(source), same_content=same)

    def _move(self, source: _Node, folder: _Node, name: str, author: MemoryCloud | None) -> None:
        above: _Node | None = folder
        while above is not None:
            if above is source:
                raise InvalidArgument("a folder cannot be moved below itself")
            above = above.parent
        old = source.parent
        if old is None:
            raise InvalidArgument("the root cannot be moved")
        replaced = self._child(folder, name)
        if replaced is not None and replaced is not source:
            self._drop(replaced)
        del old.children[self.name_key(source.name)]
        del self._account.by_id[self._id(source)]
        source.parent, source.name = folder, unicodedata.normalize("NFC", name)
        source.change = next(self._account.numbers)
        folder.children[self.name_key(name)] = source
        self._account.by_id[self._id(source)] = source
        self._account.notify(author, old, folder)

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        self.calls["remove"] += 1
        await trio.lowlevel.checkpoint()
        found = self._source(node)
        if found is None:
            if retry:
                return
            raise NotFound("it is already gone")
        if found.kind is not Kind.DIRECTORY and self._revision(found) != node.revision:
            raise Conflict("it has changed")
        if found.children:
            raise DirectoryNotEmpty("the folder is not empty")
        self._drop(found)
        self._account.notify(self, found.parent)

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        self.calls["set_mtime"] += 1
        if not self._capabilities.set_mtime:
            raise Unsupported("this cloud cannot set times")
        await trio.lowlevel.checkpoint()
        found = self._source(node)
        if found is None:
            raise NotFound("it is no longer there")
        if found.kind is not Kind.FILE:
            raise InvalidArgument("only files have a time of their own")
        was_tried = tried_ns is not None and found.mtime_ns in (mtime_ns, tried_ns)
        if self._revision(found) != node.revision and not was_tried:
            raise Conflict("it has changed")
        found.mtime_ns, found.change = mtime_ns, next(self._account.numbers)
        self._account.notify(self, found.parent)
        return self._info(found)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    # what somebody else does, by path

    def _at(self, path: str) -> _Node | None:
        node: _Node | None = self._account.root
        for part in path.strip("/").split("/"):
            if part and node is not None:
                node = self._child(node, part)
        return node

    def _existing(self, path: str) -> _Node:
        node = self._at(path)
        if node is None:
            raise NotFound(path)
        return node

    def _parent_of(self, path: str) -> tuple[_Node, str]:
        above, _, name = path.rstrip("/").rpartition("/")
        return self._existing(above), name

    def find(self, path: str) -> NodeInfo:
        """The node at a path. NotFound."""
        return self._info(self._existing(path))

    def contents(self) -> dict[str, bytes | str | None]:
        """The whole tree for comparing: absolute path to a file's bytes, a link's target, None (folder)."""

        def path_of(node: _Node) -> str:
            return "" if node.parent is None else f"{path_of(node.parent)}/{node.name}"

        return {
            path_of(node): node.data if node.kind is Kind.FILE else node.target
            for node in self._account.walk()
            if node.parent is not None
        }

    def external_put(self, path: str, data: bytes, *, mtime_ns: int = 1_000_000_000) -> NodeInfo:
        """Somebody else makes or overwrites a file."""
        folder, name = self._parent_of(path)
        node = self._child(folder, name)
        if node is None:
            node = self._add(folder, name, Kind.FILE, mtime_ns)
        elif node.kind is not Kind.FILE:
            raise AlreadyExists(path)
        elif self._events:
            node = self._succeed(node, folder, name, mtime_ns)
        else:
            node.content, node.change = next(self._account.numbers), 0
        self._fill(node, data)
        node.mtime_ns, node.token = mtime_ns, b""
        self._account.notify(None, folder)
        return self._info(node)

    def external_mkdir(self, path: str) -> NodeInfo:
        """Somebody else makes a folder."""
        folder, name = self._parent_of(path)
        if self._child(folder, name) is not None:
            raise AlreadyExists(path)
        node = self._add(folder, name, Kind.DIRECTORY, 0)
        self._account.notify(None, folder, node)
        return self._info(node)

    def external_symlink(self, path: str, target: str) -> NodeInfo:
        """Somebody else makes a link."""
        folder, name = self._parent_of(path)
        if self._child(folder, name) is not None:
            raise AlreadyExists(path)
        node = self._add(folder, name, Kind.SYMLINK, 0)
        node.target = target
        self._account.notify(None, folder)
        return self._info(node)

    def external_remove(self, path: str) -> None:
        """Somebody else removes a file, a link or a folder with all that is in it."""
        node = self._existing(path)
        self._drop(node)
        self._account.notify(None, node.parent)

    def external_rename(self, path: str, new_path: str) -> NodeInfo:
        """Somebody else renames or moves; a file or link that was at ``new_path`` goes away."""
        source = self._existing(path)
        folder, name = self._parent_of(new_path)
        existing = self._child(folder, name)
        if existing is not None and existing is not source and existing.kind is Kind.DIRECTORY:
            raise AlreadyExists(new_path)
        self._move(source, folder, name, None)
        return self._info(source)
