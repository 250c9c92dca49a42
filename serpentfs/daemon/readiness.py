"""Detaching from the terminal, and telling the command that started us how it went.

``detach`` must run before any thread or event loop exists: after a fork only the calling thread lives on, with
whatever locks the others held. The command returns when the daemon reports, with its message and exit code.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from serpentfs.daemon.places import cannot


@dataclass(frozen=True, slots=True)
class Report:
    """How the start went: what to print and the exit code. ``code`` None: the daemon died without a word."""

    code: int | None
    lines: tuple[str, ...]


class Reporter:
    """The daemon's end of the pipe. Reports once; later calls do nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def reported(self) -> bool:
        return self._descriptor < 0

    def report(self, code: int, lines: tuple[str, ...]) -> None:
        """Tell how it went, and leave the terminal's session: from now on nobody's Ctrl-C is for this process."""
        if self.reported:
            return
        os.setsid()
        data = json.dumps([code, lines]).encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BrokenPipeError:
            pass    # the command was killed while it waited; the daemon goes on
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


def detach(log_file: Path) -> Reporter | Report:
    """Fork twice. In the daemon: its Reporter, with standard output and error in ``log_file``. In the command:
    the daemon's Report, after waiting for it.

    The daemon stays in the process group of the command until it reports: whoever mounts for an automount of systemd
    must be in systemd's group, else the kernel has it wait for the mount that it is about to make.
    """
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot("open", log_file, error) from error
    _refuse_threads()
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.close(log)
        os.waitpid(child, 0)
        return _wait(reading)
    os.close(reading)
    if os.fork():
        os._exit(0)    # the daemon is nobody's child, and leads no group, so that it can have a session of its own
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)
    return Reporter(writing)


def _refuse_threads() -> None:
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and sum(1 for _ in tasks.iterdir()) > 1:
        raise RuntimeError("detach() came too late: this process has threads, which a fork would lose")


def _wait(descriptor: int) -> Report:
    with os.fdopen(descriptor, "rb") as pipe:
        data = pipe.read()
    if not data:
        return Report(None, ())
    code, lines = json.loads(data)
    return Report(code, tuple(lines))
