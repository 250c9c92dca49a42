"""Two clients in the same folder at the same moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from serpentfs.clouds.vault import check_vault
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.errors import DirectoryNotEmpty
from serpentfs.model import Revision
from tests.fakes.memory_blobs import Account, MemoryBlobStore
from tests.vaults import contents, fresh_vault, mkdir, put, reopened

pytestmark = pytest.mark.trio


class Interrupted(MemoryBlobStore):
    """Something happens right before an object whose key ends so is deleted."""

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self.suffix = ""
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def delete(self, key: str, *, condition: Revision | None = None) -> None:
        if self.meanwhile is not None and key.endswith(self.suffix):
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        await super().delete(key, condition=condition)


@pytest.mark.parametrize("folders", [True, False])
@pytest.mark.parametrize("suffix", ["/dirid.c9r", "/dir.c9r"])
@pytest.mark.parametrize("name", ["folder", "f" * 180])
async def test_a_folder_is_removed_while_the_other_puts_a_file_into_it(folders: bool, suffix: str, name: str) -> None:
    """Whatever the moment: the file is not left where no folder leads to."""
    account = Account(folders=folders)
    store = Interrupted(account)
    ours = await fresh_vault(store)
    theirs = reopened(ours, MemoryBlobStore(account))
    folder = await mkdir(ours, ROOT, name)

    async def others_put() -> None:
        if suffix == "/dir.c9r" and folders:
            # It looked for the content directory a moment earlier, before that was removed.
            await theirs.writer.make_content_directory(folder.id)
        await put(theirs, folder.id, "file", b"theirs")

    store.suffix, store.meanwhile = suffix, others_put
    if suffix == "/dir.c9r" and not folders:
        # An object store has no content directory left to be found: the other asked before.
        async def found_earlier(folder: object) -> None:
            return None

        theirs.writer._require_folder = found_earlier  # type: ignore[method-assign]
    with pytest.raises(DirectoryNotEmpty):
        await ours.remove(folder.ref)
    assert store.meanwhile is None
    assert await contents(theirs) == {f"/{name}": None, f"/{name}/file": b"theirs"}
    assert await check_vault(ours, content=True) == []
