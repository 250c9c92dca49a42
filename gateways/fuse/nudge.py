"""Keeps the loop from freezing in a read of /dev/fuse.

pyfuse3 polls and then reads, and the read blocks. A request whose client is killed between the two vanishes, and
then everything on the loop waits for the next request, whenever that comes. So a thread watches the loop's pulse,
and when that stops it makes a request of its own. Should the loop merely be busy, that request waits its turn.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from types import TracebackType

log = logging.getLogger(__name__)


class Nudge:
    """A context manager; the loop calls ``beat`` every second or so."""

    def __init__(self, path: str, *, frozen_after: float = 3.0) -> None:
        self._path = path
        self._frozen_after = frozen_after
        self._last_beat = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fuse-nudge", daemon=True)

    def __enter__(self) -> Nudge:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not joined: it may be in a request that only the end of the connection will end.
        self._stopped.set()

    def beat(self) -> None:
        self._last_beat = time.monotonic()

    def _watch(self) -> None:
        while not self._stopped.wait(self._frozen_after / 2):
            if time.monotonic() - self._last_beat < self._frozen_after:
                continue
            try:
                os.statvfs(self._path)
            except OSError as error:
                log.debug("the request that should wake the loop: %s", error)
