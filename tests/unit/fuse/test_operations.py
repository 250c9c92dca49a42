"""What a mount answers where the kernel's view lags behind another door's change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from serpentfs.gateways.fuse import MountOptions
from serpentfs.gateways.fuse.notifier import Notifier
from serpentfs.gateways.fuse.operations import Operations
from serpentfs.gateways.fuse.requests import ROOT, Caller, Refused
from serpentfs.model import ROOT_INO
from tests.fakes.memory_vfs import MemoryVfs

pytestmark = pytest.mark.trio


class Unasked:
    """A kernel that is told nothing: the notifier's thread does not run."""

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        raise AssertionError

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        raise AssertionError


@pytest.mark.parametrize(("flags", "left"), [(os.O_WRONLY, b"theirs"), (os.O_WRONLY | os.O_TRUNC, b"")])
async def test_a_file_that_another_door_was_faster_to_make_is_opened_and_stays_its_owners(
    flags: int, left: bytes
) -> None:
    vfs = MemoryVfs()
    operations = Operations(vfs, MountOptions(Path("/mnt"), name="x"), Notifier(Unasked()), owner=(0, 0))
    _, theirs = await vfs.create(ROOT_INO, "file", exclusive=True, door="webdav")
    await vfs.write(theirs, 0, b"theirs")
    await vfs.release(theirs)
    opened, node = await operations.create(ROOT, b"file", 0o100600, os.O_CREAT | flags, Caller(1234, 5678))
    assert (node.uid, node.gid, node.size) == (0, 0, len(left))
    await operations.flush(opened.handle)
    await operations.release(opened.handle)
    assert vfs.bytes_of("/file") == left
    with pytest.raises(Refused, check=lambda refused: refused.errno == errno.EEXIST):
        await operations.create(ROOT, b"file", 0o100600, os.O_CREAT | os.O_EXCL | flags, Caller(1234, 5678))
