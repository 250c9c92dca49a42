"""An account's tree, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega.treejson import read_tree
from serpentfs.errors import Unavailable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def flat(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += [(key, one) for one in value] if isinstance(value, list) else [(key, value)]
    return found


@given(
    st.dictionaries(st.text(max_size=4), st.lists(VALUES, max_size=5) | VALUES, max_size=5),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_the_same_as_at_once(tree: dict[str, Any], size: int, wrapped: bool, ascii_only: bool) -> None:
    data = json.dumps([tree] if wrapped else tree, ensure_ascii=ascii_only, indent=1).encode()
    assert list(read_tree(cut(data, size))) == flat(tree)


def test_what_is_cut_short_is_told() -> None:
    data = json.dumps([{"f": [{"h": "a"}, {"h": "b"}], "sn": "x"}]).encode()
    for length in range(len(data) - 1):
        with pytest.raises(Unavailable):
            list(read_tree(cut(data[:length], 7)))


@pytest.mark.parametrize("data", [b"<html>", b'{"f":[}]}', b'{"f" 1}', b"\xff\xfe", b"[[1]]", b'{"f":[1 2]}'])
def test_what_is_no_tree(data: bytes) -> None:
    with pytest.raises(Unavailable):
        list(read_tree([data]))
