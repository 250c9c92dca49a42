"""The native loop on a socket that stands for the device: it keeps the limits of messages as /dev/fuse does."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel

from serpentfs.gateways.fuse.native import loop as native_loop
from serpentfs.gateways.fuse.native.dispatch import Dispatch
from serpentfs.gateways.fuse.native.loop import Loop
from serpentfs.gateways.fuse.native.protocol import BUFFER_SIZE, Opcode
from serpentfs.gateways.fuse.requests import Refused
from serpentfs.gateways.fuse.session import NotForThisLoop

WITHIN = 10.0


class Served:
    """Stands for ``Operations``: ``readlink`` of an inode does what the test put there for it."""

    timeout = 1.0

    def __init__(self) -> None:
        self.initialised = 0
        self.links: dict[int, Callable[[], Awaitable[bytes]]] = {}

    def init(self) -> None:
        self.initialised += 1

    async def readlink(self, inode: int) -> bytes:
        return await self.links[inode]() if inode in self.links else b"link %d" % inode

    async def write(self, handle: int, offset: int, data: memoryview, append: bool) -> int:
        await self.links[handle]()
        return len(bytes(data))


class Kernel:
    """The other end."""

    def __init__(self, end: trio.socket.SocketType) -> None:
        self._end = end
        self._unique = 0

    async def ask(self, opcode: int, body: bytes = b"", *, inode: int = 1, pid: int = 0) -> int:
        """Send a request; its number."""
        self._unique += 2
        header = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, self._unique, inode, 0, 0, pid, 0, 0)
        await self._end.send(header + body)
        return self._unique

    async def answer(self) -> tuple[int, int, bytes]:
        """The next answer: which request's, errno, content."""
        with trio.fail_after(WITHIN):
            message = await self._end.recv(BUFFER_SIZE)
        length, error, unique = struct.unpack_from("=IiQ", message)
        assert length == len(message)
        return unique, -error, message[16:]

    async def asked(self, opcode: int, body: bytes = b"", *, inode: int = 1) -> tuple[int, bytes]:
        """Ask and wait: errno and content."""
        unique = await self.ask(opcode, body, inode=inode)
        answered, number, content = await self.answer()
        assert answered == unique
        return number, content


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Kernel, Served, Loop, trio.Nursery]]:
    device, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    served = Served()
    with device, end:
        device.setblocking(False)
        loop = Loop(device.fileno(), Dispatch(served).handlers, served.init)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            yield Kernel(trio.socket.from_stdlib_socket(end)), served, loop, nursery
            nursery.cancel_scope.cancel()


def init_body(minor: int = 45) -> bytes:
    return struct.pack("=IIII", 7, minor, 131072, 0xFFFFFFFF) + bytes(48)


@pytest.mark.trio
async def test_init() -> None:
    async with running() as (kernel, served, _, _):
        number, content = await kernel.asked(Opcode.INIT, init_body())
        assert number == 0
        assert struct.unpack_from("=II", content) == (7, 31)
        assert served.initialised == 1


@pytest.mark.trio
async def test_a_kernel_that_is_too_old() -> None:
    with pytest.RaisesGroup(NotForThisLoop):
        async with running() as (kernel, served, _, _):
            assert await kernel.asked(Opcode.INIT, init_body(minor=30)) == (errno.EPROTO, b"")
            assert served.initialised == 0
            await trio.sleep_forever()


@pytest.mark.trio
async def test_what_nobody_serves() -> None:
    async with running() as (kernel, _, _, _):
        assert await kernel.asked(46) == (errno.ENOSYS, b"")  # LSEEK
        assert await kernel.asked(9999) == (errno.ENOSYS, b"")
        assert await kernel.asked(Opcode.DESTROY) == (0, b"")


@pytest.mark.trio
async def test_one_after_another_is_one_workers_business() -> None:
    async with running() as (kernel, served, loop, _):
        async def polite() -> bytes:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            return b"polite"

        served.links[7] = polite
        for inode in range(1, 50):
            assert await kernel.asked(Opcode.READLINK, inode=inode) == (
                0, b"polite" if inode == 7 else b"link %d" % inode,
            )  # fmt: skip
        assert loop._workers == 1


def test_the_checkpoints_of_this_trio_are_known() -> None:
    checkpoint = trio.lowlevel.cancel_shielded_checkpoint()  # noqa: ASYNC105  (looked at, not run)
    assert native_loop._MERE_TURN is checkpoint.send(None)
    checkpoint.close()


@pytest.mark.trio
async def test_many_requests_that_are_there_at_once() -> None:
    async with running() as (kernel, _, _, _):
        expected = [(await kernel.ask(Opcode.READLINK, inode=inode), 0, b"link %d" % inode) for inode in range(2, 40)]
        assert [await kernel.answer() for _ in expected] == expected


@pytest.mark.trio
async def test_who_waits_does_not_hold_up_the_next() -> None:
    async with running() as (kernel, served, _, _):
        go = trio.Event()

        async def waiting() -> bytes:
            await go.wait()
            return b"late"

        served.links[7] = waiting
        first = await kernel.ask(Opcode.READLINK, inode=7)
        for _ in range(3):
            assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")
        go.set()
        assert await kernel.answer() == (first, 0, b"late")


@pytest.mark.trio
async def test_the_data_of_a_write_stays_while_its_handler_waits() -> None:
    async with running() as (kernel, served, _, _):
        go = trio.Event()
        seen: list[bytes] = []

        async def write(handle: int, offset: int, data: memoryview, append: bool) -> int:
            await go.wait()
            seen.append(bytes(data))
            return len(data)

        served.write = write  # type: ignore[method-assign]
        pieces = [bytes([number]) * 100_000 for number in range(5)]
        for piece in pieces:
            await kernel.ask(Opcode.WRITE, struct.pack("=QQIIQII", 1, 0, len(piece), 0, 0, 0, 0) + piece)
        assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")
        go.set()
        for _ in pieces:
            _, number, content = await kernel.answer()
            assert (number, content) == (0, struct.pack("=II", 100_000, 0))
        assert sorted(seen) == pieces


@pytest.mark.trio
async def test_more_that_wait_than_there_may_be_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_loop, "_MOST_WORKERS", 3)
    async with running() as (kernel, served, loop, _):
        go = trio.Event()

        async def waiting() -> bytes:
            await go.wait()
            return b"late"

        served.links[7] = waiting
        expected = {await kernel.ask(Opcode.READLINK, inode=7) for _ in range(10)}
        with trio.fail_after(WITHIN):
            while len(loop._waiting) < 3:  # noqa: ASYNC110  (nothing tells it)
                await trio.sleep(0.001)
        assert loop._workers == 3
        go.set()
        assert {(await kernel.answer())[0] for _ in range(10)} == expected
        assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")


@pytest.mark.trio
async def test_a_handler_that_never_ends_but_is_polite() -> None:
    async with running() as (kernel, served, _, _):
        done = False

        async def waiting() -> bytes:
            while not done:
                await trio.lowlevel.checkpoint()
            return b"late"

        served.links[7] = waiting
        first = await kernel.ask(Opcode.READLINK, inode=7)
        assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")
        done = True
        assert await kernel.answer() == (first, 0, b"late")


@pytest.mark.trio
async def test_others_get_turns_while_requests_never_cease(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = 0

    def reading(descriptor: int, buffers: Any) -> int:
        request = struct.pack("=IIQQIIIHH", 40, Opcode.READLINK, 2, 8, 0, 0, 0, 0, 0)
        buffers[0][:40] = request
        return len(request)

    def writing(descriptor: int, buffers: Any) -> int:
        nonlocal answers
        answers += 1
        return sum(map(len, buffers))

    monkeypatch.setattr(os, "readv", reading)
    monkeypatch.setattr(os, "writev", writing)
    monkeypatch.setattr(native_loop, "_NOBODYS_TURN", 0.0)
    async with running() as (_, _, loop, _):
        with trio.fail_after(WITHIN):
            for _ in range(200):
                await trio.lowlevel.checkpoint()
            assert answers > 100
            assert loop._slice == native_loop._SHORT_SLICE
            monkeypatch.setattr(native_loop, "_NOBODYS_TURN", WITHIN)
            while loop._slice < native_loop._SLICE:  # noqa: ASYNC110  (nothing tells it)
                await trio.sleep(0.001)
        monkeypatch.undo()


@pytest.mark.trio
async def test_faults() -> None:
    """Neither a handler's nor one in what was asked ends the loop."""
    async with running() as (kernel, served, _, _):
        async def refused() -> bytes:
            raise Refused(errno.EPERM)

        async def refused_later() -> bytes:
            await trio.sleep(0.001)
            raise Refused(errno.EPERM)

        async def broken() -> bytes:
            await trio.sleep(0.001)
            raise RuntimeError("a fault")

        served.links |= {6: broken, 7: refused, 8: refused_later}
        assert await kernel.asked(Opcode.READLINK, inode=6) == (errno.EIO, b"")
        assert await kernel.asked(Opcode.READLINK, inode=7) == (errno.EPERM, b"")
        assert await kernel.asked(Opcode.READLINK, inode=8) == (errno.EPERM, b"")
        assert await kernel.asked(Opcode.LOOKUP, b"no end") == (errno.EIO, b"")
        assert await kernel.asked(Opcode.READLINK, inode=9) == (0, b"link 9")


def waits_forever(begun: trio.Event) -> Callable[[], Awaitable[bytes]]:
    async def waiting() -> bytes:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    return waiting


@pytest.mark.trio
async def test_a_cancelled_loop_answers_what_it_has_begun_and_runs_again() -> None:
    async with running() as (kernel, served, loop, nursery):
        for _ in range(2):
            begun = trio.Event()
            served.links[7] = waits_forever(begun)
            first = await kernel.ask(Opcode.READLINK, inode=7)
            await begun.wait()
            loop._nursery.cancel_scope.cancel()
            assert await kernel.answer() == (first, errno.ENOTCONN, b"")
            nursery.start_soon(loop.run)
            assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")


@pytest.mark.trio
async def test_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = {4242: False}
    monkeypatch.setattr(native_loop, "is_being_killed", killed.__getitem__)
    monkeypatch.setattr(native_loop, "_LOOK_AGAIN", 0.005)
    async with running() as (kernel, served, loop, _):
        for is_killed_at_once in (True, False, False):
            killed[4242] = is_killed_at_once
            begun = trio.Event()
            served.links[7] = waits_forever(begun)
            first = await kernel.ask(Opcode.READLINK, inode=7, pid=4242)
            await begun.wait()
            await kernel.ask(Opcode.INTERRUPT, struct.pack("=Q", first))
            if not is_killed_at_once:
                await trio.sleep(0.02)
                assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")
                killed[4242] = True
            assert await kernel.answer() == (first, errno.EINTR, b"")
        await kernel.ask(Opcode.INTERRUPT, struct.pack("=Q", 12345))  # long answered
        for inode in range(8, 20):
            assert await kernel.asked(Opcode.READLINK, inode=inode) == (0, b"link %d" % inode)
        assert not loop._waiting


@pytest.mark.trio
async def test_who_was_given_up_too_late_does_not_serve_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler in a thread ends as if nobody had been killed; what comes next is not cancelled in its place."""
    monkeypatch.setattr(native_loop, "is_being_killed", lambda pid: True)
    async with running() as (kernel, served, loop, _):
        for _ in range(3):
            begun, go = trio.Event(), trio.Event()

            async def in_a_thread(begun: trio.Event = begun, go: trio.Event = go) -> bytes:
                begun.set()
                with trio.CancelScope(shield=True):
                    await go.wait()
                return b"late"

            async def slow() -> bytes:
                await trio.sleep(0.01)
                return b"innocent"

            served.links[7], served.links[8] = in_a_thread, slow
            first = await kernel.ask(Opcode.READLINK, inode=7, pid=4242)
            await begun.wait()
            await kernel.ask(Opcode.INTERRUPT, struct.pack("=Q", first))
            await trio.testing.wait_all_tasks_blocked()
            go.set()
            second = await kernel.ask(Opcode.READLINK, inode=8)
            answers = {await kernel.answer(), await kernel.answer()}
            assert answers == {(first, 0, b"late"), (second, 0, b"innocent")}
            assert await kernel.asked(Opcode.READLINK, inode=9) == (0, b"link 9")
        assert not loop._waiting


@pytest.mark.trio
async def test_an_interrupt_of_what_is_then_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_loop, "is_being_killed", lambda pid: False)
    async with running() as (kernel, served, _, _):
        go = trio.Event()

        async def waiting() -> bytes:
            await go.wait()
            return b"late"

        served.links[7] = waiting
        first = await kernel.ask(Opcode.READLINK, inode=7)
        await kernel.ask(Opcode.INTERRUPT, struct.pack("=Q", first))
        assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")
        go.set()
        assert await kernel.answer() == (first, 0, b"late")


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
@pytest.mark.trio
async def test_the_end_of_the_connection(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Also of what waits: nobody is left who waits for an answer."""
    gone = False
    readv = os.readv

    def reading(descriptor: int, buffers: Any) -> int:
        if gone:
            raise OSError(number, os.strerror(number))
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", reading)
    async with running() as (kernel, served, loop, nursery):
        begun = trio.Event()
        served.links[7] = waits_forever(begun)
        await kernel.ask(Opcode.READLINK, inode=7)
        await begun.wait()
        gone = True
        await kernel.ask(Opcode.READLINK, inode=8)
        with trio.fail_after(WITHIN):
            while nursery.child_tasks:  # noqa: ASYNC110  (the run itself is the only child)
                await trio.sleep(0.001)
        assert loop._workers == 0


@pytest.mark.trio
async def test_a_request_that_vanished_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client was killed between the news of it and the reading."""
    readv = os.readv
    vanished = 2

    def reading(descriptor: int, buffers: Any) -> int:
        nonlocal vanished
        if vanished:
            vanished -= 1
            raise OSError(errno.ENOENT, "") if vanished else BlockingIOError(errno.EAGAIN, "")
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", reading)
    async with running() as (kernel, _, _, _):
        assert await kernel.asked(Opcode.READLINK, inode=8) == (0, b"link 8")
