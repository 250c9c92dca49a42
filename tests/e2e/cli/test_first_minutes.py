"""A newcomer's first ten minutes at a terminal: what is typed, what is asked, and what is seen."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.e2e.cli.conftest import Machine, needs_fuse
from tests.mega_emulator import emulator
from tests.mounted import free_port

PASSPHRASE = "canary-passphrase-typed-2207"
DOOR_PASSWORD = "canary-door-typed-9914"
EMAIL, ACCOUNT_PASSWORD = "anna@example.test", "canary-account-typed-5520"
PROMPT = re.compile(r"\[(\d+)\] newcomer\$ ")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]")
WIDTH = 100

pytestmark = needs_fuse


class Person:
    """Somebody at a shell."""

    def __init__(self, machine: Machine) -> None:
        environment = machine.environment
        del environment["SERPENTFS_PASSWORD_FILE"]    # a newcomer has heard of nothing
        inputrc = machine.home / "inputrc"
        inputrc.write_text("set enable-bracketed-paste off\n")
        environment |= {
            "TERM": "xterm-256color", "LANG": "C.UTF-8", "INPUTRC": str(inputrc), "PS1": r"[$?] newcomer\$ ",
            "PROMPT_COMMAND": "", "HISTFILE": "",
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        }
        if os.geteuid() == 0:    # whose prompt ends with "#"
            environment["PS1"] = "[$?] newcomer$ "
        self._shell = pexpect.spawn(
            "/bin/bash", ["--norc", "--noprofile"], env=environment, cwd=machine.home, encoding="utf-8",
            timeout=60, dimensions=(40, WIDTH), echo=True,
        )
        self._shell.expect(PROMPT)
        self.raw = ""
        """All that came to the terminal."""
        self.code = 0

    def types(self, line: str, *answers: tuple[str, str]) -> str:
        """A command, and what is answered to what it asks; what was to be seen until the next prompt."""
        return self.begins(line, *answers) + self.sees_prompt()

    def begins(self, line: str, *answers: tuple[str, str]) -> str:
        """The same, without waiting for the end."""
        self._shell.sendline(line)
        self._shell.expect_exact(line)    # its echo
        self._take()
        seen = ""
        for question, answer in answers:
            seen += self.sees(question)
            self._shell.sendline(answer)
        return seen

    def sees(self, text: str) -> str:
        self._shell.expect_exact(text)
        return self._take() + text

    def sees_prompt(self) -> str:
        self._shell.expect(PROMPT)
        match = self._shell.match
        assert isinstance(match, re.Match)
        self.code = int(match[1])
        return self._take()

    def presses_control_c(self) -> None:
        self._shell.sendintr()

    def _take(self) -> str:
        raw = self._shell.before or ""
        self.raw += raw
        return _CONTROL.sub("", raw).replace("\r\n", "\n").replace("\r", "")

    def leaves(self) -> None:
        if self._shell.closed:
            return
        self._shell.sendline("exit")
        self._shell.expect(pexpect.EOF)
        self.raw += self._shell.before or ""
        self._shell.close()


@pytest.fixture
def person(machine: Machine) -> Iterator[Person]:
    found = Person(machine)
    try:
        yield found
    finally:
        found.leaves()


def told(text: str) -> str:
    """The one line that a command said."""
    lines = text.strip("\n").split("\n")
    assert len(lines) == 1, text
    return lines[0]


def test_the_first_ten_minutes(machine: Machine, person: Person) -> None:
    url = "vault+file://$HOME/vault"

    # What is this?
    overview = person.types("serpentfs")
    assert overview.lstrip("\n").startswith("usage: serpentfs COMMAND [OPTIONS]\n")
    assert "  mount " in overview
    assert person.code == 2
    assert all(len(line) <= WIDTH for line in overview.split("\n"))
    assert told(person.types("serpentfs mout")) == 'serpentfs: there is no command "mout"; did you mean "mount"?'
    assert person.code == 2
    assert person.types("serpentfs help init").lstrip("\n").startswith("usage: serpentfs init ")
    assert person.code == 0

    # A vault. The passphrase is asked for twice, and not shown.
    first, again = f"New passphrase of vault+file://{machine.vault}: ", " again: "
    refused = person.types(f"serpentfs init {url}", (first, PASSPHRASE), (again, "canary-mistyped"))
    assert refused.endswith("serpentfs: the two passphrases differ\n")
    assert person.code == 2
    assert not machine.vault.exists()
    made = person.types(f"serpentfs init {url}", (first, PASSPHRASE), (again, PASSPHRASE))
    assert "without its passphrase nobody can read it" in made
    assert person.code == 0
    assert told(person.types(f"serpentfs remote add home {url}")).startswith("added home: to ")

    # The mount: with a slip of the finger, a wrong passphrase, and then right.
    assert "did you mean --daemon?" in told(person.types("serpentfs mount home: mnt --deamon"))
    wrong = person.types("serpentfs mount home: mnt --daemon", ("Passphrase of home: ", "canary-wrong"))
    assert wrong.endswith("\nserpentfs: wrong passphrase\n")
    assert person.code == 3
    mounted = person.types("serpentfs mount home: mnt --daemon", ("Passphrase of home: ", PASSPHRASE))
    assert "Ctrl-C" not in mounted
    assert mounted.endswith(f"\nmounted at {machine.mountpoint}\n")
    assert person.code == 0

    # Files, with the programs of every day.
    assert person.types("mkdir mnt/Photos && echo hello > mnt/hello.txt").strip() == ""
    assert person.types("head -c 300000 /dev/urandom > mnt/Photos/sea.jpg && cat mnt/hello.txt").strip() == "hello"
    listed = person.types("serpentfs ls -l home:/")
    assert re.search(r"^d .* Photos/?$", listed, re.MULTILINE), listed
    assert re.search(r"^- +6 \d{4}-\d\d-\d\d .* hello\.txt$", listed, re.MULTILINE), listed
    assert "sea.jpg" in person.types("serpentfs ls home:/Photos")
    assert told(person.types("serpentfs ls home:/Fotos")) == "serpentfs: /Fotos: no such file or folder"
    assert person.code == 4
    status = person.types("serpentfs status")
    assert str(machine.mountpoint) in status
    assert "online" in status
    assert re.search("uploads.*(left|all done)", status), status
    assert re.sub(r"\S* uploading: .*? left", "", person.types("serpentfs flush home:")).strip() == ""
    assert "all done" in person.types("serpentfs status home:")

    # Another door of the same drive.
    assert "--user NAME and --pass-file FILE" in person.types("serpentfs webdav home:")
    assert person.code == 2
    (machine.home / "door").touch(0o600)
    (machine.home / "door").write_text(DOOR_PASSWORD + "\n")
    port = free_port()
    door = person.types(f"serpentfs webdav home: --listen {port} --user me --pass-file door")
    assert told(door) == f"WebDAV at http://127.0.0.1:{port}/"
    assert "401" in person.types(f"curl -s http://127.0.0.1:{port}/hello.txt")
    assert "hello" in person.types(f'curl -su "me:$(cat door)" http://127.0.0.1:{port}/hello.txt')
    status = person.types("serpentfs status")
    assert f"http://127.0.0.1:{port}/" in status

    # Without the mount, as with cp, and back again.
    for quiet in ("cp home:/hello.txt home:/copy.txt", "put door home:/Photos", "get home:/Photos back"):
        seen = person.types(f"serpentfs {quiet}")
        assert person.code == 0, seen
    assert sorted(os.listdir(machine.home / "back")) == ["door", "sea.jpg"]
    assert (machine.home / "back/sea.jpg").read_bytes() == (machine.mountpoint / "Photos/sea.jpg").read_bytes()
    assert person.types("serpentfs tree home:/").strip() == (
        "/\n├── Photos/\n│   ├── door\n│   └── sea.jpg\n├── copy.txt\n└── hello.txt\n\n1 folder, 4 files"
    )
    assert person.types("serpentfs cat home:/copy.txt").strip() == "hello"

    # The end: not while somebody stands in it.
    person.types("cd mnt")
    assert "files are open" in told(person.types("serpentfs umount ~/mnt")).replace(str(machine.home), "~")
    assert person.code == 5
    person.types("cd ..")
    person.types("serpentfs umount mnt")
    assert person.code == 0
    assert not machine.is_mounted()
    status = person.types("serpentfs status")
    assert "webdav" in status
    assert "mount" not in status.replace(str(machine.home), "")
    person.types("serpentfs webdav -d home:")
    assert person.code == 0
    assert told(person.types("serpentfs status")) == "nothing is running"
    assert not machine.vault.joinpath("hello.txt").exists()

    # And the next day, in the foreground, until Ctrl-C.
    person.begins("serpentfs mount home: mnt", ("Passphrase of home: ", PASSPHRASE))
    person.sees(f"mounted at {machine.mountpoint}")
    person.sees("Ctrl-C uploads what is left")
    assert (machine.mountpoint / "copy.txt").read_text() == "hello\n"
    (machine.mountpoint / "late.txt").write_text("late")
    person.presses_control_c()
    person.sees_prompt()
    assert person.code == 0
    assert not machine.is_mounted()

    # Ctrl-C at a question is an answer, too.
    person.begins("serpentfs ls home:")
    person.sees("Passphrase of home: ")
    person.presses_control_c()
    assert person.sees_prompt().endswith("serpentfs: interrupted\n")
    assert person.code == 130
    names = person.types("serpentfs ls home:", ("Passphrase of home: ", PASSPHRASE)).split()
    assert names[-4:] == ["Photos/", "copy.txt", "hello.txt", "late.txt"]

    person.leaves()
    machine.wait_until_gone()
    assert "canary" not in person.raw
    assert "Traceback" not in person.raw


@pytest.fixture
def mega_person(machine: Machine) -> Iterator[Person]:
    """Somebody with a MEGA account."""
    with emulator() as server:
        server.add_account(EMAIL, ACCOUNT_PASSWORD)
        server.add_file(EMAIL, "Welcome.pdf", b"welcome")
        machine.extra_environment["SERPENTFS_MEGA_API"] = server.url
        found = Person(machine)
        try:
            yield found
        finally:
            found.leaves()


def test_the_first_ten_minutes_with_mega(machine: Machine, mega_person: Person) -> None:
    person = mega_person
    assert told(person.types("serpentfs ls mega:")) == (
        "serpentfs: no log-in called mega: serpentfs login EMAIL makes one"
    )
    assert person.code == 4
    question = f"Password of {EMAIL}: "
    wrong = person.types(f"serpentfs login {EMAIL}", (question, "canary-wrong"))
    assert person.code == 3
    assert told(wrong.partition(question)[2]).startswith("serpentfs: ")
    right = person.types(f"serpentfs login {EMAIL}", (question, ACCOUNT_PASSWORD))
    assert person.code == 0
    assert EMAIL in right
    assert EMAIL in person.types("serpentfs whoami")
    assert person.types("serpentfs ls mega:").split() == ["Welcome.pdf"]

    # No question any more.
    assert told(person.types("serpentfs mount mega: mnt --daemon")) == f"mounted at {machine.mountpoint}"
    assert person.types("cat mnt/Welcome.pdf").strip() == "welcome"
    person.types("echo hello > mnt/hello.txt; mkdir mnt/Photos")
    person.types("serpentfs put inputrc mega:/Photos")
    assert person.code == 0
    assert told(person.types("serpentfs find mega:/ --name input*")) == "/Photos/inputrc"
    person.types("serpentfs flush mega:")
    link = told(person.types("serpentfs export mega:/hello.txt"))
    assert re.search(r"https?://\S+#\S+", link), link
    person.types("rm mnt/hello.txt && serpentfs flush mega:")
    assert "hello.txt" in person.types("serpentfs trash mega:")
    person.types("serpentfs restore mega: hello.txt")
    assert person.code == 0
    assert sorted(person.types("ls mnt").split()) == ["Photos", "Welcome.pdf", "hello.txt"]
    status = person.types("serpentfs status")
    assert "online" in status
    assert str(machine.mountpoint) in status

    assert told(person.types("serpentfs logout")) == "logged out of mega"
    assert person.code == 0
    assert not machine.is_mounted()
    assert told(person.types("serpentfs status")) == "nothing is running"
    person.leaves()
    machine.wait_until_gone()
    assert "canary" not in person.raw
    assert "Traceback" not in person.raw


def test_a_warning_at_a_terminal_has_no_columns_of_a_log(with_vault: Machine, person: Person) -> None:
    with_vault.passphrase_file.chmod(0o644)
    seen = person.types("serpentfs ls --password-file passphrase vault+file://$HOME/vault")
    assert person.code == 0
    assert told(seen).startswith("serpentfs: warning: the password file passphrase can be read by others (mode 644)")
    seen = person.types("serpentfs ls -v --password-file passphrase vault+file://$HOME/vault")
    assert re.search(r"\d\dZ \d+ WARNING serpentfs\.credentials: the password file", seen)
