"""Which names the entries of one folder are shown under.

Pure. Sync clients leave copies (``<ciphertext> (Alice's copy).c9r``), foreign writers leave names that are not NFC
or not file names at all. Nothing is renamed in the vault: a name is derived, the same one at every listing, and
two entries never share one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serpentfs.clouds.vault.names import normalize

MAX_BASENAME_BYTES = 255
_FORBIDDEN = str.maketrans({"/": "\u2215", "\0": "\u2400"})
_RESERVED = {"": "\u2205", ".": "\u2024", "..": "\u2025"}


@dataclass(frozen=True, slots=True)
class Claim:
    """One entry's claim to a name. ``entry`` is any key that tells the claims of a folder apart, ``suffix`` is what a
    sync client added, ``canonical`` tells that the ciphertext name is exactly what the cleartext name encrypts to."""

    entry: str
    clear: str
    canonical: bool
    suffix: str = ""

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """Who comes first keeps the name: untouched entries, then NFC ones, then by ciphertext."""
        return not self.canonical, normalize(self.clear) != self.clear, self.entry


def showable(name: str) -> str:
    """A decrypted name as it can be shown: foreign writers can store what no file system takes."""
    if name in _RESERVED:
        return _RESERVED[name]
    return name.translate(_FORBIDDEN) if "/" in name or "\0" in name else name


def _clip(stem: str, rest: str) -> str:
    room = max(0, MAX_BASENAME_BYTES - len(rest.encode("utf-8")))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + rest


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem else (name, "")


def assign_names(claims: Iterable[Claim], taken: set[str] | None = None) -> dict[str, str]:
    """Entry to the name it is shown under; no two names of the answer are equal under NFC, nor is one in ``taken``
    (NFC forms, added to)."""
    taken = set() if taken is None else taken
    shown: dict[str, str] = {}
    for claim in sorted(claims, key=lambda claim: claim.rank):
        name = showable(claim.clear)
        if normalize(name) in taken:
            name = _derive(name, claim.suffix, taken)
        taken.add(normalize(name))
        shown[claim.entry] = name
    return shown


def _derive(name: str, suffix: str, taken: set[str]) -> str:
    stem, extension = _split(name)
    suffix = suffix.encode("utf-8", "replace").decode("utf-8")
    if suffix:
        derived = _clip(stem, showable(suffix)[: MAX_BASENAME_BYTES // 4] + extension)
        if normalize(derived) not in taken:
            return derived
    number = 1
    while normalize(derived := _clip(stem, f" ({number}){extension}")) in taken:
        number += 1
    return derived
