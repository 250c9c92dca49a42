"""``reload``: everything fetched anew, what is known kept."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from tests.e2e.cli.conftest import Machine, needs_fuse, wait_for
from tests.e2e.cli.test_mega import Account, account, server  # noqa: F401 - the last two are fixtures
from tests.mega_emulator import Emulator

pytestmark = needs_fuse


def inodes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*")}


def test_a_vault_is_listed_anew_and_inodes_stay(with_vault: Machine) -> None:
    """Somebody else works on the vault from a place where the store's events are not seen."""
    with_vault.mount("--settle", "0.05")
    (with_vault.mountpoint / "a" / "b").mkdir(parents=True)
    (with_vault.mountpoint / "a" / "b" / "file").write_text("content")
    with_vault.ok("flush", with_vault.url)
    before = inodes(with_vault.mountpoint)
    answer = json.loads(with_vault.ok("reload", with_vault.url, "--json"))
    assert [one["remote"] for one in answer] == [with_vault.url]
    assert answer[0]["folders"] == 3
    assert answer[0]["observed"] > 0
    assert inodes(with_vault.mountpoint) == before
    (with_vault.mountpoint / "pending").write_text("not uploaded yet")
    assert re.fullmatch(r".*: 3 folders compared in \d+ s\n", with_vault.ok("reload"))    # all that run
    assert (with_vault.mountpoint / "pending").read_text() == "not uploaded yet"
    assert with_vault.ok("reload", "--quiet") == ""


def test_a_store_that_is_away_is_told_in_time(with_vault: Machine) -> None:
    with_vault.mount()
    (with_vault.mountpoint / "file").write_text("content")
    with_vault.ok("flush", with_vault.url)
    away = with_vault.vault.with_name("away")
    with_vault.vault.rename(away)
    told = with_vault.fails(6, "reload", with_vault.url, "--patience", "1")
    assert "does not answer" in told
    assert with_vault.fails(6, "reload", "--patience", "1").startswith(f"serpentfs: {with_vault.url}: ")
    assert (with_vault.mountpoint / "file").read_text() == "content"
    away.rename(with_vault.vault)
    with_vault.ok("reload")


def test_without_an_owner(with_vault: Machine) -> None:
    assert "nothing is running" in with_vault.fails(4, "reload")
    assert "1 folder compared" in with_vault.ok("reload", with_vault.url)
    with_vault.fails(2, "reload", with_vault.url, "--patience", "0")
    shutil.rmtree(with_vault.vault)
    done = with_vault.run("reload", with_vault.url, "--patience", "1")    # it starts from what it knows
    assert done.returncode == 6
    assert "does not answer" in done.stderr.splitlines()[-1]


def test_the_tree_of_an_account_is_fetched_anew(account: Account, server: Emulator) -> None:
    folder = server.add_folder(account.email, "folder")
    server.add_file(account.email, "file", b"content", parent=folder)
    account.log_in()
    mountpoint = account.mount()
    before = inodes(mountpoint)
    assert set(before) == {"folder", "folder/file"}
    fetched = server.counts().get("command f", 0)
    server.fault("events", "close", times=None)
    server.fault("wait", "close", times=None)
    try:
        server.add_file(account.email, "unheard", b"of")
        (answer,) = json.loads(account.machine.ok("reload", "mega:", "--json"))
    finally:
        server.clear_faults()
    assert server.counts()["command f"] == fetched + 1
    assert answer["folders"] == 2
    assert answer["observed"] > 100    # bytes
    after = inodes(mountpoint)
    assert (mountpoint / "unheard").read_bytes() == b"of"
    assert {name: after[name] for name in before} == before


def test_an_account_that_does_not_answer(account: Account, server: Emulator) -> None:
    server.add_file(account.email, "file", b"content")
    account.log_in()
    mountpoint = account.mount()
    server.fault("batch", "slow", seconds=5, account=account.email)
    try:
        assert "does not answer" in account.machine.fails(6, "reload", "mega:", "--patience", "1")
        server.fault("batch", "http", status=503, times=None, account=account.email)
        assert "503" in account.machine.fails(6, "reload", "mega:")    # at once
        assert os.listdir(mountpoint) == ["file"]
    finally:
        server.clear_faults()
    account.machine.ok("reload", "mega:")
    wait_for(lambda: os.listdir(mountpoint) == ["file"], "the tree")
