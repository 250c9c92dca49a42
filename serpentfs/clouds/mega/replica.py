"""What an account holds, as the server told it, in a database of its own.

Names and attributes stay encrypted as they came, keys stay wrapped by the master key, and what is looked up by name is
found by a keyed hash: nothing readable lies on the disk, and nothing is loaded at the start. A packet of the event
channel and the sequence number behind it are one transaction, which also notes what the drive's tree was not told yet.

The result of an own command comes on two ways: in its answer, and as a packet in its place among everybody's. An
answer that comes after the packet (it was lost and asked for again) is old by then, and is not taken.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serpentfs.clouds.mega import attributes
from serpentfs.clouds.mega.encoding import decode
from serpentfs.clouds.mega.keys import PrivateKey, attribute_key, ecb_decrypt, ecb_encrypt, share_auth
from serpentfs.clouds.mega.names import normalize, shown_name
from serpentfs.clouds.mega.nodes import CLOUD_DRIVE, FILE, FOLDER, INBOX, RUBBISH, Node, time_of
from serpentfs.clouds.mega.treejson import read_tree
from serpentfs.errors import BadVault, IntegrityError, NoSpace, Unavailable

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (
    handle TEXT PRIMARY KEY,
    parent TEXT,                -- NULL: a root, or the top of an incoming share
    owner TEXT NOT NULL,
    type INTEGER NOT NULL,
    size INTEGER NOT NULL,
    created INTEGER NOT NULL,
    key BLOB,                   -- wrapped by the master key; NULL: not to be had (yet)
    sent TEXT,                  -- the key as the server sent it, where it is not to be had
    attributes TEXT NOT NULL,   -- as the server sent them
    name BLOB,                  -- keyed hash of the name
    fa TEXT NOT NULL,
    share INTEGER NOT NULL      -- 1: the top of an incoming share
) WITHOUT ROWID;
CREATE TABLE shares (handle TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;   -- wrapped by the master key
-- What the drive's tree was not told. own: monotonic time of a change of this process, NULL: somebody else's.
CREATE TABLE unseen (serial INTEGER PRIMARY KEY AUTOINCREMENT, handle TEXT NOT NULL UNIQUE, own REAL);
CREATE TABLE records (kind TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""
_INDEXES = """
CREATE INDEX nodes_by_parent ON nodes (parent, name, created, handle);
CREATE INDEX nodes_unreadable ON nodes (handle) WHERE key IS NULL AND sent IS NOT NULL;
CREATE INDEX nodes_shared ON nodes (handle) WHERE share = 1;
"""
_COLUMNS = "handle, parent, owner, type, size, created, key, attributes, fa, name"
_BATCH = 1000
_PAGE = 256
_ROOTS = {CLOUD_DRIVE: "cloud_drive", INBOX: "inbox", RUBBISH: "rubbish"}
_DEEPEST = 10_000
"""Folders above a node at most: a circle in what the server sent ends somewhere."""
_NONCE_BYTES = 12
_ACKNOWLEDGED_WITHIN = 60.0
"""Seconds that the tree takes at most for what it is told."""
_REMEMBER = 3600.0
"""Seconds that an own command takes at most, from when it is sent first to its answer."""


@dataclass(frozen=True, slots=True)
class Applied:
    """``reload``: packets named folders that never showed up; the tree must be loaded anew."""

    reload: bool


@dataclass(frozen=True, slots=True)
class Unseen:
    """What the tree was not told: nodes as they are now, and handles of nodes that are no more."""

    serials: tuple[int, ...]
    changed: list[Node]
    removed: list[str]


class Replica:
    """``path`` None: in memory. ``link_key``: of a public folder, whose first node is the root. BadVault when the
    database is damaged or belongs to another key."""

    def __init__(self, path: Path | None, master_key: bytes, own_user: str, *, link_key: bytes | None = None) -> None:
        self._path = path
        self._master_key = master_key
        self._own_user = own_user
        self._link_key = link_key
        self._name_key = _derive(master_key, b"names")
        self._seal = AESGCM(_derive(master_key, b"records"))
        self._private_key: PrivateKey | None = None
        self._share_keys: dict[str, bytes] = {}
        self._orphans: set[str] = set()
        self._roots: dict[str, str] = {}
        self.answered = -math.inf
        """When (time.monotonic()) the result of an own command was last taken; its packet may have come, or may not."""
        self.passed_over = -math.inf
        """When such a result was last not taken, as a packet had come since the command was sent, which may have been
        that of an earlier one: until a later poll this may be what was before it."""
        self._packets: dict[str, float] = {}
        """By handle: when (time.monotonic()) a packet last told a change."""
        self.unreadable = 0
        """Nodes whose key is not to be had: they are not shown."""
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _staging(path).unlink(missing_ok=True)
        self._db = self._open(path)

    def _open(self, path: Path | None) -> sqlite3.Connection:
        with _errors():
            db = _connect(path)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'nodes'").fetchone() is None:
                db.executescript(_SCHEMA + _INDEXES)
                self._write_check(db)
            self._use(db)
            return db

    def _write_check(self, db: sqlite3.Connection) -> None:
        check = hmac.digest(self._name_key, b"check", "sha256").hex()
        db.execute("INSERT INTO meta VALUES ('check', ?)", (check,))

    def _use(self, db: sqlite3.Connection) -> None:
        """Take over what is kept in memory of a database."""
        check = db.execute("SELECT value FROM meta WHERE key = 'check'").fetchone()
        if check is None or check[0] != hmac.digest(self._name_key, b"check", "sha256").hex():
            raise BadVault("what is kept of the account belongs to another key")
        self._share_keys = {
            handle: ecb_decrypt(self._master_key, key) for handle, key in db.execute("SELECT handle, key FROM shares")
        }
        self.unreadable = int(
            db.execute("SELECT count(*) FROM nodes WHERE key IS NULL AND sent IS NOT NULL").fetchone()[0]
        )
        if self.unreadable:
            log.warning("%d nodes of the account cannot be decrypted: they are not shown", self.unreadable)
        self._roots = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('cloud_drive', 'inbox', 'rubbish')"))
        db.execute("UPDATE unseen SET own = NULL")
        db.execute("CREATE TEMP TABLE told (serial INTEGER PRIMARY KEY, at REAL NOT NULL)")
        self._orphans = set()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _meta(self, key: str) -> str | None:
        with _errors():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    @property
    def sn(self) -> str | None:
        """The event channel's sequence number that all this stands at; None: nothing was loaded."""
        return self._meta("sn")

    @property
    def is_loaded(self) -> bool:
        return self.sn is not None

    @property
    def cloud_drive(self) -> str | None:
        return self._roots.get("cloud_drive")

    @property
    def inbox(self) -> str | None:
        return self._roots.get("inbox")

    @property
    def rubbish(self) -> str | None:
        return self._roots.get("rubbish")

    def set_private_key(self, parsed: bytes) -> None:
        """The account's RSA key (MPIs p, q, d, u), for keys that others made for it."""
        self._private_key = PrivateKey.parse(parsed)

    # keys

    def _unwrap_rsa(self, sealed: bytes) -> bytes:
        return b"" if self._private_key is None else self._private_key.decrypt(sealed)

    def _key_of(self, node: dict[str, Any]) -> bytes | None:
        """The key of a node, by any of the keys that the server sent it under (specification, 5)."""
        length = 32 if node.get("t") == FILE else 16
        for part in str(node.get("k", "")).split("/"):
            holder, _, text = part.partition(":")
            sealed = decode(text)
            if len(text) > 43:
                plain = self._unwrap_rsa(sealed) if holder == self._own_user else b""
            else:
                key = self._master_key if holder == self._own_user else self._share_keys.get(holder)
                plain = ecb_decrypt(key, sealed) if key is not None and len(sealed) == length else b""
            if len(plain) >= length:
                return plain[:length]
        return None

    def _add_share_key(self, db: sqlite3.Connection, handle: str, key: bytes) -> None:
        if len(key) == 16:
            self._share_keys[handle] = key
            db.execute("INSERT OR REPLACE INTO shares VALUES (?,?)", (handle, ecb_encrypt(self._master_key, key)))

    def _take_own_share(self, db: sqlite3.Connection, share: dict[str, Any]) -> None:
        """An entry of ``ok``: a key of a share of our own, if ``ha`` proves that it is."""
        handle, sealed = str(share.get("h", "")), decode(str(share.get("k") or share.get("ok") or ""))
        proof = decode(str(share.get("ha", "")))
        if len(sealed) == 16 and len(handle) == 8 and hmac.compare_digest(proof, share_auth(self._master_key, handle)):
            self._add_share_key(db, handle, ecb_decrypt(self._master_key, sealed))

    def _take_incoming_share(self, db: sqlite3.Connection, node: dict[str, Any]) -> None:
        text = str(node.get("sk", ""))
        sealed = decode(text)
        if len(text) > 43:
            self._add_share_key(db, str(node["h"]), self._unwrap_rsa(sealed)[:16])
        elif len(sealed) == 16:
            self._add_share_key(db, str(node["h"]), ecb_decrypt(self._master_key, sealed))

    def _name_hash(self, name: str) -> bytes:
        return hashlib.blake2b(normalize(name).encode(), key=self._name_key, digest_size=8).digest()

    def _row(self, db: sqlite3.Connection, node: dict[str, Any]) -> tuple[Any, ...]:
        """A node as the server sends it, as a row."""
        handle, kind = str(node["h"]), int(node["t"])
        is_share = "su" in node or "sk" in node
        if is_share and node.get("sk"):
            self._take_incoming_share(db, node)
        parent = None if is_share or kind > FOLDER else str(node.get("p") or "") or None
        sealed = str(node.get("a") or "")
        key = self._key_of(node) if kind <= FOLDER else None
        name: bytes | None = None
        if key is not None:
            found = attributes.unpack(decode(sealed), attribute_key(key))
            if found is None:
                key = None
            else:
                name = self._name_hash(str(found.get("n", "")))
        return (
            handle,
            parent,
            str(node.get("u", "")),
            kind,
            max(0, int(node.get("s") or 0)),
            int(node.get("ts") or 0),
            None if key is None else ecb_encrypt(self._master_key, key),
            str(node.get("k", "")) if key is None and kind <= FOLDER else None,
            sealed,
            name,
            str(node.get("fa") or ""),
            int(is_share),
        )

    @staticmethod
    def _insert(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
        db.executemany("INSERT OR REPLACE INTO nodes VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", rows)

    def _retry_unreadable(self, db: sqlite3.Connection) -> list[str]:
        """Try the keys again that could not be had, now that there are more share keys."""
        opened: list[str] = []
        rows = db.execute(
            "SELECT handle, type, sent, attributes FROM nodes WHERE key IS NULL AND sent IS NOT NULL"
        ).fetchall()
        for handle, kind, sent, sealed in rows:
            key = self._key_of({"t": kind, "k": sent})
            found = None if key is None else attributes.unpack(decode(sealed), attribute_key(key))
            if key is not None and found is not None:
                db.execute(
                    "UPDATE nodes SET key = ?, sent = NULL, name = ? WHERE handle = ?",
                    (ecb_encrypt(self._master_key, key), self._name_hash(str(found.get("n", ""))), handle),
                )
                opened.append(handle)
        return opened

    def add_own_share(self, handle: str, wrapped: str) -> bytes:
        """A folder is shared under this key, which came wrapped by the master key. The answer: the key."""
        key = ecb_decrypt(self._master_key, decode(wrapped))
        with self._transaction():
            self._add_share_key(self._db, handle, key)
        return key

    # the whole tree

    def load(self, pieces: Iterable[bytes]) -> sqlite3.Connection:
        """Decode an answer to ``f`` into a new database beside the old one, for ``install``. Blocks: for a thread.
        Unavailable when the answer is cut short; the old state stays."""
        path = None if self._path is None else _staging(self._path)
        if path is not None:
            path.unlink(missing_ok=True)
        with _errors():
            db = _connect(path)
            try:
                # Nothing of it counts before it is whole.
                db.execute("PRAGMA journal_mode=OFF")
                db.execute("PRAGMA synchronous=OFF")
                db.executescript(_SCHEMA)
                self._write_check(db)
                db.execute("BEGIN")
                self._read_into(db, pieces)
                db.execute("COMMIT")
                db.executescript(_INDEXES)
                if self._link_key is None:
                    self._retry_unreadable(db)
            except BaseException:
                db.close()
                raise
        return db

    def _read_into(self, db: sqlite3.Connection, pieces: Iterable[bytes]) -> None:
        rows: list[tuple[Any, ...]] = []
        is_first, sn = True, None
        for what, value in read_tree(pieces):
            match what:
                case "f" | "f2" if isinstance(value, dict) and "h" in value and "t" in value:
                    if is_first and self._link_key is not None:
                        self._take_link_root(db, value)
                    is_first = False
                    rows.append(self._row(db, value))
                    if name := _ROOTS.get(rows[-1][3]):
                        db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, rows[-1][0]))
                    if len(rows) == _BATCH:
                        self._insert(db, rows)
                        rows.clear()
                case "ok" | "ok0" if isinstance(value, dict):
                    self._take_own_share(db, value)
                case "sn":
                    sn = str(value)
        self._insert(db, rows)
        if sn is None:
            raise Unavailable("the account's tree was cut short")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('sn', ?)", (sn,))

    def _take_link_root(self, db: sqlite3.Connection, node: dict[str, Any]) -> None:
        """The first node of a public folder is its root, and what the link's key is for."""
        if self._link_key is None:
            return
        for handle in {str(node["h"]), str(node.get("k", "")).partition(":")[0]}:
            self._add_share_key(db, handle, self._link_key)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('cloud_drive', ?)", (str(node["h"]),))

    def install(self, loaded: sqlite3.Connection) -> None:
        """Take over what ``load`` made, with the records of the old database. The tree must be compared as a whole."""
        with _errors():
            rows = self._db.execute("SELECT kind, key, value FROM records").fetchall()
            loaded.executemany("INSERT OR REPLACE INTO records VALUES (?,?,?)", rows)
            serial = self._db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
            loaded.execute("INSERT INTO sqlite_sequence VALUES ('unseen', ?)", (serial,))
            if self._path is None:
                self._db.close()
                self._use(loaded)
                self._db = loaded
                return
            # A write of its own, for its fsync: it puts all of the file on the disk.
            loaded.execute("PRAGMA synchronous=FULL")
            loaded.execute("INSERT OR REPLACE INTO meta VALUES ('loaded', ?)", (str(time.time()),))
            loaded.close()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            _staging(self._path).replace(self._path)
            self._db = self._open(self._path)

    # packets

    def apply(self, packets: Sequence[dict[str, Any]], sn: str, own_id: str) -> Applied:
        """What happened, in order, and the sequence number after it. Idempotent."""
        last_put = {
            str(node.get("h")): at
            for at, packet in enumerate(packets)
            if packet.get("a") == "t"
            for node in _nodes_of(packet)
        }
        waited = set(self._orphans)
        with self._transaction():
            for at, packet in enumerate(packets):
                own = time.monotonic() if packet.get("i") == own_id else None
                # A move may come as a removal, and after it the node at its new place.
                if packet.get("a") != "d" or last_put.get(str(packet.get("n")), -1) < at:
                    self._apply_one(packet, own)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('sn', ?)", (sn,))
        self._orphans = {handle for handle in self._orphans if self._is_orphan(handle)}
        return Applied(bool(self._orphans & waited))

    def _apply_one(self, packet: dict[str, Any], own: float | None) -> None:
        handle = str(packet.get("n", ""))
        nodes = [node for node in _nodes_of(packet) if "h" in node and "t" in node]
        if own is not None:
            if nodes and nodes[0]["t"] == FOLDER:
                # What lies below a folder of ours that moved may be elsewhere by now, by an answer to a later command.
                nodes = nodes[:1] + [node for node in nodes[1:] if self._raw(str(node["h"])) is None]
            self._note_packet([handle, *(str(node["h"]) for node in nodes)])
        else:
            self._note_packet([handle, *(str(node["h"]) for node in nodes[:1])])
        match packet.get("a"):
            case "t":
                self._put(nodes, own)
            case "u" if "at" in packet:
                self._change_attributes(handle, str(packet["at"]), own)
            case "d" if packet.get("m") != 1:
                self._drop(handle, own)
            case "fa":
                self._db.execute("UPDATE nodes SET fa = ? WHERE handle = ?", (str(packet.get("fa", "")), handle))
            case "s2" | "s":
                self._apply_share(packet)

    def _note_packet(self, handles: Iterable[str]) -> None:
        now = time.monotonic()
        for handle in handles:
            self._packets.pop(handle, None)
            self._packets[handle] = now
        while next(iter(self._packets.values())) < now - _REMEMBER:
            del self._packets[next(iter(self._packets))]

    def _is_old(self, handle: str, sent: float) -> bool:
        """Whether the answer to a command that was sent then comes after its packet."""
        return self._packets.get(handle, -1.0) >= sent

    def _apply_share(self, packet: dict[str, Any]) -> None:
        handle = str(packet.get("n") or packet.get("h") or "")
        self._take_own_share(self._db, {**packet, "h": handle, "k": packet.get("ok", "")})
        if packet.get("o") not in (None, self._own_user) and packet.get("k"):
            self._take_incoming_share(self._db, {"h": handle, "sk": packet["k"]})
        for opened in self._retry_unreadable(self._db):
            self._mark(opened, None)
            self._mark_next(self._raw(opened), None)

    def _is_orphan(self, handle: str) -> bool:
        row = self._db.execute("SELECT parent FROM nodes WHERE handle = ?", (handle,)).fetchone()
        return row is not None and row[0] is not None and self._raw(row[0]) is None

    def _raw(self, handle: str) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._db.execute(
            f"SELECT {_COLUMNS} FROM nodes WHERE handle = ?", (handle,)
        ).fetchone()
        return found

    def _put(self, nodes: Sequence[dict[str, Any]], own: float | None) -> None:
        for node in nodes:
            row = self._row(self._db, node)
            before = self._raw(row[0])
            if before is not None and row[6] is None and before[6] is not None:
                # A move need not send what is known.
                row = (*row[:6], before[6], None, row[8] or before[7], before[9], *row[10:])
            self._mark_next(before, own)
            self._insert(self._db, [row])
            self._mark(row[0], own)
            self._mark_next(self._raw(row[0]), own)
            if row[1] is not None:
                self._orphans.add(row[0])

    def _change_attributes(self, handle: str, sealed: str, own: float | None) -> None:
        before = self._raw(handle)
        if before is None or before[6] is None:
            return
        found = attributes.unpack(decode(sealed), attribute_key(ecb_decrypt(self._master_key, before[6])))
        if found is None:
            log.warning("the attributes of a node cannot be decrypted: it keeps the old ones")
            return
        self._mark_next(before, own)
        self._db.execute(
            "UPDATE nodes SET attributes = ?, name = ? WHERE handle = ?",
            (sealed, self._name_hash(str(found.get("n", ""))), handle),
        )
        self._mark(handle, own)
        self._mark_next(self._raw(handle), own)

    def _drop(self, handle: str, own: float | None) -> None:
        """A node is gone, with all that is below it, its versions too."""
        before = self._raw(handle)
        if before is None:
            return
        self._mark_next(before, own)
        level = [handle]
        while level:
            below = []
            for gone in level:
                below += [row[0] for row in self._db.execute("SELECT handle FROM nodes WHERE parent = ?", (gone,))]
                self._db.execute("DELETE FROM nodes WHERE handle = ?", (gone,))
                self._db.execute("DELETE FROM records WHERE kind = 'macs' AND key = ?", (gone,))
            level = below
        self._mark(handle, own)

    def _mark(self, handle: str, own: float | None) -> None:
        # The newest mark counts, under a number of its own; somebody else's change is not held back by one of ours.
        self._db.execute("DELETE FROM unseen WHERE handle = ?", (handle,))
        self._db.execute("INSERT INTO unseen (handle, own) VALUES (?,?)", (handle, own))

    def _mark_next(self, row: tuple[Any, ...] | None, own: float | None) -> None:
        """A node comes into its folder, or leaves it: where it is the oldest of its name there, the next one loses the
        plain name to it, or gets it."""
        if row is None or row[1] is None or row[9] is None:
            return
        oldest = self._db.execute(
            "SELECT handle FROM nodes WHERE parent = ? AND name = ? ORDER BY created, handle LIMIT 2", (row[1], row[9])
        ).fetchall()
        if len(oldest) == 2 and oldest[0][0] == row[0]:
            self._mark(oldest[1][0], own)

    # results of own commands; ``sent``: time.monotonic() from before the command was sent first; ``tell``: the tree
    # did not ask for it, and is told as if it had been somebody else

    def store(self, nodes: Sequence[dict[str, Any]], sent: float, replaced: str | None = None) -> list[Node]:
        """Nodes as a command's answer has them; ``replaced`` is an older version of the first of them now. The answer:
        those that can be decrypted, as they are now; one that is gone again, as it was made."""
        found = []
        with self._transaction():
            own = self.answered = time.monotonic()
            for node in nodes:
                handle = str(node["h"])
                if self._is_old(handle, sent):
                    self._mark(handle, own)  # the tree gets to know it only now
                else:
                    self._put([node], own)
                    if replaced is not None:
                        self._move(replaced, handle, own)
                raw = self._raw(handle)
                if raw is None:
                    row = self._row(self._db, node)
                    raw = (*row[:7], row[8], row[10], row[9])
                found.append(self._node(raw))
        self._orphans = {handle for handle in self._orphans if self._is_orphan(handle)}
        return [node for node in found if node is not None]

    def set_attributes(self, handle: str, sealed: str, sent: float, *, tell: bool = False) -> None:
        self.answered = time.monotonic()
        with self._transaction():
            own = None if tell else self.answered
            if self._is_old(handle, sent):
                self.passed_over = self.answered
                self._mark(handle, own)
            else:
                self._change_attributes(handle, sealed, own)

    def set_parent(self, handle: str, parent: str, sent: float, *, tell: bool = False) -> None:
        self.answered = time.monotonic()
        with self._transaction():
            own = None if tell else self.answered
            if self._is_old(handle, sent):
                self.passed_over = self.answered
                self._mark(handle, own)
            else:
                self._move(handle, parent, own)

    def _move(self, handle: str, parent: str, own: float | None) -> None:
        self._mark_next(self._raw(handle), own)
        self._db.execute("UPDATE nodes SET parent = ? WHERE handle = ?", (parent, handle))
        self._mark(handle, own)
        self._mark_next(self._raw(handle), own)

    def drop(self, handle: str, *, tell: bool = False) -> None:
        """Nothing comes after that."""
        self.answered = time.monotonic()
        with self._transaction():
            self._drop(handle, None if tell else self.answered)

    # looking

    def _node(self, row: tuple[Any, ...], *, duplicate: bool | None = None) -> Node | None:
        """A row decrypted; None when its key is not to be had. ``duplicate`` None: look."""
        handle, parent, owner, kind, size, created, wrapped, sealed, fa, name_hash = row
        if kind > FOLDER:
            return Node(handle, parent, owner, kind, "", "", 0, created, created, b"", {}, fa)
        if wrapped is None:
            return None
        key = ecb_decrypt(self._master_key, wrapped)
        found = attributes.unpack(decode(sealed), attribute_key(key)) or {}
        name = str(found.get("n", ""))
        if duplicate is None:
            duplicate = parent is not None and self._oldest(parent, name_hash) != handle
        shown = shown_name(name, handle, duplicate=duplicate)
        mtime = time_of(found, created) if kind == FILE else created
        return Node(handle, parent, owner, kind, name, shown, size, created, mtime, key, found, fa)

    def _oldest(self, parent: str, name_hash: bytes) -> str:
        row = self._db.execute(
            "SELECT handle FROM nodes WHERE parent = ? AND name = ? ORDER BY created, handle LIMIT 1",
            (parent, name_hash),
        ).fetchone()
        return "" if row is None else str(row[0])

    def node(self, handle: str) -> Node | None:
        """Whatever it is: shown, an old version, in the rubbish bin. None when there is no such node, or no key."""
        with _errors():
            row = self._raw(handle)
            return None if row is None else self._node(row)

    def children(self, handle: str) -> Iterator[Node]:
        """What a folder shows, in an order that no change of it disturbs, of one name the oldest first; read page by
        page."""
        after: tuple[bytes, int, str] = (b"", 0, "")
        while True:
            with _errors():
                rows = self._db.execute(
                    f"SELECT {_COLUMNS} FROM nodes WHERE parent = ? AND name IS NOT NULL"
                    " AND (name, created, handle) > (?, ?, ?) ORDER BY name, created, handle LIMIT ?",
                    (handle, *after, _PAGE),
                ).fetchall()
            if not rows:
                return
            for row in rows:
                with _errors():
                    node = self._node(row, duplicate=row[9] == after[0])
                if node is not None:
                    yield node
                after = (row[9], row[5], row[0])

    def has_children(self, handle: str) -> bool:
        """Whether a folder holds anything, be it readable or not."""
        with _errors():
            return self._db.execute("SELECT 1 FROM nodes WHERE parent = ? LIMIT 1", (handle,)).fetchone() is not None

    def handles_in(self, handle: str) -> list[str]:
        """All that is in a folder, readable or not."""
        with _errors():
            return [row[0] for row in self._db.execute("SELECT handle FROM nodes WHERE parent = ?", (handle,))]

    def named(self, parent: str, name: str) -> list[Node]:
        """The nodes of a folder that really have this name."""
        with _errors():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM nodes WHERE parent = ? AND name = ? ORDER BY created, handle",
                (parent, self._name_hash(name)),
            ).fetchall()
            found = [self._node(row) for row in rows]
        return [node for node in found if node is not None and normalize(node.name) == normalize(name)]

    def versions(self, handle: str) -> list[Node]:
        """The older versions of a file, newest first."""
        found: list[Node] = []
        below = next(self.children(handle), None)
        while below is not None and len(found) < _DEEPEST:
            found.append(below)
            below = next(self.children(below.handle), None)
        return found

    def by_key(self, parent: str, key: bytes) -> Node | None:
        """The node of a folder whose AES key this is."""
        return next((node for node in self.children(parent) if hmac.compare_digest(node.cipher_key, key)), None)

    def root_of(self, handle: str) -> str | None:
        """The node above all others above (and including) a node: a root, the top of an incoming share, or what waits
        for its folder to show up. None when there is no such node."""
        with _errors():
            for _ in range(_DEEPEST):
                row = self._db.execute("SELECT parent FROM nodes WHERE handle = ?", (handle,)).fetchone()
                if row is None:
                    return None
                if row[0] is None:
                    return handle
                handle = row[0]
        return None

    def incoming_shares(self) -> list[Node]:
        with _errors():
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM nodes WHERE share = 1 ORDER BY handle").fetchall()
            found = [self._node(row) for row in rows]
        names: set[str] = set()
        shares = []
        for node in found:
            if node is None:
                continue
            if node.shown in names:
                row = self._raw(node.handle)
                node = None if row is None else self._node(row, duplicate=True)
            if node is not None:
                names.add(node.shown)
                shares.append(node)
        return shares

    def share_of(self, handle: str) -> list[tuple[str, bytes]]:
        """The shares that a folder is in, with their keys: who makes a node there must give its key to them."""
        found: list[tuple[str, bytes]] = []
        above: str | None = handle
        with _errors():
            for _ in range(_DEEPEST):
                if above is None or not self._share_keys:
                    break
                if above in self._share_keys:
                    found.append((above, self._share_keys[above]))
                row = self._db.execute("SELECT parent FROM nodes WHERE handle = ?", (above,)).fetchone()
                above = None if row is None else row[0]
        return found

    # what the tree was not told

    def unseen(self, limit: int, *, own_before: float) -> Unseen:
        """Some of what the tree was not told, oldest first. What was given is given again when it was not acknowledged
        in a minute: it could not be applied. Own changes: those made before ``own_before`` (time.monotonic())."""
        now = time.monotonic()
        with _errors():
            self._db.execute("DELETE FROM told WHERE at < ?", (now - _ACKNOWLEDGED_WITHIN,))
            rows = self._db.execute(
                "SELECT serial, handle FROM unseen WHERE (own IS NULL OR own < ?)"
                " AND serial NOT IN (SELECT serial FROM told) ORDER BY serial LIMIT ?",
                (own_before, limit),
            ).fetchall()
            self._db.executemany("INSERT INTO told VALUES (?,?)", [(serial, now) for serial, _ in rows])
        found = [(handle, self.node(handle)) for _, handle in rows]
        return Unseen(
            tuple(serial for serial, _ in rows),
            [node for _, node in found if node is not None],
            [handle for handle, node in found if node is None],
        )

    def latest_serial(self) -> int:
        """Of all that the tree was not told."""
        with _errors():
            return int(self._db.execute("SELECT coalesce(max(serial), 0) FROM unseen").fetchone()[0])

    def acknowledge(self, serials: Sequence[int]) -> None:
        """The tree holds these for good."""
        with self._transaction():
            self._db.executemany("DELETE FROM unseen WHERE serial = ?", [(serial,) for serial in serials])
            self._db.executemany("DELETE FROM told WHERE serial = ?", [(serial,) for serial in serials])

    def acknowledge_until(self, serial: int) -> None:
        """The tree holds everything up to this."""
        with self._transaction():
            self._db.execute("DELETE FROM unseen WHERE serial <= ?", (serial,))
            self._db.execute("DELETE FROM told WHERE serial <= ?", (serial,))

    # records

    def get_record(self, kind: str, key: str) -> bytes | None:
        """A small fact of the driver. A damaged one is none, and told in the log."""
        with _errors():
            row = self._db.execute("SELECT value FROM records WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None else self._open_record(kind, key, row[0])

    def _open_record(self, kind: str, key: str, value: bytes) -> bytes | None:
        try:
            return self._seal.decrypt(value[:_NONCE_BYTES], value[_NONCE_BYTES:], f"{kind}\0{key}".encode())
        except InvalidTag:
            log.warning("a record of the account (%s) is damaged and counts as missing", kind)
            return None

    def put_record(self, kind: str, key: str, value: bytes | None) -> None:
        """Keep a fact, sealed; None drops it."""
        with self._transaction():
            if value is None:
                self._db.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))
                return
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = nonce + self._seal.encrypt(nonce, value, f"{kind}\0{key}".encode())
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?,?,?)", (kind, key, sealed))

    def records(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """All of a kind."""
        with _errors():
            rows = self._db.execute("SELECT key, value FROM records WHERE kind = ?", (kind,)).fetchall()
        for key, value in rows:
            opened = self._open_record(kind, key, value)
            if opened is not None:
                yield key, opened


def _connect(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:" if path is None else path, isolation_level=None, check_same_thread=False)
    if path is not None:
        path.chmod(0o600)
    return db


def _staging(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _derive(master_key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(master_key, b"serpentfs replica " + purpose, "sha256")


def _nodes_of(packet: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a ``t`` packet, old versions last."""
    tree = packet.get("t")
    if not isinstance(tree, dict):
        return []
    return [node for node in (*tree.get("f", ()), *tree.get("f2", ())) if isinstance(node, dict)]


@contextmanager
def _errors() -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise NoSpace("no room on this machine's disk for what is known of the account") from error
        raise Unavailable(f"what is known of the account cannot be read or written: {error}") from error
    except sqlite3.DatabaseError as error:
        raise BadVault(f"what is known of the account is damaged: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the server sent a node that is none") from error
