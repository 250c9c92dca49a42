"""Changes to a vault, each in an order in which a crash at any step loses nothing.

The rule: what is new is complete before it becomes visible, and the only copy of a directory id or of a long name
goes last. The one step that makes a change visible is the object that gives an entry its type (``primary``): it is
created under the condition that it is absent, replaced under the condition of its revision, moved by one rename.

| change | steps |
|---|---|
| put, symlink | ``name.c9s`` (shortened names), then the content |
| put_growing | nothing until all of the content is sent; then as for put |
| mkdir | content directory with ``dirid.c9r``, ``name.c9s``, then ``dir.c9r`` |
| move | the target's ``name.c9s``, then the primary from source to target, then what is left of the source |
| remove a file or link | the primary, then ``name.c9s`` |
| remove a folder | the content directory's rest, ``dirid.c9r``, the directory itself, then as for a link |

An attempt that broke off leaves at most an entry without primary (never shown, reused by the next attempt), a
content directory that nothing links to, or a link to a content directory that is not there (an empty folder).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from serpentfs.clouds.base import Content, GrowingContent
from serpentfs.clouds.blobs.base import ABSENT, BlobInfo, BlobStore, Chunks, Condition
from serpentfs.clouds.vault.content import (
    ContentScheme,
    ciphertext_size,
    decrypt_small,
    derive,
    encrypt_small,
    header_for_token,
    listed_size,
)
from serpentfs.clouds.vault.layout import (
    DIRECTORY_ID_FILE,
    LONG_NAME_FILE,
    MAX_TARGET_CHARS,
    ROOT,
    TEMPORARY_PREFIX,
    Entry,
    entry_for,
    entry_of,
)
from serpentfs.clouds.vault.listing import RawEntry, node_info
from serpentfs.clouds.vault.masterkey import Masterkey
from serpentfs.clouds.vault.names import REGULAR, NameCipher, check_name, is_ciphertext_name, normalize
from serpentfs.clouds.vault.parallel import all_of
from serpentfs.clouds.vault.uploads import encrypted, encrypted_growing, put_bytes
from serpentfs.errors import (
    AlreadyExists,
    Conflict,
    DirectoryNotEmpty,
    IntegrityError,
    InvalidArgument,
    NotFound,
    RevisionGone,
    Unsupported,
)
from serpentfs.model import Kind, NodeId, NodeInfo, NodeRef, Span


class Writer:
    """Changes one vault. ``is_bare`` tells whether a folder was last listed without any object of its own: its
    content directory may be missing (a removal that broke off) and is made again when something is put into it."""

    def __init__(
        self,
        store: BlobStore,
        names: NameCipher,
        scheme: ContentScheme,
        key: Masterkey,
        is_bare: Callable[[NodeId], bool],
    ) -> None:
        self._store = store
        self._names = names
        self._scheme = scheme
        self._key = key
        self._is_bare = is_bare

    # files

    async def put(
        self,
        parent: NodeId,
        name: str,
        content: Content,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
        retry: bool,
    ) -> NodeInfo:
        entry, long_name = self._target(parent, name, replaces)
        size = content.size
        header = header_for_token(self._scheme, self._key, token)
        object_size = ciphertext_size(self._scheme, size)
        aside = derive(self._key, token, b"serpentfs vault temporary name", 16).hex()
        temporary = f"{entry.path}/{TEMPORARY_PREFIX}{aside}.tmp"
        if retry and (blob := await self._find_upload(entry.primary(Kind.FILE), header, object_size)) is not None:
            if replaces is not None and replaces.kind is not Kind.FILE:
                await self._delete_if_there(temporary)
            return self._info(entry, Kind.FILE, blob, name)
        chunks = encrypted(self._scheme, header, content, size)
        if replaces is None:
            if not (self._store.capabilities.folders and entry.is_object(Kind.FILE)):  # there the put itself finds out
                await self._require_room(entry, Kind.FILE)
            await self.put_long_name(entry, long_name)
            blob = await self._put_absent(entry, chunks, object_size, mtime_ns)
        elif replaces.kind is Kind.FILE:
            if not self._store.capabilities.folders:
                await self._require_folder(parent)
            blob = await self._put_file(entry, chunks, object_size, replaces.revision, mtime_ns)
        else:
            await self._require_folder(parent)
            blob = await self._put_over_link(entry, replaces, temporary, chunks, object_size, mtime_ns, retry)
        return self._info(entry, Kind.FILE, blob, name)

    async def put_growing(
        self,
        parent: NodeId,
        name: str,
        content: GrowingContent,
        replaces: NodeRef | None,
        mtime_ns: int,
        token: bytes,
    ) -> NodeInfo:
        """``put`` of a content that is still being written. What it asks before, it asks again at the end: until then
        nobody keeps others from the place."""
        if replaces is not None and replaces.kind is not Kind.FILE:
            raise InvalidArgument("only a file is replaced in one step")
        entry, long_name = self._target(parent, name, replaces)

        async def require_place() -> None:
            if replaces is None:
                await self._require_room(entry, Kind.FILE)
            else:
                await self._require_folder(parent)

        async def ending() -> None:
            await require_place()
            await self.put_long_name(entry, long_name)

        await require_place()
        blob = await self._store.put(
            entry.primary(Kind.FILE),
            encrypted_growing(self._scheme, header_for_token(self._scheme, self._key, token), content, ending),
            None,
            condition=ABSENT if replaces is None else replaces.revision,
            mtime_ns=mtime_ns,
        )
        return self._info(entry, Kind.FILE, blob, name)

    async def _put_file(
        self, entry: Entry, chunks: Chunks, size: int, condition: Condition, mtime_ns: int
    ) -> BlobInfo:
        """Put a file's object. Whether a real folder is there the put tells, without a question before each."""
        within = entry.path if self._store.capabilities.folders and entry.parent != ROOT else ""
        put = partial(
            self._store.put,
            entry.primary(Kind.FILE),
            chunks,
            size,
            condition=condition,
            mtime_ns=mtime_ns,
            within=within,
        )
        try:
            return await put()
        except NotFound:
            if not within:
                raise
            await self._require_folder(entry.parent)
            return await put()

    async def _put_absent(self, entry: Entry, chunks: Chunks, size: int, mtime_ns: int) -> BlobInfo:
        try:
            return await self._put_file(entry, chunks, size, ABSENT, mtime_ns)
        except AlreadyExists:
            # An empty folder that an interrupted change left in this place is not somebody's file.
            if entry.shortened or await self._stat(entry.primary(Kind.FILE)) is not None:
                raise
            await self._remove_empty(entry)
            return await self._put_file(entry, chunks, size, ABSENT, mtime_ns)

    async def _put_over_link(
        self,
        entry: Entry,
        link: NodeRef,
        temporary: str,
        chunks: Chunks,
        size: int,
        mtime_ns: int,
        retry: bool,
    ) -> BlobInfo:
        """A file in the place of a link: they cannot be exchanged in one step, so the file is complete before the
        link goes."""
        await self._store.put(temporary, chunks, size, mtime_ns=mtime_ns)
        try:
            await self._vacate(entry, link, retry)
        except Conflict:
            await self._store.delete(temporary)
            raise
        return await self._store.rename(temporary, entry.primary(Kind.FILE), condition=ABSENT)

    async def _find_upload(self, key: str, header: bytes, size: int) -> BlobInfo | None:
        """The object that an earlier attempt of this upload made, known by its header."""
        blob = await self._stat(key)
        if blob is None or blob.size != size:
            return None
        return blob if await self._header_of(blob) == header else None

    async def _header_of(self, blob: BlobInfo) -> bytes | None:
        try:
            span = Span(0, self._scheme.header_size)
            return await self._store.read(blob.key, span, revision=blob.revision)
        except (NotFound, RevisionGone):
            return None

    # folders and links

    async def mkdir(self, parent: NodeId, name: str, token: bytes, retry: bool) -> NodeInfo:
        entry, long_name = self._target(parent, name, None)
        key = entry.primary(Kind.DIRECTORY)
        seed = derive(self._key, token, b"serpentfs vault directory id", 16)
        folder = NodeId(str(uuid.UUID(bytes=seed, version=4)))
        if retry and await self._directory_id_at(key) == folder:
            await self.make_content_directory(folder)
            return self._info(entry, Kind.DIRECTORY, await self._store.stat(key), name, folder)
        await self._require_room(entry, Kind.DIRECTORY)
        await self.make_content_directory(folder)
        await self.put_long_name(entry, long_name)
        try:
            blob = await put_bytes(self._store, key, folder.encode("utf-8"), condition=ABSENT)
        except AlreadyExists:
            # Somebody was faster. (Our own id there would be an attempt of the store's that it repeated.)
            if await self._directory_id_at(key) != folder:
                await self._clear_content_directory(folder)
                raise
            blob = await self._store.stat(key)
        return self._info(entry, Kind.DIRECTORY, blob, name, folder)

    async def symlink(self, parent: NodeId, name: str, target: str, mtime_ns: int, retry: bool) -> NodeInfo:
        try:
            clear = target.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgument("the link's target is not valid UTF-8") from error
        if not target or "\0" in target or len(target) > MAX_TARGET_CHARS:
            raise InvalidArgument(f"a link's target has 1 to {MAX_TARGET_CHARS} characters")
        entry, long_name = self._target(parent, name, None)
        key = entry.primary(Kind.SYMLINK)
        if retry and await self._link_target_at(key) == target:
            return self._info(entry, Kind.SYMLINK, await self._store.stat(key), name, target=target)
        await self._require_room(entry, Kind.SYMLINK)
        await self.put_long_name(entry, long_name)
        sealed = encrypt_small(self._scheme, clear)
        blob = await put_bytes(self._store, key, sealed, condition=ABSENT, mtime_ns=mtime_ns)
        return self._info(entry, Kind.SYMLINK, blob, name, target=target)

    # moving

    async def move(
        self, node: NodeRef, parent: NodeId, name: str, replaces: NodeRef | None, retry: bool
    ) -> NodeInfo:
        source = entry_of(self._names, node)
        target, long_name = self._target(parent, name, replaces)
        kind = node.kind
        source_key, target_key = source.primary(kind), target.primary(kind)
        if source == target:
            return await self._info_at(target, node, await self._store.stat(source_key), name)
        there = await self._stat(source_key)
        if there is not None and not await self._is_same_folder(node, there):
            there = None
        if retry and (blob := await self._find_moved(node, there, target_key, replaces)) is not None:
            if there is not None:
                await self._store.delete(source_key, condition=there.revision)
            await self.tidy(source, kind)
            info = await self._info_at(target, node, blob, name)
            # Where it was known by its size alone, somebody may have saved over it since.
            same = kind is not Kind.FILE or there is not None or self._store.is_moved(node.revision, blob.revision)
            return replace(info, same_content=same)
        if there is None:
            raise NotFound(f"{source_key} is no longer there")
        if replaces is None:
            await self._require_room(target, kind)
            await self.put_long_name(target, long_name)
            blob = await self._rename_absent(source_key, target, kind)
        elif target.primary(replaces.kind) == target_key:
            await self._require_folder(parent)
            blob = await self._store.rename(source_key, target_key, condition=replaces.revision)
        else:
            await self._vacate(target, replaces, retry)
            blob = await self._store.rename(source_key, target_key, condition=ABSENT)
        await self.tidy(source, kind)
        info = await self._info_at(target, node, blob, name)
        # Somebody may have saved over it until the very moment of the rename.
        same = there.revision == node.revision and self._store.is_moved(there.revision, blob.revision)
        return replace(info, same_content=kind is not Kind.FILE or same)

    async def _rename_absent(self, source_key: str, target: Entry, kind: Kind) -> BlobInfo:
        key = target.primary(kind)
        try:
            return await self._store.rename(source_key, key, condition=ABSENT)
        except AlreadyExists:
            if not target.is_object(kind) or await self._stat(key) is not None:
                raise
            await self._remove_empty(target)
            return await self._store.rename(source_key, key, condition=ABSENT)

    async def _find_moved(
        self, node: NodeRef, source: BlobInfo | None, target_key: str, replaces: NodeRef | None
    ) -> BlobInfo | None:
        """The target, if an earlier attempt of this move already put the node there."""
        target = await self._stat(target_key)
        if target is None:
            return None
        if node.kind is Kind.DIRECTORY:
            return target if await self._directory_id_at(target_key) == node.id else None
        if replaces is not None and target.revision == replaces.revision:
            return None
        if source is None:
            return target if listed_size(self._scheme, target.size) == node.size else None
        # Both are there: the copy of an interrupted copy-and-delete has the very same header.
        if source.size != target.size:
            return None
        header = await self._header_of(source)
        return target if header is not None and header == await self._header_of(target) else None

    async def _vacate(self, entry: Entry, node: NodeRef, retry: bool) -> None:
        """Make an entry free for a node of another kind, under the condition of the old one's revision."""
        try:
            await self._store.delete(entry.primary(node.kind), condition=node.revision)
        except NotFound as error:
            if not retry:
                raise Conflict(f"{entry.key} is no longer there") from error
        if not entry.is_object(node.kind) and not entry.shortened:
            await self._remove_empty(entry)

    # removing

    async def remove(self, node: NodeRef, retry: bool) -> None:
        entry = entry_of(self._names, node)
        if node.kind is Kind.DIRECTORY:
            await self._remove_folder(entry, node, retry)
        else:
            try:
                await self._store.delete(entry.primary(node.kind), condition=node.revision)
            except NotFound:
                if not retry:
                    raise
        await self.tidy(entry, node.kind)

    async def _remove_folder(self, entry: Entry, node: NodeRef, retry: bool) -> None:
        key = entry.primary(Kind.DIRECTORY)
        link = await self._stat(key)
        if link is None or not await self._is_same_folder(node, link):
            if not retry:
                raise NotFound(f"{key} is no longer there")
            return
        await self._clear_content_directory(node.id)
        try:
            await self._store.delete(key, condition=link.revision)
        except NotFound:
            if not retry:
                raise
        # Another client that still saw the link may have put something into the folder meanwhile. Where folders are
        # real, it made the content directory again by that. Looking before the link went would be too early.
        if await self._store.list(self._names.directory_path(node.id)):
            with contextlib.suppress(AlreadyExists):
                await put_bytes(self._store, key, node.id.encode("utf-8"), condition=ABSENT)
            await self.make_content_directory(node.id)
            raise DirectoryNotEmpty(f"{entry.key} was filled while it was removed")

    async def _clear_content_directory(self, folder: NodeId) -> None:
        """Remove an empty folder's content directory. What is no vault entry (``dirid.c9r``, files of desktop
        programs, remains of interrupted changes) does not keep it. DirectoryNotEmpty."""
        path = self._names.directory_path(folder)
        blobs = await self._store.list(path)
        entries: dict[str, RawEntry] = {}
        for blob in blobs:
            name, _, inner = blob.key[len(path) + 1 :].partition("/")
            there = entries.setdefault(name, RawEntry())
            if inner:
                there.inner[inner] = blob
            else:
                there.object = blob
        if any(is_ciphertext_name(name) and not there.is_leftover(name) for name, there in entries.items()):
            raise DirectoryNotEmpty(f"{path} is not empty")
        backup = f"{path}/{DIRECTORY_ID_FILE}"
        for blob in sorted(blobs, key=lambda blob: blob.key == backup):
            await self._delete_if_there(blob.key)
        try:
            await self._remove_tree(path)   # where folders are real, a name added meanwhile stops us here
        except DirectoryNotEmpty:
            await self.make_content_directory(folder)
            raise

    async def _remove_tree(self, path: str) -> None:
        """Remove a folder and the empty folders in it."""
        for inner in await self._store.list_directories(path):
            await self._remove_tree(inner)
        await self._store.remove_directory(path)

    # times

    async def set_mtime(self, node: NodeRef, mtime_ns: int, name: str, tried_ns: int | None) -> NodeInfo:
        if not self._store.capabilities.set_mtime:
            raise Unsupported("this store cannot set the time of an object")
        entry = entry_of(self._names, node)
        key = entry.primary(node.kind)
        try:
            blob = await self._store.set_mtime(key, mtime_ns, condition=node.revision)
        except Conflict:
            there = await self._stat(key) if tried_ns is not None else None
            if (
                there is None
                or there.mtime_ns not in (mtime_ns, tried_ns)
                or not self._store.has_only_another_time(node.revision, there.revision)
            ):
                raise
            blob = await self._store.set_mtime(key, mtime_ns, condition=there.revision)
        return await self._info_at(entry, node, blob, name)

    # parts of the above

    def _target(self, parent: NodeId, name: str, replaces: NodeRef | None) -> tuple[Entry, str | None]:
        """The entry a change writes to. What is replaced is replaced under its own ciphertext name, which need not
        be the one its cleartext name leads to (foreign normal forms, sync conflicts)."""
        if replaces is None:
            check_name(name)
            return entry_for(self._names, parent, name)
        entry = entry_of(self._names, replaces)
        if entry.parent != parent:
            # Its folder was removed and made again, say, and has another id since.
            raise Conflict("what was to be replaced lies in another folder")
        return entry, None

    async def _require_room(self, entry: Entry, kind: Kind) -> None:
        """Raise unless the entry's folder is there and the entry free. Two questions at once: a store's answer takes
        its time. Mostly one tells all: what comes next in the folder, and is nothing of the entry."""
        if self._store.capabilities.sorted_keys and entry.is_object(kind):
            inner = f"{entry.key}/"
            following = await self._store.next_key(entry.path, inner)
            if following is not None and following > inner and not following.startswith(inner):
                return  # greater: there may be stores that tell the first of all
        await all_of(lambda: self._require_folder(entry.parent), lambda: self.require_free(entry, kind))

    async def _require_folder(self, folder: NodeId) -> None:
        if folder == ROOT or await self._store.is_directory(self._names.directory_path(folder)):
            return
        if not self._is_bare(folder):
            raise NotFound("the folder is no longer there")
        await self.make_content_directory(folder)

    async def require_free(self, entry: Entry, kind: Kind) -> None:
        """Raise AlreadyExists when the entry is taken by any node. That a plain object is absent is left to the
        condition of the put or rename that follows."""
        there = RawEntry()
        for blob in await self._store.list(entry.key):
            there.inner[blob.key[len(entry.key) + 1 :]] = blob
        taken = bool(there.kinds(entry.name))
        if not taken and not entry.shortened and not entry.is_object(kind):
            taken = await self._stat(entry.key) is not None
        if taken:
            raise AlreadyExists(f"{entry.key} exists")

    async def put_long_name(self, entry: Entry, long_name: str | None) -> None:
        if long_name is not None:
            await put_bytes(self._store, entry.long_name_key, long_name.encode("ascii"))

    async def make_content_directory(self, folder: NodeId) -> None:
        path = self._names.directory_path(folder)
        await self._store.make_directory(path)
        backup = encrypt_small(self._scheme, folder.encode("utf-8"))
        await put_bytes(self._store, f"{path}/{DIRECTORY_ID_FILE}", backup)

    async def tidy(self, entry: Entry, kind: Kind) -> None:
        """Remove what is left of an entry whose primary is gone, unless something else is in it."""
        if entry.is_object(kind):
            return
        if entry.shortened:
            left = {blob.key for blob in await self._store.list(entry.key)}
            if left - {entry.long_name_key}:
                return
            await self._delete_if_there(entry.long_name_key)
        await self._remove_empty(entry)

    async def _remove_empty(self, entry: Entry) -> None:
        try:
            await self._store.remove_directory(entry.key)
        except DirectoryNotEmpty:
            # Only a stale long name or foreign files can be in it; they are not shown and check reports them.
            stale = f"{entry.key}/{LONG_NAME_FILE}"
            if {blob.key for blob in await self._store.list(entry.key)} == {stale}:
                await self._delete_if_there(stale)
                await self._store.remove_directory(entry.key)

    async def _delete_if_there(self, key: str) -> None:
        try:
            await self._store.delete(key)
        except NotFound:
            return

    async def _stat(self, key: str) -> BlobInfo | None:
        try:
            return await self._store.stat(key)
        except NotFound:
            return None

    async def _directory_id_at(self, key: str) -> str | None:
        try:
            return (await self._store.read(key)).decode("utf-8", "replace")
        except NotFound:
            return None

    async def _link_target_at(self, key: str) -> str | None:
        try:
            return decrypt_small(self._scheme, await self._store.read(key)).decode("utf-8", "replace")
        except (NotFound, IntegrityError):
            return None

    async def _is_same_folder(self, node: NodeRef, link: BlobInfo) -> bool:
        """Whether a folder's link still is that folder's. Always true of files and links."""
        if node.kind is not Kind.DIRECTORY or link.revision == node.revision:
            return True
        return await self._directory_id_at(link.key) == node.id

    async def _info_at(self, entry: Entry, node: NodeRef, blob: BlobInfo, name: str) -> NodeInfo:
        folder = node.id if node.kind is Kind.DIRECTORY else None
        target = await self._link_target_at(blob.key) if node.kind is Kind.SYMLINK else None
        return self._info(entry, node.kind, blob, name, folder, target)

    def _info(
        self,
        entry: Entry,
        kind: Kind,
        blob: BlobInfo,
        name: str,
        folder: NodeId | None = None,
        target: str | None = None,
    ) -> NodeInfo:
        """The node under the name that the next listing will show."""
        shown = normalize(name)
        if not entry.shortened:
            stored = self._names.decrypt(entry.name.removesuffix(REGULAR), entry.parent)
            if stored is not None and normalize(stored) == shown:
                shown = stored
        return node_info(self._scheme, entry, kind, blob, shown, folder, target)
