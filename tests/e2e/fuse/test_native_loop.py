"""What only the native request loop does: requests of killed programs are given up, a process has several mounts, a
mount ends with requests under way, and every look-up is forgotten. The rest of this folder runs on it as well.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fuse.conftest import MountIt, mounts
from tests.e2e.fuse.harness import Mounted, names
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

        device._mount_by_root = lambda path, options, *, read_only: device._mount_by_helper(
            path, options.for_libfuse(read_only=read_only))

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
