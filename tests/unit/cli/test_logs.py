from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serpentfs import logs
from serpentfs.errors import UsageError


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger(logs.ROOT_LOGGER)
    handlers, level, own_level = root.handlers[:], root.level, own.level
    for handler in handlers:    # pytest's own are not for configure() to close
        root.removeHandler(handler)
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)


def test_a_record_is_one_line(tmp_path: Path) -> None:
    logs.configure(0, tmp_path / "log")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("serpentfs.x").exception("it\nbroke")
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1
    assert "ERROR serpentfs.x: it | broke | Traceback" in lines[0]
    assert lines[0].endswith("first | second")


@pytest.mark.parametrize(("verbosity", "heard"), [
    (-1, "error"), (0, "error warning"), (1, "error warning info"),
    (2, "error warning info debug"), (5, "error warning info debug"),
])
def test_levels(tmp_path: Path, verbosity: int, heard: str) -> None:
    logs.configure(verbosity, tmp_path / "log")
    own, foreign = logging.getLogger("serpentfs.x"), logging.getLogger("library")
    for level in ("error", "warning", "info", "debug"):
        getattr(own, level)("own-%s", level)
    foreign.info("never")
    text = (tmp_path / "log").read_text()
    assert [word for word in ("error", "warning", "info", "debug") if f"own-{word}" in text] == heard.split()
    assert "never" not in text


def test_log_file_is_private_and_found_again_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.configure(0, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    logging.getLogger("serpentfs").warning("one")
    path.rename(tmp_path / "log.1")
    logging.getLogger("serpentfs").warning("two")
    assert "two" in path.read_text()
    assert "two" not in (tmp_path / "log.1").read_text()


def test_log_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the log file"):
        logs.configure(0, tmp_path / "none" / "log")


def test_lines_for_journald(tmp_path: Path) -> None:
    code = "from serpentfs import logs; import logging; logs.configure(); logging.getLogger('serpentfs.a').warning('x')"
    with (tmp_path / "journal").open("wb") as journal:
        status = os.fstat(journal.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run([sys.executable, "-c", code], stderr=journal, env=environment, timeout=30, check=True)
    assert (tmp_path / "journal").read_text() == "<4>serpentfs.a: x\n"
