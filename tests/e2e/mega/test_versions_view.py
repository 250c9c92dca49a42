"""Old versions of files in a MEGA account, seen below ``.versions``: in the drive, and through all three doors."""

from __future__ import annotations

import base64
import errno
import ftplib
import http.client
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from serpentfs.model import ROOT_INO, DirEntry
from serpentfs.vfs.versions_view import VersionsView
from tests.drives import DOOR, read, write
from tests.e2e.cli.conftest import needs_fuse
from tests.mega_drives import PASSWORD, log_in, mega_drive
from tests.mega_emulator import Emulator, emulator
from tests.mounted import PASSPHRASE, WEBDAV_PASSWORD, WEBDAV_USER, Mounted

CONTENTS = [os.urandom(300_000), b"second", os.urandom(150_000), b"the present one"]


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


def listed(view: VersionsView, path: str) -> list[DirEntry]:
    return view.readdir(view.resolve(path).ino)


async def content(view: VersionsView, entry: DirEntry) -> bytes:
    handle = await view.open(entry.attributes.ino, write=False, door=DOOR)
    try:
        parts = []
        for offset in range(0, entry.attributes.size + 1, 100_000):
            parts.append(bytes(await view.read(handle, offset, 100_000)))
        return b"".join(parts)
    finally:
        await view.release(handle)


@pytest.mark.trio
async def test_versions_are_read_verified_and_cached(server: Emulator, tmp_path: Path) -> None:
    server.add_account("view@example.test", PASSWORD)
    session = await log_in(server.url, "view@example.test")
    with trio.fail_after(60):
        async with mega_drive(session, tmp_path / "here") as (drive, cloud):
            view = VersionsView(drive, cloud)
            for written in CONTENTS:
                await write(drive, "/file.bin", written)
                await drive.wait_until_uploaded()
            versions = listed(view, "/.versions/file.bin")
            assert all(entry.name.endswith(".bin") for entry in versions)
            assert sorted([await content(view, entry) for entry in versions]) == sorted(CONTENTS[:-1])
            assert [entry.attributes.size for entry in versions] == [len(await content(view, e)) for e in versions]
            fetches = drive._cache.statistics().fetches
            large = max(versions, key=lambda entry: entry.attributes.size)
            assert await content(view, large) == CONTENTS[0]
            assert drive._cache.statistics().fetches == fetches, "from the cache the second time"
            copied, is_new = await view.copy_file(large.attributes.ino, ROOT_INO, "restored", door=DOOR)
            assert is_new
            assert copied.size == len(CONTENTS[0])
            assert await read(drive, "/restored") == CONTENTS[0]
            await drive.wait_until_uploaded()
            await drive._cache.wait_written()
        async with mega_drive(session, tmp_path / "here") as (drive, cloud):
            view = VersionsView(drive, cloud)
            (large,) = [e for e in listed(view, "/.versions/file.bin") if e.attributes.size == len(CONTENTS[0])]
            assert await content(view, large) == CONTENTS[0]
            assert drive._cache.statistics().fetches == 0, "from the sealed cache after a restart"
            # Another version is another content: nothing of one is ever taken for the other.
            assert len({entry.attributes.content for entry in listed(view, "/.versions/file.bin")}) == 3


@needs_fuse
def test_through_all_doors(server: Emulator, tmp_path: Path) -> None:
    server.add_account("doors@example.test", PASSPHRASE)
    mounted = Mounted(
        tmp_path, url="mega:", exists=True, doors=True, options=("--versions-view", "--settle", "0"),
        environment={"SERPENTFS_MEGA_API": server.url},
    )  # fmt: skip
    try:
        mounted.command("login", "doors@example.test")
        mounted.start()
        point = mounted.point
        (point / "sub").mkdir()
        view = point / "sub" / ".versions" / "file.txt"
        assert not view.exists()    # the kernel remembers that, until it hears better
        for written in (b"first", b"second", b"third"):
            (point / "sub" / "file.txt").write_bytes(written)
            mounted.flush()
        assert os.listdir(point / "sub") == ["file.txt"]
        assert os.listdir(view.parent) == ["file.txt"]
        names = sorted(os.listdir(view))
        assert len(names) == 2
        shown = {(view / name).read_bytes() for name in names}
        assert shown == {b"first", b"second"}
        assert all((view / name).stat().st_size == len((view / name).read_bytes()) for name in names)
        _refused_by_the_mount(view, view / names[0])
        one = (view / names[0]).read_bytes()
        _by_webdav(mounted, f"/sub/.versions/file.txt/{names[0]}", one)
        _by_ftp(mounted, f"/sub/.versions/file.txt/{names[0]}", one)
        # Saved as editors do it: another file takes the name, and has the versions.
        (point / "sub" / "new").write_bytes(b"fourth")
        (point / "sub" / "new").rename(point / "sub" / "file.txt")
        mounted.flush()
        assert {(view / name).read_bytes() for name in os.listdir(view)} == {b"first", b"second", b"third"}
    finally:
        mounted.clean_up()


def _refused_by_the_mount(folder: Path, version: Path) -> None:
    for change in (
        lambda: version.write_bytes(b""),
        version.unlink,
        lambda: version.rename(folder / "other"),
        lambda: (folder / "new").mkdir(),
        lambda: (folder / "new").touch(),
        lambda: os.truncate(version, 0),
        lambda: os.utime(version, (0, 0)),
        folder.rmdir,
        folder.parent.rmdir,
    ):
        with pytest.raises(OSError, match="Read-only") as caught:
            change()
        assert caught.value.errno == errno.EROFS


def _by_webdav(mounted: Mounted, path: str, content: bytes) -> None:
    token = base64.b64encode(f"{WEBDAV_USER}:{WEBDAV_PASSWORD}".encode()).decode()
    url = path.replace(" ", "%20")

    def ask(method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(mounted.webdav, timeout=30)
        try:
            connection.request(method, url, body, {"Authorization": f"Basic {token}", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    assert ask("GET", url) == (200, content)
    assert b".versions" not in ask("PROPFIND", "/sub/", Depth="1")[1]
    status, told = ask("PROPFIND", "/sub/.versions/", Depth="1")
    assert status == 207
    assert b"file.txt" in told
    assert ask("PUT", url, b"x")[0] == 403
    assert ask("DELETE", url)[0] == 403
    assert ask("DELETE", "/sub/.versions/")[0] in (207, 403)
    assert ask("MOVE", url, Destination=f"http://{mounted.webdav}/moved")[0] == 403
    assert ask("COPY", url, Destination=f"http://{mounted.webdav}/copied")[0] == 201
    assert ask("GET", "/copied") == (200, content)
    assert ask("GET", url) == (200, content)


def _by_ftp(mounted: Mounted, path: str, content: bytes) -> None:
    host, _, port = mounted.ftp.partition(":")
    with ftplib.FTP(timeout=30, encoding="utf-8") as client:
        client.connect(host, int(port))
        client.login(WEBDAV_USER, WEBDAV_PASSWORD)
        parts: list[bytes] = []
        client.retrbinary(f"RETR {path}", parts.append)
        assert b"".join(parts) == content
        assert ".versions" not in client.nlst("/sub")
        assert client.nlst(path.rpartition("/")[0])
        with pytest.raises(ftplib.error_perm, match="550"):
            client.storbinary(f"STOR {path}", io.BytesIO(b"x"))
        with pytest.raises(ftplib.error_perm, match="550"):
            client.delete(path)
