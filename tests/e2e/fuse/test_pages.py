"""Files that the kernel sends from its pages, by a real filesystem and the process that sends, to WebDAV and FTP."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from serpentfs.errors import IntegrityError
from serpentfs.gateways.fuse.mountpoint import find_mount
from serpentfs.gateways.fuse.native import page_sender, pages
from serpentfs.gateways.fuse.native.pages import KernelPages
from serpentfs.model import ContentId, HandleId, Span
from tests.e2e.ftp.harness import door
from tests.fakes.memory_vfs import MemoryVfs
from tests.unit.webdav.in_process import Client, connected_by_tcp, make_door

SIZE = 10 * 1024 * 1024 + 5
DATA = (bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]
OTHER = DATA[::-1]


class Watched(MemoryVfs):
    """``read_at`` lists where was read, ``reading`` counts reads under way, which take ``delay`` seconds. From
    ``fails_at`` on nothing can be read; from ``changes_at`` on the file is being written, with other bytes, until
    ``give_up_changes``."""

    def __init__(self) -> None:
        super().__init__(cold=True)
        self.read_at: list[int] = []
        self.fails_at = self.changes_at = SIZE
        self._changes = False
        self.delay = 0.0
        self.reading: Counter[HandleId] = Counter()

    def give_up_changes(self) -> None:
        self._changes, self.changes_at = False, SIZE

    def content_of(self, handle: HandleId) -> ContentId | None:
        return None if self._changes else super().content_of(handle)

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        self.read_at.append(offset)
        stop = min(offset + size, SIZE)   # the kernel asks for whole pages
        if stop > self.fails_at:
            raise IntegrityError("does not authenticate")
        self._changes |= stop > self.changes_at
        self.reading[handle] += 1
        try:
            await trio.sleep(self.delay)
            data = await super().read(handle, offset, size)
        finally:
            self.reading[handle] -= 1
        return bytes(len(data)) if self._changes else data


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


@asynccontextmanager
async def kernel_pages(vfs: MemoryVfs) -> AsyncIterator[KernelPages]:
    """Ready to send. Nothing of it is left afterwards."""
    kept = KernelPages(vfs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        assert kept.sender is None, "there is no process before one is needed"
        kept.prepare()
        await until(lambda: kept._control)
        yield kept
        sender = kept.sender
        assert vfs.open_handles == 0
        nursery.cancel_scope.cancel()
    assert sender is not None
    with pytest.raises(ProcessLookupError):
        os.kill(sender, 0)


def client_of(vfs: MemoryVfs, kept: KernelPages) -> AbstractAsyncContextManager[Client]:
    return connected_by_tcp(make_door(vfs, kept).answer)


async def get(client: Client, **headers: str) -> bytes:
    return (await client.request("GET", "/file", headers=headers)).body


async def kernel_sends(client: Client, vfs: Watched) -> bool:
    """Whether of a few answers one is not read, but for the bytes before its head: what remains when the machine is
    busy at the end of a stretch may be too little for the kernel."""
    for _ in range(5):
        before = len(vfs.read_at)
        assert await get(client) == DATA
        if vfs.read_at[before:] == [0]:
            return True
    return False


@pytest.mark.trio
async def test_what_was_sent_once_is_not_read_again() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    async with kernel_pages(vfs) as kept, client_of(vfs, kept) as client:
        assert await get(client) == DATA
        first = len(vfs.read_at)
        assert first > 10
        assert await get(client) == DATA
        assert len(vfs.read_at) - first < first // 2, "it was given to the kernel the first time"
        assert await kernel_sends(client, vfs)
        assert await get(client, Range=f"bytes=5-{SIZE - 7}") == DATA[5:-6]
        assert await get(client, Range=f"bytes={SIZE - 1_000_000}-") == DATA[-1_000_000:]


@pytest.mark.trio
async def test_what_the_kernel_does_not_have_it_asks_for_once() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    async with kernel_pages(vfs) as kept, client_of(vfs, kept) as client:
        assert await get(client, Range="bytes=3000000-4000000") == DATA[3_000_000:4_000_001]
        first = len(vfs.read_at)
        assert await get(client) == DATA
        assert len(vfs.read_at) > first + 1
        assert await kernel_sends(client, vfs)


@pytest.mark.trio
async def test_a_file_that_became_another_is_the_other() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    async with kernel_pages(vfs) as kept, client_of(vfs, kept) as client:
        for _ in range(2):
            assert await get(client) == DATA
        vfs.cloud_put("/file", OTHER)
        for _ in range(3):
            assert await get(client) == OTHER
        handle = await vfs.open(vfs.resolve("/file").ino, write=True, door="mount")
        await vfs.write(handle, 5_000_000, b"written")
        await vfs.release(handle)
        now = OTHER[:5_000_000] + b"written" + OTHER[5_000_007:]
        for _ in range(3):
            assert await get(client) == now
        vfs.cloud_put("/file", DATA[:300_000])
        for _ in range(3):
            assert await get(client) == DATA[:300_000]


@pytest.mark.trio
@pytest.mark.parametrize("filled", [False, True])
async def test_a_file_that_is_written_while_it_is_sent_is_read_from_there_on(filled: bool) -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    async with kernel_pages(vfs) as kept, client_of(vfs, kept) as client:
        if filled:
            assert await get(client, Range="bytes=0-300000") == DATA[:300_001]
        vfs.changes_at = 4_000_000
        mixed = await get(client)
        unchanged = len(mixed.rstrip(b"\0"))
        assert 1_000_000 < unchanged < 4_000_000 + (1 << 20)
        assert mixed == DATA[:unchanged] + bytes(SIZE - unchanged)
        vfs.give_up_changes()
        for _ in range(2):
            assert await get(client) == DATA, "what was read meanwhile is not kept for what was there before"


@pytest.mark.trio
async def test_a_handle_is_read_no_more_when_sending_was_cancelled() -> None:
    vfs = Watched()
    ino = vfs.cloud_put("/file", DATA)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        async with kernel_pages(vfs) as kept:
            handle = await vfs.open(ino, write=False, door="webdav")
            async with kept.file(handle):
                pass
            vfs.delay = 1e9
            async with kept.file(handle) as file, trio.open_nursery() as nursery:
                nursery.start_soon(file.send, ours.fileno(), Span(0, SIZE))
                await until(vfs.reading.total)
                nursery.cancel_scope.cancel()
            assert not vfs.reading.total()
            await vfs.release(handle)
            vfs.delay = 0
            async with client_of(vfs, kept) as client:
                assert await get(client) == DATA


@pytest.mark.trio
async def test_what_cannot_be_read_breaks_the_answer_off(caplog: pytest.LogCaptureFixture) -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    async with kernel_pages(vfs) as kept, client_of(vfs, kept) as client:
        assert await get(client, Range="bytes=0-300000") == DATA[:300_001]
        vfs.fails_at = 6_000_000
        await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = (await client.read_until_closed()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert DATA.startswith(body)
        assert 3_000_000 < len(body) < 6_000_000
    assert "does not authenticate" in caplog.text


@pytest.mark.trio
async def test_many_at_once() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA[:3_000_000])
    vfs.cloud_put("/small", DATA[:100])
    async with kernel_pages(vfs) as kept:

        async def one() -> None:
            async with client_of(vfs, kept) as client:
                for _ in range(3):
                    assert await get(client) == DATA[:3_000_000]
                    assert (await client.request("GET", "/small")).body == DATA[:100]

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(pages._MOST_AT_ONCE + 6):
                    nursery.start_soon(one)


@pytest.mark.trio
async def test_a_client_that_goes_away_or_does_not_read() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA * 4)
    async with kernel_pages(vfs) as kept:
        for _ in range(2):
            async with client_of(vfs, kept) as client:
                await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await client.stream.receive_some(1000)
                assert isinstance(client.stream, trio.SocketStream)
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with client_of(vfs, kept) as client:
            await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await trio.sleep(0.5)
            assert not kept._under_way, "who does not read is waited for here"
            body = bytes(await client.stream.receive_some(1 << 20)).partition(b"\r\n\r\n")[2]
            while len(body) < 4 * SIZE:
                body += await client.stream.receive_some(1 << 20)
            assert body == DATA * 4


@pytest.mark.trio
async def test_a_sender_that_is_killed_costs_one_answer_at_most(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pages, "_PAUSE", 0.5)
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    async with kernel_pages(vfs) as kept:
        first = kept.sender
        assert first is not None
        async with client_of(vfs, kept) as client:
            await get(client)
            await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: kept._under_way)
            os.kill(first, signal.SIGKILL)
            received = (await client.read_until_closed()).partition(b"\r\n\r\n")[2]
            assert len(received) < SIZE
            assert DATA.startswith(received)
        await until(lambda: kept.sender is None)
        async with client_of(vfs, kept) as client:
            assert await get(client) == DATA
            await until(lambda: kept._control)
            assert kept.sender not in (None, first)
            assert [record.levelname for record in caplog.records if "has ended" in record.message] == ["WARNING"]
            assert await get(client) == DATA
            assert await kernel_sends(client, vfs), "there is another"


@pytest.mark.trio
async def test_where_the_system_does_not_allow_it_files_are_sent_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused = tmp_path / "refused.py"
    refused.write_text(
        "import runpy, sys\n"
        f"program = runpy.run_path({page_sender.__file__!r}, run_name='program')\n"
        "program['main'].__globals__['_FSOPEN'] = 1000000   # as before Linux 5.2\n"
        "program['main']()\n"
    )
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    kept = KernelPages(vfs)
    monkeypatch.setattr(page_sender, "__file__", str(refused))
    with trio.fail_after(30):
        kept.prepare()
        await kept.run()
    assert "are not used for sending files: [Errno 38] syscall: Function not implemented" in caplog.text
    async with client_of(vfs, kept) as client:
        for _ in range(3):
            assert await get(client) == DATA


_OWNER = """
import socket, trio
from serpentfs.model import Span
from serpentfs.gateways.fuse.native.pages import KernelPages
from tests.fakes.memory_vfs import MemoryVfs

class Stuck(MemoryVfs):
    async def read(self, handle, offset, size):
        print("reads", flush=True)
        await trio.sleep_forever()

async def main():
    vfs = Stuck(cold=True)
    ino = vfs.cloud_put("/file", bytes(1 << 20))
    kept = KernelPages(vfs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        kept.prepare()
        while not kept._control:
            await trio.sleep(0.01)
        print(kept.sender, flush=True)
        handle = await vfs.open(ino, write=False, door="webdav")
        async with kept.file(handle):
            pass
        async with kept.file(handle) as again:
            one, other = socket.socketpair()
            one.setblocking(False)
            await again.send(one.fileno(), Span(0, 1 << 20))

trio.run(main)
"""


def test_a_sender_ends_with_its_owner_however_that_ends() -> None:
    """Also one of whose threads waits for an answer that nobody will give."""
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    sender = int(owner.stdout.readline())
    assert owner.stdout.readline() == "reads\n"
    owner.kill()
    owner.wait(10)
    end = time.monotonic() + 10
    while Path(f"/proc/{sender}/cmdline").exists() and Path(f"/proc/{sender}/cmdline").read_bytes():
        assert time.monotonic() < end, "the sender is still there"
        time.sleep(0.05)


_WRITES_TO_ITSELF = """
import os, sys, trio
from functools import partial
from serpentfs.gateways.fuse import MountOptions, serve
from serpentfs.gateways.fuse.native.pages import KernelPages
from tests.fakes.memory_vfs import MemoryVfs

async def main():
    vfs = MemoryVfs()
    kept = KernelPages(vfs)
    os.dup2(1, 100, inheritable=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, vfs, MountOptions(sys.argv[1], "memory", loop="native")))
        file = await trio.to_thread.run_sync(lambda: open(sys.argv[1] + "/file", "wb", buffering=0))
        nursery.start_soon(kept.run)
        kept.prepare()
        while not kept._control:
            await trio.sleep(0.01)
        await trio.to_thread.run_sync(file.write, b"content")
        await trio.to_thread.run_sync(file.close)
        print(len(os.listdir(f"/proc/{kept.sender}/fd")), os.getsid(kept.sender) == kept.sender, flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_a_sender_starts_while_its_owner_has_a_file_of_the_mount_open(tmp_path: Path) -> None:
    """It inherits the descriptor, and to close that, somebody must answer; in the end it has its own alone, three and
    its mount."""
    owner = subprocess.Popen([sys.executable, "-c", _WRITES_TO_ITSELF, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        said, _ = owner.communicate(timeout=30)
    finally:
        if owner.poll() is None and (mount := find_mount(str(tmp_path))) is not None:
            mount.abort()   # or it never ends
            subprocess.run(["fusermount3", "-uz", str(tmp_path)], check=True, timeout=30)
        owner.kill()
    assert said == "4 True\n"


def test_the_sender_takes_no_secrets_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    async def environment() -> bytes:
        async with kernel_pages(MemoryVfs()) as kept:
            return await trio.Path(f"/proc/{kept.sender}/environ").read_bytes()

    assert b"secret" not in trio.run(environment)


def test_ftp() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA)
    with door(vfs, paged=True) as running:
        client = running.login()
        kept = running.pages
        assert kept is not None
        end = time.monotonic() + 30
        while not kept._control:
            assert time.monotonic() < end
            time.sleep(0.01)

        def retrieved(rest: int = 0) -> bytes:
            received = io.BytesIO()
            client.retrbinary("RETR /file", received.write, 65536, rest or None)
            return received.getvalue()

        def kernel_sends() -> bool:
            before = len(vfs.read_at)
            assert retrieved() == DATA
            return vfs.read_at[before:] == [SIZE]

        assert retrieved() == DATA
        assert any(kernel_sends() for _ in range(5))
        assert retrieved(4_000_000) == DATA[4_000_000:]
        running.put("/file", OTHER)
        for _ in range(3):
            assert retrieved() == OTHER
        vfs.fails_at = 6_000_000
        running.put("/file", DATA)
        for _ in range(2):
            with pytest.raises((OSError, EOFError)):
                retrieved()
            client = running.login()
        client.close()
    assert vfs.open_handles == 0


def test_ftp_clients_that_give_up() -> None:
    vfs = Watched()
    vfs.cloud_put("/file", DATA * 4)
    with door(vfs, paged=True) as running:
        for _ in range(3):
            client = running.login()
            data, _ = client.ntransfercmd("RETR /file")
            assert data.recv(1000)
            client.abort()
            data.close()
            client.close()
    assert vfs.open_handles == 0


class ForeignMount:
    """A FUSE filesystem that nobody serves, at a place of the machine."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        page_sender._call("mount", b"foreign", place.encode(), b"fuse", 0, options.encode())
        self._is_mounted = True
        assert os.read(self._device, 1 << 20), "the kernel introduces itself"

    def ends_when_unmounted(self) -> bool:
        """Whether nobody has it in use then."""
        page_sender._call("umount2", self._place.encode(), 0)
        self._is_mounted = False
        try:
            os.read(self._device, 1 << 20)
        except OSError as error:
            return error.errno == errno.ENODEV
        return False

    def close(self) -> None:
        if self._is_mounted:
            page_sender._call("umount2", self._place.encode(), 0)
        os.close(self._device)


@contextmanager
def foreign_mount(folder: str) -> Iterator[ForeignMount]:
    with tempfile.TemporaryDirectory(dir=folder) as place, closing(ForeignMount(place)) as mount:
        yield mount


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.trio
async def test_other_users_than_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace, where the system has them. All mounts are in that, too: it must keep none in use."""
    user = 65534
    tried = await trio.run_process(
        ["unshare", "-Urm", "true"], stderr=subprocess.DEVNULL, check=False, user=user, group=user
    )
    if tried.returncode:
        pytest.skip("there are no user namespaces for users")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        device = os.path.join(folder, "fuse")
        os.mknod(device, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
        os.chmod(device, 0o666)
        program = (await trio.Path(page_sender.__file__).read_text()).replace('"/dev"', repr(folder))

        async def start(control: socket.socket) -> trio.Process:
            command = ["/usr/bin/python3", "-I", "-S", "-c", program]
            return await trio.lowlevel.open_process(command, stdin=control.fileno(), user=user, group=user)

        monkeypatch.setattr(pages, "_start_sender", start)
        vfs = Watched()
        vfs.cloud_put("/file", DATA)
        with foreign_mount("/dev/shm") as one, foreign_mount(folder) as other:
            async with kernel_pages(vfs) as kept, client_of(vfs, kept) as client:
                assert await get(client) == DATA
                assert await kernel_sends(client, vfs)
                assert one.ends_when_unmounted()
                assert other.ends_when_unmounted()
