"""The vocabulary of the journal: what one entry says, and what it reads and writes.

Entries name inodes, never paths and never nodes of a cloud. Nothing here has state; the machine over these nouns
is ``journal``, the rewriting of queued ones is ``coalescing``, the order between them is ``claims``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from serpentfs.model import NO_CONTENT, ContentId, Ino


class Operation(enum.StrEnum):
    CREATE = "create"
    CONTENT = "content"
    MKDIR = "mkdir"
    SYMLINK = "symlink"
    RENAME = "rename"
    REMOVE = "remove"
    SETATTR = "setattr"


BIRTHS = frozenset({Operation.CREATE, Operation.MKDIR, Operation.SYMLINK})
"""Operations that make an inode's node."""
PLACING = BIRTHS | {Operation.RENAME}
"""Operations that put an inode into the slot ``target``."""
IN_PLACE = frozenset({Operation.CONTENT, Operation.SETATTR})
"""Operations that leave an inode where it is."""

Slot = tuple[Ino, str]
"""A name in a folder: (parent, name key). At most one entry of the tree is in it."""

Resource = Ino | Slot
"""What entries compete for: an inode or a slot."""


class EntryState(enum.Enum):
    QUEUED = "queued"
    """Waiting: to settle, to be closed, for an earlier entry, for the end of a back-off, or for a free worker."""
    SENDING = "sending"
    STUCK = "stuck"
    """A permanent error; stays until somebody decides. What depends on it waits."""


@dataclass(frozen=True, slots=True)
class Place:
    """A name slot in a folder. (parent, key) is its identity; ``name`` is what is shown and sent."""

    parent: Ino
    key: str
    name: str

    @property
    def slot(self) -> Slot:
        return (self.parent, self.key)


@dataclass(frozen=True, slots=True)
class Entry:
    """One change that the cloud has not confirmed.

    ``seq`` is its position in the journal: carried out in this order, one by one, the entries turn the cloud's
    tree into ours. 0 in an entry that is only proposed.
    """

    seq: int
    operation: Operation
    ino: Ino
    source: Place | None = None
    """RENAME: from where; REMOVE: where it is."""
    target: Place | None = None
    """CREATE, MKDIR, SYMLINK, RENAME: to where."""
    replaces: Ino | None = None
    """CREATE, RENAME: the file or link whose node at ``target`` goes away in the same step."""
    content: ContentId = NO_CONTENT
    """CREATE, CONTENT: what to upload."""
    mtime_ns: int | None = None
    """SETATTR, CONTENT, and what makes an inode (also MKDIR, though a cloud may not keep a folder's time)."""
    ancestors: tuple[Ino, ...] = ()
    """RENAME of a folder into another folder: every folder above ``target.parent``, the root may be left out.
    None of them may move before this entry is done, nor may this one overtake their earlier moves: else a folder
    could come to lie below itself for a moment, which a cloud refuses."""
    leaf: bool = False
    """RENAME, REMOVE: ``ino`` is known to be a file or a link, so that it may replace or be replaced in one step."""
    recorded: float = 0.0
    """When the user last changed what this entry carries, seconds since the epoch. Settling counts from here."""
    attempted: bool = False
    """An attempt was started (or may have been: the entry is from before a restart). It may be in the cloud
    already, so it is never rewritten."""

    def __post_init__(self) -> None:
        needs_source = self.operation in (Operation.RENAME, Operation.REMOVE)
        needs_target = self.operation in PLACING
        if (self.source is not None) != needs_source or (self.target is not None) != needs_target:
            raise ValueError(f"{self.operation} with source {self.source} and target {self.target}")
        if self.replaces is not None and self.operation not in (Operation.CREATE, Operation.RENAME):
            raise ValueError(f"{self.operation} cannot replace anything")
        if self.operation is Operation.CONTENT and self.content == NO_CONTENT:
            raise ValueError("a content entry without a content")

    def recorded_as(self, seq: int) -> Entry:
        """The same change, recorded at this position and not sent. (``dataclasses.replace`` takes four times as long,
        and every change comes by here.)"""
        return Entry(
            seq, self.operation, self.ino, self.source, self.target, self.replaces, self.content, self.mtime_ns,
            self.ancestors, self.leaf, self.recorded,
        )  # fmt: skip

    def with_content(self, content: ContentId, mtime_ns: int | None, recorded: float) -> Entry:
        """The same entry with another content and time."""
        return Entry(
            self.seq, self.operation, self.ino, self.source, self.target, self.replaces, content, mtime_ns,
            self.ancestors, self.leaf, recorded, self.attempted,
        )  # fmt: skip

    def claims_as(self, other: Entry) -> bool:
        """Whether both touch the same, because they differ at most in what is not claimed. False: not known."""
        return (
            self.ino == other.ino
            and self.source is other.source
            and self.target is other.target
            and self.replaces == other.replaces
            and self.ancestors is other.ancestors
        )

    def differs_at_most_in_times(self, other: Entry) -> bool:
        """Whether both say the same, but for times. False: not known."""
        return (
            self.claims_as(other)
            and self.operation is other.operation
            and self.content == other.content
            and self.leaf == other.leaf
        )

    @property
    def goal(self) -> Place:
        """``target`` of an entry that has one."""
        if self.target is None:
            raise ValueError(f"{self.operation} has no target")
        return self.target

    @property
    def origin(self) -> Place:
        """``source`` of an entry that has one."""
        if self.source is None:
            raise ValueError(f"{self.operation} has no source")
        return self.source


def claims_of(entry: Entry) -> dict[Resource, bool]:
    """What the entry touches: True where it writes, False where it only needs the resource to stay as it is.

    A folder's inode is read by everything that happens to names in it and written by what makes, moves or removes
    the folder itself.
    """
    claims: dict[Resource, bool] = dict.fromkeys(entry.ancestors, False)
    for place in (entry.source, entry.target):
        if place is not None:
            claims[place.parent] = False
            claims[place.slot] = True
    if entry.replaces is not None:
        claims[entry.replaces] = True
    claims[entry.ino] = True
    return claims


@dataclass(frozen=True, slots=True)
class Delta:
    """What to change in the stored journal, all in one transaction, before ``Journal.apply``.

    ``put`` inserts entries or overwrites those of the same seq; ``drop`` deletes. ``superseded`` tells those who
    wait for an entry which one carries its effect now (None: nothing is left to do). ``seqs`` has the same answer
    for each proposed change, in order. ``unneeded`` are contents that were to be uploaded and are not any more.
    """

    put: tuple[Entry, ...]
    drop: tuple[int, ...]
    superseded: Mapping[int, int | None]
    seqs: tuple[int | None, ...]
    unneeded: tuple[ContentId, ...]
    basis: int
    """The state of the journal that this was computed from; ``apply`` refuses any other."""
