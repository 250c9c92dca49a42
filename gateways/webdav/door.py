"""What every request passes: the Host check, the password, read-only, and the table from errors to statuses.

Owns the state that requests share (locks, throttle, options) and the dispatch to handlers. Handlers raise
errors of the core or ``Refusal``; here they become answers, and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import trio

from serpentfs import errors
from serpentfs.bridge import run_in_thread
from serpentfs.gateways import access
from serpentfs.gateways.accounts import EVERYTHING, Accounts, Rights, below
from serpentfs.gateways.listings import KeptListings
from serpentfs.gateways.sending import Pages
from serpentfs.gateways.webdav import davxml
from serpentfs.gateways.webdav.connection import Exchange, Gone
from serpentfs.gateways.webdav.locks import LockTable
from serpentfs.gateways.webdav.messages import REASONS, Refusal, Request
from serpentfs.gateways.webdav.places import Places
from serpentfs.logs import MAX_VERBOSE, begin_request
from serpentfs.vfs.core import Vfs

_log = logging.getLogger(__name__)

DOOR = "webdav"
_REALM = 'Basic realm="SerpentFS", charset="UTF-8"'
_MOST_KNOWN_LOGINS = 256
_KEPT_LISTINGS = 8 * 1024 * 1024
"""Bytes of answers to PROPFIND. All properties of 5,000 files are 3.6 million."""

STATUS_OF: dict[type[errors.SerpentError], int] = {
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.NotADirectory: 409,
    errors.IsADirectory: 405,
    errors.DirectoryNotEmpty: 409,
    errors.InvalidArgument: 400,
    errors.InvalidName: 400,
    errors.PermissionDenied: 403,
    errors.ReadOnly: 403,
    errors.Unsupported: 403,
    errors.NoSpace: 507,
    errors.FileTooLarge: 413,
    errors.Conflict: 409,
    errors.RevisionGone: 503,
    errors.IntegrityError: 500,
    errors.PreconditionFailed: 412,
    errors.Busy: 423,
    errors.RetryableError: 503,
    errors.SerpentError: 500,
}
"""The nearest class wins. RevisionGone: the file was just replaced, a second try reads the new one."""

_RETRY_AFTER = 5
"""Seconds that a client is asked to wait when the store is away."""


def refusal_of(error: errors.SerpentError) -> Refusal:
    """What a client is told of an error of the core."""
    status = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    headers = []
    if status == 503:
        wait = getattr(error, "retry_after", None)
        headers.append(("Retry-After", str(access.retry_after_seconds(wait or _RETRY_AFTER))))
    return Refusal(status, str(error), headers)


class Door:
    """Answers requests on one drive. ``handlers`` by method; those of ``writing`` are refused when read-only."""

    def __init__(
        self,
        vfs: Vfs,
        options: access.ServerOptions,
        handlers: Mapping[str, Callable[[Door, Exchange], Awaitable[None]]],
        writing: frozenset[str],
        *,
        check_host: bool,
        accounts: Accounts | None = None,
        pages: Pages | None = None,
    ) -> None:
        self.vfs = vfs
        self.options = options
        self.pages = pages
        self.places = Places(vfs, options.root)
        self.locks = LockTable(vfs.load_records(DOOR), self._save_record, time.time)
        self.listings = KeptListings(_KEPT_LISTINGS)
        self.changing_properties = trio.Lock()
        self._handlers = handlers
        self._writing = writing
        self._hosts = access.allowed_hosts(options) if check_host else None
        self._accounts = accounts or Accounts(options)
        self._checking = trio.Lock()
        self._seen: dict[Rights, Door] = {EVERYTHING: self}
        self._throttle = access.LoginThrottle()
        self._known_logins = _KnownLogins()

    def _save_record(self, key: str, value: bytes | None) -> None:
        self.vfs.save_record(DOOR, key, value)

    @property
    def read_only(self) -> bool:
        return self.options.read_only or self.vfs.read_only

    @property
    def allowed_methods(self) -> list[str]:
        return [method for method in self._handlers if not (self.read_only and method in self._writing)]

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request, whatever happens. Raises only Gone."""
        begin_request(DOOR)
        _log.log(MAX_VERBOSE, "%s", exchange.request.method)
        try:
            await self._dispatch(exchange)
        except Refusal as refusal:
            await _refuse(exchange, refusal)
        except errors.SerpentError as error:
            told = refusal_of(error)
            if told.status >= 500:
                _log.warning("%s: %s", exchange.request.method, error)
            await _refuse(exchange, told)
        except Gone:
            raise
        except Exception:   # noqa: BLE001   # logged with its traceback; one request must not end the door
            _log.exception("%s failed", exchange.request.method)
            await _refuse(exchange, Refusal(500, "internal error"))

    async def _dispatch(self, exchange: Exchange) -> None:
        request = exchange.request
        self._check_host(request)
        door = self._seen_with(await self._check_login(request))
        handler = self._handlers.get(request.method)
        if handler is None:
            raise Refusal(405, "no such method", [("Allow", ", ".join(door.allowed_methods))])
        if request.method in self._writing and door.read_only:
            raise Refusal(403, "the drive is read-only here")
        await handler(door, exchange)

    def _seen_with(self, rights: Rights) -> Door:
        """The door as a user with these rights has it: another root, or read-only; locks and all else are shared."""
        if rights not in self._seen:
            seen = copy.copy(self)
            seen.options = replace(
                self.options, root=below(self.options.root, rights),
                read_only=self.options.read_only or rights.read_only,
            )
            seen.places = Places(self.vfs, seen.options.root)
            self._seen[rights] = seen
        return self._seen[rights]

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host")
        # HTTP/1.0 has no Host header; a browser, which is what is guarded against, always sends one.
        if self._hosts is not None and host is not None and not access.is_allowed_host(host, self._hosts):
            raise Refusal(421, "this server does not answer under that name")

    async def _check_login(self, request: Request) -> Rights:
        if self.options.no_auth:
            return EVERYTHING
        header = request.headers.get("authorization")
        if header is None:
            raise Refusal(401, "a user name and a password are needed", [("WWW-Authenticate", _REALM)])
        if self._accounts.is_due:
            await run_in_thread("disk", self._accounts.look)
        # A login that was right before is not throttled: on loopback all users of the machine share an address,
        # and guesses of one must not lock out the others.
        known = self._known_logins.rights_of(header, self._accounts.generation)
        if known is not None:
            return known
        async with self._checking:    # or guesses that arrive together would all pass the throttle
            return await self._first_login(request, header)

    async def _first_login(self, request: Request, header: str) -> Rights:
        generation = self._accounts.generation
        known = self._known_logins.rights_of(header, generation)
        if known is not None:
            return known    # of a request that came at the same time
        wait = self._throttle.wait_time(request.peer)
        if wait > 0:
            retry = ("Retry-After", str(access.retry_after_seconds(wait)))
            raise Refusal(429, "too many wrong passwords", [retry])
        user, password = parse_basic(header)
        if self._accounts.is_slow:
            rights = await run_in_thread("crypto", self._accounts.check, user, password)
        else:
            rights = self._accounts.check(user, password)
        if rights is None:
            self._throttle.failed(request.peer)
            raise Refusal(401, "wrong user name or password", [("WWW-Authenticate", _REALM)])
        self._throttle.succeeded(request.peer)
        self._known_logins.add(header, rights, generation)
        return rights

    def principal(self, request: Request) -> str:
        """The user who asks, "" when nobody has to say."""
        return "" if self.options.no_auth else parse_basic(request.headers["authorization"])[0]


def parse_basic(header: str) -> tuple[str, str]:
    """User and password of an Authorization header; Refusal 401 for anything but well-formed Basic."""
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        raw = base64.b64decode(encoded.strip(), validate=True)
    except (ValueError, binascii.Error):
        raise Refusal(401, "Basic authentication is needed", [("WWW-Authenticate", _REALM)]) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    user, _, password = text.partition(":")
    return user, password


class _KnownLogins:
    """Keyed hashes of Authorization headers that were right, with what they allow."""

    def __init__(self) -> None:
        self._key = os.urandom(hashlib.blake2b.MAX_KEY_SIZE)
        self._known: OrderedDict[bytes, Rights] = OrderedDict()
        self._generation = 0

    def _hash(self, header: str) -> bytes:
        return hashlib.blake2b(header.encode("latin-1"), key=self._key).digest()

    def rights_of(self, header: str, generation: int) -> Rights | None:
        """None when it was not right yet, or users of another ``generation`` were asked then."""
        if generation != self._generation:
            self._known.clear()
            self._generation = generation
        return self._known.get(self._hash(header))

    def add(self, header: str, rights: Rights, generation: int) -> None:
        """Nothing is added when the users are others by now."""
        if generation != self._generation:
            return
        self._known[self._hash(header)] = rights
        if len(self._known) > _MOST_KNOWN_LOGINS:
            self._known.popitem(last=False)


async def _refuse(exchange: Exchange, refusal: Refusal) -> None:
    if exchange.started:
        raise Gone(f"broken off: {refusal.text}")
    if refusal.condition is not None:
        body, content_type = davxml.error_document(refusal.condition), "application/xml; charset=utf-8"
    elif refusal.status == 304:
        body, content_type = b"", None
    else:
        text = f"{refusal.status} {REASONS[refusal.status]}: {refusal.text}\n"
        body, content_type = text.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    await exchange.reply(refusal.status, body, content_type, refusal.headers)
