"""What signals make an owner do.

    SIGINT, SIGTERM   upload what is left and end; once more: end now
    SIGHUP            open the log file anew and have the cloud list every folder again; but when it comes from the
                      end of the terminal that this process was started on: as SIGTERM
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

logger = logging.getLogger(__name__)

_WATCHED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)

Work = Callable[[], Awaitable[None]]


async def watch_signals(stop: Stop, refresh: Work, dump: Work) -> None:
    """Answer signals until cancelled. ``refresh`` and ``dump`` tell in the log what they cannot do."""
    had_terminal = _has_terminal()
    refreshing = dumping = False

    async def refresh_once() -> None:
        nonlocal refreshing
        try:
            await refresh()
        finally:
            refreshing = False

    async def dump_once() -> None:
        nonlocal dumping
        try:
            await dump()
        finally:
            dumping = False

    with trio.open_signal_receiver(*_WATCHED) as received:
        async with trio.open_nursery() as nursery:
            async for number in received:
                name = signal.Signals(number).name
                if name == "SIGUSR1":
                    if not dumping:
                        dumping = True
                        nursery.start_soon(dump_once)
                elif name == "SIGHUP" and not (had_terminal and not _has_terminal()):
                    logs.reopen()
                    logger.info("SIGHUP: the log file is opened anew, folders are listed again")
                    if not refreshing:
                        refreshing = True
                        nursery.start_soon(refresh_once)
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
