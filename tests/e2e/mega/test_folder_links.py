"""A link to something inside a shared folder opens just that: a folder, or a file alone."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serpentfs.clouds.mega.cloud import MegaCloud
from serpentfs.clouds.mega.links import Link, format_link, parse_link
from serpentfs.clouds.mega.session import Session
from serpentfs.errors import NotFound, ReadOnly, RevisionGone
from serpentfs.model import ROOT_INO, NodeId
from serpentfs.vfs.drive import Drive
from tests.drives import contents, exists, ino_at, mkdir, read, rename, unlink, until, write
from tests.mega_drives import PASSWORD, log_in, mega_drive
from tests.mega_emulator import Emulator, emulator

pytestmark = pytest.mark.trio
_NUMBERS = itertools.count(1)
_SEEN_WITHIN = 20.0
WHOLE = {"/beside": b"not for everybody", "/inner": None, "/inner/deep": None, "/inner/deep/file": b"deep",
         "/inner/file": b"first"}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


@pytest.fixture
def email(server: Emulator) -> str:
    email = f"links{next(_NUMBERS)}@example.test"
    server.add_account(email, PASSWORD)
    return email


class Shared:
    """Somebody's folder ``/shared`` with a public link, and their drive."""

    def __init__(self, drive: Drive, cloud: MegaCloud, api: str, link: str) -> None:
        self.drive = drive
        self.cloud = cloud
        self._api = api
        self.link = parse_link(link)

    def node(self, path: str) -> NodeId:
        node = self.drive.node_of(ino_at(self.drive, f"/shared{path}"))
        assert node is not None
        return node

    def session(self, path: str | None = None, *, is_file: bool = False) -> Session:
        """Of the link to something in the folder, as a browser shows it; None: to the folder itself."""
        inner = None if path is None else self.node(path)
        text = format_link(replace(self.link, node=inner, node_is_file=is_file))
        return session_of(parse_link(text), self._api)


def session_of(link: Link, api: str) -> Session:
    return Session("folder-link", api, link.handle, "", "", link.key, link.node)


@pytest.fixture
async def shared(server: Emulator, email: str, tmp_path: Path) -> AsyncIterator[Shared]:
    async with mega_drive(await log_in(server.url, email), tmp_path / "owner") as (drive, cloud):
        await mkdir(drive, "/shared")
        for path in ("/shared/inner", "/shared/inner/deep"):
            await mkdir(drive, path)
        for path, content in WHOLE.items():
            if content is not None:
                await write(drive, f"/shared{path}", content)
        await drive.wait_until_uploaded()
        node = drive.node_of(ino_at(drive, "/shared"))
        assert node is not None
        yield Shared(drive, cloud, server.url, await cloud.export(node, password=None, expires=None))


async def test_the_whole_folder(shared: Shared, tmp_path: Path) -> None:
    async with mega_drive(shared.session(), tmp_path / "guest") as (guest, _):
        assert await contents(guest) == WHOLE
        await write(shared.drive, "/shared/inner/new", b"later")
        await rename(shared.drive, "/shared", "/under another name")
        await until(lambda: exists(guest, "/inner/new"), _SEEN_WITHIN)
        await rename(shared.drive, "/under another name/beside", "/taken out")
        await until(lambda: not exists(guest, "/beside"), _SEEN_WITHIN)
        assert sorted(await contents(guest)) == sorted((WHOLE.keys() - {"/beside"}) | {"/inner/new"})


async def test_a_folder_inside(shared: Shared, tmp_path: Path) -> None:
    session = shared.session("/inner")
    async with mega_drive(session, tmp_path / "guest") as (guest, cloud):
        assert await contents(guest) == {"/deep": None, "/deep/file": b"deep", "/file": b"first"}
        with pytest.raises(ReadOnly):
            await cloud.mkdir(cloud.root, "new", token=bytes(32))
        await write(shared.drive, "/shared/outside", b"not told")
        await write(shared.drive, "/shared/inner/new", b"later")
        await rename(shared.drive, "/shared/inner", "/shared/renamed")
        await until(lambda: exists(guest, "/new"), _SEEN_WITHIN)
        await rename(shared.drive, "/shared/renamed/deep", "/shared/moved out")
        await until(lambda: not exists(guest, "/deep"), _SEEN_WITHIN)
        await rename(shared.drive, "/shared/beside", "/shared/renamed/beside")
        await until(lambda: exists(guest, "/beside"), _SEEN_WITHIN)
        assert await contents(guest) == {"/beside": WHOLE["/beside"], "/file": b"first", "/new": b"later"}
    # What is kept of it is not what is kept of the whole folder, and is enough for a start.
    async with mega_drive(session, tmp_path / "guest") as (guest, _):
        assert sorted(entry.name for entry in guest.readdir(ROOT_INO)) == ["beside", "file", "new"]
    assert session.remote_id("cloud") != shared.session().remote_id("cloud")


async def test_a_file_inside(shared: Shared, tmp_path: Path) -> None:
    session = shared.session("/inner/file", is_file=True)
    async with mega_drive(session, tmp_path / "guest") as (guest, cloud):
        assert await contents(guest) == {"/file": b"first"}
        with pytest.raises(ReadOnly):
            await cloud.mkdir(cloud.root, "new", token=bytes(32))
        ino = ino_at(guest, "/file")
        await write(shared.drive, "/shared/inner/file", b"second")
        await until(lambda: guest.resolve("/file").size == len(b"second"), _SEEN_WITHIN)
        assert (await read(guest, "/file"), ino_at(guest, "/file")) == (b"second", ino)
        await rename(shared.drive, "/shared/inner/file", "/shared/renamed")
        await until(lambda: exists(guest, "/renamed"), _SEEN_WITHIN)
        assert await contents(guest) == {"/renamed": b"second"}
    async with mega_drive(session, tmp_path / "guest") as (guest, _):
        assert await contents(guest) == {"/renamed": b"second"}
        await unlink(shared.drive, "/shared/renamed")
        await until(lambda: not exists(guest, "/renamed"), _SEEN_WITHIN)
        assert await contents(guest) == {}


async def test_what_it_is_counts_not_what_the_link_says(shared: Shared, tmp_path: Path) -> None:
    async with mega_drive(shared.session("/inner/file", is_file=False), tmp_path / "file") as (guest, _):
        assert await contents(guest) == {"/file": b"first"}
    async with mega_drive(shared.session("/inner/deep", is_file=True), tmp_path / "folder") as (guest, _):
        assert await contents(guest) == {"/file": b"deep"}


async def test_what_is_not_there(shared: Shared, tmp_path: Path) -> None:
    session = replace(shared.session(), node="AbCdEfGh")
    with pytest.RaisesGroup(
        pytest.RaisesExc(NotFound, match="no longer in the folder"), flatten_subgroups=True, allow_unwrapped=True
    ):
        async with mega_drive(session, tmp_path / "guest"):
            pytest.fail("it was opened")


async def test_the_folder_goes_away_and_comes_back(shared: Shared, tmp_path: Path) -> None:
    async with mega_drive(shared.session("/inner/deep"), tmp_path / "guest") as (guest, _):
        assert exists(guest, "/file")
        await rename(shared.drive, "/shared/inner/deep", "/elsewhere")
        await until(lambda: not exists(guest, "/file"), _SEEN_WITHIN)
        assert await contents(guest) == {}
        await rename(shared.drive, "/elsewhere", "/shared/back")
        await until(lambda: exists(guest, "/file"), _SEEN_WITHIN)
        assert await read(guest, "/file") == b"deep"


async def test_the_link_is_taken_back(shared: Shared, tmp_path: Path) -> None:
    async with mega_drive(shared.session("/inner"), tmp_path / "guest") as (guest, cloud):
        assert await read(guest, "/file") == b"first"
        await shared.cloud.unexport(shared.node(""))
        await until(lambda: cloud.trouble, _SEEN_WITHIN)
        assert await read(guest, "/file") == b"first"  # from the cache
        with pytest.raises(RevisionGone):
            await read(guest, "/deep/file")
