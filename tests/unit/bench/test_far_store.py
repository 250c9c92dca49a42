"""The store behind the benchmark's link, through the client library that the product uses."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import opendal
import pytest

from tests.bench.link import BUCKET, NEAR, Link, LinkSpeed

MIB = 1024 * 1024


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    link = Link(tmp_path / "objects", NEAR)
    yield link
    link.close()


def operator(link: Link) -> opendal.Operator:
    return opendal.Operator(
        "s3", bucket=BUCKET, root="/", endpoint=link.endpoint, region="us-east-1", access_key_id="a",
        secret_access_key="b",
    )  # fmt: skip


def test_an_upload_in_parts_is_read_by_ranges_copied_and_deleted(link: Link, tmp_path: Path) -> None:
    store, dice = operator(link), random.Random(1)
    data = dice.randbytes(21 * MIB + 123)
    file = store.open("big", "wb", chunk=5 * MIB, concurrent=3)
    for start in range(0, len(data), 4 * MIB):
        file.write(data[start : start + 4 * MIB])
    file.close()
    for _ in range(30):
        start = dice.randrange(len(data))
        size = min(dice.randrange(1, 12 * MIB), len(data) - start)
        assert store.read("big", offset=start, size=size) == data[start : start + size]
    store.copy("big", "copy")
    store.delete("big")
    assert store.read("copy") == data
    assert link.objects() == 1
    assert 0 <= link.traffic().received - len(data) < 2000    # besides it there is the list of the parts
    store.delete("copy")
    assert list((tmp_path / "objects").iterdir()) == []


def test_conditions_hold(link: Link) -> None:
    store = operator(link)
    store.write("key", b"first", if_not_exists=True)
    with pytest.raises(opendal.exceptions.ConditionNotMatch):
        store.write("key", b"second", if_not_exists=True)
    etag = store.stat("key").etag
    assert etag
    store.write("key", b"third", if_match=etag)
    with pytest.raises(opendal.exceptions.ConditionNotMatch):
        store.write("key", b"fourth", if_match=etag)
    with pytest.raises(opendal.exceptions.ConditionNotMatch):
        store.read("key", if_match=etag)
    assert store.read("key") == b"third"


def test_listings_go_on_page_by_page(link: Link, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in range(3):
        (tree / f"{folder}").mkdir(parents=True)
        for number in range(700):
            (tree / f"{folder}" / f"{number} & more").write_bytes(b"x")
    link.adopt(tree, "all/")
    found = [entry.path for entry in operator(link).list("all/", recursive=True)]
    assert sorted(found) == sorted(f"all/{folder}/{number} & more" for folder in range(3) for number in range(700))
    assert sorted(entry.path for entry in operator(link).list("all/")) == ["all/0/", "all/1/", "all/2/"]


def test_answers_take_their_time_and_bytes_theirs(tmp_path: Path) -> None:
    link = Link(tmp_path / "objects", LinkSpeed(latency=0.1, rate=8 * MIB))
    try:
        store = operator(link)
        with link.near():
            store.write("key", bytes(4 * MIB))
        began = time.monotonic()
        store.stat("key")
        trip = time.monotonic() - began
        began = time.monotonic()
        assert len(store.read("key")) == 4 * MIB
        assert trip >= 0.1
        assert time.monotonic() - began >= 0.55
    finally:
        link.close()
