"""What is mounted on this machine: /proc/self/mountinfo, read anew at each question.

Format: proc_pid_mountinfo(5). Fields stand between single blanks, optional ones end with a lone dash, and blanks,
tabs, newlines and backslashes in a path are three octal digits behind a backslash.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line. ``device`` is ``major:minor``, ``options`` are those of the file system, with commas between them."""

    path: str
    device: str
    kind: str
    options: str


def mount_entries() -> Iterator[MountEntry]:
    """All mounts that this process sees; of two at one place the later lies on top. OSError without /proc."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(" ")
            path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            kind, _, options = fields[fields.index("-") + 1 :]
            yield MountEntry(path, fields[2], kind, options)


def kind_of_device(device: int) -> str | None:
    """The kind of the file system with this ``st_dev``; None when it is not mounted where this process sees it.
    OSError without /proc."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((entry.kind for entry in mount_entries() if entry.device == wanted), None)


def answer_of(path: str, within: float) -> int | None:
    """The errno that a look at a mount gives (0: it answers); None when it does not answer within so many seconds.
    Blocks for as long."""
    answer: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(path)
        except OSError as error:
            answer.append(error.errno or errno.EIO)
        else:
            answer.append(0)

    # A thread of its own, which may be left behind: the call cannot be interrupted.
    asking = threading.Thread(target=ask, name="mount-answer", daemon=True)
    asking.start()
    asking.join(within)
    return answer[0] if answer else None


def is_dead(answer: int | None) -> bool:
    """Whether an ``answer_of`` is that of a FUSE mount whose process is gone."""
    return answer in (errno.ENOTCONN, errno.ECONNABORTED)
