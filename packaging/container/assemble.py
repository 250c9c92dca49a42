#!/usr/bin/env python3
"""The root file system of the container image: packaging/container/assemble.py ROOT [PACKAGE.deb]

Runs in the Debian that the image is made from, which has the packages that Containerfile names, and writes to the new
folder ROOT: the Debian package of this checkout (built here, or PACKAGE.deb), the Python that it runs on, fusermount3
with what it runs, the shared libraries that all of these load, certificates, time zones and a user without rights. No
shell, no package manager, nothing else. What it takes of Debian is told in ROOT/var/lib/dpkg/status.d, for scanners.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = Path("/usr/bin/python3")
USER = 65532    # that of other distroless images
FOLDERS = ("config", "state", "cache", "data", "mnt")
"""Of the user: see the variables in Containerfile. ``data`` is for vaults in a folder, ``mnt`` for a mount."""
LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")
UNUSED = (
    re.compile(r"/usr/share/(doc(?!/[^/]+/copyright$)|man|info|lintian|bash-completion|locale|bug)/"),
    re.compile(r"/usr/lib/python3\.\d+/(idlelib|ensurepip|lib2to3|turtledemo|tkinter|distutils|pydoc_data|test)/"),
    re.compile(r"/usr/lib/valgrind/|/usr/share/(binfmts|python3|gcc|initramfs-tools)/|/etc/(init\.d|ca-certificates/)"),
    re.compile(r"(/usr)?/s?bin/(?!python3|fusermount3)|/etc/python3|/usr/share/apps|/usr/share/pixmaps"),
)
PROGRAMS = ("/bin/sync", "/bin/mount", "/bin/umount")
"""What is run before an unmount; and what fusermount3 runs, from libfuse 3.17 on also where there is no mtab to be
kept."""
NOBODY_READS = ("man", "bash-completion", "zsh", "fish")
SYSTEM_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
                  f"serpentfs:x:{USER}:{USER}:serpentfs:/home/serpentfs:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nserpentfs:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/fuse.conf": "user_allow_other\n",    # what is mounted here is for others than this user
}  # fmt: skip


def run(*words: str | Path) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        sys.exit(f"assemble.py: failed: {' '.join(map(str, words))}")
    return done.stdout


class Root:
    """The new root file system. Its folders lie where the system's do, also where those are links (/lib)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        path.chmod(0o755)
        self.taken: set[Path] = set()
        for name in ("bin", "sbin", "lib", "lib64"):
            system = Path("/", name)
            if system.is_symlink():
                target = system.readlink()
                (path / "usr" / target.name).mkdir(parents=True, exist_ok=True)
                (path / name).symlink_to(target)

    def take(self, file: Path) -> None:
        """Copy one file or link of the system, and what a link leads to."""
        place = file.parent.resolve() / file.name
        new = self.path / place.relative_to("/")
        if os.path.lexists(new) or (file.is_dir() and not file.is_symlink()):
            return
        self.taken.add(place)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(place, new, follow_symlinks=False)
        if place.is_symlink():
            target = place.parent / place.readlink()
            if target.exists():
                self.take(target)

    def take_package(self, name: str) -> None:
        for line in run("dpkg", "-L", name).splitlines():
            file = Path(line)
            if os.path.lexists(file) and not any(unused.search(line) for unused in UNUSED):
                self.take(file)

    def programs(self) -> Iterable[Path]:
        """Everything in it that loads shared libraries."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder, name)
                if not file.is_symlink() and file.is_file():
                    with file.open("rb") as content:
                        if content.read(4) == b"\x7fELF":
                            yield file

    def take_libraries(self) -> None:
        for program in list(self.programs()):
            done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
            if "not found" in done.stdout:
                sys.exit(f"assemble.py: {program} lacks a library:\n{done.stdout}")
            for library in LIBRARY.findall(done.stdout):
                if not library.startswith(str(self.path)):
                    self.take(Path(library))

    def describe_packages(self) -> None:
        """One file for each package of Debian that something was taken of."""
        names = [name for file in sorted(self.taken) for name in (str(file), str(file).removeprefix("/usr"))]
        # Of two names of a file dpkg knows one at most, so that its exit code tells nothing.
        done = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True, check=False)
        owners = {line.partition(": ")[0].partition(",")[0] for line in done.stdout.splitlines()}
        owners = {owner for owner in owners if not owner.startswith("diversion by ")}
        folder = self.path / "var" / "lib" / "dpkg" / "status.d"
        folder.mkdir(parents=True)
        for owner in sorted(owners):
            (folder / owner.partition(":")[0]).write_text(run("dpkg-query", "-s", owner))
            copyright_file = Path("/usr/share/doc", owner.partition(":")[0], "copyright")
            if copyright_file.exists():
                self.take(copyright_file)


def assemble(path: Path, package: Path) -> None:
    version = run(PYTHON, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()
    root = Root(path)
    for name in ("python3-minimal", f"{version}-minimal", f"lib{version}-minimal", f"lib{version}-stdlib",
                 "ca-certificates", "media-types", "tzdata", "fuse3"):
        root.take_package(name)
    for name in ("/etc/ssl/certs/ca-certificates.crt", "/etc/os-release", *PROGRAMS):
        root.take(Path(name))
    for name in ("mount", "umount"):
        (path / "usr" / "bin" / name).chmod(0o755)    # fusermount3, which runs them, is setuid itself
    with tempfile.TemporaryDirectory() as unpacked:
        run("dpkg-deb", "-x", package, unpacked)
        for unwanted in ("lib", "usr/lib/systemd", "usr/sbin", *(f"usr/share/{name}" for name in NOBODY_READS)):
            shutil.rmtree(Path(unpacked, unwanted), ignore_errors=True)
        shutil.copytree(unpacked, path, symlinks=True, dirs_exist_ok=True)
    # Nobody who runs it can write what Python compiles.
    run(PYTHON, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", path, "-p", "/",
        path / "usr" / "lib" / version)
    root.take_libraries()
    root.describe_packages()
    for name, text in SYSTEM_FILES.items():
        (path / name).write_text(text)
    (path / "etc" / "mtab").symlink_to("../proc/self/mounts")    # fusermount3 -u looks there
    for name in ("proc", "sys", "dev", "tmp", "root", "home/serpentfs", *FOLDERS):
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "tmp").chmod(0o1777)
    for name in ("home/serpentfs", *FOLDERS):
        (path / name).chmod(0o700)
        os.chown(path / name, USER, USER)
    when = int(os.environ.get("SOURCE_DATE_EPOCH") or package.stat().st_mtime)
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            os.utime(Path(folder, name), (when, when), follow_symlinks=False)


def main() -> None:
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit("usage: packaging/container/assemble.py ROOT [PACKAGE.deb]")
    path = Path(sys.argv[1]).absolute()
    if path.exists():
        sys.exit(f"assemble.py: {path} exists already")
    if len(sys.argv) == 3:
        assemble(path, Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        built = run(CHECKOUT / "packaging" / "deb" / "build", folder)
        assemble(path, Path(built.splitlines()[-1]))


if __name__ == "__main__":
    main()
