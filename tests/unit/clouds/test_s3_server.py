"""The tests' S3 server against clients that are not ours."""

from __future__ import annotations

import http.client
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.s3_server import S3Server

RCLONE = Path(sysconfig.get_path("scripts")) / "rclone"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


def rclone(server: S3Server, tmp_path: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
        "RCLONE_CONFIG_S_TYPE": "s3",
        "RCLONE_CONFIG_S_PROVIDER": "Other",
        "RCLONE_CONFIG_S_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_S_ACCESS_KEY_ID": "test",
        "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": "test",
        "RCLONE_RETRIES": "1",
    }
    done = subprocess.run(
        [str(RCLONE), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rclone_copies_to_and_from_it(server: S3Server, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    files = {
        "small": b"data",
        "empty": b"",
        "ünï cödé/sp ace & more?": b"names",
        "deep/er/still/file": b"deep" * 1000,
        "large": os.urandom(12 * 1024 * 1024 + 17),
    }
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
        os.utime(source / name, ns=(1_500_000_000_123_456_789,) * 2)
    server.page_size = 2
    parts = ("--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M")
    rclone(server, tmp_path, "copy", str(source), "s:bucket/prefix", *parts)
    stored = {key.removeprefix("prefix/"): found.data for key, found in server.buckets["bucket"].items()}
    assert stored == files
    assert any("partNumber" in line for line in server.requests)
    rclone(server, tmp_path, "copy", "s:bucket/prefix", str(back))
    assert {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()} == files
    assert (back / "small").stat().st_mtime_ns == 1_500_000_000_123_456_789
    rclone(server, tmp_path, "check", "--download", str(source), "s:bucket/prefix")
    rclone(server, tmp_path, "moveto", "s:bucket/prefix/small", "s:bucket/moved")
    assert server.buckets["bucket"]["moved"].data == b"data"
    assert sorted(rclone(server, tmp_path, "lsf", "s:bucket").split()) == ["moved", "prefix/"]
    rclone(server, tmp_path, "purge", "s:bucket")
    assert server.buckets.get("bucket", {}) == {}


def exchange(
    server: S3Server, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"), timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def test_conditions_and_ranges(server: S3Server) -> None:
    server.make_bucket("b")
    assert exchange(server, "PUT", "/b/k", b"0123456789", {"If-Match": '"x"'})[0] == 404
    status, _, headers = exchange(server, "PUT", "/b/k", b"0123456789", {"If-None-Match": "*"})
    assert (status, headers["etag"]) == (200, '"781e5e245d69b566979b86e28d23f2c7"')
    assert exchange(server, "PUT", "/b/k", b"other", {"If-None-Match": "*"})[0] == 412
    assert exchange(server, "PUT", "/b/k", b"other", {"If-Match": '"x"'})[0] == 412
    assert exchange(server, "GET", "/b/k", headers={"If-Match": '"x"'})[0] == 412
    assert exchange(server, "GET", "/b/k", headers={"If-None-Match": headers["etag"]})[0] == 304
    for value, expected in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-3", b"789"), ("bytes=8-99", b"89")):
        status, body, answer = exchange(server, "GET", "/b/k", headers={"Range": value})
        assert (status, body) == (206, expected)
        assert answer["content-range"].endswith("/10")
    assert exchange(server, "GET", "/b/k", headers={"Range": "bytes=10-"})[0] == 416
    status, body, answer = exchange(server, "HEAD", "/b/k")
    assert (status, body, answer["content-length"]) == (200, b"", "10")
    assert exchange(server, "GET", "/b/missing")[0] == 404
    assert exchange(server, "GET", "/missing/k")[0] == 404


def test_aws_chunks_are_unwrapped(server: S3Server) -> None:
    server.make_bucket("b")
    body = b"5;chunk-signature=00\r\nhello\r\n6;chunk-signature=00\r\n world\r\n0;chunk-signature=00\r\n\r\n"
    headers = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "Content-Encoding": "aws-chunked"}
    assert exchange(server, "PUT", "/b/k", body, headers)[0] == 200
    assert server.buckets["b"]["k"].data == b"hello world"
    assert "content-encoding" not in server.buckets["b"]["k"].headers


def test_delimited_pages(server: S3Server) -> None:
    server.make_bucket("b")
    server.page_size = 2
    for key in ("a", "d/1", "d/2", "e/1", "f", "g/x/y"):
        server.put_object("b", key, b"")
    rows: list[str] = []
    token = ""
    while True:
        query = "/b?list-type=2&delimiter=/" + (f"&continuation-token={token}" if token else "")
        text = exchange(server, "GET", query)[1].decode()
        rows += [part.split("<")[0] for part in text.split("<Key>")[1:]]
        rows += [part.split("<")[0] for part in text.split("<CommonPrefixes><Prefix>")[1:]]
        if "<NextContinuationToken>" not in text:
            break
        token = text.split("<NextContinuationToken>")[1].split("<")[0]
    assert sorted(rows) == ["a", "d/", "e/", "f", "g/"]
