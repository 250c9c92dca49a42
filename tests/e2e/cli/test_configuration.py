"""``config`` and ``remote``: what is set and where it came from, and edits that leave the rest of the file alone."""

from __future__ import annotations

import concurrent.futures
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from serpentfs.password_hashes import matches
from tests.e2e.cli.conftest import Machine

OF_THE_USER = """\
# my remotes
session-store = 'file'   # no keyring here

[remote."home"]          # the one at home
url   = "vault+file:///srv/home"
# it is slow
poll-interval = 2.5

# what follows is for work
[remote.last]
url = "vault+file:///srv/last"
"""


def config_file(machine: Machine) -> Path:
    return machine.home / "config" / "serpentfs" / "config.toml"


def write(machine: Machine, text: str) -> Path:
    path = config_file(machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def settings(machine: Machine, *words: str) -> dict[str, dict[str, Any]]:
    return {one["key"]: one for one in json.loads(machine.ok("config", "show", *words, "--json"))}


def test_add_list_show_remove(machine: Machine) -> None:
    path = write(machine, OF_THE_USER)
    path.chmod(0o644)
    machine.ok(
        "remote", "add", "work:", "vault+file:///srv/work", "--cache-disk", "20G", "--uploads", "3", "--settle", "0.5",
        "--read-only", "--password-file", "pass",
    )
    added = (
        f'\n[remote.work]\nurl = "vault+file:///srv/work"\npassword-file = "{machine.home}/pass"\nread-only = true\n'
        'settle = 0.5\nuploads = 3\ncache-disk = "20G"\n'
    )
    assert path.read_text() == OF_THE_USER + added
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one["name"] for one in json.loads(machine.ok("remote", "list", "--json"))] == ["home", "last", "work"]
    assert machine.ok("remote", "list") == (
        "home:  vault+file:///srv/home\nlast:  vault+file:///srv/last\nwork:  vault+file:///srv/work\n"
    )
    assert machine.ok("remote", "show", "last").split() == ["url", "vault+file:///srv/last", f"{path}:11"]
    machine.ok("remote", "remove", "work")
    assert path.read_text() == OF_THE_USER + "\n"
    machine.ok("remote", "remove", "home")
    assert path.read_text() == (
        "# my remotes\nsession-store = 'file'   # no keyring here\n\n# what follows is for work\n"
        '[remote.last]\nurl = "vault+file:///srv/last"\n\n'
    )


def test_the_first_remote_makes_the_file(machine: Machine) -> None:
    machine.ok("remote", "add", "a.b", "vault+file:///srv/ö")
    assert stat.S_IMODE(config_file(machine).stat().st_mode) == 0o600
    assert stat.S_IMODE(config_file(machine).parent.stat().st_mode) == 0o700
    assert json.loads(machine.ok("remote", "list", "--json"))[0]["url"] == "vault+file:///srv/ö"


@pytest.mark.parametrize(("code", "words", "message"), [
    (10, ("add", "home", "vault+file:///x"), "there is a remote called home"),
    (2, ("add", "a b", "vault+file:///x"), "is no name for a remote"),
    (2, ("add", "new", "home:"), "not a URL"),
    (2, ("add", "new", "vault+s3://key:secret@bucket"), "must not hold credentials"),
    (2, ("add", "new", "vault+file:///x", "--uploads", "0"), "--uploads must be a whole number above 0"),
    (2, ("add", "new", "vault+file:///x", "--settle", "soon"), "--settle must be a number of seconds"),
    (2, ("add", "new", "vault+file:///x", "--cache-disk", "huge"), "--cache-disk must be a size"),
    (2, ("add", "new", "vault+file:///x", "--thumbnails"), "--thumbnails is for MEGA accounts"),
    (2, ("add", "new", "vault+file:///x", "--password", "s"), "there is no option --password"),
    (2, ("add", "new", "vault+file:///x", "--password-file", "a", "--password-command", "b"), "has both"),
    (4, ("remove", "hme"), 'did you mean "home"'),
    (4, ("show", "lst"), 'did you mean "last"'),
    (2, ("remov", "home"), 'did you mean "remote remove"'),
])
def test_refusals_change_nothing(machine: Machine, code: int, words: tuple[str, ...], message: str) -> None:
    path = write(machine, OF_THE_USER)
    assert message in machine.fails(code, "remote", *words)
    assert path.read_text() == OF_THE_USER
    assert [entry.name for entry in path.parent.iterdir()] == ["config.toml"]


def test_a_file_that_cannot_be_edited_is_left_alone(machine: Machine) -> None:
    text = 'remote = {home = {url = "vault+file:///srv/home"}}\n'
    path = write(machine, text)
    machine.fails(2, "remote", "add", "new", "vault+file:///x")
    assert "by hand" in machine.fails(2, "remote", "remove", "home")
    assert path.read_text() == text


def test_a_header_within_a_text_is_no_header(machine: Machine) -> None:
    """Taking the lines out would leave the end of the text behind: refused."""
    text = '[remote.a]\nurl = "vault+file:///a"\npassword-command = """x\n[remote.b]\n"""\n'
    path = write(machine, text)
    machine.fails(2, "remote", "remove", "a")
    assert path.read_text() == text


def test_two_commands_at_once(machine: Machine) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        names = [f"r{number}" for number in range(4)]
        list(pool.map(lambda name: machine.ok("remote", "add", name, "vault+file:///x"), names))
    assert sorted(one["name"] for one in json.loads(machine.ok("remote", "list", "--json"))) == names


def test_show_tells_where_each_value_is_from(machine: Machine) -> None:
    path = write(machine, OF_THE_USER)
    machine.extra_environment |= {"SERPENTFS_CACHE_DISK": "1G", "SERPENTFS_POLL_INTERVAL": "9"}
    found = settings(machine, "home:")
    assert found["poll-interval"] == {
        "table": "remote.home", "key": "poll-interval", "value": 9.0, "source": "environment", "file": None,
        "line": None, "variable": "SERPENTFS_POLL_INTERVAL",
    }
    assert found["cache-disk"]["value"] == 1 << 30
    assert found["password-file"]["variable"] == "SERPENTFS_PASSWORD_FILE"
    assert (found["url"]["file"], found["url"]["line"]) == (str(path), 5)
    assert (found["uploads"]["value"], found["uploads"]["source"]) == (8, "default")
    machine.extra_environment.clear()
    found = settings(machine, "home:")
    assert (found["poll-interval"]["value"], found["poll-interval"]["line"]) == (2.5, 7)
    everything = machine.ok("config", "show")
    assert f"{path}:2" in everything
    assert f"{path}:11" in everything
    assert "home" not in settings(machine, f"vault+file://{machine.home}/v")["url"]["table"]


def test_the_environment_of_remote_add_is_not_written_down(machine: Machine) -> None:
    machine.extra_environment |= {"SERPENTFS_CACHE_DISK": "1G", "SERPENTFS_READ_ONLY": "true"}
    machine.ok("remote", "add", "a", "vault+file:///x")
    assert config_file(machine).read_text() == '[remote.a]\nurl = "vault+file:///x"\n'


def test_no_secret_is_shown(machine: Machine) -> None:
    done = machine.run("config", "hash-password", stdin="canary-5521\n")
    assert done.returncode == 0
    (password_hash,) = done.stdout.splitlines()
    assert matches("canary-5521", password_hash)
    assert not matches("canary-5522", password_hash)
    write(machine, f'[webdav.users.anna]\npassword-hash = "{password_hash}"\nroot = "/Photos"\n')
    for words in (("config", "show"), ("config", "show", "--json")):
        shown = machine.ok(*words)
        assert "/Photos" in shown
        assert password_hash not in shown


def test_precedence(with_vault: Machine) -> None:
    """Default < file < environment < command line, seen in what a drive does."""
    write(with_vault, f'[remote.v]\nurl = "{with_vault.url}"\npassword-file = "{with_vault.home}/nothing"\n')
    with_vault.ok("ls", "v:")    # SERPENTFS_PASSWORD_FILE stands above the table
    with_vault.fails(4, "ls", "v:", "--password-file", str(with_vault.home / "nothing"))
    del_environment = {k: v for k, v in with_vault.environment.items() if k != "SERPENTFS_PASSWORD_FILE"}
    assert with_vault.run("ls", "v:", environment=del_environment).returncode == 4
    with_vault.extra_environment["SERPENTFS_JSON"] = "true"
    assert json.loads(with_vault.ok("ls", "v:")) == []
    with_vault.extra_environment["SERPENTFS_JSON"] = "perhaps"
    assert "SERPENTFS_JSON" in with_vault.fails(2, "ls", "v:")
