"""glibc's allocator, set up for a process with many threads that take and give back megabytes.

By default every thread gets a heap of its own, and what its blocks of some megabytes leave behind stays there: after
a gigabyte read, a process with a cache of 64 MiB had 290 MiB. With one heap, which keeps what one burst needs, it has
175 MiB, and takes no more time. What lies free between the blocks of the cache, and what uploads need beside them, is
the business of ``keep_in_bounds``.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from serpentfs.bridge import run_in_thread

# malloc.h: these are part of glibc's interface.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT = 64 * 1024 * 1024
_LARGEST_OF_HEAP = 32 * 1024 * 1024
"""The largest that glibc takes here. Without it a block of a fetch would be mapped, and its pages be new each time."""
_LOOK_EVERY, _LOOK_AGAIN = 0.25, 0.1
"""Seconds; the second while the process takes too much, or soon may."""
_BESIDE = 74 * 1024 * 1024
"""Bytes that the process may take beside its cache before the cache gives up some of its own. The program itself takes
66 MiB; a large upload keeps 40 while it is sent, and three more beside it another 56. What is promised is 95 MiB (100
MB); the rest is for what comes between two looks."""
_MARGIN = 8 * 1024 * 1024
"""Bytes above that from which on free pages go back at once."""
_SOON = 48 * 1024 * 1024
"""A reader at 200 MB/s takes so much between two looks."""
_EASE = 128 * 1024
"""Bytes that the cache gets back at a time: so few that what comes again and again, as uploads do, finds it free."""
_WORTH_TRIMMING, _WORTH_IT_ABOVE = 16 * 1024 * 1024, 4 * 1024 * 1024
"""Bytes by which the process has grown since the last time; the second where it takes far too much. Trimming takes some
milliseconds, in which nobody else gets memory, and its pages are new to who needs them next."""
_TRIM_EVERY, _TRIM_SOON = 2.0, 0.25
"""Seconds between two times at least; the second while the process takes far too much: in the middle of a burst the
pages come back at once, and a fifth more of the system's time went into that."""


def _of_glibc(name: str) -> Any:
    """One of its functions; None where the C library is another one."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


def share_one_heap() -> None:
    """To be called before threads are started. Quiet where the C library is another one."""
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return
    for option, value in (
        (_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, _KEPT), (_M_MMAP_THRESHOLD, _LARGEST_OF_HEAP),
    ):  # fmt: skip
        mallopt(option, value)


async def keep_in_bounds(
    budget: Callable[[], int], hold_back: Callable[[int], None], helper: Callable[[], int | None]
) -> None:
    """Keep this process, and the ``helper()`` process if there is one, near ``budget()`` bytes of cache and what is
    beside it, until cancelled: free pages go back to the system after a burst, and while that is not enough,
    ``hold_back`` is told how many bytes of the budget shall stay unused: what the helper takes, more when need be, at
    most three quarters. Does nothing where the C library is not glibc."""
    trim = _of_glibc("malloc_trim")
    if trim is None:
        return
    trimmed_to = held_back = elsewhere = 0
    trimmed_at, pause = -math.inf, _LOOK_EVERY
    while True:
        await trio.sleep(pause)
        elsewhere = _taken_by(helper())
        resident, bound = _resident(), budget() + _BESIDE - elsewhere
        pause = _LOOK_AGAIN if held_back > elsewhere or resident > bound - _SOON else _LOOK_EVERY
        far_too_much = resident > bound + _MARGIN
        worth_it = _WORTH_IT_ABOVE if far_too_much else _WORTH_TRIMMING
        rest = _TRIM_SOON if far_too_much else _TRIM_EVERY
        if resident - trimmed_to >= worth_it and trio.current_time() >= trimmed_at + rest:
            await run_in_thread("disk", trim, 0)
            trimmed_to = resident = _resident()
            trimmed_at = trio.current_time()
        before = held_back
        held_back += resident - bound if resident > bound else -_EASE
        held_back = max(elsewhere, min(held_back, budget() * 3 // 4))
        if held_back != before:
            hold_back(held_back)


def _resident(process: int | str = "self") -> int:
    """Bytes of memory that a process has (proc(5), the second number of statm)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _taken_by(process: int | None) -> int:
    try:
        return 0 if process is None else _resident(process)
    except OSError:    # it has ended
        return 0
