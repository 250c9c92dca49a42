"""Every published vector: made with the official library, both directions where that makes sense."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from serpentfs.clouds.vault import config as vault_config
from serpentfs.clouds.vault.config import VaultConfig
from serpentfs.clouds.vault.content import (
    CHUNK,
    ciphertext_size,
    cleartext_size,
    decrypt_small,
    listed_size,
    scheme_for,
)
from serpentfs.clouds.vault.masterkey import Masterkey, derive_kek, lock, unlock
from serpentfs.clouds.vault.names import NameCipher, self_test, shorten
from serpentfs.errors import BadVault, IntegrityError, WrongPassphrase

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "data" / "cryptomator" / "vectors.json").read_text(encoding="utf-8")
)
COMBOS = ["SIV_GCM", "SIV_CTRMAC"]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


KEY = Masterkey(unhex(VECTORS["masterkey"]["enc_key"]), unhex(VECTORS["masterkey"]["mac_key"]))
NAMES = NameCipher(KEY, 220)


def test_masterkey_is_encryption_then_mac() -> None:
    assert KEY.raw == unhex(VECTORS["masterkey"]["raw_hex"])
    assert KEY.raw.hex() not in repr(KEY)


@pytest.mark.parametrize("case", VECTORS["kdf_and_keywrap"]["cases"], ids=lambda case: case["passphrase"])
def test_kdf_and_keywrap(case: dict[str, Any]) -> None:
    salt = unhex(case["salt"])
    assert derive_kek(case["passphrase"], salt, case["N"], case["r"]) == unhex(case["kek"])
    file = json.loads(lock(KEY, case["passphrase"], cost=case["N"], block_size=case["r"], salt=salt))
    assert base64.b64decode(file["primaryMasterKey"]) == unhex(case["wrappedEncKey"])
    assert base64.b64decode(file["hmacMasterKey"]) == unhex(case["wrappedMacKey"])


def test_masterkey_file() -> None:
    vector = VECTORS["masterkey_file"]
    text = vector["file_text"].encode()
    assert unlock(text, vector["passphrase"]) == KEY
    with pytest.raises(WrongPassphrase):
        unlock(text, vector["passphrase"] + "x")
    fields = json.loads(text)
    again = lock(
        KEY,
        vector["passphrase"],
        cost=fields["scryptCostParam"],
        block_size=fields["scryptBlockSize"],
        salt=base64.b64decode(fields["scryptSalt"]),
    )
    assert again == text


@pytest.mark.parametrize("name", sorted(VECTORS["masterkey_file"]["official_test_vectors"]))
def test_official_masterkey_files(name: str) -> None:
    vector = VECTORS["masterkey_file"]["official_test_vectors"][name]
    key = unlock(json.dumps(vector["json"]).encode(), vector["passphrase"])
    assert (key.encryption, key.mac) == (unhex(vector["enc_key"]), unhex(vector["mac_key"]))


@pytest.mark.parametrize("token", VECTORS["jwt"]["valid_tokens"])
def test_valid_tokens(token: str) -> None:
    parsed = vault_config.parse(token.encode())
    config = parsed.verify(unhex(VECTORS["jwt"]["key"]))
    assert parsed.masterkey_file == "masterkey.cryptomator"
    if parsed.claims == {
        "format": 8, "shorteningThreshold": 220, "jti": config.jti, "cipherCombo": config.cipher_combo,
    }:
        again = vault_config.encode(config, unhex(VECTORS["jwt"]["key"]), algorithm=parsed.header["alg"])
        assert vault_config.parse(again).verify(unhex(VECTORS["jwt"]["key"])) == config
    with pytest.raises(BadVault):
        parsed.verify(bytes(64))


def test_a_token_is_written_as_the_application_writes_it() -> None:
    for token in VECTORS["jwt"]["valid_tokens"]:
        parsed = vault_config.parse(token.encode())
        if parsed.header["alg"] == "HS256" and list(parsed.claims) == [
            "format", "shorteningThreshold", "jti", "cipherCombo",
        ]:
            config = parsed.verify(unhex(VECTORS["jwt"]["key"]))
            assert vault_config.encode(config, unhex(VECTORS["jwt"]["key"])) == token.encode()
            return
    pytest.fail("no vector in the application's own form")


def test_official_tokens() -> None:
    vector = VECTORS["jwt"]["official_test_tokens"]
    key = unhex(vector["key"])
    for token in vector["valid"].values():
        config = vault_config.parse(token.encode()).verify(key)
        assert config.shortening_threshold == 220
        for sloppy in (token + "==", token + "\n", token.replace("-", "+").replace("_", "/")):
            if sloppy.count(".") == 2 and sloppy.split(".")[:2] == token.split(".")[:2]:
                assert vault_config.parse(sloppy.encode()).verify(key) == config
    with pytest.raises(BadVault):
        vault_config.parse(vector["must_be_rejected_alg_none"].encode()).verify(key)


def test_app_written_token() -> None:
    parsed = vault_config.parse(VECTORS["jwt"]["app_written_token"]["token"].encode())
    assert parsed.claims["cipherCombo"] == "SIV_CTRMAC"
    assert parsed.masterkey_file == "masterkey.cryptomator"


@pytest.mark.parametrize("case", VECTORS["dir_id_hash"]["cases"], ids=lambda case: case["dirId"] or "root")
def test_directory_id_hash(case: dict[str, Any]) -> None:
    assert NAMES.directory_path(case["dirId"]) == case["path"]
    assert KEY.siv().encrypt(case["dirId"].encode(), None).hex() == case["siv_hex"]


def test_official_directory_id_hashes() -> None:
    vector = VECTORS["dir_id_hash"]["official_test_vectors"]
    names = NameCipher(Masterkey(unhex(vector["enc_key"]), unhex(vector["mac_key"])), 220)
    for case in vector["cases"]:
        assert names.directory_path(case["dirId"]).replace("/", "")[1:] == case["hash"]


@pytest.mark.parametrize("case", VECTORS["names"]["cases"], ids=lambda case: ascii(case["cleartext"])[:40])
def test_names(case: dict[str, Any]) -> None:
    parent, clear = case["parentDirId"], case["cleartext"]
    long_name = NAMES.encrypt(clear, parent)
    assert long_name == case["ciphertextName"]
    assert len(long_name) == case["length"]
    assert NAMES.decrypt(long_name.removesuffix(".c9r"), parent) == clear
    assert NAMES.decrypt(long_name.removesuffix(".c9r"), parent + "x") is None
    if case["length"] > 220:
        assert NAMES.entry_name(clear, parent) == (shorten(long_name), long_name)
    else:
        assert NAMES.entry_name(clear, parent) == (long_name, None)
    if isinstance(case.get("shortened"), str):
        assert NAMES.entry_name(clear, parent)[0] == case["shortened"]


def test_aes_siv() -> None:
    vector = VECTORS["aes_siv"]["rfc5297"]
    siv = Masterkey(unhex(vector["enc_key"]), unhex(vector["mac_key"])).siv()
    assert siv.encrypt(unhex(vector["plaintext"]), [unhex(vector["ad"])]) == unhex(vector["output"])
    edge = VECTORS["aes_siv"]["edge_cases"]
    assert KEY.siv().encrypt(b"hello", None).hex() == edge["plaintext_hello_no_ad"]
    assert KEY.siv().encrypt(b"hello", [b""]).hex() == edge["plaintext_hello_one_empty_ad"]
    assert KEY.siv().encrypt(b"", None).hex() == edge["plaintext_empty_no_ad"]
    self_test()


@pytest.mark.parametrize("combo", COMBOS)
def test_headers(combo: str) -> None:
    vector = VECTORS["content"][combo]["header"]
    scheme = scheme_for(combo, KEY)
    sealed = scheme.seal_header(unhex(vector["nonce"]), unhex(vector["content_key"]))
    assert sealed == unhex(vector["bytes"])
    assert len(sealed) == scheme.header_size
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        with pytest.raises(IntegrityError):
            scheme.open_header(damaged)
    with pytest.raises(IntegrityError):
        scheme.open_header(sealed[:-1])


@pytest.mark.parametrize("combo", COMBOS)
def test_chunks(combo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = VECTORS["content"][combo]
    cipher = scheme_for(combo, KEY).open_header(unhex(vector["header"]["bytes"]))
    for case in vector["chunks"]:
        number = case["chunkNumber"]
        clear, sealed = unhex(case["cleartext"]), unhex(case["ciphertext_chunk"])
        assert cipher.decrypt_chunk(number, sealed) == clear
        nonce = unhex(case["nonce"])
        monkeypatch.setattr("serpentfs.clouds.vault.content.os.urandom", lambda size, nonce=nonce: nonce)
        assert cipher.encrypt_chunk(number, clear) == sealed
        for wrong in (sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], b""):
            with pytest.raises(IntegrityError):
                cipher.decrypt_chunk(number, wrong)
        with pytest.raises(IntegrityError):
            cipher.decrypt_chunk(number + 1, sealed)


@pytest.mark.parametrize("combo", COMBOS)
def test_directory_id_files(combo: str) -> None:
    scheme = scheme_for(combo, KEY)
    for directory_id, file in VECTORS["content"][combo]["dirid_c9r_as_written_by_cryptofs"].items():
        if directory_id == "note":
            continue
        clear = decrypt_small(scheme, unhex(file))
        assert clear == (b"" if directory_id == "root" else directory_id.encode())


@pytest.mark.parametrize("combo", COMBOS)
def test_sizes(combo: str) -> None:
    scheme = scheme_for(combo, KEY)
    for case in VECTORS["content"][combo]["sizes"]:
        assert ciphertext_size(scheme, case["cleartext"]) == case["fileSize"]
        assert cleartext_size(scheme, case["fileSize"]) == case["cleartext"]
        assert listed_size(scheme, case["fileSize"]) == case["cleartext"]
    for payload in VECTORS["content"][combo]["invalid_payload_sizes_without_header"]:
        size = cleartext_size(scheme, scheme.header_size + payload)
        if payload % (CHUNK + scheme.overhead) == scheme.overhead:
            assert size == payload // (CHUNK + scheme.overhead) * CHUNK  # an empty last chunk is tolerated
        else:
            assert size is None
            assert listed_size(scheme, scheme.header_size + payload) % CHUNK == 1
    assert cleartext_size(scheme, 0) == 0
    assert cleartext_size(scheme, scheme.header_size - 1) is None


@pytest.mark.parametrize("combo", COMBOS)
def test_official_content_vectors(combo: str) -> None:
    seen = 0
    for name, vector in VECTORS["content"]["official_test_vectors"][combo].items():
        if not isinstance(vector, dict):
            continue
        fields = {key.removesuffix("_b64"): _bytes(key, text) for key, text in vector.items() if isinstance(text, str)}
        key = Masterkey(fields.get("enc_key", bytes(32)), fields.get("mac_key", bytes(32)))
        scheme = scheme_for(combo, key)
        if "header" in fields:
            header = fields["header"][: scheme.header_size]
            scheme.open_header(header)
            assert scheme.seal_header(header[: scheme.nonce_size], fields["content_key"]) == header
        elif "chunk" in fields:
            header = scheme.seal_header(fields["header_nonce"], fields["content_key"])
            assert scheme.open_header(header).decrypt_chunk(0, fields["chunk"]) == b"hello world"
        elif "file" in fields:
            assert decrypt_small(scheme, fields["file"]) == b"hello world"
        else:
            pytest.fail(f"{name} was not understood")
        seen += 1
    assert seen >= 4


def _bytes(key: str, text: str) -> bytes:
    if key.endswith("_b64"):
        return base64.b64decode(text)
    try:
        return bytes.fromhex(text)
    except ValueError:
        return text.encode()


@pytest.mark.parametrize(
    ("claims", "header"),
    [
        ({"format": 7}, {}),
        ({"format": "8"}, {}),
        ({"cipherCombo": "SIV_XYZ"}, {}),
        ({"shorteningThreshold": None}, {}),
        ({"jti": None}, {}),
        ({}, {"kid": "hub+https://hub.example/vault"}),
        ({}, {"kid": "masterkeyfile:../masterkey.cryptomator"}),
        ({}, {"kid": "masterkeyfile:a/b"}),
        ({}, {"kid": "masterkeyfile:a\\b"}),
        ({}, {"kid": "else"}),
        ({}, {"kid": 5}),
        ({}, {"alg": "none"}),
        ({}, {"alg": "RS256"}),
        ({}, {"alg": None}),
    ],
)
def test_configurations_that_are_refused(claims: dict[str, Any], header: dict[str, Any]) -> None:
    good = vault_config.parse(vault_config.encode(VaultConfig("id"), KEY.raw))
    parts = ({**good.header, **header}, {**good.claims, **claims})
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(KEY.raw, signed, "sha256")).rstrip(b"=")
    with pytest.raises(BadVault):
        _open_config(signed + b"." + signature)


def _open_config(token: bytes) -> None:
    parsed = vault_config.parse(token)
    assert parsed.masterkey_file == "masterkey.cryptomator"
    parsed.verify(KEY.raw)


@pytest.mark.parametrize("token", [b"", b"a.b", b"a.b.c", b"....", b"\xff.\xff.\xff", b"W10.W10.W10"])
def test_what_is_no_token(token: bytes) -> None:
    with pytest.raises(BadVault):
        vault_config.parse(token)


@pytest.mark.parametrize(
    "change",
    [
        {"scryptCostParam": 3},
        {"scryptCostParam": 1},
        {"scryptBlockSize": 0},
        {"scryptCostParam": 1 << 24},
        {"version": 0},
        {"scryptSalt": "***"},
        {"primaryMasterKey": ""},
        {"hmacMasterKey": None},
    ],
)
def test_masterkey_files_that_are_refused(change: dict[str, Any]) -> None:
    fields = json.loads(lock(KEY, "x", cost=2))
    with pytest.raises(BadVault):
        unlock(json.dumps({**fields, **change}).encode(), "x")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"null"])
def test_what_is_no_masterkey_file(text: bytes) -> None:
    with pytest.raises(BadVault):
        unlock(text, "x")


def test_a_wrong_version_mac_is_only_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    fields = json.loads(lock(KEY, "x", cost=2))
    fields["versionMac"] = base64.b64encode(bytes(32)).decode()
    assert unlock(json.dumps(fields).encode(), "x") == KEY
    assert "versionMac" in caplog.text
