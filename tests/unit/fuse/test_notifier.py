from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from serpentfs.gateways.fuse import MountOptions
from serpentfs.gateways.fuse.notifier import Notifier
from serpentfs.gateways.fuse.operations import Operations
from tests.fakes.memory_vfs import MemoryVfs

TIMEOUT = 20.0


class Kernel:
    """Holds every call back until let go, and tells what was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.threads: set[int] = set()
        self.error: OSError | None = None
        self.called = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def _call(self, *call: object) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        self.called.release()
        assert self.let_go.acquire(timeout=TIMEOUT)
        if self.error is not None:
            raise self.error

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        self._call(ino, data)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self._call(parent, name)

    def wait_called(self) -> None:
        assert self.called.acquire(timeout=TIMEOUT)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def notifier(kernel: Kernel) -> Iterator[Notifier]:
    notifier = Notifier(kernel, limit=5)
    notifier.start()
    yield notifier
    notifier.stop()
    kernel.let_go.release(100)
    assert notifier.wait_stopped(TIMEOUT)


def finish(kernel: Kernel, calls: int) -> None:
    """Let this many further calls through and wait until they have been made."""
    for _ in range(calls):
        kernel.let_go.release()
        kernel.wait_called()
    kernel.let_go.release()


def test_calls_are_made_in_order_from_one_thread(kernel: Kernel, notifier: Notifier) -> None:
    notifier.inode_changed(7, data=True)
    notifier.entry_changed(1, b"name")
    notifier.inode_changed(8, data=False)
    kernel.wait_called()
    finish(kernel, 2)
    assert kernel.calls == [(7, True), (1, b"name"), (8, False)]
    assert len(kernel.threads) == 1
    assert threading.get_ident() not in kernel.threads


def test_what_is_pending_is_merged(kernel: Kernel, notifier: Notifier) -> None:
    notifier.inode_changed(1, data=False)
    kernel.wait_called()  # from here on everything is pending
    for _ in range(3):
        notifier.inode_changed(2, data=False)
        notifier.entry_changed(2, b"name")
    notifier.inode_changed(2, data=True)
    notifier.inode_changed(2, data=False)
    notifier.inode_changed(1, data=False)  # not merged with the one under way, which may have been too early
    finish(kernel, 3)
    assert kernel.calls == [(1, False), (2, True), (2, b"name"), (1, False)]


def test_what_does_not_fit_is_dropped_and_told_once(
    kernel: Kernel, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    notifier.inode_changed(0, data=False)
    kernel.wait_called()
    for ino in range(1, 9):
        notifier.inode_changed(ino, data=True)
    finish(kernel, 5)
    assert [call[0] for call in kernel.calls] == [0, 1, 2, 3, 4, 5]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_pages_go_when_nobody_reads_them(kernel: Kernel, notifier: Notifier) -> None:
    for _ in range(2):
        notifier.read_began(7)
    notifier.inode_changed(7, data=True)
    notifier.inode_changed(8, data=True)
    kernel.wait_called()
    finish(kernel, 1)
    assert kernel.calls == [(7, False), (8, True)]
    notifier.read_ended(7)
    notifier.read_began(9)
    notifier.read_ended(9)
    assert not kernel.called.acquire(timeout=0.05)
    notifier.read_ended(7)
    kernel.wait_called()
    kernel.let_go.release()
    assert kernel.calls[2:] == [(7, True)]


def test_pages_go_in_the_end_though_somebody_always_reads(
    kernel: Kernel, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serpentfs.gateways.fuse.notifier._DEFERRED_AT_MOST", 0.05)
    notifier.read_began(7)
    notifier.inode_changed(7, data=True)
    kernel.wait_called()
    finish(kernel, 1)
    assert kernel.calls == [(7, False), (7, True)]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), OSError(20, "not a folder")])
def test_the_kernel_s_refusals_end_nothing(kernel: Kernel, notifier: Notifier, error: OSError) -> None:
    kernel.error = error
    notifier.inode_changed(1, data=False)
    notifier.inode_changed(2, data=False)
    kernel.wait_called()
    finish(kernel, 1)
    assert len(kernel.calls) == 2


def test_a_stuck_call_shows(kernel: Kernel, notifier: Notifier) -> None:
    assert notifier.stuck_for() == 0
    notifier.inode_changed(1, data=False)
    kernel.wait_called()
    began = time.monotonic()
    while notifier.stuck_for() < 0.05:
        assert time.monotonic() < began + TIMEOUT
    kernel.let_go.release()
    while notifier.stuck_for() != 0:
        assert time.monotonic() < began + TIMEOUT


def test_stop_drops_what_is_pending(kernel: Kernel, notifier: Notifier) -> None:
    notifier.inode_changed(1, data=False)
    kernel.wait_called()
    notifier.inode_changed(2, data=False)
    notifier.stop()
    notifier.inode_changed(3, data=False)
    assert not notifier.wait_stopped(0.01)
    kernel.let_go.release()
    assert notifier.wait_stopped(TIMEOUT)
    assert kernel.calls == [(1, False)]


def test_whether_the_kernel_is_behind(kernel: Kernel, notifier: Notifier) -> None:
    notifier.inode_changed(1, data=True)
    kernel.wait_called()
    notifier.inode_changed(2, data=True)
    assert [notifier.is_behind(ino) for ino in (1, 2, 3)] == [True, True, False]
    kernel.let_go.release()
    kernel.wait_called()
    assert [notifier.is_behind(ino) for ino in (1, 2, 3)] == [False, True, False]
    kernel.let_go.release()
    until = time.monotonic() + TIMEOUT
    while notifier.is_behind(2):
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.trio
async def test_a_changed_file_is_opened_once_the_kernel_knows(kernel: Kernel, notifier: Notifier) -> None:
    """Else the new content is shown in the size of the old one."""
    vfs = MemoryVfs()
    ino = vfs.cloud_put("/file", b"content")
    operations = Operations(vfs, MountOptions(Path("/mnt"), name="x"), notifier, owner=(0, 0))
    await operations.open(ino, os.O_RDONLY)
    notifier.inode_changed(ino, data=True)
    kernel.wait_called()
    with trio.move_on_after(0.1):
        await operations.open(ino, os.O_RDONLY)
        raise AssertionError("the kernel does not know yet")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operations.open, ino, os.O_RDONLY)
        await trio.sleep(0.02)
        kernel.let_go.release()
    await operations.release_all()


@pytest.mark.trio
async def test_a_file_is_opened_though_the_kernel_cannot_be_told(kernel: Kernel, notifier: Notifier) -> None:
    vfs = MemoryVfs()
    ino = vfs.cloud_put("/file", b"content")
    operations = Operations(vfs, MountOptions(Path("/mnt"), name="x"), notifier, owner=(0, 0))
    notifier.inode_changed(ino, data=True)
    kernel.wait_called()
    with trio.fail_after(TIMEOUT):
        await operations.open(ino, os.O_RDONLY)
    await operations.release_all()
