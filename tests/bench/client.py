"""What a user's program does below a mount, as a process of its own: ``-m tests.bench.client OPERATION PATH NUMBERS…``.

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
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

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


class Content:
    """What ``write`` makes, block by block."""

    def __init__(self) -> None:
        self._block = _block()

    def blocks(self, size: int) -> Iterator[bytes]:
        for index, start in enumerate(range(0, size, BLOCK_SIZE)):
            self._block[:_STAMP_SIZE] = _stamp(index)
            yield bytes(memoryview(self._block)[: size - start])

    def compare_stamp(self, index: int, block: memoryview) -> None:
        """ValueError when ``block`` does not begin as block ``index`` does."""
        self._block[:_STAMP_SIZE] = _stamp(index)
        if block[:_STAMP_SIZE] != self._block[:_STAMP_SIZE]:
            raise ValueError(f"wrong bytes near {index * BLOCK_SIZE}")


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


def heads(folder: str, files: str, length: str, shuffled: str = "0") -> Callable[[], None]:
    """The first bytes of each of the files of such a folder, one after the other; ``shuffled``: in an order that is
    the same every time."""
    expected = small_content(int(length))
    numbers = list(range(int(files)))
    if int(shuffled):
        random.Random(21).shuffle(numbers)

    def work() -> None:
        for number in numbers:
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


def random_reads(path: str, size: str, length: str, count: str, readers: str) -> Callable[[], None]:
    """``count`` reads of ``length`` bytes at random aligned places of what ``write`` made, shared by processes that
    read side by side."""
    block, slots, each = int(length), int(size) // int(length), int(count) // int(readers)
    expected = bytes(_block())

    def reader(number: int) -> None:
        places = random.Random(22 + number)
        descriptor = os.open(path, os.O_RDONLY)
        for _ in range(each):
            at = places.randrange(slots) * block
            data = os.pread(descriptor, block, at)
            start = at % BLOCK_SIZE
            if data[_STAMP_SIZE:] != expected[start + _STAMP_SIZE : start + block]:
                raise ValueError(f"{path} has wrong bytes near {at}")

    def work() -> None:
        if int(readers) == 1:
            reader(0)
            return
        children = []
        for number in range(int(readers)):
            child = os.fork()
            if not child:
                code = 1
                try:
                    reader(number)
                    code = 0
                except (OSError, ValueError):
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        # All are waited for, also when one failed.
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        if failed:
            raise ValueError(f"{len(failed)} of {readers} readers failed")

    return work


def video(path: str, size: str) -> Callable[[], None]:
    """As a player begins: a mebibyte at the start, one at 90 %, one at the middle, of what ``write`` made."""
    block, expected = bytearray(BLOCK_SIZE), _block()

    def work() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        for percent in (0, 90, 50):
            index = int(size) * percent // 100 // BLOCK_SIZE
            os.lseek(descriptor, index * BLOCK_SIZE, os.SEEK_SET)
            expected[:_STAMP_SIZE] = _stamp(index)
            if _read_full(descriptor, block) != BLOCK_SIZE or block != expected:
                raise ValueError(f"{path} has wrong bytes at {percent} %")
        os.close(descriptor)

    return work


def untar(folder: str, archive: str) -> Callable[[], None]:
    def work() -> None:
        os.mkdir(folder)
        subprocess.run(["tar", "xf", archive, "-C", folder], check=True)

    return work


def remove(folder: str) -> Callable[[], None]:
    """``rm -rf``."""
    def work() -> None:
        subprocess.run(["rm", "-rf", folder], check=True)
        if os.path.exists(folder):
            raise ValueError(f"{folder} is still there")

    return work


def mixed(folder: str, seconds: str) -> Callable[[], None]:
    """For that long, what people do all day, at random: files are written, read, listed, renamed and deleted."""
    os.mkdir(folder)
    dice, content = random.Random(23), bytes(_block())

    def work() -> None:
        deadline, made = time.monotonic() + float(seconds), 0
        names: list[str] = []
        while time.monotonic() < deadline:
            deed = dice.random()
            if deed < 0.3 or len(names) < 10:
                made += 1
                names.append(f"{folder}/{made}")
                with open(names[-1], "xb") as file:
                    for _ in range(dice.choice((1, 1, 1, 4, 16))):
                        file.write(content[: dice.randrange(1, BLOCK_SIZE)])
            elif deed < 0.7:
                with open(dice.choice(names), "rb") as file:
                    while file.read(BLOCK_SIZE):
                        pass
            elif deed < 0.8:
                for entry in os.scandir(folder):
                    entry.stat()
            elif deed < 0.9:
                at = dice.randrange(len(names))
                made += 1
                os.rename(names[at], f"{folder}/{made}")
                names[at] = f"{folder}/{made}"
            else:
                os.unlink(names.pop(dice.randrange(len(names))))

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
    for one in (
        write, read, compare, create, tree, long_list, heads, compare_all, appear, random_reads, video, untar, remove,
        mixed, forget_pages,
    )
}


Operation = Callable[..., Callable[[], None]]


def command(operation: Operation, target: str, *numbers: int | str) -> list[str]:
    """The command line that runs an operation of a module such as this one."""
    return [sys.executable, "-m", operation.__module__, operation.__name__, target, *map(str, numbers)]


def run(operations: Mapping[str, Operation]) -> NoReturn:
    """The program: what the arguments name, timed."""
    timed_work = operations[sys.argv[1]](*sys.argv[2:])
    began = time.monotonic()
    timed_work()
    print(json.dumps({"began": began, "seconds": time.monotonic() - began}), flush=True)
    # An interpreter takes longer to end than small uploads do, and they are timed until after it.
    os._exit(0)


if __name__ == "__main__":
    run(OPERATIONS)
