"""Serves an FTP door until standard input ends: the process that the client tests talk to.

    python -m tests.e2e.ftp.serve_memory OPTIONS_JSON

Prints one JSON line with the address once the door is open. The drive is one in memory; what a test wants to
find in it beforehand is in ``OPTIONS_JSON["files"]`` (path to text).
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import trio

from serpentfs.gateways import ftp
from serpentfs.gateways.access import FtpOptions, ServerOptions, TlsFiles
from tests.fakes.memory_vfs import MemoryVfs


async def main(raw: str) -> None:
    wanted = json.loads(raw)
    logging.basicConfig(level=wanted.get("log_level", "WARNING"), stream=sys.stderr)
    vfs = MemoryVfs()
    for path, text in wanted.get("files", {}).items():
        vfs.cloud_put(path, text.encode())
    tls = wanted.get("tls")
    ports = wanted.get("data_ports")
    options = FtpOptions(
        ServerOptions(
            host=wanted.get("host", "127.0.0.1"),
            port=0,
            users=wanted.get("users", {"ann": "secret"}),
            no_auth=wanted.get("no_auth", False),
            tls=None if tls is None else TlsFiles(Path(tls[0]), Path(tls[1])),
            root=wanted.get("root", "/"),
            read_only=wanted.get("read_only", False),
        ),
        data_ports=None if ports is None else range(*ports),
    )
    async with trio.open_nursery() as nursery:
        url = await nursery.start(ftp.serve, vfs, options)
        print(json.dumps({"url": url}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
