"""Repairs that the health check offers. Nothing here removes the only copy of anything.

An orphaned content directory is adopted into ``/LOST+FOUND/<its hash>``. When its ``dirid.c9r`` proves its id, a
link with that very id brings it back as it was, names and all. Otherwise the names are lost, because they are bound
to the unknown id: its entries get numbered names in a new folder.
"""

from __future__ import annotations

import secrets

from serpentfs.clouds.blobs.base import ABSENT
from serpentfs.clouds.vault.cloud import VaultCloud
from serpentfs.clouds.vault.content import decrypt_small
from serpentfs.clouds.vault.layout import (
    DIRECTORY_ID_FILE,
    LONG_NAME_FILE,
    ROOT,
    Entry,
    entry_for,
)
from serpentfs.clouds.vault.listing import RawEntry, RawFolder
from serpentfs.clouds.vault.names import SHORTENED, is_ciphertext_name
from serpentfs.clouds.vault.uploads import put_bytes
from serpentfs.errors import AlreadyExists, DirectoryNotEmpty, IntegrityError, NotFound
from serpentfs.model import Kind, NodeId

LOST_AND_FOUND = "LOST+FOUND"
RECOVERY_ID = NodeId("recovery")
"""The id of LOST+FOUND, fixed by the official application."""


class Repairs:
    """The repairs of one vault."""

    def __init__(self, vault: VaultCloud) -> None:
        self._store = vault.store
        self._names = vault.names
        self._scheme = vault.scheme
        self._writer = vault.writer

    async def write_long_name(self, key: str, long_name: str) -> None:
        await put_bytes(self._store, key, long_name.encode("ascii"))

    async def rename_short_name(self, key: str, new_key: str) -> None:
        """AlreadyExists when the right place is taken: then both stay."""
        if await self._store.is_directory(new_key):
            raise AlreadyExists(f"{new_key} exists")
        await self._store.rename_directory(key, new_key)

    async def remove_leftover(self, key: str) -> None:
        """Remove an entry that holds at most a long name. DirectoryNotEmpty when it has become more meanwhile."""
        long_name = f"{key}/{LONG_NAME_FILE}"
        left = {blob.key for blob in await self._store.list(key)}
        if left - {long_name}:
            raise DirectoryNotEmpty(f"{key} is in use by now")
        if left:
            await self._store.delete(long_name)
        await self._store.remove_directory(key)

    async def adopt(self, path: str, folder: RawFolder) -> None:
        """Bring an orphaned content directory back into the tree; an empty one is removed."""
        entries = {
            name: there
            for name, there in folder.items()
            if is_ciphertext_name(name) and not there.is_leftover(name)
        }
        if not entries:
            await self._remove_content_directory(path, folder)
            return
        folder_id = await self._proven_id(path, folder)
        lost_and_found = await self._lost_and_found()
        name = path.removeprefix("d/").replace("/", "")
        if folder_id is None:
            await self._rescue(path, folder, entries, await self._folder_in(lost_and_found, name))
        elif folder_id != lost_and_found:
            await self._link(lost_and_found, name, folder_id)

    async def _proven_id(self, path: str, folder: RawFolder) -> NodeId | None:
        """The id of a content directory, if its backup holds one that leads here."""
        backup = folder.get(DIRECTORY_ID_FILE)
        if backup is None or backup.object is None:
            return None
        try:
            clear = decrypt_small(self._scheme, await self._store.read(backup.object.key)).decode("utf-8")
        except (IntegrityError, UnicodeDecodeError):
            return None
        return NodeId(clear) if self._names.directory_path(clear) == path else None

    async def _lost_and_found(self) -> NodeId:
        found = await self._id_of(ROOT, LOST_AND_FOUND)
        if found is not None:
            return found
        await self._writer.make_content_directory(RECOVERY_ID)
        await self._link(ROOT, LOST_AND_FOUND, RECOVERY_ID)
        return RECOVERY_ID

    async def _folder_in(self, parent: NodeId, name: str) -> NodeId:
        """The folder of that name, made if it is not there (an earlier repair may have broken off)."""
        found = await self._id_of(parent, name)
        if found is not None:
            return found
        return (await self._writer.mkdir(parent, name, secrets.token_bytes(32), retry=False)).id

    async def _id_of(self, parent: NodeId, name: str) -> NodeId | None:
        entry, _ = entry_for(self._names, parent, name)
        try:
            return NodeId((await self._store.read(entry.primary(Kind.DIRECTORY))).decode("utf-8", "replace"))
        except NotFound:
            return None

    async def _link(self, parent: NodeId, name: str, folder: NodeId) -> None:
        entry, long_name = entry_for(self._names, parent, name)
        await self._writer.require_free(entry, Kind.DIRECTORY)
        await self._writer.put_long_name(entry, long_name)
        key = entry.primary(Kind.DIRECTORY)
        await put_bytes(self._store, key, folder.encode("utf-8"), condition=ABSENT)

    async def _rescue(self, path: str, folder: RawFolder, entries: dict[str, RawEntry], into: NodeId) -> None:
        """Move entries whose names are lost into a folder, under numbered names."""
        run = secrets.token_hex(2)
        numbers = dict.fromkeys(Kind, 0)
        for name, there in sorted(entries.items()):
            source = Entry(NodeId(""), name, path)
            for kind in there.kinds(name):
                numbers[kind] += 1
                suffix = "_withVeryLongName" if name.endswith(SHORTENED) else ""
                clear = f"{kind.name.lower()}{numbers[kind]}_{run}{suffix}"
                target, _ = entry_for(self._names, into, clear)
                await self._store.rename(source.primary(kind), target.primary(kind), condition=ABSENT)
                await self._writer.tidy(source, kind)
        left = {name: there for name, there in folder.items() if name not in entries}
        await self._remove_content_directory(path, left)

    async def _remove_content_directory(self, path: str, folder: RawFolder) -> None:
        """Remove a content directory with its backup and remnants; DirectoryNotEmpty if anything else is in it."""
        for name, there in folder.items():
            if name == DIRECTORY_ID_FILE and there.object is not None:
                continue
            if is_ciphertext_name(name) and there.is_leftover(name):
                await self.remove_leftover(f"{path}/{name}")
            else:
                raise DirectoryNotEmpty(f"{path}/{name} is no part of the vault and is left alone")
        if DIRECTORY_ID_FILE in folder:
            await self._store.delete(f"{path}/{DIRECTORY_ID_FILE}")
        await self._store.remove_directory(path)
