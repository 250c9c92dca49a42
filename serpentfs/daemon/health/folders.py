"""State, cache and runtime folders: whose they are, who may enter them, whether there is room.

What is not there yet is made at the first use, and only looked at as far as its parents go.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from serpentfs.daemon.health.findings import Finding, note, ok, problem
from serpentfs.mount_table import mount_entries

STATE_ROOM = 256 << 20
"""Bytes: what is written goes there first."""
_REMOTE_KINDS = re.compile(r"nfs4?|cifs|smb3?|afs|ceph|glusterfs|lustre|fuse\..+")
"""File systems on which locks and memory-mapped files of several processes cannot be relied on."""


def check_folder(check: str, path: Path, room: int, *, holds_changes: bool) -> Iterator[Finding]:
    """``holds_changes``: it must be on a disk of this machine, and private; with less than ``room`` bytes free it is
    in trouble. Else it is a cache, which takes no more then."""
    exists, there = _nearest(path)
    try:
        status = there.stat()
        room_here = os.statvfs(there)
    except OSError as error:
        yield problem(check, f"{there} cannot be looked at: {error.strerror}", "see whether its disk is mounted")
        return
    found = [
        *_owner(check, there, status, is_private=exists and holds_changes),
        *_room(check, there, room_here, room, holds_changes=holds_changes),
    ]
    if holds_changes and (kind := _file_system(there)) is not None and _REMOTE_KINDS.fullmatch(kind):
        found.append(problem(check, f"{there} is on a network file system ({kind})",
                             "set XDG_STATE_HOME to a folder on a disk of this machine"))
    yield from found
    if not any(finding.state == "problem" for finding in found):
        free = room_here.f_bavail * room_here.f_frsize
        yield ok(check, f"{path}: {free / 2**30:.1f} GiB free" + ("" if exists else ", made at the first use"))


def _nearest(path: Path) -> tuple[bool, Path]:
    """The folder, or the nearest one above it that exists."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    return there == path, there


def _owner(check: str, path: Path, status: os.stat_result, *, is_private: bool) -> Iterator[Finding]:
    if not stat.S_ISDIR(status.st_mode):
        yield problem(check, f"{path} is not a folder", "move it away")
        return
    if is_private and status.st_uid != os.geteuid():
        yield problem(check, f"{path} belongs to another user (id {status.st_uid})",
                      f"chown -R {os.geteuid()} {path}, as root")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield problem(check, f"{path} may not be read and written by this user", f"chmod u+rwx {path}")
    elif is_private and status.st_mode & 0o077:
        yield problem(check, f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):o})",
                      f"chmod 700 {path}")


def _room(
    check: str, path: Path, there: os.statvfs_result, room: int, *, holds_changes: bool
) -> Iterator[Finding]:
    free = there.f_bavail * there.f_frsize
    if there.f_flag & os.ST_RDONLY:
        yield problem(check, f"{path} is on a file system that is mounted read-only", "mount it for writing")
    elif there.f_files and not there.f_favail:
        yield problem(check, f"the file system of {path} can take no more files (inodes)", "remove some")
    elif free < room:
        told = f"{free / 2**20:.0f} MiB are free at {path}"
        if holds_changes:
            yield problem(check, f"only {told}", "make room: what is written goes there first")
        else:
            yield note(check, f"{told}: the cache takes no more below {room / 2**20:.0f} MiB")


def _file_system(path: Path) -> str | None:
    """The kind of what is mounted where ``path`` is, by the longest mount point above it; the last such line is on
    top."""
    kind, length = None, -1
    with suppress(OSError):
        for entry in mount_entries():
            if path.resolve().is_relative_to(entry.path) and len(entry.path) >= length:
                kind, length = entry.kind, len(entry.path)
    return kind
