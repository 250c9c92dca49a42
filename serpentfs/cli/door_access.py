"""Options of the network doors: what the command line says, else ``[webdav]`` and ``[ftp]`` of ``config.toml``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeVar

from serpentfs import config as configuration
from serpentfs.cli.remotes import said_by_environment
from serpentfs.credentials import read_secret_file
from serpentfs.errors import UsageError
from serpentfs.gateways.access import FtpOptions, ServerOptions, TlsFiles, UserFiles

T = TypeVar("T")

_WAYS = (("user", "pass_file"), ("htpasswd_file",), ("no_auth",))
"""Options of each way to tell who may log in."""
DEFAULT_ADDRESSES = {"webdav": ("127.0.0.1", 4443), "ftp": ("127.0.0.1", 4990)}


class DoorAccess:
    """For one command. ``root`` is the folder of the drive that its doors show. UsageError where the configuration is
    wrong, or what is asked for does not go together."""

    def __init__(self, arguments: argparse.Namespace, root: str) -> None:
        self._arguments = arguments
        self._root = root
        chosen: Path | None = arguments.config
        self._path = chosen or configuration.default_path()
        self._config = configuration.load(self._path, must_exist=chosen is not None)
        self._single: dict[str, str] | None = None
        self._drop_overruled()

    def _drop_overruled(self) -> None:
        """Whoever types one way to log in does not mean another that the environment has, too."""
        arguments, from_variables = self._arguments, said_by_environment(self._arguments)
        typed = [way for way in _WAYS if any(getattr(arguments, one) and one not in from_variables for one in way)]
        for way in _WAYS:
            if typed and way not in typed:
                for name in way:
                    setattr(arguments, name, None)

    def webdav(self, listen: tuple[str, int] | None = None) -> ServerOptions:
        return self._server("webdav", listen)

    def ftp(self, listen: tuple[str, int] | None = None) -> FtpOptions:
        section = self._config.doors["ftp"]
        return FtpOptions(
            self._server("ftp", listen), data_ports=_first(self._arguments.data_ports, section.data_ports),
            public_ip=_first(self._arguments.public_ip, section.public_ip),
        )

    def _server(self, door: str, listen: tuple[str, int] | None) -> ServerOptions:
        arguments, section = self._arguments, self._config.doors[door]
        host, port = listen or section.listen or DEFAULT_ADDRESSES[door]
        user_files = self._user_files(door, section)
        return ServerOptions(
            host=host, port=port, users={} if arguments.no_auth or user_files is not None else self._single_user(),
            user_files=user_files, no_auth=bool(arguments.no_auth), tls=self._tls(section),
            public=bool(_first(arguments.public, section.public)),
            insecure=bool(_first(arguments.insecure, section.insecure)),
            root=self._root, read_only=bool(arguments.read_only),
        )

    def _user_files(self, door: str, section: configuration.DoorConfig) -> UserFiles | None:
        """None when the command line has the one user, or lets everybody in."""
        arguments = self._arguments
        names = (name for way in _WAYS for name in way if name != "no_auth")
        said = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
        if arguments.no_auth:
            if said:
                raise UsageError(f"--no-auth lets everybody in: it does not go together with {' and '.join(said)}")
            return None
        if arguments.user or arguments.pass_file:
            if arguments.htpasswd_file:
                raise UsageError("--htpasswd-file has the users: it does not go together with --user and --pass-file")
            return None
        # The table of users also says what those of an htpasswd file may do.
        path = self._path if section.users or section.htpasswd_file else None
        if path is None and arguments.htpasswd_file is None:
            raise UsageError(
                f"a network door needs --user NAME and --pass-file FILE (or --htpasswd-file FILE, or users in "
                f"[{door}.users] of {self._path}, or --no-auth)"
            )
        return UserFiles(path, door, arguments.htpasswd_file)

    def _single_user(self) -> dict[str, str]:
        if self._single is None:
            user, file = self._arguments.user, self._arguments.pass_file
            if not user or not file:
                raise UsageError("a network door needs both, --user NAME and --pass-file FILE (or --no-auth)")
            self._single = {user: read_secret_file(file.expanduser(), "password")}    # once: it may be standard input
        return self._single

    def _tls(self, section: configuration.DoorConfig) -> TlsFiles | None:
        arguments = self._arguments
        certificate, key = _first(arguments.certificate, section.certificate), _first(arguments.key, section.key)
        if not _first(arguments.tls, section.certificate is not None):
            if arguments.certificate or arguments.key:
                raise UsageError("--certificate and --key need --tls")
            return None
        if certificate is None or key is None:
            raise UsageError("--tls needs --certificate FILE and --key FILE")
        return TlsFiles(certificate, key)


def _first(said: T | None, configured: T | None) -> T | None:
    return configured if said is None else said
