"""The form of keys: relative, of plain components, so that no key can lead out of its store."""

from __future__ import annotations

from serpentfs.errors import InvalidArgument


def parts_of(key: str) -> list[str]:
    """The components of a key or prefix (``""``: none). InvalidArgument for what could lead out of the store."""
    if not key:
        return []
    parts = key.split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(f"not a key: {key!r}")
    return parts


def split_key(key: str) -> tuple[list[str], str]:
    """An object's folder and name. InvalidArgument for the empty key, too."""
    parts = parts_of(key)
    if not parts:
        raise InvalidArgument("an object needs a key")
    return parts[:-1], parts[-1]
