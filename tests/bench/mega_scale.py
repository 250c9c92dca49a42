"""A large account: first start, second start, memory, listings.

    python -m tests.bench.mega_scale [--nodes 1000000] [--largest 100000]

Prints seconds and MiB. The account is the emulator's; each start is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from serpentfs.clouds.mega.cloud import open_mega
from serpentfs.clouds.mega.session import Session, load_session, login, save_session
from serpentfs.clouds.mega.transport import Transport
from serpentfs.clouds.retrying import RetryingCloud
from serpentfs.model import ROOT_INO, Kind
from serpentfs.vfs.drive import Drive
from serpentfs.vfs.opening import open_drive
from tests.mega_emulator import emulator

_EMAIL, _PASSWORD = "large@example.test", "a password of the benchmark"
_MIB = 2**20


def resident() -> float:
    """MiB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / _MIB


def walk(drive: Drive) -> int:
    """Entries below the root, as ``find`` visits them."""
    found, waiting = 0, [ROOT_INO]
    while waiting:
        folder, after = waiting.pop(), 0
        while page := drive.readdir(folder, after):
            after = page[-1].attributes.ino
            found += len(page)
            waiting += [entry.attributes.ino for entry in page if entry.attributes.kind is Kind.DIRECTORY]
    return found


async def _start(session: Session, where: Path) -> dict[str, float]:
    before, began = resident(), time.perf_counter()
    async with (
        open_mega(session, directory=where) as cloud,
        open_drive(
            RetryingCloud(cloud),
            remote_id=cloud.remote_id,
            secret=cloud.secret,
            state_directory=where,
            cache_directory=None,
        ) as drive,
    ):
        figures = {"start s": time.perf_counter() - began, "MiB before": before, "MiB after": resident()}
        began = time.perf_counter()
        figures["find entries"] = walk(drive)
        figures["find s"] = time.perf_counter() - began
        began = time.perf_counter()
        largest, after = drive.resolve("/largest").ino, 0
        while page := drive.readdir(largest, after):
            after = page[-1].attributes.ino
        figures["largest folder s"] = time.perf_counter() - began
        figures["MiB at the end"] = resident()
    return figures


def _child(session: Path, where: Path) -> None:
    print(json.dumps(trio.run(_start, load_session(session), where)))


async def _log_in(url: str, path: Path) -> None:
    transport = Transport()
    save_session(path, await login(transport, url, _EMAIL, _PASSWORD))
    await transport.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    with tempfile.TemporaryDirectory(prefix="mega-scale-") as folder, emulator() as server:
        server.add_account(_EMAIL, _PASSWORD)
        server.add_many(_EMAIL, arguments.nodes, largest_folder=arguments.largest)
        session = Path(folder) / "session"
        trio.run(_log_in, server.url, session)
        for name in ("first", "second"):
            command = [sys.executable, "-m", "tests.bench.mega_scale", "--child", str(session), f"{folder}/state"]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=1800)
            print(f"{name} start:", ", ".join(f"{key} {value:.2f}" for key, value in json.loads(done.stdout).items()))


if __name__ == "__main__":
    main()
