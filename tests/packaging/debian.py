"""A Debian of its own to install packages in: made once by debootstrap, started with its own systemd for each test.

The tree is read-only under an overlay, so every test has a fresh system; its processes, mounts, cgroups and network
are in namespaces of their own and end with its first process, whatever happens.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "python3", "fuse3", "zlib1g", "libstdc++6", "libgcc-s1", "mount", "procps", "systemd", "systemd-sysv", "dbus",
    "libpam-systemd",
)  # fmt: skip
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serpentfs-tests"
ASKED = "SERPENTFS_TEST_DEB"
"""The variable that asks for the tests which need such a system, though it is still to be made."""

# Runs as the first process of the new namespaces; ends as the system's own first process.
_BOOT = """
set -eu
mount -t overlay -o "lowerdir=$TREE,upperdir=$WORK/upper,workdir=$WORK/overlay" system "$WORK/root"
cd "$WORK/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" \\
    "fuse 10 229" "autofs 10 235"; do
    set -- $device
    mknod -m 666 "dev/$1" c "$2" "$3"
done
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 run run
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys    # the kernel is the host's
mkdir -p before
pivot_root . before
umount -l /before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --log-target=console --log-level=notice --show-status=no
"""

# Started at the end of each boot: what a test does in the system, and the power switch.
_STEPS_UNIT = """
[Unit]
After=remote-fs.target network-online.target
[Service]
Type=oneshot
Environment=HOME=/root LANG=C.UTF-8
ExecStart=/bin/sh -c 'sh -eu /root/steps >/root/out 2>/root/err; echo $$? >/root/code; systemctl --no-block poweroff'
[Install]
WantedBy=multi-user.target
"""


def tree() -> Path:
    """Where the system is kept for further runs. Its name changes with what is in it."""
    return CACHE / f"debian-{SUITE}-{os.uname().machine}-{zlib.crc32(' '.join(PACKAGES).encode()):08x}"


def missing() -> str | None:
    """Why no such system can be started here; None when it can."""
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        return "needs root on Linux"
    if not os.access("/dev/fuse", os.W_OK):
        return "there is no FUSE here"
    if _cgroups() is None:
        return "there are no cgroups of version 2 here"
    if not tree().exists():
        if not os.environ.get(ASKED):
            return f"{ASKED}=1 makes the Debian that this needs, in {CACHE}"
        if shutil.which("debootstrap") is None:
            return "needs debootstrap"
    probe = ["unshare", "-m", "-p", "-f", "-C", "-u", "-i", "-n", "true"]
    if subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode != 0:
        return "may not make namespaces"
    return None


def make_tree() -> Path:
    """The system, made when it is not there yet: takes a minute and a network."""
    place = tree()
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f"{place.name}.{os.getpid()}.new")
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(new), MIRROR]
        try:
            subprocess.run(command, check=True, timeout=900, capture_output=True)
            new.rename(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return place


def _cgroups() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(point)
    return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the steps of one run of the system printed."""

    code: int
    out: str
    err: str
    console: str


class Debian:
    """A system in ``work``. What one ``boot`` changed is there at the next."""

    def __init__(self, work: Path) -> None:
        self._work = work
        for name in ("upper", "overlay", "root"):
            (work / name).mkdir()
        units = self.path("etc/systemd/system")
        (units / "multi-user.target.wants").mkdir(parents=True)
        (units / "steps.service").write_text(_STEPS_UNIT)
        (units / "multi-user.target.wants" / "steps.service").symlink_to("../steps.service")
        # The kernel is the host's, and so are its settings and its modules.
        self.path("etc/hostname").write_text("debian\n")
        for name in ("systemd-sysctl", "systemd-modules-load", "systemd-udevd", "systemd-timesyncd"):
            (units / f"{name}.service").symlink_to("/dev/null")

    def path(self, inside: str) -> Path:
        """A file that the system will see; to be written and read between boots."""
        path = self._work / "upper" / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def boot(self, steps: str, timeout: float = 120) -> Outcome:
        """Start the system, run ``steps`` (sh -eu) when it is up, shut it down."""
        for name in ("out", "err", "code"):
            self.path(f"root/{name}").unlink(missing_ok=True)
        self.path("root/steps").write_text(steps)
        cgroups = _cgroups()
        assert cgroups is not None
        group = cgroups / f"serpentfs-test-{os.getpid()}"
        group.mkdir()
        try:
            done = subprocess.run(
                ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group),
                 "unshare", "-m", "-p", "-f", "-C", "-u", "-i", "-n", "--kill-child", "--propagation", "private",
                 "sh", "-c", _BOOT],
                env={**os.environ, "TREE": str(tree()), "WORK": str(self._work)},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", timeout=timeout, check=False,
            )  # fmt: skip
        finally:
            _remove_group(group)
        code = self.path("root/code")
        assert code.exists(), f"the system did not come as far as the steps:\n{done.stdout[-4000:]}"
        out, err = (self.path(f"root/{name}").read_text() for name in ("out", "err"))
        return Outcome(int(code.read_text()), out, err, done.stdout)


def _remove_group(group: Path) -> None:
    """With the groups that the system made below it. Its last processes may take a moment to vanish."""
    give_up = time.monotonic() + 30
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                if time.monotonic() > give_up:
                    raise
        time.sleep(0.02)
