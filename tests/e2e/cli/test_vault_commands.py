"""``init``, ``check``, ``ls``, ``df``, ``flush`` without a running owner, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.e2e.cli.conftest import PASSPHRASE, SERPENTFS, TIMEOUT, Machine


def test_init_makes_a_vault_that_opens(machine: Machine) -> None:
    assert str(machine.vault) in machine.ok("init", machine.url)
    assert (machine.vault / "vault.cryptomator").is_file()
    assert machine.ok("ls", machine.url) == ""


def test_init_refuses_what_is_there(with_vault: Machine) -> None:
    before = {path: path.read_bytes() for path in with_vault.vault.rglob("*") if path.is_file()}
    assert "vault already" in with_vault.fails(10, "init", with_vault.url)
    assert {path: path.read_bytes() for path in with_vault.vault.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("combo", ["SIV_GCM", "SIV_CTRMAC"])
def test_both_ciphers(machine: Machine, combo: str) -> None:
    machine.ok("init", machine.url, "--cipher-combo", combo)
    assert machine.ok("ls", machine.url) == ""
    assert machine.run("check", machine.url, "--content").returncode == 0


def test_wrong_passphrase(with_vault: Machine) -> None:
    (with_vault.home / "wrong").write_text("not it")
    (with_vault.home / "wrong").chmod(0o600)
    for command in ("ls", "df", "check", "flush"):
        told = with_vault.fails(3, command, with_vault.url, "--password-file", str(with_vault.home / "wrong"))
        assert "not it" not in told


@pytest.mark.parametrize("source", ["file", "command", "stdin"])
def test_sources_of_the_passphrase(with_vault: Machine, source: str) -> None:
    environment = with_vault.environment
    del environment["SERPENTFS_PASSWORD_FILE"]
    words = {
        "file": ["--password-file", str(with_vault.passphrase_file)],
        "command": ["--password-command", f"cat '{with_vault.passphrase_file}'"],
        "stdin": ["--password-file", "-"],
    }[source]
    done = with_vault.run("ls", with_vault.url, *words, stdin=PASSPHRASE + "\n", environment=environment)
    assert done.returncode == 0, done.stderr


def test_without_a_passphrase_and_a_terminal(with_vault: Machine) -> None:
    environment = with_vault.environment
    del environment["SERPENTFS_PASSWORD_FILE"]
    done = with_vault.run("ls", with_vault.url, environment=environment)
    assert done.returncode == 2
    assert "--password-file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_vault(machine: Machine) -> None:
    machine.fails(6, "ls", machine.url)    # a folder that is not there is a disk that may come
    machine.vault.mkdir()
    assert "no vault" in machine.fails(9, "ls", machine.url)
    assert not list(machine.vault.iterdir())


@pytest.mark.parametrize(("remote", "code"), [
    ("", 2), ("vault+gopher://x", 2), ("vault+file://", 2), ("http://x", 2), ("nobody:", 4), ("nobody:/x", 4),
    ("a b:", 2), ("/srv/vault", 2),
])
def test_bad_remotes(machine: Machine, remote: str, code: int) -> None:
    machine.fails(code, "ls", remote)


def test_names_from_the_config(with_vault: Machine) -> None:
    folder = with_vault.home / "config" / "serpentfs"
    folder.mkdir(parents=True)
    config = folder / "config.toml"
    config.write_text(
        f'[remote.work]\nurl = "{with_vault.url}"\npassword-command = "cat {with_vault.passphrase_file}"\n'
    )
    environment = with_vault.environment
    del environment["SERPENTFS_PASSWORD_FILE"]
    assert with_vault.run("ls", "work:", environment=environment).returncode == 0
    assert 'did you mean "work"' in with_vault.fails(4, "ls", "wrok:")
    config.write_text('[remote.work]\nurl = "vault+file:///x"\nread-onyl = true\n')
    assert f"{config}:3: unknown key" in with_vault.fails(2, "ls", "work:")
    other = with_vault.home / "other.toml"
    assert "no such configuration file" in with_vault.fails(4, "ls", "work:", "--config", str(other))


def test_df(with_vault: Machine) -> None:
    told = json.loads(with_vault.ok("df", with_vault.url, "--json"))
    assert told["total"] > told["free"] > 0
    assert "GiB" in with_vault.ok("df", with_vault.url) or "TiB" in with_vault.ok("df", with_vault.url)


def test_ls_of_a_path_that_is_not_there(with_vault: Machine) -> None:
    with_vault.fails(4, "ls", f"{with_vault.url}#/nothing/here")


def test_check_finds_and_repairs(with_vault: Machine) -> None:
    orphan = with_vault.vault / "d" / "AB" / ("C" * 30)
    orphan.mkdir(parents=True)
    done = with_vault.run("check", with_vault.url)
    assert done.returncode == 15, (done.stdout, done.stderr)
    assert "C" * 30 in done.stdout
    done = with_vault.run("check", with_vault.url, "--fix")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert with_vault.run("check", with_vault.url).returncode == 0


def test_status_and_umount_when_nothing_runs(with_vault: Machine) -> None:
    assert with_vault.ok("status") == "nothing is running\n"
    assert json.loads(with_vault.ok("status", "--json")) == []
    with_vault.fails(4, "status", with_vault.url)
    with_vault.fails(4, "umount", str(with_vault.mountpoint))
    with_vault.fails(4, "umount", with_vault.url)


def test_a_traceback_only_for_who_asks(with_vault: Machine) -> None:
    done = with_vault.run("ls", f"{with_vault.url}#/none", "-vv")
    assert done.returncode == 4
    assert "Traceback" in done.stderr


def test_the_prompt(with_vault: Machine) -> None:
    """On a terminal the passphrase is asked for, and not shown."""
    environment = with_vault.environment
    del environment["SERPENTFS_PASSWORD_FILE"]
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", "--wait", str(SERPENTFS), "ls", with_vault.url]
    shown = b""
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while b"Passphrase of" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, PASSPHRASE.encode() + b"\n")
        while True:
            try:
                shown += os.read(ours, 1000)
            except OSError:    # EIO: the terminal's other end is closed
                break
        assert process.wait(timeout=TIMEOUT) == 0, shown
    os.close(ours)
    assert PASSPHRASE.encode() not in shown


@pytest.mark.parametrize("words", [["--help"], ["mount", "--help"], ["ls"], ["status", "--json"]])
def test_a_reader_that_has_enough(with_vault: Machine, words: list[str]) -> None:
    """``serpentfs … | head -1`` says nothing of broken pipes."""
    if words == ["ls"]:
        words = ["df", with_vault.url]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [str(SERPENTFS), *words], env=with_vault.environment, stdout=writing, stderr=subprocess.PIPE, text=True,
        timeout=TIMEOUT, check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
