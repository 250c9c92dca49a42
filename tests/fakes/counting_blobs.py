"""A BlobStore that counts its calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.fakes.memory_blobs import Account, MemoryBlobStore

CALLS = (
    "stat", "is_directory", "read", "put", "rename", "rename_directory", "delete", "make_directory",
    "remove_directory", "list", "list_directories", "set_mtime", "quota", "next_key",
)


class CountingBlobStore(MemoryBlobStore):
    """``calls`` counts by name of the method."""

    def __init__(self, account: Account | None = None, *, folders: bool = False) -> None:
        super().__init__(account, folders=folders)
        self.calls: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if name in CALLS:
            self.calls[name] += 1
        return super().__getattribute__(name)
