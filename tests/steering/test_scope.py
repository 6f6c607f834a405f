"""On which tokens an op acts."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.steering.plan import IN_CALL, IN_THOUGHT, PromptFacts, Scope, resolve
from headrace.steering.types import Apply, Exemption

PROMPT = [90, 1, 2, 91, 4, 5, 91, 7]  # 90 and 91 are special
FACTS = PromptFacts(
    PROMPT, ["system", "system", "system", "user", "user", "assistant", "assistant", "assistant"],
    frozenset({90, 91}),
)  # fmt: skip
ANSWER = [3, 91, 5, 6]


def covered(apply: Apply, facts: PromptFacts = FACTS, flags: tuple[int, ...] = ()) -> str:
    """One character for each token of prompt and answer: x where the op acts."""
    tokens = [*facts.tokens, *ANSWER]
    scope = resolve(apply, facts)
    whole = scope.covers(tokens, 0, len(tokens), flags)
    # However the tokens are cut into chunks, the same are covered.
    for size in (1, 3, 7):
        parts = [
            scope.covers(tokens[start : start + size], start, min(start + size, len(tokens)), flags)
            for start in range(0, len(tokens), size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    return "".join(".x"[int(is_covered)] for is_covered in whole)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (Apply(), ".xxxxxxxxxxx"),
        (Apply(exceptions=frozenset()), "xxxxxxxxxxxx"),
        (Apply(generation=False), ".xxxxxxx...."),
        (Apply(prompt=False), ".......xxxxx"),
        (Apply(prompt=False, generation=False, prompt_last=True), ".......x...."),
        (Apply(prompt=False, generation=False), "............"),
        (Apply(roles=frozenset({"user"}), generation=False), "...xx......."),
        (Apply(roles=frozenset({"assistant"})), ".....xxxxxxx"),
        (Apply(roles=frozenset({"user"})), "...xx..xxxxx"),
        (Apply(window=(2, 5)), "..xxx......."),
        (Apply(window=(-2, None)), "......xxxxxx"),
        (Apply(window=(None, -2)), ".xxxxx......"),
        (Apply(window=(6, 10)), "......xxxx.."),
        (Apply(window=(-100, 3)), ".xx........."),
        (Apply(exceptions=frozenset({"special"})), ".xx.xx.xx.xx"),
        (Apply(window=(9, 9)), "............"),
    ],
)
def test_scopes(apply: Apply, expected: str) -> None:
    assert covered(apply) == expected


def test_calls_and_thoughts_are_excepted() -> None:
    flags = (0, IN_CALL, IN_THOUGHT, 0)
    assert covered(Apply(exceptions=frozenset({"tool_calls"})), flags=flags) == "xxxxxxxxx.xx"
    assert covered(Apply(exceptions=frozenset({"thinking"})), flags=flags) == "xxxxxxxxxx.x"
    assert covered(Apply(exceptions=frozenset({"tool_calls", "thinking"})), flags=flags) == "xxxxxxxxx..x"
    assert covered(Apply(exceptions=frozenset()), flags=flags) == "xxxxxxxxxxxx"


def test_the_last_prompt_token_is_excepted_where_the_first_generated_one_is() -> None:
    suspended = PromptFacts(PROMPT, is_suspended=True)
    assert covered(Apply(exceptions=frozenset({"tool_calls"})), suspended) == "xxxxxxx.xxxx"
    thinking = PromptFacts(PROMPT, is_thinking=True)
    assert covered(Apply(exceptions=frozenset({"thinking"})), thinking) == "xxxxxxx.xxxx"


def test_whether_a_scope_depends_on_the_answer() -> None:
    exceptions: frozenset[Exemption] = frozenset({"tool_calls"})
    assert not resolve(Apply(), FACTS).depends_on_answer
    assert resolve(Apply(exceptions=exceptions), FACTS).depends_on_answer
    assert not resolve(Apply(exceptions=exceptions, generation=False), FACTS).depends_on_answer


def test_an_empty_scope() -> None:
    assert resolve(Apply(prompt=False, generation=False), FACTS).is_empty
    assert not Scope(np.zeros(3, np.bool_), 3, 9).is_empty
