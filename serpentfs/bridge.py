"""The only place where trio and threads meet, in both directions, with named limiters.

Threads get immutable data and file descriptors, never objects that the loop owns. ``run_in_thread`` takes
blocking calls off the loop; ``LoopPortal`` lets a thread of a server library call the loop and wait.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

T = TypeVar("T")

_LIMITS = {
    "store": 48,      # blocking calls of blob stores: the cache's fetches with those of heads, and uploads
    "disk": 8,        # staging and cache files
    "crypto": 2,      # key derivation: memory-hard, so few at a time
    "sync": 2,        # fsync and checkpoints: long, and more at once make each slower
    "command": 128,   # the asking side of commands, which may wait for any of the others
    "sending": 4,     # stretches of files from the disk cache to WebDAV clients; more only contend for the interpreter
    "receiving": 4,   # stretches of files from them
    "ftp": 64,        # FTP sessions: each lives in a thread of its own
}
_limiters: trio.lowlevel.RunVar[dict[str, trio.CapacityLimiter]] = trio.lowlevel.RunVar("serpentfs_limiters")


def limiter(name: str) -> trio.CapacityLimiter:
    """The limiter called ``name`` of the running loop. KeyError for a name that is not declared above."""
    try:
        by_name = _limiters.get()
    except LookupError:
        by_name = {}
        _limiters.set(by_name)
    if name not in by_name:
        by_name[name] = trio.CapacityLimiter(_LIMITS[name])
    return by_name[name]


async def run_in_thread(where: str, function: Callable[..., T], *args: object, abandon: bool = False) -> T:
    """Run a blocking call in a thread, at most as many at a time as the limiter ``where`` allows.

    With ``abandon`` a cancelled caller does not wait for the thread: only for calls whose late end harms nothing.
    """
    return await trio.to_thread.run_sync(function, *args, limiter=limiter(where), abandon_on_cancel=abandon)


def received(channel: trio.MemoryReceiveChannel[T]) -> Iterator[T]:
    """What comes through a channel, for a thread that ``run_in_thread`` started: waits for the loop at each step, and
    ends with the channel."""
    while True:
        try:
            yield trio.from_thread.run(channel.receive)
        except trio.EndOfChannel:
            return


_SLICE = 0.0002
_URGENT_FOR = 0.005
_last_urgent = [float("-inf")]


def urgent() -> None:
    """Somebody waits for an answer this very moment (a request of the mount): long work makes more room for some
    milliseconds."""
    _last_urgent[0] = time.perf_counter()


def is_busy(within: float = _URGENT_FOR) -> bool:
    """Whether the mount was asked for something in the last seconds (a moment ago)."""
    return time.perf_counter() - _last_urgent[0] < within


class Pace:
    """Lets the loop serve others between slices of long work (a listing of thousands).

    A request of the mount passes the loop several times, and meets a slice each time; so while there are such
    requests the work rests four times as long as it runs. Otherwise it only steps aside for a moment.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def breathe(self) -> None:
        """Call after every piece of work; it yields when the slice (0.2 ms) is used up."""
        now = time.perf_counter()
        worked = now - self._began
        if worked < _SLICE:
            return
        if is_busy():
            await trio.sleep(4 * worked)
        else:
            await trio.lowlevel.checkpoint()
        self._began = time.perf_counter()


class LoopPortal:
    """Calls into a running trio loop from threads that trio did not start (server libraries have their own)."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function on the loop and wait for its result; its exception is raised here.

        Raises trio.RunFinishedError when the loop has ended, trio.Cancelled when it is being cancelled.
        """
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Run a plain function on the loop and wait for its result."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)
