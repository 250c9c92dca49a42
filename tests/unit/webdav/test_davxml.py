from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.gateways.webdav import davxml
from serpentfs.gateways.webdav.messages import Refusal


@given(st.text())
def test_escaped_text_is_well_formed(text: str) -> None:
    document = f'<a b="{davxml.escape(text)}">{davxml.escape(text)}</a>'
    parsed = ElementTree.fromstring(document.encode())
    assert (parsed.text or "") == davxml._FORBIDDEN.sub("\ufffd", text)


@given(st.binary(max_size=200))
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    try:
        davxml.parse(body)
    except Refusal as refusal:
        assert refusal.status == 400   # noqa: PT017   # it may be refused or not


@pytest.mark.parametrize("depth", [64, 10_000])
def test_deep_nesting(depth: int) -> None:
    body = b"<a>" * depth + b"</a>" * depth
    if depth == 64:
        assert davxml.parse(body).tag == "a"
    else:
        with pytest.raises(Refusal):
            davxml.parse(body)


def test_elements_of_any_name() -> None:
    for name in ("{DAV:}prop", "{urn:a&b}x", "plain", "{}plain", "{http://www.w3.org/XML/1998/namespace}y"):
        text = davxml.element(name, "1")
        parsed = ElementTree.fromstring(f'<D:r xmlns:D="DAV:">{text}</D:r>')[0]
        assert parsed.tag == name.removeprefix("{}")
        assert parsed.text == "1"


def test_language_is_handed_down() -> None:
    root = davxml.parse(b'<a xml:lang="de"><b/><c xml:lang="en"/></a>')
    davxml.inherit_language(root)
    assert 'lang="de"' in davxml.to_text(root[0])
    assert 'lang="en"' in davxml.to_text(root[1])


def test_carriage_returns_are_kept() -> None:
    root = davxml.parse(b'<a b="4&#13;5">1&#13;2&#13;&#10;3</a>')
    assert root.text == "1\r2\r\n3"
    again = davxml.parse(davxml.to_text(root).encode())
    assert (again.text, again.get("b")) == ("1\r2\r\n3", "4\r5")


def test_text_of_an_element_ends_with_it() -> None:
    root = davxml.parse(b"<a><b>1</b> tail</a>")
    assert davxml.to_text(root[0]) == "<b>1</b>"
