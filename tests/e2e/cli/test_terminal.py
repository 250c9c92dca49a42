"""What commands show on a terminal of their own: tables, colours and bars, and names that cannot steer it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

import pytest

from tests.e2e.cli.conftest import SERPENTFS, TIMEOUT, Machine

HOSTILE = "[red]x[/red]\x1b[2J"
SHOWN = "[red]x[/red]\\x1b[2J"
"""A name has no slash: as a path this is a folder with a file."""
NAME = "red]\\x1b[2J"
COLOR = re.compile(r"\x1b\[[0-9;]*[349][0-7](;[0-9;]*)?m")
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(
    machine: Machine, *words: str, interrupt_at: bytes = b"", **environment: str
) -> tuple[int, str]:
    """Exit code of a command, and everything that it wrote to its terminal, 160 columns wide. ``interrupt_at``: Ctrl-C
    when that is shown."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 160))
    process = subprocess.Popen(
        [str(SERPENTFS), *words], env={**machine.environment, "TERM": "xterm-256color", **environment}, stdin=slave,
        stdout=slave, stderr=slave, start_new_session=True, cwd=machine.home,
    )
    os.close(slave)
    shown = b""
    give_up = time.monotonic() + TIMEOUT
    try:
        while True:
            assert time.monotonic() < give_up, shown
            if select.select([master], [], [], 1)[0]:
                try:
                    data = os.read(master, 65536)
                except OSError:    # Linux says so when the other end is closed
                    break
                if not data:
                    break
                shown += data
                if interrupt_at and interrupt_at in shown:
                    process.send_signal(signal.SIGINT)
                    interrupt_at = b""
        return process.wait(timeout=TIMEOUT), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)


def own(machine: Machine, *words: str) -> None:
    machine.ok("webdav", machine.url, "--no-auth", "--listen", "127.0.0.1:0", "--daemon", *words)


@pytest.fixture
def filled(with_vault: Machine) -> Machine:
    """A drive with a folder, a file of 1.5 MiB, a link and a hostile name; uploads wait for five minutes."""
    own(with_vault, "--settle", "300")
    top = with_vault.home / "top"
    (top / "folder" / HOSTILE).parent.mkdir(parents=True)
    (top / "folder" / HOSTILE).write_bytes(b"x")
    (top / "large").write_bytes(bytes(3 << 19))
    (top / "link").symlink_to(HOSTILE)
    for path in (top / "folder" / HOSTILE, top / "large"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    with_vault.ok("put", "--no-wait", "top", with_vault.url)
    return with_vault


def test_no_name_steers_the_terminal(filled: Machine) -> None:
    folder = f"{filled.url}#/top/folder"
    listings = {
        ("ls", "-l", f"{folder}/[red]x["): NAME, ("ls", "-l", f"{filled.url}#/top"): SHOWN, ("tree", filled.url): NAME,
        ("find", filled.url): SHOWN, ("du", f"{folder}/*/*"): SHOWN, ("transfers",): SHOWN, ("status",): SHOWN,
    }
    for words, expected in listings.items():
        code, shown = on_terminal(filled, *words)
        assert code == 0, (words, shown)
        assert expected in shown, words
        assert "\x1b[2J" not in shown, words
    for words in [
        ("cat", f"{folder}/{HOSTILE}/none"), ("mkdir", f"{folder}/{HOSTILE}"), ("put", HOSTILE, filled.url),
        ("ls", f"{filled.url}#/{HOSTILE}"), (HOSTILE,), ("ls", f"--{HOSTILE}"),
    ]:
        code, shown = on_terminal(filled, *words)
        assert code != 0, words
        assert shown.count("serpentfs: ") == 1, (words, shown)
        assert "\x1b[2J" not in shown, words


def test_no_url_steers_the_terminal(machine: Machine) -> None:
    folder = machine.home / "config" / "serpentfs"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[remote.odd]\nurl = "vault+file:///srv/[red]x[/red]\\u001b[2J"\n')
    for words in (["remote", "list"], ["remote", "show", "odd"], ["config", "show"]):
        code, shown = on_terminal(machine, *words)
        assert code == 0, shown
        assert SHOWN in shown
        assert "\x1b[2J" not in shown
        assert "URL" in shown or "KEY" in shown    # a title
        piped = machine.ok(*words)
        assert SHOWN in piped
        assert "URL" not in piped    # and none
        assert "KEY" not in piped


def test_colors_where_they_are_wanted(filled: Machine) -> None:
    words = ("ls", "-l", f"{filled.url}#/top")
    plain = filled.ok(*words)
    _, colored = on_terminal(filled, *words)
    assert re.search(r"\x1b\[1;34mfolder\x1b\[0m/", colored)
    assert STYLE.sub("", colored).replace("\r\n", "\n") == plain    # the same words
    _, sober = on_terminal(filled, *words, NO_COLOR="1")
    assert not COLOR.search(sober)
    assert "folder" in sober
    _, dumb = on_terminal(filled, *words, TERM="dumb")
    assert dumb.replace("\r\n", "\n") == plain


def test_ls_long(filled: Machine) -> None:
    lines = filled.ok("ls", "-l", f"{filled.url}#/top").splitlines()
    assert lines[1] == f"- 1572864 {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(1_700_000_000))} large"
    assert [line[0] for line in lines] == ["d", "-", "l"]
    assert lines[2].endswith(f" link -> {SHOWN}")
    assert len({line.index(":") for line in lines}) == 1    # in columns
    human = filled.ok("ls", "-lh", f"{filled.url}#/top").splitlines()
    assert human[1].split()[:2] == ["-", "1.5M"]
    entries = json.loads(filled.ok("ls", "--json", f"{filled.url}#/top"))
    assert [(entry["name"], entry["kind"]) for entry in entries] == [
        ("folder", "directory"), ("large", "file"), ("link", "symlink")
    ]
    assert "1.5M" in filled.ok("find", "-lh", "--name", "large", filled.url)
    assert filled.ok("du", "-sh", f"{filled.url}#/top/large").split()[0] == "1.5M"


def test_a_name_that_the_encoding_of_the_terminal_lacks(filled: Machine) -> None:
    (filled.home / "日本").write_bytes(b"")
    filled.ok("put", "--no-wait", "日本", filled.url)
    filled.extra_environment = {"PYTHONIOENCODING": "latin-1"}
    assert filled.ok("find", "--type", "f", "--depth", "1", filled.url) == "/\\u65e5\\u672c\n"


def test_bars(with_vault: Machine) -> None:
    own(with_vault, "--limit-up", "1M")
    (with_vault.home / "file").write_bytes(os.urandom(1 << 20))
    code, shown = on_terminal(with_vault, "put", "file", with_vault.url)
    assert code == 0
    assert "━" in shown
    assert "uploading: 1 change" in shown
    assert shown.endswith("\x1b[2K")    # nothing of it stays
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")    # but the cursor
    with_vault.ok("rm", f"{with_vault.url}#/file")
    code, dumb = on_terminal(with_vault, "put", "file", with_vault.url, TERM="dumb")
    assert (code, dumb) == (0, "")    # it took less than ten seconds


def test_an_interrupt_leaves_the_terminal_as_it_was(with_vault: Machine) -> None:
    own(with_vault, "--limit-up", "100K")
    (with_vault.home / "file").write_bytes(os.urandom(1 << 20))
    code, shown = on_terminal(with_vault, "put", "file", with_vault.url, interrupt_at=b"uploading: ")
    assert code == 130
    assert shown.endswith("\x1b[2Kserpentfs: interrupted\r\n")    # where the bar was
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    with_vault.run("umount", "--now", with_vault.url)


def test_each_of_several_files_has_a_bar(with_vault: Machine) -> None:
    own(with_vault, "--limit-down", "1M", "--cache-memory", "1M", "--cache-disk", "0")
    for name in ("one", "two"):
        (with_vault.home / name).write_bytes(os.urandom(1 << 20))
    with_vault.ok("put", "one", "two", with_vault.url)
    code, shown = on_terminal(with_vault, "get", f"{with_vault.url}#/*", "out-folder-that-is-not-there")
    assert code == 4    # several things want a folder
    (with_vault.home / "out").mkdir()
    code, shown = on_terminal(with_vault, "get", f"{with_vault.url}#/*", "out")
    assert code == 0
    assert "getting: 0 of 2 files" in shown
    lines = STYLE.sub("", shown).splitlines()
    assert any(re.search("━ .*/one", line) for line in lines)
    assert any(re.search("━ .*/two", line) for line in lines)
    assert shown.endswith("\x1b[2K")


def test_transfers_have_bars(filled: Machine) -> None:
    code, shown = on_terminal(filled, "transfers")
    assert code == 0
    line = next(line for line in shown.splitlines() if "/top/large" in line)
    assert "━" in line
    assert line.endswith("0 B of 1.5 MiB")
    assert "━" not in filled.ok("transfers")
