"""A mount by the loop of this package."""

from __future__ import annotations

import os

from serpentfs.gateways.fuse.mount_options import MountOptions
from serpentfs.gateways.fuse.native import device, protocol
from serpentfs.gateways.fuse.native.dispatch import Dispatch
from serpentfs.gateways.fuse.native.loop import Loop
from serpentfs.gateways.fuse.native.protocol import InitFlag
from serpentfs.gateways.fuse.operations import Operations


class NativeSession:
    """See ``fuse.session.Session``. A process may have any number of them."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._loop: Loop | None = None

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> None:
        self._descriptor = device.mount(mountpoint, options, read_only=operations.read_only)
        # Where set-user-ID bits count, the kernel takes them itself, and asks before every write to a file whether
        # it has capabilities; where they only show, it leaves them to us, and asks once.
        abilities = InitFlag(0) if "suid" in options.extra else InitFlag.HANDLE_KILLPRIV_V2
        self._loop = Loop(self._descriptor, Dispatch(operations).handlers, operations.init, abilities)

    async def run(self) -> None:
        assert self._loop is not None
        await self._loop.run()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # KernelCaches, for the notifier's thread

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        self._notify(protocol.inval_inode(ino, data=data))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self._notify(protocol.inval_entry(parent, name))

    def _notify(self, notice: bytes) -> None:
        if self._descriptor is not None:
            os.write(self._descriptor, notice)
