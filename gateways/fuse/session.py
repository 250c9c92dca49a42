"""The request loop, here pyfuse3's: mount, answer, unmount.

This is the seam behind which another loop on /dev/fuse could serve the same operations. pyfuse3 keeps its session
in module variables, so a process has one mount at a time, and ``invalidate_*`` after ``close`` would be a crash:
the notifier must have stopped by then.
"""

from __future__ import annotations

import logging

import pyfuse3

from serpentfs.errors import Busy, UsageError
from serpentfs.gateways.fuse import complaints

log = logging.getLogger(__name__)

_taken = False


class PyfuseSession:
    """One mount by pyfuse3. Use in order: ``mount``, ``run``, ``close``."""

    def __init__(self) -> None:
        self._open = False

    def mount(self, operations: pyfuse3.Operations, mountpoint: str, options: set[str]) -> None:
        """Mount. May block (it starts fusermount3 and waits). The kernel's requests are answered from ``run`` on.
        Raises Busy when this process has a mount, UsageError when the system refuses."""
        global _taken
        if _taken:
            raise Busy("this process has a mount already; bind-mount that one to show it in a second place")
        failure: RuntimeError | None = None
        with complaints.listening() as heard:
            try:
                pyfuse3.init(operations, mountpoint, options)
            except RuntimeError as error:
                failure = error
        if failure is not None:
            raise UsageError(f"cannot mount {mountpoint}: {'; '.join(heard) or failure}") from failure
        for line in heard:
            log.warning("libfuse: %s", line)
        _taken = self._open = True

    async def run(self) -> None:
        """Answer requests until the kernel ends the connection. A handler that raises anything but FUSEError ends
        it too."""
        # Handlers waiting for the cloud hold a task each; the kernel sends only so many reads at a time by itself.
        await pyfuse3.main(max_tasks=512)

    def close(self, *, unmount: bool) -> None:
        """Close the connection: requests in flight end with ENOTCONN. With ``unmount`` the mount point is freed as
        well, lazily. May block. Nothing happens when not mounted."""
        global _taken
        if self._open:
            self._open = _taken = False
            pyfuse3.close(unmount=unmount)

    # KernelCaches, for the notifier's thread

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=not data)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))
