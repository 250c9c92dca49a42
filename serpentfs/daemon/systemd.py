"""Telling systemd (``Type=notify``) how far this process is and that it lives: sd_notify(3) without its library."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

import trio

logger = logging.getLogger(__name__)

_STATUS_EVERY = 2.0


def _address(environment: Mapping[str, str]) -> str | None:
    """Of who wants to be told; None outside systemd."""
    address = environment.get("NOTIFY_SOCKET", "")
    return address if address.startswith(("/", "@")) else None


def notify(state: str, *, within: float = 0.0) -> None:
    """Send lines such as ``READY=1`` or ``STOPPING=1``; nothing happens outside systemd. A systemd that does not listen
    at this moment is waited for so many seconds, and blocks all else of this process for as long."""
    address = _address(os.environ)
    if address is None:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(within)
            channel.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        logger.warning("cannot tell systemd %s: %s", state.partition("=")[0], error.strerror or error)


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two signs of life, half of what systemd allows (sd_watchdog_enabled(3)); None when it does not
    watch this process."""
    limit = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(limit) / 2_000_000


async def keep_informed(status: Callable[[], str]) -> None:
    """Until cancelled: pass on what ``status`` says (one line) whenever that is something else, and the signs of life
    that systemd asks for. They come from the loop that answers all doors: when it hangs, they stop."""
    if _address(os.environ) is None:
        return
    async with trio.open_nursery() as nursery:
        interval = watchdog_interval()
        if interval is not None:
            nursery.start_soon(_live, interval)
        told = ""
        while True:
            began = time.perf_counter()
            line = status()
            # With tens of thousands of changes the look itself takes a while: at most a tenth of the time.
            pause = max(_STATUS_EVERY, 10 * (time.perf_counter() - began))
            if line != told:
                notify(f"STATUS={line}")
                told = line
            await trio.sleep(pause)


async def _live(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(interval)
