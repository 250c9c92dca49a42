"""Public links through the installed command: to something inside a folder, with an end, under a password."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import pytest

from tests.e2e.cli.conftest import needs_fuse
from tests.e2e.cli.test_mega import (  # noqa: F401 - the fixtures of an account and its server
    CONTENT,
    NAME,
    Account,
    account,
    server,
)


def open_link(account: Account, link: str, *words: str) -> None:
    done = account.machine.run("login", "-", "--name", "theirs", *words, stdin=link + "\n")
    assert (done.returncode, done.stderr) == (0, "")


def handle_of(account: Account, path: str) -> str:
    return next(entry.handle for entry in account.server.tree(account.email) if entry.path == path)


@needs_fuse
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_something_inside_a_folder(account: Account, kind: str) -> None:
    machine, server = account.machine, account.server
    top = server.add_folder(account.email, "shared")
    inner = server.add_folder(account.email, "inner", parent=top)
    server.add_file(account.email, NAME, CONTENT, parent=inner)
    server.add_file(account.email, "beside", b"b", parent=inner)
    account.log_in()
    whole = machine.ok("export", "mega:/shared").strip()
    named = handle_of(account, "/shared/inner" if kind == "folder" else f"/shared/inner/{NAME}")
    open_link(account, f"{whole}/{kind}/{named}")
    expected = ["beside", NAME] if kind == "folder" else [NAME]
    assert account.ls("theirs:") == expected
    mountpoint = account.mount("theirs:")
    assert (mountpoint / NAME).read_bytes() == CONTENT
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / NAME).unlink()
    account.umount()
    machine.ok("logout", "theirs")
    # The folder itself is another remote, whose state is not mixed up with that of its part.
    open_link(account, whole)
    assert account.ls("theirs:") == ["inner/"]
    machine.ok("logout", "theirs")
    done = machine.run("login", "-", "--name", "theirs", stdin=f"{whole}/folder/AbCdEfGh\n")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "not in the shared folder" in done.stderr
