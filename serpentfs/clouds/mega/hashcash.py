"""The proof of work that the service may ask for with HTTP status 402.

Computes answers and checks them; when to ask or answer is the business of the command channel. Format: meganz/sdk,
``src/hashcash.cpp``.
"""

from __future__ import annotations

import hashlib

from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.errors import Unavailable

_TOKEN_BYTES = 48
_COPIES = 262144
_NONCE_BYTES = 4
_NONCES = 1 << (8 * _NONCE_BYTES)
MOST_TRIES = 1 << 14
"""A challenge that takes more tries than this on average is refused: each hashes 12 MB, so this is minutes already."""


def solve(header: str) -> str:
    """The answer to the challenge ``header`` (both are values of ``X-Hashcash``): a nonce whose hash is low enough.

    CPU-heavy, seconds: call in a thread. Unavailable: not a challenge, or one that asks for too much work."""
    threshold, token = _parse(header)
    if threshold * MOST_TRIES < _NONCES:
        raise Unavailable("the server asks for more proof of work than is reasonable")
    work = _work(token)
    for number in range(_NONCES):
        nonce = number.to_bytes(_NONCE_BYTES, "little")
        if _first_word(work, nonce) <= threshold:
            return f"1:{token}:{encode(nonce)}"
    raise Unavailable("the server's proof of work has no answer")


def verify(challenge: str, answer: str) -> bool:
    """Whether ``answer`` solves ``challenge``. Unavailable: ``challenge`` is not a challenge."""
    threshold, token = _parse(challenge)
    version, _, rest = answer.partition(":")
    answered, _, nonce_text = rest.partition(":")
    nonce = decode(nonce_text)
    if version != "1" or answered != token or len(nonce) != _NONCE_BYTES:
        return False
    return _first_word(_work(token), nonce) <= threshold


def _parse(header: str) -> tuple[int, str]:
    """(threshold, token) of ``1:<easiness>:<timestamp>:<token>``."""
    fields = header.strip().split(":")
    if len(fields) != 4 or fields[0] != "1" or len(decode(fields[3])) != _TOKEN_BYTES:
        raise Unavailable("the server asks for a proof of work of an unknown form")
    easiness = int(fields[1]) if fields[1].isdecimal() and len(fields[1]) <= 3 else 256
    if easiness > 255:
        raise Unavailable("the server asks for a proof of work of an unknown form")
    return (((easiness & 63) << 1) + 1) << ((easiness >> 6) * 7 + 3), fields[3]


def _work(token: str) -> bytearray:
    """What is hashed, with room for the nonce in front."""
    return bytearray(_NONCE_BYTES) + decode(token) * _COPIES


def _first_word(work: bytearray, nonce: bytes) -> int:
    work[:_NONCE_BYTES] = nonce
    return int.from_bytes(hashlib.sha256(work).digest()[:4], "big")
