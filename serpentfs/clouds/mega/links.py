"""Public links: their text in the old form, the new one and the one under a password, and what it holds.

Pure; a link's key is in no message and no repr. Forms: meganz/sdk (``MegaClient::parsepubliclink``, ``publicLinkURL``,
``decryptlink``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import urllib.parse
from dataclasses import dataclass, field
from typing import Literal

from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.errors import UsageError, WrongPassphrase

LinkKind = Literal["file", "folder"]

_KEY_BYTES: dict[LinkKind, int] = {"file": 32, "folder": 16}
_SITE = r"(?:https?://)?(?:www\.)?mega\.(?:co\.nz|nz|io|app)/"
_HANDLE = r"[A-Za-z0-9_-]{8}"
# Text between the handle and the key's mark is ignored, as the service's own client does.
_NEW = re.compile(
    rf"{_SITE}(?P<kind>file|folder)/(?P<handle>{_HANDLE})[^#!]*"
    rf"(?:[#!](?P<key>[^/?!#]*)(?:/(?P<inner>file|folder)/(?P<node>{_HANDLE}))?/?)?", re.IGNORECASE)
_OLD = re.compile(
    rf"{_SITE}?#(?P<kind>F?)!(?P<handle>{_HANDLE})[^#!]*"
    rf"(?:!(?P<key>[^/?!#]*)(?:(?P<inner>[!?])(?P<node>{_HANDLE}))?/?)?", re.IGNORECASE)
_PROTECTED = re.compile(rf"{_SITE}?#P!(?P<blob>[A-Za-z0-9_+/-]*=*)", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z0-9_-]+")

_ROUNDS = 100_000
_SALT_BYTES = 32
_MAC_BYTES = 32
_HEAD = 1 + 1 + 6    # algorithm, kind, public handle
_KINDS: tuple[LinkKind, LinkKind] = ("folder", "file")


@dataclass(frozen=True, slots=True)
class Link:
    """A public link: ``handle`` is the public one, ``key`` the node key of a file (32 bytes) or the share key of a
    folder (16). ``node`` is the handle of a node inside a folder link, which ``node_is_file`` says to be a file."""

    kind: LinkKind
    handle: str
    key: bytes = field(repr=False)
    node: str | None = None
    node_is_file: bool = False


def needs_password(text: str) -> bool:
    """Whether this is a link under a password."""
    return _PROTECTED.fullmatch(_clean(text)) is not None


def parse_link(text: str, password: str | None = None) -> Link:
    """The link that ``text`` is. UsageError: it is none, has no (whole) key, or needs a password and none is given.
    WrongPassphrase: that password does not open it.

    For a link under a password CPU-heavy (tenths of a second): call in a thread."""
    text = _clean(text)
    protected = _PROTECTED.fullmatch(text)
    if protected is not None:
        return _open(decode(protected["blob"]), password)
    new = _NEW.fullmatch(text)
    if new is not None:
        kind: LinkKind = "file" if new["kind"].lower() == "file" else "folder"
        return _checked(kind, new["handle"], new["key"], new["node"], (new["inner"] or "").lower() == "file")
    old = _OLD.fullmatch(text)
    if old is not None:
        kind = "folder" if old["kind"] else "file"
        return _checked(kind, old["handle"], old["key"], old["node"], old["inner"] == "?")
    raise UsageError("this is not a MEGA link")


def format_link(link: Link) -> str:
    """The link's text in the new form."""
    text = f"https://mega.nz/{link.kind}/{link.handle}#{encode(link.key)}"
    if link.node is not None:
        text += f"/{'file' if link.node_is_file else 'folder'}/{link.node}"
    return text


def format_password_link(link: Link, password: str) -> str:
    """The link's text under ``password``, differently each time. CPU-heavy as ``parse_link``. UsageError: a password
    that is empty or not valid text, or a link to a node inside a folder (the form has no place for it)."""
    if not password:
        raise UsageError("a link cannot be put under an empty password")
    if link.node is not None:
        raise UsageError("a link to something inside a shared folder cannot be put under a password")
    salt = secrets.token_bytes(_SALT_BYTES)
    mask, mac_key = _derive(password, salt)
    body = bytes((2, _KINDS.index(link.kind))) + decode(link.handle) + salt + _xor(link.key, mask)
    return f"https://mega.nz/#P!{encode(body + hmac.digest(mac_key, body, 'sha256'))}"


def _clean(text: str) -> str:
    # Mail programs and browsers escape "#" and "!" in the old form; no part of a link needs escapes.
    return urllib.parse.unquote(text.strip())


def _checked(kind: LinkKind, handle: str, key_text: str | None, node: str | None, node_is_file: bool) -> Link:
    if not key_text:
        raise UsageError("the link has no key")
    key = decode(key_text) if _KEY.fullmatch(key_text) else b""
    if len(key) != _KEY_BYTES[kind]:
        raise UsageError(f"the key in the link is not that of a {kind}: it may be cut off")
    if node is not None and kind == "file":
        raise UsageError("a link to a file cannot name something inside it")
    return Link(kind, handle, key, node, node_is_file)


def _open(blob: bytes, password: str | None) -> Link:
    """``algorithm | kind | handle | salt | masked key | MAC``; the MAC is over all before it."""
    if len(blob) < _HEAD or blob[0] not in (1, 2) or blob[1] not in (0, 1):
        raise UsageError("the link under a password is of an unknown form")
    kind = _KINDS[blob[1]]
    if len(blob) != _HEAD + _SALT_BYTES + _KEY_BYTES[kind] + _MAC_BYTES:
        raise UsageError("the link under a password is not whole: it may be cut off")
    if password is None:
        raise UsageError("the link is under a password, which is needed")
    body, mac = blob[:-_MAC_BYTES], blob[-_MAC_BYTES:]
    salt_stop = _HEAD + _SALT_BYTES
    mask, mac_key = _derive(password, body[_HEAD:salt_stop])
    # The first algorithm mixed up the two inputs of the MAC; links of that time are still about.
    expected = hmac.digest(body, mac_key, "sha256") if blob[0] == 1 else hmac.digest(mac_key, body, "sha256")
    if not hmac.compare_digest(expected, mac):
        raise WrongPassphrase("the password does not open the link")
    return Link(kind, encode(body[2:_HEAD]), _xor(body[salt_stop:], mask))


def _derive(password: str, salt: bytes) -> tuple[bytes, bytes]:
    """(mask of the key, key of the MAC), 32 bytes each."""
    try:
        secret = password.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("the password is not valid text") from None
    derived = hashlib.pbkdf2_hmac("sha512", secret, salt, _ROUNDS, 64)
    return derived[:32], derived[32:]


def _xor(key: bytes, mask: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(key, mask, strict=False))
