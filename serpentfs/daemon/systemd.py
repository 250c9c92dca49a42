"""Telling systemd (``Type=notify``) how far this process is: sd_notify(3) without its library."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a line such as ``READY=1`` or ``STOPPING=1``; nothing happens outside systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        logger.warning("cannot tell systemd %s: %s", state, error.strerror)
