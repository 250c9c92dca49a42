"""The rubbish bin: where things came from, the way back, what stands in it, emptying."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from serpentfs.clouds.mega.cloud import MegaCloud, MegaOptions
from serpentfs.clouds.mega.links import parse_link
from serpentfs.clouds.mega.rubbish import Binned, Restored
from serpentfs.clouds.mega.session import Session
from serpentfs.errors import AlreadyExists, InvalidName, NotADirectory, NotFound
from tests.drives import contents, exists, ino_at, mkdir, read, rename, rmdir, unlink, until, write
from tests.mega_drives import mega_drive
from tests.mega_emulator import Emulator

pytestmark = pytest.mark.trio
_SEEN_WITHIN = 20.0


async def back(
    cloud: MegaCloud, path: str, *, to: str | None = None, name: str | None = None, recursive: bool = False
) -> Restored:
    return await cloud.restore(path, to=to, name=name, recursive=recursive)


async def in_bin(cloud: MegaCloud) -> dict[str, Binned]:
    return {one.name: one for one in await cloud.trash()}


def held(server: Emulator, session: Session) -> dict[str, dict[str, object]]:
    """The attributes of all nodes that the account holds, by path."""
    return {entry.path: entry.attributes for entry in server.tree(session.email)}


async def test_back_to_where_it_came_from(server: Emulator, session: Session, tmp_path: Path) -> None:
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await mkdir(drive, "/folder")
        await write(drive, "/folder/file", b"content")
        await drive.wait_until_uploaded()
        before = held(server, session)["/folder/file"]
        ino = ino_at(drive, "/folder/file")
        await unlink(drive, "/folder/file")
        await drive.wait_until_uploaded()
        binned = (await in_bin(cloud))["file"]
        assert (binned.size, binned.former, binned.former_is_binned) == (len(b"content"), "/folder", False)
        assert "rr" in held(server, session)["//bin/file"]
        assert await back(cloud, "file") == Restored("/folder/file", False, 0, 0)
        await until(lambda: exists(drive, "/folder/file"), _SEEN_WITHIN)
        assert await read(drive, "/folder/file") == b"content"
        assert ino_at(drive, "/folder/file") != ino
        assert held(server, session) == {"/folder": {"n": "folder"}, "/folder/file": before}
        assert await cloud.trash() == []


async def test_a_folder_that_moved_meanwhile(session: Session, tmp_path: Path) -> None:
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await mkdir(drive, "/folder")
        await write(drive, "/folder/file", b"content")
        await drive.wait_until_uploaded()
        await unlink(drive, "/folder/file")
        await rename(drive, "/folder", "/renamed")
        await drive.wait_until_uploaded()
        assert (await in_bin(cloud))["file"].former == "/renamed"
        assert (await back(cloud, "file")).path == "/renamed/file"


async def test_a_former_folder_that_is_gone(session: Session, tmp_path: Path) -> None:
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await mkdir(drive, "/folder")
        await write(drive, "/folder/file", b"content")
        await write(drive, "/folder/other", b"other")
        await drive.wait_until_uploaded()
        for path in ("/folder/file", "/folder/other"):
            await unlink(drive, path)
        await rmdir(drive, "/folder")
        await drive.wait_until_uploaded()
        found = await in_bin(cloud)
        assert {name: (one.former, one.former_is_binned) for name, one in found.items()} == {
            "folder": ("/", False), "file": ("/folder", True), "other": ("/folder", True),
        }  # fmt: skip
        assert await back(cloud, "file") == Restored("/file", True, 0, 0)
        async with mega_drive(session, tmp_path / "bin", mega=MegaOptions(root="rubbish")) as (rubbish, _):
            await rmdir(rubbish, "/folder")
            await rubbish.wait_until_uploaded()
        with trio.fail_after(_SEEN_WITHIN):
            while (await in_bin(cloud))["other"].former is not None:  # noqa: ASYNC110 - the cloud tells nobody
                await trio.sleep(0.01)
        assert (await back(cloud, "other")).is_elsewhere


async def test_a_folder_with_what_had_been_removed_from_it(
    server: Emulator, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await mkdir(drive, "/folder")
        await mkdir(drive, "/folder/sub")
        await write(drive, "/folder/file", b"1")
        await write(drive, "/folder/sub/deep", b"2")
        await write(drive, "/elsewhere", b"3")
        await drive.wait_until_uploaded()
        before = held(server, session)
        await unlink(drive, "/folder/file")
        await drive.wait_until_uploaded()
        await write(drive, "/folder/file", b"again")
        await drive.wait_until_uploaded()
        for path in ("/folder/file", "/folder/sub/deep", "/elsewhere"):
            await unlink(drive, path)
        for path in ("/folder/sub", "/folder"):
            await rmdir(drive, path)
        await drive.wait_until_uploaded()
        assert await contents(drive) == {}
        done = await back(cloud, "folder", recursive=True)
        assert done == Restored("/folder", False, 3, 1)  # of two files of one name one stays
        await until(lambda: exists(drive, "/folder/sub/deep") and exists(drive, "/folder/file"), _SEEN_WITHIN)
        assert set(await contents(drive)) == {"/folder", "/folder/sub", "/folder/sub/deep", "/folder/file"}
        assert await read(drive, "/folder/sub/deep") == b"2"
        after = held(server, session)
        assert {path for path in after if path.startswith("//bin")} == {"//bin/elsewhere", "//bin/file"}
        assert after["/folder/sub/deep"] == before["/folder/sub/deep"]


async def test_a_folder_that_went_as_a_whole(server: Emulator, session: Session, tmp_path: Path) -> None:
    folder = server.add_folder(session.email, "whole")
    server.add_file(session.email, "inside", b"content", parent=folder)
    server.add_file(session.email, "beside", b"beside", parent=folder)
    async with mega_drive(session, tmp_path) as (drive, cloud):
        assert exists(drive, "/whole/inside")
        rubbish = next(node["h"] for node in server.control("tree", email=session.email) if node["t"] == 4)
        await cloud._api.command({"a": "m", "n": folder, "t": rubbish})  # as clients do that note no origin
        await until(lambda: not exists(drive, "/whole"), _SEEN_WITHIN)
        assert (await in_bin(cloud))["whole"].former is None
        assert await back(cloud, "whole/inside", to="/") == Restored("/inside", False, 0, 0)
        assert await back(cloud, "/whole/") == Restored("/whole", True, 0, 0)
        await until(lambda: exists(drive, "/whole/beside") and exists(drive, "/inside"), _SEEN_WITHIN)
        assert await contents(drive) == {"/inside": b"content", "/whole": None, "/whole/beside": b"beside"}


async def test_what_is_removed_is_in_the_bin_though_its_news_come_first(
    server: Emulator, session: Session, tmp_path: Path
) -> None:
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await write(drive, "/file", b"content")
        await drive.wait_until_uploaded()
        server.fault("batch", "lose", account=session.email)
        await unlink(drive, "/file")
        await drive.wait_until_uploaded()
        assert server.fault_hits() == [1]
        server.clear_faults()
        assert (await in_bin(cloud))["file"].former == "/"


async def test_names_that_are_taken(server: Emulator, session: Session, tmp_path: Path) -> None:
    async with mega_drive(session, tmp_path) as (drive, cloud):
        await mkdir(drive, "/folder")
        for number in (b"1", b"2"):
            await write(drive, "/file", number)
            await drive.wait_until_uploaded()
            await unlink(drive, "/file")
            await drive.wait_until_uploaded()
        await write(drive, "/file", b"present")
        await drive.wait_until_uploaded()
        names = sorted(await in_bin(cloud), key=len)
        assert names[0] == "file"
        assert "‛" in names[1]
        before = held(server, session)
        for name in names:
            with pytest.raises(AlreadyExists, match="--name"):
                await back(cloud, name)
        with pytest.raises(AlreadyExists):
            await back(cloud, "file", name="folder")
        with pytest.raises(NotFound):
            await back(cloud, "file", to="/none")
        with pytest.raises(NotADirectory):
            await back(cloud, "file", to="/file")
        with pytest.raises(InvalidName):
            await back(cloud, "file", name="a/b")
        for path in ("none", "", "/", "file/none"):
            with pytest.raises(NotFound):
                await back(cloud, path)
        assert held(server, session) == before
        assert (await back(cloud, names[1], to="folder")).path == "/folder/file"
        assert (await back(cloud, "file", name="renamed")).path == "/renamed"
        await until(lambda: exists(drive, "/folder/file") and exists(drive, "/renamed"), _SEEN_WITHIN)
        shown = await contents(drive)
        assert {shown["/folder/file"], shown["/renamed"]} == {b"1", b"2"}
        assert shown["/file"] == b"present"
        assert "rr" not in held(server, session)["/renamed"]


async def test_into_a_shared_folder(server: Emulator, session: Session, tmp_path: Path) -> None:
    """Who reads the folder by a link reads what came back, too: it got its key for the share."""
    async with mega_drive(session, tmp_path / "own") as (drive, cloud):
        await mkdir(drive, "/shared")
        await write(drive, "/file", b"content")
        await drive.wait_until_uploaded()
        node = drive.node_of(ino_at(drive, "/shared"))
        assert node is not None
        link = await cloud.export(node, password=None, expires=None)
        await unlink(drive, "/file")
        await drive.wait_until_uploaded()
        assert (await back(cloud, "file", to="/shared")).path == "/shared/file"
    parsed = parse_link(link, None)
    theirs = Session("folder-link", session.api, parsed.handle, "", "", parsed.key)
    async with mega_drive(theirs, tmp_path / "theirs") as (drive, _):
        assert await contents(drive) == {"/file": b"content"}


async def test_emptying(server: Emulator, session: Session, tmp_path: Path) -> None:
    rubbish = next(node["h"] for node in server.control("tree", email=session.email) if node["t"] == 4)
    folder = server.add_folder(session.email, "folder", parent=rubbish)
    server.add_file(session.email, "inside", b"x", parent=folder)
    server.add_file(session.email, "nobody can read", b"x", parent=rubbish, readable=False)
    for number in range(60):
        server.add_folder(session.email, f"{number}", parent=rubbish)
    server.add_file(session.email, "kept", b"x")
    async with mega_drive(session, tmp_path) as (drive, cloud):
        assert await cloud.empty_trash() == 62
        assert await cloud.trash() == []
        assert await cloud.empty_trash() == 0
        assert await contents(drive) == {"/kept": b"x"}
    assert set(held(server, session)) == {"/kept"}
