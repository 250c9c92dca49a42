"""``python -m tests.bench``: ourselves, ``rclone mount`` and gocryptfs side by side in one run.

Run it from the root of the checkout, on a machine that does nothing else, best as root: only root may drop the
page cache of the machine. Nothing here passes or fails by speed; the exit code is 1 when a contender broke.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench.contenders import CONTENDERS, Contender, Serpent
from tests.bench.processes import available_memory, file_system_of
from tests.bench.table import outcome, table
from tests.bench.workloads import WORKLOADS, Benchmark, Failure, Sample, Sizes, Workload

# Three stores at once for what is read, and of one contender what it stages and caches besides, twice over.
_ROOM_PER_BIG_FILE = 6
_ROOM_FOR_THE_REST = 512 * 1024**2
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _size(text: str) -> int:
    number = text.rstrip("KMG")
    unit = text[len(number) :]
    if not number.isdigit() or not int(number) or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64M or 1G")
    return int(number) * _UNITS[unit]


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _workloads(text: str) -> list[Workload]:
    known = {workload.name: workload for workload in WORKLOADS}
    if unknown := set(text.split(",")) - set(known):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} are none of {','.join(known)}")
    return [known[name] for name in text.split(",")]


def _contenders(text: str) -> list[type[Contender]]:
    known = {contender.name: contender for contender in CONTENDERS}
    if unknown := set(text.split(",")) - set(known):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} are none of {','.join(known)}")
    return [known[name] for name in text.split(",")]


def _arguments() -> argparse.Namespace:
    sizes = Sizes()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure serpentfs, rclone mount and gocryptfs side by side.",
        epilog="smoke test: python -m tests.bench --size 16M --listed 200 --folders 4 --created 50 --rounds 1",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = ",".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--only", type=_workloads, default=names, metavar="WORKLOAD,…", help="what to measure")
    names = ",".join(contender.name for contender in CONTENDERS)
    parser.add_argument("--contenders", type=_contenders, default=names, metavar="NAME,…", help="whom, in this order")
    parser.add_argument("--rounds", type=_count, default=sizes.rounds, help="times that each workload is run")
    parser.add_argument("--size", type=_size, default="1G", help="bytes written and read sequentially")
    parser.add_argument("--listed", type=_count, default=sizes.listed_files, help="files in the tree that is listed")
    parser.add_argument("--folders", type=_count, default=sizes.listed_folders, help="folders they are in")
    parser.add_argument("--created", type=_count, default=sizes.created_files, help="small files that are created")
    parser.add_argument("--created-size", type=_size, default="8K", help="bytes of each of them")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where everything is kept meanwhile")
    parser.add_argument("--timeout", type=float, default=sizes.timeout, help="seconds that one step may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser.parse_args()


def _present(contenders: list[type[Contender]]) -> list[type[Contender]]:
    present = []
    for contender in contenders:
        if reason := contender.missing():
            print(f"skipped: {contender.name}: {reason}", file=sys.stderr)
        else:
            present.append(contender)
    return present


def _room(directory: Path) -> int:
    free = shutil.disk_usage(directory).free
    return min(free, available_memory()) if file_system_of(directory) == "tmpfs" else free


def _about(arguments: argparse.Namespace, contenders: list[type[Contender]]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "file_system": file_system_of(arguments.directory),
        "root": os.geteuid() == 0,
        "rounds": arguments.rounds,
        "contenders": {contender.name: contender.version() for contender in contenders},
    }


def _describe(about: dict[str, Any]) -> str:
    lines = [
        f"{about['date']}, Linux {about['kernel']}, {about['cpus']} CPUs, load {about['load']:.1f} at the start, "
        f"Python {about['python']}, on {about['file_system']}, rounds: {about['rounds']}",
        *(f"{name}: {version}" for name, version in about["contenders"].items()),
    ]
    if not about["root"]:
        lines.append("not root: only the page cache of the file that is read is dropped, not the machine's")
    return "\n".join(lines)


def _end(signal_number: int, frame: FrameType | None) -> None:
    traceback.print_stack(frame)    # who ends it may think that it hangs: this tells where
    raise SystemExit(128 + signal_number)


def main() -> int:
    arguments = _arguments()
    if not Path("/dev/fuse").exists():
        print("there is no /dev/fuse", file=sys.stderr)
        return 1
    contenders = _present(arguments.contenders)
    needed = _ROOM_PER_BIG_FILE * arguments.size + _ROOM_FOR_THE_REST
    if _room(arguments.directory) < needed:
        print(f"{arguments.directory} lacks room: {needed // 1024**2} MiB are needed", file=sys.stderr)
        return 1
    about = _about(arguments, contenders)
    sizes = Sizes(
        arguments.size, arguments.listed, arguments.folders, arguments.created, arguments.created_size,
        arguments.rounds, arguments.timeout,
    )
    samples: list[Sample] = []
    failures: list[Failure] = []

    def report(seen: Sample | Failure) -> None:
        if isinstance(seen, Failure):
            failures.append(seen)
            print(f"{seen.contender} {seen.workload}, round {seen.round}: {seen.reason}", file=sys.stderr)
        else:
            samples.append(seen)
            line = f"{seen.contender} {seen.workload}, {seen.step}, round {seen.round}: {seen.seconds:.3f} s"
            print(line, file=sys.stderr, flush=True)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)     # so that mounts and files go then too
    # Each contender's folder is deleted once its mount is gone; what is left here is not ours to delete blindly.
    directory = Path(tempfile.mkdtemp(prefix="serpentfs-bench-", dir=arguments.directory))
    try:
        benchmark = Benchmark(directory, sizes, report)
        for workload in arguments.only:
            benchmark.run(workload, contenders)
    finally:
        # What was measured before an interruption is not lost.
        print(_describe(about))
        if samples:
            print()
            print(table(samples, Serpent.name))
        for failure in failures:
            print(f"failed: {failure.contender} {failure.workload}, round {failure.round}: {failure.reason}")
        if arguments.json:
            arguments.json.write_text(json.dumps(outcome(samples, failures, about), indent=1) + "\n")
        try:
            directory.rmdir()
        except OSError as error:
            print(f"left behind: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
