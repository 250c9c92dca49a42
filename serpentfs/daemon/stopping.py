"""How an owner is asked to end: "upload what is left, then go" (a first signal), or "go now" (a second one).

                  ask()                            uploads done
    serving ─────────────────────► draining ─────────────────────► gone
       │  ask(now=True)                │  ask(now=True)              ▲
       └───────────────────────────────┴──────── everything cancelled┘

Before the drive serves there is nothing to save, and any request ends everything. What was not
uploaded is in the journal and goes up at the next start.
"""

from __future__ import annotations

import signal

import trio

# A stop "now" that hangs (a stuck disk) is ended by the kernel: the default action of SIGALRM. The mount then
# answers ENOTCONN until it is detached.
_LAST_RESORT_SECONDS = 60


class Stop:
    """The request to end. ``everything`` is the scope whose cancellation ends the process's work at once."""

    def __init__(self, everything: trio.CancelScope) -> None:
        self._everything = everything
        self._serving = False
        self.upload_at_end = True
        """Whether the end of a door means "upload what is left" or "go now"."""
        self.asked = trio.Event()
        """Somebody asked: begin to drain."""
        self.drained = trio.Event()
        """All uploads are confirmed and the drive is closed."""

    def begin_serving(self) -> None:
        """From now on the first request drains."""
        self._serving = True

    def door_closed(self) -> None:
        """A door was closed from outside."""
        self.ask(now=not self.upload_at_end)

    def ask(self, *, now: bool = False) -> None:
        self.asked.set()
        if now or not self._serving:
            if hasattr(signal, "alarm"):
                signal.alarm(_LAST_RESORT_SECONDS)
            self._everything.cancel()
