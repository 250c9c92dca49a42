"""What the store remembers of entries is what its database says, whatever happened."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serpentfs.model import ROOT_INO, ContentId, Ino, Kind
from serpentfs.tree import known_rows
from serpentfs.tree.store import DRAFT, REMOVED, EntryRow, Store

SECRET = b"s" * 64
FOLDERS = (Ino(2), Ino(3))
NAMES = ("a", "b", "\u00e9", "e\u0301")
"""The last two have one key."""
INODES = tuple(Ino(ino) for ino in range(4, 10))


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


@contextmanager
def _store(where: Path) -> Iterator[Store]:
    store = Store(where / "state.db", SECRET, _key)
    try:
        yield store
    finally:
        store.close()


def _row(ino: Ino, parent: Ino, name: str) -> EntryRow:
    return EntryRow(ino, parent, name, Kind.FILE, 1, 2, 3, 4, ContentId(ino), 1)


class _Undone(Exception):
    pass


folders, names, inodes = st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.sampled_from(INODES)
steps = st.one_of(
    st.tuples(st.just("insert"), inodes, folders, names),
    st.tuples(st.just("draft"), inodes),
    st.tuples(st.just("drop draft"), inodes),
    st.tuples(st.just("place"), inodes, folders, names),
    st.tuples(st.just("remove"), inodes),
    st.tuples(st.just("content"), inodes, st.integers(100, 200), st.one_of(st.none(), st.integers(5, 9))),
    st.tuples(st.just("times"), inodes, st.one_of(st.none(), st.integers(1, 9)), st.one_of(st.none(), st.just(7))),
    st.tuples(st.just("permissions"), inodes, st.integers(0, 0o777)),
    st.tuples(st.just("target"), inodes, names),
    st.tuples(st.just("bury")),
)


def _do(store: Store, step: tuple) -> None:  # type: ignore[type-arg]
    match step:
        case ("insert", ino, folder, name):
            store.insert_entry(_row(ino, folder, name))
        case ("draft", ino):
            store.insert_entry(_row(ino, Ino(0), "not kept")._replace(state=DRAFT))
        case ("drop draft", ino):
            store.drop_draft(ino, ContentId(ino))
        case ("place", ino, folder, name):
            if store.child(folder, name) is None:
                store.place_entry(ino, folder, name, 11)
        case ("remove", ino):
            store.remove_entry(ino)
        case ("content", ino, content, generation):
            store.set_content(ino, content, 12, 13, 14, generation=generation)
        case ("times", ino, mtime_ns, atime_ns):
            store.set_times(ino, mtime_ns, atime_ns, 15)
        case ("permissions", ino, mode):
            store.set_permissions(ino, mode, None, 16, 17)
        case ("target", ino, target):
            store.set_target(ino, target, 18)
        case ("bury",):
            store.drop_entries(REMOVED)


def _seen(store: Store) -> list[EntryRow | None]:
    return [
        *map(store.entry, (ROOT_INO, *INODES)),
        *(store.child(folder, name) for folder in FOLDERS for name in NAMES),
    ]


@settings(max_examples=40)
@given(st.lists(st.tuples(steps, st.booleans(), st.booleans()), max_size=25), st.integers(1, 9))
def test_rows_are_as_in_the_database(what: list[tuple[tuple, bool, bool]], most: int) -> None:  # type: ignore[type-arg]
    """``most``: so few are remembered. Each step, whether it is rolled back, and whether all is looked at before."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(known_rows, "_MOST", most)
        with _store(Path(folder)) as store, _store(Path(folder)) as other:
            for step, undone, looked_at in what:
                if looked_at:
                    _seen(store)
                try:
                    with store.transaction():
                        _do(store, step)
                        if undone:
                            raise _Undone
                except _Undone:
                    pass
                other._known.forget_all()
                assert _seen(store) == _seen(other)


def _counted(store: Store) -> Callable[[], int]:
    seen: list[str] = []
    store._db.set_trace_callback(seen.append)
    return lambda: len(seen)


def test_a_row_is_read_once(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        store.insert_entry(_row(INODES[0], FOLDERS[0], "a"))
    with _store(tmp_path) as store:
        queries = _counted(store)
        for _ in range(3):
            assert store.child(FOLDERS[0], "a") == store.entry(INODES[0])
            assert store.child(FOLDERS[0], "b") is None
        assert queries() == 2
