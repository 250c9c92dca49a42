"""Random operations on files whose uploads begin early: whatever happens to them (writes anywhere, cuts, renames,
faults of the cloud, crashes), the drive and the cloud hold what was written, and no token stands for two contents."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serpentfs.model import ROOT_INO, HandleId
from serpentfs.vfs.core import SetAttributes
from serpentfs.vfs.drive import Drive
from tests.drives import DOOR, a_drive, contents, exists, ino_at, rename, unlink
from tests.fakes.faulty_cloud import FaultyCloud
from tests.fakes.memory_cloud import MemoryCloud
from tests.unit.vfs.test_early_uploads import EARLY, PIECE, SIZE, some


@dataclass(frozen=True)
class Step:
    what: str
    name: str = "a"
    other: str = "b"
    offset: int = 0
    size: int = 1


STEPS = st.builds(
    Step,
    what=st.sampled_from(
        [
            *["append"] * 2, *["fill"] * 5, *["create"] * 2, *["patch"] * 2, "truncate", "flush", "fsync",
            *["close"] * 2, "rename", "unlink", "fault", "fault_whole", *["let_through"] * 3, "crash",
        ]
    ),
    name=st.sampled_from(["a", "a", "a", "b"]),
    other=st.sampled_from(["b", "c"]),
    offset=st.integers(0, 4 * SIZE),
    size=st.integers(1, SIZE),
)  # fmt: skip


class Files:
    """What must be there, and what may be after a crash: every state of a file since it was journalled last."""

    def __init__(self) -> None:
        self.since: dict[str, list[bytes]] = {}
        self.open: dict[str, HandleId] = {}

    def now(self, name: str) -> bytes:
        return self.since[name][-1]

    def wrote(self, name: str, data: bytes) -> None:
        self.since[name].append(data)

    def journalled(self, name: str) -> None:
        del self.since[name][:-1]

    def all(self) -> dict[str, bytes]:
        return {f"/{name}": self.now(name) for name in self.since}


async def step_on(drive: Drive, files: Files, step: Step, number: int) -> None:
    name, path = step.name, f"/{step.name}"
    handle = files.open.get(name)
    match step.what:
        case "create" if handle is None:
            created, files.open[name] = await drive.create(ROOT_INO, name, exclusive=False, door=DOOR)
            files.since.setdefault(name, [b""])
            await drive.setattr(created.ino, SetAttributes(size=0), files.open[name], door=DOOR)
            files.wrote(name, b"")
        case "append" if handle is not None:
            await drive.write(handle, None, some(step.size, number))
            files.wrote(name, files.now(name) + some(step.size, number))
        case "fill" if handle is not None:
            await drive.write(handle, None, some(2 * SIZE, number))
            files.wrote(name, files.now(name) + some(2 * SIZE, number))
            await trio.sleep(0.002)  # some of it is sent
        case "patch" if handle is not None:
            data = some(step.size // 10 + 1, number)
            await drive.write(handle, step.offset, data)
            old = files.now(name).ljust(step.offset, b"\0")
            files.wrote(name, old[: step.offset] + data + old[step.offset + len(data) :])
        case "truncate" if handle is not None:
            await drive.setattr(ino_at(drive, path), SetAttributes(size=step.offset), handle, door=DOOR)
            files.wrote(name, files.now(name)[: step.offset].ljust(step.offset, b"\0"))
        case "flush" | "fsync" if handle is not None:
            await (drive.flush if step.what == "flush" else drive.fsync)(handle)
            files.journalled(name)
        case "close" if handle is not None:
            await drive.release(files.open.pop(name))
            files.journalled(name)
        case "rename" if exists(drive, path) and step.other != name:
            if step.other in files.open:
                await drive.release(files.open.pop(step.other))
            await rename(drive, path, f"/{step.other}")
            files.since[step.other] = files.since.pop(name)
            if handle is not None:
                files.open[step.other] = files.open.pop(name)
        case "unlink" if exists(drive, path):
            await unlink(drive, path)
            del files.since[name]
            if handle is not None:
                await drive.release(files.open.pop(name))


async def after_a_crash(drive: Drive, files: Files) -> None:
    found = await contents(drive)
    assert {f"/{name}" for name in files.since} == set(found)
    for name, states in files.since.items():
        data = found[f"/{name}"]
        assert isinstance(data, bytes)
        assert data in states
        files.since[name] = [data]
    files.open.clear()


async def run(steps: list[Step], where: Path, settle: float) -> int:
    """The answer: uploads that began early."""
    memory = MemoryCloud(growing_puts=True, piece=PIECE)
    faulty = FaultyCloud(memory)
    files = Files()
    options = replace(EARLY, settle=settle, dirty_seconds=3600)
    life = where / "0"
    async with AsyncExitStack() as stack:
        drive = await stack.enter_async_context(a_drive(faulty, life, options=options))
        for number, step in enumerate(steps, 1):
            match step.what:
                case "let_through":
                    await trio.sleep(0.005)
                case "fault" | "fault_whole":
                    method = "put_growing" if step.what == "fault" else "put"
                    faulty.fail(method, after=step.offset % 2 == 1)
                case "crash":
                    # What is on disk at this moment is what the next start finds; the rest of this life has no effect.
                    shutil.copytree(life / "state", where / f"{number}" / "state")
                    faulty.network_gone = True
                    await stack.aclose()
                    faulty.network_gone = False
                    life = where / f"{number}"
                    drive = await stack.enter_async_context(a_drive(faulty, life, options=options))
                    await after_a_crash(drive, files)
                case _:
                    await step_on(drive, files, step, number)
        for handle in files.open.values():
            await drive.release(handle)
        faulty.clear()
        with trio.fail_after(30):
            await drive.wait_until_uploaded()
        assert drive.status().pending == ()
        assert await contents(drive) == files.all()
        assert memory.contents() == files.all()
        assert memory.leaks == []
        assert drive.conflicts == 0
    return memory.calls["put_growing"]


began_early = 0


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEPS, min_size=5, max_size=40), st.sampled_from([0.0, 0.0, 3600.0]))
def test_whatever_happens_to_the_file(steps: list[Step], settle: float) -> None:
    global began_early
    where = Path(tempfile.mkdtemp(prefix="early-uploads-"))
    try:
        began_early += trio.run(lambda: run([Step("create"), *steps], where, settle))
    finally:
        shutil.rmtree(where)


def test_such_uploads_came_about() -> None:
    assert began_early > 20
