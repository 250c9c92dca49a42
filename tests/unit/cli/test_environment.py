"""Options from SERPENTFS_* variables: above the configuration, below the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from serpentfs import credentials
from serpentfs.cli import arguments as options
from serpentfs.cli import environment
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.main import COMMANDS, main, parser_of
from serpentfs.cli.remotes import passphrase_source
from serpentfs.config import RemoteConfig
from serpentfs.errors import UsageError

MOUNT = next(command for command in COMMANDS if command.name == "mount")


def parse(*words: str) -> dict[str, object]:
    return vars(parser_of(MOUNT).parse_args(["work:", "/mnt", *words]))


@pytest.mark.parametrize(("name", "text", "field", "value"), [
    ("SERPENTFS_CACHE_DISK", "20G", "cache_disk", 20 << 30),
    ("SERPENTFS_READ_ONLY", "true", "read_only", True),
    ("SERPENTFS_READ_ONLY", "false", "read_only", False),
    ("SERPENTFS_ALLOW_OTHER", "1", "allow_other", True),
    ("SERPENTFS_ALLOW_OTHER", "False", "allow_other", False),
    ("SERPENTFS_VERBOSE", "2", "verbose", 2),
    ("SERPENTFS_DURABILITY", "cloud", "durability", "cloud"),
    ("SERPENTFS_MOUNT_OPTIONS", "ro,uid=5", "mount_options", ["ro,uid=5"]),
    ("SERPENTFS_LOG_FILE", "/var/log/s", "log_file", Path("/var/log/s")),
    ("SERPENTFS_WEBDAV", "4443", "webdav", ("127.0.0.1", 4443)),
    ("SERPENTFS_CACHE_DISK", "", "cache_disk", None),
])
def test_values(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: object
) -> None:
    monkeypatch.setenv(name, text)
    assert parse()[field] == value


def test_the_command_line_is_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPENTFS_CACHE_DISK", "nonsense")    # not looked at: it does not count
    monkeypatch.setenv("SERPENTFS_READ_ONLY", "true")
    monkeypatch.setenv("SERPENTFS_VERBOSE", "2")
    found = parse("--cache-disk", "1G", "--no-read-only", "-v")
    assert (found["cache_disk"], found["read_only"], found["verbose"]) == (1 << 30, False, 1)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("SERPENTFS_CACHE_DISK", "huge", 'SERPENTFS_CACHE_DISK: "huge" is not a size'),
    ("SERPENTFS_READ_ONLY", "perhaps", 'SERPENTFS_READ_ONLY: "perhaps" is neither true nor false'),
    ("SERPENTFS_DURABILITY", "both", 'SERPENTFS_DURABILITY: "both" is none of local, cloud'),
    ("SERPENTFS_VERBOSE", "very", "SERPENTFS_VERBOSE"),
])
def test_bad_values_name_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    monkeypatch.setenv(name, text)
    assert main(["mount", "work:", "/mnt"]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_options_that_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def parser() -> options.Parser:
        made = options.Parser(prog="x")
        one_of = made.add_mutually_exclusive_group()
        one_of.add_argument("--left")
        one_of.add_argument("--right", type=int, default=3)
        return made

    monkeypatch.setenv("SERPENTFS_LEFT", "a")
    assert vars(parser().parse_args(["--right", "1"])) | {"from_environment": 0} == {
        "left": None, "right": 1, "from_environment": 0,
    }
    monkeypatch.setenv("SERPENTFS_RIGHT", "5")
    with pytest.raises(UsageError, match="SERPENTFS_LEFT and SERPENTFS_RIGHT exclude each other"):
        parser().parse_args([])


def test_no_variable_holds_a_secret() -> None:
    for command in COMMANDS:
        names = environment.variables_of(parser_of(command))
        assert not {"SERPENTFS_PASSWORD", "SERPENTFS_PASSPHRASE", "SERPENTFS_AUTH_CODE"} & names.keys(), command.name


def test_sources_of_passphrases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file that the environment names stands above the remote's table; a link's password is not it."""
    table = RemoteConfig(name="work", url="u", password_file=Path("/table"))
    arguments = parser_of(MOUNT).parse_args(["work:", "/mnt"])
    assert passphrase_source(arguments, table).file == Path("/table")
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("canary")
    monkeypatch.setenv("SERPENTFS_PASSWORD_FILE", str(secret))
    assert passphrase_source(arguments, table) == credentials.PassphraseSource()
    assert parse()["password_file"] is None
    monkeypatch.setenv("SERPENTFS_PASSWORD_COMMAND", "echo other")
    with pytest.raises(UsageError, match="exclude each other"):
        passphrase_source(arguments, table)
    monkeypatch.delenv("SERPENTFS_PASSWORD_FILE")
    assert credentials.read_passphrase(passphrase_source(arguments, table), "q") == "other"


def test_typos_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SERPENTFS_CACHE_DSIK", "1G")
    monkeypatch.setenv("SERPENTFS_MY_OWN_SCRIPTS_THING", "1")
    monkeypatch.setenv("SERPENTFS_WEBDAV", "4443")    # an option of another command
    assert main(["version"]) == 0
    told = capsys.readouterr().err
    assert "SERPENTFS_CACHE_DSIK is no option's variable; did you mean SERPENTFS_CACHE_DISK?" in told
    assert told.count("\n") == 1
