"""The way out of this machine, as libraries are told it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serpentfs.clouds.proxy import OnlyProxy, Proxy, in_environment
from serpentfs.config import parse_proxy
from serpentfs.errors import NotFound, Unsupported, UsageError


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text("p@ss/wörd:\n")
    return path


@pytest.mark.parametrize(("text", "meaning"), [
    ("auto", "auto"), ("none", "none"), ("http://Host:3128/", "http://host:3128"), ("https://host", "https://host"),
    ("http://me@host:1", "http://me@host:1"), ("http://[::1]:3128", "http://[::1]:3128"),
])  # fmt: skip
def test_what_is_a_proxy(text: str, meaning: str) -> None:
    assert parse_proxy(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "host:3128", "socks5://host", "http://", "http://host/path", "http://host?x", "http://me:secret@host"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_proxy(text)
    assert "secret" not in str(refused.value)


def test_urls(password: Path) -> None:
    assert Proxy().url() is Proxy("none").url() is None
    assert Proxy("http://host:1").url() == "http://host:1"
    with_password = Proxy("http://me@host:1", password)
    assert with_password.url() == "http://me:p%40ss%2Fw%C3%B6rd%3A@host:1"
    assert "p@ss" not in repr(with_password)
    with pytest.raises(UsageError):
        Proxy("http://host:1", password).url()
    with pytest.raises(NotFound):
        Proxy("http://me@host", password.with_name("none")).url()


def test_the_environment_is_as_it_was(password: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other")
    monkeypatch.setenv("no_proxy", "example.org")
    before = dict(os.environ)
    with in_environment(Proxy("http://me@host:1", password)):
        assert os.environ["https_proxy"].endswith("@host:1")
        assert "HTTPS_PROXY" not in os.environ
        assert "127.0.0.0/8" in os.environ["no_proxy"]
    assert dict(os.environ) == before
    with in_environment(Proxy()):
        assert os.environ["HTTPS_PROXY"] == "http://other"
        assert os.environ["no_proxy"].startswith("example.org,localhost,127.0.0.0/8")
    assert dict(os.environ) == before
    with pytest.raises(NotFound), in_environment(Proxy("http://me@host", password.with_name("none"))):
        pass
    assert dict(os.environ) == before
    with in_environment(Proxy("none")):
        assert os.environ["no_proxy"] == "*"
        assert "https_proxy" not in os.environ
    assert dict(os.environ) == before


def test_one_for_a_process() -> None:
    only = OnlyProxy()
    assert not only.is_chosen(Proxy("none"))
    assert not only.is_chosen(Proxy())
    only.choose(Proxy())
    assert only.is_chosen(Proxy())
    with pytest.raises(Unsupported):
        only.is_chosen(Proxy("none"))
