"""Removing and copying whole folders, entry by entry.

One entry that fails does not stop the others (RFC 4918 §9.6.1, §9.8.5): failures are gathered. Explicit stacks,
because a tree can be deeper than Python recurses.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from serpentfs.errors import SerpentError
from serpentfs.gateways.webdav.door import DOOR, refusal_of
from serpentfs.gateways.webdav.messages import quote_name
from serpentfs.gateways.webdav.properties import copy_dead
from serpentfs.model import Attributes, DirEntry, Ino, Kind
from serpentfs.vfs.core import Vfs

_SLICE = 64


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be removed or copied, and the status that says why."""

    href: str
    status: int


@dataclass(slots=True)
class _Doomed:
    parent: Ino
    name: str
    ino: Ino
    href: str
    after: int = 0
    kept: bool = False
    """Something in it could not be removed."""


async def remove_tree(vfs: Vfs, parent: Ino, name: str, ino: Ino, href: str) -> list[Failure]:
    """Remove a folder with all that is in it. ``href`` is its URL, for the failures."""
    failures: list[Failure] = []
    stack = [_Doomed(parent, name, ino, href)]
    while stack:
        folder = stack[-1]
        entries = _list(vfs, folder.ino, folder.after, folder.href, failures)
        if not entries:
            stack.pop()
            if not folder.kept:
                folder.kept = not await _try(vfs.rmdir(folder.parent, folder.name, door=DOOR), folder.href, failures)
            if folder.kept and stack:
                stack[-1].kept = True
            continue
        for entry in entries:
            folder.after = entry.attributes.ino
            child_href = folder.href + quote_name(entry.name)
            if entry.attributes.kind is Kind.DIRECTORY:
                stack.append(_Doomed(folder.ino, entry.name, entry.attributes.ino, child_href + "/"))
                break
            if not await _try(vfs.unlink(folder.ino, entry.name, door=DOOR), child_href, failures):
                folder.kept = True
    return failures


@dataclass(slots=True)
class _Copied:
    source: Ino
    target: Ino
    href: str
    after: int = 0


async def copy_tree(
    vfs: Vfs, source: Attributes, parent: Ino, name: str, href: str, *, members: bool
) -> list[Failure]:
    """Copy a folder to a free name, with its dead properties; without ``members`` only the folder itself.
    ``href`` is the URL of the copy, for the failures. Links are copied as links."""
    top = await vfs.mkdir(parent, name, source.mode, door=DOOR)
    await copy_dead(vfs, source.ino, top.ino)
    failures: list[Failure] = []
    stack = [_Copied(source.ino, top.ino, href)] if members else []
    while stack:
        folder = stack[-1]
        entries = _list(vfs, folder.source, folder.after, folder.href, failures)
        if not entries:
            stack.pop()
        for entry in entries:
            folder.after = entry.attributes.ino
            child_href = folder.href + quote_name(entry.name)
            try:
                copied = await _copy_one(vfs, entry, folder.target)
            except SerpentError as error:
                failures.append(Failure(child_href, refusal_of(error).status))
                continue
            if entry.attributes.kind is Kind.DIRECTORY:
                stack.append(_Copied(entry.attributes.ino, copied.ino, child_href + "/"))
                break
    return failures


async def _copy_one(vfs: Vfs, entry: DirEntry, target: Ino) -> Attributes:
    if entry.attributes.kind is Kind.DIRECTORY:
        copied = await vfs.mkdir(target, entry.name, entry.attributes.mode, door=DOOR)
    else:
        copied, _ = await vfs.copy_file(entry.attributes.ino, target, entry.name, door=DOOR)
    await copy_dead(vfs, entry.attributes.ino, copied.ino)
    return copied


def _list(vfs: Vfs, ino: Ino, after: int, href: str, failures: list[Failure]) -> list[DirEntry]:
    """The next entries of a folder; none when it went away meanwhile, which is a failure."""
    try:
        return vfs.readdir(ino, after, _SLICE)
    except SerpentError as error:
        failures.append(Failure(href, refusal_of(error).status))
        return []


async def _try(step: Awaitable[None], href: str, failures: list[Failure]) -> bool:
    try:
        await step
    except SerpentError as error:
        failures.append(Failure(href, refusal_of(error).status))
        return False
    return True
