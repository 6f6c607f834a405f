"""Scopes: on which tokens of one sequence an op acts. Resolved for one prompt; a pure function of the token's
position afterwards, so chunks, preemption and drafts do not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.steering.types import Apply

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """What scopes need to know of a prompt."""

    tokens: Sequence[int]
    roles: Sequence[str | None] | None = None  # of each token's message; None: the text has no messages
    special: frozenset[int] = frozenset()  # tokens with a special meaning
    thinking: Mask | None = None  # [tokens] that are part of a thought; None: no token is
    is_suspended: bool = False  # a grammar constrains the first generated token
    is_thinking: bool = False  # ... or it is part of a thought


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """`prompt`[prompt tokens]: which of them are covered. `begin`, `end`: positions of generated tokens that
    are covered, where nothing excepts them.
    """

    prompt: Mask
    begin: int
    end: int
    special: frozenset[int] = frozenset()  # generated tokens that are not covered
    skips_calls: bool = False  # tokens after which a grammar constrains the next one are not covered
    skips_thoughts: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.prompt.any() and self.begin >= self.end

    @property
    def depends_on_answer(self) -> bool:
        """Whether a generated token's part in the answer (a call, a thought), and not only its position,
        decides if it is steered.
        """
        return self.begin < self.end and (self.skips_calls or self.skips_thoughts)

    def covers(self, tokens: Sequence[int], start: int, end: int, flags: Sequence[int] = ()) -> Mask:
        """Whether each of the positions start … end is covered: bool[end - start].

        `tokens`: of the positions start … end. `flags`: of each generated token of the sequence, IN_CALL and
        IN_THOUGHT; what is missing is 0.
        """
        num_prompt = len(self.prompt)
        covered = np.zeros(end - start, np.bool_)
        if start < num_prompt:
            part = self.prompt[start:end]
            covered[: len(part)] = part
        for position in range(max(start, num_prompt, self.begin), min(end, self.end)):
            generated = position - num_prompt
            flag = flags[generated] if generated < len(flags) else 0
            is_skipped = (self.skips_calls and flag & IN_CALL) or (self.skips_thoughts and flag & IN_THOUGHT)
            covered[position - start] = not is_skipped and tokens[position - start] not in self.special
        return covered


IN_CALL, IN_THOUGHT = 1, 2  # flags of a generated token


def resolve(apply: Apply, facts: PromptFacts) -> Scope:
    """The scope of an op on one prompt. Negative positions count from the prompt's end."""
    count = len(facts.tokens)
    begin, end = _window(apply, count)
    is_covered = np.full(count, apply.prompt)
    if apply.prompt and apply.roles is not None:
        roles = facts.roles or [None] * count
        is_covered = np.array([role in apply.roles for role in roles], np.bool_)
    generates = apply.generation
    is_covered[-1] |= generates or apply.prompt_last
    positions = np.arange(count)
    is_covered &= (positions >= begin) & (positions < end)
    _except(is_covered, apply, facts)
    return Scope(
        is_covered,
        max(begin, count) if generates else 0,
        end if generates else 0,
        facts.special if "special" in apply.exceptions else frozenset(),
        "tool_calls" in apply.exceptions,
        "thinking" in apply.exceptions,
    )


def _except(is_covered: Mask, apply: Apply, facts: PromptFacts) -> None:
    """Take the prompt's excepted tokens out."""
    if "first" in apply.exceptions:
        is_covered[0] = False
    if "special" in apply.exceptions and facts.special:
        is_covered &= ~np.isin(np.array(facts.tokens), np.fromiter(facts.special, np.int64))
    if "thinking" in apply.exceptions and facts.thinking is not None:
        is_covered &= ~facts.thinking
    is_excepted = ("tool_calls" in apply.exceptions and facts.is_suspended) or (
        "thinking" in apply.exceptions and facts.is_thinking
    )
    if is_excepted:
        is_covered[-1] = False


def _window(apply: Apply, count: int) -> tuple[int, int]:
    first, last = apply.window or (None, None)
    begin = 0 if first is None else first if first >= 0 else max(0, count + first)
    end = 2**62 if last is None else last if last >= 0 else max(0, count + last)
    return begin, end
