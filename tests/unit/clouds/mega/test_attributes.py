from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega import attributes
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.keys import attribute_key
from serpentfs.errors import InvalidArgument
from tests.unit.clouds.mega.vectors import vectors

KEY = bytes(range(16))


def wrapped(plain: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES128(KEY), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(plain + bytes(-len(plain) % 16))


@pytest.mark.parametrize("vector", vectors("attributes"), ids=lambda vector: vector["json"])
def test_vectors(vector: dict[str, Any]) -> None:
    key = bytes.fromhex(vector["key_hex"])
    if "node_key_hex" in vector:
        assert attribute_key(bytes.fromhex(vector["node_key_hex"])) == key
    found = attributes.unpack(decode(vector["at"]), key)
    assert found is not None
    assert found == json.loads(vector["json"])
    assert encode(attributes.pack(found, key)) == vector["at"]
    if "padded_plaintext_hex" in vector:
        decryptor = Cipher(algorithms.AES128(key), modes.CBC(bytes(16))).decryptor()
        assert decryptor.update(attributes.pack(found, key)).hex() == vector["padded_plaintext_hex"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=6), st.binary(min_size=16, max_size=16))
def test_what_is_packed_comes_back_in_its_order(given_attributes: dict[str, Any], key: bytes) -> None:
    packed = attributes.pack(given_attributes, key)
    assert len(packed) % 16 == 0
    found = attributes.unpack(packed, key)
    assert found == given_attributes
    assert list(found) == list(given_attributes)


@given(st.binary(max_size=200))
def test_damaged_is_none_or_attributes(data: bytes) -> None:
    found = attributes.unpack(wrapped(b'MEGA{"' + data), KEY)
    assert found is None or isinstance(found, dict)
    json.dumps(found, ensure_ascii=False).encode("utf-8")


def test_another_key_gives_nothing() -> None:
    assert attributes.unpack(attributes.pack({"n": "x"}, KEY), bytes(16)) is None


@pytest.mark.parametrize("plain", [
    b"", b"MEGA", b"MEGA{}", b"MEGA[]", b'mega{"n":"x"}', b'MEGA{"n":"x"', b'MEGA{"n":"x"}}',
    b'MEGA{"n":' + b"9" * 5000 + b"}", b'MEGA{"n":' + b"[" * 50_000,
])
def test_what_is_no_attributes(plain: bytes) -> None:
    assert attributes.unpack(wrapped(plain), KEY) is None


def test_reading_ends_at_the_first_zero_and_at_the_last_whole_block() -> None:
    data = wrapped(b'MEGA{"n":"x"}\0{"n":"y"}')
    assert attributes.unpack(data, KEY) == {"n": "x"}
    assert attributes.unpack(data + b"tail", KEY) == {"n": "x"}


@pytest.mark.parametrize(("written", "name"), [
    (b'"\\ud83d\\ude00"', "😀"),
    (b'"a\\ud800b"', "a�b"),
    (b'"\\\\ud800"', "\\ud800"),
    (b'["\\udc00"]', ["�"]),
    (b'"\xff"', "�"),
])
def test_every_string_can_be_written_again(written: bytes, name: object) -> None:
    found = attributes.unpack(wrapped(b'MEGA{"n":' + written + b"}"), KEY)
    assert found is not None
    assert found == {"n": name}
    assert attributes.unpack(attributes.pack(found, KEY), KEY) == found


def test_what_cannot_be_packed() -> None:
    with pytest.raises(InvalidArgument):
        attributes.pack({}, KEY)
    with pytest.raises(InvalidArgument) as caught:
        attributes.pack({"n": "geheim\ud800"}, KEY)
    assert "geheim" not in str(caught.value)
    longest = attributes.LONGEST_BYTES - len('MEGA{"n":""}')
    assert len(encode(attributes.pack({"n": "x" * longest}, KEY))) == 65536
    with pytest.raises(InvalidArgument):
        attributes.pack({"n": "x" * (longest + 1)}, KEY)


@pytest.mark.parametrize("length", [0, 15, 24, 32])
def test_the_key_has_16_bytes(length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        attributes.unpack(bytes(16), bytes(length))
    with pytest.raises(ValueError, match=r"."):
        attributes.pack({"n": "x"}, bytes(length))
