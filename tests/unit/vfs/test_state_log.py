"""The log in front of state.db: it is begun anew however busy the drive is, and goes when it is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from serpentfs.tree import store
from tests.drives import a_drive, until, write
from tests.fakes.memory_cloud import MemoryCloud

pytestmark = pytest.mark.trio

_MIB = 1 << 20


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a drive that is a hundred times as busy."""
    monkeypatch.setattr(store, "_CHECKPOINT_EVERY", 0.01)
    monkeypatch.setattr(store, "_CHECKPOINT_ABOVE", _MIB // 16)
    monkeypatch.setattr(store, "_WAL_LIMIT", _MIB)


@pytest.mark.usefixtures("often")
async def test_it_stays_small_while_it_is_written_to_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "state" / "state.db-wal"
    started: list[str] = []
    begin_anew = store.Store._begin_wal_anew

    def noted(self: store.Store, how: str) -> None:
        started.append(how)
        begin_anew(self, how)

    monkeypatch.setattr(store.Store, "_begin_wal_anew", noted)
    async with a_drive(MemoryCloud(), tmp_path, settle=0.0) as drive:
        most = 0
        for number in range(1200):    # 39 MiB of log
            await write(drive, f"/{number % 7}", str(number).encode())
            most = max(most, log.stat().st_size)
        assert "RESTART" in started
        assert most < 20 * _MIB
        await until(lambda: not drive.status().pending)
        await until(lambda: log.stat().st_size <= _MIB // 16)
    with sqlite3.connect(tmp_path / "state" / "state.db") as found:
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.usefixtures("often")
async def test_what_was_written_meanwhile_is_there_after_the_next_start(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    async with a_drive(cloud, tmp_path, settle=300.0) as drive:
        for number in range(300):
            await write(drive, f"/{number}", str(number).encode())
    async with a_drive(cloud, tmp_path) as drive:
        for number in range(300):
            assert drive.resolve(f"/{number}").size == len(str(number))
