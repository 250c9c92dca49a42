"""This project's MegaCloud as a process: lines of JSON in, one line of JSON out for each, as mega_py.py beside it.

"seen" shows what the changes that the cloud reported make of the tree it first told; "list" asks a second, empty
client.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio

from serpentfs.clouds.base import Batch
from serpentfs.clouds.mega.cloud import MegaCloud, MegaOptions, open_mega
from serpentfs.clouds.mega.session import Session, login
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import SerpentError
from serpentfs.model import Kind, NodeId, NodeInfo, Revision, Span
from tests.fakes.content import BytesContent


def _nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None


class _Tree:
    """The nodes as batches told them, by id."""

    def __init__(self, root: NodeId) -> None:
        self._root = root
        self._nodes: dict[NodeId, NodeInfo] = {}

    def apply(self, batch: Batch) -> None:
        if batch.tree is not None:
            self._nodes.clear()
            waiting = [self._root]
            while waiting:
                children = list(batch.tree.children(waiting.pop()) or ())
                self._add(children)
                waiting += [child.id for child in children if child.kind is Kind.DIRECTORY]
        for listing in batch.listings:
            there = {child.id for child in listing.children}
            for node in [node for node in self._nodes.values() if node.parent == listing.directory]:
                if node.id not in there:
                    self._remove(node.id)
            self._add(listing.children)
        for gone in batch.removed:
            self._remove(gone)
        self._add(batch.changed)

    def _add(self, nodes: Iterable[NodeInfo]) -> None:
        self._nodes |= {node.id: node for node in nodes}

    def _remove(self, gone: NodeId) -> None:
        self._nodes.pop(gone, None)
        for inner in [node.id for node in self._nodes.values() if node.parent == gone]:
            self._remove(inner)

    def by_path(self) -> dict[str, NodeInfo]:
        return {self._path(node): node for node in self._nodes.values()}

    def _path(self, node: NodeInfo) -> str:
        assert node.parent is not None
        return node.name if node.parent == self._root else f"{self._path(self._nodes[node.parent])}/{node.name}"


def _entries(tree: _Tree) -> list[dict[str, Any]]:
    return [
        {
            "path": path,
            "folder": node.kind is Kind.DIRECTORY,
            "size": node.size,
            "time": node.mtime_ns // 1_000_000_000,
            "fingerprint": None,
        }
        for path, node in tree.by_path().items()
    ]


async def _fresh(session: Session) -> _Tree:
    async with open_mega(session, directory=None) as cloud:
        tree = _Tree(cloud.root)
        await _apply(tree, await cloud.snapshot(_nothing_known))
        return tree


class _Operations:
    def __init__(self, session: Session, cloud: MegaCloud, following: _Tree) -> None:
        self._session = session
        self._cloud = cloud
        self._following = following

    async def list(self) -> Any:
        return _entries(await _fresh(self._session))

    async def seen(self) -> Any:
        return _entries(self._following)

    async def _nodes(self) -> dict[str, NodeInfo]:
        return (await _fresh(self._session)).by_path()

    def _folder(self, nodes: dict[str, NodeInfo], path: str) -> NodeId:
        return nodes[path].id if path else self._cloud.root

    async def upload(self, source: str, path: str) -> None:
        await self._upload(await self._nodes(), source, path)

    async def upload_all(self, folder: str, *sources: str) -> None:
        nodes = await self._nodes()
        for source in sources:
            await self._upload(nodes, source, f"{folder}/{os.path.basename(source)}")

    async def _upload(self, nodes: dict[str, NodeInfo], source: str, path: str) -> None:
        folder, _, name = path.rpartition("/")
        old = nodes.get(path)
        content = BytesContent(await trio.Path(source).read_bytes())
        await self._cloud.put(
            self._folder(nodes, folder), name, content, replaces=None if old is None else old.ref,
            mtime_ns=os.stat(source).st_mtime_ns, token=secrets.token_bytes(32),
        )  # fmt: skip

    async def download(self, path: str, target: str) -> None:
        await self._download((await self._nodes())[path], target)

    async def download_all(self, folder: str, target: str, *names: str) -> None:
        nodes = await self._nodes()
        for name in names:
            await self._download(nodes[f"{folder}/{name}"], f"{target}/{name}")

    async def _download(self, node: NodeInfo, target: str) -> None:
        await trio.Path(target).write_bytes(await self._cloud.read(node.ref, Span(0, node.size)))

    async def mkdir(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        parent = self._folder(await self._nodes(), folder)
        await self._cloud.mkdir(parent, name, token=secrets.token_bytes(32))

    async def rename(self, path: str, name: str) -> None:
        node = (await self._nodes())[path]
        assert node.parent is not None
        await self._cloud.move(node.ref, node.parent, name, replaces=None)

    async def move(self, path: str, folder: str) -> None:
        nodes = await self._nodes()
        node = nodes[path]
        await self._cloud.move(node.ref, self._folder(nodes, folder), node.name, replaces=None)

    async def remove(self, path: str) -> None:
        """With everything below it, which a Cloud is not asked to do at once."""
        nodes = await self._nodes()
        for inner in sorted((inner for inner in nodes if inner.startswith(f"{path}/")), reverse=True):
            await self._cloud.remove(nodes[inner].ref)
        await self._cloud.remove(nodes[path].ref)


async def _apply(tree: _Tree, batch: Batch) -> None:
    tree.apply(batch)
    if batch.applied is not None:
        await batch.applied()


async def _follow(tree: _Tree, batches: trio.MemoryReceiveChannel[Batch]) -> None:
    async for batch in batches:
        await _apply(tree, batch)


async def _answer(operations: _Operations) -> None:
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        operation, *arguments = json.loads(line)
        try:
            answer = {"result": await getattr(operations, operation)(*arguments)}
        except (SerpentError, KeyError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


async def main() -> None:
    _, url, email, password = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
    transport = Transport()
    try:
        session = await login(transport, url, email, password, None)
    except SerpentError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    finally:
        await transport.aclose()
    async with open_mega(session, directory=Path.cwd(), options=MegaOptions()) as cloud, trio.open_nursery() as nursery:
        tree = _Tree(cloud.root)
        await _apply(tree, await cloud.snapshot(_nothing_known))
        send, receive = trio.open_memory_channel[Batch](0)
        nursery.start_soon(cloud.changes, _nothing_known, send)
        nursery.start_soon(_follow, tree, receive)
        print(json.dumps({"result": None}), flush=True)
        await _answer(_Operations(session, cloud, tree))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
