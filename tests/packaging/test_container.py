"""The container image: what its recipe says of files and folders holds, and the root file system that it makes runs.

The second needs root on Debian and takes minutes: SERPENTFS_TEST_CONTAINER=1 asks for it. SERPENTFS_DEB=FILE puts that
package into it instead of building one. There is no container engine in this: what one would do is done with
namespaces, chroot(2) and setuid(2).
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import http.client
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from tests.mounted import free_port

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "packaging" / "container"
PASSPHRASE = "canary-passphrase-5512"
PASSWORD = "canary-password-5513"
TIMEOUT = 60.0

def load_assemble() -> ModuleType:
    spec = util.spec_from_file_location("assemble", RECIPE / "assemble.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["assemble"] = module
    spec.loader.exec_module(module)
    return module


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile, with continued lines joined: the word, and what follows."""
    text = (RECIPE / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def variables() -> dict[str, str]:
    """The environment of the image."""
    words = " ".join(rest for word, rest in instructions() if word == "ENV").split()
    return dict(word.split("=", 1) for word in words)


# The recipe


def test_what_the_recipe_names_exists() -> None:
    assemble = load_assemble()
    said = instructions()
    assert os.access(RECIPE / "assemble.py", os.X_OK)
    assert ("RUN", "/source/packaging/container/assemble.py /image") in said
    assert ("COPY", "--from=build /image /") in said
    assert ("USER", f"{assemble.USER}:{assemble.USER}") in said
    folders = {f"/{name}" for name in assemble.FOLDERS} | {"/home/serpentfs"}
    places = {value for name, value in variables().items() if name.startswith("XDG_") or name == "HOME"}
    assert places <= folders
    volumes = json.loads(next(rest for word, rest in said if word == "VOLUME"))
    assert set(volumes) <= folders
    assert {"/state", "/cache"} == set(volumes)    # with the journal, and what is large


def test_the_last_stage_is_empty_but_for_what_is_assembled() -> None:
    said = instructions()
    last = max(index for index, (word, _) in enumerate(said) if word == "FROM")
    assert said[last] == ("FROM", "scratch")
    assert [rest for word, rest in said[last:] if word in ("RUN", "ADD")] == []
    assert [rest for word, rest in said[last:] if word == "COPY"] == ["--from=build /image /"]


def test_nothing_that_the_build_reads_is_ignored() -> None:
    patterns = [
        line for line in (RECIPE / "Containerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    needed = ["pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "serpentfs", "cache", "gateways", "packaging"]
    needed += ["packaging/deb/build", "packaging/setup.sh", "packaging/container/assemble.py"]
    for name in needed:
        assert (ROOT / name).exists()
        parts = name.split("/")
        above = ["/".join(parts[: length + 1]) for length in range(len(parts))]
        assert not any(fnmatch.fnmatch(part, pattern) for part in above for pattern in patterns), name


def test_the_build_stage_has_what_the_package_needs() -> None:
    installed = next(rest for word, rest in instructions() if word == "RUN" and "apt-get" in rest).split()
    needed = re.findall(r"apt install ([\w\d -]+)\)", (ROOT / "packaging" / "deb" / "build").read_text())
    assert needed
    for name in " ".join(needed).split():
        assert name in installed


# What it makes


# Makes the mounts that an engine would make, all private but for the volume at /mnt, as with ":rshared". Its
# environment: IMAGE, WORK, DEVICES.
MOUNTS = """
while read -r _ _ _ _ point _; do
    [ "$point" = "$WORK/mnt" ] || mount --make-private "$point"
done </proc/self/mountinfo
mount --bind "$IMAGE" "$IMAGE"
mount -o remount,bind,ro "$IMAGE"
mount -t proc -o nosuid,nodev,noexec proc "$IMAGE/proc"
mount -t tmpfs -o mode=1777 tmp "$IMAGE/tmp"
mount -t tmpfs -o mode=755 dev "$IMAGE/dev"
for device in $DEVICES; do
    mknod -m 666 "$IMAGE/dev/${device%%:*}" c "$(echo "$device" | cut -d: -f2)" "${device##*:}"
done
for folder in state cache data mnt config; do mount --bind "$WORK/$folder" "$IMAGE/$folder"; done
exec "$PYTHON" -c "$BECOME" "$@"
"""

# What an engine does last: the user, no rights of root, and, as with no-new-privileges, no way to get them.
BECOME = """
import ctypes, os, sys
os.chroot(os.environ["IMAGE"])
os.chdir("/home/serpentfs")
user = int(os.environ["CONTAINER_USER"])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
if os.environ["PRIVILEGES"] == "none":
    assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0    # PR_SET_NO_NEW_PRIVS
kept = dict(word.split("=", 1) for word in os.environ["CONTAINER_ENV"].split())
os.execve("/usr/bin/serpentfs", ["serpentfs", *sys.argv[1:]], kept)
"""


class Container:
    """Runs the entry point in the image, as an engine would: read-only, with volumes, as the user of the image."""

    def __init__(self, image: Path, work: Path, user: int) -> None:
        self.image, self.work, self.user = image, work, user
        for name in ("state", "cache", "data", "mnt", "config"):
            (work / name).mkdir()
            os.chown(work / name, user, user)

    def start(self, *words: str, fuse: bool = False) -> subprocess.Popen[str]:
        """``fuse``: with /dev/fuse, and with the right to become root by way of fusermount3."""
        environment = {
            "PATH": os.environ["PATH"], "IMAGE": str(self.image), "WORK": str(self.work), "PYTHON": sys.executable,
            "BECOME": BECOME, "DEVICES": "null:1:3 urandom:1:9" + " fuse:10:229" * fuse,
            "PRIVILEGES": "fusermount3" if fuse else "none", "CONTAINER_USER": str(self.user),
            "CONTAINER_ENV": " ".join(f"{name}={value}" for name, value in variables().items()),
        }
        unshare = ["unshare", "-m", "-p", "-f", "-i", "-u", "--kill-child", "--propagation", "unchanged"]
        return subprocess.Popen(
            [*unshare, "sh", "-euc", MOUNTS, "sh", *words], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def ok(self, *words: str) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, (words, out, err)
        assert PASSPHRASE not in out + err
        return out

    @contextlib.contextmanager
    def running(self, *words: str, fuse: bool = False) -> Iterator[int]:
        """The process id of its first process, as the host sees it. Ended as an engine ends it, which must be
        clean."""
        process = self.start(*words, fuse=fuse)
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first:
                pytest.fail(f"{words}: {process.communicate(timeout=TIMEOUT)}")
            pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            yield pid
            os.kill(pid, signal.SIGTERM)
            out, err = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, (out, err)
        finally:
            process.kill()
            process.communicate(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not os.environ.get("SERPENTFS_TEST_CONTAINER"):
        pytest.skip("SERPENTFS_TEST_CONTAINER=1 asks for it")
    if os.geteuid() != 0 or shutil.which("dpkg") is None:
        pytest.skip("needs root on Debian")
    path = tmp_path_factory.mktemp("container") / "image"
    command = [str(RECIPE / "assemble.py"), str(path)]
    if built := os.environ.get("SERPENTFS_DEB"):
        command.append(built)
    done = subprocess.run(["/usr/bin/python3", *command], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def container(image: Path, tmp_path: Path) -> Container:
    """With a vault at /data and a configuration that has users of WebDAV in a file of htpasswd."""
    made = Container(image, tmp_path, load_assemble().USER)
    folder = made.work / "config" / "serpentfs"
    folder.mkdir()
    (folder / "config.toml").write_text(
        '[remote.work]\nurl = "vault+file:///data/vault"\npassword-file = "passphrase"\n'
    )
    for name, content in (("passphrase", PASSPHRASE), ("password", PASSWORD)):
        (folder / name).touch(0o600)
        (folder / name).write_text(f"{content}\n")
        os.chown(folder / name, made.user, made.user)
    made.ok("init", "work:")
    return made


@pytest.mark.slow
def test_what_is_in_it(image: Path) -> None:
    programs = {path.name for folder in ("usr/bin", "usr/sbin") for path in (image / folder).iterdir()}
    others = {name for name in programs if not name.startswith("python3")}
    assert others == {"serpentfs", "fusermount3", "mount", "umount", "sync"}    # and no sh
    setuid = [path for path in image.rglob("*") if not path.is_symlink() and path.stat().st_mode & stat.S_ISUID]
    assert [path.name for path in setuid] == ["fusermount3"]
    links = [path for path in image.rglob("*") if path.is_symlink()]
    broken = [path for path in links if not _leads_somewhere(image, path)]
    assert broken == []
    described = {path.name for path in (image / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "ca-certificates", "fuse3"} <= described
    assert (image / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000


def _leads_somewhere(image: Path, link: Path) -> bool:
    """As it would in a container, where the image is all there is."""
    for _ in range(20):
        target = os.readlink(link)
        link = image / target.lstrip("/") if target.startswith("/") else Path(os.path.normpath(link.parent / target))
        if not link.is_symlink():
            return link.exists() or str(link).startswith(str(image / "proc"))
    return False


@pytest.mark.slow
def test_webdav_without_any_privilege(container: Container) -> None:
    assert container.ok("version").startswith("serpentfs ")
    port = free_port()
    login = {"Authorization": "Basic " + base64.b64encode(f"anna:{PASSWORD}".encode()).decode()}
    doors = ["--listen", f"0.0.0.0:{port}", "--public", "--insecure", "--user", "anna"]
    with container.running("webdav", "work:", *doors, "--pass-file", "/config/serpentfs/password") as pid:
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:(\s+65532){4}$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^CapPrm:\s+0+$", status, re.MULTILINE)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        connection.request("PUT", "/file", body=b"content", headers=login)
        assert connection.getresponse().status == 201
        connection.close()
    assert container.ok("cat", "work:/file") == "content"


@pytest.mark.slow
def test_ftp_without_any_privilege(container: Container) -> None:
    port = free_port()
    with container.running("ftp", "work:", "--listen", f"127.0.0.1:{port}", "--no-auth"):
        command = ["curl", "-sS", "--max-time", "30", "-T", "-", f"ftp://127.0.0.1:{port}/file"]
        subprocess.run(command, input=b"content", check=True, timeout=TIMEOUT)
    assert container.ok("cat", "work:/file") == "content"


@pytest.fixture
def shared(container: Container) -> Iterator[Path]:
    """The folder of the host that is at /mnt, with mounts of the container in it seen by the host."""
    folder = container.work / "mnt"
    (folder / "drive").mkdir()
    os.chown(folder / "drive", container.user, container.user)
    subprocess.run(["mount", "--bind", folder, folder], check=True, timeout=TIMEOUT)
    try:
        subprocess.run(["mount", "--make-shared", folder], check=True, timeout=TIMEOUT)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder / "drive"], check=False, timeout=TIMEOUT, capture_output=True)
        subprocess.run(["umount", "-l", folder], check=True, timeout=TIMEOUT)


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="there is no FUSE here")
def test_mount_that_the_host_sees(container: Container, shared: Path) -> None:
    with container.running("mount", "work:", "/mnt/drive", "--allow-other", fuse=True) as pid:
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:(\s+65532){4}$", status, re.MULTILINE)
        assert (shared / "drive").is_mount()
        (shared / "drive" / "file").write_bytes(b"content")
    assert not (shared / "drive").is_mount()
    assert container.ok("cat", "work:/file") == "content"
