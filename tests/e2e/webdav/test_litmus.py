"""litmus, the WebDAV protocol suite: every test of every group passes, without warnings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.webdav.servers import Start

GROUPS = {"basic": 16, "copymove": 13, "props": 30, "locks": 41, "http": 4}
"""Groups and how many tests litmus 0.13 has in each."""

DRIVES = ["vault"]

pytestmark = pytest.mark.skipif(shutil.which("litmus") is None, reason="litmus is not installed (apt: litmus)")

_SUMMARY = re.compile(r"<- summary for `(\w+)': of (\d+) tests run: (\d+) passed, (\d+) failed\.")


@pytest.mark.parametrize("group", GROUPS)
def test_litmus(start_server: Start, tmp_path: Path, group: str) -> None:
    server = start_server(users={"user": "pass"})
    done = subprocess.run(
        ["litmus", "-k", server.url, "user", "pass"],
        env={**os.environ, "TESTS": group},
        cwd=tmp_path,   # it leaves its logs there
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    summary = _SUMMARY.search(done.stdout)
    assert summary is not None, done.stdout
    name, run, passed, failed = summary.groups()
    assert (name, int(failed)) == (group, 0), done.stdout
    assert int(run) == int(passed) >= GROUPS[group], done.stdout
    assert "WARNING" not in done.stdout, done.stdout
    assert "skipped" not in done.stdout.lower(), done.stdout
    assert done.returncode == 0, done.stdout
