"""How requests of a remote leave this machine: through a proxy of its own, as the environment says, or directly.

Servers on this machine are always spoken to directly. The password of a proxy is read from its file when a connection
is set up, and not kept with the rest. ``config`` reads what the user wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from serpentfs.config import PROXY_AUTO, PROXY_NONE
from serpentfs.credentials import read_secret_file
from serpentfs.errors import Unsupported, UsageError

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_NOT_THROUGH = "localhost,127.0.0.0/8,::1,169.254.169.254,169.254.170.2"
"""This machine, and where machines in clouds ask for their role's keys."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """``setting`` is ``auto`` (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY of the environment), ``none``, or the
    URL of a proxy, perhaps with a user and never with a password."""

    setting: str = PROXY_AUTO
    password_file: Path | None = None

    @property
    def is_auto(self) -> bool:
        return self.setting == PROXY_AUTO

    def url(self) -> str | None:
        """With the password; None when there is no proxy of its own. Blocks. NotFound and UsageError for a password
        file that cannot be used."""
        if self.setting in (PROXY_AUTO, PROXY_NONE):
            return None
        if self.password_file is None:
            return self.setting
        parts = urlsplit(self.setting)
        if not parts.username:
            raise UsageError("a password for the proxy, and no user: the proxy's URL is http://USER@HOST:PORT then")
        password = quote(read_secret_file(self.password_file, "proxy password"), safe="")
        user, _, host = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}:{password}@{host}").geturl()


@contextmanager
def in_environment(proxy: Proxy) -> Iterator[None]:
    """For libraries that only look at the environment: within the block it says what ``proxy`` does, and that this
    machine is not reached through any. Nothing else may start a process meanwhile, which would see the password."""
    names = [spelling for name in _VARIABLES for spelling in (name, name.upper())]
    before = {name: os.environ[name] for name in names if name in os.environ}
    said = _as_variables(proxy, before)
    try:
        for name in before:
            del os.environ[name]
        os.environ |= said
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ |= before


def _as_variables(proxy: Proxy, before: Mapping[str, str]) -> dict[str, str]:
    if proxy.is_auto:
        excepted = before.get("NO_PROXY") or before.get("no_proxy")
        kept = {name: value for name, value in before.items() if name.lower() != "no_proxy"}
        return {**kept, "no_proxy": f"{excepted},{_NOT_THROUGH}" if excepted else _NOT_THROUGH}
    url = proxy.url()
    if url is None:
        return {"no_proxy": "*"}
    return {"http_proxy": url, "https_proxy": url, "no_proxy": _NOT_THROUGH}


def environment_names_one() -> bool:
    """Whether ``auto`` is any proxy at all."""
    return any(os.environ.get(spelling) for name in _VARIABLES[:3] for spelling in (name, name.upper()))


class OnlyProxy:
    """For a library that keeps to the proxy of its first request for the life of a process."""

    def __init__(self) -> None:
        self._chosen: Proxy | None = None

    def is_chosen(self, proxy: Proxy) -> bool:
        """Whether it is this one. Unsupported when it is another."""
        if self._chosen not in (None, proxy):
            raise Unsupported("this process reaches another store by another way: one proxy for all of them, or a "
                              "command for each")
        return self._chosen is not None

    def choose(self, proxy: Proxy) -> None:
        """The first request was sent."""
        self._chosen = proxy
