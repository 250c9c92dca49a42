from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import PASSPHRASE, Mounted
from tests.vaults import cheapen


@pytest.fixture(scope="session")
def made_vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty vault. Copied for each test: making and opening one costs a key derivation and a process."""
    vault = Mounted(tmp_path_factory.mktemp("vault") / "drive").vault
    cheapen(vault, PASSPHRASE)
    return vault


@pytest.fixture
def mount(tmp_path: Path, made_vault: Path) -> Iterator[Callable[..., Mounted]]:
    """Makes vaults and mounts them; takes every mount away at the end."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    made: list[Mounted] = []

    def make(**options: object) -> Mounted:
        work = tmp_path / f"drive{len(made)}"
        if "url" not in options:
            shutil.copytree(made_vault, work / "vault")
            options["exists"] = True
        mounted = Mounted(work, **options)  # type: ignore[arg-type]
        made.append(mounted)
        mounted.start()
        return mounted

    yield make
    for mounted in made:
        mounted.clean_up()
