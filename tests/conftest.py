"""What tests of several folders start from."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from serpentfs import logs

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("untimed", deadline=None)  # how long an example takes says more of the machine than of us
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CI builds the wheel and names it in SERPENTFS_WHEEL; without that it is built here."""
    if built := os.environ.get("SERPENTFS_WHEEL"):
        return Path(built)
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """For a test that sets up this process's logs: they are as they were after it."""
    root, own = logging.getLogger(), logging.getLogger(logs.ROOT_LOGGER)
    handlers, level, own_level = root.handlers[:], root.level, own.level
    for handler in handlers:    # pytest's own are not for configure() to close
        root.removeHandler(handler)
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)
