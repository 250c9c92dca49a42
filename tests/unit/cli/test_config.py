from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs import config
from serpentfs.amounts import parse_size
from serpentfs.errors import NotFound, UsageError


def load(folder: Path, text: str) -> config.Config:
    path = folder / "config.toml"
    path.write_text(text)
    return config.load(path)


def test_every_key(tmp_path: Path) -> None:
    loaded = load(tmp_path, """
        [remote.work]
        url = "vault+file:///srv/vault"
        password-file = "/etc/pass"
        read-only = true
        durability = "cloud"
        settle = 0.5
        uploads = 8
        cache-memory = "64M"
        cache-disk = 1000
        cache-free-space = "1.5GiB"
        cache-directory = "/var/cache/x"
        poll-interval = 2.5
        [remote.home]
        url = "vault+s3://b/p?endpoint=http://h"
        password-command = "pass show 'my vault'"
    """)
    assert loaded.remote("work") == config.RemoteConfig(
        name="work", url="vault+file:///srv/vault", password_file=Path("/etc/pass"), read_only=True,
        durability="cloud", settle=0.5, uploads=8, cache_memory=64 << 20, cache_disk=1000,
        cache_free_space=3 << 29, cache_directory=Path("/var/cache/x"), poll_interval=2.5,
    )
    assert loaded.remote("home").password_command == "pass show 'my vault'"
    assert loaded.remote("home").read_only is None


def test_relative_paths_are_beside_the_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[remote.a]\nurl = "u"\npassword-file = "a.pass"\ncache-directory = "~/c"\n')
    assert loaded.remote("a").password_file == tmp_path / "a.pass"
    assert loaded.remote("a").cache_directory == Path.home() / "c"


def test_absent_file_is_empty(tmp_path: Path) -> None:
    assert not config.load(tmp_path / "none.toml").remotes
    with pytest.raises(NotFound, match="no such configuration file"):
        config.load(tmp_path / "none.toml", must_exist=True)


def test_unknown_remote_names_the_nearest(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[remote.photos]\nurl = "vault+file:///x"\n')
    with pytest.raises(NotFound, match=r'no remote "photso" in .*config\.toml .did you mean "photos"'):
        loaded.remote("photso")


@pytest.mark.parametrize(("text", "line", "message"), [
    ('[remote.a]\nurl = "u"\npasword-file = "x"\n', 3,
     'unknown key "pasword-file" in [remote.a] (did you mean "password-file"?)'),
    ('[remote.a]\nurl = 5\n', 2, '"url" in [remote.a] must be a text'),
    ('[remote.b]\nurl = "u"\n[remote.a]\nurl = "u"\nuploads = true\n', 5, "must be a whole number above 0"),
    ('[remote.a]\nurl = "u"\nuploads = 0\n', 3, "must be a whole number above 0"),
    ('[remote.a]\nurl = "u"\n\ncache-disk = "much"\n', 4, "must be a size"),
    ('[remote.a]\nurl = "u"\ncache-disk = -1\n', 3, "must be a size"),
    ('[remote.a]\nurl = "u"\nread-only = "yes"\n', 3, "must be true or false"),
    ('[remote.a]\nurl = "u"\ndurability = "both"\n', 3, 'must be "local" or "cloud"'),
    ('[remote.a]\nurl = "u"\nsettle = -1\n', 3, "must be a number of seconds"),
    ('[remote.a]\nurl = "u"\npoll-interval = 0\n', 3, "must be a number of seconds above 0"),
    ('\n[remote.a]\nread-only = true\n', 2, '[remote.a] has no "url"'),
    ('[remote.a]\nurl="u"\npassword-file="f"\npassword-command="c"\n', 4, "both"),
    ('[remotes.a]\nurl = "u"\n', 1, 'unknown key "remotes" (did you mean "remote"?)'),
    ('[remote]\na = 3\n', 2, '"a" must be a table [remote.a]'),
    ('[remote."a b"]\nurl = "u"\n', None, "is no name for a remote"),
    ('remote = 3\n', 1, "must be tables such as"),
])
def test_mistakes_name_file_and_line(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path}/config.toml{f':{line}' if line else ''}: ")
    assert message in told
    assert "\n" not in told


def test_toml_errors_name_the_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.toml: .*line 2"):
        load(tmp_path, '[remote.a]\nurl = \n')


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        config.load(tmp_path / "config.toml")


def test_default_path_follows_xdg() -> None:
    assert config.default_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/serpentfs/config.toml")
    assert config.default_path({"XDG_CONFIG_HOME": "relative"}) == Path.home() / ".config/serpentfs/config.toml"


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("65536", 65536), ("64K", 65536), ("64k", 65536), ("1.5GiB", 3 << 29), (" 2 TB ", 2 << 40),
])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1X", "M", "1e3", "64 K B", "nan"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.integers(), st.booleans(), st.text(max_size=9)), max_size=4))
def test_any_table_is_read_or_refused(table: dict[str, object]) -> None:
    """Whatever stands in a remote's table: a RemoteConfig or a UsageError, never another exception."""
    with contextlib.suppress(UsageError):
        assert config._Reader(Path("c"), "").config({"remote": {"a": {"url": "u", **table}}}).remote("a").url
