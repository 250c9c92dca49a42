"""What counts as a whole upload, and what becomes of one that breaks off."""

from __future__ import annotations

import ftplib
import json
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest
import trio

from serpentfs.gateways.ftp import partials
from serpentfs.gateways.ftp.transfers import DataConnection
from serpentfs.model import Attributes
from tests.e2e.ftp.harness import (
    TIMEOUT,
    RunningDoor,
    ask,
    begin_upload,
    break_off,
    door,
    eventually,
    fetch,
    open_data,
    reply,
    reset,
    store,
)
from tests.fakes.memory_vfs import MemoryVfs

HALF = os.urandom(100_000)
REST = os.urandom(50_000)


@pytest.fixture
def running() -> Iterator[RunningDoor]:
    with door() as running:
        yield running


@pytest.fixture
def client(running: RunningDoor) -> Iterator[ftplib.FTP]:
    with running.login() as client:
        yield client


def sizes(client: ftplib.FTP, folder: str = "") -> dict[str, int]:
    return {name: int(facts["size"]) for name, facts in client.mlsd(folder) if facts["type"] == "file"}


# Broken connections


def test_a_store_cut_by_a_reset_is_426_and_the_old_content_stays(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/a", b"old content")
    connection = begin_upload(client, "STOR a")
    connection.sendall(b"x" * 100)
    reset(connection)
    assert reply(client).startswith("426")
    assert running.bytes_of("/a") == b"old content"
    assert fetch(client, "a") == b"old content"


def test_a_reset_before_the_first_byte(running: RunningDoor, client: ftplib.FTP) -> None:
    connection = begin_upload(client, "STOR a")
    reset(connection)
    assert reply(client).startswith("426")
    assert ask(client, "SIZE a").startswith("550")
    assert running.vfs.open_handles == 0


@pytest.mark.parametrize("command", ["STOR a", "RETR b"])
def test_a_client_that_is_gone_before_the_reply_leaves_nothing_open(running: RunningDoor, command: str) -> None:
    running.put("/b", bytes(100_000))
    for with_data in (True, False) * 10:
        client = running.login()
        assert client.sock is not None
        connection = open_data(client) if with_data else None
        if connection is None:
            client.sendcmd("EPSV")
        client.putcmd(command)
        reset(client.sock)
        if connection is not None:
            reset(connection)
        client.close()
    eventually(lambda: running.vfs.open_handles == 0)
    with running.login() as client:
        assert ask(client, "SIZE a").startswith("550")


@pytest.mark.parametrize("command", ["STOR a", "LIST"])
def test_a_data_connection_that_is_reset_before_it_is_accepted(
    running: RunningDoor, client: ftplib.FTP, command: str
) -> None:
    """The server finds both at once: a connection that is dead already, and a command that waits for one."""
    client.voidcmd("TYPE I")
    for _ in range(20):
        connection = open_data(client)
        client.putcmd(command)
        reset(connection)
        answer = reply(client)
        if answer.startswith("1"):
            answer = reply(client)
        assert answer.startswith(("425", "426", "226 " if command == "LIST" else "426")), answer
    assert running.vfs.open_handles == 0


def test_a_reset_of_an_idle_data_connection_is_no_transfer(running: RunningDoor, client: ftplib.FTP) -> None:
    reset(open_data(client))
    assert ask(client, "NOOP").startswith("200")
    assert store(client, "a", b"x").startswith("226")


def test_abort_keeps_the_old_content_and_the_partial(running: RunningDoor, client: ftplib.FTP) -> None:
    connection = begin_upload(client, "STOR a")
    connection.sendall(HALF)
    eventually(lambda: f"received: {len(HALF)}" in client.sendcmd("STAT"))
    assert ask(client, "ABOR").startswith("426")
    assert reply(client).startswith("226")
    assert sizes(client) == {"a": len(HALF)}
    with pytest.raises(ftplib.error_perm, match="550"):
        fetch(client, "a")


@pytest.mark.parametrize("orderly", [True, False])
def test_a_client_that_dies_closes_every_connection_in_order(running: RunningDoor, orderly: bool) -> None:
    """Its kernel does, in the order of their descriptors: the control connection is the older one."""
    running.put("/a", b"old")
    client = running.login()
    connection = begin_upload(client, "STOR a")
    connection.sendall(HALF)
    eventually(lambda: f"received: {len(HALF)}" in client.sendcmd("STAT"))
    assert client.sock is not None
    if orderly:
        client.sock.shutdown(socket.SHUT_WR)
    else:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    connection.close()
    with running.login() as again:
        eventually(lambda: running.vfs.open_handles == 0)
        assert running.bytes_of("/a") == b"old"
        assert store(again, "a", REST, offset=len(HALF)).startswith("226")
        assert running.bytes_of("/a") == HALF + REST


def test_a_client_that_says_quit_without_waiting_has_sent_it_all(running: RunningDoor) -> None:
    client = running.login()
    connection = begin_upload(client, "STOR a")
    connection.sendall(b"whole")
    assert client.sock is not None
    client.sock.sendall(b"QUIT\r\n")
    connection.close()
    client.close()
    eventually(lambda: running.vfs.open_handles == 0)
    assert running.bytes_of("/a") == b"whole"


def test_a_stalled_upload_times_out(running: RunningDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataConnection, "timeout", 0.1)
    client = running.login()
    connection = begin_upload(client, "STOR a")
    connection.sendall(b"x")
    assert reply(client).startswith("421")
    client.close()
    with running.login() as again:
        assert sizes(again) == {"a": 1}


def test_stopping_the_door_keeps_what_came() -> None:
    vfs = MemoryVfs()
    with door(vfs) as running:
        client = running.login()
        connection = begin_upload(client, "STOR a")
        connection.sendall(HALF)
        eventually(lambda: f"received: {len(HALF)}" in client.sendcmd("STAT"))
        running.stop()
        connection.close()
        client.close()
    with door(vfs) as running, running.login() as client:
        partial = sizes(client).get("a", 0)
        assert 0 <= partial <= len(HALF)
        if partial:
            assert store(client, "a", (HALF + REST)[partial:], offset=partial).startswith("226")
        else:
            assert store(client, "a", HALF + REST).startswith("226")
        assert running.bytes_of("/a") == HALF + REST
    assert vfs.open_handles == 0


# Partial files


def test_a_partial_is_shown_and_continued(running: RunningDoor, client: ftplib.FTP) -> None:
    client.mkd("d")
    break_off(running.port, "/d/a", HALF)
    client.cwd("d")
    assert client.size("a") == len(HALF)
    assert sizes(client) == {"a": len(HALF)}
    assert f"size={len(HALF)};" in client.sendcmd("MLST a")
    assert client.sendcmd("MDTM a").startswith("213 ")
    shown: list[str] = []
    client.retrlines("LIST", shown.append)
    client.retrlines("LIST a", shown.append)
    assert [line.split()[4] for line in shown] == [str(len(HALF))] * 2
    with pytest.raises(ftplib.error_perm, match="550"):
        fetch(client, "a")
    assert ask(client, "RNFR a").startswith("550")
    assert store(client, "a", REST, offset=len(HALF)).startswith("226")
    assert running.bytes_of("/d/a") == HALF + REST
    assert sizes(client) == {"a": len(HALF + REST)}
    assert running.vfs.load_records("ftp") == {}


def test_a_partial_is_cut_back_to_the_offset(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    assert store(client, "a", REST, offset=1000).startswith("226")
    assert running.bytes_of("/a") == HALF[:1000] + REST


def test_an_offset_beyond_a_partial_is_refused(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    assert store(client, "a", REST, offset=len(HALF) + 1).startswith("554")
    assert client.size("a") == len(HALF)
    assert store(client, "a", REST, offset=len(HALF)).startswith("226")


def test_append_continues_a_partial(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    assert store(client, "a", REST, command="APPE").startswith("226")
    assert running.bytes_of("/a") == HALF + REST


def test_a_continued_upload_that_breaks_off_again(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    client.sendcmd(f"REST {len(HALF)}")
    connection = begin_upload(client, "STOR a")
    connection.sendall(REST)
    eventually(lambda: f"received: {len(REST)}" in client.sendcmd("STAT"))
    assert ask(client, "SIZE a").startswith("550"), "it is being continued"
    reset(connection)
    assert reply(client).startswith("426")
    assert client.size("a") == len(HALF + REST)
    assert len(running.vfs.load_records("ftp")) == 1
    assert store(client, "a", b"end", offset=len(HALF + REST)).startswith("226")
    assert running.bytes_of("/a") == HALF + REST + b"end"


def test_only_one_session_continues_a_partial(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    client.sendcmd(f"REST {len(HALF)}")
    connection = begin_upload(client, "STOR a")
    with running.login() as other:
        assert store(other, "a", REST, offset=len(HALF)).startswith("554")
    connection.sendall(REST)
    connection.close()
    assert reply(client).startswith("226")
    assert running.bytes_of("/a") == HALF + REST


def test_a_partial_belongs_to_its_user(running: RunningDoor) -> None:
    break_off(running.port, "a", HALF)
    with running.login("bob", "other") as bob:
        assert sizes(bob) == {}
        assert ask(bob, "SIZE a").startswith("550")
        assert store(bob, "a", REST, offset=len(HALF)).startswith("554")
        assert store(bob, "a", b"bob's").startswith("226")
    with running.login() as ann:
        assert sizes(ann) == {"a": 5}
        assert running.vfs.load_records("ftp") == {}, "the name has got a whole file"


def test_a_new_upload_replaces_a_partial(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    break_off(running.port, "a", REST)
    assert client.size("a") == len(REST)
    assert len(running.vfs.load_records("ftp")) == 1
    assert store(client, "a", b"whole").startswith("226")
    assert running.bytes_of("/a") == b"whole"
    assert running.vfs.load_records("ftp") == {}


def test_a_partial_can_be_deleted(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    client.delete("a")
    assert sizes(client) == {}
    assert running.vfs.load_records("ftp") == {}
    assert ask(client, "DELE a").startswith("550")


def test_a_partial_moves_with_its_folder(running: RunningDoor, client: ftplib.FTP) -> None:
    client.mkd("d")
    break_off(running.port, "d/a", HALF)
    client.rename("d", "e")
    assert sizes(client, "e") == {"a": len(HALF)}
    assert store(client, "e/a", REST, offset=len(HALF)).startswith("226")
    assert running.bytes_of("/e/a") == HALF + REST


def test_partials_survive_a_restart_and_bad_records_do_not() -> None:
    vfs = MemoryVfs()
    with door(vfs) as running:
        break_off(running.port, "a", HALF)
    vfs.save_record("ftp", "nonsense", b"{")
    with door(vfs) as running, running.login() as client:
        assert client.size("a") == len(HALF)
        assert len(vfs.load_records("ftp")) == 1
        assert store(client, "a", REST, offset=len(HALF)).startswith("226")
        assert running.bytes_of("/a") == HALF + REST


def test_no_name_is_readable_in_a_record_key(running: RunningDoor) -> None:
    break_off(running.port, "secret-name", HALF)
    (key,) = running.vfs.load_records("ftp")
    assert "secret" not in key


def test_a_partial_whose_bytes_are_gone_is_forgotten(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    running.on_loop(running.vfs._kept_drafts.clear)
    assert store(client, "a", REST, offset=len(HALF)).startswith("554")
    assert sizes(client) == {}
    assert running.vfs.load_records("ftp") == {}


def test_old_partials_and_those_of_removed_folders_expire() -> None:
    vfs = MemoryVfs()
    with door(vfs) as running, running.login() as client:
        client.mkd("d")
        break_off(running.port, "d/a", HALF)
        break_off(running.port, "old", HALF)
        break_off(running.port, "new", HALF)
        client.rmd("d")
    assert len(vfs.load_records("ftp")) == 3
    for key, value in vfs.load_records("ftp").items():
        record = json.loads(value)
        if record["name"] == "old":
            record["since"] -= partials.KEPT_FOR + 1
            vfs.save_record("ftp", key, json.dumps(record).encode())
    with door(vfs):
        eventually(lambda: len(vfs.load_records("ftp")) == 1)
    assert len(vfs._kept_drafts) == 1


def test_the_week_is_a_week() -> None:
    assert partials.KEPT_FOR == 7 * 24 * 3600


# Over an older file


def test_new_bytes_never_follow_old_ones(running: RunningDoor, client: ftplib.FTP) -> None:
    """A client whose upload over an older file broke off asks SIZE, is told the old file's, and goes on there."""
    old = b"o" * 150_000
    running.put("/a", old)
    break_off(running.port, "a", HALF)
    assert client.size("a") == len(old)
    assert fetch(client, "a") == old
    assert store(client, "a", REST, offset=len(old)).startswith("554")
    assert store(client, "a", REST, command="APPE").startswith("450")
    assert running.bytes_of("/a") == old
    assert store(client, "a", REST, offset=len(HALF)).startswith("226")
    assert running.bytes_of("/a") == HALF + REST


def test_an_append_that_breaks_off_changes_nothing(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/log", b"one")
    connection = begin_upload(client, "APPE log")
    connection.sendall(b"two")
    eventually(lambda: "received: 3" in client.sendcmd("STAT"))
    reset(connection)
    assert reply(client).startswith("426")
    assert running.bytes_of("/log") == b"one"
    assert store(client, "log", b"two", command="APPE").startswith("226")
    assert running.bytes_of("/log") == b"onetwo"
    assert running.vfs.open_handles == 0


def test_a_partial_is_stale_when_another_door_made_the_file(running: RunningDoor, client: ftplib.FTP) -> None:
    break_off(running.port, "a", HALF)
    running.put("/a", b"from elsewhere")
    assert client.size("a") == 14
    assert sizes(client) == {"a": 14}
    assert fetch(client, "a") == b"from elsewhere"
    assert store(client, "a", b"!", offset=14).startswith("226")
    assert running.bytes_of("/a") == b"from elsewhere!"
    assert running.vfs.load_records("ftp") == {}


def test_many_small_uploads_leave_nothing_behind(running: RunningDoor, client: ftplib.FTP) -> None:
    for number in range(50):
        assert store(client, f"f{number}", str(number).encode()).startswith("226")
    assert sizes(client) == {f"f{number}": len(str(number)) for number in range(50)}
    assert running.vfs.open_handles == 0
    assert running.vfs.load_records("ftp") == {}


def test_226_waits_for_the_journal() -> None:
    """The reply must not come before ``publish`` has returned."""

    class Slow(MemoryVfs):
        async def publish(self, *args: object, **kwargs: object) -> tuple[Attributes, bool]:
            reached.set()
            await may_go_on.wait()
            return await super().publish(*args, **kwargs)  # type: ignore[arg-type]

    reached, may_go_on = threading.Event(), trio.Event()
    with door(Slow()) as running, running.login() as client:
        connection = begin_upload(client, "STOR a")
        connection.close()
        assert reached.wait(TIMEOUT)
        assert client.sock is not None
        assert not select.select([client.sock], [], [], 0.2)[0]
        running.on_loop(may_go_on.set)
        assert reply(client).startswith("226")
