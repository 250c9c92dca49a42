from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from serpentfs import credentials
from serpentfs.credentials import PassphraseSource, read_passphrase
from serpentfs.errors import NotFound, UsageError


def secret_file(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("data", "secret"), [
    (b"word", "word"), (b"word\n", "word"), (b"word\r\n", "word"), (b" a b \n", " a b "),
    ("Pässwörd".encode(), "Pässwörd"),
])
def test_file(tmp_path: Path, data: bytes, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_passphrase(PassphraseSource(secret_file(tmp_path, data)), "q") == secret
    assert not caplog.records


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"), (b"\n", "is empty"), (b"a\nb\n", "more than one line of text"), (b"\xff\xfe", "not UTF-8"),
    (b"a" * 70000, "too large"), (b"a\0b", "more than one line of text"),
])
def test_files_that_hold_no_secret(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_passphrase(PassphraseSource(secret_file(tmp_path, data)), "q")
    assert caught.value.__cause__ is None    # a chained UnicodeDecodeError would print the secret


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such password file"):
        read_passphrase(PassphraseSource(tmp_path / "none"), "q")
    with pytest.raises(UsageError, match="Is a directory"):
        read_passphrase(PassphraseSource(tmp_path), "q")


def test_readable_by_others_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_passphrase(PassphraseSource(secret_file(tmp_path, b"canary-word", 0o640)), "q")
    assert "can be read by others (mode 640)" in caplog.text
    assert "canary-word" not in caplog.text


def test_command_runs_without_a_shell() -> None:
    command = credentials.split_command(f"{sys.executable} -c 'print(\"a;b $HOME\")'")
    assert read_passphrase(PassphraseSource(command=command), "q") == "a;b $HOME"


@pytest.mark.parametrize(("command", "message"), [
    (("false",), "false failed with exit code 1"),
    (("/no/such/program",), "cannot run the password command /no/such/program"),
    (("true",), "is empty"),
])
def test_commands_that_fail(command: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_passphrase(PassphraseSource(command=command), "q")


@pytest.mark.parametrize("text", ["", "  ", "'open"])
def test_commands_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        credentials.split_command(text)


def test_environment_names_a_file(tmp_path: Path) -> None:
    path = secret_file(tmp_path, b"from the environment\n")
    found = read_passphrase(PassphraseSource(), "q", environment={"SERPENTFS_PASSWORD_FILE": str(path)})
    assert found == "from the environment"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed\nrest")))
    assert read_passphrase(PassphraseSource(Path("-")), "q") == "typed"


def test_without_terminal_it_is_told_what_to_do() -> None:
    """In a session of its own, so that there is no controlling terminal."""
    code = (
        "from serpentfs.credentials import *\n"
        "try: read_passphrase(PassphraseSource(), 'q', environment={})\n"
        "except UsageError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        start_new_session=True, check=True,
    )
    assert "--password-file" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_no_core_file_and_no_debugger() -> None:
    code = (
        "import ctypes, resource\n"
        "from serpentfs.credentials import keep_memory_private\n"
        "keep_memory_private()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "0 (0, 0)\n"


