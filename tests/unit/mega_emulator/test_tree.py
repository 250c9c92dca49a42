"""Nodes and what other sessions are told of them: put, change, move, delete, versions, shares, links."""

from __future__ import annotations

import http.client
import secrets
from typing import Any

import pytest

from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.keys import ecb_encrypt, share_auth
from tests.mega_emulator import Emulator
from tests.unit.mega_emulator.conftest import PASSWORD, Client, fetch, log_in


def _names(packets: list[dict[str, Any]]) -> list[str]:
    return [packet["a"] for packet in packets]


def _handles(tree: dict[str, Any]) -> set[str]:
    return {node["h"] for node in tree["f"]}


def test_a_tree_in_one_command(client: Client, other: Client) -> None:
    entries = [
        {"h": "aaaaaaaa", "t": 1, "a": "AAAA", "k": "AAAA"},
        {"h": "bbbbbbbb", "t": 1, "a": "AAAA", "k": "AAAA", "p": "aaaaaaaa"},
    ]
    outer, inner = client.do("p", t=client.root, n=entries, i="abcdefghij")["f"]
    assert (outer["p"], inner["p"]) == (client.root, outer["h"])
    assert outer["k"] == f"{client.user}:AAAA"
    (packet,) = other.events()
    assert packet["t"]["f"] == [outer, inner]
    assert packet["i"] == "abcdefghij"
    assert other.events() == []
    assert {outer["h"], inner["h"]} < _handles(other.load())


def test_a_command_is_executed_whole_or_not_at_all(client: Client, other: Client) -> None:
    good = {"h": "aaaaaaaa", "t": 1, "a": "AAAA", "k": "AAAA"}
    before = _handles(client.load())
    for bad, code in (({"p": "cccccccc"}, -9), ({"a": "no base64!"}, -2), ({"k": None}, -2), ({"t": 0}, -9)):
        entry = {**good, "h": "bbbbbbbb", **bad}
        assert client.do("p", t=client.root, n=[good, entry]) == code, bad
    assert _handles(client.load()) == before
    assert other.events() == []


def test_changes_reach_other_sessions(client: Client, other: Client) -> None:
    folder, target = client.mkdir()["h"], client.mkdir()["h"]
    inner = client.put(b"content", folder)["h"]
    other.events()
    assert client.do("a", n=inner, at="BBBB") == 0
    assert client.do("m", n=folder, t=target) == 0
    assert client.do("m", n=target, t=inner) == -2
    assert client.do("m", n=target, t=folder) == -10
    assert client.do("m", n=target, t=target) == -10
    assert client.do("d", n=target) == 0
    assert client.do("d", n=target) == -9
    changed, gone, moved, removed = other.events()
    assert (changed["a"], changed["n"], changed["at"]) == ("u", inner, "BBBB")
    assert (gone["a"], gone["n"], gone["m"]) == ("d", folder, 1)
    assert [(node["h"], node["p"]) for node in moved["t"]["f"]] == [(folder, target), (inner, folder)]
    assert (removed["a"], removed["n"]) == ("d", target)
    assert "m" not in removed
    assert not {folder, target, inner} & _handles(other.load())


def test_a_target_that_is_gone_is_the_rubbish_bin(client: Client) -> None:
    folder = client.mkdir()["h"]
    client.do("d", n=folder)
    assert client.put(b"late", folder)["p"] == client.bin


def test_versions(client: Client, other: Client) -> None:
    first = client.put(b"1")["h"]
    second = client.put(b"22", ov=first)["h"]
    third = client.put(b"333", ov=second)["h"]
    tree = client.load()
    parents = {node["h"]: node["p"] for node in [*tree["f"], *tree["f2"]]}
    assert (parents[third], parents[second], parents[first]) == (client.root, third, second)
    assert third in _handles(tree)
    assert second not in _handles(tree)
    assert [node["h"] for packet in other.events() for node in packet["t"].get("f2", [])] == [first, second, first]
    assert client.do("d", n=second, v=1) == 0
    assert _names(other.events()) == ["d", "t"]
    assert {node["h"]: node["p"] for node in client.load()["f2"]} == {first: third}
    restored = client.do(
        "p", t=client.root, n=[{"h": first, "t": 0, "a": "AAAA", "k": "AAAA", "ov": third}], vb=1)["f"][0]
    assert (restored["s"], restored["p"]) == (1, client.root)
    assert fetch(client.do("g", g=1, n=restored["h"])["g"]) == b"1"
    folder = client.mkdir()["h"]
    client.do("m", n=restored["h"], t=folder)    # the chain goes along
    assert {node["h"] for node in client.load()["f2"]} == {first, third}
    assert client.do("dv") == 0
    assert "f2" not in client.load()


def test_versions_switched_off(client: Client) -> None:
    assert client.do("upv", **{"^!dv": ["MQ"]})["^!dv"]
    assert client.do("uga", u=client.user, ua="^!dv", v=1)["av"] == "MQ"
    first = client.put(b"1")["h"]
    second = client.put(b"2", ov=first)["h"]
    assert "f2" not in (tree := client.load())
    assert second in _handles(tree)
    assert first not in _handles(tree)


def test_a_repeated_request_is_executed_once(server: Emulator, client: Client) -> None:
    command = {"a": "p", "t": client.root, "n": [{"h": "xxxxxxxx", "t": 1, "a": "AAAA", "k": "AAAA"}]}
    answers = [client.batch(command, number=number) for number in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
    assert len([node for node in client.load()["f"] if node["t"] == 1]) == 2
    server.fault("batch", "lose", only="p")
    with pytest.raises(http.client.RemoteDisconnected):
        client.batch(command, number=3)
    assert server.fault_hits() == [1]
    client.batch(command, number=3)
    assert len([node for node in client.load()["f"] if node["t"] == 1]) == 3


def _share(client: Client, folder: str, inner: str, who: str, right: int) -> bytes:
    key = secrets.token_bytes(16)
    answer = client.do(
        "s2", n=folder, s=[{"u": who, "r": right, "k": "SHAREKEY"}], ok=encode(ecb_encrypt(client.master, key)),
        ha=encode(share_auth(client.master, folder)), cr=[[folder], [folder, inner], [0, 0, "FOLDERK", 0, 1, "INNERK"]],
    )  # fmt: skip
    assert answer["r"] == [0]
    return key


def test_shares(server: Emulator, client: Client) -> None:
    server.add_account("guest@example.test", PASSWORD)
    guest = log_in(server, "guest@example.test")
    folder = client.mkdir()["h"]
    inner = client.put(b"shared", folder)["h"]
    outside = client.put(b"not shared")["h"]
    assert guest.do("g", g=1, n=inner) == -9
    _share(client, folder, inner, "guest@example.test", 0)
    told = guest.events()
    assert "t" in _names(told)
    tree = {node["h"]: node for node in guest.load()["f"]}
    assert tree[folder]["su"] == client.user
    assert (tree[folder]["sk"], tree[folder]["r"]) == ("SHAREKEY", 0)
    assert tree[inner]["k"] == f"{folder}:INNERK"
    assert outside not in tree
    assert client.load()["ok"][0]["h"] == folder
    assert fetch(guest.do("g", g=1, n=inner)["g"]) == b"shared"
    assert guest.do("a", n=inner, at="BBBB") == -11
    assert guest.do("a", n=outside, at="BBBB") == -9
    client.do("m", n=outside, t=folder)    # into the share: new to the guest
    client.do("m", n=inner, t=client.root)    # out of it
    into, out = guest.events()
    assert [node["h"] for node in into["t"]["f"]] == [outside]
    assert (out["a"], out["n"]) == ("d", inner)
    assert "m" not in out
    client.do("s2", n=folder, s=[{"u": "guest@example.test", "r": ""}])
    assert "s2" in _names(guest.events())
    assert folder not in _handles(guest.load())


def test_a_writable_share_takes_the_guests_files(server: Emulator, client: Client) -> None:
    server.add_account("writer@example.test", PASSWORD)
    guest = log_in(server, "writer@example.test")
    folder = client.mkdir()["h"]
    inner = client.put(b"x", folder)["h"]
    _share(client, folder, inner, "writer@example.test", 2)
    client.events()
    handle = guest.upload(b"from the guest")
    node = guest.put_node({"h": handle, "t": 0}, folder, cr=[[folder], [handle], [0, 0, "NEWKEY"]])
    assert node["u"] == client.user
    (packet,) = client.events()
    assert packet["t"]["f"][0]["k"] == f"{folder}:NEWKEY"
    assert client.do("uq")["cstrg"] == len(b"x" + b"from the guest")


def test_folder_links(server: Emulator, client: Client) -> None:
    folder = client.mkdir()["h"]
    inner = client.put(b"public", folder)["h"]
    outside = client.put(b"private")["h"]
    assert client.do("l", n=folder) == -11    # not shared with everybody yet
    _share(client, folder, inner, "EXP", 0)
    public = client.do("l", n=folder)
    assert client.do("l", n=folder) == public
    visitor = Client(server, f"&n={public}")
    tree = visitor.load()
    assert [node["h"] for node in tree["f"]] == [folder, inner]
    assert tree["f"][1]["k"] == f"{folder}:INNERK"
    assert fetch(visitor.do("g", g=1, n=inner)["g"]) == b"public"
    assert visitor.do("g", g=1, n=outside) == -9
    assert visitor.do("a", n=inner, at="BBBB") == -11
    client.do("a", n=inner, at="CCCC")
    assert [packet["at"] for packet in visitor.events()] == ["CCCC"]
    assert client.do("l", n=folder, d=1) == 0
    assert visitor.batch({"a": "f"}) == -9


def test_file_links(server: Emulator, client: Client) -> None:
    handle = client.put(b"public")["h"]
    public = client.do("l", n=handle)
    anybody = Client(server, "")
    assert fetch(anybody.do("g", g=1, p=public)["g"]) == b"public"
    assert client.do("p", t=client.root, n=[{"ph": public, "t": 0, "a": "AAAA", "k": "AAAA"}])["f"][0]["s"] == 6
    client.do("l", n=handle, ets=1)
    assert anybody.do("g", g=1, p=public) == -8
    client.do("l", n=handle, d=1)
    assert anybody.do("g", g=1, p=public) == -9


def test_unknown_and_malformed_commands(client: Client) -> None:
    assert client.batch({"a": "nonsense"}, {"a": "m"}, 7, {"a": "ug"})[:3] == [-2, -2, -2]
    assert client.do("d", n=client.root) == -11
