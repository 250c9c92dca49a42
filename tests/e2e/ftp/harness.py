"""An FTP door over a drive in memory, in a thread of the test: both sides can be looked at and made to fail."""

from __future__ import annotations

import contextlib
import datetime
import ftplib
import io
import queue
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serpentfs.errors import NotFound
from serpentfs.gateways import ftp
from serpentfs.gateways.access import FtpOptions, ServerOptions, TlsFiles
from serpentfs.gateways.fuse.native.pages import KernelPages
from tests.fakes.memory_vfs import MemoryVfs

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a test waits for anything; machines may be slow."""

LOCAL = FtpOptions(ServerOptions("127.0.0.1", 0, {"ann": "secret", "bob": "other"}))


def options(**changes: object) -> FtpOptions:
    """The options of ``LOCAL`` with changes, of the server's or of FTP's own."""
    own = {name: changes.pop(name) for name in ("data_ports", "public_ip") if name in changes}
    return replace(LOCAL, server=replace(LOCAL.server, **changes), **own)  # type: ignore[arg-type]


def fill(vfs: MemoryVfs, path: str, data: bytes) -> None:
    """Put a file, and the folders above it, where another client of the cloud would put it."""
    folder = ""
    for name in path.strip("/").split("/")[:-1]:
        folder += f"/{name}"
        try:
            vfs.resolve(folder)
        except NotFound:
            vfs.cloud_mkdir(folder)
    vfs.cloud_put(path, data)


class RunningDoor:
    """Serves ``vfs`` until ``stop``."""

    def __init__(self, vfs: MemoryVfs, options: FtpOptions = LOCAL, *, paged: bool = False) -> None:
        self.vfs = vfs
        self.pages = KernelPages(vfs) if paged else None
        self._options = options
        self._started: queue.Queue[str | BaseException] = queue.Queue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        answer = self._started.get(timeout=TIMEOUT)
        if isinstance(answer, BaseException):
            self._thread.join(TIMEOUT)
            raise answer
        self.url = answer
        match = re.fullmatch(r"ftp://(?:\[(.*)\]|([^:]*)):(\d+)/", self.url)
        assert match is not None
        self.host: str = match[1] or match[2]
        self.port = int(match[3])

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:   # noqa: BLE001 - handed to whoever waits
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            self._started.put(error)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                if self.pages is not None:
                    nursery.start_soon(self.pages.run)
                    self.pages.prepare()
                self._started.put(await nursery.start(ftp.serve, self.vfs, self._options, self.pages))

    def on_loop(self, function: Callable[..., T], *args: object) -> T:
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def perform(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def put(self, path: str, data: bytes) -> None:
        self.on_loop(fill, self.vfs, path, data)

    def bytes_of(self, path: str) -> bytes:
        return self.on_loop(self.vfs.bytes_of, path)

    def login(self, user: str = "ann", password: str = "secret", encoding: str = "utf-8") -> ftplib.FTP:
        return login(self.port, user, password, host=self.host, encoding=encoding)

    def stop(self) -> None:
        if self._thread.is_alive():
            assert self._scope is not None
            self.on_loop(self._scope.cancel)
            self._thread.join(TIMEOUT)
            assert not self._thread.is_alive(), "the door does not stop"


@contextlib.contextmanager
def door(
    vfs: MemoryVfs | None = None, options: FtpOptions = LOCAL, *, paged: bool = False
) -> Iterator[RunningDoor]:
    running = RunningDoor(vfs or MemoryVfs(), options, paged=paged)
    try:
        yield running
    finally:
        running.stop()


def login(
    port: int, user: str = "ann", password: str = "secret", *, host: str = "127.0.0.1", encoding: str = "utf-8"
) -> ftplib.FTP:
    client = ftplib.FTP(timeout=TIMEOUT, encoding=encoding)
    client.connect(host, port)
    client.login(user, password)
    return client


def eventually(condition: Callable[[], T]) -> T:
    """Wait until ``condition`` is true (or an assertion in it holds), and answer it."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            answer = condition()
            if answer:
                return answer
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"never true: {condition}"
        time.sleep(0.01)


def open_data(client: ftplib.FTP, receive_buffer: int | None = None) -> socket.socket:
    """A data connection, connected before the command that will use it."""
    assert client.sock is not None
    address = ftplib.parse229(client.sendcmd("EPSV"), client.sock.getpeername())
    connection = socket.socket(client.af)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(TIMEOUT)
    connection.connect(address)
    return connection


def begin_upload(client: ftplib.FTP, command: str) -> socket.socket:
    """Send a command that takes a data connection, which is answered."""
    client.voidcmd("TYPE I")
    data = open_data(client)
    client.sendcmd(command)
    return data


def reset(connection: socket.socket) -> None:
    """Close with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def reply(client: ftplib.FTP) -> str:
    """The next reply, an error or not."""
    try:
        return client.getresp()
    except (ftplib.error_reply, ftplib.error_temp, ftplib.error_perm) as error:
        return str(error)


def ask(client: ftplib.FTP, command: str) -> str:
    """The reply to a command, an error or not."""
    client.putcmd(command)
    return reply(client)


def store(client: ftplib.FTP, path: str, data: bytes, *, offset: int | None = None, command: str = "STOR") -> str:
    """The last reply to a whole upload; REST comes before it if there is an ``offset``."""
    try:
        return client.storbinary(f"{command} {path}", io.BytesIO(data), rest=offset)
    except (ftplib.error_temp, ftplib.error_perm) as error:
        return str(error)


def fetch(client: ftplib.FTP, path: str, *, offset: int | None = None) -> bytes:
    collected = bytearray()
    client.retrbinary(f"RETR {path}", collected.extend, rest=offset)
    return bytes(collected)


def break_off(port: int, path: str, data: bytes) -> None:
    """Begin to upload ``data`` and lose the data connection after it; returns when the door has noticed."""
    with login(port) as client:
        connection = begin_upload(client, f"STOR {path}")
        connection.sendall(data)
        # A reset throws away what the other side has not read: wait until it has it all.
        eventually(lambda: _received(client) >= len(data))
        reset(connection)
        assert reply(client).startswith("426")


def _received(client: ftplib.FTP) -> int:
    match = re.search(r"Total bytes received: (\d+)", client.sendcmd("STAT"))
    return int(match[1]) if match else 0


def write_certificate(folder: Path) -> TlsFiles:
    """A self-signed certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def tls_client(running: RunningDoor, *, login: bool = True, protect: bool = True) -> ftplib.FTP_TLS:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = ftplib.FTP_TLS(timeout=TIMEOUT, context=context)
    client.connect("127.0.0.1", running.port)
    if login:
        client.login("ann", "secret")
        if protect:
            client.prot_p()
    return client
