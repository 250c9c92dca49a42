"""Uploads, downloads and file attributes, as the specification has them (7)."""

from __future__ import annotations

import secrets

import pytest

from serpentfs.clouds.mega import raid
from serpentfs.clouds.mega.chunks import piece_checksum
from serpentfs.clouds.mega.encoding import encode
from tests.mega_emulator import Emulator
from tests.unit.mega_emulator.conftest import Client, fetch, http_request

K = 1024


def test_pieces_must_keep_to_chunk_boundaries(client: Client) -> None:
    url = client.do("u", s=400 * K, v=2)["p"]
    assert fetch(f"{url}/0", bytes(100 * K)) == b"-7"
    assert fetch(f"{url}/1", bytes(128 * K - 1)) == b"-7"
    assert fetch(f"{url}/131072", bytes(100 * K)) == b"-7"
    assert fetch(f"{url}/131072", bytes(300 * K)) == b"-7"    # behind the end
    assert fetch(f"{url}/393216", bytes(16 * K)) == b""       # the end is that of the file
    assert fetch(f"{url}/0", bytes(128 * K)) == b""
    assert fetch(f"{url}/0", bytes(128 * K)) == b""           # once more
    assert len(fetch(f"{url}/131072", bytes(256 * K))) == 36
    assert len(fetch(f"{url}/0", bytes(384 * K))) == 36       # several chunks, and the handle again


def test_the_form_of_handles_and_of_unfinished_pieces(client: Client) -> None:
    content = secrets.token_bytes(128 * K) + b"end"
    checksums = [encode(piece_checksum(content[:128 * K])), encode(piece_checksum(content[128 * K:]))]
    old = client.do("u", s=len(content))["p"]
    assert fetch(f"{old}/0?c={checksums[0]}", content[:128 * K]) == b""
    handle = fetch(f"{old}/131072?c={checksums[1]}", content[128 * K:])
    assert len(handle) == 36
    assert handle.decode("ascii").isprintable()
    new = client.do("u", s=len(content), v=2)["p"]
    assert fetch(f"{new}/0?d={checksums[0]}", content[:128 * K]) == b"0"
    assert fetch(f"{new}/131072?d={checksums[0]}", content[128 * K:]) == b"-14"
    raw = fetch(f"{new}/131072?d={checksums[1]}", content[128 * K:])
    for completion in (handle.decode(), encode(raw)):
        node = client.put_node({"h": completion, "t": 0})
        assert node["s"] == len(content)
        assert fetch(client.do("g", g=1, n=node["h"])["g"]) == content


def test_an_empty_file(client: Client) -> None:
    node = client.put(b"")
    assert node["s"] == 0
    assert fetch(client.do("g", g=1, n=node["h"])["g"] + "/0-0") == b""


def test_ranges_in_both_methods(client: Client) -> None:
    content = secrets.token_bytes(100_000)
    url = client.do("g", g=1, n=client.put(content)["h"])["g"]
    for method in ("GET", "POST"):
        assert fetch(url, method=method) == content
        assert fetch(f"{url}/16-99", method=method) == content[16:100]
        assert fetch(f"{url}/99000-", method=method) == content[99000:]
        assert fetch(f"{url}/99000-200000", method=method) == content[99000:]
    assert http_request(f"{url}/100000-100001").status == 404


def test_six_parts(server: Emulator, client: Client) -> None:
    content = secrets.token_bytes(3_300_037)    # parts of more than one piece
    handle = client.put(content)["h"]
    server.fault("raid", "raid", times=1)
    assert isinstance(client.do("g", g=1, n=handle)["g"], str)    # not without v
    urls = client.do("g", g=1, n=handle, v=2)["g"]
    assert [fetch(url) for url in urls] == raid.split(content)
    assert [fetch(f"{url}/100-599999") for url in urls] == [part[100:600000] for part in raid.split(content)]
    assert len(client.do("g", g=1, n=handle, v=2)["g"]) == 1


def test_urls_expire(server: Emulator, client: Client) -> None:
    url = client.do("g", g=1, n=client.put(b"content")["h"])["g"]
    upload = client.do("u", s=1, v=2)["p"]
    server.expire_urls()
    assert http_request(url).status == 404
    assert fetch(f"{upload}/0", b"x") == b"-8"
    assert fetch(f"{server.url}/ul/none/0", b"x") == b"-9"


def test_file_attributes(client: Client) -> None:
    node = client.put(b"a picture")
    client.events()
    handles = []
    for size in (16, 32):
        handle = fetch(client.do("ufa", s=size, ssl=2)["p"], bytes(size))
        assert len(handle) == 8
        handles.append(handle)
    assert client.do("pfa", n=node["h"], fa=f"0*{encode(handles[0])}").endswith(f":0*{encode(handles[0])}")
    both = client.do("pfa", n=node["h"], fa=f"1*{encode(handles[1])}")
    assert len(both.split("/")) == 2
    assert [packet["fa"] for packet in client.events()][-1] == both
    found = fetch(client.do("ufa", fah=encode(handles[0]), ssl=2, r=1)["p"], handles[0] + handles[1])
    assert found == handles[0] + b"\x10\0\0\0" + bytes(16) + handles[1] + b"\x20\0\0\0" + bytes(32)


@pytest.mark.parametrize("used", [0, 100])
def test_quota(server: Emulator, client: Client, email: str, used: int) -> None:
    handle = client.upload(bytes(60))
    if used:
        client.put(bytes(used))
    server.set_account(email, quota=100)
    wanted = -17 if used == 100 else -24
    assert client.do("u", s=101, v=2) == wanted
    if used:
        assert client.do("p", t=client.root, n=[{"h": handle, "t": 0, "a": "AAAA", "k": "AAAA"}]) == wanted
    else:
        client.put_node({"h": handle, "t": 0})
        assert client.do("p", t=client.root, n=[{"h": handle, "t": 0, "a": "AAAA", "k": "AAAA"}]) == wanted
    quota = client.do("uq", strg=1, xfer=1, pro=1)
    assert (quota["mstrg"], quota["cstrg"]) == (100, used or 60)
