"""Users of doors from files: who they are, what they may, and that a change of the files counts at once."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import ssl
from pathlib import Path

import pytest

from serpentfs.errors import UsageError
from serpentfs.gateways.access import ServerOptions, TlsFiles, UserFiles, server_tls_context
from serpentfs.gateways.accounts import EVERYTHING, Accounts, Rights, below, read_htpasswd
from serpentfs.gateways.watching import Watched, watched_tls
from serpentfs.password_hashes import hash_password, is_password_hash, matches
from tests.unit.access.test_access import Clock, write_certificate

SHA = "{SHA}" + base64.b64encode(hashlib.sha1(b"secret").digest()).decode()


def accounts(folder: Path, config: str = "", htpasswd: str | None = None) -> Accounts:
    files = UserFiles(folder / "config.toml", "webdav", None if htpasswd is None else folder / "htpasswd")
    (folder / "config.toml").write_text(config)
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
    return Accounts(ServerOptions("127.0.0.1", 0, user_files=files))


def later(path: Path, text: str) -> None:
    """Replace a file as editors do, so that it is another one whatever the clock says."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_our_hashes() -> None:
    made = hash_password("pässwörd")
    assert is_password_hash(made)
    assert made != hash_password("pässwörd")
    assert matches("pässwörd", made)
    assert not matches("passwort", made)
    assert not matches("\udcff", made)


@pytest.mark.parametrize("scheme", ["bcrypt", "sha512_crypt", "sha256_crypt", "apr_md5_crypt", "ldap_sha1"])
def test_hashes_of_htpasswd(scheme: str) -> None:
    from passlib.context import CryptContext

    handler = CryptContext(schemes=[scheme]).handler(scheme)
    cheap = {"bcrypt": {"rounds": 4}, "sha512_crypt": {"rounds": 1000}, "sha256_crypt": {"rounds": 1000}}
    made = handler.using(**cheap.get(scheme, {})).hash("secret")
    assert is_password_hash(made)
    assert matches("secret", made)
    assert not matches("Secret", made)
    assert not matches("x" * 100 + "\0", made)    # more than bcrypt takes


def test_vectors_of_others() -> None:
    """Of OpenSSL ("openssl passwd -6 -salt saltstring" and so on), and of bcrypt's own tests."""
    assert matches("secret", SHA)
    assert matches("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")
    for made in (
        "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnI"
        "FNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        "$apr1$abcdefgh$Unf1zc.jsgCbBQDCL104q.",
    ):
        assert is_password_hash(made)
        assert matches("Hello world!", made)


@pytest.mark.parametrize("text", ["secret", "", "$1$abc$def", "{SSHA}xxxx", "$scrypt$ln=15,r=8,p=1$a$b"])
def test_what_is_no_hash(text: str) -> None:
    assert not is_password_hash(text)
    assert not matches(text, text)


def test_rights(tmp_path: Path) -> None:
    found = accounts(
        tmp_path,
        f'[webdav.users.anna]\npassword-hash = "{SHA}"\nroot = "/Photos"\nread-only = true\n'
        '[webdav.users.carl]\nroot = "/C"\n',
        f"bob:{SHA}\n# nobody:{SHA}\n\ncarl:{SHA}\n",
    )
    assert found.check("anna", "secret") == Rights("/Photos", True)
    assert found.check("bob", "secret") == EVERYTHING
    assert found.check("carl", "secret") == Rights("/C")
    assert found.check("anna", "secret") == Rights("/Photos", True)    # known again
    for user, password in (("anna", "Secret"), ("anna", ""), ("nobody", "secret"), ("", "secret"), ("\udcff", "x")):
        assert found.check(user, password) is None


@pytest.mark.parametrize(("root", "own", "found"), [
    ("/", "/", "/"), ("/Work", "/", "/Work"), ("/", "/Photos/", "/Photos"), ("/Work/", "/a/b", "/Work/a/b"),
])
def test_roots_are_below_the_doors(root: str, own: str, found: str) -> None:
    assert below(root, Rights(own)) == found


def test_a_change_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serpentfs.gateways.watching._LOOK_EVERY", 0.0)
    found = accounts(tmp_path, "", f"anna:{SHA}\n")
    before = found.generation
    assert found.check("anna", "secret") == EVERYTHING
    assert found.generation == before
    later(tmp_path / "config.toml", '[webdav.users.anna]\nread-only = true\n[webdav]\nhtpasswd-file = "x"\n')
    assert found.check("anna", "secret") == Rights("/", True)
    assert found.generation > before
    later(tmp_path / "htpasswd", f"bob:{SHA}\nanna:{hash_password('other')}\n")
    assert found.check("anna", "secret") is None    # though it had been right
    assert found.check("anna", "other") == Rights("/", True)
    assert found.check("bob", "secret") == EVERYTHING


def test_a_file_that_went_wrong_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serpentfs.gateways.watching._LOOK_EVERY", 0.0)
    found = accounts(tmp_path, "", f"anna:{SHA}\n")
    later(tmp_path / "htpasswd", "anna:plain-canary\n")
    with caplog.at_level(logging.WARNING):
        assert found.check("anna", "secret") == EVERYTHING
        assert found.check("anna", "secret") == EVERYTHING
    (told,) = caplog.messages
    assert "what was there before stays in force" in told
    assert "canary" not in told
    (tmp_path / "htpasswd").unlink()
    assert found.check("anna", "secret") == EVERYTHING
    later(tmp_path / "htpasswd", "# nobody any more\n")
    assert found.check("anna", "secret") is None


@pytest.mark.parametrize(("text", "message"), [
    ("anna\n", "htpasswd:1: not USER:HASH"),
    (f"anna:{SHA}\nbob:canary-plain\n", "htpasswd:2: not USER:HASH"),
    (f":{SHA}\n", "htpasswd:1"),
    (f"anna:{SHA}\nanna:{SHA}\n", "htpasswd:2: the user anna is there twice"),
])
def test_wrong_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "htpasswd").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_htpasswd(tmp_path / "htpasswd")
    assert message in str(caught.value)
    assert "canary" not in str(caught.value)


def test_nobody_could_log_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nobody could log in"):
        accounts(tmp_path, "", "# empty\n")
    with pytest.raises(UsageError, match="cannot read"):
        read_htpasswd(tmp_path)
    with pytest.raises(UsageError, match=r"\[webdav.users.carl\].*does not have the user"):
        accounts(tmp_path, '[webdav]\nhtpasswd-file = "htpasswd"\n[webdav.users.carl]\n', f"anna:{SHA}\n")


def test_files_are_looked_at_once_a_second(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "file"
    file.write_text("one")
    watched = Watched("it", file.read_text, lambda _: [file], clock)
    later(file, "two")
    assert (watched.is_due, watched.value(), watched.generation) == (False, "one", 0)
    clock.now += 1.0
    assert watched.is_due
    assert (watched.value(), watched.last, watched.generation) == ("two", "two", 1)
    clock.now += 1.0
    assert (watched.value(), watched.generation) == ("two", 1)


def test_certificates_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serpentfs.gateways.watching._LOOK_EVERY", 0.0)
    (tmp_path / "new").mkdir()
    files, new = write_certificate(tmp_path), write_certificate(tmp_path / "new")
    watched = watched_tls(files, server_tls_context)
    first = watched.value()
    assert isinstance(first, ssl.SSLContext)
    assert watched.value() is first
    os.replace(new.certificate, files.certificate)
    assert watched.value() is first    # its key is still to come
    os.replace(new.key, files.key)
    assert watched.value() is not first
    with pytest.raises(UsageError):
        watched_tls(TlsFiles(files.key, files.key), server_tls_context)
