"""The seam between the mount and what carries the kernel's requests to it: one kind of session for each request loop.

"native" is ``native``, which speaks to /dev/fuse itself. "pyfuse3" is the library of that name; it takes over where the
kernel is too old for the other, and where a mount asks for what only libfuse does.
"""

from __future__ import annotations

from typing import Protocol

from serpentfs.errors import UsageError
from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.gateways.fuse.notifier import KernelCaches
from serpentfs.gateways.fuse.operations import Operations


class NotForThisLoop(Exception):
    """Another kind of session may serve this mount; the text says why this one does not."""


class Session(KernelCaches, Protocol):
    """One mount. Use in order: ``mount``, ``run`` (again, when it was cancelled), ``close``; the calls of
    KernelCaches in between, and never on the loop's thread."""

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> None:
        """Mount. May block (it may start fusermount3 and wait). The kernel's requests are answered from ``run`` on.
        Raises UsageError when the system refuses, NotForThisLoop before anything was done."""
        ...

    async def run(self) -> None:
        """Answer requests until the kernel ends the connection. Those in flight when it is cancelled are answered
        with ENOTCONN. Raises NotForThisLoop before anything else was asked."""
        ...

    def close(self) -> None:
        """Close the connection: requests in flight end with ENOTCONN. The mount point is not freed. May block.
        Nothing happens when not mounted."""
        ...


def new_session(loop: str) -> Session:
    """A session of the kind that ``MountOptions.loop`` names. UsageError when it cannot be had here."""
    if loop == "native":
        from serpentfs.gateways.fuse.native.session import NativeSession

        return NativeSession()
    if loop != "pyfuse3":
        raise UsageError(f"there is no request loop {loop}")
    try:
        from serpentfs.gateways.fuse.pyfuse import PyfuseSession
    except ImportError as error:
        raise UsageError(f"mounting needs pyfuse3, which cannot be loaded here: {error}") from error
    return PyfuseSession()
