"""The emulator as tests hold it: a process of its own, its accounts with their keys, its faults.

Blocking calls of a few milliseconds over HTTP: good for synchronous and for asynchronous tests alike.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serpentfs.clouds.mega.attributes import unpack
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.keys import attribute_key, ecb_decrypt
from tests.mega_emulator.accounts import OwnKeys, register
from tests.mega_emulator.made_nodes import file_order, folder_order

_PROJECT = Path(__file__).parents[2]
_TIMEOUT_S = 300
_ROOTS = {2: "", 3: "//in", 4: "//bin"}
DEFAULT_QUOTA = 50 << 30


@dataclass(frozen=True, slots=True)
class Entry:
    """A node as the account's owner sees it. ``is_version``: an older version of a file."""

    handle: str
    path: str
    is_folder: bool
    is_version: bool
    size: int
    attributes: dict[str, Any]


class Emulator:
    """``url``: API, storage and CONNECT proxy over plain HTTP; ``tls_port``: the API over TLS, with a certificate for
    g.api.mega.co.nz that ``ca_file`` vouches for."""

    def __init__(self, url: str, tls_port: int, ca_file: Path) -> None:
        self.url = url
        self.tls_port = tls_port
        self.ca_file = ca_file
        self.accounts: dict[str, OwnKeys] = {}

    def control(self, do: str, **order: Any) -> Any:
        """Any order of ``control``. ValueError: the emulator does not accept it."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", "/control", json.dumps({"do": do, **order}))
            response = connection.getresponse()
            answer = json.load(response)
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer

    def _order(self, order: dict[str, Any]) -> Any:
        return self.control(**order)

    # accounts

    def add_account(
        self, email: str, password: str, *, version: int = 2, mfa: str | None = None, quota: int = DEFAULT_QUOTA
    ) -> OwnKeys:
        """An empty one. ``mfa``: the code its log-in asks for; ``quota`` in bytes."""
        keys, stored = register(email, password, version=version, mfa=mfa, quota=quota)
        self.control("add_account", **stored)
        self.accounts[keys.email] = keys
        return keys

    def set_account(self, email: str, **settings: Any) -> None:
        """``quota`` in bytes; ``blocked``."""
        self.control("set_account", email=email, **settings)

    def end_sessions(self, email: str) -> None:
        self.control("end_sessions", email=email)

    def add_many(self, email: str, count: int, *, largest_folder: int = 100_000) -> dict[str, Any]:
        """``count`` nodes, with one folder of so many files named "largest"."""
        master = encode(self.accounts[email].master)
        answer: dict[str, Any] = self.control(
            "bulk", email=email, master=master, count=count, largest_folder=largest_folder
        )
        return answer

    # nodes

    def add_folder(self, email: str, name: str, *, parent: str | None = None, readable: bool = True) -> str:
        """Its handle. ``parent``: a handle, None for the cloud drive; not ``readable``: its key is nobody's."""
        return str(self._order(folder_order(self.accounts[email], parent, name, readable=readable))["h"])

    def add_file(
        self, email: str, name: str, content: bytes, *, parent: str | None = None, mtime: int = 1_600_000_000,
        readable: bool = True,
    ) -> str:  # fmt: skip
        """As ``add_folder``; names may occur twice."""
        order = file_order(self.accounts[email], parent, name, content, mtime=mtime, readable=readable)
        return str(self._order(order)["h"])

    def tree(self, email: str) -> list[Entry]:
        """All nodes but the roots, of which the rubbish bin is ``//bin``; versions below their file. Names of nodes
        without a key are their handles."""
        keys = self.accounts[email]
        found: list[Entry] = []
        paths: dict[str, str] = {}
        kinds: dict[str, int] = {}
        for node in self.control("tree", email=email):
            handle, kind = node["h"], node["t"]
            kinds[handle] = kind
            if kind in _ROOTS:
                paths[handle] = _ROOTS[kind]
                continue
            attributes = _attributes(keys, node)
            paths[handle] = f"{paths[node['p']]}/{attributes.get('n', handle)}"
            found.append(
                Entry(handle, paths[handle], kind == 1, kinds[node["p"]] == 0, node.get("s", 0), attributes)
            )
        return found

    # behaviour

    def fault(self, place: str, effect: str, **rule: Any) -> None:
        """A rule as in ``faults``."""
        self.control("fault", place=place, effect=effect, **rule)

    def clear_faults(self) -> None:
        self.control("clear_faults")

    def fault_hits(self) -> list[int]:
        """Of each rule since they were cleared, how many requests it hit."""
        return [rule["hits"] for rule in self.control("faults")]

    def counts(self) -> dict[str, int]:
        """How often each place was used and each command given (``command g``), and the bytes ``downloaded``."""
        told: dict[str, int] = self.control("counts")
        return told

    def set(self, **settings: Any) -> None:
        """``latency``, ``rate``, ``wait_seconds``, ``always_raid``, ``kept_events``, ``url_life``."""
        self.control("set", **settings)

    def expire_urls(self) -> None:
        """Of all uploads and downloads so far."""
        self.control("expire_urls")

    def forget_events(self, email: str) -> None:
        """Whoever follows the account's events is told to load its tree anew."""
        self.control("forget_events", email=email)


@contextmanager
def emulator(*, latency: float = 0.0, rate: float = 0.0) -> Iterator[Emulator]:
    """One in a process of its own, that ends with the block, or with this process whatever befalls it."""
    command = [sys.executable, "-m", "tests.mega_emulator", "--for-parent", "--latency", str(latency)]
    process = subprocess.Popen(
        [*command, "--rate", str(rate)], cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the emulator did not start")
        ready = json.loads(line)
        yield Emulator(ready["url"], ready["tls_port"], Path(ready["ca_file"]))
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _attributes(keys: OwnKeys, node: dict[str, Any]) -> dict[str, Any]:
    holders = dict(part.split(":", 1) for part in node["k"].split("/") if ":" in part)
    wrapped = decode(holders.get(keys.handle, ""))
    if len(wrapped) not in (16, 32):
        return {}
    return unpack(decode(node["a"]), attribute_key(ecb_decrypt(keys.master, wrapped))) or {}
