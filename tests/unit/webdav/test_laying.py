"""Long bodies, which a thread receives and writes by itself: over a socket, into a whole drive."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from serpentfs.model import BLOCK_SIZE
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.writes import SealedRoom
from tests.drives import a_drive, contents, until
from tests.fakes.memory_cloud import MemoryCloud
from tests.unit.webdav.in_process import Client, connected_by_tcp, make_door

pytestmark = pytest.mark.trio

MIB = 2**20
DATA = os.urandom(5 * MIB + 3)


@asynccontextmanager
async def client_of_drive(where: Path) -> AsyncIterator[tuple[Client, Drive]]:
    async with a_drive(MemoryCloud(), where) as drive, connected_by_tcp(make_door(drive).answer) as client:
        yield client, drive
    assert not drive.open_files()


@pytest.fixture
def laid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks were written by threads, each time."""
    lengths: list[int] = []
    write = SealedRoom.write

    def noting(room: SealedRoom, data: memoryview) -> None:
        lengths.append(len(data) // BLOCK_SIZE)
        write(room, data)

    monkeypatch.setattr(SealedRoom, "write", noting)
    return lengths


@pytest.mark.parametrize("size", [1, MIB, MIB + 1, 2 * MIB, 3 * MIB + BLOCK_SIZE, len(DATA)])
async def test_a_body_of_any_length(tmp_path: Path, laid: list[int], size: int) -> None:
    async with client_of_drive(tmp_path) as (client, drive):
        for status in (201, 204):
            assert (await client.request("PUT", "/file", DATA[:size])).status == status
            assert (await client.request("GET", "/file")).body == DATA[:size]
        assert sum(laid) == (2 * (size // MIB) * (MIB // BLOCK_SIZE) if size > MIB else 0)
        await drive.wait_until_uploaded()
        assert await contents(drive) == {"/file": DATA[:size]}


async def test_nothing_is_taken_of_what_follows_a_body(tmp_path: Path, laid: list[int]) -> None:
    async with client_of_drive(tmp_path) as (client, _):
        head = b"PUT /file HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (2 * MIB)
        last = b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, 2 * (head + DATA[: 2 * MIB]) + last)
            said = await client.read_until_closed()
        assert said.count(b"HTTP/1.1 201") == said.count(b"HTTP/1.1 204") == said.count(b"HTTP/1.1 200") == 1
        assert said.endswith(b"\r\n\r\n" + DATA[: 2 * MIB])
        assert sum(laid) == 32


async def test_a_client_that_takes_its_time(tmp_path: Path, laid: list[int]) -> None:
    async with client_of_drive(tmp_path) as (client, drive):
        head = b"PUT /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(DATA)
        await client.stream.send_all(head)
        for start in range(0, len(DATA), 300_001):
            await client.stream.send_all(DATA[start : start + 300_001])
            await trio.sleep(0.005)
        assert (await client.read_until_closed()).startswith(b"HTTP/1.1 201")
        assert await contents(drive) == {"/file": DATA}
        assert sum(laid) == 40


def held(drive: Path) -> int:
    """Descriptors of this process, but for those of files that the drive's cache reads: it keeps some of them."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(not name.startswith(f"{drive}/cache/") for name in names)


async def test_a_client_that_goes_leaves_nothing(tmp_path: Path, laid: list[int]) -> None:
    async with a_drive(MemoryCloud(), tmp_path) as drive:
        before: int | None = None
        for _ in range(3):
            async with connected_by_tcp(make_door(drive).answer) as client:
                assert (await client.request("PUT", "/file", b"old")).status in (201, 204)
                head = b"PUT /file HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
                await client.stream.send_all(head + DATA)
                await until(lambda: sum(laid) == 40)
            laid.clear()
            assert await contents(drive) == {"/file": b"old"}
            assert not drive.open_files()
            await drive.wait_until_uploaded()
            await until(lambda: not list((tmp_path / "state" / "staging").iterdir()))
            before = held(tmp_path) if before is None else before
            await until(lambda: held(tmp_path) <= before)    # noqa: B023


async def test_a_full_disk_is_507_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of_drive(tmp_path) as (client, drive):
        assert (await client.request("PUT", "/file", b"old")).status == 201
        real, written = os.pwrite, 0

        def full(descriptor: int, data: bytes, offset: int) -> int:
            nonlocal written
            written += len(data)
            if written > 2 * MIB:
                raise OSError(errno.ENOSPC, "full")
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        assert (await client.request("PUT", "/file", DATA)).status == 507
        monkeypatch.undo()
        assert await contents(drive) == {"/file": b"old"}
