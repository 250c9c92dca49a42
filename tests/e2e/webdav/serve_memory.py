"""Serves a drive in memory; see ``runner``."""

from __future__ import annotations

from contextlib import nullcontext

from tests.e2e.webdav.runner import main
from tests.fakes.memory_vfs import MemoryVfs

if __name__ == "__main__":
    vfs = MemoryVfs()
    main(lambda: nullcontext(vfs))
