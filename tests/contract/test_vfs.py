"""What every ``Vfs`` must do, run on each implementation in ``IMPLEMENTATIONS``.

A test speaks only through the protocol, so that it holds for the fake that doors are tested against as for the
real drive. To add an implementation, add an async context manager that yields one with an empty root.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from serpentfs.errors import (
    AlreadyExists,
    BadHandle,
    DirectoryNotEmpty,
    InvalidArgument,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Unsupported,
)
from serpentfs.model import NO_CONTENT, ROOT_INO, Attributes, ContentId, HandleId, Ino, Kind, NodeId, Span
from serpentfs.vfs.core import Invalidation, Precondition, RenameMode, SetAttributes, Vfs
from serpentfs.vfs.drive import Drive, DriveOptions
from serpentfs.vfs.old_versions import KeptVersion
from serpentfs.vfs.opening import open_drive
from serpentfs.vfs.versions_view import VersionsView
from tests.fakes.memory_cloud import MemoryCloud
from tests.fakes.memory_vfs import MemoryVfs

pytestmark = pytest.mark.trio


@asynccontextmanager
async def memory(tmp_path: Path) -> AsyncIterator[Vfs]:
    vfs = MemoryVfs()
    yield vfs
    assert vfs.open_handles == 0, "the test left a handle open"


@asynccontextmanager
async def memory_cold(tmp_path: Path) -> AsyncIterator[Vfs]:
    yield MemoryVfs(cold=True)


@asynccontextmanager
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    async with open_drive(
        MemoryCloud(),
        remote_id="contract",
        secret=b"s" * 64,
        state_directory=tmp_path / "state",
        cache_directory=tmp_path / "cache",
        options=DriveOptions(settle=0.01),
    ) as opened:
        yield opened


class KeepsNothing:
    def versions(self, node: NodeId) -> list[KeptVersion]:
        return []


@asynccontextmanager
async def with_versions(tmp_path: Path) -> AsyncIterator[Vfs]:
    """Showing old versions changes nothing beside them."""
    async with drive(tmp_path) as opened:
        yield VersionsView(opened, KeepsNothing())


IMPLEMENTATIONS: dict[str, Callable[[Path], AbstractAsyncContextManager[Vfs]]] = {
    "memory": memory,
    "memory-cold": memory_cold,
    "drive": drive,
    "versions-view": with_versions,
}


@pytest.fixture(params=list(IMPLEMENTATIONS))
async def vfs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vfs]:
    with trio.fail_after(60):
        async with IMPLEMENTATIONS[request.param](tmp_path) as made:
            yield made


DOOR = "mount"
OTHER = "webdav"


async def make_file(vfs: Vfs, name: str, data: bytes = b"", parent: Ino = ROOT_INO) -> Ino:
    attributes, handle = await vfs.create(parent, name, 0o644, exclusive=True, door=DOOR)
    if data:
        assert await vfs.write(handle, 0, data) == len(data)
    await vfs.flush(handle)
    await vfs.release(handle)
    return attributes.ino


async def read_handle(vfs: Vfs, handle: HandleId, offset: int = 0, size: int = 1 << 20) -> bytes:
    """Reads as doors do: what is in memory at once, else by waiting."""
    data = vfs.read_nowait(handle, offset, size)
    return bytes(await vfs.read(handle, offset, size) if data is None else data)


async def read_file(vfs: Vfs, ino: Ino) -> bytes:
    handle = await vfs.open(ino, write=False, door=DOOR)
    try:
        return await read_handle(vfs, handle)
    finally:
        await vfs.release(handle)


async def write_draft(vfs: Vfs, data: bytes) -> HandleId:
    draft = await vfs.create_draft(door=OTHER)
    await vfs.write(draft, None, data)
    return draft


def names(vfs: Vfs, ino: Ino = ROOT_INO) -> set[str]:
    return {entry.name for entry in vfs.readdir(ino)}


def content_of(attributes: Attributes) -> tuple[ContentId, int]:
    return attributes.content, attributes.generation


# --- look-ups


async def test_root(vfs: Vfs) -> None:
    root = vfs.getattr(ROOT_INO)
    assert (root.ino, root.kind, root.content) == (ROOT_INO, Kind.DIRECTORY, NO_CONTENT)
    assert vfs.path_of(ROOT_INO) == "/"
    assert vfs.resolve("/").ino == ROOT_INO
    assert vfs.readdir(ROOT_INO) == []


async def test_lookup_and_resolve_find_the_same_entry(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", 0o750, door=DOOR)
    ino = await make_file(vfs, "file", b"abc", folder.ino)
    entry = vfs.lookup(folder.ino, "file")
    assert entry.name == "file"
    assert entry.attributes == vfs.getattr(ino) == vfs.resolve("/folder/file")
    assert (entry.attributes.size, entry.attributes.parent, entry.attributes.nlink) == (3, folder.ino, 1)
    assert vfs.path_of(ino) == "/folder/file"


async def test_lookup_errors(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file")
    with pytest.raises(NotFound):
        vfs.lookup(ROOT_INO, "nothing")
    with pytest.raises(NotADirectory):
        vfs.lookup(ino, "child")
    with pytest.raises(NotFound):
        vfs.lookup(ROOT_INO, "\udcff")
    with pytest.raises(NotFound):
        vfs.getattr(Ino(987654))
    with pytest.raises(NotADirectory):
        vfs.readdir(ino)


@pytest.mark.parametrize("path", ["/../file", "/a/..", "..", "/a\0b"])
async def test_resolve_refuses_what_is_no_path(vfs: Vfs, path: str) -> None:
    with pytest.raises(InvalidArgument):
        vfs.resolve(path)


async def test_resolve_errors(vfs: Vfs) -> None:
    await make_file(vfs, "file")
    with pytest.raises(NotFound):
        vfs.resolve("/nothing/below")
    with pytest.raises(NotADirectory):
        vfs.resolve("/file/below")


async def test_modes_are_kept_as_given(vfs: Vfs) -> None:
    assert (await vfs.mkdir(ROOT_INO, "set", 0o700, door=DOOR)).mode == 0o700
    assert (await vfs.mkdir(ROOT_INO, "unset", door=DOOR)).mode is None


@pytest.mark.parametrize(
    "name", ["with space", "ümläut", "e\u0301", "漢字", "🐍", "new\nline", "-", "...", "a" * 255]
)
async def test_names_are_kept_as_given(vfs: Vfs, name: str) -> None:
    await make_file(vfs, name)
    assert names(vfs) == {name}
    assert vfs.lookup(ROOT_INO, name).attributes.kind is Kind.FILE


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "not-utf8-\udcff"])
async def test_names_that_no_cloud_carries(vfs: Vfs, name: str) -> None:
    ino = await make_file(vfs, "file")
    with pytest.raises(InvalidName):
        await vfs.mkdir(ROOT_INO, name, door=DOOR)
    with pytest.raises(InvalidName):
        await vfs.create(ROOT_INO, name, exclusive=True, door=DOOR)
    with pytest.raises(InvalidName):
        await vfs.symlink(ROOT_INO, name, "target", door=DOOR)
    with pytest.raises(InvalidName):
        await vfs.rename(ROOT_INO, "file", ROOT_INO, name, door=DOOR)
    with pytest.raises(InvalidName):
        await vfs.copy_file(ino, ROOT_INO, name, door=DOOR)
    assert names(vfs) == {"file"}


async def test_too_long_a_name(vfs: Vfs) -> None:
    name = "a" * (vfs.capabilities.longest_name_bytes + 1)
    with pytest.raises(NameTooLong):
        await vfs.mkdir(ROOT_INO, name, door=DOOR)


# --- readdir


async def test_readdir_pages_in_order_of_inode(vfs: Vfs) -> None:
    for number in range(25):
        await make_file(vfs, f"{24 - number}")
    seen: list[str] = []
    after, inos = 0, [0]
    while page := vfs.readdir(ROOT_INO, after, 10):
        assert len(page) <= 10
        seen += [entry.name for entry in page]
        inos += [entry.attributes.ino for entry in page]
        after = page[-1].attributes.ino
    assert sorted(seen, key=int) == [str(number) for number in range(25)]
    assert inos == sorted(set(inos))


async def test_readdir_is_stable_while_the_folder_changes(vfs: Vfs) -> None:
    for number in range(20):
        await make_file(vfs, f"old{number}")
    first = vfs.readdir(ROOT_INO, 0, 10)
    for entry in first[:5]:
        await vfs.unlink(ROOT_INO, entry.name, door=DOOR)
    await make_file(vfs, "new")
    await vfs.rename(ROOT_INO, first[7].name, ROOT_INO, "renamed", door=DOOR)
    rest = vfs.readdir(ROOT_INO, first[-1].attributes.ino)
    shown = [entry.name for entry in first + rest]
    assert len(shown) == len(set(shown))
    assert {f"old{number}" for number in range(20)} <= set(shown)


# --- folders


async def test_mkdir_and_rmdir(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    assert (folder.kind, folder.content) == (Kind.DIRECTORY, NO_CONTENT)
    with pytest.raises(AlreadyExists):
        await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    await make_file(vfs, "file", parent=folder.ino)
    with pytest.raises(DirectoryNotEmpty):
        await vfs.rmdir(ROOT_INO, "folder", door=DOOR)
    await vfs.unlink(folder.ino, "file", door=DOOR)
    await vfs.rmdir(ROOT_INO, "folder", door=DOOR)
    assert names(vfs) == set()
    with pytest.raises(NotFound):
        vfs.getattr(folder.ino)
    with pytest.raises(NotFound):
        await vfs.mkdir(folder.ino, "child", door=DOOR)


async def test_rmdir_and_unlink_mind_the_kind(vfs: Vfs) -> None:
    await make_file(vfs, "file")
    await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    with pytest.raises(NotADirectory):
        await vfs.rmdir(ROOT_INO, "file", door=DOOR)
    with pytest.raises(IsADirectory):
        await vfs.unlink(ROOT_INO, "folder", door=DOOR)
    with pytest.raises(NotFound):
        await vfs.rmdir(ROOT_INO, "nothing", door=DOOR)
    with pytest.raises(NotFound):
        await vfs.unlink(ROOT_INO, "nothing", door=DOOR)


async def test_a_change_of_a_folder_moves_its_times(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    await vfs.setattr(folder.ino, SetAttributes(mtime_ns=1), door=DOOR)
    await make_file(vfs, "file", parent=folder.ino)
    assert vfs.getattr(folder.ino).mtime_ns > 1
    await vfs.setattr(folder.ino, SetAttributes(mtime_ns=1), door=DOOR)
    await vfs.unlink(folder.ino, "file", door=DOOR)
    assert vfs.getattr(folder.ino).mtime_ns > 1


# --- links


async def test_symlink(vfs: Vfs) -> None:
    if not vfs.capabilities.symlinks:
        pytest.skip("this cloud has no links")
    link = await vfs.symlink(ROOT_INO, "link", "../töwards/nothing", door=DOOR)
    assert (link.kind, link.size) == (Kind.SYMLINK, len("../töwards/nothing".encode()))
    assert vfs.readlink(link.ino) == "../töwards/nothing"
    assert vfs.resolve("/link").ino == link.ino
    with pytest.raises(AlreadyExists):
        await vfs.symlink(ROOT_INO, "link", "x", door=DOOR)
    with pytest.raises(InvalidArgument):
        vfs.readlink(await make_file(vfs, "file"))
    with pytest.raises(InvalidArgument):
        await vfs.open(link.ino, write=False, door=DOOR)
    await vfs.unlink(ROOT_INO, "link", door=DOOR)
    assert names(vfs) == {"file"}


# --- create and open


async def test_create_exclusive(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    with pytest.raises(AlreadyExists):
        await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    attributes, handle = await vfs.create(ROOT_INO, "file", exclusive=False, door=DOOR)
    assert (attributes.ino, attributes.size) == (ino, 3)
    assert await read_handle(vfs, handle) == b"abc"
    await vfs.release(handle)


async def test_open_truncates(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    before = vfs.getattr(ino)
    handle = await vfs.open(ino, write=True, truncate=True, door=DOOR)
    assert vfs.getattr(ino).size == 0
    assert content_of(vfs.getattr(ino)) != content_of(before)
    await vfs.release(handle)
    assert await read_file(vfs, ino) == b""


async def test_a_folder_cannot_be_opened(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    with pytest.raises(IsADirectory):
        await vfs.open(folder.ino, write=False, door=DOOR)
    with pytest.raises(IsADirectory):
        await vfs.create(ROOT_INO, "folder", exclusive=False, door=DOOR)
    with pytest.raises(NotFound):
        await vfs.open(Ino(987654), write=False, door=DOOR)


async def test_a_released_handle_is_bad(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.release(handle)
    for use in (
        lambda: vfs.read(handle, 0, 1),
        lambda: vfs.write(handle, 0, b"x"),
        lambda: vfs.flush(handle),
        lambda: vfs.fsync(handle),
        lambda: vfs.release(handle),
    ):
        with pytest.raises(BadHandle):
            await use()
    with pytest.raises(BadHandle):
        vfs.attributes_of(handle)
    with pytest.raises(BadHandle):
        vfs.expect(handle, Span(0, 3), sealed=False)


async def test_a_reading_handle_does_not_write(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    handle = await vfs.open(ino, write=False, door=DOOR)
    with pytest.raises(BadHandle):
        await vfs.write(handle, 0, b"x")
    await vfs.release(handle)
    assert await read_file(vfs, ino) == b"abc"


# --- reading and writing


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(0, 3, b"012"), (8, 100, b"89"), (10, 5, b""), (100, 5, b""), (3, 0, b""), (0, 10, b"0123456789")],
)
async def test_reads_are_clamped_to_the_file(vfs: Vfs, offset: int, size: int, expected: bytes) -> None:
    ino = await make_file(vfs, "file", b"0123456789")
    handle = await vfs.open(ino, write=False, door=DOOR)
    assert await read_handle(vfs, handle, offset, size) == expected
    assert bytes(await vfs.read(handle, offset, size)) == expected
    await vfs.release(handle)


async def test_who_was_expected_to_read_in_order_may_read_anywhere(vfs: Vfs) -> None:
    data = random.Random(1).randbytes(300_000)
    ino = await make_file(vfs, "file", data)
    handle = await vfs.open(ino, write=False, door=DOOR)
    vfs.expect(handle, Span(1000, 1 << 40), sealed=False)
    for offset in (1000, 200_000, 0, 140_000, 299_990):
        assert await read_handle(vfs, handle, offset, 5000) == data[offset : offset + 5000]
    await vfs.release(handle)


async def test_random_writes(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"0123456789")
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.write(handle, 3, b"abc")
    await vfs.write(handle, 9, memoryview(b"xyz"))
    assert await read_handle(vfs, handle) == b"012abc678xyz"
    assert vfs.attributes_of(handle).size == vfs.getattr(ino).size == 12
    await vfs.release(handle)
    assert await read_file(vfs, ino) == b"012abc678xyz"


async def test_a_write_of_nothing_changes_no_size(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    handle = await vfs.open(ino, write=True, door=DOOR)
    assert await vfs.write(handle, 100, b"") == 0
    await vfs.release(handle)
    assert vfs.getattr(ino).size == 3


async def test_a_large_file_crosses_blocks(vfs: Vfs) -> None:
    data = bytes(range(256)) * 2048
    ino = await make_file(vfs, "file", data)
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.write(handle, 131070, b"-----")
    expected = data[:131070] + b"-----" + data[131075:]
    assert await read_handle(vfs, handle, 131060, 30) == expected[131060:131090]
    await vfs.release(handle)
    assert await read_file(vfs, ino) == expected


async def test_a_hole_reads_as_zeros(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.write(handle, 300_000, b"end")
    assert await read_handle(vfs, handle, 0, 10) == b"abc" + bytes(7)
    assert await read_handle(vfs, handle, 299_998, 100) == b"\0\0end"
    await vfs.release(handle)
    assert await read_file(vfs, ino) == b"abc" + bytes(300_000 - 3) + b"end"


async def test_truncate_down_and_up_leaves_no_old_bytes(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"x" * 200_000)
    await vfs.setattr(ino, SetAttributes(size=70_001), door=DOOR)
    assert vfs.getattr(ino).size == 70_001
    await vfs.setattr(ino, SetAttributes(size=150_000), door=DOOR)
    assert await read_file(vfs, ino) == b"x" * 70_001 + bytes(79_999)


async def test_truncate_through_a_handle_and_a_write_after_it(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"0123456789")
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.setattr(ino, SetAttributes(size=2), handle, door=DOOR)
    await vfs.write(handle, 4, b"ab")
    assert await read_handle(vfs, handle) == b"01\0\0ab"
    await vfs.release(handle)
    assert await read_file(vfs, ino) == b"01\0\0ab"


async def test_appends_of_two_handles_do_not_overwrite(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"0")
    one = await vfs.open(ino, write=True, door=DOOR)
    two = await vfs.open(ino, write=True, door=OTHER)
    for handle, data in ((one, b"a"), (two, b"bb"), (one, b"c")):
        await vfs.write(handle, None, data)
    assert await read_handle(vfs, one) == await read_handle(vfs, two) == b"0abbc"
    await vfs.release(one)
    await vfs.release(two)


async def test_a_write_is_seen_by_another_handle_at_once(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    reader = await vfs.open(ino, write=False, door=DOOR)
    writer = await vfs.open(ino, write=True, door=OTHER)
    await vfs.write(writer, 3, b"def")
    assert await read_handle(vfs, reader) == b"abcdef"
    assert vfs.getattr(ino).size == 6
    await vfs.release(writer)
    await vfs.release(reader)


async def test_content_and_generation_change_with_every_content(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file")
    handle = await vfs.open(ino, write=True, door=DOOR)
    seen = [content_of(vfs.getattr(ino))]
    for data in (b"a", b"b"):
        await vfs.write(handle, 0, data)
        await vfs.flush(handle)
        seen.append(content_of(vfs.getattr(ino)))
    await vfs.setattr(ino, SetAttributes(size=0), door=DOOR)
    seen.append(content_of(vfs.getattr(ino)))
    await vfs.release(handle)
    assert len(set(seen)) == len(seen)


async def test_the_content_of_a_handle_is_its_own(vfs: Vfs) -> None:
    """What is never the same for two contents, and None while it may change."""
    created, handle = await vfs.create(ROOT_INO, "f", exclusive=True, door="test")
    await vfs.write(handle, 0, b"one")
    seen = [vfs.content_of(handle)]
    await vfs.release(handle)
    for text in (b"two", b"two"):
        handle = await vfs.open(created.ino, write=True, door="test")
        await vfs.write(handle, 0, text)
        seen.append(vfs.content_of(handle))
        await vfs.release(handle)
        reading = [await vfs.open(created.ino, write=False, door="test") for _ in range(2)]
        assert vfs.content_of(reading[0]) == vfs.content_of(reading[1])
        for one in reading:
            await vfs.release(one)
    known = [content for content in seen if content is not None]
    assert len(set(known)) == len(known)
    with pytest.raises(BadHandle):
        vfs.content_of(handle)


async def test_content_stays_while_only_attributes_change(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    before = content_of(vfs.getattr(ino))
    await vfs.setattr(ino, SetAttributes(mode=0o600, mtime_ns=1), door=DOOR)
    await vfs.rename(ROOT_INO, "file", ROOT_INO, "other", door=DOOR)
    assert await read_file(vfs, ino) == b"abc"
    assert content_of(vfs.getattr(ino)) == before


async def test_fsync(vfs: Vfs) -> None:
    attributes, handle = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    await vfs.write(handle, 0, b"abc")
    await vfs.fsync(handle)
    await vfs.release(handle)
    await vfs.fsync_directory(ROOT_INO)
    assert await read_file(vfs, attributes.ino) == b"abc"


# --- attributes


async def test_setattr_stores_what_it_is_given(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    changes = SetAttributes(
        mode=0o640, uid=1234, gid=5678, atime_ns=1_000_000_001, mtime_ns=1_700_000_000_123_456_789
    )
    answer = await vfs.setattr(ino, changes, door=DOOR)
    assert answer == vfs.getattr(ino)
    assert (answer.mode, answer.uid, answer.gid) == (0o640, 1234, 5678)
    assert (answer.atime_ns, answer.mtime_ns) == (1_000_000_001, 1_700_000_000_123_456_789)
    assert answer.size == 3
    again = await vfs.setattr(ino, SetAttributes(mode=0o600), door=DOOR)
    assert (again.mode, again.uid, again.mtime_ns) == (0o600, 1234, 1_700_000_000_123_456_789)


async def test_writing_moves_mtime(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    await vfs.setattr(ino, SetAttributes(mtime_ns=1), door=DOOR)
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.write(handle, 0, b"x")
    await vfs.release(handle)
    assert vfs.getattr(ino).mtime_ns > 1


async def test_a_time_set_while_open_outlives_the_release(vfs: Vfs) -> None:
    """What cp -p and rsync do: write, set the time through the handle, close."""
    attributes, handle = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    await vfs.write(handle, 0, b"abc")
    await vfs.setattr(attributes.ino, SetAttributes(mtime_ns=1_000), handle, door=DOOR)
    await vfs.flush(handle)
    await vfs.release(handle)
    assert vfs.getattr(attributes.ino).mtime_ns == 1_000


async def test_size_is_for_files(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    with pytest.raises(IsADirectory):
        await vfs.setattr(folder.ino, SetAttributes(size=0), door=DOOR)
    with pytest.raises(NotFound):
        await vfs.setattr(Ino(987654), SetAttributes(mode=0o600), door=DOOR)


# --- rename


async def test_rename_keeps_the_inode(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    ino = await make_file(vfs, "file", b"abc")
    await vfs.rename(ROOT_INO, "file", folder.ino, "moved", door=DOOR)
    assert vfs.resolve("/folder/moved").ino == ino
    assert vfs.getattr(ino).parent == folder.ino
    assert names(vfs) == {"folder"}
    assert await read_file(vfs, ino) == b"abc"


async def test_rename_over_a_file_that_is_open(vfs: Vfs) -> None:
    old = await make_file(vfs, "target", b"old")
    new = await make_file(vfs, "source", b"new")
    handle = await vfs.open(old, write=False, door=DOOR)
    await vfs.rename(ROOT_INO, "source", ROOT_INO, "target", door=DOOR)
    assert names(vfs) == {"target"}
    assert vfs.resolve("/target").ino == new
    assert await read_handle(vfs, handle) == b"old"
    assert vfs.getattr(old).nlink == 0
    await vfs.release(handle)
    with pytest.raises(NotFound):
        vfs.getattr(old)
    assert await read_file(vfs, new) == b"new"


async def test_rename_of_an_open_file_keeps_its_handle(vfs: Vfs) -> None:
    attributes, handle = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    await vfs.write(handle, 0, b"abc")
    await vfs.rename(ROOT_INO, "file", ROOT_INO, "other", door=DOOR)
    await vfs.write(handle, 3, b"def")
    await vfs.release(handle)
    assert await read_file(vfs, attributes.ino) == b"abcdef"
    assert vfs.path_of(attributes.ino) == "/other"


async def test_rename_of_a_folder_takes_its_children_along(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    ino = await make_file(vfs, "file", b"abc", folder.ino)
    await vfs.rename(ROOT_INO, "folder", ROOT_INO, "moved", door=DOOR)
    assert vfs.path_of(ino) == "/moved/file"
    assert await read_file(vfs, ino) == b"abc"
    with pytest.raises(NotFound):
        vfs.resolve("/folder/file")


async def test_rename_to_itself_does_nothing(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    await vfs.rename(ROOT_INO, "file", ROOT_INO, "file", door=DOOR)
    assert vfs.resolve("/file").ino == ino
    assert await read_file(vfs, ino) == b"abc"


async def test_rename_over_minds_the_kinds(vfs: Vfs) -> None:
    await make_file(vfs, "file")
    full = await vfs.mkdir(ROOT_INO, "full", door=DOOR)
    await make_file(vfs, "child", parent=full.ino)
    empty = await vfs.mkdir(ROOT_INO, "empty", door=DOOR)
    with pytest.raises(IsADirectory):
        await vfs.rename(ROOT_INO, "file", ROOT_INO, "empty", door=DOOR)
    with pytest.raises(NotADirectory):
        await vfs.rename(ROOT_INO, "empty", ROOT_INO, "file", door=DOOR)
    with pytest.raises(DirectoryNotEmpty):
        await vfs.rename(ROOT_INO, "empty", ROOT_INO, "full", door=DOOR)
    assert names(vfs) == {"file", "full", "empty"}
    await vfs.rename(ROOT_INO, "full", ROOT_INO, "empty", door=DOOR)
    assert vfs.resolve("/empty").ino == full.ino
    with pytest.raises(NotFound):
        vfs.getattr(empty.ino)


async def test_a_folder_does_not_move_into_itself(vfs: Vfs) -> None:
    outer = await vfs.mkdir(ROOT_INO, "outer", door=DOOR)
    inner = await vfs.mkdir(outer.ino, "inner", door=DOOR)
    for parent in (outer.ino, inner.ino):
        with pytest.raises(InvalidArgument):
            await vfs.rename(ROOT_INO, "outer", parent, "x", door=DOOR)
    await make_file(vfs, "file", parent=inner.ino)
    with pytest.raises(InvalidArgument):
        await vfs.rename(inner.ino, "file", ROOT_INO, "outer", RenameMode.EXCHANGE, door=DOOR)
    assert vfs.path_of(inner.ino) == "/outer/inner"


async def test_rename_without_replacing(vfs: Vfs) -> None:
    first = await make_file(vfs, "first", b"1")
    await make_file(vfs, "second", b"2")
    with pytest.raises(AlreadyExists):
        await vfs.rename(ROOT_INO, "first", ROOT_INO, "second", RenameMode.NO_REPLACE, door=DOOR)
    await vfs.rename(ROOT_INO, "first", ROOT_INO, "third", RenameMode.NO_REPLACE, door=DOOR)
    assert names(vfs) == {"second", "third"}
    assert vfs.resolve("/third").ino == first


async def test_exchange(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    inside = await make_file(vfs, "inside", b"1", folder.ino)
    other = await vfs.mkdir(ROOT_INO, "other", door=DOOR)
    below = await make_file(vfs, "below", b"2", other.ino)
    await vfs.rename(folder.ino, "inside", ROOT_INO, "other", RenameMode.EXCHANGE, door=DOOR)
    assert vfs.resolve("/other").ino == inside
    assert vfs.path_of(below) == "/folder/inside/below"
    assert vfs.getattr(other.ino).parent == folder.ino
    assert await read_file(vfs, inside) == b"1"
    with pytest.raises(NotFound):
        await vfs.rename(ROOT_INO, "other", ROOT_INO, "nothing", RenameMode.EXCHANGE, door=DOOR)


async def test_exchange_within_a_folder(vfs: Vfs) -> None:
    first, second = await make_file(vfs, "first", b"1"), await make_file(vfs, "second", b"2")
    await vfs.rename(ROOT_INO, "first", ROOT_INO, "second", RenameMode.EXCHANGE, door=DOOR)
    assert (vfs.resolve("/first").ino, vfs.resolve("/second").ino) == (second, first)
    assert await read_file(vfs, first) == b"1"
    assert await read_file(vfs, second) == b"2"


async def test_rename_of_what_is_not_there(vfs: Vfs) -> None:
    file = await make_file(vfs, "file")
    with pytest.raises(NotFound):
        await vfs.rename(ROOT_INO, "nothing", ROOT_INO, "file", door=DOOR)
    with pytest.raises(NotADirectory):
        await vfs.rename(ROOT_INO, "file", file, "x", door=DOOR)


# --- open and unlinked


async def test_an_unlinked_file_lives_until_its_last_release(vfs: Vfs) -> None:
    attributes, one = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    ino = attributes.ino
    await vfs.write(one, 0, b"abc")
    two = await vfs.open(ino, write=True, door=DOOR)
    await vfs.unlink(ROOT_INO, "file", door=DOOR)
    assert names(vfs) == set()
    assert vfs.getattr(ino).nlink == 0
    await vfs.write(two, 3, b"def")
    await vfs.setattr(ino, SetAttributes(size=5), two, door=DOOR)
    await vfs.release(two)
    assert await read_handle(vfs, one) == b"abcde"
    with pytest.raises(NotFound):
        vfs.path_of(ino)
    await vfs.flush(one)
    await vfs.fsync(one)
    await vfs.release(one)
    with pytest.raises(NotFound):
        vfs.getattr(ino)


async def test_a_name_is_free_again_at_once(vfs: Vfs) -> None:
    first, handle = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    await vfs.unlink(ROOT_INO, "file", door=DOOR)
    second = await make_file(vfs, "file", b"second")
    assert second != first.ino
    await vfs.release(handle)
    assert await read_file(vfs, second) == b"second"


async def test_inodes_are_not_used_again(vfs: Vfs) -> None:
    seen = set()
    for _ in range(3):
        seen.add(await make_file(vfs, "file"))
        await vfs.unlink(ROOT_INO, "file", door=DOOR)
    assert len(seen) == 3


# --- drafts


async def test_a_draft_is_seen_by_nobody_until_published(vfs: Vfs) -> None:
    draft = await write_draft(vfs, b"new content")
    assert names(vfs) == set()
    assert vfs.attributes_of(draft).size == 11
    attributes, created = await vfs.publish(draft, ROOT_INO, "file", mtime_ns=1_000_000_007, door=OTHER)
    assert created
    assert attributes == vfs.resolve("/file")
    assert (attributes.mtime_ns, attributes.size, attributes.nlink) == (1_000_000_007, 11, 1)
    assert await read_file(vfs, attributes.ino) == b"new content"
    with pytest.raises(BadHandle):
        vfs.attributes_of(draft)


async def test_publishing_over_a_file_is_a_rename_over(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"old and longer")
    await vfs.setattr(ino, SetAttributes(mode=0o640), door=DOOR)
    await vfs.setxattr(ino, "user.note", b"kept")
    before = vfs.getattr(ino)
    attributes, created = await vfs.publish(await write_draft(vfs, b"new"), ROOT_INO, "file", door=OTHER)
    assert not created
    assert attributes.ino != ino
    assert vfs.lookup(ROOT_INO, "file").attributes.ino == attributes.ino
    assert (attributes.size, attributes.mode) == (3, 0o640)
    assert vfs.getxattr(attributes.ino, "user.note") == b"kept"
    assert content_of(attributes) != content_of(before)
    assert await read_file(vfs, attributes.ino) == b"new"
    with pytest.raises(NotFound):
        vfs.getattr(ino)


async def test_two_puts_of_one_size_differ_in_content(vfs: Vfs) -> None:
    seen = []
    for data in (b"one", b"two", b"one"):
        attributes, _ = await vfs.publish(await write_draft(vfs, data), ROOT_INO, "file", mtime_ns=5, door=OTHER)
        seen.append(content_of(attributes))
    assert len(set(seen)) == 3


async def test_a_download_ends_with_the_content_it_began_with(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"old content")
    reader = await vfs.open(ino, write=False, door=OTHER)
    assert await read_handle(vfs, reader, 0, 4) == b"old "
    await vfs.publish(await write_draft(vfs, b"NEW"), ROOT_INO, "file", door=OTHER)
    assert await read_handle(vfs, reader, 4, 100) == b"content"
    assert vfs.attributes_of(reader).size == 11
    await vfs.release(reader)
    assert await read_file(vfs, vfs.lookup(ROOT_INO, "file").attributes.ino) == b"NEW"


async def test_a_draft_is_not_published_on_a_folder(vfs: Vfs) -> None:
    await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    file = await make_file(vfs, "file", b"old")
    draft = await write_draft(vfs, b"data")
    with pytest.raises(IsADirectory):
        await vfs.publish(draft, ROOT_INO, "folder", door=OTHER)
    with pytest.raises(InvalidName):
        await vfs.publish(draft, ROOT_INO, "a\udcff", door=OTHER)
    with pytest.raises(NotADirectory):
        await vfs.publish(draft, file, "x", door=OTHER)
    await vfs.publish(draft, ROOT_INO, "good", door=OTHER)
    assert names(vfs) == {"folder", "file", "good"}
    assert await read_file(vfs, file) == b"old"


async def test_preconditions(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"old")
    stale = Precondition(content=content_of(vfs.getattr(ino)))
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.write(handle, 0, b"OLD")
    await vfs.release(handle)
    draft = await write_draft(vfs, b"new")
    for name, refused in (
        ("file", stale),
        ("file", Precondition(must_not_exist=True)),
        ("nothing", Precondition(must_exist=True)),
        ("nothing", stale),
    ):
        with pytest.raises(PreconditionFailed):
            await vfs.publish(draft, ROOT_INO, name, precondition=refused, door=OTHER)
    assert names(vfs) == {"file"}
    assert await read_file(vfs, ino) == b"OLD"
    fresh = Precondition(content=content_of(vfs.getattr(ino)), must_exist=True)
    assert (await vfs.publish(draft, ROOT_INO, "file", precondition=fresh, door=OTHER))[1] is False
    other = await write_draft(vfs, b"other")
    absent = Precondition(must_not_exist=True)
    assert (await vfs.publish(other, ROOT_INO, "other", precondition=absent, door=OTHER))[1] is True


async def test_a_discarded_draft_is_gone(vfs: Vfs) -> None:
    draft = await write_draft(vfs, b"data")
    await vfs.discard(draft)
    assert names(vfs) == set()
    with pytest.raises(BadHandle):
        await vfs.publish(draft, ROOT_INO, "file", door=OTHER)


async def test_only_drafts_are_published(vfs: Vfs) -> None:
    _, handle = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    with pytest.raises(BadHandle):
        await vfs.publish(handle, ROOT_INO, "other", door=DOOR)
    await vfs.release(handle)


async def test_a_kept_draft_is_continued(vfs: Vfs) -> None:
    ino = await vfs.keep_draft(await write_draft(vfs, b"first half"))
    assert names(vfs) == set()
    draft = await vfs.reopen_draft(ino, door=OTHER)
    assert vfs.attributes_of(draft).size == 10
    assert await read_handle(vfs, draft) == b"first half"
    await vfs.write(draft, None, b", second half")
    attributes, _ = await vfs.publish(draft, ROOT_INO, "file", door=OTHER)
    assert await read_file(vfs, attributes.ino) == b"first half, second half"
    with pytest.raises(NotFound):
        await vfs.reopen_draft(ino, door=OTHER)


# --- copies


async def test_copy_is_independent_of_its_source(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc" * 100_000)
    attributes, created = await vfs.copy_file(ino, ROOT_INO, "copy", door=OTHER)
    assert created
    assert attributes.ino != ino
    handle = await vfs.open(ino, write=True, door=DOOR)
    await vfs.write(handle, 0, b"xyz")
    await vfs.release(handle)
    assert await read_file(vfs, attributes.ino) == b"abc" * 100_000


async def test_copy_over_a_file(vfs: Vfs) -> None:
    source, target = await make_file(vfs, "source", b"new"), await make_file(vfs, "target", b"old")
    refused = Precondition(must_not_exist=True)
    with pytest.raises(PreconditionFailed):
        await vfs.copy_file(source, ROOT_INO, "target", precondition=refused, door=OTHER)
    before = content_of(vfs.getattr(target))
    attributes, created = await vfs.copy_file(source, ROOT_INO, "target", door=OTHER)
    assert not created
    assert content_of(attributes) != before
    assert await read_file(vfs, vfs.lookup(ROOT_INO, "target").attributes.ino) == b"new"


async def test_copy_of_a_file_that_is_being_written(vfs: Vfs) -> None:
    attributes, handle = await vfs.create(ROOT_INO, "file", exclusive=True, door=DOOR)
    await vfs.write(handle, 0, b"not yet flushed")
    copy, _ = await vfs.copy_file(attributes.ino, ROOT_INO, "copy", door=OTHER)
    await vfs.release(handle)
    assert await read_file(vfs, copy.ino) == b"not yet flushed"


async def test_copy_of_links_and_folders(vfs: Vfs) -> None:
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    with pytest.raises(IsADirectory):
        await vfs.copy_file(folder.ino, ROOT_INO, "copy", door=OTHER)
    if vfs.capabilities.symlinks:
        link = await vfs.symlink(ROOT_INO, "link", "target", door=DOOR)
        copy, created = await vfs.copy_file(link.ino, folder.ino, "copy", door=OTHER)
        assert (copy.kind, created) == (Kind.SYMLINK, True)
        assert vfs.readlink(copy.ino) == "target"


# --- extended attributes


async def test_xattrs(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file")
    value = bytes(range(256))
    await vfs.setxattr(ino, "user.one", value)
    await vfs.setxattr(ino, "user.two", b"")
    assert vfs.getxattr(ino, "user.one") == value
    assert vfs.getxattr(ino, "user.two") == b""
    assert {"user.one", "user.two"} <= set(vfs.listxattr(ino))
    await vfs.removexattr(ino, "user.one")
    with pytest.raises(NotFound):
        vfs.getxattr(ino, "user.one")
    with pytest.raises(NotFound):
        await vfs.removexattr(ino, "user.one")


async def test_what_moves_the_time_of_the_last_change(vfs: Vfs) -> None:
    """Also of a file whose data waits to be written."""
    for dirty in (False, True):
        attributes, handle = await vfs.create(ROOT_INO, f"file {dirty}", 0o644, exclusive=True, door=DOOR)
        if dirty:
            await vfs.write(handle, 0, b"data")
        ino = attributes.ino
        changes: tuple[Callable[[], Awaitable[object]], ...] = (
            partial(vfs.setxattr, ino, "user.one", b"1"),
            partial(vfs.removexattr, ino, "user.one"),
            partial(vfs.setattr, ino, SetAttributes(mode=0o600), door=DOOR),
        )
        for change in changes:
            before = vfs.getattr(ino)
            await trio.sleep(0.01)
            await change()
            after = vfs.getattr(ino)
            assert (after.ctime_ns > before.ctime_ns, after.mtime_ns) == (True, before.mtime_ns)
        await vfs.release(handle)


async def test_xattrs_create_and_replace(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file")
    with pytest.raises(NotFound):
        await vfs.setxattr(ino, "user.one", b"1", replace=True)
    await vfs.setxattr(ino, "user.one", b"1", create=True)
    with pytest.raises(AlreadyExists):
        await vfs.setxattr(ino, "user.one", b"2", create=True)
    await vfs.setxattr(ino, "user.one", b"3", replace=True)
    assert vfs.getxattr(ino, "user.one") == b"3"


async def test_xattrs_follow_a_rename(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file")
    await vfs.setxattr(ino, "user.one", b"1")
    await vfs.rename(ROOT_INO, "file", ROOT_INO, "other", door=DOOR)
    assert vfs.getxattr(ino, "user.one") == b"1"


async def test_xattrs_that_cannot_be_set(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file")
    with pytest.raises(PermissionDenied):
        await vfs.setxattr(ino, "user.serpentfs.id", b"1")
    with pytest.raises(Unsupported):
        await vfs.setxattr(ino, "security.capability", b"1")
    assert vfs.listxattr(ino) == []


# --- records of doors


async def test_records(vfs: Vfs) -> None:
    vfs.save_record("webdav", "lock", b"\0\xff")
    vfs.save_record("webdav", "other", b"")
    vfs.save_record("ftp", "lock", b"ftp's own")
    vfs.save_record("webdav", "lock", b"changed")
    assert vfs.load_records("webdav") == {"lock": b"changed", "other": b""}
    vfs.save_record("webdav", "lock", None)
    vfs.save_record("webdav", "never there", None)
    assert vfs.load_records("webdav") == {"other": b""}
    assert vfs.load_records("ftp") == {"lock": b"ftp's own"}
    assert vfs.load_records("mount") == {}


# --- invalidations


class Listener:
    def __init__(self, vfs: Vfs) -> None:
        self.heard: list[Invalidation] = []
        self.unsubscribe = vfs.subscribe(self.heard.append)

    async def told_by(self, change: Callable[[], Awaitable[object]]) -> list[Invalidation]:
        """What is said about one change. All of it must come from the door that made it."""
        self.heard.clear()
        await change()
        heard = list(self.heard)
        assert {invalidation.origin for invalidation in heard} <= {OTHER}
        return heard


def entries(heard: list[Invalidation]) -> set[tuple[Ino, str]]:
    return {invalidation.entry for invalidation in heard if invalidation.entry is not None}


def inodes(heard: list[Invalidation], *, data: bool = False) -> set[Ino]:
    return {told.ino for told in heard if told.ino is not None and (told.data or not data)}


async def test_invalidations_of_the_namespace(vfs: Vfs) -> None:
    folder = (await vfs.mkdir(ROOT_INO, "folder", door=DOOR)).ino
    file = await make_file(vfs, "file", b"abc")
    listener = Listener(vfs)
    heard = await listener.told_by(lambda: vfs.mkdir(folder, "new", door=OTHER))
    assert (folder, "new") in entries(heard)
    assert folder in inodes(heard)
    heard = await listener.told_by(lambda: vfs.rmdir(folder, "new", door=OTHER))
    assert (folder, "new") in entries(heard)
    assert folder in inodes(heard)
    heard = await listener.told_by(lambda: vfs.rename(ROOT_INO, "file", folder, "moved", door=OTHER))
    assert {(ROOT_INO, "file"), (folder, "moved")} <= entries(heard)
    assert {ROOT_INO, folder} <= inodes(heard)
    heard = await listener.told_by(lambda: vfs.unlink(folder, "moved", door=OTHER))
    assert (folder, "moved") in entries(heard)
    assert file in inodes(heard) or (folder, "moved") in entries(heard)


async def test_invalidations_of_contents(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    listener = Listener(vfs)
    draft = await write_draft(vfs, b"new")
    heard = await listener.told_by(lambda: vfs.publish(draft, ROOT_INO, "file", door=OTHER))
    assert (ROOT_INO, "file") in entries(heard)
    ino = vfs.lookup(ROOT_INO, "file").attributes.ino
    heard = await listener.told_by(lambda: vfs.setattr(ino, SetAttributes(size=1), door=OTHER))
    assert ino in inodes(heard, data=True)
    heard = await listener.told_by(lambda: vfs.setattr(ino, SetAttributes(mode=0o600), door=OTHER))
    assert ino in inodes(heard)
    assert ino not in inodes(heard, data=True)


async def test_invalidations_of_writes_come_no_later_than_release(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc")
    listener = Listener(vfs)
    handle = await vfs.open(ino, write=True, door=OTHER)
    await vfs.write(handle, 0, b"xyz")
    await vfs.release(handle)
    assert ino in inodes(listener.heard, data=True)


async def test_a_draft_invalidates_nothing(vfs: Vfs) -> None:
    listener = Listener(vfs)
    draft = await write_draft(vfs, b"data")
    await vfs.discard(draft)
    assert listener.heard == []


async def test_unsubscribed_listeners_hear_nothing(vfs: Vfs) -> None:
    first, second = Listener(vfs), Listener(vfs)
    first.unsubscribe()
    await vfs.mkdir(ROOT_INO, "folder", door=OTHER)
    assert first.heard == []
    assert second.heard != []


# --- the whole


async def test_everything_is_uploaded_in_the_end(vfs: Vfs) -> None:
    ino = await make_file(vfs, "file", b"abc" * 1000)
    folder = await vfs.mkdir(ROOT_INO, "folder", door=DOOR)
    await vfs.rename(ROOT_INO, "file", folder.ino, "moved", door=DOOR)
    before = content_of(vfs.getattr(ino))
    await vfs.wait_until_uploaded()
    status = vfs.status()
    assert (status.pending, status.dirty_bytes, status.conflicts) == ((), 0, 0)
    assert vfs.resolve("/folder/moved").ino == ino
    assert content_of(vfs.getattr(ino)) == before, "confirming an upload must not look like a new content"
    assert await read_file(vfs, ino) == b"abc" * 1000
