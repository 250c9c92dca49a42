"""A store over OpenDAL: S3 and what speaks like it, and whatever else OpenDAL reaches.

Blocking calls in threads, with five habits of the library in mind: a writer used as a context manager commits
even when its block raised, so writers are closed or dropped by hand; a read past the end of an object is an error,
so spans are clamped; ``list`` of the blocking operator holds the GIL while it waits for the network (measured:
1.2 s for four pages of 0.3 s), so listings go through the asynchronous one in a loop of their own thread; a write
does not tell its etag, so a stat follows it; a multipart upload that is dropped cannot be aborted (the library
does not tell its number), and stays behind for the bucket's lifecycle rule to remove.

Revisions are etags. Where a service has none, size and time stand in, with a number for what this process wrote
within one tick of the service's clock. Conditions are the service's own where it has them; elsewhere a look and a
write under a lock, which holds against this process only.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal

import opendal
import trio
from opendal import exceptions
from opendal.layers import TimeoutLayer
from opendal.options import WriteKwargs

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.blobs.base import (
    ABSENT,
    BlobCapabilities,
    BlobInfo,
    BlobStore,
    Chunks,
    Condition,
)
from serpentfs.clouds.blobs.keys import parts_of, split_key
from serpentfs.clouds.blobs.pieces import in_pieces
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
    PermissionDenied,
    RateLimited,
    RevisionGone,
    SerpentError,
    Unavailable,
    Unsupported,
    UsageError,
)
from serpentfs.model import Quota, Revision, Span, kept_time

PART_SIZE = 8 * 1024 * 1024
"""Bytes of a part of a multipart upload (S3 wants at least 5 MiB), and the size up to which an object is written
by one request. A part is tried again as a whole, so larger ones cost more on a bad line. The library keeps what it was
given, until it is a part and that is sent."""
PIECE_SIZE = 1024 * 1024
"""Bytes handed to the library by one trip to a thread."""
MOST_PARTS = 9_000  # S3 allows 10,000
PARTS_AT_ONCE = 4
"""Of one upload, beside the one that is being filled: what fills a line of 200 MB/s at 40 ms. Of uploads that begin
beside others fewer, as each part is memory; together they fill the line, too."""
COPY_LIMIT = 5 * 1024**3
"""S3 copies at most 5 GiB by one request."""
SAFE_COPY_SIZE = 1024 * 1024
"""Up to this many bytes a rename with a condition is a read and a conditional write. A server's own copy has no
condition for its target: there it is looked at first, and what appears in between is overwritten."""
_TAG = "serpentfs-put"
"""User metadata that tells which put made an object, so that the stat after it cannot take another's for ours."""

_ERRORS: tuple[tuple[type[Exception], type[SerpentError]], ...] = (
    (exceptions.NotFound, NotFound),
    (exceptions.AlreadyExists, AlreadyExists),
    (exceptions.ConditionNotMatch, Conflict),
    (exceptions.PermissionDenied, PermissionDenied),
    (exceptions.RateLimited, RateLimited),
    (exceptions.IsADirectory, IsADirectory),
    (exceptions.NotADirectory, NotADirectory),
    (exceptions.Unsupported, Unsupported),
    (exceptions.ConfigInvalid, UsageError),
    # A conditional request that met another one under way (S3's 409): to be tried again.
    (exceptions.Conflict, Unavailable),
    # Broken connections, time-outs, 5xx, and whatever else the library has no class for.
    (exceptions.Unexpected, Unavailable),
    (exceptions.RangeNotSatisfied, Unavailable),
    (exceptions.IsSameFile, InvalidArgument),
    (exceptions.Error, Unavailable),
)

_S3_ERROR = re.compile(r'S3Error \{ code: "([^"]*)", message: "([^"]*)"')
_SOURCE = re.compile(r"^Source:\n\s+(?:error sending request: )?(?:client error \(\w+\): )?([^\n]+)", re.MULTILINE)


@contextmanager
def _store_errors(key: str) -> Iterator[None]:
    """The seam: exceptions of the library become ours."""
    try:
        yield
    except tuple(foreign for foreign, _ in _ERRORS) as error:
        kind = next(ours for foreign, ours in _ERRORS if isinstance(error, foreign))
        raise kind(f"{key or 'the store'}: {_reason(str(error))}") from error
    except OSError as error:
        # What the library's files raise in place of its own: the text begins with the kind.
        text = str(error)
        kind = next((ours for foreign, ours in _ERRORS if text.startswith(f"{foreign.__name__} ")), Unavailable)
        raise kind(f"{key or 'the store'}: {_reason(str(error))}") from error


def _reason(text: str) -> str:
    """What of an exception's text tells most: S3's own error ("NoSuchBucket: The specified bucket does not exist"); the
    line under "Source:" where the connection failed ("tcp connect error: Connection refused"); else the first line. The
    rest is context, addresses and a native backtrace."""
    if (refusal := _S3_ERROR.search(text)) is not None:
        return ": ".join(dict.fromkeys(part for part in refusal.groups() if part))
    source = _SOURCE.search(text)
    return source[1] if source is not None else text.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class _Written:
    """What this process last wrote under a key of a store without etags."""

    base: str
    tick: int
    number: int
    mtime_ns: int


class _Revisions:
    """Revisions and times of objects, also where the store does not tell."""

    def __init__(self) -> None:
        self._written: dict[str, _Written] = {}

    @staticmethod
    def _tick(metadata: opendal.types.Metadata) -> int:
        """Whole seconds: S3 tells milliseconds in listings and seconds elsewhere."""
        return int(metadata.last_modified.timestamp()) if metadata.last_modified is not None else 0

    def wrote(self, key: str, metadata: opendal.types.Metadata, mtime_ns: int) -> None:
        if metadata.etag:
            return
        tick = self._tick(metadata)
        before = self._written.get(key)
        number = before.number + 1 if before is not None and before.tick == tick else 0
        self._written[key] = _Written(f"{metadata.content_length}.{tick}", tick, number, mtime_ns)

    def info(self, key: str, metadata: opendal.types.Metadata) -> BlobInfo:
        tick = self._tick(metadata)
        base = f"{metadata.content_length}.{tick}"
        written = self._written.get(key)
        ours = written if written is not None and written.base == base else None
        if metadata.etag:
            revision = metadata.etag
        else:
            revision = f"{base}.{ours.number}" if ours is not None and ours.number else base
        mtime_ns = tick * 10**9 if tick or ours is None else ours.mtime_ns
        return BlobInfo(key, metadata.content_length, kept_time(mtime_ns), Revision(revision))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which a single request is given up. The thread that waits for it is free only then."""

    request: float = 20.0
    """Without a body: a look, a copy, a deletion."""
    read: float = 30.0
    """A read, or a page of a listing."""
    upload: float = 120.0
    """An object or a part of one: 8 MiB at half a megabit a second."""


class _Loops:
    """Event loops for the asynchronous operator, each run by one thread at a time: making one costs as much as asking
    for a listing."""

    def __init__(self) -> None:
        self._resting: list[asyncio.AbstractEventLoop] = []

    @contextmanager
    def one(self) -> Iterator[asyncio.AbstractEventLoop]:
        try:
            loop = self._resting.pop()
        except IndexError:
            loop = asyncio.new_event_loop()
        try:
            yield loop
        finally:
            self._resting.append(loop)

    def close(self) -> None:
        while self._resting:
            self._resting.pop().close()


class OpendalStore(BlobStore):
    """Objects that ``operator`` reaches. It must have no RetryLayer: a conditional write whose answer was lost would,
    tried again, meet itself and look like somebody else's."""

    def __init__(self, operator: opendal.Operator, *, timeouts: Timeouts = Timeouts()) -> None:
        self._operator = operator.layer(TimeoutLayer(timeouts.request, timeouts.upload))
        self._reader = operator.layer(TimeoutLayer(timeouts.request, timeouts.read))
        self._lister = self._reader.to_async_operator()
        self._loops = _Loops()
        self._can = operator.capability()
        self._revisions = _Revisions()
        self._under_way = 0
        """Uploads in parts."""
        native = self._can.write_with_if_match and self._can.write_with_if_not_exists
        self._emulated = None if native else threading.Lock()

    @property
    def capabilities(self) -> BlobCapabilities:
        return BlobCapabilities(
            rename=False,
            set_mtime=False,
            events=False,
            growing_puts=self._can.write_can_multi,
            sorted_keys=self._can.list_with_start_after and self._can.list_with_recursive,
        )

    # looking

    async def stat(self, key: str) -> BlobInfo:
        return await run_in_thread("store", self._stat, key, abandon=True)

    def _stat(self, key: str) -> BlobInfo:
        return self._revisions.info(key, self._metadata(key))

    def _metadata(self, key: str) -> opendal.types.Metadata:
        _check_key(key)
        with _store_errors(key):
            metadata = self._operator.stat(key)
        if not metadata.is_file:
            raise NotFound(f"{key} is a folder")
        return metadata

    async def is_directory(self, prefix: str) -> bool:
        return not prefix or bool(await run_in_thread("store", self._entries, prefix, True, 1, abandon=True))

    async def read(self, key: str, span: Span | None = None, *, revision: Revision | None = None) -> bytes:
        return await run_in_thread("store", self._read, key, span, revision, abandon=True)

    def _read(self, key: str, span: Span | None, revision: Revision | None) -> bytes:
        _check_key(key)
        try:
            if span is None or len(span):
                return self._fetch(key, span, revision)
        except (NotFound, Conflict) as error:
            if revision is None:
                raise
            raise RevisionGone(f"{key} is no longer what it was") from error
        except Unavailable:
            # Both what lies past the end and what reaches past it come as errors.
            if span is None or span.stop <= (size := self._stat(key).size):
                raise
            if part := span.clamp(size):
                return self._fetch(key, part, revision)
        if revision is not None and self._stat(key).revision != revision:
            raise RevisionGone(f"{key} has changed")
        return b""

    def _fetch(self, key: str, span: Span | None, revision: Revision | None) -> bytes:
        conditional = revision is not None and self._can.read_with_if_match
        with _store_errors(key):
            data = self._reader.read(
                key,
                offset=None if span is None else span.start,
                size=None if span is None else len(span),
                if_match=revision if conditional else None,
            )
        if span is not None and len(data) != len(span):
            raise Unavailable(f"{key}: {len(data)} bytes came instead of {len(span)}")
        if revision is not None and not conditional and self._stat(key).revision != revision:
            raise RevisionGone(f"{key} has changed")
        return data

    async def list_directories(self, prefix: str) -> list[str]:
        entries = await run_in_thread("store", self._entries, prefix, False, None, abandon=True)
        folder = f"{prefix}/" if prefix else ""
        return [entry.path[:-1] for entry in entries if entry.path.endswith("/") and entry.path != folder]

    async def next_key(self, prefix: str, after: str) -> str | None:
        if not self.capabilities.sorted_keys:
            raise Unsupported("this service does not list from a key on")
        entries = await run_in_thread("store", self._entries, prefix, True, 1, after, abandon=True)
        return entries[0].path if entries else None

    def _entries(
        self, prefix: str, recursive: bool, first: int | None, after: str | None = None
    ) -> list[opendal.types.Entry]:
        """What lies below a prefix (and comes after a key), or only the ``first`` of it."""
        parts_of(prefix)

        async def collect() -> list[opendal.types.Entry]:
            found: list[opendal.types.Entry] = []
            path = f"{prefix}/" if prefix else ""
            async for entry in await self._lister.list(
                path, recursive=recursive, limit=first, start_after=after
            ):
                found.append(entry)
                if len(found) == first:
                    break
            return found

        with _store_errors(prefix), self._loops.one() as loop:
            return loop.run_until_complete(collect())

    def _list(self, prefix: str) -> list[BlobInfo]:
        return [
            self._revisions.info(entry.path, entry.metadata)
            for entry in self._entries(prefix, True, None)
            if not entry.path.endswith("/")
        ]

    async def list(self, prefix: str) -> list[BlobInfo]:
        return await run_in_thread("store", self._list, prefix, abandon=True)

    async def quota(self) -> Quota:
        """Object stores do not tell."""
        await trio.lowlevel.checkpoint()
        return Quota(None, None, None)

    # writing

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
        _check_key(key)
        if size is None and not self._can.write_can_multi:
            raise Unsupported("this service takes no object of unknown size")
        whole = size is not None and (size <= PIECE_SIZE or not self._can.write_can_multi)
        if (size is None or size > PART_SIZE) and condition is not None:
            await run_in_thread("store", self._check, key, condition, abandon=True)  # before gigabytes are sent
        upload = _Write(key, size, condition, secrets.token_hex(8), time.time_ns() if mtime_ns is None else mtime_ns)
        async with in_pieces(chunks, size, PIECE_SIZE) as pieces:
            if whole:
                data = b"".join([chunk async for piece in pieces for chunk in piece])
                return await run_in_thread("store", self._write_whole, upload, data)
            self._under_way += 1
            try:
                return await self._put_in_parts(upload, pieces)
            finally:
                self._under_way -= 1

    async def _put_in_parts(self, upload: _Write, pieces: AsyncIterator[Sequence[bytes]]) -> BlobInfo:
        # Dropped without close() when anything fails: that is what keeps a part from becoming the object.
        file = await run_in_thread("store", self._open, upload, max(1, PARTS_AT_ONCE // self._under_way))
        sent = 0
        async for piece in pieces:
            sent += sum(map(len, piece))
            if upload.size is None and sent > MOST_PARTS * PART_SIZE:
                raise Unsupported(f"{upload.key} grows beyond the number of parts that an upload may have")
            await run_in_thread("store", self._write_piece, upload, file, piece)
            del piece  # before the next is made
        return await run_in_thread("store", self._close, replace(upload, size=sent), file)

    def _options(self, upload: _Write) -> WriteKwargs:
        options = WriteKwargs()
        if self._can.write_with_user_metadata:
            # rclone's name and form of a file's time: seconds with a fraction.
            seconds, fraction = divmod(upload.mtime_ns, 10**9)
            options["user_metadata"] = {"mtime": f"{seconds}.{fraction:09}", _TAG: upload.tag}
        if upload.condition is ABSENT and self._can.write_with_if_not_exists:
            options["if_not_exists"] = True
        if isinstance(upload.condition, str) and self._can.write_with_if_match:
            options["if_match"] = upload.condition
        return options

    @contextmanager
    def _committing(self, upload: _Write) -> Iterator[None]:
        """Around the request that puts an object in its place."""
        with self._emulated or nullcontext():
            if self._emulated is not None:
                self._check(upload.key, upload.condition)
            try:
                with _store_errors(upload.key):
                    yield
            except (Conflict, NotFound) as error:
                if upload.condition is ABSENT:
                    raise AlreadyExists(f"{upload.key} exists") from error
                raise Conflict(f"{upload.key} has changed") from error

    def _write_whole(self, upload: _Write, data: bytes) -> BlobInfo:
        with self._committing(upload):
            self._operator.write(upload.key, data, **self._options(upload))
            return self._stored(upload)

    def _open(self, upload: _Write, parts_at_once: int) -> opendal.file.File:
        options = self._options(upload)
        options["chunk"] = PART_SIZE if upload.size is None else max(PART_SIZE, -(-upload.size // MOST_PARTS))
        options["concurrent"] = parts_at_once
        with _store_errors(upload.key):
            return self._operator.open(upload.key, "wb", **options)

    def _write_piece(self, upload: _Write, file: opendal.file.File, piece: Sequence[bytes]) -> None:
        with _store_errors(upload.key):
            for chunk in piece:
                file.write(chunk)

    def _close(self, upload: _Write, file: opendal.file.File) -> BlobInfo:
        with self._committing(upload):
            file.close()
            return self._stored(upload)

    def _stored(self, upload: _Write) -> BlobInfo:
        """What the store shows of an object just written. Conflict when somebody else has replaced it already."""
        metadata = self._metadata(upload.key)
        tag = (metadata.user_metadata or {}).get(_TAG)
        if metadata.content_length != upload.size or tag not in (None, upload.tag):
            raise Conflict(f"{upload.key} was replaced by somebody else right away")
        self._revisions.wrote(upload.key, metadata, upload.mtime_ns)
        return self._revisions.info(upload.key, metadata)

    def _check(self, key: str, condition: Condition) -> None:
        if condition is None:
            return
        try:
            info = self._stat(key)
        except NotFound as error:
            if condition is ABSENT:
                return
            raise Conflict(f"{key} is no longer there") from error
        if condition is ABSENT:
            raise AlreadyExists(f"{key} exists")
        if info.revision != condition:
            raise Conflict(f"{key} has changed")

    # moving and removing

    async def rename(self, key: str, new_key: str, *, condition: Condition = None) -> BlobInfo:
        """Copy, then delete. When the source changed in between, the copy goes and Conflict is raised."""
        _check_key(new_key)
        source = await run_in_thread("store", self._source, key, abandon=True)
        if key == new_key:
            await run_in_thread("store", self._check, key, condition, abandon=True)
            return source.info
        info = await self._copy(source, new_key, condition)
        try:
            await self.delete(key, condition=source.info.revision)
        except (Conflict, NotFound):
            await self.delete(new_key, condition=info.revision)
            raise
        return info

    def _source(self, key: str) -> _Source:
        metadata = self._metadata(key)
        info = self._revisions.info(key, metadata)
        try:
            mtime_ns = int(Decimal((metadata.user_metadata or {})["mtime"]).scaleb(9))
        except (KeyError, ArithmeticError):
            mtime_ns = info.mtime_ns
        return _Source(info, mtime_ns, metadata.user_metadata)

    async def _copy(self, source: _Source, new_key: str, condition: Condition) -> BlobInfo:
        size, revision = source.info.size, source.info.revision
        if self._can.copy and size <= COPY_LIMIT and (condition is None or size > SAFE_COPY_SIZE):
            return await run_in_thread("store", self._copy_by_server, source, new_key, condition)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, size, PART_SIZE):
                yield await self.read(source.info.key, Span(start, min(start + PART_SIZE, size)), revision=revision)

        return await self.put(new_key, chunks, size, condition=condition, mtime_ns=source.mtime_ns)

    def _copy_by_server(self, source: _Source, new_key: str, condition: Condition) -> BlobInfo:
        self._check(new_key, condition)
        with _store_errors(source.info.key):
            self._operator.copy(source.info.key, new_key)
        metadata = self._metadata(new_key)
        if (metadata.content_length, metadata.user_metadata) != (source.info.size, source.user_metadata):
            raise Conflict(f"{new_key} was replaced by somebody else right away")
        self._revisions.wrote(new_key, metadata, source.mtime_ns)
        return self._revisions.info(new_key, metadata)

    def is_moved(self, before: Revision, after: Revision) -> bool:
        return True  # it is a copy, with a revision of its own

    async def rename_directory(self, prefix: str, new_prefix: str) -> None:
        split_key(prefix)
        split_key(new_prefix)
        inside = await self.list(prefix)
        if not inside:
            raise NotFound(f"{prefix} is not there")
        if await self.is_directory(new_prefix):
            raise AlreadyExists(f"{new_prefix} exists")
        sources = [await run_in_thread("store", self._source, blob.key, abandon=True) for blob in inside]
        for source in sources:
            await self._copy(source, new_prefix + source.info.key.removeprefix(prefix), ABSENT)
        for source in sources:
            await self.delete(source.info.key, condition=source.info.revision)

    async def delete(self, key: str, *, condition: Revision | None = None) -> None:
        await run_in_thread("store", self._delete, key, condition)

    def _delete(self, key: str, condition: Revision | None) -> None:
        """A look, then the deletion: few services have a condition for it, and most are silent about a missing
        object."""
        with self._emulated or nullcontext():
            info = self._stat(key)
            if condition is not None and info.revision != condition:
                raise Conflict(f"{key} has changed")
            with _store_errors(key):
                self._operator.delete(key)

    async def make_directory(self, prefix: str) -> None:
        parts_of(prefix)
        await trio.lowlevel.checkpoint()

    async def remove_directory(self, prefix: str) -> None:
        split_key(prefix)
        await run_in_thread("store", self._remove_directory, prefix)

    def _remove_directory(self, prefix: str) -> None:
        marker = f"{prefix}/"  # an empty object by which other programs mean a folder
        entries = self._entries(prefix, True, 2)
        if any(entry.path != marker for entry in entries):
            raise DirectoryNotEmpty(f"{prefix} is not empty")
        if entries:
            with _store_errors(prefix):
                self._operator.delete(marker)

    async def set_mtime(self, key: str, mtime_ns: int, *, condition: Revision | None = None) -> BlobInfo:
        raise Unsupported("this store cannot set the time of an object")

    async def watch(self, prefix: str, send: trio.MemorySendChannel[frozenset[str]]) -> None:
        raise Unsupported("this store has no events")

    async def aclose(self) -> None:
        self._loops.close()
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class _Write:
    """One put on its way."""

    key: str
    size: int | None
    """None while it is not known."""
    condition: Condition
    tag: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Source:
    """One object to be copied. ``mtime_ns`` is the file's own time where the object carries it."""

    info: BlobInfo
    mtime_ns: int
    user_metadata: dict[str, str] | None


def _check_key(key: str) -> None:
    split_key(key)
    if key != key.strip():
        raise InvalidArgument(f"white space around a key is lost on the way: {key!r}")
