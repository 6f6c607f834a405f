"""Blocks that are found by their first tokens, and copied."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.blocks import BlockPool, block_key
from headrace.engine.engine import Engine
from headrace.engine.sequence import SamplingParams, Sequence
from tests.engine.fakes import FakeOracle, FakeRunner

SIZE = 4
PARENTS = (b"one", b"two")

contents = st.lists(st.integers(0, 1), min_size=1, max_size=SIZE)
actions = st.tuples(
    st.sampled_from(["allocate", "keep", "keep", "find", "find", "release", "forget"]),
    st.sampled_from(PARENTS),
    contents,
    st.integers(0, SIZE),  # of the first tokens are exact
    st.booleans(),
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(script=st.lists(actions, max_size=60), num_blocks=st.integers(1, 6))
def test_any_history_finds_only_what_is_there(
    script: list[tuple[str, bytes, list[int], int, bool]], num_blocks: int
) -> None:
    pool = BlockPool(num_blocks, SIZE)
    used: list[int] = []
    written: dict[int, tuple[bytes, list[int], int]] = {}  # block → parent, tokens, how many are exact
    for action, parent, tokens, num_exact, exactly in script:
        if action == "allocate" and pool.num_available:
            used.append(pool.allocate())
            written.pop(used[-1], None)
        elif action == "keep" and used and used[-1] not in written:
            written[used[-1]] = parent, tokens, min(num_exact, len(tokens))
            pool.keep(used[-1], parent, tokens, num_exact=min(num_exact, len(tokens)))
            if len(tokens) == SIZE:
                pool.seal(used[-1], block_key(parent, tokens), is_exact=num_exact == SIZE)
        elif action == "find":
            found = pool.find_beginning(parent, tokens, exactly=exactly)
            if found is not None:
                block, count = found
                its_parent, its_tokens, its_exact = written[block]
                assert its_parent == parent
                assert its_tokens[:count] == tokens[:count]
                assert 0 < count <= (its_exact if exactly else SIZE)
                pool.release([block])
        elif action == "release" and used:
            pool.release([used.pop()])
        elif action == "forget" and used:
            pool.forget(used[-1:])
            assert written.pop(used[-1], None) is None or pool.num_exact(used[-1]) == 0
            written[used[-1]] = b"never found", [], 0
        pool.check([used])
    pool.release(reversed(used))
    pool.check([])
    assert pool.num_available == num_blocks


def test_the_longest_beginning_is_found_and_among_equals_the_latest() -> None:
    pool = BlockPool(4, SIZE)
    short, long, other = (pool.allocate() for _ in range(3))
    pool.keep(short, b"", [1, 2], num_exact=2)
    pool.keep(long, b"", [1, 9, 3], num_exact=0)
    pool.keep(other, b"", [1, 8, 3], num_exact=0)
    assert pool.find_beginning(b"", [1, 9, 4, 4]) == (long, 2)
    assert pool.find_beginning(b"", [1, 5]) == (other, 1)
    assert pool.find_beginning(b"", [1, 9, 4, 4], exactly=True) == (short, 1)
    assert pool.find_beginning(b"", [5]) is None
    assert pool.find_beginning(b"another", [1]) is None


def test_of_two_blocks_that_begin_alike_the_longer_is_kept() -> None:
    pool = BlockPool(2, SIZE)
    first, second = pool.allocate(), pool.allocate()
    pool.keep(first, b"", [1, 2], num_exact=2)
    pool.release([first])
    pool.keep(second, b"", [1, 2, 3], num_exact=3)
    assert pool.allocate() == first, "it is free"
    pool.keep(first, b"", [1, 2], num_exact=2)
    pool.release([first])
    assert pool.allocate() == first, "and stays so"


def test_an_inexact_block_does_not_replace_an_exact_one() -> None:
    pool = BlockPool(2, SIZE)
    exact, inexact = pool.allocate(), pool.allocate()
    pool.keep(exact, b"", [1, 2], num_exact=2)
    pool.keep(inexact, b"", [1, 2, 3], num_exact=1)
    assert pool.find_beginning(b"", [1, 2, 3]) == (inexact, 3)
    assert pool.find_beginning(b"", [1, 2, 3], exactly=True) == (exact, 2)


lengths = st.integers(1, 14)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(turns=st.lists(st.tuples(lengths, st.lists(st.integers(0, 2), max_size=6), st.booleans()), max_size=8))
def test_tokens_are_the_oracles_wherever_prompts_part(turns: list[tuple[int, list[int], bool]]) -> None:
    """Prompts that share all but their ends, and go on from earlier answers."""
    engine, text = Engine(FakeRunner(64, SIZE)), list(range(14))
    for cut, tail, invariant in turns:
        prompt = [*text[:cut], *tail] or [0]
        params = SamplingParams(max_tokens=5, temperature=0, invariant=invariant)
        sequence = Sequence(list(prompt), params)
        engine.add(sequence)
        while engine.has_work:
            engine.step()
            engine.check()
        answer = sequence.tokens[len(prompt) :]
        assert answer == FakeOracle().continuation(tuple(prompt), 5)
        text = sequence.tokens if len(sequence.tokens) < 40 else text
