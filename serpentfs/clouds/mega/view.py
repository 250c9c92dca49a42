"""One root of an account as the tree of a drive: which nodes are in it, and how each is shown.

Roots are the cloud drive, the inbox, the rubbish bin, and ``shares``: a folder made up here, whose children are what
others share with this account. Of a public folder the root is the folder, or what a link names inside it; a file that
it names is alone in a folder made up here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.replica import Replica
from serpentfs.errors import NotFound, PermissionDenied, UsageError
from serpentfs.model import Kind, NodeId, NodeInfo, Revision

ROOTS = ("cloud", "inbox", "rubbish", "shares")
SHARES = NodeId("shares")
LINKED_FILE = NodeId("linkfile")
_UNVERSIONED = Revision("")
"""Folders have no content: nothing of theirs is ever another revision."""


class View:
    """``folder_link``: the replica is of a public folder; ``linked``: the handle of what the link names inside it.
    UsageError for a root that there is not."""

    def __init__(
        self, replica: Replica, root: str, *, folder_link: bool = False, linked: str | None = None
    ) -> None:
        if root not in ROOTS:
            raise UsageError(f'no root "{root}" in an account; there are: {", ".join(ROOTS)}')
        self._replica = replica
        self._name = root
        self._folder_link = folder_link
        self._linked = linked
        self._linked_root: NodeId | None = None
        """Found once: a drive keeps its root, though what is behind it may go away."""

    @property
    def root(self) -> NodeId:
        """NotFound: there is no such root, or what the link names is no longer there; also before the account's tree
        was loaded once."""
        if self._name == "shares":
            return SHARES
        if self._linked is not None:
            return self._root_of_linked(self._linked)
        handle = {
            "cloud": self._replica.cloud_drive,
            "inbox": self._replica.inbox,
            "rubbish": self._replica.rubbish,
        }[self._name]
        if handle is None:
            raise NotFound(f"the account has no {self._name}")
        return NodeId(handle)

    def _root_of_linked(self, linked: str) -> NodeId:
        if self._linked_root is None:
            node = self._replica.node(linked)
            if node is None:
                raise NotFound("what the link names is no longer in the folder")
            self._linked_root = NodeId(linked) if node.kind is Kind.DIRECTORY else LINKED_FILE
        return self._linked_root

    def _is_share(self, handle: str) -> bool:
        return any(share.handle == handle for share in self._replica.incoming_shares())

    def _above(self, node: Node) -> Node | None:
        return None if node.parent is None else self._replica.node(node.parent)

    def _linked_file(self) -> Node | None:
        """The file that a link names, as it is now: where somebody saved over it, the newest version."""
        node = None if self._linked is None else self._replica.node(self._linked)
        while node is not None and (above := self._above(node)) is not None and above.kind is Kind.FILE:
            node = above
        return node

    def _is_below(self, root: NodeId, node: Node) -> bool:
        above: Node | None = node
        while above is not None and above.handle != root:
            above = self._above(above)
        return above is not None

    def holds(self, node: Node) -> bool:
        """Whether a node is below this root: no old version, and not in another root. A link's folder itself is: its
        name changes like any other, and nothing is to be done about it."""
        if self.root == LINKED_FILE:
            head = self._linked_file()
            return head is not None and node.handle == head.handle
        above = self._above(node)
        if above is not None and above.kind is Kind.FILE:
            return False
        if self._folder_link:
            # The folder has a parent that nobody with the link can see: nothing is known above it.
            return self._is_below(self.root, node)
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

    def folder_to_write(self, directory: NodeId) -> NodeId:
        """``folder``. PermissionDenied for the one that is made up of what others share."""
        if directory == SHARES:
            raise PermissionDenied("only the owner of a folder can share it")
        return self.folder(directory)

    def info(self, node: Node) -> NodeInfo:
        parent = NodeId(node.parent) if node.parent is not None else None
        if self._name == "shares" and self._is_share(node.handle):
            parent = SHARES
        elif self.root == LINKED_FILE:
            parent = LINKED_FILE
        elif self._folder_link and node.handle == self.root:
            parent = None
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
        if directory == self.root == LINKED_FILE:
            head = self._linked_file()
            return [] if head is None else [self.info(head)]
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
