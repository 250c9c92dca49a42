"""Commands on nodes and their content: f p a m d dv u g ufa pfa (specification, 7 and 8)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.mega_emulator.events import sn_text
from tests.mega_emulator.service import Service
from tests.mega_emulator.share_commands import take_share_keys
from tests.mega_emulator.state import (
    FILE,
    FOLDER,
    FULL,
    INBOX,
    READ,
    RUBBISH,
    WRITE,
    Account,
    Actor,
    Node,
    Refused,
)
from tests.mega_emulator.views import Json, account_tree, link_tree, node_object

_BASE64 = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_ATTRIBUTES = 65536
_STREAMED_FROM = 5000
_PER_PIECE = 2000


class Streamed:
    """An answer that is too large to be made in memory; ``pieces`` are its JSON, made without the lock."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces


def _text(value: object, longest: int = _LONGEST_ATTRIBUTES) -> str:
    if not isinstance(value, str) or len(value) > longest or not _BASE64.fullmatch(value):
        raise Refused(-2)
    return value


# the tree


def fetch(service: Service, actor: Actor, _: Json) -> Any:
    if actor.link is not None:
        nodes, rest = link_tree(service.state, actor.link)
        if not nodes:
            raise Refused(-9)
    else:
        nodes, rest = account_tree(service.state, actor.signed_in())
    rest["sn"] = sn_text(service.events.serial(actor.audience))
    pieces = _tree_pieces(service, nodes, actor.audience, rest)
    if len(nodes) >= _STREAMED_FROM:
        return Streamed(pieces)
    return json.loads(b"".join(pieces))


def _tree_pieces(service: Service, nodes: list[Node], audience: str, rest: Json) -> Iterator[bytes]:
    """``f``, ``f2`` and the rest. What changes while this runs is told again by the event channel."""
    versions: list[Json] = []
    yield b'{"f":['
    between = b""
    for at in range(0, len(nodes), _PER_PIECE):
        shown = []
        for node in nodes[at:at + _PER_PIECE]:
            told = node_object(service.state, node, audience)
            if node.type == FILE and service.state.is_version(node):
                versions.append(told)
            else:
                shown.append(told)
        if shown:
            yield between + json.dumps(shown, separators=(",", ":"))[1:-1].encode()
            between = b","
    tail = {"f2": versions, **rest} if versions else rest
    yield b"]," + json.dumps(tail, separators=(",", ":"))[1:].encode()


# new nodes


@dataclass(frozen=True, slots=True)
class _Source:
    """What an entry of ``p`` makes a node of."""

    type: int
    size: int = 0
    blob: str | None = None
    file_attributes: str = ""


def put(service: Service, actor: Actor, command: Json) -> Any:
    state = service.state
    target, recipient = _target(service, actor, command["t"])
    owner = state.accounts[target.owner]
    sources = [_source(service, actor, entry) for entry in command["n"]]
    _check_entries(service, actor, command["n"])
    service.check_quota(owner, sum(source.size for source in sources))
    made: list[Node] = []
    older: list[Node] = []
    packets_before: list[Json] = []
    places: dict[str, Node] = {}
    audiences = state.audiences(target)
    for entry, source in zip(command["n"], sources, strict=True):
        parent = places[str(entry["p"])] if "p" in entry else target
        node = Node(
            state.new_handle(), owner.handle, source.type, parent.handle, entry["a"], service.now(),
            source.size, source.blob,
        )  # fmt: skip
        _set_key(node, actor, owner, entry.get("k"), recipient)
        node.file_attributes = source.file_attributes or _attached(service, "", entry.get("fa"))
        replaced = _replaced(service, entry.get("ov"), parent, source)
        state.insert(node)
        places[str(entry.get("h", ""))] = node
        made.append(node)
        if replaced is not None:
            if _keeps_version(command, owner):
                state.reparent(replaced, node)
                older += state.subtree(replaced)
            else:
                state.remove(replaced)
                packets_before.append(service.packet("d", command, n=replaced.handle))
    take_share_keys(state, actor, command.get("cr"), made, [str(entry.get("h", "")) for entry in command["n"]])

    def packets(audience: str) -> list[Json]:
        return [*packets_before, service.nodes_packet(command, actor, audience, made, older)]

    service.tell(audiences, packets)
    audience = actor.audience
    told: Json = {"f": [node_object(state, node, audience) for node in made]}
    if older:
        told["f2"] = [node_object(state, node, audience) for node in older]
    return told


def _check_entries(service: Service, actor: Actor, entries: list[Json]) -> None:
    """Refused when one of them is malformed: before the first is executed."""
    names: set[str] = set()
    for entry in entries:
        _text(entry["a"])
        if not actor.link_writable:
            _text(entry["k"], 2048)
        if "p" in entry and str(entry["p"]) not in names:
            raise Refused(-9)
        _attached(service, "", entry.get("fa"))
        names.add(str(entry.get("h", "")))


def _target(service: Service, actor: Actor, handle: object) -> tuple[Node, Account | None]:
    """The folder to put into, and the account it is sent to when that is not the actor's own choice of folder."""
    state = service.state
    if isinstance(handle, str) and len(handle) == 11:
        recipient = service.account(handle)
        actor.signed_in()
        return state.nodes[recipient.roots[INBOX]], recipient
    node = state.nodes.get(str(handle))
    if node is None:
        # Deleted meanwhile: what was uploaded for it is not lost.
        return state.nodes[actor.signed_in().roots[RUBBISH]], None
    state.require(actor, node, WRITE)
    if node.type == FILE:
        raise Refused(-2)
    return node, None


def _source(service: Service, actor: Actor, entry: Json) -> _Source:
    state = service.state
    if "ph" in entry:
        link = state.links.get(str(entry["ph"]))
        if link is None:
            raise Refused(-9)
        service.check_expiry(link)
        node = state.nodes[link.node]
        return _Source(node.type, node.size, node.blob, node.file_attributes)
    handle = str(entry["h"])
    node_or_none = state.nodes.get(handle)
    if node_or_none is not None:
        state.require(actor, node_or_none, READ)
        if node_or_none.type in (FILE, FOLDER):
            return _Source(node_or_none.type, node_or_none.size, node_or_none.blob, node_or_none.file_attributes)
        raise Refused(-11)
    if entry["t"] == FOLDER:
        return _Source(FOLDER)
    blob = service.storage.take_completed(handle)
    if blob is None:
        raise Refused(-9)
    return _Source(FILE, blob.size, blob.token)


def _set_key(node: Node, actor: Actor, owner: Account, key: object, recipient: Account | None) -> None:
    if key is None and actor.link_writable:
        return
    text = _text(key, 2048)
    if recipient is not None or (actor.account is not None and actor.account.handle == owner.handle):
        node.key = text
    elif actor.account is not None:
        node.other_keys = {actor.account.handle: text}


def _replaced(service: Service, old: object, parent: Node, source: _Source) -> Node | None:
    """The file that a new one takes the place of: the newest version of the named one, if it is in that folder."""
    node = service.state.nodes.get(old) if isinstance(old, str) else None
    if node is None or node.type != FILE or source.type != FILE:
        return None
    head = service.state.head(node)
    return head if head.parent == parent.handle else None


def _keeps_version(command: Json, owner: Account) -> bool:
    if "vb" in command:
        return str(command["vb"]) == "1"
    return owner.keeps_versions


# changes


def set_attributes(service: Service, actor: Actor, command: Json) -> int:
    state = service.state
    node = state.node(command["n"])
    state.require(actor, node, WRITE)
    if node.type not in (FILE, FOLDER):
        raise Refused(-11)
    node.attributes = _text(command["at"] if "at" in command else command["attr"])
    packet = service.packet("u", command, n=node.handle, u=node.owner, at=node.attributes, ts=node.created)
    service.tell(state.audiences(node), lambda _: [packet])
    return 0


def move(service: Service, actor: Actor, command: Json) -> int:
    state = service.state
    node, target = state.node(command["n"]), state.node(command["t"])
    state.require(actor, node, FULL)
    state.require(actor, target, WRITE)
    if node.type not in (FILE, FOLDER):
        raise Refused(-11)
    if target.type == FILE:
        raise Refused(-2)
    if any(above is node for above in state.lineage(target)):
        raise Refused(-10)
    if node.owner != target.owner:
        service.check_quota(state.accounts[target.owner], sum(each.size for each in state.subtree(node)))
    before = state.audiences(node)
    state.reparent(node, target)
    after = state.audiences(node)
    nodes = list(state.subtree(node))
    take_share_keys(state, actor, command.get("cr"), [], [])
    who = actor.account.handle if actor.account else ""

    def packets(audience: str) -> list[Json]:
        told = []
        if audience in before:
            gone = service.packet("d", command, n=node.handle, ou=who)
            told.append(gone | {"m": 1} if audience in after else gone)
        if audience in after:
            current = [each for each in nodes if not state.is_version(each)]
            older = [each for each in nodes if state.is_version(each)]
            told.append(service.nodes_packet(command, actor, audience, current, older))
        return told

    service.tell(before | after, packets)
    return 0


def delete(service: Service, actor: Actor, command: Json) -> int:
    state = service.state
    node = state.node(command["n"])
    state.require(actor, node, FULL)
    if node.type not in (FILE, FOLDER):
        raise Refused(-11)
    audiences = state.audiences(node)
    kept: list[Node] = []
    if command.get("v") == 1 and node.type == FILE:
        parent = state.nodes[str(node.parent)]
        for older in state.children(node.handle):
            state.reparent(older, parent)
            kept += state.subtree(older)
    state.remove(node)
    who = actor.account.handle if actor.account else ""

    def packets(audience: str) -> list[Json]:
        told = [service.packet("d", command, n=node.handle, ou=who)]
        if kept:
            current = [each for each in kept if not state.is_version(each)]
            older = [each for each in kept if state.is_version(each)]
            told.append(service.nodes_packet(command, actor, audience, current, older))
        return told

    service.tell(audiences, packets)
    return 0


def delete_versions(service: Service, actor: Actor, command: Json) -> int:
    state, account = service.state, actor.signed_in()
    heads = [
        node
        for root in account.roots.values()
        for node in state.subtree(state.nodes[root])
        if node.type == FILE and not state.is_version(node)
    ]
    for head in heads:
        for older in state.children(head.handle):
            audiences = state.audiences(older)
            state.remove(older)
            packet = service.packet("d", command, n=older.handle, ou=account.handle)
            service.tell(audiences, lambda _, packet=packet: [packet])  # type: ignore[misc]
    return 0


# content


def upload(service: Service, actor: Actor, command: Json) -> Json:
    size = command["s"]
    if not isinstance(size, int) or size < 0:
        raise Refused(-2)
    owner = actor.account
    target = command.get("t")
    handle = target[0] if isinstance(target, list) and target else target
    node = service.state.nodes.get(handle) if isinstance(handle, str) else None
    if node is not None:
        owner = service.state.accounts[node.owner]
    if owner is None:
        raise Refused(-15)
    service.check_quota(owner, size)
    dialect = command.get("v", 1)
    return {"p": f"{service.base_url}/ul/{service.storage.new_upload(size, int(dialect))}"}


def get(service: Service, actor: Actor, command: Json) -> Json:
    state = service.state
    if "p" in command:
        link = state.links.get(str(command["p"]))
        if link is None:
            raise Refused(-9)
        service.check_expiry(link)
        node = state.nodes[link.node]
    else:
        node = state.node(command["n"])
        state.require(actor, node, READ)
    if node.type != FILE:
        raise Refused(-9 if "p" in command else -11)
    told: Json = {"s": node.size, "at": node.attributes, "msd": 1, "tl": 0}
    if node.file_attributes:
        told["fa"] = node.file_attributes
    if command.get("g") != 1:
        return told
    if node.blob is None:
        node.blob = service.storage.add_content(service.content_makers[node.owner](node))
    modern = str(command.get("v", "1")) >= "2"
    as_parts = modern and (service.always_raid or service.faults.take("raid") is not None)
    account = actor.account.email if actor.account else None
    tokens = service.storage.new_downloads(node.blob, as_parts=as_parts, account=account)
    urls = [f"{service.base_url}/dl/{token}" for token in tokens]
    return told | {"g": urls if modern else urls[0]}


# file attributes


def attribute_storage(service: Service, actor: Actor, command: Json) -> Json:
    if "fah" in command:
        return {"p": f"{service.base_url}/fa"}
    size = command["s"]
    if actor.account is None or not isinstance(size, int) or size <= 0:
        raise Refused(-2)
    return {"p": f"{service.base_url}/ufa/{service.storage.new_attribute_url(size)}"}


def attach_attribute(service: Service, actor: Actor, command: Json) -> str:
    state = service.state
    node = state.node(command["n"])
    state.require(actor, node, WRITE)
    if node.type != FILE:
        raise Refused(-2)
    node.file_attributes = _attached(service, node.file_attributes, command["fa"])
    packet = service.packet("fa", command, n=node.handle, fa=node.file_attributes)
    service.tell(state.audiences(node), lambda _: [packet])
    return node.file_attributes


def _attached(service: Service, known: str, added: object) -> str:
    """``<group>:<type>*<handle>`` of every type, with those in ``added`` (which have no group) in place of old ones."""
    by_type = {part.partition(":")[2].partition("*")[0]: part for part in known.split("/") if part}
    if isinstance(added, str):
        for part in added.split("/"):
            kind, star, handle = part.rpartition(":")[2].partition("*")
            if not (star and kind.isdigit() and service.storage.has_attribute(handle)):
                raise Refused(-9)
            by_type[kind] = f"100:{kind}*{handle}"
    return "/".join(by_type.values())
