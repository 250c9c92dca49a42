"""Which contents leave the disk cache: least recently used first, whole contents, under a byte budget.

Pure: counts bytes that the caller says are taken and names contents that the caller then removes. Whole contents,
because Linux alone can punch holes and files are mostly read as a whole; what that means for a content larger than
the budget is said in CACHE.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from serpentfs.model import ContentId


class DiskLedger:
    """Bytes of disk by content, in order of use."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._taken: OrderedDict[ContentId, int] = OrderedDict()
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def __contains__(self, content: ContentId) -> bool:
        return content in self._taken

    def __len__(self) -> int:
        return len(self._taken)

    def taken(self, content: ContentId) -> int:
        return self._taken.get(content, 0)

    def found(self, contents: Iterable[tuple[ContentId, int]]) -> None:
        """Contents with their bytes, the longest unused first, that were on disk already: all of them count as
        less recently used than what is known by now."""
        known = list(self._taken)
        for content, amount in contents:
            if content not in self._taken:
                self._taken[content] = amount
                self._total += amount
        for content in known:
            self._taken.move_to_end(content)

    def took(self, content: ContentId, amount: int) -> None:
        """A content takes ``amount`` bytes more. Counts as its use."""
        self._taken[content] = self._taken.get(content, 0) + amount
        self._taken.move_to_end(content)
        self._total += amount

    def used(self, content: ContentId) -> None:
        if content in self._taken:
            self._taken.move_to_end(content)

    def removed(self, content: ContentId) -> int:
        """A content is off the disk; the answer is what it took."""
        amount = self._taken.pop(content, 0)
        self._total -= amount
        return amount

    def resize(self, budget: int) -> None:
        """Another budget. Nothing leaves by that: ``excess`` tells what has to."""
        self._budget = budget

    @property
    def room(self) -> int:
        """Bytes that fit into the budget without anything leaving."""
        return max(0, self._budget - self._total)

    def excess(self, amount: int) -> int:
        """Bytes that must go before ``amount`` more fit into the budget; 0 when they fit."""
        return max(0, self._total + amount - self._budget)

    def victims(self, to_free: int, spare: Callable[[ContentId], bool]) -> list[ContentId] | None:
        """The least recently used contents that together take at least ``to_free`` bytes, without those that
        ``spare`` protects. None when there are not enough: then nobody should be removed."""
        chosen = self.oldest(to_free, spare)
        return chosen if sum(map(self.taken, chosen)) >= to_free else None

    def oldest(self, to_free: int, spare: Callable[[ContentId], bool]) -> list[ContentId]:
        """As ``victims``, but as many as there are where they are not enough."""
        chosen: list[ContentId] = []
        for content, amount in self._taken.items():
            if to_free <= 0:
                break
            if not spare(content):
                chosen.append(content)
                to_free -= amount
        return chosen
