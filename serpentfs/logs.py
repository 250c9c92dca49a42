"""Where log records go and what a line looks like: one line per record, on standard error or in a file.

Under systemd (standard error is the journal) a line starts with the priority that journald understands and has
no time of its own. Secrets never reach a record: they are kept out where they are held, not filtered here.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path

from serpentfs.errors import UsageError

ROOT_LOGGER = "serpentfs"

# https://man7.org/linux/man-pages/man3/sd-daemon.3.html: "<N>" before a line gives its priority.
_JOURNAL_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class _OneLine(logging.Formatter):
    """Folds line breaks (a traceback, a foreign message), so that one record stays one line."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return " | ".join(line for line in super().format(record).splitlines() if line.strip())


class _Journal(_OneLine):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_JOURNAL_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


def _is_journal(descriptor: int) -> bool:
    """Whether systemd connected this descriptor to the journal: JOURNAL_STREAM is its "device:inode"."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def level_of(verbosity: int) -> int:
    """-1 (quiet): errors; 0: warnings; 1: information; 2 and more: everything."""
    steps = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    return steps.get(verbosity, logging.ERROR if verbosity < 0 else logging.DEBUG)


def configure(verbosity: int = 0, log_file: Path | None = None) -> None:
    """Send the project's records to ``log_file`` or standard error, replacing an earlier configuration.

    The file is made with mode 0600 and found again after logrotate moved it. Libraries are heard from warnings on.
    UsageError when the file cannot be opened.
    """
    handler: logging.Handler
    if log_file is not None:
        try:
            os.close(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            handler = logging.handlers.WatchedFileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write the log file {log_file}: {error.strerror}") from error
    else:
        handler = logging.StreamHandler(sys.stderr)
    if log_file is None and _is_journal(2):
        handler.setFormatter(_Journal("%(name)s: %(message)s"))
    else:
        form = "%(asctime)sZ %(process)d %(levelname)s %(name)s: %(message)s"
        handler.setFormatter(_OneLine(form, datefmt="%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT_LOGGER).setLevel(level_of(verbosity))
    logging.captureWarnings(True)
