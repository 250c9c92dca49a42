from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.links import Link, format_link, format_password_link, needs_password, parse_link
from serpentfs.errors import UsageError, WrongPassphrase
from tests.unit.clouds.mega.vectors import vectors

FORMS = {"new", "legacy", "subfolder_new", "file_in_folder_new", "file_in_folder_legacy", "subfolder_legacy"}
HANDLE = st.text(string.ascii_letters + string.digits + "-_", min_size=8, max_size=8)
LINKS = st.one_of(
    st.builds(Link, st.just("file"), HANDLE, st.binary(min_size=32, max_size=32)),
    st.builds(Link, st.just("folder"), HANDLE, st.binary(min_size=16, max_size=16)),
    st.builds(Link, st.just("folder"), HANDLE, st.binary(min_size=16, max_size=16), HANDLE, st.booleans()),
)
FILE = "https://mega.nz/file/AbCdEfGh#qbhSQRq5abH7zWYfxtFEgY5QrEJt26Q5NGXkFUn63-c"
FOLDER = "https://mega.nz/folder/AbCdEfGh#mw6ezpEzVIdRKpkwvexcOQ"
PROTECTED: str = vectors("password_link")[0]["url"]
BLOB = decode(PROTECTED.partition("#P!")[2])


@pytest.mark.parametrize("vector", vectors("links"), ids=lambda vector: f"{vector['kind']} {vector['ph']}")
@pytest.mark.parametrize("form", sorted(FORMS))
def test_vectors(vector: dict[str, Any], form: str) -> None:
    if form not in vector:
        assert vector["kind"] == "file"
        return
    link = parse_link(vector[form])
    assert link.kind == vector["kind"]
    assert link.handle == vector["ph"]
    assert decode(link.handle).hex() == vector.get("ph_bytes_hex", decode(vector["ph"]).hex())
    assert link.key.hex() == vector.get("node_key_hex", vector.get("share_key_hex"))
    assert len(encode(link.key)) == vector["key_length_chars"]
    assert link.node == ("QrStUvWx" if "in_folder" in form or "sub" in form else None)
    assert link.node_is_file == ("file_in" in form)
    assert format_link(link) == vector[form.replace("legacy", "new")]
    assert not needs_password(vector[form])


def test_every_form_of_the_vectors_is_tested() -> None:
    found = {name for vector in vectors("links") for name, text in vector.items() if str(text).startswith("https:")}
    assert found == FORMS


@pytest.mark.parametrize("vector", vectors("password_link"),
                         ids=lambda vector: f"{vector['algorithm']} {vector['type']} {vector['password']}")
def test_links_under_a_password(vector: dict[str, Any]) -> None:
    assert needs_password(vector["url"])
    link = parse_link(vector["url"], vector["password"])
    assert (link.kind, link.handle, link.key.hex()) == (vector["type"], vector["ph"], vector["key_hex"])
    assert format_link(link) == vector["plain_url"]
    with pytest.raises(WrongPassphrase):
        parse_link(vector["url"], vector["password"] + "x")
    with pytest.raises(UsageError, match="password"):
        parse_link(vector["url"])


@pytest.mark.parametrize("vector", [vector for vector in vectors("password_link") if vector["algorithm"] == 2],
                         ids=lambda vector: f"{vector['type']} {vector['password']}")
def test_putting_a_link_under_a_password(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda length: bytes.fromhex(vector["salt_hex"]))
    assert format_password_link(parse_link(vector["plain_url"]), vector["password"]) == vector["url"]


def test_the_same_link_under_the_same_password_twice() -> None:
    link = parse_link(FOLDER)
    first, second = format_password_link(link, "x"), format_password_link(link, "x")
    assert first != second
    assert parse_link(first, "x") == parse_link(second, "x") == link


@given(LINKS)
def test_what_is_written_is_read(link: Link) -> None:
    assert parse_link(format_link(link)) == link
    assert encode(link.key) not in repr(link)
    assert str(link.key) not in repr(link)


@pytest.mark.parametrize("text", [
    f"  {FILE}\n", FILE.removeprefix("https://"), FILE.replace("https", "http"), FILE.replace("mega.nz", "mega.co.nz"),
    FILE.replace("mega.nz", "MEGA.io"), FILE.replace("mega.nz", "www.mega.app"), FILE.replace("#", "%23"),
    FILE.replace("AbCdEfGh#", "AbCdEfGh/name.txt#"), FILE.replace("/file/AbCdEfGh#", "/#!AbCdEfGh!"),
    FILE.replace("/file/AbCdEfGh#", "/#%21AbCdEfGh%21"), FILE.replace("/file/AbCdEfGh#", "#!AbCdEfGh!"), f"{FILE}/",
])
def test_other_ways_to_write_a_link(text: str) -> None:
    assert parse_link(text) == parse_link(FILE)


@pytest.mark.parametrize("text", [
    "", "mega.nz", "https://mega.nz/", "https://example.test/file/AbCdEfGh#qbhSQRq5abH7zWYfxtFEgY5QrEJt26Q5NGXkFUn63-c",
    FILE.partition("#")[0], FILE.partition("#")[0] + "#", FILE[:-1], FILE + "A", FILE.replace("file/", "folder/"),
    FOLDER.replace("folder/", "file/"), FOLDER[:-1], FOLDER + "AA", FILE + "/file/QrStUvWx", FOLDER + "/file/QrStUv",
    FOLDER + "/elsewhere/QrStUvWx", FILE.replace("AbCdEfGh", "AbCdEfG"),
    FILE.replace("mega.nz", "mega.nz.example.test"), FILE.replace("mega.nz", "example.test/mega.nz"),
    FILE.replace("mega.nz", "mega.nz@example.test"),
    FOLDER.replace("OQ", "Oé"), FOLDER.replace("OQ", "O\n"), "file:///etc/passwd", "https://mega.nz/chat/AbCdEfGh#x",
    PROTECTED[:-1], PROTECTED + "AA", "https://mega.nz/#P!", "https://mega.nz/#P!AAAA",
    "https://mega.nz/#P!" + encode(b"\x03" + BLOB[1:]), "https://mega.nz/#P!" + encode(BLOB[:1] + b"\x02" + BLOB[2:]),
])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_link(text, "secret")
    assert_tells_nothing(caught.value, text)


STARTS = ["", "https://mega.nz/file/", "https://mega.nz/folder/", "https://mega.nz/#!", "mega.nz/#F!", "mega.nz/#P!"]


@given(st.sampled_from(STARTS), HANDLE | st.just(""), st.sampled_from("#!?/%\n\0 "), st.text(max_size=80))
@example("https://mega.nz/file/", "AbCdEfGh", "#", "A" * 42)
def test_hostile_links(start: str, handle: str, mark: str, key: str) -> None:
    text = start + handle + mark + key
    try:
        link = parse_link(text)
    except UsageError as error:
        assert_tells_nothing(error, key)
    else:
        assert len(link.key) in (16, 32)
        assert parse_link(format_link(link)) == link


@settings(max_examples=10)
@given(st.integers(8, len(BLOB) - 1), st.integers(1, 255))
def test_a_damaged_link_under_a_password_does_not_open(at: int, change: int) -> None:
    damaged = BLOB[:at] + bytes((BLOB[at] ^ change,)) + BLOB[at + 1:]
    with pytest.raises(WrongPassphrase) as caught:
        parse_link("https://mega.nz/#P!" + encode(damaged), "secret")
    assert_tells_nothing(caught.value, encode(damaged))


@pytest.mark.parametrize("password", ["", "\ud800"])
def test_passwords_that_are_none(password: str) -> None:
    with pytest.raises(UsageError):
        format_password_link(parse_link(FOLDER), password)


def test_a_place_inside_a_folder_cannot_be_put_under_a_password() -> None:
    with pytest.raises(UsageError):
        format_password_link(parse_link(FOLDER + "/folder/QrStUvWx"), "x")


def assert_tells_nothing(error: Exception, secret: str) -> None:
    """The message is one line, and neither it nor what is behind it holds any of the text."""
    message = str(error)
    assert message
    assert "\n" not in message
    assert error.__cause__ is None
    assert error.__context__ is None
    pieces = [piece for piece in secret.replace("/", " ").replace("#", " ").split() if len(piece) > 12]
    assert all(piece not in message for piece in pieces)
