"""state.db: the SQLite database of one remote, and the only module that speaks SQL.

Every change is one transaction (``with store.transaction():``) on the loop's thread; between ``begin`` and
``commit`` nothing awaits. WAL with ``synchronous=NORMAL`` makes a commit survive ``kill -9``; ``sync`` (an
fdatasync of the WAL, in a thread) makes all earlier commits survive a power cut, which is what
``synchronous=FULL`` does per commit, without stopping the loop. Checkpoints run in a thread on a connection of
their own, because a checkpoint on the loop's thread is a stall; only the last of a large one is done there.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import trio

from serpentfs.bridge import run_in_thread
from serpentfs.errors import BadVault, NoSpace, SerpentError, Unavailable
from serpentfs.model import (
    NO_CONTENT,
    ROOT_INO,
    Attributes,
    BlockIndex,
    ContentId,
    Ino,
    Kind,
    NodeId,
    NodeInfo,
    NodeRef,
    Revision,
)
from serpentfs.tree.known_rows import KnownRows
from serpentfs.tree.names import NameSeal, derive_key

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
"""1: the same tables, with blocks in staging/ that were sealed as a whole, where now each is sealed in parts."""

# Scopes of sealed values that are not names of a folder: negative, so that no inode equals one.
_SCOPE_NODE = -1
_SCOPE_LOCATOR = -2
_SCOPE_TARGET = -3
_SCOPE_RECORD = -4
_SCOPE_XATTR = -5

LINKED, REMOVED, DRAFT = 0, 1, 2
"""States of an entry: in a folder; a tombstone (dropped at the next start); a kept draft."""

_SCHEMA = """
-- Facts about this database: schema, salt, check, and the high-water marks of inodes and content ids.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- What the user sees.
CREATE TABLE entries (
    ino INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,        -- folder; 0 for the root, tombstones and drafts
    key BLOB,                       -- sealed name_key(name), what look-ups compare
    name BLOB,                      -- sealed name where it differs from its key
    kind INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    atime_ns INTEGER NOT NULL,
    content INTEGER NOT NULL,       -- content id, 0 for folders and links
    generation INTEGER NOT NULL,    -- counts the contents of this entry
    mode INTEGER, uid INTEGER, gid INTEGER,   -- NULL: never set
    target BLOB,                    -- sealed target of a link
    state INTEGER NOT NULL          -- LINKED, REMOVED, DRAFT
);
CREATE UNIQUE INDEX entries_by_key ON entries (parent, key) WHERE parent > 0;
CREATE INDEX entries_by_ino ON entries (parent, ino) WHERE parent > 0;

-- What the cloud is known to hold. An inode without a row here is not in the cloud (yet, or no more).
CREATE TABLE nodes (
    ino INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,        -- inode of the folder that holds it in the cloud
    node BLOB NOT NULL,             -- sealed node id
    locator BLOB NOT NULL,          -- sealed locator
    revision TEXT NOT NULL,
    size INTEGER NOT NULL,
    content INTEGER NOT NULL        -- the content id that this revision is
);
CREATE UNIQUE INDEX nodes_by_node ON nodes (node);
CREATE INDEX nodes_by_parent ON nodes (parent, ino);
-- Folders and links: what a new listing need not read again.
CREATE INDEX nodes_by_locator ON nodes (locator) WHERE content = 0;

-- Contents that the cloud has not confirmed; their blocks lie in staging/.
CREATE TABLE stages (
    content INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,
    base INTEGER NOT NULL,          -- content that shows through where nothing is staged, 0: zeros
    base_limit INTEGER NOT NULL     -- bytes of the base that show through at most (truncation cuts it)
);
CREATE TABLE stage_blocks (
    content INTEGER NOT NULL, block INTEGER NOT NULL,
    plane INTEGER NOT NULL,         -- which of the content's staging files holds the block
    PRIMARY KEY (content, block)
) WITHOUT ROWID;

-- The journal (vfs/JOURNAL.md). Names are sealed under the parent beside them.
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    operation TEXT NOT NULL,
    ino INTEGER NOT NULL,
    source_parent INTEGER, source_name BLOB,
    target_parent INTEGER, target_name BLOB,
    replaces INTEGER,
    content INTEGER NOT NULL,
    mtime_ns INTEGER,
    ancestors TEXT NOT NULL,        -- inodes, blank separated
    leaf INTEGER NOT NULL,
    recorded REAL NOT NULL
);

-- Small durable facts of the doors (locks, partial uploads); keys and values sealed.
CREATE TABLE records (
    door TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (door, key)
) WITHOUT ROWID;

-- Extended attributes, kept on this machine only; names and values sealed.
CREATE TABLE xattrs (
    ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (ino, name)
) WITHOUT ROWID;
"""


class EntryRow(NamedTuple):
    """One entry, its name in cleartext."""

    ino: Ino
    parent: Ino
    name: str
    kind: Kind
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    content: ContentId
    generation: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    target: str | None = None
    state: int = LINKED

    def attributes(self) -> Attributes:
        ino, parent, _, kind, size, mtime, ctime, atime, content, generation, mode, uid, gid, _, state = self
        nlink = 0 if state == REMOVED else 1
        return Attributes(
            ino, parent, kind, size, mtime, ctime, atime, content, generation, mode, uid, gid, nlink
        )


class NodeRow(NamedTuple):
    """What the cloud holds for an inode."""

    ino: Ino
    parent: Ino
    node: NodeId
    locator: str
    revision: Revision
    size: int
    content: ContentId

    def ref(self, kind: Kind) -> NodeRef:
        return NodeRef(self.node, kind, self.revision, self.size, self.locator)


class StageRow(NamedTuple):
    content: ContentId
    size: int
    base: ContentId
    base_limit: int


class JournalRow(NamedTuple):
    """One journal entry as stored; names in cleartext."""

    seq: int
    operation: str
    ino: Ino
    source: tuple[Ino, str] | None
    target: tuple[Ino, str] | None
    replaces: Ino | None
    content: ContentId
    mtime_ns: int | None
    ancestors: tuple[Ino, ...]
    leaf: bool
    recorded: float


_ENTRY_COLUMNS = (
    "ino, parent, key, name, kind, size, mtime_ns, ctime_ns, atime_ns, content, generation, mode, uid, gid, target,"
    " state"
)
_SELECT_ENTRY = f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE ino = ?"
_SELECT_CHILD = f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE parent = ? AND key = ? AND parent > 0"
_INSERT_ENTRY = f"INSERT OR REPLACE INTO entries ({_ENTRY_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_NODE_COLUMNS = "ino, parent, node, locator, revision, size, content"
_INSERT_NODE = f"INSERT OR REPLACE INTO nodes ({_NODE_COLUMNS}) VALUES (?,?,?,?,?,?,?)"
_LEAP = 1 << 44
"""Leaves room for half a million starts in 63 bits; two starts meet with a chance of about one in ten million."""
_BUSY_TIMEOUT = 30
"""Seconds."""
_LOCKED_FOR_LIFE = "?vfs=unix-excl"
"""SQLite locks the file once and keeps its index of the WAL in memory, instead of some ten system calls for each
transaction (https://www.sqlite.org/vfs.html). All connections are of this process, which owns the remote."""
_CHECKPOINT_EVERY = 1.0
_CHECKPOINT_ABOVE = 4 << 20
_WAL_LIMIT = 64 << 20
"""Bytes: what a thousand files that are made and filled write there."""
_GATHER = 0.01
"""Seconds that a patient ``sync`` waits for others: a small upload takes some milliseconds, and many are under way."""
_NAMES = 4096
"""Names whose keys and sealed forms are remembered: a new one is needed several times in a row."""
_RESERVE = 4096
"""Identifiers are taken from the database this many at a time, so that most changes need not touch ``meta``."""


def _marks(values: Collection[object]) -> str:
    """A placeholder for each."""
    return ",".join("?" * len(values))


def _as_ours(error: sqlite3.Error) -> SerpentError:
    if isinstance(error, sqlite3.OperationalError):
        if "full" in str(error):
            return NoSpace("the disk that holds the local state is full")
        return Unavailable(f"the local state cannot be used: {error}")
    return BadVault(f"the local state is damaged: {error}")


class _Connection(sqlite3.Connection):
    """Raises errors of ours. (Only the first row is fetched by ``execute``; damage further on comes as sqlite3's.)"""

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except sqlite3.Error as error:
            raise _as_ours(error) from error

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        try:
            return super().executemany(sql, parameters)
        except sqlite3.Error as error:
            raise _as_ours(error) from error


class _Transaction:
    """See ``Store.transaction``. (Not a generator: there are two for each file that is made and filled.)"""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                self._store._commit()
            except BaseException:
                self._store._roll_back()
                raise
        else:
            self._store._roll_back()


class Store:
    """The database of one remote. All methods but ``sync`` and ``checkpoint`` are plain and run on the loop's thread.

    Raises BadVault when the file belongs to another key or is damaged, NoSpace when the disk is full.
    """

    def __init__(self, path: Path, secret: bytes, name_key: Callable[[str], str]) -> None:
        self.path = path
        self._name_key = name_key
        self._known = KnownRows()
        self._transactions = 1
        """Committed so far; those before the start count as one, as they may not be durable."""
        self._durable_transactions = 0
        self._syncing = trio.Lock()
        self._hurry = trio.Event()
        """Somebody waits for the disk who is not patient."""
        self._db = self._connect()
        self._next = {"ino": 0, "content": 0}
        self._reserved = dict(self._next)
        self._create_or_check(secret)
        for counter in self._next:
            self._next[counter] = self._reserved[counter] = self._meta_int(f"next_{counter}")
        # After a power cut the database may be older than sealed blocks in the cache and ETags of clients: a leap to
        # somewhere else at every start keeps a content id from coming up twice.
        self._next["content"] += secrets.randbelow(_LEAP)
        self._reserved["content"] = self._next["content"]
        # Held open for ever: closing a descriptor of a database file would drop this process's locks on it. Only
        # the -wal file is opened here, which carries no locks.
        self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)

    def _connect(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(
                self.path.absolute().as_uri() + _LOCKED_FOR_LIFE,
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=_BUSY_TIMEOUT,
                factory=_Connection,
            )
        except sqlite3.Error as error:
            raise _as_ours(error) from error
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("PRAGMA cache_size=-16384")
        return db

    def _create_or_check(self, secret: bytes) -> None:
        exists = self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
        if exists:
            salt = self._meta("salt")
            self._derive(secret, salt)
            if not hmac.compare_digest(self._meta("check"), self._check):
                raise BadVault("the local state belongs to another key")
            self._check_schema()
            return
        salt = secrets.token_bytes(32)
        self._derive(secret, salt)
        now = time.time_ns()
        with self.transaction():
            # executescript() would commit by itself; one statement at a time keeps creation all or nothing.
            for statement in _SCHEMA.split(";\n"):
                self._db.execute(statement)
            meta: dict[str, int | bytes] = {
                "schema": SCHEMA_VERSION,
                "salt": salt,
                "check": self._check,
                "next_ino": ROOT_INO + 1,
                "next_content": 1,
            }
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            self.insert_entry(EntryRow(ROOT_INO, Ino(0), "", Kind.DIRECTORY, 0, now, now, now, NO_CONTENT, 0))

    def _check_schema(self) -> None:
        schema = self._meta_int("schema")
        if schema == SCHEMA_VERSION:
            return
        if schema != 1:
            raise BadVault("the local state was written by another version of this program")
        if self._db.execute("SELECT 1 FROM stage_blocks").fetchone() is not None:
            raise BadVault(
                "a former version of this program left changes that wait for their upload: have it upload them first"
            )
        with self.transaction():
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA_VERSION,))

    def _derive(self, secret: bytes, salt: bytes) -> None:
        self._seal = NameSeal(derive_key(secret, salt, "names", 64))
        self._sealed = lru_cache(_NAMES)(self._seal.seal)
        self._check = derive_key(secret, salt, "check")
        self.block_key = derive_key(secret, salt, "blocks")
        self.token_key = derive_key(secret, salt, "tokens")

    def _meta(self, key: str) -> bytes:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise BadVault("the local state is incomplete")
        return row[0]  # type: ignore[no-any-return]

    def is_complete(self) -> bool:
        """Whether the whole cloud was seen once, so that the tree can be shown without asking it."""
        return self._db.execute("SELECT 1 FROM meta WHERE key = 'complete'").fetchone() is not None

    def set_complete(self) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('complete', x'01')")

    def _meta_int(self, key: str) -> int:
        return int(self._meta(key))

    def close(self) -> None:
        """Checkpoint what is left and close. What cannot be moved into the database stays in its log."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except SerpentError as error:
            log.warning("%s", error)
        self._db.close()
        os.close(self._wal)
        os.close(self._directory)

    def transaction(self) -> _Transaction:
        """All or nothing. Nothing inside may await."""
        return _Transaction(self)

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        self._transactions += 1

    def _roll_back(self) -> None:
        # A failed COMMIT (disk full) may have rolled back by itself already.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._known.forget_all()
        # A reservation of identifiers may have been rolled back, too: reserve anew.
        self._reserved.update(self._next)

    async def sync(self, *, patient: bool = False) -> None:
        """Make every transaction committed so far survive a power cut. Who comes while another one waits for the
        disk shares the next turn. A ``patient`` one waits some milliseconds for others to share its own, unless one of
        them is not."""

        def fdatasync() -> None:
            os.fdatasync(self._wal)
            os.fsync(self._directory)

        wanted = self._transactions
        if not patient:
            self._hurry.set()
        async with self._syncing:
            if self._durable_transactions >= wanted:
                return
            if patient:
                with trio.move_on_after(_GATHER):
                    await self._hurry.wait()
            self._hurry = trio.Event()
            covered = self._transactions
            try:
                await run_in_thread("sync", fdatasync)
            except OSError as error:
                raise Unavailable(f"the local state cannot be made durable: {error}") from error
            self._durable_transactions = covered

    async def run_checkpoints(self) -> None:
        """Move the WAL into the database from time to time, until cancelled. In a thread, because that takes its time;
        but SQLite begins the WAL anew only when a checkpoint met no commit behind its back, and so one that is written
        to without a pause would grow for ever. The last of a large one is moved here, where nobody commits meanwhile:
        some milliseconds. Giving its room back takes longer and is for quiet moments."""
        while True:
            await trio.sleep(_CHECKPOINT_EVERY)
            if os.fstat(self._wal).st_size <= _CHECKPOINT_ABOVE:
                continue
            before = self._transactions
            await run_in_thread("sync", self._checkpoint)
            if self._transactions == before:
                self._begin_wal_anew("TRUNCATE")
            elif os.fstat(self._wal).st_size > _WAL_LIMIT:
                self._begin_wal_anew("RESTART")

    def _begin_wal_anew(self, how: str) -> None:
        try:
            self._db.execute("PRAGMA busy_timeout=0")    # what is in use now may be free next time
            try:
                self._db.execute(f"PRAGMA wal_checkpoint({how})")
            finally:
                self._db.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT * 1000}")
        except SerpentError as error:
            log.warning("a checkpoint of the local state failed: %s", error)

    def _checkpoint(self) -> None:
        try:
            db = self._connect()
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                db.close()
        except SerpentError as error:
            log.warning("a checkpoint of the local state failed: %s", error)

    # identifiers

    def _take(self, counter: str) -> int:
        """The next number. Inside a transaction; numbers of a rolled back one are lost, not reused."""
        number = self._next[counter]
        if number >= self._reserved[counter]:
            self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (number + _RESERVE, f"next_{counter}"))
            self._reserved[counter] = number + _RESERVE
        self._next[counter] = number + 1
        return number

    def new_ino(self) -> Ino:
        return Ino(self._take("ino"))

    def new_content(self) -> ContentId:
        return ContentId(self._take("content"))

    # entries

    def _row(self, raw: tuple[object, ...]) -> EntryRow:
        (
            ino, parent, key, name, kind, size, mtime, ctime, atime, content, generation, mode, uid, gid, target, state,
        ) = raw  # fmt: skip
        sealed = key if name is None else name
        return EntryRow(
            ino,  # type: ignore[arg-type]
            parent,  # type: ignore[arg-type]
            self._seal.open(sealed, parent) if sealed else "",  # type: ignore[arg-type]
            Kind(kind),  # type: ignore[arg-type]
            size,  # type: ignore[arg-type]
            mtime,  # type: ignore[arg-type]
            ctime,  # type: ignore[arg-type]
            atime,  # type: ignore[arg-type]
            content,  # type: ignore[arg-type]
            generation,  # type: ignore[arg-type]
            mode,  # type: ignore[arg-type]
            uid,  # type: ignore[arg-type]
            gid,  # type: ignore[arg-type]
            self._seal.open(target, _SCOPE_TARGET) if target else None,  # type: ignore[arg-type]
            state,  # type: ignore[arg-type]
        )

    def entry(self, ino: Ino) -> EntryRow | None:
        row = self._known.row(ino)
        if row is not None:
            return row
        raw = self._db.execute(_SELECT_ENTRY, (ino,)).fetchone()
        if raw is None:
            return None
        row = self._row(raw)
        self._known.put(row, self._name_key(row.name) if row.parent else "")
        return row

    def child(self, parent: Ino, name: str) -> EntryRow | None:
        key = self._name_key(name)
        row = self._known.at(parent, key)
        if row is not None or self._known.is_free(parent, key):
            return row
        raw = self._db.execute(_SELECT_CHILD, (parent, self._sealed(key, parent))).fetchone()
        if raw is None:
            self._known.found_free(parent, key)
            return None
        row = self._row(raw)
        self._known.put(row, key)
        return row

    @property
    def changed_rows(self) -> int:
        """Counts every row that was ever changed, of whatever table, and back again by a rollback."""
        return self._db.total_changes

    def taken(self, parent: Ino, keys: Sequence[str]) -> set[str]:
        """Those of some hundred name keys under which there is an entry in a folder."""
        by_seal = {self._sealed(key, parent): key for key in keys}
        rows = self._db.execute(
            f"SELECT key FROM entries WHERE parent = ? AND key IN ({_marks(by_seal)}) AND parent > 0",
            (parent, *by_seal),
        ).fetchall()
        return {by_seal[sealed] for (sealed,) in rows}

    def children(self, parent: Ino, after: int = 0, limit: int = -1) -> list[EntryRow]:
        """In order of inode, above ``after``."""
        rows = self._db.execute(
            f"SELECT {_ENTRY_COLUMNS} FROM entries INDEXED BY entries_by_ino"
            " WHERE parent = ? AND ino > ? AND parent > 0 ORDER BY ino LIMIT ?",
            (parent, after, limit),
        ).fetchall()
        return [self._row(raw) for raw in rows]

    def files_in(self, parent: Ino, after: Ino, limit: int) -> list[tuple[Ino, ContentId, int]]:
        """Inode, content and size of a folder's files, in order of inode, above ``after``."""
        rows = self._db.execute(
            "SELECT ino, content, size FROM entries INDEXED BY entries_by_ino"
            " WHERE parent = ? AND ino > ? AND parent > 0 AND kind = ? ORDER BY ino LIMIT ?",
            (parent, after, Kind.FILE, limit),
        ).fetchall()
        return [(Ino(ino), ContentId(content), size) for ino, content, size in rows]

    def has_children(self, parent: Ino) -> bool:
        return (
            self._db.execute("SELECT 1 FROM entries WHERE parent = ? AND parent > 0 LIMIT 1", (parent,)).fetchone()
            is not None
        )

    def _sealed_name(self, parent: Ino, key: str, name: str) -> tuple[bytes | None, bytes | None]:
        if not parent:
            return None, None
        return self._sealed(key, parent), None if key == name else self._sealed(name, parent)

    def _entry_values(self, row: EntryRow, key: str) -> tuple[object, ...]:
        return (
            row.ino, row.parent, *self._sealed_name(row.parent, key, row.name),
            int(row.kind), row.size, row.mtime_ns, row.ctime_ns, row.atime_ns,
            row.content, row.generation, row.mode, row.uid, row.gid,
            None if row.target is None else self._seal.seal(row.target, _SCOPE_TARGET), row.state,
        )  # fmt: skip

    def insert_entry(self, row: EntryRow) -> None:
        """Insert or replace the entry ``row.ino``."""
        key = self._name_key(row.name) if row.parent else ""
        self._db.execute(_INSERT_ENTRY, self._entry_values(row, key))
        self._known.put(row if row.parent else row._replace(name=""), key)

    def insert_children(self, found: Sequence[tuple[EntryRow, NodeRow]]) -> None:
        """Insert entries that are new, at places that are free, and what the cloud holds for them: many at once take
        half the time that they take one by one."""
        entries = []
        for row, _ in found:
            key = self._name_key(row.name)
            entries.append(self._entry_values(row, key))
            self._known.is_taken(row.parent, key)
        self._db.executemany(_INSERT_ENTRY, entries)
        self._db.executemany(_INSERT_NODE, [self._node_values(node) for _, node in found])

    def place_entry(self, ino: Ino, parent: Ino, name: str, ctime_ns: int) -> None:
        """Link an entry at another place (its state becomes LINKED)."""
        key = self._name_key(name)
        self._db.execute(
            "UPDATE entries SET parent = ?, key = ?, name = ?, ctime_ns = ?, state = ? WHERE ino = ?",
            (parent, *self._sealed_name(parent, key, name), ctime_ns, LINKED, ino),
        )
        row = self._known.row(ino)
        if row is not None:
            self._known.put(row._replace(parent=parent, name=name, ctime_ns=ctime_ns, state=LINKED), key)
        else:
            self._known.is_taken(parent, key)

    def remove_entry(self, ino: Ino) -> None:
        """Make an entry a tombstone."""
        self._db.execute(
            "UPDATE entries SET parent = 0, key = NULL, name = NULL, state = ? WHERE ino = ?", (REMOVED, ino)
        )
        row = self._known.row(ino)
        if row is not None:
            self._known.put(row._replace(parent=Ino(0), name="", state=REMOVED), "")

    def set_content(
        self,
        ino: Ino,
        content: ContentId,
        size: int,
        mtime_ns: int,
        ctime_ns: int,
        *,
        generation: int | None = None,
    ) -> None:
        """A new content: the generation advances, to ``generation`` if given."""
        self._db.execute(
            "UPDATE entries SET content = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
            " generation = coalesce(?, generation + 1) WHERE ino = ?",
            (content, size, mtime_ns, ctime_ns, generation, ino),
        )
        row = self._known.row(ino)
        if row is not None:
            self._known.change(
                row._replace(
                    content=content, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns,
                    generation=row.generation + 1 if generation is None else generation,
                )
            )  # fmt: skip

    def set_times(self, ino: Ino, mtime_ns: int | None, atime_ns: int | None, ctime_ns: int) -> None:
        self._db.execute(
            "UPDATE entries SET mtime_ns = coalesce(?, mtime_ns), atime_ns = coalesce(?, atime_ns), ctime_ns = ?"
            " WHERE ino = ?",
            (mtime_ns, atime_ns, ctime_ns, ino),
        )
        row = self._known.row(ino)
        if row is not None:
            self._known.change(
                row._replace(
                    mtime_ns=row.mtime_ns if mtime_ns is None else mtime_ns,
                    atime_ns=row.atime_ns if atime_ns is None else atime_ns,
                    ctime_ns=ctime_ns,
                )
            )

    def set_permissions(self, ino: Ino, mode: int | None, uid: int | None, gid: int | None, ctime_ns: int) -> None:
        self._db.execute(
            "UPDATE entries SET mode = coalesce(?, mode), uid = coalesce(?, uid), gid = coalesce(?, gid), ctime_ns = ?"
            " WHERE ino = ?",
            (mode, uid, gid, ctime_ns, ino),
        )
        row = self._known.row(ino)
        if row is not None:
            self._known.change(
                row._replace(
                    mode=row.mode if mode is None else mode,
                    uid=row.uid if uid is None else uid,
                    gid=row.gid if gid is None else gid,
                    ctime_ns=ctime_ns,
                )
            )

    def set_target(self, ino: Ino, target: str, size: int) -> None:
        """Another target of a link."""
        self._db.execute(
            "UPDATE entries SET target = ?, size = ? WHERE ino = ?", (self._seal.seal(target, _SCOPE_TARGET), size, ino)
        )
        self._known.forget(ino)

    def drop_entries(self, state: int, *, older_than_ns: int | None = None, keep: Iterable[Ino] = ()) -> None:
        """Delete the rows of tombstones or drafts, with all that belongs to them."""
        self._known.forget_all()
        kept = set(keep)
        rows = self._db.execute(
            "SELECT ino FROM entries WHERE state = ? AND (? IS NULL OR ctime_ns < ?)",
            (state, older_than_ns, older_than_ns),
        ).fetchall()
        for table in ("entries", "nodes", "xattrs"):
            self._db.executemany(f"DELETE FROM {table} WHERE ino = ?", [(ino,) for (ino,) in rows if ino not in kept])

    def entry_contents(self) -> set[ContentId]:
        """Every content that an entry shows."""
        return {ContentId(content) for (content,) in self._db.execute("SELECT content FROM entries WHERE content > 0")}

    # nodes

    def _node(self, raw: tuple[object, ...] | None) -> NodeRow | None:
        if raw is None:
            return None
        ino, parent, node, locator, revision, size, content = raw
        return NodeRow(
            ino,  # type: ignore[arg-type]
            parent,  # type: ignore[arg-type]
            NodeId(self._seal.open(node, _SCOPE_NODE)),  # type: ignore[arg-type]
            self._seal.open(locator, _SCOPE_LOCATOR),  # type: ignore[arg-type]
            revision,  # type: ignore[arg-type]
            size,  # type: ignore[arg-type]
            content,  # type: ignore[arg-type]
        )

    def node_of(self, ino: Ino) -> NodeRow | None:
        return self._node(self._db.execute(f"SELECT {_NODE_COLUMNS} FROM nodes WHERE ino = ?", (ino,)).fetchone())

    def node_by_id(self, node: NodeId) -> NodeRow | None:
        sealed = self._seal.seal(node, _SCOPE_NODE)
        return self._node(self._db.execute(f"SELECT {_NODE_COLUMNS} FROM nodes WHERE node = ?", (sealed,)).fetchone())

    def nodes_by_id(self, nodes: Sequence[NodeId]) -> dict[NodeId, NodeRow]:
        """Those of some hundred nodes that are known."""
        sealed = [self._sealed(node, _SCOPE_NODE) for node in nodes]
        rows = self._db.execute(
            f"SELECT {_NODE_COLUMNS} FROM nodes WHERE node IN ({_marks(sealed)})", sealed
        ).fetchall()
        return {row.node: row for row in map(self._node, rows) if row is not None}

    def nodes_in(self, parent: Ino, after: int = 0, limit: int = -1) -> list[NodeRow]:
        """What the cloud holds in a folder, in order of inode, above ``after``."""
        rows = self._db.execute(
            f"SELECT {_NODE_COLUMNS} FROM nodes WHERE parent = ? AND ino > ? ORDER BY ino LIMIT ?",
            (parent, after, limit),
        ).fetchall()
        return [node for node in map(self._node, rows) if node is not None]

    def without_node(self, parent: Ino, after: int = 0, limit: int = 1000) -> tuple[list[Ino], Ino | None]:
        """Of the next ``limit`` entries of a folder, in order of inode, above ``after``: those that the cloud does not
        hold, and the last that was looked at (None: there are no more)."""
        rows = self._db.execute(
            "SELECT ino, EXISTS (SELECT 1 FROM nodes WHERE nodes.ino = some.ino) FROM"
            " (SELECT ino FROM entries INDEXED BY entries_by_ino"
            "  WHERE parent = ? AND ino > ? AND parent > 0 ORDER BY ino LIMIT ?) AS some",
            (parent, after, limit),
        ).fetchall()
        return [Ino(ino) for ino, held in rows if not held], Ino(rows[-1][0]) if len(rows) == limit else None

    def known(self, locator: str, revision: Revision) -> NodeInfo | None:
        """The folder or link that was last seen with this locator and revision, for ``clouds.base.Known``."""
        sealed = self._seal.seal(locator, _SCOPE_LOCATOR)
        raw = self._db.execute(
            f"SELECT {_NODE_COLUMNS} FROM nodes WHERE locator = ? AND content = 0 AND revision = ?", (sealed, revision)
        ).fetchone()
        node = self._node(raw)
        if node is None:
            return None
        entry, parent = self.entry(node.ino), self.node_of(node.parent)
        if entry is None:
            return None
        return NodeInfo(
            id=node.node,
            parent=None if parent is None else parent.node,
            name=entry.name,
            kind=entry.kind,
            size=node.size,
            mtime_ns=entry.mtime_ns,
            revision=node.revision,
            locator=node.locator,
            target=entry.target,
        )

    def put_node(self, row: NodeRow) -> None:
        self._db.execute(_INSERT_NODE, self._node_values(row))

    def _node_values(self, row: NodeRow) -> tuple[object, ...]:
        node = self._sealed(row.node, _SCOPE_NODE)
        locator = self._seal.seal(row.locator, _SCOPE_LOCATOR)
        return (row.ino, row.parent, node, locator, row.revision, row.size, row.content)

    def drop_node(self, ino: Ino) -> None:
        self._db.execute("DELETE FROM nodes WHERE ino = ?", (ino,))

    # stages

    def stages(self) -> list[StageRow]:
        return [StageRow(*row) for row in self._db.execute("SELECT content, size, base, base_limit FROM stages")]

    def stage(self, content: ContentId) -> StageRow | None:
        query = "SELECT content, size, base, base_limit FROM stages WHERE content = ?"
        row = self._db.execute(query, (content,)).fetchone()
        return None if row is None else StageRow(*row)

    def stage_blocks(self, content: ContentId) -> dict[BlockIndex, int]:
        return dict(self._db.execute("SELECT block, plane FROM stage_blocks WHERE content = ?", (content,)))

    def put_stage(self, row: StageRow) -> None:
        self._db.execute("INSERT OR REPLACE INTO stages VALUES (?,?,?,?)", row)

    def put_stage_blocks(self, content: ContentId, planes: dict[BlockIndex, int]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO stage_blocks VALUES (?,?,?)",
            [(content, block, plane) for block, plane in planes.items()],
        )

    def drop_stage_blocks_from(self, content: ContentId, first: int) -> None:
        self._db.execute("DELETE FROM stage_blocks WHERE content = ? AND block >= ?", (content, first))

    def drop_stage(self, content: ContentId) -> None:
        self._db.execute("DELETE FROM stages WHERE content = ?", (content,))
        self._db.execute("DELETE FROM stage_blocks WHERE content = ?", (content,))

    def drop_draft(self, ino: Ino, content: ContentId) -> None:
        """Forget a kept draft and its content."""
        self._known.forget(ino)
        self._db.execute("DELETE FROM entries WHERE ino = ? AND state = ?", (ino, DRAFT))
        self.drop_stage(content)

    # journal

    def journal(self) -> list[JournalRow]:
        rows = self._db.execute(
            "SELECT seq, operation, ino, source_parent, source_name, target_parent, target_name, replaces, content,"
            " mtime_ns, ancestors, leaf, recorded FROM journal ORDER BY seq"
        )
        return [
            JournalRow(
                seq,
                operation,
                ino,
                None if source is None else (source, self._seal.open(source_name, source)),
                None if target is None else (target, self._seal.open(target_name, target)),
                replaces,
                content,
                mtime_ns,
                tuple(Ino(int(ino)) for ino in ancestors.split()),
                bool(leaf),
                recorded,
            )
            for (
                seq, operation, ino, source, source_name, target, target_name, replaces, content, mtime_ns,
                ancestors, leaf, recorded,
            ) in rows
        ]  # fmt: skip

    def put_journal(self, row: JournalRow) -> None:
        source_parent, source_name = self._sealed_place(row.source)
        target_parent, target_name = self._sealed_place(row.target)
        self._db.execute(
            "INSERT OR REPLACE INTO journal VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                row.seq, row.operation, row.ino, source_parent, source_name, target_parent, target_name, row.replaces,
                row.content, row.mtime_ns, " ".join(map(str, row.ancestors)), row.leaf, row.recorded,
            ),
        )  # fmt: skip

    def _sealed_place(self, place: tuple[Ino, str] | None) -> tuple[Ino | None, bytes | None]:
        if place is None:
            return None, None
        return place[0], self._sealed(place[1], place[0])

    def drop_journal(self, seqs: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM journal WHERE seq = ?", [(seq,) for seq in seqs])

    # records of doors, extended attributes

    def records(self, door: str) -> dict[str, bytes]:
        rows = self._db.execute("SELECT key, value FROM records WHERE door = ?", (door,))
        return {
            self._seal.open(key, _SCOPE_RECORD): self._seal.open_bytes(value, _SCOPE_RECORD) for key, value in rows
        }

    def put_record(self, door: str, key: str, value: bytes | None) -> None:
        sealed = self._seal.seal(key, _SCOPE_RECORD)
        if value is None:
            self._db.execute("DELETE FROM records WHERE door = ? AND key = ?", (door, sealed))
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO records VALUES (?,?,?)",
                (door, sealed, self._seal.seal_bytes(value, _SCOPE_RECORD)),
            )

    def xattrs(self, ino: Ino) -> dict[str, bytes]:
        rows = self._db.execute("SELECT name, value FROM xattrs WHERE ino = ?", (ino,))
        return {self._seal.open(name, _SCOPE_XATTR): self._seal.open_bytes(value, ino) for name, value in rows}

    def put_xattr(self, ino: Ino, name: str, value: bytes | None) -> None:
        sealed = self._seal.seal(name, _SCOPE_XATTR)
        if value is None:
            self._db.execute("DELETE FROM xattrs WHERE ino = ? AND name = ?", (ino, sealed))
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO xattrs VALUES (?,?,?)", (ino, sealed, self._seal.seal_bytes(value, ino))
            )

    def copy_xattrs(self, source: Ino, target: Ino) -> None:
        for name, value in self.xattrs(source).items():
            self.put_xattr(target, name, value)


def journalled_changes(path: Path) -> int:
    """How many changes a database that nobody has open holds for the next start: told without its key, 0 where there
    is no database. Raises as ``Store`` does."""
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=30, factory=_Connection)) as db:
            return int(db.execute("SELECT count(*) FROM journal").fetchone()[0])
    except sqlite3.Error as error:
        raise _as_ours(error) from error
