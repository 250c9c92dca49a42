"""Keys of an account and of its nodes: how they are derived from a password, packed and wrapped.

Pure functions on bytes; nothing here keeps a key. The forms are those of MEGA's own client (meganz/sdk), given as
formulas in each docstring; AES is AES-128 throughout.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from serpentfs.clouds.mega.encoding import read_mpi
from serpentfs.errors import IntegrityError, UsageError

FILE_KEY_BYTES = 32
PBKDF2_ROUNDS = 100_000

_ECB = modes.ECB()
_V1_START = bytes.fromhex("93c467e37db0c7a4d1be3f810152cb56")
_V1_KEY_ROUNDS = 65536
_V1_HASH_ROUNDS = 16384
_SID_BYTES = 43
# A prime of this many bits is twice what the service uses; a longer one would only burn time.
_LONGEST_PRIME_BITS = 4096


def ecb_encrypt(key: bytes, data: bytes) -> bytes:
    """Each 16-byte block of ``data`` encrypted on its own. ValueError: a key not of 16 bytes, a broken block.

    Give many wrapped keys joined in one call: setting up the cipher costs more than ten of its blocks."""
    return _whole_blocks(Cipher(_aes(key), _ECB).encryptor(), data)


def ecb_decrypt(key: bytes, data: bytes) -> bytes:
    """Reverse of ``ecb_encrypt``, with the same errors and the same advice."""
    return _whole_blocks(Cipher(_aes(key), _ECB).decryptor(), data)


def _aes(key: bytes) -> algorithms.AES128:
    return algorithms.AES128(key)   # refuses any other length


def _whole_blocks(context: CipherContext, data: bytes) -> bytes:
    if len(data) & 15:
        raise ValueError("not a whole number of 16-byte blocks")
    return context.update(data)


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


# --- nodes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileKey:
    """What a file's 32-byte node key holds: the AES key of content and attributes, the 8-byte nonce of the content
    and the 8-byte MAC over it. Packed form: ``(key XOR (nonce || mac)) || nonce || mac``."""

    key: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    meta_mac: bytes = field(repr=False)

    def pack(self) -> bytes:
        tail = self.nonce + self.meta_mac
        return _xor(self.key, tail) + tail

    @classmethod
    def unpack(cls, node_key: bytes) -> FileKey:
        """ValueError: not 32 bytes."""
        if len(node_key) != FILE_KEY_BYTES:
            raise ValueError("a file's node key has 32 bytes")
        return cls(_xor(node_key[:16], node_key[16:]), node_key[16:24], node_key[24:])


def attribute_key(node_key: bytes) -> bytes:
    """The 16 bytes that a node's attributes are encrypted with, from its node key of 16 (folder) or 32 (file) bytes."""
    if len(node_key) == FILE_KEY_BYTES:
        return _xor(node_key[:16], node_key[16:])
    return node_key


def share_auth(master: bytes, handle: str) -> bytes:
    """``ha``, by which an account knows that a share key is of its own making: the ASCII of the share's handle, twice,
    encrypted with the master key. UsageError: a handle that is not 8 ASCII characters."""
    if len(handle) != 8 or not handle.isascii():
        raise UsageError("the handle of a share has 8 characters")
    return ecb_encrypt(master, handle.encode("ascii") * 2)


# --- passwords --------------------------------------------------------------------------------------------------------


def v1_password_key(password: str) -> bytes:
    """The key that wraps the master key of an old account. CPU-heavy: call in a thread.

    65536 times: encrypt the value with each 16-byte group of the password in turn. UsageError: not valid text."""
    packed = _v1_pack(password)
    groups = [packed[at:at + 16].ljust(16, b"\0") for at in range(0, len(packed), 16)]
    if len(groups) == 1:
        return _encrypt_repeatedly(groups[0], _V1_START, _V1_KEY_ROUNDS)
    ciphers = [Cipher(_aes(group), _ECB).encryptor() for group in groups]
    value = _V1_START
    for _ in range(_V1_KEY_ROUNDS):
        for cipher in ciphers:
            value = cipher.update(value)
    return value


def v1_user_hash(email: str, key: bytes) -> bytes:
    """``uh`` of an old account, 8 bytes: the lower-case address folded into 16 bytes, encrypted 16384 times with the
    password key, of which the first four bytes and the four from offset 8 are kept. UsageError: not valid text."""
    address = _utf8(email.lower(), "address")
    folded = functools.reduce(
        _xor, (address[at:at + 16].ljust(16, b"\0") for at in range(0, len(address), 16)), bytes(16))
    value = _encrypt_repeatedly(key, folded, _V1_HASH_ROUNDS)
    return value[:4] + value[8:12]


def v2_derive(password: str, salt: bytes) -> tuple[bytes, bytes]:
    """(password key, user hash) of an account, 16 bytes each: PBKDF2-HMAC-SHA512, 100000 rounds, cut in two.
    CPU-heavy: call in a thread. UsageError: not valid text."""
    derived = hashlib.pbkdf2_hmac("sha512", _utf8(password, "password"), salt, PBKDF2_ROUNDS, 32)
    return derived[:16], derived[16:]


def v2_salt(crv: bytes) -> bytes:
    """The salt of an account whose client drew the 16 random bytes ``crv`` at registration, 32 bytes."""
    return hashlib.sha256(b"mega.nz".ljust(200, b"P") + crv).digest()


def v2_stored_hash(user_hash: bytes) -> bytes:
    """``hak``: what the service keeps of the 16-byte user hash, 16 bytes."""
    return hashlib.sha256(user_hash).digest()[:16]


def _encrypt_repeatedly(key: bytes, value: bytes, rounds: int) -> bytes:
    # CBC over zeros from the vector ``value`` is just that chain, in one call instead of tens of thousands.
    return Cipher(_aes(key), modes.CBC(value)).encryptor().update(bytes(16 * rounds))[-16:]


def _v1_pack(password: str) -> bytes:
    """The password as the first web client packed it: UTF-16 units OR-ed into big-endian 32-bit words at byte steps, so
    that a unit above 0xFF spills into the byte before it (or is cut off at the front of a word)."""
    try:
        units = password.encode("utf-16-be")
    except UnicodeEncodeError:
        raise UsageError("the password is not valid text") from None
    packed = bytearray()
    for high, low in zip(units[0::2], units[1::2], strict=True):
        if len(packed) & 3:
            packed[-1] |= high
        packed.append(low)
    return bytes(packed)


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"the {what} is not valid text") from None


# --- RSA and sessions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An account's RSA key: primes p and q, exponent d, and u, the inverse of p modulo q."""

    p: int = field(repr=False)
    q: int = field(repr=False)
    d: int = field(repr=False)
    u: int = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> PrivateKey:
        """From the decrypted ``privk``: the MPIs p, q, d, u, then padding. IntegrityError: not such a key, most
        likely because it was decrypted with a wrong master key."""
        numbers, at = [], 0
        for _ in range(4):
            number, at = read_mpi(data, at)
            numbers.append(number)
        p, q, d, u = numbers
        if not (p > 1 and q > 1 and max(p, q).bit_length() <= _LONGEST_PRIME_BITS and p * u % q == 1):
            raise IntegrityError("the account's RSA key does not hold together")
        return cls(p, q, d, u)

    def decrypt(self, mpi: bytes) -> bytes:
        """The plaintext of a ciphertext that is written as an MPI, padded on the left with zeros to two bytes less
        than the primes take together: no padding scheme, as the service has it. IntegrityError: not a ciphertext."""
        cipher, _ = read_mpi(mpi)
        if not 0 < cipher < self.p * self.q:
            raise IntegrityError("what the server encrypted for this account is not for its key")
        # By the Chinese remainders: two powers of half the length cost a quarter.
        at_p = pow(cipher % self.p, self.d % (self.p - 1), self.p)
        at_q = pow(cipher % self.q, self.d % (self.q - 1), self.q)
        plain = at_p + self.p * ((at_q - at_p) * self.u % self.q)
        usual = _bytes_of(self.p) + _bytes_of(self.q) - 2
        return plain.to_bytes(max(usual, _bytes_of(plain)), "big")


def _bytes_of(number: int) -> int:
    return (number.bit_length() + 7) // 8


def session_id(csid: bytes, private: PrivateKey) -> bytes:
    """The 43 bytes of a session from the ``csid`` of a log-in. IntegrityError: not encrypted for this key."""
    return private.decrypt(csid)[:_SID_BYTES]


def temporary_session_valid(tsid: bytes, master: bytes) -> bool:
    """Whether the 43-byte ``tsid`` of an account without RSA key belongs to this master key: its last 16 bytes are its
    first 16, encrypted."""
    return len(tsid) == _SID_BYTES and hmac.compare_digest(ecb_encrypt(master, tsid[:16]), tsid[-16:])
