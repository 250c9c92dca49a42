"""What signals make an owner do.

    SIGINT, SIGTERM   upload what is left and end; once more: end now
    SIGHUP            open the log file anew, take over what the configuration says now (``settings``) and have the
                      cloud list every folder again; but when it comes from the end of the terminal that this process
                      was started on: as SIGTERM
    SIGUSR1           write the state of the process to a file (``dumping``)
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable

import trio

from serpentfs import logs
from serpentfs.daemon.stopping import Stop
from serpentfs.errors import UsageError

logger = logging.getLogger(__name__)

_WATCHED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)

Work = Callable[[], Awaitable[None]]


async def watch_signals(stop: Stop, reread: Work, refresh: Work, dump: Work) -> None:
    """Answer signals until cancelled. ``reread``, ``refresh`` and ``dump`` tell in the log what they cannot do. The
    first is begun by every signal; the others are not, while they run."""
    had_terminal = _has_terminal()
    running: set[Work] = set()

    async def run(work: Work) -> None:
        try:
            await work()
        finally:
            running.discard(work)

    def begin(work: Work) -> None:
        if work not in running:
            running.add(work)
            nursery.start_soon(run, work)

    with trio.open_signal_receiver(*_WATCHED) as received:
        async with trio.open_nursery() as nursery:
            async for number in received:
                name = signal.Signals(number).name
                if name == "SIGUSR1":
                    begin(dump)
                elif name == "SIGHUP" and not (had_terminal and not _has_terminal()):
                    try:
                        logs.reopen()
                    except UsageError as error:
                        logger.warning("%s", error)
                    logger.info("SIGHUP: the log file is opened anew, the configuration read, folders are listed again")
                    nursery.start_soon(reread)
                    begin(refresh)
                else:
                    again = stop.asked.is_set()
                    logger.info("%s: stopping%s", name, " now" if again else "")
                    stop.ask(now=again)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal: one that has hung up is none any more (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
