"""What processes use and what is mounted, as the kernel tells it in /proc."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process with all its threads and children.

    ``cpu``: seconds, user and system, since its start, in steps of one clock tick (10 ms). ``resident``: bytes now
    (VmRSS). ``peak``: most of them since its start (VmHWM).
    """

    cpu: float
    resident: int
    peak: int


NOTHING_USED = Usage(0.0, 0, 0)


def usage(pid: int) -> Usage:
    """ProcessLookupError or FileNotFoundError when it has ended."""
    each = [_usage_of_one(pid)]
    for child in _children(pid):
        try:
            each.append(usage(child))
        except (ProcessLookupError, FileNotFoundError):
            pass    # it has ended: what it used is its parent's now
    return Usage(sum(u.cpu for u in each), sum(u.resident for u in each), sum(u.peak for u in each))


@dataclass(frozen=True, slots=True)
class MachineTime:
    """Seconds of all processors since the machine started: ``used``, and ``stolen`` by the machine that it runs on
    (proc_stat(5)) while there was something to do."""

    used: float
    stolen: float


def machine_time() -> MachineTime:
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = (
        int(field) / _TICKS_PER_SECOND for field in Path("/proc/stat").read_text().split()[1:9]
    )
    return MachineTime(user + nice + system + interrupts + soft, stolen)


def _usage_of_one(pid: int) -> Usage:
    # The command's name, in parentheses, may have spaces. utime, stime, cutime, cstime are fields 14 to 17.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    status = Path(f"/proc/{pid}/status").read_text()
    return Usage(ticks / _TICKS_PER_SECOND, _bytes_of(status, "VmRSS"), _bytes_of(status, "VmHWM"))


def _bytes_of(status: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0     # a process that is ending has none


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (thread / "children").read_text().split())
        except (ProcessLookupError, FileNotFoundError):
            pass    # the thread has ended: its children are another thread's now
    return found


def is_mounted(point: Path) -> bool:
    """Without touching the mount, which may hang or have lost its server."""
    escaped = str(point).replace("\\", r"\134").replace(" ", r"\040")
    return any(line.split()[4] == escaped for line in Path("/proc/self/mountinfo").read_text().splitlines())


def detach(point: Path) -> None:
    """Unmount in any state. RuntimeError when that did not work: nobody must delete below it then."""
    if is_mounted(point):
        command = ["fusermount3", "-uz", str(point)]
        subprocess.run(command, capture_output=True, timeout=60, check=False)
    if is_mounted(point):
        raise RuntimeError(f"{point} is still mounted")


def file_system_of(path: Path) -> str:
    """Its type, such as ``tmpfs``."""
    done = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def available_memory() -> int:
    """Bytes that can be taken without swapping."""
    return _bytes_of(Path("/proc/meminfo").read_text(), "MemAvailable")
