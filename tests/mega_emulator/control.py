"""What tests tell the emulator beside the protocol: accounts, nodes made by nobody, faults, the pace of the line.

One JSON object in, one JSON value out. Part of no client's world.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serpentfs.clouds.mega.encoding import decode
from tests.mega_emulator.bulk import load
from tests.mega_emulator.state import FILE, Account, Node
from tests.mega_emulator.views import node_object

if TYPE_CHECKING:
    from tests.mega_emulator.server import Server

Json = dict[str, Any]


def run(server: Server, order: Json) -> Any:
    """KeyError, TypeError, ValueError: not an order."""
    do = _ORDERS[order.pop("do")]
    with server.service.condition:
        return do(server, order)


def _add_account(server: Server, order: Json) -> None:
    account = Account(**{**order, "proof": decode(order["proof"])})
    server.service.state.add_account(account, server.service.now())


def _add_node(server: Server, order: Json) -> Json:
    """A node as if a client had put it; ``content`` is ciphertext. Its events are sent."""
    service = server.service
    account = service.account(order["email"])
    parent = service.state.node(order.get("parent") or account.roots[2])
    node = Node(
        service.state.new_handle(), account.handle, order["type"], parent.handle, order["attributes"],
        order.get("created") or service.now(), key=order["key"],
    )  # fmt: skip
    if order["type"] == FILE:
        content = decode(order["content"])
        node.size, node.blob = len(content), service.storage.add_content(content)
    service.state.insert(node)
    service.tell(
        service.state.audiences(node),
        lambda audience: [
            service.packet("t", {}, t={"f": [node_object(service.state, node, audience)]}, ou=account.handle)
        ],
    )
    return node_object(service.state, node, account.handle)


def _tree(server: Server, order: Json) -> list[Json]:
    """All nodes of the account's own, older versions too."""
    state = server.service.state
    account = server.service.account(order["email"])
    return [
        node_object(state, node, account.handle)
        for root in account.roots.values()
        for node in state.subtree(state.nodes[root])
    ]


def _fault(server: Server, order: Json) -> None:
    server.service.faults.add(order)


def _clear_faults(server: Server, _: Json) -> None:
    server.service.faults.clear()


def _faults(server: Server, _: Json) -> list[Json]:
    return server.service.faults.told()


def _counts(server: Server, _: Json) -> Json:
    """How often each place and each command was used, and bytes downloaded."""
    return dict(server.service.counts)


def _expire_urls(server: Server, _: Json) -> None:
    server.service.storage.expire_urls()


def _forget_events(server: Server, order: Json) -> None:
    server.service.events.forget(server.service.account(order["email"]).handle)


def _end_sessions(server: Server, order: Json) -> None:
    server.service.state.end_sessions(server.service.account(order["email"]))


def _set_account(server: Server, order: Json) -> None:
    account = server.service.account(order["email"])
    account.quota = order.get("quota", account.quota)
    account.blocked = order.get("blocked", account.blocked)


def _set(server: Server, order: Json) -> None:
    """How the whole server behaves; what is not named stays."""
    service, pace = server.service, server.pace
    pace.latency = order.pop("latency", pace.latency)
    pace.rate = order.pop("rate", pace.rate)
    service.wait_seconds = order.pop("wait_seconds", service.wait_seconds)
    service.always_raid = order.pop("always_raid", service.always_raid)
    service.events.kept = order.pop("kept_events", service.events.kept)
    service.storage.url_life = order.pop("url_life", service.storage.url_life)
    if order:
        raise ValueError(f"unknown settings: {sorted(order)}")


def _bulk(server: Server, order: Json) -> Json:
    account = server.service.account(order["email"])
    return load(
        server.service, account, decode(order["master"]), count=order["count"], largest_folder=order["largest_folder"]
    )


_ORDERS: dict[str, Callable[[Server, Json], Any]] = {
    "add_account": _add_account,
    "add_node": _add_node,
    "tree": _tree,
    "fault": _fault,
    "clear_faults": _clear_faults,
    "faults": _faults,
    "counts": _counts,
    "expire_urls": _expire_urls,
    "forget_events": _forget_events,
    "end_sessions": _end_sessions,
    "set_account": _set_account,
    "set": _set,
    "bulk": _bulk,
}
