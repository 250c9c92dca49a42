"""Putting things right at start, after a clean stop as after a crash.

What the database says is true; what lies in staging/ beyond that is the rest of writes that nobody was promised.
Order matters only in one place: rows go before files, and durably (``Store.sync`` between ``recover`` and ``sweep``):
a power cut may bring back an older database than the one that a killed process left, and it needs its files.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from serpentfs.model import ContentId
from serpentfs.tree.store import DRAFT, REMOVED, Store
from serpentfs.vfs.ledger import Ledger
from serpentfs.vfs.reads import Contents

log = logging.getLogger(__name__)

KEEP_DRAFTS_NS = 8 * 24 * 3600 * 10**9
"""Partial uploads are kept for at least a week after their last byte."""


def recover(store: Store, ledger: Ledger, contents: Contents) -> None:
    """Load the journal and the stages, and drop what nothing refers to any more."""
    ledger.load()
    entries = [view.entry for view in ledger.journal.pending()]
    needed_inos = {entry.ino for entry in entries} | {entry.replaces for entry in entries if entry.replaces is not None}
    with store.transaction():
        store.drop_entries(REMOVED, keep=needed_inos)
        store.drop_entries(DRAFT, older_than_ns=time.time_ns() - KEEP_DRAFTS_NS)
        needed = store.entry_contents() | {entry.content for entry in entries}
        rows = {row.content: row for row in store.stages()}
        for content in list(needed):
            while (row := rows.get(content)) is not None and row.base:
                content = row.base
                needed.add(content)
        for content in rows.keys() - needed:
            store.drop_stage(content)
    contents.load_stages()
    for entry in entries:
        stage = contents.stage(entry.content) if entry.content else None
        if stage is not None:
            stage.frozen = True  # an upload of it may have begun before the stop
    if entries:
        log.info("%d changes wait for their upload", len(entries))


def sweep(staging: Path, known: set[ContentId]) -> None:
    """Remove the files of stages that are not ``known``. Blocks."""
    for path in staging.iterdir():
        try:
            content = int(path.name.partition(".")[0], 16)
        except ValueError:
            log.warning("a foreign file lies in the staging folder and is left alone: %s", path.name)
            continue
        if content not in known:
            path.unlink()
