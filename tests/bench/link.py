"""The link to a store that is far away: ``far_store.py`` as a child, slow while measured and near while prepared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.traffic import Traffic

BUCKET = "bench"
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "not looked at"}


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """``latency``: seconds until an answer's first byte; ``rate``: bytes per second each way, 0 for any."""

    latency: float = 0.04
    rate: float = 200e6

    def __str__(self) -> str:
        rate = f"{self.rate / 1e6:g} MB/s each way" if self.rate else "any rate"
        return f"{self.latency * 1000:g} ms to the first byte, {rate}"


NEAR = LinkSpeed(0.0, 0.0)


class Link:
    """An S3 endpoint with one bucket, whose objects lie in ``folder``. It ends with ``close``, or with us."""

    def __init__(self, folder: Path, speed: LinkSpeed) -> None:
        folder.mkdir(parents=True)
        self.speed = speed
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("far_store.py")), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.endpoint = f"http://127.0.0.1:{self._answer()['port']}"
        self._set(speed)

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the far store ended with {self._child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, **order: object) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _set(self, speed: LinkSpeed) -> None:
        self._ask(latency=speed.latency, rate=speed.rate)

    @contextmanager
    def near(self) -> Iterator[None]:
        """As if it were on this machine: for what is not measured."""
        self._set(NEAR)
        try:
            yield
        finally:
            self._set(self.speed)

    def traffic(self) -> Traffic:
        """Since the start."""
        told = self._ask()
        return Traffic(sum(told["requests"].values()), told["received"], told["sent"])

    def objects(self) -> int:
        """How many the bucket holds."""
        count: int = self._ask()["objects"]
        return count

    def adopt(self, folder: Path, prefix: str = "") -> None:
        """Every file below ``folder``, which must be on the file system of the objects, is moved into the bucket."""
        self._ask(adopt=str(folder), prefix=prefix)

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(timeout=60)
        self._child.stdout.close()
