"""Methods that only look: OPTIONS, GET, HEAD, PROPFIND.

Long answers are made in slices of a fraction of a millisecond, with the loop free in between: a client that
lists a large folder over and over must not slow down the mount.
"""

from __future__ import annotations

import contextlib
from html import escape

import trio

from serpentfs.bridge import Pace
from serpentfs.cache.sealed import SEALED_SIZE
from serpentfs.gateways.listings import Collected
from serpentfs.gateways.sending import PagedFile
from serpentfs.gateways.webdav import davxml
from serpentfs.gateways.webdav.conditions import check_headers, etag_of, http_date, parse_range
from serpentfs.gateways.webdav.connection import Exchange
from serpentfs.gateways.webdav.door import DOOR, Door
from serpentfs.gateways.webdav.locking import check_if_header, lock_href
from serpentfs.gateways.webdav.messages import Refusal, make_href, quote_name
from serpentfs.gateways.webdav.places import Place, Places
from serpentfs.gateways.webdav.properties import (
    Facts,
    PropertyQuery,
    Subject,
    content_type,
    describe,
    load_dead,
    parse_propfind,
)
from serpentfs.model import BLOCK_SIZE, Attributes, DirEntry, HandleId, Ino, Kind, Span
from serpentfs.vfs.core import Vfs

_PAGE = 4096
"""Of a file that the kernel will send: with the parts of a block on the disk that is all that has to be opened."""
READ_SIZE = 1024 * 1024
"""Bytes read at a time for GET: the most of one answer that is in memory."""
_LISTING_SLICE = 16
_ANSWER_PIECE = 64 * 1024
_MOST_LISTED = 10_000
"""Entries of a folder that the page for browsers shows: it is sorted, so it is held whole."""

_PAGE_POLICY = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
# A web page kept in the drive must not act in the name of who looks at it.
_FILE_POLICY = [("Content-Security-Policy", "sandbox"), ("X-Content-Type-Options", "nosniff")]


async def options(door: Door, exchange: Exchange) -> None:
    headers = [
        ("DAV", "1" if door.read_only else "1, 2"),
        ("Allow", ", ".join(door.allowed_methods)),
        ("MS-Author-Via", "DAV"),   # without it Windows tries FrontPage first
        ("Accept-Ranges", "bytes"),
    ]
    await exchange.reply(200, headers=headers)


async def get(door: Door, exchange: Exchange) -> None:
    """GET and HEAD."""
    request = exchange.request
    assert request.url is not None
    place = door.places.find(request.url)
    check_if_header(door, request, place)
    if place.found.kind is Kind.DIRECTORY:
        check_headers(request.headers, place.found, reading=True)
        await _send_page(door, exchange, place)
        return
    handle = await door.vfs.open(place.found.ino, write=False, door=DOOR)
    try:
        # Asked of the handle: between the look-up and the opening somebody may have saved.
        await _send_file(door, exchange, place.name, handle, door.vfs.attributes_of(handle))
    finally:
        with trio.CancelScope(shield=True):
            await door.vfs.release(handle)


async def _send_file(door: Door, exchange: Exchange, name: str, handle: HandleId, attributes: Attributes) -> None:
    check_headers(exchange.request.headers, attributes, reading=True)
    part = parse_range(exchange.request.headers, attributes)
    span = part or Span(0, attributes.size)
    headers = [
        ("Content-Length", str(len(span))),
        ("Content-Type", content_type(name)),
        ("Last-Modified", http_date(attributes.mtime_ns)),
        ("ETag", etag_of(attributes) or ""),
        ("Accept-Ranges", "bytes"),
        *_FILE_POLICY,
    ]
    if part is not None:
        headers.append(("Content-Range", f"bytes {part.start}-{part.stop - 1}/{attributes.size}"))
    if exchange.request.method == "HEAD":
        exchange.start(206 if part else 200, headers)
        return
    async with contextlib.nullcontext() if door.pages is None else door.pages.file(handle) as paged:
        kernel_sends = paged is not None and exchange.sends_unread and paged.is_for_kernel(span)
        # Players ask for all that follows some place, and soon go elsewhere.
        is_read_to_its_end = part is None or part.stop < attributes.size
        if is_read_to_its_end and not kernel_sends:
            door.vfs.expect(handle, span, sealed=exchange.sends_unread)
        # Some of a file is read before the head goes out: one that cannot be read is an error, not a broken answer.
        little = _PAGE if kernel_sends else BLOCK_SIZE
        data = await _read(door.vfs, handle, Span(span.start, min(span.start + little, span.stop)))
        exchange.start(206 if part else 200, headers)
        sent = await _send_data(exchange, span.start, data, paged) if data else 0
        await _send_rest(door.vfs, exchange, handle, Span(span.start + sent, span.stop), paged)


async def _send_rest(vfs: Vfs, exchange: Exchange, handle: HandleId, rest: Span, paged: PagedFile | None) -> None:
    while rest:
        sent = await _send_unread(vfs, exchange, handle, rest, paged) if exchange.sends_unread else 0
        if not sent:
            piece = Span(rest.start, min(rest.start + READ_SIZE, rest.stop))
            # (A name for what was read would keep it until the next piece is here.)
            sent = await _send_data(exchange, piece.start, await _read(vfs, handle, piece), paged)
        rest = Span(rest.start + sent, rest.stop)


async def _send_unread(vfs: Vfs, exchange: Exchange, handle: HandleId, rest: Span, paged: PagedFile | None) -> int:
    """Have the kernel, or a thread, send some of a file: how many bytes, 0 when it has to be read first."""
    if paged is not None and paged.is_for_kernel(rest) and (sent := await exchange.send_pages(paged, rest)):
        return sent
    sealed = vfs.sealed(handle, rest.start, min(SEALED_SIZE, len(rest)))
    return 0 if sealed is None else await exchange.send_sealed(sealed)


async def _send_data(exchange: Exchange, offset: int, data: bytes, paged: PagedFile | None) -> int:
    await exchange.send(data)
    if paged is not None and exchange.sends_unread:
        await paged.keep(offset, data)
    return len(data)


async def _read(vfs: Vfs, handle: HandleId, span: Span) -> bytes:
    if not span:
        return b""
    data = vfs.read_nowait(handle, span.start, len(span))
    if data is None:
        data = await vfs.read(handle, span.start, len(span))
    if len(data) < len(span):
        raise Refusal(503, "the file became shorter while it was read", [("Retry-After", "1")])
    return bytes(data)


async def _send_page(door: Door, exchange: Exchange, place: Place) -> None:
    """A folder for people with a browser."""
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-cache"), _PAGE_POLICY]
    if exchange.request.method == "HEAD":
        exchange.start(200, headers)
        return
    entries: list[DirEntry] = []
    pace = Pace()
    after = 0
    while len(entries) < _MOST_LISTED:
        some = door.vfs.readdir(place.found.ino, after, _LISTING_SLICE)
        entries += some
        await pace.breathe()
        if len(some) < _LISTING_SLICE:
            break
        after = some[-1].attributes.ino
    exchange.start(200, headers)
    title = escape("/" + "/".join(place.url.names)).encode("utf-8", "replace").decode()
    rows = [
        '<!DOCTYPE html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>body{{font-family:sans-serif}}td{{padding:0 1em 0 0}}"
        f"td+td{{text-align:right}}</style></head><body><h1>{title}</h1><table>"
    ]
    base = place.href
    if place.url.names:
        # (Not "../": the page may have been asked for without the slash at its end.)
        rows.append(f'<tr><td><a href="{make_href(place.url.names[:-1], True)}">../</a></td></tr>')
    for entry in sorted(entries, key=lambda entry: (entry.attributes.kind is not Kind.DIRECTORY, entry.name)):
        rows.append(_row(door.places, place.found.ino, base, entry))
        if len(rows) >= 256:
            await exchange.send("".join(rows).encode("utf-8", "replace"))
            rows.clear()
        await pace.breathe()
    if len(entries) >= _MOST_LISTED:
        rows.append(f"<tr><td>only {_MOST_LISTED} entries are shown</td></tr>")
    rows.append("</table></body></html>\n")
    await exchange.send("".join(rows).encode("utf-8", "replace"))


def _row(places: Places, folder: Ino, base: str, entry: DirEntry) -> str:
    attributes = _shown(places, folder, entry)
    if attributes is None:
        return ""
    slash = "/" if attributes.kind is Kind.DIRECTORY else ""
    size = "" if slash else f"{attributes.size:,}"
    return (
        f'<tr><td><a href="{base}{quote_name(entry.name)}{slash}">{escape(entry.name)}{slash}</a></td>'
        f"<td>{size}</td><td>{http_date(attributes.mtime_ns)}</td></tr>"
    )


def _shown(places: Places, folder: Ino, entry: DirEntry) -> Attributes | None:
    """What an entry of a folder is shown as: a link as what it leads to, None when that is nothing."""
    if entry.attributes.kind is not Kind.SYMLINK:
        return entry.attributes
    return places.follow(folder, entry)


async def propfind(door: Door, exchange: Exchange) -> None:
    request = exchange.request
    assert request.url is not None
    depth = request.depth("infinity")
    query = parse_propfind(await exchange.receive_all(davxml.LARGEST_BODY))
    place = door.places.find(request.url)
    subject = Subject(place.href, place.name, place.path, place.found)
    check_if_header(door, request, place)
    if depth == "infinity" and place.is_directory:
        raise Refusal(403, "a listing of a whole tree is not offered", condition="<D:propfind-finite-depth/>")
    facts = Facts(door.vfs.statfs(), door.locks, lambda lock: lock_href(door, lock))
    answer = _MultiStatus(exchange)
    await answer.add(_describe(door, subject, query, facts).encode())
    if depth == "1" and place.is_directory:
        # With the time that a lock has left, an answer is never the same again.
        mark = door.vfs.state_mark if door.locks.is_empty else _unmarked
        key = door.options.root, subject.attributes.ino, subject.href, query, facts.quota
        kept = door.listings.find(key, mark())
        if kept is not None:
            for piece in kept:
                await answer.add(piece)
        else:
            with door.listings.making(key, mark) as collected:
                await _list_folder(door, subject, query, facts, answer, collected)
    await answer.finish()


def _unmarked() -> None:
    return None


async def _list_folder(
    door: Door, folder: Subject, query: PropertyQuery, facts: Facts, answer: _MultiStatus, collected: Collected
) -> None:
    pace = Pace()
    after = 0
    responses: list[str] = []
    length = 0
    shown: set[str] = set()
    while True:
        entries = door.vfs.readdir(folder.attributes.ino, after, _LISTING_SLICE)
        await pace.breathe()
        for entry in entries:
            attributes = _shown(door.places, folder.attributes.ino, entry)
            if attributes is None or entry.name in shown:
                continue  # shown already, and replaced by another since: no href may come twice (RFC 4918 §14.24)
            shown.add(entry.name)
            slash = "/" if attributes.kind is Kind.DIRECTORY else ""
            subject = Subject(
                f"{folder.href}{quote_name(entry.name)}{slash}",
                entry.name,
                Places.child_path(folder.path, entry.name),
                attributes,
            )
            responses.append(_describe(door, subject, query, facts))
            length += len(responses[-1])
            await pace.breathe()
        is_last = len(entries) < _LISTING_SLICE
        if is_last or length >= _ANSWER_PIECE:
            piece = "".join(responses).encode()
            responses.clear()
            length = 0
            collected.add(piece)
            await answer.add(piece)
        if is_last:
            return
        after = entries[-1].attributes.ino


def _describe(door: Door, subject: Subject, query: PropertyQuery, facts: Facts) -> str:
    dead = load_dead(door.vfs, subject.attributes.ino) if query.needs_dead else {}
    return describe(subject, query, facts, dead)


class _MultiStatus:
    """A 207 answer that grows: with Content-Length when it is short, in chunks when it is long."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._parts = [davxml.MULTISTATUS_START.encode()]
        self._length = 0

    async def add(self, responses: bytes) -> None:
        self._parts.append(responses)
        self._length += len(responses)
        if self._length >= _ANSWER_PIECE:
            if not self._exchange.started:
                self._exchange.start(207, [("Content-Type", "application/xml; charset=utf-8")])
            await self._exchange.send(self._taken())

    async def finish(self) -> None:
        self._parts.append(davxml.MULTISTATUS_END.encode())
        if self._exchange.started:
            await self._exchange.send(self._taken())
        else:
            await self._exchange.reply(207, self._taken(), "application/xml; charset=utf-8")

    def _taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._length = 0
        return data
