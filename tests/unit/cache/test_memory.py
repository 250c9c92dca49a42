"""Cleartext in memory under its budget."""

from hypothesis import given
from hypothesis import strategies as st

from serpentfs.cache.memory import ENTRY_OVERHEAD, MemoryCache
from serpentfs.model import BlockIndex, ContentId


def key(content: int, block: int = 0) -> tuple[ContentId, BlockIndex]:
    return ContentId(content), BlockIndex(block)


def test_the_least_recently_used_leaves_first() -> None:
    memory = MemoryCache(3 * (ENTRY_OVERHEAD + 10))
    for content in (1, 2, 3):
        memory.put(*key(content), bytes(10))
    assert memory.get(key(1)) == bytes(10)
    assert key(2) in memory  # looking is not using
    memory.put(*key(4), bytes(10))
    assert [content for content in (1, 2, 3, 4) if key(content) in memory] == [1, 3, 4]


def test_a_block_larger_than_the_budget_is_not_kept() -> None:
    memory = MemoryCache(100)
    memory.put(*key(1), bytes(101))
    assert memory.get(key(1)) is None
    assert memory.charged_bytes == 0


def test_another_budget_counts_at_once() -> None:
    memory = MemoryCache(10 * (ENTRY_OVERHEAD + 10))
    for content in range(10):
        memory.put(*key(content), bytes(10))
    memory.resize(3 * (ENTRY_OVERHEAD + 10))
    assert [content for content in range(10) if key(content) in memory] == [7, 8, 9]
    memory.resize(4 * (ENTRY_OVERHEAD + 10))
    memory.put(*key(10), bytes(10))
    assert len(memory) == 4
    memory.resize(0)
    assert memory.charged_bytes == len(memory) == 0


def test_what_is_lent_is_given_up_but_for_a_quarter() -> None:
    memory = MemoryCache(8 * (ENTRY_OVERHEAD + 10))
    for content in range(8):
        memory.put(*key(content), bytes(10))
    with memory.lending(3 * (ENTRY_OVERHEAD + 10)):
        assert [content for content in range(8) if key(content) in memory] == list(range(3, 8))
        with memory.lending(4 * (ENTRY_OVERHEAD + 10)):
            assert len(memory) == 2
            memory.put(*key(8), bytes(10))
            assert len(memory) == 2
        for content in range(9, 12):
            memory.put(*key(content), bytes(10))
        assert len(memory) == 5
    for content in range(12, 15):
        memory.put(*key(content), bytes(10))
    assert len(memory) == 8


def test_what_is_held_back_stays_free_besides_what_is_lent() -> None:
    memory = MemoryCache(8 * (ENTRY_OVERHEAD + 10))
    for content in range(8):
        memory.put(*key(content), bytes(10))
    memory.hold_back(2 * (ENTRY_OVERHEAD + 10))
    assert [content for content in range(8) if key(content) in memory] == list(range(2, 8))
    with memory.lending(2 * (ENTRY_OVERHEAD + 10)):
        assert len(memory) == 4
        memory.hold_back(7 * (ENTRY_OVERHEAD + 10))
        assert len(memory) == 2
    memory.hold_back(0)
    for content in range(20):
        memory.put(*key(content), bytes(10))
    assert len(memory) == 8


def test_many_tiny_blocks_are_charged_for_more_than_their_bytes() -> None:
    memory = MemoryCache(10 * ENTRY_OVERHEAD)
    for content in range(100):
        memory.put(*key(content), b"x")
    assert len(memory) == 9


steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "forget"]), st.integers(0, 4), st.integers(0, 4), st.integers(1, 2000))
)


@given(steps)
def test_any_use_stays_in_budget_and_tells_the_truth(uses: list[tuple[str, int, int, int]]) -> None:
    budget = 6000
    memory, model = MemoryCache(budget), dict[tuple[int, int], bytes]()
    for use, content, block, length in uses:
        if use == "put":
            model[content, block] = bytes([content]) * length
            memory.put(*key(content, block), model[content, block])
        elif use == "forget":
            memory.forget(ContentId(content))
            assert not any(key(content, other) in memory for other in range(5))
        else:
            assert memory.get(key(content, block)) in (None, model.get((content, block)))
        assert memory.charged_bytes <= budget
    for content in range(5):
        memory.forget(ContentId(content))
    assert memory.charged_bytes == len(memory) == 0
