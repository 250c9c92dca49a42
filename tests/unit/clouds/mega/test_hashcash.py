from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega import hashcash
from serpentfs.errors import Unavailable
from tests.unit.clouds.mega.vectors import vectors

EASY = vectors("hashcash")[2]
TOKEN = EASY["challenge"].rpartition(":")[2]


def answer(vector: dict[str, Any]) -> str:
    header: str = vector["header"]
    return header.removeprefix("X-Hashcash: ")


@pytest.mark.parametrize("vector", vectors("hashcash"), ids=lambda vector: str(vector["easiness"]))
def test_answers_are_checked(vector: dict[str, Any]) -> None:
    assert hashcash.verify(vector["challenge"], answer(vector))
    assert answer(vector) == f"1:{TOKEN}:{vector['valid_nonces'][0]}"
    assert not hashcash.verify(vector["challenge"], f"1:{TOKEN}:AAAAAA")


def test_the_first_answer_is_found() -> None:
    assert EASY["easiness"] == 200
    assert hashcash.solve(EASY["challenge"]) == answer(EASY)


def test_any_answer_to_an_easy_challenge() -> None:
    challenge = f"1:255:1731410499:{TOKEN}"
    assert hashcash.verify(challenge, hashcash.solve(challenge))


@pytest.mark.parametrize("wrong", [
    "", "1", f"1:{TOKEN}", f"2:{TOKEN}:CAAAAA", f"1:{TOKEN[:-4]}AAAA:CAAAAA", f"1:{TOKEN}:CAAA", f"1:{TOKEN}:",
    f"1:{TOKEN}:CAAAAAAAAA",
])
def test_what_is_no_answer(wrong: str) -> None:
    assert not hashcash.verify(EASY["challenge"], wrong)


@pytest.mark.parametrize("challenge", [
    "", "1:200:0", f"2:200:0:{TOKEN}", f"1:256:0:{TOKEN}", f"1:-1:0:{TOKEN}", f"1:²:0:{TOKEN}", f"1::0:{TOKEN}",
    f"1:200:0:{TOKEN[:-2]}", f"1:200:0:{TOKEN}AAAA", "1:200:0:",
])
def test_what_is_no_challenge(challenge: str) -> None:
    with pytest.raises(Unavailable):
        hashcash.solve(challenge)


@pytest.mark.parametrize("easiness", [0, 1, 63, 64, 127])
def test_too_much_work_is_refused_at_once(easiness: int) -> None:
    with pytest.raises(Unavailable, match="reasonable"):
        hashcash.solve(f"1:{easiness}:0:{TOKEN}")


@given(st.text(max_size=100))
def test_any_header_has_an_answer_or_an_error(header: str) -> None:
    with pytest.raises(Unavailable):
        hashcash.solve(header)
