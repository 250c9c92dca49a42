"""Which drives the tests of a module run on: all, or those that it names in ``DRIVES``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.webdav.servers import RUNNERS, Server, Start


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "drive" in metafunc.fixturenames:
        drives = getattr(metafunc.module, "DRIVES", sorted(RUNNERS))
        metafunc.parametrize("drive", drives, scope="module")


@pytest.fixture(scope="module")
def start_server(drive: str) -> Iterator[Start]:
    """Starts servers with the given ServerOptions; they end with the module."""
    running: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(RUNNERS[drive], options)
        running.append(server)
        return server

    yield start
    codes = [server.stop() for server in running]
    assert codes == [0] * len(codes)


@pytest.fixture(scope="module")
def server(start_server: Start) -> Server:
    """One that everybody may use; tests keep to names of their own."""
    return start_server(no_auth=True)
