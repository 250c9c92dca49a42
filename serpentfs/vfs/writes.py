"""Staging: contents that the cloud has not confirmed, sealed block by block under the state directory.

A *stage* is one content being written or waiting for its upload. Blocks that were written lie in the stage, the
rest shows through from the *base* content up to ``base_limit``, and what neither has is zeros.

A block passes through three places:

    dirty (memory) --spill--> a slot of a plane (sealed, not yet promised) --commit--> a row of ``stage_blocks``

As long as a stage is written strictly forward, its whole blocks are sealed as they come, and a thread writes them
behind (``behind``); until then they are read from there. Of long uploads by WebDAV and FTP the door's thread seals
them (``SealedRoom``).

A *plane* is a sparse file of slots; a stage has up to three. Two rules keep what was acknowledged from being damaged
by a later write that dies:

- ``spill`` never writes the slot that the last commit names, nor the one that the last fsync made durable: three
  planes always leave one free. (A truncation hides blocks; until the next commit the database still names them.)
- Nobody knows when the kernel writes the database's log back, so any commit since the last fsync may be what a power
  cut leaves. A commit that replaces what was fsynced (a hole, too) therefore waits until its new slots, and the
  commit before it, are durable (``prepare``).

``OpenFile.lock`` is held around every method that awaits here, but for ``read``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from serpentfs.bridge import run_in_thread
from serpentfs.cache.seal import SLOT_SIZE, BlockSeal
from serpentfs.cache.slots import give_back, read_at_once, write_blocks
from serpentfs.errors import IntegrityError, NoSpace, SerpentError, Unavailable
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span
from serpentfs.tree.store import StageRow, Store
from serpentfs.vfs.behind import MOST_BEHIND, Behind, Piece

if TYPE_CHECKING:
    from serpentfs.vfs.early import EarlyUpload

SPILL_BLOCKS = 16
"""A stage keeps at most this many dirty blocks (2 MiB) in memory: enough to make one thread hop carry a whole
kernel request (1 MiB), little enough for hundreds of files written at once."""

_SPILL_IN_PLACE = BLOCK_SIZE
"""Bytes up to which a spill needs no thread: sealing them and writing them to the page cache takes less than going to
one, and the commit that follows writes the database's log from the same place."""

_KEPT_FREE, _KEPT_SHARE = 16 << 20, 8
"""Bytes of the disk with the local state that staging leaves to the database, or one part in so many of a small disk:
without them no outcome of an upload could be written down, and so nothing would ever be given back."""

_PLANES = 3

T = TypeVar("T")


class StageRetired(Exception):
    """The stage ended while it was being read: its content is in the cloud now. Look the content up again."""


ReadBase = Callable[[Span], Awaitable[bytes]]


def _os_error(error: OSError, what: str) -> SerpentError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk that holds the local state is full")
    return Unavailable(f"{what}: {os.strerror(error.errno or 0)}")


def _failure(piece: Piece) -> Exception:
    assert piece.error is not None
    return _os_error(piece.error, "staging cannot be written") if isinstance(piece.error, OSError) else piece.error


class SealedRoom:
    """Room for the blocks of a draft from ``first`` on, which a thread of a door seals by itself: ``Vfs.write`` costs
    two crossings, to the loop and from there to a thread. Nobody else changes the draft meanwhile, and nothing that is
    written here is part of it before ``Vfs.take_back``. To be closed by who got it."""

    def __init__(self, descriptor: int, seal: BlockSeal, content: ContentId, first: BlockIndex) -> None:
        self.first = first
        self._descriptor = descriptor
        self._seal = seal
        self._content = content
        self._behind = Behind()
        self._sealed = 0
        self._failed: Piece | None = None
        """The first that could not be written."""

    def write(self, data: memoryview) -> None:
        """Whole blocks, at most a mebibyte, after those before. ``data`` may be used again at once. NoSpace,
        Unavailable: of this or an earlier call; nothing is taken after that."""
        while self._behind.under_way >= MOST_BEHIND:
            self._end_piece()
        if self._failed is not None:
            self.flush()
        try:
            piece = Piece(os.dup(self._descriptor), 0, BlockIndex(self.first + self._sealed))
        except OSError as error:
            raise _os_error(error, "staging cannot be written") from error
        for at in range(0, len(data), BLOCK_SIZE):
            piece.seal(self._seal, self._content, data[at : at + BLOCK_SIZE])
        self._sealed += len(piece.blocks)
        self._behind.start(piece)

    def _end_piece(self) -> None:
        piece = self._behind.wait()
        give_back(piece.buffer)
        if piece.error is not None and (self._failed is None or piece.first < self._failed.first):
            self._failed = piece

    def flush(self) -> None:
        """Wait until everything is written. NoSpace, Unavailable."""
        while self._behind.under_way:
            self._end_piece()
        if self._failed is not None:
            raise _failure(self._failed)

    @property
    def written(self) -> int:
        """Blocks. ValueError before ``flush``."""
        if self._behind.under_way:
            raise ValueError("more is being written")
        return self._sealed if self._failed is None else self._failed.first - self.first

    def close(self) -> None:
        os.close(self._descriptor)


class Stage:
    """One staged content. ``base`` is 0 where nothing shows through."""

    def __init__(
        self, directory: Path, seal: BlockSeal, row: StageRow, planes: dict[BlockIndex, int] | None = None
    ) -> None:
        self.content = row.content
        self.size = row.size
        self.base = row.base
        self.base_limit = row.base_limit
        self.frozen = False
        """Set when an upload of this very content began: later writes open another content on top of it."""
        self._directory = directory
        self._seal = seal
        self._files: dict[int, int] = {}
        self._dirty: dict[BlockIndex, bytearray] = {}
        self._spilled: dict[BlockIndex, int] = {}
        self._committed: dict[BlockIndex, int] = dict(planes or {})
        self._stored: dict[BlockIndex, int] = dict(self._committed)
        """What the database names: as ``_committed``, and what a truncation hid since the last commit."""
        self._durable: dict[BlockIndex, int] = dict(self._committed)
        """What the last fsync made durable. Of what was loaded from the database all may be."""
        self._durable_size = self._stored_size = row.size if planes else 0
        self._not_durable: set[BlockIndex] = set()
        """Blocks that commits changed since then."""
        self._cut: int | None = None
        """First block whose committed rows a truncation made void; the next commit deletes them."""
        self._unsynced_files: set[int] = set()
        self._changing_from: int | None = None
        """Where a change that is under way begins."""
        self.goes_forward = not row.size and not row.base
        """Every write so far went on where the one before it ended."""
        self._piece: Piece | None = None
        """Of a stage that goes forward: whole blocks that are sealed, not yet on their way."""
        self._behind = Behind()
        self._in_flight: dict[BlockIndex, memoryview] = {}
        """The slots of all these blocks. They are spilled, too, and read from here."""
        self.upload: EarlyUpload | None = None
        """The one upload of this content that began before it was complete."""
        self._changes = 0
        """Counts what may have changed a slot, for reads that ran meanwhile."""
        self._in_threads = 0
        self._closing = False
        self._retired = False
        self._last_opened: tuple[BlockIndex, bytes] | None = None
        self.changed = False
        """Whether a commit would have anything to say."""
        self.stored = planes is not None
        """Whether the database knows this stage."""

    # places on disk

    @staticmethod
    def plane_path(directory: Path, content: ContentId, plane: int) -> str:
        """(In text: a path of pathlib's takes longer to make than the file.)"""
        return f"{directory}/{content:016x}.{plane}"

    @property
    def paths(self) -> list[str]:
        """Where its files are, if they are."""
        return [self.plane_path(self._directory, self.content, plane) for plane in range(_PLANES)]

    def _file(self, plane: int) -> int:
        if plane not in self._files:
            path = self.plane_path(self._directory, self.content, plane)
            try:
                self._files[plane] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise _os_error(error, "staging cannot be opened") from error
        return self._files[plane]

    def _require_room(self, file: int) -> None:
        """NoSpace when there is just what others need."""
        try:
            room = os.fstatvfs(file)
        except OSError as error:
            raise _os_error(error, "staging cannot be written") from error
        if room.f_bavail * room.f_frsize < min(_KEPT_FREE, room.f_blocks * room.f_frsize // _KEPT_SHARE):
            raise NoSpace("the disk that holds the local state is full")

    async def _in_thread(self, where: str, function: Callable[..., T], *args: object) -> T:
        """A blocking call that uses the descriptors."""
        self._in_threads += 1
        try:
            return await run_in_thread(where, function, *args)
        finally:
            self._in_threads -= 1
            if self._closing:
                self.close()

    def close(self) -> None:
        """Give back descriptors, once no thread uses them; the stage may be used again."""
        if self._in_threads:
            self._closing = True
            return
        self._closing = False
        self._last_opened = None
        if self._piece is not None:  # a stage that is given up
            self._piece.drop()
            self._piece = None
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def retire(self) -> None:
        """No more reads: whoever is in the middle of one gets StageRetired."""
        self._retired = True
        self.drop_upload()
        self.close()

    def drop_upload(self) -> None:
        """The early upload, if there is one, would be of another content, or in another place."""
        if self.upload is not None:
            self.upload.drop()

    @property
    def steady(self) -> int:
        """Bytes from the start that nobody is changing at this moment."""
        return self.size if self._changing_from is None else min(self.size, self._changing_from)

    @contextmanager
    def _changing(self, start: int) -> Iterator[None]:
        """Around a change of what lies from ``start`` on."""
        if self.upload is not None and start < self.upload.taken:
            self.upload.drop()
        self._changing_from = start
        try:
            yield
        finally:
            self._changing_from = None
            if self.upload is not None:
                self.upload.grew()

    # reading

    @property
    def dirty_bytes(self) -> int:
        return sum(map(len, self._dirty.values()))

    @property
    def blocks(self) -> dict[BlockIndex, int]:
        """Committed blocks and their planes."""
        return dict(self._committed)

    def _plane_of(self, block: BlockIndex) -> int | None:
        plane = self._spilled.get(block)
        return self._committed.get(block) if plane is None else plane

    def _is_own(self, block: BlockIndex) -> bool:
        return block in self._dirty or self._plane_of(block) is not None

    def read_nowait(self, span: Span) -> bytes | None:
        """Bytes of one block that is in memory, else None. ``span`` lies within the size."""
        block = BlockIndex(span.start // BLOCK_SIZE)
        start = block * BLOCK_SIZE
        if span.stop > start + BLOCK_SIZE:
            return None
        dirty = self._dirty.get(block)
        if dirty is None:
            if self._last_opened is None or self._last_opened[0] != block:
                return None
            found = self._last_opened[1][span.start - start : span.stop - start]
        else:
            found = bytes(dirty[span.start - start : span.stop - start])
        return found + bytes(len(span) - len(found))

    async def read(self, span: Span, read_base: ReadBase) -> bytes:
        """Exactly the bytes of ``span``, which lies within the size. StageRetired when the stage ends meanwhile."""
        parts: list[bytes] = []
        position = span.start
        while position < span.stop:
            block = BlockIndex(position // BLOCK_SIZE)
            if (sealed := self._sealed_from(Span(position, span.stop))) and (many := await self._open_many(sealed)):
                parts += many
                end = (sealed[-1] + 1) * BLOCK_SIZE
            elif self._is_own(block):
                end = min(span.stop, (block + 1) * BLOCK_SIZE)
                data = await self._own(block)
                piece = data[position - block * BLOCK_SIZE : end - block * BLOCK_SIZE]
                parts.append(bytes(piece))
                parts.append(bytes(end - position - len(piece)))
            else:
                # As much as possible in one go: neighbouring blocks that show through.
                last = block + 1
                while last * BLOCK_SIZE < span.stop and not self._is_own(BlockIndex(last)):
                    last += 1
                end = min(span.stop, last * BLOCK_SIZE)
                shown = Span(position, max(position, min(end, self.base_limit if self.base else 0)))
                data = await read_base(shown) if len(shown) else b""
                if len(data) != len(shown):
                    raise IntegrityError("a base content is shorter than it was")
                parts.append(data)
                parts.append(bytes(end - position - len(data)))
            position = end
        return b"".join(parts)

    def _sealed_from(self, span: Span) -> range | None:
        """Neighbouring whole blocks from the start of ``span`` on that lie in one plane; None for fewer than two."""
        first, last = -(-span.start // BLOCK_SIZE), span.stop // BLOCK_SIZE
        plane = self._plane_of(BlockIndex(first))
        if first * BLOCK_SIZE != span.start or plane is None:
            return None
        stop = first
        while stop < last and self._lies_in(plane, BlockIndex(stop)):
            stop += 1
        return range(first, stop) if stop - first > 1 else None

    def _lies_in(self, plane: int, block: BlockIndex) -> bool:
        return block not in self._dirty and block not in self._in_flight and self._plane_of(block) == plane

    async def _open_many(self, blocks: range) -> list[bytes] | None:
        """Neighbouring whole blocks of one plane by one trip to a thread; None when they are not as they should be:
        whoever reads them one by one knows why."""
        plane = self._plane_of(BlockIndex(blocks[0]))
        if self._retired or plane is None:
            return None
        file = self._file(plane)

        def open_slots() -> list[bytes | None]:
            return [
                self._seal.open(self.content, BlockIndex(block), os.pread(file, SLOT_SIZE, block * SLOT_SIZE))
                for block in blocks
            ]

        try:
            opened = await self._in_thread("disk", open_slots)
        except (OSError, IntegrityError):
            return None
        found = [data for data in opened if data is not None and len(data) == BLOCK_SIZE]
        return found if len(found) == len(blocks) else None

    async def _own(self, block: BlockIndex) -> bytes | bytearray:
        """A block of this stage's own."""
        while True:
            dirty = self._dirty.get(block)
            if dirty is not None:
                return dirty
            if self._last_opened is not None and self._last_opened[0] == block:
                return self._last_opened[1]
            if self._retired:
                raise StageRetired
            if (sealed := self._in_flight.get(block)) is not None:
                data = self._seal.open(self.content, block, sealed)
                assert data is not None
                self._last_opened = (block, data)
                return data
            plane = self._plane_of(block)
            if plane is None:
                return b""  # cut off while it was read
            changes = self._changes
            file = self._file(plane)
            data = self._open_at_once(file, block)
            if data is not None:
                self._last_opened = (block, data)
                return data
            try:
                slot = await self._in_thread("disk", os.pread, file, SLOT_SIZE, block * SLOT_SIZE)
            except OSError as error:
                raise _os_error(error, "staging cannot be read") from error
            try:
                data = self._seal.open(self.content, block, slot)
                if data is None:
                    raise IntegrityError("a staged block is missing")
            except IntegrityError:
                if changes != self._changes:
                    continue  # it was written anew while it was read
                raise
            if changes == self._changes:
                self._last_opened = (block, data)
            return data

    def _open_at_once(self, file: int, block: BlockIndex) -> bytes | None:
        """A block that can be read without waiting for the disk, as most can that are uploaded soon: a trip to a thread
        costs ten times the read. None for any other: whoever reads it in a thread knows why."""
        try:
            slot = read_at_once(file, SLOT_SIZE, block * SLOT_SIZE)
            return None if slot is None else self._seal.open(self.content, block, slot)
        except (OSError, IntegrityError):
            return None

    # writing

    async def write(self, offset: int, data: bytes | memoryview, read_base: ReadBase) -> None:
        """Put ``data`` at ``offset``; the size grows as needed. NoSpace, Unavailable: of this or, as long as writes go
        strictly forward, of an earlier call, whose blocks are dirty again then."""
        self.goes_forward = self.goes_forward and offset == self.size
        if not self.goes_forward:
            await self._settle()
        with self._changing(min(offset, self.size)):
            await self._write(offset, data, read_base)

    async def _write(self, offset: int, data: bytes | memoryview, read_base: ReadBase) -> None:
        view = memoryview(data)
        position, end = offset, offset + len(view)
        if view and offset > self.size:
            await self._fill_last(offset)
        while position < end:
            block = BlockIndex(position // BLOCK_SIZE)
            start = block * BLOCK_SIZE
            stop = min(end, start + BLOCK_SIZE)
            piece = view[position - offset : stop - offset]
            if self.goes_forward and len(piece) == BLOCK_SIZE:
                await self._seal_behind(block, piece)
            else:
                buffer = self._dirty.get(block)
                if buffer is None:
                    whole = position == start and stop >= min(self.size, start + BLOCK_SIZE)
                    buffer = bytearray() if whole else await self._load(block, read_base)
                    self._dirty[block] = buffer
                inner = position - start
                if len(buffer) < inner:
                    buffer.extend(bytes(inner - len(buffer)))
                buffer[inner : inner + len(piece)] = piece
                if self._last_opened is not None and self._last_opened[0] == block:
                    self._last_opened = None
                self._changes += 1
            self.size = max(self.size, stop)
            self.changed = True
            position = stop
            if self.goes_forward and block in self._dirty and stop == start + BLOCK_SIZE:
                await self._seal_behind(block, self._dirty[block])
                del self._dirty[block]
            if len(self._dirty) >= SPILL_BLOCKS:
                await self.spill()

    async def _seal_behind(self, block: BlockIndex, cleartext: bytearray | memoryview) -> None:
        """Seal a whole block at once, and have a thread write it while the next are sealed."""
        while self._behind.under_way >= MOST_BEHIND:
            wait = self._behind.wait
            self._end_piece(wait() if self._behind.has_ended else await self._in_thread("disk", wait))
        plane = self._free_plane(block)
        if self._piece is not None and not self._piece.goes_on_with(plane, block):
            self._behind.start(self._piece)
            self._piece = None
        if self._piece is None:
            self._piece = self._new_piece(plane, block)
        self._in_flight[block] = self._piece.seal(self._seal, self.content, cleartext)
        self._spilled[block] = plane
        self._changes += 1
        if self._piece.is_full:
            self._behind.start(self._piece)
            self._piece = None

    def _new_piece(self, plane: int, first: BlockIndex) -> Piece:
        file = self._file(plane)
        self._require_room(file)
        try:
            return Piece(os.dup(file), plane, first)
        except OSError as error:
            raise _os_error(error, "staging cannot be opened") from error

    def _end_piece(self, piece: Piece) -> None:
        """A piece was written. If not, its blocks are dirty again."""
        self._changes += 1
        for block in map(BlockIndex, piece.blocks):
            slot = self._in_flight.pop(block)
            if piece.error is not None:
                data = self._seal.open(self.content, block, slot)
                assert data is not None
                self._dirty[block] = bytearray(data)
        give_back(piece.buffer)
        if piece.error is not None:
            raise _failure(piece)
        self._unsynced_files.add(piece.plane)

    async def _settle(self) -> None:
        """Wait until what is sealed is written."""
        last, under_way = self._piece, self._behind.under_way
        if last is None and not under_way:
            return

        def write_and_wait() -> list[Piece]:
            if last is not None:
                last.write()
            return [self._behind.wait() for _ in range(under_way)]

        if under_way or (last is not None and len(last.blocks) * BLOCK_SIZE > _SPILL_IN_PLACE):
            ended = await self._in_thread("disk", write_and_wait)
        else:
            ended = write_and_wait()
        if last is not None:
            self._piece = None
            ended.append(last)
        failures = []
        for piece in ended:
            try:
                self._end_piece(piece)
            except Exception as error:  # noqa: BLE001  (raised below, when all are accounted for)
                failures.append(error)
        if failures:
            raise failures[0]

    def lend_room(self) -> SealedRoom | None:
        """Room at the end; None where there is something already."""
        first = BlockIndex(self.size // BLOCK_SIZE)
        lie_there = (self._dirty, self._spilled, self._stored, self._durable)
        if self.size % BLOCK_SIZE or any(block >= first for blocks in lie_there for block in blocks):
            return None
        self._require_room(self._file(0))
        try:
            return SealedRoom(os.dup(self._file(0)), self._seal, self.content, first)
        except OSError as error:
            raise _os_error(error, "staging cannot be opened") from error

    def take_back(self, room: SealedRoom) -> None:
        """What was written into a room that was lent, and flushed, is part of the content now."""
        if self.size != room.first * BLOCK_SIZE:
            raise ValueError("a stage was written to while room of it was lent")
        written = room.written
        if written:
            self._spilled.update((BlockIndex(room.first + block), 0) for block in range(written))
            self._unsynced_files.add(0)
            self._changes += 1
            self.size += written * BLOCK_SIZE
            self.changed = True

    async def _load(self, block: BlockIndex, read_base: ReadBase) -> bytearray:
        """A block's present bytes, to be changed."""
        start = block * BLOCK_SIZE
        if start >= self.size:
            return bytearray()
        if self._plane_of(block) is not None:
            return bytearray(await self._own(block))
        return bytearray(await self.read(Span(start, min(self.size, start + BLOCK_SIZE)), read_base))

    async def _fill_last(self, size: int) -> None:
        """Before the content grows to ``size``: an own last block gets its new length, as the cache expects of what it
        adopts."""
        last = BlockIndex(self.size // BLOCK_SIZE)
        if self._is_own(last):
            data = bytearray(await self._own(last))
            data.extend(bytes(min(BLOCK_SIZE, size - last * BLOCK_SIZE) - len(data)))
            self._dirty[last] = data
            self._last_opened = None
            self._changes += 1
            self.changed = True

    async def truncate(self, size: int, read_base: ReadBase) -> None:
        """Cut or extend (with zeros) to ``size`` bytes."""
        await self._settle()
        self.goes_forward = not size and not self.base
        with self._changing(min(size, self.size)):
            await self._truncate(size)

    async def _truncate(self, size: int) -> None:
        if size > self.size:
            await self._fill_last(size)
        if size < self.size:
            last = BlockIndex(size // BLOCK_SIZE)
            inner = size - last * BLOCK_SIZE
            if inner and self._is_own(last):
                # A later extension must show zeros where the cut bytes were.
                kept = bytearray(await self._own(last))[:inner]
                self._dirty[last] = kept
            first = last + (1 if inner else 0)
            for blocks in (self._dirty, self._spilled, self._committed):
                for block in [b for b in blocks if b >= first]:
                    del blocks[block]
            self._cut = first if self._cut is None else min(self._cut, first)
            self.base_limit = min(self.base_limit, size)
            self._last_opened = None
            self._changes += 1
        if size != self.size:
            self.size = size
            self.changed = True

    async def spill(self) -> None:
        """Seal every dirty block into a slot that no commit names, and wait until all are written. On an error the
        blocks stay dirty."""
        await self._settle()
        if not self._dirty:
            return
        blocks = sorted(self._dirty.items())
        by_plane: dict[int, list[tuple[BlockIndex, bytearray]]] = {}
        for block, buffer in blocks:
            by_plane.setdefault(self._free_plane(block), []).append((block, buffer))
        jobs = [(self._file(plane), batch) for plane, batch in by_plane.items()]
        self._require_room(jobs[0][0])

        def write() -> None:
            for file, batch in jobs:
                write_blocks(file, self._seal, self.content, batch)

        self._changes += 1
        try:
            if sum(len(buffer) for _, buffer in blocks) <= _SPILL_IN_PLACE:
                write()
            else:
                await self._in_thread("disk", write)
        except OSError as error:
            raise _os_error(error, "staging cannot be written") from error
        finally:
            self._changes += 1
        for plane, batch in by_plane.items():
            self._unsynced_files.add(plane)
            for block, _ in batch:
                self._spilled[block] = plane
                del self._dirty[block]

    def _free_plane(self, block: BlockIndex) -> int:
        taken = (self._stored.get(block), self._durable.get(block))
        return next(plane for plane in range(_PLANES) if plane not in taken)

    async def prepare(self, store: Store) -> None:
        """Everything that must be on disk before ``commit``."""
        await self.spill()
        if self._spilled and min(self._spilled) * BLOCK_SIZE < self._durable_size:
            await self.make_durable(store)

    def commit(self, store: Store) -> None:
        """Write the rows of this stage, inside the caller's transaction; ``prepare`` went before it, ``committed``
        must follow it."""
        assert not self._dirty
        assert not self._in_flight
        store.put_stage(StageRow(self.content, self.size, self.base, self.base_limit))
        if self._cut is not None:
            store.drop_stage_blocks_from(self.content, self._cut)
        store.put_stage_blocks(self.content, self._spilled)

    def committed(self) -> None:
        """The transaction succeeded."""
        if self._cut is not None:
            for block in [b for b in self._stored if b >= self._cut]:
                del self._stored[block]
                self._not_durable.add(block)
        self._committed.update(self._spilled)
        self._stored.update(self._spilled)
        self._not_durable.update(self._spilled)
        self._spilled.clear()
        self._cut = None
        self._stored_size = self.size
        self.changed = False
        self.stored = True

    async def sync(self) -> None:
        """Make every slot survive a power cut. Rows are another matter: see ``make_durable``."""
        planes = tuple(self._unsynced_files)
        if not planes or self._retired:
            return
        files = [self._file(plane) for plane in planes]

        def fdatasync() -> None:
            for file in files:
                os.fdatasync(file)
            directory = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

        self._unsynced_files.clear()
        try:
            await self._in_thread("sync", fdatasync)
        except BaseException as error:
            self._unsynced_files.update(planes)
            if isinstance(error, OSError):
                raise _os_error(error, "staging cannot be made durable") from error
            raise

    async def make_durable(self, store: Store) -> None:
        """Make the last commit and its slots survive a power cut: older slots may be used again."""
        await self.sync()
        await store.sync()
        for block in self._not_durable:
            if block in self._stored:
                self._durable[block] = self._stored[block]
            else:
                self._durable.pop(block, None)
        self._not_durable.clear()
        self._durable_size = self._stored_size
