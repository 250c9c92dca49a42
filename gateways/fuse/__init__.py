"""The mount: FUSE requests translated to ``vfs.core`` and back.

``operations`` translates requests, ``errnos`` errors; ``notifier`` tells the kernel what changed behind its back;
``session`` is the request loop (pyfuse3), which ``nudge`` keeps from freezing; ``mountpoint`` is what the system
knows about a mount; ``door`` puts them together. Only this package imports pyfuse3, and only once something is to
be mounted.
"""

from __future__ import annotations

import trio

from serpentfs.errors import UsageError
from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.vfs.core import Vfs

__all__ = ["MountOptions", "serve"]


async def serve(
    vfs: Vfs, options: MountOptions, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Mount ``vfs`` and serve it until it is unmounted from outside, or until cancelled.

    Reports started once the kernel can use the mount. A cancelled mount is unmounted in good order when nobody
    uses it, else lazily; nothing stays mounted either way. Raises UsageError for what the caller can put right
    (mount point, options, missing FUSE), Busy when this process has a mount already, Unavailable when the
    kernel's connection was aborted.
    """
    try:
        from serpentfs.gateways.fuse import door
    except ImportError as error:
        raise UsageError(f"mounting needs pyfuse3, which cannot be loaded here: {error}") from error
    await door.serve(vfs, options, task_status=task_status)
