"""Cleartext blocks in memory: least recently used out first, under a byte budget.

Every block is an immutable ``bytes`` of exactly its own length, so that a view of it that a reader still holds
pins this block and nothing else, and is never written over. Knows no disk and no fetch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from cachetools import LRUCache

from serpentfs.model import BlockIndex, ContentId

ENTRY_OVERHEAD = 512
"""Bytes charged for a block beyond its cleartext: key, object headers and the places in cachetools' three tables.
A guess on the safe side; without it a budget filled with one-byte files would hold many times its bytes."""

_Key = tuple[ContentId, BlockIndex]


class MemoryCache:
    """Blocks of cleartext by (content id, block), at most ``budget`` bytes with ENTRY_OVERHEAD for each."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._lent = 0
        self._held_back = 0
        self._blocks_of: defaultdict[ContentId, set[BlockIndex]] = defaultdict(set)
        self._entries = _Entries(self._blocks_of)

    @property
    def charged_bytes(self) -> int:
        """Cleartext bytes with the overhead of each entry: what the budget is compared with."""
        return int(self._entries.currsize)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: _Key) -> bool:
        """Without counting as a use."""
        return key in self._entries

    def get(self, key: _Key) -> bytes | None:
        """The cleartext of a block, which counts as its use; None when it is not here."""
        try:
            return self._entries[key]
        except KeyError:
            return None

    def put(self, content: ContentId, block: BlockIndex, data: bytes) -> None:
        """Keep a block, dropping others for it. One larger than the whole budget is not kept."""
        if len(data) + ENTRY_OVERHEAD > self._budget:
            return
        self._entries[content, block] = data
        self._blocks_of[content].add(block)
        self._keep_to_budget()

    def resize(self, budget: int) -> None:
        """Another budget; what does not fit is dropped at once."""
        self._budget = budget
        self._keep_to_budget()

    def hold_back(self, size: int) -> None:
        """From now on ``size`` bytes of the budget are for something else, as if they were lent."""
        self._held_back = size
        self._keep_to_budget()

    @contextmanager
    def lending(self, size: int) -> Iterator[None]:
        """Meanwhile ``size`` bytes of the budget are for something that is on its way here; what is kept gives up at
        most three quarters of the budget for all such."""
        self._lent += size
        self._keep_to_budget()
        try:
            yield
        finally:
            self._lent -= size

    def _keep_to_budget(self) -> None:
        room = max(self._budget - self._lent - self._held_back, self._budget // 4)
        while self._entries.currsize > room:
            self._entries.popitem()

    def forget(self, content: ContentId) -> None:
        """Drop every block of a content."""
        for block in tuple(self._blocks_of.get(content, ())):
            del self._entries[content, block]

    def clear(self) -> None:
        self._entries.clear()
        self._blocks_of.clear()


def _charge(data: bytes) -> int:
    return len(data) + ENTRY_OVERHEAD


class _Entries(LRUCache[_Key, bytes]):
    """The LRU, which also keeps the per-content index in step with whatever leaves it. The budget is its owner's
    business: that of cachetools cannot change."""

    def __init__(self, blocks_of: defaultdict[ContentId, set[BlockIndex]]) -> None:
        super().__init__(math.inf, getsizeof=_charge)
        self._blocks_of = blocks_of

    def __delitem__(self, key: _Key) -> None:
        super().__delitem__(key)
        content, block = key
        blocks = self._blocks_of[content]
        blocks.discard(block)
        if not blocks:
            del self._blocks_of[content]
