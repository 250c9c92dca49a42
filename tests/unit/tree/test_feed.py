"""A listing of many children at once: what is plain is inserted together, and what is not is decided one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.base import Batch, Listing
from serpentfs.model import NO_CONTENT, ROOT_INO, Ino, Kind, NodeId, NodeInfo, Revision
from serpentfs.tree.feed import Feed, distinct_name
from serpentfs.tree.store import NodeRow, Store
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio


class Quiet:
    """No local change but of the names in ``touched``."""

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.told: list[str] = []

    def is_pending(self, ino: Ino) -> bool:
        return False

    def touches(self, parent: Ino, name: str) -> bool:
        return name in self.touched

    def is_new(self, ino: Ino) -> bool:
        return False

    def is_open(self, ino: Ino) -> bool:
        return False

    def is_birthplace(self, ino: Ino) -> bool:
        return False

    def give_up_node(self, ino: Ino) -> None:
        raise AssertionError("no change is pending")

    def changed(self, ino: Ino | None, *, data: bool = False, entry: tuple[Ino, str] | None = None) -> None:
        if entry is not None:
            self.told.append(entry[1])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db", b"s" * 32, MemoryCloud().name_key)
    yield opened
    opened.close()


def child(number: int, name: str = "", kind: Kind = Kind.FILE) -> NodeInfo:
    return NodeInfo(
        id=NodeId(f"node {number}"), parent=MemoryCloud().root, name=name or f"name {number}", kind=kind, size=number,
        mtime_ns=number * 10**9, revision=Revision(f"r{number}"), locator=f"at {number}",
        target="elsewhere" if kind is Kind.SYMLINK else None,
    )  # fmt: skip


async def listed(feed: Feed, cloud: MemoryCloud, children: list[NodeInfo]) -> None:
    below = [Listing(node.id, ()) for node in children if node.kind is Kind.DIRECTORY]
    listings = (Listing(cloud.root, tuple(children)), *below)
    await feed.apply(Batch(trio.current_time(), listings, complete=True))


def make_feed(store: Store, cloud: MemoryCloud, local: Quiet) -> Feed:
    with store.transaction():
        store.put_node(NodeRow(ROOT_INO, Ino(0), cloud.root, "", Revision(""), 0, NO_CONTENT))
    return Feed(store, cloud, local)


def names(store: Store) -> list[str]:
    return [row.name for row in store.children(ROOT_INO)]


async def test_many_children_come_with_all_that_was_told_of_them(store: Store) -> None:
    cloud, local = MemoryCloud(), Quiet()
    feed = make_feed(store, cloud, local)
    kinds = [Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK]
    children = [child(number, kind=kinds[number % 3]) for number in range(700)]
    await listed(feed, cloud, children)
    rows = store.children(ROOT_INO)
    assert [row.name for row in rows] == [node.name for node in children], "inodes in the order of the listing"
    assert len({row.content for row in rows if row.content}) == sum(node.kind is Kind.FILE for node in children)
    for row, node in zip(rows, children, strict=True):
        known = store.node_of(row.ino)
        assert known is not None
        assert store.node_by_id(node.id) == known
        assert (known.node, known.locator, known.revision, known.size) == (
            node.id, node.locator, node.revision, node.size,
        )  # fmt: skip
        assert (row.kind, row.mtime_ns, row.target, row.content) == (
            node.kind, node.mtime_ns, node.target, known.content,
        )  # fmt: skip
        assert (row.content > 0) == (node.kind is Kind.FILE)
    assert local.told == [node.name for node in children]
    await listed(feed, cloud, children)
    assert store.children(ROOT_INO) == rows
    await listed(feed, cloud, [*children[:100], child(1000), *children[100:], child(1001)])
    assert names(store) == [*(node.name for node in children), "name 1000", "name 1001"]


async def test_of_several_nodes_of_one_name_all_are_shown(store: Store) -> None:
    cloud, local = MemoryCloud(), Quiet()
    feed = make_feed(store, cloud, local)
    same = [child(2, "twice"), child(5, "twice")]
    await listed(feed, cloud, [child(1), same[0], child(3), child(4), same[1], child(6)])
    others = ["name 1", "name 3", "name 4", "name 6"]
    assert sorted(names(store)) == sorted([*others, "twice", distinct_name("twice", same[1].id)])
    await listed(feed, cloud, [child(1), *same, child(3), child(4), child(6), child(7, "twice")])
    assert len(names(store)) == 7


async def test_what_a_pending_change_takes_or_we_removed_is_left_for_later(store: Store) -> None:
    cloud, local = MemoryCloud(), Quiet()
    feed = make_feed(store, cloud, local)
    await listed(feed, cloud, [child(0)])
    local.touched.add("name 2")
    feed.confirmed(left=NodeId("node 4"))
    listing = Listing(cloud.root, tuple(child(number) for number in range(6)))
    await feed.apply(Batch(trio.current_time() - 1, (listing,), complete=True))
    assert names(store) == ["name 0", "name 1", "name 3", "name 5"]
    local.touched.clear()
    await feed.apply(Batch(trio.current_time() + 1, (listing,), complete=True))
    assert sorted(names(store)) == [f"name {number}" for number in range(6)]


async def test_what_an_earlier_look_found_under_a_name_that_we_changed_is_left_for_later(store: Store) -> None:
    """An upload whose answer never came may be there, under a name that was given to something else since, or to
    nothing: its node is known to nobody here."""
    cloud, local = MemoryCloud(), Quiet()
    feed = make_feed(store, cloud, local)
    await listed(feed, cloud, [child(0, "taken")])
    feed.confirmed(slots=[(ROOT_INO, cloud.name_key(name)) for name in ("taken", "freed")])
    found = [child(1, "taken"), child(2, "freed"), child(3, "another")]
    await feed.apply(Batch(trio.current_time() - 1, (), changed=tuple(found)))
    assert names(store) == ["taken", "another"]
    await feed.apply(Batch(trio.current_time() + 1, (), changed=tuple(found)))
    assert sorted(names(store)) == sorted(["taken", "another", "freed", distinct_name("taken", found[0].id)])
