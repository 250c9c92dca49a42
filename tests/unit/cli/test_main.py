from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from serpentfs import errors
from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import MEANINGS, ExitCode, exit_code
from serpentfs.cli.failures import explain
from serpentfs.cli.main import COMMANDS, main, overview, parser_of
from serpentfs.cli.output import ProgressLine, human_duration, human_size, printable
from serpentfs.config import parse_address

ROOT = Path(__file__).resolve().parents[3]


def test_exit_codes_are_frozen() -> None:
    """Scripts rely on the numbers: a failure here means that the change must not be made."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILURE": 1, "USAGE": 2, "WRONG_PASSPHRASE": 3, "NOT_FOUND": 4, "BUSY": 5, "UNAVAILABLE": 6,
        "INTEGRITY": 7, "NO_SPACE": 8, "BAD_VAULT": 9, "EXISTS": 10, "DENIED": 11, "UNSUPPORTED": 12,
        "CONFLICT": 13, "PENDING": 14, "DAMAGED": 15, "LOGIN_REQUIRED": 16, "INTERRUPTED": 130,
    }


def test_the_readme_has_every_exit_code() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert rows == {str(int(code)): meaning for code, meaning in MEANINGS.items()}


def test_the_readme_has_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{command.name}" in readme for command in COMMANDS)


@pytest.mark.parametrize(("error", "code"), [
    (errors.WrongPassphrase("x"), 3), (errors.NotFound("x"), 4), (errors.Busy("x"), 5), (errors.Unavailable("x"), 6),
    (errors.RateLimited("x"), 6), (errors.IntegrityError("x"), 7), (errors.NoSpace("x"), 8), (errors.BadVault("x"), 9),
    (errors.RevisionGone("x"), 13), (errors.UsageError("x"), 2), (errors.NameTooLong("x"), 1),
    (errors.LoginRequired("x"), 16),
])
def test_codes_of_errors(error: errors.SerpentError, code: int) -> None:
    assert exit_code(error) == code


def test_errors_in_nurseries_are_found() -> None:
    async def fail() -> None:
        async with trio.open_nursery(), trio.open_nursery():
            raise errors.WrongPassphrase("the passphrase is wrong")

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(fail)
    assert explain(caught.value) == (ExitCode.WRONG_PASSPHRASE, "the passphrase is wrong", True)


def test_faults_are_told_as_such() -> None:
    fault = ExceptionGroup("", [errors.NotFound("x"), ExceptionGroup("", [KeyError("k\nl")])])
    code, message, foreseen = explain(fault)
    assert (code, foreseen) == (ExitCode.FAILURE, False)
    assert "fault of serpentfs: KeyError" in message
    assert "\n" not in message
    assert explain(FileNotFoundError(2, "No such file or directory", "/f"))[1] == "No such file or directory: /f"
    assert explain(KeyboardInterrupt())[0] == ExitCode.INTERRUPTED


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    from serpentfs.cli.main import Command

    assert isinstance(command, Command)
    assert command.summary.endswith(".")
    assert f"  {command.name} " in overview()
    with pytest.raises(SystemExit) as ended:
        parser_of(command).parse_args(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert command.summary in " ".join(printed.split())
    assert f"example:\n  {command.example}" in printed
    assert command.example.startswith(f"serpentfs {command.name}")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_can_be_parsed(command: object) -> None:
    from serpentfs.cli.main import Command

    assert isinstance(command, Command)
    parser_of(command).parse_args(command.example.split()[1 + len(command.name.split()):])


@pytest.mark.parametrize(("words", "message"), [
    (["mout"], 'there is no command "mout"; did you mean "mount"?'),
    (["xyzzy"], 'there is no command "xyzzy"; see serpentfs --help'),
    (["--verbose", "mount"], "the command comes first"),
    (["mount"], "the following arguments are required: REMOTE, DIR"),
    (["mount", "a:", "/m", "--webdav", "nowhere"], '"nowhere" is not HOST:PORT'),
    (["mount", "a:", "/m", "--umask", "9"], "is not an octal umask"),
    (["mount", "a:", "/m", "--cache-disk", "huge"], '"huge" is not a size'),
    (["ftp", "a:", "--data-ports", "9-1"], "is not a range of ports"),
    (["init", "a:", "--cipher-combo", "ROT13"], "invalid choice"),
    (["ls", "a:", "--password-file", "x", "--password-command", "y"], "not allowed with"),
    (["ls", "a:", "--passphrase", "secret"], "there is no option --passphrase"),
    (["mount", "a:", "/m", "--deamon"], "there is no option --deamon; did you mean --daemon?"),
    (["mount", "a:", "/m", "--cahe-disk=5G"], "there is no option --cahe-disk; did you mean --cache-disk?"),
    (["ls", "a:", "-z"], "there is no option -z (see serpentfs ls --help)"),
    (["login", "me@example.org", "secret"], "1 argument too many: serpentfs login takes EMAIL|LINK"),
])
def test_mistakes_are_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("serpentfs: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert "secret" not in printed.err


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage: serpentfs COMMAND" in capsys.readouterr().out
    assert main([]) == ExitCode.USAGE
    assert main(["help"]) == 0
    capsys.readouterr()
    assert main(["help", "remote", "add"]) == main(["remote", "add", "--help"]) == 0
    first, again = capsys.readouterr().out.split("example:")[:2]
    assert first.splitlines()[0] in again
    assert main(["help", "mout"]) == ExitCode.USAGE
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "serpentfs 0.1.0\n"


@pytest.mark.parametrize("word", ["mout", "version", "status"])
def test_quick_commands_import_little(word: str, tmp_path: Path) -> None:
    code = f"import sys; from serpentfs.cli.main import main; main([{word!r}]); print('trio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "XDG_STATE_HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=60, check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(("text", "address"), [
    ("127.0.0.1:4443", ("127.0.0.1", 4443)), ("[::1]:0", ("::1", 0)), ("example.org:80", ("example.org", 80)),
    ("4443", ("127.0.0.1", 4443)),
])
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":80", "a:", "a:b", "::1:80", "a:65536", "a:80:90", "[::1]", "a:-1"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(errors.UsageError):
        parse_address(text)


def test_paths_stay_true_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert options.absolute_path("m") == tmp_path / "m"
    assert options.absolute_path("link/m") == tmp_path / "real" / "m"
    assert options.absolute_path("real/..") == tmp_path


def test_sizes_and_times_for_people() -> None:
    assert [human_size(size) for size in (0, 1023, 1024, 1536, 5 << 30, 1 << 60)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB", "1024.0 PiB",
    ]
    assert [human_duration(seconds) for seconds in (5.9, 119, 120, 7200, 200_000)] == [
        "5 s", "119 s", "2 min", "2 h", "2 days",
    ]


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("Grüße 日本") == "Grüße 日本"
    assert printable("a\x1b[2Jb\n\udcff") == "a\\x1b[2Jb\\n\\udcff"


class Terminal:
    def __init__(self, tty: bool) -> None:
        self.tty, self.written = tty, ""

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None: ...


def test_progress_on_a_terminal_and_in_a_log() -> None:
    item = {"changes": 2, "bytes": 2048, "online": True, "error": None}
    offline = {**item, "online": False, "error": "no route"}
    for tty in (True, False):
        terminal = Terminal(tty)
        with ProgressLine(terminal) as line:    # type: ignore[arg-type]
            for shown in (item, item, offline, {**item, "changes": 0}):
                line.show(shown)
        if tty:
            assert terminal.written.count("uploading: 2 changes, 2.0 KiB left") == 3    # once more at its end
            assert terminal.written.count("(offline: no route)") == 2
            assert terminal.written.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")    # the cursor is back, the line is not
        else:
            assert terminal.written == "uploading: 2 changes, 2.0 KiB left\n"    # the next after ten seconds
