"""What the programs have in common that serve a drive over WebDAV, for tests that drive them from outside.

    python serve_….py '{"port": 0, "no_auth": true, …}'

The argument is ServerOptions as JSON (``tls`` is [certificate, key]; a ``root`` that is missing is made). The
address is printed once the door answers. On standard input ``restart`` closes door and drive and opens them anew
on the same port (the address is printed again); the end of input ends the program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from serpentfs.errors import NotFound
from serpentfs.gateways.access import ServerOptions, TlsFiles
from serpentfs.gateways.webdav import serve
from serpentfs.model import ROOT_INO
from serpentfs.vfs.core import Vfs

OpenVfs = Callable[[], AbstractAsyncContextManager[Vfs]]
"""Opens the drive; what an earlier opening kept is there again."""


def main(open_vfs: OpenVfs) -> None:
    sys.setswitchinterval(0.00005)   # as the owner process does it
    trio.run(_serve_until_told, open_vfs, _options_of(json.loads(sys.argv[1])))


def _options_of(values: Mapping[str, Any]) -> ServerOptions:
    values = {"host": "127.0.0.1", "port": 0, **values}
    if values.get("tls") is not None:
        values["tls"] = TlsFiles(*map(Path, values["tls"]))
    return ServerOptions(**values)


async def _serve_until_told(open_vfs: OpenVfs, options: ServerOptions) -> None:
    commands = trio.wrap_file(sys.stdin)
    while True:
        async with open_vfs() as vfs:
            await _make_root(vfs, options.root)
            async with trio.open_nursery() as nursery:
                address: str = await nursery.start(serve, vfs, options)
                print(address, flush=True)
                command = await commands.readline()
                nursery.cancel_scope.cancel()
        if command.strip() != "restart":
            return
        options = replace(options, port=urlsplit(address).port or 0)


async def _make_root(vfs: Vfs, root: str) -> None:
    try:
        vfs.resolve(root)
    except NotFound:
        await vfs.mkdir(ROOT_INO, root.strip("/"), door="test")
