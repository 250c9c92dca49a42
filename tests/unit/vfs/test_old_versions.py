"""Names of old versions, and the synthetic tree over a drive whose versions the test makes up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.errors import IsADirectory, NotADirectory, NotFound, ReadOnly
from serpentfs.model import ROOT_INO, DirEntry, Ino, Kind, NodeId
from serpentfs.vfs.core import Invalidation, RenameMode, SetAttributes
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.old_versions import NAME, names_of
from serpentfs.vfs.versions_view import VersionsView
from tests.drives import DOOR, a_drive, contents, mkdir, rename, unlink, write
from tests.fakes.memory_cloud import MemoryCloud


@dataclass(frozen=True)
class Kept:
    handle: str
    created: int = 1_600_000_000
    size: int = 3
    mtime: int = 1_500_000_000


class Keeper:
    """Keeps what a test says, by the node that ``at`` finds."""

    def __init__(self) -> None:
        self.kept: dict[NodeId, list[Kept]] = {}

    def versions(self, node: NodeId) -> list[Kept]:
        return self.kept.get(node, [])


@dataclass
class Scene:
    drive: Drive
    view: VersionsView
    keeper: Keeper

    def keep(self, path: str, *kept: Kept) -> None:
        node = self.drive.node_of(self.drive.resolve(path).ino)
        assert node is not None
        self.keeper.kept[node] = list(kept)

    def names(self, path: str) -> list[str]:
        return [entry.name for entry in self.view.readdir(self.view.resolve(path).ino)]

    async def make(self, *paths: str) -> None:
        for path in paths:
            await write(self.drive, path, b"now")
        await self.drive.wait_until_uploaded()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_drive(MemoryCloud(), tmp_path) as drive:
        keeper = Keeper()
        yield Scene(drive, VersionsView(drive, keeper), keeper)


# names


def test_names_are_times_in_order_with_the_extension() -> None:
    kept = [Kept("c", 1_700_000_000), Kept("b", 1_600_000_000), Kept("a", 1_600_000_000)]
    assert [(name, one.handle) for name, one in names_of("report.odt", kept)] == [
        ("2020-09-13T12-26-40Z.odt", "a"),
        ("2020-09-13T12-26-40Z (2).odt", "b"),
        ("2023-11-14T22-13-20Z.odt", "c"),
    ]


@pytest.mark.parametrize(("file", "extension"), [
    ("plain", ""), (".profile", ""), ("a.tar.gz", ".gz"), ("long." + "x" * 100, ""),
])
def test_extensions(file: str, extension: str) -> None:
    assert names_of(file, [Kept("a")])[0][0] == f"2020-09-13T12-26-40Z{extension}"


@given(
    st.lists(st.builds(Kept, st.text(min_size=1), st.integers(-(2**63), 2**63)), unique_by=lambda one: one.handle),
    st.integers(1_700_000_000, 1_800_000_000),
)
def test_names_are_unique_and_stay_when_a_version_is_added(kept: list[Kept], later: int) -> None:
    kept = [one for one in kept if one.created < later]
    before = names_of("file.txt", kept)
    assert len({name for name, _ in before}) == len(kept)
    assert names_of("file.txt", [*kept, Kept("later", later)])[: len(before)] == before


# the tree


@pytest.mark.trio
async def test_what_is_shown(scene: Scene) -> None:
    await mkdir(scene.drive, "/sub")
    await scene.make("/a.txt", "/b", "/sub/c")
    scene.keep("/a.txt", Kept("v2", 1_700_000_000, size=7), Kept("v1"))
    assert scene.names("/") == ["sub", "a.txt", "b"], "the view is hidden"
    assert scene.names(f"/{NAME}") == ["a.txt", "b"]
    assert scene.names(f"/{NAME}/a.txt") == ["2020-09-13T12-26-40Z.txt", "2023-11-14T22-13-20Z.txt"]
    assert scene.names(f"/{NAME}/b") == []
    assert scene.names(f"/sub/{NAME}") == ["c"]
    found = scene.view.resolve(f"/{NAME}/a.txt/2023-11-14T22-13-20Z.txt")
    assert (found.kind, found.size, found.mtime_ns) == (Kind.FILE, 7, 1_500_000_000 * 10**9)
    assert scene.view.getattr(found.ino) == found
    folder = scene.view.getattr(found.parent)
    above = scene.view.getattr(folder.parent)
    assert folder.kind is above.kind is Kind.DIRECTORY
    assert above.parent == ROOT_INO
    for path in (f"/sub/{NAME}", f"/sub/{NAME}/c", f"/{NAME}/a.txt/2023-11-14T22-13-20Z.txt", f"/{NAME}"):
        assert scene.view.path_of(scene.view.resolve(path).ino) == path
    for path in (f"/{NAME}/sub", f"/{NAME}/{NAME}", f"/{NAME}/none", f"/{NAME}/a.txt/none", f"/none/{NAME}"):
        with pytest.raises(NotFound):
            scene.view.resolve(path)
    for path in (f"/b/{NAME}", f"/{NAME}/a.txt/2023-11-14T22-13-20Z.txt/x"):
        with pytest.raises(NotADirectory):
            scene.view.resolve(path)
    with pytest.raises(IsADirectory):
        await scene.view.open(folder.ino, write=False, door=DOOR)


@pytest.mark.trio
async def test_page_by_page(scene: Scene) -> None:
    for number in range(7):
        await mkdir(scene.drive, f"/folder{number}")
        await scene.make(f"/file{number}")
    await mkdir(scene.drive, f"/{NAME}")
    scene.keep("/file3", *(Kept(f"v{number}", 1_600_000_000 + number) for number in range(7)))

    def paged(ino: Ino, limit: int) -> list[str]:
        """As a door lists: a page that is not full is the last one."""
        found: list[DirEntry] = []
        while page := scene.view.readdir(ino, found[-1].attributes.ino if found else 0, limit):
            found += page
            if len(page) < limit:
                break
        return [entry.name for entry in found]

    for path in ("/", f"/{NAME}", f"/{NAME}/file3"):
        ino = scene.view.resolve(path).ino
        whole = paged(ino, 1000)
        assert len(whole) == (14 if path == "/" else 7)
        for limit in range(1, 16):
            assert paged(ino, limit) == whole


@pytest.mark.trio
async def test_nothing_in_it_can_be_changed(scene: Scene) -> None:
    view = scene.view
    await scene.make("/a", "/b")
    scene.keep("/a", Kept("v1"))
    top, folder = view.resolve(f"/{NAME}").ino, view.resolve(f"/{NAME}/a").ino
    (entry,) = view.readdir(folder)
    version, name = entry.attributes.ino, entry.name
    handle = await view.open(version, write=False, door=DOOR)
    before = await contents(scene.drive)
    draft = await view.create_draft(door=DOOR)
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: view.setattr(version, SetAttributes(size=0), door=DOOR),
        lambda: view.setattr(folder, SetAttributes(mtime_ns=0), door=DOOR),
        lambda: view.open(version, write=True, door=DOOR),
        lambda: view.write(handle, 0, b"x"),
        lambda: view.setxattr(version, "user.x", b""),
        lambda: view.removexattr(top, "user.x"),
        lambda: view.rename(folder, name, ROOT_INO, "c", door=DOOR),
        lambda: view.rename(ROOT_INO, "b", folder, "c", door=DOOR),
        lambda: view.rename(ROOT_INO, NAME, ROOT_INO, "c", door=DOOR),
        lambda: view.rename(ROOT_INO, "b", ROOT_INO, NAME, RenameMode.EXCHANGE, door=DOOR),
        lambda: view.copy_file(version, folder, "copy", door=DOOR),
        lambda: view.unlink(folder, name, door=DOOR),
        lambda: view.rmdir(top, "a", door=DOOR),
        lambda: view.rmdir(ROOT_INO, NAME, door=DOOR),
    ]
    for parent, new in ((top, "c"), (folder, "c"), (ROOT_INO, NAME)):
        changes += [
            partial(view.mkdir, parent, new, door=DOOR),
            partial(view.symlink, parent, new, "b", door=DOOR),
            partial(view.create, parent, new, exclusive=True, door=DOOR),
            partial(view.publish, draft, parent, new, door=DOOR),
        ]
    for change in changes:
        with pytest.raises(ReadOnly):
            await change()
    assert await contents(scene.drive) == before
    await view.discard(draft)
    await view.release(handle)
    assert view.listxattr(version) == []
    with pytest.raises(NotFound):
        view.getxattr(version, "user.x")


@pytest.mark.trio
async def test_an_entry_that_is_really_named_so_is_hidden_and_kept(scene: Scene) -> None:
    await mkdir(scene.drive, f"/{NAME}")
    await mkdir(scene.drive, "/sub")
    await scene.make("/a", f"/{NAME}/mine", f"/sub/{NAME}")
    assert scene.names("/") == ["sub", "a"]
    assert scene.names(f"/{NAME}") == ["a"]
    assert scene.names("/sub") == []
    assert scene.names(f"/sub/{NAME}") == []
    assert (await contents(scene.drive))[f"/{NAME}/mine"] == b"now"


@pytest.mark.trio
async def test_what_becomes_of_it_when_the_file_changes(scene: Scene) -> None:
    await scene.make("/a.txt")
    scene.keep("/a.txt", Kept("v1"), Kept("v0", 1_550_000_000))
    folder = scene.view.resolve(f"/{NAME}/a.txt").ino
    old, new = scene.view.readdir(folder)
    scene.keep("/a.txt", Kept("v1"))
    with pytest.raises(NotFound):
        scene.view.getattr(old.attributes.ino)
    with pytest.raises(NotFound):
        await scene.view.open(old.attributes.ino, write=False, door=DOOR)
    assert scene.view.readdir(folder) == [new]
    await rename(scene.drive, "/a.txt", "/b.odt")
    assert [(entry.name, entry.attributes.ino) for entry in scene.view.readdir(folder)] == [
        ("2020-09-13T12-26-40Z.odt", new.attributes.ino)
    ]
    await unlink(scene.drive, "/b.odt")
    for ask in (scene.view.getattr, scene.view.readdir, scene.view.path_of):
        with pytest.raises(NotFound):
            ask(folder)


@pytest.mark.trio
async def test_doors_hear_that_a_name_changed_there_too(scene: Scene) -> None:
    heard: list[Invalidation] = []
    end = scene.view.subscribe(heard.append)
    await scene.make("/a")
    assert all(one.entry is None or one.entry[0] == ROOT_INO for one in heard), "nobody looked"
    top = scene.view.resolve(f"/{NAME}").ino
    assert scene.names(f"/{NAME}") == ["a"]
    heard.clear()
    await unlink(scene.drive, "/a")
    assert Invalidation(entry=(ROOT_INO, "a"), origin=DOOR) in heard
    assert Invalidation(entry=(top, "a")) in heard
    end()
    heard.clear()
    await scene.make("/b")
    assert not heard
