"""Journal → cloud: sends what the journal says is ready, several at a time, and writes down the outcome.

The journal decides what may be sent and in which order; this module knows how each operation is said to a cloud and
what to do with the answer. An outcome is one transaction: the node as it is now, and the entry gone. A task that is
cancelled half-way leaves its entry pending, and it is sent again at the next start with ``retry``.

When the cloud moved on (``Conflict``, ``AlreadyExists``, ``NotFound``), the newer thing there stays, and what was
done here goes to a name of its own; see ``_resolve``.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

import trio

from serpentfs.bridge import is_busy
from serpentfs.clouds.base import Cloud
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    IntegrityError,
    NoSpace,
    NotFound,
    PermanentError,
    RateLimited,
    RetryableError,
    RevisionGone,
    SerpentError,
    Unavailable,
)
from serpentfs.model import NO_CONTENT, ROOT_INO, ContentId, Ino, Kind, NodeId, NodeInfo, NodeRef, Span
from serpentfs.tree.feed import Feed
from serpentfs.tree.store import REMOVED, EntryRow, NodeRow, Store
from serpentfs.vfs.conflicts import conflict_name
from serpentfs.vfs.early import EarlyUpload, EarlyUploads, Goal, is_passing
from serpentfs.vfs.entries import Entry, EntryState, Operation, Place
from serpentfs.vfs.ledger import Ledger
from serpentfs.vfs.reads import Contents
from serpentfs.vfs.writes import ReadBase, Stage, StageRetired

log = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0
_OUTAGE = 2
"""Failures in a row after which the cloud counts as out of reach."""
_ORIGINS = "conflict-origins"
"""Where the records of ``_copied_from`` are kept, as if it were a door."""
_EARLY = "early-uploads"
"""Where the ids of early uploads that were to be finished are kept, by content, as if it were a door."""
_STOPPED = 5.0
"""Seconds until an attempt that was stopped is made again."""
_PATIENCE = 5
"""Attempts of a change that are made while what it needs is not listed."""
_SMALL, _LARGE = 256 * 1024, 4 * 1024 * 1024
_SMALL_FOR_ONE = 4
"""So many contents of up to ``_SMALL`` bytes go up in place of one of up to ``_LARGE``."""
_LARGE_LANES = 2 * _SMALL_FOR_ONE
"""A larger one takes the place of two, because of the parts that it keeps in memory."""
_LULL = 0.05
"""Seconds without a request of the mount after which it is not being asked. Uploads by themselves may keep the loop
from the next request for some milliseconds."""
_PAUSE_WHEN_BUSY = 0.02
"""Seconds between two starts while it is: 50 small files a second take a fifth of a core, and a large one takes all the
bandwidth anyway."""


class Observer(Protocol):
    """Who is told how it goes (the drive)."""

    def cloud_answered(self, error: SerpentError | None) -> None:
        """The outcome of a call; None: it succeeded."""
        ...

    def note_sent(self, seq: int, sent: int | None) -> None:
        """``sent`` bytes of an upload went out; None: it ended."""
        ...

    def uploaded(self, ino: Ino, stage: Stage, node: NodeRow) -> None:
        """The cloud has this stage's content."""
        ...

    def conflict_copied(self, ino: Ino, parent: Ino, name: str, new_name: str) -> None:
        """An entry had to take another name."""
        ...

    def is_written(self, ino: Ino) -> bool:
        """Somebody has it open for writing."""
        ...

    async def freeze(self, ino: Ino, stage: Stage) -> None:
        """Nothing is written to this stage any more; what it holds on top of its last commit is journalled."""
        ...


class _StagedContent:
    """A stage as the source of an upload."""

    def __init__(self, stage: Stage, read_base: ReadBase, sent: Callable[[int], None]) -> None:
        self._stage = stage
        self._read_base = read_base
        self._sent = sent
        self.size = stage.size

    async def read(self, span: Span) -> bytes:
        try:
            data = await self._stage.read(span, self._read_base)
        except StageRetired as error:
            raise RetryableError("the file was removed or written anew while it was uploaded") from error
        self._sent(span.stop)
        return data


class Replay:
    """``workers``: contents under way at the same time; half as many large ones, and more small changes."""

    def __init__(
        self,
        cloud: Cloud,
        store: Store,
        ledger: Ledger,
        contents: Contents,
        feed: Feed,
        observer: Observer,
        *,
        workers: int,
        host: str,
        early_size: int,
    ) -> None:
        self._cloud = cloud
        self._store = store
        self._ledger = ledger
        self._journal = ledger.journal
        self._contents = contents
        self._feed = feed
        self._observer = observer
        self._lanes = workers * _SMALL_FOR_ONE
        self._host = host
        self._early_size = early_size
        self._active = 0
        """Lanes in use."""
        self._attempts: dict[int, trio.CancelScope] = {}
        """By seq, while they are under way."""
        self._outage = 0
        """Calls that failed for want of a cloud since one was answered."""
        self._probe_at = 0.0
        """trio's time: the wall clock may be set."""
        self._making_folders = trio.Lock()
        self._copied_from = dict(map(_read_origin, store.records(_ORIGINS).items()))
        """Conflict copies that are not uploaded: the place of the file that what was not written here comes from where
        the cloud has lost the one it was written over."""
        self._baseless: set[Ino] = set()
        """Those of which that is known."""
        self._early = EarlyUploads()
        self._early_ids = {ContentId(int(key)): value.decode() for key, value in store.records(_EARLY).items()}
        with store.transaction():
            for ino in list(self._copied_from):
                if not self._journal.entries_of(ino):  # it was removed here
                    self._forget_origin(ino)
            for content in [content for content in self._early_ids if contents.stage(content) is None]:
                self._forget_early(content)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Started when uploads may begin early."""
        wakes = 0
        async with trio.open_nursery() as nursery:
            await nursery.start(self._early.run)
            task_status.started()
            while True:
                if is_busy(_LULL):
                    # Uploads share the loop with the mount: while that is being asked, they start one by one.
                    await trio.sleep(_PAUSE_WHEN_BUSY)
                now = time.time()
                if wakes != self._ledger.wakes:
                    wakes, self._probe_at = self._ledger.wakes, 0.0
                free = self._room()
                held_up = False
                for entry in self._journal.ready(now, free) if free else []:
                    lanes = self._lanes_for(entry)
                    if held_up := self._active + lanes > self._lanes:
                        break
                    started = self._journal.start(entry.seq)
                    self._active += lanes
                    # Before the task runs: who wants to stop it may come first.
                    self._attempts[entry.seq] = trio.CancelScope()
                    nursery.start_soon(self._carry, started, lanes)
                with trio.move_on_after(float("inf") if held_up else self._pause(now)):
                    await self._ledger.wait_moved()

    async def stop(self, seq: int) -> None:
        """Break off the attempt at an entry, if there is one, and wait for its end. It is tried again after a while,
        unless its outcome was here first."""
        while (scope := self._attempts.get(seq)) is not None:
            scope.cancel()
            await self._ledger.wait_moved()

    def _room(self) -> int:
        """How many entries may be started. While the cloud does not answer, one is sent from time to time: the others
        stay unsent, so that what the user does meanwhile can still cancel them out."""
        if self._ledger.paused:
            return 0
        if self._outage >= _OUTAGE:
            return 0 if self._active or trio.current_time() < self._probe_at else 1
        return min(self._lanes - self._active, 1 if is_busy(_LULL) else self._lanes)

    def _lanes_for(self, entry: Entry) -> int:
        """What a change takes of the room: a small one spends its time waiting for answers, and needs little else."""
        stage = self._contents.stage(entry.content)
        if stage is None or stage.size <= _SMALL:
            return 1
        return _SMALL_FOR_ONE if stage.size <= _LARGE else min(_LARGE_LANES, self._lanes)

    def _pause(self, now: float) -> float:
        """Seconds until something can be started by time alone."""
        if self._ledger.paused or self._lanes <= self._active or (self._outage >= _OUTAGE and self._active):
            return float("inf")
        again = self._journal.next_time(now)
        if again is None:
            return float("inf")
        pause = max(0.0, again - now)
        if self._outage >= _OUTAGE:
            pause = max(pause, self._probe_at - trio.current_time())
        return pause

    async def _carry(self, entry: Entry, lanes: int) -> None:
        """One attempt at one entry, whatever comes of it."""
        scope = self._attempts[entry.seq]
        try:
            try:
                with scope:
                    await self._attempt(entry)
                if scope.cancelled_caught:
                    if self._is_under_way(entry):
                        self._journal.fail(entry.seq, time.time() + _STOPPED, "stopped")
                    return
            except (Conflict, AlreadyExists, NotFound, DirectoryNotEmpty) as error:
                await self._resolve(entry, error)
            self._outage = 0
            self._observer.cloud_answered(None)
            self._feed.revisit_settled()
        except (RetryableError, NoSpace) as error:
            self._observer.cloud_answered(error)
            self._fail(entry, error)
        except PermanentError as error:
            log.error("a change cannot be uploaded (%s): %s", entry.operation.value, error)
            self._observer.cloud_answered(error)
            if self._is_under_way(entry):
                self._journal.park(entry.seq, str(error))
        except Exception as error:
            log.exception("unexpected trouble while uploading (%s)", entry.operation.value)
            self._fail(entry, error)
        finally:
            self._active -= lanes
            del self._attempts[entry.seq]
            self._observer.note_sent(entry.seq, None)
            self._ledger.moved()

    def _is_under_way(self, entry: Entry) -> bool:
        """Trouble may come after the outcome was written down; then the entry is gone, or queued again."""
        return self._journal.state_of(entry.seq) is EntryState.SENDING

    def _fail(self, entry: Entry, error: Exception) -> None:
        now = time.time()
        if isinstance(error, Unavailable):
            self._outage += 1
            self._probe_at = trio.current_time() + _backoff(self._outage)
        if not self._is_under_way(entry):
            return
        pause = _backoff(self._journal.view(entry.seq).failures + 1)
        if isinstance(error, RateLimited) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        self._journal.fail(entry.seq, now + pause, str(error) or type(error).__name__)

    # saying it to the cloud

    async def _attempt(self, entry: Entry) -> None:
        match entry.operation:
            case Operation.CREATE | Operation.CONTENT:
                await self._put(entry)
            case Operation.MKDIR:
                token = self._token("mkdir", entry.ino, entry.goal)
                await self._born(
                    entry,
                    await self._cloud.mkdir(
                        await self._folder(entry.goal.parent), entry.goal.name, token=token, retry=entry.attempted
                    ),
                )
            case Operation.SYMLINK:
                row = self._row(entry.ino)
                info = await self._cloud.symlink(
                    await self._folder(entry.goal.parent),
                    entry.goal.name,
                    row.target or "",
                    mtime_ns=row.mtime_ns,
                    retry=entry.attempted,
                )
                await self._born(entry, info)
            case Operation.RENAME:
                await self._move(entry)
            case Operation.REMOVE:
                await self._remove(entry)
            case Operation.SETATTR:
                await self._set_mtime(entry)

    def _token(self, purpose: str, ino: Ino, place: Place, content: int = 0, base: str = "") -> bytes:
        """32 bytes that are the same for every attempt of one change, and for no other. ``base``: of what is not the
        content's own, where that may change between two attempts."""
        text = "\0".join((purpose, str(ino), str(content), str(place.parent), place.key, base))
        return hmac.new(self._store.token_key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def _row(self, ino: Ino) -> EntryRow:
        row = self._store.entry(ino)
        if row is None:
            raise IntegrityError("the local state lost an entry that the journal names")
        return row

    async def _folder(self, ino: Ino) -> NodeId:
        """The cloud's folder for an inode. One that was removed there while changes below it waited is made again."""
        node = self._store.node_of(ino)
        if node is not None:
            return node.node
        async with self._making_folders:
            return await self._make_folder(ino)

    async def _make_folder(self, ino: Ino, *, leads: bool = False) -> NodeId:
        """``leads``: to one that is needed."""
        node = self._store.node_of(ino)
        if node is not None:
            return node.node
        place = self._place_of_folder(ino, leads)
        parent = await self._make_folder(place.parent, leads=True)
        try:
            info = await self._cloud.mkdir(parent, place.name, token=secrets.token_bytes(32))
        except AlreadyExists as error:
            # Somebody made one of that name: its listing will give it to this inode.
            self._cloud.recheck(parent)
            raise RetryableError("a folder was removed and made again elsewhere and is not listed yet") from error
        except NotFound as error:
            if place.parent == ROOT_INO:
                raise
            with self._store.transaction():
                self._store.drop_node(place.parent)
            raise RetryableError("the folder above is gone, too: it will be made again") from error
        self._remember_folder(ino, place.parent, info)
        return info.id

    def _place_of_folder(self, ino: Ino, leads: bool) -> Place:
        """Where to make it again. One that was removed here, too, is needed where something was to be made in it that
        has left it since; its own removal comes after that."""
        row = self._store.entry(ino)
        if row is not None and row.state != REMOVED and ino != ROOT_INO:
            return self._ledger.place(row.parent, row.name)
        for entry in self._journal.entries_of(ino):
            if entry.operation is Operation.REMOVE and (leads or self._ledger.is_birthplace(ino)):
                return entry.origin
        raise NotFound("the folder is gone")

    async def _made_again(self, ino: Ino) -> bool:
        """Whether a folder was gone from the cloud; then it is there again."""
        if ino == ROOT_INO:
            return False
        row = self._row(ino)
        async with self._making_folders:
            try:
                parent = await self._make_folder(row.parent)
                info = await self._cloud.mkdir(parent, row.name, token=secrets.token_bytes(32))
            except AlreadyExists:
                return False
            self._remember_folder(ino, row.parent, info)
        return True

    def _expect_node(self, node: NodeId, ino: Ino) -> None:
        """A node is about to become this inode's. Where its news came first, another entry was made for it; that one
        goes with the next listing of its folder."""
        known = self._store.node_by_id(node)
        other = None if known is None or known.ino == ino else self._store.entry(known.ino)
        if other is not None and other.parent:
            self._feed.leave_for_later(other.parent)

    def _take_node(self, node: NodeRow) -> None:
        """It is this inode's from now on, and no longer that of an entry that was made for it. Within a transaction."""
        known = self._store.node_by_id(node.node)
        if known is not None and known.ino != node.ino:
            self._contents.give_up_node(known.ino)
            self._feed.remove_leftover(known.ino)
        self._store.put_node(node)

    def _remember_folder(self, ino: Ino, parent: Ino, info: NodeInfo) -> None:
        self._expect_node(info.id, ino)
        with self._store.transaction():
            self._take_node(NodeRow(ino, parent, info.id, info.locator, info.revision, 0, NO_CONTENT))
        self._made_folder(ino)

    def _made_folder(self, ino: Ino) -> None:
        """The cloud has a folder of ours. What others put into it before we knew its id was passed over; where
        everything is listed now and then, that brings it."""
        self._feed.confirmed(ino)
        if self._cloud.capabilities.resumes_changes or self._cloud.capabilities.events:
            self._feed.leave_for_later(ino)

    def _replaced(self, entry: Entry) -> NodeRef | None:
        """The node that goes away with this entry."""
        if entry.replaces is None:
            return None
        node = self._store.node_of(entry.replaces)
        return None if node is None else node.ref(self._row(entry.replaces).kind)

    def _cloud_place(self, entry: Entry, row: EntryRow) -> Place:
        """Where the cloud has (or shall have) the inode at this point of the journal."""
        if entry.target is not None:
            return entry.target
        for later in self._journal.changes_of(entry.ino):
            if later.seq <= entry.seq:
                continue
            place = later.source if later.ino == entry.ino else later.target  # another one's: it takes the file's place
            if place is not None:
                return place
        return self._ledger.place(row.parent, row.name)

    async def _put(self, entry: Entry) -> None:
        stage = self._contents.stage(entry.content)
        if stage is None:
            raise IntegrityError("the staged content is missing")
        await self._observer.freeze(entry.ino, stage)
        if self._contents.stage(entry.content) is not stage:
            raise RetryableError("the file was closed just now")
        row = self._row(entry.ino)
        node = self._store.node_of(entry.ino)
        place = self._cloud_place(entry, row)
        if row.state == REMOVED and not place.parent:
            self._finish(entry)  # its file was removed here, and the cloud never had it
            return
        replaced = self._replaced(entry)
        target = node.ref(Kind.FILE) if node is not None else replaced
        if target is not None and target.kind is not Kind.FILE:
            await self._cloud.remove(target, retry=entry.attempted)
            target = None
        folder = await self._folder(place.parent)
        if (early := self._early_upload(entry, stage, Goal(folder, place.name, target))) is not None:
            await self._contents.rows_are_durable()  # the id is: or a power cut could make another upload of this one
            info = await early.finish(stage.size, lambda sent: self._observer.note_sent(entry.seq, sent))
        else:
            info = await self._put_whole(entry, stage, node, row, place, folder, target)
        left = target.id if target is not None and target.id != info.id else None
        self._expect_node(info.id, entry.ino)
        uploaded = NodeRow(entry.ino, place.parent, info.id, info.locator, info.revision, stage.size, entry.content)
        with self._ledger.outcome(self._journal.confirm(entry.seq)):
            if entry.replaces is not None:
                self._store.drop_node(entry.replaces)
            self._take_node(uploaded)
            self._store.drop_stage(entry.content)
            self._forget_origin(entry.ino)
            if entry.content in self._early_ids:
                self._store.put_record(_EARLY, str(entry.content), None)
        # Not before: when that cannot be written, the next attempt finds its own upload by it.
        self._early_ids.pop(entry.content, None)
        self._feed.confirmed(entry.ino, left=left, slots=[place.slot])
        # Who stops it now is too late, and must not keep the rest from being done.
        with (
            self._ledger.finishing(entry.seq, entry.ino),
            trio.CancelScope(shield=self._attempts[entry.seq].cancel_called),
        ):
            # The cache takes over then; until then the stage is read. (What shows through one is gone from the cloud.)
            # The last of them does not wait for others, and they not for it: it may be the end of the drive.
            patient = len(self._attempts) > 1
            durable = not stage.base and await self._contents.rows_are_durable(patient=patient)
            self._observer.uploaded(entry.ino, stage, uploaded)
            await self._contents.adopt(entry.content, rows_are_durable=durable)

    async def _put_whole(
        self,
        entry: Entry,
        stage: Stage,
        node: NodeRow | None,
        row: EntryRow,
        place: Place,
        folder: NodeId,
        target: NodeRef | None,
    ) -> NodeInfo:
        newer = self._newer(entry) if entry.ino in self._baseless else None
        read_base = self._contents.base_reader(entry.ino, stage, node)
        content = _StagedContent(
            stage,
            partial(self._read_base, entry.ino, read_base) if newer is None else partial(self._read_newer, newer),
            lambda sent: self._observer.note_sent(entry.seq, sent),
        )
        base = "" if newer is None else newer.revision
        return await self._cloud.put(
            folder,
            place.name,
            content,
            replaces=target,
            mtime_ns=row.mtime_ns,
            token=self._token("put", entry.ino, place, entry.content, self._early_ids.get(entry.content, "") + base),
            retry=entry.attempted,
        )

    # uploads that begin before their file is closed

    def begin_early(self, row: EntryRow, stage: Stage) -> None:
        """A file that goes strictly forward is large enough by now: begin its upload where that is likely to be what
        will be sent. Never blocks."""
        if (
            not self._cloud.capabilities.growing_puts
            or self._ledger.paused
            or self._outage
            or not row.parent
            or is_passing(row.name)
            or not self._early.has_room
        ):
            return
        folder = self._store.node_of(row.parent)
        entries = self._journal.entries_of(row.ino)
        if folder is None or any(entry.operation not in (Operation.CREATE, Operation.CONTENT) for entry in entries):
            return
        node = self._store.node_of(row.ino)
        replaced = self._replaced(entries[0]) if entries else None
        target = node.ref(Kind.FILE) if node is not None else replaced
        if target is not None and target.kind is not Kind.FILE:
            return
        place = self._cloud_place(entries[0], row) if entries else self._ledger.place(row.parent, row.name)
        if place.parent != row.parent:
            return
        upload = stage.upload = EarlyUpload(
            stage, Goal(folder.node, place.name, target), kept_back=self._early_size // 4
        )
        token = self._token("put", row.ino, place, stage.content, upload.id)

        async def put(content: EarlyUpload) -> NodeInfo:
            goal = content.goal
            return await self._cloud.put_growing(
                goal.folder, goal.name, content, replaces=goal.replaces, mtime_ns=row.mtime_ns, token=token
            )

        self._early.begin(upload, put)

    def _early_upload(self, entry: Entry, stage: Stage, goal: Goal) -> EarlyUpload | None:
        """The early upload of a frozen stage, if it is what is to be sent: to be finished, and its id is kept. Any
        other is dropped."""
        upload = stage.upload
        if upload is None or upload.is_over:
            return None
        if entry.attempted or upload.goal != goal:
            upload.drop()
            return None
        with self._store.transaction():
            self._store.put_record(_EARLY, str(entry.content), upload.id.encode())
        self._early_ids[entry.content] = upload.id
        return upload

    def _forget_early(self, content: ContentId) -> None:
        """Nothing is sent of this content any more. Within a transaction."""
        if self._early_ids.pop(content, None) is not None:
            self._store.put_record(_EARLY, str(content), None)

    async def _read_base(self, ino: Ino, read_base: ReadBase, span: Span) -> bytes:
        """What shows through a stage. Where the cloud has lost it, the next attempt takes another base: a content is
        never made of two."""
        try:
            return await read_base(span)
        except RevisionGone as error:
            if ino not in self._copied_from:
                raise
            self._baseless.add(ino)
            raise Unavailable("what a conflicting file was written over is gone from the cloud") from error

    def _newer(self, entry: Entry) -> NodeRef:
        """Where no other bytes are to be had, what was not written here comes from the file that is now at the name
        which the change was made under."""
        newer = self._store.child(*self._copied_from[entry.ino])
        node = None if newer is None else self._store.node_of(newer.ino)
        if newer is None or node is None or newer.kind is not Kind.FILE:
            if self._journal.view(entry.seq).failures > _PATIENCE:
                raise IntegrityError("what was not written here of this file is gone from the cloud")
            raise Unavailable("the new content of a conflicting file is not listed yet")
        return node.ref(Kind.FILE)

    async def _read_newer(self, newer: NodeRef, span: Span) -> bytes:
        try:
            found = await self._cloud.read(newer, span.clamp(newer.size))
        except RevisionGone as error:
            raise Unavailable("the new content of a conflicting file was replaced, too") from error
        return found + bytes(len(span) - len(found))

    def _forget_origin(self, ino: Ino) -> None:
        """The change is through, or given up. Within a transaction."""
        self._baseless.discard(ino)
        if self._copied_from.pop(ino, None) is not None:
            self._store.put_record(_ORIGINS, str(ino), None)

    async def _born(self, entry: Entry, info: NodeInfo) -> None:
        self._expect_node(info.id, entry.ino)
        with self._ledger.outcome(self._journal.confirm(entry.seq)):
            self._take_node(
                NodeRow(entry.ino, entry.goal.parent, info.id, info.locator, info.revision, info.size, NO_CONTENT)
            )
        if info.kind is Kind.DIRECTORY:
            self._made_folder(entry.ino)
        else:
            self._feed.confirmed(entry.ino, slots=[entry.goal.slot])

    def _finish(self, entry: Entry, *, forget: Collection[Ino] = ()) -> None:
        """Nothing is left to be sent. ``forget``: inodes whose nodes are not theirs any more."""
        with self._ledger.outcome(self._journal.give_up(entry.seq)):
            if entry.content:
                self._forget_origin(entry.ino)
            for ino in forget:
                self._contents.give_up_node(ino)

    async def _move(self, entry: Entry) -> None:
        node = self._store.node_of(entry.ino)
        if node is None:
            raise NotFound("what was renamed here is gone from the cloud")
        try:
            info = await self._cloud.move(
                node.ref(self._row(entry.ino).kind),
                await self._folder(entry.goal.parent),
                entry.goal.name,
                replaces=self._replaced(entry),
                retry=entry.attempted,
            )
        except NotFound as error:
            if entry.goal.parent != entry.origin.parent and await self._made_again(entry.goal.parent):
                raise RetryableError("the folder it goes to was removed elsewhere and made again") from error
            raise
        self._expect_node(info.id, entry.ino)
        with self._ledger.outcome(self._journal.confirm(entry.seq)):
            if entry.replaces is not None:
                self._store.drop_node(entry.replaces)
            moved = node._replace(parent=entry.goal.parent, node=info.id, locator=info.locator, revision=info.revision)
            if info.same_content:
                self._take_node(moved)
            elif any(later.content for later in self._journal.entries_of(entry.ino)):
                # Ours is still to be uploaded: it must meet the conflict, so it goes on naming the old revision.
                self._take_node(moved._replace(revision=node.revision))
            else:
                self._feed.overtaken(entry.ino, entry.goal.parent, info)
        if self._store.node_of(entry.ino) is None:
            self._feed.leave_for_later(entry.goal.parent)
        left = node.node if info.id != node.node or not info.same_content else None
        self._feed.confirmed(entry.ino, left=left, slots=[entry.origin.slot, entry.goal.slot])

    async def _remove(self, entry: Entry) -> None:
        node = self._store.node_of(entry.ino)
        if node is not None:
            try:
                await self._cloud.remove(node.ref(self._row(entry.ino).kind), retry=entry.attempted)
            except NotFound:
                log.info("what was to be removed is gone already")
        with self._ledger.outcome(self._journal.confirm(entry.seq)):
            self._store.drop_node(entry.ino)
        if node is not None:
            self._feed.confirmed(entry.ino, left=node.node, slots=[entry.origin.slot])

    async def _set_mtime(self, entry: Entry) -> None:
        node = self._store.node_of(entry.ino)
        row = self._row(entry.ino)
        if node is None or (row.state == REMOVED and not entry.attempted) or not self._cloud.capabilities.set_mtime:
            self._finish(entry)
            return
        tried_ns = entry.mtime_ns if entry.attempted else None
        info = await self._cloud.set_mtime(node.ref(row.kind), row.mtime_ns, tried_ns=tried_ns)
        with self._ledger.outcome(self._journal.confirm(entry.seq)):
            self._store.put_node(node._replace(locator=info.locator, revision=info.revision))
        self._feed.confirmed(entry.ino)

    # when the cloud moved on

    async def _resolve(self, entry: Entry, error: SerpentError) -> None:
        """What the cloud has stays. Decided in one step, without an await:

        - a name is taken, or the file changed there: what we have goes to a conflict name;
        - a file that we changed is gone there: it is uploaded anew; a folder for it is made again;
        - what we renamed is gone there: it is gone here, too, unless a change of it waits;
        - what we removed was changed there: it comes back with the next listing;
        - what was removed here meanwhile need not be saved, and goes under the name that it has there.
        """
        parents = {place.parent for place in (entry.source, entry.target) if place is not None}
        row = self._store.entry(entry.ino)
        if row is not None and row.parent:
            parents.add(row.parent)
        log.warning("the cloud moved on under a change (%s): %s", entry.operation.value, error)
        is_removed = row is None or row.state == REMOVED
        lost = False
        unmoved: NodeRow | None = None
        match entry.operation, error:
            case Operation.REMOVE, _:
                self._finish(entry, forget=(entry.ino,))
            case Operation.SETATTR, _:
                self._finish(entry)
            case Operation.RENAME, NotFound():
                lost = self._lost_under_rename(entry, row)
            case Operation.CONTENT, AlreadyExists() | RevisionGone() | NotFound() if is_removed:
                self._finish(entry, forget=(entry.ino,))
            case Operation.RENAME, AlreadyExists() | RevisionGone() if is_removed:
                unmoved = self._store.node_of(entry.ino)
                self._finish(entry, forget=(entry.ino,))
            case _, AlreadyExists() | RevisionGone() | NotFound() if row is None or is_removed:
                self._finish(entry)
            case _, AlreadyExists() | RevisionGone() if row is not None:
                self._copy_aside(entry, row)
            case _:
                self._forget_nodes(entry, row, error)
        for parent in parents:
            self._feed.leave_for_later(parent)
        if lost:
            await self._feed.take_out(entry.ino)
        if unmoved is not None and row is not None:
            await self._remove_unmoved(entry, unmoved.ref(row.kind))

    async def _remove_unmoved(self, entry: Entry, node: NodeRef) -> None:
        """What was renamed and then removed here, or replaced under its new name, cannot have that name: it is removed
        under the old one."""
        try:
            await self._cloud.remove(node)
        except (NotFound, Conflict, DirectoryNotEmpty) as error:
            log.info("what was to be removed stays as somebody else has it: %s", error)
        else:
            self._feed.confirmed(entry.ino, left=node.id, slots=[entry.origin.slot])

    def _forget_nodes(self, entry: Entry, row: EntryRow | None, error: SerpentError) -> None:
        """A node that the entry builds on is not there, or not as it was: the one it replaces, else its own, else its
        folder. Without it the next attempt makes a new one, or finds the name taken."""
        with self._store.transaction():
            if entry.replaces is not None and self._store.node_of(entry.replaces) is not None:
                self._store.drop_node(entry.replaces)
            elif self._store.node_of(entry.ino) is not None:
                self._contents.give_up_node(entry.ino)
            else:
                folder = entry.target.parent if entry.target is not None else row.parent if row is not None else None
                if folder and folder != ROOT_INO:
                    self._store.drop_node(folder)
        self._fail(entry, error)

    def _lost_under_rename(self, entry: Entry, row: EntryRow | None) -> bool:
        """Whether it goes here, too: nothing else of it waits, and nobody writes to it."""
        alone = len(self._journal.entries_of(entry.ino)) == 1 and not self._observer.is_written(entry.ino)
        gone = alone and row is not None and bool(row.parent)
        forget = {entry.replaces} if entry.replaces is not None else set()
        self._finish(entry, forget=forget if gone else forget | {entry.ino})
        return gone

    def _copy_aside(self, entry: Entry, row: EntryRow) -> None:
        """Give what we have a name of its own, and try again under that one."""
        place = self._cloud_place(entry, row)
        now = time.time()
        name = conflict_name(
            place.name,
            self._host,
            now,
            lambda name: self._store.child(place.parent, name) is None
            and not self._journal.touches(place.parent, self._ledger.place(place.parent, name).key),
            self._cloud.capabilities.longest_name_bytes,
        )
        new_place = self._ledger.place(place.parent, name)
        self._journal.fail(entry.seq, now, "the cloud has another version: kept under a conflict name")
        delta = self._journal.retarget(entry.seq, new_place)
        has_another_name = any(changed.target != new_place for changed in delta.put)
        with self._ledger.outcome(delta):
            if entry.operation is Operation.CONTENT:
                self._contents.give_up_node(entry.ino)
            if entry.replaces is not None:
                self._store.drop_node(entry.replaces)
            if has_another_name:
                return
            here = self._ledger.place(row.parent, row.name) if row.parent else None
            if here is not None and here.slot == place.slot:
                self._store.place_entry(entry.ino, place.parent, name, time.time_ns())
            if entry.content and entry.ino not in self._copied_from:
                self._copied_from[entry.ino] = (place.parent, place.name)
                self._store.put_record(_ORIGINS, str(entry.ino), _origin_record(place))
        self._observer.conflict_copied(entry.ino, place.parent, place.name, name)


def _backoff(failures: int) -> float:
    """Seconds, about 0.5 after the first failure and 60 in the end."""
    return min(_LONGEST_BACKOFF, 0.25 * 2.0 ** min(failures, 10)) * random.uniform(0.8, 1.2)


def _origin_record(place: Place) -> bytes:
    return f"{place.parent} {place.name}".encode("utf-8", "surrogateescape")


def _read_origin(record: tuple[str, bytes]) -> tuple[Ino, tuple[Ino, str]]:
    parent, _, name = record[1].decode("utf-8", "surrogateescape").partition(" ")
    return Ino(int(record[0])), (Ino(int(parent)), name)
