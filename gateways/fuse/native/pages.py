"""Files as pages of the kernel, for doors that send them: see ``gateways.sending``.

A filesystem that nobody but ``page_sender`` sees has one file for each content that is being sent, named by the
content's id. Contents never change under their ids, so what the kernel keeps of them is never stale, and nothing is
ever invalidated; a file that is being written to has no content in this sense and is sent another way.

Its requests are answered like those of a mount, by the handle of a door that sends the content at this moment.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from array import array
from collections import OrderedDict, defaultdict
from contextlib import suppress
from subprocess import DEVNULL
from types import TracebackType
from typing import Self

import trio

from serpentfs.errors import SerpentError, first_of
from serpentfs.gateways.fuse.native import page_sender, protocol
from serpentfs.gateways.fuse.native.dispatch import (
    Answer,
    Handler,
    attributes_answer,
    content_answer,
    entry_answer,
)
from serpentfs.gateways.fuse.native.loop import Loop
from serpentfs.gateways.fuse.native.protocol import Header, Opcode
from serpentfs.gateways.fuse.requests import Node, Refused
from serpentfs.gateways.fuse.session import NotForThisLoop
from serpentfs.model import ContentId, HandleId, Span
from serpentfs.vfs.core import Vfs

log = logging.getLogger(__name__)

_ROOT = 1
_FOR_EVER = (10**9, 0)
"""Seconds and nanoseconds that the kernel may keep what it knows of a file."""
_LEAST = 256 * 1024
"""Bytes below which the way to another process costs more than it saves."""
_MOST_AT_ONCE = 64
"""Stretches under way; each has a thread of the sender."""
_MOST_REMEMBERED = 4096
"""Contents of which it is known that they were sent."""
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""Nothing of ours is the sender's business; without this every one of its threads has a heap (mallopt(3))."""
_END_PATIENCE = 5.0
"""Seconds that the sender has to end by itself."""
_PAUSE = 5.0
"""Seconds between the end of a sender that nobody wanted to end and the beginning of the next."""


class PagedFile:
    """See ``gateways.sending.PagedFile``. To the kernel's requests it answers with what its handle reads."""

    def __init__(self, pages: KernelPages, vfs: Vfs, handle: HandleId) -> None:
        self._pages = pages
        self._vfs = vfs
        self._handle = handle
        self.size = vfs.attributes_of(handle).size
        self._content = None if self.size < _LEAST else vfs.content_of(handle)
        self.is_filling = False
        self._is_known = False
        """The kernel has an inode that can be filled."""
        self._reads: set[trio.CancelScope] = set()
        self._last_read_ended = trio.Event()
        self._ending = False
        self.position = 0
        """Where the last read ended: of two clients of one content, each is served by its own handle."""

    async def __aenter__(self) -> Self:
        if self._content is not None:
            self.is_filling = self._pages.add(self._content, self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._content is None:
            return
        self._pages.remove(self._content, self)
        # What the kernel reads ahead nobody waits for any more.
        self._ending = True
        for scope in self._reads:
            scope.cancel()
        if self._reads:
            with trio.CancelScope(shield=True):
                await self._last_read_ended.wait()

    def is_for_kernel(self, span: Span) -> bool:
        """See ``gateways.sending.PagedFile.is_for_kernel``."""
        return self._content is not None and not self.is_filling and len(span) >= _LEAST

    def _unchanged(self) -> ContentId | None:
        if self._content is None or self._vfs.content_of(self._handle) != self._content:
            return None
        return self._content

    async def send(self, descriptor: int, span: Span) -> int:
        """See ``gateways.sending.PagedFile.send``."""
        content = self._unchanged()
        if content is None or not self.is_for_kernel(span):
            return 0
        return await self._pages.send(content, descriptor, span)

    async def keep(self, offset: int, data: bytes) -> None:
        """See ``gateways.sending.PagedFile.keep``."""
        content = self._unchanged()
        if content is None or not self.is_filling:
            return
        if not self._is_known:
            self._is_known = await self._pages.make_known(content)
        if self._is_known:
            self._is_known = self._pages.fill(content, offset, data)

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """For the kernel. Refused: who sends the file finds out why it cannot be read, or that it is another now."""
        if self._unchanged() is None:
            raise Refused(errno.EIO)
        self.position = offset + size
        data = self._vfs.read_nowait(self._handle, offset, size)
        if data is not None:
            return data
        with trio.CancelScope() as scope:
            self._reads.add(scope)
            try:
                data = await self._vfs.read(self._handle, offset, size)
            except SerpentError as error:
                log.debug("a file that is being sent cannot be read: %s", error)
            finally:
                self._reads.discard(scope)
                if self._ending and not self._reads:
                    self._last_read_ended.set()
        if data is None or self._ending or self._unchanged() is None:
            raise Refused(errno.EIO)
        return data


class KernelPages:
    """The filesystem, and the process that sends its files."""

    def __init__(self, vfs: Vfs) -> None:
        self._vfs = vfs
        self._files: defaultdict[ContentId, list[PagedFile]] = defaultdict(list)
        """What is on its way to clients."""
        self._were_sent: OrderedDict[ContentId, None] = OrderedDict()
        self._control: trio.socket.SocketType | None = None
        """None when there is none (yet, or any more)."""
        self._last_number = 0
        self._under_way: dict[int, _Stretch] = {}
        self._device: int | None = None
        self._process: trio.Process | None = None
        self._wanted = trio.Event()

    def prepare(self) -> None:
        self._wanted.set()

    def file(self, handle: HandleId) -> PagedFile:
        return PagedFile(self, self._vfs, handle)

    def add(self, content: ContentId, file: PagedFile) -> bool:
        """A file begins to be sent. Whether it fills the pages, or is sent from them: the same for all that are sent at
        a time. A page that is being filled while it is read would have the kernel wait for an answer to the read, here
        where it is to be given."""
        others = self._files[content]
        fills = others[0].is_filling if others else content not in self._were_sent
        others.append(file)
        self._were_sent[content] = None
        self._were_sent.move_to_end(content)
        if len(self._were_sent) > _MOST_REMEMBERED:
            self._were_sent.popitem(last=False)
        return fills

    def remove(self, content: ContentId, file: PagedFile) -> None:
        others = self._files[content]
        others.remove(file)
        if not others:
            del self._files[content]

    async def make_known(self, content: ContentId) -> bool:
        """Have the kernel make an inode for a content; whether there is one."""
        stretch = await self._ask(content, None, Span(0, 0))
        return stretch is not None and stretch.reason == 0

    def fill(self, content: ContentId, offset: int, data: bytes) -> bool:
        """Give the kernel what it would read. False when it does not take it (any more)."""
        if self._device is None:
            return False
        try:
            os.writev(self._device, (protocol.store(_inode(content), offset, len(data)), data))
        except OSError as error:
            log.debug("the kernel does not keep a file: %s", error)
            return False
        return True

    async def send(self, content: ContentId, descriptor: int, span: Span) -> int:
        """As ``PagedFile.send``."""
        stretch = await self._ask(content, descriptor, span)
        if stretch is None:
            return 0
        if stretch.reason not in (0, errno.EIO):
            raise ConnectionError(stretch.reason, os.strerror(stretch.reason))
        return stretch.sent

    async def _ask(self, content: ContentId, descriptor: int | None, span: Span) -> _Stretch | None:
        """None when the sender has no time, or there is none."""
        if self._control is None or len(self._under_way) >= _MOST_AT_ONCE:
            return None
        self._last_number += 1
        number = self._last_number
        request = page_sender.REQUEST.pack(number, content, span.start, span.stop)
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))]
        stretch = self._under_way[number] = _Stretch()
        try:
            await self._control.sendmsg([request], rights)
            await stretch.ended.wait()
        except OSError as error:
            log.debug("the process that sends files does not take a request: %s", error)
            return None
        finally:
            del self._under_way[number]
        return stretch

    # --- the sender

    @property
    def sender(self) -> int | None:
        """The process that sends, while there is one."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Until cancelled, from ``prepare`` on. Where the system does not allow it, nothing is sent this way, and it
        ends."""
        if sys.platform != "linux":
            return
        await self._wanted.wait()
        try:
            while True:
                await self._run_sender()
                log.warning("the process that sends files has ended; until there is another they are sent without it")
                await trio.sleep(_PAUSE)
        except* (OSError, NotForThisLoop) as errors:
            log.info("the kernel's pages are not used for sending files: %s", first_of(errors))

    async def _run_sender(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as control:
            with theirs:
                self._process = await _start_sender(theirs)
            try:
                await self._serve(control)
            finally:
                self._give_up()
                control.close()
                await _end_sender(self._process)
                self._process = None

    async def _serve(self, control: trio.socket.SocketType) -> None:
        """Until the sender is gone. OSError when it cannot begin."""
        room = socket.CMSG_LEN(array("i").itemsize)
        said, ancillary, _, _ = await control.recvmsg(256, room, socket.MSG_CMSG_CLOEXEC)
        if said != page_sender.READY or not ancillary:
            raise OSError(_reason(said))
        self._device = array("i", ancillary[0][2])[0]
        os.set_blocking(self._device, False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Loop(self._device, self._handlers(), self._begin).run)
            said = await control.recv(256)
            if said != page_sender.READY:
                raise OSError(_reason(said))
            self._control = control
            with suppress(ConnectionError):
                while done := await control.recv(page_sender.DONE.size):
                    number, sent, reason = page_sender.DONE.unpack(done)
                    if number in self._under_way:
                        self._under_way[number].end(sent, reason)
            nursery.cancel_scope.cancel()

    def _give_up(self) -> None:
        """No thread of the sender waits for an answer any more, and no door for the sender."""
        self._control = None
        if self._device is not None:
            os.close(self._device)
            self._device = None
        for stretch in self._under_way.values():
            stretch.end(0, errno.EPIPE)
        self._were_sent.clear()   # the pages go with the filesystem

    # --- the filesystem

    def _begin(self) -> None:
        """There is nothing to be done when the kernel has said what it can."""

    def _handlers(self) -> dict[int, Handler]:
        # OPEN is not here: the kernel then asks no more for it, and keeps the pages of files from one to the next.
        return {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READ: self._read,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._forget,
        }

    async def _lookup(self, header: Header, body: memoryview) -> Answer:
        [name] = protocol.names(body, 1)
        return entry_answer(header, self._node(ContentId(int(name))), _FOR_EVER)

    async def _getattr(self, header: Header, body: memoryview) -> Answer:
        if header.inode == _ROOT:
            node = Node(_ROOT, stat.S_IFDIR | 0o500, 2, os.geteuid(), os.getegid(), 0, 0, 0, 0)
        else:
            node = self._node(_content(header.inode))
        return attributes_answer(header, node, _FOR_EVER)

    async def _read(self, header: Header, body: memoryview) -> Answer:
        _, offset, size = protocol.READ_IN.unpack_from(body)
        files = self._files_of(_content(header.inode))
        nearest = min(files, key=lambda file: abs(file.position - offset))
        return content_answer(header, await nearest.read(offset, size))

    async def _forget(self, header: Header, body: memoryview) -> None:
        """Nothing is kept here of what the kernel knows."""

    def _node(self, content: ContentId) -> Node:
        size = self._files_of(content)[0].size
        return Node(_inode(content), stat.S_IFREG | 0o400, 1, os.geteuid(), os.getegid(), size, 0, 0, 0)

    def _files_of(self, content: ContentId) -> list[PagedFile]:
        """At least one. Refused: nobody sends it at this moment."""
        if content not in self._files:
            raise Refused(errno.ENOENT)
        return self._files[content]


def _inode(content: ContentId) -> int:
    return content + _ROOT


def _content(inode: int) -> ContentId:
    return ContentId(inode - _ROOT)


class _Stretch:
    """A request to the sender."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.sent = 0
        self.reason = 0

    def end(self, sent: int, reason: int) -> None:
        self.sent, self.reason = sent, reason
        self.ended.set()


def _reason(said: bytes) -> str:
    return said.decode(errors="replace") or "the process for it does not start"


async def _start_sender(control: socket.socket) -> trio.Process:
    # So that posix_spawn(3) does it: this process stands still until what it forks has closed descriptors of its own,
    # and one of a file in our mount closes when we have answered.
    return await trio.lowlevel.open_process(
        [sys.executable, "-I", "-S", page_sender.__file__],
        stdin=control.fileno(), stdout=DEVNULL, env=_ENVIRONMENT, close_fds=False,
    )  # fmt: skip


async def _end_sender(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        with trio.move_on_after(_END_PATIENCE):
            await process.wait()
        process.kill()
        await process.wait()
