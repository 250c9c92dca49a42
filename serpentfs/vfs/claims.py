"""Who goes first: for every inode and every name slot a queue of the entries that read or write it.

A read/write lock without threads. Claims are granted in order of seq: a writer when it is first in the queue,
readers when no writer is before them. Each claim costs O(1), however many entries are pending.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from serpentfs.vfs.entries import Resource


class _Queue:
    __slots__ = ("exclusive", "granted", "last_reader", "readers", "waiting", "writers")

    def __init__(self) -> None:
        self.granted = 0
        self.exclusive = False      # the one granted claim is a writer's
        self.last_reader = 0        # highest seq that ever queued here to read
        self.readers = 0
        self.writers: list[int] = []
        self.waiting: OrderedDict[int, bool] | None = None      # made only where something has to wait


class Claims:
    """The queues of all resources that pending entries touch."""

    def __init__(self) -> None:
        self._queues: dict[Resource, _Queue] = {}

    def writers(self, resource: Resource) -> Sequence[int]:
        """Seqs of the entries that write the resource, in order."""
        queue = self._queues.get(resource)
        return queue.writers if queue is not None else ()

    def readers(self, resource: Resource) -> int:
        """How many entries read the resource without writing it."""
        queue = self._queues.get(resource)
        return queue.readers if queue is not None else 0

    def behind(self, seq: int, resource: Resource, write: bool) -> list[int]:
        """The entries that wait for that claim of ``seq``."""
        queue = self._queues.get(resource)
        if queue is None or not queue.waiting:
            return []
        return [later for later, writes in queue.waiting.items() if later > seq and (write or writes)]

    def add(self, seq: int, resource: Resource, write: bool) -> bool:
        """Queue up at the end; the answer tells whether the claim is granted at once.

        ValueError when an entry with a higher seq has queued there that this one excludes: it may have been told to go
        already. Readers do not exclude one another.
        """
        queue = self._queues.get(resource)
        if queue is None:
            queue = self._queues[resource] = _Queue()
        last = queue.writers[-1] if queue.writers else 0
        if write and queue.readers:
            last = max(last, queue.last_reader)
        if seq < last:
            raise ValueError(f"entry {seq} claims {resource} after entry {last} did")
        if write:
            queue.writers.append(seq)
        else:
            queue.readers += 1
            queue.last_reader = max(seq, queue.last_reader)
        if not queue.waiting and (queue.granted == 0 or not (write or queue.exclusive)):
            queue.granted += 1
            queue.exclusive = write
            return True
        if queue.waiting is None:
            queue.waiting = OrderedDict()
        queue.waiting[seq] = write
        return False

    def drop(self, seq: int, resource: Resource, write: bool) -> tuple[bool, list[int]]:
        """Leave the queue: whether the claim had been granted, and the entries whose claims are granted now."""
        queue = self._queues[resource]
        if write:
            queue.writers.remove(seq)
        else:
            queue.readers -= 1
        was_granted = queue.waiting is None or queue.waiting.pop(seq, None) is None
        if was_granted:
            queue.granted -= 1
            if write:
                queue.exclusive = False
        if not queue.writers and not queue.readers:
            del self._queues[resource]
            return was_granted, []
        return was_granted, self._grant(queue)

    def _grant(self, queue: _Queue) -> list[int]:
        granted = []
        while queue.waiting:
            seq, write = next(iter(queue.waiting.items()))
            if queue.granted and (write or queue.exclusive):
                break
            queue.waiting.popitem(last=False)
            queue.granted += 1
            queue.exclusive = write
            granted.append(seq)
        return granted
