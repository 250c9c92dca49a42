"""Whether a program that waits for an answer is being killed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

_MASK = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):\s*([0-9a-f]+)$", re.MULTILINE)
# signal(7): these do nothing, or stop the program, where it has not said anything else.
_NOT_FATAL = (
    signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
    signal.SIGTTOU,
)  # fmt: skip
_NOT_FATAL_MASK = sum(1 << (number - 1) for number in _NOT_FATAL)


def is_being_killed(thread: int) -> bool:
    """Whether a signal waits for this thread that ends its program. False when nothing is known about it, as of one
    in another pid namespace (0)."""
    try:
        status = Path(f"/proc/{thread}/status").read_text(errors="replace")
    except OSError:
        return False
    return is_fatal(status)


def is_fatal(status: str) -> bool:
    """The same by proc(5)'s ``status``."""
    masks = {name: int(mask, 16) for name, mask in _MASK.findall(status)}
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    harmless = masks.get("SigBlk", 0) | masks.get("SigIgn", 0) | masks.get("SigCgt", 0) | _NOT_FATAL_MASK
    return bool(pending & ~harmless)
