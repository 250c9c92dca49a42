from __future__ import annotations

import contextvars
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs import logs
from serpentfs.bridge import run_in_thread
from serpentfs.errors import UsageError

pytestmark = pytest.mark.usefixtures("restored_logging")


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
    (2, "error warning info debug"), (3, "error warning info debug"),
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


SECRETS = [
    "https://g.api.mega.co.nz/cs?id=1&sid=CANARYsid-_x&ak=2",
    'headers: {"Authorization": "Basic CANARYxyz=="}',
    "Authorization: Bearer CANARY.abc",
    '[{"a":"us","sid":"CANARYsid","k":"CANARYk"}]',
    "https://mega.nz/file/AbCdEf12#CANARYkeyOfTheFile",
    "https://mega.nz/#!AbCdEf12!CANARYkeyOfTheFile",
    "http://anna:CANARYpw@proxy.example:3128/",
    "https://b.s3.example/x?X-Amz-Credential=CANARY/2026&X-Amz-Signature=CANARYf00",
    "password=CANARY&x=1",
]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("form", logs.FORMATS)
def test_what_looks_like_a_secret_is_masked_at_every_level(tmp_path: Path, text: str, form: str) -> None:
    logs.configure(level="MAX_VERBOSE", log_file=tmp_path / "log", form=form, names=True)
    log = logging.getLogger("serpentfs.x")
    log.log(logs.MAX_VERBOSE, "a %s b", text)
    try:
        raise ValueError(text)
    except ValueError as error:
        log.error("%s", error, exc_info=error)
    written = (tmp_path / "log").read_text()
    assert "CANARY" not in written
    assert written.count("***") >= 3


def test_names_are_masked_from_info_on_unless_they_are_asked_for(tmp_path: Path) -> None:
    name = "diary.odt"

    def written(**options: Any) -> list[str]:
        path = tmp_path / f"log{len(options)}"
        logs.configure(level="DEBUG", log_file=path, **options)
        log = logging.getLogger("serpentfs.x")
        for level in (logging.DEBUG, logging.INFO):
            log.log(level, "renamed %s: %s", logs.Name(name), UsageError(f'"{name}" is taken'))
        try:
            try:
                raise KeyError(name)
            except KeyError as error:
                raise FileNotFoundError(2, "No such file", f"/x/{name}") from error
        except FileNotFoundError:
            log.exception("it broke")
        return path.read_text().splitlines()

    debug, info, trace = written()
    assert debug.endswith('renamed diary.odt: "diary.odt" is taken')
    assert info.endswith('renamed ***: "***" is taken')
    assert "diary" not in trace
    assert "KeyError" in trace
    assert "FileNotFoundError: [Errno 2] No such file" in trace
    assert all("diary.odt" in line for line in written(names=True))


def test_a_request_may_end_in_another_context_than_it_began_in() -> None:
    """As that of a task does which an interrupt ended."""
    one, other = contextvars.copy_context(), contextvars.copy_context()
    work = logs.some_request("read")
    one.run(work.__enter__)
    other.run(logs.begin_request, "mount")
    other.run(work.__exit__, None, None, None)
    assert other.run(logs.request_id).startswith("mount-")
    again = logs.some_request("read")
    again.__enter__()
    assert logs.request_id()
    again.__exit__(None, None, None)
    assert not logs.request_id()


def test_json_lines(tmp_path: Path) -> None:
    logs.configure(1, tmp_path / "log", form="json")
    log = logging.getLogger("serpentfs.x")
    context = contextvars.copy_context()
    request = context.run(logs.begin_request, "mount")
    context.run(log.info, "two\nlines")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("it broke")
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert first["message"] == "two\nlines"
    assert first["request"] == request
    assert first["level"] == "INFO"
    assert first["process"] == os.getpid()
    assert "request" not in second
    assert second["exception"][-1] == "ValueError: no"


def test_level_by_name_and_while_it_runs(tmp_path: Path) -> None:
    logs.configure(level="fatal", log_file=tmp_path / "log")
    log = logging.getLogger("serpentfs.x")
    log.error("one")
    logs.set_level("max_verbose")
    assert logs.level() == "MAX_VERBOSE"
    log.log(logs.MAX_VERBOSE, "two")
    with pytest.raises(UsageError, match=r"CHATTY.*WARNING"):
        logs.set_level("CHATTY")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert " MAX_VERBOSE serpentfs.x: two" in line


def test_reopen_writes_to_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.configure(1, path)
    path.rename(tmp_path / "log.1")
    logs.reopen()
    assert path.exists()
    logging.getLogger("serpentfs").info("after")
    assert "after" in path.read_text()


@pytest.mark.trio
async def test_a_request_is_known_in_tasks_and_threads_that_it_starts(tmp_path: Path) -> None:
    seen: list[str] = []

    async def task() -> None:
        seen.append(logs.request_id())
        await run_in_thread("disk", lambda: seen.append(logs.request_id()))

    async def request() -> None:
        logs.begin_request("webdav")
        async with trio.open_nursery() as inner:
            inner.start_soon(task)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        nursery.start_soon(request)
    assert len(seen) == 4
    assert len(set(seen)) == 2
    assert all(name.startswith("webdav-") for name in seen)
    assert logs.request_id() == ""
