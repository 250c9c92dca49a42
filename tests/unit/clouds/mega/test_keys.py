from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.clouds.mega import keys
from serpentfs.clouds.mega.encoding import decode, encode, write_mpi
from serpentfs.clouds.mega.keys import FileKey, PrivateKey
from serpentfs.errors import IntegrityError, SerpentError, UsageError
from tests.unit.clouds.mega.vectors import load, vectors

unhex = bytes.fromhex
KEY16 = st.binary(min_size=16, max_size=16)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [vector for vector in vectors("node_keys") if vector["kind"].startswith(kind)]


def private_key(vector: dict[str, Any]) -> PrivateKey:
    return PrivateKey.parse(keys.ecb_decrypt(unhex(vector["master_key_hex"]), decode(vector["privk"])))


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("login_v1"), ids=lambda vector: vector["password"])
def test_old_password_key(vector: dict[str, Any]) -> None:
    key = keys.v1_password_key(vector["password"])
    assert key.hex() == vector["password_key_hex"]
    # What clients get that feed UTF-8 to the cipher: they cannot log in to such an account.
    assert key.hex() != vector.get("password_key_if_raw_utf8_hex")
    if "uh" in vector:
        assert encode(keys.v1_user_hash(vector["email"], key)) == vector["uh"]
        assert encode(keys.v1_user_hash(vector["email"].upper(), key)) == vector["uh"]


@pytest.mark.parametrize("vector", [vector for vector in vectors("login_v2") if "kind" not in vector],
                         ids=lambda vector: vector["password"])
def test_password_key(vector: dict[str, Any]) -> None:
    key, user_hash = keys.v2_derive(vector["password"], decode(vector["salt"]))
    assert key.hex() == vector["password_key_hex"]
    assert encode(user_hash) == vector["uh"]
    assert (key + user_hash).hex() == vector["derived_hex"]


def test_registration() -> None:
    [vector] = [vector for vector in vectors("login_v2") if "kind" in vector]
    salt = keys.v2_salt(decode(vector["crv"]))
    assert encode(salt) == vector["salt"]
    key, user_hash = keys.v2_derive(vector["password"], salt)
    assert encode(keys.ecb_encrypt(key, unhex(vector["master_key_hex"]))) == vector["k"]
    assert keys.ecb_decrypt(key, decode(vector["k"])).hex() == vector["master_key_hex"]
    assert encode(keys.v2_stored_hash(user_hash)) == vector["hak"]


def test_a_password_that_is_no_text_is_refused_without_showing_it() -> None:
    for derive in (keys.v1_password_key, lambda password: keys.v2_derive(password, bytes(32))):
        with pytest.raises(UsageError) as caught:
            derive("geheim\ud800")
        assert "geheim" not in str(caught.value)
        assert caught.value.__suppress_context__


# --- nodes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", of_kind("file"), ids=lambda vector: vector["nonce_hex"])
def test_node_key_of_a_file(vector: dict[str, Any]) -> None:
    packed, master = unhex(vector["node_key_hex"]), unhex(vector["master_key_hex"])
    key = FileKey(unhex(vector["file_aes_key_hex"]), unhex(vector["nonce_hex"]), unhex(vector["meta_mac_hex"]))
    assert key.pack() == packed
    assert FileKey.unpack(packed) == key
    assert keys.attribute_key(packed) == key.key
    assert encode(keys.ecb_encrypt(master, packed)) == vector["k_encrypted"]
    assert keys.ecb_decrypt(master, decode(vector["k_encrypted"])) == packed


def test_node_key_of_a_folder() -> None:
    [vector] = of_kind("folder")
    key, master = unhex(vector["folder_key_hex"]), unhex(vector["master_key_hex"])
    assert encode(keys.ecb_encrypt(master, key)) == vector["k_encrypted"]
    assert keys.ecb_decrypt(master, decode(vector["k_encrypted"])) == key
    assert keys.attribute_key(key) == key


def test_share_key() -> None:
    [vector] = of_kind("share")
    master = unhex(of_kind("folder")[0]["master_key_hex"])
    share, node = unhex(vector["share_key_hex"]), unhex(vector["node_key_hex"])
    assert encode(keys.ecb_encrypt(master, share)) == vector["ok_k"]
    assert keys.ecb_decrypt(master, decode(vector["ok_k"])) == share
    assert encode(keys.share_auth(master, vector["share_handle"])) == vector["ha"]
    assert encode(keys.ecb_encrypt(share, node)) == vector["node_key_under_share_key"]
    assert keys.ecb_decrypt(share, decode(vector["node_key_under_share_key"])) == node
    assert encode(share) == vector["link_folder_key"]


def test_node_key_from_another_user() -> None:
    [vector] = of_kind("RSA")
    packed = unhex(vector["node_key_hex"])
    assert private_key(vectors("session")[0]).decrypt(decode(vector["k_encrypted"]))[:32] == packed


@pytest.mark.parametrize("handle", ["", "AbCdEfG", "AbCdEfGhI", "AbCdEfGü"])
def test_handle_of_a_share_has_eight_characters(handle: str) -> None:
    with pytest.raises(UsageError):
        keys.share_auth(bytes(16), handle)


@given(KEY16, st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_file_keys_come_back_and_stay_out_of_reprs(key: bytes, nonce: bytes, mac: bytes) -> None:
    file_key = FileKey(key, nonce, mac)
    assert FileKey.unpack(file_key.pack()) == file_key
    assert repr(file_key) == "FileKey()"


@given(KEY16, st.lists(KEY16, max_size=10))
def test_many_keys_in_one_call(master: bytes, many: list[bytes]) -> None:
    wrapped = keys.ecb_encrypt(master, b"".join(many))
    assert wrapped == b"".join(keys.ecb_encrypt(master, key) for key in many)
    assert keys.ecb_decrypt(master, wrapped) == b"".join(many)


@pytest.mark.parametrize(("key", "data"), [(bytes(16), bytes(15)), (bytes(15), bytes(16)), (bytes(32), bytes(16))])
def test_lengths_are_checked(key: bytes, data: bytes) -> None:
    for function in (keys.ecb_encrypt, keys.ecb_decrypt):
        with pytest.raises(ValueError, match=r"."):
            function(key, data)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_file_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        FileKey.unpack(bytes(length))


# --- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("session")[:2], ids=["usual", "leading zero"])
def test_session_id(vector: dict[str, Any]) -> None:
    master = keys.ecb_decrypt(unhex(vector["password_key_hex"]), decode(vector["k"]))
    assert master.hex() == vector["master_key_hex"]
    plain = keys.ecb_decrypt(master, decode(vector["privk"]))
    length = vector["privk_unpadded_length"]
    assert plain[:length] == unhex(vector["privk_plain_hex"])[:length]
    private = PrivateKey.parse(plain)
    assert [private.p, private.q, private.d, private.u] == [int(vector[name]) for name in ("p", "q", "d", "u")]
    csid = decode(vector["csid"])
    assert private.decrypt(csid).hex() == vector["rsa_plaintext_hex"]
    sid = keys.session_id(csid, private)
    assert encode(sid) == vector["sid"]
    assert sid[16:27].decode("ascii") == vector["own_user_handle"]
    # Clients that drop a leading zero byte get a session that is shifted by one.
    wrong = [found for found in vector["checks"].values() if found != "ok"]
    assert all(encode(sid) not in found for found in wrong)
    assert len(wrong) == (3 if sid[0] == 0 else 0)


def test_encrypting_for_the_account_and_back() -> None:
    private = private_key(vectors("session")[0])
    public = load("session")["rsa_public"]
    modulus, exponent = int(public["n"]), int(public["e"])
    assert private.p * private.q == modulus
    for plain in (1, 255, 1 << 2000, modulus - 1):
        decrypted = private.decrypt(write_mpi(pow(plain, exponent, modulus)))
        assert int.from_bytes(decrypted, "big") == plain
        assert len(decrypted) >= 254


def test_temporary_session() -> None:
    vector = vectors("session")[2]
    master = keys.ecb_decrypt(unhex(vector["password_key_hex"]), decode(vector["k"]))
    assert master.hex() == vector["master_key_hex"]
    tsid = decode(vector["tsid"])
    assert encode(tsid) == vector["sid"]
    assert keys.temporary_session_valid(tsid, master)
    assert not keys.temporary_session_valid(tsid, bytes(16))
    assert not keys.temporary_session_valid(tsid[:-1], master)
    assert not keys.temporary_session_valid(b"", master)


def test_a_private_key_shows_nothing() -> None:
    assert repr(private_key(vectors("session")[0])) == "PrivateKey()"


def test_a_wrong_master_key_is_noticed() -> None:
    vector = vectors("session")[0]
    for master in (bytes(16), b"\xff" * 16, bytes(range(16))):
        with pytest.raises(IntegrityError):
            PrivateKey.parse(keys.ecb_decrypt(master, decode(vector["privk"])))


@given(st.binary(max_size=600))
def test_garbage_is_no_private_key(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        PrivateKey.parse(data)


@pytest.mark.parametrize("numbers", [
    (0, 0, 0, 0), (1, 7, 1, 1), (7, 1, 1, 1), (3, 7, 5, 4), ((1 << 5000) + 1, 2, 1, 1),
])
def test_numbers_that_are_no_key(numbers: tuple[int, ...]) -> None:
    with pytest.raises(IntegrityError):
        PrivateKey.parse(b"".join(write_mpi(number) for number in numbers))


@pytest.mark.parametrize("number", [0, 3 * 7, 1 << 3000])
def test_what_is_not_encrypted_for_the_key(number: int) -> None:
    with pytest.raises(SerpentError):
        PrivateKey(3, 7, 5, 5).decrypt(write_mpi(number))
