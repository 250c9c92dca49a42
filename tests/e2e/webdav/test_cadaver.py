"""cadaver, the command line client: a session of everyday work."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.webdav.servers import Server

DRIVES = ["vault"]

pytestmark = pytest.mark.skipif(
    shutil.which("cadaver") is None, reason="cadaver is not installed (apt: cadaver)"
)


def test_session(server: Server, tmp_path: Path) -> None:
    (tmp_path / "local file.txt").write_bytes(b"from cadaver\n" * 1000)
    script = """\
mkcol cadaver
cd cadaver
put "local file.txt"
propset "local file.txt" mood cheerful
propget "local file.txt" mood
lock "local file.txt"
discover "local file.txt"
unlock "local file.txt"
copy "local file.txt" copied
move copied moved
ls
get moved fetched
delete "local file.txt"
mkcol inner
move moved inner/moved
rmcol inner
ls
quit
"""
    done = subprocess.run(
        ["cadaver", server.url],
        input=script,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout.lower(), done.stdout
    assert "cheerful" in done.stdout
    assert "Listing collection" in done.stdout
    assert "moved" in done.stdout
    assert (tmp_path / "fetched").read_bytes() == b"from cadaver\n" * 1000
    assert "collection is empty" in done.stdout.rpartition("Listing collection")[2]
