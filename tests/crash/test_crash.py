"""Twenty kills at random moments; more by hand with ``python -m tests.crash.driver``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.driver import run


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    report = run(20, seed=20, work=tmp_path)
    assert report.kills == 20
    assert report.operations > 100
    assert report.faults == []
