"""``serpentfs`` in forks of one process that has imported it: for tables of many commands, each of which would spend
most of its time on starting Python. A fork is a process of its own, with a session, environment and descriptors of its
own, as one that a shell starts."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Forking:
    """Context manager. Runs commands in the folder ``home``, one at a time."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._files = [home / ".stdout", home / ".stderr"]
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, self._files)], env=dict(environment), cwd=home, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=30)
        for file in self._files:
            file.unlink(missing_ok=True)

    def run(self, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([list(words), dict(environment)]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        out, err = (file.read_text() for file in self._files)
        return subprocess.CompletedProcess(list(words), code, out, err)


def _serve(out: str, err: str) -> None:
    """A command for each line of standard input; its exit code is the answer."""
    from serpentfs.cli.main import COMMANDS, parser_of

    for command in COMMANDS:
        parser_of(command)
    for later in ("serpentfs.daemon.owner", "serpentfs.gateways.webdav", "serpentfs.gateways.ftp"):
        importlib.import_module(later)
    for line in sys.stdin:
        words, environment = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(words, environment, out, err)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """Does not return."""
    from serpentfs.cli.main import main

    code = 255
    try:
        os.setsid()
        for descriptor, name, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            file = os.open(name, flags | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:    # noqa: BLE001 - told below, and never the server's
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
