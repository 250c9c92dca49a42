"""The account's other trees: what others share with it, the inbox, the rubbish bin."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serpentfs.clouds.mega.api import open_api
from serpentfs.clouds.mega.cloud import MegaOptions
from serpentfs.clouds.mega.encoding import decode, encode, read_mpi, write_mpi
from serpentfs.clouds.mega.keys import ecb_encrypt, share_auth
from serpentfs.clouds.mega.nodes import Node
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.session import Session
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import PermissionDenied
from serpentfs.model import NodeId, NodeRef, Revision
from serpentfs.vfs.drive import Drive
from tests.drives import contents, exists, ino_at, mkdir, read, rename, unlink, until, write
from tests.fakes.content import BytesContent
from tests.mega_drives import PASSWORD, log_in, mega_drive
from tests.mega_emulator import Emulator, emulator

pytestmark = pytest.mark.trio
_NUMBERS = itertools.count(1)
_SEEN_WITHIN = 20.0
READ, WRITE, FULL = range(3)
SHARES = MegaOptions(root="shares")


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


@dataclass
class Owner:
    """Who shares folders of an account with others, as an official client does."""

    server: Emulator
    session: Session
    drive: Drive

    def node(self, path: str) -> NodeId:
        node = self.drive.node_of(ino_at(self.drive, path))
        assert node is not None
        return node

    def paths(self) -> set[str]:
        """What the account holds, old versions aside."""
        return {entry.path for entry in self.server.tree(self.session.email) if not entry.is_version}

    async def share(self, path: str, guest: str, right: int | None) -> None:
        """Give ``guest`` a right to a folder, or take it back: the share's key under the guest's RSA key, and the keys
        of all nodes under that of the share."""
        handle = self.node(path)
        transport = Transport()
        async with open_api(transport, self.session.api, sid=self.session.sid, link=None) as api:
            if right is None:
                await api.command({"a": "s2", "n": handle, "s": [{"u": guest, "r": ""}]})
            else:
                replica = Replica(None, self.session.key, self.session.user)
                async with api.stream_tree({"a": "f", "c": 1, "r": 1}) as pieces:
                    replica.install(replica.load([piece async for piece in pieces]))
                key = dict(replica.share_of(handle)).get(handle) or secrets.token_bytes(16)
                nodes: list[Node] = []
                waiting: list[str] = [handle]
                while waiting:
                    node = replica.node(waiting.pop())
                    assert node is not None
                    nodes.append(node)
                    waiting += [child.handle for child in replica.children(node.handle)]
                replica.close()
                public = decode((await api.command({"a": "uk", "u": guest}))["pubk"])
                modulus, at = read_mpi(public)
                padded = key + secrets.token_bytes((modulus.bit_length() + 7) // 8 - 2 - len(key))
                for_guest = pow(int.from_bytes(padded), read_mpi(public, at)[0], modulus)
                await api.command({
                    "a": "s2", "n": handle, "s": [{"u": guest, "r": right, "k": encode(write_mpi(for_guest))}],
                    "ok": encode(ecb_encrypt(self.session.key, key)),
                    "ha": encode(share_auth(self.session.key, handle)),
                    "cr": [[handle], [node.handle for node in nodes], [
                        part for number, node in enumerate(nodes)
                        for part in (0, number, encode(ecb_encrypt(key, node.key)))
                    ]],
                })  # fmt: skip
        await transport.aclose()


@pytest.fixture
async def owner(server: Emulator, tmp_path: Path) -> AsyncIterator[Owner]:
    email = f"owner{next(_NUMBERS)}@example.test"
    server.add_account(email, PASSWORD)
    session = await log_in(server.url, email)
    async with mega_drive(session, tmp_path / "owner") as (drive, _):
        for folder in ("/shared", "/shared/sub", "/second"):
            await mkdir(drive, folder)
        await write(drive, "/shared/file", b"of the owner")
        await write(drive, "/shared/sub/deep", b"deep")
        await write(drive, "/private", b"not shared")
        await drive.wait_until_uploaded()
        yield Owner(server, session, drive)


@pytest.fixture
async def guest(server: Emulator) -> Session:
    email = f"guest{next(_NUMBERS)}@example.test"
    server.add_account(email, PASSWORD)
    return await log_in(server.url, email)


def ref(drive: Drive, path: str) -> NodeRef:
    ino = ino_at(drive, path)
    node = drive.node_of(ino)
    assert node is not None
    return NodeRef(node, drive.getattr(ino).kind, Revision(node))


async def test_what_others_share_is_read(owner: Owner, guest: Session, tmp_path: Path) -> None:
    await owner.share("/shared", guest.email, READ)
    async with mega_drive(guest, tmp_path / "guest", mega=SHARES) as (drive, _):
        assert await contents(drive) == {
            "/shared": None, "/shared/file": b"of the owner", "/shared/sub": None, "/shared/sub/deep": b"deep",
        }  # fmt: skip
    async with mega_drive(guest, tmp_path / "cloud") as (drive, _):
        assert await contents(drive) == {}  # it is no part of the guest's own tree


async def test_shares_come_and_go_while_they_are_looked_at(owner: Owner, guest: Session, tmp_path: Path) -> None:
    async with mega_drive(guest, tmp_path / "guest", mega=SHARES) as (drive, _):
        assert await contents(drive) == {}
        await owner.share("/shared", guest.email, READ)
        await owner.share("/second", guest.email, FULL)
        await until(lambda: exists(drive, "/shared/sub/deep") and exists(drive, "/second"), _SEEN_WITHIN)
        assert await read(drive, "/shared/sub/deep") == b"deep"
        await write(owner.drive, "/shared/sub/new", b"new")
        await write(owner.drive, "/shared/file", b"second content")
        await rename(owner.drive, "/private", "/shared/no longer private")
        await until(lambda: exists(drive, "/shared/no longer private"), _SEEN_WITHIN)
        await until(lambda: exists(drive, "/shared/sub/new"), _SEEN_WITHIN)
        # Changes of different files may be sent in any order.
        await until(lambda: drive.getattr(ino_at(drive, "/shared/file")).size == len(b"second content"), _SEEN_WITHIN)
        assert await read(drive, "/shared/no longer private") == b"not shared"
        assert await read(drive, "/shared/file") == b"second content"
        assert await read(drive, "/shared/sub/new") == b"new"
        await owner.share("/shared", guest.email, None)
        await until(lambda: not exists(drive, "/shared"), _SEEN_WITHIN)
        assert await contents(drive) == {"/second": None}


async def test_a_share_is_written_to(owner: Owner, guest: Session, tmp_path: Path) -> None:
    await owner.share("/shared", guest.email, FULL)
    async with mega_drive(guest, tmp_path / "guest", mega=SHARES) as (drive, _):
        await mkdir(drive, "/shared/of the guest")
        await write(drive, "/shared/of the guest/new", b"hello")
        await write(drive, "/shared/file", b"saved over")
        await rename(drive, "/shared/sub/deep", "/shared/of the guest/moved")
        await unlink(drive, "/shared/of the guest/new")
        await write(drive, "/shared/sub/second", b"2")
        await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        await until(lambda: exists(owner.drive, "/shared/of the guest/moved"), _SEEN_WITHIN)
        await until(lambda: exists(owner.drive, "/shared/sub/second"), _SEEN_WITHIN)
        await until(lambda: owner.drive.resolve("/shared/file").size == len(b"saved over"), _SEEN_WITHIN)
        await until(lambda: not exists(owner.drive, "/shared/of the guest/new"), _SEEN_WITHIN)
    # The owner reads it all, and what was removed is in nobody's bin.
    assert await contents(owner.drive, ino_at(owner.drive, "/shared"), "/shared") == {
        "/shared/file": b"saved over", "/shared/of the guest": None, "/shared/of the guest/moved": b"deep",
        "/shared/sub": None, "/shared/sub/second": b"2",
    }  # fmt: skip
    assert owner.server.tree(guest.email) == []
    assert not any(path.startswith("//bin") for path in owner.paths())


async def test_a_share_to_read_refuses_changes(owner: Owner, guest: Session, tmp_path: Path) -> None:
    await owner.share("/shared", guest.email, READ)
    before = owner.paths()
    async with mega_drive(guest, tmp_path / "guest", mega=SHARES) as (drive, cloud):
        shared, file = ref(drive, "/shared"), ref(drive, "/shared/file")
        with pytest.raises(PermissionDenied, match="no right"):
            await cloud.mkdir(shared.id, "new", token=bytes(32))
        with pytest.raises(PermissionDenied, match="no right"):
            await cloud.put(shared.id, "new", BytesContent(b"x"), replaces=None, mtime_ns=0, token=bytes(32))
        with pytest.raises(PermissionDenied, match="no right"):
            await cloud.move(file, shared.id, "renamed", replaces=None)
        with pytest.raises(PermissionDenied, match="no right"):
            await cloud.remove(file)
        with pytest.raises(PermissionDenied, match="no right"):
            await cloud.set_mtime(file, 0)
        assert sorted(await contents(drive)) == ["/shared", "/shared/file", "/shared/sub", "/shared/sub/deep"]
    assert owner.paths() == before


async def test_the_tops_of_shares_are_their_owners(owner: Owner, guest: Session, tmp_path: Path) -> None:
    await owner.share("/second", guest.email, FULL)
    async with mega_drive(guest, tmp_path / "guest", mega=SHARES) as (drive, cloud):
        top = ref(drive, "/second")
        with pytest.raises(PermissionDenied, match="share it"):
            await cloud.mkdir(cloud.root, "new", token=bytes(32))
        with pytest.raises(PermissionDenied, match="its owner"):
            await cloud.move(top, cloud.root, "renamed", replaces=None)
        with pytest.raises(PermissionDenied, match="its owner"):
            await cloud.remove(top)
    assert "/second" in owner.paths()


async def test_two_shares_of_one_name(server: Emulator, owner: Owner, guest: Session, tmp_path: Path) -> None:
    other = f"owner{next(_NUMBERS)}@example.test"
    server.add_account(other, PASSWORD)
    async with mega_drive(await log_in(server.url, other), tmp_path / "other") as (drive, _):
        await mkdir(drive, "/shared")
        await write(drive, "/shared/theirs", b"theirs")
        await drive.wait_until_uploaded()
        await Owner(server, await log_in(server.url, other), drive).share("/shared", guest.email, READ)
    await owner.share("/shared", guest.email, READ)
    async with mega_drive(guest, tmp_path / "guest", mega=SHARES) as (drive, _):
        shown = await contents(drive)
        tops = [path for path in shown if path.count("/") == 1]
        assert len(tops) == 2
        assert "/shared" in tops
        assert sorted(path.rpartition("/")[2] for path in shown if path.count("/") == 2) == ["file", "sub", "theirs"]


async def test_the_inbox(server: Emulator, guest: Session, tmp_path: Path) -> None:
    inbox = next(node["h"] for node in server.control("tree", email=guest.email) if node["t"] == 3)
    folder = server.add_folder(guest.email, "backups", parent=inbox)
    server.add_file(guest.email, "file", b"of a device", parent=folder)
    server.add_file(guest.email, "elsewhere", b"in the cloud drive")
    async with mega_drive(guest, tmp_path / "inbox", mega=MegaOptions(root="inbox")) as (drive, _):
        assert await contents(drive) == {"/backups": None, "/backups/file": b"of a device"}
        server.add_file(guest.email, "later", b"2", parent=folder)
        await until(lambda: exists(drive, "/backups/later"), _SEEN_WITHIN)


async def test_the_rubbish_bin(server: Emulator, guest: Session, tmp_path: Path) -> None:
    async with (
        mega_drive(guest, tmp_path / "cloud") as (cloud, _),
        mega_drive(guest, tmp_path / "bin", mega=MegaOptions(root="rubbish")) as (rubbish, _),
    ):
        await mkdir(cloud, "/folder")
        await write(cloud, "/folder/file", b"removed")
        await cloud.wait_until_uploaded()
        await unlink(cloud, "/folder/file")
        await until(lambda: exists(rubbish, "/file"), _SEEN_WITHIN)
        assert await read(rubbish, "/file") == b"removed"
        await unlink(rubbish, "/file")
        await rubbish.wait_until_uploaded()
        assert await contents(rubbish) == {}
    assert [entry.path for entry in server.tree(guest.email)] == ["/folder"]
