"""Months' worth of what comes back again and again while a process runs: the log is rotated every hour, users,
certificates and folders are read anew. Nothing grows with it."""

from __future__ import annotations

import base64
import gc
import hashlib
import itertools
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serpentfs import logs
from serpentfs.gateways import watching
from serpentfs.gateways.access import ServerOptions, TlsFiles, UserFiles, server_tls_context
from serpentfs.gateways.accounts import Accounts
from serpentfs.model import ROOT_INO
from tests.drives import a_drive, exists, until, write
from tests.fakes.memory_cloud import MemoryCloud
from tests.rounds import rounds
from tests.unit.access.test_access import write_certificate

DAYS = rounds(60, 365)
HOURS = DAYS * 24
_SLACK = rounds(4, 6) << 20
"""Bytes by which a process may be larger afterwards: the allocator's whims, far below what a leak would be."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def without_growth(times: int) -> Iterator[int]:
    """So many rounds. The first tenth may take what is taken once; after the others the process is as large as then."""
    before = size = 0
    for number in range(times):
        if number == times // 10:
            before, size = descriptors(), resident()
        yield number
    assert descriptors() <= before + 2    # SQLite opens and closes some of its own
    assert resident() <= size + _SLACK


@pytest.fixture
def every_look(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files are looked at each time, and not once a second. Of what is logged then, pytest would keep every record."""
    monkeypatch.setattr(watching, "_LOOK_EVERY", 0.0)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


_seconds = itertools.count(1_700_000_000)


def replace(path: Path, content: bytes) -> None:
    """Seconds pass between one change and the next."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    now = next(_seconds)
    os.utime(fresh, (now, now))
    fresh.replace(path)


def sha(password: str) -> str:
    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()


@pytest.mark.usefixtures("restored_logging")
def test_an_hourly_rotation_of_the_log(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    logs.configure(1, log)
    logger = logging.getLogger("serpentfs.daemon")
    umask = os.umask(0)
    try:
        for number in without_growth(HOURS):
            logger.info("begins %d", number)
            log.replace(old)
            if number % 2:
                logs.reopen()    # SIGHUP from logrotate; else the next line finds out
            logger.info("ends %d", number)
            if number % 100 == 0:
                assert stat.S_IMODE(log.stat().st_mode) == 0o600
            lines = old.read_text().splitlines()
            assert lines[-1].endswith(f"begins {number}")
            assert len(lines) == (2 if number else 1)    # none is lost
        assert len(log.read_text().splitlines()) == 1
        assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    finally:
        os.umask(umask)


@pytest.mark.usefixtures("restored_logging")
def test_a_log_that_cannot_be_made_anew_goes_on_in_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    logs.configure(1, folder / "log")
    folder.rename(tmp_path / "moved")
    for number in range(100):
        logging.getLogger("serpentfs.daemon").info("line %d", number)
    assert len((tmp_path / "moved" / "log").read_text().splitlines()) == 100
    folder.mkdir()
    logging.getLogger("serpentfs.daemon").info("back")
    assert (folder / "log").read_text().endswith("back\n")


def test_output_of_a_daemon_follows_its_log(tmp_path: Path) -> None:
    """Its standard error is the log file: after a rotation that must not hold the old one, nor write to it."""
    code = (
        "import os, sys; from pathlib import Path; from serpentfs import logs\n"
        "log = Path(sys.argv[1]); file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND); os.dup2(file, 2)\n"
        "os.close(file); logs.configure(1, log)\n"
        "for _ in range(3): log.rename(log.with_name('log.1')); logs.reopen(); print('told', file=sys.stderr)\n"
        "print(os.readlink('/proc/self/fd/2'))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{tmp_path / 'log'}\n"
    assert (tmp_path / "log").read_text() == (tmp_path / "log.1").read_text() == "told\n"


@pytest.mark.usefixtures("every_look")
def test_users_of_an_htpasswd_file_change_eight_times_a_day(tmp_path: Path) -> None:
    users = tmp_path / "users"
    replace(users, f"anna:{sha('-1')}\n".encode())
    accounts = Accounts(ServerOptions("127.0.0.1", 0, user_files=UserFiles(None, "webdav", users)))
    for number in without_growth(HOURS // 3):
        replace(users, f"anna:{sha(str(number))}\nbert:{sha('b')}\n".encode())
        assert accounts.check("anna", str(number)) is not None
        assert accounts.check("anna", str(number - 1)) is None


@pytest.mark.usefixtures("every_look")
def test_users_of_the_configuration_change_three_times_a_day(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    def write(number: int) -> None:
        table = f'[webdav.users.anna]\npassword-hash = "{sha(str(number))}"\nread-only = true\n'
        replace(file, table.encode())

    write(0)
    accounts = Accounts(ServerOptions("127.0.0.1", 0, user_files=UserFiles(file, "webdav")))
    for number in without_growth(3 * DAYS):
        write(number)
        rights = accounts.check("anna", str(number))
        assert rights is not None
        assert rights.read_only


@pytest.mark.usefixtures("every_look")
def test_a_new_certificate_three_times_a_day(tmp_path: Path) -> None:
    """Short-lived ones are renewed that often; the certificate is there before its key."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = write_certificate(tmp_path / name, "localhost")
        made.append((files.certificate.read_bytes(), files.key.read_bytes()))
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    replace(files.certificate, made[1][0])
    replace(files.key, made[1][1])
    watched = watching.watched_tls(files, server_tls_context)
    for number in without_growth(3 * DAYS):
        in_force = watched.value()
        certificate, key = made[number % 2]
        replace(files.certificate, certificate)
        assert watched.value() is in_force    # of no use without its key
        replace(files.key, key)
        assert watched.value() is not in_force
    assert watched.generation == 3 * DAYS


@pytest.mark.trio
async def test_folders_listed_anew_every_hour(tmp_path: Path) -> None:
    """And somebody else makes and removes a file each time; once a week everything is fetched anew."""
    cloud = MemoryCloud()
    async with a_drive(cloud, tmp_path) as drive:
        await write(drive, "/kept", b"content")
        await until(lambda: not drive.status().pending)
        for number in without_growth(HOURS):
            cloud.external_put(f"/{number}", b"x")
            await drive.refresh(ROOT_INO)
            assert exists(drive, f"/{number}")
            cloud.external_remove(f"/{number}")
            await drive.refresh(ROOT_INO)
            assert not exists(drive, f"/{number}")
            if number % (7 * 24) == 0:
                await drive.reload()
        assert exists(drive, "/kept")
