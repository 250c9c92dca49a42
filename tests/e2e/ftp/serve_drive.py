"""``serve_memory`` with the real drive, over a cloud in memory. Its state is kept in a temporary folder."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import trio

from tests.drives import a_drive
from tests.e2e.ftp.serve_memory import options_of, run
from tests.fakes.memory_cloud import MemoryCloud


async def main() -> None:
    with tempfile.TemporaryDirectory() as state:
        async with a_drive(MemoryCloud(), Path(state)) as drive:
            await run(drive, options_of(json.loads(sys.argv[1])))


if __name__ == "__main__":
    sys.setswitchinterval(0.00005)
    trio.run(main)
