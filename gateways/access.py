"""Who may enter a network door, and over what: options and rules that WebDAV and FTP share (design §10).

A password is asked for on loopback too, because other users of this machine are not you. Off loopback a door
must be made ``public`` by name, and without TLS ``insecure`` as well. Nothing here knows a protocol or the
drive.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import os
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serpentfs.errors import UsageError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a certificate (with its chain) and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class UserFiles:
    """Where a door's users are read from, again when a file changes."""

    config: Path | None
    """``config.toml``, for the table of users of ``door`` and, unless given here, its ``htpasswd-file``."""
    door: str
    """"webdav" or "ftp"."""
    htpasswd: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What ``webdav`` and ``ftp`` have in common."""

    host: str
    port: int
    """0 picks a free port."""
    users: dict[str, str] = field(default_factory=dict, repr=False)
    """User name to password. Empty only together with ``user_files`` or ``no_auth``."""
    user_files: UserFiles | None = None
    no_auth: bool = False
    tls: TlsFiles | None = None
    public: bool = False
    """Allow an address that is not loopback."""
    insecure: bool = False
    """Allow passwords in clear text off loopback."""
    root: str = "/"
    """The folder of the drive that the door shows as its root."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class FtpOptions:
    server: ServerOptions
    data_ports: range | None = None
    public_ip: str | None = None


# Passwords


class Users:
    """Checks passwords. Holds keyed hashes only, under a key that is drawn anew in every process.

    BLAKE2b and not a slow hash: nothing of this is ever written down, whoever can read this process's memory
    has the drive's own keys, and a WebDAV client sends its password with every request. What slows guessing
    down is ``LoginThrottle``. Safe to use from many threads.
    """

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._key = os.urandom(hashlib.blake2b.MAX_KEY_SIZE)
        self._hashes = {user: self._hash(password) for user, password in passwords.items()}
        self._nobody = os.urandom(hashlib.blake2b.MAX_DIGEST_SIZE)

    def _hash(self, password: str) -> bytes:
        # surrogatepass: what a client sends need not be UTF-8, and a wrong password must not be an exception.
        return hashlib.blake2b(password.encode("utf-8", "surrogatepass"), key=self._key).digest()

    def verify(self, user: str, password: str) -> bool:
        """Whether this is the user's password. An unknown user costs what a wrong password costs."""
        return hmac.compare_digest(self._hash(password), self._hashes.get(user, self._nobody))


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


class LoginThrottle:
    """Slows down guessing: after ``free_failures`` failed logins an address waits, each time twice as long.

    An address is an IPv4 address or an IPv6 /64 (one household has all 2^64 of it). ``clock`` gives seconds
    and never goes back. A door asks ``wait_time`` before it looks at a password and refuses while that is
    above 0; refused attempts do not count. Failures are forgotten after a success or ``forget_after`` seconds
    of quiet. Safe to use from many threads.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        free_failures: int = 5,
        first_delay: float = 1.0,
        longest_delay: float = 900.0,
        forget_after: float = 3600.0,
        most_addresses: int = 10_000,
    ) -> None:
        self._clock = clock
        self._free_failures = free_failures
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._forget_after = forget_after
        self._most_addresses = most_addresses
        self._failures: OrderedDict[str, _Failures] = OrderedDict()   # the longest quiet first
        self._lock = threading.Lock()

    def wait_time(self, address: str) -> float:
        """Seconds until a login from ``address`` will be looked at; 0 when it is now."""
        with self._lock:
            self._forget_quiet()
            known = self._failures.get(_throttled_as(address))
            if known is None or known.count < self._free_failures:
                return 0.0
            # The exponent is bounded, because 2.0**1024 is an OverflowError.
            doublings = min(known.count - self._free_failures, 64)
            delay = min(self._first_delay * 2.0**doublings, self._longest_delay)
            return max(0.0, known.last + delay - self._clock())

    def failed(self, address: str) -> None:
        """A login from ``address`` was looked at and was wrong."""
        with self._lock:
            self._forget_quiet()
            key = _throttled_as(address)
            known = self._failures.setdefault(key, _Failures(0, 0.0))
            known.count += 1
            known.last = self._clock()
            self._failures.move_to_end(key)
            if len(self._failures) > self._most_addresses:
                self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        with self._lock:
            self._failures.pop(_throttled_as(address), None)

    def _forget_quiet(self) -> None:
        horizon = self._clock() - self._forget_after
        while self._failures:
            key, oldest = next(iter(self._failures.items()))
            if oldest.last > horizon:
                return
            del self._failures[key]


def _throttled_as(address: str) -> str:
    parsed = _ip(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``text`` is (``::ffff:1.2.3.4`` is the IPv4 address in it), None when it is a name."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


# Exposure


def is_loopback(host: str) -> bool:
    """Whether every address of ``host`` is loopback. Asks the resolver (may block) unless it is an address.

    Raises UsageError for a name that does not resolve. An empty host is every interface, so not loopback.
    """
    if not host:
        return False
    literal = _ip(host)
    if literal is not None:
        return literal.is_loopback
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:   # UnicodeError: a name that IDNA cannot carry
        raise UsageError(f"cannot listen on {host!r}: the name does not resolve") from error
    addresses = [_ip(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
    return all(address is not None and address.is_loopback for address in addresses)


def check_exposure(options: ServerOptions) -> None:
    """Refuse what would open a door wider than was asked for (design §10). Raises UsageError.

    May block: it asks the resolver for a host that is a name and reads the TLS files.
    """
    if not 0 <= options.port <= 65535:
        raise UsageError(f"not a port: {options.port}")
    if not options.root.startswith("/") or "\0" in options.root or ".." in options.root.split("/"):
        raise UsageError(f"not a folder of the drive: {options.root!r}")
    if not options.users and options.user_files is None and not options.no_auth:
        raise UsageError("nobody could log in: give --user and --pass-file, or --no-auth to let everybody in")
    if (options.users or options.user_files is not None) and options.no_auth:
        raise UsageError("--no-auth lets everybody in: leave out --user, or leave out --no-auth")
    if any(not user or not password for user, password in options.users.items()):
        raise UsageError("a user name or a password is empty")
    if not is_loopback(options.host):
        if not options.public:
            where = options.host or "every interface"
            raise UsageError(f"{where} can be reached from other machines: add --public if that is meant")
        if options.tls is None and not options.insecure:
            raise UsageError(
                "passwords and files would cross the network in clear text: "
                "give --tls, or --insecure if that is meant"
            )
    if options.tls is not None:
        server_tls_context(options.tls)


def server_tls_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for the server's side, TLS 1.2 and newer. Raises UsageError when the files cannot be used."""
    for file in (files.certificate, files.key):
        try:
            with file.open("rb"):
                pass
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python before 3.11.4 sets it; then a connection that was cut looks as if the other side had ended it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        # An empty password makes a key under a passphrase an error; without it OpenSSL asks on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"{files.certificate} and {files.key} are not a certificate and its key (PEM, no passphrase)"
        ) from error
    return context


# The Host header


def allowed_hosts(options: ServerOptions) -> frozenset[str]:
    """The names, in lower case, under which a browser may call this door; see ``is_allowed_host``.

    ``localhost``, the listen name, this machine's own name (also as ``name.local``), and what the certificate
    names (``*.example.org`` as it stands there).
    """
    machine = socket.gethostname()
    names = {"localhost", options.host, machine, machine.partition(".")[0] + ".local"}
    if options.tls is not None:
        names |= _certificate_names(options.tls.certificate)
    return frozenset(name.lower().rstrip(".") for name in names if name)


def is_allowed_host(header: str, allowed: frozenset[str]) -> bool:
    """Whether a ``Host`` header (with or without port) may be answered; ``allowed`` is of ``allowed_hosts``.

    The check is against DNS rebinding: a foreign page whose name was made to point here. Such a page always
    sends its *name*, so every numeric address is as good as another.
    """
    name = _host_of(header)
    if name is None:
        return False
    if _ip(name) is not None or name in allowed or name.endswith(".localhost"):
        return True
    _, _, parent = name.partition(".")
    return bool(parent) and f"*.{parent}" in allowed


def _host_of(header: str) -> str | None:
    """The host of ``host[:port]`` in lower case, an IPv6 address without its brackets; None if malformed."""
    if header.startswith("["):
        host, bracket, rest = header[1:].partition("]")
        if not bracket or _ip(host) is None:
            return None
    else:
        host, colon, port = header.partition(":")
        rest = colon + port
    if rest and not (rest.startswith(":") and (rest == ":" or (rest[1:].isascii() and rest[1:].isdigit()))):
        return None
    return host.lower().rstrip(".") or None


def _certificate_names(certificate: Path) -> set[str]:
    from cryptography import x509  # takes longer to import than all the rest of a door

    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    except (OSError, ValueError) as error:
        raise UsageError(f"{certificate} is not a certificate in PEM") from error
    return set(extension.value.get_values_for_type(x509.DNSName))


def retry_after_seconds(wait: float) -> int:
    """A wait of ``LoginThrottle`` as whole seconds for a client, at least 1."""
    return max(1, math.ceil(wait))
