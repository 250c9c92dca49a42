"""The door's tables and options: errnos, what libfuse is told, mountinfo, the nudge."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serpentfs import errors
from serpentfs.gateways.fuse import MountOptions, mountpoint, nudge
from serpentfs.gateways.fuse.errnos import errno_of

# --- errnos


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.NotFound("x"), errno.ENOENT),
        (errors.NameTooLong("x"), errno.ENAMETOOLONG),
        (errors.InvalidName("x"), errno.EILSEQ),
        (errors.Unavailable("x"), errno.ETIMEDOUT),
        (errors.RateLimited("x"), errno.ETIMEDOUT),
        (errors.RevisionGone("x"), errno.ESTALE),
        (errors.IntegrityError("x"), errno.EIO),
        (errors.PermanentError("x"), errno.EIO),
        (errors.NoSpace("x"), errno.ENOSPC),
    ],
)
def test_errnos(error: errors.SerpentError, number: int) -> None:
    assert errno_of(error) == number


def test_every_error_has_an_errno_and_only_the_vague_ones_are_eio() -> None:
    classes: list[type[errors.SerpentError]] = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SerpentError)
    ]
    assert len(classes) > 20
    vague = {kind.__name__ for kind in classes if errno_of(kind("x")) == errno.EIO}
    assert vague == {"SerpentError", "PermanentError", "IntegrityError", "BadVault"}


# --- options


def options(name: str = "work", *, read_only: bool = False, **changes: object) -> set[str]:
    made = MountOptions(Path("/mnt"), name=name, read_only=read_only, **changes)  # type: ignore[arg-type]
    return made.for_libfuse(read_only=made.wants_read_only)


def test_plain_options() -> None:
    assert options() == {"default_permissions", "subtype=serpentfs", "fsname=work"}


def test_all_options() -> None:
    found = options(read_only=True, allow_other=True, extra=("noatime", "rw", "nofail", "x-gvfs-show", "dev"))
    assert found == {
        "default_permissions", "subtype=serpentfs", "fsname=work", "allow_other", "ro", "noatime", "dev",
    }
    assert "ro" in options(extra=("ro",))


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a,b", "fsname=a\\,b"), ("a\\b", "fsname=a\\\\b"), ("ümlaut\n", "fsname=_mlaut_"), ("", "fsname=serpentfs")],
)
def test_names_of_the_mount(name: str, shown: str) -> None:
    assert shown in options(name)


@pytest.mark.parametrize("option", ["ümlaut", "a\0b", ""])
def test_options_that_cannot_be_passed_on(option: str) -> None:
    with pytest.raises(errors.UsageError):
        options(extra=(option,))


# --- mountinfo


def test_find_mount() -> None:
    root = mountpoint.find_mount("/")
    assert root is not None
    assert root.device == f"{os.major(os.stat('/').st_dev)}:{os.minor(os.stat('/').st_dev)}"
    assert mountpoint.find_mount("/no/such/place") is None


def test_a_missing_device_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: str(path) != "/dev/fuse")
    with pytest.raises(errors.UsageError, match="no /dev/fuse"):
        mountpoint.prepare(tmp_path, allow_other=False, allow_nonempty=False)


def test_what_another_user_than_root_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(errors.UsageError, match="fusermount3 is missing"):
        mountpoint.prepare(tmp_path, allow_other=False, allow_nonempty=False)
    monkeypatch.setattr(shutil, "which", lambda command: "/bin/" + command)
    monkeypatch.setattr(mountpoint, "_conf_allows_other", lambda: False)
    with pytest.raises(errors.UsageError, match="user_allow_other"):
        mountpoint.prepare(tmp_path, allow_other=True, allow_nonempty=False)
    assert mountpoint.prepare(tmp_path, allow_other=False, allow_nonempty=False) == str(tmp_path)


def test_without_pyfuse3(tmp_path: Path) -> None:
    script = """if True:
        import sys, trio
        from pathlib import Path
        sys.modules["pyfuse3"] = None
        from serpentfs.errors import UsageError
        from serpentfs.gateways.fuse import MountOptions, serve
        try:
            trio.run(serve, None, MountOptions(Path(sys.argv[1]), name="work", loop="pyfuse3"))
        except UsageError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("mounting needs pyfuse3")


# --- the nudge


def test_a_loop_without_a_pulse_is_nudged(monkeypatch: pytest.MonkeyPatch) -> None:
    nudged = threading.Semaphore(0)

    def statvfs(path: str) -> None:
        assert path == "/somewhere"
        nudged.release()
        raise OSError(errno.ENOTCONN, "gone")

    monkeypatch.setattr(os, "statvfs", statvfs)
    with nudge.Nudge("/somewhere", frozen_after=0.02):
        assert nudged.acquire(timeout=20)
        assert nudged.acquire(timeout=20)


def test_a_loop_with_a_pulse_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    nudged = threading.Event()
    monkeypatch.setattr(os, "statvfs", lambda path: nudged.set())
    with nudge.Nudge("/somewhere", frozen_after=30.0) as pulse:
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            pulse.beat()
            nudged.wait(0.01)
    assert not nudged.is_set()
