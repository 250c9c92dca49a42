"""A Cloud that hands everything on to another one: the base of wrappers that change a little."""

from __future__ import annotations

import trio

from serpentfs.clouds.base import Batch, Capabilities, Cloud, Content, GrowingContent, Known
from serpentfs.model import NodeId, NodeInfo, NodeRef, Quota, Span


class ForwardingCloud(Cloud):
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    @property
    def capabilities(self) -> Capabilities:
        return self._cloud.capabilities

    @property
    def root(self) -> NodeId:
        return self._cloud.root

    def name_key(self, name: str) -> str:
        return self._cloud.name_key(name)

    def check_name(self, name: str) -> None:
        self._cloud.check_name(name)

    def recheck(self, directory: NodeId) -> None:
        self._cloud.recheck(directory)

    async def reload(self) -> float:
        return await self._cloud.reload()

    @property
    def observed(self) -> int:
        return self._cloud.observed

    async def changes(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        await self._cloud.changes(known, send)

    async def aclose(self) -> None:
        await self._cloud.aclose()

    async def snapshot(self, known: Known) -> Batch:
        return await self._cloud.snapshot(known)

    async def read(self, node: NodeRef, span: Span) -> bytes:
        return await self._cloud.read(node, span)

    async def quota(self) -> Quota:
        return await self._cloud.quota()

    async def put(
        self, parent: NodeId, name: str, content: Content, *, replaces: NodeRef | None, mtime_ns: int, token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        return await self._cloud.put(
            parent, name, content, replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
        )

    async def put_growing(
        self, parent: NodeId, name: str, content: GrowingContent, *, replaces: NodeRef | None, mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        return await self._cloud.put_growing(
            parent, name, content, replaces=replaces, mtime_ns=mtime_ns, token=token
        )

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        return await self._cloud.mkdir(parent, name, token=token, retry=retry)

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        return await self._cloud.symlink(parent, name, target, mtime_ns=mtime_ns, retry=retry)

    async def move(
        self, node: NodeRef, parent: NodeId, name: str, *, replaces: NodeRef | None, retry: bool = False
    ) -> NodeInfo:
        return await self._cloud.move(node, parent, name, replaces=replaces, retry=retry)

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        await self._cloud.remove(node, retry=retry)

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        return await self._cloud.set_mtime(node, mtime_ns, tried_ns=tried_ns)
