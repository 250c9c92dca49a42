"""Names of conflict copies."""

from __future__ import annotations

import time
from collections.abc import Callable


def conflict_name(name: str, host: str, now: float, is_free: Callable[[str], bool], longest: int) -> str:
    """``report (conflict anna-laptop 2026-11-20 14.03.07).odt``: the first such name that ``is_free`` accepts.

    ``now`` is seconds since the epoch, shown in UTC; ``longest`` is the store's limit in bytes of UTF-8, for which
    the stem is cut.
    """
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    moment = time.strftime("%Y-%m-%d %H.%M.%S", time.gmtime(now))
    count = 1
    while True:
        number = "" if count == 1 else f" {count}"
        tail = f" (conflict {host} {moment}{number}){dot}{suffix}"
        room = max(1, longest - len(tail.encode("utf-8", "surrogateescape")))
        kept = stem.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "ignore")
        candidate = kept + tail
        if is_free(candidate):
            return candidate
        count += 1
