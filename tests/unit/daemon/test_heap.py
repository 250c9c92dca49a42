"""One heap for all threads, in a process of its own: it cannot be undone."""

import platform
import subprocess
import sys

import pytest

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
heap._TRIM_EVERY = 0.01
blocks = [bytearray(b"x") * 131072 for _ in range(1024)]
blocks = blocks[::8]
before = heap._resident()

async def trimmed():
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heap.keep_trimmed)
            while heap._resident() > before - (64 << 20):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

trio.run(trimmed)
print((before - heap._resident()) >> 20)
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc")


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
