"""The contract of clouds, run on vaults: both cipher combos, on folders, on an object store and on ``file://``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from serpentfs.clouds.base import Cloud
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.vault import VaultCloud
from tests.contract.test_cloud import *  # noqa: F403 - the suite
from tests.contract.test_cloud import Site
from tests.fakes.memory_blobs import Account, MemoryBlobStore
from tests.vaults import fresh_vault, reopened

pytestmark = pytest.mark.trio


@dataclass
class VaultSite:
    first: VaultCloud
    connect: Callable[[], BlobStore]

    async def client(self) -> Cloud:
        return reopened(self.first, self.connect(), poll_interval=0.05)


def memory(folders: bool, path: Path) -> Callable[[], BlobStore]:
    return functools.partial(MemoryBlobStore, Account(folders=folders))


def files(path: Path) -> Callable[[], BlobStore]:
    return functools.partial(FileStore, path)


VAULT_SITES: dict[str, tuple[str, Callable[[Path], Callable[[], BlobStore]]]] = {
    "SIV_GCM, file://": ("SIV_GCM", files),
    "SIV_GCM, folders": ("SIV_GCM", functools.partial(memory, True)),
    "SIV_CTRMAC, objects": ("SIV_CTRMAC", functools.partial(memory, False)),
}


@pytest.fixture(params=sorted(VAULT_SITES))  # type: ignore[no-redef]
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    combo, place = VAULT_SITES[request.param]
    connect = place(tmp_path)
    return VaultSite(await fresh_vault(connect(), combo), connect)
