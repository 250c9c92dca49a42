"""Public links through the installed command: to something inside a folder, with an end, under a password."""

# ruff: noqa: F811 - fixtures are taken by their names

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio

from serpentfs.clouds.mega.api import open_api
from serpentfs.clouds.mega.session import load_session
from serpentfs.clouds.mega.transport import Transport
from tests.e2e.cli.conftest import needs_fuse
from tests.e2e.cli.test_mega import (  # noqa: F401 - the fixtures of an account and its server
    CONTENT,
    NAME,
    Account,
    account,
    leaks,
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


def at_server(account: Account, *commands: dict[str, Any]) -> Any:
    """The answer of the account's server to the last of these commands, given with the session that is kept."""

    async def ask() -> Any:
        session = load_session(account.session_file)
        transport = Transport()
        try:
            async with open_api(transport, session.api, sid=session.sid, link=None) as api:
                return [await api.command(command) for command in commands][-1]
        finally:
            await transport.aclose()

    return trio.run(ask)


def links_of(account: Account) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = at_server(account, {"a": "f", "c": 1, "r": 1})["ph"]
    return found


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_with_an_end(account: Account, kind: str) -> None:
    machine = account.machine
    folder = account.server.add_folder(account.email, "folder")
    account.server.add_file(account.email, NAME, CONTENT, parent=folder)
    path = "/folder" if kind == "folder" else f"/folder/{NAME}"
    handle = handle_of(account, path)
    account.log_in()
    before = int(time.time())
    link = machine.ok("export", f"mega:{path}", "--expire", "2h").strip()
    (kept,) = links_of(account)
    assert kept["h"] == handle
    assert before + 7200 <= kept["ets"] <= time.time() + 7200
    open_link(account, link)
    assert account.ls("theirs:") == [NAME]
    machine.ok("logout", "theirs")
    # The same link with another end, which is told; what does not name one leaves it.
    told = json.loads(machine.ok("export", f"mega:{path}", "--expire", "2999-12-31", "--json"))
    assert told["link"] == link
    assert [one["ets"] for one in links_of(account)] == [told["expires"]] == [32503679999]
    assert machine.ok("export", f"mega:{path}").strip() == link
    assert [one["ets"] for one in links_of(account)] == [32503679999]
    # When it is over nobody opens it.
    at_server(account, {"a": "l", "n": handle, "ets": before - 1})
    done = machine.run("login", "-", "--name", "theirs", stdin=link + "\n")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "expired" in done.stderr


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_under_a_password(account: Account, kind: str) -> None:
    machine = account.machine
    folder = account.server.add_folder(account.email, "folder")
    account.server.add_file(account.email, NAME, CONTENT, parent=folder)
    account.log_in()
    for name, text in (("right", "canary-link-password"), ("wrong", "another")):
        (machine.home / name).touch(0o600)
        (machine.home / name).write_text(text)
    path = "mega:/folder" if kind == "folder" else f"mega:/folder/{NAME}"
    link = machine.ok("export", path, "--password-file", str(machine.home / "right"), "--expire", "1d").strip()
    assert "#P!" in link
    assert links_of(account)[0]["ets"] > time.time() + 86000
    wrong = machine.run("login", "-", "--name", "theirs", "--password-file", str(machine.home / "wrong"), stdin=link)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (3, 1)
    assert machine.run("login", "-", "--name", "theirs", stdin=link).returncode == 2    # nobody to be asked
    open_link(account, link, "--password-file", str(machine.home / "right"))
    assert account.ls("theirs:") == [NAME]
    assert not leaks(machine.home, b"canary-link-password", but=(machine.home / "right",))
