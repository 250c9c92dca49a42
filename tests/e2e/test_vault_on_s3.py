"""A vault in a bucket, opened by its URL: filled, changed by a second client, read by way of a copy in a folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from serpentfs.clouds.base import Batch
from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.registry import RemoteSpec, open_store, parse_remote
from serpentfs.clouds.retrying import RetryingCloud
from serpentfs.clouds.vault import VaultCloud, create_vault, open_vault
from serpentfs.errors import BadVault, RevisionGone, Unavailable, WrongPassphrase
from serpentfs.model import ROOT_INO, Kind, NodeInfo, Revision, Span
from serpentfs.vfs.early import EARLY_SIZE
from tests.drives import DOOR, a_drive, until
from tests.fakes.s3_server import Fault, S3Server
from tests.vaults import contents, mkdir, put

pytestmark = pytest.mark.trio

PATIENCE = 20.0
PASSPHRASE = "open sesame"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with S3Server() as running:
        running.make_bucket("bucket")
        yield running


def remote(server: S3Server) -> RemoteSpec:
    spec = parse_remote(f"vault+s3://bucket/my/vault?endpoint={server.endpoint}#/Photos")
    assert isinstance(spec, RemoteSpec)
    return spec


@asynccontextmanager
async def opened(server: S3Server) -> AsyncIterator[VaultCloud]:
    vault = await open_vault(open_store(remote(server)), PASSPHRASE, poll_interval=0.05)
    yield vault
    await vault.aclose()


def nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None


async def test_a_vault_in_a_bucket(server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(BadVault):
        await open_vault(open_store(remote(server)), PASSPHRASE)
    await create_vault(open_store(remote(server)), PASSPHRASE)
    with pytest.raises(WrongPassphrase):
        await open_vault(open_store(remote(server)), "wrong")
    large = os.urandom(9 * 1024 * 1024)
    async with opened(server) as vault:
        folder = await mkdir(vault, vault.root, "Photos")
        await put(vault, folder.id, "ünï.jpg", b"a picture with a secret")
        await put(vault, folder.id, "l" * 200, b"under a long name")
        await put(vault, vault.root, "large.bin", large)
        await vault.symlink(vault.root, "link", "Photos/ünï.jpg", mtime_ns=0)
        expected = {
            "/Photos": None,
            "/Photos/ünï.jpg": b"a picture with a secret",
            "/Photos/" + "l" * 200: b"under a long name",
            "/large.bin": large,
            "/link": "Photos/ünï.jpg",
        }
        assert await contents(vault) == expected
    async with opened(server) as vault:
        assert await contents(vault) == expected
    stored = server.buckets["bucket"]
    assert all(key.startswith("my/vault/") for key in stored)
    for key, found in stored.items():
        for word in ("secret", "Photos", "large"):
            assert word not in key
            assert word.encode() not in found.data
    for key, found in stored.items():
        path = tmp_path / key.removeprefix("my/vault/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.data)
    assert await contents(await open_vault(FileStore(tmp_path), PASSPHRASE)) == expected


async def test_what_another_client_does_is_seen_by_polling(server: S3Server) -> None:
    await create_vault(open_store(remote(server)), PASSPHRASE)
    async with opened(server) as ours, opened(server) as theirs:
        send, receive = trio.open_memory_channel[Batch](0)
        shown: dict[str, NodeInfo] = {}

        async def wait_until(name: str, size: int | None) -> None:
            with trio.fail_after(PATIENCE):
                while True:
                    node = shown.get(name)
                    if size is None if node is None else node.size == size:
                        return
                    batch = await receive.receive()
                    for listing in batch.listings:
                        if listing.directory == ours.root:
                            shown.clear()
                            shown.update((child.name, child) for child in listing.children)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.changes, nothing_known, send)
            first = await put(theirs, theirs.root, "file", b"first")
            await wait_until("file", 5)
            assert await ours.read(shown["file"].ref, Span(0, 5)) == b"first"
            second = await put(theirs, theirs.root, "file", b"the second", replaces=first.ref)
            await wait_until("file", 10)
            with pytest.raises(RevisionGone):
                await ours.read(first.ref, Span(0, 5))
            await mkdir(theirs, theirs.root, "folder")
            await wait_until("folder", 0)
            assert shown["folder"].kind is Kind.DIRECTORY
            await theirs.remove(second.ref)
            await wait_until("file", None)
            nursery.cancel_scope.cancel()


async def test_an_outage_passes(server: S3Server) -> None:
    await create_vault(open_store(remote(server)), PASSPHRASE)
    async with opened(server) as vault:
        cloud = RetryingCloud(vault)
        file = await put(vault, vault.root, "file", b"data")
        failures = iter([Fault(503, "SlowDown"), Fault(body_bytes=0), Fault(500)])
        server.intercept = lambda method, path: next(failures, None)
        assert await cloud.read(file.ref, Span(0, 4)) == b"data"
        server.intercept = lambda method, path: Fault(body_bytes=0)
        with pytest.raises(Unavailable):
            await cloud.mkdir(cloud.root, "folder", token=bytes(32))
        server.intercept = None
        await cloud.mkdir(cloud.root, "folder", token=bytes(32), retry=True)
        assert set(await contents(vault)) == {"/file", "/folder"}


LARGE = 2 * EARLY_SIZE


@pytest.mark.parametrize("how", ["to its end", "changed behind", "broken connections", "answer lost"])
async def test_a_large_file_begins_to_go_up_while_it_is_written(server: S3Server, tmp_path: Path, how: str) -> None:
    await create_vault(open_store(remote(server)), PASSPHRASE)
    data = bytearray(os.urandom(LARGE))

    def parts_sent() -> int:
        return sum(len(upload.parts) for upload in server.uploads.values())

    async with opened(server) as vault, a_drive(vault, tmp_path) as drive:
        before = set(server.buckets["bucket"])
        _, handle = await drive.create(ROOT_INO, "large", exclusive=True, door=DOOR)
        for start in range(0, LARGE, 1 << 20):
            await drive.write(handle, start, bytes(data[start : start + (1 << 20)]))
        await until(lambda: parts_sent() >= 4, within=PATIENCE)
        assert set(server.buckets["bucket"]) == before
        match how:
            case "changed behind":
                data[5:12] = b"changed"
                await drive.write(handle, 5, b"changed")
            case "broken connections":
                failures = iter([Fault(body_bytes=0)] * 6)
                server.intercept = lambda method, path: next(failures, None) if "partNumber" in path else None
            case "answer lost":
                lost = iter([Fault(body_bytes=0)])
                server.intercept = lambda method, path: next(lost, None) if method == "HEAD" else None
        await drive.release(handle)
        with trio.fail_after(60):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert drive.conflicts == 0
    begun = sum("uploads" in request for request in server.requests)
    assert begun == 1 if how in ("to its end", "answer lost") else begun > 1
    async with opened(server) as vault:
        assert await contents(vault) == {"/large": bytes(data)}
