"""The way to the servers: over a proxy where the environment names one, and never to a server without a certificate."""

from __future__ import annotations

import datetime
import gc
import ipaddress
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serpentfs.clouds.mega.transport import Transport
from serpentfs.clouds.proxy import Proxy as Way
from serpentfs.daemon import accounts
from serpentfs.errors import SerpentError, Unavailable

pytestmark = pytest.mark.trio
HOST = "api.mega.invalid"
"""A name that leads nowhere: what does not go over the proxy fails."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def self_signed(folder: Path) -> Path:
    """Certificate and key for HOST and this machine, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts the server of the test, as its owner may tell OpenSSL to."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


async def _head(stream: trio.abc.Stream) -> list[str]:
    """The lines of a request."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = await stream.receive_some()
        if not piece:
            break
        received += piece
    return received.decode("latin-1").split("\r\n")


@asynccontextmanager
async def tls_server(certificate: Path) -> AsyncIterator[int]:
    """Answers everything with "hello". The value is its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async with stream:
                if (await _head(stream))[0]:
                    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        except trio.BrokenResourceError:
            return  # who does not trust it goes away

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1"))
        yield listeners[0].transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@dataclass
class Proxy:
    """A CONNECT proxy that leads everybody to one port of this machine. ``refuses``: the status it answers with."""

    target: int
    port: int = 0
    refuses: int | None = None
    asked: list[list[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.asked.append(await _head(stream))
            if self.refuses is not None:
                await stream.send_all(f"HTTP/1.1 {self.refuses} No\r\ncontent-length: 0\r\n\r\n".encode())
                return
            await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
            server = await trio.open_tcp_stream("127.0.0.1", self.target)
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, stream, server)
                await _pump(server, stream)
                nursery.cancel_scope.cancel()


async def _pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        async for piece in source:
            await target.send_all(piece)
    except trio.BrokenResourceError:
        return


@pytest.fixture
async def proxy(certificate: Path) -> AsyncIterator[Proxy]:
    async with tls_server(certificate) as target, trio.open_nursery() as nursery:
        made = Proxy(target)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        made.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, made.serve, [listener])
        yield made
        nursery.cancel_scope.cancel()


async def get(url: str, way: Way = Way()) -> bytes:
    transport = Transport(proxy=way)
    try:
        with trio.fail_after(30):
            return (await transport.request("GET", url)).body
    finally:
        await transport.aclose()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_proxy_is_used(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    assert await get(f"https://{HOST}/cs?sid=canary") == b"hello"
    (asked,) = proxy.asked
    assert asked[0] == f"CONNECT {HOST}:443 HTTP/1.1"
    assert "canary" not in "".join(asked)  # the rest is between us and the server


async def test_without_a_variable_there_is_none(proxy: Proxy, trusted: None) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await get(f"https://{HOST}/")
    assert proxy.asked == []


async def test_a_proxy_of_its_own_comes_before_the_environment(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    assert await get(f"https://{HOST}/", Way(proxy.url)) == b"hello"
    proxy.asked.clear()
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await get(f"https://{HOST}/", Way("none"))
    assert proxy.asked == []
    assert await get(f"https://127.0.0.1:{proxy.target}/", Way(proxy.url)) == b"hello"
    assert proxy.asked == []


async def test_the_proxy_for_https_comes_before_the_one_for_all(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert await get(f"https://{HOST}/") == b"hello"


@pytest.mark.parametrize("exception", [HOST, "mega.invalid", ".mega.invalid", "other.example, mega.invalid", "*"])
async def test_hosts_that_are_excepted(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch, exception: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exception)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await get(f"https://{HOST}/")
    assert proxy.asked == []
    monkeypatch.setenv("NO_PROXY", "other.example")
    assert await get(f"https://{HOST}/") == b"hello"


async def test_this_machine_is_reached_directly(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    assert await get(f"https://127.0.0.1:{proxy.target}/") == b"hello"
    assert proxy.asked == []


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_refuses(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    proxy.refuses = status
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:canary@"))
    with pytest.raises(Unavailable, match=f"^{HOST} cannot be reached: ProxyError$"):
        await get(f"https://{HOST}/?sid=canary")
    assert any(line.lower().startswith("proxy-authorization: basic") for line in proxy.asked[0])


async def test_the_proxy_does_not_make_a_server_trusted(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(Unavailable, match="self-signed certificate"):
        await get(f"https://{HOST}/")


async def test_an_unknown_certificate_is_refused(proxy: Proxy) -> None:
    with pytest.raises(Unavailable) as refused:
        await get(f"https://127.0.0.1:{proxy.target}/?sid=canary")
    assert str(refused.value) == "127.0.0.1 does not prove who it is: self-signed certificate"


async def test_a_certificate_for_another_host_is_refused(
    proxy: Proxy, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(Unavailable, match=r"^another\.invalid does not prove who it is: Hostname mismatch"):
        await get("https://another.invalid/")


async def test_the_command_tells_why(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_PATIENCE", 1.0)
    with pytest.raises(SerpentError, match="self-signed certificate") as refused:
        await accounts.log_in(f"https://127.0.0.1:{proxy.target}", "me@example.test", "canary-password", None)
    assert "\n" not in str(refused.value)
    assert "canary" not in str(refused.value)


async def test_bodies_are_not_kept_after_their_requests() -> None:
    """Whatever cycles the library leaves, an upload does not fill the memory until they are collected."""
    size = 2**20
    received = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal received
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        head, _, rest = head.partition(b"\r\n\r\n")
        assert f"content-length: {size}".encode() in head.lower()
        assert b"transfer-encoding" not in head.lower()
        got = len(rest)
        while got < size:
            got += len(await stream.receive_some())
        received += got
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await stream.aclose()

    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/ul"
            transport = Transport()
            with trio.fail_after(20):
                for _ in range(16):
                    assert (await transport.request("POST", url, body=bytes(size))).status == 200
            kept, _ = tracemalloc.get_traced_memory()
            await transport.aclose()
            nursery.cancel_scope.cancel()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert received == 16 * size
    assert kept < 4 * size
