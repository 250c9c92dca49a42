"""Faults that WebDAV servers are known for, WsgiDAV and cheroot among them: none of them is ours."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.e2e.webdav.servers import HOST, Server, Start, memory_of, status_of, wait_until


def test_stale_if_match_on_put(server: Server) -> None:
    first = server.request("PUT", "/stale", b"one").headers["etag"]
    second = server.request("PUT", "/stale", b"two", {"If-Match": first})
    assert second.status == 204
    assert server.request("PUT", "/stale", b"three", {"If-Match": first}).status == 412
    assert server.request("PUT", "/stale", b"three", {"If-Match": f'"x", {first}'}).status == 412
    assert server.request("PUT", "/not there", b"x", {"If-Match": "*"}).status == 412
    assert server.read("/stale") == b"two"
    assert server.request("PUT", "/stale", b"4", {"If-Match": second.headers["etag"]}).status == 204
    assert server.request("PUT", "/stale", b"5", {"If-Match": "*"}).status == 204


def test_if_none_match_star_on_put(server: Server) -> None:
    assert server.request("PUT", "/once", b"one", {"If-None-Match": "*"}).status == 201
    assert server.request("PUT", "/once", b"two", {"If-None-Match": "*"}).status == 412
    assert server.read("/once") == b"one"


def test_two_creators_at_once(server: Server) -> None:
    """If-None-Match: * is decided when the body is complete, not when it starts."""
    head = b"PUT /race HTTP/1.1\r\n" + HOST + b"If-None-Match: *\r\nContent-Length: 4\r\n\r\n"
    with server.connect() as one, server.connect() as two:
        one.sendall(head + b"on")
        two.sendall(head + b"tw")
        one.sendall(b"e1")
        assert status_of(one.recv(65536)) == 201
        two.sendall(b"o2")
        assert status_of(two.recv(65536)) == 412
    assert server.read("/race") == b"one1"


def test_etag_changes_with_content_of_the_same_size(server: Server) -> None:
    tags = [server.request("PUT", "/same size", b"%d" % n).headers["etag"] for n in range(10)]
    assert len(set(tags)) == 10
    assert server.request("HEAD", "/same size").headers["etag"] == tags[-1]
    assert server.request("GET", "/same size", headers={"If-None-Match": tags[-1]}).status == 304
    assert server.request("GET", "/same size", headers={"If-None-Match": tags[-2]}).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("existing", [True, False])
def test_an_aborted_put_changes_nothing(server: Server, framing: str, end: str, existing: bool) -> None:
    path = f"/aborted-{framing}-{end}-{existing}"
    if existing:
        server.put(path, b"old content")
    head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
    if framing == "length":
        head += b"Content-Length: 3000000\r\n\r\n" + bytes(2_000_000)
    else:
        head += b"Transfer-Encoding: chunked\r\n\r\n" + (b"f4240\r\n" + bytes(1_000_000) + b"\r\n") * 2
    with server.connect() as sock:
        sock.sendall(head)
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.shutdown(socket.SHUT_WR)
            assert status_of(sock.recv(65536)) == 400
    # A request on another connection comes after the end of the broken one has been seen, at the latest soon.
    if existing:
        assert server.read(path) == b"old content"
    else:
        assert server.request("HEAD", path).status == 404


def test_slow_pieces_are_not_an_end(server: Server) -> None:
    """An empty read is not the end of a body; only its length is."""
    with server.connect() as sock:
        sock.sendall(b"PUT /slow HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 6\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 100")
        for byte in b"slowly"[:5]:
            sock.sendall(bytes([byte]))
            assert server.request("HEAD", "/slow").status == 404
        sock.sendall(b"y")
        assert status_of(sock.recv(65536)) == 201
    assert server.read("/slow") == b"slowly"


def test_copy_with_depth_0_copies_no_members(server: Server) -> None:
    assert server.request("MKCOL", "/depth").status == 201
    server.put("/depth/member", b"x")
    to = {"Destination": f"{server.url}depth0", "Depth": "0"}
    assert server.request("COPY", "/depth", headers=to).status == 201
    assert server.request("PROPFIND", "/depth0", headers={"Depth": "0"}).status == 207
    assert server.request("HEAD", "/depth0/member").status == 404
    assert server.request("HEAD", "/depth/member").status == 200


def test_large_files_do_not_fill_memory(server: Server) -> None:
    """Up and down in pieces: beyond the drive's own copy (it is in memory) little is used."""
    size = 128 * 1024 * 1024
    server.put("/warm", bytes(4_000_000))
    server.read("/warm")
    before = memory_of(server)
    with server.connect() as sock:
        sock.sendall(b"PUT /large HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // 1_048_576):
            sock.sendall(bytes(1_048_576))
        assert status_of(sock.recv(65536)) == 201
    uploaded = memory_of(server)
    assert uploaded - before < size + 24_000_000
    with server.connect() as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        received = 0
        while piece := sock.recv(1 << 20):
            received += len(piece)
    assert received > size
    assert memory_of(server) - uploaded < 24_000_000
    assert server.request("DELETE", "/large").status == 204


def test_an_upload_under_way_may_end_while_the_door_closes(start_server: Start) -> None:
    server = start_server(no_auth=True)
    with server.connect() as sock:
        sock.sendall(b"PUT /late HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 100")
        sock.sendall(b"la")
        assert server._process.stdin is not None
        server._process.stdin.write("restart\n")
        server._process.stdin.flush()
        wait_until(lambda: not accepts(server), "the door takes nobody any more")
        sock.sendall(b"te")
        assert status_of(sock.recv(65536)) == 201
    server.url = server._read_address()
    assert server.read("/late") == b"late"


def accepts(server: Server) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=1):
            return True
    except OSError:
        return False
