"""davfs2: the drive mounted by another program, over WebDAV."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.webdav.servers import PATIENCE, Server, wait_until

MOUNT = shutil.which("mount.davfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

DRIVES = ["vault"]

pytestmark = [
    pytest.mark.skipif(MOUNT is None, reason="davfs2 is not installed (apt: davfs2)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mount.davfs needs root"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse"),
]


@pytest.fixture
def mounted(server: Server) -> Iterator[Path]:
    server.put("/by-others", b"written by somebody else")
    # Not below tmp_path: mount.davfs goes on as a user of its own, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="davfs2-test-") as folder:
        base = Path(folder)
        point, cache = base / "mount", base / "cache"
        for one, mode in ((base, 0o755), (point, 0o755), (cache, 0o777)):
            one.mkdir(exist_ok=True)
            one.chmod(mode)
        config = base / "davfs2.conf"
        # No delay before uploads, so that the test can wait for them; no cache of directories.
        config.write_text(
            f"ask_auth 0\nuse_locks 1\ndelay_upload 0\ndir_refresh 0\nfile_refresh 0\ncache_dir {cache}\n"
        )
        yield from _mounted(server, point, config)


def _mounted(server: Server, point: Path, config: Path) -> Iterator[Path]:
    assert MOUNT is not None
    done = subprocess.run(
        [MOUNT, server.url, str(point), "-o", f"conf={config},rw"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        pytest.skip(f"mount.davfs cannot mount here: {done.stdout.strip()}")
    try:
        yield point
    finally:
        # By force, then lazily: a test that failed must not leave a mount behind.
        for command in (["umount", "-f", str(point)], ["umount", "-l", str(point)]):
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)


def shell(script: str, directory: Path) -> str:
    """Touch the mount only from a subprocess that can be given up."""
    done = subprocess.run(
        ["sh", "-euc", script], cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_write_read_rename(server: Server, mounted: Path, tmp_path: Path) -> None:
    """No listings: on current kernels davfs2 1.6 answers every getdents with EINVAL, whatever the server."""
    data = os.urandom(1_500_000)
    (tmp_path / "data").write_bytes(data)
    shell(f"mkdir davfs; cp {tmp_path}/data davfs/file; mv davfs/file davfs/renamed", mounted)
    wait_until(
        lambda: server.request("HEAD", "/davfs/renamed").headers.get("content-length") == str(len(data)),
        "davfs2 has uploaded",
    )
    assert server.read("/davfs/renamed") == data
    assert server.request("HEAD", "/davfs/file").status == 404
    shell(f"cmp davfs/renamed {tmp_path}/data", mounted)

    assert shell("cat by-others", mounted) == "written by somebody else"
    server.put("/by-others", b"and changed")
    wait_until(lambda: shell("cat by-others", mounted) == "and changed", "davfs2 sees the change")
    shell("rm davfs/renamed; rmdir davfs", mounted)
    wait_until(lambda: server.request("HEAD", "/davfs/").status == 404, "davfs2 has removed")
