"""The service as a whole: its lock, what it keeps, and how a change reaches everybody who sees the node.

Commands and storage act through it; it knows nothing of HTTP. Everything is done under ``condition``'s lock.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.mega_emulator.events import Events
from tests.mega_emulator.faults import Faults
from tests.mega_emulator.state import Account, Actor, Link, Node, Refused, State
from tests.mega_emulator.storage import Storage
from tests.mega_emulator.views import Json, node_object

WAIT_S = 40.0


class Service:
    """``base_url``: of the plain port, where storage and wait URLs lead."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.condition = threading.Condition(threading.RLock())
        self.base_url = base_url
        self.state = State()
        self.events = Events(self.condition)
        self.storage = Storage(folder)
        self.faults = Faults()
        self.secret = secrets.token_bytes(16)
        self.wait_seconds = WAIT_S
        self.always_raid = False
        self.content_makers: dict[str, Callable[[Node], bytes]] = {}
        """By account: the ciphertext of a node that was made without content."""
        self.counts: dict[str, int] = {}

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @staticmethod
    def now() -> int:
        return int(time.time())

    def actor(self, sid: str | None, link: str | None) -> Actor:
        """Refused -15 for a session that is none, -9 for a link that is none, -8 for one that has expired, -16."""
        account = None
        if sid is not None:
            account = self.state.sessions.get(sid)
            if account is None:
                raise Refused(-15)
            if account.blocked:
                raise Refused(-16)
        if link is None:
            return Actor(account, sid=sid)
        found = self.state.links.get(link[:8])
        if found is None:
            raise Refused(-9)
        self.check_expiry(found)
        if link[8:] and link[8:] != found.auth:
            raise Refused(-11)
        return Actor(account, found, bool(link[8:]), sid)

    def check_expiry(self, link: Link) -> None:
        if link.expires and link.expires <= time.time():
            raise Refused(-8)

    def account(self, name: object) -> Account:
        """By e-mail or handle. Refused -9."""
        if isinstance(name, str):
            found = self.state.by_email.get(name.lower()) or self.state.accounts.get(name)
            if found is not None:
                return found
        raise Refused(-9)

    def check_quota(self, account: Account, more: int) -> None:
        """Refused -17: full; -24: would be."""
        if more and account.used >= account.quota:
            raise Refused(-17)
        if account.used + more > account.quota:
            raise Refused(-24)

    # telling

    def tell(self, audiences: Iterable[str], packets: Callable[[str], list[Json]]) -> None:
        """To each audience the packets that are made for it."""
        for audience in audiences:
            self.events.publish(audience, packets(audience))

    def packet(self, kind: str, command: Json, **rest: Any) -> Json:
        """With the ``i`` of the command that caused it."""
        packet: Json = {"a": kind}
        if isinstance(command.get("i"), str):
            packet["i"] = command["i"]
        return packet | rest

    def nodes_packet(self, command: Json, actor: Actor, audience: str, nodes: Iterable[Node],
                     versions: Iterable[Node] = ()) -> Json:
        """New nodes, or ones that moved."""
        told: Json = {"f": [node_object(self.state, node, audience) for node in nodes]}
        older = [node_object(self.state, node, audience) for node in versions]
        if older:
            told["f2"] = older
        return self.packet("t", command, t=told, ou=actor.account.handle if actor.account else "")
