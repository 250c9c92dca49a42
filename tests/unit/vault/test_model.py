"""Random changes against a dictionary; afterwards an independent reader must find the same in the vault."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serpentfs.clouds.vault import VaultCloud, check_vault
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.errors import AlreadyExists, DirectoryNotEmpty
from serpentfs.model import Kind, NodeId, NodeInfo
from tests.fakes.memory_blobs import MemoryBlobStore
from tests.vault_tools import Entry, read_vault
from tests.vaults import PASSPHRASE, fresh_vault, mkdir, put, tree

NAMES = ["a", "b", "é", "l" * 180, "m" * 180]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "mkdir", "mkdir", "symlink", "move", "move", "remove", "set_mtime"]),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.sampled_from(NAMES),
        st.sampled_from([0, 1, 100, 32768, 70_000]),
    ),
    max_size=25,
)


class Model:
    """What the vault should hold, by path; and the nodes that the calls answered with."""

    def __init__(self, vault: VaultCloud) -> None:
        self.vault = vault
        self.values: dict[str, bytes | str | None] = {"": None}
        self.nodes: dict[str, NodeInfo | None] = {"": None}

    def pick(self, number: int, *, folders: bool = False) -> str:
        paths = [path for path in self.values if not folders or self.values[path] is None]
        return paths[number % len(paths)]

    def id_of(self, path: str) -> NodeId:
        node = self.nodes[path]
        return ROOT if node is None else node.id

    def node(self, path: str) -> NodeInfo:
        node = self.nodes[path]
        assert node is not None
        return node

    def children(self, path: str) -> list[str]:
        return [other for other in self.values if other.startswith(f"{path}/")]

    async def step(self, what: str, one: int, two: int, name: str, size: int) -> None:
        parent = self.pick(one, folders=True)
        path = f"{parent}/{name}"
        try:
            if what == "put":
                await self.put(parent, path, name, bytes([one % 256]) * size)
            elif what == "mkdir":
                self.nodes[path] = await mkdir(self.vault, self.id_of(parent), name)
                self.values[path] = None
            elif what == "symlink":
                target = f"target {two}"
                self.nodes[path] = await self.vault.symlink(self.id_of(parent), name, target, mtime_ns=1)
                self.values[path] = target
            elif what == "move":
                await self.move(self.pick(two), parent, path, name)
            else:
                await self.other(what, self.pick(two), one)
        except AlreadyExists:
            assert path in self.values
        except DirectoryNotEmpty:
            assert self.children(self.pick(two))

    async def put(self, parent: str, path: str, name: str, data: bytes) -> None:
        if path in self.values and self.values[path] is not None:
            replaces = self.node(path).ref
            node = await put(self.vault, self.id_of(parent), name, data, replaces=replaces)
        else:
            node = await put(self.vault, self.id_of(parent), name, data)
        self.nodes[path], self.values[path] = node, data

    async def move(self, old: str, parent: str, path: str, name: str) -> None:
        if old == "" or f"{path}/".startswith(f"{old}/"):
            return
        replaceable = self.values.get(path) is not None and self.values[old] is not None
        replaces = self.node(path).ref if replaceable else None
        node = await self.vault.move(self.node(old).ref, self.id_of(parent), name, replaces=replaces)
        for below in [old, *self.children(old)]:
            self.values[path + below[len(old) :]] = self.values.pop(below)
            self.nodes[path + below[len(old) :]] = self.nodes.pop(below)
        self.nodes[path] = node

    async def other(self, what: str, path: str, number: int) -> None:
        if path == "":
            return
        if what == "remove":
            await self.vault.remove(self.node(path).ref)
            assert not self.children(path)
            del self.values[path], self.nodes[path]
        elif self.vault.capabilities.set_mtime:
            self.nodes[path] = await self.vault.set_mtime(self.node(path).ref, number)


def read_independently(store: MemoryBlobStore) -> dict[str, Entry]:
    with tempfile.TemporaryDirectory() as place:
        for key, data in store.contents().items():
            file = Path(place, key)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return read_vault(Path(place), PASSPHRASE)


async def play(folders: bool, combo: str, steps: list[tuple[str, int, int, str, int]]) -> None:
    store = MemoryBlobStore(folders=folders)
    vault = await fresh_vault(store, combo)
    model = Model(vault)
    for step in steps:
        await model.step(*step)
    shown = await tree(vault)
    assert shown == {
        path: node if node.kind is not Kind.DIRECTORY else shown[path]
        for path, node in model.nodes.items()
        if node is not None
    }
    assert await check_vault(vault, content=True) == []
    found = read_independently(store)
    assert set(found) == set(model.values) - {""}
    for path, entry in found.items():
        value = model.values[path]
        assert entry.target == (value if isinstance(value, str) else None)
        if isinstance(value, bytes):
            assert entry.sha256 == hashlib.sha256(value).hexdigest()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(folders=st.booleans(), combo=st.sampled_from(["SIV_GCM", "SIV_CTRMAC"]), steps=STEPS)
def test_random_changes(folders: bool, combo: str, steps: list[tuple[str, int, int, str, int]]) -> None:
    trio.run(play, folders, combo, steps)
