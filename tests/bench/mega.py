"""``python -m tests.bench.mega``: ourselves and ``rclone mount`` on a MEGA account that is far away.

The account is the emulator's, which answers every request, and every new connection, that much later; a connection
carries data as fast as the machine does, unless ``--rate`` says otherwise. Files that were uploaded are read back by
another client and compared, outside of what is measured. As with ``python -m tests.bench`` the machine should do
nothing else, best as root; nothing passes or fails by speed.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import client
from tests.bench.contenders import Contender
from tests.bench.mega_contenders import CONTENDERS, Account, OnMega, RcloneOnMega, SerpentOnMega
from tests.bench.run import add_arguments, carry_out, count
from tests.bench.workloads import (
    Make,
    Sizes,
    Stage,
    Workload,
    measure_create,
    measure_read,
    measure_write,
    prepare_read,
)

_MIB = 1024 * 1024
_HEAD = 4096
_BEFORE_CHANGE_S = 1
"""Until who looks for a change is looking."""


@dataclass(frozen=True, slots=True)
class MegaSizes(Sizes):
    """``heads``: files whose first 4 KiB are read. ``patience``: seconds after which a change is waited for no more."""

    heads: int = 500
    head_file_size: int = _MIB
    patience: int = 60


def _sizes(stage: Stage) -> MegaSizes:
    assert isinstance(stage.sizes, MegaSizes)
    return stage.sizes


def _account(stage: Stage) -> Account:
    assert isinstance(stage.contender, OnMega)
    return stage.contender.account


def _prepare_first(stage: Stage) -> None:
    for folder in ("first", "later"):
        _account(stage).add_files(folder, 1, _sizes(stage).head_file_size)


def _first(stage: Stage) -> None:
    stage.amount, stage.unit = 1, "file"
    stage.contender.forget()
    with stage.mounted():
        stage.measure_first(("mounted", "with the first start"), client.heads, "first", 1, _HEAD)
    with stage.mounted():
        stage.measure_first(("mounted again", "with that start"), client.heads, "later", 1, _HEAD)


def _prepare_read(stage: Stage) -> None:
    with _account(stage).near():
        prepare_read(stage)


def _prepare_heads(stage: Stage) -> None:
    sizes = _sizes(stage)
    _account(stage).add_files("heads", sizes.heads, sizes.head_file_size)


def _heads(stage: Stage) -> None:
    sizes = _sizes(stage)
    stage.amount, stage.unit = sizes.heads, "files"
    stage.contender.forget()
    with stage.mounted():
        stage.measure("cold", client.heads, "heads", sizes.heads, _HEAD)
        stage.measure("again", client.heads, "heads", sizes.heads, _HEAD)


def _write(stage: Stage) -> None:
    measure_write(stage)
    account = _account(stage)
    work = stage.contender.work / "other"
    with account.near(), account.other_client(work) as other:
        other.download("big", work / "big")
        stage.run(client.compare, str(work / "big"), stage.sizes.big_file)


def _create(stage: Stage) -> None:
    measure_create(stage)
    account, sizes = _account(stage), stage.sizes
    work = stage.contender.work / "other"
    with account.near(), account.other_client(work) as other:
        names = [client.small_name(number) for number in range(sizes.created_files)]
        other.download_all("new", names, work / "new")
        stage.run(client.compare_all, str(work / "new"), sizes.created_files, sizes.created_file_size)


def _change(stage: Stage) -> None:
    """Somebody else adds a file to a folder that is being listed again and again."""
    stage.amount, stage.unit = 1, "file"
    account, patience = _account(stage), _sizes(stage).patience
    folder = f"folder {time.monotonic_ns()}"
    account.add_files(folder, 1, _HEAD)
    changed: list[float] = []

    def change() -> None:
        parent = next(entry.handle for entry in account.server.tree(account.email) if entry.path == f"/{folder}")
        changed.append(time.monotonic())
        account.server.add_file(account.email, "new", b"new", parent=parent)

    with stage.mounted():
        before = stage.beginning()
        timer = threading.Timer(_BEFORE_CHANGE_S, change)
        timer.start()
        try:
            began, seconds = stage.run(client.appear, f"{folder}/new", patience + _BEFORE_CHANGE_S)
        finally:
            timer.join()
        if not changed or changed[0] < began:
            raise RuntimeError("nobody was looking yet when the file was added")
        is_seen = seconds < patience
        waited = began + seconds - changed[0] if is_seen else patience
        stage.saw("until it is listed", waited, before, given_up=not is_seen)


WORKLOADS: tuple[Workload, ...] = (
    Workload("first-byte", _first, _prepare_first),
    Workload("read", measure_read, _prepare_read),
    Workload("heads", _heads, _prepare_heads),
    Workload("write", _write),
    Workload("create", _create),
    Workload("change", _change),
)


def _maker(latency: float, rate: float) -> Make:
    def make(kind: type[Contender], work: Path) -> Contender:
        assert issubclass(kind, SerpentOnMega | RcloneOnMega)
        account = Account(latency, rate)
        try:
            return kind(work, account)
        except BaseException:
            account.close()
            raise

    return make


def main() -> int:
    sizes = MegaSizes()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.mega",
        description="Measure serpentfs and rclone mount on a MEGA account that is far away.",
        epilog="smoke test: python -m tests.bench.mega --large-mib 16 --small 20 --heads 10 --rounds 1 --patience 2",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser, WORKLOADS, CONTENDERS)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer and connection")
    parser.add_argument("--rate", type=float, default=0.0, metavar="MIB", help="per second and connection (0: any)")
    parser.add_argument("--large-mib", type=count, default=1024, metavar="MIB", help="written and read sequentially")
    parser.add_argument("--small", type=count, default=sizes.created_files, help="files of 8 KiB that are created")
    parser.add_argument("--heads", type=count, default=sizes.heads, help="files of 1 MiB of which 4 KiB are read")
    parser.add_argument("--patience", type=count, default=sizes.patience, help="seconds to wait for a change")
    arguments = parser.parse_args()
    os.environ["TMPDIR"] = str(arguments.directory)  # where emulators keep what they hold
    sizes = MegaSizes(
        big_file=arguments.large_mib * _MIB,
        created_files=arguments.small,
        rounds=arguments.rounds,
        timeout=arguments.timeout,
        heads=arguments.heads,
        patience=arguments.patience,
    )
    rate = f"{arguments.rate:g} MiB/s" if arguments.rate else "any rate"
    return carry_out(
        arguments,
        sizes,
        SerpentOnMega.name,
        make=_maker(arguments.latency, arguments.rate * _MIB),
        remark=f"MEGA emulator: {arguments.latency * 1000:.0f} ms before each answer and connection, {rate} on each",
    )


if __name__ == "__main__":
    sys.exit(main())
