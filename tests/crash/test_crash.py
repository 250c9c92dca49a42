"""Some kills at random moments; more by hand with ``python -m tests.crash.driver``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serpentfs.gateways.fuse import LOOPS
from tests.crash.driver import run, run_mega
from tests.rounds import rounds


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
@pytest.mark.parametrize(("loop", "seed"), [*zip(LOOPS, (20, 21), strict=True)])
def test_nothing_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str, seed: int) -> None:
    monkeypatch.setenv("SERPENTFS_FUSE_LOOP", loop)
    kills = rounds(4, 8)
    report = run(kills, seed=seed, work=tmp_path)
    assert report.kills == kills
    assert report.operations > 7 * kills
    assert report.faults == []


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_nothing_acknowledged_is_lost_on_mega(tmp_path: Path) -> None:
    kills = rounds(4, 8)
    report = run_mega(kills, seed=6, work=tmp_path)
    assert report.kills == kills
    assert report.operations > 7 * kills
    assert report.faults == []
