"""Users and rights of WebDAV and FTP from config.toml and htpasswd files, read again when they change; and TLS."""

from __future__ import annotations

import base64
import ftplib
import hashlib
import io
import os
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from serpentfs.password_hashes import hash_password
from tests.e2e.cli.conftest import TIMEOUT, Machine, wait_for
from tests.unit.access.test_access import write_certificate

PASSWORD, OTHER = "canary-door-8823", "canary-door-9934"


def sha(password: str) -> str:
    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()


def replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    os.replace(fresh, path)


def config_file(machine: Machine) -> Path:
    return machine.home / "config" / "serpentfs" / "config.toml"


def http(
    method: str, url: str, user: str, password: str = PASSWORD, body: bytes | None = None
) -> tuple[int, bytes]:
    """Status and body."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(url, body, {"Authorization": f"Basic {login}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def started(machine: Machine, *words: str) -> list[str]:
    """The addresses of the doors of a command in the foreground."""
    process = machine.start(*words)
    assert process.stdout is not None
    return [process.stdout.readline().rpartition(" ")[2].strip() for word in words if word == "127.0.0.1:0"]


TABLES = """\
[webdav.users.anna]
password-hash = "{hash}"
root = "/Photos"

[webdav.users.guest]
password-hash = "{hash}"
root = "/Photos/2026"
read-only = true

[ftp.users.bert]
password-hash = "{hash}"
root = "/Photos"
read-only = true
"""


@pytest.fixture
def doors(with_vault: Machine) -> tuple[Machine, str, int]:
    replace(config_file(with_vault), TABLES.format(hash=hash_password(PASSWORD)))
    (with_vault.home / "in").mkdir()
    dav, ftp = started(
        with_vault, "webdav", with_vault.url, "--listen", "127.0.0.1:0", "--ftp", "127.0.0.1:0", "--settle", "0",
    )
    return with_vault, dav, int(ftp.rstrip("/").rpartition(":")[2])


def test_each_user_has_a_root_and_rights(doors: tuple[Machine, str, int]) -> None:
    machine, dav, port = doors
    # The folder of users must exist: nobody with the whole drive is configured, so it is made by another command.
    assert http("PROPFIND", dav, "anna")[0] == 404
    machine.ok("mkdir", f"{machine.url}#/Photos")
    assert http("MKCOL", dav + "2026", "anna")[0] == 201
    assert http("PUT", dav + "2026/a.txt", "anna", body=b"content")[0] == 201
    assert http("GET", dav + "a.txt", "guest") == (200, b"content")
    assert http("PUT", dav + "b.txt", "guest", body=b"x")[0] == 403
    assert http("DELETE", dav + "a.txt", "guest")[0] == 403
    assert http("GET", dav + "../2026/a.txt", "guest")[0] in (400, 404)
    assert http("GET", dav + "2026/a.txt", "guest")[0] == 404    # above the guest's root
    assert http("GET", dav + "2026/a.txt", "anna", OTHER)[0] == 401
    assert http("GET", dav + "2026/a.txt", "bert")[0] == 401     # a user of FTP
    with ftplib.FTP() as client:
        client.connect("127.0.0.1", port, timeout=TIMEOUT)
        with pytest.raises(ftplib.error_perm, match="530"):
            client.login("anna", PASSWORD)
        client.login("bert", PASSWORD)
        assert client.nlst() == ["2026"]
        found: list[bytes] = []
        client.retrbinary("RETR /2026/a.txt", found.append)
        assert b"".join(found) == b"content"
        with pytest.raises(ftplib.error_perm, match="550"):
            client.storbinary("STOR new", io.BytesIO(b"x"))
        client.cwd("/../..")
        assert client.pwd() == "/"


def test_users_change_while_doors_are_open(doors: tuple[Machine, str, int]) -> None:
    machine, dav, port = doors
    machine.ok("mkdir", f"{machine.url}#/Photos")
    assert http("PUT", dav + "a", "anna", body=b"x")[0] == 201
    table = f'[webdav.users.anna]\npassword-hash = "{sha(OTHER)}"\nread-only = true\n[ftp.users.carl]\npassword-hash = '
    replace(config_file(machine), f'{table}"{sha(OTHER)}"\n')
    wait_for(lambda: http("PROPFIND", dav, "anna")[0] == 401, "the old password to end")
    assert http("PUT", dav + "b", "anna", OTHER, b"x")[0] == 403
    assert http("GET", dav + "Photos/a", "anna", OTHER) == (200, b"x")    # the whole drive now

    def can_log_in() -> bool:
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", port, timeout=TIMEOUT)
            try:
                return client.login("carl", OTHER).startswith("230")
            except ftplib.error_perm:
                return False

    wait_for(can_log_in, "the new user of FTP")


def test_an_htpasswd_file(with_vault: Machine) -> None:
    file = with_vault.home / "users"
    replace(file, f"anna:{sha(PASSWORD)}\n")
    (dav,) = started(
        with_vault, "webdav", with_vault.url, "--listen", "127.0.0.1:0", "--htpasswd-file", str(file), "--settle", "0"
    )
    assert http("PUT", dav + "a", "anna", body=b"x")[0] == 201
    assert http("GET", dav + "a", "bob")[0] == 401
    replace(file, f"bob:{sha(PASSWORD)}\n")
    wait_for(lambda: http("GET", dav + "a", "bob") == (200, b"x"), "the new user")
    assert http("GET", dav + "a", "anna")[0] == 401


def test_a_new_certificate(with_vault: Machine) -> None:
    (with_vault.home / "new").mkdir()
    files = write_certificate(with_vault.home, "localhost")
    new = write_certificate(with_vault.home / "new", "localhost")
    replace(
        config_file(with_vault),
        f'[webdav]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\nlisten = "127.0.0.1:0"\n',
    )
    process = with_vault.start("webdav", with_vault.url, "--no-auth")
    assert process.stdout is not None
    address = process.stdout.readline().rpartition(" ")[2].strip()
    assert address.startswith("https://127.0.0.1:")
    port = int(address.rstrip("/").rpartition(":")[2])

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT)

    assert shown() == files.certificate.read_text()
    expected = new.certificate.read_text()
    shutil.move(new.key, files.key)
    shutil.move(new.certificate, files.certificate)
    wait_for(lambda: shown() == expected, "the new certificate")


@pytest.mark.parametrize(("config", "words", "message"), [
    ("", (), "a network door needs --user NAME and --pass-file FILE (or --htpasswd-file FILE, or users in"),
    ("", ("--htpasswd-file", "nothing"), "cannot read"),
    ("", ("--htpasswd-file", "nothing", "--user", "anna"), "--htpasswd-file has the users"),
    ("", ("--no-auth", "--htpasswd-file", "nothing"), "does not go together with --htpasswd-file"),
    ("[webdav.users.anna]\n", (), 'has no "password-hash"'),
    ('[webdav.users.anna]\npassword-hash = "plain"\n', (), 'config.toml:2: "password-hash" in [webdav.users.anna]'),
    ('[webdav.users.anna]\nrot = "/"\n', (), 'did you mean "root"'),
    ('[webdav.users.anna]\nroot = "a/../b"\n', (), "must be a folder of the drive"),
    ('[webdav]\ncertificate = "c"\n', ("--no-auth",), 'has "certificate" and no "key"'),
    ('[webdav]\nlisten = "here"\n', ("--no-auth",), 'config.toml:2: "listen" in [webdav] must be HOST:PORT'),
    ('[webdav]\ndata-ports = "1-2"\n', ("--no-auth",), 'unknown key "data-ports"'),
])
def test_wrong_uses(with_vault: Machine, config: str, words: tuple[str, ...], message: str) -> None:
    replace(config_file(with_vault), config)
    assert message in with_vault.fails(2, "webdav", with_vault.url, "--listen", "127.0.0.1:0", *words)


def test_what_is_typed_is_above_the_environment(with_vault: Machine) -> None:
    with_vault.extra_environment |= {"SERPENTFS_NO_AUTH": "true"}
    secret = with_vault.home / "door"
    secret.touch(0o600)
    secret.write_text(PASSWORD)
    (dav,) = started(
        with_vault, "webdav", with_vault.url, "--listen", "127.0.0.1:0", "--user", "anna", "--pass-file", str(secret)
    )
    assert http("OPTIONS", dav, "bob")[0] == 401
    assert http("OPTIONS", dav, "anna")[0] == 200
