"""The mount itself: its options, its end in good order and otherwise, and faults of the core that it survives."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serpentfs.gateways.fuse.mountpoint import find_mount
from tests.e2e.fuse.conftest import MountIt
from tests.e2e.fuse.harness import names

FACTORY = "tests.e2e.fuse.mount_memory:"
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def fails(*numbers: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno in numbers)


def as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command],
        capture_output=True, text=True, timeout=30, check=False,
    )


# --- options


def test_what_mount_shows(mount: MountIt) -> None:
    mounted = mount()
    found = find_mount(str(mounted.path))
    assert found is not None
    assert found.kind == "fuse.serpentfs"
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(mounted.path) in line)
    assert line.startswith("memory ")


def test_read_only(mount: MountIt) -> None:
    mounted = mount("--read-only")
    mounted.put("/file", b"data")
    assert (mounted.path / "file").read_bytes() == b"data"
    for attempt in (
        lambda: (mounted.path / "new").touch(),
        lambda: (mounted.path / "new").mkdir(),
        lambda: (mounted.path / "new").symlink_to("x"),
        lambda: (mounted.path / "file").unlink(),
        lambda: (mounted.path / "file").rename(mounted.path / "other"),
        lambda: (mounted.path / "file").chmod(0o600),
        lambda: (mounted.path / "file").write_bytes(b"x"),
        lambda: os.utime(mounted.path / "file"),
        lambda: os.setxattr(mounted.path / "file", "user.one", b"1"),
    ):
        with fails(errno.EROFS):
            attempt()
    assert mounted.get("/file") == b"data"


@needs_root
def test_read_only_holds_when_root_remounts_it(mount: MountIt) -> None:
    mounted = mount("--read-only")
    subprocess.run(["mount", "-i", "-o", "remount,rw", mounted.path], timeout=30, check=True, capture_output=True)
    with fails(errno.EROFS):
        (mounted.path / "new").touch()


def test_a_drive_that_cannot_be_changed(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "read_only")
    assert (mounted.path / "file").read_bytes() == b"data"
    with fails(errno.EROFS):
        (mounted.path / "new").touch()


@needs_root
def test_uid_gid_and_umask_are_for_what_has_none(mount: MountIt) -> None:
    mounted = mount("--uid", "1234", "--gid", "5678", "--umask", "027", "--mkdir", "/folder")
    mounted.put("/file", b"data")
    file, folder = (mounted.path / "file").stat(), (mounted.path / "folder").stat()
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode)) == (1234, 5678, 0o640)
    assert (folder.st_uid, folder.st_gid, stat.S_IMODE(folder.st_mode)) == (1234, 5678, 0o750)


def test_owner_and_modes_without_options(mount: MountIt) -> None:
    mounted = mount("--mkdir", "/folder")
    mounted.put("/file", b"data")
    (mounted.path / "link").symlink_to("file")
    file, folder = (mounted.path / "file").stat(), (mounted.path / "folder").stat()
    assert (file.st_uid, file.st_gid) == (os.getuid(), os.getgid())
    assert (stat.S_IMODE(file.st_mode), stat.S_IMODE(folder.st_mode)) == (0o644, 0o755)
    assert stat.S_IMODE((mounted.path / "link").lstat().st_mode) == 0o777


def test_a_folder_of_the_drive_as_the_root(mount: MountIt) -> None:
    mounted = mount("--mkdir", "/a", "--mkdir", "/a/b", "--root", "/a/b")
    (mounted.path / "sub").mkdir()
    (mounted.path / "sub" / "file").write_bytes(b"data")
    assert mounted.get("/a/b/sub/file") == b"data"
    mounted.put("/outside", b"not here")
    assert names(mounted.path) == ["sub"]
    shown = subprocess.run(["ls", "-a", mounted.path], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.split() == [".", "..", "sub"]
    assert not (mounted.path / "new").exists()
    mounted.put("/a/b/new", b"behind the kernel's back")
    wait_until((mounted.path / "new").exists)
    assert names(mounted.path) == ["new", "sub"]
    assert mounted.path.stat().st_ino == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--root", "/nothing"), "is not a folder of the drive"),
        (("-o", "no-such-option"), "cannot mount"),
    ],
)
def test_what_cannot_be_mounted(mount: MountIt, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        mount(*arguments)


def test_options_that_are_for_mount_itself(mount: MountIt) -> None:
    mounted = mount("-o", "nofail", "-o", "_netdev", "-o", "x-systemd.automount", "-o", "noatime")
    (mounted.path / "file").touch()


def test_a_mount_point_must_be_an_empty_folder(mount: MountIt, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    with pytest.raises(RuntimeError, match="is not empty"):
        mount(at=full)
    mounted = mount("-o", "nonempty", at=full)
    assert names(full) == []
    assert mounted.close() == 0
    assert names(full) == ["file"]
    with pytest.raises(RuntimeError, match="is not a folder"):
        mount(at=full / "file")
    with pytest.raises(RuntimeError, match="No such file"):
        mount(at=tmp_path / "nothing")


def test_a_mount_point_that_is_taken(mount: MountIt) -> None:
    mounted = mount()
    with pytest.raises(RuntimeError, match="is a mount point already"):
        mount(at=mounted.path)
    (mounted.path / "still").touch()


def test_a_mount_point_with_odd_characters(mount: MountIt, tmp_path: Path) -> None:
    path = tmp_path / "ümläut, comma\\ and\ttab"
    path.mkdir()
    mounted = mount(at=path)
    (mounted.path / "file").touch()
    assert mounted.close() == 0
    assert names(mounted.path) == []


def test_a_mount_point_behind_a_link(mount: MountIt, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    mounted = mount(at=tmp_path / "link")
    (mounted.path / "file").touch()
    assert names(tmp_path / "real") == ["file"]
    assert mounted.close() == 0
    assert names(tmp_path / "real") == []


def test_one_mount_per_process(tmp_path: Path) -> None:
    """And a second one after the first has ended."""
    script = textwrap.dedent("""
        import sys, trio
        from pathlib import Path
        from serpentfs.errors import Busy
        from serpentfs.gateways.fuse import MountOptions, serve
        from tests.fakes.memory_vfs import MemoryVfs

        async def main():
            one, two = (MountOptions(Path(path), name="memory", loop="pyfuse3") for path in sys.argv[1:])
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    await nursery.start(serve, MemoryVfs(), one)
                    try:
                        await serve(MemoryVfs(), two)
                    except Busy:
                        print("busy")
                    path = Path(sys.argv[1], "file")
                    await trio.to_thread.run_sync(path.write_bytes, b"data")
                    nursery.cancel_scope.cancel()

        trio.run(main)
    """)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "one", tmp_path / "two"],
        cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, timeout=60, check=False,
    )
    assert (done.stdout, done.returncode) == ("busy\nbusy\n", 0), done.stderr
    assert names(tmp_path / "one") == []


# --- other users


@needs_root
def test_only_the_mounting_user_gets_in(public_folder: Path, mount: MountIt) -> None:
    assert as_nobody("ls", public_folder).returncode == 0
    mounted = mount(at=public_folder)
    assert as_nobody("ls", mounted.path).returncode != 0


@needs_root
def test_allow_other(public_folder: Path, mount: MountIt) -> None:
    mounted = mount("--allow-other", at=public_folder)
    (mounted.path / "public").write_bytes(b"data")
    (mounted.path / "private").write_bytes(b"secret")
    (mounted.path / "private").chmod(0o600)
    (mounted.path / "shared").mkdir()
    (mounted.path / "shared").chmod(0o777)
    assert as_nobody("cat", mounted.path / "public").stdout == "data"
    refused = as_nobody("cat", mounted.path / "private")
    assert "Permission denied" in refused.stderr
    assert "Permission denied" in as_nobody("touch", mounted.path / "new").stderr
    for command in (("touch", "file"), ("mkdir", "folder"), ("ln", "-s", "x", "link")):
        path = mounted.path / "shared" / command[-1]
        done = as_nobody(*command[:-1], path)
        assert done.returncode == 0, done.stderr
        assert (path.lstat().st_uid, path.lstat().st_gid) == (NOBODY, NOBODY)


@needs_root
def test_allow_other_with_a_uid_nobody_else_owns_anything(public_folder: Path, mount: MountIt) -> None:
    mounted = mount("--allow-other", "--uid", "1234", "--gid", "1234", "--umask", "0", at=public_folder)
    done = as_nobody("mkdir", mounted.path / "folder")
    assert done.returncode == 0, done.stderr
    assert (mounted.path / "folder").stat().st_uid == 1234


# --- the kernel's page cache


def test_pages_are_kept_while_the_content_is_the_same(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "counting")
    mounted.put("/file", b"data")
    path = mounted.path / "file"

    def read_without_asking() -> bool:
        reads: int = mounted.command("reads")
        assert path.read_bytes() == b"data"
        return reads > 0 and mounted.command("reads") == reads

    wait_until(read_without_asking)  # at first the notices of the put still come in
    reads = mounted.command("reads")
    for _ in range(5):
        assert path.read_bytes() == b"data"
    path.chmod(0o600)
    path.rename(mounted.path / "renamed")
    (mounted.path / "renamed").rename(path)
    assert path.read_bytes() == b"data"
    assert mounted.command("reads") == reads
    mounted.command("overwrite", path="/file", offset=0, data="REFU")  # "DAT"
    wait_until(lambda: path.read_bytes() == b"DATa")
    assert mounted.command("reads") > reads


def test_our_own_writes_do_not_make_other_files_read_again(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "counting")
    path = mounted.path / "file"
    path.write_bytes(b"a" * 100_000)
    assert path.read_bytes() == b"a" * 100_000
    reads = mounted.command("reads")
    (mounted.path / "other").write_bytes(b"b" * 100_000)
    assert path.read_bytes() == b"a" * 100_000
    assert mounted.command("reads") == reads


# --- faults of the core


def test_an_unexpected_exception_is_eio_and_the_mount_lives_on(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "failing")
    with fails(errno.EIO):
        (mounted.path / "broken-lookup").stat()
    with fails(errno.EIO):
        (mounted.path / "broken-folder").mkdir()
    fd = os.open(mounted.path / "broken-file", os.O_RDWR | os.O_CREAT)
    with fails(errno.EIO):
        os.write(fd, b"data")
    os.ftruncate(fd, 10)
    with fails(errno.EIO):
        os.read(fd, 5)
    with fails(errno.EIO):
        os.close(fd)
    (mounted.path / "file").write_bytes(b"data")
    assert (mounted.path / "file").read_bytes() == b"data"
    assert "Traceback" in mounted.log()
    assert "RuntimeError: a fault in the core" in mounted.log()
    assert "ZeroDivisionError: a fault in the core" in mounted.log()


# --- the end


def test_the_end_by_cancellation(mount: MountIt) -> None:
    mounted = mount()
    (mounted.path / "file").write_bytes(b"data")
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(30) == 0
    assert not mounted.is_mounted()
    assert mounted.final() == {"files": {"file": "data"}, "open": 0}
    assert "in use" not in mounted.log()


@pytest.mark.parametrize("command", ["fusermount3 -u", "fusermount3 -uz", "umount", "umount -l"])
def test_the_end_from_outside(mount: MountIt, command: str) -> None:
    if command.startswith("umount") and os.geteuid() != 0:
        pytest.skip("needs root")
    if not shutil.which(command.split()[0]):
        pytest.skip("needs " + command.split()[0])
    mounted = mount()
    (mounted.path / "file").write_bytes(b"data")
    subprocess.run([*command.split(), mounted.path], timeout=30, check=True)
    assert mounted.process.wait(30) == 0
    assert not mounted.is_mounted()
    assert mounted.final() == {"files": {"file": "data"}, "open": 0}


_GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)


def test_a_mount_that_a_container_has_ends_when_cancelled(mount: MountIt) -> None:
    """Whoever makes a mount namespace has all mounts in it, and the kernel ends no connection that is in use there."""
    running = mount()
    namespaces = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    with subprocess.Popen([*namespaces, "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as container:
        try:
            assert container.stdout is not None
            assert container.stdout.read(1) == b"\n"
            assert running.close() == 0
        finally:
            container.kill()
    assert "is in use in another mount namespace" in running.log()


def test_a_busy_mount_ends_when_cancelled(mount: MountIt) -> None:
    mounted = mount()
    fd = os.open(mounted.path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"data")
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(30) == 0
    assert not mounted.is_mounted()
    assert names(mounted.path) == []
    with fails(*_GONE):
        os.write(fd, b"more")
    with fails(*_GONE):
        os.close(fd)
    assert mounted.final() == {"files": {"file": "data"}, "open": 0}


def test_what_was_changed_in_a_mapping_is_written_when_a_busy_mount_ends(mount: MountIt) -> None:
    mounted = mount()
    (mounted.path / "file").write_bytes(b"a" * 5000)
    fd = os.open(mounted.path / "file", os.O_RDWR)
    with mmap.mmap(fd, 0) as mapped:
        mapped[4000:4004] = b"late"
        mounted.process.send_signal(signal.SIGTERM)
        assert mounted.process.wait(30) == 0
    with fails(*_GONE):
        os.close(fd)
    assert mounted.final()["files"]["file"][3999:4005] == "alatea"


def test_a_read_that_hangs_does_not_hold_up_the_end(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "stalling")
    mounted.put("/stalled", b"data")
    mounted.put("/other", b"data")
    outcome: list[object] = []

    def read() -> None:
        try:
            outcome.append((mounted.path / "stalled").read_bytes())
        except OSError as error:
            outcome.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    assert (mounted.path / "other").read_bytes() == b"data"
    wait_until(lambda: mounted.command("stalled") == 1)
    mounted.command("overwrite", path="/stalled", offset=0, data="DATA")  # a notice that has to wait for the read
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(60) == 0
    reader.join(30)
    assert outcome in [[number] for number in _GONE]
    assert not mounted.is_mounted()


def test_a_notice_that_is_stuck_ends_the_mount(mount: MountIt) -> None:
    """As after a deadlock with the kernel; here it waits for a read that nobody answers."""
    mounted = mount("--factory", FACTORY + "stalling", "--stuck-after", "0.5")
    mounted.put("/stalled", b"data")
    outcome: list[object] = []

    def read() -> None:
        try:
            outcome.append((mounted.path / "stalled").read_bytes())
        except OSError as error:
            outcome.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: mounted.command("stalled") == 1)
    mounted.command("overwrite", path="/stalled", offset=0, data="DATA")
    assert mounted.process.wait(30) != 0
    reader.join(30)
    assert "was aborted" in mounted.log()
    assert "does not take an invalidation" in mounted.log()
    assert outcome in [[number] for number in _GONE]
    assert not mounted.is_mounted()


def test_a_read_that_hangs_does_not_delay_other_news(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "stalling")
    mounted.put("/stalled", b"data")
    mounted.put("/other", b"data")
    assert (mounted.path / "other").read_bytes() == b"data"

    def read() -> None:
        with fails(*_GONE):
            (mounted.path / "stalled").read_bytes()

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: mounted.command("stalled") == 1)
    mounted.command("overwrite", path="/stalled", offset=0, data="DATA")
    began = time.monotonic()
    mounted.put("/other", b"new")
    wait_until(lambda: (mounted.path / "other").read_bytes() == b"new")
    assert time.monotonic() - began < 4
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(30) == 0
    reader.join(30)


@needs_root
def test_an_aborted_connection_ends_the_mount(mount: MountIt) -> None:
    mounted = mount()
    found = find_mount(str(mounted.path))
    assert found is not None
    controlled = any(Path("/sys/fs/fuse/connections").iterdir())
    found.abort()
    code = mounted.process.wait(30)
    assert not mounted.is_mounted()
    if controlled:  # else all that can be done is umount -f, which is an end as any other
        assert code != 0
        assert "was aborted" in mounted.log()


def test_a_killed_process_leaves_enotconn_and_the_next_mount_puts_it_right(mount: MountIt) -> None:
    killed = mount()
    (killed.path / "file").touch()
    killed.process.kill()
    killed.process.wait(30)
    with fails(errno.ENOTCONN):
        killed.path.stat()
    mounted = mount(at=killed.path)
    (mounted.path / "file").write_bytes(b"data")
    assert "left behind" in mounted.log()
    assert mounted.close() == 0
    assert names(killed.path) == []


def test_offsets_beyond_32_bits(mount: MountIt) -> None:
    mounted = mount()
    with open(mounted.path / "file", "w+b") as file:
        file.seek(5 << 30)
        file.write(b"end")
        file.flush()
        assert os.pread(file.fileno(), 10, (5 << 30) - 2) == b"\0\0end"
        assert os.pread(file.fileno(), 4096, 1 << 30) == bytes(4096)
        os.ftruncate(file.fileno(), 1 << 40)
        assert os.fstat(file.fileno()).st_size == 1 << 40
        os.ftruncate(file.fileno(), 0)


def test_statfs(mount: MountIt) -> None:
    mounted = mount()
    found = os.statvfs(mounted.path)
    assert found.f_frsize * found.f_blocks == 1 << 40
    assert found.f_frsize * found.f_bavail == (1 << 40) - (1 << 30)
    assert found.f_namemax == 255


def test_statfs_of_a_store_that_does_not_tell(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "memory_unknown_quota")
    found = os.statvfs(mounted.path)
    assert found.f_bavail * found.f_frsize >= 1 << 50


def wait_until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(2000):
        if condition():
            return
        done.wait(0.005)
    raise AssertionError("it does not come about")
