"""The mount: FUSE requests translated to ``vfs.core`` and back.

``operations`` translates requests, ``errnos`` errors; ``notifier`` tells the kernel what changed behind its back;
``session`` chooses the request loop, ``pyfuse`` (which ``nudge`` keeps from freezing) or ``native``; ``mountpoint`` is
what the system knows about a mount; ``door`` puts them together. Only this package imports pyfuse3, and only once
something is to be mounted with it.
"""

from __future__ import annotations

import trio

from serpentfs.gateways.fuse.mount_options import LOOPS, MountOptions
from serpentfs.vfs.core import Vfs

__all__ = ["LOOPS", "MountOptions", "serve"]


async def serve(
    vfs: Vfs, options: MountOptions, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Mount ``vfs`` and serve it until it is unmounted from outside, or until cancelled.

    Reports started once the kernel can use the mount. A cancelled mount is unmounted in good order when nobody
    uses it, else lazily; nothing stays mounted either way. Raises UsageError for what the caller can put right
    (mount point, options, missing FUSE), Busy when this process has a mount by pyfuse3 already, Unavailable when the
    kernel's connection was aborted.
    """
    from serpentfs.gateways.fuse import door

    await door.serve(vfs, options, task_status=task_status)
