"""``tree find du cat mkdir mv cp rm get put``: through a running owner, and without one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.piping import upload
from serpentfs.daemon.asking import Connection
from serpentfs.errors import Unavailable
from tests.e2e.cli.conftest import SERPENTFS, TIMEOUT, Machine

HOSTILE = "a\x1b[2J\nb"
MTIME = 1_700_000_000_123_456_789


def own(machine: Machine, *words: str) -> None:
    """Have an owner that needs no FUSE."""
    machine.ok("webdav", machine.url, "--no-auth", "--listen", "127.0.0.1:0", "--daemon", *words)


@pytest.fixture(params=["alone", "owner"])
def drive(request: pytest.FixtureRequest, with_vault: Machine) -> Machine:
    if request.param == "owner":
        own(with_vault)
    return with_vault


@pytest.fixture
def owned(with_vault: Machine) -> Machine:
    own(with_vault)
    return with_vault


def at(machine: Machine, path: str) -> str:
    return f"{machine.url}#{path}"


def make(path: Path, content: bytes = b"", mtime_ns: int = MTIME) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def sample(machine: Machine) -> Path:
    """A folder with what folders have in them, and times of its own everywhere."""
    top = machine.home / "album"
    make(top / "notes.txt", b"some notes\n")
    make(top / "empty")
    make(top / "2026" / "big.jpg", os.urandom(3_000_001), MTIME + 10**9)
    make(top / "2026" / "small.jpg", b"small")
    (top / "nothing").mkdir()
    (top / "link").symlink_to("2026/small.jpg")
    for number, folder in enumerate((top / "2026", top / "nothing", top)):
        os.utime(folder, ns=(MTIME + number, MTIME + number))
    return top


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a local folder that must come back as it was."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder", path.stat().st_mtime_ns)
        else:
            found[name] = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    return found


def listed(machine: Machine, *words: str) -> list[str]:
    """Paths that ``find`` prints."""
    return sorted(machine.ok("find", *(words or (machine.url,))).splitlines())


def test_put_look_get(drive: Machine) -> None:
    top = sample(drive)
    assert drive.ok("put", str(top), drive.url) == ""
    assert drive.ok("tree", at(drive, "/album")) == (
        "/album\n├── 2026/\n│   ├── big.jpg\n│   └── small.jpg\n├── empty\n├── link -> 2026/small.jpg\n"
        "├── notes.txt\n└── nothing/\n\n2 folders, 5 files\n"
    )
    found = {one["path"]: one for one in json.loads(drive.ok("find", drive.url, "--json"))}
    assert found["/album/2026/big.jpg"] == {
        "path": "/album/2026/big.jpg", "kind": "file", "size": 3_000_001, "mtime_ns": MTIME + 10**9, "target": None,
    }
    assert found["/album/link"]["target"] == "2026/small.jpg"
    assert found["/album/nothing"]["mtime_ns"] == MTIME + 1
    assert drive.ok("cat", at(drive, "/album/n*.txt"), at(drive, "/album/2026/small.jpg")) == "some notes\nsmall"
    sums = {one["path"]: one for one in json.loads(drive.ok("du", "--json", at(drive, "/album")))}
    size = 3_000_001 + len("small")
    assert sums["/album/2026"] == {"path": "/album/2026", "size": size, "files": 2}
    assert sums["/album"]["files"] == 5
    assert drive.ok("get", at(drive, "/album"), "back") == ""
    assert facts(drive.home / "back") == facts(top)


def test_find(owned: Machine) -> None:
    owned.ok("put", str(sample(owned)), owned.url)
    album = at(owned, "/album")
    assert listed(owned, album, "--type", "d") == ["/album", "/album/2026", "/album/nothing"]
    assert listed(owned, album, "--name", "*.jpg") == ["/album/2026/big.jpg", "/album/2026/small.jpg"]
    assert listed(owned, album, "--name", "*.JPG") == []
    assert listed(owned, album, "--iname", "*.JPG", "--size", "+1M") == ["/album/2026/big.jpg"]
    assert listed(owned, album, "--type", "f", "--size=-5") == ["/album/2026/small.jpg", "/album/empty"]
    assert listed(owned, album, "--size", "11") == ["/album/notes.txt"]
    assert listed(owned, album, "--depth", "1", "--type", "f") == ["/album/empty", "/album/notes.txt"]
    assert listed(owned, album, "--older", "2020-01-01") == []
    assert listed(owned, album, "--newer", "1h", "--type", "f") == []    # link was made now, files have old times
    assert listed(owned, album, "--older", "1h", "--name", "big*") == ["/album/2026/big.jpg"]
    assert owned.ok("du", "-s", "-h", album).split() == ["2.9M", "/album"]
    nested = json.loads(owned.ok("tree", "--json", "--depth", "1", album))
    assert [one["path"].rpartition("/")[2] for one in nested[0]["children"]] == [
        "2026", "empty", "link", "notes.txt", "nothing",
    ]
    assert owned.ok("tree", "-d", album).splitlines()[1:3] == ["├── 2026/", "└── nothing/"]


def test_names(drive: Machine) -> None:
    for name in ("one", "two"):
        make(drive.home / name, name.encode())
    drive.ok("mkdir", "-p", at(drive, "/a/b"), at(drive, "/c"))
    drive.ok("put", "one", "two", at(drive, "/a"))
    drive.ok("mv", at(drive, "/a/one"), at(drive, "/c"))              # into a folder that exists
    drive.ok("mv", at(drive, "/a/two"), at(drive, "/a/b/renamed"))
    drive.ok("cp", at(drive, "/c/one"), at(drive, "/a/b/renamed"))    # over a file, as on this machine
    assert drive.ok("cat", at(drive, "/a/b/renamed")) == "one"
    drive.ok("cp", "-r", "-p", at(drive, "/a"), at(drive, "/copy"))
    assert listed(drive) == ["/", "/a", "/a/b", "/a/b/renamed", "/c", "/c/one", "/copy", "/copy/b", "/copy/b/renamed"]
    drive.ok("rm", "-r", at(drive, "/c*"))
    assert listed(drive) == ["/", "/a", "/a/b", "/a/b/renamed"]
    drive.ok("rm", "-f", at(drive, "/nothing"), at(drive, "/a/b/r*"))
    assert listed(drive) == ["/", "/a", "/a/b"]


def test_wrong_uses_say_one_line_and_change_nothing(owned: Machine) -> None:
    make(owned.home / "file", b"content")
    owned.ok("mkdir", "-p", at(owned, "/folder/sub"))
    owned.ok("put", "file", owned.url)
    before = listed(owned)
    file, folder, none = at(owned, "/file"), at(owned, "/folder"), at(owned, "/none")
    for command in ("cat", "rm", "du", "tree", "find", "get"):
        assert "/none" in owned.fails(4, command, none)
    assert "nothing matches" in owned.fails(4, "get", at(owned, "/*.jpg"))
    wrong: list[tuple[int, str, tuple[str, ...]]] = [
        (1, "is a folder", ("cat", folder)),
        (1, "-r removes", ("rm", folder)),
        (2, "root", ("rm", "-r", owned.url)),
        (10, "exists", ("mkdir", folder)),
        (4, "no such folder", ("mkdir", at(owned, "/none/sub"))),
        (10, "file", ("mkdir", "-p", file)),
        (4, "/none", ("mv", none, folder)),
        (2, "into itself", ("mv", folder, at(owned, "/folder/sub"))),
        (1, "-r copies", ("cp", folder, none)),
        (2, "into itself", ("cp", "-r", folder, at(owned, "/folder/sub"))),
        (2, "itself", ("cp", file, file)),
        (2, "two remotes", ("mv", file, "vault+file:///elsewhere#/x")),
        (4, "absent", ("put", "absent", owned.url)),
        (4, "no such folder", ("put", "file", "passphrase", none)),
        (4, "not a folder", ("put", "file", "passphrase", file)),
        (4, "no such folder", ("put", "file", at(owned, "/none/new"))),
        (2, "size", ("find", file, "--size", "much")),
        (2, "time", ("find", file, "--newer", "yesterday")),
        (2, "0", ("get", file, "--parallel", "0")),
        (4, "", ("get", file, "absent/new")),
    ]
    for code, told, words in wrong:
        assert told in owned.fails(code, *words), words
    assert listed(owned) == before
    assert sorted(path.name for path in owned.home.glob("*.part")) == []


def test_who_asks_a_running_process_imports_little(owned: Machine) -> None:
    code = (
        "import sys; from serpentfs.cli.main import main\n"
        "for words in ['ls'], ['find'], ['df'], ['flush'], ['refresh']: assert main([*words, sys.argv[1]]) == 0\n"
        "print({'trio', 'cryptography', 'sqlite3'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, owned.url], env=owned.environment, capture_output=True, text=True,
        timeout=TIMEOUT, check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_no_clobber(owned: Machine) -> None:
    for name in ("one", "two"):
        make(owned.home / name, name.encode())
    owned.ok("put", "one", "two", owned.url)
    for command in ("mv", "cp"):
        owned.fails(10, command, "-n", at(owned, "/one"), at(owned, "/two"))
        assert owned.ok("cat", at(owned, "/*")) == "onetwo"


def test_names_that_would_steer_a_terminal(owned: Machine) -> None:
    make(owned.home / "in" / HOSTILE, b"x")
    owned.ok("put", "in", owned.url)
    shown = "/in/a\\x1b[2J\\nb"
    assert listed(owned, "--type", "f", owned.url) == [shown]
    for words in (["tree"], ["find", "-l"], ["du"]):
        assert "\x1b" not in owned.ok(words[0], owned.url, *words[1:])
    (owned.home / "out" / HOSTILE).mkdir(parents=True)
    assert "out/a\\x1b[2J\\nb" in owned.fails(1, "get", at(owned, "/in/a*"), "out")    # a folder is in its place
    (owned.home / "out" / HOSTILE).rmdir()
    assert owned.ok("find", "-0", "--type", "f", owned.url) == f"/in/{HOSTILE}\0"
    owned.ok("get", at(owned, "/in/*"), "out")
    assert HOSTILE in os.listdir(owned.home / "out")


def test_what_is_not_uploaded_yet(with_vault: Machine) -> None:
    own(with_vault, "--settle", "300")
    make(with_vault.home / "file", b"only here so far")
    with_vault.ok("put", "--no-wait", "file", with_vault.url)
    assert not [path for path in with_vault.vault.rglob("*.c9r") if path.name != "dirid.c9r"]
    assert with_vault.ok("cat", at(with_vault, "/file")) == "only here so far"
    with_vault.ok("put", "file", at(with_vault, "/other"))    # waits for its own upload, and for no settling
    assert [path for path in with_vault.vault.rglob("*.c9r") if path.name != "dirid.c9r"]


def test_no_wait_without_an_owner_is_journalled(with_vault: Machine) -> None:
    make(with_vault.home / "file", b"content")
    assert "1 change not uploaded" in with_vault.fails(14, "put", "--no-wait", "file", with_vault.url)
    with_vault.ok("flush", with_vault.url)
    assert with_vault.ok("cat", at(with_vault, "/file")) == "content"


def test_places_of_get_and_put(owned: Machine) -> None:
    make(owned.home / "in" / "one.txt", b"1")
    make(owned.home / "in" / "two.txt", b"2")
    make(owned.home / "in" / "[x].txt", b"x")
    owned.ok("put", "in/*.txt", "-c", at(owned, "/new/place"))    # nobody expanded the pattern before
    assert listed(owned, "--type", "f", owned.url) == ["/new/place/[x].txt", "/new/place/one.txt", "/new/place/two.txt"]
    owned.ok("put", "in/one.txt", at(owned, "/new/name"))
    owned.ok("put", "in/.", at(owned, "/contents"))
    assert listed(owned, "--name", "*e*", at(owned, "/contents")) == ["/contents", "/contents/one.txt"]
    (owned.home / "out").mkdir()
    owned.ok("get", at(owned, "/new/place/*.txt"), "out")
    assert sorted(path.name for path in (owned.home / "out").iterdir()) == ["[x].txt", "one.txt", "two.txt"]
    owned.ok("get", at(owned, "/new/place/[x].txt"))              # a name, not a pattern
    assert (owned.home / "[x].txt").read_bytes() == b"x"
    owned.ok("get", at(owned, "/new/name"), "out")
    owned.ok("get", at(owned, "/new/name"), "renamed")
    assert (owned.home / "out" / "name").read_bytes() == (owned.home / "renamed").read_bytes() == b"1"
    owned.ok("get", owned.url, "all")
    assert (owned.home / "all" / "contents" / "two.txt").read_bytes() == b"2"
    assert "not a folder" in owned.fails(4, "get", at(owned, "/new/*"), "renamed")


def test_update_skips_what_looks_the_same(owned: Machine) -> None:
    same, other = make(owned.home / "in" / "same", b"old"), make(owned.home / "in" / "other", b"old")
    owned.ok("put", "in", owned.url)
    make(same, b"new")
    make(other, b"new", MTIME + 10**9)
    owned.ok("put", "-u", "in", owned.url)
    assert owned.ok("cat", at(owned, "/in/same"), at(owned, "/in/other")) == "oldnew"
    make(same, b"mine")
    make(other, b"its", MTIME + 10**9)
    owned.ok("get", "-u", at(owned, "/in"), ".")
    assert (same.read_bytes(), other.read_bytes()) == (b"old", b"its")
    owned.ok("get", at(owned, "/in"), ".")
    assert (same.read_bytes(), other.read_bytes()) == (b"old", b"new")


def get_a_part(machine: Machine, content: bytes) -> Path:
    """A ``get`` that could not go on after 2 MiB: the partial file."""
    make(machine.home / "source", content)
    machine.ok("put", "source", at(machine, "/file"))
    done = subprocess.run(
        ["prlimit", f"--fsize={2 << 20}", str(SERPENTFS), "get", at(machine, "/file")], env=machine.environment,
        cwd=machine.home, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )
    assert done.returncode != 0
    assert done.stderr.startswith("serpentfs: /file: ")
    assert done.stderr.count("\n") == 1
    assert not (machine.home / "file").exists()
    part = machine.home / "file.part"
    assert part.stat().st_size == 2 << 20
    return part


def change_in_place(path: Path, change: Callable[[Path], object]) -> None:
    status = path.stat()
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_get_goes_on_where_it_stopped(owned: Machine) -> None:
    content = os.urandom(5_000_000)
    part = get_a_part(owned, content)
    change_in_place(part, lambda path: path.write_bytes(b"MARK" + content[4 : 2 << 20]))
    owned.ok("get", at(owned, "/file"))
    assert (owned.home / "file").read_bytes() == b"MARK" + content[4:]    # what was there was not fetched again
    assert (owned.home / "file").stat().st_mtime_ns == MTIME
    assert not part.exists()


def put(machine: Machine, path: str) -> None:
    machine.ok("put", str(make(machine.home / "source", b"content")), at(machine, path))


def test_get_takes_no_pipe_away(owned: Machine) -> None:
    """Or a device: root has many."""
    put(owned, "/file")
    pipe = owned.home / "pipe"
    os.mkfifo(pipe)
    assert "is no file" in owned.fails(ExitCode.EXISTS, "get", at(owned, "/file"), str(pipe))
    assert pipe.is_fifo()
    assert sorted(owned.home.glob("pipe*")) == [pipe]


def test_a_full_disk_under_the_output_is_told_as_such(owned: Machine) -> None:
    put(owned, "/file")
    command = 'exec "$0" cat "$1" > /dev/full'
    done = subprocess.run(
        ["sh", "-c", command, str(SERPENTFS), at(owned, "/file")], env=owned.environment, capture_output=True,
        text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (ExitCode.NO_SPACE, "serpentfs: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(owned: Machine, closed: str) -> None:
    put(owned, "/file")
    command = f'"$0" ls "$1" {closed}; echo $?; "$0" ls "$1/nothing" {closed}; echo $?'
    done = subprocess.run(
        ["sh", "-c", command, str(SERPENTFS), at(owned, "/")], env=owned.environment, capture_output=True,
        text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["0", str(ExitCode.NOT_FOUND)]
    assert "fault" not in done.stderr


def test_get_begins_anew_when_the_file_is_another(owned: Machine) -> None:
    get_a_part(owned, os.urandom(5_000_000))
    content = os.urandom(4_000_000)
    make(owned.home / "source", content)    # of the same time, but not of the same size
    owned.ok("put", "source", at(owned, "/file"))
    owned.ok("get", at(owned, "/file"))
    assert (owned.home / "file").read_bytes() == content


def test_a_partial_file_never_takes_the_name_of_another(owned: Machine) -> None:
    for name, content in (("a", b"1" * 300_000), ("a.part", b"2" * 300_000), ("n" * 255, b"3")):
        make(owned.home / "in" / name, content)
    owned.ok("put", "in", owned.url)
    owned.ok("get", at(owned, "/in"), "out")
    assert facts(owned.home / "out") == facts(owned.home / "in")


def control_socket(machine: Machine) -> Path:
    (found,) = (machine.home / "run" / "serpentfs").glob("*.sock")
    return found


def test_a_put_that_breaks_off_changes_nothing(owned: Machine) -> None:
    make(owned.home / "file", b"old content")
    owned.ok("put", "file", owned.url)
    with Connection(control_socket(owned), timeout=TIMEOUT) as connection:
        for path in ("/file", "/new"):
            with pytest.raises(Unavailable, match="only 10 of 100 bytes came"):
                upload(connection, path, [b"0123456789"], 100)
        assert connection.ask("status")["drive"]["pending"] == []
    assert listed(owned) == ["/", "/file"]
    assert owned.ok("cat", at(owned, "/file")) == "old content"


def test_links_do_not_lead_out_of_the_folder_that_was_named(owned: Machine) -> None:
    make(owned.home / "in" / "sub" / "file", b"content")
    owned.ok("put", "in", owned.url)
    outside = owned.home / "outside"
    outside.mkdir()
    (owned.home / "out" / "in").mkdir(parents=True)
    (owned.home / "out" / "in" / "sub").symlink_to(outside)
    assert "symbolic link" in owned.fails(10, "get", at(owned, "/in"), "out")
    assert list(outside.iterdir()) == []


def test_some_fail_and_the_others_go_on(drive: Machine) -> None:
    os.mkfifo(drive.home / "pipe")
    make(drive.home / "file", b"content")
    assert "pipe: neither a file nor a folder" in drive.fails(12, "put", "pipe", "file", drive.url)
    assert drive.ok("cat", at(drive, "/file")) == "content"
    done = drive.run("cat", at(drive, "/none"), at(drive, "/file"))
    assert (done.returncode, done.stdout) == (4, "content")
    drive.fails(4, "rm", at(drive, "/none"), at(drive, "/file"))
    assert listed(drive) == ["/"]


@pytest.mark.parametrize("words", [["find"], ["cat"]])
def test_a_reader_that_has_enough(drive: Machine, words: list[str]) -> None:
    make(drive.home / "file", b"x" * 3_000_000)
    drive.ok("put", "file", drive.url)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [str(SERPENTFS), *words, at(drive, "/file")], env=drive.environment, stdout=writing, stderr=subprocess.PIPE,
        text=True, timeout=TIMEOUT, check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_commands_at_the_same_time_share_one_owner(with_vault: Machine) -> None:
    """No owner runs: the first command is it, and stays until the others are through."""
    names = [f"file-{number}" for number in range(4)]
    for name in names:
        make(with_vault.home / name, os.urandom(500_000))
    running = [with_vault.start("put", name, with_vault.url) for name in names]
    for process in running:
        _, told = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, told
    assert listed(with_vault) == ["/", *(f"/{name}" for name in names)]


def test_a_read_only_remote(with_vault: Machine) -> None:
    own(with_vault, "--read-only")
    make(with_vault.home / "file", b"content")
    for words in (["put", "file", with_vault.url], ["mkdir", at(with_vault, "/new")]):
        assert "read-only" in with_vault.fails(11, *words)
    assert listed(with_vault) == ["/"]
