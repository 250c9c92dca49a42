"""Reads the kernel's requests and answers them.

A worker reads a request and runs its handler itself. Most handlers end without ever waiting; then the worker goes on
with the next request, without a task switch between, and only a device that stays empty sends it to trio's wait for
readiness. Only when a handler does wait, another worker is called up to read on. So a worker is a task that a handler
waits in, and there are few: one more than handlers that wait.

That is seen by running the handler by hand up to its first wait (``coroutine.send``): it runs in its worker's task
from the beginning, so nothing is different for trio. A checkpoint that only offers a turn to others (taking a free
lock is one) is not taken for a wait: the loop gives turns by the clock.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import select
import time
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any, TypeAlias

import trio

from serpentfs.gateways.fuse.native import protocol
from serpentfs.gateways.fuse.native.dispatch import Answer, Handler
from serpentfs.gateways.fuse.native.interrupts import is_being_killed
from serpentfs.gateways.fuse.native.protocol import Header, InitFlag, Opcode
from serpentfs.gateways.fuse.requests import Refused
from serpentfs.gateways.fuse.session import NotForThisLoop

log = logging.getLogger(__name__)

Handling: TypeAlias = Coroutine[Any, Any, Answer]

_MOST_WORKERS = 512
"""Handlers that wait at the same time; beyond them, requests wait in the kernel."""
_SPARE_WORKERS = 4
"""Kept for the next handler that waits; each keeps a buffer, of which the kernel has perhaps filled all (1 MiB)."""
_SLICE, _SHORT_SLICE = 0.001, 0.00005
"""Seconds after which a worker that never waits lets other tasks run: while none wants to, and while one does. A door
needs a dozen turns for one of its requests."""
_NOBODYS_TURN = 0.00005
"""Seconds: a turn that takes no longer was nobody's."""
_LINGER = 0.00005
"""Seconds that the loop looks again and again for the next request of a program that does one thing after another:
going to sleep for it and being woken takes as long, and delays that program each time."""
_LOOK_AGAIN = 0.5
"""Seconds between two looks at whether a program that got a signal is being killed."""

_WANTED = (
    InitFlag.ASYNC_READ | InitFlag.ATOMIC_O_TRUNC | InitFlag.BIG_WRITES | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS | InitFlag.ASYNC_DIO | InitFlag.PARALLEL_DIROPS | InitFlag.MAX_PAGES
)  # fmt: skip
_BACKGROUND, _CONGESTED = 64, 48
"""Read-ahead requests that the kernel has under way at a time (12 by default: eight readers of a far store want more),
and from how many on it slows down."""

_ANSWERED_TOO_LATE = (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED)


class _Waiting:
    """A request whose handler waits."""

    __slots__ = ("interrupted", "pid", "scope")

    def __init__(self, pid: int, scope: trio.CancelScope) -> None:
        self.pid = pid
        self.scope = scope
        self.interrupted = False


_TURN_TAKEN = types.SimpleNamespace(unwrap=lambda: None)
"""What trio answers to a turn that was offered, as often as it is wanted: each ``outcome.Value`` can be looked at only
once, and making one takes longer than the rest of such a turn."""


def _learn_what_a_mere_turn_is() -> object:
    """What a coroutine yields to trio to let others have a turn and nothing else. Something that is never yielded when
    this trio does not go on with it as it is done here: then every turn is offered."""
    checkpoint = trio.lowlevel.cancel_shielded_checkpoint()  # noqa: ASYNC105  (looked at, not run)
    turn: object = checkpoint.send(None)
    try:
        checkpoint.send(_TURN_TAKEN)
    except StopIteration:
        return turn
    except (AttributeError, TypeError):
        pass
    checkpoint.close()
    return object()


_MERE_TURN = _learn_what_a_mere_turn_is()


def _advance(handler: Handling, happened: Any, until: float) -> Any:
    """Run a handler on to where it waits, and answer with what for. StopIteration when it ends."""
    trap = handler.send(happened)
    while trap is _MERE_TURN and time.perf_counter() < until:
        trap = handler.send(_TURN_TAKEN)
    return trap


@types.coroutine
def _to_its_end(handler: Handling, trap: Any) -> Generator[Any, Any, Answer]:
    """Run a handler that has begun and waits for ``trap``, in the same task."""
    try:
        while True:
            try:
                happened = yield trap
            except BaseException as error:  # noqa: BLE001  (it is the handler's)
                trap = handler.throw(error)
            else:
                trap = _advance(handler, happened, time.perf_counter() + _SLICE)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer


class Loop:
    """Answers what comes through one descriptor of /dev/fuse, which does not block, by the handler of its opcode. What
    has none is ENOSYS, which the kernel remembers where it can do without. ``began`` is called when the kernel has
    said what it can; ``abilities`` are what these handlers can besides what all do."""

    def __init__(
        self,
        descriptor: int,
        handlers: Mapping[int, Handler],
        began: Callable[[], None],
        abilities: InitFlag = InitFlag(0),
    ) -> None:
        self._descriptor = descriptor
        self._handlers = handlers
        self._began = began
        self._wanted = _WANTED | abilities
        self._readiness = select.poll()
        self._readiness.register(descriptor, select.POLLIN)
        self._nursery: trio.Nursery
        self._refusal: NotForThisLoop | None = None
        self._idle = trio.lowlevel.ParkingLot()
        self._workers = 0
        self._reader_is_due = False
        """A worker waits for the device to become readable, or is about to look."""
        self._waiting: dict[int, _Waiting] = {}
        self._slice = _SLICE

    async def run(self) -> None:
        """Until the kernel ends the connection. A cancelled loop answers what it has begun, and may run again. Raises
        NotForThisLoop."""
        self._workers = 0
        self._reader_is_due = False
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._call_up()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    # --- workers

    def _call_up(self) -> None:
        """See to it that somebody reads the next request."""
        if self._reader_is_due:
            return
        if len(self._idle):
            self._reader_is_due = True
            self._idle.unpark()
        elif self._workers < _MOST_WORKERS:
            self._reader_is_due = True
            self._workers += 1
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        # Of its own pages, so that only those are taken which requests really fill.
        buffer = memoryview(mmap.mmap(-1, protocol.BUFFER_SIZE))
        try:
            with trio.CancelScope() as scope:
                while True:
                    self._reader_is_due = False
                    await self._serve_ready(buffer, scope)
                    if scope.cancel_called:
                        break
                    if not self._reader_is_due:
                        self._reader_is_due = True
                        await trio.lowlevel.wait_readable(self._descriptor)
                    elif len(self._idle) < _SPARE_WORKERS:
                        await self._idle.park()
                    else:
                        return
        finally:
            self._workers -= 1
        self._call_up()  # the scope was used to give a request up: another worker takes this one's place

    async def _serve_ready(self, buffer: memoryview, scope: trio.CancelScope) -> None:
        """Answer requests until none is there."""
        until = time.perf_counter() + self._slice
        while True:
            try:
                size = os.readv(self._descriptor, (buffer,))
            except BlockingIOError:
                if self._next_is_near():
                    continue
                return
            except OSError as error:
                if error.errno == errno.ENOENT:  # it was given up just now
                    continue
                if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                    raise
                # Unmounted: nobody waits for the answers of what is under way.
                self._nursery.cancel_scope.cancel()
                return
            waited = await self._serve(buffer[:size], scope, until)
            now = time.perf_counter()
            if waited:
                if scope.cancel_called:  # too late for the request, which has been answered: not for those that follow
                    return
                until = now + self._slice
            elif now > until:
                until = await self._give_turn() + self._slice

    def _next_is_near(self) -> bool:
        """Look for the next request for a moment, unless a handler waits for its turn; whether there is one."""
        if self._waiting:
            return False
        until = time.perf_counter() + _LINGER
        while not self._readiness.poll(0):
            if time.perf_counter() > until:
                return False
        return True

    async def _give_turn(self) -> float:
        """Let other tasks run once; the time after it. They get turns more often while they take them."""
        began = time.perf_counter()
        await trio.lowlevel.checkpoint()
        ended = time.perf_counter()
        self._slice = _SHORT_SLICE if ended - began > _NOBODYS_TURN else min(2 * self._slice, _SLICE)
        return ended

    # --- one request

    async def _serve(self, request: memoryview, scope: trio.CancelScope, until: float) -> bool:
        """Answer a request; the result tells whether its handler had to wait. Before the time ``until`` it need not
        let others have a turn."""
        header = Header._make(protocol.IN_HEADER.unpack_from(request))
        body = request[protocol.IN_HEADER.size :]
        handler = self._handlers.get(header.opcode)
        if handler is None:
            self._serve_session(header, body)
            return False
        waited = False
        answer: Answer
        handling = handler(header, body)
        try:
            try:
                trap = _advance(handling, None, until)
            except StopIteration as ended:
                answer = ended.value
            else:
                waited = True
                answer = await self._wait_for(handling, trap, header, scope)
        except Refused as refused:
            answer = protocol.error_answer(header.unique, refused.errno)
        except Exception:
            log.exception("a request (%d) that is not understood", header.opcode)
            answer = protocol.error_answer(header.unique, errno.EIO)
        if answer is not None:
            self._send(answer)
        return waited

    async def _wait_for(self, handling: Handling, trap: Any, header: Header, scope: trio.CancelScope) -> Answer:
        waiting = self._waiting[header.unique] = _Waiting(header.pid, scope)
        self._call_up()
        try:
            return await _to_its_end(handling, trap)
        except trio.Cancelled:
            number = errno.EINTR if waiting.interrupted else errno.ENOTCONN
            self._send(protocol.error_answer(header.unique, number))
            raise
        finally:
            del self._waiting[header.unique]

    def _send(self, answer: Answer) -> None:
        try:
            if isinstance(answer, tuple):
                os.writev(self._descriptor, answer)
            elif answer is not None:
                os.write(self._descriptor, answer)
        except OSError as error:
            if error.errno not in _ANSWERED_TOO_LATE:
                log.error("the kernel does not take an answer: %s", error)

    def _serve_session(self, header: Header, body: memoryview) -> None:
        """Requests that are about the session itself, and those that are served by nobody."""
        match header.opcode:
            case Opcode.INTERRUPT:
                [unique] = protocol.NUMBER.unpack_from(body)
                self._interrupt(unique)
            case Opcode.INIT:
                self._init(header, body)
            case Opcode.DESTROY:
                self._send(protocol.error_answer(header.unique, 0))
            case _:
                self._send(protocol.error_answer(header.unique, errno.ENOSYS))

    def _init(self, header: Header, body: memoryview) -> None:
        init = protocol.read_init(body)
        if (init.major, init.minor) < (protocol.MAJOR, protocol.MINOR):
            self._refusal = NotForThisLoop(
                f"the kernel speaks FUSE {init.major}.{init.minor}, the native loop {protocol.MAJOR}.{protocol.MINOR}"
            )
            self._send(protocol.error_answer(header.unique, errno.EPROTO))
            self._nursery.cancel_scope.cancel()
            return
        content = protocol.init_body(init, wanted=self._wanted, background=_BACKGROUND, congested=_CONGESTED)
        self._send(protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + len(content), 0, header.unique) + content)
        self._began()

    # --- interrupts

    def _interrupt(self, unique: int) -> None:
        """A program got a signal while it waits. Answering EINTR is for those that are being killed: other programs
        do not expect that of files. The kernel does not tell again when a harmless signal is followed by another."""
        waiting = self._waiting.get(unique)
        if waiting is None:
            return  # it has been answered
        if is_being_killed(waiting.pid):
            self._give_up(waiting)
        else:
            self._nursery.start_soon(self._look_after, unique, waiting)

    async def _look_after(self, unique: int, waiting: _Waiting) -> None:
        while True:
            await trio.sleep(_LOOK_AGAIN)
            if self._waiting.get(unique) is not waiting:
                return
            if is_being_killed(waiting.pid):
                self._give_up(waiting)
                return

    @staticmethod
    def _give_up(waiting: _Waiting) -> None:
        waiting.interrupted = True
        waiting.scope.cancel()
