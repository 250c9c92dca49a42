from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega import chunks
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.keys import FileKey, ecb_decrypt, ecb_encrypt
from serpentfs.model import BLOCK_SIZE
from tests.unit.clouds.mega.vectors import content, load, vectors

unhex = bytes.fromhex
KEY16 = st.binary(min_size=16, max_size=16)
NONCE = st.binary(min_size=8, max_size=8)


@pytest.mark.parametrize("vector", vectors("ctr"), ids=lambda vector: str(vector["byte_offset"]))
def test_content_at_an_offset(vector: dict[str, Any]) -> None:
    key, nonce, offset = unhex(vector["key_hex"]), unhex(vector["nonce_hex"]), vector["byte_offset"]
    assert (nonce + (offset // 16).to_bytes(8, "big")).hex() == vector["counter_block_hex"]
    assert chunks.crypt(key, nonce, offset, unhex(vector["plaintext_hex"])).hex() == vector["ciphertext_hex"]
    assert chunks.crypt(key, nonce, offset, unhex(vector["ciphertext_hex"])).hex() == vector["plaintext_hex"]


@pytest.mark.parametrize("vector", vectors("chunk_mac"),
                         ids=lambda vector: f"{vector['size']} {vector['content']['rule'][:4]}")
def test_whole_file(vector: dict[str, Any]) -> None:
    size, key, nonce = vector["size"], unhex(vector["aes_key_hex"]), unhex(vector["nonce_hex"])
    plain = content(vector["content"])
    assert hashlib.sha256(plain).hexdigest() == vector["plaintext_sha256"]

    cipher = chunks.crypt(key, nonce, 0, plain)
    assert hashlib.sha256(cipher).hexdigest() == vector["ciphertext_sha256"]
    assert chunks.crypt(key, nonce, 0, cipher) == plain
    if size:
        assert cipher[:16].hex() == vector["ciphertext_first_16_hex"]
        assert cipher[-16:].hex() == vector["ciphertext_last_16_hex"]
        assert encode(chunks.piece_checksum(cipher)) == vector["upload_checksum_whole_file"]

    spans = [chunks.chunk_span(index, size) for index in range(chunks.chunk_count(size))]
    assert " ".join(f"{span.start}:{len(span)}" for span in spans) == vector["chunks"]
    macs = [chunks.chunk_mac(key, nonce, memoryview(plain)[span.start:span.stop]) for span in spans]
    assert [mac.hex() for mac in macs] == vector["chunk_macs_hex"]

    meta_mac = chunks.meta_mac(key, iter(macs))
    assert meta_mac.hex() == vector["meta_mac_hex"]
    # Where another client computes something else, its files are rejected by the others.
    wrong = [found for found in vector["checks"].values() if found.startswith("differs")]
    assert all(meta_mac.hex() not in found for found in wrong)

    node_key = FileKey(key, nonce, meta_mac).pack()
    assert node_key.hex() == vector["node_key_hex"]
    assert encode(node_key) == vector["node_key_base64"]
    master = unhex(vector["master_key_hex"])
    assert encode(ecb_encrypt(master, node_key)) == vector["k_under_master_key"]
    assert FileKey.unpack(ecb_decrypt(master, decode(vector["k_under_master_key"]))) == FileKey(key, nonce, meta_mac)


@pytest.mark.parametrize("vector", vectors("upload_checksum"), ids=lambda vector: str(vector["ciphertext"]["length"]))
def test_checksum_of_a_piece(vector: dict[str, Any]) -> None:
    checksum = chunks.piece_checksum(content(vector["ciphertext"]))
    assert encode(checksum) == vector["checksum"]
    assert f"?d={encode(checksum)}" == vector["query_suffix"]


def test_the_vectors_hold_what_other_clients_get_wrong() -> None:
    sizes = {vector["size"] for vector in vectors("chunk_mac")
             if vector["checks"]["megajs 1.3.9 source"].startswith("differs")}
    assert sizes == {0, 131071, 131072, 393216, 3670016}
    assert load("chunk_mac")["title"].startswith("Whole-file encryption")


@given(st.integers(0, 1 << 42))
def test_chunks_cover_a_file_without_gap(offset: int) -> None:
    index = chunks.chunk_index(offset)
    span = chunks.chunk_span(index, offset + 10 * chunks.chunk_span(index, 1 << 50).stop)
    assert span.start <= offset < span.stop
    assert len(span) == min(index + 1, 8) * 131072
    assert chunks.chunk_span(index + 1, 1 << 50).start == span.stop
    assert span.start % BLOCK_SIZE == 0


@given(st.integers(1, 1 << 42))
def test_the_last_chunk_ends_the_file(size: int) -> None:
    count = chunks.chunk_count(size)
    last = chunks.chunk_span(count - 1, size)
    assert last.stop == size
    assert last
    assert not chunks.chunk_span(count, size)


def test_an_empty_file_has_no_chunks() -> None:
    assert chunks.chunk_count(0) == 0
    assert chunks.meta_mac(bytes(16), []) == bytes(8)


@given(KEY16, NONCE, st.integers(0, 1 << 36), st.binary(max_size=100), st.integers(0, 6))
def test_any_place_decrypts_alone(key: bytes, nonce: bytes, block: int, data: bytes, cut: int) -> None:
    cipher = chunks.crypt(key, nonce, block * 16, data)
    assert chunks.crypt(key, nonce, block * 16, cipher) == data
    assert chunks.crypt(key, nonce, (block + cut) * 16, cipher[cut * 16:]) == data[cut * 16:]


@pytest.mark.parametrize("offset", [1, 15, 17, 131073])
def test_half_a_block_is_no_place_to_start(offset: int) -> None:
    with pytest.raises(ValueError, match="16"):
        chunks.crypt(bytes(16), bytes(8), offset, b"x")


@given(KEY16, NONCE, st.binary(min_size=1, max_size=100))
def test_a_mac_is_a_chain_of_blocks(key: bytes, nonce: bytes, data: bytes) -> None:
    expected = nonce * 2
    for at in range(0, len(data), 16):
        block = data[at:at + 16].ljust(16, b"\0")
        expected = ecb_encrypt(key, bytes(left ^ right for left, right in zip(expected, block, strict=True)))
    assert chunks.chunk_mac(key, nonce, data) == expected
    assert chunks.chunk_mac(key, nonce, bytearray(data)) == expected


def test_no_chunk_is_empty() -> None:
    with pytest.raises(ValueError, match="empty"):
        chunks.chunk_mac(bytes(16), bytes(8), b"")


@given(st.binary(max_size=300))
def test_checksum_is_a_fold(data: bytes) -> None:
    expected = bytearray(12)
    for at, byte in enumerate(data):
        expected[at % 12] ^= byte
    assert chunks.piece_checksum(data) == expected
    assert chunks.piece_checksum(memoryview(data)) == expected
