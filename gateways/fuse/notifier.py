"""Tells the kernel what changed behind its back, from a thread of its own.

The kernel may hold a call back until a request that is in flight has been answered; on the loop's thread, which
would have to answer it, that is a deadlock which not even SIGKILL ends. So only this thread makes such calls, and
nobody waits for it for long: the queue is bounded by merging, and a call that does not come back is the watchdog's
affair (``door``).

Dropping the pages of a file waits for its reads. So that a read from a slow store neither delays all other notices
nor is waited for when the process is killed (which the kernel then cannot end), pages are dropped when no read of
the file is in flight, or after some seconds all the same; its attributes go at once.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from typing import Protocol

log = logging.getLogger(__name__)

_LIMIT = 1_000_000
"""Pending notices at most, some 200 MB in the worst case: more only pile up when a call is stuck, and then the
watchdog ends the mount long before."""


_DEFERRED_AT_MOST = 5.0
"""Seconds that dropping pages is put off for reads in flight: somebody may always be reading."""


class KernelCaches(Protocol):
    """The calls of a FUSE session that must come from this thread. Inode numbers are the kernel's. All may block
    and raise OSError; FileNotFoundError means that the kernel does not hold the thing."""

    def invalidate_inode(self, ino: int, *, data: bool) -> None: ...

    def invalidate_entry(self, parent: int, name: bytes) -> None: ...


class Notifier:
    """A queue of invalidations and the thread that works it off, oldest first."""

    def __init__(self, caches: KernelCaches, *, limit: int = _LIMIT) -> None:
        self._caches = caches
        self._limit = limit
        self._changed = threading.Condition()
        # Guarded by _changed. A key is an inode number or a (parent, name); a value tells whether the data goes too.
        self._pending: dict[int | tuple[int, bytes], bool] = {}
        self._telling: int | tuple[int, bytes] | None = None
        self._deferred: dict[int, float] = {}
        """Inodes whose pages are to go once nobody reads them, and until when that may wait."""
        self._reads: collections.Counter[int] = collections.Counter()
        self._stopping = False
        self._busy_since: float | None = None
        self._overflowed = False
        self._thread = threading.Thread(target=self._run, name="fuse-notifier", daemon=True)

    def start(self) -> None:
        """Start the thread; what was queued before is told then."""
        self._thread.start()

    def inode_changed(self, ino: int, *, data: bool) -> None:
        """Queue that attributes (and ``data``: contents) of an inode are stale. Never blocks."""
        self._enqueue(ino, data)

    def entry_changed(self, parent: int, name: bytes) -> None:
        """Queue that what ``name`` means in a folder is stale. Never blocks."""
        self._enqueue((parent, name), False)

    def is_behind(self, ino: int) -> bool:
        """Whether the kernel is yet to be told that something of this inode is stale. (Every file that is opened asks:
        without the lock, as a key is in one place before it leaves the other.)"""
        return ino in self._pending or self._telling == ino

    @property
    def is_telling(self) -> bool:
        """Whether the kernel is yet to be told of anything (but pages that somebody reads at this moment)."""
        return bool(self._pending) or self._telling is not None

    def read_began(self, ino: int) -> None:
        """A read of this inode is being waited for."""
        with self._changed:
            self._reads[ino] += 1

    def read_ended(self, ino: int) -> None:
        with self._changed:
            self._reads[ino] -= 1
            if not self._reads[ino]:
                del self._reads[ino]
                if ino in self._deferred:
                    self._changed.notify()

    def stop(self) -> None:
        """Make the thread end after the call it is in; what is pending is dropped."""
        with self._changed:
            self._stopping = True
            self._pending.clear()
            self._deferred.clear()
            self._changed.notify()

    def wait_stopped(self, timeout: float) -> bool:
        """Block until the thread has ended, ``timeout`` seconds at most; False if it has not."""
        if self._thread.ident is None:
            return True  # never started
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stuck_for(self) -> float:
        """Seconds that the present call to the kernel has taken; 0 when there is none."""
        with self._changed:
            return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    def _enqueue(self, key: int | tuple[int, bytes], data: bool) -> None:
        with self._changed:
            if self._stopping:
                return
            if key in self._pending:
                self._pending[key] |= data
            elif len(self._pending) < self._limit:
                self._pending[key] = data
                self._changed.notify()
            elif not self._overflowed:
                self._overflowed = True
                log.error("too many changes at once: the mount may show old names until their time-out")

    def _next(self) -> tuple[int | tuple[int, bytes], bool] | None:
        """What to tell now; None when nothing is due. The lock is held."""
        now = time.monotonic()
        for key, data in self._pending.items():
            self._telling = key
            del self._pending[key]
            if isinstance(key, int) and data and key in self._reads:
                self._deferred.setdefault(key, now + _DEFERRED_AT_MOST)
                data = False
            return key, data
        self._overflowed = False
        for ino, deadline in self._deferred.items():
            if ino not in self._reads or deadline <= now:
                del self._deferred[ino]
                return ino, True
        return None

    def _wait_for_next(self) -> tuple[int | tuple[int, bytes], bool] | None:
        """None: the end."""
        with self._changed:
            self._busy_since = self._telling = None
            while not self._stopping:
                due = self._next()
                if due is not None:
                    self._busy_since = time.monotonic()
                    return due
                wake_at = min(self._deferred.values(), default=None)
                self._changed.wait(None if wake_at is None else max(wake_at - time.monotonic(), 0))
            return None

    def _run(self) -> None:
        while (due := self._wait_for_next()) is not None:
            key, data = due
            try:
                if isinstance(key, tuple):
                    self._caches.invalidate_entry(*key)
                else:
                    self._caches.invalidate_inode(key, data=data)
            except FileNotFoundError:
                pass  # the kernel does not hold it: nothing is stale
            except OSError as error:
                # ENOTDIR and the like after a race with a rename; EBADF once the connection is gone.
                # Names stay out of the log: it may lie on a disk.
                what = f"a name in inode {key[0]}" if isinstance(key, tuple) else f"inode {key}"
                log.warning("the kernel did not take an invalidation of %s: %s", what, error)
