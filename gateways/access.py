"""Who may enter a network door, and over what: options and rules that WebDAV and FTP share (design §10).

A password is asked for on loopback too, because other users of this machine are not you. Off loopback a door
without TLS must be asked for by name (``insecure``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a certificate (with its chain) and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What ``webdav`` and ``ftp`` have in common."""

    host: str
    port: int
    """0 picks a free port."""
    users: dict[str, str] = field(default_factory=dict, repr=False)
    """User name to password. Empty only together with ``no_auth``."""
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
