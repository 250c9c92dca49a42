"""The drive: ``vfs.core`` over tree, journal, staging, cache and cloud.

Everything that changes the tree is written so that it checks, opens one transaction (``Ledger.change``) and only
then tells others, without an await in between: two doors can never both pass a check and then both act. What must
await (sealing blocks, fetching a base) happens before, under the open file's lock.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from serpentfs import metrics
from serpentfs.cache.layers import BlockCache, CacheLimits, CacheStatistics, Reader
from serpentfs.cache.sealed import SealedSpan
from serpentfs.clouds.base import Capabilities, Cloud
from serpentfs.errors import (
    AlreadyExists,
    BadHandle,
    DirectoryNotEmpty,
    FileTooLarge,
    InvalidArgument,
    InvalidName,
    IsADirectory,
    LoginRequired,
    NotADirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ReadOnly,
    RevisionGone,
    SerpentError,
    Unavailable,
    Unsupported,
)
from serpentfs.model import (
    BLOCK_SIZE,
    NO_CONTENT,
    ROOT_INO,
    Attributes,
    ContentId,
    DirEntry,
    HandleId,
    Ino,
    Kind,
    NodeId,
    NodeRef,
    Quota,
    Span,
    kept_time,
)
from serpentfs.tree.feed import Feed
from serpentfs.tree.store import DRAFT, REMOVED, EntryRow, NodeRow, StageRow, Store
from serpentfs.vfs.cancelling import Cancelled, Cancelling, Stop
from serpentfs.vfs.core import (
    Invalidation,
    Lag,
    Listener,
    Precondition,
    RenameMode,
    SetAttributes,
    Status,
    Vfs,
    never_behind,
)
from serpentfs.vfs.early import EARLY_SIZE
from serpentfs.vfs.entries import BIRTHS, Entry, EntryState, Operation
from serpentfs.vfs.handles import Handle, HandleTable, OpenFile
from serpentfs.vfs.keeping import Keeping
from serpentfs.vfs.ledger import Ledger
from serpentfs.vfs.reads import Contents
from serpentfs.vfs.siblings import Siblings
from serpentfs.vfs.status import Paths, pending_changes
from serpentfs.vfs.writes import SealedRoom, Stage

log = logging.getLogger(__name__)

MAX_FILE_SIZE = 1 << 50
"""A petabyte: beyond every store, and far below where offsets of sealed slots overflow."""
_FACTS = "user.serpentfs."
_COPY_PIECE = 4 * 2**20
_SHOWN_WITHIN, _SHOWING_TAKES = 0.25, 0.0003
"""Seconds that a change by one door waits for another to show it, and between two looks. Longer than the first it takes
only where a request of that door waits for the cloud."""


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """``settle``: seconds after the last change of an entry before it is sent. ``durability`` ``"cloud"`` makes
    every change wait until the cloud confirmed it, at most ``confirm_within`` seconds. ``uploads``: files
    sent at the same time; of small ones it is four times as many, of large ones half. ``host`` names this machine in
    conflict copies."""

    settle: float = 1.0
    read_only: bool = False
    durability: str = "local"
    confirm_within: float = 300.0
    uploads: int = 8
    cache: CacheLimits = field(default_factory=CacheLimits)
    host: str = field(default_factory=socket.gethostname)
    dirty_seconds: float = 5.0
    """Files that stay open and dirty are journalled this often."""
    early_size: int = EARLY_SIZE
    """Bytes of a file that is being written after which its upload may begin."""


async def copy_content(
    vfs: Vfs, ino: Ino, parent: Ino, name: str, *, precondition: Precondition, door: str
) -> tuple[Attributes, bool]:
    """``Vfs.copy_file`` of a file, by reading it."""
    source = await vfs.open(ino, write=False, door=door)
    try:
        draft = await vfs.create_draft(door=door)
        try:
            offset = 0
            while data := await vfs.read(source, offset, _COPY_PIECE):
                await vfs.write(draft, offset, data)
                offset += len(data)
            return await vfs.publish(draft, parent, name, precondition=precondition, door=door)
        except BaseException:
            with trio.CancelScope(shield=True):
                await vfs.discard(draft)
            raise
    finally:
        with trio.CancelScope(shield=True):
            await vfs.release(source)


class Drive:
    """See ``vfs.core.Vfs``, which this implements. Made by ``opening.open_drive``."""

    def __init__(
        self, cloud: Cloud, store: Store, ledger: Ledger, contents: Contents, cache: BlockCache, options: DriveOptions
    ) -> None:
        self._cloud = cloud
        self._store = store
        self._ledger = ledger
        self._journal = ledger.journal
        self._contents = contents
        self._cache = cache
        self._siblings = Siblings(store, contents)
        self._options = options
        self._handles = HandleTable()
        self._followers: list[tuple[Listener, str | None, Lag]] = []
        self._quota = Quota(None, None, None)
        self._room_changed = trio.Event()
        self._sent: dict[int, int] = {}
        self._begin_early: Callable[[EntryRow, Stage], None] = lambda row, stage: None
        self._figures = metrics.current()
        self._feed: Feed | None = None
        self._cancelling: Cancelling | None = None
        self.keeping = Keeping(cloud, store, cache)
        """What of the cloud is kept here."""
        self.online = True
        self.last_error: str | None = None
        self._login_required = False
        self.conflicts = 0
        ledger.on_unneeded(self._is_unneeded, self._let_go)

    @property
    def capabilities(self) -> Capabilities:
        return self._cloud.capabilities

    @property
    def read_only(self) -> bool:
        return self._options.read_only

    @property
    def _waits_for_cloud(self) -> bool:
        return self._options.durability == "cloud"

    @property
    def host(self) -> str:
        return self._options.host

    # telling others

    def state_mark(self) -> int | None:
        if any(file.dirty_since is not None and not file.draft for file in self._handles.files()):
            return None
        return self._store.changed_rows

    def subscribe(
        self, listener: Listener, *, door: str | None = None, is_behind: Lag = never_behind
    ) -> Callable[[], None]:
        follower = (listener, door, is_behind)
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def _tell(
        self, origin: str | None, ino: Ino | None = None, *, data: bool = False, entry: tuple[Ino, str] | None = None
    ) -> None:
        if self._followers:
            invalidation = Invalidation(ino, data, entry, origin)
            for listener, _, _ in list(self._followers):
                listener(invalidation)

    def _tell_entry(self, origin: str, parent: Ino, name: str) -> None:
        self._tell(origin, parent)
        self._tell(origin, entry=(parent, name))

    # what the feed asks (tree.feed.Local)

    def is_pending(self, ino: Ino) -> bool:
        if self._journal.is_pending(ino):
            return True
        return self.is_written(ino)  # what is written to it later must find its place

    def touches(self, parent: Ino, name: str) -> bool:
        return self._journal.touches(parent, self._cloud.name_key(name))

    def is_new(self, ino: Ino) -> bool:
        return any(entry.operation in BIRTHS for entry in self._journal.entries_of(ino))

    def is_open(self, ino: Ino) -> bool:
        return self._handles.file(ino) is not None

    def is_birthplace(self, ino: Ino) -> bool:
        return self._ledger.is_birthplace(ino)

    def give_up_node(self, ino: Ino) -> None:
        self._contents.give_up_node(ino)

    def changed(self, ino: Ino | None, *, data: bool = False, entry: tuple[Ino, str] | None = None) -> None:
        self._tell(None, ino, data=data, entry=entry)

    # look-ups

    def _row(self, ino: Ino) -> EntryRow:
        """An entry with what its open file has on top. NotFound for tombstones that nobody has open."""
        file = self._handles.file(ino)
        row = self._store.entry(ino)
        if row is None:
            if file is None:
                raise NotFound("no such entry")
            return file.row
        if file is None:
            if row.state == REMOVED:
                raise NotFound("no such entry")
            return row
        return self._overlay(row, file)

    @staticmethod
    def _overlay(row: EntryRow, file: OpenFile) -> EntryRow:
        if file.dirty_since is None:
            return row
        return row._replace(
            size=file.row.size,
            mtime_ns=file.row.mtime_ns,
            ctime_ns=file.row.ctime_ns,
            content=file.row.content,
            generation=file.row.generation,
        )

    def _folder(self, ino: Ino) -> EntryRow:
        row = self._row(ino)
        if row.kind is not Kind.DIRECTORY:
            raise NotADirectory("not a folder")
        return row

    def _child(self, parent: Ino, name: str) -> EntryRow | None:
        row = self._store.child(parent, name)
        if row is None:
            return None
        file = self._handles.file(row.ino)
        return row if file is None else self._overlay(row, file)

    def _existing(self, parent: Ino, name: str) -> EntryRow:
        self._folder(parent)
        row = self._child(parent, name)
        if row is None:
            raise NotFound("no such entry")
        return row

    def getattr(self, ino: Ino) -> Attributes:
        return self._row(ino).attributes()

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        row = self._child(parent, name)
        if row is None:
            self._folder(parent)
            raise NotFound("no such entry")
        return DirEntry(row.name, row.attributes())

    def resolve(self, path: str) -> Attributes:
        if "\0" in path:
            raise InvalidArgument("a path cannot hold NUL")
        parts = path.split("/")
        if ".." in parts:
            raise InvalidArgument("'..' is not followed")
        ino = ROOT_INO
        for part in parts:
            if part not in ("", "."):
                ino = self.lookup(ino, part).attributes.ino
        return self.getattr(ino)

    def path_of(self, ino: Ino) -> str:
        return Paths(self._store).of(ino)

    def node_of(self, ino: Ino) -> NodeId | None:
        """The cloud's own id of an entry, None while it is only here."""
        node = self._store.node_of(self._row(ino).ino)
        return None if node is None else node.node

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        self._folder(ino)
        entries = []
        for row in self._store.children(ino, after, limit):
            file = self._handles.file(row.ino)
            shown = row if file is None else self._overlay(row, file)
            entries.append(DirEntry(shown.name, shown.attributes()))
        return entries

    def readlink(self, ino: Ino) -> str:
        row = self._row(ino)
        if row.kind is not Kind.SYMLINK or row.target is None:
            raise InvalidArgument("not a link")
        return row.target

    def statfs(self) -> Quota:
        return self._quota

    def set_quota(self, quota: Quota) -> None:
        """What the store last said of its room."""
        self._quota = quota

    def room_changed(self) -> None:
        """What the store last said of its room is old."""
        self._room_changed.set()

    def next_room_change(self) -> trio.Event:
        """What the next ``room_changed`` sets."""
        if self._room_changed.is_set():
            self._room_changed = trio.Event()
        return self._room_changed

    # namespace

    def _writable(self) -> None:
        if self._options.read_only:
            raise ReadOnly("the drive is read-only")

    def _check_new_name(self, name: str) -> None:
        if name in ("", ".", ".."):
            raise InvalidName("not a name")
        self._cloud.check_name(name)

    def _touch_folder(self, ino: Ino, now: int) -> None:
        self._store.set_times(ino, now, None, now)

    async def mkdir(self, parent: Ino, name: str, mode: int | None = None, *, door: str) -> Attributes:
        row = self._new_entry(parent, name, Kind.DIRECTORY, mode)
        with self._ledger.change() as change:
            self._store.insert_entry(row)
            self._touch_folder(parent, row.ctime_ns)
            change.entries.append(self._birth(Operation.MKDIR, row))
        self._tell_entry(door, parent, name)
        await self._confirmed(change.seqs, door)
        return row.attributes()

    async def symlink(self, parent: Ino, name: str, target: str, *, door: str) -> Attributes:
        return await self._link(parent, name, target, None, door)

    async def _link(
        self, parent: Ino, name: str, target: str, replacing: EntryRow | None, door: str
    ) -> Attributes:
        """A new link, in one step with the removal of what had its name."""
        if replacing is not None and replacing.kind is Kind.DIRECTORY:
            raise IsADirectory("the target is a folder")
        if not self._cloud.capabilities.symlinks:
            raise Unsupported("this cloud has no symbolic links")
        if not target or "\0" in target or len(target) > 4095:
            raise InvalidArgument("not a link target")
        try:
            size = len(target.encode())
        except UnicodeEncodeError as error:
            raise InvalidArgument("a link target must be UTF-8") from error
        row = self._new_entry(parent, name, Kind.SYMLINK, None, replacing)._replace(target=target, size=size)
        with self._ledger.change() as change:
            if replacing is not None:
                self._store.remove_entry(replacing.ino)
                change.entries.append(self._removal(replacing))
            self._store.insert_entry(row)
            self._touch_folder(parent, row.ctime_ns)
            change.entries.append(self._birth(Operation.SYMLINK, row))
        if replacing is not None:
            self._gone(replacing, door)
        self._tell_entry(door, parent, name)
        await self._confirmed(change.seqs, door)
        return row.attributes()

    def _new_entry(
        self, parent: Ino, name: str, kind: Kind, mode: int | None, replacing: EntryRow | None = None
    ) -> EntryRow:
        """A row for a name that must be free, or ``replacing``'s."""
        self._writable()
        folder = self._folder(parent)
        if folder.state == REMOVED:
            raise NotFound("the folder was removed")
        self._check_new_name(name)
        if replacing is None and self._store.child(parent, name) is not None:
            raise AlreadyExists("the name is taken")
        now = time.time_ns()
        content = self._store.new_content() if kind is Kind.FILE else NO_CONTENT
        return EntryRow(self._store.new_ino(), parent, name, kind, 0, now, now, now, content, 1, mode)

    def _birth(self, operation: Operation, row: EntryRow, replaces: EntryRow | None = None) -> Entry:
        return Entry(
            0,
            operation,
            row.ino,
            target=self._ledger.place(row.parent, row.name),
            replaces=None if replaces is None else replaces.ino,
            content=row.content,
            mtime_ns=row.mtime_ns,
            recorded=time.time(),
        )

    def _removal(self, row: EntryRow) -> Entry:
        return Entry(
            0,
            Operation.REMOVE,
            row.ino,
            source=self._ledger.place(row.parent, row.name),
            leaf=row.kind is not Kind.DIRECTORY,
            recorded=time.time(),
        )

    async def unlink(self, parent: Ino, name: str, *, door: str) -> None:
        self._writable()
        row = self._existing(parent, name)
        if row.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder")
        await self._remove(row, door)

    async def rmdir(self, parent: Ino, name: str, *, door: str) -> None:
        self._writable()
        row = self._existing(parent, name)
        if row.kind is not Kind.DIRECTORY:
            raise NotADirectory("not a folder")
        if self._store.has_children(row.ino):
            raise DirectoryNotEmpty("the folder is not empty")
        await self._remove(row, door)

    async def _remove(self, row: EntryRow, door: str) -> None:
        with self._ledger.change() as change:
            self._store.remove_entry(row.ino)
            self._touch_folder(row.parent, time.time_ns())
            change.entries.append(self._removal(row))
        self._gone(row, door)
        self._tell_entry(door, row.parent, row.name)
        await self._confirmed(change.seqs, door)

    def _gone(self, row: EntryRow, door: str) -> None:
        """An entry lost its name: its open file lives on without one."""
        file = self._handles.file(row.ino)
        if file is not None:
            file.row = file.row._replace(parent=Ino(0), state=REMOVED)
            self._misplaced(file.row)
        self._tell(door, row.ino)

    def _misplaced(self, row: EntryRow) -> None:
        """A file is not where it was: an upload that began early goes to the wrong place. One that is being sent by now
        goes on, and what was done to the file comes after it."""
        stage = self._contents.stage(row.content)
        if stage is None or stage.upload is None:
            return
        if not any(
            self._journal.view(entry.seq).state is EntryState.SENDING for entry in self._journal.entries_of(row.ino)
        ):
            stage.drop_upload()

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
        self._writable()
        source = self._existing(parent, name)
        if self._folder(new_parent).state == REMOVED:
            raise NotFound("the folder was removed")
        target = self._child(new_parent, new_name)
        if mode is RenameMode.EXCHANGE:
            if target is None:
                raise NotFound("no such entry")
            seqs = self._exchange(source, target)
        else:
            self._check_new_name(new_name)
            if target is not None and mode is RenameMode.NO_REPLACE:
                raise AlreadyExists("the name is taken")
            seqs = self._rename(source, target, new_parent, new_name, door)
        self._tell_entry(door, parent, name)
        self._tell_entry(door, new_parent, new_name)
        self._tell(door, source.ino)
        if mode is RenameMode.EXCHANGE and target is not None:
            self._tell(door, target.ino)
        await self._confirmed(seqs, door)

    def _above(self, folder: Ino) -> tuple[Ino, ...]:
        """The folder and every folder above it, without the root."""
        above: list[Ino] = []
        while folder != ROOT_INO:
            above.append(folder)
            row = self._store.entry(folder)
            if row is None or not row.parent:
                break
            folder = row.parent
        return tuple(above)

    def _move_entry(self, row: EntryRow, parent: Ino, name: str, replaces: Ino | None = None) -> Entry:
        above: tuple[Ino, ...] = ()
        if row.kind is Kind.DIRECTORY and parent != row.parent:
            above = self._above(parent)
            if row.ino in above:
                raise InvalidArgument("a folder cannot move into itself")
        return Entry(
            0,
            Operation.RENAME,
            row.ino,
            source=self._ledger.place(row.parent, row.name),
            target=self._ledger.place(parent, name),
            replaces=replaces,
            ancestors=above,
            leaf=row.kind is not Kind.DIRECTORY,
            recorded=time.time(),
        )

    def _rename(
        self, source: EntryRow, target: EntryRow | None, new_parent: Ino, new_name: str, door: str
    ) -> tuple[int | None, ...]:
        if target is not None and target.ino == source.ino:
            target = None
            if (source.parent, source.name) == (new_parent, new_name):
                return ()
        if source.kind is Kind.DIRECTORY and source.ino in self._above(new_parent):
            raise InvalidArgument("a folder cannot move into itself")
        if target is not None:
            if target.kind is Kind.DIRECTORY and source.kind is not Kind.DIRECTORY:
                raise IsADirectory("the target is a folder")
            if target.kind is not Kind.DIRECTORY and source.kind is Kind.DIRECTORY:
                raise NotADirectory("the target is not a folder")
            if target.kind is Kind.DIRECTORY and self._store.has_children(target.ino):
                raise DirectoryNotEmpty("the target is not empty")
        now = time.time_ns()
        same_key = source.parent == new_parent and self._cloud.name_key(source.name) == self._cloud.name_key(new_name)
        with self._ledger.change() as change:
            if target is not None:
                self._store.remove_entry(target.ino)
                if target.kind is Kind.DIRECTORY:
                    change.entries.append(self._removal(target))
            replaces = target.ino if target is not None and target.kind is not Kind.DIRECTORY else None
            if not same_key:
                change.entries.append(self._move_entry(source, new_parent, new_name, replaces))
            self._store.place_entry(source.ino, new_parent, new_name, now)
            self._touch_folder(source.parent, now)
            if new_parent != source.parent:
                self._touch_folder(new_parent, now)
        if target is not None:
            self._gone(target, door)
        self._misplaced(source)
        return change.seqs

    def _exchange(self, one: EntryRow, other: EntryRow) -> tuple[int | None, ...]:
        """Swap two names: three renames in the cloud, through a name of their own; one step here."""
        if one.ino == other.ino:
            return ()
        now = time.time_ns()
        passing = one._replace(name=f".serpentfs-exchange-{one.ino:x}-{other.ino:x}")
        with self._ledger.change() as change:
            change.entries.append(self._move_entry(one, passing.parent, passing.name))
            change.entries.append(self._move_entry(other, one.parent, one.name))
            change.entries.append(self._move_entry(passing, other.parent, other.name))
            self._store.place_entry(one.ino, passing.parent, passing.name, now)
            self._store.place_entry(other.ino, one.parent, one.name, now)
            self._store.place_entry(one.ino, other.parent, other.name, now)
            for folder in {one.parent, other.parent}:
                self._touch_folder(folder, now)
        return change.seqs

    async def setattr(
        self, ino: Ino, changes: SetAttributes, handle: HandleId | None = None, *, door: str
    ) -> Attributes:
        self._writable()
        if changes.mtime_ns is not None:
            changes = replace(changes, mtime_ns=kept_time(changes.mtime_ns))
        if changes.atime_ns is not None:
            changes = replace(changes, atime_ns=kept_time(changes.atime_ns))
        row = self._row(ino)
        if changes.size is not None:
            if row.kind is not Kind.FILE:
                raise IsADirectory("not a file")
            if not 0 <= changes.size <= MAX_FILE_SIZE:
                raise FileTooLarge("no file can have this size")
            if handle is None:
                handle = await self.open(ino, write=True, door=door)
                try:
                    await self._truncate(self._handles.get(handle), changes.size)
                finally:
                    await self.release(handle)
            else:
                await self._truncate(self._handles.get(handle), changes.size)
        seqs: tuple[int | None, ...] = ()
        now = time.time_ns()
        file = self._handles.file(ino)
        if file is None or not file.draft:
            with self._ledger.change() as change:
                if changes.mode is not None or changes.uid is not None or changes.gid is not None:
                    self._store.set_permissions(ino, changes.mode, changes.uid, changes.gid, now)
                if changes.mtime_ns is not None or changes.atime_ns is not None:
                    self._store.set_times(ino, changes.mtime_ns, changes.atime_ns, now)
                if changes.mtime_ns is not None and self._sends_mtime(ino):
                    change.entries.append(
                        Entry(0, Operation.SETATTR, ino, mtime_ns=changes.mtime_ns, recorded=time.time())
                    )
            seqs = change.seqs
        if file is not None:
            mtime_ns = file.row.mtime_ns if changes.mtime_ns is None else changes.mtime_ns
            file.row = file.row._replace(mtime_ns=mtime_ns, ctime_ns=now)
        self._tell(door, ino)
        await self._confirmed(seqs, door)
        return self._row(ino).attributes()

    def _sends_mtime(self, ino: Ino) -> bool:
        """Whether a file's new time is worth a journal entry: uploads carry the time they find in the tree. (With
        ``durability = "cloud"`` the entry is what is waited for.)"""
        row = self._store.entry(ino)
        if row is None or row.kind is not Kind.FILE or row.state == REMOVED:
            return False
        if not self._waits_for_cloud and self._journal.carries_time(ino):
            return False
        return self._cloud.capabilities.set_mtime or self._journal.is_pending(ino)

    # open files

    async def create(
        self, parent: Ino, name: str, mode: int | None = None, *, exclusive: bool, door: str
    ) -> tuple[Attributes, HandleId]:
        existing = self._child(parent, name)
        if existing is not None:
            if exclusive:
                raise AlreadyExists("the name is taken")
            handle = await self.open(existing.ino, write=True, door=door)
            return self.attributes_of(handle), handle
        row = self._new_entry(parent, name, Kind.FILE, mode)
        stage_row = StageRow(row.content, 0, NO_CONTENT, 0)
        with self._ledger.change() as change:
            self._store.insert_entry(row)
            self._store.put_stage(stage_row)
            self._touch_folder(parent, row.ctime_ns)
            change.entries.append(self._birth(Operation.CREATE, row))
        stage = self._contents.new_stage(stage_row, stored=True)
        opened = self._open(OpenFile(row, stage), door=door, writable=True)
        self._tell_entry(door, parent, name)
        await self._shown(door)
        return row.attributes(), opened.id

    def _open(self, file: OpenFile, *, door: str, writable: bool) -> Handle:
        handle = self._handles.add(file, door=door, writable=writable)
        self._journal.pin(file.ino)
        if writable:
            self._journal.hold(file.ino)
        return handle

    async def open(self, ino: Ino, *, write: bool, truncate: bool = False, door: str) -> HandleId:
        if write:
            self._writable()
        row = self._row(ino)
        if row.kind is Kind.DIRECTORY:
            raise IsADirectory("a folder")
        if row.kind is not Kind.FILE:
            raise InvalidArgument("not a file")
        file = self._handles.file(ino) or self._opened_file(row)
        handle = self._open(file, door=door, writable=write)
        if not write:
            self._siblings.opened(row)
        if truncate and write:
            try:
                await self._truncate(handle, 0)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self.release(handle.id)
                raise
        else:
            await trio.lowlevel.checkpoint()
        return handle.id

    def _opened_file(self, row: EntryRow) -> OpenFile:
        return OpenFile(row, self._contents.stage(row.content), self._store.node_of(row.ino))

    def attributes_of(self, handle: HandleId) -> Attributes:
        file = self._handles.get(handle).file
        return file.attributes() if file.draft else self._row(file.ino).attributes()

    def reader_of(self, content: ContentId, node: NodeRef) -> Reader:
        """A reader, through the cache like any other, of a content that no entry shows. To be closed."""
        return self._cache.reader(content, node.size, partial(self._cloud.read, node))

    def expect(self, handle: HandleId, span: Span, *, sealed: bool) -> None:
        self._contents.expect(self._handles.get(handle), span, sealed=sealed)

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        opened = self._handles.get(handle)
        data = self._contents.read_file_nowait(opened, offset, size)
        if data is not None:
            self._count_read(opened.door, len(data))
        return data

    def content_of(self, handle: HandleId) -> ContentId | None:
        file = self._handles.get(handle).file
        return None if file.stage is not None else file.content

    def sealed(self, handle: HandleId, offset: int, size: int) -> SealedSpan | None:
        opened = self._handles.get(handle)
        found = self._contents.sealed_of_file(opened, offset, size)
        if found is not None:
            self._count_read(opened.door, len(found.span))
        return found

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        opened = self._handles.get(handle)
        data = await self._contents.read_file(opened, offset, size)
        self._count_read(opened.door, len(data))
        return data

    def _count_read(self, door: str, size: int) -> None:
        traffic = self._figures.doors[door]
        traffic.reads += 1
        traffic.read_bytes += size

    def _for_writing(self, handle: HandleId) -> Handle:
        found = self._handles.get(handle)
        if not found.writable:
            raise BadHandle("this handle is not open for writing")
        return found

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        while True:
            opened = self._for_writing(handle)
            node = self._store.node_of(opened.file.ino)
            try:
                async with opened.file.lock:
                    await self._write(opened, offset, data)
                break
            except RevisionGone:
                # As in ``Contents.read_file``; without the lock, which the upload may want, too.
                waited = await self._ledger.wait_sent(opened.file.ino, uploads=True)
                if not waited and self._store.node_of(opened.file.ino) == node:
                    raise
        traffic = self._figures.doors[opened.door]
        traffic.writes += 1
        traffic.written_bytes += len(data)
        return len(data)

    async def _write(self, opened: Handle, offset: int | None, data: bytes | memoryview) -> None:
        """The file's lock is held. After RevisionGone it may be called again: what is appended needs at most the block
        that the file ends in, which is its first."""
        file = opened.file
        at = file.size if offset is None else offset
        if at < 0 or at + len(data) > MAX_FILE_SIZE:
            raise FileTooLarge("no file can have this size")
        stage = self._stage_for_writing(file)
        try:
            await stage.write(at, data, self._contents.base_reader(file.ino, stage, file.node))
        finally:
            self._grew(opened, stage)
        if stage.goes_forward and stage.size >= self._options.early_size and stage.upload is None:
            self._begin_early(file.row, stage)

    def _stage_for_writing(self, file: OpenFile, *, empty: bool = False) -> Stage:
        """The stage that takes this file's writes: its own, or a new one on top of what is being uploaded."""
        old = file.stage
        if old is not None and not old.frozen and not (empty and old.base):
            return old
        base = NO_CONTENT if empty or not file.size else file.content
        size = 0 if empty else file.size
        if base and not self._contents.is_at_hand(file.ino, base, file.node):
            raise RevisionGone("this content is no longer in the cloud")
        stage = self._contents.new_stage(StageRow(self._store.new_content(), size, base, size if base else 0))
        file.stage = stage
        file.row = file.row._replace(content=stage.content)
        if old is not None and not old.stored:
            self._contents.drop_stage(old.content)
        return stage

    def _grew(self, opened: Handle, stage: Stage) -> None:
        file = opened.file
        if stage.changed:
            now = time.time_ns()
            file.row = file.row._replace(
                size=stage.size, mtime_ns=now, ctime_ns=now, generation=file.row.generation + 1
            )
            file.written_by.add(opened.door)
            if file.dirty_since is None:
                file.dirty_since = trio.current_time()

    async def _truncate(self, handle: Handle, size: int) -> None:
        file = handle.file
        async with file.lock:
            if size == file.size and size:
                return
            stage = self._stage_for_writing(file, empty=size == 0)
            try:
                await stage.truncate(size, self._contents.base_reader(file.ino, stage, file.node))
            finally:
                stage.changed = True
                self._grew(handle, stage)

    async def flush(self, handle: HandleId) -> None:
        opened = self._handles.get(handle)
        async with opened.file.lock:
            seqs = await self._commit(opened.file)
        if self._waits_for_cloud:  # else not even a turn of the loop: it would cost a small file as much as its write
            await self._confirmed(seqs, opened.door)

    async def _commit(self, file: OpenFile) -> tuple[int | None, ...]:
        """Journal what was written. The file's lock is held."""
        stage = file.stage
        if stage is None or file.dirty_since is None:
            return ()
        if file.draft or file.row.state == REMOVED:
            await stage.spill()
            return ()
        await stage.prepare(self._store)
        row = file.row
        if row.state == REMOVED:
            return ()
        with self._ledger.change() as change:
            stage.commit(self._store)
            self._contents.keep_base(stage, file.node)
            self._store.set_content(
                file.ino, stage.content, row.size, row.mtime_ns, row.ctime_ns, generation=row.generation
            )
            change.entries.append(
                Entry(
                    0,
                    Operation.CONTENT,
                    file.ino,
                    content=stage.content,
                    mtime_ns=row.mtime_ns,
                    recorded=time.time(),
                )
            )
        stage.committed()
        file.dirty_since = None
        # A door knows of its own writes; with more than one door writing, each must hear of the others'.
        (origin,) = file.written_by if len(file.written_by) == 1 else (None,)
        file.written_by.clear()
        self._tell(origin, file.ino, data=True)
        return change.seqs

    async def commit_old_writes(self) -> None:
        """Journal files that stay open and dirty, every ``dirty_seconds``, until cancelled."""
        while True:
            await trio.sleep(self._options.dirty_seconds / 5)
            due = trio.current_time() - self._options.dirty_seconds
            for file in self._handles.files():
                if file.dirty_since is not None and file.dirty_since <= due:
                    await self._commit_visibly(file)

    async def _commit_visibly(self, file: OpenFile) -> None:
        """A commit that nobody waits for: its trouble is kept for ``status``; the next flush meets it again."""
        async with file.lock:
            if self._handles.file(file.ino) is not file:
                return
            try:
                await self._commit(file)
            except SerpentError as error:
                self._note(error)

    async def commit_everything(self) -> None:
        """At the end: whatever is open and dirty is journalled as if it had been closed."""
        for file in self._handles.files():
            await self._commit_visibly(file)
            if file.dirty_since is not None and not file.draft and file.row.state != REMOVED:
                log.error("what was written last to an open file is lost: %s", self.last_error)

    async def fsync(self, handle: HandleId) -> None:
        opened = self._handles.get(handle)
        file = opened.file
        async with file.lock:
            seqs = await self._commit(file)
            stage = file.stage
            if stage is None:
                await self._store.sync()
            else:
                await self._contents.sync_bases(stage)
                await stage.make_durable(self._store)
        await self._confirmed(seqs, opened.door)

    async def fsync_directory(self, ino: Ino) -> None:
        await self._contents.sync_stages()
        await self._store.sync()

    async def release(self, handle: HandleId) -> None:
        opened = self._handles.get(handle)
        file = opened.file
        if not opened.writable or (file.dirty_since is None and not file.lock.locked()):
            self._close(opened)  # there is nothing to journal, and nobody is in the middle of using it
            return
        # Under the lock and to the end: nobody else may be in the middle of using what is given back.
        with trio.CancelScope(shield=True):
            async with file.lock:
                try:
                    await self._commit(file)
                finally:
                    self._close(opened)

    def _close(self, opened: Handle) -> None:
        file = opened.file
        self._handles.remove(opened)
        if opened.writable:
            self._journal.unhold(file.ino, time.time())
        self._journal.unpin(file.ino)
        if not file.handles and file.stage is not None:
            if file.draft or file.row.state == REMOVED:
                self._drop_stage(file.ino, file.stage.content)
            elif file.dirty_since is not None:
                # The last commit failed and its caller was told: go back to what was journalled.
                self._contents.reload_stage(file.stage.content)
                self._tell(None, file.ino, data=True)
            elif not file.stage.stored:
                self._contents.drop_stage(file.stage.content)  # the write that it was made for failed
            else:
                file.stage.close()
        self._ledger.moved()

    def _is_unneeded(self, content: ContentId) -> bool:
        """Nobody will upload this content any more; does nothing else show it?"""
        return not self._contents.is_base(content)

    def _let_go(self, content: ContentId) -> None:
        if not any(file.stage is not None and file.stage.content == content for file in self._handles.files()):
            self._contents.drop_stage(content)

    def _drop_stage(self, ino: Ino, content: ContentId) -> None:
        """A nameless file was closed for good. What an upload is about to send, or is sending, is dropped when that
        ends; until then it is what was journalled of it."""
        stage = self._contents.stage(content)
        if stage is None:
            return
        if any(entry.content == content for entry in self._journal.entries_of(ino)):
            if not stage.frozen:
                self._contents.reload_stage(content)
        elif not self._contents.is_base(content):
            self._contents.drop_stage(content)

    # drafts

    async def create_draft(self, *, door: str) -> HandleId:
        self._writable()
        await trio.lowlevel.checkpoint()
        now = time.time_ns()
        content = self._store.new_content()
        row = EntryRow(
            self._store.new_ino(), Ino(0), "", Kind.FILE, 0, now, now, now, content, 1, state=DRAFT
        )
        stage = self._contents.new_stage(StageRow(content, 0, NO_CONTENT, 0))
        return self._open(OpenFile(row, stage, draft=True), door=door, writable=True).id

    def lend_room(self, draft: HandleId) -> SealedRoom | None:
        file = self._draft(draft).file
        return None if file.stage is None or file.lock.locked() else file.stage.lend_room()

    def take_back(self, draft: HandleId, room: SealedRoom) -> None:
        opened = self._draft(draft)
        assert opened.file.stage is not None
        opened.file.stage.take_back(room)
        self._grew(opened, opened.file.stage)
        self._figures.doors[opened.door].written_bytes += room.written * BLOCK_SIZE

    def _draft(self, handle: HandleId) -> Handle:
        opened = self._for_writing(handle)
        if not opened.file.draft:
            raise BadHandle("not a draft")
        return opened

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
        self._writable()
        opened = self._draft(draft)
        file = opened.file
        stage = file.stage
        assert stage is not None
        async with file.lock:
            await stage.prepare(self._store)
            if self._folder(parent).state == REMOVED:
                raise NotFound("the folder was removed")
            self._check_new_name(name)
            existing = self._child(parent, name)
            self._check_precondition(existing, precondition)
            if existing is not None and existing.kind is Kind.DIRECTORY:
                raise IsADirectory("the target is a folder")
            now = time.time_ns()
            kept = existing if existing is not None and existing.kind is Kind.FILE else None
            row = file.row._replace(
                parent=parent,
                name=name if existing is None else existing.name,
                mtime_ns=now if mtime_ns is None else kept_time(mtime_ns),
                ctime_ns=now,
                atime_ns=now,
                mode=None if kept is None else kept.mode,
                uid=None if kept is None else kept.uid,
                gid=None if kept is None else kept.gid,
                state=0,
            )
            with self._ledger.change() as change:
                if existing is not None:
                    self._store.remove_entry(existing.ino)
                    self._store.copy_xattrs(existing.ino, row.ino)
                stage.commit(self._store)
                self._store.insert_entry(row)
                self._touch_folder(parent, now)
                change.entries.append(self._birth(Operation.CREATE, row, existing))
            stage.committed()
            file.row = row
            file.draft = False
            file.dirty_since = None
        if existing is not None:
            self._gone(existing, door)
        self._tell_entry(door, parent, name)
        self._close(opened)
        await self._confirmed(change.seqs, door)
        return row.attributes(), existing is None

    def _check_precondition(self, existing: EntryRow | None, precondition: Precondition) -> None:
        if precondition.must_not_exist and existing is not None:
            raise PreconditionFailed("the name is taken")
        if existing is None and (precondition.must_exist or precondition.content is not None):
            raise PreconditionFailed("there is no such file")
        if (
            existing is not None
            and precondition.content is not None
            and precondition.content != (existing.content, existing.generation)
        ):
            raise PreconditionFailed("the file has changed")

    async def discard(self, draft: HandleId) -> None:
        if not self._handles.is_open(draft):
            await trio.lowlevel.checkpoint()  # it was published, though perhaps not confirmed in time
            return
        opened = self._draft(draft)
        async with opened.file.lock:
            if self._store.entry(opened.file.ino) is not None:
                with self._store.transaction():
                    self._store.drop_draft(opened.file.ino, opened.file.content)
            self._close(opened)

    async def keep_draft(self, draft: HandleId) -> Ino:
        opened = self._draft(draft)
        file = opened.file
        stage = file.stage
        assert stage is not None
        async with file.lock:
            await stage.prepare(self._store)
            with self._store.transaction():
                stage.commit(self._store)
                self._store.insert_entry(file.row._replace(ctime_ns=time.time_ns()))
            stage.committed()
            file.draft = False  # closing must not drop it
            file.dirty_since = None
            self._close(opened)
        return file.ino

    async def reopen_draft(self, ino: Ino, *, door: str) -> HandleId:
        self._writable()
        await trio.lowlevel.checkpoint()
        row = self._store.entry(ino)
        stage = None if row is None else self._contents.stage(row.content)
        if row is None or row.state != DRAFT or stage is None:
            raise NotFound("this partial upload is no longer kept")
        if self._handles.file(ino) is not None:
            raise PermissionDenied("this partial upload is being continued already")
        return self._open(OpenFile(row, stage, draft=True), door=door, writable=True).id

    async def copy_file(
        self, ino: Ino, parent: Ino, name: str, *, precondition: Precondition = Precondition(), door: str
    ) -> tuple[Attributes, bool]:
        row = self._row(ino)
        if row.kind is Kind.SYMLINK:
            existing = self._child(parent, name)
            self._check_precondition(existing, precondition)
            return await self._link(parent, name, row.target or "", existing, door), existing is None
        return await copy_content(self, ino, parent, name, precondition=precondition, door=door)

    # extended attributes

    def _facts(self, row: EntryRow) -> dict[str, bytes]:
        node = self._store.node_of(row.ino)
        pending = self.is_pending(row.ino)
        facts = {
            "id": node.node if node is not None else "",
            "revision": node.revision if node is not None else "",
            "state": "pending" if pending else "uploaded",
        }
        return {_FACTS + name: value.encode("utf-8", "surrogateescape") for name, value in facts.items()}

    def getxattr(self, ino: Ino, name: str) -> bytes:
        row = self._row(ino)
        found = self._facts(row) if name.startswith(_FACTS) else self._store.xattrs(ino)
        if name not in found:
            raise NotFound("no such attribute")
        return found[name]

    def listxattr(self, ino: Ino) -> list[str]:
        # The facts are not listed: programs that copy attributes would try to set them elsewhere.
        return list(self._store.xattrs(self._row(ino).ino))

    async def setxattr(self, ino: Ino, name: str, value: bytes, *, create: bool = False, replace: bool = False) -> None:
        self._writable()
        self._row(ino)
        if name.startswith(_FACTS):
            raise PermissionDenied("user.serpentfs.* tells facts and cannot be set")
        if not name.startswith("user."):
            raise Unsupported("only user.* attributes can be set")
        exists = name in self._store.xattrs(ino)
        if create and exists:
            raise AlreadyExists("the attribute exists")
        if replace and not exists:
            raise NotFound("no such attribute")
        await trio.lowlevel.checkpoint()
        self._put_xattr(ino, name, value)

    async def removexattr(self, ino: Ino, name: str) -> None:
        self._writable()
        if name not in self._store.xattrs(self._row(ino).ino):
            raise NotFound("no such attribute")
        await trio.lowlevel.checkpoint()
        self._put_xattr(ino, name, None)

    def _put_xattr(self, ino: Ino, name: str, value: bytes | None) -> None:
        now = time.time_ns()
        with self._store.transaction():
            self._store.put_xattr(ino, name, value)
            self._store.set_times(ino, None, None, now)
        file = self._handles.file(ino)
        if file is not None:
            file.row = file.row._replace(ctime_ns=now)

    # records of doors

    def load_records(self, door: str) -> dict[str, bytes]:
        return self._store.records(door)

    def save_record(self, door: str, key: str, value: bytes | None) -> None:
        with self._store.transaction():
            self._store.put_record(door, key, value)

    # the whole

    # what the replay tells (vfs.replay.Observer)

    def cloud_answered(self, error: SerpentError | None) -> None:
        if error is None:
            if not self.online:
                self._ledger.wake()
            self.online = True
            self._login_required = False
            self.room_changed()
        else:
            self._login_required |= isinstance(error, LoginRequired)
            self._figures.failed_uploads += 1
            self._note(error)
            self.online = not isinstance(error, Unavailable)

    def _note(self, error: SerpentError) -> None:
        self.last_error = str(error)
        self._figures.last_error = metrics.Trouble(str(error), time.time())

    def note_sent(self, seq: int, sent: int | None) -> None:
        if sent is None:
            self._sent.pop(seq, None)
        else:
            self._sent[seq] = sent

    def uploaded(self, ino: Ino, stage: Stage, node: NodeRow) -> None:
        file = self._handles.file(ino)
        if file is not None:
            # Unless a later upload was confirmed while this one waited for the disk.
            current = self._store.node_of(ino)
            if current is not None:
                file.node = current
            elif file.content == node.content:
                file.node = node
            if file.stage is stage:
                file.stage = None
        self._drop_bases(ino, stage)

    def _drop_bases(self, ino: Ino, stage: Stage) -> None:
        """Contents below an uploaded one that nobody will upload any more: they were kept because they showed."""
        pending = {entry.content for entry in self._journal.entries_of(ino)}
        base = self._contents.stage(stage.base)
        while base is not None and base.content not in pending:
            if any(other.base == base.content for other in self._contents.stages() if other is not stage):
                return
            with self._store.transaction():
                self._store.drop_stage(base.content)
            self._contents.drop_stage(base.content)
            stage, base = base, self._contents.stage(base.base)

    def conflict_copied(self, ino: Ino, parent: Ino, name: str, new_name: str) -> None:
        self.conflicts += 1
        log.warning("a conflict copy was made; see `serpentfs status`")
        for changed in (name, new_name):
            self._tell(None, entry=(parent, changed))
        self._tell(None, parent)
        self._tell(None, ino)

    def is_written(self, ino: Ino) -> bool:
        file = self._handles.file(ino)
        return file is not None and file.writers > 0

    async def freeze(self, ino: Ino, stage: Stage) -> None:
        file = self._handles.file(ino)
        if file is not None:
            async with file.lock:  # a write under way ends first
                if file.stage is stage:
                    await self._commit(file)
                    if stage.changed:  # no name is left to journal it under: what is sent must outlive a crash as it is
                        await stage.prepare(self._store)
                        with self._store.transaction():
                            stage.commit(self._store)
                        stage.committed()
                stage.frozen = True
        stage.frozen = True

    def status(self) -> Status:
        cache = self._cache.statistics()
        return Status(
            pending=pending_changes(self._journal, self._store, self._sent, self._options.settle),
            online=self.online,
            last_error=self.last_error,
            login_required=self._login_required,
            cache_memory_bytes=cache.memory_bytes,
            cache_disk_bytes=cache.disk_bytes,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cache_disk_usable=cache.disk_usable,
            dirty_bytes=self.dirty_bytes,
            conflicts=self.conflicts,
        )

    # what ``status`` has, each for itself: that one looks at every pending change

    @property
    def pending_count(self) -> int:
        return len(self._journal)

    @property
    def dirty_bytes(self) -> int:
        """Written data that the journal does not hold yet."""
        return sum(stage.dirty_bytes for stage in self._contents.stages())

    @property
    def cache_statistics(self) -> CacheStatistics:
        return self._cache.statistics()

    @property
    def cache_limits(self) -> CacheLimits:
        return self._cache.limits

    def resize_cache(self, *, memory_bytes: int, disk_bytes: int, free_space_floor: int) -> None:
        """Other limits of the cache, from now on. Unsupported for room on a disk where no cache is kept on one."""
        if disk_bytes and not self._cache.has_disk:
            raise Unsupported("there is no cache on disk to be made larger: it was started without one")
        self._cache.resize(
            replace(
                self._cache.limits, memory_bytes=memory_bytes, disk_bytes=disk_bytes, free_space_floor=free_space_floor
            )
        )

    def hold_back_memory(self, size: int) -> None:
        """Leave ``size`` bytes of the cache's memory unused, at most three quarters: something else needs them."""
        self._cache.hold_back(size)

    def open_files(self) -> Counter[str]:
        """Handles that are open now, by door."""
        return Counter(handle.door for handle in self._handles.handles())

    def follow(self, feed: Feed, stop: Stop, begin_early: Callable[[EntryRow, Stage], None]) -> None:
        """Who gets fresh listings, who stops an attempt at an upload, and who may begin one before its time: made after
        the drive."""
        self._feed = feed
        self._begin_early = begin_early
        self._cancelling = Cancelling(self._store, self._ledger, self._contents, feed, stop, self.is_open)

    def _followed(self) -> Feed:
        if self._feed is None:
            raise Unavailable("the drive is not following its cloud")
        return self._feed

    async def refresh(self, ino: Ino) -> None:
        """Have the cloud list a folder now, and wait until what it says is in the tree. NotFound for one that is not in
        the cloud yet."""
        await self._followed().refresh(self._folder(ino).ino)

    async def reload(self) -> None:
        """Have the cloud fetch everything anew, and wait until what it says is in the tree, for as long as that takes.
        Inodes of what is still there stay."""
        await self._followed().reload()

    def reloading(self) -> tuple[int, int]:
        """Two numbers that grow while something is heard of the cloud (``Cloud.observed``), and with each folder that
        is compared with its listing."""
        feed = self._followed()
        return feed.observed, feed.compared

    # uploads as a whole

    @property
    def uploads_paused(self) -> bool:
        return self._ledger.paused

    def pause_uploads(self, paused: bool) -> None:
        """While paused no change is sent; changes are journalled as ever, and nobody waits for their uploads. What is
        being sent at this moment goes on: who limits transfers holds that up."""
        self._ledger.pause(paused)

    def retry_uploads(self) -> None:
        """What failed is tried now, and what the cloud refused once more."""
        self._ledger.wake()

    async def cancel_upload(self, seq: int) -> tuple[Cancelled, str]:
        """Drop an upload by its number in ``status``, and with it what was written here: see ``Cancelling.cancel``. The
        answer: what became of the file, and its path as it was."""
        if self._cancelling is None:
            raise Unavailable("the drive is not following its cloud")
        became, row = await self._cancelling.cancel(seq)
        path = "/".join((self.path_of(row.parent).rstrip("/"), row.name))
        self.changed(row.ino, data=True, entry=(row.parent, row.name))
        self.changed(row.parent)
        return became, path

    async def wait_until_uploaded(self) -> None:
        self._login_required = False  # the attempt that is made now tells
        self._journal.hurry(self._journal.next_seq() - 1)
        self._ledger.wake()
        waiting = {view.entry.seq for view in self._journal.pending()}
        while True:
            began = trio.current_time()
            left = {seq for seq in waiting if self._journal.state_of(seq) is not None}
            waiting = left | self._journal.outstanding(waiting)
            if self._login_required or not any(map(self._is_moving, waiting)):
                return
            # A look costs time in proportion to what is pending: with much to wait for, look less often.
            pause = 20 * (trio.current_time() - began) if len(waiting) > 100 else 0.0
            await self._ledger.wait_moved()
            await trio.sleep(pause)

    def _is_moving(self, seq: int) -> bool:
        """Whether time or the cloud alone will bring an entry on: what waits for a file to be closed, or is stuck,
        does not, nor does what waits behind it; and nothing does while uploads are paused."""
        if self._ledger.paused:
            return False
        view = self._journal.view(seq)
        return view.state is EntryState.SENDING or (
            view.state is EntryState.QUEUED and not view.held and not view.blocked
        )

    async def _confirmed(self, seqs: tuple[int | None, ...], door: str) -> None:
        """With ``durability = "cloud"``: until the cloud has what was just journalled. Then until the other doors show
        it. Always a checkpoint."""
        wanted = [seq for seq in seqs if seq is not None]
        if self._waits_for_cloud and wanted:
            await self._in_cloud(wanted)
        else:
            await trio.lowlevel.checkpoint()
        await self._shown(door)

    async def _shown(self, door: str) -> None:
        """Until the other doors show what they were told."""
        for _, follower, is_behind in list(self._followers):
            if follower != door and is_behind():
                with trio.move_on_after(_SHOWN_WITHIN) as scope:
                    scope.shield = True  # who is cancelled here would not hear what it has made
                    while is_behind():  # noqa: ASYNC110 - a thread of the door's, and a moment later
                        await trio.sleep(_SHOWING_TAKES)

    async def _in_cloud(self, wanted: Sequence[int]) -> None:
        """Until the cloud has these changes."""
        for seq in wanted:
            self._journal.force(seq)
        self._ledger.moved()
        carriers: set[int] = set()
        with trio.move_on_after(self._options.confirm_within):
            while waiting := [
                # What only waits for an open file to be closed is not waited for: its opener may be who calls.
                self._journal.view(seq)
                for seq in self._journal.outstanding(wanted)
                if not self._journal.waits_for_close(seq)
            ]:
                carriers.update(view.entry.seq for view in waiting)
                for view in waiting:
                    if view.state is EntryState.STUCK:
                        raise Unavailable(f"kept here, but the cloud refused it: {view.error}")
                await self._ledger.wait_moved()
            if self._cancelling is not None and carriers & self._cancelling.dropped:
                raise Unavailable("the upload was cancelled")
            return
        raise Unavailable("kept here, but the cloud has not confirmed it in time")
