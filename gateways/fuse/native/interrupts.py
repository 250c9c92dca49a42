"""Whether a program that waits for an answer is being killed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

_PENDING = re.compile(rb"^S(?:ig|hd)Pnd:\s*([0-9a-f]+)$", re.MULTILINE)
_KILL = 1 << (signal.SIGKILL - 1)


def is_being_killed(thread: int) -> bool:
    """Whether SIGKILL is pending for a thread (proc(5): ``SigPnd`` and ``ShdPnd`` of its status). The kernel makes
    SIGKILL of every signal that ends a program, unless it dumps core. False when nothing is known about it, as of one
    in another pid namespace (0)."""
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return False
    return any(int(mask, 16) & _KILL for mask in _PENDING.findall(status))
