"""Fixtures of real mounts. Tests that say nothing about the mount share one, each in a folder of its own; no test
can be hung by a mount for longer than a minute, because a watchdog then ends the mount.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serpentfs.gateways.fuse import LOOPS
from tests.e2e.fuse.harness import FACTORIES, Mounted

_TEST_TIMEOUT = 60.0
_LOOPS = [os.environ["SERPENTFS_FUSE_LOOP"]] if "SERPENTFS_FUSE_LOOP" in os.environ else LOOPS
"""The request loops that tests run with: all, or the one that is asked for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None
    if not Path("/dev/fuse").exists():
        reason = "needs /dev/fuse"
    elif os.geteuid() != 0 and not shutil.which("fusermount3"):
        reason = "needs fusermount3"
    if reason is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A mount point that other users can reach, which pytest's folders are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (Path(name) / "mnt").mkdir()
        yield Path(name) / "mnt"


MountIt = Callable[..., Mounted]


def mounts(loop: str, tmp_path: Path) -> Iterator[MountIt]:
    """What the fixture ``mount`` does, with that request loop."""
    made: list[Mounted] = []

    numbers = itertools.count()

    def mount_it(*arguments: str, at: Path | None = None) -> Mounted:
        number = next(numbers)
        path = at or tmp_path / f"mnt{number}"
        state = tmp_path / f"state{number}"
        if at is None:
            path.mkdir()
        state.mkdir()
        made.append(Mounted(path, state, "--loop", loop, *arguments))
        return made[-1]

    def free_all() -> None:
        for mounted in made:
            if mounted.process.poll() is None:
                mounted.free_hanging()

    watchdog = threading.Timer(_TEST_TIMEOUT, free_all)
    watchdog.start()
    try:
        yield mount_it
    finally:
        watchdog.cancel()
        for mounted in made:
            mounted.close()


@pytest.fixture(params=_LOOPS)
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountIt]:
    """Makes mounts of one's own: ``mount("--read-only", …)``."""
    yield from mounts(request.param, tmp_path)


@pytest.fixture(scope="session", params=[f"{factory}-{loop}" for factory in FACTORIES for loop in _LOOPS])
def shared_mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    folder = tmp_path_factory.mktemp("shared")
    path = folder / "mnt"
    path.mkdir()
    factory, _, loop = request.param.partition("-")
    mounted = Mounted(path, folder, "--factory", FACTORIES[factory], "--loop", loop)
    try:
        yield mounted
    finally:
        assert mounted.close() == 0
        assert "Traceback" not in mounted.log()


@pytest.fixture
def mounted(shared_mount: Mounted) -> Iterator[Mounted]:
    """The shared mount, which is ended when the test takes too long."""
    watchdog = threading.Timer(_TEST_TIMEOUT, shared_mount.free_hanging)
    watchdog.start()
    try:
        yield shared_mount
    finally:
        watchdog.cancel()


@pytest.fixture
def folder(mounted: Mounted, request: pytest.FixtureRequest) -> Path:
    """A fresh folder in the shared mount."""
    name = "".join(char if char.isalnum() else "_" for char in request.node.name)
    path = mounted.path / name[:100]
    path.mkdir()
    return path


@pytest.fixture
def in_drive(mounted: Mounted, folder: Path) -> Callable[[str], str]:
    """The drive's path of a name in ``folder``."""
    return lambda name: "/" + str(folder.relative_to(mounted.path) / name)
