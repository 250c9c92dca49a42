"""Locks over the wire: granted, enforced, refreshed, dropped, and alive after a restart."""

from __future__ import annotations

import re

import pytest

from tests.e2e.webdav.servers import Answer, Server, Start
from tests.e2e.webdav.test_methods import lockinfo, proppatch, set_property


def lock(
    server: Server, path: str, scope: str = "exclusive", depth: str | None = None, user: str = "", **headers: str
) -> Answer:
    headers |= auth(user)
    if depth is not None:
        headers["Depth"] = depth
    return server.request("LOCK", path, lockinfo(scope), headers)


def token_of(answer: Answer) -> str:
    assert answer.status in (200, 201), answer
    return answer.headers["lock-token"]


def auth(user: str) -> dict[str, str]:
    return {"Authorization": {"ann": "Basic YW5uOmE=", "bob": "Basic Ym9iOmI="}[user]} if user else {}


def unlock(server: Server, path: str, token: str, user: str = "") -> int:
    return server.request("UNLOCK", path, headers={"Lock-Token": token, **auth(user)}).status


@pytest.fixture(scope="module")
def two_users(start_server: Start) -> Server:
    return start_server(users={"ann": "a", "bob": "b"})


def writes(server: Server, path: str, headers: dict[str, str]) -> dict[str, int]:
    """The status of every way to change a file, tried in an order that leaves it in place."""
    folder, _, name = path.rpartition("/")
    host = {"Destination": f"{server.url.rstrip('/')}{folder}/other-of-{name}"}
    return {
        "PUT": server.request("PUT", path, b"new", headers).status,
        "PROPPATCH": server.request(
            "PROPPATCH",
            path,
            f'<D:propertyupdate xmlns:D="DAV:">{set_property("<a>1</a>")}</D:propertyupdate>',
            headers,
        ).status,
        "COPY onto": server.request(
            "COPY", "/lock-source", headers={**headers, "Destination": path}
        ).status,
        "MOVE away": server.request("MOVE", path, headers={**headers, **host}).status,
    }


def test_a_lock_stops_everybody_without_its_token(two_users: Server) -> None:
    server = two_users
    for path in ("/locked", "/lock-source"):
        assert server.request("PUT", path, b"old", auth("ann")).status == 201
    token = token_of(lock(server, "/locked", user="ann"))
    for headers in (auth("bob"), auth("ann"), {**auth("bob"), "If": f"({token})"}):
        assert set(writes(server, "/locked", headers).values()) <= {423, 412}
        assert server.request("DELETE", "/locked", headers=headers).status in (423, 412)
    refused = server.request("PUT", "/locked", b"x", auth("ann"))
    assert "<D:lock-token-submitted><D:href>/locked</D:href></D:lock-token-submitted>" in refused.text
    assert server.request("GET", "/locked", headers=auth("bob")).body == b"old", "reading is free"

    # Tagged: untagged it would speak of the request's own URL, which for COPY is the source.
    mine = {**auth("ann"), "If": f"</locked> ({token})"}
    assert writes(server, "/locked", mine) == {
        "PUT": 204, "PROPPATCH": 207, "COPY onto": 204, "MOVE away": 201,
    }  # fmt: skip
    # The lock stayed with neither: what was moved lost it, and nothing is left where it was.
    assert server.request("PUT", "/other-of-locked", b"x", auth("bob")).status == 204
    assert server.request("PUT", "/locked", b"x", auth("bob")).status == 201


def test_unlock(two_users: Server) -> None:
    server = two_users
    server.request("PUT", "/unlock", b"x", auth("ann"))
    token = token_of(lock(server, "/unlock", user="ann"))
    assert unlock(server, "/unlock", token, "bob") == 403
    assert unlock(server, "/", token, "ann") == 409
    assert unlock(server, "/unlock", "<urn:uuid:none>", "ann") == 409
    assert unlock(server, "/unlock", "malformed", "ann") == 400
    assert unlock(server, "/unlock", token, "ann") == 204
    assert unlock(server, "/unlock", token, "ann") == 409
    assert server.request("PUT", "/unlock", b"y", auth("bob")).status == 204


def test_shared_locks(two_users: Server) -> None:
    server = two_users
    server.request("PUT", "/shared", b"x", auth("ann"))
    ann = token_of(lock(server, "/shared", "shared", user="ann"))
    bob = token_of(lock(server, "/shared", "shared", user="bob"))
    assert lock(server, "/shared", "exclusive", user="ann").status == 423
    assert server.request("PUT", "/shared", b"y", auth("ann")).status == 423
    assert server.request("PUT", "/shared", b"y", {**auth("ann"), "If": f"({ann})"}).status == 204
    assert server.request("PUT", "/shared", b"y", {**auth("bob"), "If": f"({bob})"}).status == 204
    assert server.request("PUT", "/shared", b"y", {**auth("bob"), "If": f"({ann})"}).status == 423
    assert unlock(server, "/shared", ann, "ann") == unlock(server, "/shared", bob, "bob") == 204
    exclusive = token_of(lock(server, "/shared", user="bob"))
    assert lock(server, "/shared", "shared", user="ann").status == 423
    assert unlock(server, "/shared", exclusive, "bob") == 204


def test_depth_infinity(server: Server) -> None:
    server.request("MKCOL", "/deep")
    server.request("MKCOL", "/deep/inner")
    server.put("/deep/inner/file", b"x")
    token = token_of(lock(server, "/deep", depth="infinity"))
    for method, path in (
        ("PUT", "/deep/inner/file"), ("PUT", "/deep/new"), ("MKCOL", "/deep/new"), ("DELETE", "/deep/inner"),
        ("DELETE", "/deep"), ("LOCK", "/deep/inner/file"), ("LOCK", "/deep/new"),
    ):  # fmt: skip
        assert server.request(method, path, lockinfo("exclusive") if method == "LOCK" else b"").status == 423, path
    mine = {"If": f"<{server.url}deep> ({token})"}
    assert server.request("PUT", "/deep/inner/file", b"y", mine).status == 204
    assert server.request("MKCOL", "/deep/new", headers=mine).status == 201
    assert server.request("DELETE", "/deep", headers=mine).status == 204
    assert server.request("MKCOL", "/deep").status == 201, "the lock went with what it was on"


def test_depth_0_guards_the_list_of_members(server: Server) -> None:
    server.request("MKCOL", "/flat")
    server.put("/flat/file", b"x")
    token = token_of(lock(server, "/flat", depth="0"))
    server.put("/flat/file", b"y")
    for method, path in (("PUT", "/flat/new"), ("MKCOL", "/flat/new"), ("DELETE", "/flat/file"), ("LOCK", "/flat/new")):
        assert server.request(method, path, lockinfo("shared") if method == "LOCK" else b"").status == 423, method
    assert server.request("MOVE", "/flat/file", headers={"Destination": "/out"}).status == 423
    assert server.request("HEAD", "/flat/new").status == 404
    assert server.request("PUT", "/flat/new", b"", {"If": f"</flat> ({token})"}).status == 201
    assert unlock(server, "/flat", token) == 204


def test_a_locked_member_guards_its_folder(server: Server) -> None:
    server.request("MKCOL", "/guarded")
    server.put("/guarded/file", b"x")
    token = token_of(lock(server, "/guarded/file"))
    assert server.request("DELETE", "/guarded").status == 423
    assert server.request("MOVE", "/guarded", headers={"Destination": "/elsewhere"}).status == 423
    assert lock(server, "/guarded", depth="infinity").status == 423
    flat = token_of(lock(server, "/guarded", depth="0"))
    both = {"If": f"({flat}) </guarded/file> ({token})"}
    assert server.request("DELETE", "/guarded", headers=both).status == 204


def test_locking_nothing_makes_an_empty_file(server: Server) -> None:
    answer = lock(server, "/unmapped")
    assert answer.status == 201
    assert server.read("/unmapped") == b""
    token = token_of(answer)
    assert server.request("PUT", "/unmapped", b"x").status == 423
    assert server.request("PUT", "/unmapped", b"x", {"If": f"({token})"}).status == 204
    assert unlock(server, "/unmapped", token) == 204
    assert lock(server, "/no/such/folder").status == 409
    assert lock(server, "/no-such-folder/").status == 409


def test_timeouts_and_refresh(server: Server) -> None:
    server.put("/timeout", b"x")
    answer = lock(server, "/timeout", Timeout="Second-1000")
    assert seconds_left(answer) in range(900, 1001)
    token = token_of(answer)
    refreshed = server.request("LOCK", "/timeout", headers={"If": f"({token})", "Timeout": "Infinite, Second-5"})
    assert refreshed.status == 200
    assert seconds_left(refreshed) > 100_000
    assert "lock-token" not in refreshed.headers
    assert server.request("LOCK", "/timeout", headers={"Timeout": "Second-5"}).status == 412
    assert server.request("LOCK", "/timeout", headers={"If": "(<urn:uuid:x>)"}).status == 412
    assert unlock(server, "/timeout", token) == 204


def seconds_left(answer: Answer) -> int:
    match = re.search(r"<D:timeout>Second-(\d+)</D:timeout>", answer.text)
    assert match is not None
    return int(match.group(1))


def test_locks_survive_a_restart(start_server: Start) -> None:
    server = start_server(users={"ann": "a", "bob": "b"})
    server.request("MKCOL", "/kept", headers=auth("ann"))
    token = token_of(lock(server, "/kept", user="ann"))
    before = seconds_left(lock_discovery(server, "/kept"))
    server.restart()
    found = lock_discovery(server, "/kept")
    assert token[1:-1] in found.text
    assert "<D:owner" in found.text or "owner>" in found.text
    assert seconds_left(found) <= before
    assert server.request("PUT", "/kept/x", b"", auth("ann")).status == 423
    assert server.request("PUT", "/kept/x", b"", {**auth("ann"), "If": f"</kept> ({token})"}).status == 201
    assert unlock(server, "/kept", token, "ann") == 204
    server.restart()
    assert server.request("PUT", "/kept/x", b"", auth("bob")).status == 204


def lock_discovery(server: Server, path: str) -> Answer:
    return server.request(
        "PROPFIND", path, '<D:propfind xmlns:D="DAV:"><D:prop><D:lockdiscovery/></D:prop></D:propfind>',
        {"Depth": "0", **auth("ann")},
    )  # fmt: skip


def test_if_header(server: Server) -> None:
    tag = server.request("PUT", "/if", b"1").headers["etag"]
    token = token_of(lock(server, "/if"))

    def put(header: str) -> int:
        return server.request("PUT", "/if", b"2", {"If": header}).status

    assert put(f"({token} [\"wrong\"])") == 412
    assert put(f"(Not {token})") == 412
    assert put(f"(<DAV:no-lock>) ({token} [{tag}])") == 204
    assert put(f"({token} [{tag}])") == 412, "the content has changed"
    assert put(f"({token}) (Not <DAV:no-lock>)") == 204
    assert put("(Not <DAV:no-lock>)") == 423, "it holds, but shows no token"
    assert put(f"<{server.url}if> ({token})") == 204
    assert put(f"</elsewhere> ({token})") == 412
    for malformed in (
        "", "()", "(", token, f"({token}", f"({token}))", "(Not)", f"(Not Not {token})", "(x)", '["a"]',
    ):  # fmt: skip
        assert put(malformed) == 400, malformed
    assert unlock(server, "/if", token) == 204
    assert put(f"({token})") == 412


@pytest.mark.parametrize(
    "body",
    ["<D:lockinfo xmlns:D='DAV:'/>", "<x/>", lockinfo("both"),
     lockinfo("exclusive").replace("write", "read"),
     lockinfo("exclusive").replace("<D:exclusive/>", "<D:exclusive/><D:shared/>")],
)  # fmt: skip
def test_malformed_lockinfo(server: Server, body: str) -> None:
    assert server.request("LOCK", "/malformed-lock", body).status == 400
    assert server.request("HEAD", "/malformed-lock").status == 404


def test_owner_is_kept_as_it_was(server: Server) -> None:
    server.put("/owner", b"")
    owner = '<D:owner>A &amp; B <x:me xmlns:x="urn:x" a="&lt;">ü</x:me></D:owner>'
    token = token_of(server.request("LOCK", "/owner", lockinfo("exclusive", owner)))
    text = server.request("PROPFIND", "/owner", headers={"Depth": "0"}).text
    assert "A &amp; B " in text
    assert ">ü</" in text
    assert lock(server, "/owner", depth="1").status == 400
    assert unlock(server, "/owner", token) == 204
    proppatch(server, "/owner", set_property("<a>1</a>"))


def test_a_put_that_began_before_a_lock_does_not_land_under_it(server: Server) -> None:
    server.put("/overtaken", b"old")
    with server.connect() as sock:
        sock.sendall(
            b"PUT /overtaken HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 100")
        token = token_of(lock(server, "/overtaken"))
        sock.sendall(b"new")
        assert sock.recv(65536).startswith(b"HTTP/1.1 423")
    assert server.read("/overtaken") == b"old"
    assert unlock(server, "/overtaken", token) == 204
