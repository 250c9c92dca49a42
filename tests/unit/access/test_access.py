"""Users, throttle, exposure rules, TLS files and the Host check of the network doors."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serpentfs.errors import UsageError
from serpentfs.gateways.access import (
    LoginThrottle,
    ServerOptions,
    TlsFiles,
    Users,
    allowed_hosts,
    check_exposure,
    is_allowed_host,
    is_loopback,
    retry_after_seconds,
    server_tls_context,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def write_certificate(folder: Path, *names: str, passphrase: bytes | None = None) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "serpent")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    files = TlsFiles(folder / "cert.pem", folder / "key.pem")
    files.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return files


LOCAL = ServerOptions("127.0.0.1", 0, {"ann": "secret"})


# Users


def test_users_know_right_from_wrong() -> None:
    users = Users({"ann": "secret", "bö": "pässwörd"})
    assert users.verify("ann", "secret")
    assert users.verify("bö", "pässwörd")
    assert not users.verify("ann", "Secret")
    assert not users.verify("ann", "")
    assert not users.verify("bob", "secret")
    assert not users.verify("", "")
    assert not Users({}).verify("ann", "secret")


def test_a_password_that_is_not_text_is_wrong_and_no_exception() -> None:
    assert not Users({"ann": "secret"}).verify("ann", "\udcff\ud800")
    assert not Users({"ann": "secret"}).verify("\udcff", "secret")


def test_users_hold_no_password() -> None:
    users = Users({"ann": "correct horse"})
    held = repr(vars(users)).encode()
    assert b"correct horse" not in held
    assert "correct horse" not in repr(users)
    assert "secret" not in repr(LOCAL)


# Throttle


def test_the_throttle_delays_after_the_free_failures_and_doubles() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock, free_failures=3, first_delay=2, longest_delay=10)
    for _ in range(2):
        throttle.failed("192.0.2.1")
    assert throttle.wait_time("192.0.2.1") == 0
    throttle.failed("192.0.2.1")
    assert throttle.wait_time("192.0.2.1") == 2
    assert throttle.wait_time("192.0.2.2") == 0
    clock.now += 1.5
    assert throttle.wait_time("192.0.2.1") == 0.5
    clock.now += 0.5
    assert throttle.wait_time("192.0.2.1") == 0
    for expected in (4, 8, 10, 10):
        throttle.failed("192.0.2.1")
        assert throttle.wait_time("192.0.2.1") == expected


def test_success_and_quiet_forget_failures() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock, free_failures=1, first_delay=5, forget_after=60)
    throttle.failed("a")
    throttle.failed("b")
    throttle.succeeded("a")
    assert throttle.wait_time("a") == 0
    assert throttle.wait_time("b") == 5
    clock.now += 60
    throttle.failed("b")
    assert throttle.wait_time("b") == 5, "the count started again"


def test_many_failures_do_not_overflow_and_many_addresses_are_bounded() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock, free_failures=1, longest_delay=900, most_addresses=10)
    for _ in range(3000):
        throttle.failed("x")
    assert throttle.wait_time("x") == 900
    for number in range(50):
        throttle.failed(f"192.0.2.{number}")
    assert len(throttle._failures) == 10
    assert throttle.wait_time("192.0.2.49") > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    throttle = LoginThrottle(Clock(), free_failures=1)
    throttle.failed(one)
    assert (throttle.wait_time(other) > 0) is same


def test_waits_are_rounded_up_for_clients() -> None:
    assert [retry_after_seconds(wait) for wait in (0.0, 0.2, 1.0, 1.1)] == [1, 1, 1, 2]


# Exposure


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_exposure(replace(LOCAL, host=host))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
def test_off_loopback_needs_public_and_tls_or_insecure(host: str, tmp_path: Path) -> None:
    assert not is_loopback(host)
    options = replace(LOCAL, host=host)
    with pytest.raises(UsageError, match="--public"):
        check_exposure(options)
    with pytest.raises(UsageError, match="--insecure"):
        check_exposure(replace(options, public=True))
    check_exposure(replace(options, public=True, insecure=True))
    check_exposure(replace(options, public=True, tls=write_certificate(tmp_path)))
    with pytest.raises(UsageError, match="--insecure"):
        check_exposure(replace(options, public=True, users={}, no_auth=True))


def test_a_name_that_resolves_partly_off_loopback_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: object, type: int = 0) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", ("fe80::1%eth0", 0, 0, 2))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_loopback("two-faced.example")


def test_a_name_that_does_not_resolve_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="resolve"):
        check_exposure(replace(LOCAL, host="no-such-host.invalid"))
    with pytest.raises(UsageError, match="resolve"):
        check_exposure(replace(LOCAL, host="x" * 300))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": {}}, "--no-auth"),
        ({"no_auth": True}, "--no-auth"),
        ({"users": {"": "x"}}, "empty"),
        ({"users": {"ann": ""}}, "empty"),
        ({"port": 65536}, "port"),
        ({"port": -1}, "port"),
        ({"root": "Photos"}, "folder"),
        ({"root": "/a/../b"}, "folder"),
        ({"root": "/a\0"}, "folder"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        check_exposure(replace(LOCAL, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_no_auth_on_loopback() -> None:
    check_exposure(replace(LOCAL, users={}, no_auth=True))


# TLS


def test_tls_files(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    context = server_tls_context(files)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    check_exposure(replace(LOCAL, tls=files))


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        check_exposure(replace(LOCAL, tls=replace(files, key=tmp_path / "absent")))
    with pytest.raises(UsageError, match="cannot read"):
        server_tls_context(replace(files, certificate=tmp_path))
    with pytest.raises(UsageError, match="PEM"):
        server_tls_context(TlsFiles(files.key, files.certificate))
    (tmp_path / "other").mkdir()
    other = write_certificate(tmp_path / "other")
    with pytest.raises(UsageError, match="PEM"):
        server_tls_context(TlsFiles(files.certificate, other.key))


def test_a_key_under_a_passphrase_is_an_error_and_no_prompt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="passphrase"):
        server_tls_context(write_certificate(tmp_path, passphrase=b"hidden"))


# Host


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("localhost", True),
        ("LocalHost:4443", True),
        ("localhost.", True),
        ("drive.localhost:1", True),
        ("127.0.0.1:4443", True),
        ("[::1]:4443", True),
        ("[::1]", True),
        ("192.0.2.7", True),
        (socket.gethostname(), True),
        ("dav.example.org:443", True),
        ("a.example.net", True),
        ("example.net", False),
        ("a.b.example.net", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        (":4443", False),
        ("[::1", False),
        ("[evil]:1", False),
        ("localhost:80:80", False),
        ("localhost:x", False),
        ("[::1]x", False),
    ],
)
def test_the_host_header(header: str, allowed: bool, tmp_path: Path) -> None:
    options = replace(LOCAL, tls=write_certificate(tmp_path, "dav.example.org", "*.example.net"))
    assert is_allowed_host(header, allowed_hosts(options)) is allowed


def test_the_listen_name_is_allowed_and_a_certificate_without_names_adds_none(tmp_path: Path) -> None:
    options = replace(LOCAL, host="Drive.Example", tls=write_certificate(tmp_path))
    assert is_allowed_host("drive.example:1", allowed_hosts(options))
    assert not is_allowed_host("serpent", allowed_hosts(replace(LOCAL, tls=write_certificate(tmp_path))))
