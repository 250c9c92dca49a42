from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    """Makes vaults and mounts them; takes every mount away at the end."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    made: list[Mounted] = []

    def make(**options: object) -> Mounted:
        mounted = Mounted(tmp_path / f"drive{len(made)}", **options)  # type: ignore[arg-type]
        made.append(mounted)
        mounted.start()
        return mounted

    yield make
    for mounted in made:
        mounted.clean_up()
