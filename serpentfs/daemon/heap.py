"""glibc's allocator, set up for a process with many threads that take and give back megabytes.

By default every thread gets a heap of its own, and what its blocks of some megabytes leave behind stays there: after
a gigabyte read, a process with a cache of 64 MiB had 290 MiB. With one heap, which keeps what one burst needs, it has
175 MiB, and takes no more time. What lies free between the blocks of the cache is given back by ``keep_trimmed``.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import trio

from serpentfs.bridge import run_in_thread

# malloc.h: these are part of glibc's interface.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT = 64 * 1024 * 1024
_LARGEST_OF_HEAP = 32 * 1024 * 1024
"""The largest that glibc takes here. Without it a block of a fetch would be mapped, and its pages be new each time."""
_TRIM_EVERY = 5.0
_WORTH_TRIMMING = 16 * 1024 * 1024
"""Bytes by which the process has grown since. Trimming takes some milliseconds, in which nobody else gets memory."""
_STATM = Path("/proc/self/statm")


def share_one_heap() -> None:
    """To be called before threads are started. Quiet where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in (
        (_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, _KEPT), (_M_MMAP_THRESHOLD, _LARGEST_OF_HEAP),
    ):  # fmt: skip
        mallopt(option, value)


async def keep_trimmed() -> None:
    """Give free pages back to the system some seconds after a burst, until cancelled. Does nothing where the C library
    is another one."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    after_trim = 0
    while True:
        await trio.sleep(_TRIM_EVERY)
        if _resident() >= after_trim + _WORTH_TRIMMING:
            await run_in_thread("disk", trim, 0)
            after_trim = _resident()


def _resident() -> int:
    """Bytes of memory that this process has (proc(5), the second number of statm)."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
