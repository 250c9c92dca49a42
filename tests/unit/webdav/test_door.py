"""The door over a drive that is full, away, damaged, or that others change meanwhile."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from serpentfs import errors
from serpentfs.model import ROOT_INO, Attributes, DirEntry, HandleId, Ino
from serpentfs.vfs.core import Precondition, RenameMode, SetAttributes
from tests.fakes.memory_vfs import MemoryVfs
from tests.unit.webdav.in_process import client_of, connected, make_door

pytestmark = pytest.mark.trio


class FailingVfs(MemoryVfs):
    """Raises ``failures[method]`` (once popped from a list) when that method is called."""

    def __init__(self) -> None:
        super().__init__(cold=True)
        self.failures: dict[str, Exception] = {}

    def _fail(self, method: str) -> None:
        if method in self.failures:
            raise self.failures[method]

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        self._fail("read")
        if offset:
            self._fail("read later")
        return await super().read(handle, offset, size)

    async def write(self, handle: HandleId, offset: int | None, data: bytes | memoryview) -> int:
        self._fail("write")
        return await super().write(handle, offset, data)

    async def publish(
        self,
        draft: HandleId,
        parent: Ino,
        name: str,
        *,
        precondition: Precondition = Precondition(),
        mtime_ns: int | None = None,
        door: str,
    ) -> tuple[Attributes, bool]:
        self._fail("publish")
        return await super().publish(
            draft, parent, name, precondition=precondition, mtime_ns=mtime_ns, door=door
        )

    async def unlink(self, parent: Ino, name: str, *, door: str) -> None:
        if name in self.failures:
            raise self.failures[name]
        await super().unlink(parent, name, door=door)

    async def copy_file(
        self, ino: Ino, parent: Ino, name: str, *, precondition: Precondition = Precondition(), door: str
    ) -> tuple[Attributes, bool]:
        if name in self.failures:
            raise self.failures[name]
        return await super().copy_file(ino, parent, name, precondition=precondition, door=door)

    async def setattr(
        self, ino: Ino, changes: SetAttributes, handle: HandleId | None = None, *, door: str
    ) -> Attributes:
        self._fail("setattr")
        return await super().setattr(ino, changes, handle, door=door)

    @property
    def open_handles(self) -> int:
        return len(self._handles)


@pytest.mark.parametrize("where", ["write", "publish"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NoSpace("full"), 507),
        (errors.Unavailable("away"), 503),
        (errors.FileTooLarge("too large"), 413),
        (errors.Busy("busy"), 423),
        (errors.ReadOnly("read-only"), 403),
        (RuntimeError("a bug"), 500),
    ],
)
async def test_a_failed_put_leaves_nothing(
    where: str, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    vfs = FailingVfs()
    vfs.cloud_put("/file", b"old")
    vfs.failures[where] = error
    async with client_of(vfs) as client:
        answer = await client.request("PUT", "/file", bytes(2_000_000))
        assert answer.status == status
        assert ("bug" in answer.body.decode()) is False
    assert vfs.bytes_of("/file") == b"old"
    assert vfs.open_handles == 0
    if status == 500:
        assert "RuntimeError: a bug" in caplog.text


async def test_a_broken_connection_discards_the_draft() -> None:
    vfs = FailingVfs()
    async with client_of(vfs) as client:
        await client.stream.send_all(b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
        await trio.testing.wait_all_tasks_blocked()
        assert vfs.open_handles == 1
    assert vfs.open_handles == 0
    assert vfs.readdir(ROOT_INO) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.IntegrityError("damaged"), 500),
        (errors.Unavailable("away"), 503),
        (errors.RateLimited("slowly", 3), 503),
        (errors.RevisionGone("replaced"), 503),
    ],
)
async def test_a_file_that_cannot_be_read(error: errors.SerpentError, status: int) -> None:
    vfs = FailingVfs()
    vfs.cloud_put("/file", bytes(3_000_000))
    async with client_of(vfs) as client:
        vfs.failures["read"] = error
        answer = await client.request("GET", "/file")
        assert answer.status == status
        if status == 503:
            assert int(answer.headers["retry-after"]) >= 1
        del vfs.failures["read"]
        vfs.failures["read later"] = error
        await client.stream.send_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = await client.read_until_closed()
        assert received.startswith(b"HTTP/1.1 200")
        assert len(received) < 3_000_000, "what cannot be read is broken off, never padded or ended well"
    assert vfs.open_handles == 0


async def test_others_save_between_the_check_and_the_commit() -> None:
    """If-Match is looked at again by the core, at the moment of publishing."""
    vfs = MemoryVfs()
    vfs.cloud_put("/file", b"one")
    async with client_of(vfs) as client:
        tag = (await client.request("HEAD", "/file")).headers["etag"]
        await client.stream.send_all(
            f"PUT /file HTTP/1.1\r\nHost: localhost\r\nIf-Match: {tag}\r\nContent-Length: 4\r\n\r\nmi".encode()
        )
        await trio.testing.wait_all_tasks_blocked()
        vfs.cloud_put("/file", b"theirs")
        await client.stream.send_all(b"ne")
        assert (await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 412")
    assert vfs.bytes_of("/file") == b"theirs"


async def test_the_folder_of_an_upload_moves_away() -> None:
    vfs = MemoryVfs()
    vfs.cloud_mkdir("/folder")
    async with client_of(vfs) as client:
        await client.stream.send_all(
            b"PUT /folder/file HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nhe"
        )
        await trio.testing.wait_all_tasks_blocked()
        vfs.cloud_rename("/folder", "/moved")
        await client.stream.send_all(b"re")
        assert (await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 409")
    assert vfs.readdir(vfs.resolve("/moved").ino) == []


async def test_a_file_that_grows_while_it_is_read_is_sent_as_it_was() -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/file", b"short")
    async with client_of(vfs) as client:
        answer = await client.request("GET", "/file")
        assert answer.body == b"short"
        vfs.cloud_put("/file", b"longer now")
        changed = await client.request("GET", "/file")
        assert changed.body == b"longer now"
        assert changed.headers["etag"] != answer.headers["etag"]


async def test_what_cannot_be_removed_or_copied_is_listed() -> None:
    vfs = FailingVfs()
    vfs.cloud_mkdir("/tree")
    vfs.cloud_mkdir("/tree/inner")
    for path in ("/tree/a", "/tree/inner/stuck &", "/tree/inner/z"):
        vfs.cloud_put(path, b"x")
    vfs.failures["stuck &"] = errors.PermissionDenied("no")
    async with client_of(vfs) as client:
        answer = await client.request("COPY", "/tree", headers={"Destination": "/copy"})
        assert answer.status == 207
        assert b"<D:href>/copy/inner/stuck%20%26</D:href><D:status>HTTP/1.1 403" in answer.body
        assert vfs.bytes_of("/copy/inner/z") == b"x"

        answer = await client.request("DELETE", "/tree")
        assert answer.status == 207
        assert answer.body.count(b"<D:response>") == 1, "its folders remain, but they are not to blame"
        assert b"<D:href>/tree/inner/stuck%20%26</D:href><D:status>HTTP/1.1 403" in answer.body
        assert [entry.name for entry in vfs.readdir(vfs.resolve("/tree").ino)] == ["inner"]


async def test_a_move_over_a_folder_that_is_asked_for_again_keeps_what_was_moved() -> None:
    """The first one took too long, or was cut short, while it removed what was replaced."""
    vfs = FailingVfs()
    vfs.cloud_mkdir("/source")
    vfs.cloud_mkdir("/target")
    vfs.cloud_put("/source/precious", b"x")
    vfs.cloud_put("/target/old", b"y")
    vfs.failures["old"] = errors.Unavailable("away")
    async with client_of(vfs) as client:
        answer = await client.request("MOVE", "/source", headers={"Destination": "/target"})
        assert answer.status == 207
        assert b"/old</D:href><D:status>HTTP/1.1 503" in answer.body
        vfs.failures.clear()
        again = await client.request("MOVE", "/source", headers={"Destination": "/target"})
        assert again.status == 404
    assert vfs.bytes_of("/target/precious") == b"x"
    (left,) = [entry.name for entry in vfs.readdir(ROOT_INO) if entry.name != "target"]
    assert f"<D:href>/{left}/old".encode() in answer.body
    assert vfs.bytes_of(f"/{left}/old") == b"y"


async def test_a_move_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    vfs = FailingVfs()
    vfs.cloud_mkdir("/source")
    vfs.cloud_mkdir("/target")
    vfs.cloud_put("/source/new", b"x")
    vfs.cloud_put("/target/old", b"y")
    rename = vfs.rename

    async def failing(
        parent: Ino, name: str, new_parent: Ino, new_name: str, mode: RenameMode, *, door: str
    ) -> None:
        if name == "source":
            raise errors.NoSpace("full")
        await rename(parent, name, new_parent, new_name, mode, door=door)

    monkeypatch.setattr(vfs, "rename", failing)
    async with client_of(vfs) as client:
        assert (await client.request("MOVE", "/source", headers={"Destination": "/target"})).status == 507
    assert [entry.name for entry in vfs.readdir(ROOT_INO)] == ["source", "target"]
    assert (vfs.bytes_of("/source/new"), vfs.bytes_of("/target/old")) == (b"x", b"y")


async def test_properties_are_changed_with_the_time_or_not_at_all() -> None:
    vfs = FailingVfs()
    vfs.cloud_put("/file", b"x")
    body = (
        b'<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><z:a xmlns:z="urn:z">1</z:a>'
        b"<D:lastmodified>1000000000</D:lastmodified></D:prop></D:set></D:propertyupdate>"
    )
    async with client_of(vfs) as client:
        vfs.failures["setattr"] = errors.NoSpace("full")
        assert (await client.request("PROPPATCH", "/file", body)).status == 507
        found = await client.request("PROPFIND", "/file", headers={"Depth": "0"})
        assert b"urn:z" not in found.body
        vfs.failures.clear()
        assert (await client.request("PROPPATCH", "/file", body)).status == 207
        found = await client.request("PROPFIND", "/file", headers={"Depth": "0"})
        assert b"urn:z" in found.body


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("LOCK", "/file", {"If-Match": '"stale"'}),
        ("LOCK", "/file", {"If-None-Match": "*"}),
        ("LOCK", "/nothing", {"If-Match": "*"}),
        ("MKCOL", "/nothing", {"If-Match": "*"}),
        ("UNLOCK", "/file", {"If-Match": '"stale"', "Lock-Token": "<urn:uuid:x>"}),
    ],
)
async def test_conditions_hold_for_locks_and_folders(method: str, target: str, headers: dict[str, str]) -> None:
    vfs = FailingVfs()
    vfs.cloud_put("/file", b"x")
    body = (
        b'<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>'
        b"<D:locktype><D:write/></D:locktype></D:lockinfo>"
    )
    async with client_of(vfs) as client:
        answer = await client.request(method, target, body if method == "LOCK" else b"", headers)
        assert answer.status == 412
        assert (await client.request("PUT", "/file", b"y")).status == 204, "nothing is locked"
    assert [entry.name for entry in vfs.readdir(ROOT_INO)] == ["file"]


async def test_a_tree_deeper_than_python_recurses() -> None:
    vfs = MemoryVfs()
    path = ""
    for _ in range(1500):
        path += "/d"
        vfs.cloud_mkdir(path)
    async with client_of(vfs) as client:
        assert (await client.request("COPY", "/d", headers={"Destination": "/copy"})).status == 201
        assert (await client.request("DELETE", "/d")).status == 204
    assert vfs.resolve("/copy" + path[2:])


async def test_links_are_shown_as_what_they_lead_to() -> None:
    vfs = MemoryVfs()
    folder = vfs.cloud_mkdir("/folder")
    vfs.cloud_put("/folder/file", b"content")
    for parent, name, target in (
        (ROOT_INO, "to-file", "folder/file"),
        (ROOT_INO, "to-folder", "./folder/"),
        (folder, "up", "../folder/../to-file"),
        (ROOT_INO, "dangling", "nowhere"),
        (ROOT_INO, "absolute", "/folder/file"),
        (ROOT_INO, "out", "../../etc"),
        (ROOT_INO, "loop", "loop"),
        (folder, "to-root", ".."),
    ):
        await vfs.symlink(parent, name, target, door="mount")
    async with client_of(vfs) as client:
        for path in ("/to-file", "/to-folder/file", "/folder/up", "/to-folder/up", "/folder/to-root/to-file"):
            assert (await client.request("GET", path)).body == b"content", path
        for path in ("/dangling", "/absolute", "/out", "/loop", "/to-file/x", "/loop/x"):
            assert (await client.request("GET", path)).status == 404, path
        listed = (await client.request("PROPFIND", "/", headers={"Depth": "1"})).body.decode()
        assert "<D:href>/to-folder/</D:href>" in listed
        assert "<D:href>/to-file</D:href>" in listed
        assert all(name not in listed for name in ("dangling", "absolute", "out<", "loop"))
        assert b"to-folder/" in (await client.request("GET", "/")).body

        assert (await client.request("PUT", "/to-file", b"through the link")).status == 204
        assert vfs.bytes_of("/folder/file") == b"through the link"
        assert (await client.request("DELETE", "/to-folder")).status == 204
        assert vfs.bytes_of("/folder/file") == b"through the link", "only the link went"


async def test_links_cannot_leave_the_root_of_the_door() -> None:
    vfs = MemoryVfs()
    inside = vfs.cloud_mkdir("/inside")
    vfs.cloud_put("/secret", b"x")
    await vfs.symlink(inside, "out", "../secret", door="mount")
    async with client_of(vfs, root="/inside") as client:
        assert (await client.request("GET", "/out")).status == 404
        assert b"out" not in (await client.request("PROPFIND", "/", headers={"Depth": "1"})).body


async def test_a_root_that_is_gone() -> None:
    vfs = MemoryVfs()
    vfs.cloud_mkdir("/inside")
    async with client_of(vfs, root="/inside") as client:
        vfs.cloud_remove("/inside")
        assert (await client.request("GET", "/")).status == 404
        assert (await client.request("PUT", "/x", b"")).status == 404


async def test_a_changed_property_attribute_is_no_property() -> None:
    """Through the mount anybody can write there."""
    vfs = MemoryVfs()
    ino = vfs.cloud_put("/file", b"")
    for value in (b"\xff", b"[]", b'{"a": 1}', b'"x"'):
        await vfs.setxattr(ino, "user.webdav.properties", value)
        async with client_of(vfs) as client:
            assert (await client.request("PROPFIND", "/file", headers={"Depth": "0"})).status == 207


async def test_names_that_xml_cannot_carry() -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/bell\x07 \ufffe", b"ring")
    async with client_of(vfs) as client:
        listed = (await client.request("PROPFIND", "/", headers={"Depth": "1"})).body.decode()
        assert "\x07" not in listed
        assert "/bell%07%20%EF%BF%BE" in listed
        assert (await client.request("GET", "/bell%07%20%EF%BF%BE")).body == b"ring"


class CaselessVfs(MemoryVfs):
    """A drive to which ``a`` and ``A`` are one name."""

    def lookup(self, parent: Ino, name: str) -> DirEntry:
        for entry in self.readdir(parent):
            if entry.name.lower() == name.lower():
                return entry
        raise errors.NotFound(name)


async def test_names_that_differ_in_case_only() -> None:
    vfs = CaselessVfs()
    vfs.cloud_put("/Name", b"x")
    async with client_of(vfs) as client:
        lock = (
            b'<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>'
            b"<D:locktype><D:write/></D:locktype></D:lockinfo>"
        )
        token = (await client.request("LOCK", "/name", lock)).headers["lock-token"]
        assert (await client.request("DELETE", "/NAME")).status == 423, "it is one file, by whatever name"
        unlock = await client.request("UNLOCK", "/nAME", headers={"Lock-Token": token})
        assert unlock.status == 204
        assert (await client.request("COPY", "/name", headers={"Destination": "/NAME"})).status == 403
        moved = await client.request("MOVE", "/Name", headers={"Destination": "/name", "Overwrite": "F"})
        assert moved.status in (201, 204)
    assert [entry.name for entry in vfs.readdir(ROOT_INO)] == ["name"]


async def test_two_clients_set_properties_at_once() -> None:
    vfs = MemoryVfs()
    vfs.cloud_put("/file", b"")
    door = make_door(vfs)

    async def set_one(name: str) -> None:
        body = f'<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><{name}/></D:prop></D:set></D:propertyupdate>'
        async with connected(door.answer) as client:
            assert (await client.request("PROPPATCH", "/file", body.encode())).status == 207

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(set_one, f"p{n}")
    async with connected(door.answer) as client:
        found = (await client.request("PROPFIND", "/file", headers={"Depth": "0"})).body.decode()
    assert all(f"<p{n} />" in found for n in range(10))


async def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with client_of(MemoryVfs(), users={"u": "hunter2"}) as client:
        for header in ("Basic dTpodW50ZXIy", "Basic dTp3cm9uZw=="):
            await client.request("GET", "/", headers={"Authorization": header})
    assert "hunter2" not in caplog.text
    assert "dTpo" not in caplog.text


async def test_the_loop_is_free_while_a_large_folder_is_listed() -> None:
    """Counted in turns of the loop, not in time: a listing of n entries gives way at least every so often."""
    vfs = MemoryVfs()
    for n in range(2000):
        vfs.cloud_put(f"/file {n}", b"")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with client_of(vfs) as client, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        answer = await client.request("PROPFIND", "/", headers={"Depth": "1"})
        nursery.cancel_scope.cancel()
    assert answer.body.count(b"<D:response>") == 2001
    assert turns > 2000 / 64


class CountingVfs(MemoryVfs):
    def __init__(self) -> None:
        super().__init__()
        self.listed = 0

    def readdir(self, ino: Ino, after: int = 0, limit: int = 1000) -> list[DirEntry]:
        self.listed += 1
        return super().readdir(ino, after, limit)


LOCK_BODY = b'<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>'
NAMES_ONLY = b'<propfind xmlns="DAV:"><propname/></propfind>'


async def test_a_listing_is_kept_until_something_changes() -> None:
    vfs = CountingVfs()
    vfs.cloud_mkdir("/folder")
    for n in range(40):
        vfs.cloud_put(f"/folder/file {n}", b"")

    async with client_of(vfs) as client:

        async def listed(path: str = "/folder/", body: bytes = b"") -> tuple[bytes, bool]:
            """The answer, and whether it was made anew."""
            before = vfs.listed
            answer = await client.request("PROPFIND", path, body, {"Depth": "1"})
            assert answer.status == 207
            return answer.body, vfs.listed > before

        first, new = await listed()
        assert new
        assert await listed() == (first, False)
        names, new = await listed(body=NAMES_ONLY)
        assert new
        assert names != first
        vfs.cloud_put("/folder/file 5", b"longer")
        second, new = await listed()
        assert new
        assert second != first
        assert b"<D:getcontentlength>6</D:getcontentlength>" in second
        assert await listed() == (second, False)
        await vfs.setxattr(vfs.resolve("/folder/file 7").ino, "user.webdav.properties", b'{"{x}p": "<p/>"}')
        assert b"<p/>" in (await listed())[0]
        locked = await client.request("LOCK", "/folder/file%207", LOCK_BODY)
        assert locked.status == 200
        assert b"<D:activelock>" in (await listed())[0]
        assert (await listed())[1], "the time that a lock has left passes"
        token = locked.headers["lock-token"]
        assert (await client.request("UNLOCK", "/folder/file%207", headers={"Lock-Token": token})).status == 204
        last, _ = await listed()
        assert b"<D:activelock>" not in last
        assert await listed() == (last, False)
