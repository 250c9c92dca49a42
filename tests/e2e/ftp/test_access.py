"""Who gets in: passwords, throttling, TLS."""

from __future__ import annotations

import ftplib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from serpentfs.errors import UsageError
from serpentfs.gateways.access import TlsFiles
from serpentfs.gateways.ftp import control
from serpentfs.gateways.ftp.transfers import DataConnection
from tests.e2e.ftp.harness import (
    TIMEOUT,
    RunningDoor,
    ask,
    break_off,
    door,
    eventually,
    fetch,
    open_data,
    options,
    reply,
    reset,
    store,
    tls_client,
    write_certificate,
)
from tests.fakes.memory_vfs import MemoryVfs


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def running() -> Iterator[RunningDoor]:
    with door() as running:
        yield running


def connect(running: RunningDoor) -> ftplib.FTP:
    client = ftplib.FTP(timeout=TIMEOUT)
    client.connect("127.0.0.1", running.port)
    return client


# Passwords


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "wrong"), ("ann", ""), ("nobody", "secret"), ("anonymous", ""), ("ann", "other"), ("anonymous", "a@b")],
)
def test_who_does_not_get_in(running: RunningDoor, user: str, password: str) -> None:
    client = connect(running)
    ask(client, f"USER {user}")
    assert ask(client, f"PASS {password}".strip()).startswith("530")
    for command in ("LIST", "STOR x", "PWD", "MLST", "EPSV", "STAT /"):
        assert ask(client, command).startswith("530")
    client.close()


def test_order_of_login(running: RunningDoor) -> None:
    client = connect(running)
    assert ask(client, "PASS secret").startswith("503")
    assert ask(client, "USER ann").startswith("331")
    assert ask(client, "PASS secret").startswith("230")
    assert ask(client, "PASS secret").startswith("503")
    assert ask(client, "REIN").startswith("230")
    assert ask(client, "PWD").startswith("530")
    client.close()


def test_three_wrong_passwords_end_the_connection_and_more_the_address(running: RunningDoor) -> None:
    client = connect(running)
    for _ in range(3):
        ask(client, "USER ann")
        assert ask(client, "PASS wrong").startswith("530")
    with pytest.raises(EOFError):
        client.getline()
    client = connect(running)
    for _ in range(2):
        ask(client, "USER ann")
        assert ask(client, "PASS wrong").startswith("530")
    ask(client, "USER ann")
    assert ask(client, "PASS secret").startswith("421"), "not even the right one"
    with pytest.raises(EOFError):
        client.getline()


def test_no_auth_lets_everybody_in() -> None:
    with door(options=options(users={}, no_auth=True)) as running:
        with running.login("anonymous", "") as client:
            assert store(client, "a", b"x").startswith("226")
        with running.login("whoever", "whatever") as client:
            assert fetch(client, "a") == b"x"


def test_who_does_not_log_in_is_let_go(running: RunningDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LOGIN_TIME", 0.1)
    client = connect(running)
    assert reply(client).startswith("421")
    with pytest.raises(EOFError):
        client.getline()


def test_who_says_nothing_is_let_go(running: RunningDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control.Control, "timeout", 0.1)
    client = running.login()
    assert reply(client).startswith("421")


def test_there_is_a_most_number_of_sessions(running: RunningDoor) -> None:
    sessions = [running.login() for _ in range(64)]
    with pytest.raises(ftplib.error_temp, match="421"):
        running.login()
    sessions.pop().quit()

    def again() -> bool:
        try:
            sessions.append(running.login())
        except ftplib.error_temp:
            return False
        return True

    eventually(again)
    for client in sessions:
        client.close()


def test_connections_that_are_reset_at_once_do_no_harm(running: RunningDoor) -> None:
    for _ in range(50):
        reset(socket.create_connection(("127.0.0.1", running.port), TIMEOUT))
    with running.login() as client:
        assert ask(client, "NOOP").startswith("200")


# TLS


def test_tls_both_ways(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running:
        client = tls_client(running)
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == "TLSv1.3"
        for size in (0, 1, 16384, 3_000_001):
            data = os.urandom(size)
            assert store(client, "a", data).startswith("226")
            assert running.bytes_of("/a") == data
            assert fetch(client, "a") == data
        assert [name for name, _ in client.mlsd()] == ["a"]
        client.prot_c()
        assert fetch(client, "a") == data
        client.quit()


def test_tls_1_2_both_ways(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running:
        client = tls_client(running, login=False)
        client.context.maximum_version = ssl.TLSVersion.TLSv1_2
        client.login("ann", "secret")
        client.prot_p()
        assert client.sock.version() == "TLSv1.2"  # type: ignore[union-attr]
        data = os.urandom(1_000_000)
        assert store(client, "a", data).startswith("226")
        assert fetch(client, "a") == data


def test_tls_is_offered_on_loopback_and_required_off_it(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running, running.login() as client:
        assert " AUTH TLS" in client.sendcmd("FEAT").splitlines()
        assert store(client, "a", b"clear").startswith("226")
    with door(options=options(tls=certificate, host="0.0.0.0", public=True)) as running:
        client = connect(running)
        assert ask(client, "USER ann").startswith("530")
        assert ask(client, "PASS secret").startswith("530")
        client.close()
        client = tls_client(running, protect=False)
        open_data(client).close()
        assert ask(client, "STOR a").startswith("521")
        assert ask(client, "LIST").startswith("521")
        client.prot_p()
        assert store(client, "a", b"private").startswith("226")
        client.quit()


def test_clear_text_pipelined_after_auth_tls_does_not_run_inside_tls(certificate: TlsFiles) -> None:
    vfs = MemoryVfs()
    with door(vfs, options(tls=certificate)) as running:
        client = tls_client(running, login=False)
        assert client.sock is not None
        client.sock.sendall(b"USER ann\r\nAUTH TLS\r\nPASS secret\r\nMKD injected\r\nNOOP\r\nUSER bob")
        assert reply(client).startswith("331")
        assert reply(client).startswith("234")
        client.sock = client.context.wrap_socket(client.sock)
        client.file = client.sock.makefile(mode="r", encoding="utf-8")
        assert ask(client, "STAT").startswith("211"), "the first answer inside TLS is to the first command inside"
        assert ask(client, "PASS secret").startswith("503"), "nothing that was said in clear text counts"
        assert ask(client, "MKD mine").startswith("530")
        client.close()
    assert [entry.name for entry in vfs.readdir(vfs.resolve("/").ino)] == []


def test_a_login_in_clear_text_does_not_count_under_tls(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running:
        client = tls_client(running, login=False)
        client.login("ann", "secret", secure=False)
        client.auth()
        assert ask(client, "PWD").startswith("530")
        assert ask(client, "AUTH TLS").startswith("503")
        client.close()


def test_garbage_instead_of_a_handshake(certificate: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    with door(options=options(tls=certificate)) as running:
        client = tls_client(running, login=False)
        assert ask(client, "AUTH TLS").startswith("234")
        assert client.sock is not None
        client.sock.sendall(b"USER ann\r\n" * 10)
        eventually(lambda: client.sock is not None and _is_closed(client.sock))
        client = tls_client(running)
        data = open_data(client)
        assert ask(client, "STOR a").startswith("1")
        data.sendall(b"clear text where TLS was promised" * 10)
        assert reply(client).startswith("522")
        assert ask(client, "SIZE a").startswith("550")
        assert store(client, "a", b"x").startswith("226")
        client.quit()
    assert "Traceback" not in caplog.text


def _is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(65536)
    except ConnectionResetError:
        return True


def test_prot_needs_tls_and_pbsz(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running:
        with running.login() as client:
            assert ask(client, "PBSZ 0").startswith("503")
            assert ask(client, "PROT P").startswith("503")
        secured = tls_client(running, protect=False)
        assert ask(secured, "PROT P").startswith("503")
        assert ask(secured, "PBSZ 0").startswith("200")
        assert ask(secured, "PROT S").startswith("536")
        assert ask(secured, "PROT P").startswith("200")
        secured.quit()


def test_an_upload_without_close_notify_is_broken_off(certificate: TlsFiles) -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/a", b"old")
    with door(vfs, options(tls=certificate)) as running:
        client = tls_client(running)
        with client.transfercmd("STOR a") as connection:
            connection.sendall(b"the first half")
            connection.shutdown(socket.SHUT_WR)   # FIN, and no TLS alert: anybody on the way can do that
            assert reply(client).startswith("426")
        assert running.bytes_of("/a") == b"old"
        assert store(client, "a", b" and the second", offset=14).startswith("226")
        assert running.bytes_of("/a") == b"the first half and the second"
        client.quit()


def test_a_reset_under_tls(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running:
        client = tls_client(running)
        connection = client.transfercmd("STOR a")
        connection.sendall(b"x")
        reset(connection)
        assert reply(client).startswith("426")
        client.quit()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what has arrived")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_has_it_all_may_close_before_the_end_of_tls(
    certificate: TlsFiles, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """curl asks for the size, and does; its system resets the connection for our ``close_notify``."""
    end_tls, may_end = DataConnection.end_tls, threading.Event()

    def end_later(connection: DataConnection) -> bool:
        return may_end.wait(TIMEOUT) and end_tls(connection)

    monkeypatch.setattr(DataConnection, "end_tls", end_later)
    vfs = MemoryVfs()
    vfs.cloud_put("/a", bytes(200_000))
    with door(vfs, options(tls=certificate)) as running:
        client = tls_client(running)
        client.context.maximum_version = version
        client.voidcmd("TYPE I")
        connection = client.transfercmd("RETR a")
        missing = 200_000
        while missing:
            missing -= len(connection.recv(missing))
        connection.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            connection.unwrap()  # type: ignore[attr-defined]
        connection.close()
        may_end.set()
        assert reply(client).startswith("226")
        client.quit()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what has arrived")
def test_a_client_that_closes_before_it_has_all_is_told_so(certificate: TlsFiles) -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/a", bytes(200_000))
    with door(vfs, options(tls=certificate)) as running:
        client = tls_client(running)
        raw = open_data(client, receive_buffer=4096)   # so that the rest lies in the buffers here
        client.sendcmd("RETR a")
        connection = client.context.wrap_socket(raw)
        assert connection.recv(100_000)
        connection.close()
        assert reply(client).startswith("426")
        client.quit()


def test_a_download_under_tls_ends_with_close_notify(certificate: TlsFiles) -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/a", b"x" * 500_000)
    with door(vfs, options(tls=certificate)) as running:
        client = tls_client(running)
        client.voidcmd("TYPE I")
        connection = client.transfercmd("RETR a")
        assert isinstance(connection, ssl.SSLSocket)
        connection.suppress_ragged_eofs = False   # type: ignore[attr-defined]  # a bare end raises SSLEOFError now
        received = 0
        while data := connection.recv(65536):
            received += len(data)
        assert received == 500_000
        connection.close()
        assert reply(client).startswith("226")
        client.quit()


def test_abort_under_tls(certificate: TlsFiles) -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/big", bytes(20_000_000))
    with door(vfs, options(tls=certificate)) as running:
        client = tls_client(running)
        client.voidcmd("TYPE I")
        connection = client.transfercmd("RETR big")
        connection.recv(10)
        assert ask(client, "ABOR").startswith("426")
        assert reply(client).startswith("226")
        assert fetch(client, "big") == bytes(20_000_000)
        client.quit()


def test_partials_under_tls(certificate: TlsFiles) -> None:
    with door(options=options(tls=certificate)) as running:
        break_off(running.port, "a", b"clear")
        client = tls_client(running)
        assert store(client, "a", b" and secured", offset=5).startswith("226")
        assert running.bytes_of("/a") == b"clear and secured"
        client.quit()


def test_a_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "absent", tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot read"), door(options=options(tls=files)):
        pass
