"""One text for help, man pages, completion and README: nothing lacks in any of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serpentfs import config
from serpentfs.cli.completion import SHELLS, script_for
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.guides import FOLDER, Guide, guides, read_guide
from serpentfs.cli.main import main
from serpentfs.cli.manual import man_pages, readme_table, update_readme
from serpentfs.cli.reference import Page, pages
from serpentfs.errors import NotFound, UsageError

ROOT = Path(__file__).resolve().parents[3]
PAGES = pages()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.command.name)


@each_page
def test_every_command_and_option_has_help_and_an_example(page: Page) -> None:
    assert re.fullmatch(r"[A-Z].*\.", page.command.summary)
    assert page.command.example.startswith(f"serpentfs {page.command.name}")
    assert all(argument.help for argument in page.arguments), page
    assert not [option.names for option in page.options if not option.help]


@each_page
def test_every_command_has_a_man_page_with_every_option(page: Page) -> None:
    made = man_pages()
    name = "serpentfs-" + page.command.name.replace(" ", "-")
    text = made[f"{name}.1"]
    plain = text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\(ti", "~").replace("\\(aq", "'")
    for option in page.options:
        assert all(re.search(rf"^(.*, )?{re.escape(one)}(,| |$)", plain, re.MULTILINE) for one in option.names), option
        assert option.variable is None or option.variable in plain
    for argument in page.arguments:
        assert f"\n{argument.name}\n" in plain
    assert page.command.example in plain
    assert f"{name}(1)" in made["serpentfs.1"].replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_completed(shell: str) -> None:
    script = script_for(shell)
    for page in PAGES:
        assert page.command.name in script
        for name in (name for option in page.options for name in option.names):
            shown = {"fish": f"-l {name[2:]} " if name.startswith("--") else f"-s {name[1:]} "}.get(shell, name)
            assert shown in script, (page.command.name, name)


GUIDES = guides()
each_guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)


@each_guide
def test_every_guide_is_a_man_page_and_is_linked(guide: Guide) -> None:
    made = man_pages()
    page = made[f"serpentfs-{guide.name}.7"]
    plain = page.replace("\\-", "-").replace("\\fB", "`").replace("\\fR", "`")
    for block in guide.blocks:
        if block.kind == "section":
            assert f"\n.SH {block.text}\n" in plain
        elif block.kind == "code":
            assert block.text.splitlines()[0].split()[0] in plain
    assert "\\(ga" not in page    # every bit of code has both its ends
    assert rf"\fBserpentfs\-{guide.name}\fR(7)" in made["serpentfs.1"]
    assert f"(serpentfs/cli/guides/{guide.name}.md)" in (ROOT / "README.md").read_text()


@each_guide
def test_guides_name_only_what_there_is(guide: Guide) -> None:
    """Commands with their options, keys of the configuration, and files of the project."""
    commands = {page.command.name: {name for option in page.options for name in option.names} for page in PAGES}
    everything = set().union(*commands.values())
    text = (FOLDER / f"{guide.name}.md").read_text()
    for words in re.findall(r"serpentfs ((?:[a-z-]+ ?)+)", " ".join(re.findall(r"`([^`]+)`", text.replace("```", "")))):
        first, two = words.split()[0], " ".join(words.split()[:2])
        assert first in commands or two in commands, words
    of_others = {"--read-only", "--tmpfs", "--cap-drop", "--security-opt", "--device", "--cap-add", "--user", "--now",
                 "--bind", "--bwlimit"}    # of docker, systemctl, mount and rclone
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text):
        assert option in everything | of_others, option
    for path in re.findall(r"packaging/[\w/.-]*\w", text):
        assert (ROOT / path).exists(), path
    keys = {*config.REMOTE_KEYS, *config.DOOR_KEYS, *config.FTP_KEYS, *config.USER_KEYS}
    for key in re.findall(r"^([a-z-]+) = ", text, re.MULTILINE):
        assert key in keys, key


@pytest.mark.parametrize("text", ["no title\n", "# one\n\n# two\n", "# one\n\n### three\n", "# one\n\n> quoted\n"])
def test_what_is_no_guide(text: str, tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text(text)
    with pytest.raises(ValueError, match=r"guide\.md|this is not"):
        read_guide(tmp_path / "guide.md")


def test_the_readme_is_in_step() -> None:
    """When this fails: serpentfs manual --readme README.md"""
    assert readme_table() in (ROOT / "README.md").read_text()


def test_the_readme_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    with pytest.raises(NotFound):
        update_readme(path)
    path.write_text("no marks\n")
    with pytest.raises(UsageError, match="does not have the marks"):
        update_readme(path)
    text = (ROOT / "README.md").read_text()
    path.write_text(text.replace(readme_table(), "| old |"))
    assert main(["manual", "--readme", str(path)]) == 0
    assert path.read_text() == text


def test_the_manual_of_the_configuration_has_every_key() -> None:
    text = man_pages()["serpentfs.toml.5"].replace("\\-", "-")
    for keys in (config.REMOTE_KEYS, config.DOOR_KEYS, config.FTP_KEYS, config.USER_KEYS):
        assert all(key.meaning and f"\\fB{name} = " in text for name, key in keys.items())


def test_the_command_writes_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual", str(tmp_path / "man")]) == 0
    assert {path.name for path in (tmp_path / "man").iterdir()} == set(man_pages())
    assert main(["manual"]) == ExitCode.USAGE
    (tmp_path / "file").touch()
    assert main(["manual", str(tmp_path / "file" / "x")]) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff here")
def test_groff_has_nothing_to_say(tmp_path: Path) -> None:
    assert main(["manual", str(tmp_path)]) == 0
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", *sorted(map(str, tmp_path.iterdir()))], capture_output=True, text=True,
        timeout=60, check=True,
    )
    assert done.stderr == ""
    assert "SERPENTFS-MOUNT(1)" in done.stdout


# The scripts, run by their shells


def complete_in_bash(line: str, folder: Path) -> list[str]:
    (folder / "serpentfs").write_text("#!/bin/sh\n[ \"$1 $2\" = 'remote list' ] && echo 'work:  vault+file:///x'\n")
    (folder / "serpentfs").chmod(0o755)
    (folder / "script").write_text(script_for("bash"))
    (folder / "below").mkdir(exist_ok=True)
    words = line.split(" ")
    program = (
        f'source ./script; COMP_WORDS=({" ".join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; '
        '_serpentfs; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, timeout=30, check=True, cwd=folder,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(("line", "found"), [
    ("serpentfs mou", ["mount"]),
    ("serpentfs remote ", ["add", "list", "show", "remove"]),
    ("serpentfs remote add --cache-m", ["--cache-memory"]),
    ("serpentfs mount --cache-d", ["--cache-disk", "--cache-directory"]),
    ("serpentfs mount --durability ", ["local", "cloud"]),
    ("serpentfs mount --cache-directory ", ["below"]),
    ("serpentfs mount --settle ", []),
    ("serpentfs ls w", ["work:"]),
    ("serpentfs ls work :", []),
])
def test_bash(tmp_path: Path, line: str, found: list[str]) -> None:
    assert complete_in_bash(line, tmp_path) == found


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
@pytest.mark.parametrize(("line", "found"), [
    ("serpentfs mou", ["mount"]),
    ("serpentfs remote a", ["add"]),
    ("serpentfs remote add --cache-m", ["--cache-memory"]),
    ("serpentfs mount --durability ", ["cloud", "local"]),
])
def test_fish(tmp_path: Path, line: str, found: list[str]) -> None:
    (tmp_path / "script").write_text(script_for("fish"))
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {tmp_path}/script; complete -C '{line}'"], capture_output=True,
        text=True, timeout=30, check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert [one.split("\t")[0] for one in done.stdout.splitlines()] == found


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shells_can_read_the_scripts(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(script_for(shell))
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
