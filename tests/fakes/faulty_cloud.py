"""A Cloud that fails on command: calls fail before or after they took effect, stall, end early, lie, or the whole
network is gone. Each fault is for the ``nth`` call that matches it from now on, and for ``times`` calls from there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from serpentfs.clouds.base import Batch, Cloud, Content, GrowingContent, Known
from serpentfs.clouds.forwarding import ForwardingCloud
from serpentfs.errors import NoSpace, SerpentError, Unavailable
from serpentfs.model import NodeId, NodeInfo, NodeRef, Quota, Span

T = TypeVar("T")

FOR_EVER = float("inf")
METHODS = frozenset(
    {"snapshot", "read", "put", "put_growing", "mkdir", "symlink", "move", "remove", "set_mtime", "quota"}
)


@dataclass
class Fault:
    """One planned fault. ``method`` None: any call. ``hits`` counts how often it struck."""

    method: str | None
    first: int
    last: float
    error: SerpentError | None = None
    after: bool = False
    stall: float = 0.0
    alter: Callable[[Any], Any] | None = None
    seen: int = 0
    hits: int = 0

    def strikes(self, method: str) -> bool:
        if self.method not in (None, method):
            return False
        self.seen += 1
        if not self.first <= self.seen <= self.last:
            return False
        self.hits += 1
        return True


class FaultyCloud(ForwardingCloud):
    """``cloud`` with faults. ``calls`` lists the methods that were called, those that failed included."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self._faults: list[Fault] = []
        self._network_up = trio.Event()
        self._network_up.set()
        self._network_down = trio.Event()
        self.full = False
        """Every ``put`` fails with NoSpace before it took effect."""
        self.calls: list[str] = []

    # planning

    def _plan(self, method: str | None, nth: int, times: float, **what: Any) -> Fault:
        if method is not None and method not in METHODS:
            raise ValueError(f"no such method: {method}")
        fault = Fault(method, nth, nth + times - 1, **what)
        self._faults.append(fault)
        return fault

    def fail(
        self,
        method: str | None,
        error: SerpentError | None = None,
        *,
        nth: int = 1,
        times: float = 1,
        after: bool = False,
    ) -> Fault:
        """Raise ``error`` (Unavailable) instead of calling, or ``after`` the call took effect."""
        return self._plan(method, nth, times, error=error or Unavailable("a planned failure"), after=after)

    def stall(
        self, method: str | None, seconds: float = FOR_EVER, *, nth: int = 1, times: float = 1, after: bool = False
    ) -> Fault:
        """Hold the call, or its answer, for a time."""
        return self._plan(method, nth, times, stall=seconds, after=after)

    def shorten_read(self, missing: int = 1, *, nth: int = 1, times: float = 1) -> Fault:
        """A read ends early, without an error."""
        return self._plan("read", nth, times, after=True, alter=lambda data: data[: max(0, len(data) - missing)])

    def lengthen_read(self, more: int = 1, *, nth: int = 1, times: float = 1) -> Fault:
        """A read gives more than it was asked for."""
        return self._plan("read", nth, times, after=True, alter=lambda data: data + bytes(more))

    def alter(
        self, method: str, change: Callable[[Any], Any], *, nth: int = 1, times: float = 1
    ) -> Fault:
        """Lie: pass the answer through ``change``."""
        return self._plan(method, nth, times, after=True, alter=change)

    def clear(self) -> None:
        """Forget all planned faults, and let the network and the space come back."""
        self._faults.clear()
        self.full = False
        self.network_gone = False

    @property
    def network_gone(self) -> bool:
        """While True calls fail at once, those under way break off without an answer, and changes do not arrive."""
        return not self._network_up.is_set()

    @network_gone.setter
    def network_gone(self, gone: bool) -> None:
        if gone and not self.network_gone:
            self._network_up = trio.Event()
            self._network_down.set()
        elif not gone:
            self._network_up.set()
            self._network_down = trio.Event()

    # the frame of every call

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(method)
        await trio.lowlevel.checkpoint()
        struck = [fault for fault in self._faults if fault.strikes(method)]
        await self._inflict([fault for fault in struck if not fault.after])
        if self.full and method in ("put", "put_growing"):
            raise NoSpace("the store is full")
        result = await self._over_the_network(call)
        late = [fault for fault in struck if fault.after]
        await self._inflict(late)
        for fault in late:
            if fault.alter is not None:
                result = fault.alter(result)
        return result

    @staticmethod
    async def _inflict(faults: list[Fault]) -> None:
        for fault in faults:
            if fault.stall:
                await trio.sleep(fault.stall)
            if fault.error is not None:
                raise fault.error

    async def _over_the_network(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.network_gone:
            raise Unavailable("the network is gone")
        outcome: list[T] = []
        failure: list[SerpentError] = []
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                try:
                    outcome.append(await call())
                except SerpentError as error:
                    failure.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            await self._network_down.wait()
            nursery.cancel_scope.cancel()
        if self.network_gone or not (outcome or failure):
            raise Unavailable("the connection broke")
        if failure:
            raise failure[0]
        return outcome[0]

    # the protocol

    async def reload(self) -> float:
        return await self._call("reload", self._cloud.reload)

    async def snapshot(self, known: Known) -> Batch:
        return await self._call("snapshot", lambda: self._cloud.snapshot(known))

    async def changes(self, known: Known, send: trio.MemorySendChannel[Batch]) -> None:
        inner_send, inner_receive = trio.open_memory_channel[Batch](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cloud.changes, known, inner_send)
            async for batch in inner_receive:
                await self._network_up.wait()
                await send.send(batch)

    async def read(self, node: NodeRef, span: Span) -> bytes:
        return await self._call("read", lambda: self._cloud.read(node, span))

    async def quota(self) -> Quota:
        return await self._call("quota", self._cloud.quota)

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        return await self._call(
            "put",
            lambda: self._cloud.put(
                parent, name, content, replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
            ),
        )

    async def put_growing(
        self,
        parent: NodeId,
        name: str,
        content: GrowingContent,
        *,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        return await self._call(
            "put_growing",
            lambda: self._cloud.put_growing(
                parent, name, content, replaces=replaces, mtime_ns=mtime_ns, token=token
            ),
        )

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        return await self._call("mkdir", lambda: self._cloud.mkdir(parent, name, token=token, retry=retry))

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        return await self._call(
            "symlink", lambda: self._cloud.symlink(parent, name, target, mtime_ns=mtime_ns, retry=retry)
        )

    async def move(
        self,
        node: NodeRef,
        parent: NodeId,
        name: str,
        *,
        replaces: NodeRef | None,
        retry: bool = False,
    ) -> NodeInfo:
        return await self._call(
            "move", lambda: self._cloud.move(node, parent, name, replaces=replaces, retry=retry)
        )

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        await self._call("remove", lambda: self._cloud.remove(node, retry=retry))

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        return await self._call("set_mtime", lambda: self._cloud.set_mtime(node, mtime_ns, tried_ns=tried_ns))
