"""Names under any text, and the names that clashing entries are shown under."""

from __future__ import annotations

import secrets
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serpentfs.clouds.vault.conflicts import Claim, assign_names, showable
from serpentfs.clouds.vault.masterkey import Masterkey
from serpentfs.clouds.vault.names import NameCipher, check_name, is_ciphertext_name, normalize, self_test, shorten
from serpentfs.errors import InvalidName, NameTooLong, Unsupported

NAMES = NameCipher(Masterkey(bytes(32), bytes(range(32))), 220)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
FILE_NAMES = TEXT.filter(lambda text: text not in ("", ".", "..") and "/" not in text and "\0" not in text)
PATIENT = settings(suppress_health_check=[HealthCheck.too_slow])
"""Test machines are busy; how long an example takes says nothing."""
PARENTS = st.one_of(st.just(""), st.uuids().map(str), TEXT)


@PATIENT
@given(name=TEXT, parent=PARENTS)
def test_a_name_comes_back(name: str, parent: str) -> None:
    long_name = NAMES.encrypt(name, parent)
    assert is_ciphertext_name(long_name)
    assert len(long_name) == 4 * -(-(16 + len(name.encode())) // 3) + 4
    assert NAMES.decrypt(long_name.removesuffix(".c9r"), parent) == name
    assert NAMES.decrypt(long_name.removesuffix(".c9r"), f"{parent}x") is None
    entry, long = NAMES.entry_name(name, parent)
    assert (long is None) == entry.endswith(".c9r") == (len(NAMES.encrypt(normalize(name), parent)) <= 220)
    if long is not None:
        assert entry == shorten(long)
        assert len(entry) == 32


@PATIENT
@given(name=TEXT, parent=PARENTS)
def test_equal_names_share_an_entry(name: str, parent: str) -> None:
    forms = {NAMES.entry_name(unicodedata.normalize(form, name), parent) for form in ("NFC", "NFD")}
    assert len(forms) == 1


@PATIENT
@given(
    name=TEXT,
    parent=PARENTS,
    before=st.text("abc -_(1)", max_size=4),
    after=st.text("abcXYZ019 -_=()'.", max_size=20),
)
def test_ciphertext_is_found_among_what_sync_clients_add(name: str, parent: str, before: str, after: str) -> None:
    changed = f"{NAMES.encrypt(name, parent).removesuffix('.c9r')}{after}.c9r"
    # A marker that starts with a character of the alphabet melts into the ciphertext unless padding ends it; there
    # the delimiters '-' and '_' tell where it starts.
    if after[:1] in ("", "-", "_", " ", "(", "'", ".") or "=" in changed.partition(".")[0][-len(after) - 2 :][:2]:
        found = NAMES.find_in(changed, parent)
        assert found is not None
        assert found[0] == name
        assert after.endswith(found[1]) or found[1] == after


@PATIENT
@given(st.text(max_size=300))
def test_find_in_any_text(text: str) -> None:
    assert NAMES.find_in(text + ".c9r", "") is None


def test_find_in_gives_up_in_time() -> None:
    assert NAMES.find_in("-a_b" * 2500 + ".c9r", "") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", "\udcff", "ok\ud800"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


def test_the_longest_name() -> None:
    check_name("x" * 255)
    check_name("é" * 127)
    check_name("e\u0301" * 127)
    for name in ("x" * 256, "é" * 128, "🐍" * 64):
        with pytest.raises(NameTooLong):
            check_name(name)


CLAIMS = st.lists(
    st.builds(
        Claim,
        entry=st.integers().map(str),
        clear=st.one_of(st.sampled_from(["a", "a.txt", "e\u0301", "é", "A", "a (1)", "a (1).txt", ".", ""]), TEXT),
        canonical=st.booleans(),
        suffix=st.one_of(st.just(""), st.sampled_from([" (1)", " (Alice)", "/../"]), st.text(max_size=5)),
    ),
    unique_by=lambda claim: claim.entry,
    max_size=12,
)


@PATIENT
@given(CLAIMS)
def test_every_entry_gets_a_name_of_its_own(claims: list[Claim]) -> None:
    shown = assign_names(claims)
    assert set(shown) == {claim.entry for claim in claims}
    assert len({normalize(name) for name in shown.values()}) == len(claims)
    for name in shown.values():
        assert name not in ("", ".", "..")
        assert "/" not in name
        assert "\0" not in name
    shuffled = list(claims)
    secrets.SystemRandom().shuffle(shuffled)
    assert assign_names(shuffled) == shown


@PATIENT
@given(CLAIMS)
def test_who_is_untouched_keeps_its_name(claims: list[Claim]) -> None:
    shown = assign_names(claims)
    for claim in claims:
        rivals = [other for other in claims if normalize(showable(other.clear)) == normalize(showable(claim.clear))]
        if claim == min(rivals, key=lambda other: other.rank) and all(
            other.clear == claim.clear or other.rank > claim.rank for other in claims
        ):
            assert shown[claim.entry] == showable(claim.clear)


def test_derived_names() -> None:
    def names(*claims: Claim) -> list[str]:
        return list(assign_names(claims).values())

    assert names(Claim("1", "a.txt", True), Claim("2", "a.txt", False, " (Alice)")) == ["a.txt", "a (Alice).txt"]
    assert names(Claim("1", "a", True), Claim("2", "a", True), Claim("3", "a", True)) == ["a", "a (1)", "a (2)"]
    assert names(Claim("1", ".x", True), Claim("2", ".x", False, "~")) == [".x", ".x~"]
    assert names(Claim("1", "x" * 255, True), Claim("2", "x" * 255, True))[1] == "x" * 251 + " (1)"
    assert names(Claim("1", "a", False, " (b)")) == ["a"]


def test_self_test_notices_a_wrong_library(monkeypatch: pytest.MonkeyPatch) -> None:
    self_test()
    right = Masterkey(bytes(range(32)), bytes(range(32, 64))).siv()

    class DropsEmptyComponents:
        def encrypt(self, data: bytes, associated: list[bytes] | None) -> bytes:
            return right.encrypt(data, [part for part in associated or [] if part] or None)

    monkeypatch.setattr(Masterkey, "siv", lambda self: DropsEmptyComponents())
    with pytest.raises(Unsupported):
        self_test()

    class RefusesEmptyPlaintext:
        def encrypt(self, data: bytes, associated: list[bytes] | None) -> bytes:
            if not data:
                raise ValueError("data must not be zero length")
            return right.encrypt(data, associated)

    monkeypatch.setattr(Masterkey, "siv", lambda self: RefusesEmptyPlaintext())
    with pytest.raises(Unsupported):
        self_test()
