"""The masterkey file: two 32-byte keys wrapped under a passphrase (scrypt, RFC 3394 key wrap).

Pure functions over bytes; knows nothing of stores, configs or trees. ``unlock`` and ``lock`` run scrypt and so
take about a tenth of a second and 32 MiB: callers run them off the loop.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import struct
import unicodedata
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from serpentfs.errors import BadVault, WrongPassphrase

log = logging.getLogger(__name__)

FILE_VERSION = 999
"""What format 8 writes into the legacy field ``version``."""
KEY_SIZE = 32
COST = 32768
BLOCK_SIZE = 8
SALT_SIZE = 8
MAX_SCRYPT_MEMORY = 1 << 30
"""A masterkey file that asks for more memory than this is refused: it could stop the machine."""


@dataclass(frozen=True, slots=True)
class Masterkey:
    """A vault's two keys. Never shown in a repr."""

    encryption: bytes = field(repr=False)
    mac: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Masterkey:
        return cls(os.urandom(KEY_SIZE), os.urandom(KEY_SIZE))

    @property
    def raw(self) -> bytes:
        """``encryption || mac``, 64 bytes: the key that signs the vault's configuration."""
        return self.encryption + self.mac

    def siv(self) -> AESSIV:
        """The cipher of names and directory ids. Its S2V half is the mac key."""
        return AESSIV(self.mac + self.encryption)


@dataclass(frozen=True, slots=True)
class _Fields:
    version: int
    salt: bytes
    cost: int
    block_size: int
    wrapped_encryption: bytes
    wrapped_mac: bytes
    version_mac: bytes


def _parse(file: bytes) -> _Fields:
    try:
        values = json.loads(file.decode("utf-8"))
        fields = _Fields(
            version=int(values["version"]),
            salt=base64.b64decode(values["scryptSalt"], validate=True),
            cost=int(values["scryptCostParam"]),
            block_size=int(values["scryptBlockSize"]),
            wrapped_encryption=base64.b64decode(values["primaryMasterKey"], validate=True),
            wrapped_mac=base64.b64decode(values["hmacMasterKey"], validate=True),
            version_mac=base64.b64decode(values.get("versionMac") or "", validate=True),
        )
    except (UnicodeDecodeError, binascii.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadVault("the masterkey file is damaged: it cannot be parsed") from error
    power_of_two = fields.cost > 1 and fields.cost & (fields.cost - 1) == 0
    if fields.version == 0 or not power_of_two or fields.block_size < 1:
        raise BadVault("the masterkey file is damaged: its parameters make no sense")
    if 128 * fields.cost * fields.block_size > MAX_SCRYPT_MEMORY:
        raise BadVault("the masterkey file asks for more than 1 GiB of memory to be unlocked")
    if len(fields.wrapped_encryption) != KEY_SIZE + 8 or len(fields.wrapped_mac) != KEY_SIZE + 8:
        raise BadVault("the masterkey file is damaged: its keys have the wrong length")
    return fields


def derive_kek(passphrase: str, salt: bytes, cost: int, block_size: int) -> bytes:
    """The key that wraps the masterkey: scrypt over the NFC form of the passphrase. Blocks."""
    try:
        secret = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    except UnicodeEncodeError as error:
        raise WrongPassphrase("the passphrase is not valid text") from error
    return Scrypt(salt=salt, length=KEY_SIZE, n=cost, r=block_size, p=1).derive(secret)


def _version_mac(mac_key: bytes, version: int) -> bytes:
    return hmac.digest(mac_key, struct.pack(">I", version & 0xFFFFFFFF), hashlib.sha256)


def unlock(file: bytes, passphrase: str) -> Masterkey:
    """The keys in a masterkey file. WrongPassphrase, or BadVault when the file is damaged. Blocks."""
    fields = _parse(file)
    kek = derive_kek(passphrase, fields.salt, fields.cost, fields.block_size)
    try:
        key = Masterkey(
            aes_key_unwrap(kek, fields.wrapped_encryption), aes_key_unwrap(kek, fields.wrapped_mac)
        )
    except InvalidUnwrap as error:
        raise WrongPassphrase("wrong passphrase") from error
    if not hmac.compare_digest(_version_mac(key.mac, fields.version), fields.version_mac):
        # Only the iOS app refuses such a vault; other writers are known to get this field wrong.
        log.warning("the masterkey file's versionMac is wrong; the iOS app will not open this vault")
    return key


def lock(
    key: Masterkey, passphrase: str, *, cost: int = COST, block_size: int = BLOCK_SIZE, salt: bytes | None = None
) -> bytes:
    """A masterkey file that ``passphrase`` opens. Blocks."""
    salt = os.urandom(SALT_SIZE) if salt is None else salt
    kek = derive_kek(passphrase, salt, cost, block_size)

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode("ascii")

    fields = {
        "version": FILE_VERSION,
        "scryptSalt": text(salt),
        "scryptCostParam": cost,
        "scryptBlockSize": block_size,
        "primaryMasterKey": text(aes_key_wrap(kek, key.encryption)),
        "hmacMasterKey": text(aes_key_wrap(kek, key.mac)),
        "versionMac": text(_version_mac(key.mac, FILE_VERSION)),
    }
    return json.dumps(fields, indent=2).encode("ascii")
