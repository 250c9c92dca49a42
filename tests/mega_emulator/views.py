"""Nodes, shares and users as the objects of the protocol, each as one audience sees them (specification, 8.0)."""

from __future__ import annotations

from typing import Any

from tests.mega_emulator.state import EVERYBODY, FILE, FOLDER, ROOT, Account, Link, Node, Share, State

Json = dict[str, Any]


def node_object(state: State, node: Node, audience: str) -> Json:
    """The node for an account or a link."""
    told: Json = {"h": node.handle, "p": node.parent or "", "u": node.owner, "t": node.type, "a": node.attributes}
    told["k"] = _keys(state, node, audience)
    if node.type == FILE:
        told["s"] = node.size
    told["ts"] = node.created
    if node.file_attributes:
        told["fa"] = node.file_attributes
    share = state.shares.get(node.handle)
    if share is not None and audience in share.to:
        to = share.to[audience]
        told |= {"r": to.right, "su": node.owner, "sk": to.key, "sts": to.since}
    return told


def _keys(state: State, node: Node, audience: str) -> str:
    if node.other_keys is None:
        return f"{node.owner}:{node.key}" if node.key and audience == node.owner else ""
    parts = []
    if audience == node.owner and node.key:
        parts.append(f"{node.owner}:{node.key}")
    link = state.links.get(audience)
    for holder, key in node.other_keys.items():
        if link is not None:
            known = holder == link.node
        elif audience == node.owner:
            known = holder in state.shares
        else:
            known = holder == audience or (holder in state.shares and audience in state.shares[holder].to)
        if known and key:
            parts.append(f"{holder}:{key}")
    return "/".join(parts)


def user_object(account: Account, audience: str) -> Json:
    told: Json = {"u": account.handle, "c": 2 if account.handle == audience else 1, "m": account.email, "ts": 0}
    if account.public_key:
        told["pubk"] = account.public_key
    return told


def share_objects(share: Share) -> list[Json]:
    """What a share is to its owner."""
    return [{"h": share.node, "u": user, "r": to.right, "ts": to.since} for user, to in share.to.items()]


def link_object(link: Link) -> Json:
    told: Json = {"h": link.node, "ph": link.handle, "ts": link.created}
    if link.expires:
        told["ets"] = link.expires
    if link.auth is not None:
        told["w"] = link.auth
    return told


def account_tree(state: State, account: Account) -> tuple[list[Node], Json]:
    """The nodes that an account sees, parents first, and the rest of its ``f`` reply but ``sn``."""
    nodes: list[Node] = []
    users = {account.handle: None} | account.contacts
    for root in account.roots.values():
        nodes += state.subtree(state.nodes[root])
    own = [share for share in state.shares.values() if state.nodes[share.node].owner == account.handle]
    for handle in account.incoming:
        # A share inside another share that is also seen would come twice.
        above = list(state.lineage(state.nodes[handle]))[1:]
        users[state.nodes[handle].owner] = None
        if not any(node.handle in account.incoming for node in above):
            nodes += state.subtree(state.nodes[handle])
    for share in own:
        users |= {user: None for user in share.to if user != EVERYBODY}
    keys = [{"h": share.node, "ha": share.ha, "k": share.ok} for share in own if share.ok]
    rest = {
        "ok": keys,
        "ok0": keys,
        "s": [told for share in own for told in share_objects(share)],
        "ps": [],
        "u": [user_object(state.accounts[user], account.handle) for user in users],
        "ph": [
            link_object(link) for link in state.links.values() if state.nodes[link.node].owner == account.handle
        ],
        "ipc": [],
        "opc": [],
    }
    return nodes, rest


def link_tree(state: State, link: Link) -> tuple[list[Node], Json]:
    """The nodes of a public folder, its root first. A file link has no tree: none."""
    node = state.nodes[link.node]
    nodes = list(state.subtree(node)) if node.type in (FOLDER, ROOT) else []
    return nodes, {"ok": [], "s": [], "u": []}
