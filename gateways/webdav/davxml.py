"""The XML of WebDAV bodies: reading what clients send, safely, and writing answers as text.

Answers are put together as strings: a listing of 5,000 entries as a tree of element objects costs ten times
the time, and every other door waits for it. Knows nothing of the drive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from xml.etree.ElementTree import Element, ParseError, tostring

import defusedxml
import defusedxml.ElementTree

from serpentfs.gateways.webdav.messages import REASONS, Refusal

LARGEST_BODY = 1024 * 1024
"""Bytes of an XML body that are accepted. A thousand properties fit."""
_DEEPEST = 64
DAV = "{DAV:}"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'

# Names of files may hold characters that XML cannot carry in any way.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"})


def escape(text: str) -> str:
    """Text fit for content and attribute values; what XML forbids becomes U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text).translate(_ESCAPES)


def parse(body: bytes) -> Element:
    """Parse a request body. Refusal 400 for what is not XML, for a DTD or entities, and for deep nesting."""
    try:
        root: Element = defusedxml.ElementTree.fromstring(body, forbid_dtd=True)
    except (ParseError, defusedxml.DefusedXmlException, ValueError, LookupError) as error:
        raise Refusal(400, "the body is not well-formed XML without a DTD") from error
    level = [root]
    for _ in range(_DEEPEST):
        level = [child for element in level for child in element]
        if not level:
            return root
    raise Refusal(400, "the body is nested too deeply")


def inherit_language(element: Element) -> None:
    """Hand ``xml:lang`` down to the children, which are kept apart from their parents (RFC 4918 §4.3)."""
    language = element.get(_LANG)
    if language is not None:
        for child in element:
            if child.get(_LANG) is None:
                child.set(_LANG, language)


def to_text(element: Element) -> str:
    """An element with its content as text that stands for itself, without what follows it."""
    element.tail = None
    # ElementTree writes a carriage return as it is, and a reader would take it for the end of a line.
    return tostring(element, encoding="unicode").replace("\r", "&#13;")


@lru_cache(maxsize=1024)
def open_tag(name: str) -> tuple[str, str]:
    """Start tag without its ``>``, and end tag, for a name in Clark notation (``{DAV:}prop``)."""
    namespace, _, local = name[1:].partition("}") if name.startswith("{") else ("", "", name)
    if namespace == "DAV:":
        return f"<D:{local}", f"</D:{local}>"
    if namespace == "http://www.w3.org/XML/1998/namespace":
        return f"<xml:{local}", f"</xml:{local}>"   # it may have no other prefix, nor be the default
    return f'<{local} xmlns="{escape(namespace)}"', f"</{local}>"


def element(name: str, content: str = "") -> str:
    """An element around content that is XML already."""
    start, end = open_tag(name)
    return f"{start}>{content}{end}" if content else f"{start}/>"


def status_element(status: int) -> str:
    return f"<D:status>HTTP/1.1 {status} {REASONS[status]}</D:status>"


def propstat(properties: Iterable[str], status: int, condition: str | None = None) -> str:
    """Properties (as XML) that share a status; nothing when there are none."""
    content = "".join(properties)
    if not content:
        return ""
    error = f"<D:error>{condition}</D:error>" if condition else ""
    return f"<D:propstat><D:prop>{content}</D:prop>{status_element(status)}{error}</D:propstat>"


def response(href: str, content: str) -> str:
    """One ``response`` of a multi-status answer. ``href`` is quoted already."""
    return f"<D:response><D:href>{href}</D:href>{content}</D:response>"


MULTISTATUS_START = DECLARATION + '<D:multistatus xmlns:D="DAV:">'
MULTISTATUS_END = "</D:multistatus>"


def error_document(condition: str) -> bytes:
    return f'{DECLARATION}<D:error xmlns:D="DAV:">{condition}</D:error>'.encode()


def hrefs(paths: Iterable[str]) -> str:
    return "".join(f"<D:href>{path}</D:href>" for path in paths)
