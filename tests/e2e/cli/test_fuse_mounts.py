"""``fuse-add`` and the others of MEGAcmd's names, over the configuration and the doors of owners."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli.conftest import Machine, needs_fuse
from tests.e2e.cli.test_mega import Account, account, server  # noqa: F401 - the last two are fixtures
from tests.mega_emulator import Emulator

pytestmark = needs_fuse


@pytest.fixture
def work(with_vault: Machine) -> Machine:
    """The vault has the name work, and a folder."""
    with_vault.ok("mkdir", f"{with_vault.url}#/Photos")
    with_vault.ok("remote", "add", "work", with_vault.url, "--password-file", str(with_vault.passphrase_file))
    return with_vault


def mounts(machine: Machine, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(machine.ok("fuse-show", "--json", *words))
    return found


def config_of(machine: Machine) -> str:
    return (machine.home / "config" / "serpentfs" / "config.toml").read_text()


def test_from_adding_to_removing(work: Machine) -> None:
    before = config_of(work)
    point = str(work.mountpoint)
    assert work.ok("fuse-add", point, "work:") == (
        f"mounted at {point}\nadded work: to {work.home}/config/serpentfs/config.toml\n"
    )
    assert work.is_mounted()
    assert config_of(work) == before + f'mount = "{point}"\n'
    (shown,) = mounts(work)
    assert shown == {
        "name": "work", "local_path": point, "remote_path": work.url, "persistent": True, "enabled": True,
        "enable_at_startup": True, "read_only": False,
    }
    assert work.ok("fuse-show") == f"work  {point}  {work.url}  YES  YES\n"
    assert "Enable at startup:  YES\n" in work.ok("fuse-show", point)
    work.fails(5, "fuse-remove", "work")
    assert work.ok("fuse-enable", "work") == "work: is enabled already\n"
    work.ok("fuse-disable", "work", "--temporarily")
    assert not work.is_mounted()
    assert mounts(work, "--only-enabled") == []
    assert mounts(work)[0]["enable_at_startup"]
    work.ok("fuse-enable", point)
    work.ok("fuse-disable", point)
    work.wait_until_gone()
    assert "mount-enabled = false" in config_of(work)
    assert "nothing to start" in work.fails(2, "up")
    work.ok("fuse-enable", "work", "--temporarily")
    assert "mount-enabled = false" in config_of(work)
    work.ok("fuse-disable", "work")
    assert work.ok("fuse-remove", "work").startswith("removed; work: stays the name of")
    assert config_of(work) == before
    assert mounts(work) == []
    work.fails(4, "fuse-remove", "work")


def test_a_folder_with_another_name_and_settings(work: Machine) -> None:
    point = str(work.mountpoint)
    work.ok("fuse-add", point, "work:/Photos", "--name", "pictures", "--disabled", "--read-only")
    assert not work.is_mounted()
    (shown,) = mounts(work)
    assert (shown["name"], shown["remote_path"]) == ("pictures", f"{work.url}#/Photos")
    assert (shown["enabled"], shown["enable_at_startup"], shown["read_only"]) == (False, False, True)
    assert "password-file" in config_of(work).partition("[remote.pictures]")[2]    # as the remote's own table has it
    told = work.ok("fuse-config", "pictures", "--name=photos", "--enable-at-startup=yes", "--read-only=no")
    assert "Name:               photos\n" in told
    assert "Read-only:          NO\n" in told
    assert [one["name"] for one in mounts(work)] == ["photos"]
    assert work.ok("up").startswith("photos: mounted at")
    (work.mountpoint / "file").write_text("content")
    work.ok("fuse-disable", "photos")
    assert work.ok("ls", "work:/Photos") == "file\n"
    assert work.ok("fuse-config", "photos", "--persistent=yes").startswith("Name:")
    work.fails(12, "fuse-config", "photos", "--persistent=no")
    work.fails(10, "fuse-config", "photos", "--name=work")
    work.fails(2, "fuse-config", "photos", "--name=a/b")


def test_there_is_one_mount_of_a_remote(work: Machine) -> None:
    second = work.home / "second"
    second.mkdir()
    work.ok("fuse-add", str(work.mountpoint), "work:")
    for words in (("work:/Photos",), ("work:/Photos", "--transient")):
        told = work.fails(5, "fuse-add", str(second), *words)
        assert "mount --bind" in told
        assert str(work.mountpoint) in told
    assert "Photos" not in config_of(work)
    work.ok("fuse-add", str(second), "work:/Photos", "--disabled")    # for another time
    work.fails(5, "fuse-enable", "Photos")
    work.ok("fuse-disable", "work")
    work.ok("fuse-enable", "Photos")
    assert [one["enabled"] for one in mounts(work)] == [False, True]
    work.ok("fuse-disable", "Photos")


def test_transient_mounts(work: Machine) -> None:
    before = config_of(work)
    point = str(work.mountpoint)
    work.ok("fuse-add", point, "work:/Photos", "--transient", "--read-only")
    assert config_of(work) == before
    (shown,) = mounts(work)
    assert (shown["name"], shown["persistent"], shown["enabled"]) == (None, False, True)
    with pytest.raises(OSError, match="Read-only"):
        (work.mountpoint / "file").touch()
    work.fails(12, "fuse-config", point, "--read-only=no")
    work.ok("fuse-disable", point)
    assert mounts(work) == []
    work.fails(2, "fuse-add", point, "work:", "--transient", "--disabled")


def test_what_cannot_be_mounted_stays_disabled(work: Machine) -> None:
    done = work.run("fuse-add", str(work.home / "none"), "work:")
    assert done.returncode == 2
    assert "cannot mount on" in done.stderr
    assert "is in " in done.stderr
    assert "disabled; serpentfs fuse-enable work tries again" in done.stderr
    assert [(one["enabled"], one["enable_at_startup"]) for one in mounts(work)] == [(False, False)]
    (work.home / "none").mkdir()
    work.ok("fuse-enable", "work")
    work.ok("fuse-disable", "work")
    before = config_of(work)
    for code, words in (
        (4, ("fuse-enable", "other")), (4, ("fuse-show", "other")), (4, ("fuse-add", "x", "other:")),
        (2, ("fuse-add", "x", work.url)), (2, ("fuse-add", "x", "work:/Photos", "--name", "a b")),
        (10, ("fuse-add", "x", "work:", "--disabled")), (10, ("fuse-add", "x", "work:/Photos", "--name", "work")),
        (2, ("fuse-config", "work", "--read-only=maybe")),
    ):  # fmt: skip
        work.fails(code, *words)
    assert config_of(work) == before


def test_a_folder_of_the_account(account: Account, server: Emulator) -> None:
    folder = server.add_folder(account.email, "Photos 2026")
    server.add_file(account.email, "file", b"content", parent=folder)
    account.log_in()
    machine = account.machine
    machine.ok("fuse-add", str(machine.mountpoint), "/Photos 2026")
    assert (machine.mountpoint / "file").read_bytes() == b"content"
    (shown,) = mounts(machine)
    assert (shown["name"], shown["remote_path"]) == ("Photos-2026", "mega+session://mega#/Photos%202026")
    machine.ok("fuse-disable", "Photos-2026")
    machine.wait_until_gone()
    assert Path(machine.mountpoint).exists()
