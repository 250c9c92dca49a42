"""Serves a drive in memory over WebDAV, for tests that drive it from outside.

    python serve_memory.py '{"port": 0, "no_auth": true, …}'

The argument is ServerOptions as JSON (``tls`` is [certificate, key]). The address is printed once it answers.
On standard input ``restart`` closes the door and opens it anew on the same drive and port (the address is
printed again); the end of input ends the program. A runner for another drive has the same contract.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from serpentfs.gateways.access import ServerOptions, TlsFiles
from serpentfs.gateways.webdav import serve
from tests.fakes.memory_vfs import MemoryVfs


def options_of(values: Mapping[str, Any]) -> ServerOptions:
    values = {"host": "127.0.0.1", "port": 0, **values}
    if values.get("tls") is not None:
        values["tls"] = TlsFiles(*map(Path, values["tls"]))
    return ServerOptions(**values)


async def run(options: ServerOptions) -> None:
    vfs = MemoryVfs()
    if options.root != "/":
        vfs.cloud_mkdir(options.root)
    commands = trio.wrap_file(sys.stdin)
    while True:
        async with trio.open_nursery() as nursery:
            address: str = await nursery.start(serve, vfs, options)
            print(address, flush=True)
            command = await commands.readline()
            nursery.cancel_scope.cancel()
        if command.strip() != "restart":
            return
        options = replace(options, port=urlsplit(address).port or 0)


if __name__ == "__main__":
    sys.setswitchinterval(0.00005)
    trio.run(run, options_of(json.loads(sys.argv[1])))
