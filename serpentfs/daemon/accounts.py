"""MEGA accounts and links on this machine: which state folder is whose, and what of them can be changed.

Knows sessions by what identifies them; how they are made, kept and used is ``clouds.mega``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serpentfs.clouds.registry import RemoteSpec, session_spec
from serpentfs.config import MEGA_ROOTS
from serpentfs.errors import UsageError

if TYPE_CHECKING:
    from serpentfs.clouds.mega.session import Session

_WRITABLE_ROOTS = ("cloud", "rubbish")


@dataclass(frozen=True, slots=True)
class MegaAccess:
    """What opens a MEGA account or link. The three options are those of ``clouds.mega.cloud.MegaOptions``."""

    session: Session = field(repr=False)
    root: str = MEGA_ROOTS[0]
    hard_delete: bool = False
    thumbnails: bool = False
    show_versions: bool = False

    def __post_init__(self) -> None:
        if self.session.kind != "account" and self.root != MEGA_ROOTS[0]:
            raise UsageError("a link has no other roots: --root is for accounts")

    @property
    def remote_id(self) -> str:
        """Names the state folder. One tree of one account has one, under whatever name it was logged in."""
        return remote_id_of(self.session, self.root)

    @property
    def read_only(self) -> bool:
        """A link is somebody else's, what is in the inbox belongs to backups, and what contacts share has rights of
        its own for each folder, which a change that waits in the journal could violate later."""
        return self.session.kind != "account" or self.root not in _WRITABLE_ROOTS


def remote_id_of(session: Session, root: str) -> str:
    """A user handle has 11 characters and a link's public handle 8, so that no two of these are equal. Handles may
    begin with "-" or "_", which a folder name of ours must not: hence a word before them."""
    if session.kind == "account":
        return f"mega-{session.user}" + ("" if root == MEGA_ROOTS[0] else f".{root}")
    return f"mega-link-{session.user}" + (f".{session.node}" if session.node else "")


def trees_of(name: str, session: Session) -> Iterator[tuple[RemoteSpec, str]]:
    """Every remote that the log-in ``name`` can open, with its id."""
    spec = session_spec(name)
    for root in MEGA_ROOTS if session.kind == "account" else MEGA_ROOTS[:1]:
        yield spec.with_root(root), remote_id_of(session, root)
