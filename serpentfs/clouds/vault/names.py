"""Names and directory ids: AES-SIV, base64url, shortening, and the paths they lead to.

Pure and fast (a few microseconds a name). A *ciphertext name* is what a content directory holds: ``<base64>.c9r``,
or ``<sha-1>.c9s`` when that would be longer than the vault's threshold.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from serpentfs.clouds.vault.masterkey import Masterkey
from serpentfs.errors import InvalidName, NameTooLong, Unsupported

REGULAR = ".c9r"
SHORTENED = ".c9s"
MIN_CIPHERTEXT_NAME = 28
"""base64 of the 16 bytes of a SIV, and the suffix: shorter names are not ours (``dirid.c9r``, ``.DS_Store``)."""
MAX_LONG_NAME_BYTES = 10240
"""Largest ``name.c9s`` that the official readers accept."""
MAX_NAME_BYTES = 255
"""Longest cleartext name that we create: what a Linux file system takes."""
MAX_NARROWINGS = 400
"""Attempts at finding the ciphertext inside a name that a sync client changed."""

_CIPHERTEXT = re.compile(
    r"[A-Za-z0-9_-]{20}(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{4}|[A-Za-z0-9_-]{3}=|[A-Za-z0-9_-]{2}==)"
)
_DELIMITERS = "-_"


def normalize(name: str) -> str:
    """The form in which names are stored and compared: NFC."""
    return unicodedata.normalize("NFC", name)


def check_name(name: str) -> None:
    """Raise InvalidName or NameTooLong when a vault should not carry this cleartext name."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidName("not a name for a file")
    try:
        encoded = normalize(name).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidName("the name is not valid UTF-8") from error
    if len(encoded) > MAX_NAME_BYTES:
        raise NameTooLong(f"the name is longer than {MAX_NAME_BYTES} bytes")


def shorten(ciphertext_name: str) -> str:
    """The ``.c9s`` directory name that stands for a long ``.c9r`` name."""
    digest = hashlib.sha1(ciphertext_name.encode("ascii"), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii") + SHORTENED


def is_ciphertext_name(name: str) -> bool:
    """Whether an entry of a content directory can be a node of the vault at all."""
    return len(name) >= MIN_CIPHERTEXT_NAME and name.endswith((REGULAR, SHORTENED))


class NameCipher:
    """Names and directory ids under one masterkey."""

    def __init__(self, key: Masterkey, shortening_threshold: int) -> None:
        self._siv: AESSIV = key.siv()
        self.threshold = shortening_threshold

    def directory_path(self, directory_id: str) -> str:
        """Where the content directory of a folder is: ``d/XX/YYYY…``."""
        sealed = self._siv.encrypt(directory_id.encode("utf-8"), None)
        digest = hashlib.sha1(sealed, usedforsecurity=False).digest()
        text = base64.b32encode(digest).decode("ascii")
        return f"d/{text[:2]}/{text[2:]}"

    def encrypt(self, name: str, parent_id: str) -> str:
        """The unshortened ciphertext name of exactly this spelling (callers normalise)."""
        sealed = self._siv.encrypt(name.encode("utf-8"), [parent_id.encode("utf-8")])
        return base64.urlsafe_b64encode(sealed).decode("ascii") + REGULAR

    def decrypt(self, ciphertext: str, parent_id: str) -> str | None:
        """The cleartext of a base64 text without suffix; None when it does not authenticate here."""
        try:
            standard = ciphertext.replace("-", "+").replace("_", "/")
            sealed = binascii.a2b_base64(standard, strict_mode=True)
            return self._siv.decrypt(sealed, [parent_id.encode("utf-8")]).decode("utf-8")
        except (binascii.Error, InvalidTag, ValueError):
            return None

    def entry_name(self, name: str, parent_id: str) -> tuple[str, str | None]:
        """The name of the entry that ``name`` gets, and the long name to keep in ``name.c9s`` if it is shortened."""
        long_name = self.encrypt(normalize(name), parent_id)
        if len(long_name) > self.threshold:
            return shorten(long_name), long_name
        return long_name, None

    def find_in(self, ciphertext_name: str, parent_id: str) -> tuple[str, str] | None:
        """Find the ciphertext inside a ``.c9r`` name that a sync client may have changed.

        Returns (cleartext, what follows the ciphertext up to ``.c9r``); None when nothing in it authenticates.
        """
        text = ciphertext_name.removesuffix(REGULAR)
        match = _CIPHERTEXT.search(text)
        if match is None:
            return None
        clear = self.decrypt(match.group(), parent_id)
        if clear is not None:
            return clear, text[match.end() :]
        # Conflict markers use characters of the base64 alphabet: narrow the match at its delimiters.
        cuts = [i for i in range(match.start(), match.end()) if text[i] in _DELIMITERS]
        starts = [match.start(), *(i + 1 for i in cuts)]
        ends = [len(text), *cuts[::-1]]
        attempts = 0
        for end in ends:
            for start in starts:
                narrowed = _CIPHERTEXT.search(text, start, end) if end - start >= 24 else None
                if narrowed is None:
                    continue
                clear = self.decrypt(narrowed.group(), parent_id)
                if clear is not None:
                    return clear, text[narrowed.end() :]
                attempts += 1
                if attempts >= MAX_NARROWINGS:
                    return None
        return None


def self_test() -> None:
    """Make sure that the installed AES-SIV is right where libraries are known to be wrong (CVE-2023-2975: an empty
    associated-data component; an empty plaintext). Unsupported when it is not."""
    key = Masterkey(bytes(range(32)), bytes(range(32, 64)))
    # Values of the official implementation (cryptolib).
    expected = {
        "df733d12b37a8b4b4274e35193419077049d8f766e": (b"hello", None),
        "8014715db80ef668cfe30d394930304dff151ab622": (b"hello", [b""]),
        "cdaaa0d5deb5c0b97ca61dac9bc941d2": (b"", None),
    }
    for output, (plaintext, associated) in expected.items():
        try:
            actual = key.siv().encrypt(plaintext, associated).hex()
        except ValueError as error:
            raise Unsupported("the installed 'cryptography' refuses AES-SIV inputs that vaults need") from error
        if actual != output:
            raise Unsupported("the installed 'cryptography' computes AES-SIV wrongly; version 45 or newer is needed")
