"""A BlobStore that dies at its nth call: as if the network broke before that call, after it, or in its middle."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable
from typing import Literal, TypeVar

import trio

from serpentfs.clouds.blobs.base import BlobCapabilities, BlobInfo, BlobStore, Chunks, Condition
from serpentfs.errors import Unavailable
from serpentfs.model import Quota, Revision, Span

T = TypeVar("T")


class FaultyBlobStore:
    """Passes calls on until number ``fail_at`` (from 1), which fails, and so does every later one. ``failed`` tells
    whether it came to that. ``how``: the failing call has no effect ("before"); it takes effect, but its answer is
    lost ("after"); or, if it is a rename, which here is copy and delete, only the copy is made ("half")."""

    def __init__(self, store: BlobStore, *, fail_at: int, how: Literal["before", "after", "half"] = "before") -> None:
        self._store = store
        self._fail_at = fail_at
        self._how = how
        self.calls = 0
        self.failed = False

    async def _pass(self, call: Awaitable[T]) -> T:
        self.calls += 1
        if self.calls < self._fail_at:
            return await call
        if self._how != "before" and self.calls == self._fail_at:
            # Errors of the call itself are lost with its answer as well as results are.
            with trio.CancelScope(shield=True):
                try:
                    await call
                finally:
                    self.failed = True
                    raise Unavailable("the answer was lost")
        self.failed = True
        getattr(call, "close")()  # noqa: B009 - it is a coroutine; awaitables in general have no close
        raise Unavailable("the connection broke")

    @property
    def capabilities(self) -> BlobCapabilities:
        return self._store.capabilities

    async def stat(self, key: str) -> BlobInfo:
        return await self._pass(self._store.stat(key))

    async def is_directory(self, prefix: str) -> bool:
        return await self._pass(self._store.is_directory(prefix))

    async def read(self, key: str, span: Span | None = None, *, revision: Revision | None = None) -> bytes:
        return await self._pass(self._store.read(key, span, revision=revision))

    async def put(
        self,
        key: str,
        chunks: Chunks,
        size: int | None,
        *,
        condition: Condition = None,
        mtime_ns: int | None = None,
        within: str = "",
    ) -> BlobInfo:
        put = self._store.put(key, chunks, size, condition=condition, mtime_ns=mtime_ns, within=within)
        return await self._pass(put)

    async def rename(self, key: str, new_key: str, *, condition: Condition = None) -> BlobInfo:
        if self._how == "half" and self.calls + 1 == self._fail_at:
            return await self._pass(self._copy(key, new_key, condition))
        return await self._pass(self._store.rename(key, new_key, condition=condition))

    async def _copy(self, key: str, new_key: str, condition: Condition) -> BlobInfo:
        data = await self._store.read(key)

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        return await self._store.put(new_key, chunks, len(data), condition=condition)

    def is_moved(self, before: Revision, after: Revision) -> bool:
        return self._store.is_moved(before, after)

    async def rename_directory(self, prefix: str, new_prefix: str) -> None:
        return await self._pass(self._store.rename_directory(prefix, new_prefix))

    async def delete(self, key: str, *, condition: Revision | None = None) -> None:
        return await self._pass(self._store.delete(key, condition=condition))

    async def make_directory(self, prefix: str) -> None:
        return await self._pass(self._store.make_directory(prefix))

    async def remove_directory(self, prefix: str) -> None:
        return await self._pass(self._store.remove_directory(prefix))

    async def next_key(self, prefix: str, after: str) -> str | None:
        return await self._pass(self._store.next_key(prefix, after))

    async def list(self, prefix: str) -> builtins.list[BlobInfo]:
        return await self._pass(self._store.list(prefix))

    async def list_directories(self, prefix: str) -> builtins.list[str]:
        return await self._pass(self._store.list_directories(prefix))

    def has_only_another_time(self, before: Revision, after: Revision) -> bool:
        return self._store.has_only_another_time(before, after)

    async def set_mtime(self, key: str, mtime_ns: int, *, condition: Revision | None = None) -> BlobInfo:
        return await self._pass(self._store.set_mtime(key, mtime_ns, condition=condition))

    async def watch(self, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
        return await self._pass(self._store.watch(prefix, send))

    async def quota(self) -> Quota:
        return await self._pass(self._store.quota())

    async def aclose(self) -> None:
        await self._store.aclose()
