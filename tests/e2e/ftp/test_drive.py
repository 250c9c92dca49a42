"""The door over a whole drive: what must outlive the process outlives it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from serpentfs.gateways import ftp
from serpentfs.model import BLOCK_SIZE
from tests.drives import a_drive
from tests.e2e.ftp.harness import LOCAL, TIMEOUT, begin_upload, break_off, eventually, fetch, login, reply, store
from tests.fakes.memory_cloud import MemoryCloud

Serve = Callable[[Callable[[int], None]], None]

MIB = 2**20
SIZES = (MIB, 3 * MIB, 3 * MIB + BLOCK_SIZE, 5 * MIB + 3)
HALF, REST = os.urandom(3_000_000), os.urandom(500_000)


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Runs a function in a thread with the port of a door; each time the drive is opened anew on the same state."""
    cloud = MemoryCloud()

    async def once(work: Callable[[int], None]) -> None:
        with trio.fail_after(4 * TIMEOUT):
            async with a_drive(cloud, tmp_path) as drive, trio.open_nursery() as nursery:
                url = await nursery.start(ftp.serve, drive, LOCAL)
                await trio.to_thread.run_sync(work, int(url.rstrip("/").rpartition(":")[2]))
                nursery.cancel_scope.cancel()

    return lambda work: trio.run(once, work)


def test_a_partial_outlives_the_drive(serve: Serve) -> None:
    def first(port: int) -> None:
        break_off(port, "a", HALF)

    def second(port: int) -> None:
        with login(port) as client:
            assert client.size("a") == len(HALF)
            assert store(client, "a", REST, offset=len(HALF)).startswith("226")
            assert fetch(client, "a") == HALF + REST

    def third(port: int) -> None:
        with login(port) as client:
            assert fetch(client, "a") == HALF + REST
            assert store(client, "a", b"!", command="APPE").startswith("226")
            assert fetch(client, "a", offset=len(HALF)) == REST + b"!"

    for work in (first, second, third):
        serve(work)


def test_a_partial_over_an_older_file_outlives_the_drive(serve: Serve) -> None:
    old = bytes(4_000_000)

    def first(port: int) -> None:
        with login(port) as client:
            assert store(client, "a", old).startswith("226")
        break_off(port, "a", HALF)

    def second(port: int) -> None:
        with login(port) as client:
            assert client.size("a") == len(old)
            assert store(client, "a", REST, offset=len(old)).startswith("554"), "new bytes after old ones"
            assert store(client, "a", REST, offset=len(HALF)).startswith("226")
            assert fetch(client, "a") == HALF + REST

    serve(first)
    serve(second)


def test_stopping_the_drive_during_an_upload_keeps_what_came(serve: Serve) -> None:
    def first(port: int) -> None:
        client = login(port)
        connection = begin_upload(client, "STOR a")
        connection.sendall(HALF)
        eventually(lambda: f"received: {len(HALF)}" in client.sendcmd("STAT"))
        unfinished.append((client, connection))

    unfinished: list[object] = []
    serve(first)

    def second(port: int) -> None:
        with login(port) as client:
            assert client.size("a") == len(HALF)

    serve(second)


def test_long_files_whole_continued_and_appended_to(serve: Serve) -> None:
    """Long enough for the session's thread to write blocks of them by itself, where nothing lies yet."""
    data = os.urandom(5 * MIB + 3)

    def write(port: int) -> None:
        with login(port) as client:
            for size in SIZES:
                assert store(client, str(size), data[:size]).startswith("226")
                assert fetch(client, str(size)) == data[:size]
            for start in (2 * MIB, 2 * MIB + 7):
                break_off(port, "a", data[: 2 * MIB + 400_000])
                assert store(client, "a", data[start:], offset=start).startswith("226")
                assert fetch(client, "a") == data
            for size in SIZES:
                assert store(client, str(size), data[: 2 * MIB + 1], command="APPE").startswith("226")

    def read(port: int) -> None:
        with login(port) as client:
            assert fetch(client, "a") == data
            for size in SIZES:
                assert fetch(client, str(size)) == data[:size] + data[: 2 * MIB + 1]

    serve(write)
    serve(read)


@pytest.mark.parametrize("nth", [0, 1, 3])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_the_disk_fails_during_a_long_upload(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, nth: int, number: int
) -> None:
    """What was written before can be continued; of a full disk nothing is kept, as it would stay full. Of the last
    mebibyte it is known only when everything was received."""
    data = os.urandom(4 * MIB)
    pwrite = os.pwrite
    calls: list[int] = []

    def failing(descriptor: int, sealed: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) == nth + 1:
            raise OSError(number, "planned")
        return pwrite(descriptor, sealed, offset)

    def upload(port: int) -> None:
        with login(port) as client:
            monkeypatch.setattr(os, "pwrite", failing)
            connection = begin_upload(client, "STOR a")
            with connection, suppress(ConnectionError):
                connection.sendall(data)
            assert reply(client).startswith("451" if number == errno.EIO else "552")
            monkeypatch.undo()
            if number == errno.ENOSPC or nth == 0:
                assert store(client, "a", data, offset=1).startswith("554"), "there is nothing to continue"
                return
            assert client.size("a") == nth * MIB
            assert store(client, "a", data[nth * MIB :], offset=nth * MIB).startswith("226")
            assert fetch(client, "a") == data

    serve(upload)
