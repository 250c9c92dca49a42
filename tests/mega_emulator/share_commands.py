"""Commands on shares, public links and the keys that go with them: s2 l k (specification, 5, 8.2 and 10)."""

from __future__ import annotations

import secrets
from typing import Any

from serpentfs.clouds.mega.encoding import encode
from tests.mega_emulator.service import Service
from tests.mega_emulator.state import EVERYBODY, FILE, FOLDER, OWNER, Actor, Link, Node, Refused, Share, SharedTo, State
from tests.mega_emulator.views import Json, user_object


def share(service: Service, actor: Actor, command: Json) -> Json:
    state, account = service.state, actor.signed_in()
    node = state.node(command["n"])
    state.require(actor, node, OWNER)
    if node.type != FOLDER:
        raise Refused(-2)
    told: Json = {"r": [], "u": []}
    known = state.shares.get(node.handle)
    if known is None or not known.ok:
        known = known or Share(node.handle)
        known.ok, known.ha = str(command.get("ok", "")), str(command.get("ha", ""))
    elif "ok" in command and command["ok"] != known.ok:
        told["ok"] = known.ok  # somebody was first: their key counts
    for wanted in command["s"]:
        if wanted.get("r") in (None, ""):
            told["r"].append(_revoke(service, node, known, str(wanted["u"]), command))
        else:
            told["r"].append(_grant(service, actor, node, known, wanted, command))
    if known.to:
        take_share_keys(state, actor, command.get("cr"), [], [])
    told["u"] = [
        user_object(state.accounts[user], account.handle) for user in known.to if user != EVERYBODY
    ]
    return told


def _grant(service: Service, actor: Actor, node: Node, share: Share, wanted: Json, command: Json) -> int:
    state = service.state
    who = str(wanted["u"])
    user = EVERYBODY if who == EVERYBODY else service.account(who).handle
    if user == node.owner:
        raise Refused(-2)
    known = share.to.get(user)
    key = str(wanted.get("k", "")) or (known.key if known else "")
    state.shares[node.handle] = share
    share.to[user] = SharedTo(int(wanted["r"]), service.now(), key)
    take_share_keys(state, actor, command.get("cr"), [], [])
    packet = service.packet("s2", command, n=node.handle, o=node.owner, u=user, r=int(wanted["r"]), ts=service.now())
    service.events.publish(node.owner, [packet | {"ok": share.ok, "ha": share.ha}])
    if user != EVERYBODY:
        owner, guest = state.accounts[node.owner], state.accounts[user]
        owner.contacts[user] = None
        guest.contacts[owner.handle] = None
        guest.incoming[node.handle] = None
        nodes = [each for each in state.subtree(node) if not state.is_version(each)]
        tree = service.nodes_packet(command, actor, user, nodes)
        users = service.packet("c", command, u=[user_object(owner, user)], ou=owner.handle)
        service.events.publish(user, [users, packet | {"k": key}, tree])
    return 0


def _revoke(service: Service, node: Node, share: Share, who: str, command: Json) -> int:
    user = EVERYBODY if who == EVERYBODY else service.account(who).handle
    if share.to.pop(user, None) is None:
        return 0
    packet = service.packet("s2", command, n=node.handle, o=node.owner, u=user)
    service.events.publish(node.owner, [packet])
    if user != EVERYBODY:
        service.state.accounts[user].incoming.pop(node.handle, None)
        gone = service.packet("d", command, n=node.handle, ou=node.owner)
        service.events.publish(user, [packet | {"okd": 1}, gone])
    if not share.to:
        service.state.shares.pop(node.handle, None)
    return 0


def link(service: Service, actor: Actor, command: Json) -> Any:
    state = service.state
    actor.signed_in()
    node = state.node(command["n"])
    state.require(actor, node, OWNER)
    if node.type not in (FILE, FOLDER):
        raise Refused(-11)
    known = next(iter(state.links_of(node.handle)), None)
    if command.get("d"):
        if known is None:
            raise Refused(-9)
        state.remove_link(known)
        service.events.forget(known.handle)
        packet = service.packet("ph", command, h=node.handle, ph=known.handle, d=1)
        service.events.publish(node.owner, [packet])
        return 0
    shared = state.shares.get(node.handle)
    if node.type == FOLDER and (shared is None or EVERYBODY not in shared.to):
        raise Refused(-11)
    is_new = known is None
    made = known or Link(state.new_handle(), node.handle, service.now())
    if is_new:
        state.add_link(made)
    if "ets" in command:
        made.expires = int(command["ets"])
    if str(command.get("w", "")) == "1" and made.auth is None:
        made.auth = encode(secrets.token_bytes(16))
    packet = service.packet("ph", command, h=node.handle, ph=made.handle, n=int(is_new), ts=made.created)
    if made.expires:
        packet["ets"] = made.expires
    service.events.publish(node.owner, [packet])
    return {"ph": made.handle, "w": made.auth} if "w" in command else made.handle


def keys(service: Service, actor: Actor, command: Json) -> int:
    """Missing keys of a share (``cr``), own keys anew (``nk``), or a share's key for its guest (``sr``)."""
    state = service.state
    take_share_keys(state, actor, command.get("cr"), [], [])
    account = actor.signed_in()
    renewed = command.get("nk", [])
    for handle, key in zip(renewed[::2], renewed[1::2], strict=True):
        node = state.node(handle)
        if node.owner == account.handle:
            node.key = str(key)
        else:
            node.other_keys = {**(node.other_keys or {}), account.handle: str(key)}
    given = command.get("sr", [])
    for handle, who, key in zip(given[::3], given[1::3], given[2::3], strict=True):
        shared = state.shares.get(str(handle))
        user = service.account(who).handle
        if shared is None or user not in shared.to:
            raise Refused(-9)
        shared.to[user].key = str(key)
    return 0


def take_share_keys(state: State, actor: Actor, given: Any, made: list[Node], named: list[str]) -> None:
    """``cr`` of a command: shares, nodes (by handle, by the name they have in the command, or, when there are none, by
    their place in it), and triples of share, node and key. Refused -2: not of this form."""
    if not given:
        return
    shares, nodes, triples = given
    for at in range(0, len(triples) - 2, 3):
        share, number, key = shares[triples[at]], triples[at + 1], str(triples[at + 2])
        if nodes:
            handle = nodes[number]
            node = made[named.index(handle)] if handle in named else state.nodes.get(handle)
        else:
            node = made[number]
        if node is None or state.right(actor, node) < 1:
            continue
        node.other_keys = {**(node.other_keys or {}), share: key}
