"""Faults on demand: rules that say which request goes wrong, and how. Pure; callers hold the lock.

A rule names a place, lets some requests there pass, and hits a number of the following ones, each with a probability.
What an effect does is the business of the place:

| place    | request                        | effects                                                                 |
|----------|--------------------------------|-------------------------------------------------------------------------|
| batch    | to the command channel         | error, http, hashcash, break, lose, truncate, slow                       |
| command  | one command (``only``: which)  | error                                                                    |
| raid     | ``g`` with ``v`` of at least 2 | (any: the answer has the URLs of six parts)                              |
| events   | poll of the event channel      | error (-6 is ETOOMANY), http, hashcash, break, truncate, slow, twice     |
| wait     | wait URL                       | http, break, slow                                                        |
| upload   | piece                          | error, http, break (body unread), lose (piece kept), slow                |
| download | range                          | http, break, truncate, slow, corrupt, quota                              |

``error``: ``code``. ``http``: ``status``, ``headers``. ``hashcash``: ``easiness``; the request that brings the answer
passes. ``break``: connection closed, nothing done. ``lose``: done, but the answer never comes. ``truncate``: only
``bytes`` of the answer. ``slow``: ``seconds`` before the answer, or ``rate`` in bytes per second. ``corrupt``: a bit of
byte ``bytes`` of the answer flipped. ``quota``: 509 with ``seconds`` in X-MEGA-Time-Left. ``twice``: the packets
of an event poll come twice.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Place = Literal["batch", "command", "raid", "events", "wait", "upload", "download"]


@dataclass(slots=True)
class Fault:
    """``skip``: matching requests that pass first; ``times``: how many are hit then (None: all)."""

    place: Place
    effect: str
    only: str | None = None
    account: str | None = None
    skip: int = 0
    times: int | None = 1
    probability: float = 1.0
    code: int = -3
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    easiness: int = 255
    bytes: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    hits: int = 0


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._random = random.Random(0)

    def add(self, rule: dict[str, Any]) -> None:
        """TypeError: a field that no rule has."""
        self._rules.append(Fault(**rule))

    def clear(self) -> None:
        self._rules.clear()

    def told(self) -> list[dict[str, Any]]:
        return [asdict(rule) for rule in self._rules]

    def take(self, place: Place, name: str | None = None, account: str | None = None) -> Fault | None:
        """The rule that hits this request, if one does. ``name``: of the command; ``account``: e-mail of who sends."""
        for rule in self._rules:
            if rule.place != place or (rule.times is not None and rule.hits >= rule.times):
                continue
            if rule.only not in (None, name) or rule.account not in (None, account):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if self._random.random() < rule.probability:
                rule.hits += 1
                return rule
        return None
