from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serpentfs.gateways.webdav.locks import Lock, LockTable, parent_of


class Records(dict[str, bytes]):
    """What the core keeps for a door."""

    def save(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.pop(key, None)
        else:
            self[key] = value


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def table(records: Records | None = None, clock: Clock | None = None) -> LockTable:
    records = Records() if records is None else records
    return LockTable(dict(records), records.save, clock or Clock())


def grant(locks: LockTable, path: str, *, deep: bool = True, exclusive: bool = True, timeout: int = 60) -> Lock:
    return locks.grant(
        path, directory=deep, deep=deep, exclusive=exclusive, owner="<o/>", principal="me", timeout=timeout
    )


NOTHING: frozenset[str] = frozenset()


def test_what_a_lock_covers() -> None:
    locks = table()
    deep = grant(locks, "/a")
    assert locks.covering("/a") == locks.covering("/a/b/c") == [deep]
    assert locks.covering("/") == locks.covering("/ab") == locks.covering("/b/a") == []
    flat = grant(locks, "/x", deep=False)
    assert locks.covering("/x") == [flat]
    assert locks.covering("/x/y") == []
    assert set(locks.below("/")) == {deep, flat}
    assert locks.below("/a") == []


def test_the_root_can_be_locked() -> None:
    locks = table()
    root = grant(locks, "/")
    assert locks.covering("/") == locks.covering("/a/b") == [root]


def test_who_may_write() -> None:
    locks = table()
    lock = grant(locks, "/a/file", deep=False)
    held = frozenset({lock.token})
    assert locks.in_the_way("/a/file", NOTHING, "me") == [lock]
    assert locks.in_the_way("/a/file", held, "me") == []
    assert locks.in_the_way("/a/file", held, "you") == [lock]
    assert locks.in_the_way("/a", NOTHING, "me") == []
    assert locks.in_the_way("/a", NOTHING, "me", deep=True) == [lock]
    assert locks.in_the_way("/a", held, "me", deep=True) == []


def test_of_shared_locks_one_is_enough() -> None:
    locks = table()
    one = grant(locks, "/a", exclusive=False)
    two = grant(locks, "/a", exclusive=False)
    assert locks.in_the_way("/a", frozenset({one.token}), "me") == []
    assert locks.in_the_way("/a", NOTHING, "me") == [one, two]


def test_conflicts() -> None:
    locks = table()
    shared = grant(locks, "/a/b", exclusive=False)
    assert locks.conflicts("/a/b", exclusive=False, deep=True) == []
    assert locks.conflicts("/a/b/c", exclusive=True, deep=False) == [shared]
    assert locks.conflicts("/a", exclusive=True, deep=True) == [shared]
    assert locks.conflicts("/a", exclusive=True, deep=False) == []
    assert locks.conflicts("/a", exclusive=False, deep=True) == []


def test_nothing_is_locked_while_a_change_lands() -> None:
    locks = table()
    with locks.committing("/a/b", "/c"), locks.committing("/a/b"):
        assert locks.is_committing("/a/b", deep=False)
        assert locks.is_committing("/a", deep=True)
        assert locks.is_committing("/a/b/c", deep=False)
        assert not locks.is_committing("/a", deep=False)
        assert not locks.is_committing("/a/bc", deep=True)
    assert not locks.is_committing("/", deep=True)


def test_expiry_and_refresh() -> None:
    clock, records = Clock(), Records()
    locks = table(records, clock)
    lock = grant(locks, "/a", timeout=60)
    clock.now += 59
    assert locks.remaining(lock) == 1
    lock = locks.refresh(lock, 100)
    clock.now += 99
    assert locks.covering("/a") == [lock]
    clock.now += 1
    assert locks.covering("/a") == locks.below("/") == []
    assert len(records) == 1
    grant(locks, "/b")
    assert len(records) == 1, "expired ones are dropped when a new one is kept"


def test_restart() -> None:
    clock, records = Clock(), Records()
    locks = table(records, clock)
    kept, gone = grant(locks, "/ä", timeout=100), grant(locks, "/b", timeout=10)
    released = grant(locks, "/c")
    locks.release(released)
    clock.now += 50
    records["lock:broken"] = b"{"
    records["lock:strange"] = b'{"a": 1}'
    records["other"] = b"of somebody else"
    again = table(records, clock)
    assert again.below("/") == [kept]
    assert gone.token not in " ".join(records)
    assert set(records) == {f"lock:{kept.token}", "other"}


def test_forget_tree() -> None:
    records = Records()
    locks = table(records)
    above = grant(locks, "/", deep=False)
    root = grant(locks, "/a", deep=False)
    grant(locks, "/a/b", deep=False)
    beside = grant(locks, "/ab", deep=False)
    locks.forget_tree("/a", keep_root=True)
    assert set(locks.below("/")) == {root, beside}
    locks.forget_tree("/a")
    assert locks.below("/") == [beside]
    assert locks.covering("/") == [above]
    assert len(records) == 2


PATHS = st.lists(st.sampled_from("abc"), max_size=3).map(lambda names: "/" + "/".join(names))


@given(st.lists(st.tuples(PATHS, st.booleans(), st.booleans())), PATHS)
def test_locks_against_a_model(wanted: list[tuple[str, bool, bool]], probe: str) -> None:
    """No two granted locks exclude one another, and each stands in the way exactly of what it covers."""
    locks = table()
    granted: list[Lock] = []
    for path, deep, exclusive in wanted:
        conflict = any(
            (lock.exclusive or exclusive) and (covers(lock, path) or (deep and is_below(lock.root, path)))
            for lock in granted
        )
        assert bool(locks.conflicts(path, exclusive=exclusive, deep=deep)) is conflict
        if not conflict:
            granted.append(grant(locks, path, deep=deep, exclusive=exclusive))
    expected = [lock for lock in granted if covers(lock, probe)]
    assert sorted(locks.in_the_way(probe, NOTHING, "me"), key=id) == sorted(expected, key=id)


def covers(lock: Lock, path: str) -> bool:
    return lock.root == path or (lock.deep and is_below(path, lock.root))


def is_below(path: str, folder: str) -> bool:
    while path != "/":
        path = parent_of(path)
        if path == folder:
            return True
    return False
