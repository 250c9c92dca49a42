"""What a user gets wrong: one line that says what and where, the exit code of the table, and nothing is changed."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serpentfs.cli.exit_codes import ExitCode
from tests.e2e.cli.conftest import PASSPHRASE, Machine, needs_fuse
from tests.e2e.cli.forking import Forking

USAGE, WRONG, NOT_FOUND, BUSY = ExitCode.USAGE, ExitCode.WRONG_PASSPHRASE, ExitCode.NOT_FOUND, ExitCode.BUSY
UNAVAILABLE, BAD_VAULT, EXISTS = ExitCode.UNAVAILABLE, ExitCode.BAD_VAULT, ExitCode.EXISTS
DENIED, UNSUPPORTED = ExitCode.DENIED, ExitCode.UNSUPPORTED

SECRET = "canary-secret-6120"
"""Typed where it does not belong: it is not repeated."""

S3_KEYS = "AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret"
S3_URL = "'vault+s3://bucket/x?endpoint=http://127.0.0.1:{port}&region=r'"

CONFIG = """\
[remote.work]
url = "vault+file://{home}/vault"

[remote.served]
url = "vault+file://{home}/served"

[remote.archive]
url = "vault+file://{home}/vault"
read-only = true
"""

FILES: dict[str, str | bytes] = {
    "notes.txt": "notes\n",
    "wrong": "another passphrase\n",
    "empty": "",
    "two-lines": "one\ntwo\n",
    "not-text": b"\xff\xfe\n",
    "bad-key.toml": '[remote.work]\nurl = "x"\nsettel = 1\n',
    "bad-type.toml": '[remote.work]\nurl = "vault+file:///srv/vault"\ncache-disk = true\n',
    "bad-value.toml": '[remote.work]\nurl = "vault+file:///srv/vault"\ndurability = "paper"\n',
    "bad-syntax.toml": "[remote.work\n",
    "no-url.toml": "[remote.work]\nread-only = true\n",
    "bad-user.toml": '[webdav.users.anna]\npassword-hash = "plain"\n',
}

# Exit code, command line (with variables of the environment before it, as in a shell), and what the line tells.
WRONG_USES: list[tuple[ExitCode, str, str]] = [
    # the command itself
    (USAGE, "mout work: mnt", 'there is no command "mout"; did you mean "mount"?'),
    (USAGE, "Status", 'did you mean "status"?'),
    (USAGE, "xyzzy", "see serpentfs --help"),
    (USAGE, "--read-only mount work: mnt", "the command comes first"),
    (USAGE, "help unmount", 'did you mean "umount"?'),
    (USAGE, "remote", '"remote" is followed by add, list, show, remove'),
    (USAGE, "remote ad work", 'did you mean "remote add"?'),
    (USAGE, "config shwo", 'did you mean "config show"?'),
    # options and arguments
    (USAGE, "mount", "required: REMOTE, DIR (see serpentfs mount --help)"),
    (USAGE, "mount work:", "required: DIR"),
    (USAGE, "mount work: mnt --deamon", "there is no option --deamon; did you mean --daemon?"),
    (USAGE, f"mount work: mnt --pasword-file={SECRET}", "did you mean --password-file?"),
    (USAGE, f"ls work: --passphrase {SECRET}", "there is no option --passphrase"),
    (USAGE, f"login anna@example.org {SECRET}", "1 argument too many"),
    (USAGE, "ls work: -z", "there is no option -z"),
    (USAGE, "ls work: -json", "did you mean --json?"),
    (USAGE, "ls work: --bogus", "there is no option --bogus (see serpentfs ls --help)"),
    (USAGE, "version now please", "2 arguments too many: serpentfs version takes none"),
    (USAGE, "mount work: mnt --cache-disk huge", '"huge" is not a size'),
    (USAGE, "mount work: mnt --umask 9", '"9" is not an octal umask'),
    (USAGE, "mount work: mnt --uploads 0", '"0" is not a whole number above 0'),
    (USAGE, "mount work: mnt --durability paper", "choose from 'local', 'cloud'"),
    (USAGE, "mount work: mnt -o uid=anna", '"anna" is not a numeric id'),
    (USAGE, "ls work: --password-file wrong --password-command pass", "not allowed with"),
    (USAGE, "ls work: --log-level LOUD", '"LOUD" is not a log level: FATAL, ERROR'),
    (USAGE, "find work:/ --newer yesterday", '"yesterday" is not a time'),
    (USAGE, "webdav work: --no-auth --listen 127.0.0.1:99999", "is not HOST:PORT"),
    (USAGE, "webdav work: --now", "--now goes with -d"),
    (USAGE, "completion tcsh", "choose from 'bash', 'zsh', 'fish'"),
    (USAGE, "SERPENTFS_SETTLE=soon mount work: mnt", 'SERPENTFS_SETTLE: "soon" is not a number of seconds'),
    (USAGE, "SERPENTFS_PASSWORD_COMMAND=pass ls work:", "exclude each other"),
    # which remote
    (USAGE, "mount {home}/vault mnt", "a folder is written vault+file://{home}/vault"),
    (USAGE, "ls s3://bucket", "did you mean vault+s3://...?"),
    (USAGE, "ls vault+flie:///x", 'unknown kind of store "flie"'),
    (USAGE, "ls vault+file://srv/vault", "three slashes"),
    (USAGE, f"ls vault+s3://anna:{SECRET}@bucket/x", "must not hold credentials"),
    (USAGE, f"ls vault+s3://bucket/x?secret_access_key={SECRET}", "must not hold credentials"),
    (NOT_FOUND, "mount wrok: mnt", 'no remote "wrok" in {home}/config/serpentfs/config.toml (did you mean "work"?)'),
    (NOT_FOUND, "ls mega:", "serpentfs login EMAIL makes one"),
    (NOT_FOUND, "whoami", "no log-in called mega"),
    (BAD_VAULT, "ls vault+file://{home}/mnt", "there is no vault here"),
    (UNAVAILABLE, "check vault+file://{home}/none", "there is no folder {home}/none"),
    (UNAVAILABLE, f"{S3_KEYS} ls {S3_URL}", "Connection refused"),
    (UNSUPPORTED, "trash work:", "work is a vault, which has no rubbish bin"),
    (UNSUPPORTED, "export work:/notes.txt", "work is a vault"),
    (EXISTS, "init work:", "there is a vault already"),
    (USAGE, "init vault+file:///proc/vault", "cannot make the folder /proc/vault"),
    (USAGE, "init vault+file://{home}/new --cipher-combo ROT13", "invalid choice: 'ROT13'"),
    # passphrases
    (WRONG, "ls work: --password-file wrong", "wrong passphrase"),
    (WRONG, "mount work: mnt --daemon --password-file wrong", "wrong passphrase"),
    (NOT_FOUND, "ls work: --password-file none", "no such password file: none"),
    (USAGE, "init vault+file://{home}/new --password-file empty", "the password file empty is empty"),
    (USAGE, "ls work: --password-file two-lines", "more than one line of text"),
    (USAGE, "ls work: --password-file not-text", "is not UTF-8"),
    (USAGE, "ls work: --password-file mnt", "cannot read the password file mnt: Is a directory"),
    (USAGE, f"ls work: --password-command 'sh -c \"echo {SECRET}; exit 3\"'", "failed with exit code 3"),
    (USAGE, "ls work: --password-command /no/such", "No such file or directory"),
    (USAGE, "ls work: --password-command \"'\"", "No closing quotation"),
    (USAGE, "SERPENTFS_PASSWORD_FILE= ls work:", "no passphrase: there is no terminal to ask on; use --password-file"),
    # the configuration
    (NOT_FOUND, "ls work: --config none.toml", "no such configuration file: {home}/none.toml"),
    (USAGE, "ls work: --config bad-key.toml", 'bad-key.toml:3: unknown key "settel" in [remote.work] (did you mean'),
    (USAGE, "ls work: --config bad-type.toml", 'bad-type.toml:3: "cache-disk" in [remote.work] must be'),
    (USAGE, "ls work: --config bad-value.toml", 'bad-value.toml:3: "durability" in [remote.work] must be'),
    (USAGE, "ls work: --config bad-syntax.toml", "bad-syntax.toml"),
    (USAGE, "ls work: --config no-url.toml", '"url"'),
    (USAGE, "webdav work: --config bad-user.toml", 'bad-user.toml:2: "password-hash"'),
    (USAGE, "remote add bad/name vault+file:///x", '"bad/name" is no name for a remote'),
    (EXISTS, "remote add work vault+file:///x", "there is a remote called work"),
    (NOT_FOUND, "remote remove wrok", 'no remote "wrok"'),
    (USAGE, "up", "there is nothing to start"),
    # mounting and serving
    (USAGE, "mount work: nodir", "cannot mount on {home}/nodir: No such file or directory"),
    (USAGE, "mount work: notes.txt", "{home}/notes.txt is not a folder"),
    (USAGE, "mount work: full", "{home}/full is not empty"),
    (USAGE, "mount work: /proc", "/proc is a mount point already"),
    (USAGE, "mount work: mnt -o frobnicate", "unknown option(s): `-o frobnicate'"),
    (NOT_FOUND, "mount work:/none mnt", "/none: no such file or folder"),
    (NOT_FOUND, "webdav work:/none --no-auth --listen 127.0.0.1:0", "/none: no such file or folder"),
    (NOT_FOUND, "webdav work:/a.txt --no-auth --listen 127.0.0.1:0", "/a.txt is not a folder"),
    (NOT_FOUND, "ftp served:/none --no-auth --listen 127.0.0.1:0", "/none: no such file or folder"),
    (USAGE, "webdav work:", "a network door needs --user NAME and --pass-file FILE"),
    (USAGE, "webdav work: --user anna", "needs both"),
    (NOT_FOUND, "webdav work: --user anna --pass-file none", "no such password file: none"),
    (USAGE, "webdav work: --no-auth --listen 0.0.0.0:0", "add --public if that is meant"),
    (USAGE, "ftp work: --no-auth --public --listen 0.0.0.0:0", "insecure"),
    (USAGE, "webdav work: --no-auth --tls --certificate none --key none", "cannot read {home}/none"),
    (USAGE, "ftp work: --no-auth --data-ports 9-1", "is not a range of ports"),
    (BUSY, "ftp work: --no-auth --listen 127.0.0.1:{taken}", "{taken}"),
    (BUSY, "webdav served: --no-auth --listen 127.0.0.1:0", "serpentfs webdav -d REMOTE takes that away"),
    (BUSY, "check served: --fix", "served"),
    (NOT_FOUND, "ftp -d served:", "there is no FTP door; open: webdav"),
    (NOT_FOUND, "webdav -d work:", "nothing is running for work"),
    (NOT_FOUND, "umount mnt", "no drive is mounted at {home}/mnt"),
    (NOT_FOUND, "umount work:", "nothing is running for work:"),
    (NOT_FOUND, "status work:", "nothing is running for work:"),
    (NOT_FOUND, "down wrok", 'no remote "wrok"'),
    # paths in a remote, without an owner and with one
    (NOT_FOUND, "ls work:/none", "/none: no such file or folder"),
    (NOT_FOUND, "ls served:/none/deeper", "/none/deeper: no such file or folder"),
    (NOT_FOUND, "warm served:/none", "/none: no such file or folder"),
    (NOT_FOUND, "verify work:/none", "/none: no such file or folder"),
    (NOT_FOUND, "refresh served:/none", "/none: no such file or folder"),
    (NOT_FOUND, "cat served:/none", "/none: no such file or folder"),
    (NOT_FOUND, "cat served:/*.jpg", "/*.jpg: nothing matches"),
    (NOT_FOUND, "get served:/none", "/none: no such file or folder"),
    (NOT_FOUND, "put none served:/", "no such file or folder: none"),
    (NOT_FOUND, "put notes.txt served:/none/deeper/", "no such folder: /none"),
    (NOT_FOUND, "mkdir served:/none/deeper", "no such folder: /none"),
    (EXISTS, "mkdir served:/folder", "/folder: "),
    (EXISTS, "mv served:/folder served:/other", "/folder: "),
    (NOT_FOUND, "mv served:/none served:/other", "/none: no such file or folder"),
    (USAGE, "rm -r served:/", "this is the root of the drive"),
    (USAGE, "cp served:/a.txt work:/a.txt", "are two remotes"),
    (USAGE, "mv served:/folder served:/folder/below", "/folder: "),
    (DENIED, "mkdir archive:/new", "read-only"),
    (DENIED, "put notes.txt archive:/", "read-only"),
    # what may be turned
    (USAGE, "speedlimit sideways 2M", "sideways"),
    (USAGE, "transfers --pause --resume", "not allowed with"),
    (USAGE, "speedlimit up 25:00,1M served:", '"25:00,1M" is no part of a timetable'),
    (NOT_FOUND, "transfers --cancel /none served:", "/none"),
    (NOT_FOUND, "log work: DEBUG", "nothing is running for work:"),
    (USAGE, "cache memory 64M", "1 argument too many"),
    (NOT_FOUND, "cache work:", "nothing is running for work:"),
    (USAGE, f"proxy work: http://anna:{SECRET}@proxy.example:3128", "must not hold its password"),
    (USAGE, "proxy work: ftp://proxy.example", "a proxy is http://HOST:PORT"),
    (NOT_FOUND, "reload wrok:", 'no remote "wrok"'),
    (NOT_FOUND, "fuse-show wrok", 'no mount "wrok"'),
    (EXISTS, "doctor --bundle notes.txt", "notes.txt exists: name a new file"),
]


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture(scope="module")
def place(made_vault: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with two vaults, of which one is served, and what is needed for mistakes."""
    home = tmp_path_factory.mktemp("home")
    machine = Machine(home)
    for name in ("mnt", "run", "full", "config/serpentfs"):
        (home / name).mkdir(parents=True)
    (home / "full" / "file").touch()
    for name, content in {**FILES, "passphrase": PASSPHRASE + "\n"}.items():
        (home / name).touch(0o600)
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (home / "config" / "serpentfs" / "config.toml").write_text(CONFIG.format(home=home))
    shutil.copytree(made_vault, machine.vault)
    machine.ok("init", "served:")
    try:
        machine.ok("webdav", "served:", "--no-auth", "--listen", "127.0.0.1:0", "--daemon", "--settle", "0")
        for remote in ("served", "work"):
            machine.ok("put", "notes.txt", f"{remote}:/a.txt")
            machine.ok("mkdir", f"{remote}:/folder", f"{remote}:/other", f"{remote}:/other/folder")
            machine.ok("put", "notes.txt", f"{remote}:/other/folder/file")
        machine.ok("flush", "served:")
        yield machine
    finally:
        machine.clean()


@pytest.fixture(scope="module")
def forking(place: Machine) -> Iterator[Forking]:
    environment = place.environment
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), environment.get("PYTHONPATH", "")])
    with Forking(place.home, environment) as made:
        yield made


def everything(home: Path) -> dict[str, str]:
    """What there is below the user's home, by path; of the insides of a drive's state and cache only the names."""
    found = {}
    for path in home.rglob("*"):
        name = str(path.relative_to(home))
        below = name.split(os.sep)
        if below[0] == "cache" or (below[0] == "state" and len(below) > 3) or name.startswith("."):
            continue    # databases, of which even a look changes a file; what a command prints
        is_content = path.is_file() and path.suffix != ".log"    # that something failed may be in a log
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if is_content else ""
    return found


@needs_fuse
@pytest.mark.parametrize(("code", "line", "message"), WRONG_USES, ids=[line for _, line, _ in WRONG_USES])
def test_wrong_use(place: Machine, forking: Forking, taken: int, code: ExitCode, line: str, message: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))    # not listening: a connection is refused
        known = {"home": place.home, "taken": taken, "port": unused.getsockname()[1]}
        words = [word.format(**known) for word in shlex.split(line)]
        environment = place.environment
        while words[0].isupper() or words[0].startswith(("SERPENTFS_", "AWS_")):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        before = everything(place.home)
        done = forking.run(words, environment)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("serpentfs: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message.format(**known) in done.stderr, done.stderr
    assert SECRET not in done.stderr
    assert everything(place.home) == before
    assert not place.is_mounted()


def test_the_drives_are_as_before(place: Machine) -> None:
    """After all of the above."""
    for remote in ("served", "work"):
        assert place.ok("find", f"{remote}:/").split() == [
            "/", "/a.txt", "/folder", "/other", "/other/folder", "/other/folder/file",
        ]


def test_forks_are_as_the_command(place: Machine, forking: Forking) -> None:
    for line in ("mout", "ls work: --password-file wrong", "cat served:/none"):
        by_shell, forked = place.run(*line.split()), forking.run(line.split(), place.environment)
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            by_shell.returncode, by_shell.stdout, by_shell.stderr
        )
