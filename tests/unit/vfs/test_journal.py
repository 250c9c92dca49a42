"""The journal by example: what is sent for what users do, when, and who waits."""

from __future__ import annotations

import pytest

from serpentfs.model import NO_CONTENT, ROOT_INO, ContentId, Ino
from serpentfs.vfs.journal import Delta, Entry, EntryState, Journal, Operation, Place

OLD, NEW, OTHER = Ino(10), Ino(11), Ino(12)
FOLDER, DEEP = Ino(20), Ino(21)


def at(name: str, parent: Ino = ROOT_INO) -> Place:
    return Place(parent, name.lower(), name)


def create(ino: Ino, target: Place, content: int = 0, *, recorded: float = 0.0) -> Entry:
    return Entry(0, Operation.CREATE, ino, target=target, content=ContentId(content), recorded=recorded)


STORED = Entry(1, Operation.CREATE, NEW, target=at("f"), content=ContentId(1))


def mkdir(ino: Ino, target: Place) -> Entry:
    return Entry(0, Operation.MKDIR, ino, target=target)


def symlink(ino: Ino, target: Place) -> Entry:
    return Entry(0, Operation.SYMLINK, ino, target=target)


def content(ino: Ino, number: int, *, recorded: float = 0.0) -> Entry:
    return Entry(0, Operation.CONTENT, ino, content=ContentId(number), recorded=recorded)


def setattr_(ino: Ino, mtime_ns: int) -> Entry:
    return Entry(0, Operation.SETATTR, ino, mtime_ns=mtime_ns)


def rename(ino: Ino, source: Place, target: Place, replaces: Ino | None = None, *, leaf: bool = True) -> Entry:
    return Entry(0, Operation.RENAME, ino, source=source, target=target, replaces=replaces, leaf=leaf)


def remove(ino: Ino, source: Place, *, leaf: bool = True) -> Entry:
    return Entry(0, Operation.REMOVE, ino, source=source, leaf=leaf)


def record(journal: Journal, *changes: Entry) -> Delta:
    """Each change in its own transaction; the last delta."""
    for change in changes:
        delta = journal.propose(change)
        journal.apply(delta)
    return delta


def confirm(journal: Journal, seq: int) -> Delta:
    delta = journal.confirm(seq)
    journal.apply(delta)
    return delta


def sent(journal: Journal) -> list[str]:
    """What is going to be sent, in order, as text."""
    found = []
    for view in journal.pending():
        entry = view.entry
        text = f"{entry.operation} {entry.ino}"
        if entry.content != NO_CONTENT:
            text += f" c{entry.content}"
        if entry.source is not None:
            text += f" {entry.source.name}"
        if entry.target is not None:
            text += f" > {entry.target.name}"
        if entry.replaces is not None:
            text += f" for {entry.replaces}"
        found.append(text)
    return found


def seqs(entries: list[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


@pytest.fixture
def journal() -> Journal:
    return Journal(settle=1.0, patience=30.0)


# --- what is sent ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            [create(NEW, at("tmp")), content(NEW, 5), rename(NEW, at("tmp"), at("f"), OLD)],
            ["create 11 c5 > f for 10"],
            id="save by rename over",
        ),
        pytest.param(
            [rename(OLD, at("f"), at("f~")), create(NEW, at("f")), content(NEW, 5), remove(OLD, at("f~"))],
            ["create 11 c5 > f for 10"],
            id="save by backup",
        ),
        pytest.param(
            [
                create(NEW, at("tmp"), 5),
                rename(OLD, at("f"), at("f.bak")),
                rename(NEW, at("tmp"), at("f")),
                remove(OLD, at("f.bak")),
            ],
            ["create 11 c5 > f for 10"],
            id="save by temporary file and backup",
        ),
        pytest.param(
            [rename(OLD, at("f"), at("f~")), create(NEW, at("f"), 5)],
            ["rename 10 f > f~", "create 11 c5 > f"],
            id="save that keeps the backup",
        ),
        pytest.param([remove(OLD, at("f")), create(NEW, at("f"), 5)], ["create 11 c5 > f for 10"], id="remove, create"),
        pytest.param(
            [remove(OLD, at("f")), rename(OTHER, at("g"), at("f"))],
            ["rename 12 g > f for 10"],
            id="remove, rename there",
        ),
        pytest.param(
            [remove(FOLDER, at("f"), leaf=False), create(NEW, at("f"), 5)],
            ["remove 20 f", "create 11 c5 > f"],
            id="a folder is not replaced by a file",
        ),
        pytest.param(
            [remove(OLD, at("f")), rename(FOLDER, at("d"), at("f"), leaf=False)],
            ["remove 10 f", "rename 20 d > f"],
            id="a file is not replaced by a folder",
        ),
        pytest.param([create(NEW, at("f"), 5), remove(NEW, at("f"))], [], id="created and removed"),
        pytest.param(
            [create(NEW, at("f"), 1), content(NEW, 2), setattr_(NEW, 7), content(NEW, 3)],
            ["create 11 c3 > f"],
            id="written again and again",
        ),
        pytest.param(
            [content(OLD, 1), rename(OLD, at("a"), at("b")), content(OLD, 2)],
            ["content 10 c2", "rename 10 a > b"],
            id="contents pass renames",
        ),
        pytest.param([setattr_(OLD, 7), content(OLD, 1)], ["content 10 c1"], id="time, then content"),
        pytest.param(
            [content(OLD, 1), setattr_(OLD, 7), rename(OLD, at("a"), at("b")), remove(OLD, at("b"))],
            ["remove 10 a"],
            id="changed, moved, removed",
        ),
        pytest.param(
            [rename(OLD, at("a"), at("b"), OTHER), remove(OLD, at("b"))],
            ["remove 10 a", "remove 12 b"],
            id="the replaced one is removed too",
        ),
        pytest.param(
            [rename(OLD, at("a"), at("b")), rename(OLD, at("b"), at("c")), rename(OLD, at("c"), at("d"))],
            ["rename 10 a > d"],
            id="moved along",
        ),
        pytest.param([rename(OLD, at("a"), at("b")), rename(OLD, at("b"), at("a"))], [], id="moved and back"),
        pytest.param(
            [rename(OLD, at("a"), at("b")), rename(OLD, at("b"), at("A"))], ["rename 10 a > A"], id="another case"
        ),
        pytest.param(
            [rename(OLD, at("a"), at("b"), OTHER), rename(OLD, at("b"), at("a"))],
            ["remove 12 b"],
            id="moved over another and back",
        ),
        pytest.param(
            [rename(OLD, at("a"), at("x")), rename(OTHER, at("b"), at("a")), rename(OLD, at("x"), at("b"))],
            ["rename 10 a > x", "rename 12 b > a", "rename 10 x > b"],
            id="exchange",
        ),
        pytest.param(
            [
                rename(OLD, at("f", FOLDER), at("g")),
                remove(FOLDER, at("d"), leaf=False),
                rename(OLD, at("g"), at("h")),
            ],
            ["rename 10 f > g", "remove 20 d", "rename 10 g > h"],
            id="out of a folder that goes",
        ),
        pytest.param(
            [mkdir(FOLDER, at("New folder")), rename(FOLDER, at("New folder"), at("d"), leaf=False)],
            ["mkdir 20 > d"],
            id="new folder, renamed",
        ),
        pytest.param(
            [
                mkdir(FOLDER, at("d")),
                create(NEW, at("f", FOLDER), 1),
                rename(FOLDER, at("d"), at("e"), leaf=False),
            ],
            ["mkdir 20 > d", "create 11 c1 > f", "rename 20 d > e"],
            id="a folder that is needed stays",
        ),
        pytest.param(
            [
                mkdir(FOLDER, at("d")),
                create(NEW, at("f", FOLDER), 1),
                remove(NEW, at("f", FOLDER)),
                remove(FOLDER, at("d"), leaf=False),
            ],
            [],
            id="a tree made and removed",
        ),
        pytest.param(
            [
                symlink(NEW, at("tmp")),
                rename(NEW, at("tmp"), at("current"), OLD),
                symlink(OTHER, at("tmp")),
                rename(OTHER, at("tmp"), at("current"), NEW),
            ],
            ["symlink 12 > tmp", "rename 12 tmp > current for 10"],
            id="a link switched twice",
        ),
        pytest.param(
            [
                create(NEW, at("tmp"), 1),
                rename(NEW, at("tmp"), at("f"), OLD),
                create(OTHER, at("tmp"), 2),
                rename(OTHER, at("tmp"), at("f"), NEW),
            ],
            ["create 12 c2 > f for 10"],
            id="saved twice",
        ),
        pytest.param(
            [content(OLD, 1), create(NEW, at("tmp"), 2), rename(NEW, at("tmp"), at("f"), OLD)],
            ["create 11 c2 > f for 10"],
            id="the content of what is replaced is not sent",
        ),
    ],
)
def test_what_is_sent(journal: Journal, changes: list[Entry], expected: list[str]) -> None:
    delta = record(journal, *changes)
    assert sent(journal) == expected
    assert delta.seqs == (journal.resolve(len(changes)),)


@pytest.mark.parametrize("how", ["sending", "failed", "stuck", "restarted"])
def test_nothing_is_merged_into_what_was_attempted(journal: Journal, how: str) -> None:
    record(journal, create(NEW, at("f"), 1))
    journal.start(1)
    if how == "failed":
        journal.fail(1, 0.0, "lost")
    elif how == "stuck":
        journal.park(1, "full")
    elif how == "restarted":
        journal = Journal()
        journal.load([STORED])
    record(journal, content(NEW, 2), rename(NEW, at("f"), at("g")), remove(NEW, at("g")))
    assert sent(journal) == ["create 11 c1 > f", "remove 11 f"]


def test_an_attempt_that_was_none_can_be_rewritten(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1))
    journal.start(1)
    record(journal, content(NEW, 2), setattr_(NEW, 7))
    assert sent(journal) == ["create 11 c1 > f", "content 11 c2"]
    journal.fail(1, 0.0, "no network", unsent=True)
    record(journal, content(NEW, 3))
    assert sent(journal) == ["create 11 c3 > f"]
    assert journal.start(1).attempted is False


def test_what_came_during_an_attempt_that_was_none_moves_along(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1))
    journal.start(1)
    record(journal, content(NEW, 2))
    journal.fail(1, 0.0, "no network", unsent=True)
    record(journal, rename(NEW, at("f"), at("g")))
    assert sent(journal) == ["create 11 c2 > g"]


def test_a_second_attempt_is_never_taken_for_none(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1))
    journal.start(1)
    journal.fail(1, 0.0, "a time-out")
    assert journal.start(1).attempted is True
    journal.fail(1, 0.0, "no network", unsent=True)
    record(journal, content(NEW, 2))
    assert sent(journal) == ["create 11 c1 > f", "content 11 c2"]


def test_changes_of_one_transaction_are_merged_with_one_another(journal: Journal) -> None:
    delta = journal.propose(
        create(NEW, at("tmp"), 5), rename(NEW, at("tmp"), at("f")), create(OTHER, at("x"), 6), remove(OTHER, at("x"))
    )
    assert len(journal) == 0
    assert (len(delta.put), delta.drop, delta.seqs) == (1, (), (2, 2, None, None))
    assert delta.unneeded == (6,)
    journal.apply(delta)
    assert sent(journal) == ["create 11 c5 > f"]
    assert journal.next_seq() == 5


def test_contents_that_are_not_uploaded_any_more_are_named(journal: Journal) -> None:
    assert record(journal, create(NEW, at("f"), 1)).unneeded == ()
    assert record(journal, content(NEW, 2)).unneeded == (1,)
    assert record(journal, setattr_(NEW, 3)).unneeded == ()
    assert record(journal, remove(NEW, at("f"))).unneeded == (2,)


# --- order ---


def test_independent_entries_go_together_and_dependent_ones_after_another(journal: Journal) -> None:
    record(
        journal,
        mkdir(FOLDER, at("d")),
        create(NEW, at("f", FOLDER), 1),
        create(OTHER, at("g", FOLDER), 2),
        content(OLD, 3),
        rename(FOLDER, at("d"), at("e"), leaf=False),
    )
    assert seqs(journal.ready(5.0, 10)) == [1, 4]
    assert seqs(journal.ready(5.0, 1)) == [1]
    journal.start(1)
    assert seqs(journal.ready(5.0, 10)) == [4]
    confirm(journal, 1)
    assert seqs(journal.ready(5.0, 10)) == [2, 3, 4]
    for seq in (2, 3):
        journal.start(seq)
        confirm(journal, seq)
    assert seqs(journal.ready(5.0, 10)) == [4, 5]


def test_a_name_is_taken_after_it_was_given_up(journal: Journal) -> None:
    record(journal, rename(OLD, at("a"), at("b")), rename(OTHER, at("c"), at("a")))
    assert seqs(journal.ready(5.0, 10)) == [1]


def test_a_folder_moves_after_those_above_its_target(journal: Journal) -> None:
    """X/Y/Q/P: Q moves to the root, then X into P. The other way round X would come to lie below itself."""
    x, y, q, p = Ino(31), Ino(32), Ino(33), Ino(34)
    record(
        journal,
        Entry(0, Operation.RENAME, q, source=at("Q", y), target=at("Q")),
        Entry(0, Operation.RENAME, x, source=at("X"), target=at("X", p), ancestors=(q,)),
    )
    assert seqs(journal.ready(5.0, 10)) == [1]
    assert journal.has_pending_below(q)


def test_a_stuck_entry_stops_what_depends_on_it_and_nothing_else(journal: Journal) -> None:
    record(journal, mkdir(FOLDER, at("d")), create(NEW, at("f", FOLDER), 1), create(OTHER, at("g"), 2))
    journal.start(1)
    journal.park(1, "no space")
    assert seqs(journal.ready(5.0, 10)) == [3]
    views = {view.entry.seq: view for view in journal.pending()}
    assert (views[1].state, views[1].error) == (EntryState.STUCK, "no space")
    assert views[2].blocked
    journal.unpark(1)
    assert seqs(journal.ready(5.0, 10)) == [1, 3]
    assert journal.start(1).attempted


# --- time ---


def test_settling_counts_from_the_last_change(journal: Journal) -> None:
    assert journal.next_time(10.0) is None
    record(journal, create(NEW, at("f"), 1, recorded=10.0))
    assert journal.ready(10.5, 9) == []
    assert journal.next_time(10.5) == 11.0
    record(journal, content(NEW, 2, recorded=10.8))
    assert journal.ready(11.0, 9) == []
    assert journal.next_time(11.0) == 11.8
    assert seqs(journal.ready(11.8, 9)) == [1]
    assert journal.next_time(11.8) == 11.8


def test_patience_ends(journal: Journal) -> None:
    for tenth in range(0, 400, 5):
        now = tenth / 10
        assert bool(journal.ready(now, 9)) == (now >= 30)
        record(journal, content(OLD, tenth + 1, recorded=now))


def test_patience_is_kept_through_renames(journal: Journal) -> None:
    names = ("a", "b", "c")
    for second in range(40):
        now = second * 0.9
        assert bool(journal.ready(now, 9)) == (now >= 30)
        source, target = at(names[second % 3]), at(names[(second + 1) % 3])
        record(journal, Entry(0, Operation.RENAME, OLD, source=source, target=target, leaf=True, recorded=now))
        if not len(journal):        # back at the origin: it starts anew
            return
    pytest.fail("never came back")


def test_a_clock_that_is_set_back_does_not_stop_anything(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1, recorded=1000.0))
    assert journal.ready(1000.5, 9) == []
    assert seqs(journal.ready(10.0, 9)) == [1]


def test_an_open_file_is_held_and_settles_after_the_last_close(journal: Journal) -> None:
    journal.hold(NEW)
    journal.hold(NEW)
    record(journal, create(NEW, at("f"), 1), setattr_(OLD, 1))
    assert seqs(journal.ready(100.0, 9)) == [2]
    assert journal.pending()[0].held
    journal.unhold(NEW, 100.0)
    assert seqs(journal.ready(101.0, 9)) == [2]
    journal.unhold(NEW, 101.0)
    assert seqs(journal.ready(101.5, 9)) == [2]
    assert seqs(journal.ready(102.0, 9)) == [1, 2]


def test_a_file_opened_again_is_held_again(journal: Journal) -> None:
    record(journal, content(OLD, 1))
    assert seqs(journal.ready(5.0, 9)) == [1]
    journal.hold(OLD)
    assert journal.ready(5.0, 9) == []
    assert journal.next_time(5.0) is None
    journal.unhold(OLD, 6.0)
    assert journal.next_time(6.0) == 7.0


def test_hurry_skips_settling_but_not_open_files(journal: Journal) -> None:
    journal.hold(OLD)
    record(journal, content(OLD, 1), create(NEW, at("a"), 2), create(OTHER, at("b"), 3))
    assert journal.ready(0.0, 9) == []
    journal.hurry(2)
    assert seqs(journal.ready(0.0, 9)) == [2]
    record(journal, rename(NEW, at("a"), at("c")))
    assert seqs(journal.ready(0.0, 9)) == [4]
    journal.force(1)
    assert seqs(journal.ready(0.0, 9)) == [1, 4]


def test_back_off(journal: Journal) -> None:
    record(journal, content(OLD, 1))
    journal.start(1)
    journal.fail(1, 20.0, "no answer")
    view = journal.pending()[0]
    assert (view.state, view.error, view.failures, view.not_before) == (EntryState.QUEUED, "no answer", 1, 20.0)
    assert journal.ready(10.0, 9) == []
    assert journal.next_time(10.0) == 20.0
    journal.wake()
    assert seqs(journal.ready(10.0, 9)) == [1]


# --- who waits ---


def test_waiting_follows_the_effect(journal: Journal) -> None:
    record(journal, create(NEW, at("tmp"), 1), rename(NEW, at("tmp"), at("f"), OLD), content(NEW, 2))
    assert [journal.resolve(seq) for seq in (1, 2, 3)] == [2, 2, 2]
    record(journal, rename(NEW, at("f"), at("g")))
    assert sent(journal) == ["remove 10 f", "create 11 c2 > g"]
    assert journal.outstanding([1, 2, 3, 4]) == {4}
    journal.start(4)
    confirm(journal, 4)
    assert journal.outstanding([1, 3, 4]) == set()
    assert journal.outstanding([2]) == {2}      # what the rename had replaced is still to be removed
    journal.start(2)
    confirm(journal, 2)
    assert journal.outstanding([1, 2, 3, 4]) == set()


def test_what_cancels_out_releases_those_who_wait(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1), content(NEW, 2))
    delta = record(journal, remove(NEW, at("f")))
    assert delta.superseded == {1: None, 3: None}
    assert journal.outstanding([1, 2, 3]) == set()


def test_the_removal_that_is_left_is_waited_for(journal: Journal) -> None:
    record(journal, create(NEW, at("tmp"), 1), rename(NEW, at("tmp"), at("f"), OLD))
    delta = record(journal, remove(NEW, at("f")))
    assert sent(journal) == ["remove 10 f"]
    assert delta.seqs == (2,)


def test_nothing_is_remembered_of_what_is_done(journal: Journal) -> None:
    record(journal, create(NEW, at("a"), 1))
    for number in range(100):
        record(journal, content(NEW, 2 + number), rename(NEW, at("ab"[number % 2]), at("ba"[number % 2])))
    (entry,) = journal.ready(5.0, 9)
    assert len(journal.entries_of(NEW)) == 1
    journal.start(entry.seq)
    confirm(journal, entry.seq)
    assert len(journal) == 0
    assert not journal._carrier
    assert not journal._carried
    assert not journal._claims._queues


# --- restart and misuse ---


def test_a_restart_keeps_the_order_and_gives_out_new_numbers(journal: Journal) -> None:
    journal.load([Entry(7, Operation.CONTENT, OLD, content=ContentId(2)), STORED], next_seq=20)
    assert seqs([view.entry for view in journal.pending()]) == [1, 7]
    assert journal.next_seq() == 20
    assert all(entry.attempted for entry in journal.ready(0.0, 9))
    with pytest.raises(ValueError, match="not empty"):
        journal.load([])


def test_a_delta_of_another_state_is_refused(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1))
    delta = journal.propose(remove(NEW, at("f")))
    journal.start(1)
    with pytest.raises(RuntimeError):
        journal.apply(delta)
    assert sent(journal) == ["create 11 c1 > f"]


@pytest.mark.parametrize("how", ["queued", "failed", "stuck"])
def test_what_is_taken_back_is_gone_and_what_waited_for_it_goes_on(journal: Journal, how: str) -> None:
    record(journal, content(OLD, 1))
    if how != "queued":
        journal.start(1)
        if how == "failed":
            journal.fail(1, 100.0, "why")
        else:
            journal.park(1, "full")
        record(journal, setattr_(OLD, 5))
        assert journal.view(2).blocked
    delta = journal.abandon([1])
    assert (delta.put, delta.drop) == ((), (1,))
    journal.apply(delta)
    assert journal.resolve(1) is None
    assert journal.state_of(1) is None
    assert [view.entry.seq for view in journal.pending()] == ([] if how == "queued" else [2])
    assert not any(view.blocked for view in journal.pending())


def test_a_content_is_needed_while_one_of_its_two_entries_is_there(journal: Journal) -> None:
    """It was written to once more as its upload began."""
    record(journal, create(NEW, at("f"), 1))
    journal.start(1)
    record(journal, content(NEW, 1))
    assert record(journal, content(NEW, 2)).unneeded == ()
    assert sent(journal) == ["create 11 c1 > f", "content 11 c2"]
    delta = journal.give_up(1)
    assert delta.unneeded == (ContentId(1),)
    journal.apply(delta)
    assert sent(journal) == ["content 11 c2"]


def test_of_a_second_entry_of_what_went_up_the_time_is_left(journal: Journal) -> None:
    record(journal, create(NEW, at("f"), 1))
    journal.start(1)
    record(journal, content(NEW, 1))
    assert confirm(journal, 1).unneeded == ()
    assert sent(journal) == ["setattr 11"]
    assert journal.resolve(2) == 2


def test_one_that_is_given_up_leaves_its_content_to_the_second(journal: Journal) -> None:
    record(journal, content(OLD, 1))
    journal.start(1)
    record(journal, content(OLD, 1))
    delta = journal.give_up(1)
    assert delta.unneeded == ()
    journal.apply(delta)
    assert sent(journal) == ["content 10 c1"]


def test_what_is_being_sent_is_not_taken_back(journal: Journal) -> None:
    record(journal, content(OLD, 1))
    journal.start(1)
    with pytest.raises(ValueError, match="being sent"):
        journal.abandon([1])


def test_a_number_may_stand_for_another_entry_than_who_waits_for_it_is_told(journal: Journal) -> None:
    record(journal, rename(NEW, at("a"), at("b"), OLD), remove(NEW, at("b")))
    assert journal.entry(2).ino == OLD    # what the rename would have replaced
    assert journal.resolve(2) == 1    # where the removal that got this number went
    journal.start(2)
    assert journal.state_of(2) is EntryState.SENDING


def test_only_what_may_be_started_is(journal: Journal) -> None:
    record(journal, mkdir(FOLDER, at("d")), create(NEW, at("f", FOLDER), 1))
    with pytest.raises(ValueError, match="cannot be started"):
        journal.start(2)
    with pytest.raises(ValueError, match="not being sent"):
        journal.confirm(1)
    with pytest.raises(ValueError, match="not being sent"):
        journal.fail(1, 0.0, "why")
    with pytest.raises(ValueError, match="not stuck"):
        journal.unpark(1)


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (Operation.CREATE, {}),
        (Operation.RENAME, {"target": at("f")}),
        (Operation.REMOVE, {"source": at("f"), "target": at("g")}),
        (Operation.MKDIR, {"target": at("f"), "replaces": OLD}),
        (Operation.CONTENT, {}),
    ],
)
def test_entries_that_make_no_sense(operation: Operation, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Entry(0, operation, NEW, **fields)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_hundred_thousand_entries(journal: Journal) -> None:
    """Recorded, blocked by their folder, released at once, and sent sixteen at a time."""
    count = 100_000
    record(journal, mkdir(DEEP, at("d")))
    for number in range(count):
        record(journal, create(Ino(100 + number), at(str(number), DEEP), number + 1))
    assert seqs(journal.ready(5.0, 16)) == [1]
    journal.start(1)
    confirm(journal, 1)
    done = 0
    while ready := journal.ready(5.0, 16):
        for entry in ready:
            journal.start(entry.seq)
        for entry in reversed(ready):
            confirm(journal, entry.seq)
        done += len(ready)
    assert (done, len(journal)) == (count, 0)


# a name that is taken in the cloud


def refused(journal: Journal, seq: int) -> None:
    """An attempt found the name taken."""
    journal.start(seq)
    journal.fail(seq, 0.0, "taken")


def test_what_goes_to_another_name_keeps_its_turn() -> None:
    journal = Journal()
    record(journal, rename(OLD, at("a"), at("b", FOLDER)))
    refused(journal, 1)
    record(journal, rename(OLD, at("b", FOLDER), at("c")))
    journal.apply(journal.retarget(1, at("b (conflict)", FOLDER)))
    goals = [(view.entry.seq, view.entry.target) for view in journal.pending()]
    assert goals == [(1, at("b (conflict)", FOLDER)), (2, at("c"))]


def test_at_its_end_it_goes_where_it_was_renamed_to_meanwhile() -> None:
    """Its folder may be on its way: it can only come last. After its own renaming it must not be renamed back."""
    journal = Journal()
    record(journal, rename(OLD, at("a"), at("b", FOLDER)))
    refused(journal, 1)
    record(
        journal,
        rename(OLD, at("b", FOLDER), at("c"), NEW),
        rename(FOLDER, at("f"), at("g"), leaf=False),
    )
    journal.apply(journal.retarget(1, at("b (conflict)", FOLDER)))
    (folder, moved) = [view.entry for view in journal.pending()]
    assert folder.ino == FOLDER
    assert (moved.ino, moved.source, moved.target, moved.replaces) == (OLD, at("a"), at("c"), NEW)
    assert journal.resolve(1) == journal.resolve(2) == moved.seq
