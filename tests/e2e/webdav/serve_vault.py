"""Serves the real thing: a vault in a folder, with journal and caches on disk; see ``runner``."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.vault import open_vault
from serpentfs.vfs.core import Vfs
from tests.drives import a_drive
from tests.e2e.webdav.runner import main
from tests.vaults import PASSPHRASE, fresh_vault


@asynccontextmanager
async def opened(base: Path) -> AsyncIterator[Vfs]:
    folder = base / "vault"
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    store = FileStore(folder)
    try:
        vault = await fresh_vault(store) if is_new else await open_vault(store, PASSPHRASE)
        async with a_drive(vault, base) as drive:
            yield drive
    finally:
        await store.aclose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="serpentfs-webdav-") as temporary:
        main(lambda: opened(Path(temporary)))
