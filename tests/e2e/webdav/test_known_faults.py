"""Faults that WebDAV servers are known for, WsgiDAV and cheroot among them: none of them is ours."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from tests.e2e.webdav.conftest import PATIENCE, Server, Start, wait_until

HOST = b"Host: localhost\r\n"


@pytest.fixture(scope="module")
def protected(start_server: Start) -> Server:
    """One that asks for a password."""
    return start_server(users={"u": "p"})


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


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


@pytest.mark.parametrize("sizes", [b"zz", b"-1", b"5 5", b"1" * 40, b""])
def test_bad_chunks_commit_nothing(server: Server, sizes: bytes) -> None:
    answer = server.raw(
        b"PUT /bad-chunk HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n" + sizes + b"\r\nabcde\r\n0\r\n\r\n"
    )
    assert status_of(answer) == 400
    assert server.request("HEAD", "/bad-chunk").status == 404


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


@pytest.mark.parametrize(
    "value",
    ["Basic", "Basic ", "Basic !!!", "Basic YQ", "Basic YWJj", "Basic //8=", "Digest username=x", "Bearer x",
     "\xff\xfe", "Basic " + "A" * 20_000],
)  # fmt: skip
def test_malformed_passwords_are_refused(protected: Server, value: str) -> None:
    answer = protected.request("GET", "/", headers={"Authorization": value})
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    "path",
    [b"/%00", b"/a%00b", b"/..", b"/../etc/passwd", b"/%2e%2e/etc/passwd", b"/%2E%2E%2Fetc", b"/a/../b",
     b"/.", b"/a/./b", b"/%2f", b"/..%2f..%2f", b"/%zz", b"/%", b"/a#b", b"/" + b"x" * 300, b"/" + b"x" * 60_000,
     b"/%ff", b"/%c0%ae%c0%ae/", b"/" + b"d/" * 5000, b"/%ed%a0%80", b"x", b"//evil/..;/x"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT", "PROPFIND", "MKCOL", "DELETE", "LOCK"])
def test_hostile_paths(server: Server, method: str, path: bytes) -> None:
    body = b"<x/>" if method == "LOCK" else b""
    answer = server.raw(
        b"%s %s HTTP/1.1\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s"
        % (method.encode(), path, HOST, len(body), body)
    )
    assert status_of(answer) in (400, 404, 409, 431), answer


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
@pytest.mark.parametrize(
    ("destination", "status"),
    [
        ("/%00", 400), ("/a/../b", 400), ("/%2e%2e", 400), ("relative", 400), ("", 400), ("/x#y", 400),
        ("http://elsewhere/x", 502), ("http://localhost:1/x", 502), ("/", 403), ("/missing/x", 409),
        ("/" + "x" * 300, 400),
    ],
)  # fmt: skip
def test_hostile_destinations(server: Server, method: str, destination: str, status: int) -> None:
    server.put("/hostile-source", b"x")
    answer = server.request(method, "/hostile-source", headers={"Destination": destination})
    assert answer.status == status
    assert server.read("/hostile-source") == b"x"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5x\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
    ],
)
def test_ambiguous_lengths_close_the_connection(server: Server, framing: bytes) -> None:
    """What follows must not be taken for a request: it may be the rest of a body (request smuggling)."""
    smuggled = b"0\r\n\r\nDELETE /precious HTTP/1.1\r\nHost: localhost\r\n\r\n"
    server.put("/precious", b"x")
    answer = server.raw(b"PUT /victim HTTP/1.1\r\n" + HOST + framing + b"\r\n" + smuggled)
    assert status_of(answer) in (400, 501)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    assert server.read("/precious") == b"x"


def test_bare_line_ends_and_folded_headers(server: Server) -> None:
    assert status_of(server.raw(b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n")) == 400
    assert status_of(server.raw(b"GET / HTTP/1.1\r\n\r\n")) == 400, "no Host"
    assert status_of(server.raw(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")) == 400
    assert status_of(server.raw(b"GARBAGE\r\n\r\n")) == 400
    assert status_of(server.raw(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 100_000 + b"\r\n\r\n")) == 431


BOMB = """<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><D:propfind xmlns:D="DAV:"><D:prop>&c;</D:prop></D:propfind>"""
EXTERNAL = """<?xml version="1.0"?><!DOCTYPE b SYSTEM "file:///etc/passwd"><D:propfind xmlns:D="DAV:"/>"""


@pytest.mark.parametrize("method", ["PROPFIND", "PROPPATCH", "LOCK"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (BOMB, 400),
        (EXTERNAL, 400),
        ("<", 400),
        ("<a>" * 5000 + "</a>" * 5000, 400),
        ("<a>" * 200_000, 400),
        ('<?xml version="1.0" encoding="no-such"?><a/>', 400),
        ("\0", 400),
        (" " * 2_000_000, 413),
    ],
)
def test_hostile_bodies(server: Server, method: str, body: str, status: int) -> None:
    assert server.request(method, "/", body, {"Depth": "0"}).status == status


def test_refused_upload_is_not_read_into_memory(protected: Server) -> None:
    """A body that nobody asked for is thrown away as it comes, and only for a while."""
    before = memory_of(protected)
    with protected.connect() as sock:
        sock.sendall(b"PUT /big HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000000\r\n\r\n")
        sent = 0
        try:
            while sent < 200_000_000:
                sent += sock.send(bytes(1_000_000))
        except OSError:
            pass   # it does not have to listen to the end
    assert memory_of(protected) - before < 20_000_000


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


def memory_of(server: Server) -> int:
    """Bytes resident."""
    with open(f"/proc/{server.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_stopped_reader_holds_nobody_up(server: Server) -> None:
    server.put("/stuck", bytes(30_000_000))
    with server.connect() as sock:
        sock.sendall(b"GET /stuck HTTP/1.1\r\n" + HOST + b"\r\n")
        sock.recv(1000)
        for _ in range(20):
            assert server.request("HEAD", "/stuck").status == 200
    wait_until(lambda: server.request("DELETE", "/stuck").status in (204, 404), "the file is removed")


def test_host_names_against_rebinding(server: Server) -> None:
    for host in ("localhost", f"localhost:{server.port}", "127.0.0.1", "[::1]:80", socket.gethostname()):
        assert server.request("GET", "/", headers={"Host": host}).status == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1].evil", "a b"):
        answer = server.request("GET", "/", headers={"Host": host})
        assert answer.status in (400, 421), host


def test_guessing_is_slowed_down_for_guessers_only(start_server: Start) -> None:
    server = start_server(users={"u": "p"})
    right = {"Authorization": "Basic dTpw"}
    wrong = {"Authorization": "Basic dTp4"}
    assert server.request("GET", "/", headers=right).status == 200
    codes = [server.request("GET", "/", headers=wrong).status for _ in range(10)]
    assert codes[0] == 401
    assert codes[-1] == 429
    assert "retry-after" in server.request("GET", "/", headers=wrong).headers
    assert server.request("GET", "/", headers=right).status == 200, "who was in stays in"


def test_stop_ends_promptly_with_clients_connected(start_server: Start) -> None:
    server = start_server(no_auth=True)
    with server.connect() as idle, server.connect() as half:
        idle.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert idle.recv(10)
        half.sendall(b"PUT /half HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nhalf")
        wait_until(lambda: server.request("HEAD", "/half").status == 404, "the server has the first half")
        server.restart()
        assert server.request("HEAD", "/half").status == 404
        half.settimeout(PATIENCE)
        assert half.recv(10) == b""


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
