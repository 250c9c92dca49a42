"""Uploads: content → encrypted pieces on a storage server → a node (specification, 7.2 to 7.4, 7.7, 8.1).

A content's key and nonce derive from its token, so an upload that broke off goes on with the same ones after a
restart, and no two contents ever meet under one. What has arrived is written down with the MACs of its chunks; the
rest is sent, and only then the node is made, in one command.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.base import Content
from serpentfs.clouds.mega import attributes
from serpentfs.clouds.mega.api import Api, error_of
from serpentfs.clouds.mega.chunks import (
    chunk_count,
    chunk_index,
    chunk_mac,
    chunk_span,
    crypt,
    meta_mac,
    piece_checksum,
)
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.fingerprint import checksum, pack_fingerprint, sample_spans
from serpentfs.clouds.mega.keys import FileKey, ecb_encrypt
from serpentfs.clouds.mega.replica import Replica
from serpentfs.clouds.mega.transport import Transport
from serpentfs.errors import NotFound, RetryableError, SerpentError, Unavailable, first_of
from serpentfs.model import Span

log = logging.getLogger(__name__)

_PIECE = 2 * 2**20
"""Bytes of one POST at most (at least one chunk)."""
_KIND = "upload"
_WORTH_RESUMING = 8 * 2**20
_SAVE_EVERY = 1.0
_KEPT = 7 * 86400.0
"""Seconds for which a broken upload is remembered; servers keep the pieces for about two days."""
_ATTEMPTS = 6
_STARTS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 8.0
_STALL = 120.0
_SHORTEST_HANDLE = 27
"""Bytes: a completion handle is 36, an error a few characters of text."""
_RESEND, _START_OVER = (-3, -14), (-4, -5, -6, -7, -8, -9)

NoteMacs = Callable[[str, Sequence[bytes]], None]


class _StartOver(Exception):
    """This upload cannot go on: a new one must begin."""


def upload_key(secret: bytes, token: bytes) -> FileKey:
    """Key and nonce of the content that the token stands for; its MAC is not known yet."""
    derived = HKDF(algorithm=SHA256(), length=24, salt=None, info=b"serpentfs mega file " + token).derive(secret)
    return FileKey(derived[:16], derived[16:], bytes(8))


@dataclass(eq=False)
class _Upload:
    """One content on its way."""

    content: Content
    key: FileKey = field(repr=False)
    record: str
    macs: list[bytes] = field(repr=False)
    """By chunk; empty: not sent."""
    url: str | None = field(default=None, repr=False)
    created: float = field(default_factory=time.time)
    saved: float = 0.0
    samples: dict[int, bytes] = field(default_factory=dict, repr=False)
    """By offset: pieces of the content that the fingerprint is made of."""
    handle: bytes = field(default=b"", repr=False)


class Uploads:
    """``connections``: at a time for one file. ``note_macs`` is told the chunk MACs of each file that was made."""

    def __init__(
        self,
        api: Api,
        transport: Transport,
        replica: Replica,
        master_key: bytes,
        *,
        connections: int = 4,
        note_macs: NoteMacs,
    ) -> None:
        self._api = api
        self._transport = transport
        self._replica = replica
        self._master_key = master_key
        self._connections = connections
        self._slots = trio.CapacityLimiter(math.inf)
        self._note_macs = note_macs
        for record, value in list(replica.records(_KIND)):
            if json.loads(value)["created"] < time.time() - _KEPT:
                replica.put_record(_KIND, record, None)

    async def put(
        self,
        parent: str,
        name: str,
        content: Content,
        *,
        mtime: int,
        replaces: str | None,
        token: bytes,
        secret: bytes,
        extra: Mapping[str, Any],
        share: Sequence[tuple[str, bytes]],
        check: Callable[[], Awaitable[object]],
    ) -> dict[str, Any]:
        """Upload a content as a new node. The answer: the node as the server has it. ``replaces``: the handle of the
        file that becomes its older version. ``extra``: attributes to be kept. ``check`` is called when all has been
        sent: what it raises keeps the node from being made. NoSpace, NotFound (the folder is gone),
        Unavailable; what has arrived is not sent again by the next call with this token."""
        upload = _Upload(content, upload_key(secret, token), token.hex(), [b""] * chunk_count(content.size))
        self._recall(upload)
        for _ in range(_STARTS):
            try:
                await self._send(upload)
                await check()
                made = await self._make(upload, parent, name, mtime, replaces, extra, share)
                break
            except _StartOver:
                log.info("an upload has to start over")
                upload.url, upload.handle, upload.macs = None, b"", [b""] * len(upload.macs)
        else:
            raise Unavailable("the server does not take the upload")
        self._replica.put_record(_KIND, upload.record, None)
        self._note_macs(str(made["h"]), upload.macs)
        return made

    def limit_connections(self, most: int | None) -> None:
        """Of all files together, from now on; None: only those of each file are limited."""
        self._slots.total_tokens = math.inf if most is None else most

    # what was sent before

    def _recall(self, upload: _Upload) -> None:
        value = self._replica.get_record(_KIND, upload.record)
        if value is None:
            return
        record = json.loads(value)
        if record["size"] == upload.content.size:
            upload.url, upload.created = record["url"], record["created"]
            upload.macs = [decode(mac) for mac in record["macs"]]

    def _save(self, upload: _Upload) -> None:
        if upload.content.size < _WORTH_RESUMING or upload.url is None:
            return
        upload.saved = trio.current_time()
        record = {
            "url": upload.url,
            "created": upload.created,
            "size": upload.content.size,
            "macs": [encode(mac) for mac in upload.macs],
        }
        self._replica.put_record(_KIND, upload.record, json.dumps(record).encode())

    # pieces

    async def _send(self, upload: _Upload) -> None:
        """Send what is missing, until the server has given the completion handle."""
        if upload.url is None:
            answer = await self._api.command({"a": "u", "s": upload.content.size, "ssl": 2, "v": 2, "ms": 0})
            upload.url, upload.created = str(answer["p"]), time.time()
        missing = list(_pieces(upload.macs, upload.content.size)) or [_last_piece(upload.content.size)]
        pending = iter(missing)
        reading = trio.Lock()

        async def work() -> None:
            while True:
                async with self._slots:
                    async with reading:  # in order, and no more than one ahead of each connection
                        span = next(pending, None)
                        if span is None:
                            return
                        data = await upload.content.read(span) if span else b""
                    self._take_samples(upload, span, data)
                    await self._send_piece(upload, span, data)

        failure: Exception | None = None  # raised below: Python before 3.11.4 wraps what is raised in an ``except*``
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(self._connections, len(missing))):
                    nursery.start_soon(work)
        except* _StartOver:
            failure = _StartOver()
        except* SerpentError as group:
            failure = failure or first_of(group)
        finally:
            if not all(upload.macs):
                self._save(upload)
        if failure is not None:
            raise failure
        if not upload.handle:
            raise _StartOver

    async def _send_piece(self, upload: _Upload, span: Span, data: bytes) -> None:
        first = chunk_index(span.start)
        ciphertext, macs, check = await run_in_thread("store", _encrypt, upload.key, span, upload.content.size, data)
        url = f"{upload.url}/{span.start}?c={encode(check)}" if span else f"{upload.url}/0"
        pause = _FIRST_PAUSE
        for attempt in range(_ATTEMPTS):
            try:
                answer = await self._post(url, ciphertext)
                break
            except RetryableError as error:
                if attempt + 1 == _ATTEMPTS:
                    raise
                log.info("a piece of an upload is sent again: %s", error)
            await trio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
        if answer:
            upload.handle = answer
        upload.macs[first : first + len(macs)] = macs
        if trio.current_time() - upload.saved > _SAVE_EVERY:
            self._save(upload)

    async def _post(self, url: str, ciphertext: bytes) -> bytes:
        """The completion handle, or nothing when pieces are missing."""
        reply = await self._transport.request("POST", url, body=ciphertext, timeout=_STALL, storage=True)
        if reply.status in (403, 404, 410):
            raise _StartOver
        if reply.status != 200:
            raise Unavailable(f"the storage server answered with HTTP {reply.status}")
        if not reply.body or len(reply.body) >= _SHORTEST_HANDLE:
            return reply.body
        try:
            code = int(reply.body)
        except ValueError as error:
            raise Unavailable("the storage server's answer cannot be understood") from error
        if code in _START_OVER:
            raise _StartOver
        if code < 0:
            raise error_of(-3 if code in _RESEND else code, "a piece of an upload")
        return b""

    # the fingerprint

    @staticmethod
    def _take_samples(upload: _Upload, span: Span, data: bytes) -> None:
        spans = sample_spans(upload.content.size)
        starts = [sample.start for sample in spans]
        for sample in spans[max(0, bisect_right(starts, span.start) - 1) :]:
            if sample.start >= span.stop:
                break
            if span.start <= sample.start and sample.stop <= span.stop:
                upload.samples[sample.start] = data[sample.start - span.start : sample.stop - span.start]

    async def _fingerprint(self, upload: _Upload, mtime: int) -> str:
        samples = []
        for span in sample_spans(upload.content.size):
            sample = upload.samples.get(span.start)
            # What was sent before a restart, or lies on the border of two pieces.
            samples.append(await upload.content.read(span) if sample is None and span else sample or b"")
        return pack_fingerprint(checksum(upload.content.size, samples), max(0, mtime))

    # the node

    async def _make(
        self,
        upload: _Upload,
        parent: str,
        name: str,
        mtime: int,
        replaces: str | None,
        extra: Mapping[str, Any],
        share: Sequence[tuple[str, bytes]],
    ) -> dict[str, Any]:
        mac = meta_mac(upload.key.key, upload.macs) if upload.macs else bytes(8)
        key = FileKey(upload.key.key, upload.key.nonce, mac).pack()
        described = {**extra, "c": await self._fingerprint(upload, mtime), "n": name}
        node: dict[str, Any] = {
            "h": encode(upload.handle),
            "t": 0,
            "a": encode(attributes.pack(dict(sorted(described.items())), upload.key.key)),
            "k": encode(ecb_encrypt(self._master_key, key)),
        }
        if replaces is not None:
            node["ov"] = replaces
        command: dict[str, Any] = {"a": "p", "t": parent, "n": [node], "i": self._api.own_id}
        if share:
            triples: list[Any] = []
            for at, (_, share_key) in enumerate(share):
                triples += [at, 0, encode(ecb_encrypt(share_key, key))]
            command["cr"] = [[handle for handle, _ in share], [], triples]
        try:
            answer = await self._api.command(command)
        except NotFound:
            if self._replica.node(parent) is None:
                raise
            # Not the folder: what was uploaded has expired.
            raise _StartOver from None
        made = next((one for one in answer["f"] if one.get("t") == 0), None)
        if made is None:
            raise Unavailable("the server's answer to an upload cannot be understood")
        return dict(made)


def _pieces(macs: Sequence[bytes], size: int) -> Iterator[Span]:
    """Spans of neighbouring chunks that were not sent."""
    start: int | None = None
    stop = 0
    for index, mac in enumerate(macs):
        span = chunk_span(index, size)
        if start is not None and (mac or span.stop - start > _PIECE):
            yield Span(start, stop)
            start = None
        if not mac:
            start = span.start if start is None else start
            stop = span.stop
    if start is not None:
        yield Span(start, stop)


def _last_piece(size: int) -> Span:
    """All has arrived, or there is nothing: one piece more brings the completion handle."""
    return Span(0, 0) if not size else chunk_span(chunk_count(size) - 1, size)


def _encrypt(key: FileKey, span: Span, size: int, data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Ciphertext of a piece, the MACs of its chunks, its checksum. In a thread."""
    if not span:
        return b"", [], b""
    clear = memoryview(data)
    macs = []
    for index in range(chunk_index(span.start), chunk_index(span.stop - 1) + 1):
        chunk = chunk_span(index, size)
        macs.append(chunk_mac(key.key, key.nonce, clear[chunk.start - span.start : chunk.stop - span.start]))
    ciphertext = crypt(key.key, key.nonce, span.start, data)
    return ciphertext, macs, piece_checksum(ciphertext)
