"""Kills a mounted drive at random moments and checks that nothing acknowledged is lost.

    python -m tests.crash.driver --kills 500 [--seed N] [--mega]

Random operations run through a real mount of a real vault, or of a MEGA account of the emulator. A timer sends SIGKILL
to the process behind it; the drive is started again, and what the mount shows must be what had been acknowledged: every
operation that returned is there, the one that was under way is there whole or not at all. At the end everything is
uploaded, the drive is unmounted, and the vault itself, read by a reader that shares no code with this project, must
hold the same; the account is asked by rclone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.mega_emulator import emulator
from tests.mounted import PASSPHRASE, Mounted
from tests.vault_tools import read_vault

_EMAIL = "crash@example.test"
RCLONE = str(Path(sys.executable).with_name("rclone"))

Tree = dict[str, bytes | str | None]
"""Path below the mount to a file's bytes, a link's target, None for a folder."""


@dataclass
class Report:
    """What came of a run."""

    kills: int = 0
    operations: int = 0
    interrupted: int = 0
    faults: list[str] = field(default_factory=list)


class Driver:
    """The model of what was acknowledged, and the operations that change it."""

    def __init__(self, root: Path, choice: random.Random, *, symlinks: bool = True) -> None:
        self._root = root
        self._choice = choice
        self._symlinks = symlinks
        self.tree: Tree = {}
        self.possible: list[Tree] = []
        """While an operation is under way: the trees that a crash may leave."""

    def _at(self, path: str) -> str:
        return f"{self._root}{path}"

    def _paths(self, wanted: Callable[[bytes | str | None], bool]) -> list[str]:
        return [path for path, value in self.tree.items() if wanted(value)]

    def _some_folder(self) -> str:
        return self._choice.choice(["", *self._paths(lambda value: value is None)])

    def _new_path(self) -> str:
        name = self._choice.choice("abcdefgh") * self._choice.choice([1, 3, 200])
        return f"{self._some_folder()}/{name}"

    def _some_file(self) -> str | None:
        files = self._paths(lambda value: isinstance(value, bytes))
        return self._choice.choice(files) if files else None

    def _data(self) -> bytes:
        size = self._choice.choice([0, 1, 100, 5000, 32768, 131072, 131073, 400_000, 700_001, 1_300_000])
        return self._choice.randbytes(size)

    def step(self) -> None:
        """One random operation; the model moves when it returned. OSError when the drive died."""
        steps = [
            self._write, self._write, self._write, self._patch, self._patch, self._append, self._truncate,
            self._mkdir, self._rename, self._rename, self._replace, self._unlink, self._rmdir,
        ]  # fmt: skip
        if self._symlinks:
            steps.append(self._symlink)
        self._choice.choice(steps)()

    def _attempt(self, after: Tree, operation: Callable[[], None], *between: Tree) -> None:
        self.possible = [self.tree, after, *between]
        operation()
        self.tree = after
        self.possible = [after]

    def _put(self, path: str, flags: int, offset: int, data: bytes) -> None:
        descriptor = os.open(self._at(path), os.O_WRONLY | flags, 0o644)
        try:
            for at in range(0, len(data), 100_000):
                os.pwrite(descriptor, data[at : at + 100_000], offset + at)
            if self._choice.random() < 0.2:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _write(self) -> None:
        path = self._new_path()
        if path in self.tree and not isinstance(self.tree[path], bytes):
            return
        data = self._data()
        # Created (or cut) but not written yet; a part of the data, if the periodic commit fell in between.
        parts = [self.tree | {path: data[:at]} for at in range(0, len(data), 100_000)]
        self._attempt(
            self.tree | {path: data},
            lambda: self._put(path, os.O_CREAT | os.O_TRUNC, 0, data),
            self.tree | {path: b""},
            *parts,
        )

    def _patch(self) -> None:
        path = self._some_file()
        if path is None:
            return
        old = self.tree[path]
        assert isinstance(old, bytes)
        offset = self._choice.randrange(len(old) + 1)
        data = self._choice.randbytes(self._choice.choice([1, 50, 70_000]))
        new = old[:offset] + data + old[offset + len(data) :]
        self._attempt(self.tree | {path: new}, lambda: self._put(path, 0, offset, data))

    def _append(self) -> None:
        path = self._some_file()
        if path is None:
            return
        old = self.tree[path]
        assert isinstance(old, bytes)
        data = self._choice.randbytes(50_000)

        def append() -> None:
            with open(self._at(path), "ab") as file:
                file.write(data)

        self._attempt(self.tree | {path: old + data}, append, self.tree | {path: old + data[:32768]})

    def _truncate(self) -> None:
        path = self._some_file()
        if path is None:
            return
        old = self.tree[path]
        assert isinstance(old, bytes)
        size = self._choice.randrange(len(old) * 2 + 1) % 900_000
        new = old[:size] + bytes(max(0, size - len(old)))
        self._attempt(self.tree | {path: new}, lambda: os.truncate(self._at(path), size))

    def _mkdir(self) -> None:
        path = self._new_path()
        if path not in self.tree:
            self._attempt(self.tree | {path: None}, lambda: os.mkdir(self._at(path)))

    def _symlink(self) -> None:
        path = self._new_path()
        if path not in self.tree:
            self._attempt(self.tree | {path: "some/target"}, lambda: os.symlink("some/target", self._at(path)))

    def _below(self, path: str) -> list[str]:
        return [other for other in self.tree if other.startswith(path + "/")]

    def _rename(self) -> None:
        if not self.tree:
            return
        old, new = self._choice.choice(list(self.tree)), self._new_path()
        if new == old or new.startswith(old + "/") or not self._may_replace(old, new):
            return
        moved = {other: value for other, value in self.tree.items() if other != new}
        for path in [old, *self._below(old)]:
            moved[new + path[len(old) :]] = moved.pop(path)
        self._attempt(moved, lambda: os.rename(self._at(old), self._at(new)))

    def _may_replace(self, old: str, new: str) -> bool:
        if new not in self.tree:
            return True
        both_folders = self.tree[old] is None and self.tree[new] is None
        both_not = self.tree[old] is not None and self.tree[new] is not None
        return both_not or (both_folders and not self._below(new))

    def _replace(self) -> None:
        """How editors save: a temporary file, then a rename over."""
        path = self._some_file()
        if path is None:
            return
        data = self._data()
        temporary = path[: path.rindex("/") + 1] + ".tmp"
        if temporary in self.tree:
            return
        parts = [data[:at] for at in range(0, len(data), 100_000)]
        self._attempt(
            self.tree | {temporary: data},
            lambda: self._put(temporary, os.O_CREAT, 0, data),
            *[self.tree | {temporary: part} for part in [b"", *parts]],
        )
        after = {other: value for other, value in self.tree.items() if other != temporary} | {path: data}
        self._attempt(after, lambda: os.rename(self._at(temporary), self._at(path)))

    def _without(self, path: str) -> Tree:
        return {other: value for other, value in self.tree.items() if other != path}

    def _unlink(self) -> None:
        paths = self._paths(lambda value: value is not None)
        if paths:
            path = self._choice.choice(paths)
            self._attempt(self._without(path), lambda: os.unlink(self._at(path)))

    def _rmdir(self) -> None:
        empty = [path for path in self._paths(lambda value: value is None) if not self._below(path)]
        if empty:
            path = self._choice.choice(empty)
            self._attempt(self._without(path), lambda: os.rmdir(self._at(path)))


def tree_of(root: Path) -> Tree:
    """What a folder holds."""
    found: Tree = {}
    for where, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(where) / name
            shown = f"/{path.relative_to(root)}"
            if path.is_symlink():
                found[shown] = str(path.readlink())
            else:
                found[shown] = path.read_bytes() if name in files else None
    return found


def difference(found: Tree, wanted: Tree) -> str:
    """In a line or two, for people."""

    def brief(value: object) -> str:
        return f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)

    lines = [f"lost {path}: {brief(wanted[path])}" for path in wanted.keys() - found.keys()]
    lines += [f"unexpected {path}: {brief(found[path])}" for path in found.keys() - wanted.keys()]
    lines += [
        f"differs {path}: {brief(found[path])} instead of {brief(wanted[path])}"
        for path in found.keys() & wanted.keys()
        if found[path] != wanted[path]
    ]
    return "; ".join(sorted(lines)[:5])


Hashes = dict[str, str | None]
"""As ``Tree``, with SHA-256 in place of a file's bytes."""


def run(kills: int, seed: int, work: Path, say: Callable[[str], None] = lambda line: None) -> Report:
    """``kills`` rounds of operations, kill, restart and check; then the vault itself."""
    mounted = Mounted(work)

    def in_vault() -> Hashes:
        return {
            path: None if entry.type == "directory" else entry.target or entry.sha256
            for path, entry in read_vault(mounted.vault, PASSPHRASE).items()
        }

    driver = Driver(mounted.point, random.Random(seed))
    return _run(mounted, driver, random.Random(seed + 1), kills, in_vault, say)


def run_mega(kills: int, seed: int, work: Path, say: Callable[[str], None] = lambda line: None) -> Report:
    """The same with an account; in the end rclone tells what it holds."""
    with emulator() as server:
        server.add_account(_EMAIL, PASSPHRASE)
        mounted = Mounted(work, url="mega:", exists=True, environment={"SERPENTFS_MEGA_API": server.url})
        mounted.command("login", _EMAIL)

        def in_account() -> Hashes:
            copy = work / "copy"
            environment = os.environ | {
                "X_MEGA_API_URL": server.url,
                "RCLONE_CONFIG": str(work / "rclone.conf"),
                "RCLONE_CONFIG_IT_TYPE": "mega",
                "RCLONE_CONFIG_IT_USER": _EMAIL,
                "RCLONE_CONFIG_IT_PASS": subprocess.run(
                    [RCLONE, "obscure", PASSPHRASE], check=True, capture_output=True, text=True, timeout=60
                ).stdout.strip(),
            }
            subprocess.run(
                [RCLONE, "copy", "it:", str(copy), "--create-empty-src-dirs"], check=True, timeout=300, env=environment
            )
            return _hashes(tree_of(copy))

        driver = Driver(mounted.point, random.Random(seed), symlinks=False)
        return _run(mounted, driver, random.Random(seed + 1), kills, in_account, say)


def _hashes(tree: Tree) -> Hashes:
    return {
        path: hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value for path, value in tree.items()
    }


def _run(
    mounted: Mounted,
    driver: Driver,
    choice: random.Random,
    kills: int,
    in_cloud: Callable[[], Hashes],
    say: Callable[[str], None],
) -> Report:
    report = Report()
    try:
        for number in range(kills):
            mounted.start()
            _check(tree_of(mounted.point), driver, report, f"after kill {number}")
            timer = threading.Timer(choice.expovariate(1 / 0.6), mounted.kill)
            timer.start()
            try:
                while True:
                    driver.step()
                    report.operations += 1
            except OSError as error:
                if timer.is_alive():
                    report.faults.append(f"round {number}: an operation failed before the kill: {error}")
                report.interrupted += len(driver.possible) > 1
            timer.join()
            mounted.clean_up()
            report.kills += 1
            say(f"kill {number + 1}: {report.operations} operations, {len(report.faults)} faults")
        mounted.start()
        _check(tree_of(mounted.point), driver, report, "at the end")
        mounted.stop()
        found, wanted = in_cloud(), _hashes(driver.tree)
        if found != wanted:
            report.faults.append(f"in the cloud: {difference({**found}, {**wanted})}")
    finally:
        mounted.clean_up()
    return report


def _check(found: Tree, driver: Driver, report: Report, when: str) -> None:
    """The mount must show one of the possible trees; the model goes on from what it shows."""
    possible = driver.possible or [driver.tree]
    if found not in possible:
        report.faults.append(f"{when}: {difference(found, possible[0])}")
    driver.tree = found
    driver.possible = [found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--mega", action="store_true")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="crash-"))
    print(f"seed {arguments.seed}, in {work}")
    report = (run_mega if arguments.mega else run)(arguments.kills, arguments.seed, work, print)
    print(
        f"{report.kills} kills, {report.operations} operations acknowledged, {report.interrupted} interrupted,"
        f" {len(report.faults)} faults"
    )
    for fault in report.faults:
        print(fault)
    if not report.faults:
        shutil.rmtree(work)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
