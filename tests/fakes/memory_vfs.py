"""A whole ``Vfs`` in plain dicts: what doors are tested against, and the truth for the contract suite.

It has the meaning of ``vfs.core`` and nothing of its machinery: no cloud, no journal, no cache; everything
is confirmed the moment it is done. The ``cloud_*`` methods change it behind the doors' backs, as another
client of the cloud would (their invalidations have no origin).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from serpentfs.cache.sealed import SealedSpan
from serpentfs.clouds.base import Capabilities
from serpentfs.errors import (
    AlreadyExists,
    BadHandle,
    DirectoryNotEmpty,
    InvalidArgument,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ReadOnly,
    Unsupported,
)
from serpentfs.model import (
    NO_CONTENT,
    ROOT_INO,
    Attributes,
    ContentId,
    DirEntry,
    HandleId,
    Ino,
    Kind,
    Quota,
    Span,
)
from serpentfs.vfs.core import (
    Invalidation,
    Lag,
    Listener,
    Precondition,
    RenameMode,
    SetAttributes,
    Status,
    never_behind,
)
from serpentfs.vfs.writes import SealedRoom

_CHUNK = 64 * 1024
_FACTS = "user.serpentfs."
_NOWHERE = Ino(0)


class SparseBytes:
    """The bytes of one file. Chunks that were never written are not there and read as zeros."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: dict[int, bytearray] = {}

    def read(self, offset: int, size: int) -> bytes:
        stop = min(offset + size, self.size)
        parts = []
        while offset < stop:
            index, skip = divmod(offset, _CHUNK)
            length = min(_CHUNK - skip, stop - offset)
            chunk = self._chunks.get(index)
            parts.append(bytes(length) if chunk is None else bytes(chunk[skip : skip + length]))
            offset += length
        return b"".join(parts)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        done = 0
        while done < len(data):
            index, skip = divmod(offset + done, _CHUNK)
            piece = data[done : done + _CHUNK - skip]
            self._chunks.setdefault(index, bytearray(_CHUNK))[skip : skip + len(piece)] = piece
            done += len(piece)
        if done:
            self.size = max(self.size, offset + done)

    def truncate(self, size: int) -> None:
        if size < self.size:
            index, skip = divmod(size, _CHUNK)
            for later in [i for i in self._chunks if i > index]:
                del self._chunks[later]
            if index in self._chunks:
                self._chunks[index][skip:] = bytes(_CHUNK - skip)
        self.size = size

    def copy(self) -> SparseBytes:
        twin = SparseBytes()
        twin.size = self.size
        twin._chunks = {index: bytearray(chunk) for index, chunk in self._chunks.items()}
        return twin


@dataclass(slots=True)
class _Node:
    ino: Ino
    parent: Ino
    name: str
    kind: Kind
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    linked: bool = True
    opens: int = 0
    content: ContentId = NO_CONTENT
    generation: int = 0
    data: SparseBytes = field(default_factory=SparseBytes)
    target: str = ""
    children: dict[str, Ino] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        if self.kind is Kind.SYMLINK:
            return len(self.target.encode("utf-8", "surrogateescape"))
        return self.data.size

    def attributes(self) -> Attributes:
        return Attributes(
            ino=self.ino, parent=self.parent, kind=self.kind, size=self.size,
            mtime_ns=self.mtime_ns, ctime_ns=self.ctime_ns, atime_ns=self.atime_ns,
            content=self.content, generation=self.generation,
            mode=self.mode, uid=self.uid, gid=self.gid, nlink=1 if self.linked else 0,
        )


@dataclass(slots=True)
class _Handle:
    node: _Node
    write: bool
    door: str
    pinned: tuple[SparseBytes, Attributes] | None = None
    """The content that a reader of a network door was opened on: a download ends with the bytes it began
    with, even when the file is replaced meanwhile. The mount, with one page cache per inode, must follow the
    inode."""
    draft: bool = False


class MemoryVfs:
    """See the module's docstring. With ``cold``, ``read_nowait`` never knows the answer."""

    def __init__(
        self,
        *,
        read_only: bool = False,
        capabilities: Capabilities = Capabilities(),
        quota: Quota = Quota(total=1 << 40, used=1 << 30, free=(1 << 40) - (1 << 30)),
        cold: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._read_only = read_only
        self._capabilities = capabilities
        self._cold = cold
        self._clock_ns = clock_ns
        self.quota = quota
        self.expected: list[tuple[Span, bool]] = []
        """What doors said that they would read, and whether by ``sealed``."""
        self._inos = itertools.count(ROOT_INO)
        self._contents = itertools.count(1)
        self._handle_ids = itertools.count(1)
        self._nodes: dict[Ino, _Node] = {}
        self._handles: dict[HandleId, _Handle] = {}
        self._kept_drafts: dict[Ino, _Node] = {}
        self._records: dict[str, dict[str, bytes]] = {}
        self._listeners: dict[object, Listener] = {}
        root = self._new_node(Kind.DIRECTORY)
        root.parent = ROOT_INO

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def open_handles(self) -> int:
        """How many handles and drafts are open: zero at the end of a test that closes what it opens."""
        return len(self._handles)

    # --- what every operation is made of (plain functions: between two of them nothing else runs)

    def _new_node(self, kind: Kind) -> _Node:
        now = self._clock_ns()
        node = _Node(Ino(next(self._inos)), _NOWHERE, "", kind, now, now, now)
        if kind is Kind.FILE:
            node.content = ContentId(next(self._contents))
        self._nodes[node.ino] = node
        return node

    def _node(self, ino: Ino) -> _Node:
        try:
            return self._nodes[ino]
        except KeyError:
            raise NotFound(f"no inode {ino}") from None

    def _directory(self, ino: Ino) -> _Node:
        node = self._node(ino)
        if node.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"inode {ino} is not a folder")
        return node

    def _child(self, parent: _Node, name: str) -> _Node:
        try:
            return self._nodes[parent.children[name]]
        except KeyError:
            raise NotFound(f"no entry {name!r}") from None

    def _check_new_name(self, name: str) -> None:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidName(f"not a file name: {name!r}")
        try:
            encoded = name.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidName(f"not UTF-8: {name!r}") from None
        if len(encoded) > self._capabilities.longest_name_bytes:
            raise NameTooLong(f"{len(encoded)} bytes are too long for a name")

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnly("the drive is read-only")

    def _emit(self, origin: str | None, *invalidations: Invalidation) -> None:
        for invalidation in invalidations:
            told = Invalidation(invalidation.ino, invalidation.data, invalidation.entry, origin)
            for listener in list(self._listeners.values()):
                listener(told)

    def _touch(self, node: _Node) -> None:
        node.mtime_ns = node.ctime_ns = self._clock_ns()

    def _link(self, node: _Node, parent: _Node, name: str, origin: str | None) -> None:
        node.parent, node.name, node.linked = parent.ino, name, True
        parent.children[name] = node.ino
        self._touch(parent)
        self._emit(origin, Invalidation(entry=(parent.ino, name)), Invalidation(ino=parent.ino))

    def _unlink(self, node: _Node, origin: str | None) -> None:
        parent = self._nodes[node.parent]
        del parent.children[node.name]
        self._touch(parent)
        node.linked = False
        node.ctime_ns = self._clock_ns()
        self._forget_if_unused(node)
        self._emit(
            origin,
            Invalidation(entry=(parent.ino, node.name)),
            Invalidation(ino=parent.ino),
            Invalidation(ino=node.ino),
        )

    def _forget_if_unused(self, node: _Node) -> None:
        if not node.linked and node.opens == 0:
            self._nodes.pop(node.ino, None)

    def _content_changed(self, node: _Node, origin: str | None) -> None:
        node.generation += 1
        self._touch(node)
        self._emit(origin, Invalidation(ino=node.ino, data=True))

    def _make(self, kind: Kind, parent: Ino, name: str, mode: int | None, origin: str | None) -> _Node:
        self._check_writable()
        directory = self._directory(parent)
        self._check_new_name(name)
        if name in directory.children:
            raise AlreadyExists(f"{name!r} exists")
        node = self._new_node(kind)
        node.mode = mode
        self._link(node, directory, name, origin)
        return node

    def _open_handle(self, node: _Node, *, write: bool, door: str, draft: bool = False) -> HandleId:
        handle = HandleId(next(self._handle_ids))
        pinned = None if write or door == "mount" else (node.data, node.attributes())
        self._handles[handle] = _Handle(node, write, door, pinned, draft)
        node.opens += 1
        return handle

    def _handle(self, handle: HandleId, *, write: bool = False, draft: bool = False) -> _Handle:
        found = self._handles.get(handle)
        if found is None or (write and not found.write) or (draft and not found.draft):
            raise BadHandle(f"handle {handle} is not open for this")
        return found

    def _close(self, handle: HandleId) -> _Handle:
        found = self._handle(handle)
        del self._handles[handle]
        found.node.opens -= 1
        self._forget_if_unused(found.node)
        return found

    def _check_precondition(self, existing: _Node | None, precondition: Precondition) -> None:
        if existing is None:
            if precondition.must_exist or precondition.content is not None:
                raise PreconditionFailed("there is no such entry")
        elif precondition.must_not_exist:
            raise PreconditionFailed("the name is taken")
        elif precondition.content not in (None, (existing.content, existing.generation)):
            raise PreconditionFailed("the content is another one")

    def _publish_target(
        self, parent: Ino, name: str, precondition: Precondition
    ) -> tuple[_Node, _Node | None]:
        self._check_writable()
        directory = self._directory(parent)
        existing = self._nodes.get(directory.children.get(name, _NOWHERE))
        if existing is None:
            self._check_new_name(name)
        self._check_precondition(existing, precondition)
        if existing is not None and existing.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{name!r} is a folder")
        return directory, existing

    def _put(
        self, directory: _Node, name: str, existing: _Node | None, data: SparseBytes, origin: str | None
    ) -> _Node:
        """Give ``name`` to a new file with this content; what was there goes away as with a rename over."""
        node = self._new_node(Kind.FILE)
        node.data = data
        if existing is not None:
            if existing.kind is Kind.FILE:
                node.mode, node.uid, node.gid = existing.mode, existing.uid, existing.gid
                node.xattrs = dict(existing.xattrs)
            self._unlink(existing, origin)
        self._link(node, directory, name, origin)
        return node

    def _remove(self, node: _Node, origin: str | None) -> None:
        self._check_writable()
        if node.children:
            raise DirectoryNotEmpty(f"{node.name!r} is not empty")
        self._unlink(node, origin)

    def _is_within(self, node: _Node, ancestor: _Node) -> bool:
        while node is not ancestor:
            if node.ino == ROOT_INO:
                return False
            node = self._nodes[node.parent]
        return True

    def _rename(
        self, parent: Ino, name: str, new_parent: Ino, new_name: str, mode: RenameMode, origin: str | None
    ) -> None:
        self._check_writable()
        old_directory, new_directory = self._directory(parent), self._directory(new_parent)
        node = self._child(old_directory, name)
        existing = self._nodes.get(new_directory.children.get(new_name, _NOWHERE))
        if existing is None:
            self._check_new_name(new_name)
        if self._is_within(new_directory, node):
            raise InvalidArgument("a folder cannot move into itself")
        if mode is RenameMode.EXCHANGE:
            if existing is None:
                raise NotFound(f"no entry {new_name!r}")
            if self._is_within(old_directory, existing):
                raise InvalidArgument("a folder cannot move into itself")
        if mode is RenameMode.NO_REPLACE and existing is not None:
            raise AlreadyExists(f"{new_name!r} exists")
        if existing is node:
            return
        if existing is not None and mode is RenameMode.REPLACE:
            if existing.kind is Kind.DIRECTORY and node.kind is not Kind.DIRECTORY:
                raise IsADirectory(f"{new_name!r} is a folder")
            if existing.kind is not Kind.DIRECTORY and node.kind is Kind.DIRECTORY:
                raise NotADirectory(f"{new_name!r} is not a folder")
            if existing.children:
                raise DirectoryNotEmpty(f"{new_name!r} is not empty")
            self._unlink(existing, origin)
        del old_directory.children[name]
        self._touch(old_directory)
        if existing is not None and mode is RenameMode.EXCHANGE:
            self._link(existing, old_directory, name, origin)
            existing.ctime_ns = self._clock_ns()
            self._emit(origin, Invalidation(ino=existing.ino))
        else:
            self._emit(origin, Invalidation(entry=(parent, name)), Invalidation(ino=parent))
        self._link(node, new_directory, new_name, origin)
        node.ctime_ns = self._clock_ns()
        self._emit(origin, Invalidation(ino=node.ino))

    def _set(self, node: _Node, changes: SetAttributes, origin: str | None) -> None:
        if changes.size is not None:
            if node.kind is Kind.DIRECTORY:
                raise IsADirectory(f"inode {node.ino} is a folder")
            if node.kind is Kind.SYMLINK or changes.size < 0:
                raise InvalidArgument("this size cannot be set")
            node.data.truncate(changes.size)
            self._content_changed(node, origin)
        for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns"):
            value = getattr(changes, name)
            if value is not None:
                setattr(node, name, value)
        node.ctime_ns = self._clock_ns()
        self._emit(origin, Invalidation(ino=node.ino))

    # --- look-ups

    def getattr(self, ino: Ino) -> Attributes:
        return self._node(ino).attributes()

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        node = self._child(self._directory(parent), name)
        return DirEntry(node.name, node.attributes())

    def resolve(self, path: str) -> Attributes:
        parts = path.split("/")
        if parts[0] != "" or ".." in parts or "\0" in path:
            raise InvalidArgument(f"not a path: {path!r}")
        node = self._node(ROOT_INO)
        for name in filter(None, parts):
            node = self._child(self._directory(node.ino), name)
        return node.attributes()

    def path_of(self, ino: Ino) -> str:
        node = self._node(ino)
        names: list[str] = []
        while node.ino != ROOT_INO:
            if not node.linked:
                raise NotFound(f"inode {ino} has no path")
            names.append(node.name)
            node = self._nodes[node.parent]
        return "/" + "/".join(reversed(names))

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        children = sorted(child for child in self._directory(ino).children.values() if child > after)
        nodes = [self._nodes[child] for child in children[:limit]]
        return [DirEntry(node.name, node.attributes()) for node in nodes]

    def readlink(self, ino: Ino) -> str:
        node = self._node(ino)
        if node.kind is not Kind.SYMLINK:
            raise InvalidArgument(f"inode {ino} is not a link")
        return node.target

    def statfs(self) -> Quota:
        return self.quota

    # --- namespace

    async def mkdir(self, parent: Ino, name: str, mode: int | None = None, *, door: str) -> Attributes:
        await trio.lowlevel.checkpoint()
        return self._make(Kind.DIRECTORY, parent, name, mode, door).attributes()

    async def symlink(self, parent: Ino, name: str, target: str, *, door: str) -> Attributes:
        await trio.lowlevel.checkpoint()
        if not self._capabilities.symlinks:
            raise Unsupported("this drive has no symbolic links")
        node = self._make(Kind.SYMLINK, parent, name, None, door)
        node.target = target
        return node.attributes()

    async def unlink(self, parent: Ino, name: str, *, door: str) -> None:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        node = self._child(self._directory(parent), name)
        if node.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{name!r} is a folder")
        self._remove(node, door)

    async def rmdir(self, parent: Ino, name: str, *, door: str) -> None:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        node = self._child(self._directory(parent), name)
        if node.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{name!r} is not a folder")
        self._remove(node, door)

    async def rename(
        self,
        parent: Ino,
        name: str,
        new_parent: Ino,
        new_name: str,
        mode: RenameMode = RenameMode.REPLACE,
        *,
        door: str,
    ) -> None:
        await trio.lowlevel.checkpoint()
        self._rename(parent, name, new_parent, new_name, mode, door)

    async def setattr(
        self, ino: Ino, changes: SetAttributes, handle: HandleId | None = None, *, door: str
    ) -> Attributes:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        node = self._node(ino) if handle is None else self._handle(handle).node
        self._set(node, changes, door)
        return node.attributes()

    # --- open files

    async def create(
        self, parent: Ino, name: str, mode: int | None = None, *, exclusive: bool, door: str
    ) -> tuple[Attributes, HandleId]:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        existing = self._nodes.get(self._directory(parent).children.get(name, _NOWHERE))
        if existing is not None and not exclusive:
            if existing.kind is Kind.DIRECTORY:
                raise IsADirectory(f"{name!r} is a folder")
            if existing.kind is Kind.SYMLINK:
                raise AlreadyExists(f"{name!r} is a link")
            node = existing
        else:
            node = self._make(Kind.FILE, parent, name, mode, door)
        return node.attributes(), self._open_handle(node, write=True, door=door)

    async def open(self, ino: Ino, *, write: bool, truncate: bool = False, door: str) -> HandleId:
        await trio.lowlevel.checkpoint()
        node = self._node(ino)
        if node.kind is Kind.DIRECTORY:
            raise IsADirectory(f"inode {ino} is a folder")
        if node.kind is Kind.SYMLINK:
            raise InvalidArgument(f"inode {ino} is a link")
        if write or truncate:
            self._check_writable()
        if truncate:
            self._set(node, SetAttributes(size=0), door)
        return self._open_handle(node, write=write, door=door)

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        if self._cold:
            return None
        opened = self._handle(handle)
        data = opened.node.data if opened.pinned is None else opened.pinned[0]
        return data.read(offset, size)

    def expect(self, handle: HandleId, span: Span, *, sealed: bool) -> None:
        self._handle(handle)
        self.expected.append((span, sealed))

    def content_of(self, handle: HandleId) -> ContentId | None:
        opened = self._handle(handle)
        shown = opened.node if opened.pinned is None else opened.pinned[1]
        # (Contents have no ids of their own here.)
        return None if opened.draft else ContentId(shown.ino << 20 | shown.generation)

    def sealed(self, handle: HandleId, offset: int, size: int) -> SealedSpan | None:
        self._handle(handle)
        return None

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        await trio.lowlevel.checkpoint()
        opened = self._handle(handle)
        data = opened.node.data if opened.pinned is None else opened.pinned[0]
        return memoryview(data.read(offset, size))

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        opened = self._handle(handle, write=True)
        node = opened.node
        node.data.write(node.data.size if offset is None else offset, data)
        if opened.draft:
            self._touch(node)
        else:
            self._content_changed(node, opened.door)
        return len(data)

    async def flush(self, handle: HandleId) -> None:
        await trio.lowlevel.checkpoint()
        self._handle(handle)

    async def fsync(self, handle: HandleId) -> None:
        await trio.lowlevel.checkpoint()
        self._handle(handle)

    async def fsync_directory(self, ino: Ino) -> None:
        await trio.lowlevel.checkpoint()
        self._directory(ino)

    async def release(self, handle: HandleId) -> None:
        await trio.lowlevel.checkpoint()
        self._close(handle)

    def attributes_of(self, handle: HandleId) -> Attributes:
        opened = self._handle(handle)
        if opened.pinned is not None and opened.pinned[0] is not opened.node.data:
            data, attributes = opened.pinned
            return attributes._replace(size=data.size)
        return opened.node.attributes()

    # --- drafts

    async def create_draft(self, *, door: str) -> HandleId:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        node = self._new_node(Kind.FILE)
        node.linked = False
        return self._open_handle(node, write=True, door=door, draft=True)

    def lend_room(self, draft: HandleId) -> SealedRoom | None:
        self._handle(draft)
        return None

    def take_back(self, draft: HandleId, room: SealedRoom) -> None:
        raise AssertionError("no room was lent")

    async def publish(
        self,
        draft: HandleId,
        parent: Ino,
        name: str,
        *,
        precondition: Precondition = Precondition(),
        mtime_ns: int | None = None,
        door: str,
    ) -> tuple[Attributes, bool]:
        await trio.lowlevel.checkpoint()
        opened = self._handle(draft, draft=True)
        directory, existing = self._publish_target(parent, name, precondition)
        node = self._put(directory, name, existing, opened.node.data, door)
        if mtime_ns is not None:
            node.mtime_ns = mtime_ns
        self._close(draft)
        return node.attributes(), existing is None

    async def discard(self, draft: HandleId) -> None:
        await trio.lowlevel.checkpoint()
        self._handle(draft, draft=True)
        self._close(draft)

    async def keep_draft(self, draft: HandleId) -> Ino:
        await trio.lowlevel.checkpoint()
        node = self._handle(draft, draft=True).node
        self._kept_drafts[node.ino] = node
        self._close(draft)
        return node.ino

    async def reopen_draft(self, ino: Ino, *, door: str) -> HandleId:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        try:
            node = self._kept_drafts.pop(ino)
        except KeyError:
            raise NotFound(f"no draft {ino}") from None
        self._nodes[ino] = node
        return self._open_handle(node, write=True, door=door, draft=True)

    async def copy_file(
        self, ino: Ino, parent: Ino, name: str, *, precondition: Precondition = Precondition(), door: str
    ) -> tuple[Attributes, bool]:
        await trio.lowlevel.checkpoint()
        source = self._node(ino)
        if source.kind is Kind.DIRECTORY:
            raise IsADirectory(f"inode {ino} is a folder")
        directory, existing = self._publish_target(parent, name, precondition)
        if source.kind is Kind.FILE:
            node = self._put(directory, name, existing, source.data.copy(), door)
        elif existing is source:
            node = source
        else:
            if existing is not None:
                self._unlink(existing, door)
            node = self._make(Kind.SYMLINK, parent, name, None, door)
            node.target = source.target
        return node.attributes(), existing is None

    # --- extended attributes

    def getxattr(self, ino: Ino, name: str) -> bytes:
        node = self._node(ino)
        if name == _FACTS + "id":
            return str(node.ino).encode()
        try:
            return node.xattrs[name]
        except KeyError:
            raise NotFound(f"no attribute {name!r}") from None

    def listxattr(self, ino: Ino) -> list[str]:
        return list(self._node(ino).xattrs)

    async def setxattr(
        self, ino: Ino, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        node = self._node(ino)
        self._check_xattr_name(name)
        if create and name in node.xattrs:
            raise AlreadyExists(f"attribute {name!r} exists")
        if replace and name not in node.xattrs:
            raise NotFound(f"no attribute {name!r}")
        node.xattrs[name] = bytes(value)
        node.ctime_ns = self._clock_ns()

    async def removexattr(self, ino: Ino, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._check_writable()
        node = self._node(ino)
        self._check_xattr_name(name)
        if name not in node.xattrs:
            raise NotFound(f"no attribute {name!r}")
        del node.xattrs[name]
        node.ctime_ns = self._clock_ns()

    def _check_xattr_name(self, name: str) -> None:
        if name.startswith(_FACTS):
            raise PermissionDenied(f"{name!r} cannot be changed")
        if not name.startswith("user."):
            raise Unsupported("only attributes in user. can be set")

    # --- records of doors

    def load_records(self, door: str) -> dict[str, bytes]:
        return dict(self._records.get(door, {}))

    def save_record(self, door: str, key: str, value: bytes | None) -> None:
        records = self._records.setdefault(door, {})
        if value is None:
            records.pop(key, None)
        else:
            records[key] = bytes(value)

    # --- the whole

    def state_mark(self) -> int | None:
        return hash(
            tuple(
                (node.attributes(), *node.children.items(), node.target, *node.xattrs.items())
                for node in self._nodes.values()
            )
        )

    def subscribe(
        self, listener: Listener, *, door: str | None = None, is_behind: Lag = never_behind
    ) -> Callable[[], None]:
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def status(self) -> Status:
        return Status(
            pending=(), online=True, last_error=None, cache_memory_bytes=0, cache_disk_bytes=0,
            cache_hits=0, cache_misses=0, cache_disk_usable=True, dirty_bytes=0, conflicts=0,
        )

    async def wait_until_uploaded(self) -> None:
        await trio.lowlevel.checkpoint()

    # --- another client of the cloud

    def _place(self, path: str) -> tuple[_Node, str]:
        parent, _, name = path.rstrip("/").rpartition("/")
        return self._node(self.resolve(parent or "/").ino), name

    def cloud_put(self, path: str, data: bytes) -> Ino:
        """Create a file or replace its content."""
        directory, name = self._place(path)
        existing = self._nodes.get(directory.children.get(name, _NOWHERE))
        content = SparseBytes()
        content.write(0, data)
        return self._put(directory, name, existing, content, None).ino

    def cloud_mkdir(self, path: str) -> Ino:
        directory, name = self._place(path)
        node = self._new_node(Kind.DIRECTORY)
        self._link(node, directory, name, None)
        return node.ino

    def cloud_remove(self, path: str) -> None:
        """Remove a file, a link or an empty folder."""
        directory, name = self._place(path)
        self._unlink(self._child(directory, name), None)

    def cloud_rename(self, path: str, new_path: str) -> None:
        (directory, name), (new_directory, new_name) = self._place(path), self._place(new_path)
        self._rename(directory.ino, name, new_directory.ino, new_name, RenameMode.REPLACE, None)

    def bytes_of(self, path: str) -> bytes:
        """The whole content of a file."""
        node = self._node(self.resolve(path).ino)
        return node.data.read(0, node.data.size)
