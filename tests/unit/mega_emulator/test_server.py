"""Sessions, the event channel, and faults on demand."""

from __future__ import annotations

import http.client
import json
import secrets
import threading

import pytest

from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.hashcash import solve
from serpentfs.clouds.mega.keys import ecb_encrypt, temporary_session_valid
from tests.mega_emulator import Emulator
from tests.unit.mega_emulator.conftest import PASSWORD, Client, fetch, http_request, log_in, log_in_answer


def test_who_may_log_in(server: Emulator) -> None:
    anybody = Client(server, "")
    unknown = anybody.do("us0", user="nobody@example.test")
    assert unknown == anybody.do("us0", user="NOBODY@example.test")
    assert anybody.do("us", user="nobody@example.test", uh=encode(bytes(16))) == -9
    server.add_account("old@example.test", PASSWORD, version=1)
    assert anybody.do("us0", user="old@example.test") == {"v": 1}
    assert anybody.do("us", user="old@example.test", uh=encode(bytes(8))) == -9
    assert anybody.do("ug") == -15
    assert Client(server, "&sid=none").batch({"a": "ug"}) == -15
    with pytest.raises(ValueError, match="12"):
        server.add_account("old@example.test", PASSWORD)


def test_second_factors(server: Emulator) -> None:
    server.add_account("mfa@example.test", PASSWORD, mfa="123456")
    answers = [log_in_answer(server, "mfa@example.test", code) for code in (None, "000000", "123456")]
    assert answers[:2] == [-26, -5]
    assert answers[2]["csid"]
    server.set_account("mfa@example.test", blocked=True)
    assert log_in_answer(server, "mfa@example.test", "123456") == -16


def test_an_account_without_rsa_key(server: Emulator) -> None:
    master = bytes(range(16))
    challenge = secrets.token_bytes(16)
    anybody = Client(server, "")
    handle = anybody.do("up", k=encode(master), ts=encode(challenge + ecb_encrypt(master, challenge)))
    told = anybody.do("us", user=handle)
    assert temporary_session_valid(decode(told["tsid"]), master)
    assert Client(server, f"&sid={told['tsid']}").do("ug")["u"] == handle


def test_sessions_end(server: Emulator, client: Client, other: Client, email: str) -> None:
    assert client.do("sml") == 0
    assert client.batch({"a": "ug"}) == -15
    assert other.do("ug")["u"] == client.user
    again = log_in(server, email)
    assert again.do("usr", ko=1) == 0
    assert other.batch({"a": "ug"}) == -15
    assert again.do("ug")["u"] == client.user
    server.end_sessions(email)
    assert again.batch({"a": "ug"}) == -15
    assert fetch(f"{server.url}/sc?sn={other.sn}&sid=none") == b"-15"


def test_a_poll_waits_for_what_happens(server: Emulator, client: Client, other: Client) -> None:
    idle = json.loads(fetch(f"{server.url}/sc?sn={client.sn}{client._who}"))
    done = threading.Event()

    def wait() -> None:
        fetch(idle["w"])
        done.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not done.is_set()
    other.mkdir()
    waiting.join(30)
    assert done.is_set()
    assert len(client.events()) == 1


def test_long_polls(server: Emulator, client: Client, other: Client) -> None:
    first = json.loads(fetch(f"{server.url}/wsc?sn={client.sn}{client._who}"))
    assert first["sn"] == client.sn
    other.mkdir()
    told = json.loads(fetch(f"{first['w']}?sn={client.sn}{client._who}"))
    assert len(told["a"]) == 1
    assert told["sn"] != client.sn


def test_old_numbers_mean_a_new_tree(server: Emulator, client: Client, email: str) -> None:
    server.forget_events(email)
    assert fetch(f"{server.url}/sc?sn={client.sn}{client._who}") == b"-6"
    client.load()
    assert client.events() == []
    assert fetch(f"{server.url}/sc?sn={encode(bytes([255]) * 8)}{client._who}") == b"-6"
    server.set(kept_events=3)
    old = client.sn
    for _ in range(4):
        client.mkdir()
    assert fetch(f"{server.url}/sc?sn={old}{client._who}") == b"-6"
    server.set(kept_events=20_000)


def test_errors_of_batches_and_of_commands(server: Emulator, client: Client) -> None:
    server.fault("batch", "error", code=-3, skip=1, times=2)
    assert client.do("ug")["u"] == client.user
    assert [client.batch({"a": "ug"}) for _ in range(2)] == [-3, -3]
    assert client.do("ug")["u"] == client.user
    server.fault("command", "error", only="m", code=-17)
    assert client.batch({"a": "wlt"}, {"a": "m"}) == [1, -17]
    server.fault("batch", "http", status=500)
    assert client.raw([{"a": "ug"}]).status == 500
    assert server.fault_hits() == [2, 1, 1]


def test_proof_of_work(server: Emulator, client: Client) -> None:
    server.fault("batch", "hashcash", easiness=255)
    asked = client.raw([{"a": "wlt"}], number=1)
    assert asked.status == 402
    paid = client.raw([{"a": "wlt"}], number=1, headers={"X-Hashcash": solve(asked.headers["X-Hashcash"])})
    assert json.loads(paid.body) == [1]


def test_broken_answers(server: Emulator, client: Client) -> None:
    handle = client.put(bytes(range(200)))["h"]
    url = client.do("g", g=1, n=handle)["g"]
    server.fault("batch", "truncate", bytes=5)
    with pytest.raises(http.client.IncompleteRead):
        client.do("ug")
    server.fault("download", "truncate", bytes=100)
    with pytest.raises(http.client.IncompleteRead) as cut:
        fetch(url)
    assert cut.value.partial == bytes(range(100))
    server.fault("download", "break")
    with pytest.raises(http.client.RemoteDisconnected):
        fetch(url)
    server.fault("download", "corrupt", bytes=7)
    wrong = fetch(url)
    assert [at for at in range(200) if wrong[at] != at] == [7]
    server.fault("download", "quota", seconds=77)
    refused = http_request(url)
    assert (refused.status, refused.headers["X-MEGA-Time-Left"]) == (509, "77")
    assert fetch(url) == bytes(range(200))


def test_a_lost_piece_is_there(server: Emulator, client: Client) -> None:
    url = client.do("u", s=10, v=2)["p"]
    server.fault("upload", "lose")
    with pytest.raises(http.client.RemoteDisconnected):
        fetch(f"{url}/0", bytes(10))
    assert len(fetch(f"{url}/0", bytes(10))) == 36
    server.fault("upload", "error", code=-3)
    assert fetch(f"{url}/0", bytes(10)) == b"-3"


def test_packets_may_come_twice(server: Emulator, client: Client) -> None:
    client.mkdir()
    server.fault("events", "twice")
    first, second = client.events()
    assert first == second


def test_rules_are_checked(server: Emulator) -> None:
    with pytest.raises(ValueError, match="TypeError"):
        server.fault("batch", "error", nonsense=1)


def test_made_nodes_are_readable_and_others_are_not(server: Emulator, client: Client, email: str) -> None:
    folder = server.add_folder(email, "folder")
    server.add_file(email, "same", b"one", parent=folder)
    server.add_file(email, "same", b"two", parent=folder)
    hidden = server.add_file(email, "hidden", b"x", readable=False)
    assert [entry.path for entry in server.tree(email)] == [f"/{hidden}", "/folder", "/folder/same", "/folder/same"]
    assert len(client.events()) == 4


def test_many_nodes(server: Emulator, client: Client, email: str) -> None:
    made = server.add_many(email, 6000, largest_folder=3000)
    tree = client.load()
    assert len(tree["f"]) == 6003
    assert sum(node["p"] == made["largest"] for node in tree["f"]) == 3000
    shown = server.tree(email)
    assert {"/largest/file 2999.txt", "/folder 0/file 99.txt"} <= {entry.path for entry in shown}
    some = next(entry for entry in shown if not entry.is_folder)
    assert len(fetch(client.do("g", g=1, n=some.handle)["g"])) == some.size == 16
