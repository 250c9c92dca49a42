"""curl as a client: uploads and downloads in every way it has, over plain and TLS connections."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.webdav.servers import Server, Start

DRIVES = ["memory"]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, timeout=90, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def status(*arguments: str) -> str:
    return curl("-o", os.devnull, "-w", "%{http_code}", *arguments).stdout.decode()


@pytest.fixture(scope="module")
def tls_server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return start_server(users={"me": "secret"}, tls=[str(certificate), str(key)]), certificate


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
@pytest.mark.parametrize("way", ["length", "chunked", "http1.0", "expect"])
def test_upload_and_download(server: Server, tmp_path: Path, way: str, size: int) -> None:
    if (way, size) == ("chunked", 0):
        pytest.skip("curl 7.88 never sends the last chunk of an empty file")
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(size))
    url = f"{server.url}curl-{way}-{size}"
    options = {
        "length": ["-H", "Expect:"],
        "chunked": ["-H", "Transfer-Encoding: chunked"],
        "http1.0": ["--http1.0"],
        "expect": ["-H", "Expect: 100-continue", "--expect100-timeout", "30"],
    }[way]
    assert status("-T", str(local), *options, url) == "201"
    assert status("-T", str(local), *options, url) == "204"
    curl("-o", str(back), *(["--http1.0"] if way == "http1.0" else []), url)
    assert (back.read_bytes() if size else b"") == local.read_bytes()


def test_resume_of_a_download(server: Server, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    server.put("/resume", data)
    part = tmp_path / "part"
    part.write_bytes(data[:333_333])
    curl("-C", "-", "-o", str(part), f"{server.url}resume")
    assert part.read_bytes() == data


def test_one_connection_for_many_requests(server: Server) -> None:
    urls = [f"{server.url}keep-alive-{n}" for n in range(4)]
    for url in urls:
        assert status("-X", "PUT", "-d", "data", url) == "201"
    out = curl("-w", " %{num_connects}\n", *urls).stdout.decode()
    assert out == "data 1\ndata 0\ndata 0\ndata 0\n"


def test_tls(tls_server: tuple[Server, Path], tmp_path: Path) -> None:
    server, certificate = tls_server
    data = os.urandom(2_000_000)
    (tmp_path / "local").write_bytes(data)
    trusting = ["--cacert", str(certificate)]
    url = f"{server.url}file"
    assert status(*trusting, "-T", str(tmp_path / "local"), url) == "401"
    assert status(*trusting, "-u", "me:secret", "-T", str(tmp_path / "local"), url) == "201"
    assert curl(*trusting, "-u", "me:secret", url).stdout == data
    assert curl(url, check=False).returncode == 60, "a certificate that nobody trusts"
    plain = url.replace("https", "http")
    assert curl(plain, check=False).returncode != 0, "clear text on a TLS port"
    assert status(*trusting, "-u", "me:secret", url) == "200", "the door is still there"


def test_passwords(start_server: Start) -> None:
    server = start_server(users={"jürgen": "p:ä", "other": "x"})
    assert status(server.url) == "401"
    assert status("-u", "jürgen:p:ä", server.url) == "200"
    assert status("-u", "jürgen:wrong", server.url) == "401"
    assert status("-u", "nobody:p:ä", server.url) == "401"
    assert b'WWW-Authenticate: Basic realm="SerpentFS"' in curl("-i", server.url).stdout
