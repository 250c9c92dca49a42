"""Requests about versions and links: from a path to the cloud's node, over a drive with an account that notes calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serpentfs.clouds.mega.rubbish import Binned, Restored
from serpentfs.daemon import sharing
from serpentfs.errors import Busy, IsADirectory, NotADirectory, NotFound, ReadOnly, Unsupported
from serpentfs.model import Kind, NodeId
from serpentfs.tree.store import journalled_changes
from serpentfs.vfs.drive import Drive, DriveOptions
from tests.drives import a_drive, mkdir, write
from tests.fakes.memory_cloud import MemoryCloud


@dataclass
class NotedVersion:
    handle: str = "OldVersi"
    size: int = 5
    mtime: int = 1_700_000_000
    created: int = 1_700_000_100


@dataclass
class NotingAccount:
    calls: list[tuple[object, ...]] = field(default_factory=list)
    trouble: str | None = None
    over_quota_until: float | None = None

    async def export(self, node: NodeId, *, password: str | None, expires: int | None) -> str:
        self.calls.append(("export", node, password, expires))
        return "https://mega.nz/file/x#y"

    async def unexport(self, node: NodeId) -> None:
        self.calls.append(("unexport", node))

    async def import_link(self, link: str, password: str | None, parent: NodeId) -> None:
        self.calls.append(("import", link, password, parent))

    def versions(self, node: NodeId) -> list[NotedVersion]:
        self.calls.append(("versions", node))
        return [NotedVersion()]

    async def restore_version(self, node: NodeId, handle: str) -> None:
        self.calls.append(("restore", node, handle))

    async def delete_versions(self, node: NodeId, handles: list[str] | None) -> None:
        self.calls.append(("delete", node, handles))

    async def trash(self) -> list[Binned]:
        self.calls.append(("trash",))
        return [Binned("gone", Kind.DIRECTORY, 0, 1_700_000_000, "/folder", False)]

    async def restore(self, path: str, *, to: str | None, name: str | None, recursive: bool) -> Restored:
        self.calls.append(("restore", path, to, name, recursive))
        return Restored(f"/{path}", True, 3, 1)

    async def empty_trash(self) -> int:
        self.calls.append(("empty",))
        return 4


@asynccontextmanager
async def shared(where: Path, *, settle: float = 0.0, read_only: bool = False) -> AsyncIterator[Drive]:
    options = DriveOptions(settle=settle, host="here", read_only=read_only)
    async with a_drive(MemoryCloud(stable_file_ids=True), where, options=options) as drive:
        yield drive


async def ask(drive: Drive, account: sharing.Account | None, request: str, path: str, **more: Any) -> Any:
    return await sharing.answer(drive, account, {"request": request, "path": path, **more})


@pytest.mark.trio
async def test_requests_reach_the_node(tmp_path: Path) -> None:
    account = NotingAccount()
    async with shared(tmp_path) as drive:
        await mkdir(drive, "/folder")
        await write(drive, "/folder/file", b"content")
        await drive.wait_until_uploaded()
        file = drive.node_of(drive.resolve("/folder/file").ino)
        folder = drive.node_of(drive.resolve("/folder").ino)
        assert file is not None
        assert folder is not None
        assert file != folder
        assert await ask(drive, account, "versions", "/folder/file") == [
            {"handle": "OldVersi", "size": 5, "mtime": 1_700_000_000, "created": 1_700_000_100}
        ]
        await ask(drive, account, "restore-version", "/folder/file", handle="OldVersi")
        await ask(drive, account, "delete-versions", "/folder/file", handles=["OldVersi"])
        await ask(drive, account, "delete-versions", "/folder/file", handles=None)
        answer = await ask(drive, account, "export", "/folder", password="p", expires=5)
        assert answer == {"link": "https://mega.nz/file/x#y"}
        await ask(drive, account, "unexport", "/folder")
        await ask(drive, account, "import", "/folder", link="a link", password=None)
        root = drive.node_of(drive.resolve("/").ino)
        await ask(drive, account, "import", "/", link="a link", password="q")
    assert account.calls == [
        ("versions", file), ("restore", file, "OldVersi"), ("delete", file, ["OldVersi"]), ("delete", file, None),
        ("export", folder, "p", 5), ("unexport", folder), ("import", "a link", None, folder),
        ("import", "a link", "q", root),
    ]


@pytest.mark.trio
async def test_the_rubbish_bin(tmp_path: Path) -> None:
    account = NotingAccount()
    async with shared(tmp_path) as drive:
        assert await ask(drive, account, "trash", "/") == [{
            "name": "gone", "kind": "directory", "size": 0, "mtime": 1_700_000_000, "former": "/folder",
            "former_is_binned": False,
        }]
        done = {"path": "/gone", "is_elsewhere": True, "with_it": 3, "left": 1}
        assert await ask(drive, account, "restore", "/", what="gone") == done
        await ask(drive, account, "restore", "/", what="gone", to="/x", name="new", recursive=True)
        assert await ask(drive, account, "empty-trash", "/") == {"deleted": 4}
    assert account.calls == [
        ("trash",), ("restore", "gone", None, None, False), ("restore", "gone", "/x", "new", True), ("empty",)
    ]


@pytest.mark.trio
async def test_what_is_not_uploaded_has_no_link(tmp_path: Path) -> None:
    account = NotingAccount()
    async with shared(tmp_path, settle=300) as drive:
        await write(drive, "/file", b"content")
        with pytest.raises(NotFound, match="not uploaded yet"):
            await ask(drive, account, "export", "/file", password=None, expires=None)
        await drive.wait_until_uploaded()
        await ask(drive, account, "export", "/file", password=None, expires=None)
        await write(drive, "/file", b"other content")
        for request in ("export", "restore-version"):
            with pytest.raises(Busy, match="not uploaded yet"):
                await ask(drive, account, request, "/file", handle="OldVersi", password=None, expires=None)
        assert len(account.calls) == 1
    assert journalled_changes(tmp_path / "state" / "state.db") > 0
    assert journalled_changes(tmp_path / "none.db") == 0


@pytest.mark.trio
async def test_what_is_refused(tmp_path: Path) -> None:
    account = NotingAccount()
    async with shared(tmp_path) as drive:
        await mkdir(drive, "/folder")
        await write(drive, "/file", b"content")
        await drive.wait_until_uploaded()
        with pytest.raises(IsADirectory):
            await ask(drive, account, "versions", "/folder")
        with pytest.raises(NotADirectory):
            await ask(drive, account, "import", "/file", link="l")
        with pytest.raises(NotFound):
            await ask(drive, account, "export", "/none")
        with pytest.raises(Unsupported, match="a vault"):
            await ask(drive, None, "versions", "/file")
    assert not account.calls


@pytest.mark.trio
async def test_a_read_only_drive_is_looked_at_only(tmp_path: Path) -> None:
    account = NotingAccount()
    cloud = MemoryCloud(stable_file_ids=True)
    async with a_drive(cloud, tmp_path, options=DriveOptions(settle=0.0, host="here")) as drive:
        await write(drive, "/file", b"content")
        await drive.wait_until_uploaded()
    async with a_drive(cloud, tmp_path, options=DriveOptions(host="here", read_only=True)) as drive:
        assert len(await ask(drive, account, "versions", "/file")) == 1
        for request in sharing.NAMES:
            if request not in ("versions", "trash"):
                with pytest.raises(ReadOnly):
                    await ask(drive, account, request, "/file")
    assert [call[0] for call in account.calls] == ["versions"]
