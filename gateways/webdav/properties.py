"""Properties of files and folders: the live ones, computed, and the dead ones, kept for clients.

Dead properties of an entry are one extended attribute, so that they go where the file goes, change in one step
and are sealed with everything else. Values are XML text that stands for itself.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from serpentfs.errors import NotFound
from serpentfs.gateways.webdav import davxml
from serpentfs.gateways.webdav.conditions import etag_of, http_date
from serpentfs.gateways.webdav.locks import Lock, LockTable
from serpentfs.gateways.webdav.messages import Refusal
from serpentfs.model import Attributes, Ino, Kind, Quota
from serpentfs.vfs.core import Vfs

DEAD_XATTR = "user.webdav.properties"
LARGEST_DEAD = 60 * 1024
"""Bytes of all dead properties of one entry: the kernel shows the attribute on a mount only below 64 KiB."""

MICROSOFT = "{urn:schemas-microsoft-com:}"

_SUPPORTED_LOCKS = "".join(
    f"<D:lockentry><D:lockscope><D:{scope}/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    for scope in ("exclusive", "shared")
)


@dataclass(frozen=True, slots=True)
class Subject:
    """An entry whose properties are asked for. ``path`` is its path in the drive."""

    href: str
    name: str
    path: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Facts:
    """What is the same for all subjects of a request. ``lock_href`` turns a lock into the URL of its root."""

    quota: Quota
    locks: LockTable
    lock_href: Callable[[Lock], str]


Live = Callable[[Subject, Facts], str | None]
"""Computes a value as XML, None where the subject has no such property."""


@lru_cache(maxsize=1024)
def _type_of_suffix(suffix: str) -> str:
    return mimetypes.guess_type("name." + suffix)[0] or "application/octet-stream"


def content_type(name: str) -> str:
    """The media type that the name of a file suggests."""
    return _type_of_suffix(name.rpartition(".")[2].lower()) if "." in name else "application/octet-stream"


def _file(value: Callable[[Subject], str]) -> Live:
    return lambda subject, facts: value(subject) if subject.attributes.kind is not Kind.DIRECTORY else None


def _creation_date(subject: Subject, facts: Facts) -> str:
    # Nobody keeps a birth time; the older of the two that we have is the nearest.
    seconds = min(subject.attributes.mtime_ns, subject.attributes.ctime_ns) // 1_000_000_000
    return _rfc3339(min(max(seconds, 0), 253_402_300_799))


@lru_cache(maxsize=4096)
def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _quota(pick: Callable[[Quota], int | None]) -> Live:
    def value(subject: Subject, facts: Facts) -> str | None:
        number = pick(facts.quota)
        if subject.attributes.kind is not Kind.DIRECTORY or number is None:
            return None
        return str(number)

    return value


@lru_cache(maxsize=4096)
def _date(seconds: int) -> str:
    return http_date(seconds * 1_000_000_000)


def describe_locks(locks: list[Lock], table: LockTable, lock_href: Callable[[Lock], str]) -> str:
    """The content of ``lockdiscovery``."""
    return "".join(
        "<D:activelock>"
        "<D:locktype><D:write/></D:locktype>"
        f"<D:lockscope><D:{'exclusive' if lock.exclusive else 'shared'}/></D:lockscope>"
        f"<D:depth>{'infinity' if lock.deep else '0'}</D:depth>"
        f"{lock.owner}"
        f"<D:timeout>Second-{table.remaining(lock)}</D:timeout>"
        f"<D:locktoken><D:href>{lock.token}</D:href></D:locktoken>"
        f"<D:lockroot><D:href>{lock_href(lock)}</D:href></D:lockroot>"
        "</D:activelock>"
        for lock in locks
    )


def _lock_discovery(subject: Subject, facts: Facts) -> str:
    return describe_locks(facts.locks.covering(subject.path), facts.locks, facts.lock_href)


STANDARD: Mapping[str, Live] = {
    "{DAV:}resourcetype": lambda s, f: "<D:collection/>" if s.attributes.kind is Kind.DIRECTORY else "",
    "{DAV:}displayname": lambda s, f: davxml.escape(s.name),
    "{DAV:}getcontentlength": _file(lambda s: str(s.attributes.size)),
    "{DAV:}getcontenttype": _file(lambda s: content_type(s.name)),
    "{DAV:}getetag": _file(lambda s: davxml.escape(etag_of(s.attributes) or "")),
    "{DAV:}getlastmodified": lambda s, f: _date(s.attributes.mtime_ns // 1_000_000_000),
    "{DAV:}creationdate": _creation_date,
    "{DAV:}supportedlock": lambda s, f: _SUPPORTED_LOCKS,
    "{DAV:}lockdiscovery": _lock_discovery,
}
"""Those that ``allprop`` answers."""

LIVE: Mapping[str, Live] = {
    **STANDARD,
    "{DAV:}quota-available-bytes": _quota(lambda quota: quota.free),
    "{DAV:}quota-used-bytes": _quota(lambda quota: quota.used),
    f"{MICROSOFT}Win32LastModifiedTime": lambda s, f: _date(s.attributes.mtime_ns // 1_000_000_000),
    f"{MICROSOFT}Win32LastAccessTime": lambda s, f: _date(s.attributes.atime_ns // 1_000_000_000),
}


# Dead properties


def load_dead(vfs: Vfs, ino: Ino) -> dict[str, str]:
    """Dead properties of an entry: Clark name to XML text."""
    try:
        stored = vfs.getxattr(ino, DEAD_XATTR)
    except NotFound:
        return {}
    try:
        properties = json.loads(stored)
    except ValueError:
        # Anybody can set this attribute through the mount; what is not ours is not a property.
        return {}
    if not isinstance(properties, dict):
        return {}
    return {name: text for name, text in properties.items() if isinstance(text, str)}


async def save_dead(vfs: Vfs, ino: Ino, properties: dict[str, str]) -> None:
    """Replace all dead properties of an entry in one step. Refusal 507 when they are too many."""
    if not properties:
        try:
            await vfs.removexattr(ino, DEAD_XATTR)
        except NotFound:
            pass
        return
    value = json.dumps(properties).encode()
    if len(value) > LARGEST_DEAD:
        raise Refusal(507, f"the properties of one file may take {LARGEST_DEAD} bytes")
    await vfs.setxattr(ino, DEAD_XATTR, value)


async def copy_dead(vfs: Vfs, source: Ino, target: Ino) -> None:
    """Make the dead properties of ``target`` those of ``source``."""
    properties = load_dead(vfs, source)
    if properties != load_dead(vfs, target):
        await save_dead(vfs, target, properties)


# Answers to PROPFIND


@dataclass(frozen=True, slots=True)
class PropertyQuery:
    """What a PROPFIND asks: ``names`` (in Clark notation) with their values, with ``all`` also the standard and
    dead ones, or ``names_only`` the names of whatever there is."""

    names: tuple[str, ...] = ()
    all: bool = False
    names_only: bool = False

    @property
    def needs_dead(self) -> bool:
        return self.all or self.names_only or any(name not in LIVE for name in self.names)


def parse_propfind(body: bytes) -> PropertyQuery:
    """An empty body asks for all. Refusal 400 for what is not a ``propfind``."""
    if not body:
        return PropertyQuery(all=True)
    root = davxml.parse(body)
    children = [child for child in root if child.tag in _QUERY_TAGS]
    kinds = {child.tag for child in children} - {"{DAV:}include"}
    if root.tag != "{DAV:}propfind" or len(kinds) != 1:
        raise Refusal(400, "the body is not a propfind")
    names = tuple(prop.tag for child in children for prop in child)
    kind = kinds.pop()
    if kind == "{DAV:}propname":
        return PropertyQuery(names_only=True)
    return PropertyQuery(tuple(dict.fromkeys(names)), all=kind == "{DAV:}allprop")


_QUERY_TAGS = ("{DAV:}allprop", "{DAV:}propname", "{DAV:}prop", "{DAV:}include")


def describe(subject: Subject, query: PropertyQuery, facts: Facts, dead: Mapping[str, str]) -> str:
    """The ``response`` element of one entry."""
    if query.names_only:
        present = [name for name, live in LIVE.items() if live(subject, facts) is not None]
        return davxml.response(subject.href, davxml.propstat(map(davxml.element, [*present, *dead]), 200))
    found: list[str] = []
    missing: list[str] = []
    wanted = query.names
    if query.all:
        wanted = tuple(dict.fromkeys([*STANDARD, *dead, *query.names]))
    for name in wanted:
        live = LIVE.get(name)
        value = live(subject, facts) if live is not None else None
        if value is not None:
            found.append(davxml.element(name, value))
        elif name in dead:
            found.append(dead[name])
        elif not (query.all and name in STANDARD):
            missing.append(davxml.element(name))
    # An answer without any propstat is not valid: with nothing asked there is an empty one.
    content = davxml.propstat(found, 200) + davxml.propstat(missing, 404)
    return davxml.response(subject.href, content or f"<D:propstat><D:prop/>{davxml.status_element(200)}</D:propstat>")
