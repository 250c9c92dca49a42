"""What is drawn on a terminal, what goes into a pipe, and that every listing has a form for programs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serpentfs.cli.display import Bar, Column, Display, Role, Screen, share
from serpentfs.cli.main import COMMANDS, parser_of
from serpentfs.cli.output import short_size

HOSTILE = "[red]x[/red]\x1b[2J:smile:\u202e\n"
SHOWN = "[red]x[/red]\\x1b[2J:smile:\\u202e\\n"

WITHOUT_JSON = {
    "init", "mount", "webdav", "ftp", "umount", "up", "down", "flush", "login", "logout", "import", "remote add",
    "fuse-add", "fuse-remove", "fuse-enable", "fuse-disable", "fuse-config",
    "remote remove", "mkdir", "mv", "cp", "rm", "get", "put",    # they do something, and say so in a line
    "log", "session", "config hash-password", "version",    # one word
    "cat", "completion", "manual",    # a file
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    return Terminal()


def test_every_command_that_lists_has_json() -> None:
    names = {command.name for command in COMMANDS}
    assert names >= WITHOUT_JSON
    for command in COMMANDS:
        has = any("--json" in action.option_strings for action in parser_of(command)._actions)
        assert has == (command.name not in WITHOUT_JSON), f"{command.name}: --json, or a word above why not"


@pytest.mark.skipif(sys.platform != "linux", reason="compares with coreutils")
def test_sizes_are_those_of_coreutils(tmp_path: Path) -> None:
    sizes = [0, 1, 999, 1000, 1023, 1024, 1025, 1126, 1127, 10188, 10189, 10239, 10240, 10241, 102400, 1047552, 1047553]
    sizes += [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_001, (10 << 20) - 1, 1023 << 20, (1 << 30) - 1, 5 << 30]
    for size in sizes:
        with (tmp_path / str(size)).open("wb") as file:
            file.truncate(size)
    told = subprocess.run(
        ["ls", "-lh"], cwd=tmp_path, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=True,
        timeout=30,
    ).stdout.splitlines()[1:]
    assert len(told) == len(sizes)
    for line in told:
        fields = line.split()
        assert short_size(int(fields[-1])) == fields[4]


def test_more_than_a_file_of_this_machine_can_have() -> None:
    assert [short_size(1 << 40), short_size((1 << 50) + 1), short_size(1 << 90)] == ["1.0T", "1.1P", "1024Y"]


def test_share() -> None:
    assert [share(0, 0), share(1, 4), share(5, 4), share(-1, 4)] == [0.0, 0.25, 1.0, 0.0]


def draw(stream: io.StringIO) -> str:
    """One of everything, with a hostile name in it."""
    display = Display(stream)
    stream.write(display.paint(HOSTILE, Role.FOLDER) + "\n")
    display.print_table((Column("SIZE", right=True), Column("NAME")), [("12", (HOSTILE, Role.BAD)), ("1", HOSTILE)])
    if display.is_terminal:
        bar = Bar(display)
        bar.show(HOSTILE, 0.5)
        bar.wipe()
    with Screen(display) as screen:
        screen.show([display.paint(HOSTILE), display.paint("second", Role.GOOD)])
    return stream.getvalue()


def test_names_are_neither_markup_nor_commands(terminal: Terminal) -> None:
    drawn = draw(terminal)
    assert drawn.count(SHOWN) == 6    # the bar twice: once more at its end
    assert "\x1b[2J" not in drawn
    assert "\u202e" not in drawn
    assert "\U0001f604" not in drawn    # what :smile: means to rich


def test_plain_lines(terminal: Terminal) -> None:
    assert draw(io.StringIO()) == f"{SHOWN}\n12  {SHOWN}\n 1  {SHOWN}\n{SHOWN}\nsecond\n"


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert draw(terminal) == draw(io.StringIO())


def test_no_color(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1;34m" in draw(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    sober = draw(Terminal())
    assert SHOWN in sober
    assert "34m" not in sober
    assert "31m" not in sober
    assert "\x1b[38" not in sober


def test_long_names_are_folded_not_cut(terminal: Terminal) -> None:
    name = "".join(chr(ord("a") + number % 26) for number in range(200))
    Display(terminal).print_table((Column("SIZE", right=True), Column("NAME")), [("123456789", name)])
    lines = terminal.getvalue().splitlines()[1:]
    assert "".join(line.replace("123456789", "").strip() for line in lines) == name


def test_a_picture_that_does_not_fit_is_cut(terminal: Terminal) -> None:
    with Screen(Display(terminal)) as screen:
        screen.show(["w" * 200, *(f"line {number}" for number in range(100))])
    drawn = terminal.getvalue()
    assert "w" * 80 in drawn
    assert "w" * 81 not in drawn
    assert "line 20" in drawn
    assert "line 30" not in drawn
    assert drawn.index("\x1b[?1049h") < drawn.index("line 1") < drawn.index("\x1b[?1049l")


@pytest.mark.parametrize("words", [["version"], ["status"], ["--help"], ["ls", "--help"], ["remote", "list"]])
def test_rich_is_not_loaded_for_a_pipe(words: list[str], tmp_path: Path) -> None:
    program = f"""
import sys
from serpentfs.cli.main import main
assert main({words!r}) == 0
sys.exit(any(name.partition(".")[0] == "rich" for name in sys.modules))
"""
    environment = {**os.environ, **{
        name: str(tmp_path) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    }}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
