"""Names of log-ins, what they resolve to, and the command line around accounts, without an account."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import pytest

from serpentfs.cli.display import Display
from serpentfs.cli.links import read_link, read_link_password
from serpentfs.cli.main import main
from serpentfs.cli.remotes import resolve
from serpentfs.cli.seeing import status_lines
from serpentfs.cli.sharing import parse_expiry
from serpentfs.clouds.mega.session import Session, save_session
from serpentfs.clouds.registry import RemoteSpec, parse_remote, session_spec
from serpentfs.daemon import places
from serpentfs.daemon.accounts import MegaAccess, remote_id_of, trees_of
from serpentfs.errors import NotFound, UsageError

ACCOUNT = Session(
    kind="account", api="http://127.0.0.1:1", user="-_AbCdEfGhI", email="a@example.test", sid="s" * 58, key=b"k" * 16
)
FOLDER = Session(
    kind="folder-link", api="http://127.0.0.1:1", user="_-345678", email="", sid="", key=b"canary-link-key!"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATE", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def keep(name: str, session: Session = ACCOUNT) -> Path:
    path = places.session_file(name)
    places.make_private_directory(path.parent)
    save_session(path, session)
    return path


def configure(home: Path, text: str) -> None:
    folder = home / "config" / "serpentfs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)


def resolved(remote: str, root: str | None = None) -> tuple[str, str]:
    """The canonical URL and the folder that a REMOTE argument means."""
    target = resolve(argparse.Namespace(remote=remote, config=None, root=root))
    return target.spec.canonical, target.path


# grammar


@pytest.mark.parametrize(("text", "expected"), [
    ("mega+session://mega", RemoteSpec("mega", "session", "mega")),
    ("MEGA+session://my-box.2/#/Photos", RemoteSpec("mega", "session", "my-box.2", path="/Photos")),
    ("mega+session://mega?root=cloud", RemoteSpec("mega", "session", "mega")),
    ("mega+session://mega?root=inbox#/a", RemoteSpec("mega", "session", "mega", options={"root": "inbox"}, path="/a")),
])
def test_urls_of_accounts(text: str, expected: RemoteSpec) -> None:
    assert parse_remote(text) == expected
    assert isinstance(expected, RemoteSpec)
    assert parse_remote(expected.canonical) == RemoteSpec("mega", "session", expected.location,
                                                          options=expected.options)


@pytest.mark.parametrize("text", [
    "mega+session://", "mega+session://a/b", "mega+session://.a", "mega+session://a%2fb", "mega+file:///x",
    "vault+session://x", "mega+session://m?root=attic", "mega+session://m?root=", "mega+session://m?endpoint=x",
    "mega+session://m?sid=hunter2", "mega+session://m?key=hunter2", "mega+session://hunter2@m",
])
def test_what_is_no_account(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_remote(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("link", [
    "https://mega.nz/file/AbCdEfGh#hunter2", "https://mega.nz/#F!AbCdEfGh!hunter2",
    "http://www.mega.co.nz/#!AbCdEfGh!hunter2",
])
def test_a_link_as_remote_is_not_repeated(link: str) -> None:
    with pytest.raises(UsageError, match="given to serpentfs login") as caught:
        parse_remote(link)
    assert "hunter2" not in str(caught.value)


def test_roots_are_part_of_what_a_remote_is() -> None:
    spec = session_spec("mega", "/a")
    assert spec.root == "cloud"
    assert spec.canonical == "mega+session://mega"
    assert spec.with_root("shares").canonical == "mega+session://mega?root=shares"
    assert spec.with_root("shares").with_root("cloud") == spec
    vault = parse_remote("vault+file:///v")
    assert isinstance(vault, RemoteSpec)
    with pytest.raises(UsageError, match="for MEGA accounts"):
        vault.with_root("inbox")


# resolution


def test_names_of_log_ins(home: Path) -> None:
    keep("mega")
    keep("second")
    assert resolved("mega:") == ("mega+session://mega", "/")
    assert resolved("mega") == ("mega+session://mega", "/")
    assert resolved("second:/a/b") == ("mega+session://second", "/a/b")
    assert resolved("mega:/x", root="rubbish") == ("mega+session://mega?root=rubbish", "/x")


def test_the_configuration_comes_first(home: Path) -> None:
    keep("mega")
    configure(home, """
        [remote.mega]
        url = "vault+file:///srv/v"
        [remote.photos]
        url = "mega+session://mega#/Photos"
        root = "inbox"
        hard-delete = true
        thumbnails = true
    """)
    assert resolved("mega:") == ("vault+file:///srv/v", "/")
    assert resolved("photos:/2026") == ("mega+session://mega?root=inbox", "/Photos/2026")
    assert resolved("photos:", root="cloud") == ("mega+session://mega", "/Photos")


@pytest.mark.parametrize(("table", "message"), [
    ('url = "vault+file:///v"\nroot = "inbox"', '"root" of [remote.a]'),
    ('url = "vault+file:///v"\nhard-delete = false', '"hard-delete" of [remote.a]'),
    ('url = "vault+file:///v"\nversions-view = true', '"versions-view" of [remote.a]'),
    ('url = "mega+session://m"\nroot = "attic"', 'must be one of "cloud"'),
    ('url = "mega+session://m"\nthumbnails = "yes"', "must be true or false"),
    ('url = "mega:"', "is not a URL"),
])
def test_mistakes_in_the_configuration(home: Path, table: str, message: str) -> None:
    configure(home, f"[remote.a]\n{table}\n")
    with pytest.raises(UsageError) as caught:
        resolved("a:")
    assert message in str(caught.value)


def test_names_that_nobody_has(home: Path) -> None:
    with pytest.raises(NotFound, match="serpentfs login EMAIL makes one"):
        resolved("mega:")
    keep("mega")
    with pytest.raises(NotFound, match='did you mean "mega"'):
        resolved("mgea:")
    configure(home, '[remote.v]\nurl = "vault+file:///v"\n')
    with pytest.raises(UsageError, match="for MEGA accounts"):
        resolved("v:", root="inbox")


def test_sessions_are_found_by_name_only(home: Path) -> None:
    path = keep("a.b")
    assert path.stat().st_mode & 0o077 == 0
    assert places.known_sessions() == ["a.b"]
    assert resolved("a.b:") == ("mega+session://a.b", "/")


# state folders


def test_every_tree_has_a_folder_of_its_own() -> None:
    ids = [id_ for _, id_ in trees_of("mega", ACCOUNT)]
    assert ids[0] == "mega--_AbCdEfGhI"
    assert len(set(ids)) == 4
    assert [spec.canonical for spec, _ in trees_of("x", FOLDER)] == ["mega+session://x"]
    assert remote_id_of(FOLDER, "cloud") == "mega-link-_-345678"
    assert all(places.places_of(id_).state.name == id_ for id_ in ids)


def test_what_is_read_only() -> None:
    assert not MegaAccess(ACCOUNT).read_only
    assert not MegaAccess(ACCOUNT, root="rubbish").read_only
    assert MegaAccess(ACCOUNT, root="inbox").read_only
    assert MegaAccess(ACCOUNT, root="shares").read_only
    assert MegaAccess(FOLDER).read_only
    with pytest.raises(UsageError, match="a link has no other roots"):
        MegaAccess(FOLDER, root="inbox")


def test_access_shows_no_key() -> None:
    shown = repr(MegaAccess(FOLDER)) + repr(FOLDER)
    assert "canary" not in shown


# commands


@pytest.mark.parametrize(("words", "code", "message"), [
    (["login"], 2, "either an account's e-mail address"),
    (["login", "me@example.org", "--link-file", "x"], 2, "either an account's e-mail address"),
    (["login", "nobody"], 2, "neither an e-mail address nor a link"),
    (["login", "me@example.org", "--name", "a/b"], 2, "is no name for a remote"),
    (["login", "me@example.org", "--name", "mega"], 10, "serpentfs logout mega"),
    (["login", "https://mega.nz/file/short#hunter2", "--name", "mega"], 10, "serpentfs logout mega"),
    (["logout", "other:"], 4, "no remote"),
    (["whoami", "vault+file:///v"], 2, "nobody logs in"),
    (["session", "mega"], 2, "on a terminal only"),
    (["session", "link"], 2, "a link has no session"),
    (["versions", "vault+file:///v#/x"], 12, "neither versions nor links"),
    (["export", "vault+file:///v#/x"], 12, "neither versions nor links"),
    (["import", "-", "vault+file:///v#/x"], 12, "neither versions nor links"),
    (["trash", "vault+file:///v"], 12, "no rubbish bin"),
    (["trash", "vault+file:///v", "--yes"], 2, "--yes goes with --empty"),
    (["restore", "vault+file:///v", "x"], 12, "no rubbish bin"),
    (["init", "mega:"], 12, "this is for vaults"),
    (["check", "mega:"], 12, "this is for vaults"),
    (["ls", "gone:", "--root", "inbox"], 4, "no log-in called gone"),
    (["webdav", "vault+file:///v", "--no-auth", "--hard-delete"], 2, "for MEGA accounts"),
    (["webdav", "vault+file:///v", "--no-auth", "--versions-view"], 2, "for MEGA accounts"),
    (["versions", "mega:/x", "--restore", "0"], 2, "is not a whole number"),
    (["versions", "mega:/x", "--restore", "1", "--delete-old"], 2, "not allowed with"),
    (["export", "mega:/x", "-d", "--expire", "3d"], 2, "takes the link back"),
    (["export", "mega:/x", "--expire", "soon"], 2, "is not a time such as"),
])
def test_mistakes_are_one_line(
    home: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep("mega")
    keep("link", FOLDER)
    configure(home, '[remote.gone]\nurl = "mega+session://gone"\n')
    assert main(words) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert "hunter2" not in printed.err


def test_the_session_string_is_shown_when_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep("mega")
    assert main(["session", "mega", "--show"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_link_as_argument_is_warned_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_link("https://mega.nz/file/x#hunter2") == "https://mega.nz/file/x#hunter2"
    assert "other users" in caplog.text
    assert "hunter2" not in caplog.text
    caplog.clear()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the link\nthe password\n")))
    assert read_link("-") == "the link"
    from_stdin = argparse.Namespace(password_file=Path("-"), password_command=None)
    assert read_link_password(from_stdin) == "the password"
    assert not caplog.text


def test_a_link_file(tmp_path: Path) -> None:
    (tmp_path / "link").touch(0o600)
    (tmp_path / "link").write_text("the link\n")
    assert read_link(None, tmp_path / "link") == "the link"
    with pytest.raises(NotFound, match="no such link file"):
        read_link(None, tmp_path / "none")


@pytest.mark.parametrize(("text", "moment"), [
    ("1m", 1_000_060), ("12h", 1_043_200), ("30d", 3_592_000), ("2w", 2_209_600), ("1970-01-13", 13 * 86400 - 1),
])
def test_times_of_expiry(text: str, moment: int) -> None:
    assert parse_expiry(text, now=1_000_000.7) == moment


@pytest.mark.parametrize("text", ["", "0d", "-1d", "1y", "1.5d", "1970-01-01", "2026-02-30", "tomorrow"])
def test_what_is_no_time_of_expiry(text: str) -> None:
    with pytest.raises(UsageError):
        parse_expiry(text, now=1_000_000)


def test_status_tells_trouble_and_quota() -> None:
    printed = "\n".join(status_lines({
        "remote": "mega+session://mega", "phase": "running", "pid": 1, "doors": {},
        "account": {"trouble": "the session has ended", "over_quota_until": 4_000_000_000.0},
        "cloud": {"state": "over quota", "until": 4_000_000_000.0}, "speed": {"up": 0, "down": 0},
        "limits": {"up": None, "down": None},
    }, Display()))
    assert "the session has ended" in printed
    assert "over quota until 2096-10-0" in printed
    quiet = list(status_lines({
        "remote": "mega+session://mega", "phase": "running", "pid": 1, "doors": {},
        "account": {"trouble": None, "over_quota_until": None},
    }, Display()))
    assert len(quiet) == 1
