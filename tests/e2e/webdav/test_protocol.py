"""Hostile and broken requests. They end before the drive is asked, so the one in memory will do."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.webdav.servers import HOST, PATIENCE, Server, Start, memory_of, status_of, wait_until

DRIVES = ["memory"]


@pytest.fixture(scope="module")
def protected(start_server: Start) -> Server:
    """One that asks for a password."""
    return start_server(users={"u": "p"})


@pytest.mark.parametrize("sizes", [b"zz", b"-1", b"5 5", b"1" * 40, b""])
def test_bad_chunks_commit_nothing(server: Server, sizes: bytes) -> None:
    answer = server.raw(
        b"PUT /bad-chunk HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n" + sizes + b"\r\nabcde\r\n0\r\n\r\n"
    )
    assert status_of(answer) == 400
    assert server.request("HEAD", "/bad-chunk").status == 404


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
