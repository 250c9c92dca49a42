from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.fingerprint import checksum, pack_fingerprint, sample_spans, unpack_fingerprint
from tests.unit.clouds.mega.vectors import content, vectors


def checksum_of(data: bytes) -> bytes:
    return checksum(len(data), [data[span.start:span.stop] for span in sample_spans(len(data))])


@pytest.mark.parametrize("vector", vectors("fingerprint"),
                         ids=lambda vector: f"{vector['size']} {vector['mtime']} {vector['content']['rule'][:4]}")
def test_vectors(vector: dict[str, Any]) -> None:
    data = content(vector["content"])
    assert len(data) == vector["size"]
    crc = checksum_of(data)
    assert crc.hex() == vector["crc_hex"]
    assert pack_fingerprint(crc, vector["mtime"]) == vector["c"]
    assert decode(vector["c"])[16:].hex() == vector["mtime_serialized_hex"]
    assert unpack_fingerprint(vector["c"]) == (crc, vector["mtime"])


@given(st.binary(min_size=16, max_size=16), st.integers(0, (1 << 64) - 1))
def test_what_is_packed_comes_back(crc: bytes, mtime: int) -> None:
    assert unpack_fingerprint(pack_fingerprint(crc, mtime)) == (crc, mtime)


@given(st.integers(-(1 << 70), 1 << 70))
def test_a_time_that_does_not_fit_becomes_the_nearest(mtime: int) -> None:
    assert unpack_fingerprint(pack_fingerprint(bytes(16), mtime)) == (bytes(16), min(max(mtime, 0), (1 << 64) - 1))


@given(st.text(max_size=60) | st.binary(max_size=40).map(encode))
def test_any_text_has_an_answer(text: str) -> None:
    found = unpack_fingerprint(text)
    assert found is None or (len(found[0]) == 16 and 0 <= found[1] < 1 << 64)


@pytest.mark.parametrize("data", [b"", bytes(16), bytes(16) + b"\x01", bytes(16) + b"\x09" + bytes(9),
                                  bytes(16) + b"\x04abc"])
def test_what_is_no_fingerprint(data: bytes) -> None:
    assert unpack_fingerprint(encode(data)) is None


@given(st.integers(0, 1 << 45))
def test_samples_lie_in_the_file_from_its_start_to_its_end(size: int) -> None:
    spans = sample_spans(size)
    assert spans[0].start == 0
    assert spans[-1].stop == size
    assert len(spans) == (1 if size <= 8192 else 128)
    assert sum(map(len, spans)) == min(size, 8192)
    assert sorted(spans, key=lambda span: span.start) == spans


@given(st.binary(min_size=17, max_size=8192))
def test_four_crcs_cover_a_short_file(data: bytes) -> None:
    size, crc = len(data), checksum_of(data)
    for lane in range(4):
        expected = zlib.crc32(data[lane * size // 4:(lane + 1) * size // 4])
        assert int.from_bytes(crc[4 * lane:4 * lane + 4], "big") == expected


@pytest.mark.parametrize(("size", "samples"), [(5, [b"1234"]), (5, []), (8193, [bytes(64)] * 127), (0, [])])
def test_other_samples_are_refused(size: int, samples: list[bytes]) -> None:
    with pytest.raises(ValueError, match="samples"):
        checksum(size, samples)
