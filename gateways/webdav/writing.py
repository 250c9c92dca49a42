"""Methods that change files and folders: PUT, MKCOL, DELETE, COPY, MOVE, PROPPATCH.

A PUT goes into a draft and is published when all of it has arrived: until then, and for ever when it breaks
off, the old content stays. What ``publish`` returned from is in the journal, so an answer of 201 or 204 is true.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import trio

from serpentfs.errors import AlreadyExists
from serpentfs.gateways.webdav import davxml
from serpentfs.gateways.webdav.conditions import check_headers, etag_of, parse_http_date, pin
from serpentfs.gateways.webdav.connection import Exchange
from serpentfs.gateways.webdav.door import DOOR, Door
from serpentfs.gateways.webdav.locking import check_if_header, refuse_if_locked
from serpentfs.gateways.webdav.messages import Refusal, Request, parse_destination
from serpentfs.gateways.webdav.places import Place
from serpentfs.gateways.webdav.properties import LIVE, MICROSOFT, copy_dead, load_dead, save_dead
from serpentfs.gateways.webdav.trees import Failure, copy_tree, remove_tree
from serpentfs.model import BLOCK_SIZE, Attributes, HandleId, Ino, Kind
from serpentfs.vfs.core import Precondition, RenameMode, SetAttributes
from serpentfs.vfs.writes import SealedRoom

WRITE_SIZE = 1024 * 1024
"""Bytes of a body that are gathered before they go to the core: the most of one upload that is in memory."""
_NANO = 1_000_000_000
_LATEST = 1 << 33
"""Seconds since 1970 up to which times are taken (the year 2242); beyond it a number is in the wrong unit."""


async def put(door: Door, exchange: Exchange) -> None:
    request = exchange.request
    assert request.url is not None
    if "content-range" in request.headers:
        raise Refusal(400, "a part of a file cannot be put")   # RFC 9110 §14.5
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed uploads are not taken")
    mtime_ns = _mtime_header(request)
    place = door.places.find(request.url)
    precondition = _check_put(door, request, place)
    free = door.vfs.statfs().free
    if free is not None and (request.content_length or 0) > free:
        raise Refusal(507, "the drive is full")

    draft = await door.vfs.create_draft(door=DOOR)
    published = False
    try:
        await _receive_into(door, exchange, draft)
        # Minutes may have passed: look again where the name leads now and who locked it meanwhile.
        place = door.places.find(request.url)
        _check_put(door, request, place)
        with door.locks.committing(place.path):
            attributes, created = await door.vfs.publish(
                draft, place.folder, place.name, precondition=precondition, mtime_ns=mtime_ns, door=DOOR
            )
        published = True
    finally:
        if not published:
            with trio.CancelScope(shield=True):
                await door.vfs.discard(draft)
    headers = [("ETag", etag_of(attributes) or "")]
    if mtime_ns is not None:
        headers.append(("X-OC-Mtime", "accepted"))
    await exchange.reply(201 if created else 204, headers=headers)


def _check_put(door: Door, request: Request, place: Place) -> Precondition:
    """Everything that may forbid a PUT; the answer is what must still hold when it is published."""
    if place.is_directory:
        raise Refusal(405, "a folder cannot be put")
    header = check_if_header(door, request, place)
    precondition = check_headers(request.headers, place.attributes, reading=False)
    if place.url.directory or place.parent is None:
        raise Refusal(409, "the parent folder does not exist")
    refuse_if_locked(door, request, header.submitted, place.path, member=place.attributes is None)
    if header.names_etag and precondition.content is None:
        return Precondition(
            pin(place.attributes), precondition.must_exist, precondition.must_not_exist
        )
    return precondition


async def _receive_into(door: Door, exchange: Exchange, draft: HandleId) -> None:
    buffer = memoryview(bytearray(min(WRITE_SIZE, exchange.request.content_length or WRITE_SIZE)))
    if exchange.lays and (exchange.request.content_length or 0) > WRITE_SIZE:
        room = door.vfs.lend_room(draft)
        if room is not None:
            offset, filled = await _lay(door, exchange, draft, room, buffer)
            if filled:
                await door.vfs.write(draft, offset, buffer[:filled])
            return
    offset = filled = 0
    while count := await exchange.receive_into(buffer[filled:]):
        filled += count
        if filled == len(buffer):
            offset += await door.vfs.write(draft, offset, buffer)
            filled = 0
    if filled:
        await door.vfs.write(draft, offset, buffer[:filled])


async def _lay(
    door: Door, exchange: Exchange, draft: HandleId, room: SealedRoom, buffer: memoryview
) -> tuple[int, int]:
    """Receive a body into room of a draft, by threads while it comes fast. How many bytes are in the draft, and how
    many of the body's end in the buffer."""
    filled = 0
    try:
        while count := await exchange.receive_into(buffer[filled:]):
            filled += count
            if filled == len(buffer):
                filled = await exchange.lay(room, buffer)
        door.vfs.take_back(draft, room)
    finally:
        room.close()
    return room.written * BLOCK_SIZE, filled


def _mtime_header(request: Request) -> int | None:
    """X-OC-Mtime: seconds since 1970, as ownCloud's clients and rclone send it."""
    value = request.headers.get("x-oc-mtime")
    return None if value is None else _seconds(value)


def _seconds(text: str) -> int:
    """Nanoseconds of a number of seconds; Refusal 400 when it is none."""
    try:
        seconds = float(text)
    except ValueError:
        raise Refusal(400, "a time is not a number of seconds") from None
    if not -_LATEST < seconds < _LATEST:
        raise Refusal(400, "a time is out of range")
    whole = int(seconds)
    return whole * _NANO + round((seconds - whole) * _NANO)


async def mkcol(door: Door, exchange: Exchange) -> None:
    request = exchange.request
    assert request.url is not None
    if request.content_length != 0:
        raise Refusal(415, "a folder is made without a body")
    place = door.places.find(request.url)
    header = check_if_header(door, request, place)
    check_headers(request.headers, place.attributes, reading=False)
    if place.attributes is not None:
        raise Refusal(405, "there is something already")
    folder = place.folder
    refuse_if_locked(door, request, header.submitted, place.path, member=True)
    with door.locks.committing(place.path):
        try:
            await door.vfs.mkdir(folder, place.name, door=DOOR)
        except AlreadyExists as error:
            raise Refusal(405, "there is something already") from error
    await exchange.reply(201)


async def delete(door: Door, exchange: Exchange) -> None:
    request = exchange.request
    assert request.url is not None
    place = door.places.find(request.url, follow=False)
    header = check_if_header(door, request, place)
    check_headers(request.headers, place.attributes, reading=False)
    if place.is_directory and request.depth("infinity") != "infinity":
        raise Refusal(400, "a folder is removed with all that is in it")
    found, folder = place.found, place.folder
    refuse_if_locked(door, request, header.submitted, place.path, deep=True, member=True)
    with door.locks.committing(place.path):
        failures = await _remove(door, folder, place.name, found, place.href)
        if not failures:
            door.locks.forget_tree(place.path)
    if failures:
        await _reply_failures(exchange, failures)
    else:
        await exchange.reply(204)


async def _remove(door: Door, folder: Ino, name: str, attributes: Attributes, href: str) -> list[Failure]:
    if attributes.kind is Kind.DIRECTORY:
        return await remove_tree(door.vfs, folder, name, attributes.ino, href)
    await door.vfs.unlink(folder, name, door=DOOR)
    return []


async def _reply_failures(exchange: Exchange, failures: list[Failure]) -> None:
    body = "".join(davxml.response(one.href, davxml.status_element(one.status)) for one in failures)
    document = f"{davxml.MULTISTATUS_START}{body}{davxml.MULTISTATUS_END}".encode()
    await exchange.reply(207, document, "application/xml; charset=utf-8")


# COPY and MOVE


@dataclass(frozen=True, slots=True)
class _Transfer:
    """A COPY or MOVE that may be done. ``name`` is the wanted name: the target's stored one may differ in case."""

    source: Place
    target: Place
    folder: Ino
    """Where the target is or will be."""
    name: str
    overwrite: bool
    depth: str


def _prepare(door: Door, request: Request, *, moving: bool) -> _Transfer:
    """Everything that may forbid a COPY or MOVE."""
    assert request.url is not None
    if "destination" not in request.headers:
        raise Refusal(400, "the Destination header is missing")
    overwrite = request.headers.get("overwrite", "T").strip().upper()
    if overwrite not in ("T", "F"):
        raise Refusal(400, "the Overwrite header is neither T nor F")
    wanted = parse_destination(request.headers["destination"], request.headers.get("host", ""))
    source = door.places.find(request.url, follow=not moving)
    target = door.places.find(wanted, follow=False)
    header = check_if_header(door, request, source)
    check_headers(request.headers, source.attributes, reading=False)
    depth = request.depth("infinity")
    if source.found.kind is Kind.DIRECTORY and depth not in (("infinity",) if moving else ("0", "infinity")):
        raise Refusal(400, "a folder is moved whole, and copied whole or alone")
    folder = target.folder
    if moving:
        refuse_if_locked(door, request, header.submitted, source.path, deep=True, member=True)
    name = wanted.names[-1]
    renames_case = moving and source.path == target.path and name != source.name
    if _overlap(source.path, target.path) and not renames_case:
        raise Refusal(403, "source and destination contain one another")
    if target.attributes is None:
        if wanted.directory and source.found.kind is not Kind.DIRECTORY:
            raise Refusal(409, "the destination is written as a folder")
    elif overwrite == "F" and not renames_case:
        raise Refusal(412, "the destination exists")
    refuse_if_locked(
        door, request, header.submitted, target.path, deep=True, member=target.attributes is None
    )
    return _Transfer(source, target, folder, name, overwrite == "T", depth)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")


async def copy(door: Door, exchange: Exchange) -> None:
    transfer = _prepare(door, exchange.request, moving=False)
    source, target = transfer.source.found, transfer.target
    failures: list[Failure] = []
    with door.locks.committing(target.path):
        if target.attributes is not None and Kind.DIRECTORY in (source.kind, target.attributes.kind):
            # RFC 4918 §9.8.4: what was there goes first, the two are not merged.
            failures = await _remove(door, transfer.folder, target.name, target.attributes, target.href)
            door.locks.forget_tree(target.path, keep_root=True)
        if not failures and source.kind is Kind.DIRECTORY:
            failures = await copy_tree(
                door.vfs,
                source,
                transfer.folder,
                transfer.name,
                target.url.href.rstrip("/") + "/",
                members=transfer.depth == "infinity",
            )
        elif not failures:
            free = Precondition(must_not_exist=not transfer.overwrite)
            copied, _ = await door.vfs.copy_file(
                source.ino, transfer.folder, transfer.name, precondition=free, door=DOOR
            )
            await copy_dead(door.vfs, source.ino, copied.ino)
    if failures:
        await _reply_failures(exchange, failures)
    else:
        await exchange.reply(201 if target.attributes is None else 204)


async def move(door: Door, exchange: Exchange) -> None:
    transfer = _prepare(door, exchange.request, moving=True)
    source, target = transfer.source, transfer.target
    replaced = target.attributes
    in_two_steps = replaced is not None and source.path != target.path and (
        Kind.DIRECTORY in (replaced.kind, source.found.kind)
    )
    mode = RenameMode.REPLACE if transfer.overwrite and not in_two_steps else RenameMode.NO_REPLACE
    aside = f".serpentfs-move-{uuid.uuid4().hex}"
    folder = transfer.folder
    failures: list[Failure] = []
    with door.locks.committing(source.path, target.path):
        if in_two_steps:
            # It is removed under a name that nobody asks for. Were it removed where the source was, who asks again,
            # because this takes too long or was cut short, would move what is removed over what is new.
            await door.vfs.rename(folder, target.name, folder, aside, RenameMode.NO_REPLACE, door=DOOR)
        try:
            await door.vfs.rename(source.folder, source.name, folder, transfer.name, mode, door=DOOR)
        except BaseException as error:
            if in_two_steps:
                with trio.CancelScope(shield=True):
                    await door.vfs.rename(folder, aside, folder, target.name, RenameMode.NO_REPLACE, door=DOOR)
            if isinstance(error, AlreadyExists):
                raise Refusal(412, "the destination exists") from error
            raise
        door.locks.forget_tree(source.path)
        door.locks.forget_tree(target.path, keep_root=True)
        if in_two_steps and replaced is not None:
            above = target.url.href.rstrip("/").rpartition("/")[0]
            failures = await _remove(door, folder, aside, replaced, f"{above}/{aside}/")
    if failures:
        await _reply_failures(exchange, failures)
    else:
        await exchange.reply(201 if replaced is None else 204)


# PROPPATCH

_HTTP_DATES = {
    "{DAV:}getlastmodified": "mtime_ns",
    f"{MICROSOFT}Win32LastModifiedTime": "mtime_ns",
    f"{MICROSOFT}Win32LastAccessTime": "atime_ns",
}
_UNIX_SECONDS = "{DAV:}lastmodified"
"""How rclone and ownCloud's clients set the time of a file that is there already."""


@dataclass(frozen=True, slots=True)
class _Update:
    """One instruction of a ``propertyupdate``; ``value`` is None to remove."""

    name: str
    value: Element | None


async def proppatch(door: Door, exchange: Exchange) -> None:
    """All changes are made, or none."""
    request = exchange.request
    assert request.url is not None
    updates = _parse_propertyupdate(await exchange.receive_all(davxml.LARGEST_BODY))
    place = door.places.find(request.url)
    header = check_if_header(door, request, place)
    check_headers(request.headers, place.attributes, reading=False)
    ino = place.found.ino
    refuse_if_locked(door, request, header.submitted, place.path)
    times: dict[str, int] = {}
    refused: dict[str, int] = {}
    with door.locks.committing(place.path):
        # One at a time: between reading all dead properties and writing them back nobody else may.
        async with door.changing_properties:
            before = load_dead(door.vfs, ino)
            dead = dict(before)
            for update in updates:
                status = _apply(update, times, dead)
                if status != 200:
                    refused[update.name] = status
            if not refused and dead != before:
                await save_dead(door.vfs, ino, dead)
            if not refused and times:
                try:
                    await door.vfs.setattr(ino, SetAttributes(**times), door=DOOR)
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await save_dead(door.vfs, ino, before)
                    raise
    names = dict.fromkeys(update.name for update in updates)
    if not refused:
        parts = davxml.propstat(map(davxml.element, names), 200)
    else:
        parts = "".join(
            davxml.propstat([davxml.element(name)], status, _PROTECTED if status == 403 else None)
            for name, status in refused.items()
        )
        parts += davxml.propstat([davxml.element(name) for name in names if name not in refused], 424)
    document = davxml.MULTISTATUS_START + davxml.response(place.href, parts) + davxml.MULTISTATUS_END
    await exchange.reply(207, document.encode(), "application/xml; charset=utf-8")


_PROTECTED = "<D:cannot-modify-protected-property/>"


def _apply(update: _Update, times: dict[str, int], dead: dict[str, str]) -> int:
    """Note one change in ``times`` or ``dead``; the status it gets."""
    name, value = update.name, update.value
    if name in _HTTP_DATES or name == _UNIX_SECONDS:
        if value is None:
            return 403
        seconds = _number(value.text) if name == _UNIX_SECONDS else parse_http_date(value.text or "")
        if seconds is None:
            return 409   # RFC 4918 §9.2.1: a value that makes no sense for this property
        times[_HTTP_DATES.get(name, "mtime_ns")] = seconds * _NANO
    elif name in LIVE:
        return 403
    elif value is None:
        dead.pop(name, None)
    else:
        dead[name] = davxml.to_text(value)
    return 200


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _parse_propertyupdate(body: bytes) -> list[_Update]:
    root = davxml.parse(body) if body else None
    if root is None or root.tag != "{DAV:}propertyupdate":
        raise Refusal(400, "the body is not a propertyupdate")
    updates = []
    davxml.inherit_language(root)
    for instruction in root:
        davxml.inherit_language(instruction)
        for prop in instruction:
            davxml.inherit_language(prop)
            if instruction.tag not in ("{DAV:}set", "{DAV:}remove") or prop.tag != "{DAV:}prop":
                raise Refusal(400, "the body is not a propertyupdate")
            keep = instruction.tag == "{DAV:}set"
            updates += [_Update(element.tag, element if keep else None) for element in prop]
    if not updates:
        raise Refusal(400, "the body changes nothing")
    return updates
