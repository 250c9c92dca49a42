"""Where a log-in is kept: in a keyring or in a file, and what becomes of it when the keyring fails."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring.core
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null

from serpentfs import config
from serpentfs.clouds.mega.session import Session, load_session, remove_session, save_session
from serpentfs.errors import NotFound, PermissionDenied, SerpentError, Unavailable, Unsupported, UsageError
from serpentfs.system_keyring import open_keyring
from tests.file_keyring import FILE_VARIABLE, FileKeyring, ForgetfulKeyring, LockedKeyring, PlainKeyring

SESSION = Session(
    kind="account", api="http://127.0.0.1:1", user="-_AbCdEfGhI", email="a@example.test", sid="canary-sid" * 5,
    key=b"canary-masterkey",
)
Use = Callable[[KeyringBackend], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Use]:
    """Makes a backend the one that programs get."""
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "ring.json"))
    before = keyring.core._keyring_backend
    yield keyring.set_keyring
    keyring.core._keyring_backend = before


def entries(folder: Path) -> dict[str, str]:
    return FileKeyring()._entries() if (folder / "ring.json").exists() else {}


def test_a_session_in_a_keyring(use: Use, tmp_path: Path) -> None:
    use(FileKeyring())
    path = tmp_path / "mega.session"
    save_session(path, SESSION, open_keyring(recommended=True))
    assert path.stat().st_mode & 0o777 == 0o600
    assert "canary" not in path.read_text()
    assert SESSION.sid not in path.read_text()
    assert load_session(path) == SESSION
    assert len(entries(tmp_path)) == 1
    # The same name in another state folder is another entry.
    (tmp_path / "other").mkdir()
    save_session(tmp_path / "other" / "mega.session", SESSION, open_keyring())
    assert len(entries(tmp_path)) == 2
    remove_session(path)
    assert not path.exists()
    assert len(entries(tmp_path)) == 1
    assert load_session(tmp_path / "other" / "mega.session") == SESSION
    remove_session(path)    # nothing is there: no error


def test_a_session_in_a_file(use: Use, tmp_path: Path) -> None:
    use(FileKeyring())
    path = tmp_path / "mega.session"
    save_session(path, SESSION)
    assert load_session(path) == SESSION
    assert not entries(tmp_path)
    remove_session(path)
    assert not path.exists()


@pytest.mark.parametrize("backend", [fail.Keyring, null.Keyring])
def test_what_is_no_keyring(use: Use, backend: type[KeyringBackend]) -> None:
    use(backend())
    with pytest.raises(Unsupported, match="there is no keyring"):
        open_keyring()


def test_a_keyring_that_does_not_encrypt_is_used_when_asked_for_only(use: Use, tmp_path: Path) -> None:
    use(PlainKeyring())
    with pytest.raises(Unsupported, match="recommended"):
        open_keyring(recommended=True)
    save_session(tmp_path / "mega.session", SESSION, open_keyring())
    assert load_session(tmp_path / "mega.session") == SESSION


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, use: Use, tmp_path: Path) -> None:
    use(FileKeyring())
    path = tmp_path / "mega.session"
    save_session(path, SESSION, open_keyring())
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(Unsupported, match=r"serpentfs\[keyring\]"):
        open_keyring()
    with pytest.raises(Unsupported, match=r"serpentfs\[keyring\]"):
        load_session(path)
    with pytest.raises(Unsupported):
        remove_session(path)
    assert path.exists(), "for another try"


def test_settings_that_name_no_backend(monkeypatch: pytest.MonkeyPatch, use: Use) -> None:
    monkeypatch.setattr(keyring.core, "_keyring_backend", None)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "nowhere.Keyring")
    with pytest.raises(Unsupported, match="cannot be used"):
        open_keyring()


@pytest.mark.parametrize("backend", [ForgetfulKeyring, LockedKeyring])
def test_a_keyring_that_does_not_keep_it(use: Use, tmp_path: Path, backend: type[KeyringBackend]) -> None:
    use(backend())
    with pytest.raises(Unavailable) as caught:
        save_session(tmp_path / "mega.session", SESSION, open_keyring(recommended=True))
    assert not (tmp_path / "mega.session").exists()
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_an_entry_does_not_stay_without_its_file(use: Use, tmp_path: Path) -> None:
    use(FileKeyring())
    (tmp_path / "mega.session").mkdir()
    with pytest.raises(PermissionDenied):
        save_session(tmp_path / "mega.session", SESSION, open_keyring())
    assert not entries(tmp_path)


def test_a_keyring_that_lost_it_or_is_locked(use: Use, tmp_path: Path) -> None:
    path = tmp_path / "mega.session"
    use(FileKeyring())
    save_session(path, SESSION, open_keyring())
    use(LockedKeyring())
    with pytest.raises(Unavailable, match="locked"):
        load_session(path)
    with pytest.raises(Unavailable):
        remove_session(path)
    assert path.exists()
    use(FileKeyring())
    (tmp_path / "ring.json").write_text("{}")
    with pytest.raises(NotFound, match="log in again"):
        load_session(path)
    remove_session(path)
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "[]", "null", '"text"', '{"kind": "account"}'])
def test_files_that_are_no_session(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mega.session"
    path.write_text(text)
    with pytest.raises(UsageError, match="holds no session"):
        load_session(path)
    remove_session(path)
    assert not path.exists()


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"sid": "x", "key": "canary"}'])
def test_entries_that_are_no_session(use: Use, tmp_path: Path, kept: str) -> None:
    use(FileKeyring())
    path = tmp_path / "mega.session"
    save_session(path, SESSION, open_keyring())
    (entry,) = entries(tmp_path)
    (tmp_path / "ring.json").write_text(json.dumps({entry: kept}))
    with pytest.raises(SerpentError) as caught:
        load_session(path)
    assert isinstance(caught.value, UsageError)
    assert "canary" not in str(caught.value)


def test_the_configuration_chooses(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('session-store = "file"\n[remote.a]\nurl = "mega+session://a"\n')
    assert config.load(path).session_store == "file"
    path.write_text('[remote.a]\nurl = "mega+session://a"\n')
    assert config.load(path).session_store == "auto"
    assert config.load(tmp_path / "none").session_store == "auto"
    for wrong in ('"vault"', "true", "[]"):
        path.write_text(f"\nsession-store = {wrong}\n")
        with pytest.raises(UsageError, match=r'config\.toml:2: "session-store" must be one of "auto"'):
            config.load(path)
    path.write_text('session-stor = "file"\n')
    with pytest.raises(UsageError, match='did you mean "session-store"'):
        config.load(path)
