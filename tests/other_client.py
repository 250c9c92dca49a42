"""Another program that uses a vault: a process with a driver of its own, told by lines of JSON what to do.

    with OtherClient(url, passphrase) as other:
        other(["mkdir", "/a"], ["put", "/a/file", "text"], ["remove", "/b"])

One call is carried out one operation after the other, as fast as it goes; it returns when all are in the vault.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from serpentfs.clouds.registry import RemoteSpec, open_store, parse_remote
from serpentfs.clouds.vault import VaultCloud, open_vault
from serpentfs.model import NodeId, NodeInfo
from tests.vaults import mkdir, put, tree

_ROOT = Path(__file__).parents[1]


class OtherClient:
    """The process, as seen from a test."""

    def __init__(self, url: str, passphrase: str, environment: Mapping[str, str] | None = None) -> None:
        child = subprocess.Popen(
            [sys.executable, __file__, url],
            env=os.environ | dict(environment or {}) | {"PYTHONPATH": str(_ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        self._child, self._requests, self._answers = child, child.stdin, child.stdout
        self._ask(passphrase)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.close()
        self._answers.close()
        self._child.wait(timeout=60)

    def __call__(self, *operations: list[str]) -> None:
        self._ask(operations)

    def _ask(self, request: object) -> None:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        if answer != "done\n":
            raise RuntimeError(f"the other client answered {answer!r} to {request!r}")


class _Changes:
    """Operations by path. ``nodes`` is the tree as this client left it."""

    def __init__(self, vault: VaultCloud, nodes: dict[str, NodeInfo]) -> None:
        self._vault = vault
        self._nodes = nodes

    def _parent(self, path: str) -> tuple[NodeId, str]:
        folder, _, name = path.rpartition("/")
        return (self._nodes[folder].id if folder else self._vault.root), name

    async def mkdir(self, path: str) -> None:
        self._nodes[path] = await mkdir(self._vault, *self._parent(path))

    async def put(self, path: str, text: str) -> None:
        """A new file, or new content of one."""
        old = self._nodes.get(path)
        replaces = old.ref if old is not None else None
        self._nodes[path] = await put(self._vault, *self._parent(path), text.encode(), replaces=replaces)

    async def symlink(self, path: str, target: str) -> None:
        self._nodes[path] = await self._vault.symlink(*self._parent(path), target, mtime_ns=1_600_000_000_000_000_000)

    async def move(self, old: str, new: str) -> None:
        replaced = self._nodes.get(new)
        replaces = replaced.ref if replaced is not None else None
        moved = await self._vault.move(self._nodes[old].ref, *self._parent(new), replaces=replaces)
        del self._nodes[old]
        for path in [path for path in self._nodes if path.startswith(f"{old}/")]:
            self._nodes[new + path.removeprefix(old)] = self._nodes.pop(path)
        self._nodes[new] = moved

    async def remove(self, path: str) -> None:
        """With everything below it."""
        for inner in sorted((inner for inner in self._nodes if inner.startswith(f"{path}/")), reverse=True):
            await self._vault.remove(self._nodes.pop(inner).ref)
        await self._vault.remove(self._nodes.pop(path).ref)


def _read_request() -> Any:
    line = sys.stdin.readline()
    return json.loads(line) if line else None


async def _serve(url: str) -> None:
    spec = parse_remote(url)
    assert isinstance(spec, RemoteSpec)
    vault = await open_vault(open_store(spec), _read_request())
    print("done", flush=True)
    while operations := _read_request():
        changes = _Changes(vault, await tree(vault))
        for name, *arguments in operations:
            await getattr(changes, name)(*arguments)
        print("done", flush=True)


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1])
