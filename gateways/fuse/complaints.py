"""What libfuse and fusermount3 have to say. They write it to standard error, and it is to be had nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_OURS = ("fuse: ", "fusermount3: ", "fusermount: ", "mount: ")


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """What they write within the block is in the list afterwards, line by line. What somebody else wrote meanwhile (a
    log, from another thread) is passed on then."""
    heard: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:    # closed: nothing can be heard
        yield heard
        return
    written = os.memfd_create("stderr")
    os.dup2(written, 2)
    try:
        yield heard
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        with os.fdopen(written, "rb") as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            source = next((start for start in _OURS if line.startswith(start)), None)
            if source is not None:
                heard.append(line.removeprefix(source))
            else:
                os.write(2, f"{line}\n".encode())
