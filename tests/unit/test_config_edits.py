"""Keys of ``config.toml`` set, taken out and renamed by commands: what the user wrote stays as it is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from serpentfs.config_edits import add_remote, change_keys, remove_remote, rename_remote
from serpentfs.errors import AlreadyExists, NotFound, UsageError

TEXT = """\
# of mine
session-store = "file"   # why

[remote.one] # the first
url = "vault+file:///one"
  "settle" = 2
# settle = 3

# about two
[ remote . two ]
url = "vault+file:///two"
[webdav]
listen = "127.0.0.1:1"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    return path


def tables(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def test_a_key_that_is_there(path: Path) -> None:
    change_keys(path, "one", {"settle": 7})
    assert path.read_text() == TEXT.replace('  "settle" = 2\n', "settle = 7\n")
    change_keys(path, "one", {"settle": None})
    assert path.read_text() == TEXT.replace('  "settle" = 2\n', "")
    change_keys(path, "one", {"settle": None})    # it is gone already


def test_a_new_key_comes_after_the_others_of_its_table(path: Path) -> None:
    change_keys(path, "two", {"mount": "/mnt", "read-only": True})
    new = 'url = "vault+file:///two"\nmount = "/mnt"\nread-only = true\n'
    assert path.read_text() == TEXT.replace('url = "vault+file:///two"\n', new)
    change_keys(path, "one", {"uploads": 3})
    assert '  "settle" = 2\nuploads = 3\n# settle = 3\n' in path.read_text()


def test_keys_before_the_tables(path: Path) -> None:
    change_keys(path, None, {"proxy": "none"})
    assert path.read_text() == TEXT.replace("# why\n", '# why\nproxy = "none"\n')
    change_keys(path, None, {"proxy": None, "session-store": "keyring"})
    assert path.read_text() == TEXT.replace('session-store = "file"   # why\n', 'session-store = "keyring"\n')


@pytest.mark.parametrize("text", ["", "\n", "# only this", '[remote.one]\nurl = "vault+file:///one"'])
def test_a_first_key_before_the_tables(path: Path, text: str) -> None:
    path.write_text(text)
    change_keys(path, None, {"proxy": "auto"})
    assert tables(path)["proxy"] == "auto"
    assert text.strip() in path.read_text()
    path.unlink()
    change_keys(path, None, {"proxy": "auto"})
    assert path.read_text() == 'proxy = "auto"\n'
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_name(path: Path) -> None:
    rename_remote(path, "two", "three.4")
    assert path.read_text() == TEXT.replace("[ remote . two ]", '[remote."three.4"]')
    with pytest.raises(AlreadyExists):
        rename_remote(path, "one", "three.4")
    with pytest.raises(NotFound):
        rename_remote(path, "two", "five")


@pytest.mark.parametrize("text", [
    'remote.one = {url = "vault+file:///one"}\n', 'remote.one.url = "vault+file:///one"\n',
    '[remote]\none = {url = "vault+file:///one"}\n',
])  # fmt: skip
def test_a_style_that_is_not_understood_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match="by hand"):
        change_keys(path, "one", {"settle": 1})
    with pytest.raises(UsageError, match="by hand"):
        rename_remote(path, "one", "two")
    with pytest.raises(UsageError, match="by hand"):
        remove_remote(path, "one")
    assert path.read_text() == text


def test_what_would_be_wrong_is_not_written(path: Path) -> None:
    for values in ({"settle": "soon"}, {"no-such-key": 1}, {"url": None}):
        with pytest.raises(UsageError):
            change_keys(path, "one", values)
    with pytest.raises(NotFound):
        change_keys(path, "none", {"settle": 1})
    with pytest.raises(AlreadyExists):
        add_remote(path, "one", {"url": "vault+file:///x"})
    assert path.read_text() == TEXT
