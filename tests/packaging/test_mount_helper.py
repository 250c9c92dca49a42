"""What mount(8) says to its helper, and what the helper makes of it; in the end the real mount(8) and an fstab, in a
mount namespace of their own where /sbin has the helper."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serpentfs.cli import main as command_line
from serpentfs.cli import mount_helper
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.mount_helper import mount_arguments, mount_code, parse
from serpentfs.errors import Unsupported, UsageError
from tests.mounted import PASSPHRASE, SERPENTFS

DRIVE = ["work:", "/mnt"]
FIXED = ["mount", "work:", "/mnt", "--daemon", "-o", "fsname=work:"]


def mapped(options: str, *flags: str) -> list[str]:
    """What the options become, without the words that are always there."""
    arguments = mount_arguments(parse([*DRIVE, *flags, "-o", options]))
    assert arguments[: len(FIXED)] == FIXED
    return arguments[len(FIXED) :]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("ro", ["--read-only"]),
        ("rw", []),
        ("ro,rw", []),
        ("rw,ro", ["--read-only"]),
        ("read-only", ["--read-only"]),
        ("allow_other", ["--allow-other"]),
        ("allow-other", ["--allow-other"]),
        ("uid=1000,gid=100,umask=077", ["--uid=1000", "--gid=100", "--umask=077"]),
        ("uid=root,gid=root", ["--uid=0", "--gid=0"]),
        ("password-file=/etc/work.pass", ["--password-file=/etc/work.pass"]),
        ("password_file=-odd", ["--password-file=-odd"]),
        ('password-command="pass show a,b"', ["--password-command=pass show a,b"]),
        ("config=/etc/serpentfs/config.toml", ["--config=/etc/serpentfs/config.toml"]),
        ("cache-disk=20G,durability=cloud", ["--cache-disk=20G", "--durability=cloud"]),
        ("webdav=127.0.0.1:4443,door-user=anna,pass-file=/p",
         ["--webdav=127.0.0.1:4443", "--user=anna", "--pass-file=/p"]),
        ("noatime,nosuid,dirsync", ["-o", "noatime", "-o", "nosuid", "-o", "dirsync"]),
        ("defaults,_netdev,nofail,noauto,user,users,user=anna,relatime,comment=x", []),
        ("x-systemd.automount,x-systemd.idle-timeout=60,X-mount.mkdir", []),
        ("", []),
    ],
)  # fmt: skip
def test_options(options: str, arguments: list[str]) -> None:
    assert mapped(options) == arguments


def test_every_option_of_serpentfs_mount_can_be_in_fstab() -> None:
    command = next(one for one in command_line.COMMANDS if one.name == "mount")
    for action in command_line.parser_of(command)._actions:
        for text in action.option_strings:
            name = text.removeprefix("--")
            if text.startswith("--") and name not in ("help", "daemon", "verbose", "quiet", "user"):
                value = "" if action.nargs == 0 else "=1"
                assert mapped(name + value) == [text + value]


def test_the_command_takes_what_the_helper_makes() -> None:
    options = "ro,allow_other,uid=7,umask=077,noatime,cache-disk=1G,config=/c"
    words = mount_arguments(parse([*DRIVE, "-v", "-o", options]))
    command = next(one for one in command_line.COMMANDS if one.name == "mount")
    arguments = command_line.parser_of(command).parse_args(words[1:])
    assert (arguments.remote, arguments.directory, arguments.daemon) == ("work:", Path("/mnt"), True)
    assert (arguments.read_only, arguments.allow_other, arguments.uid, arguments.umask) == (True, True, 7, 0o077)
    assert (arguments.cache_disk, arguments.verbose) == (1 << 30, 1)


@pytest.mark.parametrize(
    "words",
    [
        [*DRIVE, "-o", "ro,allow_other"],
        ["-o", "ro", *DRIVE, "-o", "allow_other"],
        ["-t", "fuse.serpentfs", *DRIVE, "-n", "-o", "ro,allow_other"],
        [*DRIVE, "-N", "1234", "-ns", "-o", "ro,allow_other"],
    ],
)
def test_words_in_any_order(words: list[str]) -> None:
    request = parse(words)
    assert (request.remote, request.directory, request.options) == ("work:", "/mnt", ("ro", "allow_other"))
    assert not request.fake


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: "),
        (["work:"], "usage: "),
        (["work:", "/mnt", "/other"], "usage: "),
        (["", "/mnt"], "usage: "),
        ([*DRIVE, "-o"], "-o needs a value"),
        ([*DRIVE, "--frob"], "there is no option --frob"),
        ([*DRIVE, "-o", "alow_other"], 'there is no mount option "alow_other"; did you mean "allow-other"?'),
        ([*DRIVE, "-o", "frob=canary"], 'there is no mount option "frob"'),
        ([*DRIVE, "-o", "allow_other=canary"], 'the mount option "allow-other" takes no value'),
        ([*DRIVE, "-o", "password-file"], 'the mount option "password-file" needs a value'),
        ([*DRIVE, "-o", "uid=nobody-here"], 'there is no user "nobody-here"'),
        ([*DRIVE, "-o", "password=canary"], "password= would show the secret to every user"),
        ([*DRIVE, "-o", "remount,ro"], "cannot take other options"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((UsageError, Unsupported)):
        mount_arguments(parse(words))
    assert mount_helper.main(words) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert "canary" not in said


def test_sloppy_passes_over_what_is_unknown() -> None:
    assert mapped("frob=1,ro", "-s") == ["--read-only"]


def test_a_fake_mount_mounts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "main", lambda arguments: pytest.fail("mounted"))
    assert mount_helper.main([*DRIVE, "-f", "-o", "ro"]) == 0


def test_exit_codes_are_those_of_mount() -> None:
    codes = {code: mount_code(code) for code in ExitCode}
    assert codes.pop(ExitCode.OK) == 0
    assert codes.pop(ExitCode.USAGE) == codes.pop(ExitCode.DENIED) == 1
    assert codes.pop(ExitCode.INTERRUPTED) == 8
    assert set(codes.values()) == {32}


def can_mount_privately() -> bool:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK) or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=30, check=False).returncode == 0


# Inside a mount namespace of its own: /sbin is a folder that has the helpers alone. The drives are unmounted whatever
# happens, and the script ends when the processes behind them have.
SCRIPT = """
set -eu
mount --bind "$WORK/sbin" "$(readlink -f /sbin)"
end() {
    for d in one two; do umount -l "$WORK/$d" 2>/dev/null || true; done
    "$SERPENTFS" umount --now "$URL" || true
}
trap end EXIT

say() { echo "$1" "$2"; }
rc=0; mount -T "$WORK/fstab" "$WORK/one" || rc=$?
say fstab $rc
echo content >"$WORK/one/file"
say where "$(findmnt -n -o SOURCE,FSTYPE "$WORK/one")"
rc=0; mount -T "$WORK/fstab" -a || rc=$?
say again "$rc $(grep -c "$WORK/one" /proc/self/mounts)"
rc=0; mount -t serpentfs "$URL" "$WORK/two" -o "password-file=$WORK/password" 2>"$WORK/busy" || rc=$?
say second $rc
tr '\\0' ' ' <"/proc/$("$SERPENTFS" status --json | grep -m1 '"pid"' | tr -dc 0-9)/cmdline" >"$WORK/cmdline"
"$SERPENTFS" umount "$WORK/one" >&2
rc=0; mount -t fuse.serpentfs "$URL" "$WORK/two" -o "ro,nofail,password-file=$WORK/password" || rc=$?
say subtype $rc
say read "$(cat "$WORK/two/file")"
rc=0; touch "$WORK/two/file" 2>/dev/null || rc=$?
say write $rc
"$SERPENTFS" umount "$WORK/two" >&2
rc=0; mount -t serpentfs "$URL" "$WORK/two" -o "password-file=$WORK/wrong" 2>"$WORK/refused" || rc=$?
say wrong $rc
"""


@pytest.mark.skipif(not can_mount_privately(), reason="needs root, FUSE and a mount namespace")
def test_mount_and_fstab(tmp_path: Path) -> None:
    for name in ("sbin", "one", "two", "run"):
        (tmp_path / name).mkdir()
    for kind in ("serpentfs", "fuse.serpentfs"):
        helper = tmp_path / "sbin" / f"mount.{kind}"
        helper.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m serpentfs.cli.mount_helper "$@"\n')
        helper.chmod(0o755)
    for name, content in (("password", PASSPHRASE), ("wrong", "no passphrase")):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(content + "\n")
    url = f"vault+file://{tmp_path}/vault"
    (tmp_path / "fstab").write_text(
        f"{url} {tmp_path}/one serpentfs"
        f" rw,allow_other,uid=root,password-file={tmp_path}/password,_netdev,nofail,x-systemd.automount 0 0\n"
    )
    environment = os.environ | {
        "WORK": str(tmp_path), "URL": url, "SERPENTFS": SERPENTFS,
        "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }  # fmt: skip
    subprocess.run(
        [SERPENTFS, "init", url, "--password-file", str(tmp_path / "password")],
        env=environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT], env=environment, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if not line.startswith("mounted at ")]
    assert done.returncode == 0, (said, done.stderr)
    assert said == [
        "fstab 0",
        f"where {url} fuse.serpentfs",
        "again 0 1",
        "second 32",
        "subtype 0",
        "read content",
        "write 1",
        "wrong 32",
    ], done.stderr
    assert "serpentfs: " in (tmp_path / "busy").read_text()
    assert "passphrase" in (tmp_path / "refused").read_text()
    assert PASSPHRASE not in (tmp_path / "cmdline").read_text()
    assert "mount_helper" in (tmp_path / "cmdline").read_text()
