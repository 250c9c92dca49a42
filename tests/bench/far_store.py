"""An S3 endpoint that is far away, as a program of its own: ``far_store.py FOLDER``.

One bucket whose objects are files of FOLDER. Every answer begins ``latency`` seconds after the last byte of its
request, and all connections together carry at most ``rate`` bytes per second each way; connections themselves cost
nothing. Costs as little CPU as Python allows: a thread per connection, sendfile, no digests. It does what the
programs that are measured ask for (single and multipart uploads, conditions, ranges, copies, both listings), after
the Amazon S3 API Reference; signatures are not looked at.

Prints its port, then answers each line of JSON on standard input by one on standard output, and ends when that ends.
"""

from __future__ import annotations

import bisect
import io
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape, unescape

_PIECE = 128 * 1024
_BURST_S = 0.01
"""What a link that was idle may carry at once: a fraction of a window, so that timers need not be exact."""
_PAGE = 1000
_BEYOND = "\U0010ffff"
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Lane:
    """One direction of the link. ``rate``: bytes per second of all who pass, 0 for no limit."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.passed = 0
        self._lock = threading.Lock()
        self._free_at = 0.0

    def carry(self, size: int) -> None:
        """Return when that many bytes have passed."""
        with self._lock:
            self.passed += size
            if not self.rate:
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_S) + size / self.rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


@dataclass(frozen=True, slots=True)
class Blob:
    """``files``: what it is made of, one after the other; an upload in parts is never copied into one."""

    files: tuple[tuple[Path, int], ...]
    etag: str
    modified: float
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)

    def unlink(self) -> None:
        for path, _ in self.files:
            path.unlink()


@dataclass(slots=True)
class Upload:
    headers: tuple[tuple[str, str], ...]
    parts: dict[int, Blob] = field(default_factory=dict)


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Store:
    """The objects, sorted by key, and the link to them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._keys: list[str] = []
        self._blobs: dict[str, Blob] = {}
        self.uploads: dict[str, Upload] = {}
        self.lock = threading.Lock()
        self.latency = 0.0
        self.up, self.down = Lane(), Lane()
        self.requests: dict[str, int] = {}

    def new_file(self) -> Path:
        return self._folder / f"{next(self._numbers)}"

    def new_blob(self, files: Iterable[Path], headers: tuple[tuple[str, str], ...] = ()) -> Blob:
        # As of an upload in parts: an etag that nobody takes for a digest.
        etag = f'"{next(self._numbers):032x}-1"'
        return Blob(tuple((file, file.stat().st_size) for file in files), etag, time.time(), headers)

    def linked(self, files: Iterable[Path]) -> list[Path]:
        """The same files under names of their own."""
        names = []
        for file in files:
            names.append(self.new_file())
            os.link(file, names[-1])
        return names

    def get(self, key: str) -> Blob:
        try:
            return self._blobs[key]
        except KeyError:
            raise Refused(404, "NoSuchKey") from None

    def put(self, key: str, blob: Blob, conditions: dict[str, str]) -> None:
        with self.lock:
            old = self._blobs.get(key)
            if conditions.get("if-none-match") == "*" and old is not None:
                raise Refused(412, "PreconditionFailed")
            if (wanted := conditions.get("if-match")) is not None:
                if old is None:
                    raise Refused(404, "NoSuchKey")
                if wanted != old.etag:
                    raise Refused(412, "PreconditionFailed")
            self._blobs[key] = blob
            if old is None:
                bisect.insort(self._keys, key)
            else:
                old.unlink()

    def delete(self, key: str) -> None:
        with self.lock:
            old = self._blobs.pop(key, None)
            if old is not None:
                del self._keys[bisect.bisect_left(self._keys, key)]
                old.unlink()

    def adopt(self, tree: Path, prefix: str) -> None:
        """Every file below a folder becomes an object."""
        added: dict[str, Blob] = {}
        for at, _, names in os.walk(tree):
            for name in names:
                source, target = Path(at, name), self.new_file()
                source.rename(target)
                added[prefix + str(source.relative_to(tree))] = self.new_blob([target])
        with self.lock:
            self._blobs |= added
            self._keys = sorted(self._blobs)

    def __len__(self) -> int:
        return len(self._keys)

    def page(self, prefix: str, delimiter: str, after: str, most: int) -> tuple[list[str], list[str], str]:
        """Keys, common prefixes, and where the next page goes on (empty: this was the last)."""
        keys: list[str] = []
        folders: list[str] = []
        with self.lock:
            at = max(bisect.bisect_left(self._keys, prefix), bisect.bisect_right(self._keys, after) if after else 0)
            last = ""
            while at < len(self._keys) and (key := self._keys[at]).startswith(prefix):
                if len(keys) + len(folders) >= most:
                    return keys, folders, last
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                if end < 0:
                    keys.append(key)
                    last = key
                    at += 1
                else:
                    folders.append(key[: end + len(delimiter)])
                    last = folders[-1] + _BEYOND
                    at = bisect.bisect_left(self._keys, last)
        return keys, folders, ""


class Connection:
    """One client's requests, one after the other."""

    def __init__(self, store: Store, client: socket.socket) -> None:
        self._store = store
        self._socket = client
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = io.BufferedReader(socket.SocketIO(client, "rb"), 64 * 1024)

    def serve(self) -> None:
        try:
            while self._one():
                pass
        except (ConnectionError, EOFError):
            pass    # a client that ends in the middle of a request
        finally:
            self._stream.close()
            self._socket.close()

    def _one(self) -> bool:
        line = self._stream.readline()
        if not line:
            return False
        self._method, target, _ = line.decode("latin-1").split(" ", 2)
        self._headers: dict[str, str] = {}
        while (line := self._stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            self._headers[name.lower()] = value.strip()
        if self._headers.get("expect", "").lower() == "100-continue":
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        path, _, query = target.partition("?")
        self._query = dict(parse_qsl(query, keep_blank_values=True))
        bucket, _, self._key = unquote(path).lstrip("/").partition("/")
        with self._store.lock:
            self._store.requests[self._method] = self._store.requests.get(self._method, 0) + 1
        try:
            self._answer(bucket)
        except Refused as refused:
            self._xml("Error", f"<Code>{refused.code}</Code>", status=refused.status)
        return True

    # the body of a request, and its end

    @contextmanager
    def _received(self) -> Iterator[Path]:
        """The request's body in a file, which is deleted unless somebody takes it away."""
        path = self._store.new_file()
        try:
            with path.open("wb", buffering=0) as file:
                self._receive(file.write)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _body(self) -> bytes:
        body = bytearray()
        self._receive(body.extend)
        return bytes(body)

    def _receive(self, write: Callable[[memoryview], object]) -> None:
        sizes = self._chunk_sizes()
        buffer = memoryview(bytearray(_PIECE))
        for size in sizes:
            while size:
                count = self._stream.readinto(buffer[: min(size, _PIECE)])
                if not count:
                    raise EOFError
                write(buffer[:count])
                self._store.up.carry(count)
                size -= count
        self._answer_at = time.monotonic() + self._store.latency

    def _chunk_sizes(self) -> Iterator[int]:
        """Of the stretches of the body; what frames them is read in between."""
        is_aws = self._headers.get("x-amz-content-sha256", "").startswith("STREAMING")
        if not is_aws and self._headers.get("transfer-encoding", "").lower() != "chunked":
            yield int(self._headers.get("content-length", "0"))
            return
        # Both framings begin each stretch by its size in hexadecimal and end by a trailer and an empty line.
        while size := int(self._stream.readline().split(b";")[0], 16):
            yield size
            self._stream.readline()
        while self._stream.readline().strip():
            pass

    # answers

    def _wait(self) -> None:
        if (wait := self._answer_at - time.monotonic()) > 0:
            time.sleep(wait)

    def _send(self, status: int, body: bytes = b"", headers: str = "") -> None:
        self._wait()
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
        sent = head if self._method == "HEAD" else head + body
        self._store.down.carry(len(sent))
        self._socket.sendall(sent)

    def _xml(self, root: str, content: str, status: int = 200) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} {_XMLNS}>{content}</{root}>'
        self._send(status, text.encode(), "Content-Type: application/xml\r\n")

    def _answer(self, bucket: str) -> None:
        if not self._key:
            body = self._body()
            if "delete" in self._query:
                for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                    self._store.delete(unescape(key))
                self._xml("DeleteResult", "")
            elif "location" in self._query:
                self._xml("LocationConstraint", "")
            elif self._method == "GET":
                self._list(bucket)
            else:
                self._send(200)
        elif "uploads" in self._query or "uploadId" in self._query:
            self._upload()
        elif self._method in ("GET", "HEAD"):
            self._body()
            self._get()
        elif self._method == "PUT":
            self._put()
        elif self._method == "DELETE":
            self._body()
            self._store.delete(self._key)
            self._send(204)
        else:
            self._body()
            raise Refused(405, "MethodNotAllowed")

    def _list(self, bucket: str) -> None:
        query, is_second = self._query, self._query.get("list-type") == "2"
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
        most = min(int(query.get("max-keys") or _PAGE), _PAGE)
        keys, folders, last = self._store.page(prefix, delimiter, after, most)
        spell = quote if query.get("encoding-type") == "url" else escape
        text = [f"<Name>{bucket}</Name><Prefix>{spell(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>"]
        text.append(f"<IsTruncated>{'true' if last else 'false'}</IsTruncated>")
        if is_second:
            text.append(f"<KeyCount>{len(keys) + len(folders)}</KeyCount>")
        if query.get("encoding-type") == "url":
            text.append("<EncodingType>url</EncodingType>")
        if last:
            element = "NextContinuationToken" if is_second else "NextMarker"
            text.append(f"<{element}>{escape(last) if is_second else spell(last)}</{element}>")
        for key in keys:
            try:
                blob = self._store.get(key)
            except Refused:
                continue    # deleted since
            modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(blob.modified))
            text.append(
                f"<Contents><Key>{spell(key)}</Key><LastModified>{modified}</LastModified>"
                f"<ETag>{escape(blob.etag)}</ETag><Size>{blob.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        text += [f"<CommonPrefixes><Prefix>{spell(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        self._xml("ListBucketResult", "".join(text))

    def _get(self) -> None:
        blob = self._store.get(self._key)
        if self._headers.get("if-match", blob.etag) not in (blob.etag, "*"):
            raise Refused(412, "PreconditionFailed")
        start, stop, status = 0, blob.size, 200
        if self._method == "GET" and (found := re.fullmatch(r"bytes=(\d*)-(\d*)", self._headers.get("range", ""))):
            status = 206
            if found[1]:
                start, stop = int(found[1]), min(int(found[2] or blob.size) + 1, blob.size)
            else:
                start = max(0, blob.size - int(found[2]))
            if start >= stop:
                raise Refused(416, "InvalidRange")
        lines = [
            f"HTTP/1.1 {status} x", f"Content-Length: {stop - start}", f"ETag: {blob.etag}", "Accept-Ranges: bytes",
            f"Last-Modified: {formatdate(blob.modified, usegmt=True)}",
            *(f"{name}: {value}" for name, value in blob.headers),
            *([f"Content-Range: bytes {start}-{stop - 1}/{blob.size}"] if status == 206 else []),
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        with ExitStack() as stack:
            try:
                files = [(stack.enter_context(path.open("rb")), size) for path, size in blob.files]
            except FileNotFoundError:
                raise Refused(404, "NoSuchKey") from None   # replaced or deleted since
            self._wait()
            self._store.down.carry(len(head))
            self._socket.sendall(head, socket.MSG_MORE if self._method == "GET" and stop > start else 0)
            if self._method == "GET":
                for file, size in files:
                    self._send_file(file, max(start, 0), min(stop, size))
                    start, stop = start - size, stop - size

    def _send_file(self, file: IO[bytes], start: int, stop: int) -> None:
        while start < stop:
            size = min(_PIECE, stop - start)
            self._store.down.carry(size)
            while size:
                count = os.sendfile(self._socket.fileno(), file.fileno(), start, size)
                start, size = start + count, size - count

    def _kept_headers(self) -> tuple[tuple[str, str], ...]:
        kept = (
            (name, value) for name, value in self._headers.items()
            if name.startswith("x-amz-meta-") or name == "content-type"
        )
        return tuple(kept)

    def _source(self) -> Blob:
        """What a copy is made from."""
        return self._store.get(unquote(self._headers["x-amz-copy-source"]).lstrip("/").partition("/")[2])

    def _put(self) -> None:
        if "x-amz-copy-source" not in self._headers:
            with self._received() as path:
                blob = self._store.new_blob(self._store.linked([path]), self._kept_headers())
                self._commit(blob)
            self._send(200, headers=f"ETag: {blob.etag}\r\n")
            return
        self._body()
        source = self._source()
        kept = self._store.linked(path for path, _ in source.files)
        is_new = self._headers.get("x-amz-metadata-directive") == "REPLACE"
        blob = self._store.new_blob(kept, self._kept_headers() if is_new else source.headers)
        self._commit(blob)
        self._xml("CopyObjectResult", _copied(blob))

    def _commit(self, blob: Blob) -> None:
        try:
            self._store.put(self._key, blob, self._headers)
        except Refused:
            blob.unlink()
            raise

    def _upload(self) -> None:
        uploads, number = self._store.uploads, self._query.get("uploadId", "")
        if self._method == "POST" and "uploads" in self._query:
            self._body()
            number = self._store.new_file().name
            uploads[number] = Upload(self._kept_headers())
            place = f"<Bucket>x</Bucket><Key>{escape(self._key)}</Key>"
            self._xml("InitiateMultipartUploadResult", f"{place}<UploadId>{number}</UploadId>")
        elif number not in uploads:
            self._body()
            raise Refused(404, "NoSuchUpload")
        elif self._method == "PUT":
            self._put_part(uploads[number], int(self._query["partNumber"]))
        elif self._method == "DELETE":
            self._body()
            for part in uploads.pop(number).parts.values():
                part.unlink()
            self._send(204)
        else:
            self._complete(number)

    def _put_part(self, upload: Upload, number: int) -> None:
        if "x-amz-copy-source" not in self._headers:
            with self._received() as path:
                upload.parts[number] = self._store.new_blob(self._store.linked([path]))
            self._send(200, headers=f"ETag: {upload.parts[number].etag}\r\n")
            return
        self._body()
        first, last = map(int, self._headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-"))
        path = self._store.new_file()
        with path.open("wb") as target:
            at = 0
            for file, size in self._source().files:
                with file.open("rb") as source:
                    source.seek(max(first - at, 0))
                    target.write(source.read(max(0, last + 1 - max(first, at))))
                at += size
        upload.parts[number] = self._store.new_blob([path])
        self._xml("CopyPartResult", _copied(upload.parts[number]))

    def _complete(self, number: str) -> None:
        self._body()
        upload = self._store.uploads.pop(number)
        files = [path for _, part in sorted(upload.parts.items()) for path, _ in part.files]
        blob = self._store.new_blob(files, upload.headers)
        self._commit(blob)
        self._xml("CompleteMultipartUploadResult", f"<Key>{escape(self._key)}</Key><ETag>{escape(blob.etag)}</ETag>")


def _copied(blob: Blob) -> str:
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(blob.modified))
    return f"<LastModified>{modified}</LastModified><ETag>{escape(blob.etag)}</ETag>"


def _obey(store: Store, order: dict[str, Any]) -> dict[str, Any]:
    if "latency" in order:
        store.latency = order["latency"]
        store.up.rate = store.down.rate = order["rate"]
    if "adopt" in order:
        store.adopt(Path(order["adopt"]), order["prefix"])
    requests = dict(store.requests)
    return {"requests": requests, "received": store.up.passed, "sent": store.down.passed, "objects": len(store)}


def main() -> None:
    store = Store(Path(sys.argv[1]))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=Connection(store, client).serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_obey(store, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
