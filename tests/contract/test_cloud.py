"""What every Cloud must do, run over each implementation.

A ``Site`` is one account on which the suite may open any number of clients, so that a test can act as somebody
else. Nothing here depends on how ids and revisions look.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest
import trio

from serpentfs.clouds.base import Batch, Cloud
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    InvalidName,
    NameTooLong,
    NotFound,
    RevisionGone,
)
from serpentfs.model import Kind, NodeId, NodeInfo, Revision, Span
from tests.fakes.content import BytesContent
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

PATIENCE = 20.0
"""Seconds until a wait counts as a failure: far more than needed, since test machines are busy."""
MTIME = 1_600_000_000_123_456_789
TOKENS = iter(index.to_bytes(32, "big") for index in range(1, 1_000_000))


class Site(Protocol):
    async def client(self) -> Cloud: ...


@dataclass
class MemorySite:
    first: MemoryCloud

    async def client(self) -> Cloud:
        return self.first.another_client()


@asynccontextmanager
async def memory_unstable() -> AsyncIterator[Site]:
    yield MemorySite(MemoryCloud(echo=True, growing_puts=True))


@asynccontextmanager
async def memory_stable() -> AsyncIterator[Site]:
    yield MemorySite(MemoryCloud(stable_file_ids=True))


@asynccontextmanager
async def memory_events() -> AsyncIterator[Site]:
    yield MemorySite(MemoryCloud(events=True))


SITES = {
    "memory, unstable ids": memory_unstable,
    "memory, stable ids": memory_stable,
    "memory, events": memory_events,
}


@pytest.fixture(params=sorted(SITES))
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with SITES[request.param]() as opened:
        yield opened


@pytest.fixture
async def cloud(site: Site) -> AsyncIterator[Cloud]:
    client = await site.client()
    yield client
    await client.aclose()


@pytest.fixture
async def other(site: Site) -> AsyncIterator[Cloud]:
    """Somebody else's client of the same account."""
    client = await site.client()
    yield client
    await client.aclose()


def nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None


async def put(
    cloud: Cloud, parent: NodeId, name: str, data: bytes, replaces: NodeInfo | None = None
) -> NodeInfo:
    return await cloud.put(
        parent,
        name,
        BytesContent(data),
        replaces=None if replaces is None else replaces.ref,
        mtime_ns=MTIME,
        token=next(TOKENS),
    )


async def mkdir(cloud: Cloud, parent: NodeId, name: str) -> NodeInfo:
    return await cloud.mkdir(parent, name, token=next(TOKENS))


async def read_all(cloud: Cloud, node: NodeInfo) -> bytes:
    return await cloud.read(node.ref, Span(0, node.size))


async def tree(cloud: Cloud) -> dict[str, NodeInfo]:
    """The whole tree by path, from a snapshot."""
    return paths(cloud, await cloud.snapshot(nothing_known))


def listings_of(cloud: Cloud, batch: Batch) -> dict[NodeId, tuple[NodeInfo, ...]]:
    """What a batch says of whole folders, be it told folder by folder."""
    if batch.tree is None:
        return {listing.directory: listing.children for listing in batch.listings}
    found: dict[NodeId, tuple[NodeInfo, ...]] = {}
    pending = [cloud.root]
    while pending:
        folder = pending.pop()
        children = batch.tree.children(folder)
        assert children is not None
        found[folder] = tuple(children)
        for child in found[folder]:
            assert batch.tree.place(child.id) == (folder, child.name)
            if child.kind is Kind.DIRECTORY:
                pending.append(child.id)
    return found


def paths(cloud: Cloud, batch: Batch) -> dict[str, NodeInfo]:
    children = listings_of(cloud, batch)
    found: dict[str, NodeInfo] = {}

    def walk(folder: NodeId, prefix: str) -> None:
        for child in children[folder]:
            assert f"{prefix}/{child.name}" not in found
            found[f"{prefix}/{child.name}"] = child
            if child.kind is Kind.DIRECTORY:
                walk(child.id, f"{prefix}/{child.name}")

    walk(cloud.root, "")
    return found


async def names(cloud: Cloud) -> set[str]:
    return set(await tree(cloud))


# the tree


async def test_a_new_account_is_empty(cloud: Cloud) -> None:
    batch = await cloud.snapshot(nothing_known)
    assert batch.complete
    assert listings_of(cloud, batch) == {cloud.root: ()}


async def test_snapshot_shows_what_the_calls_answered(cloud: Cloud) -> None:
    before = trio.current_time()
    folder = await mkdir(cloud, cloud.root, "folder")
    inner = await mkdir(cloud, folder.id, "inner")
    file = await put(cloud, inner.id, "file", b"12345")
    made = [("/folder", folder), ("/folder/inner", inner)]
    if cloud.capabilities.symlinks:
        made.append(("/folder/link", await cloud.symlink(folder.id, "link", "inner/file", mtime_ns=MTIME)))
    batch = await cloud.snapshot(nothing_known)
    assert batch.started >= before
    shown = paths(cloud, batch)
    assert set(shown) == {"/folder/inner/file", *(path for path, _ in made)}
    assert shown["/folder/inner/file"] == file
    for path, node in made:
        assert (shown[path].id, shown[path].kind, shown[path].revision, shown[path].locator) == (
            node.id, node.kind, node.revision, node.locator,
        )
    assert not cloud.capabilities.symlinks or shown["/folder/link"].target == "inner/file"
    assert (folder.parent, inner.parent, file.parent) == (cloud.root, folder.id, inner.id)
    assert (file.size, file.kind) == (5, Kind.FILE)
    if cloud.capabilities.set_mtime:
        assert file.mtime_ns == kept(cloud, MTIME)


def kept(cloud: Cloud, mtime_ns: int) -> int:
    """A time as the cloud has it: some keep whole seconds only."""
    second = 1_000_000_000
    return mtime_ns // second * second if cloud.capabilities.reports_times else mtime_ns


async def test_snapshot_believes_what_is_known(cloud: Cloud) -> None:
    folder = await mkdir(cloud, cloud.root, "folder")
    if cloud.capabilities.symlinks:
        await cloud.symlink(folder.id, "link", "somewhere", mtime_ns=MTIME)
    first = await tree(cloud)
    by_place = {(node.locator, node.revision): node for node in first.values() if node.kind is not Kind.FILE}

    def known(locator: str, revision: Revision) -> NodeInfo | None:
        return by_place.get((locator, revision))

    second = paths(cloud, await cloud.snapshot(known))
    assert second == first


@pytest.mark.parametrize(
    "name",
    [
        "plain", "with space", "ünï", "日本語", "🐍", "-dash", ".hidden", "trailing.", "a\nb", "%41", "back\\slash",
        "x" * 180,
    ],
)
async def test_names_come_back(cloud: Cloud, name: str) -> None:
    cloud.check_name(name)
    folder = await mkdir(cloud, cloud.root, name)
    file = await put(cloud, folder.id, name, b"data")
    shown = await tree(cloud)
    assert shown[f"/{name}"].id == folder.id
    assert shown[f"/{name}/{name}"].id == file.id
    assert await read_all(cloud, file) == b"data"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "bad\udcff"])
async def test_impossible_names_are_refused(cloud: Cloud, name: str) -> None:
    with pytest.raises(InvalidName):
        cloud.check_name(name)


async def test_too_long_names_are_refused(cloud: Cloud) -> None:
    longest = cloud.capabilities.longest_name_bytes
    cloud.check_name("x" * longest)
    with pytest.raises(NameTooLong):
        cloud.check_name("x" * (longest + 1))


async def test_a_normal_form_is_one_name(cloud: Cloud) -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert cloud.name_key(composed) == cloud.name_key(decomposed)
    await put(cloud, cloud.root, composed, b"")
    with pytest.raises(AlreadyExists):
        await put(cloud, cloud.root, decomposed, b"")


# reading


async def test_read_spans(cloud: Cloud) -> None:
    data = bytes(range(256)) * 600
    file = await put(cloud, cloud.root, "file", data)
    spans = [(0, 1), (0, len(data)), (1000, 1000), (32767, 32769), (len(data) - 1, len(data)), (70_000, 140_000)]
    for start, stop in spans:
        assert await cloud.read(file.ref, Span(start, stop)) == data[start:stop]
    assert await cloud.read(file.ref, Span(len(data) - 5, len(data) + 5)) == data[-5:]
    assert await cloud.read(file.ref, Span(len(data), len(data) + 5)) == b""


async def test_reads_run_together(cloud: Cloud) -> None:
    data = bytes(range(256)) * 1024
    file = await put(cloud, cloud.root, "file", data)
    parts: dict[int, bytes] = {}

    async def read(start: int) -> None:
        parts[start] = await cloud.read(file.ref, Span(start, start + 16384))

    async with trio.open_nursery() as nursery:
        for start in range(0, len(data), 16384):
            nursery.start_soon(read, start)
    assert b"".join(parts[start] for start in sorted(parts)) == data


async def test_an_empty_file(cloud: Cloud) -> None:
    file = await put(cloud, cloud.root, "empty", b"")
    assert file.size == 0
    assert await cloud.read(file.ref, Span(0, 10)) == b""
    assert (await tree(cloud))["/empty"].size == 0


async def test_an_old_revision_is_never_served(cloud: Cloud, other: Cloud) -> None:
    old = await put(cloud, cloud.root, "file", b"old!")
    new = await put(other, other.root, "file", b"new!", replaces=old)
    await gone_or_still(cloud, old, b"old!")
    assert await cloud.read(new.ref, Span(0, 4)) == b"new!"
    await other.remove(new.ref)
    await gone_or_still(cloud, new, b"new!")


async def gone_or_still(cloud: Cloud, node: NodeInfo, data: bytes) -> None:
    """A revision that is no more cannot be read, or, where old versions are kept, gives what it always gave."""
    if cloud.capabilities.versions:
        with contextlib.suppress(RevisionGone):
            assert await cloud.read(node.ref, Span(0, len(data))) == data
        return
    with pytest.raises(RevisionGone):
        await cloud.read(node.ref, Span(0, len(data)))


# put


async def test_put_needs_a_free_name(cloud: Cloud) -> None:
    file = await put(cloud, cloud.root, "taken", b"first")
    await mkdir(cloud, cloud.root, "folder")
    for name in ("taken", "folder"):
        with pytest.raises(AlreadyExists):
            await put(cloud, cloud.root, name, b"second")
    assert await read_all(cloud, file) == b"first"


async def test_put_replaces_one_revision(cloud: Cloud, other: Cloud) -> None:
    first = await put(cloud, cloud.root, "file", b"first")
    second = await put(cloud, cloud.root, "file", b"second one", replaces=first)
    assert second.revision != first.revision
    with pytest.raises(Conflict):
        await put(other, other.root, "file", b"third", replaces=first)
    assert (await tree(cloud))["/file"] == second
    assert await read_all(cloud, second) == b"second one"


async def test_put_over_what_is_gone_is_a_conflict(cloud: Cloud, other: Cloud) -> None:
    first = await put(cloud, cloud.root, "file", b"first")
    await other.remove(first.ref)
    with pytest.raises(Conflict):
        await put(cloud, cloud.root, "file", b"second", replaces=first)
    assert await names(cloud) == set()


async def test_put_into_a_folder_that_is_gone(cloud: Cloud, other: Cloud) -> None:
    folder = await mkdir(cloud, cloud.root, "folder")
    await other.remove(folder.ref)
    with pytest.raises(NotFound):
        await put(cloud, folder.id, "file", b"")
    assert await names(cloud) == set()


async def test_put_again_after_an_answer_was_lost(cloud: Cloud) -> None:
    token = next(TOKENS)

    async def attempt(data: bytes, retry: bool) -> NodeInfo:
        return await cloud.put(
            cloud.root, "file", BytesContent(data), replaces=None, mtime_ns=MTIME, token=token, retry=retry
        )

    first = await attempt(b"data" * 10_000, retry=False)
    again = await attempt(b"data" * 10_000, retry=True)
    assert await read_all(cloud, again) == b"data" * 10_000
    assert again.id == first.id
    assert await names(cloud) == {"/file"}
    with pytest.raises(AlreadyExists):
        await attempt(b"data" * 10_000, retry=False)


async def test_put_again_over_a_revision_after_an_answer_was_lost(cloud: Cloud) -> None:
    base = await put(cloud, cloud.root, "file", b"base")
    token = next(TOKENS)

    async def attempt(retry: bool) -> NodeInfo:
        return await cloud.put(
            cloud.root, "file", BytesContent(b"next"), replaces=base.ref, mtime_ns=MTIME, token=token, retry=retry
        )

    await attempt(retry=False)
    again = await attempt(retry=True)
    assert await read_all(cloud, again) == b"next"
    with pytest.raises(Conflict):
        await attempt(retry=False)


async def test_a_retry_does_not_adopt_what_somebody_else_put(cloud: Cloud, other: Cloud) -> None:
    theirs = await put(other, other.root, "file", b"same bytes")
    with pytest.raises(AlreadyExists):
        await cloud.put(
            cloud.root,
            "file",
            BytesContent(b"same bytes"),
            replaces=None,
            mtime_ns=MTIME,
            token=next(TOKENS),
            retry=True,
        )
    assert await read_all(cloud, theirs) == b"same bytes"


async def test_a_retry_that_is_the_first_to_arrive_puts(cloud: Cloud) -> None:
    file = await cloud.put(
        cloud.root, "file", BytesContent(b"data"), replaces=None, mtime_ns=MTIME, token=next(TOKENS), retry=True
    )
    assert await read_all(cloud, file) == b"data"


async def test_a_cancelled_put_leaves_nothing_or_all(cloud: Cloud) -> None:
    base = await put(cloud, cloud.root, "file", b"base")
    reached = trio.Event()

    class Stalling(BytesContent):
        async def read(self, span: Span) -> bytes:
            if span.start >= self.size // 2 or span.stop > self.size // 2:
                reached.set()
                await trio.sleep_forever()
            return await super().read(span)

    async with trio.open_nursery() as nursery:

        async def upload() -> None:
            await cloud.put(
                cloud.root,
                "file",
                Stalling(b"x" * 3_000_000),
                replaces=base.ref,
                mtime_ns=MTIME,
                token=next(TOKENS),
            )

        nursery.start_soon(upload)
        with trio.fail_after(PATIENCE):
            await reached.wait()
        nursery.cancel_scope.cancel()
    assert (await tree(cloud))["/file"] == base
    assert await read_all(cloud, base) == b"base"


# contents that are still being written


class Growing:
    """A GrowingContent that a test writes to."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.waits_from = 0
        """Bytes that were taken before the reader waited."""
        self._moved = trio.Event()

    def append(self, data: bytes, *, end: bool = False) -> None:
        self.data += data
        self.ended = end
        self._moved.set()
        self._moved = trio.Event()

    async def read(self, span: Span) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.ended and len(self.data) < span.stop:
            self.waits_from = span.start
            await self._moved.wait()
        return self.data[span.start : span.stop]

    async def wait_taken(self, size: int) -> None:
        with trio.fail_after(PATIENCE):
            while self.waits_from < size:  # noqa: ASYNC110 - the reader has no event for it
                await trio.sleep(0.005)


@asynccontextmanager
async def growing_put(
    cloud: Cloud, name: str, outcome: list[NodeInfo], replaces: NodeInfo | None = None, token: bytes | None = None
) -> AsyncIterator[Growing]:
    """A put under way, that has taken the first megabytes; to be ended within the block."""
    content = Growing()
    content.append(bytes(range(256)) * 40_000)

    async def upload() -> None:
        outcome.append(
            await cloud.put_growing(
                cloud.root,
                name,
                content,
                replaces=None if replaces is None else replaces.ref,
                mtime_ns=MTIME,
                token=next(TOKENS) if token is None else token,
            )
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        await content.wait_taken(9_000_000)
        yield content


LONG_NAME = "long " * 40


@pytest.mark.parametrize("name", ["file", LONG_NAME])
async def test_a_growing_put_is_seen_when_it_ended(cloud: Cloud, name: str) -> None:
    if not cloud.capabilities.growing_puts:
        return
    outcome: list[NodeInfo] = []
    async with growing_put(cloud, name, outcome) as content:
        assert await tree(cloud) == {}
        content.append(b"the end", end=True)
    assert await tree(cloud) == {f"/{name}": outcome[0]}
    assert await read_all(cloud, outcome[0]) == content.data
    first, outcome = outcome[0], []
    async with growing_put(cloud, name, outcome, replaces=first) as content:
        assert await tree(cloud) == {f"/{name}": first}
        content.append(b"another end", end=True)
    assert await tree(cloud) == {f"/{name}": outcome[0]}
    assert await read_all(cloud, outcome[0]) == content.data


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 512 * 1024, 512 * 1024 + 1])
async def test_growing_puts_of_any_size(cloud: Cloud, size: int) -> None:
    if not cloud.capabilities.growing_puts:
        return
    content = Growing()
    content.append(b"x" * size, end=True)
    info = await cloud.put_growing(
        cloud.root, "file", content, replaces=None, mtime_ns=MTIME, token=next(TOKENS)
    )
    assert info.size == size
    assert await read_all(cloud, info) == content.data


async def test_a_growing_put_that_is_cancelled_leaves_nothing(cloud: Cloud) -> None:
    if not cloud.capabilities.growing_puts:
        return
    with trio.CancelScope() as scope:
        async with growing_put(cloud, LONG_NAME, []):
            scope.cancel()
    assert await tree(cloud) == {}


async def test_a_growing_put_meets_what_came_meanwhile(cloud: Cloud, other: Cloud) -> None:
    if not cloud.capabilities.growing_puts:
        return
    for theirs in ("file", "folder", "replacement"):
        base = await put(cloud, cloud.root, theirs, b"base") if theirs == "replacement" else None

        async def overtaken(name: str, base: NodeInfo | None) -> None:
            async with growing_put(cloud, name, [], replaces=base) as content:
                if name == "folder":
                    await mkdir(other, other.root, name)
                else:
                    await put(other, other.root, name, b"theirs", replaces=base)
                content.append(b"the end", end=True)

        with pytest.raises(ExceptionGroup) as caught:
            await overtaken(theirs, base)
        (error,) = caught.value.exceptions
        assert isinstance(error, Conflict if base else AlreadyExists)
    found = await tree(cloud)
    assert set(found) == {"/file", "/folder", "/replacement"}
    assert found["/folder"].kind is Kind.DIRECTORY
    for path in ("/file", "/replacement"):
        assert await read_all(cloud, found[path]) == b"theirs"


async def test_a_growing_put_whose_answer_was_lost_is_found(cloud: Cloud) -> None:
    if not cloud.capabilities.growing_puts:
        return
    token, outcome = next(TOKENS), list[NodeInfo]()
    async with growing_put(cloud, "file", outcome, token=token) as content:
        content.append(b"the end", end=True)
    again = await cloud.put(
        cloud.root, "file", BytesContent(content.data), replaces=None, mtime_ns=MTIME, token=token, retry=True
    )
    assert again == outcome[0]


async def test_a_failing_source_leaves_the_old_content(cloud: Cloud) -> None:
    base = await put(cloud, cloud.root, "file", b"base")

    class Failing(BytesContent):
        async def read(self, span: Span) -> bytes:
            if span.stop > self.size // 2:
                raise NotFound("the staged block is gone")
            return await super().read(span)

    with pytest.raises(NotFound):
        await cloud.put(
            cloud.root, "file", Failing(b"x" * 3_000_000), replaces=base.ref, mtime_ns=MTIME, token=next(TOKENS)
        )
    assert (await tree(cloud))["/file"] == base
    assert await read_all(cloud, base) == b"base"


# folders and links


async def test_mkdir_needs_a_free_name(cloud: Cloud) -> None:
    await mkdir(cloud, cloud.root, "folder")
    await put(cloud, cloud.root, "file", b"")
    for name in ("folder", "file"):
        with pytest.raises(AlreadyExists):
            await mkdir(cloud, cloud.root, name)


async def test_mkdir_again_after_an_answer_was_lost(cloud: Cloud) -> None:
    token = next(TOKENS)
    folder = await cloud.mkdir(cloud.root, "folder", token=token)
    await put(cloud, folder.id, "file", b"")
    again = await cloud.mkdir(cloud.root, "folder", token=token, retry=True)
    assert (again.id, again.name, again.kind) == (folder.id, "folder", Kind.DIRECTORY)
    assert await names(cloud) == {"/folder", "/folder/file"}


async def test_a_retried_mkdir_does_not_adopt_somebody_elses(cloud: Cloud, other: Cloud) -> None:
    await mkdir(other, other.root, "folder")
    with pytest.raises(AlreadyExists):
        await cloud.mkdir(cloud.root, "folder", token=next(TOKENS), retry=True)


async def test_symlink_targets_come_back(cloud: Cloud) -> None:
    if not cloud.capabilities.symlinks:
        pytest.skip("no links here")
    targets = {"a": "target", "b": "../ünï/日本", "c": "/absolute", "d": "long/" * 100}
    for name, target in targets.items():
        node = await cloud.symlink(cloud.root, name, target, mtime_ns=MTIME)
        assert (node.kind, node.target) == (Kind.SYMLINK, target)
    assert {path: node.target for path, node in (await tree(cloud)).items()} == {
        f"/{name}": target for name, target in targets.items()
    }
    with pytest.raises(AlreadyExists):
        await cloud.symlink(cloud.root, "a", "elsewhere", mtime_ns=MTIME)
    again = await cloud.symlink(cloud.root, "a", "target", mtime_ns=MTIME, retry=True)
    assert again.target == "target"


# moving


async def test_move_a_file(cloud: Cloud) -> None:
    folder = await mkdir(cloud, cloud.root, "folder")
    file = await put(cloud, cloud.root, "file", b"data")
    moved = await cloud.move(file.ref, folder.id, "renamed", replaces=None)
    assert (moved.parent, moved.name, moved.size) == (folder.id, "renamed", 4)
    if cloud.capabilities.stable_file_ids:
        assert moved.id == file.id
    assert await read_all(cloud, moved) == b"data"
    assert (await tree(cloud))["/folder/renamed"] == moved
    assert await names(cloud) == {"/folder", "/folder/renamed"}


async def test_move_a_folder_with_its_children(cloud: Cloud) -> None:
    source = await mkdir(cloud, cloud.root, "source")
    target = await mkdir(cloud, cloud.root, "target")
    file = await put(cloud, source.id, "file", b"data")
    moved = await cloud.move(source.ref, target.id, "renamed", replaces=None)
    assert moved.id == source.id
    assert await names(cloud) == {"/target", "/target/renamed", "/target/renamed/file"}
    assert await read_all(cloud, file) == b"data"
    back = await cloud.move(moved.ref, cloud.root, "source", replaces=None)
    assert back.id == source.id
    assert await names(cloud) == {"/target", "/source", "/source/file"}


async def test_move_a_link(cloud: Cloud) -> None:
    if not cloud.capabilities.symlinks:
        pytest.skip("no links here")
    link = await cloud.symlink(cloud.root, "link", "target", mtime_ns=MTIME)
    moved = await cloud.move(link.ref, cloud.root, "renamed", replaces=None)
    assert (moved.kind, moved.target, moved.name) == (Kind.SYMLINK, "target", "renamed")
    assert (await tree(cloud))["/renamed"].target == "target"


@pytest.mark.parametrize(("old", "new"), [("short", "x" * 180), ("x" * 180, "short"), ("x" * 180, "y" * 180)])
async def test_move_between_short_and_long_names(cloud: Cloud, old: str, new: str) -> None:
    folder = await mkdir(cloud, cloud.root, f"d{old}")
    moved_folder = await cloud.move(folder.ref, cloud.root, f"d{new}", replaces=None)
    file = await put(cloud, moved_folder.id, old, b"data")
    moved = await cloud.move(file.ref, moved_folder.id, new, replaces=None)
    assert moved_folder.id == folder.id
    assert await names(cloud) == {f"/d{new}", f"/d{new}/{new}"}
    assert await read_all(cloud, moved) == b"data"


async def test_move_needs_a_free_name(cloud: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    await put(cloud, cloud.root, "taken", b"other")
    folder = await mkdir(cloud, cloud.root, "folder")
    for node, name in ((file, "taken"), (file, "folder"), (folder, "taken")):
        with pytest.raises(AlreadyExists):
            await cloud.move(node.ref, cloud.root, name, replaces=None)
    assert await names(cloud) == {"/file", "/taken", "/folder"}


async def test_move_over_a_file(cloud: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    target = await put(cloud, cloud.root, "target", b"old")
    moved = await cloud.move(file.ref, cloud.root, "target", replaces=target.ref)
    assert await read_all(cloud, moved) == b"data"
    assert await names(cloud) == {"/target"}


async def test_move_over_what_has_changed_is_a_conflict(cloud: Cloud, other: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    target = await put(cloud, cloud.root, "target", b"old")
    newer = await put(other, other.root, "target", b"newer", replaces=target)
    with pytest.raises(Conflict):
        await cloud.move(file.ref, cloud.root, "target", replaces=target.ref)
    await other.remove(newer.ref)
    with pytest.raises(Conflict):
        await cloud.move(file.ref, cloud.root, "target", replaces=target.ref)
    assert await names(cloud) == {"/file"}
    assert await read_all(cloud, file) == b"data"


async def test_a_move_tells_whether_somebody_else_changed_the_file(cloud: Cloud, other: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"before")
    moved = await cloud.move(file.ref, cloud.root, "second", replaces=None)
    assert moved.same_content
    changed = await put(other, other.root, "second", b"theirs, longer", replaces=moved)
    moved = await cloud.move(moved.ref, cloud.root, "third", replaces=None)
    assert not moved.same_content
    assert moved.revision != file.revision
    assert moved.size == changed.size
    assert await read_all(cloud, moved) == b"theirs, longer"


async def test_move_what_is_gone(cloud: Cloud, other: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    folder = await mkdir(cloud, cloud.root, "folder")
    await other.remove(file.ref)
    await other.remove(folder.ref)
    for node in (file, folder):
        with pytest.raises(NotFound):
            await cloud.move(node.ref, cloud.root, "renamed", replaces=None)
        with pytest.raises(NotFound):
            await cloud.move(node.ref, cloud.root, "renamed", replaces=None, retry=True)


async def test_move_again_after_an_answer_was_lost(cloud: Cloud) -> None:
    folder = await mkdir(cloud, cloud.root, "folder")
    file = await put(cloud, cloud.root, "file", b"data")
    target = await put(cloud, folder.id, "target", b"old")
    moved_file = await cloud.move(file.ref, folder.id, "target", replaces=target.ref)
    again = await cloud.move(file.ref, folder.id, "target", replaces=target.ref, retry=True)
    assert (again.id, again.size) == (moved_file.id, 4)
    assert await read_all(cloud, again) == b"data"
    moved_folder = await cloud.move(folder.ref, cloud.root, "renamed", replaces=None)
    again = await cloud.move(folder.ref, cloud.root, "renamed", replaces=None, retry=True)
    assert again.id == moved_folder.id == folder.id
    assert await names(cloud) == {"/renamed", "/renamed/target"}


async def test_a_retried_move_does_not_adopt_somebody_elses(cloud: Cloud, other: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    theirs = await put(other, other.root, "renamed", b"theirs")
    with pytest.raises(AlreadyExists):
        await cloud.move(file.ref, cloud.root, "renamed", replaces=None, retry=True)
    assert await read_all(cloud, theirs) == b"theirs"
    assert await read_all(cloud, file) == b"data"


async def test_change_the_normal_form_or_case_of_a_name(cloud: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    moved = await cloud.move(file.ref, cloud.root, "FILE", replaces=None)
    assert moved.name == "FILE"
    assert await names(cloud) == {"/FILE"}
    assert await read_all(cloud, moved) == b"data"


# removing


async def test_remove(cloud: Cloud) -> None:
    folder = await mkdir(cloud, cloud.root, "folder")
    file = await put(cloud, folder.id, "file", b"data")
    long = await put(cloud, folder.id, "l" * 180, b"data")
    with pytest.raises(DirectoryNotEmpty):
        await cloud.remove(folder.ref)
    await cloud.remove(file.ref)
    await cloud.remove(long.ref)
    if cloud.capabilities.symlinks:
        link = await cloud.symlink(folder.id, "link", "target", mtime_ns=MTIME)
        await cloud.remove(link.ref)
    await cloud.remove(folder.ref)
    assert await names(cloud) == set()


async def test_remove_what_is_gone(cloud: Cloud) -> None:
    folder = await mkdir(cloud, cloud.root, "folder")
    file = await put(cloud, cloud.root, "file", b"data")
    for node in (folder, file):
        await cloud.remove(node.ref)
        with pytest.raises(NotFound):
            await cloud.remove(node.ref)
        await cloud.remove(node.ref, retry=True)


async def test_remove_a_file_that_changed_is_a_conflict(cloud: Cloud, other: Cloud) -> None:
    file = await put(cloud, cloud.root, "file", b"data")
    newer = await put(other, other.root, "file", b"newer", replaces=file)
    with pytest.raises(Conflict):
        await cloud.remove(file.ref)
    assert await read_all(cloud, newer) == b"newer"


async def test_a_removed_name_can_be_taken_again(cloud: Cloud) -> None:
    for _ in range(3):
        folder = await mkdir(cloud, cloud.root, "name")
        await cloud.remove(folder.ref)
        file = await put(cloud, cloud.root, "name", b"data")
        await cloud.remove(file.ref)
    assert await names(cloud) == set()


# times and space


async def test_set_mtime(cloud: Cloud) -> None:
    if not cloud.capabilities.set_mtime:
        pytest.skip("times cannot be set here")
    file = await put(cloud, cloud.root, "file", b"data")
    changed = await cloud.set_mtime(file.ref, MTIME + 7)
    assert changed.mtime_ns == kept(cloud, MTIME + 7)
    assert (await tree(cloud))["/file"] == changed
    assert await read_all(cloud, changed) == b"data"


async def test_quota(cloud: Cloud) -> None:
    await put(cloud, cloud.root, "file", b"data")
    quota = await cloud.quota()
    assert quota.used is None or quota.used >= 4 or quota.total is None
    assert quota.free is None or quota.free >= 0


# changes


class Watch:
    """A client's own picture, kept by ``changes``, for waiting until it looks right."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.listings: dict[NodeId, tuple[NodeInfo, ...]] = {}
        self.batches = 0
        self.complete_since = -float("inf")
        self.changed = trio.Event()

    async def run(self) -> None:
        send, receive = trio.open_memory_channel[Batch](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cloud.changes, nothing_known, send)
            async for batch in receive:
                assert batch.started <= trio.current_time()
                await self.apply(batch)
                self.batches += 1
                if batch.complete:
                    self.complete_since = batch.started
                self.changed.set()
                self.changed = trio.Event()

    async def apply(self, batch: Batch) -> None:
        if batch.complete:
            self.listings.clear()
        self.listings.update(listings_of(self.cloud, batch))
        for node in (*batch.removed, *(child.id for child in batch.changed)):
            for folder, children in self.listings.items():
                self.listings[folder] = tuple(child for child in children if child.id != node)
        for child in batch.changed:
            assert child.parent is not None
            self.listings[child.parent] = (*self.listings.get(child.parent, ()), child)
        if batch.applied is not None:
            await batch.applied()

    def shown(self) -> set[str]:
        found: set[str] = set()
        pending = [(self.cloud.root, "")]
        while pending:
            folder, prefix = pending.pop()
            for child in self.listings.get(folder, ()):
                path = f"{prefix}/{child.name}"
                found.add(f"{path}:{child.size}" if child.kind is Kind.FILE else path)
                if child.kind is Kind.DIRECTORY:
                    pending.append((child.id, path))
        return found

    async def wait_until_shown(self, expected: set[str]) -> None:
        with trio.fail_after(PATIENCE):
            while self.shown() != expected:
                await self.changed.wait()


async def watching(cloud: Cloud, other: Cloud, act: Callable[[Watch], Awaitable[None]]) -> None:
    """Run ``act`` while ``changes`` runs, once it has shown that it runs."""
    marker = await put(other, other.root, "marker", b"m")
    watch = Watch(cloud)
    async with trio.open_nursery() as nursery:
        # A first complete picture is what a client has before it follows changes.
        await watch.apply(await cloud.snapshot(nothing_known))
        nursery.start_soon(watch.run)
        await other.remove(marker.ref)
        await watch.wait_until_shown(set())
        await act(watch)
        nursery.cancel_scope.cancel()


async def test_changes_show_what_others_do(cloud: Cloud, other: Cloud) -> None:
    async def act(watch: Watch) -> None:
        folder = await mkdir(other, other.root, "folder")
        await watch.wait_until_shown({"/folder"})
        file = await put(other, folder.id, "file", b"1")
        await watch.wait_until_shown({"/folder", "/folder/file:1"})
        file = await put(other, folder.id, "file", b"22", replaces=file)
        await watch.wait_until_shown({"/folder", "/folder/file:2"})
        file = await other.move(file.ref, other.root, "moved", replaces=None)
        await watch.wait_until_shown({"/folder", "/moved:2"})
        inner = await mkdir(other, folder.id, "inner")
        await put(other, inner.id, "deep", b"333")
        await watch.wait_until_shown({"/folder", "/folder/inner", "/folder/inner/deep:3", "/moved:2"})
        await other.move(folder.ref, other.root, "renamed", replaces=None)
        await watch.wait_until_shown({"/renamed", "/renamed/inner", "/renamed/inner/deep:3", "/moved:2"})
        await other.remove(file.ref)
        await watch.wait_until_shown({"/renamed", "/renamed/inner", "/renamed/inner/deep:3"})

    await watching(cloud, other, act)


async def test_recheck_sends_a_folder_again(cloud: Cloud, other: Cloud) -> None:
    async def act(watch: Watch) -> None:
        folder = await mkdir(other, other.root, "folder")
        await watch.wait_until_shown({"/folder"})
        watch.listings.pop(folder.id, None)
        cloud.recheck(folder.id)
        with trio.fail_after(PATIENCE):
            while folder.id not in watch.listings:
                await watch.changed.wait()

    await watching(cloud, other, act)


async def test_reload_sends_everything(cloud: Cloud, other: Cloud) -> None:
    async def act(watch: Watch) -> None:
        folder = await mkdir(other, other.root, "folder")
        file = await put(other, folder.id, "file", b"1")
        await watch.wait_until_shown({"/folder", "/folder/file:1"})
        watch.listings.clear()
        observed = cloud.observed
        since = await cloud.reload()
        assert since <= trio.current_time()
        with trio.fail_after(PATIENCE):
            while watch.complete_since < since:
                await watch.changed.wait()
        assert watch.shown() == {"/folder", "/folder/file:1"}
        assert {child.id for children in watch.listings.values() for child in children} == {folder.id, file.id}
        assert cloud.observed > observed

    await watching(cloud, other, act)
