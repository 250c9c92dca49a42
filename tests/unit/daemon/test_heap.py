"""One heap for all threads, in a process of its own: it cannot be undone."""

import platform
import subprocess
import sys

import pytest
import trio
import trio.testing

from serpentfs.daemon import heap

_PROGRAM = """
import re, sys, threading
from pathlib import Path
from serpentfs.daemon.heap import share_one_heap

def reserved():
    return int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

if "shared" in sys.argv:
    share_one_heap()
threading.stack_size(1 << 20)
before, all_are_here = reserved(), threading.Barrier(9)

def work():
    taken = bytearray(100_000)
    all_are_here.wait(30)
    all_are_here.wait(30)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
all_are_here.wait(30)
print(reserved() - before)
all_are_here.wait(30)
"""

_HOLES = """
import trio
from serpentfs.daemon import heap

heap.share_one_heap()
heap._LOOK_EVERY = 0.01
blocks = [bytearray(b"x") * 131072 for _ in range(1024)]
blocks = blocks[::8]
before = heap._resident()

async def trimmed():
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heap.keep_in_bounds, lambda: 1 << 40, lambda size: None, lambda: None)
            while heap._resident() > before - (64 << 20):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

trio.run(trimmed)
print((before - heap._resident()) >> 20)
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc")
MiB = 1 << 20


@glibc_only
def test_threads_get_no_heaps_of_their_own() -> None:
    grown = {
        how: int(subprocess.check_output([sys.executable, "-c", _PROGRAM, how], text=True, timeout=60))
        for how in ("apart", "shared")
    }
    # glibc reserves 64 MiB of addresses for the heap of a thread.
    assert grown["apart"] >= 4 * 64
    assert grown["shared"] < 64


@glibc_only
def test_what_lies_free_between_blocks_is_given_back() -> None:
    given_back = int(subprocess.check_output([sys.executable, "-c", _HOLES], text=True, timeout=60))
    assert given_back >= 64


@glibc_only
@pytest.mark.trio
async def test_the_cache_gives_up_what_the_process_takes_too_much_and_gets_it_back(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    resident, helper, told = 0, 10 * MiB, list[int]()

    async def trimmed(limit: str, trim: object, pad: int) -> None:
        """Without a thread: the clock does not wait for those."""
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(heap, "_resident", lambda process="self": resident if process == "self" else helper)
    monkeypatch.setattr(heap, "run_in_thread", trimmed)
    bound = 64 * MiB + heap._BESIDE - helper
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heap.keep_in_bounds, lambda: 64 * MiB, told.append, lambda: 1)
        resident = bound
        await trio.sleep(10)
        assert told == [helper], "its memory is the cache's"
        resident = bound + 5 * MiB
        await trio.sleep(100)
        assert told[1:3] == [helper + 5 * MiB, helper + 10 * MiB]
        assert max(told) == told[-1] == 48 * MiB
        resident = bound
        await trio.sleep(2 * heap._LOOK_AGAIN)
        assert 47 * MiB < told[-1] < 48 * MiB
        await trio.sleep(100)
        assert told[-1] == helper
        helper = 0
        await trio.sleep(100)
        assert told[-1] == 0
        nursery.cancel_scope.cancel()


@glibc_only
@pytest.mark.trio
async def test_within_its_bounds_a_busy_process_is_trimmed_now_and_then_only(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    resident, trims = 0, 0

    async def trimmed(limit: str, trim: object, pad: int) -> None:
        nonlocal resident, trims
        await trio.lowlevel.checkpoint()
        resident, trims = resident - 20 * MiB, trims + 1

    monkeypatch.setattr(heap, "_resident", lambda process="self": resident)
    monkeypatch.setattr(heap, "run_in_thread", trimmed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heap.keep_in_bounds, lambda: 64 * MiB, lambda size: None, lambda: None)
        for _ in range(100):
            resident = 64 * MiB + heap._BESIDE - MiB
            await trio.sleep(0.1)
        assert 3 <= trims <= 10 / heap._TRIM_EVERY
        nursery.cancel_scope.cancel()
