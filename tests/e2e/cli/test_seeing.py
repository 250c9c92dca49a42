"""What running processes tell of themselves, and what may be turned: status, stats, log, transfers, speedlimit."""

from __future__ import annotations

import base64
import contextlib
import ftplib
import http.client
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import PASSPHRASE, SERPENTFS, TIMEOUT, Machine, needs_fuse, wait_for
from tests.mega_emulator import emulator
from tests.mounted import free_port

DOOR_PASSWORD = "canary-door-password-5512"
ACCOUNT_PASSWORD = "canary-account-password-4471"
NAME = "canary-name-of-a-file.odt"

pytestmark = needs_fuse


def samples(machine: Machine) -> dict[str, float]:
    """Name and labels (without the remote) of each sample, as Prometheus is told them."""
    found = {}
    for line in machine.ok("stats", "--prometheus").splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r'serpentfs_(\w+)\{remote="[^"]*",?(.*)\} (\S+)', line)
            assert match is not None, line
            found[f"{match[1]}{{{match[2]}}}"] = float(match[3])
    return found


@contextlib.contextmanager
def without_store(machine: Machine) -> Iterator[None]:
    away = machine.vault.with_name("away")
    machine.vault.rename(away)
    try:
        yield
    finally:
        away.rename(machine.vault)


def watching(machine: Machine, *words: str) -> subprocess.Popen[str]:
    return machine.start("status", "--watch", "--interval", "0.1", *words)


def test_watching_in_a_pipe_prints_a_block_for_each_change(with_vault: Machine) -> None:
    with_vault.mount("--settle", "300")
    process = watching(with_vault, "--json")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first[0]["drive"]["pending"] == []
    (with_vault.mountpoint / "file").write_text("content")
    while not (second := json.loads(process.stdout.readline()))[0]["drive"]["pending"]:
        pass
    assert second[0]["drive"]["pending"][0]["path"] == "/file"
    with_vault.ok("flush", with_vault.url)
    while json.loads(process.stdout.readline())[0]["drive"]["pending"]:
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=TIMEOUT) == 0


def test_watching_says_nothing_while_nothing_changes_and_goes_on_when_the_owner_ends(with_vault: Machine) -> None:
    with_vault.mount()
    process = watching(with_vault, with_vault.url)
    assert process.stdout is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", process.stdout.readline())
    assert process.stdout.readline().startswith(f"{with_vault.url}: running")
    with_vault.ok("umount", str(with_vault.mountpoint))
    rest = ""
    while "nothing is running" not in rest:
        rest += process.stdout.readline()
    # One block, then one for the end, perhaps with steps of the end between: not one for every look.
    assert rest.count(with_vault.url) <= 4
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=TIMEOUT) == 0


def test_watching_on_a_terminal_redraws(with_vault: Machine) -> None:
    with_vault.mount()
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [str(SERPENTFS), "status", "--watch", "--interval", "0.1"], env=with_vault.environment, stdin=slave,
        stdout=slave, stderr=slave, start_new_session=True,
    )
    os.close(slave)
    shown = b""

    def read_until(what: bytes, times: int = 1) -> None:
        nonlocal shown
        give_up = time.monotonic() + TIMEOUT
        while shown.count(what) < times:
            assert time.monotonic() < give_up, shown
            if select.select([master], [], [], 1)[0]:
                shown += os.read(master, 65536)

    try:
        read_until(b"\x1b[H", 3)    # drawn three times, from the same corner
        assert with_vault.url.encode()[:60] in shown    # a line that is too long is cut
        process.send_signal(signal.SIGINT)
        read_until(b"\x1b[?1049l")    # and the screen is given back
        assert process.wait(timeout=TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_status_tells_clients_cache_and_since_when_the_store_is_gone(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0.05", "--cache-memory", "8M")
    with (with_vault.mountpoint / "file").open("w") as file:
        file.write("content")
        file.flush()
        answer = with_vault.status()
        assert answer["clients"]["mount"]["open_files"] == 1
        assert answer["cache"]["memory_budget"] == 8 << 20
        assert answer["cloud"] == {"state": "online"}
        assert "1 open file" in with_vault.ok("status")
    with_vault.ok("flush", with_vault.url)
    before = time.time()
    with without_store(with_vault):
        (with_vault.mountpoint / "second").write_text("content")
        wait_for(lambda: with_vault.status()["cloud"]["state"] == "offline", "the loss of the store to be noticed")
        answer = with_vault.status()
        assert before - 1 <= answer["cloud"]["since"] <= time.time()
        assert answer["last_error"]["message"]
        wait_for(lambda: any(one["tries"] for one in with_vault.status()["drive"]["pending"]), "an attempt to fail")
        assert re.search(r"offline since \d\d:\d\d:\d\d, for \d+ s", with_vault.ok("status"))
        wait_for(lambda: "next try in" in with_vault.ok("status"), "the next attempt to be told")
        assert re.search(r"last error \d+ s ago: .", with_vault.ok("status"))
        (change,) = with_vault.status()["drive"]["pending"]
        assert change["error"]
        assert change["path"] == "/second"
    with_vault.ok("transfers", "--retry")
    with_vault.ok("flush", with_vault.url)
    assert with_vault.status()["cloud"] == {"state": "online"}


def test_status_tells_progress_speed_connections_and_hits(with_vault: Machine) -> None:
    machine = with_vault
    address = f"127.0.0.1:{free_port()}"
    machine.mount("--settle", "0.05", "--limit-up", "400K", "--webdav", address, "--ftp", f"127.0.0.1:{free_port()}",
                  "--no-auth")
    (machine.mountpoint / "small").write_bytes(os.urandom(100_000))
    machine.ok("flush", machine.url)
    machine.ok("evict", f"{machine.url}#/small")
    client = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        for _ in range(2):    # from the store, then from memory
            client.request("GET", "/small")
            assert len(client.getresponse().read()) == 100_000
        with ftplib.FTP() as session:
            port = int(machine.status()["doors"]["ftp"].rstrip("/").rpartition(":")[2])
            session.connect("127.0.0.1", port, timeout=TIMEOUT)
            session.login()
            answer = machine.status()
        assert answer["clients"] == {
            "mount": {"connections": 0, "open_files": 0},
            "webdav": {"connections": 1, "open_files": 0},
            "ftp": {"connections": 1, "open_files": 0},
        }
        assert 0 < answer["cache"]["hit_rate"] < 1
        assert answer["cache"]["memory_bytes"] > 100_000
        shown = machine.ok("status")
        assert f"webdav   http://{address}/  (1 connection)" in shown
        assert re.search(r"memory \S+ KiB of \S+ MiB, disk .* hits, 1 misses \(\d+%\)", shown)
    finally:
        client.close()
    wait_for(lambda: machine.status()["clients"]["webdav"]["connections"] == 0, "the client to be gone")
    (machine.mountpoint / "large").write_bytes(os.urandom(4_000_000))    # ten seconds
    wait_for(lambda: machine.status()["drive"]["pending"][0]["sent"] > 0 and machine.status()["speed"]["up"] > 0,
             "the upload to be on its way")
    shown = machine.ok("status")
    assert re.search(r"uploads  1 change, \S+ MiB left, about \d+ (s|min) at this speed", shown), shown
    assert re.search(r"sending  \S+ +/large  \S+ \S+ of 3\.8 MiB", shown), shown
    assert re.search(r"speed    up \S+ KiB/s of 400\.0 KiB/s", shown), shown
    assert machine.status()["drive"]["pending"][0]["size"] == 4_000_000
    machine.ok("speedlimit", "up", "off")


def test_status_tells_until_when_the_transfer_quota_is_used_up(machine: Machine) -> None:
    with emulator() as server:
        server.add_account("canary@example.test", ACCOUNT_PASSWORD)
        machine.passphrase_file.write_text(ACCOUNT_PASSWORD + "\n")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        machine.ok("login", "canary@example.test")
        server.add_file("canary@example.test", "film", os.urandom(100_000))
        machine.ok("mount", "mega:", str(machine.mountpoint), "--daemon")
        assert machine.status()["cloud"] == {"state": "online"}
        server.fault("download", "quota", times=1, seconds=3 * 86400)
        with pytest.raises(OSError, match=r"."):
            (machine.mountpoint / "film").read_bytes()
        cloud = machine.status()["cloud"]
        assert cloud["state"] == "over quota"
        assert cloud["until"] == pytest.approx(time.time() + 3 * 86400, abs=TIMEOUT)
        shown = machine.ok("status")
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(cloud["until"]))
        assert f"over quota until {until}, for " in shown
        machine.ok("umount", str(machine.mountpoint))


def test_transfers_are_paused_and_go_on(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0.05")
    assert with_vault.ok("transfers").endswith(": nothing to upload\n")
    assert with_vault.ok("transfers", with_vault.url, "--pause").endswith(": nothing to upload, paused\n")
    (with_vault.mountpoint / "file").write_bytes(bytes(300_000))
    (paused,) = json.loads(with_vault.ok("transfers", "--json"))
    assert paused["paused"] is True
    assert {one["path"] for one in paused["transfers"]} == {"/file"}
    assert all(one["state"] != "sending" for one in paused["transfers"])
    # Nobody waits for what does not move, and nothing is lost: it goes up at the next start.
    flushed = with_vault.run("flush", with_vault.url)
    assert flushed.returncode == 14
    assert "not uploaded" in flushed.stderr
    assert "paused" in with_vault.ok("status")
    with_vault.ok("transfers", "--resume")
    with_vault.ok("flush", with_vault.url)
    (done,) = json.loads(with_vault.ok("transfers", "--json"))
    assert done == {**done, "paused": False, "transfers": []}


def test_umount_while_paused_leaves_changes_to_the_next_start(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0.05")
    with_vault.ok("transfers", "--pause")
    (with_vault.mountpoint / "file").write_text("content")
    assert with_vault.run("umount", str(with_vault.mountpoint)).returncode == 14
    with_vault.wait_until_gone()
    with_vault.ok("flush", with_vault.url)
    assert with_vault.ok("ls", with_vault.url) == "file\n"


def test_speed_limits_hold_and_change_while_it_runs(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0.05", "--limit-up", "100K")
    assert "up 100.0 KiB/s, down unlimited" in with_vault.ok("speedlimit")
    (with_vault.mountpoint / "file").write_bytes(bytes(4_000_000))    # forty seconds
    wait_for(lambda: with_vault.status()["drive"]["pending"][0]["state"] == "sending", "the upload to begin")
    wait_for(lambda: with_vault.status()["speed"]["up"] > 0, "the speed to be told")
    assert with_vault.status()["drive"]["pending"]
    assert "up unlimited" in with_vault.ok("speedlimit", "up", "0", with_vault.url)
    began = time.monotonic()
    with_vault.ok("flush", with_vault.url)
    assert time.monotonic() - began < 20
    assert "down 2.0 MiB/s" in with_vault.ok("speedlimit", "down", "2M")
    (answer,) = json.loads(with_vault.ok("speedlimit", "--json"))
    assert (answer["up"], answer["down"]) == (None, 2 << 20)


def test_nothing_to_turn(with_vault: Machine) -> None:
    assert with_vault.ok("transfers") == "nothing is running\n"
    assert with_vault.ok("speedlimit") == "nothing is running\n"
    assert with_vault.ok("stats") == "nothing is running\n"
    nobody = ["transfers --pause", "speedlimit up 2M", "log URL", "stats URL", "status --watch URL"]
    wrong = [
        "speedlimit sideways 2M", "speedlimit up fast", "log URL CHATTY", "transfers --pause --resume",
        "status --watch --interval 0", "webdav URL --no-auth --metrics 0.0.0.0:9464",
        "webdav URL --no-auth --metrics example.org:9464",
    ]
    for code, lines in ((4, nobody), (2, wrong)):
        for line in lines:
            with_vault.fails(code, *line.replace("URL", with_vault.url).split())


def fetched(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_count_and_are_served_on_this_machine(with_vault: Machine) -> None:
    with_vault.mount("--settle", "0.05", "--metrics", "127.0.0.1:0")
    (with_vault.mountpoint / NAME).write_bytes(bytes(300_000))
    with_vault.ok("flush", with_vault.url)
    url = with_vault.status()["metrics"]
    code, page = fetched(url)
    assert code == 200
    told = samples(with_vault)
    assert told["writes_total{door=\"mount\"}"] >= 1
    assert told["written_bytes_total{door=\"mount\"}"] == 300_000
    assert told["uploads_total{}"] == 1
    assert told["cloud_bytes_total{direction=\"up\"}"] == 300_000
    assert told["cloud_calls_total{kind=\"put\",outcome=\"ok\"}"] == 1
    assert told["cloud_call_seconds_count{kind=\"put\"}"] == 1
    assert told["cloud_call_seconds_bucket{kind=\"put\",le=\"+Inf\"}"] == 1
    assert told["pending_changes{}"] == 0
    with_vault.ok("evict", f"{with_vault.url}#/")
    with_vault.ok("warm", f"{with_vault.url}#/")
    assert samples(with_vault)["cache_blocks_total{layer=\"cloud\"}"] == 3    # blocks of 128 KiB
    # Every family has its head once, before its samples; no name of a file is told.
    heads = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) > 20
    assert NAME not in page
    assert fetched(url + "?x=1")[0] == 200
    assert fetched(url.replace("/metrics", "/"))[0] == 404
    assert fetched(url, Host="attacker.example")[0] == 421
    assert {one["name"] for one in json.loads(with_vault.ok("stats", "--json"))} >= {"serpentfs_uploads_total"}
    assert "uploads_total" in with_vault.ok("stats", with_vault.url)
    dashboard = (Path(__file__).parents[3] / "packaging" / "grafana" / "serpentfs.json").read_text()
    used = set(re.findall(r"serpentfs_\w+", dashboard))
    assert used
    assert {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in used} <= set(heads)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


def curl(*words: str) -> str:
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "30", *words], check=True, capture_output=True, text=True,
        timeout=TIMEOUT,
    ).stdout


@needs_curl
def test_metrics_by_curl_from_an_address_of_the_configuration(with_vault: Machine) -> None:
    machine = with_vault
    config = machine.home / "config" / "serpentfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[remote.work]\nurl = "{machine.url}"\nmetrics = "127.0.0.1:0"\n')
    machine.ok("mount", "work:", str(machine.mountpoint), "--daemon")
    url = machine.status()["metrics"]
    assert f"metrics  {url}" in machine.ok("status")
    page = curl("--include", url)
    assert page.startswith("HTTP/1.1 200 OK")
    assert "text/plain; version=0.0.4" in page
    assert re.search(r"^serpentfs_cloud_online\{[^}]*\} 1$", page, re.MULTILINE)
    assert re.search(r"^# HELP serpentfs_pending_changes \S", page, re.MULTILINE)
    assert curl("--head", url).startswith("HTTP/1.1 200 OK")
    assert curl("--include", "--data", "x=1", url).startswith("HTTP/1.1 405 ")
    config.write_text(f'[remote.work]\nurl = "{machine.url}"\nmetrics = "0.0.0.0:0"\n')
    machine.ok("umount", str(machine.mountpoint))
    machine.wait_until_gone()
    assert "--public" in machine.fails(2, "mount", "work:", str(machine.mountpoint))
    machine.ok("mount", "work:", str(machine.mountpoint), "--daemon", "--public")
    port = machine.status()["metrics"].rpartition(":")[2]
    assert "serpentfs_info" in curl("--header", "Host: nas.example", f"http://127.0.0.1:{port}")


def test_the_level_of_the_log_changes_while_it_runs(with_vault: Machine) -> None:
    log = with_vault.home / "log"
    with_vault.mount("--log-file", str(log))
    assert with_vault.ok("log", with_vault.url) == "INFO\n"
    (with_vault.mountpoint / "one").write_text("content")
    assert " MAX_VERBOSE " not in log.read_text()
    assert with_vault.ok("log", with_vault.url, "max_verbose") == "MAX_VERBOSE (was INFO)\n"
    (with_vault.mountpoint / "two").write_text("content")
    assert re.search(r" MAX_VERBOSE serpentfs\.gateways\.fuse\.operations: \[mount-\w+\] create", log.read_text())


def test_a_cloud_call_names_the_request_of_the_door_that_it_is_for(with_vault: Machine) -> None:
    with_vault.mount()
    (with_vault.mountpoint / "file").write_bytes(bytes(10_000))
    with_vault.ok("umount", str(with_vault.mountpoint))
    with_vault.wait_until_gone()
    log = with_vault.home / "log"
    with_vault.mount("--log-file", str(log), "--log-format", "json", "--log-level", "MAX_VERBOSE", "--cache-disk", "0")
    assert len((with_vault.mountpoint / "file").read_bytes()) == 10_000
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (call,) = (one for one in records if one["message"].startswith("read: ok"))
    asked = [one for one in records if one.get("request") == call["request"] and one is not call]
    assert [one["message"] for one in asked] == ["read"]
    assert asked[0]["logger"] == "serpentfs.gateways.fuse.operations"


def test_no_secret_and_no_name_is_in_a_log_at_info(with_vault: Machine) -> None:
    """A session with every fault that is easily made: a wrong password, a damaged file, a store that goes away."""
    machine = with_vault
    password = machine.home / "doors.password"
    password.touch(0o600)
    password.write_text(DOOR_PASSWORD)
    address = f"127.0.0.1:{free_port()}"
    log = machine.home / "log"
    machine.mount(
        "--settle", "0.05", "--webdav", address, "--user", "me", "--pass-file", str(password), "--log-file", str(log),
        "--log-level", "INFO",
    )
    (machine.mountpoint / NAME).write_bytes(os.urandom(200_000))
    machine.ok("flush", machine.url)
    machine.ok("evict", f"{machine.url}#/")
    (damaged,) = (path for path in machine.vault.rglob("*.c9r") if path.is_file() and path.stat().st_size > 100_000)
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    machine.ok("refresh", f"{machine.url}#/")

    def dav(secret: str) -> int:
        login = base64.b64encode(f"me:{secret}".encode()).decode()
        return fetched(f"http://{address}/{NAME}", Authorization=f"Basic {login}")[0]

    assert dav("not-" + DOOR_PASSWORD) == 401
    with contextlib.suppress(OSError):
        dav(DOOR_PASSWORD)    # a status that tells of the damage, or a body that breaks off
    with pytest.raises(OSError, match="Input/output"):
        (machine.mountpoint / NAME).read_bytes()
    told = machine.run("verify", f"{machine.url}#/")
    assert told.returncode == 7
    assert f"damaged: /{NAME}: " in told.stdout
    with without_store(machine):
        (machine.mountpoint / f"second-{NAME}").write_text("content")
        wait_for(lambda: machine.status()["cloud"]["state"] == "offline", "the loss of the store to be noticed")
    machine.ok("flush", machine.url)
    machine.ok("umount", str(machine.mountpoint))
    machine.wait_until_gone()
    text = log.read_text()
    assert "ERROR" in text    # the damage is told
    for canary in (PASSPHRASE, DOOR_PASSWORD, "canary"):
        assert canary not in text.replace(str(machine.home), "")


def test_no_session_id_is_in_any_log(machine: Machine) -> None:
    """A MEGA account whose server goes away and comes back, logged with all there is to say."""
    with emulator() as server:
        server.add_account("canary@example.test", ACCOUNT_PASSWORD)
        machine.passphrase_file.write_text(ACCOUNT_PASSWORD + "\n")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        machine.ok("login", "canary@example.test")
        session = machine.ok("session", "--show").strip()
        log = machine.home / "log"
        words = ("mount", "mega:", str(machine.mountpoint), "--daemon", "--settle", "0.05")
        machine.ok(*words, "--log-file", str(log), "--log-level", "MAX_VERBOSE")
        (machine.mountpoint / NAME).write_bytes(bytes(1000))
        machine.ok("flush", "mega:")
    (machine.mountpoint / "second").write_text("content")    # and there is no server any more
    wait_for(lambda: any(one["tries"] for one in machine.status()["drive"]["pending"]), "an attempt to fail")
    machine.run("umount", "--now", str(machine.mountpoint))
    machine.wait_until_gone()
    text = log.read_text()
    assert " MAX_VERBOSE " in text
    sid = base64.urlsafe_b64encode(base64.urlsafe_b64decode(session + "=" * (-len(session) % 4))[-43:]).decode()[:57]
    for secret in (session, sid, ACCOUNT_PASSWORD):
        assert secret not in text
    assert not re.search(r"sid=(?!\*\*\*)", text)
