"""The disk ledger: bytes by content, order of use, victims."""

from hypothesis import given
from hypothesis import strategies as st

from serpentfs.cache.eviction import DiskLedger
from serpentfs.model import ContentId


def nobody(_: ContentId) -> bool:
    return False


def ledger_of(*contents: tuple[int, int], budget: int = 100) -> DiskLedger:
    ledger = DiskLedger(budget)
    for content, amount in contents:
        ledger.took(ContentId(content), amount)
    return ledger


def test_excess_is_what_does_not_fit() -> None:
    ledger = ledger_of((1, 40), (2, 50))
    assert ledger.excess(10) == 0
    assert ledger.excess(11) == 1


def test_the_least_recently_used_goes_first() -> None:
    ledger = ledger_of((1, 10), (2, 10), (3, 10))
    ledger.used(ContentId(1))
    assert ledger.victims(11, nobody) == [2, 3]
    ledger.took(ContentId(2), 5)
    assert ledger.victims(1, nobody) == [3]


def test_no_victims_when_nothing_is_to_be_freed() -> None:
    assert ledger_of((1, 10)).victims(0, nobody) == []


def test_the_spared_stay_and_too_little_is_none() -> None:
    ledger = ledger_of((1, 10), (2, 10), (3, 10))
    assert ledger.victims(15, lambda content: content == 2) == [1, 3]
    assert ledger.victims(25, lambda content: content == 2) is None


def test_what_was_found_on_disk_is_older_than_what_is_in_use() -> None:
    ledger = ledger_of((7, 10))
    ledger.found([(ContentId(1), 10), (ContentId(7), 999), (ContentId(2), 10)])
    assert ledger.total == 30
    assert ledger.victims(30, nobody) == [1, 2, 7]


contents = st.integers(1, 6).map(ContentId)


@given(st.lists(st.tuples(st.sampled_from(["took", "used", "removed"]), contents, st.integers(1, 50))))
def test_the_total_is_the_sum_and_victims_free_enough(steps: list[tuple[str, ContentId, int]]) -> None:
    ledger, model = DiskLedger(100), dict[ContentId, int]()
    for step, content, amount in steps:
        if step == "took":
            ledger.took(content, amount)
            model[content] = model.pop(content, 0) + amount
        elif step == "used":
            ledger.used(content)
            if content in model:
                model[content] = model.pop(content)
        else:
            assert ledger.removed(content) == model.pop(content, 0)
        assert ledger.total == sum(model.values())
        assert len(ledger) == len(model)
        victims = ledger.victims(amount, nobody)
        if victims is None:
            assert sum(model.values()) < amount
        else:
            assert victims == list(model)[: len(victims)], "in order of use"
            assert sum(model[victim] for victim in victims) >= amount
            assert sum(model[victim] for victim in victims[:-1]) < amount, "and not one more than needed"
