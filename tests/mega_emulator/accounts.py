"""Accounts as a client registers them: keys from a password, an RSA key, and what of it the service is given."""

from __future__ import annotations

import functools
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from serpentfs.clouds.mega.encoding import encode, write_mpi
from serpentfs.clouds.mega.keys import (
    ecb_encrypt,
    v1_password_key,
    v1_user_hash,
    v2_derive,
    v2_salt,
    v2_stored_hash,
)

_RSA_BITS = 2048
_EXPONENT = 65537


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """What only the owner of an account knows."""

    email: str
    handle: str
    master: bytes = field(repr=False)


@functools.cache
def _v2_secrets(email: str, password: str) -> tuple[bytes, bytes, bytes]:
    """(salt, password key, user hash), once in a process: they cost 0.1 s, and most tests register the same account."""
    salt = v2_salt(secrets.token_bytes(16))
    return salt, *v2_derive(password, salt)


@functools.cache
def _rsa_key(email: str) -> rsa.RSAPrivateNumbers:
    return rsa.generate_private_key(_EXPONENT, _RSA_BITS).private_numbers()


def register(email: str, password: str, *, version: int, mfa: str | None, quota: int) -> tuple[OwnKeys, dict[str, Any]]:
    """The owner's keys, and the account as the service stores it (fields of ``state.Account``, bytes in base64)."""
    master = secrets.token_bytes(16)
    handle = encode(secrets.token_bytes(8))
    salt = ""
    if version == 2:
        raw_salt, password_key, user_hash = _v2_secrets(email, password)
        salt, proof = encode(raw_salt), v2_stored_hash(user_hash)
    else:
        password_key = v1_password_key(password)
        proof = v1_user_hash(email.lower(), password_key)
    private = _rsa_key(email)
    p, q = private.p, private.q
    packed = b"".join(write_mpi(number) for number in (p, q, private.d, pow(p, -1, q)))
    stored = {
        "handle": handle,
        "email": email.lower(),
        "version": version,
        "salt": salt,
        "proof": encode(proof),
        "wrapped_key": encode(ecb_encrypt(password_key, master)),
        "private_key": encode(ecb_encrypt(master, packed + bytes(-len(packed) % 16))),
        "public_key": encode(write_mpi(p * q) + write_mpi(_EXPONENT)),
        "modulus": p * q,
        "exponent": _EXPONENT,
        "mfa": mfa,
        "quota": quota,
        "name": email.partition("@")[0],
    }
    return OwnKeys(email.lower(), handle, master), stored
