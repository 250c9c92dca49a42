"""Slot files as threads see them: open, look over, read, write, adopt, remove.

Every function here blocks and is called in a thread of the bridge with immutable arguments, except ``read_cached``
and ``read_parts_cached``, which never wait for a disk and are called on the loop. The format of a slot is ``seal``'s.
All of them raise OSError and leave judging it to ``disk``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serpentfs.cache.blocks import BlockSet, block_length, runs
from serpentfs.cache.seal import HEADER_SIZE, PART_SIZE, SEALED_PART, SLOT_SIZE, BlockSeal, Buffer, sealed_size
from serpentfs.errors import IntegrityError
from serpentfs.model import BLOCK_SIZE, BlockIndex, ContentId, Span
from serpentfs.mount_table import kind_of_device

PIECE = 8
"""Slots read or written by one call: 1 MiB, the largest read a kernel sends. The buffers for it are kept and used
again, because memory touched for the first time is far slower than the disk's page cache."""

PAGE = 4096
FILE_CHARGE = PAGE
"""Bytes charged for a file beyond its slots (inode, place in its folder)."""

NEW_SUFFIX = ".new"
"""Ends the name of a file that is being copied in and is not valid yet."""

_SUFFIX = ".2"
"""Ends the name of a file and stands for the format of its slots: see ``is_outdated``."""

_COPY_PIECE = 1024 * 1024
_SCRATCH: list[bytearray] = []
"""Buffers that nobody uses at this moment. One for each thread would stay as long as the thread does."""
_MOST_SCRATCH = 4
"""Of those that are kept."""
NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)
"""The flag of a read that never waits for the disk. Where the system has none, there are no such reads."""


@dataclass(frozen=True, slots=True)
class Found:
    """What ``look`` saw: an open descriptor, bytes of disk taken, and where a slot may be."""

    descriptor: int
    taken: int
    blocks: BlockSet


def slot_charge(block: int, length: int) -> int:
    """Bytes of disk, in whole pages, that a slot of ``length`` bytes of cleartext takes at most."""
    start = block * SLOT_SIZE
    stop = start + sealed_size(length)
    return (-(-stop // PAGE) - start // PAGE) * PAGE


def scratch() -> bytearray:
    """A buffer of PIECE slots."""
    return bytearray(PIECE * SLOT_SIZE)


def borrow() -> bytearray:
    """A buffer of PIECE slots, for ``give_back``."""
    try:
        return _SCRATCH.pop()
    except IndexError:
        return scratch()


def give_back(buffer: bytearray) -> None:
    if len(_SCRATCH) < _MOST_SCRATCH:
        _SCRATCH.append(buffer)


def look(path: Path) -> Found | None:
    """Open a slot file and find the slots whose headers are not in a hole. None when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        blocks = BlockSet()
        for start, stop in _extents(descriptor, status.st_size):
            for block in _headers_in(start, stop):
                blocks.add(block)
        return Found(descriptor, status.st_blocks * 512 + FILE_CHARGE, blocks)
    except BaseException:
        os.close(descriptor)
        raise


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data."""
    stop = 0
    while stop < size:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, stop


def _headers_in(start: int, stop: int) -> range:
    """The slots with a byte of their header in ``[start, stop)``."""
    return range(max(0, -(-(start - HEADER_SIZE + 1) // SLOT_SIZE)), -(-stop // SLOT_SIZE))


Opened = list[bytes | None]
"""Cleartext of neighbouring blocks, None for what is not there."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What was read: cleartext in order, and how many slots were there but did not open."""

    blocks: Opened
    damaged: int


def lies_in_memory(descriptor: int) -> bool:
    """Whether a file is one of a tmpfs. It refuses NOWAIT, although (but for what was swapped out) it never waits."""
    return kind_of_device(os.fstat(descriptor).st_dev) == "tmpfs"


_AT_ONCE: dict[int, int | None] = {}
"""By device, where ``NOWAIT`` is refused: the flags of a read that never waits there, None where there are no such."""


def read_at_once(descriptor: int, length: int, at: int) -> memoryview | None:
    """``pread`` that never waits for the disk: None where it would have to, and less than there is where only that is
    in memory."""
    device = os.fstat(descriptor).st_dev
    flags = _AT_ONCE.get(device, NOWAIT)
    if flags is None:
        return None
    buffer = bytearray(length)
    try:
        return memoryview(buffer)[: os.preadv(descriptor, [buffer], at, flags)]
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        _AT_ONCE[device] = 0 if lies_in_memory(descriptor) else None
        return None


def read_cached(
    descriptor: int, seal: BlockSeal, content: ContentId, blocks: range, size: int, buffer: bytearray, flags: int
) -> Slots | None:
    """``read`` of at most PIECE blocks. With ``flags`` NOWAIT it never waits for the disk: None unless the page cache
    has them all, OSError with EOPNOTSUPP where the file system cannot tell."""
    wanted = _sealed_length(blocks, size)
    view = memoryview(buffer)[:wanted]
    try:
        if os.preadv(descriptor, [view], blocks.start * SLOT_SIZE, flags) < wanted:
            return None
    except BlockingIOError:
        return None
    return _open_slots(seal, content, blocks, size, view)


def read_parts_cached(
    descriptor: int, seal: BlockSeal, content: ContentId, span: Span, size: int, buffer: bytearray, flags: int
) -> memoryview | None:
    """The bytes of ``span``, which lies within one block: only those parts of its slot are read and opened that hold
    it. With ``flags`` as ``read_cached``; None, too, where the slot is empty or does not open."""
    block = BlockIndex(span.start // BLOCK_SIZE)
    begin, length = block * BLOCK_SIZE, block_length(block, size)
    first, last = (span.start - begin) // PART_SIZE, (span.stop - begin - 1) // PART_SIZE
    wanted = min((last + 1) * SEALED_PART, sealed_size(length) - HEADER_SIZE) - first * SEALED_PART
    view = memoryview(buffer)
    header, sealed = view[:HEADER_SIZE], view[HEADER_SIZE : HEADER_SIZE + wanted]
    at = block * SLOT_SIZE
    try:
        if os.preadv(descriptor, [header], at, flags) < HEADER_SIZE:
            return None
        if os.preadv(descriptor, [sealed], at + HEADER_SIZE + first * SEALED_PART, flags) < wanted:
            return None
        opened = seal.open_parts(content, block, length, range(first, last + 1), header, sealed)
    except (BlockingIOError, IntegrityError):
        return None
    start = span.start - begin - first * PART_SIZE
    return memoryview(opened)[start : start + len(span)]


def read(path: Path, seal: BlockSeal, content: ContentId, blocks: range, size: int) -> tuple[Slots, int]:
    """Read and open neighbouring blocks of a content of ``size`` bytes. The second value is the descriptor, left
    open for the caller."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        opened: Opened = []
        damaged = 0
        for piece in runs(blocks, PIECE):
            slots = read_piece(descriptor, seal, content, piece, size)
            opened += slots.blocks
            damaged += slots.damaged
        return Slots(opened, damaged), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def read_piece(descriptor: int, seal: BlockSeal, content: ContentId, blocks: range, size: int) -> Slots:
    """``read`` of at most PIECE blocks from a file that is open."""
    buffer = borrow()
    try:
        view = memoryview(buffer)[: _sealed_length(blocks, size)]
        got = os.preadv(descriptor, [view], blocks.start * SLOT_SIZE)
        return _open_slots(seal, content, blocks, size, view[:got])
    finally:
        give_back(buffer)


def _sealed_length(blocks: range, size: int) -> int:
    """Bytes from the start of the first slot to the end of the last one's tag."""
    last = blocks.stop - 1
    return (last - blocks.start) * SLOT_SIZE + sealed_size(block_length(last, size))


def _open_slots(seal: BlockSeal, content: ContentId, blocks: range, size: int, view: memoryview) -> Slots:
    opened: Opened = []
    damaged = 0
    for index, block in enumerate(blocks):
        try:
            cleartext = seal.open(content, BlockIndex(block), view[index * SLOT_SIZE : (index + 1) * SLOT_SIZE])
        except IntegrityError:
            cleartext = None
            damaged += 1
        else:
            if cleartext is not None and len(cleartext) != block_length(block, size):
                cleartext = None
                damaged += 1
        opened.append(cleartext)
    return Slots(opened, damaged)


def write(path: Path, seal: BlockSeal, content: ContentId, blocks: Mapping[BlockIndex, bytes]) -> None:
    """Seal blocks and write them into the file of their content, which is made when it is not there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    try:
        write_blocks(descriptor, seal, content, sorted(blocks.items()))
    finally:
        os.close(descriptor)


def write_blocks(
    descriptor: int, seal: BlockSeal, content: ContentId, blocks: Iterable[tuple[BlockIndex, Buffer]]
) -> None:
    """Seal blocks, in ascending order, and write their slots; those of neighbours by one call."""
    buffer = borrow()
    try:
        view = memoryview(buffer)
        start = end = 0  # the bytes of the file that the buffer holds
        for block, cleartext in blocks:
            at = block * SLOT_SIZE
            if at != end or end - start + SLOT_SIZE > len(view):
                write_all(descriptor, view[: end - start], start)
                start = end = at
            end += seal.seal_into(content, block, cleartext, view[end - start :])
        write_all(descriptor, view[: end - start], start)
    finally:
        give_back(buffer)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def remove(paths: Iterable[Path], descriptors: Iterable[int] = ()) -> None:
    """Remove files that may be gone already, after closing descriptors of theirs: the last close of a removed
    file is what frees its bytes, and takes long for a large one."""
    for descriptor in descriptors:
        os.close(descriptor)
    for path in paths:
        path.unlink(missing_ok=True)


def free_bytes(directory: Path) -> int:
    """Bytes that an ordinary user can still write on the file system of ``directory``, which is made again when
    somebody removed it."""
    try:
        status = os.statvfs(directory)
    except FileNotFoundError:
        directory.mkdir(mode=0o700, parents=True)
        status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def touch(times: Mapping[Path, int]) -> None:
    """Set modification times (ns): the order of use that the next start reads."""
    for path, time_ns in times.items():
        try:
            os.utime(path, ns=(time_ns, time_ns))
        except FileNotFoundError:
            continue


def scan(directory: Path) -> list[tuple[ContentId, int]]:
    """Every content's file with the bytes it takes, the longest unused first. Makes the directory if needed and
    removes copies that were never finished and files of another format; names that are not ours are left alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found: list[tuple[int, ContentId, int]] = []
    with os.scandir(directory) as folders:
        for folder in folders:
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if entry.name.endswith(NEW_SUFFIX) or is_outdated(entry.name):
                        Path(entry.path).unlink(missing_ok=True)
                        continue
                    content = content_of(entry.name)
                    if content is None or _folder_of(content) != folder.name:
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    found.append((status.st_mtime_ns, content, status.st_blocks * 512 + FILE_CHARGE))
    found.sort()
    return [(content, taken) for _, content, taken in found]


def path_of(directory: Path, content: ContentId) -> Path:
    """``<directory>/<last two digits>/<16 hex digits>.2``: 256 folders, so that none grows huge."""
    return directory / _folder_of(content) / f"{content:016x}{_SUFFIX}"


def _folder_of(content: ContentId) -> str:
    return f"{content & 0xFF:02x}"


def content_of(name: str) -> ContentId | None:
    """The content id of a file name as ``path_of`` makes it, None for any other name."""
    digits = name.removesuffix(_SUFFIX)
    return _number(digits) if digits != name else None


def is_outdated(name: str) -> bool:
    """Whether a file is of the first format of slots, whose names had no suffix: nothing in it would open."""
    return _number(name) is not None


def _number(digits: str) -> ContentId | None:
    try:
        content = ContentId(int(digits, 16))
    except ValueError:
        return None
    return content if f"{content:016x}" == digits else None


def prepare(source: Path, blocks: Collection[BlockIndex], directory: Path) -> tuple[int, int]:
    """Make ``source`` fit to be adopted: empty every slot that is not in ``blocks``. The answer is the bytes of disk
    that the file takes, and those that moving it into ``directory`` would still have to write.

    A staging file may hold slots that a later write made invalid (a truncated and regrown file). They would
    authenticate, so they must be gone before the file counts as a cache of this content."""
    kept = BlockSet(blocks)
    descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        for start, stop in list(_extents(descriptor, status.st_size)):
            for block in _headers_in(start, stop):
                if block not in kept:
                    os.pwrite(descriptor, bytes(HEADER_SIZE), block * SLOT_SIZE)
        taken = os.fstat(descriptor).st_blocks * 512 + FILE_CHARGE
    finally:
        os.close(descriptor)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return taken, 0 if directory.stat().st_dev == status.st_dev else taken


def take_in(
    source: Path, target: Path, blocks: Collection[BlockIndex], directory: Path, room: int, floor: int
) -> tuple[int, int, bool]:
    """``prepare``, and ``move_in`` when the file takes at most ``room`` bytes and leaves the file system ``floor``. The
    answer: that of ``prepare``, and whether it was moved."""
    taken, needs = prepare(source, blocks, directory)
    fits = taken <= room and free_bytes(directory) >= floor + needs
    if fits:
        move_in(source, target)
    return taken, needs, fits


def move_in(source: Path, target: Path) -> None:
    """Make ``source`` the file ``target``, by rename or, from another file system, by a sparse copy."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = target.with_name(target.name + NEW_SUFFIX)
    try:
        _copy_data(source, copy)
        copy.replace(target)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    source.unlink()


def _copy_data(source: Path, target: Path) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(reader).st_size
            for start, stop in _extents(reader, size):
                while start < stop:
                    data = os.pread(reader, min(stop - start, _COPY_PIECE), start)
                    if not data:
                        raise OSError(errno.EIO, "the file shrank while it was copied", str(source))
                    start += os.pwrite(writer, data, start)
            os.ftruncate(writer, size)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
