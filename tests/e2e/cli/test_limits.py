"""Rates, connections and room for the cache, changed while it runs: by commands, by the clock, by SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.cli.conftest import Machine, needs_fuse, wait_for
from tests.e2e.cli.test_seeing import samples

pytestmark = needs_fuse


def limits(machine: Machine) -> dict[str, Any]:
    (answer,) = json.loads(machine.ok("speedlimit", "--json"))
    assert isinstance(answer, dict)
    return answer


def around_now(now: str, later: str) -> str:
    """A timetable that has ``now`` from two hours ago to two hours from now."""
    hour = time.localtime().tm_hour
    return f"{(hour - 2) % 24:02}:30,{now} {(hour + 2) % 24:02}:30,{later}"


def configure(machine: Machine, lines: Sequence[str], top: str = "") -> Path:
    path = machine.home / "config" / "serpentfs" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([top, "[remote.work]", f'url = "{machine.url}"', *lines, ""]))
    return path


def mount_work(machine: Machine, *words: str) -> None:
    machine.ok("mount", "work:", str(machine.mountpoint), "--daemon", *words)


def test_a_timetable_by_option_and_by_command(with_vault: Machine) -> None:
    machine = with_vault
    table = around_now("300K", "7M")
    machine.mount("--limit-up", table)
    answer = limits(machine)
    assert (answer["up"], answer["down"]) == (300 << 10, None)
    assert answer["timetable"] == {"up": table, "down": None}
    assert f"up 300.0 KiB/s now ({table}), down unlimited" in machine.ok("speedlimit")
    assert machine.status()["limits"]["timetable"]["up"] == table
    assert "of 300.0 KiB/s" in machine.ok("status")
    told = samples(machine)
    assert told['speed_limit_bytes{direction="up"}'] == 300 << 10
    assert 'speed_limit_bytes{direction="down"}' not in told
    down = around_now("off", "1M")
    assert f"down unlimited now ({down})" in machine.ok("speedlimit", "down", down, machine.url)
    assert limits(machine)["up"] == 300 << 10
    machine.ok("speedlimit", "up", "off")
    assert limits(machine)["timetable"]["up"] is None
    assert machine.ok("speedlimit", machine.url) == f"{machine.url}: up unlimited, down unlimited now ({down})\n"
    assert machine.ok("speedlimit", "up") == f"{machine.url}: up unlimited\n"


def test_connections_by_option_and_by_command(with_vault: Machine) -> None:
    machine = with_vault
    machine.mount("--settle", "0.05", "--upload-connections", "2", "--limit-up", "16K")
    for number in range(5):
        (machine.mountpoint / f"file{number}").write_bytes(bytes(200_000))    # a minute for all of them

    def running() -> float:
        return samples(machine)['cloud_transfers{direction="up"}']

    wait_for(lambda: running() == 2, "two uploads to run")
    wait_for(lambda: len([one for one in machine.status()["drive"]["pending"] if one["state"] == "sending"]) > 2,
             "more of them to wait for a connection")
    assert running() == 2
    assert samples(machine)['connection_limit{direction="up"}'] == 2
    assert "up 16.0 KiB/s over 2 connections" in machine.ok("speedlimit")
    assert limits(machine)["connections"] == {"up": 2, "down": None}
    machine.ok("speedlimit", "--upload-connections", "4", "--download-connections", "1")
    wait_for(lambda: running() == 4, "four uploads to run")
    assert limits(machine)["connections"] == {"up": 4, "down": 1}
    machine.ok("speedlimit", "up", "off", "--upload-connections", "0")
    machine.ok("flush", machine.url)
    assert running() == 0
    assert limits(machine)["connections"] == {"up": None, "down": 1}


def test_smaller_budgets_are_obeyed_soon(with_vault: Machine) -> None:
    machine = with_vault
    machine.mount("--settle", "0.05")
    for number in range(6):
        (machine.mountpoint / f"file{number}").write_bytes(os.urandom(1 << 20))
    machine.ok("flush", machine.url)
    machine.ok("evict", f"{machine.url}#/")
    machine.ok("warm", f"{machine.url}#/")

    def taken(layer: str) -> float:
        return samples(machine)[f'cache_bytes{{layer="{layer}"}}']

    wait_for(lambda: taken("disk") > 6 << 20, "the cache on disk to be filled")
    assert taken("memory") > 2 << 20
    told = machine.ok("cache", machine.url, "--memory", "1M", "--disk", "2M")
    assert "of 1.0 MiB" in told
    assert "of 2.0 MiB" in told
    assert taken("memory") <= 1 << 20
    wait_for(lambda: taken("disk") <= 2 << 20, "the cache on disk to shrink")
    assert samples(machine)['cache_budget_bytes{layer="disk"}'] == 2 << 20
    assert machine.status()["cache"]["memory_budget"] == 1 << 20
    assert "memory" in machine.ok("status")
    for number in range(6):
        assert len((machine.mountpoint / f"file{number}").read_bytes()) == 1 << 20
    assert taken("disk") <= 2 << 20
    (answer,) = json.loads(machine.ok("cache", "--json"))
    assert (answer["memory_budget"], answer["disk_budget"]) == (1 << 20, 2 << 20)
    machine.ok("cache", "--free-space", "3G")
    (answer,) = json.loads(machine.ok("cache", "--json"))
    assert (answer["free_space"], answer["disk_budget"]) == (3 << 30, 2 << 20)


def test_room_on_a_disk_that_the_start_left_out(with_vault: Machine) -> None:
    with_vault.mount("--cache-disk", "0")
    assert "no disk" in with_vault.ok("cache")
    assert "without one" in with_vault.fails(12, "cache", with_vault.url, "--disk", "1G")
    with_vault.ok("cache", with_vault.url, "--memory", "9M")
    assert with_vault.status()["cache"]["memory_budget"] == 9 << 20


def test_limits_of_the_configuration_and_what_outweighs_them(with_vault: Machine) -> None:
    machine = with_vault
    table = around_now("5M", "off")
    configure(machine, [f'limit-up = "{table}"', "limit-down = 200_000", "upload-connections = 3"])
    machine.extra_environment = {"SERPENTFS_DOWNLOAD_CONNECTIONS": "2"}
    mount_work(machine, "--limit-down", "1M")
    answer = limits(machine)
    assert (answer["up"], answer["down"]) == (5 << 20, 1 << 20)
    assert answer["connections"] == {"up": 3, "down": 2}
    assert table in machine.ok("config", "show", "work:")


def test_sighup_takes_over_what_the_configuration_says_anew(with_vault: Machine) -> None:
    machine = with_vault
    configure(machine, ['limit-up = "1M"', 'limit-down = "1M"'], 'log-level = "WARNING"')
    log = machine.home / "log"
    mount_work(machine, "--log-file", str(log), "--limit-down", "2M")
    assert machine.ok("log", "work:") == "WARNING\n"
    machine.ok("cache", "work:", "--memory", "20M")
    pid = machine.status()["pid"]
    table = around_now("3M", "4M")
    configure(machine, [f'limit-up = "{table}"', 'limit-down = "5M"', 'cache-disk = "1G"', "download-connections = 2"],
              'log-level = "info"')
    log.rename(machine.home / "log.1")
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: limits(machine)["up"] == 3 << 20, "the new limit")
    answer = limits(machine)
    assert answer["down"] == 2 << 20    # an option still counts more
    assert answer["timetable"]["up"] == table
    assert answer["connections"] == {"up": None, "down": 2}
    cache = machine.status()["cache"]
    assert (cache["memory_budget"], cache["disk_budget"]) == (20 << 20, 1 << 30)
    assert machine.ok("log", "work:") == "INFO\n"
    wait_for(lambda: log.exists() and "limit up" in log.read_text(), "the log to be opened anew, and to tell")

    # What cannot be read is told, and changes nothing.
    broken = configure(machine, ["limit-up = 7"])
    broken.write_text(broken.read_text() + "nonsense = 1\n")
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: 'unknown key "***"' in log.read_text(), "the log to tell of the unknown key")
    assert limits(machine)["up"] == 3 << 20


def test_sighup_with_a_log_that_cannot_be_written(with_vault: Machine) -> None:
    """The drive outlives the folder of its log, and finds it again."""
    machine = with_vault
    folder = machine.home / "logs"
    folder.mkdir()
    configure(machine, ['limit-up = "1M"'])
    mount_work(machine, "--log-file", str(folder / "log"), "-v")
    folder.rename(machine.home / "away")
    configure(machine, ['limit-up = "2M"'])
    pid = machine.status()["pid"]
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: limits(machine)["up"] == 2 << 20, "the new limit")
    (machine.mountpoint / "file").write_text("content")
    folder.mkdir()
    configure(machine, ['limit-up = "3M"'])
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: (folder / "log").exists() and "limit up: 3M" in (folder / "log").read_text(), "the log to be back")


def test_limits_for_what_runs_already_are_told_to_be_ignored(with_vault: Machine) -> None:
    machine = with_vault
    machine.mount("--limit-up", "1M")
    machine.extra_environment["SERPENTFS_LIMIT_DOWN"] = "7M"    # for whatever starts: nothing is said of it
    done = machine.run("webdav", machine.url, "--listen", "127.0.0.1:0", "--no-auth", "--limit-up", "2M",
                       "--cache-disk", "1G")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "--cache-disk, --limit-up would count at a start" in done.stderr
    assert (limits(machine)["up"], limits(machine)["down"]) == (1 << 20, None)


def test_wrong_limits_change_nothing(with_vault: Machine) -> None:
    machine = with_vault
    machine.mount("--limit-up", "1M")
    for words in (
        ("speedlimit", "up", "08:00"), ("speedlimit", "up", "08:00,1M 08:00,2M"), ("speedlimit", "sideways", "1M"),
        ("speedlimit", "--upload-connections", "-1"), ("cache", "--memory", "lots"),
        ("speedlimit", "down", "25:00,1M"),
    ):
        machine.fails(2, *words)
    assert limits(machine)["up"] == 1 << 20
    configure(machine, ['limit-up = "25:00,1M"'])
    told = machine.fails(2, "mount", "work:", str(machine.mountpoint))
    assert "config.toml:4: " in told
    assert "timetable" in told
    configure(machine, [], 'log-level = "CHATTY"')
    assert "config.toml:1: " in machine.fails(2, "mount", "work:", str(machine.mountpoint))


def test_nothing_to_limit(with_vault: Machine) -> None:
    assert with_vault.ok("cache") == "nothing is running\n"
    for words in (("cache", "--memory", "1M"), ("speedlimit", "--upload-connections", "2"), ("speedlimit", "up", "1M")):
        with_vault.fails(4, *words)
