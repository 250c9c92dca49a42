"""WebDAV locks (RFC 4918 §6 and §7): who holds what, and what stands in the way of a change.

Owns the table and its durable form; the clock and the place to save come from outside. A lock belongs to a path
of the drive, not to a file: what is moved away loses it, what is put in the same place has it. Everything runs
on the loop, so no lock of ours is needed. Knows nothing of HTTP.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

_log = logging.getLogger(__name__)

LONGEST_TIMEOUT = 7 * 24 * 3600
"""Seconds; what a client that asks for an infinite lock gets. Locks survive restarts, forgotten ones must not stay."""
DEFAULT_TIMEOUT = 3600
_RECORD = "lock:"


@dataclass(frozen=True, slots=True)
class Lock:
    """``root`` is the locked path of the drive; ``deep`` is depth infinity; ``owner`` is the client's own XML."""

    token: str
    root: str
    directory: bool
    deep: bool
    exclusive: bool
    owner: str
    principal: str
    timeout: int
    expires: float
    """Seconds since 1970: locks live on through a restart, so a monotonic clock would not do."""


class LockTable:
    """``records`` are what an earlier process saved through ``save(key, value)``; None drops a record."""

    def __init__(
        self,
        records: dict[str, bytes],
        save: Callable[[str, bytes | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._save = save
        self._clock = clock
        self._by_root: dict[str, dict[str, Lock]] = {}
        self._committing: Counter[str] = Counter()
        for key, value in records.items():
            if key.startswith(_RECORD):
                self._restore(key, value)

    def _restore(self, key: str, value: bytes) -> None:
        try:
            lock = Lock(**json.loads(value))
        except (ValueError, TypeError):
            # Of another version of the program. A lock that cannot be read cannot be released by anybody.
            _log.warning("dropping a WebDAV lock that cannot be read")
            self._save(key, None)
            return
        if lock.expires <= self._clock():
            self._save(key, None)
        else:
            self._by_root.setdefault(lock.root, {})[lock.token] = lock

    # What is locked

    @property
    def is_empty(self) -> bool:
        """There is none, not even an expired one."""
        return not self._by_root

    def covering(self, path: str) -> list[Lock]:
        """Locks on ``path`` itself, and deep ones on the folders above."""
        if not self._by_root:
            return []
        found = self._at(path)
        while path != "/":
            path = parent_of(path)
            found += [lock for lock in self._at(path) if lock.deep]
        return found

    def below(self, path: str) -> list[Lock]:
        """Locks on what lies in the folder ``path``, at any depth."""
        prefix = path.rstrip("/") + "/"
        roots = [root for root in self._by_root if root != path and root.startswith(prefix)]
        return [lock for root in roots for lock in self._at(root)]

    def _at(self, path: str) -> list[Lock]:
        now = self._clock()
        return [lock for lock in self._by_root.get(path, {}).values() if lock.expires > now]

    # May it be changed

    def in_the_way(self, path: str, tokens: frozenset[str], principal: str, *, deep: bool = False) -> list[Lock]:
        """The locks that forbid ``principal``, who shows ``tokens``, to change ``path`` (``deep``: and all below).

        Of shared locks on one resource, holding one is enough.
        """
        blocking = _not_held(self.covering(path), tokens, principal)
        if deep:
            by_root: dict[str, list[Lock]] = {}
            for lock in self.below(path):
                by_root.setdefault(lock.root, []).append(lock)
            for locks in by_root.values():
                blocking += _not_held(locks, tokens, principal)
        return blocking

    @contextmanager
    def committing(self, *paths: str) -> Iterator[None]:
        """While this lasts nobody can lock ``paths``, what is above or what is below: a change that was allowed
        must not land under a lock that was granted meanwhile."""
        self._committing.update(paths)
        try:
            yield
        finally:
            self._committing.subtract(paths)
            self._committing = +self._committing

    # Changes

    def conflicts(self, path: str, *, exclusive: bool, deep: bool) -> list[Lock]:
        """The locks because of which a new one on ``path`` cannot be granted."""
        others = self.covering(path) + (self.below(path) if deep else [])
        return [lock for lock in others if exclusive or lock.exclusive]

    def is_committing(self, path: str, *, deep: bool) -> bool:
        """Whether a change that a new lock on ``path`` would cover is being committed right now."""
        return any(
            busy == path or (deep and _is_below(busy, path)) or _is_below(path, busy)
            for busy in self._committing
        )

    def grant(
        self,
        path: str,
        *,
        directory: bool,
        deep: bool,
        exclusive: bool,
        owner: str,
        principal: str,
        timeout: int,
    ) -> Lock:
        """Make a lock; the caller asked ``conflicts`` and ``is_committing`` with no await in between."""
        self._forget_expired()
        lock = Lock(
            token=f"urn:uuid:{uuid.uuid4()}",
            root=path,
            directory=directory,
            deep=deep,
            exclusive=exclusive,
            owner=owner,
            principal=principal,
            timeout=timeout,
            expires=self._clock() + timeout,
        )
        self._keep(lock)
        return lock

    def refresh(self, lock: Lock, timeout: int) -> Lock:
        """Start its time anew."""
        fresh = replace(lock, timeout=timeout, expires=self._clock() + timeout)
        self._keep(fresh)
        return fresh

    def release(self, lock: Lock) -> None:
        at_root = self._by_root[lock.root]
        del at_root[lock.token]
        if not at_root:
            del self._by_root[lock.root]
        self._save(_RECORD + lock.token, None)

    def forget_tree(self, path: str, *, keep_root: bool = False) -> None:
        """Drop the locks of a tree that is gone; ``keep_root``: something else took the place of its root."""
        for lock in self.below(path) + ([] if keep_root else self._at(path)):
            self.release(lock)

    def remaining(self, lock: Lock) -> int:
        """Seconds until it ends."""
        return max(0, int(lock.expires - self._clock()))

    def _keep(self, lock: Lock) -> None:
        self._save(_RECORD + lock.token, json.dumps(asdict(lock)).encode())
        self._by_root.setdefault(lock.root, {})[lock.token] = lock

    def _forget_expired(self) -> None:
        now = self._clock()
        for locks in list(self._by_root.values()):
            for lock in [lock for lock in locks.values() if lock.expires <= now]:
                self.release(lock)


def parent_of(path: str) -> str:
    """``/a`` of ``/a/b``; the root is its own parent."""
    return path.rpartition("/")[0] or "/"


def _is_below(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")


def _not_held(locks: list[Lock], tokens: frozenset[str], principal: str) -> list[Lock]:
    held = [lock for lock in locks if lock.token in tokens and lock.principal == principal]
    shared_is_held = any(not lock.exclusive for lock in held)
    return [lock for lock in locks if lock not in held and (lock.exclusive or not shared_is_held)]
