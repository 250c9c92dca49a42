from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.registry import NamedRemote, RemoteSpec, open_store, parse_remote
from serpentfs.errors import UsageError


def spec(text: str) -> RemoteSpec:
    parsed = parse_remote(text)
    assert isinstance(parsed, RemoteSpec)
    return parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("work", NamedRemote("work", "/")),
        ("work:", NamedRemote("work", "/")),
        ("work:/", NamedRemote("work", "/")),
        ("work:/Photos", NamedRemote("work", "/Photos")),
        ("my-box.2:/Photos//2026/", NamedRemote("my-box.2", "/Photos/2026")),
        ("work:/a:b%20c", NamedRemote("work", "/a:b%20c")),
        ("vault+file:///srv/vault", RemoteSpec("vault", "file", "/srv/vault")),
        ("vault+file://localhost/srv/vault/", RemoteSpec("vault", "file", "/srv/vault")),
        ("VAULT+FILE:///srv//a/../vault", RemoteSpec("vault", "file", "/srv/vault")),
        ("vault+file:///srv/a%20b%23#/Fotos%20%C3%BC", RemoteSpec("vault", "file", "/srv/a b#", path="/Fotos ü")),
        ("vault+file:////srv", RemoteSpec("vault", "file", "/srv")),
        ("vault+memory:///x", RemoteSpec("vault", "memory", "/x")),
        ("vault+s3://bucket", RemoteSpec("vault", "s3", "bucket")),
        ("vault+s3://Bucket.1/a/b%20c/", RemoteSpec("vault", "s3", "Bucket.1", "a/b c")),
        (
            "vault+s3://bucket/p?endpoint=http://host:9000/&region=eu-1#/Photos",
            RemoteSpec("vault", "s3", "bucket", "p", {"endpoint": "http://host:9000", "region": "eu-1"}, "/Photos"),
        ),
        (
            "vault+s3://bucket?endpoint=S3.example.org:443",
            RemoteSpec("vault", "s3", "bucket", options={"endpoint": "https://s3.example.org"}),
        ),
    ],
)
def test_what_a_remote_means(text: str, expected: RemoteSpec | NamedRemote) -> None:
    assert parse_remote(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":/Photos",
        "work:Photos",
        "work:/../up",
        "work:/a/./b",
        "work:/nul\0",
        "/srv/vault",
        "./vault",
        "file:///srv/vault",
        "s3://bucket",
        "http://host/",
        "plain+file:///srv",
        "vault+ftp://host/",
        "vault+file://srv/vault",
        "vault+file://",
        "vault+file://relative",
        "vault+file:///srv?region=x",
        "vault+file:///srv/a%00b",
        "vault+file:///srv#Photos",
        "vault+file:///srv#/../x",
        "vault+s3://",
        "vault+s3:///prefix",
        "vault+s3://b",
        "vault+s3://bucket:9000/x",
        "vault+s3://bucket/a//b",
        "vault+s3://bucket/../b",
        "vault+s3://bucket/a%0Ab",
        "vault+s3://bucket?endpoint=",
        "vault+s3://bucket?endpoint=ftp://host",
        "vault+s3://bucket?endpoint=https://host/path",
        "vault+s3://bucket?endpoint=https://host:port",
        "vault+s3://bucket?region=a&region=b",
        "vault+s3://bucket?colour=red",
        "vault+s3://bucket?virtual-host=maybe",
        "vault+s3://[bad",
    ],
)
def test_what_is_no_remote(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_remote(text)
    message = str(caught.value)
    assert message
    assert message.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "vault+s3://KEYID:hunter2@bucket/prefix",
        "vault+s3://hunter2@bucket",
        "vault+s3://bucket?secret_access_key=hunter2",
        "vault+s3://bucket?access_key_id=hunter2",
        "vault+s3://bucket?session-token=hunter2",
        "vault+s3://bucket?endpoint=https://user:hunter2@host",
        "vault+file://user:hunter2@/srv",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="must not hold credentials") as caught:
        parse_remote(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("VAULT+file://localhost/srv//my vault/#/x", "vault+file:///srv/my%20vault"),
        ("vault+s3://bucket", "vault+s3://bucket"),
        (
            "vault+s3://bucket/a/b/?region=r&profile=p&endpoint=Host.example#/x",
            "vault+s3://bucket/a/b?endpoint=https://host.example&region=r",
        ),
        ("vault+memory:///x", "vault+memory:///x"),
    ],
)
def test_canonical(text: str, canonical: str) -> None:
    assert spec(text).canonical == canonical
    assert spec(canonical).canonical == canonical


def test_open_a_folder(tmp_path: Path) -> None:
    assert isinstance(open_store(spec(f"vault+file://{tmp_path}")), FileStore)


def test_s3_needs_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="region"):
        open_store(spec("vault+s3://bucket"))
    open_store(spec("vault+s3://bucket?region=eu-central-1"))
    open_store(spec("vault+s3://bucket?endpoint=http://127.0.0.1:9000"))
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    open_store(spec("vault+s3://bucket"))


def test_missing_s3_credentials_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        open_store(spec("vault+s3://bucket?region=r"))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        caplog.clear()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        open_store(spec("vault+s3://bucket?region=r"))
        assert caplog.records == []
