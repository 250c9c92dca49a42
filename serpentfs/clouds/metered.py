"""A Cloud whose calls are counted, timed and logged: one wrapper right around a driver, so that every attempt counts.

Kinds are the names of the protocol's methods, outcomes ``ok`` or the class of the error. What a driver retries inside
counts as one call. Whether the cloud answers at all (``Metrics.offline_since``) is learnt here, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from serpentfs import logs, metrics
from serpentfs.clouds.base import Batch, Cloud, Content, GrowingContent, Known
from serpentfs.clouds.forwarding import ForwardingCloud
from serpentfs.errors import (
    LoginRequired,
    NoSpace,
    PermissionDenied,
    ReadOnly,
    RetryableError,
    SerpentError,
    Unavailable,
)
from serpentfs.model import NodeId, NodeInfo, NodeRef, Quota, Span

_log = logging.getLogger(__name__)

_TROUBLE = (RetryableError, NoSpace, PermissionDenied, ReadOnly)
"""What is worth telling as "the last error". The others (NotFound, Conflict, …) are answers like any other."""


class MeteredCloud(ForwardingCloud):
    """``cloud`` with ``figures`` (those of the running loop) kept up to date."""

    def __init__(self, cloud: Cloud, figures: metrics.Metrics | None = None) -> None:
        super().__init__(cloud)
        self._figures = figures or metrics.current()

    @contextmanager
    def _call(self, kind: str) -> Iterator[None]:
        with logs.some_request(kind):
            yield from self._counted(kind)

    def _counted(self, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        outcome = "ok"
        try:
            yield
            self._figures.cloud_answered()
        except SerpentError as error:
            outcome = type(error).__name__
            self._note(error)
            raise
        except trio.Cancelled:
            outcome = "cancelled"
            raise
        except BaseException:
            outcome = "fault"
            raise
        finally:
            took = time.perf_counter() - began
            self._figures.calls[kind, outcome] += 1
            self._figures.latency[kind].observe(took)
            _log.debug("%s: %s in %.3f s", kind, outcome, took)

    def _note(self, error: SerpentError) -> None:
        if isinstance(error, Unavailable):
            self._figures.cloud_silent(str(error))
            return
        if not isinstance(error, LoginRequired):
            self._figures.cloud_answered()
        if isinstance(error, _TROUBLE):
            self._figures.last_error = metrics.Trouble(str(error), time.time())

    async def snapshot(self, known: Known) -> Batch:
        with self._call("snapshot"):
            return await super().snapshot(known)

    async def read(self, node: NodeRef, span: Span) -> bytes:
        with self._call("read"):
            data = await super().read(node, span)
        self._figures.downloaded.add(len(data))
        return data

    async def quota(self) -> Quota:
        with self._call("quota"):
            return await super().quota()

    async def put(
        self, parent: NodeId, name: str, content: Content, *, replaces: NodeRef | None, mtime_ns: int, token: bytes,
        retry: bool = False,
    ) -> NodeInfo:
        counted = _CountedContent(content, self._figures.uploaded)
        with self._call("put"):
            return await super().put(
                parent, name, counted, replaces=replaces, mtime_ns=mtime_ns, token=token, retry=retry
            )

    async def put_growing(
        self, parent: NodeId, name: str, content: GrowingContent, *, replaces: NodeRef | None, mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        counted = _CountedGrowing(content, self._figures.uploaded)
        with self._call("put_growing"):
            return await super().put_growing(
                parent, name, counted, replaces=replaces, mtime_ns=mtime_ns, token=token
            )

    async def mkdir(self, parent: NodeId, name: str, *, token: bytes, retry: bool = False) -> NodeInfo:
        with self._call("mkdir"):
            return await super().mkdir(parent, name, token=token, retry=retry)

    async def symlink(
        self, parent: NodeId, name: str, target: str, *, mtime_ns: int, retry: bool = False
    ) -> NodeInfo:
        with self._call("symlink"):
            return await super().symlink(parent, name, target, mtime_ns=mtime_ns, retry=retry)

    async def move(
        self, node: NodeRef, parent: NodeId, name: str, *, replaces: NodeRef | None, retry: bool = False
    ) -> NodeInfo:
        with self._call("move"):
            return await super().move(node, parent, name, replaces=replaces, retry=retry)

    async def remove(self, node: NodeRef, *, retry: bool = False) -> None:
        with self._call("remove"):
            await super().remove(node, retry=retry)

    async def set_mtime(self, node: NodeRef, mtime_ns: int, *, tried_ns: int | None = None) -> NodeInfo:
        with self._call("set_mtime"):
            return await super().set_mtime(node, mtime_ns, tried_ns=tried_ns)


class _CountedGrowing:
    """A GrowingContent whose bytes count as they are taken to be sent."""

    def __init__(self, content: GrowingContent, meter: metrics.Meter) -> None:
        self._content = content
        self._meter = meter

    async def read(self, span: Span) -> bytes:
        data = await self._content.read(span)
        self._meter.add(len(data))
        return data


class _CountedContent(_CountedGrowing):
    """The same for a Content."""

    def __init__(self, content: Content, meter: metrics.Meter) -> None:
        super().__init__(content, meter)
        self.size = content.size
