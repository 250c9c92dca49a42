"""One root of an account as the tree of a drive: which nodes are in it, and how each is shown.

Roots are the cloud drive, the inbox, the rubbish bin, a link's folder, and ``shares``: a folder made up here, whose
children are what others share with this account.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.replica import Replica
from serpentfs.errors import NotFound, UsageError
from serpentfs.model import Kind, NodeId, NodeInfo, Revision

ROOTS = ("cloud", "inbox", "rubbish", "shares")
SHARES = NodeId("shares")
_UNVERSIONED = Revision("")
"""Folders have no content: nothing of theirs is ever another revision."""


class View:
    """See the module's docstring. UsageError for a root that there is not."""

    def __init__(self, replica: Replica, root: str) -> None:
        if root not in ROOTS:
            raise UsageError(f'no root "{root}" in an account; there are: {", ".join(ROOTS)}')
        self._replica = replica
        self._name = root

    @property
    def root(self) -> NodeId:
        """Unavailable before the account's tree was loaded once."""
        if self._name == "shares":
            return SHARES
        handle = {
            "cloud": self._replica.cloud_drive,
            "inbox": self._replica.inbox,
            "rubbish": self._replica.rubbish,
        }[self._name]
        if handle is None:
            raise NotFound(f"the account has no {self._name}")
        return NodeId(handle)

    def _is_share(self, handle: str) -> bool:
        return any(share.handle == handle for share in self._replica.incoming_shares())

    def holds(self, node: Node) -> bool:
        """Whether a node is below this root: no old version, and not in another root."""
        parent = None if node.parent is None else self._replica.node(node.parent)
        if parent is not None and parent.kind is Kind.FILE:
            return False
        top = self._replica.root_of(node.handle)
        if self._name == "shares":
            return top is not None and self._is_share(top)
        return top == self.root and node.handle != top

    def find(self, node: NodeId) -> Node | None:
        """A node below this root."""
        found = self._replica.node(node)
        return found if found is not None and self.holds(found) else None

    def folder(self, directory: NodeId) -> NodeId:
        """The folder, or the root. NotFound when it is no longer below this root."""
        if directory != self.root:
            found = self.find(directory)
            if found is None or found.kind is not Kind.DIRECTORY:
                raise NotFound("the folder is no longer there")
        return directory

    def info(self, node: Node) -> NodeInfo:
        parent = NodeId(node.parent) if node.parent is not None else None
        if self._name == "shares" and self._is_share(node.handle):
            parent = SHARES
        is_file = node.kind is Kind.FILE
        return NodeInfo(
            id=NodeId(node.handle),
            parent=parent,
            name=node.shown,
            kind=node.kind,
            size=node.size if is_file else 0,
            mtime_ns=node.mtime * 1_000_000_000,
            revision=Revision(node.handle) if is_file else _UNVERSIONED,
        )

    def children(self, directory: NodeId) -> Iterable[NodeInfo] | None:
        """See WholeTree.children."""
        if directory == SHARES and self._name == "shares":
            return map(self.info, self._replica.incoming_shares())
        if directory != self.root and self.find(directory) is None:
            return None
        return self._listed(directory)

    def _listed(self, directory: NodeId) -> Iterator[NodeInfo]:
        return map(self.info, self._replica.children(directory))

    def place(self, node: NodeId) -> tuple[NodeId, str] | None:
        """See WholeTree.place."""
        found = self.find(node)
        if found is None:
            return None
        info = self.info(found)
        return None if info.parent is None else (info.parent, info.name)
