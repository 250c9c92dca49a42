"""Three machines work on one MEGA account at random while the network misbehaves; in the end all hold the same.

    python -m tests.crash.mega_soak [--minutes 60] [--seed N]

Each machine mostly keeps to a folder of its own and sometimes goes to a common one. When the time is up the faults end,
everything is uploaded, and the trees of the three must be equal, byte by byte, with nothing left in use.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

from serpentfs.clouds.mega.cloud import MegaCloud
from serpentfs.clouds.mega.session import Session
from serpentfs.errors import SerpentError
from serpentfs.vfs.drive import Drive
from tests.drives import contents, mkdir, patch, read, rename, rmdir, unlink, write
from tests.mega_drives import PASSWORD, log_in, mega_drive
from tests.mega_emulator import Emulator, emulator

MACHINES = ("one", "two", "three")
_FAULTS: list[dict[str, object]] = [
    {"place": "batch", "effect": "error", "code": -3},
    {"place": "batch", "effect": "lose"},
    {"place": "batch", "effect": "break"},
    {"place": "batch", "effect": "http", "status": 500},
    {"place": "upload", "effect": "break"},
    {"place": "upload", "effect": "error", "code": -8},
    {"place": "download", "effect": "break"},
    {"place": "download", "effect": "truncate", "bytes": 1000},
    {"place": "download", "effect": "http", "status": 404},
    {"place": "raid", "effect": "error"},
    {"place": "events", "effect": "twice"},
    {"place": "wait", "effect": "break"},
]
_SETTLE = 120.0
_SIZES = (0, 1, 100, 5000, 131072, 131073, 700_001)


@dataclass
class Report:
    """``refused``: steps that were answered with an error, as when somebody else was quicker. ``given_up``: changes
    in place that were stuck in the end, because another machine had deleted what they were made in."""

    steps: int = 0
    refused: int = 0
    given_up: int = 0
    entries: int = 0


async def _work(drive: Drive, name: str, dice: random.Random, report: Report, together: bool) -> None:
    """Random steps until cancelled."""
    while True:
        folder = dice.choice([f"/{name}", f"/{name}", "/common" if together else f"/{name}"])
        path, other = (f"{folder}/{dice.choice('abcdef')}" for _ in range(2))
        try:
            match dice.randrange(9):
                case 0 | 1 | 2:
                    await write(drive, path, os.urandom(dice.choice(_SIZES)))
                case 3:
                    await patch(drive, path, dice.randrange(200_000), os.urandom(50))
                case 4:
                    await rename(drive, path, other)
                case 5:
                    await unlink(drive, path)
                case 6:
                    await mkdir(drive, path)
                case 7:
                    await rmdir(drive, path)
                case _:
                    await read(drive, path)
        except SerpentError:
            report.refused += 1
        report.steps += 1
        await trio.sleep(dice.random() * 0.1)


async def _give_up_stuck(drive: Drive) -> int:
    """What a user does when ``status`` tells that a change cannot be uploaded for good; how often it was done."""
    pending = drive.status().pending
    stuck = [one for one in pending if one.state == "stuck" and "gone from the cloud" in (one.error or "")]
    for change in stuck:
        await unlink(drive, change.path)
    return len(stuck)


async def _agree(drives: list[Drive], report: Report) -> dict[str, bytes | str | None]:
    """Wait until all uploads are done and all trees equal; what they hold then. AssertionError with what keeps them
    from it."""
    trees: list[dict[str, bytes | str | None]] = []
    unreadable: SerpentError | None = None
    with trio.move_on_after(_SETTLE):
        while True:
            for drive in drives:
                await drive.wait_until_uploaded()
                report.given_up += await _give_up_stuck(drive)
            try:
                trees = [await contents(drive) for drive in drives]
            except SerpentError as error:  # news came in while it was read
                trees, unreadable = [], error
            if trees and all(tree == trees[0] for tree in trees) and not any(d.status().pending for d in drives):
                return trees[0]
            await trio.sleep(0.2)
    pending = [change for drive in drives for change in drive.status().pending]
    differing = {path for tree in trees for other in trees for path, _ in tree.items() ^ other.items()}
    raise AssertionError(f"the machines do not agree: pending {pending}, differing {sorted(differing)}") from unreadable


async def soak(
    server: Emulator, email: str, session: Session, where: Path, *, seconds: float, seed: int, together: bool = True
) -> Report:
    """``together``: in a common folder, too. Raises AssertionError when the machines do not come to agree or something
    is left over."""
    dice = random.Random(seed)
    report = Report()
    clouds: list[MegaCloud] = []
    drives: list[Drive] = []
    async with AsyncExitStack() as stack:
        for name in MACHINES:
            drive, cloud = await stack.enter_async_context(mega_drive(session, where / name))
            drives.append(drive)
            clouds.append(cloud)
        for name in (*MACHINES, "common"):
            await mkdir(drives[0], f"/{name}")
        await _agree(drives, report)
        for fault in _FAULTS:
            rule = {key: value for key, value in fault.items() if key not in ("place", "effect")}
            server.fault(str(fault["place"]), str(fault["effect"]), times=None, probability=0.03, **rule)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for drive, name in zip(drives, MACHINES, strict=True):
                    nursery.start_soon(_work, drive, name, random.Random(dice.random()), report, together)
        server.clear_faults()
        report.entries = len(await _agree(drives, report))
        assert [cloud.connections_in_use for cloud in clouds] == [0] * len(clouds)
        assert [drive.status().dirty_bytes for drive in drives] == [0] * len(drives)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    async def run(server: Emulator, where: Path) -> Report:
        session = await log_in(server.url, "soak@example.test")
        return await soak(
            server, "soak@example.test", session, where, seconds=60 * arguments.minutes, seed=arguments.seed
        )

    with tempfile.TemporaryDirectory(prefix="mega-soak-") as folder, emulator() as server:
        server.add_account("soak@example.test", PASSWORD)
        print(trio.run(run, server, Path(folder)))


if __name__ == "__main__":
    main()
