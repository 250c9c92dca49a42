"""What is measured on a bucket behind a link, by every door; ``workloads.py`` has what a workload is.

Trees are put into the stores by ``Contender.fill``, at no cost to what is measured; a cold step begins with a machine
that knows nothing of the store.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import client, door_client
from tests.bench.contenders import FTP, WEBDAV
from tests.bench.workloads import (
    Sizes,
    Stage,
    Workload,
    measure_create,
    measure_list,
    measure_read,
    measure_write,
)

_KIB, _MIB = 1024, 1024**2
_TINY = 100
_HEAD = 4 * _KIB
_SOURCE_SIZE = 4 * _KIB
_FILES_PER_FOLDER = 50


@dataclass(frozen=True, slots=True)
class LinkSizes(Sizes):
    """``random_reads``: those of 4 KiB, of which those of 128 KiB are a quarter; ``heads``: files whose first 4 KiB are
    read; ``huge_folder``, ``door_folder``: files in one folder, for mounts and for the other doors; ``unpacked``: files
    of the archive; ``parallel``: files fetched at once; ``mixed_seconds``: of each round of that workload."""

    random_reads: int = 20_000
    heads: int = 500
    head_file_size: int = _MIB
    huge_folder: int = 100_000
    door_folder: int = 5_000
    unpacked: int = 5_000
    parallel: int = 50
    parallel_file_size: int = 4 * _MIB
    mixed_seconds: int = 3600


def _sizes(stage: Stage) -> LinkSizes:
    assert isinstance(stage.sizes, LinkSizes)
    return stage.sizes


def _filled(make: Callable[[Path, LinkSizes], None]) -> Callable[[Stage], None]:
    """The preparation that puts into the store what ``make`` puts into a folder."""

    def prepare(stage: Stage) -> None:
        tree = stage.contender.work / "tree"
        tree.mkdir()
        make(tree, _sizes(stage))
        stage.contender.fill(tree)

    return prepare


def _make_big(tree: Path, sizes: LinkSizes) -> None:
    client.write(str(tree / "big"), str(sizes.big_file))()


def _make_heads(tree: Path, sizes: LinkSizes) -> None:
    client.create(str(tree / "heads"), str(sizes.heads), str(sizes.head_file_size))()


def _make_listed(tree: Path, sizes: LinkSizes) -> None:
    client.tree(str(tree / "tree"), str(sizes.listed_folders), str(sizes.listed_files), str(_TINY))()


def _make_huge(tree: Path, sizes: LinkSizes) -> None:
    client.create(str(tree / "huge"), str(sizes.huge_folder), str(_TINY))()


def _make_door_folder(tree: Path, sizes: LinkSizes) -> None:
    client.create(str(tree / "folder"), str(sizes.door_folder), str(_TINY))()


def _make_parallel(tree: Path, sizes: LinkSizes) -> None:
    folder = tree / "files"
    folder.mkdir()
    for number in range(sizes.parallel):
        client.write(str(folder / client.small_name(number)), str(sizes.parallel_file_size))()


# mounts


def _random(stage: Stage) -> None:
    sizes = _sizes(stage)
    stage.unit = "reads"

    def measure(step: str, length: int, count: int, readers: int) -> None:
        stage.amount = count
        stage.measure(step, client.random_reads, "big", sizes.big_file, length, count, readers)

    few = max(8, sizes.random_reads // 100)
    many = max(8, sizes.random_reads // 4)
    stage.contender.forget()
    with stage.mounted():
        measure("4 KiB, cold", 4 * _KIB, few, 1)
        stage.run(client.read, "big", sizes.big_file)
        for length, count in ((4, sizes.random_reads), (128, many)):
            for readers in (1, 8):
                stage.drop_pages("big")
                name = f"{length} KiB, {readers} reader{'s' if readers > 1 else ''}"
                measure(name, length * _KIB, count // readers * readers, readers)
        stage.run(client.read, "big", sizes.big_file)
        measure("4 KiB, 1 reader, page cache", 4 * _KIB, sizes.random_reads, 1)


def _video(stage: Stage) -> None:
    stage.amount, stage.unit = 3, "places"
    stage.contender.forget()
    with stage.mounted():
        stage.measure("cold", client.video, "big", _sizes(stage).big_file)


def _heads(stage: Stage) -> None:
    sizes = _sizes(stage)
    stage.amount, stage.unit = sizes.heads, "files"
    for step, shuffled in (("in order", 0), ("shuffled", 1)):
        stage.contender.forget()
        with stage.mounted():
            stage.measure(f"cold, {step}", client.heads, "heads", sizes.heads, _HEAD, shuffled)


def _huge(stage: Stage) -> None:
    stage.amount, stage.unit = _sizes(stage).huge_folder, "files"
    stage.contender.forget()
    with stage.mounted():
        steps = "cold", "cold, with the start"
        stage.measure_first(steps, client.long_list, "huge", stage.amount)
        stage.measure("warm", client.long_list, "huge", stage.amount)


def _archive(stage: Stage) -> Path:
    """A tar of small files in folders."""
    archive, tree, files = stage.contender.work / "archive.tar", stage.contender.work / "archive", stage.amount
    client.tree(str(tree), str(-(-files // _FILES_PER_FOLDER)), str(files), str(_SOURCE_SIZE))()
    subprocess.run(["tar", "cf", str(archive), "-C", str(tree), "."], check=True, timeout=stage.sizes.timeout)
    shutil.rmtree(tree)
    return archive


def _unpack(stage: Stage) -> None:
    stage.amount, stage.unit = _sizes(stage).unpacked, "files"
    archive = _archive(stage)
    with stage.mounted():
        steps = "untar, until it ends", "untar, until in the store"
        stage.measure_uploaded(steps, stage.amount, client.untar, "source", str(archive))
        steps = "rm -rf, until it ends", "rm -rf, until gone from the store"
        stage.measure_uploaded(steps, 0, client.remove, "source")


def _mixed(stage: Stage) -> None:
    stage.amount, stage.unit = _sizes(stage).mixed_seconds, "seconds"
    with stage.mounted():
        stage.measure("all day", client.mixed, "work", stage.amount)


# doors


def _fetched(operation: client.Operation) -> Callable[[Stage], None]:
    def measure(stage: Stage) -> None:
        stage.amount, stage.unit = stage.sizes.big_file, "bytes"
        stage.contender.forget()
        with stage.mounted():
            stage.measure("cold", operation, "big", stage.amount)
            stage.measure("again", operation, "big", stage.amount)

    return measure


def _sent(operation: client.Operation) -> Callable[[Stage], None]:
    def measure(stage: Stage) -> None:
        stage.amount, stage.unit = stage.sizes.big_file, "bytes"
        with stage.mounted():
            steps = "until the answer", "until in the store"
            stage.measure_uploaded(steps, 1, operation, "big", stage.amount)

    return measure


def _listed(*operations: client.Operation) -> Callable[[Stage], None]:
    def measure(stage: Stage) -> None:
        stage.amount, stage.unit = _sizes(stage).door_folder, "files"
        for operation in operations:
            stage.contender.forget()
            with stage.mounted():
                stage.measure(f"{operation.__name__}, cold", operation, "folder", stage.amount)
                stage.measure(f"{operation.__name__}, again", operation, "folder", stage.amount)

    return measure


def _parallel(stage: Stage) -> None:
    sizes = _sizes(stage)
    stage.amount, stage.unit = sizes.parallel * sizes.parallel_file_size, "bytes"
    stage.contender.forget()
    with stage.mounted():
        for step in ("cold", "again"):
            stage.measure(step, door_client.parallel_gets, "files", sizes.parallel, sizes.parallel_file_size)


WORKLOADS: tuple[Workload, ...] = (
    Workload("read", measure_read, _filled(_make_big)),
    Workload("random", _random, _filled(_make_big), without=frozenset({"s3fs"})),
    Workload("video", _video, _filled(_make_big)),
    Workload("heads", _heads, _filled(_make_heads), without=frozenset({"s3fs"})),
    Workload("list", measure_list, _filled(_make_listed), without=frozenset({"s3fs"})),
    Workload("huge-folder", _huge, _filled(_make_huge), without=frozenset({"s3fs"})),
    Workload("write", measure_write),
    Workload("create", measure_create, without=frozenset({"s3fs"})),
    Workload("untar", _unpack, without=frozenset({"s3fs"})),
    Workload("webdav-get", _fetched(door_client.get), _filled(_make_big), WEBDAV),
    Workload("webdav-put", _sent(door_client.put), door=WEBDAV),
    Workload("webdav-parallel", _parallel, _filled(_make_parallel), WEBDAV),
    Workload("webdav-propfind", _listed(door_client.propfind), _filled(_make_door_folder), WEBDAV),
    Workload("ftp-retr", _fetched(door_client.retr), _filled(_make_big), FTP),
    Workload("ftp-stor", _sent(door_client.stor), door=FTP),
    Workload("ftp-list", _listed(door_client.mlsd, door_client.long_list), _filled(_make_door_folder), FTP),
    Workload("mixed", _mixed, without=frozenset({"s3fs"}), seldom=True),
)
