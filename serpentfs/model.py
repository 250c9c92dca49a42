"""The nouns that every layer shares: identifiers, nodes, attributes.

Nothing here does I/O and nothing here imports another module of the project.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, NewType

Ino = NewType("Ino", int)
"""Our number for an entry: stable across restarts and renames, never reused."""

NodeId = NewType("NodeId", str)
"""The cloud's own id of a file, folder or link. Opaque to everything but its driver."""

Revision = NewType("Revision", str)
"""The cloud's own token for one content of a node. Opaque; compared only for equality."""

ContentId = NewType("ContentId", int)
"""Our own 64-bit number for one content, never reused. 0 means "has no content" (folders, links)."""

BlockIndex = NewType("BlockIndex", int)
"""Number of a block within a content: block *i* holds cleartext bytes ``[i*BLOCK_SIZE, (i+1)*BLOCK_SIZE)``."""

HandleId = NewType("HandleId", int)
"""Our number for one open file."""

BLOCK_SIZE = 128 * 1024
"""Bytes of cleartext in a block: a multiple of Cryptomator's 32 KiB chunk and a divisor of every MEGA chunk
boundary, so that one block never needs half a chunk of either."""

ROOT_INO = Ino(1)
NO_CONTENT = ContentId(0)


class Kind(enum.IntEnum):
    """What an entry is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of bytes ``[start, stop)``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a span: [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def clamp(self, size: int) -> Span:
        """The part of this span that lies within ``[0, size)``."""
        return Span(min(self.start, size), min(self.stop, size))


@dataclass(frozen=True, slots=True)
class NodeRef:
    """What a driver needs to find a node again and to notice that it changed.

    ``locator`` is the driver's own note (a vault keeps there where a folder's link file lies); it may change
    when the node moves, while ``id`` of a folder need not. ``size`` is cleartext bytes.
    """

    id: NodeId
    kind: Kind
    revision: Revision
    size: int = 0
    locator: str = ""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node as a cloud's listing shows it. ``name`` and ``target`` are cleartext, ``size`` cleartext bytes."""

    id: NodeId
    parent: NodeId | None
    name: str
    kind: Kind
    size: int
    mtime_ns: int
    revision: Revision
    locator: str = ""
    target: str | None = None
    same_content: bool = True
    """In the answer to a move: the file was still at the revision that the caller named. False: it was moved all
    the same, and what it holds now is somebody else's newer content."""

    @property
    def ref(self) -> NodeRef:
        return NodeRef(self.id, self.kind, self.revision, self.size, self.locator)


_LATEST_NS = (1 << 63) - 1


def kept_time(time_ns: int) -> int:
    """The nearest time that is kept: nanoseconds in 64 bits, from 1677 to 2262."""
    return min(max(time_ns, ~_LATEST_NS), _LATEST_NS)


class Attributes(NamedTuple):
    """What a door needs to know of an entry (stat).

    ``mode`` holds permission bits, and None (like ``uid`` and ``gid``) means "never set: the door's default".
    ``generation`` counts the contents of this entry: (``content``, ``generation``) changes with every content
    and is what an ETag is made of.
    """

    ino: Ino
    parent: Ino
    kind: Kind
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    content: ContentId
    generation: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    nlink: int = 1


@dataclass(frozen=True, slots=True)
class DirEntry:
    """A name in a folder and what it names."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes of a store; None where the store does not tell."""

    total: int | None
    used: int | None
    free: int | None
