"""GET of files that the disk cache holds: a thread reads and sends them, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from serpentfs.bridge import limiter
from serpentfs.gateways.webdav.connection import Connection
from serpentfs.gateways.webdav.reading import READ_SIZE
from serpentfs.model import BLOCK_SIZE, Span
from tests.fakes.sealing_vfs import SealingVfs
from tests.unit.webdav.in_process import Client, connected_by_tcp, make_door

pytestmark = pytest.mark.trio

B = BLOCK_SIZE
SIZE = 10 * 1024 * 1024 + 5
DATA = bytes(range(251)) * (SIZE // 251 + 1)
DATA = DATA[:SIZE]


@asynccontextmanager
async def served(vfs: SealingVfs, *, send_buffer: int = 1 << 20) -> AsyncIterator[Client]:
    """A connection over TCP, which must end by itself when the client's end is closed."""
    vfs.cloud_put("/file", DATA)
    async with connected_by_tcp(make_door(vfs).answer, send_buffer=send_buffer) as client:
        yield client
    assert vfs.open_handles == 0


@pytest.mark.parametrize("send_buffer", [1 << 16, 1 << 20])
async def test_a_whole_file_passes_the_loop_only_in_its_beginning(tmp_path: Path, send_buffer: int) -> None:
    vfs = SealingVfs(tmp_path)
    async with served(vfs, send_buffer=send_buffer) as client:
        for _ in range(2):
            answer = await client.request("GET", "/file")
            assert answer.body == DATA
        assert vfs.read_at == [0, 0], "what cannot be read is found out before the answer begins"
        answer = await client.request("HEAD", "/file")
        assert answer.headers["content-length"] == str(SIZE)


@pytest.mark.parametrize(("first", "last"), [(0, SIZE - 1), (5, 3 * READ_SIZE), (READ_SIZE + 3, SIZE - 2), (7, 7)])
async def test_ranges(tmp_path: Path, first: int, last: int) -> None:
    async with served(SealingVfs(tmp_path)) as client:
        answer = await client.request("GET", "/file", headers={"Range": f"bytes={first}-{last}"})
        assert answer.status == 206
        assert answer.body == DATA[first : last + 1]
        assert (await client.request("GET", "/file", headers={"Range": "bytes=-3"})).body == DATA[-3:]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, [(Span(0, SIZE), True)]),
        ("bytes=5-99", [(Span(5, 100), True)]),
        ("bytes=5-", []),
        ("bytes=-99", []),
    ],
)
async def test_only_who_asks_for_an_end_is_expected_to_read_up_to_it(
    tmp_path: Path, asked: str | None, expected: list[tuple[Span, bool]]
) -> None:
    vfs = SealingVfs(tmp_path)
    async with served(vfs) as client:
        await client.request("GET", "/file", headers={} if asked is None else {"Range": asked})
        assert vfs.expected == expected


@pytest.mark.parametrize("damaged", [[8], [9, 20, 21], [80], range(81)])
async def test_a_block_that_does_not_open_is_read_in_the_usual_way(tmp_path: Path, damaged: Collection[int]) -> None:
    vfs = SealingVfs(tmp_path, damaged)
    async with served(vfs) as client:
        assert (await client.request("GET", "/file")).body == DATA
        assert len(vfs.read_at) > 1


async def test_a_client_that_goes_away(tmp_path: Path) -> None:
    vfs = SealingVfs(tmp_path)
    async with served(vfs) as client:
        await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.stream.receive_some(1000)
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def test_a_client_that_does_not_read_is_waited_for_without_a_thread(tmp_path: Path) -> None:
    vfs = SealingVfs(tmp_path)
    async with served(vfs, send_buffer=1 << 16) as client:
        await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert limiter("sending").borrowed_tokens == 0
        head, _, body = bytes(await client.stream.receive_some(1000)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        while len(body) < SIZE:
            body += await client.stream.receive_some(1 << 20)
            await trio.sleep(0.001)
        assert body == DATA


async def test_a_cancelled_answer_ends_at_once(tmp_path: Path) -> None:
    vfs = SealingVfs(tmp_path)
    vfs.cloud_put("/file", DATA)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    client = await trio.testing.open_stream_to_socket_listener(listener)
    connection = Connection(await listener.accept(), "127.0.0.1", make_door(vfs).answer)
    await client.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await client.receive_some(1000)
            nursery.cancel_scope.cancel()
        received = 0
        while piece := await client.receive_some(1 << 20):
            received += len(piece)
    assert received < SIZE, "what was not sent is missing, and the client sees it"
    assert vfs.open_handles == 0
    await client.aclose()
    await listener.aclose()
