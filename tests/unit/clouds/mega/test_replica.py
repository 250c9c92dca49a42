"""The replica of an account: packets applied, restarts, and what the drive's tree is told, against a dictionary."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serpentfs.clouds.mega import attributes
from serpentfs.clouds.mega.encoding import encode
from serpentfs.clouds.mega.keys import FileKey, attribute_key, ecb_encrypt, share_auth
from serpentfs.clouds.mega.replica import Replica
from serpentfs.errors import BadVault, Unavailable

MASTER = bytes(range(16))
ME = "AQIDBAUGBwg"
OWN_ID = "ownownown1"
ROOT, INBOX, BIN = "rootroot", "inboxinb", "rubbishb"


@dataclass(frozen=True)
class Thing:
    """A node of the model."""

    handle: str
    parent: str
    is_file: bool
    name: str
    created: int

    @property
    def key(self) -> bytes:
        seed = self.handle.encode().ljust(16, b".")
        return FileKey(seed, seed[:8], bytes(8)).pack() if self.is_file else seed

    def attributes(self) -> str:
        return encode(attributes.pack({"n": self.name}, attribute_key(self.key)))

    def node(self, wrap: bytes = MASTER, holder: str = ME) -> dict[str, Any]:
        node = {
            "h": self.handle,
            "p": self.parent,
            "u": ME,
            "t": 0 if self.is_file else 1,
            "a": self.attributes(),
            "k": f"{holder}:{encode(ecb_encrypt(wrap, self.key))}",
            "ts": self.created,
        }
        return {**node, "s": 5} if self.is_file else node


def tree(*things: Thing, sn: str = "AAAAAAAAAAA", **more: Any) -> Iterator[bytes]:
    roots = [
        {"h": handle, "p": "", "u": ME, "t": kind, "a": "", "k": "", "ts": 1}
        for handle, kind in ((ROOT, 2), (INBOX, 3), (BIN, 4))
    ]
    yield json.dumps([{"f": roots + [thing.node() for thing in things], **more, "sn": sn}]).encode()


def loaded(path: Path | None, *things: Thing, **more: Any) -> Replica:
    replica = Replica(path, MASTER, ME)
    replica.install(replica.load(tree(*things, **more)))
    return replica


NAMES = st.sampled_from(["a", "b", "a/b", "é", "é", "x.txt"])


class Machine(RuleBasedStateMachine):
    """Random packets, applied once or twice, with restarts between them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="replica-")
        self.path = Path(self.folder.name) / "mega.db"
        self.things: dict[str, Thing] = {}
        self.told: dict[str, tuple[str | None, str]] = {}
        """What the tree holds: folder and shown name."""
        self.counter = 0
        self.replica = loaded(self.path)

    def teardown(self) -> None:
        self.replica.close()
        self.folder.cleanup()

    def apply(self, *packets: dict[str, Any]) -> None:
        self.counter += 1
        self.replica.apply(packets, f"sn{self.counter:09}", OWN_ID)

    def folders(self) -> list[str]:
        return [ROOT, BIN, *(thing.handle for thing in self.things.values() if not thing.is_file)]

    def below(self, handle: str) -> set[str]:
        found = {handle}
        while more := {t.handle for t in self.things.values() if t.parent in found} - found:
            found |= more
        return found

    @initialize(twice=st.booleans())
    def start(self, twice: bool) -> None:
        self.twice = twice

    @rule(name=NAMES, is_file=st.booleans(), where=st.integers(0), own=st.booleans())
    def put(self, name: str, is_file: bool, where: int, own: bool) -> None:
        folders = self.folders()
        thing = Thing(f"h{self.counter:07}", folders[where % len(folders)], is_file, name, self.counter // 2)
        self.things[thing.handle] = thing
        packet = {"a": "t", "t": {"f": [thing.node()]}, **({"i": OWN_ID} if own else {})}
        self.apply(packet)
        if self.twice:
            self.apply(packet)

    @precondition(lambda self: self.things)
    @rule(which=st.integers(0), name=NAMES)
    def rename(self, which: int, name: str) -> None:
        thing = replace(self.pick(which), name=name)
        self.things[thing.handle] = thing
        self.apply({"a": "u", "n": thing.handle, "u": ME, "at": thing.attributes(), "ts": 1})

    def pick(self, which: int) -> Thing:
        return list(self.things.values())[which % len(self.things)]

    @precondition(lambda self: self.things)
    @rule(which=st.integers(0), where=st.integers(0), as_one=st.booleans())
    def move(self, which: int, where: int, as_one: bool) -> None:
        thing = self.pick(which)
        goals = [folder for folder in self.folders() if folder not in self.below(thing.handle)]
        thing = replace(thing, parent=goals[where % len(goals)])
        self.things[thing.handle] = thing
        leave = [] if as_one else [{"a": "d", "n": thing.handle, "m": 1}]
        self.apply(*leave, {"a": "t", "t": {"f": [thing.node()]}})

    @precondition(lambda self: self.things)
    @rule(which=st.integers(0))
    def delete(self, which: int) -> None:
        thing = self.pick(which)
        for gone in self.below(thing.handle):
            del self.things[gone]
        self.apply({"a": "d", "n": thing.handle})

    @precondition(lambda self: any(thing.is_file for thing in self.things.values()))
    @rule(which=st.integers(0))
    def save_over(self, which: int) -> None:
        files = [thing for thing in self.things.values() if thing.is_file]
        head = files[which % len(files)]
        while self.things.get(head.parent, head).is_file and head.parent in self.things:
            head = self.things[head.parent]
        new = replace(head, handle=f"h{self.counter:07}", created=self.counter // 2)
        self.things[new.handle] = new
        self.things[head.handle] = replace(head, parent=new.handle)
        self.apply({"a": "t", "t": {"f": [new.node()], "f2": [self.things[head.handle].node()]}})

    @rule()
    def restart(self) -> None:
        self.replica.close()
        self.replica = Replica(self.path, MASTER, ME)

    @rule(limit=st.integers(1, 5), keep=st.booleans())
    def tell(self, limit: int, keep: bool) -> None:
        """The tree takes news; without ``keep`` it forgets that it did (a crash before it is durable)."""
        unseen = self.replica.unseen(limit, own_before=math.inf)
        if not keep:
            self.restart()
            return
        for node in unseen.changed:
            self.told[node.handle] = (node.parent, node.shown)
        for handle in unseen.removed:
            self.told.pop(handle, None)
        self.replica.acknowledge(unseen.serials)

    def shown(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for folder in self.folders():
            for node in self.replica.children(folder):
                assert node.handle not in found
                found[node.handle] = node.shown
                assert node.parent == folder
        return found

    @invariant()
    def holds_what_the_account_holds(self) -> None:
        shown = self.shown()
        expected = {
            thing.handle
            for thing in self.things.values()
            if thing.parent not in self.things or not self.things[thing.parent].is_file
        }
        assert shown.keys() == expected
        places = [(self.things[handle].parent, name) for handle, name in shown.items()]
        assert len(set(places)) == len(places)
        for handle, name in shown.items():
            node = self.replica.node(handle)
            assert node is not None
            assert (node.shown, node.name, node.key) == (name, self.things[handle].name, self.things[handle].key)
        assert self.replica.sn == (f"sn{self.counter:09}" if self.counter else "AAAAAAAAAAA")

    def check_told(self) -> None:
        while (unseen := self.replica.unseen(50, own_before=math.inf)).serials:
            for node in unseen.changed:
                self.told[node.handle] = (node.parent, node.shown)
            for handle in unseen.removed:
                self.told.pop(handle, None)
            self.replica.acknowledge(unseen.serials)
        # What was below a removed folder went with it.
        told = {handle: place for handle, place in self.told.items() if handle in self.things}
        for handle, shown in self.shown().items():
            assert told[handle] == (self.things[handle].parent, shown)

    @rule()
    def tell_all(self) -> None:
        self.restart()
        self.check_told()


TestReplica = Machine.TestCase
TestReplica.settings = settings(
    max_examples=60, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]
)

FOLDER = Thing("folder01", ROOT, False, "folder", 5)
FILE = Thing("file0001", "folder01", True, "file", 6)


def test_nothing_readable_on_disk(tmp_path: Path) -> None:
    secret = Thing("file0002", ROOT, True, "very-secret-name", 6)
    replica = loaded(tmp_path / "mega.db", FOLDER, secret)
    replica.put_record("upload", "x", b"very-secret-record")
    replica.close()
    raw = (tmp_path / "mega.db").read_bytes()
    assert b"very-secret" not in raw
    assert secret.key[:16] not in raw
    assert (tmp_path / "mega.db").stat().st_mode & 0o077 == 0


def test_another_key_is_told(tmp_path: Path) -> None:
    loaded(tmp_path / "mega.db", FOLDER).close()
    with pytest.raises(BadVault):
        Replica(tmp_path / "mega.db", bytes(16), ME)


def test_a_tree_that_is_cut_short_changes_nothing(tmp_path: Path) -> None:
    replica = loaded(tmp_path / "mega.db", FOLDER)
    with pytest.raises(Unavailable):
        replica.load([b'[{"f":[{"h":"x"'])
    assert [node.name for node in replica.children(ROOT)] == ["folder"]


def test_a_reload_keeps_records(tmp_path: Path) -> None:
    replica = loaded(tmp_path / "mega.db", FOLDER)
    replica.put_record("macs", "file0001", b"1234")
    replica.install(replica.load(tree(FOLDER, FILE, sn="AAAAAAAAAAB")))
    assert replica.get_record("macs", "file0001") == b"1234"
    assert replica.sn == "AAAAAAAAAAB"
    assert [node.name for node in replica.children("folder01")] == ["file"]


def test_nodes_without_a_key_are_skipped_until_there_is_one() -> None:
    share_key = bytes(range(50, 66))
    replica = Replica(None, MASTER, ME)
    hidden = FILE.node(share_key, FOLDER.handle)
    whole = json.loads(b"".join(tree(FOLDER)))
    whole[0]["f"].append(hidden)
    replica.install(replica.load([json.dumps(whole).encode()]))
    assert replica.unreadable == 1
    assert list(replica.children(FOLDER.handle)) == []
    share = {"ok": encode(ecb_encrypt(MASTER, share_key)), "ha": encode(share_auth(MASTER, FOLDER.handle))}
    replica.apply([{"a": "s2", "n": FOLDER.handle, "o": ME, "u": "EXP", **share}], "AAAAAAAAAAB", OWN_ID)
    assert [node.name for node in replica.children(FOLDER.handle)] == ["file"]
    assert FILE.handle in {node.handle for node in replica.unseen(9, own_before=0).changed}
    assert replica.share_of(FOLDER.handle) == [(FOLDER.handle, share_key)]


def test_share_keys_may_come_after_the_nodes() -> None:
    share_key = bytes(range(50, 66))
    share = {
        "h": FOLDER.handle,
        "k": encode(ecb_encrypt(MASTER, share_key)),
        "ha": encode(share_auth(MASTER, FOLDER.handle)),
    }
    whole = json.loads(b"".join(tree(FOLDER, ok0=[share])))
    whole[0]["f"].append(FILE.node(share_key, FOLDER.handle))
    replica = Replica(None, MASTER, ME)
    replica.install(replica.load([json.dumps(whole).encode()]))
    assert [node.name for node in replica.children(FOLDER.handle)] == ["file"]


def test_a_forged_share_key_is_not_believed() -> None:
    share = {"h": FOLDER.handle, "k": encode(bytes(16)), "ha": encode(bytes(16))}
    assert loaded(None, FOLDER, ok=[share]).share_of(FOLDER.handle) == []


def test_a_folder_that_never_shows_up_asks_for_a_reload() -> None:
    replica = loaded(None)
    assert not replica.apply([{"a": "t", "t": {"f": [FILE.node()]}}], "AAAAAAAAAAB", OWN_ID).reload
    assert replica.apply([], "AAAAAAAAAAC", OWN_ID).reload


def test_a_folder_may_come_after_what_is_in_it() -> None:
    replica = loaded(None)
    assert not replica.apply([{"a": "t", "t": {"f": [FILE.node()]}}], "AAAAAAAAAAB", OWN_ID).reload
    assert not replica.apply([{"a": "t", "t": {"f": [FOLDER.node()]}}], "AAAAAAAAAAC", OWN_ID).reload
    assert [node.name for node in replica.children(FOLDER.handle)] == ["file"]


def test_own_changes_are_told_late_but_not_lost() -> None:
    replica = loaded(None)
    replica.store([FOLDER.node()], time.monotonic())
    assert replica.unseen(9, own_before=0).serials == ()
    assert [node.name for node in replica.unseen(9, own_before=math.inf).changed] == ["folder"]


def test_an_answer_that_comes_after_its_packet_does_not_undo_what_others_did_since() -> None:
    replica = loaded(None)
    sent = time.monotonic()
    made = {"a": "t", "i": OWN_ID, "t": {"f": [FOLDER.node()]}}
    replica.apply([made, {"a": "d", "n": FOLDER.handle}], "AAAAAAAAAAB", OWN_ID)
    replica.unseen(9, own_before=math.inf)
    (answered,) = replica.store([FOLDER.node()], sent)
    assert answered.name == "folder"
    assert replica.node(FOLDER.handle) is None
    assert replica.unseen(9, own_before=math.inf).removed == [FOLDER.handle]  # only now the tree knows what is gone


def test_what_could_not_be_applied_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = loaded(None)
    replica.apply([{"a": "t", "t": {"f": [FOLDER.node()]}}], "AAAAAAAAAAB", OWN_ID)
    assert replica.unseen(9, own_before=0).changed
    assert not replica.unseen(9, own_before=0).serials
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    told = replica.unseen(9, own_before=0)
    assert told.changed
    replica.acknowledge(told.serials)
    later += 100
    assert not replica.unseen(9, own_before=0).serials


def test_an_answer_that_comes_before_its_packet_counts() -> None:
    replica = loaded(None)
    replica.apply([{"a": "t", "i": OWN_ID, "t": {"f": [FOLDER.node()]}}], "AAAAAAAAAAB", OWN_ID)
    replica.set_parent(FOLDER.handle, "elsewher", time.monotonic())
    found = replica.node(FOLDER.handle)
    assert found is not None
    assert found.parent == "elsewher"


def test_what_left_a_folder_of_ours_stays_where_it_is_when_news_of_the_folder_comes_late() -> None:
    """A packet about a folder that moved names all that was below it then."""
    replica = loaded(None)
    inside = replace(FILE, parent=FOLDER.handle)
    unknown = replace(FILE, handle="unknownn", parent=FOLDER.handle, name="unknown")
    replica.apply([{"a": "t", "t": {"f": [FOLDER.node(), inside.node()]}}], "AAAAAAAAAAB", OWN_ID)
    sent = time.monotonic()
    moved = {"a": "t", "i": OWN_ID, "t": {"f": [replace(FOLDER, name="moved").node(), inside.node(), unknown.node()]}}
    replica.set_parent(FILE.handle, ROOT, sent)
    replica.apply([moved], "AAAAAAAAAAC", OWN_ID)
    assert {node.name for node in replica.children(FOLDER.handle)} == {"unknown"}
    assert {node.name for node in replica.children(ROOT)} >= {"moved", FILE.name}
    replica.set_attributes(FILE.handle, replace(FILE, name="renamed").attributes(), sent)
    assert "renamed" in {node.name for node in replica.children(ROOT)}, "no packet about it came since"


def test_a_public_folder() -> None:
    link_key = bytes(range(30, 46))
    root = replace(FOLDER, parent="").node(link_key, FOLDER.handle)
    inside = FILE.node(link_key, FOLDER.handle)
    replica = Replica(None, link_key, "publicpx", link_key=link_key)
    replica.install(replica.load([json.dumps([{"f": [root, inside], "sn": "AAAAAAAAAAA"}]).encode()]))
    assert replica.cloud_drive == FOLDER.handle
    assert [node.name for node in replica.children(FOLDER.handle)] == ["file"]
