"""Keys for those who share a folder: the ``cr`` element of commands (specification, 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.keys import ecb_encrypt
from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.replica import Replica


def with_all_below(replica: Replica, top: Node) -> list[Node]:
    """A node, and whatever is below it, old versions too."""
    nodes, waiting = [], [top]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        waiting.extend(replica.children(node.handle))
    return nodes


def keys_for(shares: Sequence[tuple[str, bytes]], nodes: Sequence[Node]) -> list[Any]:
    """``cr``: the keys of all nodes under those of all shares (handle and key)."""
    triples: list[Any] = []
    for at, (_, share_key) in enumerate(shares):
        for index, node in enumerate(nodes):
            triples += [at, index, encode(ecb_encrypt(share_key, node.key))]
    return [[handle for handle, _ in shares], [node.handle for node in nodes], triples]


def keys_of_arrival(replica: Replica, parent: str, top: Node) -> dict[str, Any]:
    """``cr``, where there need be one, of a command that brings ``top`` into a folder: for the shares it is in."""
    shares = replica.share_of(parent)
    return {"cr": keys_for(shares, with_all_below(replica, top))} if shares else {}
