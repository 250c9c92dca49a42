"""What is measured: workloads, each a few steps that a stop-watch, and the serving process's use, belong to.

``prepare`` makes what several rounds share and is not measured; a workload without it gets a new store every round.
A workload knows contenders by their interface only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import client, processes
from tests.bench.contenders import MOUNT, Contender
from tests.bench.traffic import NO_TRAFFIC, Traffic

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_TREE_FILE_SIZE = 100


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the big file; files and folders of the listed tree; created files and their bytes; rounds."""

    big_file: int = 1024**3
    listed_files: int = 10_000
    listed_folders: int = 100
    created_files: int = 1_000
    created_file_size: int = 8 * 1024
    rounds: int = 3
    timeout: float = 600.0
    """Seconds that any one step may take."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One step, once. ``amount`` of ``unit`` were done in ``seconds``; ``cpu``: seconds of the serving process in
    them; ``resident`` and ``peak``: its bytes after the step, and most since it was started."""

    workload: str
    step: str
    contender: str
    round: int
    amount: int
    unit: str
    seconds: float
    cpu: float
    resident: int
    peak: int
    given_up: bool = False
    """Nobody waited for the end: it takes longer than ``seconds``."""
    traffic: Traffic = NO_TRAFFIC
    """Between the contender and its store."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A workload that a contender did not come through; it is not asked again."""

    workload: str
    contender: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was seen, with the serving process's use before and after it; the rest as in ``Sample``."""

    name: str
    amount: int
    unit: str
    seconds: float
    before: processes.Usage
    after: processes.Usage
    given_up: bool
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Beginning:
    """Of a step: what had been used when it began."""

    usage: processes.Usage
    traffic: Traffic


@dataclass(slots=True)
class Stage:
    """A contender, what it is asked for, and what was seen."""

    contender: Contender
    sizes: Sizes
    amount: int = 0
    unit: str = ""
    start_seconds: float = 0.0
    before_start: Beginning = Beginning(processes.NOTHING_USED, NO_TRAFFIC)
    seen: list[Step] = field(default_factory=list)

    def run(self, operation: client.Operation, path: str, *numbers: int | str) -> tuple[float, float]:
        """One program at the contender's door: when it began, and how many seconds its work took."""
        command = client.command(operation, self.contender.target(path), *numbers)
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = child.communicate(timeout=self.sizes.timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{operation.__name__} did not end in {self.sizes.timeout:.0f} s") from None
        finally:
            if child.poll() is None:
                # A program that waits for a request in the server's hands ends only when the server has.
                self.contender.clean_up()
                child.kill()
                child.wait(timeout=60)
        if child.returncode:
            raise RuntimeError(f"{operation.__name__} ended with {child.returncode}: {err.strip()[-500:]}")
        told = json.loads(out)
        return told["began"], told["seconds"]

    def measure(self, step: str, operation: client.Operation, path: str, *numbers: int | str) -> None:
        """One program as a step."""
        before = self.beginning()
        _, seconds = self.run(operation, path, *numbers)
        self.saw(step, seconds, before)

    def measure_first(
        self, steps: tuple[str, str], operation: client.Operation, path: str, *numbers: int | str
    ) -> None:
        """The first program below a mount as a step, and as another with what the start took: who does the work
        while starting does not save it."""
        self.measure(steps[0], operation, path, *numbers)
        self.saw(steps[1], self.start_seconds + self.seen[-1].seconds, self.before_start)

    def measure_uploaded(
        self, steps: tuple[str, str], files: int, operation: client.Operation, path: str, *numbers: int | str
    ) -> None:
        """One program as a step, and as another the program with all that its uploads take until the store has
        ``files`` files."""
        before = self.beginning()
        began, seconds = self.run(operation, path, *numbers)
        self.saw(steps[0], seconds, before)
        self.contender.flush(files, self.sizes.timeout)
        self.saw(steps[1], time.monotonic() - began, before)

    def beginning(self) -> Beginning:
        """A step begins now."""
        return Beginning(processes.usage(self.contender.pid), self.contender.traffic())

    def saw(self, step: str, seconds: float, before: Beginning, *, given_up: bool = False) -> None:
        """A step that ends now."""
        now, traffic = processes.usage(self.contender.pid), self.contender.traffic() - before.traffic
        self.seen.append(Step(step, self.amount, self.unit, seconds, before.usage, now, given_up, traffic))

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Started as after a restart of the machine, as far as we may bring that about; stopped at the end. After
        trouble it is left to ``clean_up``, which does not wait."""
        subprocess.run(["sync", "-f", str(self.contender.work)], timeout=self.sizes.timeout, check=True)
        if os.access(_DROP_CACHES, os.W_OK):
            _DROP_CACHES.write_text("3\n")
        self.before_start = Beginning(processes.NOTHING_USED, self.contender.traffic())
        began = time.monotonic()
        self.contender.start()
        self.start_seconds = time.monotonic() - began
        yield
        self.contender.stop()

    def drop_pages(self, path: str) -> None:
        """Of the mount's file at least; what the serving program keeps stays."""
        if os.access(_DROP_CACHES, os.W_OK):
            _DROP_CACHES.write_text("1\n")
        else:
            self.run(client.forget_pages, path)


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    measure: Callable[[Stage], None]
    prepare: Callable[[Stage], None] | None = None
    door: str = MOUNT
    without: frozenset[str] = frozenset()
    """Names of contenders that would take far too long."""
    seldom: bool = False
    """Measured only when it is asked for by its name."""


def measure_write(stage: Stage) -> None:
    stage.amount, stage.unit = stage.sizes.big_file, "bytes"
    with stage.mounted():
        steps = "until close", "until uploaded"
        stage.measure_uploaded(steps, 1, client.write, "big", stage.sizes.big_file)


def prepare_read(stage: Stage) -> None:
    with stage.mounted():
        stage.run(client.write, "big", stage.sizes.big_file)
        stage.contender.flush(1, stage.sizes.timeout)


def measure_read(stage: Stage) -> None:
    stage.amount, stage.unit = stage.sizes.big_file, "bytes"
    stage.contender.forget()
    with stage.mounted():
        stage.measure("cold", client.read, "big", stage.sizes.big_file)
        stage.drop_pages("big")
        stage.measure("again, no page cache", client.read, "big", stage.sizes.big_file)
        stage.measure("again, page cache", client.read, "big", stage.sizes.big_file)
        stage.run(client.compare, "big", stage.sizes.big_file)


def _prepare_list(stage: Stage) -> None:
    sizes = stage.sizes
    with stage.mounted():
        stage.run(client.tree, "tree", sizes.listed_folders, sizes.listed_files, _TREE_FILE_SIZE)
        stage.contender.flush(sizes.listed_files, sizes.timeout)


def measure_list(stage: Stage) -> None:
    stage.amount, stage.unit = stage.sizes.listed_files, "files"
    stage.contender.forget()
    with stage.mounted():
        steps = "cold, nothing known", "the same with the start"
        stage.measure_first(steps, client.long_list, "tree", stage.sizes.listed_files)
    with stage.mounted():
        stage.measure("mounted again", client.long_list, "tree", stage.sizes.listed_files)
        stage.measure("warm", client.long_list, "tree", stage.sizes.listed_files)


def measure_create(stage: Stage) -> None:
    sizes = stage.sizes
    stage.amount, stage.unit = sizes.created_files, "files"
    with stage.mounted():
        steps = "until close", "until uploaded"
        numbers = sizes.created_files, sizes.created_file_size
        stage.measure_uploaded(steps, sizes.created_files, client.create, "new", *numbers)


WORKLOADS: tuple[Workload, ...] = (
    Workload("write", measure_write),
    Workload("read", measure_read, prepare_read),
    Workload("list", measure_list, _prepare_list),
    Workload("create", measure_create),
)


Make = Callable[[type[Contender], Path], Contender]
"""Makes a contender whose all lies below a folder, which is not there yet."""


def make_plain(kind: type[Contender], work: Path) -> Contender:
    """A contender that needs nothing but its folder."""
    return kind(work)


class Benchmark:
    """Runs workloads for contenders in turns: A B C, A B C, … ``report`` hears of each outcome as it comes."""

    def __init__(
        self, directory: Path, sizes: Sizes, report: Callable[[Sample | Failure], None], make: Make
    ) -> None:
        self._directory = directory
        self._sizes = sizes
        self._report = report
        self._make = make
        self._open: dict[type[Contender], Contender] = {}

    def run(self, workload: Workload, contenders: list[type[Contender]]) -> None:
        """Nothing of it is left at the end: no mount, no process, no file."""
        failed: set[type[Contender]] = set()
        those = [kind for kind in contenders if kind.door == workload.door and kind.name not in workload.without]
        try:
            for number in range(1, self._sizes.rounds + 1):
                for kind in those:
                    if kind not in failed and not self._take_turn(workload, kind, number):
                        failed.add(kind)
        finally:
            for kind in list(self._open):
                self._discard(kind)

    def _take_turn(self, workload: Workload, kind: type[Contender], number: int) -> bool:
        try:
            if kind in self._open:
                stage = Stage(self._open[kind], self._sizes)
            else:
                stage = Stage(self._new(workload, kind), self._sizes)
                if workload.prepare is not None:
                    workload.prepare(stage)
            workload.measure(stage)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            self._report(Failure(workload.name, kind.name, number, f"{type(error).__name__}: {error}"))
            self._discard(kind)
            return False
        for step in stage.seen:
            self._report(
                Sample(
                    workload.name, step.name, kind.name, number, step.amount, step.unit, step.seconds,
                    step.after.cpu - step.before.cpu, step.after.resident, step.after.peak, step.given_up,
                    step.traffic,
                )
            )
        if workload.prepare is None:
            self._discard(kind)
        return True

    def _new(self, workload: Workload, kind: type[Contender]) -> Contender:
        self._open[kind] = self._make(kind, self._directory / f"{workload.name}-{kind.name}")
        return self._open[kind]

    def _discard(self, kind: type[Contender]) -> None:
        contender = self._open.pop(kind, None)
        if contender is not None:
            contender.clean_up()
            shutil.rmtree(contender.work)
