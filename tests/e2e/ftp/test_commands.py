"""Commands of the FTP door, one after the other, over a drive in memory."""

from __future__ import annotations

import ftplib
import os
import re
import select
import socket
import sys
import threading
from collections.abc import Iterator

import pytest
import trio

from serpentfs.clouds.base import Capabilities
from serpentfs.errors import Busy, NotADirectory, NotFound, Unavailable, UsageError
from serpentfs.gateways.ftp import server
from serpentfs.model import ROOT_INO, Attributes, DirEntry, HandleId, Ino, Quota
from tests.e2e.ftp.harness import (
    TIMEOUT,
    RunningDoor,
    ask,
    begin_upload,
    door,
    eventually,
    fetch,
    fill,
    open_data,
    options,
    reply,
    reset,
    store,
)
from tests.fakes.memory_vfs import MemoryVfs


@pytest.fixture
def running() -> Iterator[RunningDoor]:
    with door() as running:
        yield running


@pytest.fixture
def client(running: RunningDoor) -> Iterator[ftplib.FTP]:
    with running.login() as client:
        yield client


def listed(client: ftplib.FTP, path: str = "") -> dict[str, dict[str, str]]:
    return dict(client.mlsd(path))


def lines(client: ftplib.FTP, command: str) -> list[str]:
    collected: list[str] = []
    client.retrlines(command, collected.append)
    return collected


# Files


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_001])
def test_what_is_stored_is_fetched(running: RunningDoor, client: ftplib.FTP, size: int) -> None:
    data = os.urandom(size)
    assert store(client, "/a.bin", data).startswith("226")
    assert running.bytes_of("/a.bin") == data
    assert fetch(client, "a.bin") == data
    assert client.size("a.bin") == size


def test_a_file_is_there_when_226_comes(running: RunningDoor, client: ftplib.FTP) -> None:
    connection = begin_upload(client, "STOR a")
    connection.sendall(b"half")
    assert ask(client, "SIZE a").startswith("550"), "nobody sees half a file"
    connection.close()
    assert reply(client).startswith("226")
    assert running.bytes_of("/a") == b"half"


def test_type_a_changes_no_bytes(running: RunningDoor, client: ftplib.FTP) -> None:
    data = b"one\ntwo\r\nthree\r"
    client.voidcmd("TYPE A")
    connection = open_data(client)
    client.sendcmd("STOR text")
    connection.sendall(data)
    connection.close()
    assert reply(client).startswith("226")
    assert running.bytes_of("/text") == data
    client.voidcmd("TYPE A")
    assert client.sendcmd("SIZE text") == f"213 {len(data)}"
    connection = open_data(client)
    client.sendcmd("RETR text")
    assert connection.makefile("rb").read() == data


def test_what_is_sent_ahead_of_the_150_is_not_lost(running: RunningDoor, client: ftplib.FTP) -> None:
    client.voidcmd("TYPE I")
    connection = open_data(client)
    connection.sendall(b"early")
    connection.close()
    client.putcmd("STOR a")
    assert reply(client).startswith(("125", "150"))
    assert reply(client).startswith("226")
    assert running.bytes_of("/a") == b"early"


def test_a_download_from_an_offset(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/a", b"0123456789")
    assert fetch(client, "a", offset=7) == b"789"
    assert fetch(client, "a", offset=10) == b""
    client.sendcmd("REST 11")
    open_data(client).close()
    assert ask(client, "RETR a").startswith("554")
    assert fetch(client, "a") == b"0123456789", "an offset is for one command"


@pytest.mark.parametrize("argument", ["-1", "x", "1_0", "+5", "9" * 30])
def test_rest_wants_a_number(client: ftplib.FTP, argument: str) -> None:
    assert ask(client, f"REST {argument}").startswith("501")


def test_append(running: RunningDoor, client: ftplib.FTP) -> None:
    assert store(client, "log", b"one,", command="APPE").startswith("226")
    assert store(client, "log", b"two,", command="APPE").startswith("226")
    assert running.bytes_of("/log") == b"one,two,"


def test_store_from_an_offset_of_a_whole_file(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/a", b"0123456789")
    assert store(client, "a", b"abc", offset=4).startswith("226")
    assert running.bytes_of("/a") == b"0123abc"
    assert store(client, "a", b"x", offset=8).startswith("554")
    assert running.bytes_of("/a") == b"0123abc"


def test_store_from_an_offset_of_a_file_that_changes_meanwhile(
    running: RunningDoor, client: ftplib.FTP
) -> None:
    running.put("/a", b"0123456789")
    client.sendcmd("REST 4")
    connection = begin_upload(client, "STOR a")
    connection.sendall(b"abc")
    running.put("/a", b"somebody else's")
    connection.close()
    assert reply(client).startswith("450")
    assert running.bytes_of("/a") == b"somebody else's"


def test_store_unique(running: RunningDoor, client: ftplib.FTP) -> None:
    names = set()
    for content in (b"1", b"2"):
        client.voidcmd("TYPE I")
        connection = open_data(client)
        match = re.fullmatch(r"1[25][05] FILE: (\S+)", client.sendcmd("STOU note"))
        assert match
        connection.sendall(content)
        connection.close()
        assert reply(client).startswith("226")
        assert running.bytes_of(f"/{match[1]}") == content
        names.add(match[1])
    assert len(names) == 2


def test_a_folder_is_not_a_file(running: RunningDoor, client: ftplib.FTP) -> None:
    client.mkd("d")
    assert store(client, "d", b"x").startswith("550")
    assert store(client, "d", b"x", command="APPE").startswith("550")
    assert ask(client, "SIZE d").startswith("550")
    with pytest.raises(ftplib.error_perm, match="550"):
        fetch(client, "d")
    assert ask(client, "DELE d").startswith("550")


@pytest.mark.parametrize("command", ["RETR", "SIZE", "MDTM", "DELE", "CWD", "RMD", "RNFR", "MLST", "MLSD", "LIST"])
def test_what_is_missing_is_550(client: ftplib.FTP, command: str) -> None:
    if command in ("RETR", "MLSD", "LIST"):
        open_data(client).close()
    assert ask(client, f"{command} nothing/at/all").startswith("550")
    if command in ("RETR", "MLSD", "LIST"):
        open_data(client).close()
    assert ask(client, f"{command} nothing").startswith("550")


def test_mlsd_of_a_missing_folder_is_550_and_not_501(client: ftplib.FTP) -> None:
    with pytest.raises(ftplib.error_perm, match=r"^550"):
        listed(client, "missing")


# Names


@pytest.mark.parametrize("name", ["naïve", "日本語.txt", " leading and trailing ", 'a "quoted" name', "a;b=c", "-la"])
def test_names_survive(running: RunningDoor, client: ftplib.FTP, name: str) -> None:
    assert store(client, f"/{name}", b"x").startswith("226")
    assert running.bytes_of(f"/{name}") == b"x"
    assert list(listed(client)) == [name]
    assert fetch(client, f"/{name}") == b"x"
    client.mkd(f"/{name}.d")
    client.cwd(f"/{name}.d")
    assert client.pwd() == f"/{name}.d"
    assert lines(client, "NLST ..") == [f"../{name}", f"../{name}.d"]


def test_features(client: ftplib.FTP) -> None:
    features = client.sendcmd("FEAT").splitlines()
    for feature in (" UTF8", " MFMT", " REST STREAM", " EPSV", " EPRT", " SIZE", " MDTM", " AVBL"):
        assert feature in features
    assert " MLST type*;size*;modify*;perm*;unique*;unix.mode*;" in features
    assert not any("AUTH" in feature for feature in features)
    assert client.sendcmd("OPTS UTF8 ON").startswith("200")
    assert ask(client, "AUTH TLS").startswith("500")


def test_a_name_that_is_not_utf8_is_refused(running: RunningDoor) -> None:
    with running.login(encoding="latin-1") as client:
        assert store(client, "na\xefve", b"x").startswith("553")
        assert ask(client, "MKD na\xefve").startswith("553")
        assert ask(client, "SIZE na\xefve").startswith("550")
        assert ask(client, "NOOP").startswith("200")


def test_names_that_are_too_long_are_refused_at_once() -> None:
    with door(MemoryVfs(capabilities=Capabilities(longest_name_bytes=20))) as running, running.login() as client:
        open_data(client).close()
        assert ask(client, "STOR " + "ä" * 11).startswith("553")
        assert ask(client, "MKD " + "ä" * 11).startswith("553")


@pytest.mark.parametrize("name", ["a\0b", "a\rb", "a\nb"])
def test_control_characters_are_refused(running: RunningDoor, client: ftplib.FTP, name: str) -> None:
    assert client.sock is not None
    for command in ("MKD", "CWD", "DELE", "SIZE"):
        client.sock.sendall(f"{command} {name}\r\n".encode())
        assert reply(client).startswith("553")
    assert listed(client) == {}


def test_a_newline_in_a_name_forges_nothing(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/a\r\nType=file; forged", b"x")
    assert list(listed(client)) == ["a??Type=file; forged"]
    assert len(lines(client, "LIST")) == 1
    assert len(lines(client, "NLST")) == 1


def test_an_overlong_line_is_dropped_whole(client: ftplib.FTP) -> None:
    assert client.sock is not None
    client.sock.sendall(b"MKD " + b"x" * 100_000 + b"\r\nNOOP\r\n")
    assert reply(client).startswith("500")
    assert reply(client).startswith("200")


# Folders


def test_working_folder(running: RunningDoor, client: ftplib.FTP, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the process's folder must stay")

    monkeypatch.setattr(os, "chdir", forbidden)
    before = os.getcwd()
    client.mkd("a")
    client.mkd("/a/b")
    client.cwd("a")
    assert client.sendcmd("CWD b") == '250 "/a/b" is the current folder.'
    assert client.pwd() == "/a/b"
    client.sendcmd("CDUP")
    assert client.pwd() == "/a"
    client.cwd("../../../..")
    assert client.pwd() == "/"
    running.put("/f", b"")
    assert ask(client, "CWD f").startswith("550")
    assert os.getcwd() == before


def test_two_sessions_have_two_working_folders(running: RunningDoor) -> None:
    with running.login() as one, running.login() as other:
        one.mkd("a")
        one.cwd("a")
        assert (one.pwd(), other.pwd()) == ("/a", "/")


def test_make_rename_remove(running: RunningDoor, client: ftplib.FTP) -> None:
    assert client.mkd('say "hi"') == '/say "hi"'
    assert ask(client, 'MKD say "hi"').startswith("550")
    assert ask(client, "MKD no/such").startswith("550")
    client.rename('say "hi"', "d")
    running.put("/d/f", b"f")
    running.put("/g", b"g")
    assert ask(client, "RMD d").startswith("550")
    assert ask(client, "RMD g").startswith("550")
    client.rename("g", "d/f")
    assert running.bytes_of("/d/f") == b"g"
    client.delete("d/f")
    client.rmd("d")
    assert listed(client) == {}
    assert ask(client, "RNTO x").startswith("503")


@pytest.mark.parametrize("command", ["RMD /", "DELE /", "RNFR /", "RMD .."])
def test_the_root_stays(client: ftplib.FTP, command: str) -> None:
    assert ask(client, command).startswith("550")


# Listings


def test_mlsd_facts(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/f", b"12345")
    client.mkd("d")
    client.sendcmd("MFMT 20200229123456.789 f")
    facts = listed(client)
    ino = running.on_loop(running.vfs.resolve, "/f").ino
    assert facts["f"] == {
        "type": "file", "size": "5", "modify": "20200229123456.789", "perm": "adfrw",
        "unique": f"{ino:x}", "unix.mode": "0644",
    }   # fmt: skip
    assert facts["d"]["type"] == "dir"
    assert facts["d"]["perm"] == "cdeflmp"
    client.sendcmd("OPTS MLST size;type;")
    assert listed(client)["f"] == {"type": "file", "size": "5"}
    assert client.sendcmd("MLST f") == "250-Facts\n size=5;type=file; /f\n250 End."


def test_mlst(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/d/f", b"1")
    client.cwd("d")
    for argument, shown in (("f", "/d/f"), ("", "/d"), ("/", "/")):
        answer = client.sendcmd(f"MLST {argument}".strip()).splitlines()
        assert answer[1].startswith(" type=")
        assert answer[1].endswith(f"; {shown}")


class CountingVfs(MemoryVfs):
    listings = 0

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        self.listings += 1
        return super().readdir(ino, after, limit)


@pytest.mark.parametrize("command", ["MLSD", "LIST"])
def test_a_listing_is_made_again_only_after_a_change(command: str) -> None:
    vfs = CountingVfs()
    with door(vfs) as running, running.login() as client, running.login("bob", "other") as other:
        running.put("/d/f", b"1")
        running.put("/d/g", b"1")
        first = lines(client, f"{command} d")
        made = vfs.listings
        assert lines(client, f"{command} d") == first
        assert vfs.listings == made
        running.put("/d/g", b"123")
        second = lines(client, f"{command} d")
        assert len(second) == len(first)
        assert second != first
        assert lines(client, f"{command} d") == second
        client.sendcmd("OPTS MLST size;")
        assert (lines(client, f"{command} d") != second) == (command == "MLSD")
        connection = begin_upload(client, "STOR d/partial")
        connection.sendall(b"part")
        eventually(lambda: "received: 4" in client.sendcmd("STAT"))
        reset(connection)
        reply(client)
        assert len(lines(client, f"{command} d")) == len(first) + 1, "one's own partial upload is shown"
        assert len(lines(client, f"{command} d")) == len(first) + 1
        assert len(lines(other, f"{command} d")) == len(first), "and nobody else's"


def test_list_looks_like_ls(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/f", b"12345")
    client.mkd("d")
    client.sendcmd("MFMT 19991231235959 f")
    shown = lines(client, "LIST")
    assert re.fullmatch(r"-rw-r--r-- +1 ann +ann +5 Dec 31  1999 f", shown[0])
    assert re.fullmatch(r"drwxr-xr-x +\d+ ann +ann +0 [A-Z][a-z]{2} [ \d]\d \d\d:\d\d d", shown[1])


@pytest.mark.parametrize("argument", ["-a", "-la", "-l -a", "-al .", "", ".", "/", "-aL /"])
def test_list_with_odd_arguments(running: RunningDoor, client: ftplib.FTP, argument: str) -> None:
    running.put("/f", b"12345")
    assert [line.split()[-1] for line in lines(client, f"LIST {argument}".strip())] == ["f"]
    assert [name.split("/")[-1] for name in lines(client, f"NLST {argument}".strip())] == ["f"]


def test_list_of_one_file_and_of_a_pattern(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/with-a/trailing-a", b"")
    assert lines(client, "NLST with-a") == ["with-a/trailing-a"]
    assert [line.split()[-1] for line in lines(client, "LIST with-a/trailing-a")] == ["trailing-a"]
    for name in ("a.txt", "b.txt", "c.dat", "[x]"):
        running.put(f"/d/{name}", b"")
    assert [line.split()[-1] for line in lines(client, "LIST d/a.txt")] == ["a.txt"]
    assert lines(client, "NLST d/*.txt") == ["d/a.txt", "d/b.txt"]
    assert lines(client, "NLST d/[x]") == ["d/[x]"], "a name that is there is no pattern"
    assert lines(client, "NLST d/*.none") == []
    assert lines(client, "NLST d") == ["d/a.txt", "d/b.txt", "d/c.dat", "d/[x]"]
    assert "a.txt" in client.sendcmd("STAT d/a.txt")


def test_a_folder_of_many_entries(running: RunningDoor, client: ftplib.FTP) -> None:
    names = {f"file {number}" for number in range(1500)}

    def make_them() -> None:
        for name in names:
            fill(running.vfs, f"/d/{name}", b"")

    running.on_loop(make_them)
    assert set(listed(client, "d")) == names
    assert len(lines(client, "LIST d")) == 1500


# Times, modes, space


def test_times(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/f", b"")
    assert client.sendcmd("MFMT 20010203040506 f") == "213 Modify=20010203040506; /f"
    assert client.sendcmd("MDTM f") == "213 20010203040506"
    assert client.sendcmd("MFMT 20010203040506.25 f") == "213 Modify=20010203040506.250; /f"
    assert running.on_loop(running.vfs.resolve, "/f").mtime_ns == 981_173_106_250_000_000
    assert client.sendcmd("MFMT 19600101000000 f") == "213 Modify=19600101000000; /f"
    for wrong in ("2001", "20011301000000", "x" * 14, "20010203040506.x"):
        assert ask(client, f"MFMT {wrong} f").startswith("550")
    assert ask(client, "MFMT 20010203040506").startswith("501")


def test_chmod(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/f", b"")
    assert client.sendcmd("SITE CHMOD 600 f").startswith("200")
    assert listed(client)["f"]["unix.mode"] == "0600"
    assert ask(client, "SITE CHMOD 999 f").startswith("501")


def test_available_space() -> None:
    with door(MemoryVfs(quota=Quota(100, 58, 42))) as running, running.login() as client:
        assert client.sendcmd("AVBL") == "213 42"
        running.vfs.quota = Quota(None, None, None)
        assert ask(client, "AVBL /").startswith("550")


# Links


def test_links(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/d/f", b"content")
    for name, target in (
        ("to-file", "d/f"), ("to-folder", "d"), ("broken", "nothing"), ("loop", "loop"),
        ("out", "../../etc/passwd"), ("absolute", "/d/f"), ("up", "d/../d/./f"),
    ):   # fmt: skip
        running.perform(_symlink, running.vfs, name, target)
    assert fetch(client, "to-file") == b"content"
    assert fetch(client, "to-folder/f") == b"content"
    assert fetch(client, "up") == b"content"
    assert client.size("to-file") == 7
    for name in ("broken", "loop", "out", "absolute"):
        assert ask(client, f"SIZE {name}").startswith("550")
    facts = listed(client)
    assert (facts["to-file"]["type"], facts["to-file"]["size"]) == ("file", "7")
    assert facts["to-folder"]["type"] == "OS.unix=slink:d"
    assert facts["loop"]["type"] == "OS.unix=slink:loop"
    assert any(line.startswith("l") and line.endswith("to-folder -> d") for line in lines(client, "LIST"))
    client.cwd("to-folder")
    assert list(listed(client)) == ["f"]
    client.cwd("/")
    assert store(client, "to-file", b"through").startswith("226")
    assert running.bytes_of("/d/f") == b"through"
    assert store(client, "broken", b"new").startswith("226")
    assert running.bytes_of("/nothing") == b"new"
    client.delete("to-file")
    assert running.bytes_of("/d/f") == b"through", "the link went, not the file"


async def _symlink(vfs: MemoryVfs, name: str, target: str) -> None:
    await vfs.symlink(ROOT_INO, name, target, door="mount")


def test_a_sub_folder_as_root() -> None:
    vfs = MemoryVfs()
    fill(vfs, "/private", b"secret")
    fill(vfs, "/shown/f", b"f")
    with door(vfs, options(root="/shown")) as running:
        shown = running.on_loop(vfs.resolve, "/shown").ino
        running.perform(_symlink_in, vfs, shown, "out", "../private")
        running.perform(_symlink_in, vfs, shown, "in", "f")
        with running.login() as client:
            assert set(listed(client)) == {"f", "out", "in"}
            assert listed(client)["in"]["type"] == "file"
            assert listed(client)["out"]["type"].startswith("OS.unix")
            for path in ("../private", "/../private", "/private", "out"):
                assert ask(client, f"SIZE {path}").startswith("550")
            assert fetch(client, "in") == b"f"
            assert store(client, "new", b"n").startswith("226")
            assert running.bytes_of("/shown/new") == b"n"


async def _symlink_in(vfs: MemoryVfs, parent: Ino, name: str, target: str) -> None:
    await vfs.symlink(parent, name, target, door="mount")


# Read-only


@pytest.mark.parametrize("by_core", [False, True])
def test_read_only(by_core: bool) -> None:
    vfs = MemoryVfs(read_only=by_core)
    fill(vfs, "/f", b"f")
    with door(vfs, options(read_only=not by_core)) as running, running.login() as client:
        assert fetch(client, "f") == b"f"
        open_data(client).close()
        for command in ("STOR f", "APPE f", "STOU f", "DELE f", "MKD d", "RMD d", "MFMT 20200101000000 f"):
            assert ask(client, command).startswith("550"), command
        if not by_core:
            assert listed(client)["f"]["perm"] == "r"
            assert listed(client)["f"]["unix.mode"] == "0444"
        assert running.bytes_of("/f") == b"f"


# Errors of the core


class Failing(MemoryVfs):
    """Raises ``failure`` where ``fails_at`` says."""

    fails_at = ""
    failure: Exception = Unavailable("the store does not answer")

    async def publish(self, *args: object, **kwargs: object) -> tuple[Attributes, bool]:
        if self.fails_at == "publish":
            raise self.failure
        return await super().publish(*args, **kwargs)  # type: ignore[arg-type]

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        if self.fails_at == "write":
            raise self.failure
        return await super().write(handle, offset, data)

    def read_nowait(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview | None:
        if self.fails_at == "read" and offset > 0:
            raise self.failure
        return super().read_nowait(handle, offset, size)

    async def discard(self, draft: HandleId) -> None:
        if self.fails_at == "discard":
            raise self.failure
        await super().discard(draft)

    async def release(self, handle: HandleId) -> None:
        await super().release(handle)
        if self.fails_at == "release":
            raise self.failure


CODES = [
    (Unavailable("gone"), "451 gone"),
    (Busy("busy"), "450 busy"),
    (RuntimeError("secret details"), "451 Internal error."),
]


@pytest.mark.parametrize("where", ["publish", "write"])
@pytest.mark.parametrize(("failure", "answer"), CODES)
def test_a_failing_upload_is_answered_and_the_old_file_stays(
    where: str, failure: Exception, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    vfs = Failing()
    fill(vfs, "/a", b"old")
    vfs.failure = failure
    with door(vfs) as running, running.login() as client:
        vfs.fails_at = where
        assert store(client, "a", b"new") == answer
        vfs.fails_at = ""
        assert running.bytes_of("/a") == b"old"
        assert store(client, "a", b"new").startswith("226")
        assert running.bytes_of("/a") == b"new"
    assert ("secret details" in caplog.text) is isinstance(failure, RuntimeError), "unexpected ones are logged"
    assert "secret" not in answer


def test_an_upload_whose_clearing_up_fails_is_still_answered(caplog: pytest.LogCaptureFixture) -> None:
    vfs = Failing()
    vfs.failure = RuntimeError("cannot close")
    with door(vfs) as running, running.login() as client:
        vfs.fails_at = "discard"
        connection = begin_upload(client, "STOR a")
        connection.close()
        assert reply(client).startswith("226")
        connection = begin_upload(client, "STOR b")
        assert ask(client, "ABOR").startswith("426")
        assert reply(client).startswith("226")
        assert ask(client, "NOOP").startswith("200")
    assert "cannot close" in caplog.text


def test_a_download_whose_release_fails_is_still_answered() -> None:
    vfs = Failing()
    fill(vfs, "/a", b"x")
    with door(vfs) as running, running.login() as client:
        vfs.fails_at = "release"
        assert fetch(client, "a") == b"x"
        assert ask(client, "NOOP").startswith("200")


def test_a_failing_download_is_reset_and_not_ended_in_order() -> None:
    vfs = Failing()
    fill(vfs, "/a", bytes(5_000_000))
    with door(vfs) as running, running.login() as client:
        vfs.fails_at = "read"
        client.voidcmd("TYPE I")
        connection = open_data(client)
        client.sendcmd("RETR a")
        with pytest.raises(ConnectionResetError):
            connection.makefile("rb").read()
        assert reply(client).startswith("451 the store does not answer")
        assert ask(client, "NOOP").startswith("200")
    assert vfs.open_handles == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what has arrived")
def test_226_means_that_the_client_has_it(running: RunningDoor, client: ftplib.FTP) -> None:
    """All of the file fits into the buffers here: nothing but an acknowledgement tells that it arrived."""
    running.put("/a", bytes(200_000))
    connection = open_data(client, receive_buffer=4096)
    client.sendcmd("RETR a")
    assert client.sock is not None
    assert not select.select([client.sock], [], [], 0.3)[0], "nobody has read it yet"
    reset(connection)
    assert reply(client).startswith("426")
    connection = open_data(client, receive_buffer=4096)
    client.sendcmd("RETR a")
    connection.shutdown(socket.SHUT_WR)   # a client that has nothing to say, but still reads
    assert not select.select([client.sock], [], [], 0.3)[0]
    assert connection.makefile("rb").read() == bytes(200_000)
    assert reply(client).startswith("226")
    connection.close()


def test_226_comes_to_clients_that_do_not_close_before_it(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/a", b"x" * 100_000)
    for command in ("RETR a", "LIST", "RETR a"):
        connection = open_data(client)
        client.sendcmd(command)
        assert connection.makefile("rb").read()
        assert reply(client).startswith("226")
        connection.close()


# Aborting and waiting


def test_abort_a_download(running: RunningDoor, client: ftplib.FTP) -> None:
    running.put("/big", bytes(50_000_000))
    client.voidcmd("TYPE I")
    connection = open_data(client)
    client.sendcmd("RETR big")
    connection.recv(10)
    assert ask(client, "ABOR").startswith("426")
    assert reply(client).startswith("226")
    eventually(lambda: running.vfs.open_handles == 0)
    assert fetch(client, "big") == bytes(50_000_000)


def test_a_client_that_goes_away_during_a_download_leaves_nothing_open(running: RunningDoor) -> None:
    running.put("/big", bytes(50_000_000))
    client = running.login()
    connection = open_data(client)
    client.sendcmd("RETR big")
    connection.recv(10)
    client.close()
    connection.close()
    eventually(lambda: running.vfs.open_handles == 0)


def test_one_transfer_at_a_time(running: RunningDoor, client: ftplib.FTP) -> None:
    connection = begin_upload(client, "STOR a")
    connection.sendall(b"1")
    assert ask(client, "STOR b").startswith("450")
    assert ask(client, "LIST").startswith("450")
    connection.close()
    assert reply(client).startswith("226")
    assert set(listed(client)) == {"a"}


def test_a_command_without_data_connection_is_told_so(client: ftplib.FTP) -> None:
    assert ask(client, "LIST").startswith("425")
    assert ask(client, "STOR x").startswith("425")


def test_a_command_whose_data_connection_never_came_is_forgotten(
    running: RunningDoor, client: ftplib.FTP
) -> None:
    client.sendcmd("EPSV")
    assert ask(client, "STOR a").startswith("150")
    connection = open_data(client)   # a new one: the STOR is forgotten
    connection.close()
    assert ask(client, "NOOP").startswith("200")
    assert listed(client) == {}
    assert running.vfs.open_handles == 0


# Data connections


def test_active_mode(running: RunningDoor, client: ftplib.FTP) -> None:
    client.set_pasv(False)
    assert store(client, "a", b"active").startswith("226")
    assert fetch(client, "a") == b"active"
    assert store(client, "b", b"again").startswith("226")
    client.set_pasv(True)
    assert fetch(client, "b") == b"again"


@pytest.mark.parametrize(
    "command",
    [
        "PORT 192,0,2,1,100,100",
        "EPRT |1|192.0.2.1|30000|",
        "PORT 127,0,0,1,0,22",
        "EPRT |1|127.0.0.1|22|",
        "EPRT |1|x|",
    ],
)
def test_no_bouncing(client: ftplib.FTP, command: str) -> None:
    assert ask(client, command).startswith("501")


def test_data_ports_and_public_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with (
            door(options=options(data_ports=range(port, port + 1), public_ip="192.0.2.7")) as running,
            running.login() as client,
        ):
            assert ask(client, "PASV").startswith("425"), "no port outside the range"
            taken.close()
            match = re.search(r"\((.*)\)", client.sendcmd("PASV"))
            assert match is not None
            assert match[1] == f"192,0,2,7,{port // 256},{port % 256}"
            assert ask(client, "EPSV").startswith("229"), "the port is free again for the same session"
            with running.login() as other:
                assert ask(other, "EPSV").startswith("425")


def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with door(options=options(host="::1", data_ports=range(30000, 60000))) as running, running.login() as client:
        assert running.url.startswith("ftp://[::1]:")
        assert store(client, "a", b"six").startswith("226")
        client.set_pasv(False)
        assert fetch(client, "a") == b"six"
        assert ask(client, "PASV").startswith("425")


# Whatever comes


ARGUMENTS = [
    "", " ", "x", "..", "/", "//", "-", "-la", "a b", "%s %n", "\xff\xfe", "*", "[", "0", "-1", "1,2,3,4,5,6", "||",
]   # fmt: skip


def test_no_line_breaks_a_session(running: RunningDoor, caplog: pytest.LogCaptureFixture) -> None:
    client = running.login(encoding="latin-1")
    leave = {"QUIT", "REIN", "USER", "ABOR"}
    for command in sorted(set(client_commands(client)) - leave):
        for argument in ARGUMENTS:
            answer = ask(client, f"{command} {argument}".rstrip("\n"))
            assert re.match(r"[1-5]\d\d", answer), (command, argument, answer)
            assert "Internal" not in answer, (command, argument)
    if (answer := ask(client, "ABOR")).startswith("426"):
        answer = reply(client)
    assert answer.startswith("22")
    assert ask(client, "NOOP").startswith("200")
    client.close()
    assert "Traceback" not in caplog.text


def client_commands(client: ftplib.FTP) -> list[str]:
    return [word for line in client.sendcmd("HELP").splitlines()[1:-1] for word in line.split()]


# Starting and stopping


def test_stopping_ends_sessions_and_frees_the_port(running: RunningDoor) -> None:
    client = running.login()
    running.stop()
    assert reply(client).startswith("421")
    client.close()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", running.port))


def test_a_call_that_waits_does_not_keep_the_door_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(MemoryVfs):
        async def mkdir(self, *args: object, **kwargs: object) -> Attributes:
            waiting.set()
            await trio.sleep_forever()
            raise AssertionError

    waiting = threading.Event()
    monkeypatch.setattr(server, "GRACE", 0.2)
    with door(Stuck()) as running:
        client = running.login()
        client.putcmd("MKD d")
        assert waiting.wait(TIMEOUT)
        running.stop()
        assert reply(client).startswith("451")
        client.close()


def test_what_cannot_be_served() -> None:
    with pytest.raises(UsageError, match="--public"), door(options=options(host="0.0.0.0")):
        pass
    with pytest.raises(UsageError, match="--public-ip"), door(options=options(public_ip="example.org")):
        pass
    with pytest.raises(UsageError, match="--data-ports"), door(options=options(data_ports=range(5, 5))):
        pass
    with pytest.raises(NotFound), door(options=options(root="/missing")):
        pass
    vfs = MemoryVfs()
    fill(vfs, "/f", b"")
    with pytest.raises(NotADirectory), door(vfs, options(root="/f")):
        pass
    with door() as running, pytest.raises(Busy, match="in use"), door(options=options(port=running.port)):
        pass


@pytest.mark.parametrize("command", ["EPSV", "PASV", "EPRT |1|127.0.0.1|50000|", "PORT 127,0,0,1,195,80"])
def test_no_new_data_connection_takes_the_place_of_a_busy_one(client: ftplib.FTP, command: str) -> None:
    data = begin_upload(client, "STOR file")
    data.sendall(b"first half ")
    assert ask(client, command).startswith("450")
    data.sendall(b"second half")
    data.close()
    assert reply(client).startswith("226")
    assert fetch(client, "file") == b"first half second half"


def test_an_offset_is_for_the_next_command_even_if_it_is_refused(client: ftplib.FTP) -> None:
    assert store(client, "file", b"0123456789").startswith("226")
    assert ask(client, "REST 5").startswith("350")
    assert ask(client, "STOR file").startswith("425")
    assert store(client, "file", b"ABC").startswith("226")
    assert fetch(client, "file") == b"ABC"


def test_the_root_is_looked_up_at_each_login() -> None:
    vfs = MemoryVfs()
    fill(vfs, "/shared/old", b"x")
    with door(vfs, options(root="/shared")) as running:
        with running.login() as client:
            assert list(listed(client)) == ["old"]
        vfs.cloud_rename("/shared", "/moved")
        with pytest.raises(ftplib.error_perm, match="530"):
            running.login()
        fill(vfs, "/shared/new", b"y")
        with running.login() as client:
            assert list(listed(client)) == ["new"]
