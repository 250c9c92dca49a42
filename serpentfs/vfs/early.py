"""Uploads that begin while their file is still being written, so that a large file that goes strictly forward is
durable in the cloud soon after its close.

    Stage.write → Replay.begin_early → a task here: Cloud.put_growing, which reads from EarlyUpload.read
    what is final of the stage ─── until the journal sends the entry: Replay._put → EarlyUpload.finish, or drop

An early upload takes only bytes that nobody is about to change (``Stage.take``). The stage drops it *before* it
changes one that was taken, whatever the change (a write behind, a truncation, its own end), and so do the replay,
when what it has to send is something else or goes elsewhere, and the drive, when the file loses its place. It is
never begun again for the same content. The cloud shows nothing of it before ``finish``.

An upload is encrypted under keys that derive from its token, and a token must never stand for two contents. So an
early upload has a random id that goes into its token. Until ``finish`` the id is in memory only: whatever becomes of
the upload, or of this process, nothing else is ever sent under it. Just before ``finish``, when the content is
journalled for good, the replay writes it down beside the content, and every later attempt uses the same token.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from serpentfs.errors import AlreadyExists, Conflict, NoSpace, NotFound, RetryableError, SerpentError, Unavailable
from serpentfs.model import NodeId, NodeInfo, NodeRef, Span
from serpentfs.vfs.writes import Stage

log = logging.getLogger(__name__)

EARLY_SIZE = 32 * 2**20
"""Bytes that are written before an upload begins: a transfer of a smaller file takes little longer than the questions
around it, and more of them are temporary. A quarter of it, at the end of what is written, is not sent yet: programs go
back a little to write the length of what they wrote."""
_MOST = 4
"""Early uploads at a time. One keeps some 40 MiB of parts in memory while it is sent, four 96."""
_PASSING = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".download", ".filepart", ".swp", ".bak", "~")


def is_passing(name: str) -> bool:
    """Whether programs write files of such names to rename them (browsers, rsync, editors): the cloud's upload is bound
    to a name and would be for nothing."""
    return name.startswith(".") or name.lower().endswith(_PASSING)


@dataclass(frozen=True, slots=True)
class Goal:
    """Where an upload goes, in the cloud's words."""

    folder: NodeId
    name: str
    replaces: NodeRef | None


class EarlyUpload:
    """One, which is the ``GrowingContent`` of its call of the cloud, too. The last ``kept_back`` bytes of what was
    written wait until ``finish``."""

    def __init__(self, stage: Stage, goal: Goal, *, kept_back: int) -> None:
        self.goal = goal
        self.id = secrets.token_hex(16)
        self.taken = 0
        """Bytes that were read, or are being read, to be sent."""
        self._stage = stage
        self._kept_back = kept_back
        self._end: int | None = None
        self._moved = trio.Event()
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._info: NodeInfo | None = None
        self._error: Exception | None = None
        self._sent: Callable[[int], None] = lambda sent: None

    @property
    def is_over(self) -> bool:
        """It was dropped, or has an outcome."""
        return self._scope.cancel_called or self._done.is_set()

    def drop(self) -> None:
        """Send nothing more, and never let it be seen."""
        self._scope.cancel()

    def grew(self) -> None:
        """There may be more to take."""
        self._moved.set()
        self._moved = trio.Event()

    async def run(self, put: Callable[[EarlyUpload], Awaitable[NodeInfo]]) -> None:
        """``put`` calls the cloud."""
        try:
            with self._scope:
                self._info = await put(self)
        except SerpentError as error:
            log.info("an upload that began early failed: %s", error)
            self._error = error
        except Exception as error:
            log.exception("unexpected trouble in an upload that began early")
            self._error = error
        finally:
            self._done.set()

    async def read(self, span: Span) -> bytes:
        """See GrowingContent."""
        while (wanted := self._final(span)) is None:
            await self._moved.wait()
        if not wanted:
            return b""
        try:
            data = await self._stage.read(wanted, _no_base)
        finally:
            await trio.lowlevel.checkpoint()  # dropped while it was read: it ends here, and what was read is not used
        self._sent(wanted.stop)
        return data

    def _final(self, span: Span) -> Span | None:
        """What of it will not change any more, now taken; None to wait."""
        if self._end is not None:
            part = span.clamp(self._end)
        elif span.stop + self._kept_back <= self._stage.steady:
            part = span
        else:
            return None
        self.taken = max(self.taken, part.stop)
        return part

    async def finish(self, size: int, sent: Callable[[int], None]) -> NodeInfo:
        """The content is complete and journalled: send the rest, and make it visible. Raises what the upload raises;
        when cancelled, it has ended when this returns."""
        self._end = size
        self._sent = sent
        sent(self.taken)
        self.grew()
        try:
            await self._done.wait()
        finally:
            with trio.CancelScope(shield=True):
                if not self._done.is_set():
                    self.drop()
                    await self._done.wait()
        if isinstance(self._error, (RetryableError, NoSpace, Conflict, AlreadyExists, NotFound)):
            raise self._error
        if self._info is None:  # whatever it was, an upload as a whole may fare better, or else tells
            raise RetryableError("an upload that began early could not be finished") from self._error
        return self._info


async def _no_base(span: Span) -> bytes:
    raise Unavailable("a content that is uploaded early has nothing below it")


class EarlyUploads:
    """Where they run."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @property
    def has_room(self) -> bool:
        return self._nursery is not None and len(self._nursery.child_tasks) < _MOST

    def begin(self, upload: EarlyUpload, put: Callable[[EarlyUpload], Awaitable[NodeInfo]]) -> None:
        """Only where ``has_room``."""
        assert self._nursery is not None
        self._nursery.start_soon(upload.run, put)
