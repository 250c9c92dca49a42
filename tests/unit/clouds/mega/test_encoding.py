from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega.encoding import decode, encode, read_mpi, write_mpi
from serpentfs.errors import IntegrityError
from tests.unit.clouds.mega.vectors import FOLDER, load, vectors


def having(field: str) -> list[dict[str, Any]]:
    return [vector for vector in vectors("encoding") if field in vector]


def test_every_file_of_vectors_is_in_the_index_and_whole() -> None:
    listed = load("index")["files"]
    assert set(listed) == {path.name for path in FOLDER.glob("*.json")} - {"index.json"}
    for name, about in listed.items():
        assert len(vectors(name.removesuffix(".json"))) == about["vectors"]


@pytest.mark.parametrize("vector", having("base64url"), ids=lambda vector: vector["hex"] or "empty")
def test_base64(vector: dict[str, Any]) -> None:
    assert encode(bytes.fromhex(vector["hex"])) == vector["base64url"]
    assert decode(vector["base64url"]).hex() == vector["hex"]


@pytest.mark.parametrize("vector", having("a32"), ids=lambda vector: vector["hex"])
def test_words_are_the_bytes_padded_and_big_endian(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    padded = data + bytes(-len(data) % 4)
    assert list(struct.unpack(f">{len(padded) // 4}I", padded)) == vector["a32"]
    assert decode(encode(padded)) == padded


@pytest.mark.parametrize("vector", having("mpi_hex"), ids=lambda vector: vector["mpi_hex"])
def test_mpi(vector: dict[str, Any]) -> None:
    written = bytes.fromhex(vector["mpi_hex"])
    assert write_mpi(int(vector["integer"])) == written
    assert read_mpi(written) == (int(vector["integer"]), len(written))


@given(st.binary(max_size=200))
def test_text_has_no_padding_and_comes_back(data: bytes) -> None:
    text = encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert decode(text) == data
    assert decode(base64.b64encode(data).decode()) == data


@given(st.binary(max_size=40), st.sampled_from("=.,:!#? \n\0ü日\ud800"), st.text(max_size=20))
def test_reading_ends_at_the_first_foreign_character(data: bytes, foreign: str, rest: str) -> None:
    assert decode(encode(data) + foreign + rest) == data


@given(st.text(alphabet="ABCabc019-_+/", max_size=80))
def test_bits_that_fill_no_byte_are_dropped(text: str) -> None:
    assert len(decode(text)) == len(text) * 6 // 8


@given(st.text())
def test_decode_answers_any_text(text: str) -> None:
    decode(text)


@given(st.lists(st.integers(min_value=0, max_value=1 << 3000), max_size=5))
def test_mpis_stand_one_behind_the_other(numbers: list[int]) -> None:
    data = b"".join(write_mpi(number) for number in numbers)
    at = 0
    for number in numbers:
        found, at = read_mpi(data, at)
        assert found == number
    assert at == len(data)


@given(st.integers(min_value=0, max_value=1 << 400), st.data())
def test_a_number_cut_short_is_refused(number: int, data: st.DataObject) -> None:
    written = write_mpi(number)
    kept = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(IntegrityError):
        read_mpi(written[:kept])
