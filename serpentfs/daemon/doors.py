"""Doors by name: which module serves it and how its address reads.

A door's module is imported when that door is asked for and not before: its library may not exist on this system
(there is FUSE on Linux only), and another door must not pay for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio

from serpentfs.errors import Unsupported
from serpentfs.gateways.access import FtpOptions, ServerOptions
from serpentfs.vfs.core import Vfs


class Serve(Protocol):
    def __call__(self, vfs: Vfs, *, task_status: trio.TaskStatus[Any]) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Door:
    """``serve`` runs until it is cancelled or its users ended it (an unmount from outside)."""

    name: str
    serve: Serve
    address: Callable[[Any], str]
    """From what ``task_status.started`` was given to what is shown to a user."""


def mount_door(
    mountpoint: Path,
    *,
    name: str,
    root: str = "/",
    read_only: bool = False,
    allow_other: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    umask: int | None = None,
    extra: tuple[str, ...] = (),
) -> Door:
    """``name`` is shown as the source in the mount table, ``extra`` are options for libfuse. Unsupported where
    there is no FUSE."""
    try:
        from serpentfs.gateways import fuse
    except ImportError as error:
        raise Unsupported(
            f"there is no FUSE for Python here ({error}); the webdav and ftp commands work without it"
        ) from error
    options = fuse.MountOptions(
        mountpoint=mountpoint, read_only=read_only, allow_other=allow_other, uid=uid, gid=gid, umask=umask,
        root=root, extra=extra, name=name,
    )

    async def serve(vfs: Vfs, *, task_status: trio.TaskStatus[Any]) -> None:
        await fuse.serve(vfs, options, task_status=task_status)

    return Door("mount", serve, lambda _: str(mountpoint))


def webdav_door(options: ServerOptions) -> Door:
    from serpentfs.gateways import webdav

    async def serve(vfs: Vfs, *, task_status: trio.TaskStatus[Any]) -> None:
        await webdav.serve(vfs, options, task_status=task_status)

    return Door("webdav", serve, lambda bound: _url("https" if options.tls else "http", bound))


def ftp_door(options: FtpOptions) -> Door:
    from serpentfs.gateways import ftp

    async def serve(vfs: Vfs, *, task_status: trio.TaskStatus[Any]) -> None:
        await ftp.serve(vfs, options, task_status=task_status)

    return Door("ftp", serve, lambda bound: _url("ftp", bound))


def _url(scheme: str, bound: tuple[str, int]) -> str:
    host, port = bound
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
