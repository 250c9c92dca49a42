"""The account's other trees through the installed command."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import errno

import pytest

from tests.e2e.cli.conftest import needs_fuse
from tests.e2e.cli.test_mega import CONTENT, Account, account, server  # noqa: F401 - the last two are fixtures


@needs_fuse
def test_the_inbox_is_read_only(account: Account) -> None:
    server = account.server
    inbox = next(node["h"] for node in server.control("tree", email=account.email) if node["t"] == 3)
    server.add_file(account.email, "file", CONTENT, parent=inbox)
    server.add_file(account.email, "in the cloud drive", b"x")
    account.log_in()
    assert account.machine.ok("ls", "mega:", "--root", "inbox") == "file\n"
    mountpoint = account.mount("mega:", "--root", "inbox")
    assert (mountpoint / "file").read_bytes() == CONTENT
    for change in (
        lambda: (mountpoint / "new").write_bytes(b"x"), (mountpoint / "file").unlink, (mountpoint / "new").mkdir
    ):  # fmt: skip
        with pytest.raises(OSError, match="Read-only") as refused:
            change()
        assert refused.value.errno == errno.EROFS


@needs_fuse
def test_nothing_is_shared_with_the_account(account: Account) -> None:
    account.log_in()
    assert account.machine.ok("ls", "mega:", "--root", "shares") == ""
    mountpoint = account.mount("mega:", "--root", "shares")
    assert list(mountpoint.iterdir()) == []
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "new").mkdir()
