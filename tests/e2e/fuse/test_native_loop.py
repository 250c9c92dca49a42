"""What only the native request loop does: the kernel keeps listings, requests of killed programs are given up, a
process has several mounts, a mount ends with requests under way, and every look-up is forgotten. The rest of this
folder runs on it as well.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fuse.conftest import MountIt, mounts
from tests.e2e.fuse.harness import RENAME_EXCHANGE, Mounted, above, names, renameat2
from tests.e2e.fuse.test_mount import FACTORY, needs_root, wait_until

_REPOSITORY = Path(__file__).resolve().parents[3]

_OPENER = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
open(sys.argv[1])
"""


def start_opener(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _OPENER, path])


def run_script(script: str, *arguments: Path) -> str:
    """What a program of the tests' own printed; it mounts in its process what it wants."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=_REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MountIt]:
    """As everywhere, on this loop only."""
    yield from mounts("native", tmp_path)


@pytest.fixture
def stalling(mount: MountIt) -> Mounted:
    mounted = mount("--factory", FACTORY + "stalling")
    mounted.put("/stalled", b"data")
    mounted.put("/stuck", b"data")
    mounted.put("/other", b"other data")
    return mounted


def test_the_library_is_not_needed(mount: MountIt) -> None:
    mounted = mount()
    (mounted.path / "file").write_bytes(b"data")
    assert "pyfuse3" not in Path(f"/proc/{mounted.process.pid}/maps").read_text()


@needs_root
@pytest.mark.parametrize(
    ("options", "change"),
    # Where they count, the kernel takes them itself, but for a file that is only opened to be emptied.
    [((), '>"$1"'), ((), 'echo more >>"$1"'), (("-o", "suid"), 'echo more >>"$1"')],
)
def test_who_may_not_keep_set_id_bits(mount: MountIt, options: tuple[str, ...], change: str) -> None:
    path = mount(*options).path / "file"
    path.write_text("text")
    path.chmod(0o6755)
    subprocess.run(["setpriv", "--bounding-set=-fsetid", "sh", "-c", change, "sh", path], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.fixture
def counting(mount: MountIt) -> Mounted:
    mounted = mount("--factory", FACTORY + "counting")
    mounted.command("mkdir", path="/folder")
    for number in range(300):  # more than one answer holds
        mounted.put(f"/folder/file {number} {'x' * 200}", b"")
    return mounted


def listed(mounted: Mounted, folder: Path) -> tuple[list[str], int]:
    """Its names, and how often the drive was asked for them."""
    before = mounted.command("listings")
    return names(folder), mounted.command("listings") - before


def wait_until_kept(mounted: Mounted, folder: Path, expected: list[str]) -> None:
    """Not at once: the kernel may not have been told all of what others did, and may be made to drop its caches."""
    wait_until(lambda: listed(mounted, folder) == (expected, 0))


def test_a_listing_is_asked_for_once(counting: Mounted) -> None:
    folder = counting.path / "folder"
    found, asked = listed(counting, folder)
    assert len(found) == 300
    assert asked > 1
    wait_until_kept(counting, folder, found)
    with os.scandir(folder) as entries:
        assert sorted(entry.name for entry in entries if entry.is_file()) == found
    wait_until_kept(counting, folder, found)


@pytest.mark.parametrize(
    "change", ["create", "mkdir", "symlink", "unlink", "rename", "rename over", "rename out", "rename in", "exchange"]
)
def test_a_change_through_the_mount_is_in_the_next_listing(counting: Mounted, change: str) -> None:
    folder = counting.path / "folder"
    (counting.path / "other").write_bytes(b"")
    one, two, *rest = listed(counting, folder)[0]
    expected = {one, two, *rest}
    wait_until_kept(counting, folder, sorted(expected))
    match change:
        case "create":
            (folder / "new").write_bytes(b"")
            expected |= {"new"}
        case "mkdir":
            (folder / "new").mkdir()
            expected |= {"new"}
        case "symlink":
            (folder / "new").symlink_to(one)
            expected |= {"new"}
        case "unlink":
            (folder / one).unlink()
            expected -= {one}
        case "rename":
            (folder / one).rename(folder / "new")
            expected = expected - {one} | {"new"}
        case "rename over":
            (folder / one).rename(folder / two)
            expected -= {one}
        case "rename out":
            (folder / one).rename(counting.path / "new")
            expected -= {one}
        case "rename in":
            (counting.path / "other").rename(folder / "new")
            expected |= {"new"}
        case "exchange":
            renameat2(folder / one, counting.path / "other", RENAME_EXCHANGE)
    assert listed(counting, folder)[0] == sorted(expected)
    with os.scandir(folder) as entries:  # a kept listing tells inodes, too
        found = {entry.name: entry.inode() for entry in entries}
    assert found == {name: (folder / name).lstat().st_ino for name in expected}


def test_a_kept_listing_is_dropped_for_a_change_by_another_door(counting: Mounted) -> None:
    """Each kind of change; what is listed then is kept again, once the kernel has been told all of it."""
    folder = counting.path / "folder"
    expected = set(listed(counting, folder)[0])
    gone = sorted(expected)
    changes: list[tuple[str, dict[str, str], set[str], set[str]]] = [
        ("put", {"path": "/folder/new", "data": ""}, {"new"}, set()),
        ("mkdir", {"path": "/folder/sub"}, {"sub"}, set()),
        ("unlink", {"path": f"/folder/{gone[0]}"}, set(), {gone[0]}),
        ("rename", {"path": f"/folder/{gone[1]}", "new_path": "/folder/renamed"}, {"renamed"}, {gone[1]}),
        ("rename", {"path": f"/folder/{gone[2]}", "new_path": "/elsewhere"}, set(), {gone[2]}),
        ("rename", {"path": "/elsewhere", "new_path": "/folder/back"}, {"back"}, set()),
        ("rename", {"path": "/folder/back", "new_path": f"/folder/{gone[3]}"}, set(), {"back"}),
        ("rmdir", {"path": "/folder/sub"}, set(), {"sub"}),
    ]
    for command, arguments, more, less in changes:
        wait_until_kept(counting, folder, sorted(expected))
        counting.command(command, **arguments)
        expected = (expected | more) - less
    wait_until_kept(counting, folder, sorted(expected))
    with os.scandir(folder) as entries:
        assert {entry.name: entry.inode() for entry in entries} == {
            name: (folder / name).stat().st_ino for name in expected
        }


def test_a_replaced_file_is_another_inode_in_the_listing(counting: Mounted) -> None:
    folder = counting.path / "folder"
    name = listed(counting, folder)[0][0]

    def shown() -> int:
        with os.scandir(folder) as entries:
            return next(entry.inode() for entry in entries if entry.name == name)

    old = shown()
    counting.put(f"/folder/{name}", b"news")
    wait_until(lambda: shown() != old)
    wait_until(lambda: shown() == (folder / name).stat().st_ino)


def test_the_folder_above_in_the_listing_of_one_that_moved(counting: Mounted) -> None:
    (counting.path / "there").mkdir()
    moved = counting.path / "folder" / "moved"
    moved.mkdir()
    assert above(moved) == (counting.path / "folder").stat().st_ino
    moved.rename(counting.path / "there" / "moved")
    assert above(counting.path / "there" / "moved") == (counting.path / "there").stat().st_ino
    counting.command("rename", path="/there/moved", new_path="/moved")
    wait_until(lambda: (counting.path / "moved").exists())
    assert above(counting.path / "moved") == counting.path.stat().st_ino


def test_listings_while_another_door_changes_the_folder(counting: Mounted) -> None:
    """Whenever a notice meets a listing that is being made: in the end it is the right one that is kept."""
    folder = counting.path / "folder"
    stop = threading.Event()

    def list_on() -> None:
        while not stop.is_set():
            names(folder)

    readers = [threading.Thread(target=list_on) for _ in range(3)]
    for reader in readers:
        reader.start()
    expected = set(names(folder))
    try:
        for number in range(150):
            gone = min(expected)
            counting.put(f"/folder/new {number}", b"")
            counting.command("unlink", path=f"/folder/{gone}")
            expected = expected - {gone} | {f"new {number}"}
            if number % 10 == 0:
                wait_until(lambda: names(folder) == sorted(expected))  # noqa: B023 - called at once
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    wait_until_kept(counting, folder, sorted(expected))


def test_a_killed_program_does_not_wait_for_its_answer(stalling: Mounted) -> None:
    opener = start_opener(stalling.path / "stuck")
    wait_until(lambda: stalling.command("stalled") == 1)
    opener.kill()
    assert opener.wait(10) == -signal.SIGKILL
    wait_until(lambda: stalling.command("given_up") == 1)
    assert (stalling.path / "other").read_bytes() == b"other data"


def test_a_program_that_only_got_a_signal_goes_on_waiting(stalling: Mounted) -> None:
    """And may be killed later, of which the kernel says nothing more."""
    opener = start_opener(stalling.path / "stuck")
    wait_until(lambda: stalling.command("stalled") == 1)
    opener.send_signal(signal.SIGUSR1)
    assert (stalling.path / "other").read_bytes() == b"other data"
    with pytest.raises(subprocess.TimeoutExpired):
        opener.wait(1)
    assert stalling.command("given_up") == 0
    opener.terminate()
    assert opener.wait(10) == -signal.SIGTERM
    wait_until(lambda: stalling.command("given_up") == 1)
    assert stalling.command("stalled") == 1


def test_many_killed_programs_leave_nothing(mount: MountIt) -> None:
    mounted = mount("--factory", FACTORY + "stalling")
    mounted.put("/stuck", b"data")
    openers = [start_opener(mounted.path / "stuck") for _ in range(10)]
    wait_until(lambda: mounted.command("stalled") == 10)
    for opener in openers:
        opener.kill()
    for opener in openers:
        assert opener.wait(10) == -signal.SIGKILL
    (mounted.path / "file").write_bytes(b"data")
    assert (mounted.path / "file").read_bytes() == b"data"
    assert mounted.close() == 0
    assert "Traceback" not in mounted.log()


@needs_root
@pytest.mark.parametrize("command", ["umount -f", "umount -l", "fusermount3 -uz"])
def test_the_end_from_outside_while_requests_wait(stalling: Mounted, command: str) -> None:
    outcome: list[int] = []

    def read() -> None:
        try:
            (stalling.path / "stalled").read_bytes()
        except OSError as error:
            outcome.append(error.errno or 0)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: stalling.command("stalled") == 1)
    subprocess.run([*command.split(), stalling.path], timeout=30, check=command != "umount -f", capture_output=True)
    if command != "umount -f":  # it lives on until the last file is closed
        stalling.process.send_signal(signal.SIGTERM)
    stalling.process.wait(30)
    reader.join(30)
    assert outcome
    assert outcome[0] in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    assert not stalling.is_mounted()
    assert ("was aborted" in stalling.log()) == (command == "umount -f")


def test_two_mounts_in_one_process(tmp_path: Path) -> None:
    """Each with its own tree; what another door changes is seen in both kinds of time."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    said = run_script(
        """
        import sys, trio
        from pathlib import Path
        from serpentfs.gateways.fuse import MountOptions, serve
        from tests.fakes.memory_vfs import MemoryVfs

        async def main():
            paths = [Path(path) for path in sys.argv[1:]]
            drives = [MemoryVfs(), MemoryVfs()]
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for path, drive in zip(paths, drives):
                        await nursery.start(serve, drive, MountOptions(path, name="memory", loop="native"))
                    for number, path in enumerate(paths):
                        await trio.to_thread.run_sync((path / f"file{number}").write_bytes, b"data")
                        print(await trio.to_thread.run_sync(lambda: [one.name for one in path.iterdir()]))
                        assert not await trio.to_thread.run_sync((path / "new").exists)
                        drives[number].cloud_put("/new", b"news")
                        with trio.fail_after(10):
                            while not await trio.to_thread.run_sync((path / "new").exists):
                                await trio.sleep(0.01)
                        await trio.to_thread.run_sync((path / "new").unlink)
                    nursery.cancel_scope.cancel()

        trio.run(main)
        """,
        tmp_path / "one", tmp_path / "two",
    )  # fmt: skip
    assert said == "['file0']\n['file1']\n" * 2
    assert names(tmp_path / "one") == names(tmp_path / "two") == []


def test_the_library_serves_a_kernel_that_is_too_old(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    said = run_script(
        """
        import sys, trio
        from pathlib import Path
        from serpentfs.gateways.fuse import MountOptions, serve
        from serpentfs.gateways.fuse.native import protocol
        from tests.fakes.memory_vfs import MemoryVfs

        protocol.MINOR = 99

        async def main():
            path = Path(sys.argv[1])
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, MemoryVfs(), MountOptions(path, name="memory", loop="native"))
                await trio.to_thread.run_sync((path / "file").write_bytes, b"data")
                print(await trio.to_thread.run_sync((path / "file").read_bytes), "pyfuse3" in sys.modules)
                nursery.cancel_scope.cancel()

        trio.run(main)
        """,
        tmp_path / "mnt",
    )
    assert said == "b'data' True\n"
    assert names(tmp_path / "mnt") == []


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    """One by one, and in batches when many go at once."""
    (tmp_path / "mnt").mkdir()
    said = run_script(
        """
        import sys, trio
        from pathlib import Path
        from serpentfs.gateways.fuse import MountOptions, serve
        from serpentfs.gateways.fuse.operations import Operations
        from tests.fakes.memory_vfs import MemoryVfs

        forgotten = []
        batches = []

        def forget(self, inodes):
            inodes = list(inodes)
            batches.append(len(inodes))
            forgotten.extend(inodes)

        Operations.forget = forget

        def work(path):
            files = [path / f"file{number}" for number in range(200)]
            for file in files:
                file.touch()
            inodes = {file.stat().st_ino for file in files}
            for file in files:
                file.unlink()
            return inodes

        async def main():
            async with trio.open_nursery() as nursery:
                path = Path(sys.argv[1])
                await nursery.start(serve, MemoryVfs(), MountOptions(path, name="memory", loop="native"))
                inodes = await trio.to_thread.run_sync(work, path)
                with trio.fail_after(20):
                    while not inodes <= set(forgotten):
                        await trio.sleep(0.01)
                print(len(inodes), sum(forgotten.count(inode) for inode in inodes))
                nursery.cancel_scope.cancel()

        trio.run(main)
        """,
        tmp_path / "mnt",
    )
    assert said == "200 200\n"


@needs_root
def test_mounting_through_the_helper(tmp_path: Path) -> None:
    """As for users other than root, who may not call mount(2)."""
    path = tmp_path / "mnt, with a comma"
    path.mkdir()
    said = run_script(
        """
        import os, sys, trio
        from pathlib import Path
        from serpentfs.errors import UsageError
        from serpentfs.gateways.fuse import MountOptions, mountpoint, serve
        from serpentfs.gateways.fuse.native import device
        from tests.fakes.memory_vfs import MemoryVfs

        device._mount_by_root = lambda *_: None

        async def main():
            path = Path(sys.argv[1])
            async with trio.open_nursery() as nursery:
                options = MountOptions(path, name="a, b", loop="native", extra=("noatime",))
                await nursery.start(serve, MemoryVfs(), options)
                print(mountpoint.find_mount(str(path)).kind)
                await trio.to_thread.run_sync((path / "file").write_bytes, b"data")
                nursery.cancel_scope.cancel()
            try:
                await serve(MemoryVfs(), MountOptions(path, name="x", loop="native", extra=("frobnicate",)))
            except UsageError as error:
                print(error)

        trio.run(main)
        """,
        path,
    )
    kind, refusal = said.splitlines()
    assert kind == "fuse.serpentfs"
    assert refusal.startswith(f"cannot mount {path}: ")
    assert "frobnicate" in refusal
    assert names(path) == []


def test_clients_that_come_and_are_killed_all_the_time(mount: MountIt) -> None:
    """Whatever they were in the middle of: the mount answers, and at its end nothing is open."""
    mounted = mount()
    script = textwrap.dedent("""
        import os, sys
        number = 0
        while True:
            number += 1
            path = f"{sys.argv[1]}/{os.getpid()}-{number % 50}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            os.write(descriptor, bytes(100_000))
            os.pread(descriptor, 5000, 100)
            os.close(descriptor)
            os.rename(path, path + "+")
            os.listdir(sys.argv[1])
            os.unlink(path + "+")
    """)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        clients = [subprocess.Popen([sys.executable, "-c", script, mounted.path]) for _ in range(4)]
        threading.Event().wait(0.4)  # long enough for all of them to have begun; when exactly does not matter
        for client in clients:
            client.kill()
        for client in clients:
            assert client.wait(20) == -signal.SIGKILL
    for path in list(mounted.path.iterdir()):
        os.unlink(path)
    assert mounted.close() == 0
    assert mounted.final() == {"files": {}, "open": 0}
    assert "Traceback" not in mounted.log()


def test_what_is_mapped_of_a_file_that_is_appended_to_stays_in_its_place(mount: MountIt) -> None:
    path = mount().path / "file"
    path.write_bytes(b"0" * 8192)
    with path.open("a+b", buffering=0) as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[0:4] = b"MMMM"
        mapped.flush()
        file.write(b"end")
        os.fsync(file.fileno())
    assert path.read_bytes() == b"MMMM" + b"0" * 8188 + b"end"


def test_a_file_is_no_longer_appended_to(mount: MountIt) -> None:
    path = mount().path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    os.write(descriptor, b"AB")
    fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    os.pwrite(descriptor, b"ZZ", 0)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    os.write(descriptor, b"C")
    os.close(descriptor)
    assert path.read_bytes() == b"ZZ23456789ABC"
