"""Serves an FTP door in a process of its own, for clients that are programs.

    python -m tests.e2e.ftp.serve_memory OPTIONS_JSON

The argument is ServerOptions as JSON (``tls`` is [certificate, key]). The address is printed once the door is
open; the end of standard input ends it. A runner for another drive has the same contract (``serve_drive``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from serpentfs.gateways import ftp
from serpentfs.gateways.access import FtpOptions, ServerOptions, TlsFiles
from serpentfs.vfs.core import Vfs
from tests.fakes.memory_vfs import MemoryVfs


def options_of(values: Mapping[str, Any]) -> FtpOptions:
    values = {"host": "127.0.0.1", "port": 0, **values}
    if values.get("tls") is not None:
        values["tls"] = TlsFiles(*map(Path, values["tls"]))
    return FtpOptions(ServerOptions(**values))


async def run(vfs: Vfs, options: FtpOptions) -> None:
    """Serve until the end of standard input."""
    async with trio.open_nursery() as nursery:
        print(await nursery.start(ftp.serve, vfs, options), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def main() -> None:
    await run(MemoryVfs(), options_of(json.loads(sys.argv[1])))


if __name__ == "__main__":
    sys.setswitchinterval(0.00005)
    trio.run(main)
