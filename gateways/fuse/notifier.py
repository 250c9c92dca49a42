"""Tells the kernel what changed behind its back, from a thread of its own.

The kernel may hold a call back until a request that is in flight has been answered; on the loop's thread, which
would have to answer it, that is a deadlock which not even SIGKILL ends. So only this thread makes such calls, and
nobody waits for it: the queue is bounded by merging, and a call that does not come back is the watchdog's affair
(``door``).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

log = logging.getLogger(__name__)

_LIMIT = 1_000_000
"""Pending notices at most, some 200 MB in the worst case: more only pile up when a call is stuck, and then the
watchdog ends the mount long before."""


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
        self._stopping = False
        self._busy_since: float | None = None
        self._overflowed = False
        self._thread = threading.Thread(target=self._run, name="fuse-notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def inode_changed(self, ino: int, *, data: bool) -> None:
        """Queue that attributes (and ``data``: contents) of an inode are stale. Never blocks."""
        self._enqueue(ino, data)

    def entry_changed(self, parent: int, name: bytes) -> None:
        """Queue that what ``name`` means in a folder is stale. Never blocks."""
        self._enqueue((parent, name), False)

    def stop(self) -> None:
        """Make the thread end after the call it is in; what is pending is dropped."""
        with self._changed:
            self._stopping = True
            self._pending.clear()
            self._changed.notify()

    def wait_stopped(self, timeout: float) -> bool:
        """Block until the thread has ended, ``timeout`` seconds at most; False if it has not."""
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

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy_since = None
                while not self._pending and not self._stopping:
                    self._overflowed = False
                    self._changed.wait()
                if self._stopping:
                    return
                key = next(iter(self._pending))
                data = self._pending.pop(key)
                self._busy_since = time.monotonic()
            try:
                if isinstance(key, tuple):
                    self._caches.invalidate_entry(*key)
                else:
                    self._caches.invalidate_inode(key, data=data)
            except FileNotFoundError:
                pass  # the kernel does not hold it: nothing is stale
            except OSError as error:
                # ENOTDIR and the like after a race with a rename; EBADF once the connection is gone.
                log.warning("the kernel did not take an invalidation of %r: %s", key, error)
