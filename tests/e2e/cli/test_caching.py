"""What is kept here of a path: refresh, warm, evict, verify; with an owner and without."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli.conftest import Machine, needs_fuse, wait_for

pytestmark = needs_fuse


def cache_of(machine: Machine) -> dict[str, Any]:
    (answer,) = json.loads(machine.ok("status", "--json"))
    cache = answer["cache"]
    assert isinstance(cache, dict)
    return cache


def fetched_blocks(machine: Machine) -> int:
    found = json.loads(machine.ok("stats", "--json"))
    (value,) = (
        one["value"] for one in found
        if one["name"] == "serpentfs_cache_blocks_total" and one["labels"].get("layer") == "cloud"
    )
    return int(value)


def contents(machine: Machine) -> list[Path]:
    """The objects of files with content, in the vault."""
    return [path for path in machine.vault.rglob("*.c9r") if path.is_file() and path.stat().st_size > 1000]


@pytest.fixture
def filled(with_vault: Machine) -> Machine:
    """A mounted vault: /a/one, /a/b/two and /three, uploaded."""
    with_vault.mount("--settle", "0.05", "--cache-memory", "1M")
    (with_vault.mountpoint / "a" / "b").mkdir(parents=True)
    for name, size in (("a/one", 1_000_000), ("a/b/two", 3_000_000), ("three", 10)):
        (with_vault.mountpoint / name).write_bytes(os.urandom(size))
    with_vault.ok("flush", with_vault.url)
    return with_vault


def test_evicted_is_gone_and_warmed_is_there_without_the_store(filled: Machine) -> None:
    read = {name: (filled.mountpoint / name).read_bytes() for name in ("a/one", "a/b/two")}
    dropped = json.loads(filled.ok("evict", f"{filled.url}#/a", "--json"))
    assert (dropped["files"], dropped["staged"]) == (2, 0)
    assert dropped["disk_bytes"] >= 4_000_000
    assert cache_of(filled)["disk_bytes"] < 100_000
    warmed = json.loads(filled.ok("warm", f"{filled.url}#/a", "--json"))
    assert warmed == {"files": 2, "bytes": 4_000_000, "kept": 2, "failed": []}
    assert cache_of(filled)["disk_bytes"] >= 4_000_000
    before = fetched_blocks(filled)
    away = filled.vault.with_name("away")
    filled.ok("umount", str(filled.mountpoint))
    filled.wait_until_gone()
    filled.mount("--cache-memory", "1M")
    filled.vault.rename(away)
    try:
        assert (filled.mountpoint / "a/one").read_bytes() == read["a/one"]
        assert (filled.mountpoint / "a/b/two").read_bytes() == read["a/b/two"]
        assert fetched_blocks(filled) == 0
    finally:
        away.rename(filled.vault)
    assert before > 0


def test_what_is_not_uploaded_is_never_evicted(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    (with_vault.mountpoint / "file").write_text("only here")
    assert "not uploaded yet: kept" in with_vault.ok("evict", f"{with_vault.url}#/")
    assert with_vault.ok("warm", f"{with_vault.url}#/file").startswith("1 of 1 file here")
    assert "1 not uploaded yet" in with_vault.ok("verify", with_vault.url)
    assert (with_vault.mountpoint / "file").read_text() == "only here"
    with_vault.ok("umount", str(with_vault.mountpoint))


def test_a_cache_that_is_too_small_is_told(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0.05", "--cache-disk", "2M", "--cache-memory", "1M")
    for number in range(4):
        (with_vault.mountpoint / str(number)).write_bytes(os.urandom(1_000_000))
    with_vault.ok("flush", with_vault.url)
    told = with_vault.run("warm", with_vault.url)
    assert told.returncode == 0
    assert "no room for" in told.stderr
    assert cache_of(with_vault)["disk_bytes"] <= 2 << 20


def test_verify_tells_what_is_damaged(filled: Machine) -> None:
    assert filled.ok("verify", filled.url) == "3 files good, 3.8 MiB read\n"
    assert filled.ok("verify", f"{filled.url}#/three") == "1 file good, 10 B read\n"
    (one,) = (path for path in contents(filled) if 900_000 < path.stat().st_size < 1_100_000)
    data = bytearray(one.read_bytes())
    data[-5] ^= 0x40
    one.write_bytes(data)
    filled.ok("refresh", f"{filled.url}#/a")
    done = filled.run("verify", filled.url, "--json")
    assert done.returncode == 7
    told = json.loads(done.stdout)
    assert [(bad["path"], bad["state"]) for bad in told["failed"]] == [("/a/one", "damaged")]
    assert told["files"] == 3
    assert "damaged: /a/one: " in filled.run("verify", f"{filled.url}#/a").stdout
    assert filled.run("verify", f"{filled.url}#/a/b").returncode == 0
    filled.ok("umount", str(filled.mountpoint))
    filled.wait_until_gone()
    assert filled.run("verify", filled.url).returncode == 7    # without an owner, too


def test_refresh_brings_news_of_a_store_without_events(with_vault: Machine) -> None:
    """The store's folder is looked at once an hour; nothing else would tell in time."""
    other = Machine(with_vault.home / "other")
    other.home.mkdir()
    for name in ("mnt", "run"):
        (other.home / name).mkdir()
    shutil.copy(with_vault.passphrase_file, other.passphrase_file)
    with_vault.mount("--poll-interval", "3600")
    (other.home / "vault").symlink_to(with_vault.vault)
    (with_vault.home / "new").write_text("news")
    try:
        other.mount("--settle", "0.05")
        (other.mountpoint / "news").write_text("content")
        other.ok("umount", str(other.mountpoint))
    finally:
        other.clean()
    assert with_vault.ok("refresh", with_vault.url) == "1 folder listed anew\n"
    assert (with_vault.mountpoint / "news").read_text() == "content"


def test_refresh_of_everything_and_wrong_paths(filled: Machine) -> None:
    assert filled.ok("refresh", filled.url, "--recursive") == "3 folders listed anew\n"
    assert filled.ok("refresh", f"{filled.url}#/a/one") == "1 folder listed anew\n"    # that of the file
    for command in ("refresh", "warm", "evict", "verify"):
        filled.fails(4, command, f"{filled.url}#/none")
        filled.fails(2, command, f"{filled.url}#none")
    filled.ok("umount", str(filled.mountpoint))
    filled.wait_until_gone()
    assert filled.ok("warm", f"{filled.url}#/a").startswith("2 of 2 files here")    # being the owner for the moment
    assert filled.ok("evict", f"{filled.url}#/a").startswith("2 files dropped")


def test_warming_ends_when_who_asked_goes_away(filled: Machine) -> None:
    filled.ok("evict", filled.url)
    filled.ok("speedlimit", "down", "500K")
    process = filled.start("warm", f"{filled.url}#/a")
    wait_for(lambda: fetched_blocks(filled) > 0 or process.poll() is not None, "the warming to begin")
    process.kill()
    process.wait(timeout=30)
    filled.ok("speedlimit", "down", "0")
    log = filled.home / "state" / "serpentfs" / "serpentfs.log"
    filled.ok("umount", str(filled.mountpoint))
    filled.wait_until_gone()
    assert "a control request failed" not in log.read_text()
