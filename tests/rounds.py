"""How often tests repeat what shows more the longer it runs."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("SERPENTFS_TEST_LONG"))


def rounds(usual: int, long: int) -> int:
    """``usual`` in every run; ``long`` where ``SERPENTFS_TEST_LONG`` asks for it, which takes the better part of an
    hour."""
    return long if LONG else usual
