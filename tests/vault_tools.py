"""An independent reader of Cryptomator vaults (format 8) on a local disk: the oracle of tests.

Straight lines on ``cryptography``, written from the format and not from this project; it imports nothing of it. It
is strict: what does not authenticate, a folder id used twice or a name that comes up twice raises VaultError.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap


class VaultError(Exception):
    """The vault is not as the format wants it."""


@dataclass(frozen=True)
class Entry:
    """One thing in the vault. ``path`` starts with a slash and is spelled as stored."""

    path: str
    type: Literal["file", "directory", "symlink"]
    size: int = 0
    sha256: str = ""
    target: str | None = None
    directory_id: str | None = None
    mtime_ns: int = 0
    file: Path | None = None


class VaultReader:
    """A vault's keys and ciphers."""

    def __init__(self, vault: Path, passphrase: str) -> None:
        self.vault = vault
        fields = json.loads((vault / "masterkey.cryptomator").read_text())
        kek = Scrypt(
            salt=base64.b64decode(fields["scryptSalt"]),
            length=32,
            n=fields["scryptCostParam"],
            r=fields["scryptBlockSize"],
            p=1,
        ).derive(unicodedata.normalize("NFC", passphrase).encode())
        self.enc = aes_key_unwrap(kek, base64.b64decode(fields["primaryMasterKey"]))
        self.mac = aes_key_unwrap(kek, base64.b64decode(fields["hmacMasterKey"]))
        version_mac = hmac.digest(self.mac, struct.pack(">I", fields["version"]), "sha256")
        if base64.b64decode(fields["versionMac"]) != version_mac:
            raise VaultError("versionMac")
        head, claims, signature = (vault / "vault.cryptomator").read_bytes().split(b".")
        algorithm = json.loads(_b64url(head))["alg"].replace("HS", "sha")
        if hmac.digest(self.enc + self.mac, head + b"." + claims, algorithm) != _b64url(signature):
            raise VaultError("signature")
        self.config = json.loads(_b64url(claims))
        if self.config["format"] != 8:
            raise VaultError("format")
        self.gcm = {"SIV_GCM": True, "SIV_CTRMAC": False}[self.config["cipherCombo"]]
        self.siv = AESSIV(self.mac + self.enc)

    def content_directory(self, directory_id: str) -> Path:
        sealed = self.siv.encrypt(directory_id.encode(), None)
        digest = base64.b32encode(hashlib.sha1(sealed).digest()).decode()
        return self.vault / "d" / digest[:2] / digest[2:]

    def decrypt_name(self, name: str, directory_id: str) -> str:
        if not name.endswith(".c9r"):
            raise VaultError(f"not a ciphertext name: {name}")
        try:
            clear = self.siv.decrypt(base64.urlsafe_b64decode(name[:-4]), [directory_id.encode()])
        except (InvalidTag, ValueError) as error:
            raise VaultError(f"the name {name} does not authenticate") from error
        return clear.decode()

    def decrypt_file(self, path: Path) -> bytes:
        data = path.read_bytes()
        try:
            return self._decrypt_gcm(data) if self.gcm else self._decrypt_ctrmac(data)
        except (InvalidTag, ValueError) as error:
            raise VaultError(f"{path} does not authenticate") from error

    def _decrypt_gcm(self, data: bytes) -> bytes:
        nonce = data[:12]
        content = AESGCM(AESGCM(self.enc).decrypt(nonce, data[12:68], None)[8:])
        clear = []
        for number, start in enumerate(range(68, len(data), 32796)):
            chunk = data[start : start + 32796]
            clear.append(content.decrypt(chunk[:12], chunk[12:], struct.pack(">Q", number) + nonce))
        return b"".join(clear)

    def _decrypt_ctrmac(self, data: bytes) -> bytes:
        if len(data) < 88 or hmac.digest(self.mac, data[:56], "sha256") != data[56:88]:
            raise VaultError("header mac")
        nonce = data[:16]
        key = _ctr(self.enc, nonce, data[16:56])[8:]
        clear = []
        for number, start in enumerate(range(88, len(data), 32816)):
            chunk = data[start : start + 32816]
            signed = nonce + struct.pack(">Q", number) + chunk[:-32]
            if len(chunk) < 48 or hmac.digest(self.mac, signed, "sha256") != chunk[-32:]:
                raise VaultError(f"chunk {number} mac")
            clear.append(_ctr(key, chunk[:16], chunk[16:-32]))
        return b"".join(clear)

    def read(self) -> dict[str, Entry]:
        """Everything in the vault, by path."""
        found: dict[str, Entry] = {}
        seen = {""}
        pending = [("", "")]
        while pending:
            directory_id, prefix = pending.pop()
            for entry in self._read_directory(directory_id, prefix):
                if entry.path in found:
                    raise VaultError(f"{entry.path} comes up twice")
                found[entry.path] = entry
                if entry.directory_id is not None:
                    if entry.directory_id in seen:
                        raise VaultError(f"the id of {entry.path} is used twice")
                    seen.add(entry.directory_id)
                    pending.append((entry.directory_id, entry.path))
        return found

    def _read_directory(self, directory_id: str, prefix: str) -> list[Entry]:
        entries = []
        folder = self.content_directory(directory_id)
        if not folder.is_dir():
            return []  # a removal that was interrupted: an empty folder
        for path in folder.iterdir():
            if len(path.name) < 28 or path.suffix not in (".c9r", ".c9s"):
                continue
            name = path.name
            if path.suffix == ".c9s":
                if {inner.name for inner in path.iterdir()} <= {"name.c9s"}:
                    continue  # a creation or removal that was interrupted
                name = (path / "name.c9s").read_text()
                digest = base64.urlsafe_b64encode(hashlib.sha1(name.encode()).digest()).decode()
                if f"{digest}.c9s" != path.name:
                    raise VaultError(f"{path} is not the hash of its name")
            elif path.is_dir() and not any(path.iterdir()):
                continue
            entries.append(self._read_entry(path, f"{prefix}/{self.decrypt_name(name, directory_id)}"))
        return entries

    def _read_entry(self, path: Path, clear: str) -> Entry:
        if path.is_dir() and (path / "dir.c9r").exists():
            link = path / "dir.c9r"
            return Entry(clear, "directory", directory_id=link.read_text(), mtime_ns=link.stat().st_mtime_ns, file=link)
        if path.is_dir() and (path / "symlink.c9r").exists():
            link = path / "symlink.c9r"
            target = self.decrypt_file(link).decode()
            return Entry(clear, "symlink", len(target.encode()), target=target, file=link)
        file = path / "contents.c9r" if path.is_dir() else path
        data = self.decrypt_file(file)
        digest = hashlib.sha256(data).hexdigest()
        return Entry(clear, "file", len(data), digest, mtime_ns=file.stat().st_mtime_ns, file=file)


def read_vault(path: Path, passphrase: str) -> dict[str, Entry]:
    """Everything in the vault at ``path``, by cleartext path; every byte authenticated. VaultError otherwise."""
    return VaultReader(path, passphrase).read()


def _b64url(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part.rstrip(b"=") + b"=" * (-len(part.rstrip(b"=")) % 4))


def _ctr(key: bytes, nonce: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(data)
