"""The block pool alone: who holds what, what is found again, what is given up first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.blocks import BlockPool, OutOfBlocks, block_key

Action = tuple[str, int, int]
actions = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "allocate", "seal", "find", "release"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=80,
)


def key(number: int) -> bytes:
    return block_key(b"", [number])


def filled(pool: BlockPool, *numbers: int) -> list[int]:
    """Blocks allocated and sealed under these contents, still held."""
    blocks = [pool.allocate() for _ in numbers]
    for block, number in zip(blocks, numbers, strict=True):
        pool.seal(block, key(number))
    return blocks


@settings(max_examples=500, deadline=None, derandomize=True)
@given(script=actions, num_blocks=st.integers(1, 6))
def test_any_history_keeps_the_books_straight(script: list[Action], num_blocks: int) -> None:
    pool = BlockPool(num_blocks, 4)
    tables: list[list[int]] = [[] for _ in range(3)]
    content: dict[int, bytes] = {}
    for action, which, number in script:
        perform(pool, tables[which % 3], content, action, number)
        pool.check(tables)
        assert pool.num_held == len({block for table in tables for block in table})
    for table in tables:
        pool.release(reversed(table))
    pool.check([])
    assert pool.num_available == num_blocks


def perform(pool: BlockPool, table: list[int], content: dict[int, bytes], action: str, number: int) -> None:
    """One action on one table; `content` is what a real cache would hold."""
    if action == "allocate" and pool.num_available:
        table.append(pool.allocate())
        content[table[-1]] = b"something else"
    elif action == "seal" and table and content[table[-1]] == b"something else":
        content[table[-1]] = key(number)
        pool.seal(table[-1], key(number))
    elif action == "find" and (block := pool.find(key(number))) is not None:
        assert content[block] == key(number), "found what is no longer there"
        table.append(block)
    elif action == "release" and table:
        pool.release([table.pop()])


def test_a_full_pool_says_so() -> None:
    pool = BlockPool(2, 4)
    used = [pool.allocate(), pool.allocate()]
    with pytest.raises(OutOfBlocks):
        pool.allocate()
    assert sorted(used) == [0, 1]


def test_a_released_block_is_found_by_its_content_until_the_space_is_needed() -> None:
    pool = BlockPool(2, 4)
    blocks = filled(pool, 1, 2)
    pool.release(reversed(blocks))
    assert pool.find(key(1)) == blocks[0]
    pool.allocate()
    assert pool.find(key(2)) is None


def test_free_blocks_go_before_idle_ones() -> None:
    pool = BlockPool(3, 4)
    pool.release(filled(pool, 1, 2))
    pool.allocate()
    assert pool.find(key(1)) is not None
    assert pool.find(key(2)) is not None


def test_the_least_recently_used_is_evicted_first() -> None:
    pool = BlockPool(4, 4)
    first, second, third, fourth = filled(pool, 1, 2, 3, 4)
    pool.release([third, first, fourth, second])
    found = pool.find(key(3))  # used again, and so the last to go
    assert found == third
    pool.release([third])
    assert [pool.allocate() for _ in range(4)] == [first, fourth, second, third]


def test_a_sequence_loses_its_tail_before_its_head() -> None:
    pool = BlockPool(3, 4)
    pool.release(reversed(filled(pool, 1, 2, 3)))
    pool.allocate()
    assert [pool.find(key(number)) is not None for number in (1, 2, 3)] == [True, True, False]


def test_a_shared_block_stays_until_the_last_holder_leaves() -> None:
    pool = BlockPool(1, 4)
    (block,) = filled(pool, 1)
    assert pool.find(key(1)) == block
    pool.release([block])
    assert pool.num_available == 0
    pool.release([block])
    assert pool.num_available == 1


def test_a_second_copy_of_the_same_content_is_not_found() -> None:
    pool = BlockPool(2, 4)
    first, second = filled(pool, 1, 1)
    pool.release([second])
    assert pool.find(key(1)) == first
    assert pool.allocate() == second, "an anonymous block is free at once"


def test_releasing_twice_is_our_mistake() -> None:
    pool = BlockPool(1, 4)
    block = pool.allocate()
    pool.release([block])
    with pytest.raises(AssertionError, match="released twice"):
        pool.release([block])


def test_check_notices_a_hold_that_no_table_explains() -> None:
    pool = BlockPool(2, 4)
    pool.allocate()
    with pytest.raises(AssertionError, match="miscounted"):
        pool.check([])


def test_a_key_depends_on_all_that_came_before() -> None:
    assert block_key(block_key(b"", [1, 2]), [3, 4]) != block_key(block_key(b"", [2, 1]), [3, 4])
    assert block_key(b"one model", [1]) != block_key(b"another", [1])


def test_blocks_for_rounds_up() -> None:
    assert [BlockPool(1, 4).blocks_for(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
