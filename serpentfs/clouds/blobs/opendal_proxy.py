"""The proxy of OpenDAL, which has no setting for it: one HTTP client serves a whole process, and looks at the
environment when it sends its first request. That request is made here, to nobody, with the environment as it should be
for that moment: no other process sees it, and no child inherits a password."""

from __future__ import annotations

import contextlib
import socket

import opendal

from serpentfs.clouds.proxy import OnlyProxy, Proxy, environment_names_one, in_environment

_only = OnlyProxy()


def reach_through(proxy: Proxy) -> None:
    """For every store of this process. NotFound and UsageError for a password file that cannot be used; Unsupported
    when another way was chosen before. Blocks for some milliseconds."""
    if _only.is_chosen(proxy):
        return
    if proxy.is_auto and not environment_names_one():
        _only.choose(proxy)
        return
    with in_environment(proxy), socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))    # and does not listen: refused at once
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with contextlib.suppress(opendal.exceptions.Unexpected):
            opendal.Operator("http", endpoint=endpoint).stat("nothing")
    _only.choose(proxy)
