"""The health check: what is wrong with a vault's structure and, on request, with its contents.

Looks at every object once (one listing, the small files, with ``content`` every byte). What can be repaired without
losing anything is repaired with ``fix``; run that while nobody else writes to the vault. Severities are those of the
official application, with one difference: an entry that holds nothing, or nothing but a long name, is a remnant of
an interrupted change and only a warning, because no data hangs on it.
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from serpentfs.clouds.base import Listing
from serpentfs.clouds.blobs.base import BlobInfo
from serpentfs.clouds.vault.cloud import VaultCloud
from serpentfs.clouds.vault.content import cleartext_size, decrypt_small
from serpentfs.clouds.vault.layout import (
    DATA,
    DIRECTORY_FILE,
    DIRECTORY_ID_FILE,
    LONG_NAME_FILE,
    MAX_DIRECTORY_ID_BYTES,
    ROOT,
    TEMPORARY_PREFIX,
    TYPE_FILES,
    Entry,
)
from serpentfs.clouds.vault.listing import RawEntry, RawFolder, group_by_folder
from serpentfs.clouds.vault.names import (
    MAX_LONG_NAME_BYTES,
    REGULAR,
    SHORTENED,
    is_ciphertext_name,
    shorten,
)
from serpentfs.clouds.vault.parallel import for_each
from serpentfs.clouds.vault.repair import Repairs
from serpentfs.clouds.vault.scan import list_all, walk
from serpentfs.errors import IntegrityError, NotFound, PermanentError, RevisionGone
from serpentfs.model import Kind, NodeId, NodeInfo, Revision

LONGEST_ID = 36
"""Bytes of a directory id as every writer makes them."""
TEMPORARY_AGE = 24 * 3600
"""Seconds after which an unfinished upload is nobody's any more."""
FILES_IN_FLIGHT = 8
_CONTENT_DIRECTORY = re.compile(r"d/[A-Z2-7]{2}/[A-Z2-7]{30}")


class Severity(enum.IntEnum):
    INFO = 1
    WARN = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``problem`` is a stable word for scripts, ``where`` the ciphertext key,
    ``path`` the cleartext path as far as one leads there, ``fixed`` whether it was repaired just now."""

    severity: Severity
    problem: str
    where: str
    message: str
    path: str | None = None
    fixable: bool = False
    fixed: bool = False


Repair = Callable[[], Awaitable[None]]


async def check_vault(vault: VaultCloud, *, fix: bool = False, content: bool = False) -> list[Finding]:
    """Check a vault. ``content`` also authenticates every file, which reads the whole vault. Raises what the store
    raises when it cannot be listed; findings about single objects never end the check."""
    check = _Check(vault)
    await check.look(content)
    if not fix:
        return [finding for finding, _ in check.found]
    return [await _repair(finding, repair) for finding, repair in check.found]


async def _repair(finding: Finding, repair: Repair | None) -> Finding:
    if repair is None:
        return finding
    try:
        await repair()
    except PermanentError as error:
        return replace(finding, message=f"{finding.message}; repairing it failed: {error}")
    return replace(finding, fixed=True)


def _nothing_known(locator: str, revision: Revision) -> NodeInfo | None:
    return None


class _Check:
    """One run over a vault; ``found`` grows in the order in which repairs must run."""

    def __init__(self, vault: VaultCloud) -> None:
        self._vault = vault
        self._store = vault.store
        self._names = vault.names
        self._repairs = Repairs(vault)
        self.found: list[tuple[Finding, Repair | None]] = []
        self._paths: dict[str, str] = {}
        """Cleartext path by node id (files, links) and by content directory (folders)."""
        self._ids: dict[str, NodeId] = {}
        """Folder id by content directory, for every id that some ``dir.c9r`` holds."""
        self._long_names: list[tuple[str, str, RawEntry, str | None]] = []

    def _add(
        self, severity: Severity, problem: str, where: str, message: str, repair: Repair | None = None,
        path: str | None = None,
    ) -> None:
        self.found.append((Finding(severity, problem, where, message, path, repair is not None), repair))

    async def look(self, content: bool) -> None:
        blobs = await list_all(self._store)
        folders = await group_by_folder(blobs)
        await self._add_empty_directories(folders)
        listings, _ = await walk(self._vault.lister, self._names, folders, _nothing_known)
        self._remember_paths(listings)
        for blob in blobs:
            self._look_at_object(blob)
        await self._look_at_links(blobs, folders)
        for path, folder in sorted(folders.items()):
            for name, there in sorted(folder.items()):
                if is_ciphertext_name(name):
                    self._look_at_entry(path, name, there)
        await for_each(self._look_at_long_name, self._long_names)
        if content:
            await self._look_at_contents(folders)
        self._look_for_orphans(folders)

    async def _add_empty_directories(self, folders: dict[str, RawFolder]) -> None:
        """Where folders are real, those without any object do not show in a flat listing."""
        if not self._store.capabilities.rename:
            return
        paths: list[str] = []

        async def content_directories(prefix: str) -> None:
            paths.extend(await self._store.list_directories(prefix))

        async def entries(path: str) -> None:
            folder = folders.setdefault(path, {})
            for key in await self._store.list_directories(path):
                folder.setdefault(key.rpartition("/")[2], RawEntry())

        await for_each(content_directories, await self._store.list_directories(DATA))
        await for_each(entries, paths)

    def _remember_paths(self, listings: list[Listing]) -> None:
        children = {listing.directory: listing.children for listing in listings}
        pending: list[tuple[NodeId, str]] = [(ROOT, "")]
        while pending:
            folder, prefix = pending.pop()
            self._paths[self._names.directory_path(folder)] = prefix or "/"
            for child in children.get(folder, ()):
                path = f"{prefix}/{child.name}"
                if child.kind is Kind.DIRECTORY:
                    self._paths[child.locator] = path
                    pending.append((child.id, path))
                else:
                    self._paths[child.id] = path

    # folders

    def _look_at_object(self, blob: BlobInfo) -> None:
        above, _, name = blob.key.rpartition("/")
        if name == DIRECTORY_FILE and not above.endswith((REGULAR, SHORTENED)):
            self._add(
                Severity.INFO, "loose-directory-file", blob.key, "a dir.c9r that belongs to no entry",
                lambda: self._store.delete(blob.key),
            )
        elif name.startswith(TEMPORARY_PREFIX):
            old = time.time_ns() - blob.mtime_ns > TEMPORARY_AGE * 10**9
            self._add(
                Severity.INFO, "unfinished-upload", blob.key, "what is left of an upload that broke off",
                (lambda: self._store.delete(blob.key)) if old else None,
            )

    async def _look_at_links(self, blobs: list[BlobInfo], folders: dict[str, RawFolder]) -> None:
        links: dict[NodeId, list[str]] = {ROOT: []}
        candidates = []
        for blob in blobs:
            parts = blob.key.split("/")
            if len(parts) == 5 and parts[4] == DIRECTORY_FILE and parts[3].endswith((REGULAR, SHORTENED)):
                candidates.append(blob)

        async def read(blob: BlobInfo) -> None:
            folder = await self._read_id(blob)
            if folder is not None:
                links.setdefault(folder, []).append(blob.key)

        await for_each(read, candidates)
        for folder, keys in sorted(links.items()):
            path = self._names.directory_path(folder)
            self._ids[path] = folder
            if len(keys) > 1:
                for key in sorted(keys):
                    others = ", ".join(sorted(set(keys) - {key}))
                    self._add(
                        Severity.CRITICAL, "repeated-directory-id", key, f"this folder's id is also used by {others}"
                    )
            self._look_at_content_directory(folder, path, folders.get(path), sorted(keys))

    async def _read_id(self, blob: BlobInfo) -> NodeId | None:
        if blob.size == 0:
            self._add(Severity.CRITICAL, "empty-directory-file", blob.key, "a dir.c9r without an id")
            return None
        if blob.size > LONGEST_ID:
            self._add(
                Severity.CRITICAL, "long-directory-file", blob.key, f"a dir.c9r of more than {LONGEST_ID} bytes"
            )
        if blob.size > MAX_DIRECTORY_ID_BYTES:
            return None
        try:
            return NodeId((await self._store.read(blob.key)).decode("utf-8"))
        except NotFound:
            return None
        except UnicodeDecodeError:
            self._add(Severity.CRITICAL, "damaged-directory-file", blob.key, "a dir.c9r that holds no id")
            return None

    def _look_at_content_directory(
        self, folder: NodeId, path: str, there: RawFolder | None, links: list[str]
    ) -> None:
        shown = self._paths.get(path)

        async def make() -> None:
            await self._vault.writer.make_content_directory(folder)

        if there is None:
            self._add(
                Severity.WARN, "missing-content-directory", links[0] if links else path,
                f"the content directory {path} is missing: the folder shows as empty", make, shown,
            )
        elif DIRECTORY_ID_FILE not in there:
            self._add(
                Severity.INFO, "missing-directory-id-file", path, "a content directory without dirid.c9r", make, shown
            )

    def _look_for_orphans(self, folders: dict[str, RawFolder]) -> None:
        for path, there in sorted(folders.items()):
            if path in self._ids or not _CONTENT_DIRECTORY.fullmatch(path):
                continue
            empty = not any(is_ciphertext_name(name) for name in there)
            message = "a content directory that no folder leads to" + (", empty" if empty else "")
            self._add(
                Severity.WARN, "orphan", path, message, functools.partial(self._repairs.adopt, path, there)
            )

    # entries

    def _look_at_entry(self, path: str, name: str, there: RawEntry) -> None:
        key = f"{path}/{name}"
        folder = self._ids.get(path)
        shown = self._paths.get(f"{folder}/{name}") if folder is not None else None
        kinds = there.kinds(name)
        if there.is_leftover(name):
            self._add(
                Severity.WARN, "empty-entry", key, "what is left of an interrupted change",
                lambda: self._repairs.remove_leftover(key),
            )
            return
        if not kinds:
            self._add(Severity.CRITICAL, "unknown-entry", key, "neither a file nor a folder nor a link")
        if len(kinds) > 1:
            what = ", ".join(kind.name.lower() for kind in kinds)
            self._add(Severity.CRITICAL, "ambiguous-entry", key, f"more than one thing at once: {what}", path=shown)
        if name.endswith(SHORTENED) and there.object is None:
            self._long_names.append((path, name, there, shown))
        elif folder is not None and name.endswith(REGULAR):
            self._look_at_name(Entry(folder, name, path), shown)
        if Kind.FILE in kinds:
            blob = there.inner.get(TYPE_FILES[Kind.FILE]) if name.endswith(SHORTENED) else there.object
            if blob is not None:
                self._look_at_size(blob, shown)

    def _look_at_name(self, entry: Entry, shown: str | None) -> None:
        if self._names.decrypt(entry.name.removesuffix(REGULAR), entry.parent) is not None:
            return
        if self._names.find_in(entry.name, entry.parent) is not None:
            self._add(Severity.INFO, "sync-conflict", entry.key, "a copy that a sync client made", path=shown)
        else:
            self._add(Severity.WARN, "foreign-name", entry.key, "the name does not authenticate in this folder")

    def _look_at_size(self, blob: BlobInfo, shown: str | None) -> None:
        if blob.size == 0:
            self._add(Severity.WARN, "no-header", blob.key, "an empty object, read as an empty file", path=shown)
        elif cleartext_size(self._vault.scheme, blob.size) is None:
            self._add(Severity.CRITICAL, "truncated", blob.key, "the file is cut off inside a chunk", path=shown)

    async def _look_at_long_name(self, entry: tuple[str, str, RawEntry, str | None]) -> None:
        path, name, there, shown = entry
        key = f"{path}/{name}"
        blob = there.inner.get(LONG_NAME_FILE)
        if blob is None:
            self._add(Severity.CRITICAL, "missing-long-name", key, "name.c9s is missing: the name is lost")
            return
        if blob.size > MAX_LONG_NAME_BYTES:
            self._add(Severity.CRITICAL, "oversized-long-name", blob.key, "name.c9s is too large")
            return
        try:
            text = (await self._store.read(blob.key)).decode("utf-8", "replace")
        except NotFound:
            return
        ciphertext, suffix, rest = text.partition(REGULAR)
        if not suffix:
            self._add(Severity.CRITICAL, "malformed-long-name", blob.key, "name.c9s holds no .c9r name", path=shown)
            return
        if not _is_base64url(ciphertext):
            self._add(Severity.CRITICAL, "malformed-long-name", blob.key, "name.c9s is not base64url")
            return
        long_name = ciphertext + suffix
        if rest:
            self._add(
                Severity.WARN, "trailing-bytes", blob.key, "name.c9s has bytes after its name",
                lambda: self._repairs.write_long_name(blob.key, long_name), shown,
            )
        if shorten(long_name) != name:
            self._add(
                Severity.WARN, "wrong-short-name", key, "the entry is not named after the hash of its name.c9s",
                lambda: self._repairs.rename_short_name(key, f"{path}/{shorten(long_name)}"), shown,
            )

    # contents

    async def _look_at_contents(self, folders: dict[str, RawFolder]) -> None:
        jobs: list[tuple[BlobInfo, str | None]] = []
        backups: list[tuple[BlobInfo, NodeId]] = []
        for path, folder in folders.items():
            backup = folder.get(DIRECTORY_ID_FILE)
            if backup is not None and backup.object is not None and path in self._ids:
                backups.append((backup.object, self._ids[path]))
            for name, there in folder.items():
                if not is_ciphertext_name(name):
                    continue
                shown = self._paths.get(f"{self._ids.get(path)}/{name}")
                for kind in there.kinds(name):
                    if kind is Kind.DIRECTORY:
                        continue
                    whole = kind is Kind.FILE and name.endswith(REGULAR)
                    blob = there.object if whole else there.inner[TYPE_FILES[kind]]
                    if blob is not None:
                        jobs.append((blob, shown))

        async def verify(job: tuple[BlobInfo, str | None]) -> None:
            blob, shown = job
            try:
                await self._vault.reader.verify(blob.key, blob.revision, blob.size)
            except RevisionGone:
                return  # somebody is writing it just now
            except IntegrityError as error:
                self._add(Severity.CRITICAL, "damaged-content", blob.key, str(error), path=shown)

        await for_each(self._look_at_backup, backups)
        jobs = [job for job in jobs if cleartext_size(self._vault.scheme, job[0].size) is not None]
        await for_each(verify, jobs, limit=FILES_IN_FLIGHT)

    async def _look_at_backup(self, backup: tuple[BlobInfo, NodeId]) -> None:
        blob, folder = backup
        try:
            clear = decrypt_small(self._vault.scheme, await self._store.read(blob.key))
        except NotFound:
            return
        except IntegrityError:
            clear = None
        if clear != folder.encode("utf-8"):

            async def rewrite() -> None:
                await self._vault.writer.make_content_directory(folder)

            self._add(Severity.INFO, "wrong-directory-id-file", blob.key, "dirid.c9r is damaged or wrong", rewrite)


def _is_base64url(text: str) -> bool:
    try:
        base64.b64decode(text, b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    return bool(text)
