"""What a user's program does below a mount, as a process of its own: ``client.py OPERATION PATH NUMBERS…``.

Prints ``{"began": …, "seconds": …}``, both of CLOCK_MONOTONIC, which all processes share. Only the work itself is
timed, not the start of this process. It uses the standard library only and knows nothing of who serves the mount.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BLOCK_SIZE = 1024 * 1024
_STAMP_SIZE = 8
# Short against the time that news take, long against what a listing costs.
_LOOK_INTERVAL = 0.01


def _block() -> bytearray:
    """Bytes that do not compress, the same in every process. Of a file made of several, the first bytes of each are
    overwritten by its index."""
    return bytearray(random.Random(20).randbytes(BLOCK_SIZE))


def _stamp(index: int) -> bytes:
    return index.to_bytes(_STAMP_SIZE, "little")


def _write_all(descriptor: int, data: memoryview | bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_full(descriptor: int, block: bytearray) -> int:
    """Bytes read: fewer than the block has at the end of the file only."""
    view, filled = memoryview(block), 0
    while filled < len(block):
        count = os.readv(descriptor, [view[filled:]])
        if not count:
            break
        filled += count
    return filled


def write(path: str, size: str) -> Callable[[], None]:
    """A new file of ``size`` bytes, sequentially, until close returned."""
    block, left = _block(), int(size)

    def work() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for index, start in enumerate(range(0, left, BLOCK_SIZE)):
                block[:_STAMP_SIZE] = _stamp(index)
                _write_all(descriptor, memoryview(block)[: left - start])
        finally:
            os.close(descriptor)

    return work


def _read(path: str, size: str, *, every_byte: bool) -> Callable[[], None]:
    block, expected, total = bytearray(BLOCK_SIZE), _block(), int(size)
    length = BLOCK_SIZE if every_byte else _STAMP_SIZE

    def work() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for index, start in enumerate(range(0, total, BLOCK_SIZE)):
                count = _read_full(descriptor, block)
                if count != min(BLOCK_SIZE, total - start):
                    raise ValueError(f"{path} ends at {start + count} instead of {total}")
                expected[:_STAMP_SIZE] = _stamp(index)
                compared = min(length, count)
                if block[:compared] != expected[:compared]:
                    raise ValueError(f"{path} has wrong bytes near {start}")
            if _read_full(descriptor, block):
                raise ValueError(f"{path} is longer than {total}")
        finally:
            os.close(descriptor)

    return work


def read(path: str, size: str) -> Callable[[], None]:
    """All of what ``write`` made, sequentially, until close returned. Of each block only its index is compared."""
    return _read(path, size, every_byte=False)


def compare(path: str, size: str) -> Callable[[], None]:
    """As ``read``, with every byte compared."""
    return _read(path, size, every_byte=True)


def small_name(number: int) -> str:
    """Of a file that ``create`` makes."""
    return f"file {number:06}"


def small_content(size: int) -> bytes:
    """Of a file that ``create`` makes, of 1 MiB at most."""
    return bytes(_block()[:size])


def create(folder: str, files: str, size: str) -> Callable[[], None]:
    """New files of ``size`` bytes in one new folder, one after the other, each closed."""
    content = small_content(int(size))
    os.mkdir(folder)

    def work() -> None:
        for number in range(int(files)):
            descriptor = os.open(f"{folder}/{small_name(number)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                _write_all(descriptor, content)
            finally:
                os.close(descriptor)

    return work


def tree(root: str, folders: str, files: str, size: str) -> Callable[[], None]:
    """``files`` files in all, spread over new folders of a new folder."""
    def work() -> None:
        os.mkdir(root)
        for number in range(int(folders)):
            share = (int(files) * (number + 1)) // int(folders) - (int(files) * number) // int(folders)
            create(f"{root}/folder {number:04}", str(share), size)()

    return work


def long_list(root: str, files: str) -> Callable[[], None]:
    """``ls -lR``, which must show that many files."""
    def work() -> None:
        done = subprocess.run(
            ["ls", "-lR", root], env=os.environ | {"LC_ALL": "C"}, stdout=subprocess.PIPE, check=True
        )
        shown = done.stdout.count(b"\n-")
        if shown != int(files):
            raise ValueError(f"ls shows {shown} files instead of {files}")

    return work


def heads(folder: str, files: str, length: str) -> Callable[[], None]:
    """The first bytes of each of the files of such a folder, one after the other."""
    expected = small_content(int(length))

    def work() -> None:
        for number in range(int(files)):
            path = f"{folder}/{small_name(number)}"
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if os.read(descriptor, len(expected)) != expected:
                    raise ValueError(f"{path} begins with wrong bytes")
            finally:
                os.close(descriptor)

    return work


def compare_all(folder: str, files: str, size: str) -> Callable[[], None]:
    """As ``heads``, with every byte of files of that size and the number of them."""
    compare_heads = heads(folder, files, size)

    def work() -> None:
        compare_heads()
        sizes = [entry.stat().st_size for entry in os.scandir(folder)]
        if sizes != [int(size)] * int(files):
            raise ValueError(f"{folder} has {len(sizes)} files instead of {files}, or some of another size")

    return work


def appear(path: str, patience: str) -> Callable[[], None]:
    """Until the folder lists an entry that it does not list yet, or the seconds of ``patience`` are over."""
    folder, _, name = path.rpartition("/")
    if name in os.listdir(folder):
        raise ValueError(f"{path} is there already")

    def work() -> None:
        deadline = time.monotonic() + float(patience)
        while name not in os.listdir(folder) and time.monotonic() < deadline:
            time.sleep(_LOOK_INTERVAL)

    return work


def forget_pages(path: str) -> Callable[[], None]:
    """Drop one file's page cache, for those who may not drop the machine's."""
    def work() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    return work


OPERATIONS: dict[str, Callable[..., Callable[[], None]]] = {
    one.__name__: one
    for one in (write, read, compare, create, tree, long_list, heads, compare_all, appear, forget_pages)
}


def command(operation: Callable[..., Callable[[], None]], path: Path, *numbers: int) -> list[str]:
    """The command line that runs an operation of this module."""
    return [sys.executable, __file__, operation.__name__, str(path), *map(str, numbers)]


if __name__ == "__main__":
    timed_work = OPERATIONS[sys.argv[1]](*sys.argv[2:])
    began = time.monotonic()
    timed_work()
    print(json.dumps({"began": began, "seconds": time.monotonic() - began}), flush=True)
    # An interpreter takes longer to end than small uploads do, and they are timed until after it.
    os._exit(0)
