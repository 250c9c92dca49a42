"""What the emulated service keeps: accounts, sessions, nodes, shares and links, and who may see what of them.

Pure: no socket, no clock, no thread; callers hold the one lock. Like the real service it has no key to anything: names
and keys are text that clients gave it. Nothing here knows how clients are told of changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from serpentfs.clouds.mega.encoding import encode

FILE, FOLDER, ROOT, INBOX, RUBBISH = range(5)
EVERYBODY = "EXP"
READ, WRITE, FULL, OWNER = range(4)
NOTHING = -1
"""No right at all, in the order of the rights above."""


class Refused(Exception):
    """A command that is answered with an error ``code`` (specification, 3)."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True, eq=False)
class Node:
    """``key``: under the owner's master key; ``other_keys``: under the key of a share (by its handle) or another
    account (by its). ``blob`` names the content; a file whose parent is a file is an older version of that one."""

    handle: str
    owner: str
    type: int
    parent: str | None
    attributes: str
    created: int
    size: int = 0
    blob: str | None = None
    key: str = field(default="", repr=False)
    other_keys: dict[str, str] | None = field(default=None, repr=False)
    file_attributes: str = ""


@dataclass(slots=True)
class SharedTo:
    right: int
    since: int
    key: str = field(default="", repr=False)


@dataclass(slots=True)
class Share:
    """``ok`` and ``ha``: the share's key under the owner's master key, and the proof that it is the owner's.
    ``to``: account handle, or EVERYBODY."""

    node: str
    ok: str = field(default="", repr=False)
    ha: str = field(default="", repr=False)
    to: dict[str, SharedTo] = field(default_factory=dict)


@dataclass(slots=True)
class Link:
    """``auth``: what must follow the handle for write access; None: nobody may write. ``expires``: Unix time or 0."""

    handle: str
    node: str
    created: int
    expires: int = 0
    auth: str | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class Account:
    """``proof``: what a log-in is checked against. ``attributes``: value and version. ``modulus`` and ``exponent``:
    0 for an account without RSA key. ``quota`` and ``used`` in bytes."""

    handle: str
    email: str
    version: int
    salt: str
    proof: bytes = field(repr=False)
    wrapped_key: str = field(repr=False)
    private_key: str = field(repr=False)
    public_key: str
    modulus: int
    exponent: int
    mfa: str | None = field(repr=False)
    quota: int
    name: str = ""
    challenge: str = field(default="", repr=False)
    used: int = 0
    blocked: bool = False
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)
    roots: dict[int, str] = field(default_factory=dict)
    incoming: dict[str, None] = field(default_factory=dict)
    contacts: dict[str, None] = field(default_factory=dict)

    @property
    def keeps_versions(self) -> bool:
        return self.attributes.get("^!dv", ("", ""))[0] not in ("1", "MQ")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sends a command: an account, somebody with a link, both, or neither (before log-in)."""

    account: Account | None
    link: Link | None = None
    link_writable: bool = False
    sid: str | None = field(default=None, repr=False)

    @property
    def audience(self) -> str:
        """Under which name this one is told of changes."""
        if self.link is not None:
            return self.link.handle
        return self.signed_in().handle

    def signed_in(self) -> Account:
        if self.account is None:
            raise Refused(-15)
        return self.account


class State:
    """Everything, in memory."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.by_email: dict[str, Account] = {}
        self.sessions: dict[str, Account] = {}
        self.nodes: dict[str, Node] = {}
        self.shares: dict[str, Share] = {}
        self.links: dict[str, Link] = {}
        self._children: dict[str, dict[str, None]] = {}
        self._links_of: dict[str, list[Link]] = {}

    # accounts

    def add_account(self, account: Account, now: int) -> None:
        """With its three roots. Refused -12: the address is taken."""
        if account.email in self.by_email:
            raise Refused(-12)
        self.accounts[account.handle] = account
        self.by_email[account.email] = account
        for kind in (ROOT, INBOX, RUBBISH):
            root = Node(self.new_handle(), account.handle, kind, None, "", now)
            account.roots[kind] = root.handle
            self.nodes[root.handle] = root

    def new_session(self, account: Account) -> bytes:
        """43 bytes: 16, the account's handle, 16. The first is never zero, which some clients would drop."""
        sid = bytes([secrets.randbelow(255) + 1]) + secrets.token_bytes(15) + account.handle.encode()
        sid += secrets.token_bytes(16)
        self.sessions[encode(sid)] = account
        return sid

    def end_sessions(self, account: Account, *, but: str | None = None) -> None:
        """All of the account, except one."""
        for sid in [sid for sid, owner in self.sessions.items() if owner is account and sid != but]:
            del self.sessions[sid]

    # nodes

    def new_handle(self) -> str:
        while True:
            handle = encode(secrets.token_bytes(6))
            if handle not in self.nodes and handle not in self.links:
                return handle

    def node(self, handle: object) -> Node:
        """Refused -9."""
        node = self.nodes.get(handle) if isinstance(handle, str) else None
        if node is None:
            raise Refused(-9)
        return node

    def children(self, handle: str) -> list[Node]:
        return [self.nodes[child] for child in self._children.get(handle, ())]

    def parent(self, node: Node) -> Node | None:
        return None if node.parent is None else self.nodes.get(node.parent)

    def insert(self, node: Node) -> None:
        self.nodes[node.handle] = node
        if node.parent is not None:
            self._children.setdefault(node.parent, {})[node.handle] = None
        self.accounts[node.owner].used += node.size

    def reparent(self, node: Node, parent: Node) -> None:
        """Below another node, that may belong to another account."""
        self._take_out(node)
        node.parent = parent.handle
        self._children.setdefault(parent.handle, {})[node.handle] = None
        if node.owner != parent.owner:
            for each in list(self.subtree(node)):
                self.accounts[each.owner].used -= each.size
                self.accounts[parent.owner].used += each.size
                each.other_keys = {**(each.other_keys or {}), each.owner: each.key}
                each.key = each.other_keys.pop(parent.owner, "")
                each.owner = parent.owner

    def _take_out(self, node: Node) -> None:
        if node.parent is not None:
            self._children.get(node.parent, {}).pop(node.handle, None)

    def remove(self, node: Node) -> list[Node]:
        """With everything below it, and their shares and links; what was removed."""
        gone = list(self.subtree(node))
        self._take_out(node)
        for each in gone:
            del self.nodes[each.handle]
            self._children.pop(each.handle, None)
            self.accounts[each.owner].used -= each.size
            for link in self.links_of(each.handle):
                self.remove_link(link)
            share = self.shares.pop(each.handle, None)
            for user in share.to if share else ():
                if user in self.accounts:
                    self.accounts[user].incoming.pop(each.handle, None)
        return gone

    def subtree(self, node: Node) -> Iterator[Node]:
        """The node and all below it, parents first, older versions too."""
        waiting = [node]
        while waiting:
            node = waiting.pop()
            yield node
            inner = self._children.get(node.handle)
            if inner:
                waiting += [self.nodes[child] for child in inner]

    def lineage(self, node: Node) -> Iterator[Node]:
        """The node and all above it."""
        above: Node | None = node
        while above is not None:
            yield above
            above = self.parent(above)

    def is_version(self, node: Node) -> bool:
        parent = self.parent(node)
        return parent is not None and parent.type == FILE

    def head(self, node: Node) -> Node:
        """The newest version of the file that ``node`` is a version of."""
        while (parent := self.parent(node)) is not None and parent.type == FILE:
            node = parent
        return node

    # links

    def links_of(self, handle: str) -> list[Link]:
        return list(self._links_of.get(handle, ()))

    def add_link(self, link: Link) -> None:
        self.links[link.handle] = link
        self._links_of.setdefault(link.node, []).append(link)

    def remove_link(self, link: Link) -> None:
        del self.links[link.handle]
        self._links_of[link.node].remove(link)
        if not self._links_of[link.node]:
            del self._links_of[link.node]

    # rights

    def right(self, actor: Actor, node: Node) -> int:
        """The most that the actor may do with the node."""
        most = NOTHING
        for above in self.lineage(node):
            if actor.link is not None and actor.link.node == above.handle:
                most = max(most, WRITE if actor.link_writable else READ)
            share = self.shares.get(above.handle)
            if actor.account is not None and share is not None and actor.account.handle in share.to:
                most = max(most, share.to[actor.account.handle].right)
        # Inside a link only the link counts, unless it is one's own tree.
        if actor.account is not None and node.owner == actor.account.handle:
            most = OWNER
        return most

    def require(self, actor: Actor, node: Node, right: int) -> None:
        """Refused -9 when the actor may not even see the node, -11 when it has not the ``right``."""
        has = self.right(actor, node)
        if has == NOTHING:
            raise Refused(-9)
        if has < right:
            raise Refused(-11)

    def audiences(self, node: Node) -> dict[str, None]:
        """Handles of the accounts and of the links that see the node."""
        found = {node.owner: None}
        for above in self.lineage(node):
            share = self.shares.get(above.handle)
            if share is not None:
                found |= {user: None for user in share.to if user in self.accounts}
            if above.type == FOLDER:
                found |= {link.handle: None for link in self._links_of.get(above.handle, ())}
        return found
