"""``proxy``: what it writes down, and that accounts and buckets are reached that way."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import Machine, needs_fuse, needs_root
from tests.e2e.cli.test_mega import Account, account, leaks, server  # noqa: F401 - fixtures, too
from tests.fakes.s3_server import S3Server
from tests.mega_emulator import Emulator
from tests.mounted import free_port

PASSWORD = "canary-proxy-p@ss:word"


class RecordingProxy:
    """Hands everything on to one port of this machine, whatever host is asked for; wants ``password`` of me."""

    def __init__(self, target: int, password: str | None = None) -> None:
        self.target = target
        self.asked: list[str] = []
        """First lines of requests."""
        self._wanted = None if password is None else base64.b64encode(f"me:{password}".encode()).decode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            first, headers, rest = _read_head(client)
            self.asked.append(first)
            said = [line.split()[-1] for line in headers if line.lower().startswith("proxy-authorization: basic ")]
            if self._wanted is not None and said != [self._wanted]:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self.target)) as upstream:
                self._sockets.append(upstream)
                if first.startswith("CONNECT "):
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    method, url, version = first.split()
                    path = "/" + url.split("/", 3)[3]
                    kept = [line for line in headers if not line.lower().startswith(("proxy-", "connection:"))]
                    head = "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""])
                    upstream.sendall(head.encode("latin-1") + rest)
                    # One request for each connection: the answer says so.
                    status, headers, rest = _read_head(upstream)
                    head = "\r\n".join([status, *headers, "Connection: close", "", ""])
                    client.sendall(head.encode("latin-1") + rest)
                back = threading.Thread(target=_pump, args=(upstream, client), daemon=True)
                back.start()
                _pump(client, upstream)
                back.join(timeout=30)


def _read_head(source: socket.socket) -> tuple[str, list[str], bytes]:
    """The first line, the headers, and what came after them. OSError when it does not come."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = source.recv(65536)
        if not part:
            raise ConnectionResetError
        head += part
    lines, _, rest = head.partition(b"\r\n\r\n")
    first, *headers = lines.decode("latin-1").split("\r\n")
    return first, headers, rest


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def tls_proxy(account: Account, server: Emulator) -> Iterator[RecordingProxy]:
    """In front of the account's service under its real name, which is nowhere else to be had."""
    made = RecordingProxy(server.tls_port, PASSWORD)
    del account.machine.extra_environment["SERPENTFS_MEGA_API"]
    account.machine.extra_environment["SSL_CERT_FILE"] = str(server.ca_file)
    yield made
    made.close()


@pytest.fixture
def configured(machine: Machine) -> Path:
    """A config.toml that somebody wrote."""
    path = machine.home / "config" / "serpentfs" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# mine\n\n[remote.one]   # first\nurl = \"vault+s3://bucket/one?region=r\"\nsettle = 2\n\n# the second\n"
        "[remote.two]\nurl = \"vault+s3://bucket/two?region=r\"\n"
    )
    return path


def shown(machine: Machine, *words: str) -> dict[str | None, str]:
    return {row["remote"]: row["proxy"] for row in json.loads(machine.ok("proxy", *words, "--json"))["proxies"]}


def test_set_tell_and_clear(machine: Machine, configured: Path) -> None:
    before = configured.read_text()
    assert shown(machine) == {None: "auto", "one": "auto", "two": "auto"}
    assert "the environment says: no proxy" in machine.ok("proxy")
    assert machine.ok("proxy", "one:", "http://Proxy.example:3128/") == "one: http://proxy.example:3128\n"
    assert 'settle = 2\nproxy = "http://proxy.example:3128"\n\n# the second' in configured.read_text()
    assert machine.ok("proxy", "none") == "all remotes: none\n"
    assert configured.read_text().startswith('proxy = "none"\n\n# mine\n')
    assert shown(machine) == {None: "none", "one": "http://proxy.example:3128", "two": "none"}
    assert machine.ok("proxy", "one") == f"one: http://proxy.example:3128 ({configured}:8)\n"
    settings = {one["key"]: one for one in json.loads(machine.ok("config", "show", "two:", "--json"))}
    assert (settings["proxy"]["value"], settings["proxy"]["line"]) == ("none", 1)
    machine.ok("proxy", "one", "--auto")
    assert shown(machine, "one") == {"one": "auto"}
    machine.extra_environment["https_proxy"] = "http://anna:canary@host:1"
    told = machine.ok("proxy", "one")
    assert "the environment says: HTTPS_PROXY=http://***@host:1" in told
    machine.ok("proxy", "one", "--clear")
    assert shown(machine, "one") == {"one": "none"}
    machine.ok("proxy", "--clear")
    assert configured.read_text().lstrip() == before
    assert "proxy-password-file" not in configured.read_text()
    machine.extra_environment["SERPENTFS_PROXY"] = "http://host:3128"
    assert shown(machine) == dict.fromkeys((None, "one", "two"), "http://host:3128")
    settings = {one["key"]: one for one in json.loads(machine.ok("config", "show", "one:", "--json"))}
    assert settings["proxy"]["variable"] == "SERPENTFS_PROXY"
    assert '"SERPENTFS_PROXY"' in machine.ok("proxy", "one", "--json")


def test_a_password_is_kept_apart(machine: Machine, configured: Path) -> None:
    done = machine.run("proxy", "one", "http://host:3128", "--username", "me", stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one: http://me@host:3128\n"
    kept = configured.with_name("proxy-one.password")
    assert kept.read_text() == f"{PASSWORD}\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in configured.read_text()
    assert f"password in {kept}" in machine.ok("proxy", "one")
    assert PASSWORD not in machine.ok("config", "show", "one:")
    machine.ok("proxy", "one", "none")
    assert not kept.exists()
    own = machine.home / "own"
    own.touch(0o600)
    own.write_text("x\n")
    machine.ok("proxy", "one", "https://me@host", "--proxy-password-file", str(own))
    assert f'proxy-password-file = "{own}"' in configured.read_text()
    machine.ok("proxy", "one", "--clear")
    assert own.exists()    # it is not ours


@pytest.mark.parametrize(("words", "code", "part"), [
    (("one", "socks5://host"), 2, "a proxy is http://HOST:PORT"),
    (("one", "http://me:canary@host"), 2, "must not hold its password"),
    (("one", "me:canary@host:3128"), 2, "not a proxy"),
    (("http://",), 2, "a proxy is http://HOST:PORT"),
    (("http://host:99999",), 2, "a proxy is http://HOST:PORT"),
    (("other", "none"), 4, 'no remote "other"'),
    (("vault+s3://bucket?region=r", "none"), 2, "a remote that has a name"),
    (("one", "none", "--auto"), 2, "one of URL"),
    (("one", "--none", "--clear"), 2, "not allowed with"),
    (("one", "auto", "--username", "me"), 2, "go with the URL"),
    (("one", "--username", "me"), 2, "go with the URL"),
    (("one", "http://host", "--proxy-password-file", "x"), 2, "goes with --username"),
    (("one", "http://me@host", "--proxy-password-file", "none"), 4, "no such proxy password file"),
    (("one", "http://me@host"), 2, "is empty"),
])  # fmt: skip
def test_wrong_uses(machine: Machine, configured: Path, words: tuple[str, ...], code: int, part: str) -> None:
    before = configured.read_text()
    told = machine.fails(code, "proxy", *words)
    assert part in told
    assert "canary" not in told
    assert configured.read_text() == before
    assert [path.name for path in configured.parent.iterdir()] == ["config.toml"]


def test_what_a_wrong_configuration_says(machine: Machine, configured: Path) -> None:
    configured.write_text('proxy = "http://me:canary@host"\n' + configured.read_text())
    told = machine.fails(2, "ls", "one:")
    assert "config.toml:1:" in told
    assert "canary" not in told
    machine.extra_environment["SERPENTFS_PROXY"] = "ftp://host"
    configured.write_text("")
    assert "SERPENTFS_PROXY: a proxy is http://HOST:PORT" in machine.fails(2, "df", "vault+s3://bucket?region=r")


@needs_fuse
@needs_root
def test_an_account_through_a_proxy(account: Account, tls_proxy: RecordingProxy) -> None:
    machine = account.machine
    machine.extra_environment["HTTPS_PROXY"] = f"http://127.0.0.1:{free_port()}"    # nobody listens there
    done = machine.run("proxy", tls_proxy.url, "--username", "me", stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    account.log_in()
    assert tls_proxy.asked
    assert set(tls_proxy.asked) == {"CONNECT g.api.mega.co.nz:443 HTTP/1.1"}
    tls_proxy.asked.clear()
    machine.ok("proxy", "--clear")
    # A log-in that the configuration says nothing about gets a table.
    done = machine.run("proxy", "mega:", tls_proxy.url, "--username", "me", stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    (account.mount() / "file").write_text("content")
    machine.ok("flush", "mega:")
    assert tls_proxy.asked
    kept = machine.home / "config" / "serpentfs" / "proxy-mega.password"
    assert leaks(machine.home, PASSWORD.encode()) == [(kept, PASSWORD.encode())]
    for process in machine.daemons():
        seen = [(Path("/proc") / str(process) / name).read_bytes() for name in ("cmdline", "environ")]
        assert PASSWORD.encode() not in b"".join(seen)
    machine.ok("umount", "mega:")
    assert account.ls() == ["file"]
    assert json.loads(machine.ok("whoami", "--json"))["email"] == account.email
    found = json.loads(machine.run("doctor", "mega:", "--json").stdout)    # of the machine it may find anything
    assert [one["state"] for one in found if one["check"] == "store"] == ["ok"]
    # The environment's proxy is what auto means.
    machine.ok("proxy", "mega:", "auto")
    tls_proxy.asked.clear()
    machine.extra_environment["HTTPS_PROXY"] = tls_proxy.url.replace("//", f"//me:{PASSWORD.replace('@', '%40')}@")
    assert json.loads(machine.ok("whoami", "--json"))["email"] == account.email
    assert tls_proxy.asked
    machine.ok("logout")


def test_a_bucket_through_a_proxy(machine: Machine) -> None:
    machine.extra_environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with S3Server() as store:
        store.make_bucket("bucket")
        target = int(store.endpoint.rpartition(":")[2])
        through = RecordingProxy(target, PASSWORD)
        try:
            machine.ok("remote", "add", "far", "vault+s3://bucket/vault?endpoint=http://s3.nowhere.invalid:9000")
            done = machine.run("proxy", "far", through.url, "--username", "me", stdin=f"{PASSWORD}\n")
            assert done.returncode == 0, done.stderr
            machine.ok("init", "far:")
            machine.ok("mkdir", "far:/folder")
            assert machine.ok("ls", "far:") == "folder/\n"
            assert any(line.startswith("PUT http://s3.nowhere.invalid:9000/bucket/vault/") for line in through.asked)
            # A store on this machine is reached directly, whatever is set.
            through.asked.clear()
            machine.ok("remote", "add", "near", f"vault+s3://bucket/vault?endpoint={store.endpoint}")
            machine.ok("proxy", f"http://127.0.0.1:{free_port()}")
            assert machine.ok("ls", "near:") == "folder/\n"
            machine.extra_environment["http_proxy"] = f"http://127.0.0.1:{free_port()}"
            for setting in ("none", "auto"):
                machine.ok("proxy", setting)
                assert machine.ok("ls", "near:") == "folder/\n"
            assert not through.asked
            # The environment's proxy is what auto means.
            machine.extra_environment["http_proxy"] = through.url.replace("//", f"//me:{PASSWORD.replace('@', '%40')}@")
            machine.ok("remote", "add", "auto", "vault+s3://bucket/vault?endpoint=http://s3.nowhere.invalid:9000")
            assert machine.ok("ls", "auto:") == "folder/\n"
            assert through.asked
            machine.ok("remote", "remove", "auto")
            # Not two ways in one process, and doctor says so.
            told = {one["remote"]: one for one in json.loads(machine.run("doctor", "--json").stdout)
                    if one["check"] == "store"}
            assert sorted(one["state"] for one in told.values()) == ["note", "ok"]
        finally:
            through.close()
