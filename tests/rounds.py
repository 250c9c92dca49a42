"""How often tests repeat what shows more the longer it runs."""

from __future__ import annotations

import os


def rounds(usual: int, long: int) -> int:
    """``usual`` in every run, ``long`` where ``SERPENTFS_TEST_LONG`` asks for it."""
    return long if os.environ.get("SERPENTFS_TEST_LONG") else usual
