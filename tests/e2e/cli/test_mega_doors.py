"""A MEGA account through the FTP and the WebDAV door, by programs of others; what arrives is told by the server and by
rclone, which reads it without us.
"""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from serpentfs.clouds.mega.fingerprint import unpack_fingerprint
from tests import mega_clients
from tests.e2e.cli.conftest import TIMEOUT, wait_for
from tests.e2e.cli.test_mega import PASSWORD, Account, account, server  # noqa: F401 - the last two are fixtures
from tests.mounted import free_port

USER, DOOR_PASSWORD = "me", "canary-door-password-5512"
BIG = os.urandom(3 * 2**20 + 17)
TREE = {"empty": b"", "a/ünïcode [1] #%41.txt": b"x" * 10_000, "a/b c/big.bin": BIG, "a/b c/small": b"small"}
TIME = 1_500_000_000


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def open_door(account: Account, kind: str) -> str:
    """Log in and serve; the address as a URL."""
    account.log_in()
    return serve(account, kind)


def serve(account: Account, kind: str) -> str:
    password = account.machine.home / "doors"
    password.touch(0o600)
    password.write_text(DOOR_PASSWORD)
    address = f"127.0.0.1:{free_port()}"
    account.machine.ok(
        kind, "mega:", "--daemon", "--listen", address, "--user", USER, "--pass-file", str(password)
    )
    return f"{'http' if kind == 'webdav' else kind}://{address}/"


def close_door(account: Account) -> None:
    """With everything uploaded."""
    account.machine.ok("umount", "mega:")
    account.machine.wait_until_gone()


def make_tree(folder: Path) -> Path:
    for path, content in TREE.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        os.utime(folder / path, (TIME, TIME))
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told_by_server(account: Account) -> dict[str, int | None]:
    """The cloud drive, old versions aside: sizes, None for folders."""
    tree = account.server.tree(account.email)
    return {
        entry.path.removeprefix("/"): None if entry.is_folder else entry.size
        for entry in tree if not entry.path.startswith("//") and not entry.is_version
    }  # fmt: skip


def read_by_rclone(account: Account, folder: str, names: list[str]) -> dict[str, bytes]:
    if mega_clients.Rclone.missing() is not None:
        pytest.skip(str(mega_clients.Rclone.missing()))
    server, work = account.server, account.machine.home
    (target := work / "read by rclone").mkdir()
    known = mega_clients.Account(server.url, server.ca_file, account.email, PASSWORD)
    with mega_clients.Rclone(known, work / "rclone") as rclone:
        rclone.download_all(folder, names, target)
    return files_below(target)


def run(*command: str, cwd: Path, given: str = "") -> str:
    done = subprocess.run(
        command, cwd=cwd, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
        env={**os.environ, "HOME": str(cwd), "LC_ALL": "C.UTF-8"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def curl(tmp_path: Path) -> Callable[..., str]:
    """Run curl with the password of the door; what it printed."""
    (tmp_path / "netrc").touch(0o600)
    (tmp_path / "netrc").write_text(f"default login {USER} password {DOOR_PASSWORD}\n")

    def call(*arguments: str) -> str:
        netrc = ["--netrc-file", str(tmp_path / "netrc")]
        return run("curl", "-sS", "--fail", "--max-time", "60", *netrc, *arguments, cwd=tmp_path)

    return call


# FTP


@needs("lftp")
def test_lftp(account: Account, tmp_path: Path) -> None:
    source, back = make_tree(tmp_path / "source"), tmp_path / "back"
    (tmp_path / ".netrc").touch(0o600)
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {DOOR_PASSWORD}\n")
    url = open_door(account, "ftp")

    def lftp(commands: str) -> str:
        settings = "set cmd:fail-exit yes; set ftp:ssl-allow no; set net:max-retries 2; set net:timeout 30;"
        return run("lftp", "-c", f"{settings} open {url.replace('//', f'//{USER}@')}; {commands}", cwd=tmp_path)

    lftp(f"mirror -R --parallel=3 {source} uploaded")
    assert sorted(lftp("cls -1 --sort=name uploaded").split()) == ["uploaded/a/", "uploaded/empty"]
    lftp(f"mirror --parallel=3 uploaded {back}")
    assert files_below(back) == TREE
    assert all(int((back / path).stat().st_mtime) == TIME for path in TREE)
    lftp("mv 'uploaded/a/b c/big.bin' renamed; mkdir made; mv uploaded/empty made/empty")
    lftp("rm 'uploaded/a/b c/small'; rmdir 'uploaded/a/b c'")
    close_door(account)

    assert told_by_server(account) == {
        "uploaded": None, "uploaded/a": None, "uploaded/a/ünïcode [1] #%41.txt": 10_000, "renamed": len(BIG),
        "made": None, "made/empty": 0,
    }  # fmt: skip
    for entry in account.server.tree(account.email):
        if not entry.is_folder and not entry.is_version:
            fingerprint = unpack_fingerprint(str(entry.attributes["c"]))
            assert fingerprint is not None
            assert fingerprint[1] == TIME, entry.path
    assert read_by_rclone(account, "", ["renamed"]) == {"renamed": BIG}


@needs("curl")
def test_curl_over_ftp(account: Account, tmp_path: Path, curl: Callable[..., str]) -> None:
    local = tmp_path / "local"
    local.write_bytes(BIG)
    url = open_door(account, "ftp")
    curl("-T", str(local), "--ftp-create-dirs", f"{url}folder/file")
    assert curl("-l", f"{url}folder/").split() == ["file"]
    curl("-o", str(tmp_path / "whole"), f"{url}folder/file")
    assert (tmp_path / "whole").read_bytes() == BIG
    # A part that is there already is not sent again, up or down.
    (tmp_path / "part").write_bytes(BIG[:1_000_000])
    curl("-C", "-", "-o", str(tmp_path / "part"), f"{url}folder/file")
    assert (tmp_path / "part").read_bytes() == BIG
    curl(url, "-Q", "RNFR folder/file", "-Q", "RNTO folder/renamed")
    local.write_bytes(b"saved over")
    curl("-T", str(local), f"{url}folder/renamed")
    curl("-T", str(local), f"{url}gone")
    curl(url, "-Q", "DELE gone")
    close_door(account)
    assert told_by_server(account) == {"folder": None, "folder/renamed": len(b"saved over")}
    assert read_by_rclone(account, "folder", ["renamed"]) == {"renamed": b"saved over"}


# WebDAV

_ASK = '<propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>'


@needs("curl")
def test_curl_over_webdav(account: Account, tmp_path: Path, curl: Callable[..., str]) -> None:
    local = tmp_path / "local"
    local.write_bytes(BIG)
    url = open_door(account, "webdav")
    curl("-X", "MKCOL", f"{url}folder")
    curl("-T", str(local), f"{url}folder/file")
    curl("-o", str(tmp_path / "whole"), f"{url}folder/file")
    assert (tmp_path / "whole").read_bytes() == BIG
    curl("-r", "1000000-1000099", "-o", str(tmp_path / "part"), f"{url}folder/file")
    assert (tmp_path / "part").read_bytes() == BIG[1_000_000:1_000_100]
    curl("-X", "MOVE", "-H", f"Destination: {url}folder/moved", f"{url}folder/file")
    curl("-X", "COPY", "-H", f"Destination: {url}copied", f"{url}folder/moved")
    curl("-T", str(local), f"{url}gone")
    curl("-X", "DELETE", f"{url}gone")
    close_door(account)
    assert told_by_server(account) == {"folder": None, "folder/moved": len(BIG), "copied": len(BIG)}
    assert read_by_rclone(account, "folder", ["moved"]) == {"moved": BIG}


@needs("curl")
def test_the_quota_is_the_accounts(account: Account, tmp_path: Path, curl: Callable[..., str]) -> None:
    account.server.set_account(account.email, quota=10**9)
    account.server.add_file(account.email, "there before", b"x" * 1000)
    local = tmp_path / "local"
    local.write_bytes(BIG)

    def quota(url: str) -> dict[str, int]:
        told = curl("-X", "PROPFIND", "-H", "Depth: 0", "-d", _ASK, url)
        return {name: int(number) for name, number in re.findall(r":quota-([a-z]+)-bytes>(\d+)<", told)}

    url = open_door(account, "webdav")
    assert quota(url) == {"available": 10**9 - 1000, "used": 1000}
    curl("-T", str(local), f"{url}file")
    account.machine.ok("flush", "mega:")
    after = {"available": 10**9 - 1000 - len(BIG), "used": 1000 + len(BIG)}
    wait_for(lambda: quota(url) == after, "the room to be told", timeout=20)


@needs("cadaver")
def test_cadaver(account: Account, tmp_path: Path) -> None:
    local = tmp_path / "local file.txt"
    local.write_bytes(b"from cadaver\n" * 1000)
    (tmp_path / ".netrc").touch(0o600)
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {DOOR_PASSWORD}\n")
    url = open_door(account, "webdav")
    script = """\
mkcol folder
cd folder
put "local file.txt"
copy "local file.txt" copied
move copied moved
ls
get moved fetched
delete "local file.txt"
quit
"""
    said = run("cadaver", url, cwd=tmp_path, given=script)
    assert "failed" not in said.lower(), said
    assert (tmp_path / "fetched").read_bytes() == local.read_bytes()
    close_door(account)
    assert told_by_server(account) == {"folder": None, "folder/moved": local.stat().st_size}
    assert read_by_rclone(account, "folder", ["moved"]) == {"moved": local.read_bytes()}
