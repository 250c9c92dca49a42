"""Slow hashes of door passwords, as they stand in ``config.toml`` and in htpasswd files.

Our own are scrypt in the PHC form; read are also those that Apache's ``htpasswd`` writes: bcrypt (-B), SHA-512 (-5),
SHA-256 (-2), its MD5 (-m) and SHA-1 (-s), the last two because such files exist.
"""

from __future__ import annotations

import re

_PATTERN = re.compile(
    r"\$scrypt\$ln=\d{1,2},r=\d{1,2},p=\d{1,2}\$[A-Za-z0-9+/]{2,}\$[A-Za-z0-9+/]{43}"
    r"|\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}"
    r"|\$[56]\$(?:rounds=\d+\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{43,86}"
    r"|\$apr1\$[./A-Za-z0-9]{0,8}\$[./A-Za-z0-9]{22}"
    r"|\{SHA\}[A-Za-z0-9+/]{27}="
)
_SCHEMES = ("scrypt", "bcrypt", "sha512_crypt", "sha256_crypt", "apr_md5_crypt", "ldap_sha1")
_SCRYPT_ROUNDS = 15
"""The binary logarithm of the cost: 32 MiB of memory for a guess."""


def is_password_hash(text: str) -> bool:
    """Whether it has the form of a hash that ``matches`` knows."""
    return _PATTERN.fullmatch(text) is not None


def hash_password(password: str) -> str:
    """A scrypt hash of a password, with a salt of its own."""
    from passlib.hash import scrypt  # only here and below: it takes a while to load, and most commands do without

    return str(scrypt.using(rounds=_SCRYPT_ROUNDS).hash(password))


def matches(password: str, password_hash: str) -> bool:
    """Whether the hash is that of the password. Slow on purpose: not for a thread that others wait for."""
    from passlib.context import CryptContext

    try:
        return bool(CryptContext(schemes=_SCHEMES).verify(password.encode("utf-8", "surrogatepass"), password_hash))
    except ValueError:
        return False    # of a length or with characters that this hash cannot have come from
