"""One sequence: its tokens, how many of them are in the KV cache, where, and how the next one is to be
chosen.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length", "error", "aborted"]
INTERACTIVE, BATCH = 0, 10  # priorities: less is sooner

_arrivals = itertools.count()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is continued. Every number is resolved: no default is looked up in the engine."""

    max_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # 1 keeps all
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0  # 0 keeps all
    seed: int | None = None  # None: fresh entropy
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0  # stop tokens are impossible before this many


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and its continuation. Owned by the engine's thread once it has been added."""

    tokens: list[int]
    params: SamplingParams
    priority: int = INTERACTIVE
    index: int = 0  # which of a request's n choices: part of the seed
    leader: Sequence | None = None  # wait until this one's prompt is computed, to share its blocks
    num_prompt: int = 0
    num_computed: int = 0  # tokens whose keys and values are in `blocks`
    num_cached: int = 0  # prompt tokens that were found in the prefix cache at first admission
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(
        default_factory=list
    )  # chained content hash of each full block, as far as known
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_preemptions: int = 0
    arrival: int = field(default_factory=lambda: next(_arrivals))
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        assert self.tokens, "a sequence has at least one token"
        self.num_prompt = len(self.tokens)
        seed = self.params.seed
        # `index` keeps the n choices of one seeded request apart
        self.rng = np.random.default_rng(None if seed is None else [seed & (2**64 - 1), self.index])

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens that must run through the model before the next one can be sampled."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_pending == 1 and self.num_generated > 0

    @property
    def rank(self) -> tuple[int, int]:
        """Order of service: priority, then arrival."""
        return (self.priority, self.arrival)

    def accept(self, token: int) -> FinishReason | None:
        """Append a sampled token; the reason to stop, if this is the last."""
        self.tokens.append(token)
        if token in self.params.stop_token_ids:
            return "stop"
        return "length" if self.num_generated >= self.params.max_tokens else None
