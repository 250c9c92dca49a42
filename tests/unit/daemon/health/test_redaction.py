"""Only what this program's source says gets through."""

from __future__ import annotations

import pytest

from serpentfs.daemon.health.redaction import MASK, Redactor


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor()


@pytest.mark.parametrize(("text", "shown"), [
    ("took away the dead mount at /home/anna/x, which process 17 left behind",
     "took away the dead mount at ***, which process 17 left behind"),
    ("anna's diary", MASK),
    ("put: Unavailable in 0.123 s", "put: Unavailable in 0.123 s"),
    ("diary: ok in 0.123 s", "***: ok in 0.123 s"),
    ("put: ok in diary s", f"put: {MASK}"),
    ("the store cannot be reached: s3.anna.example cannot be reached: ConnectError",
     "the store cannot be reached: *** cannot be reached: ConnectError"),
    ("/diary/2026: no such entry", "***: no such entry"),
    ("20260101", MASK),
    ("", ""),
])  # fmt: skip
def test_texts(redactor: Redactor, text: str, shown: str) -> None:
    assert redactor.text(text) == shown


def test_data(redactor: Redactor) -> None:
    data = {"path": "/diary", "state": "queued", "size": 5, "seen": True, "none": None, "all": ["diary", 1.5]}
    assert redactor.data(data) == {**data, "path": MASK, "all": [MASK, 1.5]}
    assert redactor.data({"state": "/diary/2026"}) == {"state": MASK}


@pytest.mark.parametrize("line", [
    "diary", '{"diary": 1', "[1]", '{"message": 5, "level": "a diary"}', "2026-01-01T00:00:00Z x INFO serpentfs: diary",
])  # fmt: skip
def test_lines_of_another_form(redactor: Redactor, line: str) -> None:
    assert "diary" not in redactor.log_line(line)
