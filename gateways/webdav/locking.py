"""LOCK and UNLOCK, and the questions that every writing method asks of locks and the If header.
"""

from __future__ import annotations

import re

from serpentfs.gateways.webdav import davxml
from serpentfs.gateways.webdav.conditions import IfHeader, ResourceState, check_headers, etag_of, parse_if
from serpentfs.gateways.webdav.connection import Exchange
from serpentfs.gateways.webdav.door import DOOR, Door
from serpentfs.gateways.webdav.locks import DEFAULT_TIMEOUT, LONGEST_TIMEOUT, Lock, parent_of
from serpentfs.gateways.webdav.messages import Refusal, Request, parse_destination
from serpentfs.gateways.webdav.places import Place
from serpentfs.gateways.webdav.properties import describe_locks

_TIMEOUT = re.compile(r"\s*second-(\d{1,10})\s*", re.IGNORECASE | re.ASCII)


def lock_href(door: Door, lock: Lock) -> str:
    return door.places.href_of_path(lock.root, lock.directory)


def check_if_header(door: Door, request: Request, place: Place) -> IfHeader:
    """Evaluate the If header; Refusal 412 when it does not hold, 400 when it is malformed."""

    def state(resource: str | None) -> ResourceState:
        if resource is None:
            there = place
        else:
            try:
                there = door.places.find(parse_destination(resource, request.headers.get("host", "")))
            except Refusal:
                return ResourceState(None, frozenset())   # another server's: nothing we know holds for it
        etag = None if there.attributes is None else etag_of(there.attributes)
        tokens = frozenset(lock.token for lock in door.locks.covering(there.path)) if there.path else frozenset()
        return ResourceState(etag, tokens)

    header = parse_if(request.headers.get("if"))
    if not header.holds(state):
        raise Refusal(412, "the If header does not hold")
    return header


def refuse_if_locked(
    door: Door, request: Request, tokens: frozenset[str], path: str, *, deep: bool = False, member: bool = False
) -> None:
    """Refusal 423 when a lock forbids a change of ``path`` (``deep``: and all below it; ``member``: the folder
    above gains or loses it, so that folder must not be locked either)."""
    principal = door.principal(request)
    blocking = door.locks.in_the_way(path, tokens, principal, deep=deep)
    if member:
        blocking += door.locks.in_the_way(parent_of(path), tokens, principal)
    if blocking:
        roots = dict.fromkeys(lock_href(door, lock) for lock in blocking)
        raise Refusal(
            423,
            "it is locked",
            condition=f"<D:lock-token-submitted>{davxml.hrefs(roots)}</D:lock-token-submitted>",
        )


async def lock(door: Door, exchange: Exchange) -> None:
    request = exchange.request
    assert request.url is not None
    body = await exchange.receive_all(davxml.LARGEST_BODY)
    timeout = _timeout(request.headers.get("timeout"))
    place = door.places.find(request.url)
    header = check_if_header(door, request, place)
    check_headers(request.headers, place.attributes, reading=False)
    if not body:
        await _refresh(door, exchange, place, header, timeout)
        return
    depth = request.depth("infinity")
    if depth == "1":
        raise Refusal(400, "a lock has depth 0 or infinity")
    exclusive, owner = _parse_lockinfo(body)
    created = False
    if place.attributes is None:
        place = await _create_empty(door, request, header, place, exclusive=exclusive)
        created = True
    deep = depth == "infinity" and place.is_directory
    # From here to the grant there is no await.
    _refuse_conflicts(door, place.path, exclusive=exclusive, deep=deep)
    granted = door.locks.grant(
        place.path,
        directory=place.is_directory,
        deep=deep,
        exclusive=exclusive,
        owner=owner,
        principal=door.principal(request),
        timeout=timeout,
    )
    await _reply_lock(door, exchange, place, 201 if created else 200, [("Lock-Token", f"<{granted.token}>")])


def _refuse_conflicts(door: Door, path: str, *, exclusive: bool, deep: bool) -> None:
    conflicts = door.locks.conflicts(path, exclusive=exclusive, deep=deep)
    if conflicts:
        roots = dict.fromkeys(lock_href(door, other) for other in conflicts)
        raise Refusal(
            423,
            "another lock stands in the way",
            condition=f"<D:no-conflicting-lock>{davxml.hrefs(roots)}</D:no-conflicting-lock>",
        )
    if door.locks.is_committing(path, deep=deep):
        raise Refusal(423, "it is being changed right now")


async def _create_empty(
    door: Door, request: Request, header: IfHeader, place: Place, *, exclusive: bool
) -> Place:
    """Locking a URL where nothing is makes an empty file there (RFC 4918 §7.3)."""
    folder = place.folder
    if place.url.directory:
        raise Refusal(409, "there is no such folder")
    _refuse_conflicts(door, place.path, exclusive=exclusive, deep=False)
    refuse_if_locked(door, request, header.submitted, place.path, member=True)
    _, handle = await door.vfs.create(folder, place.name, exclusive=True, door=DOOR)
    await door.vfs.release(handle)
    return door.places.find(place.url)


async def _refresh(door: Door, exchange: Exchange, place: Place, header: IfHeader, timeout: int) -> None:
    held = [
        lock
        for lock in door.locks.covering(place.path)
        if lock.token in header.submitted and lock.principal == door.principal(exchange.request)
    ]
    if len(held) != 1:
        raise Refusal(
            412, "one lock of this file must be named", condition="<D:lock-token-matches-request-uri/>"
        )
    door.locks.refresh(held[0], timeout)
    await _reply_lock(door, exchange, place, 200, [])


async def _reply_lock(
    door: Door, exchange: Exchange, place: Place, status: int, headers: list[tuple[str, str]]
) -> None:
    described = describe_locks(door.locks.covering(place.path), door.locks, lambda lock: lock_href(door, lock))
    body = (
        f'{davxml.DECLARATION}<D:prop xmlns:D="DAV:"><D:lockdiscovery>{described}</D:lockdiscovery></D:prop>'
    )
    await exchange.reply(status, body.encode(), "application/xml; charset=utf-8", headers)


def _parse_lockinfo(body: bytes) -> tuple[bool, str]:
    """Whether the lock is exclusive, and the owner element as XML text ("" without one)."""
    root = davxml.parse(body)
    scope = root.find("{DAV:}lockscope")
    kind = root.find("{DAV:}locktype")
    if root.tag != "{DAV:}lockinfo" or scope is None or kind is None or kind.find("{DAV:}write") is None:
        raise Refusal(400, "the body is not a lockinfo")
    exclusive = scope.find("{DAV:}exclusive") is not None
    if exclusive == (scope.find("{DAV:}shared") is not None):
        raise Refusal(400, "the lock is neither exclusive nor shared")
    owner = root.find("{DAV:}owner")
    return exclusive, "" if owner is None else davxml.to_text(owner)


def _timeout(value: str | None) -> int:
    """Seconds that a lock gets: the first wish of a Timeout header that makes sense, bounded."""
    for wish in (value or "").split(","):
        if wish.strip().lower() == "infinite":
            return LONGEST_TIMEOUT
        match = _TIMEOUT.fullmatch(wish)
        if match is not None and int(match.group(1)) > 0:
            return min(int(match.group(1)), LONGEST_TIMEOUT)
    return DEFAULT_TIMEOUT


async def unlock(door: Door, exchange: Exchange) -> None:
    request = exchange.request
    assert request.url is not None
    token = request.headers.get("lock-token", "").strip()
    if not (token.startswith("<") and token.endswith(">")):
        raise Refusal(400, "the Lock-Token header is missing or malformed")
    place = door.places.find(request.url)
    check_if_header(door, request, place)
    check_headers(request.headers, place.attributes, reading=False)
    for lock in door.locks.covering(place.path) if place.path else []:
        if lock.token == token[1:-1]:
            if lock.principal != door.principal(request):
                raise Refusal(403, "it is another user's lock")
            door.locks.release(lock)
            await exchange.reply(204)
            return
    raise Refusal(409, "it is not locked by this token", condition="<D:lock-token-matches-request-uri/>")
