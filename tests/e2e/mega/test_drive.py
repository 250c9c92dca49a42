"""A drive over a MEGA account: what others do is seen, what is done here arrives, whatever goes wrong between."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from PIL import Image

from serpentfs.clouds.mega.api import Api
from serpentfs.clouds.mega.cloud import MegaOptions
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.session import Session
from serpentfs.errors import IntegrityError, LoginRequired, SerpentError
from serpentfs.model import ROOT_INO
from tests.crash.mega_soak import soak
from tests.drives import (
    DOOR,
    contents,
    exists,
    ino_at,
    mkdir,
    patch,
    read,
    rename,
    rmdir,
    unlink,
    until,
    write,
)
from tests.mega_drives import PASSWORD, log_in, mega_drive
from tests.mega_emulator import Emulator, emulator

pytestmark = pytest.mark.trio
_NUMBERS = itertools.count(1)
_SEEN_WITHIN = 20.0
"""Seconds that a test waits for news; they take a small part of one."""


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with emulator() as server:
        yield server


@pytest.fixture
def server(running: Emulator) -> Iterator[Emulator]:
    yield running
    running.clear_faults()


@pytest.fixture
def email(server: Emulator) -> str:
    email = f"drive{next(_NUMBERS)}@example.test"
    server.add_account(email, PASSWORD)
    return email


@pytest.fixture
async def session(server: Emulator, email: str) -> Session:
    return await log_in(server.url, email)


def paths(server: Emulator, email: str) -> set[str]:
    """What the account's cloud drive holds, old versions aside."""
    tree = server.tree(email)
    return {entry.path for entry in tree if not entry.path.startswith("//") and not entry.is_version}


def kept_below(folder: Path) -> Iterator[bytes]:
    """What lies on the disk, file by file."""
    return (file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_everything_arrives_and_comes_back(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    big = os.urandom(5_000_001)
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await mkdir(drive, "/a")
        await mkdir(drive, "/a/b")
        await write(drive, "/a/b/file", b"hello")
        await write(drive, "/big", big)
        await write(drive, "/empty", b"")
        await drive.wait_until_uploaded()
        await patch(drive, "/big", 3_000_000, b"patched")
        await rename(drive, "/a/b/file", "/renamed")
        await drive.wait_until_uploaded()
        expected = await contents(drive)
    assert paths(server, email) == {"/a", "/a/b", "/renamed", "/big", "/empty"}
    async with mega_drive(session, tmp_path / "two") as (drive, _):
        assert await contents(drive) == expected
        assert expected["/big"] == big[:3_000_000] + b"patched" + big[3_000_007:]
    assert b"renamed" not in b"".join(kept_below(tmp_path))


async def test_what_another_machine_does_is_seen(session: Session, tmp_path: Path) -> None:
    async with (
        mega_drive(session, tmp_path / "one") as (here, _),
        mega_drive(session, tmp_path / "two") as (there, _),
    ):
        await mkdir(there, "/folder")
        await write(there, "/folder/file", b"1")
        await until(lambda: exists(here, "/folder/file"), _SEEN_WITHIN)
        assert await read(here, "/folder/file") == b"1"
        ino = ino_at(here, "/folder/file")
        await write(there, "/folder/file", b"22")
        await until(lambda: here.resolve("/folder/file").size == 2, _SEEN_WITHIN)
        assert ino_at(here, "/folder/file") == ino  # saved over: the same file
        assert await read(here, "/folder/file") == b"22"
        await rename(there, "/folder/file", "/moved")
        await until(lambda: exists(here, "/moved") and not exists(here, "/folder/file"), _SEEN_WITHIN)
        assert ino_at(here, "/moved") == ino
        await rename(there, "/folder", "/renamed")
        await until(lambda: exists(here, "/renamed") and not exists(here, "/folder"), _SEEN_WITHIN)
        await unlink(there, "/moved")
        await rmdir(there, "/renamed")
        await until(lambda: not exists(here, "/moved") and not exists(here, "/renamed"), _SEEN_WITHIN)


async def test_what_is_open_keeps_its_content(session: Session, tmp_path: Path) -> None:
    async with (
        mega_drive(session, tmp_path / "one") as (here, _),
        mega_drive(session, tmp_path / "two") as (there, _),
    ):
        old = os.urandom(3_000_000)
        await write(there, "/file", old)
        await until(lambda: exists(here, "/file"), _SEEN_WITHIN)
        await until(lambda: here.resolve("/file").size == len(old), _SEEN_WITHIN)
        handle = await here.open(ino_at(here, "/file"), write=False, door=DOOR)
        assert bytes(await here.read(handle, 0, 100)) == old[:100]
        await write(there, "/file", b"new")
        await until(lambda: here.resolve("/file").size == 3, _SEEN_WITHIN)
        assert bytes(await here.read(handle, 2_000_000, 1000)) == old[2_000_000:2_001_000]
        await here.release(handle)
        assert await read(here, "/file") == b"new"


async def test_both_write_and_nothing_is_lost(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    async with (
        mega_drive(session, tmp_path / "one", settle=0.5) as (here, _),
        mega_drive(session, tmp_path / "two") as (there, _),
    ):
        await write(there, "/file", b"base")
        await until(lambda: exists(here, "/file"), _SEEN_WITHIN)
        await until(lambda: here.resolve("/file").size == 4, _SEEN_WITHIN)
        await write(here, "/file", b"mine!")
        await write(there, "/file", b"theirs")
        await there.wait_until_uploaded()
        await here.wait_until_uploaded()
        await until(lambda: len(here.readdir(ROOT_INO)) == len(there.readdir(ROOT_INO)) == 2, _SEEN_WITHIN)
        assert sorted((await contents(here)).values(), key=str) == [b"mine!", b"theirs"]
        assert await contents(here) == await contents(there)


async def test_a_conflict_copy_keeps_what_it_was_written_over(session: Session, tmp_path: Path) -> None:
    """The rest of it comes from the old version of the file, not from the new one."""
    old, new = os.urandom(3_000_000), os.urandom(2_000_000)
    async with (
        mega_drive(session, tmp_path / "one", settle=3600) as (here, _),
        mega_drive(session, tmp_path / "two") as (there, _),
    ):
        await write(there, "/file", old)
        await until(lambda: exists(here, "/file") and here.resolve("/file").size == len(old), _SEEN_WITHIN)
        await patch(here, "/file", 1_500_000, b"mine")
        await write(there, "/file", new)
        await there.wait_until_uploaded()
        await mkdir(there, "/later")
        await until(lambda: exists(here, "/later"), _SEEN_WITHIN)
        await here.wait_until_uploaded()
        await until(lambda: len(here.readdir(ROOT_INO)) == len(there.readdir(ROOT_INO)) == 3, _SEEN_WITHIN)
        found = await contents(there)
        assert found.pop("/file") == new
        assert found.pop("/later", "") is None
        assert list(found.values()) == [old[:1_500_000] + b"mine" + old[1_500_004:]]


async def test_a_second_start_asks_for_what_changed_only(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await write(drive, "/old", b"old")
        await drive.wait_until_uploaded()
        ino = ino_at(drive, "/old")
    async with mega_drive(session, tmp_path / "two") as (there, _):
        await write(there, "/new", b"new")
        await rename(there, "/old", "/renamed")
        await there.wait_until_uploaded()
    before = server.counts().get("command f", 0)
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await until(lambda: exists(drive, "/new") and exists(drive, "/renamed"), _SEEN_WITHIN)
        assert ino_at(drive, "/renamed") == ino
    assert server.counts().get("command f", 0) == before


async def test_a_start_without_network(server: Emulator, email: str, session: Session, tmp_path: Path) -> None:
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await write(drive, "/file", b"cached")
        await drive.wait_until_uploaded()
        assert await read(drive, "/file") == b"cached"
    for place in ("batch", "events", "wait", "upload", "download"):
        server.fault(place, "break", times=None)
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        assert exists(drive, "/file")
        await write(drive, "/made offline", b"later")
        server.clear_faults()
        with trio.fail_after(90):
            await drive.wait_until_uploaded()
    assert "/made offline" in paths(server, email)


async def test_events_that_are_lost_reload_the_tree(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await mkdir(drive, "/folder")
        await write(drive, "/folder/file", b"1")
        await drive.wait_until_uploaded()
        inos = ino_at(drive, "/folder"), ino_at(drive, "/folder/file")
    server.add_file(email, "from a phone", b"photo")
    server.forget_events(email)
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await until(lambda: exists(drive, "/from a phone"), _SEEN_WITHIN)
        assert (ino_at(drive, "/folder"), ino_at(drive, "/folder/file")) == inos
        assert await read(drive, "/from a phone") == b"photo"


async def test_a_session_that_ended_keeps_what_is_pending(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path / "one") as (drive, cloud):
        server.end_sessions(email)
        await write(drive, "/file", b"kept")
        await until(lambda: any("log in" in (change.error or "") for change in drive.status().pending), _SEEN_WITHIN)
        assert await read(drive, "/file") == b"kept"
        with pytest.raises(LoginRequired):
            await cloud.quota()
    async with mega_drive(await log_in(server.url, email), tmp_path / "one") as (drive, _):
        await drive.wait_until_uploaded()
    assert "/file" in paths(server, email)


async def test_names_that_are_no_file_names(server: Emulator, email: str, session: Session, tmp_path: Path) -> None:
    for name in ("a/b", "..", "same", "same", "nul\0"):
        server.add_file(email, name, name.encode())
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        shown = await contents(drive)
        assert sorted(shown.values(), key=str) == sorted([b"a/b", b"..", b"same", b"same", b"nul\0"], key=str)
        assert "/same" in shown
        await mkdir(drive, "/folder")
        for name in [path for path in shown if path != "/same"]:
            await rename(drive, name, f"/folder{name}")
        await drive.wait_until_uploaded()
    assert paths(server, email) == {"/folder", "/same", "/folder/a/b", "/folder/..", "/folder/same", "/folder/nul\0"}


async def test_a_node_without_a_key_is_not_fatal(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    server.add_file(email, "hidden", b"x", readable=False)
    server.add_file(email, "shown", b"y")
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        assert await contents(drive) == {"/shown": b"y"}


async def test_wrong_bytes_are_never_served(server: Emulator, email: str, session: Session, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    server.add_file(email, "file", data)
    server.fault("download", "corrupt", times=1, bytes=1000)
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        with pytest.raises(IntegrityError):
            await read(drive, "/file")


async def test_a_file_that_is_over_the_transfer_quota(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    server.add_file(email, "file", b"data")
    server.fault("download", "quota", times=1, seconds=900)
    async with mega_drive(session, tmp_path / "one") as (drive, cloud):
        with pytest.raises(SerpentError):
            await read(drive, "/file")
        assert cloud.over_quota_until is not None


async def test_what_was_is_not_shown_again_after_a_kill_between_packets(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    """The packet of an older change may come after the answer to a newer one; then the process was killed."""
    machine = tmp_path / "one"

    def known() -> Replica:
        return Replica(machine / "state" / "mega.db", session.key, session.user)

    async with mega_drive(session, machine) as (drive, _):
        await write(drive, "/old", b"content")
        await drive.wait_until_uploaded()
        [node] = [node for node in server.control("tree", email=email) if node["t"] == 0]
        before = known().sn
        await rename(drive, "/old", "/new")
        await drive.wait_until_uploaded()
    assert before is not None
    packet = {"a": "u", "n": node["h"], "at": node["a"], "i": "of the one before"}
    known().apply([packet], before, own_id="of the one before")
    server.fault("events", "http", status=500, times=None)
    async with mega_drive(session, machine) as (drive, _):
        for _ in range(30):
            assert await contents(drive) == {"/new": b"content"}
            await trio.sleep(0.01)
        server.clear_faults()
        server.add_file(email, "news", b"")
        await until(lambda: exists(drive, "/news"), _SEEN_WITHIN)
        assert await contents(drive) == {"/new": b"content", "/news": b""}


async def test_a_packet_that_comes_late_takes_nothing_back(
    server: Emulator, email: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an older change of ours, after the answer to a newer one, whose own packet is still on its way."""
    gate = trio.Event()
    wait = Api.wait

    async def waiting(api: Api, url: str) -> None:
        await gate.wait()
        await wait(api, url)

    async with mega_drive(session, tmp_path / "one") as (drive, cloud):
        await mkdir(drive, "/old")
        await write(drive, "/old/file", b"content")
        await mkdir(drive, "/new")
        await drive.wait_until_uploaded()
        await trio.sleep(0.5)   # the packets of all that are here
        monkeypatch.setattr(Api, "wait", waiting)
        server.add_file(email, "news", b"")
        await until(lambda: exists(drive, "/news"), _SEEN_WITHIN)
        nodes = {node["h"]: node for node in server.control("tree", email=email)}
        [file] = [node for node in nodes.values() if node["t"] == 0 and nodes[node["p"]]["t"] == 1]
        await rename(drive, "/old/file", "/new/file")
        await drive.wait_until_uploaded()
        replica: Replica = cloud._replica
        own_id = cloud._api.own_id
        replica.apply([{"a": "t", "i": own_id, "t": {"f": [file]}}], replica.sn or "", own_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive.refresh, ino_at(drive, "/new"))
            for _ in range(30):
                assert exists(drive, "/new/file")
                assert not exists(drive, "/old/file")
                await trio.sleep(0.01)
            gate.set()
        assert await contents(drive) == {"/old": None, "/new": None, "/new/file": b"content", "/news": b""}


async def test_a_folder_is_listed_though_an_answer_came_after_its_packet(
    email: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no more packets come, nothing but another poll tells that the account's copy is as of now."""
    commands = Api.commands

    async def late(api: Api, wanted: list[dict[str, Any]]) -> list[Any]:
        answers = await commands(api, wanted)
        await trio.sleep(0.3)
        return answers

    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await write(drive, "/file", b"content")
        await drive.wait_until_uploaded()
        monkeypatch.setattr(Api, "commands", late)
        await rename(drive, "/file", "/renamed")
        await drive.wait_until_uploaded()
        with trio.fail_after(_SEEN_WITHIN):
            await drive.refresh(ino_at(drive, "/"))
        assert await contents(drive) == {"/renamed": b"content"}


async def test_what_is_removed_is_in_the_rubbish_bin(
    server: Emulator, email: str, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        await write(drive, "/file", b"not lost")
        await drive.wait_until_uploaded()
        await unlink(drive, "/file")
        await drive.wait_until_uploaded()
    async with mega_drive(session, tmp_path / "two", mega=MegaOptions(root="rubbish")) as (bin_, _):
        assert await contents(bin_) == {"/file": b"not lost"}
        await unlink(bin_, "/file")
        await bin_.wait_until_uploaded()
    assert server.tree(email) == []


async def test_removed_for_good(server: Emulator, email: str, session: Session, tmp_path: Path) -> None:
    async with mega_drive(session, tmp_path / "one", mega=MegaOptions(hard_delete=True)) as (drive, _):
        await write(drive, "/file", b"lost")
        await drive.wait_until_uploaded()
        await unlink(drive, "/file")
        await drive.wait_until_uploaded()
    assert server.tree(email) == []


async def test_pictures_get_thumbnails(server: Emulator, email: str, session: Session, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (640, 480), "red").save(picture, "JPEG")
    async with mega_drive(session, tmp_path / "one", mega=MegaOptions(thumbnails=True)) as (drive, _):
        await write(drive, "/red.jpg", picture.getvalue())
        await write(drive, "/no picture.jpg", b"just text")
        await drive.wait_until_uploaded()
    attached = {node["h"]: node.get("fa", "") for node in server.control("tree", email=email)}
    by_path = {entry.path: attached[entry.handle] for entry in server.tree(email)}
    assert [kind in by_path["/red.jpg"] for kind in ("0*", "1*")] == [True, True]
    assert not by_path["/no picture.jpg"]


@pytest.mark.parametrize(
    "fault",
    [
        {"place": "batch", "effect": "error", "code": -3},
        {"place": "batch", "effect": "error", "code": -4},
        {"place": "batch", "effect": "lose"},
        {"place": "batch", "effect": "break"},
        {"place": "batch", "effect": "http", "status": 500},
        {"place": "batch", "effect": "hashcash"},
        {"place": "upload", "effect": "break"},
        {"place": "upload", "effect": "lose"},
        {"place": "upload", "effect": "error", "code": -3},
        {"place": "upload", "effect": "error", "code": -8},
        {"place": "upload", "effect": "http", "status": 500},
        {"place": "download", "effect": "break"},
        {"place": "download", "effect": "truncate", "bytes": 70_000},
        {"place": "download", "effect": "http", "status": 404},
        {"place": "raid", "effect": "error"},
        {"place": "events", "effect": "twice"},
        {"place": "events", "effect": "truncate", "bytes": 5},
    ],
    ids=lambda fault: f"{fault['place']} {fault['effect']} {fault.get('code', '')}",
)
async def test_what_goes_wrong_is_got_over(
    server: Emulator, email: str, session: Session, tmp_path: Path, fault: dict[str, object]
) -> None:
    data = os.urandom(1_500_000)
    async with mega_drive(session, tmp_path / "one") as (drive, _):
        server.fault(str(fault["place"]), str(fault["effect"]), times=3, **{
            key: value for key, value in fault.items() if key not in ("place", "effect")
        })
        with trio.fail_after(60):
            await mkdir(drive, "/folder")
            await write(drive, "/folder/file", data)
            await drive.wait_until_uploaded()
    async with mega_drive(session, tmp_path / "two") as (drive, _):
        assert await contents(drive) == {"/folder": None, "/folder/file": data}
    assert paths(server, email) == {"/folder", "/folder/file"}  # once, however often it was sent


async def test_three_machines_and_faults(server: Emulator, email: str, session: Session, tmp_path: Path) -> None:
    report = await soak(server, email, session, tmp_path, seconds=8, seed=1)
    assert report.steps > 20
