"""mega.py as a process: lines of JSON in, one line of JSON out for each.

Runs with mega.py's own folder on the path and nothing of this project. The first line holds the address and the
credentials; every other one names an operation and its arguments. Paths are relative to the cloud drive.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

_CLOUD_DRIVE = 2


class _Client:
    def __init__(self, url: str, email: str, password: str) -> None:
        self._mega = importlib.import_module("mega").Mega()
        # It asks <schema>://g.api.mega.co.nz/cs; this makes a plain path of that on the address given.
        self._mega.schema = f"{url}/x"
        self._mega.login(email, password)

    def _tree(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Every node below the cloud drive by its path; mega.py itself keeps handles only."""
        nodes: dict[str, dict[str, Any]] = self._mega.get_files()
        root = next(handle for handle, node in nodes.items() if node["t"] == _CLOUD_DRIVE)
        children: dict[str, list[str]] = {}
        for handle, node in nodes.items():
            children.setdefault(node["p"], []).append(handle)
        found = {"": (root, nodes[root])}
        waiting = [("", root)]
        while waiting:
            path, folder = waiting.pop()
            for handle in children.get(folder, ()):
                node = nodes[handle]
                inner = f"{path}/{node['a']['n']}".lstrip("/")
                found[inner] = (handle, node)
                waiting.append((inner, handle))
        return found

    def list(self) -> list[dict[str, Any]]:
        return [
            {
                "path": path,
                "folder": node["t"] == 1,
                "size": node.get("s", 0),
                "time": node["ts"],
                "fingerprint": node["a"].get("c"),
            }
            for path, (_, node) in self._tree().items()
            if path
        ]

    def upload(self, source: str, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self._mega.upload(source, self._tree()[folder][0], name)

    def download(self, path: str, target: str) -> None:
        folder, name = os.path.split(target)
        self._mega.download(self._tree()[path], folder, name)

    def mkdir(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self._mega._mkdir(name, self._tree()[folder][0])  # create_folder takes a folder of that name anywhere for it

    def rename(self, path: str, name: str) -> None:
        self._mega.rename(self._tree()[path], name)

    def move(self, path: str, folder: str) -> None:
        tree = self._tree()
        self._mega.move(tree[path][0], tree[folder][0])

    def remove(self, path: str) -> None:
        self._mega.delete(self._tree()[path][0])


def _answer(result: object) -> None:
    print(json.dumps(result), flush=True)


def main() -> None:
    client: _Client | None = None
    for line in sys.stdin:
        operation, *arguments = json.loads(line)
        try:
            if client is None:
                client = _Client(*arguments)
                _answer({"result": None})
            else:
                _answer({"result": getattr(client, operation)(*arguments)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
            _answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
