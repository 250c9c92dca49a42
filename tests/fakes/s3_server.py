"""A small S3 server for tests: correct in what clients rely on, in memory, on a free port of loopback.

Buckets, objects with conditions, ranges, copies, multipart uploads and both versions of listing, after the
Amazon S3 API Reference. Signatures are not looked at; aws-chunked bodies are unwrapped, their chunk signatures and
trailing checksums ignored. ``requests`` records what came in, ``intercept`` lets a test answer in the server's place.

    with S3Server() as server:
        server.make_bucket("bucket")
        ... server.endpoint ...
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import defusedxml.ElementTree
import opendal

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_COPIED_HEADERS = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language")


@dataclass(frozen=True)
class StoredObject:
    data: bytes
    etag: str
    """With its quotes."""
    modified: float
    headers: dict[str, str]

    @property
    def iso_time(self) -> str:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.modified))
        return f"{whole}.{int(self.modified * 1000) % 1000:03}Z"


@dataclass
class _Upload:
    bucket: str
    key: str
    headers: dict[str, str]
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What ``intercept`` may do to a request: answer an error, or break the connection after ``body_bytes`` of the
    right answer's body (0: before the status line), or hold it for ``stall`` seconds first."""

    status: int = 0
    code: str = "InternalError"
    body_bytes: int | None = None
    stall: float = 0.0
    after: bool = False
    """The request takes effect before the answer is lost or replaced."""


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


Intercept = Callable[[str, str], Fault | None]


class S3Server:
    """Buckets in memory. ``buckets`` may be looked at, and changed by way of ``put_object`` and ``delete_object``."""

    def __init__(self, port: int = 0) -> None:
        self.buckets: dict[str, dict[str, StoredObject]] = {}
        self.uploads: dict[str, _Upload] = {}
        self.requests: list[str] = []
        """``METHOD /bucket/key?query`` of every request so far."""
        self.intercept: Intercept | None = None
        self.page_size = 1000
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.store = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.break_connections()
        self._http.server_close()
        self._thread.join(timeout=10)

    def make_bucket(self, name: str) -> None:
        with self.lock:
            self.buckets.setdefault(name, {})

    def put_object(self, bucket: str, key: str, data: bytes, headers: dict[str, str] | None = None) -> StoredObject:
        return self._store(bucket, key, data, f'"{hashlib.md5(data).hexdigest()}"', headers or {})

    def delete_object(self, bucket: str, key: str) -> None:
        with self.lock:
            self.buckets[bucket].pop(key, None)

    def _store(self, bucket: str, key: str, data: bytes, etag: str, headers: dict[str, str]) -> StoredObject:
        stored = StoredObject(data, etag, time.time(), headers)
        with self.lock:
            self.buckets[bucket][key] = stored
        return stored

    # what the handler asks for; all raise _Refused

    def bucket(self, name: str) -> dict[str, StoredObject]:
        try:
            return self.buckets[name]
        except KeyError:
            raise _Refused(404, "NoSuchBucket") from None

    def object(self, bucket: str, key: str) -> StoredObject:
        try:
            return self.bucket(bucket)[key]
        except KeyError:
            raise _Refused(404, "NoSuchKey") from None

    def write(
        self, bucket: str, key: str, data: bytes, etag: str, request: dict[str, str], kept: dict[str, str]
    ) -> str:
        """Store an object if the request's conditions hold; the answer is its etag."""
        with self.lock:
            existing = self.bucket(bucket).get(key)
            if request.get("if-none-match") == "*" and existing is not None:
                raise _Refused(412, "PreconditionFailed")
            wanted = request.get("if-match")
            if wanted is not None:
                if existing is None:
                    raise _Refused(404, "NoSuchKey")
                if wanted.strip('"') != existing.etag.strip('"'):
                    raise _Refused(412, "PreconditionFailed")
            return self._store(bucket, key, data, etag, kept).etag

    def begin_upload(self, bucket: str, key: str, headers: dict[str, str]) -> str:
        self.bucket(bucket)
        number = f"upload-{next(self._numbers)}"
        with self.lock:
            self.uploads[number] = _Upload(bucket, key, headers)
        return number

    def upload(self, number: str, bucket: str, key: str) -> _Upload:
        found = self.uploads.get(number)
        if found is None or (found.bucket, found.key) != (bucket, key):
            raise _Refused(404, "NoSuchUpload")
        return found

    def complete_upload(self, number: str, bucket: str, key: str, body: bytes, request: dict[str, str]) -> str:
        upload = self.upload(number, bucket, key)
        wanted: list[tuple[int, str]] = []
        for part in defusedxml.ElementTree.fromstring(body).iter():
            if part.tag.rpartition("}")[2] == "Part":
                values = {child.tag.rpartition("}")[2]: child.text or "" for child in part}
                wanted.append((int(values["PartNumber"]), values["ETag"].strip('"')))
        if not wanted:
            raise _Refused(400, "MalformedXML")
        if [number for number, _ in wanted] != sorted({number for number, _ in wanted}):
            raise _Refused(400, "InvalidPartOrder")
        pieces = []
        for position, (part_number, etag) in enumerate(wanted):
            data, found = upload.parts.get(part_number, (b"", ""))
            if found.strip('"') != etag:
                raise _Refused(400, "InvalidPart")
            if len(data) < 5 * 1024 * 1024 and position < len(wanted) - 1:
                raise _Refused(400, "EntityTooSmall")
            pieces.append(data)
        digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)
        etag = f'"{hashlib.md5(digests).hexdigest()}-{len(pieces)}"'
        with self.lock:
            stored = self.write(bucket, key, b"".join(pieces), etag, request, upload.headers)
            del self.uploads[number]
            return stored


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    store: S3Server

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            self._connections.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its client was faster

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that break off are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: ``requests`` has it."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    # the frame of every request

    def _answer(self) -> None:
        self.store = self.server.store
        self.store.requests.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.lower = {name.lower(): value for name, value in self.headers.items()}
        body = self._body()
        self.fault = self.store.intercept(self.command, self.path) if self.store.intercept is not None else None
        try:
            if self.fault is not None and not self.fault.after:
                self._spoil()
            self._dispatch(bucket, key, query, body)
        except _Refused as refused:
            self._error(refused.status, refused.code)

    def _spoil(self) -> None:
        """Carry out the fault before anything happened, or before the answer is sent."""
        fault = self.fault
        if fault is None:
            return
        time.sleep(fault.stall)
        if fault.status:
            self.fault = None
            raise _Refused(fault.status, fault.code)
        if fault.body_bytes == 0:
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionAbortedError("broken on purpose")

    def _body(self) -> bytes:
        if self.lower.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunked_body()
        else:
            body = self.rfile.read(int(self.lower.get("content-length", "0")))
            if len(body) < int(self.lower.get("content-length", "0")):
                raise ConnectionAbortedError("the client broke off")
        if self.lower.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            body = _unwrap_aws_chunks(body)
        return body

    def _chunked_body(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return b"".join(pieces)

    def _send(self, status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> None:
        if self.fault is not None and self.fault.after:
            self._spoil()
        self.send_response(status)
        names = set()
        for name, value in headers:
            self.send_header(name, value)
            names.add(name.lower())
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and self.fault.body_bytes is not None:
            self.wfile.write(body[: self.fault.body_bytes])
            self.wfile.flush()
            self._reset()
        self.wfile.write(body)

    def _xml(self, root: str, content: str, status: int = 200) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_NAMESPACE}">{content}</{root}>'
        self._send(status, text.encode(), [("Content-Type", "application/xml")])

    def _error(self, status: int, code: str) -> None:
        if self.fault is not None and self.fault.after:
            self.fault = None
        if status == 304 or self.command == "HEAD":
            self._send(status)
            return
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self._send(status, text.encode(), [("Content-Type", "application/xml")])

    def _dispatch(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> None:
        if not bucket:
            if self.command != "GET":
                raise _Refused(405, "MethodNotAllowed")
            names = "".join(f"<Bucket><Name>{escape(name)}</Name></Bucket>" for name in sorted(self.store.buckets))
            self._xml("ListAllMyBucketsResult", f"<Buckets>{names}</Buckets>")
        elif not key:
            self._bucket_request(bucket, query, body)
        elif "uploadId" in query or "uploads" in query:
            self._upload_request(bucket, key, query, body)
        else:
            self._object_request(bucket, key, body)

    # buckets

    def _bucket_request(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "PUT":
            self.store.make_bucket(bucket)
            self._send(200, headers=[("Location", f"/{bucket}")])
            return
        objects = self.store.bucket(bucket)
        if self.command == "HEAD":
            self._send(200)
        elif self.command == "DELETE":
            if objects:
                raise _Refused(409, "BucketNotEmpty")
            with self.store.lock:
                del self.store.buckets[bucket]
            self._send(204)
        elif self.command == "POST" and "delete" in query:
            self._delete_many(objects, body)
        elif self.command == "GET" and "location" in query:
            self._xml("LocationConstraint", "")
        elif self.command == "GET" and "versioning" in query:
            self._xml("VersioningConfiguration", "")
        elif self.command == "GET" and "uploads" in query:
            self._xml("ListMultipartUploadsResult", self._uploads_of(bucket))
        elif self.command == "GET":
            self._list(bucket, objects, query)
        else:
            raise _Refused(405, "MethodNotAllowed")

    def _uploads_of(self, bucket: str) -> str:
        return "".join(
            f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{number}</UploadId></Upload>"
            for number, upload in sorted(self.store.uploads.items())
            if upload.bucket == bucket
        )

    def _delete_many(self, objects: dict[str, StoredObject], body: bytes) -> None:
        keys = [
            element.text or ""
            for element in defusedxml.ElementTree.fromstring(body).iter()
            if element.tag.rpartition("}")[2] == "Key"
        ]
        with self.store.lock:
            for key in keys:
                objects.pop(key, None)
        self._xml("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))

    def _list(self, bucket: str, objects: dict[str, StoredObject], query: dict[str, str]) -> None:
        second = query.get("list-type") == "2"
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("max-keys", "1000")), self.store.page_size)
        if not second:
            after = query.get("marker", "")
        elif "continuation-token" in query:
            after = base64.urlsafe_b64decode(query["continuation-token"]).decode()
        else:
            after = query.get("start-after", "")

        def shown(text: str) -> str:
            return quote(text, safe="/") if query.get("encoding-type") == "url" else escape(text)

        with self.store.lock:
            keys = sorted(key for key in objects if key.startswith(prefix))
            rows: dict[str, str] = {}
            last, truncated = "", False
            for key in keys:
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                row = key if cut < 0 else key[: cut + len(delimiter)]
                if row <= after or row in rows:
                    continue
                if len(rows) == limit:
                    truncated = True
                    break
                last = row
                if cut >= 0:
                    rows[row] = f"<CommonPrefixes><Prefix>{shown(row)}</Prefix></CommonPrefixes>"
                    continue
                stored = objects[key]
                rows[row] = (
                    f"<Contents><Key>{shown(key)}</Key><LastModified>{stored.iso_time}</LastModified>"
                    f"<ETag>{escape(stored.etag, {chr(34): '&quot;'})}</ETag><Size>{len(stored.data)}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>"
                )
        head = (
            f"<Name>{escape(bucket)}</Name><Prefix>{shown(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>"
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
        )
        if delimiter:
            head += f"<Delimiter>{shown(delimiter)}</Delimiter>"
        if query.get("encoding-type") == "url":
            head += "<EncodingType>url</EncodingType>"
        if second:
            head += f"<KeyCount>{len(rows)}</KeyCount>"
            if truncated:
                token = base64.urlsafe_b64encode(last.encode()).decode()
                head += f"<NextContinuationToken>{token}</NextContinuationToken>"
        elif truncated:
            head += f"<NextMarker>{shown(last)}</NextMarker>"
        self._xml("ListBucketResult", head + "".join(rows.values()))

    # objects

    def _kept_headers(self) -> dict[str, str]:
        kept = {name: value for name, value in self.lower.items() if name.startswith("x-amz-meta-")}
        kept.update((name, self.lower[name]) for name in _COPIED_HEADERS if name in self.lower)
        encodings = [part.strip() for part in kept.pop("content-encoding", "").split(",")]
        encodings = [part for part in encodings if part and part != "aws-chunked"]
        if encodings:
            kept["content-encoding"] = ",".join(encodings)
        return kept

    def _object_request(self, bucket: str, key: str, body: bytes) -> None:
        if self.command in ("GET", "HEAD"):
            self._get(bucket, key)
        elif self.command == "PUT" and "x-amz-copy-source" in self.lower:
            self._copy(bucket, key)
        elif self.command == "PUT":
            etag = f'"{hashlib.md5(body).hexdigest()}"'
            etag = self.store.write(bucket, key, body, etag, self.lower, self._kept_headers())
            self._send(200, headers=[("ETag", etag)])
        elif self.command == "DELETE":
            self.store.bucket(bucket)
            self.store.delete_object(bucket, key)
            self._send(204)
        else:
            raise _Refused(405, "MethodNotAllowed")

    def _get(self, bucket: str, key: str) -> None:
        stored = self.store.object(bucket, key)
        bare = stored.etag.strip('"')
        if "if-match" in self.lower and self.lower["if-match"].strip('"') not in (bare, "*"):
            raise _Refused(412, "PreconditionFailed")
        if "if-none-match" in self.lower and self.lower["if-none-match"].strip('"') in (bare, "*"):
            raise _Refused(304, "NotModified")
        headers = {
            "ETag": stored.etag,
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
        } | stored.headers
        data, status = stored.data, 200
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.lower.get("range", ""))
        if found is not None and found.group(0) != "bytes=-":
            first, last = found.groups()
            if first:
                start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
            else:
                start, stop = max(0, len(data) - int(last)), len(data)
            if start >= len(data) or start >= stop:
                raise _Refused(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        headers["Content-Length"] = str(len(data))
        self._send(status, data, headers.items())

    def _source(self) -> StoredObject:
        bucket, _, key = unquote(self.lower["x-amz-copy-source"]).lstrip("/").partition("/")
        stored = self.store.object(bucket, key)
        wanted = self.lower.get("x-amz-copy-source-if-match")
        if wanted is not None and wanted.strip('"') != stored.etag.strip('"'):
            raise _Refused(412, "PreconditionFailed")
        return stored

    def _copy(self, bucket: str, key: str) -> None:
        source = self._source()
        replace = self.lower.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
        kept = self._kept_headers() if replace else source.headers
        etag = f'"{hashlib.md5(source.data).hexdigest()}"'
        self.store.write(bucket, key, source.data, etag, self.lower, kept)
        stored = self.store.object(bucket, key)
        self._xml("CopyObjectResult", f"<LastModified>{stored.iso_time}</LastModified><ETag>{escape(etag)}</ETag>")

    # multipart uploads

    def _upload_request(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> None:
        name = f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
        if self.command == "POST" and "uploads" in query:
            number = self.store.begin_upload(bucket, key, self._kept_headers())
            self._xml("InitiateMultipartUploadResult", f"{name}<UploadId>{number}</UploadId>")
            return
        number = query["uploadId"]
        upload = self.store.upload(number, bucket, key)
        if self.command == "PUT":
            self._upload_part(upload, int(query["partNumber"]), body)
        elif self.command == "POST":
            etag = self.store.complete_upload(number, bucket, key, body, self.lower)
            self._xml("CompleteMultipartUploadResult", f"{name}<ETag>{escape(etag)}</ETag>")
        elif self.command == "DELETE":
            with self.store.lock:
                self.store.uploads.pop(number, None)
            self._send(204)
        elif self.command == "GET":
            rows = "".join(
                f"<Part><PartNumber>{part}</PartNumber><ETag>{escape(etag)}</ETag><Size>{len(data)}</Size></Part>"
                for part, (data, etag) in sorted(upload.parts.items())
            )
            self._xml("ListPartsResult", f"{name}<UploadId>{number}</UploadId><IsTruncated>false</IsTruncated>{rows}")
        else:
            raise _Refused(405, "MethodNotAllowed")

    def _upload_part(self, upload: _Upload, part: int, body: bytes) -> None:
        copied = "x-amz-copy-source" in self.lower
        if copied:
            body = self._source().data
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.lower.get("x-amz-copy-source-range", ""))
            if found is not None:
                body = body[int(found.group(1)) : int(found.group(2)) + 1]
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        with self.store.lock:
            upload.parts[part] = (body, etag)
        if copied:
            self._xml("CopyPartResult", f"<ETag>{escape(etag)}</ETag>")
        else:
            self._send(200, headers=[("ETag", etag)])


def _unwrap_aws_chunks(body: bytes) -> bytes:
    """The content of an aws-chunked body: ``hex-size[;chunk-signature=...]`` CRLF data CRLF, ended by a chunk of
    size 0 and perhaps trailers."""
    pieces: list[bytes] = []
    position = 0
    while True:
        end = body.index(b"\r\n", position)
        size = int(body[position:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        position = end + 2 + size + 2


def s3_operator(server: S3Server, bucket: str, root: str = "") -> opendal.Operator:
    """An OpenDAL operator for a bucket of the server."""
    return opendal.Operator(
        "s3",
        bucket=bucket,
        root=f"/{root}",
        region="us-east-1",
        endpoint=server.endpoint,
        access_key_id="test",
        secret_access_key="test",
        disable_config_load="true",
        disable_ec2_metadata="true",
    )
