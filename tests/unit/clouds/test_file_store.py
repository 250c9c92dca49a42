"""What only ``file://`` has: durability, links, crashes, errors of the disk, and events."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from serpentfs.clouds.blobs import inotify, posix
from serpentfs.clouds.blobs.base import ABSENT, BlobInfo, Chunks
from serpentfs.clouds.blobs.files import PIECE_SIZE, FileStore
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    NoSpace,
    NotADirectory,
    NotFound,
    PermissionDenied,
    ReadOnly,
    RevisionGone,
    SerpentError,
    Unavailable,
)

pytestmark = pytest.mark.trio

PATIENCE = 20.0
LARGE = b"x" * (3 * PIECE_SIZE)


def chunked(data: bytes) -> Chunks:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 65536):
            yield data[start : start + 65536]

    return chunks


async def put(store: FileStore, key: str, data: bytes = b"data") -> BlobInfo:
    return await store.put(key, chunked(data), len(data))


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if posix.is_temporary(path.name)]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


# durability and crashes


@pytest.mark.parametrize("data", [b"small", LARGE])
async def test_a_put_is_on_disk_before_and_after_it_shows(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    await store.make_directory("d")
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if is_folder else f"sync {os.fstat(descriptor).st_size} bytes")
        real_fsync(descriptor)

    def rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        steps.append("rename")
        real_rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    await put(store, "d/file", data)
    assert steps == [f"sync {len(data)} bytes", "rename", "sync folder"]


async def test_what_a_crash_left_is_hidden_and_in_nobodys_way(store: FileStore, tmp_path: Path) -> None:
    await put(store, "d/folder/file")
    upload = posix.Root(tmp_path).begin("d/folder/other", None, "")
    upload.write(b"half")
    assert [blob.key for blob in await store.list("")] == ["d/folder/file"]
    with pytest.raises(DirectoryNotEmpty):
        await store.remove_directory("d/folder")
    assert len(temporaries(tmp_path)) == 1
    await store.delete("d/folder/file")
    await store.remove_directory("d/folder")
    assert not (tmp_path / "d" / "folder").exists()


async def test_orphans_are_removed_at_the_start_once_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    orphan = folder / ".serpentfs-0123456789abcdef.tmp"
    foreign = folder / ".other-0123456789abcdef.tmp"
    for path in (orphan, foreign):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))  # an old mtime is no sign of age: a put sets it before it publishes
    await FileStore(tmp_path).list("")
    assert orphan.exists()
    monkeypatch.setattr(posix, "ORPHAN_AGE", -1.0)
    store = FileStore(tmp_path)
    await store.list("d")
    assert orphan.exists()
    assert [blob.key for blob in await store.list("")] == ["d/.other-0123456789abcdef.tmp"]
    assert not orphan.exists()
    assert foreign.exists()


@pytest.mark.parametrize("data", [b"small", LARGE])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EROFS, ReadOnly),
        (errno.EACCES, PermissionDenied),
    ],
)
async def test_a_disk_that_fails_leaves_nothing_behind(
    store: FileStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    code: int,
    expected: type[SerpentError],
) -> None:
    old = await put(store, "d/file", b"old")

    def fail(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    for call in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(expected):
                await put(store, "d/file", data)
        assert temporaries(tmp_path) == []
        assert await store.list("") == [old]


async def test_no_descriptor_is_lost(store: FileStore, tmp_path: Path) -> None:
    info = await put(store, "d/file")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await put(store, "d/large", LARGE)
        with pytest.raises(AlreadyExists):
            await store.put("d/large", chunked(LARGE), len(LARGE), condition=ABSENT)
        with pytest.raises(NotFound):
            await store.read("d/missing")
        with pytest.raises(NotADirectory):
            await put(store, "d/file/below")
        await store.read("d/file", revision=info.revision)
        await store.list("")
        await store.rename("d/large", "e/large")
        await store.remove_directory("missing")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_store_is_not_empty_because_its_disk_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    store = FileStore(root)
    with pytest.raises(Unavailable):
        await store.list("")
    root.mkdir()
    await put(store, "file")
    root.rename(tmp_path / "elsewhere")
    for call in (store.list, store.stat, store.read, store.is_directory, store.delete, store.list_directories):
        with pytest.raises(Unavailable):
            await call("file")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
async def test_an_empty_mount_point_is_not_an_empty_store(tmp_path: Path) -> None:
    own = os.stat(tmp_path).st_dev
    elsewhere = next((path for path in ("/dev/shm", "/var/tmp") if os.stat(path).st_dev != own), None)
    if elsewhere is None:
        pytest.skip("there is no other disk")
    mounted = Path(tempfile.mkdtemp(dir=elsewhere))
    try:
        root = posix.Root(mounted)
        assert root.list("") == []
        # The same path on another disk, as after umount.
        root._path = str(tmp_path)
        with pytest.raises(Unavailable, match="mounted"):
            root.list("")
    finally:
        shutil.rmtree(mounted)


# links and other strangers


async def test_links_are_not_followed(store: FileStore, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / "file").symlink_to(outside / "secret")
    assert await store.list("") == []
    assert await store.list("folder") == []
    assert await store.list_directories("") == []
    assert not await store.is_directory("folder")
    for key in ("folder/secret", "file"):
        with pytest.raises(NotFound):
            await store.read(key)
        with pytest.raises(NotFound):
            await store.stat(key)
        with pytest.raises(NotFound):
            await store.delete(key)
        with pytest.raises(NotFound):
            await store.set_mtime(key, 0)
    with pytest.raises(NotADirectory):
        await put(store, "folder/new")
    with pytest.raises(NotADirectory):
        await store.make_directory("folder/new")
    with pytest.raises(AlreadyExists):
        await store.put("file", chunked(b"data"), 4, condition=ABSENT)
    await put(store, "file", b"ours")
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    shutil.rmtree(outside)


async def test_special_files_and_strange_names_are_no_objects(store: FileStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"")
    (tmp_path / os.fsdecode(b"folder-\xff")).mkdir()
    info = await put(store, "file")
    assert await store.list("") == [info]
    assert await store.list_directories("") == []
    with trio.fail_after(PATIENCE):
        with pytest.raises(NotFound):
            await store.read("fifo")
        with pytest.raises(NotFound):
            await store.stat("fifo")


async def test_a_change_in_place_is_another_revision(store: FileStore, tmp_path: Path) -> None:
    info = await put(store, "file", b"1234")
    with (tmp_path / "file").open("r+b") as file:
        file.write(b"5678")
        os.utime(file.fileno(), ns=(info.mtime_ns, info.mtime_ns))
    assert (await store.stat("file")).revision != info.revision
    with pytest.raises(RevisionGone):
        await store.read("file", revision=info.revision)


@pytest.mark.parametrize("theirs", [b"theirs", None])
@pytest.mark.parametrize("change", ["put", "rename", "delete"])
async def test_somebody_is_faster_between_the_look_and_the_change(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, theirs: bytes | None
) -> None:
    """Another program, whose change no lock of ours keeps off."""
    expected = (await put(store, "file", b"before")).revision
    await put(store, "other", b"other")

    def before(name: str) -> None:
        original = getattr(posix, name)

        def changed(*arguments: object) -> None:
            if theirs is None:
                (tmp_path / "file").unlink()
            else:
                (tmp_path / "theirs").write_bytes(theirs)
                (tmp_path / "theirs").replace(tmp_path / "file")
            original(*arguments)

        monkeypatch.setattr(posix, name, changed)

    before("_unlink_if" if change == "delete" else "_rename_if")
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "put": partial(store.put, "file", chunked(b"ours"), 4, condition=expected),
        "rename": partial(store.rename, "other", "file", condition=expected),
        "delete": partial(store.delete, "file", condition=expected),
    }
    with pytest.raises((Conflict, NotFound) if change == "delete" else Conflict):
        await changes[change]()
    left = {blob.key: await store.read(blob.key) for blob in await store.list("")}
    assert left == {"other": b"other", **({} if theirs is None else {"file": theirs})}
    assert temporaries(tmp_path) == []


async def test_without_renameat2(store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "_renameat2", None)
    first = await store.put("d/file", chunked(b"first"), 5, condition=ABSENT)
    with pytest.raises(AlreadyExists):
        await store.put("d/file", chunked(b"second"), 6, condition=ABSENT)
    assert (await store.stat("d/file")).size == first.size
    assert temporaries(tmp_path) == []
    await put(store, "e/inside")
    with pytest.raises(AlreadyExists):
        await store.rename_directory("d", "e")
    await store.rename_directory("d", "f")
    assert sorted(blob.key for blob in await store.list("")) == ["e/inside", "f/file"]
    info = await store.put("f/file", chunked(b"third"), 5, condition=first.revision)
    await store.rename("f/file", "e/inside", condition=(await store.stat("e/inside")).revision)
    await store.delete("e/inside", condition=(await store.stat("e/inside")).revision)
    assert info.size == 5
    assert await store.list("") == []


async def test_what_vanishes_while_it_is_listed_is_left_out(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(20):
        await put(store, f"d/{index:02}/file")
    real_open = os.open

    def vanishing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "07":
            shutil.rmtree(tmp_path / "d" / "07")
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", vanishing)
    assert len(await store.list("d")) == 19


async def test_quota_is_that_of_the_file_system(store: FileStore, tmp_path: Path) -> None:
    quota = await store.quota()
    total = shutil.disk_usage(tmp_path).total
    assert quota.total == total
    assert quota.free is not None
    assert 0 <= quota.free <= total


# events


class Watched:
    def __init__(self) -> None:
        self.sent: list[frozenset[str]] = []
        self.more = trio.Event()

    async def run(self, store: FileStore, prefix: str) -> None:
        send, receive = trio.open_memory_channel[frozenset[str]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.watch, prefix, send)
            async for folders in receive:
                self.sent.append(folders)
                self.more.set()
                self.more = trio.Event()

    def folders(self) -> set[str]:
        return set().union(*self.sent)

    async def wait_for(self, count: int = 0, *folders: str) -> None:
        """Until ``count`` reports came and they name the ``folders``."""
        with trio.fail_after(PATIENCE):
            while len(self.sent) < count or not self.folders() >= set(folders):
                await self.more.wait()


async def test_a_deep_tree_that_appears_at_once_is_watched(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        await watched.wait_for(1)
        (tmp_path / "ready" / "b" / "c").mkdir(parents=True)
        (tmp_path / "ready").rename(tmp_path / "d" / "a")
        await watched.wait_for(0, "d", "d/a", "d/a/b", "d/a/b/c")
        watched.sent.clear()
        (tmp_path / "d" / "a" / "b" / "c" / "file").write_bytes(b"")
        await watched.wait_for(0, "d/a/b/c")
        nursery.cancel_scope.cancel()


async def test_a_moved_folder_is_watched_under_its_new_key(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "d" / "old" / "inner").mkdir(parents=True)
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        await watched.wait_for(1)
        (tmp_path / "d" / "old").rename(tmp_path / "d" / "new")
        await watched.wait_for(0, "d", "d/old", "d/new", "d/new/inner")
        watched.sent.clear()
        (tmp_path / "d" / "new" / "inner" / "file").write_bytes(b"")
        await watched.wait_for(0, "d/new/inner")
        assert not any(folder.startswith("d/old") for folder in watched.folders())
        nursery.cancel_scope.cancel()


async def test_unfinished_uploads_are_no_events(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        await watched.wait_for(1)
        (tmp_path / "d" / ".serpentfs-0123456789abcdef.tmp").write_bytes(b"half")
        (tmp_path / "d" / "marker").mkdir()
        await watched.wait_for(0, "d")
        (tmp_path / "d" / "marker" / ".serpentfs-0123456789abcdef.tmp").write_bytes(b"half")
        (tmp_path / "d" / "second").mkdir()
        watched.sent.clear()
        await watched.wait_for(0, "d", "d/second")
        assert "d/marker" not in watched.folders()
        nursery.cancel_scope.cancel()


async def test_a_folder_that_changes_all_the_time_is_reported_now_and_then(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inotify, "FOLDER_PAUSE", 3600.0)
    (tmp_path / "d" / "a").mkdir(parents=True)
    (tmp_path / "d" / "b").mkdir(parents=True)
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        await watched.wait_for(1)
        (tmp_path / "d" / "a" / "1").write_bytes(b"")
        await watched.wait_for(0, "d/a")
        (tmp_path / "d" / "a" / "2").write_bytes(b"")
        (tmp_path / "d" / "b" / "1").write_bytes(b"")
        await watched.wait_for(0, "d/a", "d/b")
        assert [folders for folders in watched.sent if "d/a" in folders] == [{"d/a"}]
        nursery.cancel_scope.cancel()


async def test_lost_events_mean_list_everything(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    real_read = os.read
    overflow = inotify._EVENT.pack(-1, inotify._IN_Q_OVERFLOW, 0, 0)
    lose = False

    def read(descriptor: int, size: int) -> bytes:
        data = real_read(descriptor, size)
        if lose and size == inotify._BUFFER_SIZE:
            (tmp_path / "d" / "unseen").mkdir(exist_ok=True)
            return overflow
        return data

    monkeypatch.setattr(os, "read", read)
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        await watched.wait_for(1)
        lose = True
        (tmp_path / "d" / "file").write_bytes(b"")
        await watched.wait_for(2)
        lose = False
        assert watched.sent[:2] == [frozenset(), frozenset()]
        (tmp_path / "d" / "unseen" / "file").write_bytes(b"")
        await watched.wait_for(0, "d/unseen")
        nursery.cancel_scope.cancel()


async def test_too_many_folders_are_listed_instead(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await put(store, "d/a/file")

    def exhausted(tree: inotify._Tree, key: str) -> set[str]:
        raise inotify.EventsUnavailable("too many folders for fs.inotify.max_user_watches")

    monkeypatch.setattr(inotify._Tree, "follow", exhausted)
    monkeypatch.setattr(inotify, "LISTING_INTERVAL", 0.01)
    await _listed_instead(store, caplog)


async def test_where_there_is_no_inotify_listings_do(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await put(store, "d/a/file")
    monkeypatch.setattr("serpentfs.clouds.blobs.files.sees_every_change", lambda path: False)
    monkeypatch.setattr(inotify, "LISTING_INTERVAL", 0.01)
    await _listed_instead(store, caplog, warnings=0)


async def _listed_instead(store: FileStore, caplog: pytest.LogCaptureFixture, warnings: int = 1) -> None:
    watched = Watched()
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run, store, "d")
            await watched.wait_for(1)
            assert watched.sent == [frozenset()]
            await put(store, "d/b/file")
            await watched.wait_for(0, "d/b")
            await store.rename("d/a/file", "d/b/file")
            await watched.wait_for(0, "d/a", "d/b")
            nursery.cancel_scope.cancel()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings


async def test_a_time_that_no_64_bits_hold_is_the_nearest(store: FileStore, tmp_path: Path) -> None:
    """Any program can set one; the tree keeps 64 bits."""
    await put(store, "d/file")
    os.utime(tmp_path / "d/file", ns=(0, 2**63 + 10**18))
    if (tmp_path / "d/file").stat().st_mtime_ns < 2**63:
        pytest.skip("this file system keeps no such times")
    assert [blob.mtime_ns for blob in await store.list("d")] == [2**63 - 1]
    assert (await store.stat("d/file")).mtime_ns == 2**63 - 1


async def test_a_watch_waits_for_its_folder(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inotify, "LISTING_INTERVAL", 0.01)
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run, store, "d")
        await trio.testing.wait_all_tasks_blocked()
        assert watched.sent == []
        await put(store, "d/a/file")
        await watched.wait_for(1)
        shutil.rmtree(tmp_path / "d")
        await put(store, "d/b/file")
        await watched.wait_for(2)
        await put(store, "d/b/other")
        await watched.wait_for(0, "d/b")
        nursery.cancel_scope.cancel()


async def test_local_file_systems_are_watched_by_events(tmp_path: Path) -> None:
    assert inotify.sees_every_change(str(tmp_path))
    with pytest.raises(Unavailable):
        inotify.sees_every_change(str(tmp_path / "missing"))
