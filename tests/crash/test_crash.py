"""Some kills at random moments; more by hand with ``python -m tests.crash.driver``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.driver import run, run_mega


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    report = run(15, seed=20, work=tmp_path)
    assert report.kills == 15
    assert report.operations > 100
    assert report.faults == []


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_nothing_acknowledged_is_lost_on_mega(tmp_path: Path) -> None:
    report = run_mega(6, seed=6, work=tmp_path)
    assert report.kills == 6
    assert report.operations > 40
    assert report.faults == []
