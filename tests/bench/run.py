"""One run from its arguments to its table, whatever is measured: what the programs of this folder share.

Knows contenders and workloads by their names and interfaces only.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench.contenders import Contender
from tests.bench.processes import available_memory, file_system_of, machine_time
from tests.bench.table import outcome, table
from tests.bench.workloads import Benchmark, Failure, Make, Sample, Sizes, Workload, make_plain

# Three stores at once for what is read, and of one contender what it stages and caches besides, twice over.
_ROOM_PER_BIG_FILE = 6
_ROOM_FOR_THE_REST = 512 * 1024**2


def count(text: str) -> int:
    """The type of an argument that is a number above 0."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def add_arguments(
    parser: argparse.ArgumentParser, workloads: Sequence[Workload], contenders: Sequence[type[Contender]]
) -> None:
    """Those that every run has: what of the given is measured, how often, where, and for how long at most."""
    sizes = Sizes()

    def some_workloads(text: str) -> list[Workload]:
        known = {workload.name: workload for workload in workloads}
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{sorted(unknown)} are none of {','.join(known)}")
        return [known[name] for name in text.split(",")]

    def some_contenders(text: str) -> list[type[Contender]]:
        known = dict.fromkeys(contender.name for contender in contenders)
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{sorted(unknown)} are none of {','.join(known)}")
        return [contender for name in text.split(",") for contender in contenders if contender.name == name]

    names = ",".join(workload.name for workload in workloads if not workload.seldom)
    seldom = ",".join(workload.name for workload in workloads if workload.seldom)
    note = "what to measure" + (f"; besides these there is {seldom}" if seldom else "")
    parser.add_argument("--only", type=some_workloads, default=names, metavar="WORKLOAD,…", help=note)
    names = ",".join(dict.fromkeys(contender.name for contender in contenders))
    parser.add_argument(
        "--contenders", type=some_contenders, default=names, metavar="NAME,…", help="whom, in this order"
    )
    parser.add_argument("--rounds", type=count, default=sizes.rounds, help="times that each workload is run")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where everything is kept meanwhile")
    parser.add_argument("--timeout", type=float, default=sizes.timeout, help="seconds that one step may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")


def carry_out(
    arguments: argparse.Namespace, sizes: Sizes, ourselves: str, *, make: Make = make_plain, remark: str = "",
    conclude: Callable[[Sequence[Sample]], str] | None = None,
) -> int:
    """Measure what ``arguments`` (with those of ``add_arguments``) name and print it; the exit code. ``ourselves``:
    the contender that the others are compared with. ``remark``: printed with what is told of the machine.
    ``conclude``: tells what is printed below the table."""
    if not Path("/dev/fuse").exists():
        print("there is no /dev/fuse", file=sys.stderr)
        return 1
    contenders = _present(arguments.contenders)
    needed = _ROOM_PER_BIG_FILE * sizes.big_file + _ROOM_FOR_THE_REST
    if _room(arguments.directory) < needed:
        print(f"{arguments.directory} lacks room: {needed // 1024**2} MiB are needed", file=sys.stderr)
        return 1
    about = _about(arguments, contenders, remark)
    before = machine_time()
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
        benchmark = Benchmark(directory, sizes, report, make)
        for workload in arguments.only:
            benchmark.run(workload, contenders)
    finally:
        after = machine_time()
        stolen = after.stolen - before.stolen
        about["stolen"] = stolen / max(stolen + after.used - before.used, 1e-9)
        # What was measured before an interruption is not lost.
        print(_describe(about))
        if samples:
            print()
            print(table(samples, ourselves))
            if conclude is not None:
                print(f"\n{conclude(samples)}")
        for failure in failures:
            print(f"failed: {failure.contender} {failure.workload}, round {failure.round}: {failure.reason}")
        if arguments.json:
            arguments.json.write_text(json.dumps(outcome(samples, failures, about), indent=1) + "\n")
        try:
            directory.rmdir()
        except OSError as error:
            print(f"left behind: {error}", file=sys.stderr)
    return 1 if failures else 0


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


def _about(arguments: argparse.Namespace, contenders: list[type[Contender]], remark: str) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "file_system": file_system_of(arguments.directory),
        "root": os.geteuid() == 0,
        "rounds": arguments.rounds,
        "remark": remark,
        "contenders": {contender.name: contender.version() for contender in contenders},
    }


def _describe(about: dict[str, Any]) -> str:
    lines = [
        f"{about['date']}, Linux {about['kernel']}, {about['cpus']} CPUs, load {about['load']:.1f} at the start, "
        f"Python {about['python']}, on {about['file_system']}, rounds: {about['rounds']}",
        f"of the processor time that was wanted, other machines took {about['stolen']:.0%}",
        *([about["remark"]] if about["remark"] else []),
        *(f"{name}: {version}" for name, version in about["contenders"].items()),
    ]
    if not about["root"]:
        lines.append("not root: only the page cache of the file that is read is dropped, not the machine's")
    return "\n".join(lines)


def _end(signal_number: int, frame: FrameType | None) -> None:
    traceback.print_stack(frame)    # who ends it may think that it hangs: this tells where
    raise SystemExit(128 + signal_number)
