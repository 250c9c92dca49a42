"""What went between a contender and its store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests, and bytes of bodies that the store received and sent."""

    requests: int = 0
    received: int = 0
    sent: int = 0

    def __sub__(self, before: Self) -> Traffic:
        return Traffic(self.requests - before.requests, self.received - before.received, self.sent - before.sent)


NO_TRAFFIC = Traffic()
