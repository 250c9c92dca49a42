"""The log in front of state.db: it is begun anew however busy the drive is, and goes when it is not."""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

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


class Synced:
    """A store, and the turns of the disk that it took."""

    def __init__(self, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store.Store(where / "state.db", b"s" * 64, str)
        self.turns: list[int] = []
        """How many transactions each of them covered."""
        self.done: list[str] = []
        fdatasync = os.fdatasync

        def noting(descriptor: int) -> None:
            self.turns.append(self.store._transactions)
            fdatasync(descriptor)

        monkeypatch.setattr(os, "fdatasync", noting)

    async def sync(self, name: str, *, patient: bool) -> None:
        with self.store.transaction():
            self.store.put_record("test", name, b"")
        covers = self.store._transactions
        await self.store.sync(patient=patient)
        assert self.turns
        assert self.turns[-1] >= covers
        self.done.append(name)


async def test_the_patient_share_a_turn_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = Synced(tmp_path, monkeypatch)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(partial(synced.sync, name, patient=True))
    assert len(synced.turns) == 1
    assert sorted(synced.done) == list("abcdefgh")
    synced.store.close()


async def test_nobody_else_waits_for_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_GATHER", 3600.0)
    synced = Synced(tmp_path, monkeypatch)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(synced.sync, "patient", patient=True))
            await trio.testing.wait_all_tasks_blocked()
            assert not synced.turns
            await synced.sync("other", patient=False)
        assert synced.done == ["patient", "other"]
        assert len(synced.turns) == 1
        # One that comes before it has its turn does not wait, either.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(synced.sync, "first", patient=False))
            nursery.start_soon(partial(synced.sync, "patient", patient=True))
            nursery.start_soon(partial(synced.sync, "last", patient=False))
    synced.store.close()
