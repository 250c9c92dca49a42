"""The nouns of one HTTP request as the rest of the door sees it: request, URL path, refusal.

Owns how a URL becomes names and names become a URL. Knows neither sockets nor the drive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

Headers = Sequence[tuple[str, str]]

# What RFC 3986 lets stand in a path segment, less "&" and "'", which would have to be escaped once more in XML.
_UNQUOTED = "!$()*+,;=:@-._~"
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)(.*)", re.DOTALL)

REASONS = {
    200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content", 207: "Multi-Status",
    304: "Not Modified",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 412: "Precondition Failed", 413: "Content Too Large",
    414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable",
    421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked", 424: "Failed Dependency",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    507: "Insufficient Storage",
}  # fmt: skip


class Refusal(Exception):
    """An answer other than success, raised anywhere in a handler. It says nothing that failed, only what the
    client is told: a status, one line of text, headers, and for WebDAV the inner XML of ``<D:error>``."""

    def __init__(self, status: int, text: str, headers: Headers = (), condition: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers
        self.condition = condition


@dataclass(frozen=True, slots=True)
class UrlPath:
    """The decoded path of a URL. ``directory`` tells that it ended in a slash."""

    names: tuple[str, ...]
    directory: bool

    @property
    def href(self) -> str:
        return make_href(self.names, self.directory)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. ``url`` is None for ``OPTIONS *``; names of headers are in lower case."""

    method: str
    url: UrlPath | None
    headers: dict[str, str]
    peer: str
    content_length: int | None
    """None for a chunked body, 0 for none."""

    def depth(self, default: str) -> str:
        """The Depth header: ``0``, ``1`` or ``infinity``; anything else is refused with 400."""
        value = self.headers.get("depth", default).strip().lower()
        if value not in ("0", "1", "infinity"):
            raise Refusal(400, "the Depth header is not 0, 1 or infinity")
        return value


def parse_target(target: bytes) -> UrlPath | None:
    """The path of a request line (``/a%20b?query`` or a whole URL); None for ``*``. Refused with 400: ``.`` and
    ``..``, NUL and slashes that were escaped, fragments, broken escapes. Bytes that are not UTF-8 become
    surrogates, which the core refuses."""
    if target == b"*":
        return None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        target = absolute.group(2) or b"/"
    return _parse_path(target)


def parse_destination(value: str, host: str) -> UrlPath:
    """The path of a Destination header; 502 when it names another host than the request did."""
    raw = value.strip().encode("latin-1", "replace")
    absolute = _ABSOLUTE.fullmatch(raw)
    if absolute is not None:
        if absolute.group(1).lower() != host.lower().encode("latin-1", "replace"):
            raise Refusal(502, "the destination is on another server")
        raw = absolute.group(2) or b"/"
    return _parse_path(raw)


def _parse_path(raw: bytes) -> UrlPath:
    path = raw.partition(b"?")[0]
    if not path.startswith(b"/") or b"#" in raw or _BAD_ESCAPE.search(path):
        raise Refusal(400, "the URL is malformed")
    names = []
    for segment in path.split(b"/"):
        if not segment:
            continue
        name = unquote_to_bytes(segment)
        if name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Refusal(400, "the URL names no file")
        names.append(name.decode("utf-8", "surrogateescape"))
    return UrlPath(tuple(names), path.endswith(b"/"))


def quote_name(name: str) -> str:
    """One name as a segment of a URL, fit for XML and HTML as it stands."""
    return quote(name, safe=_UNQUOTED, errors="surrogatepass" if _has_foreign_surrogate(name) else "surrogateescape")


def _has_foreign_surrogate(name: str) -> bool:
    return any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in name)


def make_href(names: Sequence[str], directory: bool) -> str:
    """An absolute path reference (RFC 4918 §8.3); folders end in a slash."""
    href = "/" + "/".join(map(quote_name, names))
    return href + "/" if directory and names else href
