"""The Cloud contract over vaults on OpenDAL's memory service and on S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import opendal
import pytest

from serpentfs.clouds.base import Cloud
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.blobs.opendal import OpendalStore
from serpentfs.clouds.vault import VaultCloud
from tests.contract.test_cloud import *  # noqa: F403 - the suite
from tests.contract.test_cloud import Site
from tests.fakes.s3_server import S3Server, s3_operator
from tests.vaults import fresh_vault, reopened

pytestmark = pytest.mark.trio


@dataclass
class OpendalSite:
    first: VaultCloud
    connect: Callable[[], BlobStore]

    async def client(self) -> Cloud:
        return reopened(self.first, self.connect(), poll_interval=0.05)


@asynccontextmanager
async def memory() -> AsyncIterator[Site]:
    # One store for all clients: this service is private to its operator, and its revisions to the store.
    store = OpendalStore(opendal.Operator("memory"))
    yield OpendalSite(await fresh_vault(store), lambda: store)


@asynccontextmanager
async def s3() -> AsyncIterator[Site]:
    with S3Server() as server:
        server.make_bucket("bucket")

        def connect() -> BlobStore:
            return OpendalStore(s3_operator(server, "bucket", "vault"))

        yield OpendalSite(await fresh_vault(connect()), connect)


OPENDAL_SITES = {"memory": memory, "s3": s3}


@pytest.fixture(params=sorted(OPENDAL_SITES))  # type: ignore[no-redef]
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with OPENDAL_SITES[request.param]() as opened:
        yield opened
