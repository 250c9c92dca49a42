"""``vault.cryptomator``: a JSON Web Token (RFC 7519, HMAC only) that names the vault's format and ciphers.

Pure functions over bytes. A token is first parsed unverified, to learn which masterkey file it wants, and trusted
only after ``verify``. Tolerates what other writers produce: padding, the standard base64 alphabet, unknown claims.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import uuid
from dataclasses import dataclass
from typing import Any

from serpentfs.errors import BadVault

FORMAT = 8
SHORTENING_THRESHOLD = 220
SIV_GCM = "SIV_GCM"
SIV_CTRMAC = "SIV_CTRMAC"
CIPHER_COMBOS = (SIV_GCM, SIV_CTRMAC)
MASTERKEY_FILE = "masterkey.cryptomator"
_KEY_SCHEME = "masterkeyfile:"
_DIGESTS = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """What a vault says of itself. ``jti`` is its random id."""

    jti: str
    cipher_combo: str = SIV_GCM
    shortening_threshold: int = SHORTENING_THRESHOLD

    @classmethod
    def generate(cls, cipher_combo: str) -> VaultConfig:
        return cls(str(uuid.uuid4()), cipher_combo)


def _decode(part: bytes) -> bytes:
    text = part.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _encode(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


@dataclass(frozen=True, slots=True)
class UnverifiedConfig:
    """A parsed token that nobody has vouched for yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @property
    def masterkey_file(self) -> str:
        """The file in the vault's root that holds the masterkey. BadVault for anything else (Cryptomator Hub)."""
        kid = self.header.get("kid")
        if not isinstance(kid, str):
            raise BadVault("vault.cryptomator does not say where its key is")
        if kid.startswith(("hub+http://", "hub+https://")):
            raise BadVault("this is a Cryptomator Hub vault: its key comes from a server, which is not supported")
        name = kid.removeprefix(_KEY_SCHEME)
        if name == kid or not name or "/" in name or "\\" in name or ".." in name or "\0" in name:
            raise BadVault("vault.cryptomator names a key of an unknown kind")
        return name

    def verify(self, key: bytes) -> VaultConfig:
        """The configuration, once the raw 64-byte masterkey has proved it genuine; BadVault otherwise."""
        algorithm = self.header.get("alg")
        digest = _DIGESTS.get(algorithm) if isinstance(algorithm, str) else None
        if digest is None:
            raise BadVault("vault.cryptomator is not signed with a known algorithm")
        if not hmac.compare_digest(hmac.digest(key, self.signed, digest), self.signature):
            raise BadVault("vault.cryptomator and the masterkey file do not belong together: bad signature")
        version = self.claims.get("format")
        if version != FORMAT or isinstance(version, bool):
            raise BadVault(f"vault format {version!r} is not supported, only {FORMAT}")
        combo = self.claims.get("cipherCombo")
        if combo not in CIPHER_COMBOS:
            raise BadVault(f"cipher combo {combo!r} is not supported")
        threshold = self.claims.get("shorteningThreshold")
        if isinstance(threshold, bool) or not isinstance(threshold, int) or threshold < 28:
            raise BadVault("vault.cryptomator holds no usable shorteningThreshold")
        jti = self.claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise BadVault("vault.cryptomator holds no vault id")
        return VaultConfig(jti, combo, threshold)


def parse(token: bytes) -> UnverifiedConfig:
    """Take a token apart without believing it. BadVault when it is not one."""
    token = token.strip()
    parts = token.split(b".")
    try:
        head, body, signature = parts
        header, claims = json.loads(_decode(head)), json.loads(_decode(body))
        parsed = UnverifiedConfig(header, claims, head + b"." + body, _decode(signature))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise BadVault("vault.cryptomator is damaged: it cannot be parsed") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise BadVault("vault.cryptomator is damaged: it cannot be parsed")
    return parsed


def encode(config: VaultConfig, key: bytes, *, algorithm: str = "HS256") -> bytes:
    """A signed token. The claim order is that of the official application."""
    header = {"kid": _KEY_SCHEME + MASTERKEY_FILE, "typ": "JWT", "alg": algorithm}
    claims = {
        "format": FORMAT,
        "shorteningThreshold": config.shortening_threshold,
        "jti": config.jti,
        "cipherCombo": config.cipher_combo,
    }
    signed = b".".join(
        _encode(json.dumps(part, separators=(",", ":")).encode("utf-8")) for part in (header, claims)
    )
    return signed + b"." + _encode(hmac.digest(key, signed, _DIGESTS[algorithm]))
