"""Storage servers: ciphertext of uploads and downloads in files of one folder, file attributes, and their URLs.

Knows bytes, chunk boundaries and tokens; nothing of nodes. Numbers returned by ``put`` are the service's error codes
(specification, 7.7). Bookkeeping is done under the service's lock; reading and writing bytes is not.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from serpentfs.clouds.mega import raid
from serpentfs.clouds.mega.chunks import chunk_index, chunk_span, piece_checksum
from serpentfs.clouds.mega.encoding import decode, encode

URL_LIFE_S = 48 * 3600.0
_WIDEST_GAP = 256 * 1024 * 1024
"""Between the first byte that is missing and the end of a piece."""


@dataclass(slots=True, eq=False)
class Blob:
    """Finished content."""

    token: str
    size: int
    path: Path

    def read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), stop - start, start)


@dataclass(slots=True, eq=False)
class Upload:
    """One upload URL. ``present``: where pieces start and how long they are; ``handle``: once complete."""

    token: str
    size: int
    dialect: int
    path: Path
    expires: float
    present: dict[int, int] = field(default_factory=dict)
    handle: bytes | None = None

    def write(self, offset: int, data: bytes | bytearray) -> None:
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def missing_from(self) -> int:
        """The first byte that is not there."""
        at = 0
        for start in sorted(self.present):
            if start > at:
                break
            at = max(at, start + self.present[start])
        return at


@dataclass(frozen=True, slots=True)
class Download:
    """What a download URL leads to: a content, or one of its six parts."""

    blob: Blob
    part: int | None
    expires: float
    account: str | None

    @property
    def size(self) -> int:
        return self.blob.size if self.part is None else raid.part_size(self.blob.size, self.part)


class Storage:
    """In a folder that is empty at the start and belongs to the service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[str, Upload] = {}
        self._downloads: dict[str, Download] = {}
        self._blobs: dict[str, Blob] = {}
        self._handles: dict[str, str] = {}
        self._attributes: dict[bytes, bytes] = {}
        self._attribute_urls: dict[str, int] = {}
        self.url_life = URL_LIFE_S

    # uploads

    def new_upload(self, size: int, dialect: int) -> str:
        """Token of its URL. ``dialect``: ``v`` of the command, on which the form of the completion handle depends."""
        token = secrets.token_hex(12)
        path = self._folder / token
        with path.open("xb") as file:
            file.truncate(size)
        self._uploads[token] = Upload(token, size, dialect, path, time.time() + self.url_life)
        return token

    def upload(self, token: str) -> Upload | int:
        upload = self._uploads.get(token)
        if upload is None:
            return -9
        return upload if time.time() < upload.expires else -8

    def check_piece(self, upload: Upload, offset: int, length: int) -> int:
        """0, or why such a piece is not accepted."""
        end = offset + length
        if upload.size == 0:
            return 0 if end == 0 else -7
        if not 0 <= offset < end <= upload.size or not (_is_boundary(offset) and (_is_boundary(end) or
                                                                                end == upload.size)):
            return -7
        return -4 if end - upload.missing_from() > _WIDEST_GAP else 0

    @staticmethod
    def checksum_fits(data: bytes | bytearray, checksum: str) -> bool:
        return piece_checksum(data) == decode(checksum)

    def note_piece(self, upload: Upload, offset: int, length: int) -> bytes | None:
        """The piece was written; the completion handle, as it goes over the wire, once all are."""
        upload.present[offset] = max(length, upload.present.get(offset, 0))
        if upload.handle is None and upload.missing_from() >= upload.size:
            if upload.dialect >= 2:
                upload.handle = secrets.token_bytes(36)
                known = encode(upload.handle)
            else:
                known = encode(secrets.token_bytes(27))
                upload.handle = known.encode("ascii")
            self._handles[known] = self.add_blob(upload.size, upload.path)
        return upload.handle

    def take_completed(self, handle: str) -> Blob | None:
        """The content that a completion handle stands for; a handle is good for any number of nodes."""
        token = self._handles.get(handle)
        return None if token is None else self._blobs[token]

    # content

    def add_blob(self, size: int, path: Path) -> str:
        token = secrets.token_hex(12)
        self._blobs[token] = Blob(token, size, path)
        return token

    def add_content(self, content: bytes) -> str:
        """Ciphertext that nobody uploaded."""
        upload = self._uploads.pop(self.new_upload(len(content), 2))
        upload.write(0, content)
        return self.add_blob(len(content), upload.path)

    def new_downloads(self, blob: str, *, as_parts: bool, account: str | None) -> list[str]:
        """Tokens of its URLs: one, or those of its six parts."""
        expires = time.time() + self.url_life
        tokens = []
        for part in range(raid.PARTS) if as_parts else (None,):
            tokens.append(secrets.token_hex(12))
            self._downloads[tokens[-1]] = Download(self._blobs[blob], part, expires, account)
        return tokens

    def download(self, token: str) -> Download | None:
        """None: no such URL, or it has expired."""
        download = self._downloads.get(token)
        return download if download is not None and time.time() < download.expires else None

    def expire_urls(self) -> None:
        """All that were handed out so far."""
        self._downloads.clear()
        for upload in self._uploads.values():
            upload.expires = 0.0

    @staticmethod
    def read_part(download: Download, start: int, stop: int) -> bytes:
        """Bytes of one part of a content in six parts."""
        assert download.part is not None
        blob = download.blob
        first_line = start // raid.SECTOR
        first = first_line * raid.LINE
        last = min(-(-stop // raid.SECTOR) * raid.LINE, blob.size)
        lines = blob.read(first, last)
        part = _sectors(lines, download.part) if download.part else raid.split(lines)[0]
        inner = start - first_line * raid.SECTOR
        return part[inner:inner + stop - start]

    # file attributes

    def new_attribute_url(self, size: int) -> str:
        token = secrets.token_hex(12)
        self._attribute_urls[token] = size
        return token

    def put_attribute(self, token: str, data: bytes) -> bytes | None:
        """Handle of the stored attribute, 8 bytes; None: not what the URL was given for."""
        if self._attribute_urls.get(token) != len(data) or len(data) % 16:
            return None
        handle = secrets.token_bytes(8)
        self._attributes[handle] = data
        return handle

    def has_attribute(self, handle: str) -> bool:
        return decode(handle) in self._attributes

    def get_attributes(self, handles: bytes) -> bytes:
        """For each known one of the 8-byte handles: the handle, a little-endian length, the data."""
        found = []
        for at in range(0, len(handles), 8):
            data = self._attributes.get(handles[at:at + 8])
            if data is not None:
                found += [handles[at:at + 8], len(data).to_bytes(4, "little"), data]
        return b"".join(found)


def _sectors(lines: bytes, part: int) -> bytes:
    """One data part of whole lines (the last one may be short), without making the others."""
    source = memoryview(lines.ljust(-(-len(lines) // raid.LINE) * raid.LINE, b"\0")).cast("Q")
    sectors = bytearray(len(source) * 8 // raid.LINE * raid.SECTOR)
    words = memoryview(sectors).cast("Q")
    for word in range(2):
        words[word::2] = source[(part - 1) * 2 + word::10]
    return bytes(sectors[:raid.part_size(len(lines), part)])


def _is_boundary(offset: int) -> bool:
    return chunk_span(chunk_index(offset), offset + 1).start == offset


