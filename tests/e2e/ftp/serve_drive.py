"""Serves a drive over FTP in a process of its own, for clients that are programs.

    python -m tests.e2e.ftp.serve_drive OPTIONS_JSON

The argument is ServerOptions as JSON (``tls`` is [certificate, key]). The address is printed once the door is
open; the end of standard input ends it. The drive is a whole one over a cloud in memory, its state in a temporary
folder. A runner for another drive has the same contract.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from serpentfs.gateways import ftp
from serpentfs.gateways.access import FtpOptions, ServerOptions, TlsFiles
from tests.drives import a_drive
from tests.fakes.memory_cloud import MemoryCloud


def options_of(values: Mapping[str, Any]) -> FtpOptions:
    values = {"host": "127.0.0.1", "port": 0, **values}
    if values.get("tls") is not None:
        values["tls"] = TlsFiles(*map(Path, values["tls"]))
    return FtpOptions(ServerOptions(**values))


async def main(options: FtpOptions) -> None:
    with tempfile.TemporaryDirectory() as state:
        async with a_drive(MemoryCloud(), Path(state)) as drive, trio.open_nursery() as nursery:
            print(await nursery.start(ftp.serve, drive, options), flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.setswitchinterval(0.00005)
    trio.run(main, options_of(json.loads(sys.argv[1])))
