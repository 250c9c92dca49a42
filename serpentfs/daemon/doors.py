"""Doors by name: which module serves it and how its address reads.

A server library is imported when its door is asked for and not before: it may not exist on this system (there
is FUSE on Linux only), and another door must not pay for it.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import trio

from serpentfs.daemon.door_options import DoorOptions
from serpentfs.daemon.listing import resolve
from serpentfs.errors import NotADirectory, Unsupported
from serpentfs.gateways import fuse
from serpentfs.gateways.access import FtpOptions, ServerOptions
from serpentfs.gateways.fuse import MountOptions, mountpoint
from serpentfs.gateways.sending import Pages
from serpentfs.model import Kind
from serpentfs.vfs.core import Vfs


class Serve(Protocol):
    def __call__(self, vfs: Vfs, pages: Pages, *, task_status: trio.TaskStatus[Any]) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Door:
    """``serve`` runs until it is cancelled or its users ended it (an unmount from outside)."""

    name: str
    serve: Serve
    address: Callable[[Any], str]
    """From what ``task_status.started`` was given to what is shown to a user."""


def door_of(options: DoorOptions) -> Door:
    """A door that is still closed. May block; what ``mount_door`` raises."""
    match options:
        case MountOptions():
            return mount_door(options)
        case FtpOptions():
            return ftp_door(options)
        case ServerOptions():
            return webdav_door(options)
        case _:
            assert_never(options)


def mount_door(options: MountOptions) -> Door:
    """Checks the mount point now, so that a mistake is told before a passphrase is asked for; a mount that a dead
    process left there is taken away. UsageError; Unsupported where there is no FUSE."""
    if options.loop == "pyfuse3" and importlib.util.find_spec("pyfuse3") is None:
        raise Unsupported("mounting needs pyfuse3, which is not installed; webdav and ftp work without it")
    if platform.system() != "Linux":
        raise Unsupported("mounting needs Linux; webdav and ftp work without it")
    path = mountpoint.prepare(
        options.mountpoint, allow_other=options.allow_other, allow_nonempty=options.allows_nonempty
    )

    async def serve(vfs: Vfs, pages: Pages, *, task_status: trio.TaskStatus[Any]) -> None:
        _check_root(vfs, options.root)
        await fuse.serve(vfs, options, task_status=task_status)

    return Door("mount", serve, lambda _: path)


def webdav_door(options: ServerOptions) -> Door:
    from serpentfs.gateways import webdav

    async def serve(vfs: Vfs, pages: Pages, *, task_status: trio.TaskStatus[Any]) -> None:
        _check_root(vfs, options.root)
        await webdav.serve(vfs, options, pages, task_status=task_status)

    return Door("webdav", serve, str)


def ftp_door(options: FtpOptions) -> Door:
    from serpentfs.gateways import ftp

    async def serve(vfs: Vfs, pages: Pages, *, task_status: trio.TaskStatus[Any]) -> None:
        _check_root(vfs, options.server.root)
        await ftp.serve(vfs, options, pages, task_status=task_status)

    return Door("ftp", serve, str)


def _check_root(vfs: Vfs, root: str) -> None:
    """NotFound, NotADirectory, which name the folder."""
    if resolve(vfs, root).kind is not Kind.DIRECTORY:
        raise NotADirectory(f"{root} is not a folder")
