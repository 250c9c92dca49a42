"""The Debian package in a Debian that boots: installed, mounted from fstab and by systemd, removed.

Needs root, FUSE, and a Debian that is made once with debootstrap: SERPENTFS_TEST_DEB=1 asks for it, and later runs
use it without asking. SERPENTFS_DEB=FILE tries that package instead of building one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serpentfs.cli.manual import man_pages
from tests.packaging import debian
from tests.packaging.debian import Debian, Outcome

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "canary-passphrase-4471"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(debian.missing() is not None, reason=str(debian.missing())),
]

# Every script begins with it.
PRELUDE = """
soon() {    # COMMAND...: until it succeeds, for half a minute
    tries=0
    until "$@"; do tries=$((tries + 1)); [ $tries -lt 300 ] || { echo "in vain: $*" >&2; return 1; }; sleep 0.1; done
}
stored() { find "/srv/$1" -name '*.c9r' -type f ! -name 'dir*' | wc -l; }    # files in the vault of a remote
as_anna() {
    setpriv --reuid=anna --regid=anna --init-groups env -i HOME=/home/anna USER=anna PATH=/usr/bin:/bin \
        XDG_RUNTIME_DIR=/run/user/1000 "$@"
}
"""

INSTALL = f"""
dpkg -i /root/serpentfs.deb >&2
useradd --create-home anna
passphrase() {{ (umask 077; echo "{PASSPHRASE}" >"$1"); }}
passphrase /root/pass
for remote in fstab unit; do
    serpentfs init "vault+file:///srv/$remote" --password-file /root/pass >&2
done
mkdir -p /root/.config/serpentfs /mnt/fstab
cat >/root/.config/serpentfs/config.toml <<'CONFIG'
[remote.fstab]
url = "vault+file:///srv/fstab"
[remote.unit]
url = "vault+file:///srv/unit"
password-file = "/root/pass"
[remote.wrong]
url = "vault+file:///srv/unit"
password-file = "/etc/hostname"
CONFIG
echo "fstab: /mnt/fstab serpentfs \\
allow_other,uid=anna,password-file=/root/pass,_netdev,nofail,x-systemd.automount 0 0" >/etc/fstab
mount /mnt/fstab
echo "$(findmnt -n -o SOURCE,FSTYPE /mnt/fstab)"
echo first >/mnt/fstab/file
mount -a
serpentfs umount /mnt/fstab
echo stored "$(stored fstab)"
systemctl daemon-reload
systemctl --quiet enable serpentfs@unit
serpentfs version
command -v mount.serpentfs
command -v mount.fuse.serpentfs
"""


def run(system: Debian, steps: str) -> Outcome:
    outcome = system.boot(PRELUDE + steps)
    assert outcome.code == 0, (outcome.out, outcome.err, outcome.console[-2000:])
    assert PASSPHRASE not in outcome.out + outcome.err + outcome.console
    return outcome


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("SERPENTFS_DEB"):
        return Path(built)
    command = [str(ROOT / "packaging" / "deb" / "build"), str(tmp_path_factory.mktemp("deb"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Debian, Outcome]]:
    """The system with the package, two vaults, an fstab and an enabled unit; and what the set-up printed."""
    debian.make_tree()
    work = tmp_path_factory.mktemp("debian")
    system = Debian(work)
    shutil.copy(package, system.path("root/serpentfs.deb"))
    yield system, run(system, INSTALL)
    shutil.rmtree(work, ignore_errors=True)    # tens of thousands of files otherwise stay with pytest


def test_installed_and_mounted(installed: tuple[Debian, Outcome]) -> None:
    _, outcome = installed
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["fstab:", "fuse.serpentfs"]
    assert "stored 1" in lines
    assert lines[-2:] == ["/usr/sbin/mount.serpentfs", "/usr/sbin/mount.fuse.serpentfs"]


def test_manuals_and_completions(package: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, timeout=60, check=True).stdout
    names = {line.split()[5].removeprefix("./usr/share/") for line in listed.splitlines()}
    assert {f"man/man{name[-1]}/{name}.gz" for name in man_pages()} <= names
    assert names >= {
        "man/man8/mount.serpentfs.8.gz", "bash-completion/completions/serpentfs", "zsh/vendor-completions/_serpentfs",
        "fish/vendor_completions.d/serpentfs.fish",
    }


def test_fstab_at_boot(installed: tuple[Debian, Outcome]) -> None:
    """Mounted when it is first used; what was written right before the power went is there after the next boot."""
    system, _ = installed
    outcome = run(system, """
        findmnt -n -o FSTYPE /mnt/fstab
        cat /mnt/fstab/file
        findmnt -n -o FSTYPE /mnt/fstab
        systemctl is-active mnt-fstab.mount
        stat -c %U /mnt/fstab/file
        echo last >/mnt/fstab/late
        """)
    assert outcome.out.split() == ["autofs", "first", "autofs", "fuse.serpentfs", "active", "anna"]
    assert run(system, "cat /mnt/fstab/late").out == "last\n"


def test_the_unit_of_the_system(installed: tuple[Debian, Outcome]) -> None:
    """Started at boot under its restrictions, seen by everybody, restarted after a crash, drained by a stop."""
    system, _ = installed
    outcome = run(system, """
        soon systemctl --quiet is-active serpentfs@unit
        echo content >/mnt/unit/file
        systemctl show -p NoNewPrivileges -p Type serpentfs@unit
        setpriv --reuid=anna --clear-groups ls /mnt/unit
        kill -9 "$(systemctl show -p MainPID --value serpentfs@unit)"
        soon cat /mnt/unit/file
        [ "$(systemctl show -p NRestarts --value serpentfs@unit)" = 1 ]
        echo more >/mnt/unit/more
        systemctl stop serpentfs@unit
        systemctl is-failed serpentfs@unit || true
        echo stored "$(stored unit)"
        findmnt /mnt/unit || echo unmounted
        """)
    assert outcome.out.splitlines() == [
        "Type=notify", "NoNewPrivileges=yes", "file", "content", "inactive", "stored 2", "unmounted",
    ]  # fmt: skip


def test_the_watchdog_is_fed(installed: tuple[Debian, Outcome]) -> None:
    """A drive that is well outlives several periods of a short watchdog; one that hangs is started again."""
    system, _ = installed
    run(system, """
        mkdir -p /run/systemd/system/serpentfs@unit.service.d
        printf '[Service]\\nWatchdogSec=2\\nRestartSec=1\\nTimeoutAbortSec=2\\n' \
            >/run/systemd/system/serpentfs@unit.service.d/short.conf
        systemctl daemon-reload
        systemctl restart serpentfs@unit
        sleep 7    # more than three periods: the time is what is tried
        [ "$(systemctl show -p NRestarts --value serpentfs@unit)" = 0 ]
        kill -STOP "$(systemctl show -p MainPID --value serpentfs@unit)"
        restarted() { [ "$(systemctl show -p NRestarts --value serpentfs@unit)" = 1 ]; }
        soon restarted
        soon cat /mnt/unit/file
        """)


def test_what_cannot_be_repaired_is_not_tried_again(installed: tuple[Debian, Outcome]) -> None:
    system, _ = installed
    outcome = run(system, """
        systemctl stop serpentfs@unit
        systemctl start serpentfs@wrong || true
        systemctl show -p ActiveState -p NRestarts -p ExecMainStatus serpentfs@wrong
        """)
    assert sorted(outcome.out.split()) == ["ActiveState=failed", "ExecMainStatus=3", "NRestarts=0"]


def test_the_unit_of_a_user(installed: tuple[Debian, Outcome]) -> None:
    system, _ = installed
    outcome = run(system, """
        loginctl enable-linger anna
        soon test -S /run/user/1000/systemd/private
        cd /home/anna
        as_anna mkdir -p .config/serpentfs
        as_anna sh -c 'umask 077; echo another >.config/serpentfs/pass'
        printf '[remote.own]\\nurl = "vault+file:///home/anna/vault"\\npassword-file = "pass"\\n' \
            >.config/serpentfs/config.toml
        as_anna serpentfs init own: >&2
        as_anna systemctl --user start serpentfs@own
        as_anna sh -c 'echo mine >own/file'
        as_anna serpentfs status own: | grep -o running
        findmnt -n -o FSTYPE /home/anna/own
        as_anna systemctl --user stop serpentfs@own
        as_anna serpentfs ls own:
        """)
    assert outcome.out.split() == ["running", "fuse.serpentfs", "file"]


def test_removed_and_purged(installed: tuple[Debian, Outcome]) -> None:
    """The drives stop, the program goes; journals, configuration and vaults stay, and so does what is in no vault
    yet."""
    system, _ = installed
    outcome = run(system, """
        soon systemctl --quiet is-active serpentfs@unit
        echo before >/mnt/unit/before
        there() { ls -d /root/.config/serpentfs/config.toml /root/.local/state/serpentfs/*/state.db \
            /srv/unit/vault.cryptomator /srv/fstab/vault.cryptomator /home/anna/vault/vault.cryptomator | wc -l; }
        there
        cd /home/anna
        soon test -d /run/user/1000
        as_anna serpentfs webdav own: --no-auth --listen 127.0.0.1:0 --daemon --settle 300 >&2
        as_anna sh -c 'echo pending >late && serpentfs put --no-wait late own:' >&2
        as_anna serpentfs umount --now own: >&2 || [ $? = 14 ]
        as_anna sh -c 'find .local -type f -exec sha256sum {} +' | sort >before
        dpkg --purge serpentfs >&2
        there
        as_anna sh -c 'find .local -type f -exec sha256sum {} +' | sort | cmp - before
        findmnt /mnt/unit || echo unmounted
        ls -d /usr/lib/serpentfs /usr/bin/serpentfs /usr/sbin/mount.*serpentfs 2>/dev/null || echo gone
        dpkg -i /root/serpentfs.deb >&2
        systemctl start serpentfs@unit
        cat /mnt/unit/before
        as_anna serpentfs cat own:/late
        """)
    assert outcome.out.split() == ["6", "6", "unmounted", "gone", "before", "pending"]
    assert "journals and vaults of users are left as they are" in outcome.err
